//! ChaCha20-Poly1305 with AVX-512: `ChaCha20` computes sixteen blocks at once, of whichever packets, and Poly1305 eight
//! packets at once, each in a lane of its own with its own key.
//!
//! No branch and no address depends on a key or on a packet's bytes, only on lengths and counters, which are public.

mod chacha20;
mod poly1305;

use subtle::ConstantTimeEq;

use super::{MANY, Message, TAG_LEN};

/// Whether this processor has the instructions.
pub fn is_possible() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512ifma")
}

/// The key's words; that there is one shows that the instructions are there too.
pub struct Key([u32; 8]);

impl Key {
    pub fn new(key: &[u8; 32]) -> Option<Self> {
        let words = key.as_chunks::<4>().0;
        is_possible().then(|| Self(std::array::from_fn(|i| u32::from_le_bytes(words[i]))))
    }

    /// As [`super::Key::seal`], for at most [`MANY`] messages.
    pub fn seal(&self, buffer: &mut [u8], messages: &[Message]) {
        check(buffer, messages);
        let mut one_time = [[0; 64]; MANY];
        // SAFETY: a `Key` is only made where the processor has the instructions.
        let tags = unsafe {
            chacha20::apply(&self.0, buffer, messages, Some(&mut one_time), true);
            poly1305::tags(&one_time, buffer, messages)
        };
        for (message, tag) in messages.iter().zip(tags) {
            buffer[message.at + message.len..][..TAG_LEN].copy_from_slice(&tag);
        }
    }

    /// As [`super::Key::open`].
    pub fn open(&self, buffer: &mut [u8], messages: &[Message]) -> u16 {
        check(buffer, messages);
        let mut one_time = [[0; 64]; MANY];
        // SAFETY: a `Key` is only made where the processor has the instructions.
        let tags = unsafe {
            chacha20::apply(&self.0, buffer, messages, Some(&mut one_time), false);
            let tags = poly1305::tags(&one_time, buffer, messages);
            chacha20::apply(&self.0, buffer, messages, None, true);
            tags
        };
        let mut authentic = 0;
        for (bit, (message, tag)) in messages.iter().zip(tags).enumerate() {
            let theirs = &buffer[message.at + message.len..][..TAG_LEN];
            authentic |= u16::from(tag[..].ct_eq(theirs).unwrap_u8()) << bit;
        }
        authentic
    }
}

/// The messages lie within the buffer: the reads and writes behind rely on it.
fn check(buffer: &[u8], messages: &[Message]) {
    assert!(messages.len() <= MANY);
    for message in messages {
        let end = message.at.checked_add(message.len).and_then(|end| end.checked_add(TAG_LEN));
        assert!(end.is_some_and(|end| end <= buffer.len()), "a message reaches beyond the buffer");
    }
}

#[cfg(test)]
mod tests {
    use ::poly1305::universal_hash::{KeyInit, UniversalHash};
    use proptest::prelude::*;

    use super::super::{Cipher, Key as AnyKey};
    use super::*;

    /// Messages of these lengths one after the other, with a gap between that nothing may touch.
    fn laid_out(lens: &[usize], first: u64) -> (Vec<u8>, Vec<Message>) {
        let (mut messages, mut at) = (Vec::new(), 5);
        for (i, &len) in lens.iter().enumerate() {
            messages.push(Message { at, len, counter: first.wrapping_add(i as u64) });
            at += len + TAG_LEN + i % 3;
        }
        ((0..at + 7).map(|i| (i * 7) as u8).collect(), messages)
    }

    /// Where the processor lacks the instructions, both are ring's: there the module is never used either.
    fn keys(key: u8) -> (AnyKey, AnyKey) {
        let wide = AnyKey::new(&[key; 32], Cipher::Wide);
        assert_eq!(wide.many.is_some(), is_possible());
        (AnyKey::new(&[key; 32], Cipher::Ring), wide)
    }

    proptest! {
        #[test]
        fn it_seals_and_opens_as_ring_does(
            lens in prop::collection::vec(prop_oneof![0..70usize, 0..1500usize, Just(1440)], 1..40),
            first in prop_oneof![Just(0), Just(u64::from(u32::MAX) - 3), any::<u64>()],
            key in any::<u8>(),
        ) {
            let (one, many) = keys(key);
            let (plain, messages) = laid_out(&lens, first);
            let (mut ours, mut theirs) = (plain.clone(), plain.clone());
            one.seal(&mut theirs, &messages);
            many.seal(&mut ours, &messages);
            prop_assert_eq!(&ours, &theirs);
            for messages in messages.chunks(MANY) {
                prop_assert_eq!(many.open(&mut ours, messages), u16::MAX >> (MANY - messages.len()));
            }
            for message in &messages {
                let packet = message.at..message.at + message.len;
                prop_assert_eq!(&ours[packet.clone()], &plain[packet]);
            }
        }

        #[test]
        fn it_refuses_what_ring_refuses(
            lens in prop::collection::vec(0..200usize, 1..=MANY),
            changes in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 0..6),
        ) {
            let (one, many) = keys(9);
            let (mut ours, messages) = laid_out(&lens, 1);
            one.seal(&mut ours, &messages);
            for (at, change) in changes {
                let at = at.index(ours.len());
                ours[at] ^= change;
            }
            let mut theirs = ours.clone();
            prop_assert_eq!(many.open(&mut ours, &messages), one.open(&mut theirs, &messages));
        }

        #[test]
        fn extreme_sums_are_reduced_as_elsewhere(
            r in prop_oneof![Just(0xffu8), Just(0), any::<u8>()],
            s in prop_oneof![Just(0xffu8), Just(0), any::<u8>()],
            fill in prop_oneof![Just(0xffu8), Just(0xfb), Just(0), any::<u8>()],
            lens in prop::collection::vec(0..400usize, 1..=MANY),
        ) {
            let mut one_time = [[0; 64]; MANY];
            one_time.iter_mut().for_each(|key| {
                key[..16].fill(r);
                key[16..32].fill(s);
            });
            let (mut buffer, messages) = laid_out(&lens, 0);
            buffer.fill(fill);
            if !is_possible() {
                return Ok(());
            }
            // SAFETY: the messages lie within the buffer, and the instructions are there.
            let tags = unsafe { poly1305::tags(&one_time, &buffer, &messages) };
            for (message, tag) in messages.iter().zip(tags) {
                let mut reference = ::poly1305::Poly1305::new(one_time[0][..32].into());
                reference.update_padded(&buffer[message.at..message.at + message.len]);
                reference.update_padded(&(u128::from(message.len as u64) << 64).to_le_bytes());
                prop_assert_eq!(&reference.finalize()[..], &tag[..]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "beyond the buffer")]
    fn a_message_beyond_the_buffer_is_never_touched() {
        check(&[0; 40], &[Message { at: 10, len: 15, counter: 0 }]);
    }
}
