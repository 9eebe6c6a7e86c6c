//! The data messages of a batch. A packet is added together with the session that encrypts it. The bytes can be read only
//! through [`Frames::sealed`], so that no plaintext can be sent.

use std::sync::Arc;

use crate::aead::{MANY, Message};
use crate::noise::message::{DATA_HEADER_LEN, TAG_LEN};
use crate::noise::session::Session;

const OVERHEAD: usize = DATA_HEADER_LEN + TAG_LEN;

/// The position of a data message in [`Frames::sealed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) at: usize,
    pub(crate) len: usize,
}

/// Packets that are not yet encrypted, and their session.
struct Unsealed {
    session: Arc<Session>,
    messages: [Message; MANY],
    count: usize,
}

impl Unsealed {
    fn new(session: &Arc<Session>) -> Self {
        Self { session: session.clone(), messages: [Message::default(); MANY], count: 0 }
    }

    fn seal(&mut self, buffer: &mut [u8]) {
        self.session.seal(buffer, &self.messages[..self.count]);
        self.count = 0;
    }
}

/// A buffer of data messages, which are encrypted sixteen at a time.
pub(crate) struct Frames {
    buffer: Box<[u8]>,
    used: usize,
    unsealed: Option<Unsealed>,
}

impl Frames {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { buffer: vec![0; bytes].into(), used: 0, unsealed: None }
    }

    /// The number of bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Whether a packet of this padded length still fits.
    pub(crate) fn has_room(&self, padded: usize) -> bool {
        self.used + padded + OVERHEAD <= self.buffer.len()
    }

    /// Adds a packet, which `write` puts at the start of `padded` bytes of zeros.
    ///
    /// Returns None, and adds nothing, if the session has no counter left. Panics if there is no room for the packet.
    pub(crate) fn push(
        &mut self,
        session: &Arc<Session>,
        len: usize,
        padded: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Option<Frame> {
        let counter = session.reserve(1)?;
        let frame = Frame { at: self.used, len: padded + OVERHEAD };
        let message = Message { at: frame.at + DATA_HEADER_LEN, len: padded, counter };
        let room = &mut self.buffer[message.at..message.at + padded];
        write(&mut room[..len]);
        room[len..].fill(0);
        self.used += frame.len;
        self.note(session, message);
        Some(frame)
    }

    /// Queues a packet to be encrypted together with others of its session.
    fn note(&mut self, session: &Arc<Session>, message: Message) {
        if self.unsealed.as_ref().is_none_or(|unsealed| !Arc::ptr_eq(&unsealed.session, session)) {
            self.seal();
        }
        let unsealed = self.unsealed.get_or_insert_with(|| Unsealed::new(session));
        unsealed.messages[unsealed.count] = message;
        unsealed.count += 1;
        if unsealed.count == MANY {
            unsealed.seal(&mut self.buffer);
        }
    }

    /// Encrypts the queued packets and drops the reference to their session.
    fn seal(&mut self) {
        if let Some(mut unsealed) = self.unsealed.take() {
            unsealed.seal(&mut self.buffer);
        }
    }

    /// All data messages, after encrypting those that are queued.
    pub(crate) fn sealed(&mut self) -> &[u8] {
        self.seal();
        &self.buffer[..self.used]
    }

    /// Begins a new batch.
    pub(crate) fn clear(&mut self) {
        self.seal();
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::session::{Indexes, Keys, Role};

    fn pair(seed: u8) -> (Arc<Session>, Session) {
        let ours = Keys { send: [seed; 32], receive: [seed + 1; 32] };
        let theirs = Keys { send: [seed + 1; 32], receive: [seed; 32] };
        let a = Session::new(&ours, Indexes { local: 1, remote: 2 }, Role::Initiator, 0);
        (Arc::new(a), Session::new(&theirs, Indexes { local: 2, remote: 1 }, Role::Responder, 0))
    }

    /// The packet in a frame, with its padding, if the session opens it.
    fn opened(session: &Session, bytes: &[u8], frame: Frame) -> Option<Vec<u8>> {
        let mut bytes = bytes[frame.at..frame.at + frame.len].to_vec();
        let counter = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        let message = Message { at: DATA_HEADER_LEN, len: frame.len - OVERHEAD, counter };
        let accepted = session.open(&mut bytes, &[message]).accepted;
        accepted.contains(0).then(|| bytes[message.at..message.at + message.len].to_vec())
    }

    #[test]
    fn each_packet_is_sealed_by_its_own_session() {
        let pairs = [pair(1), pair(10)];
        let mut frames = Frames::new(256 << 10);
        // Runs of one session that are shorter than a batch of the cipher, as long, and longer.
        let order = [1, 2, MANY, 1, 2 * MANY + 3, 5].into_iter().enumerate();
        let order: Vec<usize> = order.flat_map(|(at, count)| std::iter::repeat_n(at % 2, count)).collect();
        let written = order.iter().enumerate().map(|(number, &at)| {
            let len = 20 + number;
            let write = |room: &mut [u8]| room.fill(number as u8);
            frames.push(&pairs[at].0, len, len.next_multiple_of(16), write).unwrap()
        });
        let written: Vec<Frame> = written.collect();
        let bytes = frames.sealed();
        for (number, (&at, &frame)) in order.iter().zip(&written).enumerate() {
            let packet = opened(&pairs[at].1, bytes, frame).expect("the far end opens it");
            let (packet, padding) = packet.split_at(20 + number);
            assert!(packet.iter().all(|&byte| byte == number as u8) && padding.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn no_plaintext_can_be_read() {
        let (ours, _) = pair(1);
        for count in 1..2 * MANY {
            let mut frames = Frames::new(64 << 10);
            for _ in 0..count {
                frames.push(&ours, 64, 64, |room| room.fill(b'P')).unwrap();
            }
            assert!(!frames.sealed().windows(8).any(|bytes| bytes == b"PPPPPPPP"), "{count} packets");
        }
    }

    #[test]
    fn a_session_without_counters_left_adds_nothing() {
        let (ours, _) = pair(1);
        ours.exhaust();
        let mut frames = Frames::new(1 << 10);
        assert_eq!(frames.push(&ours, 64, 64, |_| panic!("written without a counter")), None);
        assert!(frames.sealed().is_empty());
    }
}
