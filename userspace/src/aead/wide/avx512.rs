//! The AVX-512 cipher. `ChaCha20` computes sixteen blocks of any packets at once. Poly1305 hashes eight packets at once, each
//! in its own lane with its own key.

mod chacha20;
pub(crate) mod poly1305;

use super::{BLOCK, State, Tags};
use crate::aead::{MANY, Message};

/// Whether this processor supports the cipher.
pub(crate) fn is_possible() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512ifma")
}

/// Encrypts each message in place and returns the tags.
///
/// # Safety
/// The messages must lie within the buffer.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) unsafe fn seal(state: &State, buffer: &mut [u8], messages: &[Message]) -> Tags {
    let mut one_time = [[0; BLOCK]; MANY];
    // SAFETY: as the caller promises.
    unsafe {
        chacha20::apply(state, buffer, messages, Some(&mut one_time), true);
        poly1305::tags(&one_time, buffer, messages)
    }
}

/// Decrypts each message in place and returns the correct tags.
///
/// # Safety
/// The messages must lie within the buffer.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) unsafe fn open(state: &State, buffer: &mut [u8], messages: &[Message]) -> Tags {
    let mut one_time = [[0; BLOCK]; MANY];
    // SAFETY: as the caller promises.
    unsafe {
        chacha20::apply(state, buffer, messages, Some(&mut one_time), false);
        let tags = poly1305::tags(&one_time, buffer, messages);
        chacha20::apply(state, buffer, messages, None, true);
        tags
    }
}

/// The tags of messages that consist of padded additional data and a padded packet. `last` returns the block of lengths.
///
/// # Safety
/// The messages must lie within the buffer, and the processor must have the instructions.
#[cfg(test)]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) unsafe fn tags_with(
    state: &State,
    buffer: &[u8],
    messages: &[Message],
    last: impl Fn(&Message) -> [u64; 2] + Copy,
) -> Tags {
    let mut one_time = [[0; BLOCK]; MANY];
    // SAFETY: as the caller promises; without the data, the buffer is not needed.
    unsafe {
        chacha20::apply(state, &mut [], messages, Some(&mut one_time), false);
        poly1305::tags_with(&one_time, buffer, messages, last)
    }
}
