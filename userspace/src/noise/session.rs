//! A pair of transport keys and what belongs to them: seal and open in place, usable from several threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroize;

use super::limits::{REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME_MS, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME_MS};
use super::message::{DATA, DATA_HEADER_LEN, TAG_LEN};
use super::replay::Replay;

/// A session: its keys are wiped by the allocator when the last holder lets go of it.
pub struct Session {
    pub local_index: u32,
    pub remote_index: u32,
    pub initiator: bool,
    created: u64,
    expired: AtomicBool,
    counter: AtomicU64,
    sender: LessSafeKey,
    receiver: LessSafeKey,
    replay: Mutex<Replay>,
}

/// The outcome of a handshake, before it is a session.
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

fn aead(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(
        UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has the length of the cipher's"),
    )
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl Session {
    pub fn new(keys: &Keys, (local_index, remote_index): (u32, u32), initiator: bool, now: u64) -> Self {
        Self {
            local_index,
            remote_index,
            initiator,
            created: now,
            expired: AtomicBool::new(false),
            counter: AtomicU64::new(0),
            sender: aead(&keys.send),
            receiver: aead(&keys.receive),
            replay: Mutex::new(Replay::default()),
        }
    }

    fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.created)
    }

    /// Whether packets may still be sent with it.
    pub fn can_send(&self, now: u64) -> bool {
        self.can_receive(now)
            && !self.expired.load(Ordering::Relaxed)
            && self.counter.load(Ordering::Relaxed) < REJECT_AFTER_MESSAGES
    }

    /// Whether packets are still accepted with it.
    pub fn can_receive(&self, now: u64) -> bool {
        self.age(now) < REJECT_AFTER_TIME_MS
    }

    /// Ends sending, so that the next packet brings about a handshake; what still arrives is accepted.
    pub fn expire_sending(&self) {
        self.expired.store(true, Ordering::Relaxed);
    }

    /// Whether a sender should ask for the next session (`keep_key_fresh` of the kernel's `send.c`).
    pub fn wants_rekey(&self, now: u64) -> bool {
        self.counter.load(Ordering::Relaxed) > REKEY_AFTER_MESSAGES
            || (self.initiator && self.age(now) >= REKEY_AFTER_TIME_MS)
    }

    /// Whether a receiver should, being the initiator of a session about to end (`receive.c`).
    pub fn wants_last_minute_rekey(&self, now: u64) -> bool {
        use super::limits::{KEEPALIVE_TIMEOUT_MS, REKEY_TIMEOUT_MS};
        self.initiator && self.age(now) >= REJECT_AFTER_TIME_MS - KEEPALIVE_TIMEOUT_MS - REKEY_TIMEOUT_MS
    }

    /// Reserves counters for packets; none where the session has too few left.
    pub fn reserve(&self, packets: u64) -> Option<u64> {
        let first = self.counter.fetch_add(packets, Ordering::Relaxed);
        (first < REJECT_AFTER_MESSAGES - packets).then_some(first)
    }

    /// Makes a data message of a frame in place: header, then the padded packet, then room for the tag.
    #[inline]
    pub fn seal(&self, counter: u64, frame: &mut [u8]) {
        let (header, rest) = frame.split_at_mut(DATA_HEADER_LEN);
        header[..4].copy_from_slice(&[DATA, 0, 0, 0]);
        header[4..8].copy_from_slice(&self.remote_index.to_le_bytes());
        header[8..].copy_from_slice(&counter.to_le_bytes());
        let (packet, room) = rest.split_at_mut(rest.len() - TAG_LEN);
        let tag = self
            .sender
            .seal_in_place_separate_tag(nonce(counter), Aad::empty(), packet)
            .expect("a packet is far below the cipher's limit");
        room.copy_from_slice(tag.as_ref());
    }

    /// Opens a data message in place; the packet starts after the header and is as long as this says.
    #[inline]
    pub fn open(&self, message: &mut [u8]) -> Option<usize> {
        let (header, body) = message.split_at_mut_checked(DATA_HEADER_LEN)?;
        let counter = u64::from_le_bytes(header[8..].try_into().ok()?);
        if counter >= REJECT_AFTER_MESSAGES {
            return None;
        }
        let packet = self.receiver.open_in_place(nonce(counter), Aad::empty(), body).ok()?.len();
        self.replay.lock().ok()?.accept(counter).then_some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Session, Session) {
        let ours = Keys { send: [1; 32], receive: [2; 32] };
        let theirs = Keys { send: [2; 32], receive: [1; 32] };
        (Session::new(&ours, (10, 20), true, 1000), Session::new(&theirs, (20, 10), false, 1000))
    }

    fn sealed(session: &Session, packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; DATA_HEADER_LEN];
        frame.extend(packet);
        frame.extend([0; TAG_LEN]);
        session.seal(session.reserve(1).unwrap(), &mut frame);
        frame
    }

    #[test]
    fn what_one_end_seals_the_other_opens_once() {
        let (a, b) = pair();
        let mut frame = sealed(&a, b"a packet");
        let mut copy = frame.clone();
        assert_eq!(b.open(&mut frame), Some(8));
        assert_eq!(&frame[16..24], b"a packet");
        assert_eq!(b.open(&mut copy), None);
    }

    #[test]
    fn a_changed_bit_anywhere_after_the_header_is_noticed() {
        let (a, b) = pair();
        for at in 8..sealed(&a, b"packet").len() {
            let mut frame = sealed(&a, b"packet");
            frame[at] ^= 4;
            assert_eq!(b.open(&mut frame), None, "byte {at}");
        }
    }

    #[test]
    fn a_session_ages_as_the_whitepaper_says() {
        let (a, b) = pair();
        assert!(!a.wants_rekey(1000 + 119_999) && a.wants_rekey(1000 + 120_000));
        assert!(!b.wants_rekey(1000 + 179_000));
        assert!(a.wants_last_minute_rekey(1000 + 165_000) && !b.wants_last_minute_rekey(1000 + 165_000));
        assert!(a.can_send(1000 + 179_999) && !a.can_send(1000 + 180_000));
        a.expire_sending();
        assert!(!a.can_send(1000) && a.can_receive(1000));
    }

    #[test]
    fn no_counter_is_handed_out_past_the_limit() {
        let (a, _) = pair();
        a.counter.store(REJECT_AFTER_MESSAGES - 3, Ordering::Relaxed);
        assert!(a.reserve(2).is_some());
        assert!(a.reserve(2).is_none());
        assert!(!a.can_send(1000));
    }
}
