//! ChaCha20-Poly1305 of several packets in parallel, so that even short packets fill the vectors.
//!
//! Branches and addresses depend only on lengths and counters, which are public, and not on keys or packet bytes.

mod avx2;
mod avx512;
#[cfg(test)]
mod fences;
pub(crate) mod trial;
#[cfg(test)]
mod vectors;

use subtle::ConstantTimeEq;

use super::{Cipher, MANY, Message, MessageSet, TAG_LEN};

/// The length of a block of `ChaCha20`.
const BLOCK: usize = 64;
/// "expand 32-byte k" (RFC 8439, section 2.3).
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
/// The bits of `r` that section 2.5 does not clear.
const CLAMP: [u64; 2] = [0x0fff_fffc_0fff_ffff, 0x0fff_fffc_0fff_fffc];

type Tags = [[u8; TAG_LEN]; MANY];

/// The first words of a block's state (RFC 8439, section 2.3): constants, key, block counter, and the first word of the
/// nonce, which is zero in WireGuard.
type State = [u32; 14];

/// Encrypts or decrypts in place and computes the tags.
type Apply = unsafe fn(&State, &mut [u8], &[Message]) -> Tags;

/// Whether this processor supports the cipher.
pub(crate) fn is_possible(cipher: Cipher) -> bool {
    match cipher {
        Cipher::Ring => false,
        Cipher::Avx2 => avx2::is_possible(),
        Cipher::Avx512 => avx512::is_possible(),
    }
}

/// A key, as part of the state, with the functions of its cipher. It exists only if the processor has the instructions.
pub(crate) struct Key {
    state: State,
    /// The fewest messages for which this cipher is faster than ring. Fewer leave too many lanes empty.
    few: usize,
    /// The longest messages for which this cipher is faster than ring.
    longest: usize,
    seal: Apply,
    open: Apply,
}

impl Key {
    pub(crate) fn new(key: &[u8; 32], cipher: Cipher) -> Option<Self> {
        let state = state(key);
        is_possible(cipher).then_some(match cipher {
            Cipher::Avx512 => {
                Self { state, few: 3, longest: usize::MAX, seal: avx512::seal, open: avx512::open }
            }
            _ => Self { state, few: 8, longest: 512, seal: avx2::seal, open: avx2::open },
        })
    }

    /// Whether this cipher is faster than ring for these messages.
    pub(crate) fn suits(&self, messages: &[Message]) -> bool {
        messages.len() >= self.few && messages.iter().all(|message| message.len <= self.longest)
    }

    /// As [`super::Key::seal`], for at most [`MANY`] messages.
    pub(crate) fn seal(&self, buffer: &mut [u8], messages: &[Message]) {
        check(buffer, messages);
        // SAFETY: a `Key` is only made where the processor has the instructions, and the messages lie within the buffer.
        let tags = unsafe { (self.seal)(&self.state, buffer, messages) };
        for (message, tag) in messages.iter().zip(tags) {
            buffer[message.at + message.len..][..TAG_LEN].copy_from_slice(&tag);
        }
    }

    /// As [`super::Key::open`].
    pub(crate) fn open(&self, buffer: &mut [u8], messages: &[Message]) -> MessageSet {
        check(buffer, messages);
        // SAFETY: as in `seal`.
        let tags = unsafe { (self.open)(&self.state, buffer, messages) };
        MessageSet::select(messages.len(), |index| {
            let theirs = &buffer[messages[index].at + messages[index].len..][..TAG_LEN];
            tags[index][..].ct_eq(theirs).into()
        })
    }
}

fn state(key: &[u8; 32]) -> State {
    let mut state = [0; 14];
    state[..4].copy_from_slice(&CONSTANTS);
    for (word, bytes) in state[4..12].iter_mut().zip(key.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    state
}

/// Panics unless the messages lie within the buffer. The unsafe code relies on this.
fn check(buffer: &[u8], messages: &[Message]) {
    assert!(messages.len() <= MANY);
    let all = messages.iter().all(|message| is_within(buffer, message));
    assert!(all, "a message reaches beyond the buffer");
}

fn is_within(buffer: &[u8], message: &Message) -> bool {
    let end = message.at.checked_add(message.len).and_then(|end| end.checked_add(TAG_LEN));
    end.is_some_and(|end| end <= buffer.len())
}

/// A key that uses the vector cipher for all messages, even for a single or a long one.
#[cfg(test)]
fn unlimited(key: &[u8; 32], cipher: Cipher) -> super::Key {
    let mut ours = super::Key::new(key, cipher);
    if let Some(many) = &mut ours.many {
        (many.few, many.longest) = (1, usize::MAX);
    }
    ours
}

#[cfg(test)]
mod tests {
    use ::poly1305::universal_hash::{KeyInit, UniversalHash};
    use proptest::prelude::*;

    use super::super::Key as AnyKey;
    use super::super::exercised::exercised;
    use super::*;

    /// Consecutive messages of these lengths, with gaps that must not change.
    fn laid_out(lens: &[usize], first: u64) -> (Vec<u8>, Vec<Message>) {
        let (mut messages, mut at) = (Vec::new(), 5);
        for (i, &len) in lens.iter().enumerate() {
            messages.push(Message { at, len, counter: first.wrapping_add(i as u64) });
            at += len + TAG_LEN + i % 3;
        }
        ((0..at + 7).map(|i| (i * 7) as u8).collect(), messages)
    }

    /// A key of ring, and one of each vector cipher that this run exercises.
    fn keys(key: [u8; 32]) -> (AnyKey, Vec<AnyKey>) {
        let ours = exercised().into_iter().filter(|&cipher| cipher != Cipher::Ring);
        (AnyKey::new(&key, Cipher::Ring), ours.map(|cipher| unlimited(&key, cipher)).collect())
    }

    fn tag_elsewhere(one_time: &[u8], packet: &[u8]) -> Vec<u8> {
        let mut reference = ::poly1305::Poly1305::new(one_time.into());
        reference.update_padded(packet);
        reference.update_padded(&(u128::from(packet.len() as u64) << 64).to_le_bytes());
        reference.finalize().to_vec()
    }

    proptest! {
        #[test]
        fn sealing_and_opening_match_ring(
            lens in prop::collection::vec(prop_oneof![0..70usize, 0..1500usize, Just(1440)], 1..40),
            first in prop_oneof![Just(0), Just(u64::from(u32::MAX) - 3), Just(u64::MAX - 3), any::<u64>()],
            key in any::<[u8; 32]>(),
        ) {
            let (one, many) = keys(key);
            let (plain, messages) = laid_out(&lens, first);
            let mut theirs = plain.clone();
            one.seal(&mut theirs, &messages);
            for many in many {
                let mut ours = plain.clone();
                many.seal(&mut ours, &messages);
                prop_assert_eq!(&ours, &theirs);
                for messages in messages.chunks(MANY) {
                    prop_assert_eq!(many.open(&mut ours, messages), MessageSet::first(messages.len()));
                }
                for message in &messages {
                    let packet = message.at..message.at + message.len;
                    prop_assert_eq!(&ours[packet.clone()], &plain[packet]);
                }
            }
        }

        #[test]
        fn rejected_messages_match_ring(
            lens in prop::collection::vec(0..200usize, 1..=MANY),
            changes in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 0..6),
        ) {
            let (one, many) = keys([9; 32]);
            let (mut sealed, messages) = laid_out(&lens, 1);
            one.seal(&mut sealed, &messages);
            for (at, change) in changes {
                let at = at.index(sealed.len());
                sealed[at] ^= change;
            }
            let theirs = one.open(&mut sealed.clone(), &messages);
            for many in many {
                prop_assert_eq!(many.open(&mut sealed.clone(), &messages), theirs);
            }
        }

        #[test]
        fn extreme_sums_are_reduced_as_by_poly1305(
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
            let packets = messages.iter().map(|message| &buffer[message.at..message.at + message.len]);
            let theirs: Vec<_> = packets.clone().map(|packet| tag_elsewhere(&one_time[0][..32], packet)).collect();
            let general = |packet: &[u8]| avx2::poly1305::tag(&one_time[0], packet, (packet.len() as u128) << 64);
            let general: Vec<_> = packets.map(|packet| general(packet).to_vec()).collect();
            prop_assert_eq!(&general, &theirs);
            if exercised().contains(&Cipher::Avx512) {
                // SAFETY: the messages lie within the buffer, and the instructions are there.
                let tags = unsafe { avx512::poly1305::tags(&one_time, &buffer, &messages) };
                for (tag, theirs) in tags.iter().zip(theirs) {
                    prop_assert_eq!(&tag[..], &theirs[..]);
                }
            }
        }
    }

    #[test]
    fn a_changed_tag_rejects_its_own_message_only() {
        let (one, many) = keys([5; 32]);
        let (mut sealed, messages) =
            laid_out(&[0, 1, 15, 16, 17, 63, 64, 65, 96, 127, 128, 1420, 1424, 2, 33, 0], 7);
        one.seal(&mut sealed, &messages);
        for (many, (which, message)) in
            many.iter().flat_map(|many| messages.iter().enumerate().map(move |m| (many, m)))
        {
            for bit in 0..8 * TAG_LEN {
                let mut changed = sealed.clone();
                changed[message.at + message.len + bit / 8] ^= 1 << (bit % 8);
                assert_eq!(
                    many.open(&mut changed, &messages),
                    MessageSet::first(MANY).without(which),
                    "message {which}, bit {bit}"
                );
            }
        }
    }

    /// Tests every small position and length, and sums that wrap.
    #[test]
    fn only_messages_within_the_buffer_are_accepted() {
        let buffer = [0; 24];
        let numbers = || (0..=26).chain([usize::MAX / 2, usize::MAX - 24, usize::MAX - 16, usize::MAX]);
        for (at, len) in numbers().flat_map(|at| numbers().map(move |len| (at, len))) {
            let within = at as u128 + len as u128 + 16 <= buffer.len() as u128;
            assert_eq!(is_within(&buffer, &Message { at, len, counter: 0 }), within, "{len} bytes at {at}");
        }
    }

    #[test]
    #[should_panic(expected = "beyond the buffer")]
    fn a_message_beyond_the_buffer_panics() {
        check(&[0; 40], &[Message { at: 10, len: 15, counter: 0 }]);
    }
}
