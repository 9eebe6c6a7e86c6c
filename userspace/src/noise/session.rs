//! A session: a pair of transport keys that several threads can use to encrypt and decrypt in place.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use zeroize::Zeroize;

use crate::aead::{Cipher, Key, Message, MessageSet};
use crate::headers::Header;
use crate::locks::lock;
use crate::wipe;

use super::limits::{REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME_MS, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME_MS};
use super::message::{DATA, DATA_HEADER_LEN, Data};
use super::replay::Replay;

/// A session. The allocator wipes its keys when the last reference is dropped.
pub struct Session {
    pub indexes: Indexes,
    pub role: Role,
    /// When the session was created, in milliseconds of `now_ms`.
    created: u64,
    expired: AtomicBool,
    counter: AtomicU64,
    sender: Key,
    receiver: Key,
    replay: Mutex<Replay>,
}

/// The indexes that the two ends of a session have chosen for it (whitepaper, section 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indexes {
    pub local: u32,
    pub remote: u32,
}

/// The part of this end in the handshake of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Initiator,
    Responder,
}

/// Which messages were opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    pub authentic: MessageSet,
    /// Authentic and no replay.
    pub accepted: MessageSet,
}

/// The transport keys that a handshake produces.
pub struct Keys {
    pub send: [u8; 32],
    pub receive: [u8; 32],
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.send.zeroize();
        self.receive.zeroize();
    }
}

impl Session {
    /// A session that begins at `now`, in milliseconds of `now_ms`.
    pub fn new(keys: &Keys, indexes: Indexes, role: Role, now: u64) -> Self {
        let cipher = Cipher::chosen();
        Self {
            indexes,
            role,
            created: now,
            expired: AtomicBool::new(false),
            counter: AtomicU64::new(0),
            sender: Key::new(&keys.send, cipher),
            receiver: Key::new(&keys.receive, cipher),
            replay: Mutex::new(Replay::default()),
        }
    }

    /// Creates a session to be shared by threads. Its key types have padding, which gets the previous content of the stack, so
    /// no step of a handshake may leave a key there.
    pub(crate) fn shared(keys: &Keys, indexes: Indexes, role: Role, now: u64) -> Arc<Self> {
        wipe::after(|| Arc::new(Self::new(keys, indexes, role, now)))
    }

    fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.created)
    }

    /// Whether the session may still send packets.
    pub(crate) fn can_send(&self, now: u64) -> bool {
        self.can_receive(now)
            && !self.expired.load(Ordering::Relaxed)
            && self.counter.load(Ordering::Relaxed) < REJECT_AFTER_MESSAGES
    }

    /// Whether the session still accepts packets.
    pub(crate) fn can_receive(&self, now: u64) -> bool {
        self.age(now) < REJECT_AFTER_TIME_MS
    }

    /// Ends sending, so that the next packet starts a handshake. Received packets are still accepted.
    pub(crate) fn expire_sending(&self) {
        self.expired.store(true, Ordering::Relaxed);
    }

    /// Uses up all counters.
    #[cfg(test)]
    pub(crate) fn exhaust(&self) {
        self.counter.store(REJECT_AFTER_MESSAGES, Ordering::Relaxed);
    }

    /// Whether a sender should request a new session (`keep_key_fresh` of the kernel's `send.c`).
    pub(crate) fn wants_rekey(&self, now: u64) -> bool {
        self.counter.load(Ordering::Relaxed) > REKEY_AFTER_MESSAGES
            || (self.role == Role::Initiator && self.age(now) >= REKEY_AFTER_TIME_MS)
    }

    /// Whether a receiver that initiated the session should request a new one, because it is about to end (`receive.c`).
    pub(crate) fn wants_last_minute_rekey(&self, now: u64) -> bool {
        use super::limits::{KEEPALIVE_TIMEOUT_MS, REKEY_TIMEOUT_MS};
        self.role == Role::Initiator
            && self.age(now) >= REJECT_AFTER_TIME_MS - KEEPALIVE_TIMEOUT_MS - REKEY_TIMEOUT_MS
    }

    /// Reserves counters for packets. Returns `None` if too few are left. The session then expires for sending, and the counter
    /// is not changed, so that it cannot wrap.
    pub fn reserve(&self, packets: u64) -> Option<u64> {
        let next = |first: u64| first.checked_add(packets).filter(|&next| next < REJECT_AFTER_MESSAGES);
        let reserved = self.counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        if reserved.is_err() {
            self.expire_sending();
        }
        reserved.ok()
    }

    /// Creates data messages in place. There must be room for the header before each padded packet, and for the tag after it.
    pub fn seal(&self, buffer: &mut [u8], messages: &[Message]) {
        for message in messages {
            let header = Data::at_mut(buffer, message.at - DATA_HEADER_LEN);
            header.start.set(DATA, self.indexes.remote);
            header.counter.set(message.counter);
        }
        self.sender.seal(buffer, messages);
    }

    /// Opens data messages in place, at most as many as [`Key::open`] takes.
    #[must_use]
    pub fn open(&self, buffer: &mut [u8], messages: &[Message]) -> Opened {
        let authentic = self.receiver.open(buffer, messages);
        let mut replay = lock(&self.replay);
        let accepted = MessageSet::select(messages.len(), |index| {
            authentic.contains(index) && replay.accept(messages[index].counter)
        });
        Opened { authentic, accepted }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::TAG_LEN;
    use super::*;
    use crate::aead::MANY;
    use crate::wipe::tests::depth;

    fn pair() -> (Session, Session) {
        let ours = Keys { send: [1; 32], receive: [2; 32] };
        let theirs = Keys { send: [2; 32], receive: [1; 32] };
        let a = Session::new(&ours, Indexes { local: 10, remote: 20 }, Role::Initiator, 1000);
        (a, Session::new(&theirs, Indexes { local: 20, remote: 10 }, Role::Responder, 1000))
    }

    fn message(frame: &[u8]) -> Message {
        let counter = u64::from_le_bytes(frame[8..16].try_into().unwrap());
        Message { at: DATA_HEADER_LEN, len: frame.len() - DATA_HEADER_LEN - TAG_LEN, counter }
    }

    fn sealed(session: &Session, packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; DATA_HEADER_LEN];
        frame.extend(packet);
        frame.extend([0; TAG_LEN]);
        let counter = session.reserve(1).unwrap();
        let message = Message { counter, ..message(&frame) };
        session.seal(&mut frame, &[message]);
        frame
    }

    fn opens(session: &Session, frame: &mut [u8]) -> bool {
        let message = message(frame);
        !session.open(frame, &[message]).accepted.is_empty()
    }

    #[test]
    fn the_other_end_opens_a_sealed_packet_once() {
        let (a, b) = pair();
        let mut frame = sealed(&a, b"a packet");
        let mut copy = frame.clone();
        assert!(opens(&b, &mut frame));
        assert_eq!(&frame[16..24], b"a packet");
        assert!(!opens(&b, &mut copy));
    }

    #[test]
    fn sealing_and_opening_use_less_stack_than_is_wiped() {
        let step = DATA_HEADER_LEN + 1440 + TAG_LEN;
        let message = |n| Message { at: n * step + DATA_HEADER_LEN, len: 1440, counter: n as u64 };
        let messages: Vec<_> = (0..MANY).map(message).collect();
        let mut buffer = vec![0; MANY * step];
        let deepest = depth(|| {
            let (a, b) = pair();
            a.seal(&mut buffer, &messages);
            assert_eq!(b.open(&mut buffer, &messages).accepted, MessageSet::first(MANY));
        });
        assert!((1024..wipe::STACK_BYTES).contains(&deepest), "{deepest} bytes");
    }

    #[test]
    fn a_changed_bit_after_the_header_is_detected() {
        let (a, b) = pair();
        for at in 8..sealed(&a, b"packet").len() {
            let mut frame = sealed(&a, b"packet");
            frame[at] ^= 4;
            assert!(!opens(&b, &mut frame), "byte {at}");
        }
    }

    #[test]
    fn a_session_ages_as_in_the_whitepaper() {
        let (a, b) = pair();
        assert!(!a.wants_rekey(1000 + 119_999) && a.wants_rekey(1000 + 120_000));
        assert!(!b.wants_rekey(1000 + 179_000));
        assert!(a.wants_last_minute_rekey(1000 + 165_000) && !b.wants_last_minute_rekey(1000 + 165_000));
        assert!(a.can_send(1000 + 179_999) && !a.can_send(1000 + 180_000));
        a.expire_sending();
        assert!(!a.can_send(1000) && a.can_receive(1000));
    }

    #[test]
    fn the_first_failed_reservation_expires_the_session() {
        let (a, _) = pair();
        a.counter.store(REJECT_AFTER_MESSAGES - 3, Ordering::Relaxed);
        assert!(a.reserve(2).is_some());
        assert!(a.can_send(1000));
        assert!(a.reserve(2).is_none());
        assert!(!a.can_send(1000));
    }

    #[test]
    fn failed_reservations_do_not_change_the_counter() {
        let (a, _) = pair();
        a.counter.store(REJECT_AFTER_MESSAGES - 1, Ordering::Relaxed);
        for packets in [1, 1000, u64::MAX, u64::MAX] {
            assert_eq!(a.reserve(packets), None);
        }
        assert_eq!(a.counter.load(Ordering::Relaxed), REJECT_AFTER_MESSAGES - 1);
    }
}
