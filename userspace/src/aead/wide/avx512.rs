//! With AVX-512: `ChaCha20` computes sixteen blocks at once, of whichever packets, and Poly1305 eight packets at once,
//! each in a lane of its own with its own key.

mod chacha20;
pub mod poly1305;

use super::{BLOCK, Tags};
use crate::aead::{MANY, Message};

/// Whether this processor has the instructions.
pub fn is_possible() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512ifma")
}

/// Encrypts each message in place; its tag.
///
/// # Safety
/// The messages must lie within the buffer.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub unsafe fn seal(key: &[u32; 8], buffer: &mut [u8], messages: &[Message]) -> Tags {
    let mut one_time = [[0; BLOCK]; MANY];
    // SAFETY: as the caller promises.
    unsafe {
        chacha20::apply(key, buffer, messages, Some(&mut one_time), true);
        poly1305::tags(&one_time, buffer, messages)
    }
}

/// Decrypts each message in place; the tag that it should have.
///
/// # Safety
/// The messages must lie within the buffer.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub unsafe fn open(key: &[u32; 8], buffer: &mut [u8], messages: &[Message]) -> Tags {
    let mut one_time = [[0; BLOCK]; MANY];
    // SAFETY: as the caller promises.
    unsafe {
        chacha20::apply(key, buffer, messages, Some(&mut one_time), false);
        let tags = poly1305::tags(&one_time, buffer, messages);
        chacha20::apply(key, buffer, messages, None, true);
        tags
    }
}
