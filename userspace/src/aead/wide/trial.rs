//! Tests a vector cipher before it is used: with a published vector, then with random batches compared with ring.
//!
//! The trial runs at each start of the daemon and takes a fraction of a millisecond.

use std::fmt;

use super::Key;
use crate::aead::{self, Cipher, MANY, Message, MessageSet, TAG_LEN};
use crate::sys;

/// Lengths on both sides of each boundary: Poly1305's 16 bytes, the vectors' 32 and 64, groups of blocks, whole packets.
const LENGTHS: [usize; 31] = [
    0, 1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 95, 96, 97, 127, 128, 129, 191, 192, 193, 255, 256,
    257, 511, 512, 513, 1025, 1440,
];

/// The vector of RFC 8439, section 2.4.2, with the key 00..1f. Its blocks are counted from 1, as for a packet.
const PUBLISHED_PLAIN: &[u8; 114] =
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one \
    tip for the future, sunscreen would be it.";
const PUBLISHED_COUNTER: u64 = 0x4a00_0000;
const PUBLISHED_SEALED: [u8; 114] = [
    0x6e, 0x2e, 0x35, 0x9a, 0x25, 0x68, 0xf9, 0x80, 0x41, 0xba, 0x07, 0x28, 0xdd, 0x0d, 0x69, 0x81, 0xe9,
    0x7e, 0x7a, 0xec, 0x1d, 0x43, 0x60, 0xc2, 0x0a, 0x27, 0xaf, 0xcc, 0xfd, 0x9f, 0xae, 0x0b, 0xf9, 0x1b,
    0x65, 0xc5, 0x52, 0x47, 0x33, 0xab, 0x8f, 0x59, 0x3d, 0xab, 0xcd, 0x62, 0xb3, 0x57, 0x16, 0x39, 0xd6,
    0x24, 0xe6, 0x51, 0x52, 0xab, 0x8f, 0x53, 0x0c, 0x35, 0x9f, 0x08, 0x61, 0xd8, 0x07, 0xca, 0x0d, 0xbf,
    0x50, 0x0d, 0x6a, 0x61, 0x56, 0xa3, 0x8e, 0x08, 0x8a, 0x22, 0xb6, 0x5e, 0x52, 0xbc, 0x51, 0x4d, 0x16,
    0xcc, 0xf8, 0x06, 0x81, 0x8c, 0xe9, 0x1a, 0xb7, 0x79, 0x37, 0x36, 0x5a, 0xf9, 0x0b, 0xbf, 0x74, 0xa3,
    0x5b, 0xe6, 0xb4, 0x0b, 0x8e, 0xed, 0xf2, 0x78, 0x5e, 0x42, 0x87, 0x4d,
];

/// The first difference that a trial found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The processor lacks the instructions.
    Missing,
    /// The result for the vector of RFC 8439 is wrong.
    Published,
    /// This many packets at once are encrypted differently from ring, or bytes around them change.
    Sealed(usize),
    /// This many packets at once, encrypted by ring, are rejected or decrypted wrongly.
    Opened(usize),
    /// Among this many packets at once, a forged one is not the only one rejected.
    Forged(usize),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "this processor lacks its instructions"),
            Self::Published => write!(f, "its result for the vector of RFC 8439, section 2.4.2, is wrong"),
            Self::Sealed(width) => write!(f, "it encrypts {width} packets at once differently from ring"),
            Self::Opened(width) => write!(f, "it cannot decrypt {width} packets at once that ring encrypted"),
            Self::Forged(width) => write!(f, "it does not detect a forged packet among {width}"),
        }
    }
}

/// Runs the trial with keys from `make`.
pub(crate) fn run(make: impl Fn(&[u8; 32]) -> Option<Key>) -> Result<(), Fault> {
    try_published(&make(&std::array::from_fn(|i| i as u8)).ok_or(Fault::Missing)?)?;
    let random: [u8; 32] = sys::random();
    let (key, ring) = (make(&random).ok_or(Fault::Missing)?, aead::Key::new(&random, Cipher::Ring));
    let bytes: [u8; 256] = sys::random();
    (1..=MANY).try_for_each(|width| Batch::new(width, &bytes, &ring).try_on(&key))
}

/// Runs the vector in each lane.
fn try_published(key: &Key) -> Result<(), Fault> {
    let (len, whole) = (PUBLISHED_PLAIN.len(), PUBLISHED_PLAIN.len() + TAG_LEN);
    let message = |slot| Message { at: slot * whole, len, counter: PUBLISHED_COUNTER };
    let messages: [_; MANY] = std::array::from_fn(message);
    let mut buffer = [&PUBLISHED_PLAIN[..], &[0; TAG_LEN]].concat().repeat(MANY);
    key.seal(&mut buffer, &messages);
    let right = buffer.chunks(whole).all(|sealed| sealed[..len] == PUBLISHED_SEALED);
    right.then_some(()).ok_or(Fault::Published)
}

/// Packets with an unused byte before each of them.
struct Batch {
    messages: Vec<Message>,
    plain: Vec<u8>,
    /// The result of ring.
    sealed: Vec<u8>,
}

impl Batch {
    fn new(width: usize, random: &[u8; 256], ring: &aead::Key) -> Self {
        let first = u64::from_le_bytes(random.as_chunks().0[width]);
        let (mut messages, mut end) = (Vec::with_capacity(width), 0);
        for slot in 0..width {
            // With each width, the lengths move to other lanes.
            let len = LENGTHS[(slot + width * (width - 1) / 2) % LENGTHS.len()];
            messages.push(Message { at: end + 1, len, counter: first.wrapping_add(slot as u64) });
            end += 1 + len + TAG_LEN;
        }
        let plain: Vec<u8> = random.iter().copied().cycle().take(end + 1).collect();
        let mut sealed = plain.clone();
        messages.iter().for_each(|message| ring.seal_one(&mut sealed, message));
        Self { messages, plain, sealed }
    }

    fn try_on(&self, key: &Key) -> Result<(), Fault> {
        let width = self.messages.len();
        let all = MessageSet::first(width);
        let mut buffer = self.plain.clone();
        key.seal(&mut buffer, &self.messages);
        if buffer != self.sealed {
            return Err(Fault::Sealed(width));
        }
        if key.open(&mut buffer, &self.messages) != all || !self.is_plain(&buffer) {
            return Err(Fault::Opened(width));
        }
        let forged = usize::from(self.plain[0]) % width;
        buffer.copy_from_slice(&self.sealed);
        // The changed bit is in the last byte of the tag, which an incomplete comparison would miss.
        buffer[self.messages[forged].at + self.messages[forged].len + TAG_LEN - 1] ^= 0x80;
        if key.open(&mut buffer, &self.messages) != all.without(forged) {
            return Err(Fault::Forged(width));
        }
        Ok(())
    }

    /// Whether each packet is decrypted, and the tags and all bytes in between are unchanged.
    fn is_plain(&self, opened: &[u8]) -> bool {
        let mut expected = self.sealed.clone();
        for &Message { at, len, .. } in &self.messages {
            expected[at..at + len].copy_from_slice(&self.plain[at..at + len]);
        }
        opened == expected
    }
}

#[cfg(test)]
mod tests {
    use super::super::{State, Tags, state};
    use super::*;
    use crate::aead::exercised::exercised;

    /// The fault of a test cipher that is otherwise ring's, so that it runs on every processor.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u8)]
    enum Slip {
        None,
        /// A wrong bit in the last byte of packets that end one byte after a block.
        LastByte,
        /// A wrong tag in the last lane.
        LastTag,
        /// A wrong upper half of the counter of the sixth packet.
        Counter,
        /// A changed byte after the tag of a packet.
        Behind,
        /// A wrong result for a packet of 33 bytes.
        Plain,
        /// An authentic packet is rejected.
        Refused,
        /// The received tag is taken as the correct one.
        Accepted,
    }

    const SLIPS: [Slip; 8] = [
        Slip::None,
        Slip::LastByte,
        Slip::LastTag,
        Slip::Counter,
        Slip::Behind,
        Slip::Plain,
        Slip::Refused,
        Slip::Accepted,
    ];

    fn ring_of(state: &State) -> aead::Key {
        let bytes: Vec<u8> = state[4..12].iter().flat_map(|word| word.to_le_bytes()).collect();
        aead::Key::new(&bytes.try_into().unwrap(), Cipher::Ring)
    }

    /// Seals or opens, and returns the correct tag, as the vector ciphers do.
    fn apply(ring: &aead::Key, buffer: &mut [u8], message: &Message, opens: bool) -> [u8; TAG_LEN] {
        let packet = message.at..message.at + message.len;
        let alone = Message { at: 0, ..*message };
        let mut changed = [&buffer[packet.clone()], &[0; TAG_LEN]].concat();
        ring.seal_one(&mut changed, &alone);
        buffer[packet].copy_from_slice(&changed[..message.len]);
        if opens {
            ring.seal_one(&mut changed, &alone);
        }
        changed[message.len..].try_into().unwrap()
    }

    unsafe fn slipping<const SLIP: usize, const OPENS: bool>(
        state: &State,
        buffer: &mut [u8],
        messages: &[Message],
    ) -> Tags {
        let (ring, slip, mut tags) = (ring_of(state), SLIPS[SLIP], Tags::default());
        for (slot, message) in messages.iter().enumerate() {
            let end = message.at + message.len;
            let mut message = *message;
            if slip == Slip::Counter && slot == 5 {
                message.counter ^= 1 << 63;
            }
            let came = buffer[end..][..TAG_LEN].to_vec();
            tags[slot] = apply(&ring, buffer, &message, OPENS);
            match slip {
                Slip::LastByte if message.len % 64 == 1 => buffer[end - 1] ^= 1,
                Slip::LastTag if slot == MANY - 1 => tags[slot][15] ^= 1,
                Slip::Behind if message.len == 257 => buffer[end + TAG_LEN] ^= 1,
                Slip::Plain if OPENS && message.len == 33 => buffer[message.at] ^= 1,
                Slip::Refused if OPENS && slot == 11 => tags[slot][0] ^= 1,
                Slip::Accepted if OPENS => tags[slot].copy_from_slice(&came),
                _ => (),
            }
        }
        tags
    }

    fn tried<const SLIP: usize>() -> Result<(), Fault> {
        run(|key| {
            let (seal, open) = (slipping::<SLIP, false>, slipping::<SLIP, true>);
            Some(Key { state: state(key), few: 1, longest: usize::MAX, seal, open })
        })
    }

    #[test]
    fn a_correct_cipher_passes() {
        assert_eq!(tried::<{ Slip::None as usize }>(), Ok(()));
    }

    #[test]
    fn every_fault_is_detected() {
        assert!(matches!(tried::<{ Slip::LastByte as usize }>(), Err(Fault::Sealed(_))));
        assert_eq!(tried::<{ Slip::LastTag as usize }>(), Err(Fault::Sealed(MANY)));
        assert_eq!(tried::<{ Slip::Counter as usize }>(), Err(Fault::Published));
        assert!(matches!(tried::<{ Slip::Behind as usize }>(), Err(Fault::Sealed(_))));
        assert!(matches!(tried::<{ Slip::Plain as usize }>(), Err(Fault::Opened(_))));
        assert_eq!(tried::<{ Slip::Refused as usize }>(), Err(Fault::Opened(12)));
        assert_eq!(tried::<{ Slip::Accepted as usize }>(), Err(Fault::Forged(1)));
    }

    #[test]
    fn a_cipher_that_the_processor_lacks_fails() {
        assert_eq!(run(|_| None), Err(Fault::Missing));
    }

    #[test]
    fn the_ciphers_of_this_processor_pass() {
        for cipher in exercised().into_iter().filter(|&cipher| cipher != Cipher::Ring) {
            for _ in 0..10 {
                assert_eq!(run(|key| Key::new(key, cipher)), Ok(()), "{cipher:?}");
            }
        }
    }

    #[test]
    fn ring_reproduces_the_published_vector() {
        let mut buffer = [&PUBLISHED_PLAIN[..], &[0; TAG_LEN]].concat();
        let message = Message { at: 0, len: PUBLISHED_PLAIN.len(), counter: PUBLISHED_COUNTER };
        ring_of(&state(&std::array::from_fn(|i| i as u8))).seal_one(&mut buffer, &message);
        assert_eq!(buffer[..message.len], PUBLISHED_SEALED);
    }

    #[test]
    fn the_batches_have_every_length_and_several_per_lane() {
        let ring = aead::Key::new(&[1; 32], Cipher::Ring);
        let mut lanes = [const { std::collections::BTreeSet::new() }; MANY];
        for width in 1..=MANY {
            for (lane, message) in Batch::new(width, &[0; 256], &ring).messages.iter().enumerate() {
                lanes[lane].insert(message.len);
            }
        }
        let all: std::collections::BTreeSet<_> = lanes.iter().flatten().copied().collect();
        assert_eq!(all, LENGTHS.into_iter().collect());
        assert!(lanes.iter().enumerate().all(|(lane, lens)| lens.len() > (MANY - lane) / 3));
    }
}
