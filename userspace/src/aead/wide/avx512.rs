//! With AVX-512: `ChaCha20` computes sixteen blocks at once, of whichever packets, and Poly1305 eight packets at once,
//! each in a lane of its own with its own key.

mod chacha20;
pub(crate) mod poly1305;

use super::{BLOCK, State, Tags};
use crate::aead::{MANY, Message};

/// Whether this processor has the instructions.
pub(crate) fn is_possible() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512ifma")
}

/// Encrypts each message in place; its tag.
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

/// Decrypts each message in place; the tag that it should have.
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

/// The tags of messages that consist of additional data and packet, each padded; `last` returns the lengths of both.
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
