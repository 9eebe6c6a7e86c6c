//! One peer: its endpoint, sessions, handshake, staged packets and timers. A time `now` is in milliseconds of
//! `sys::now_ms`.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::diagnostics::Events;
use crate::keys::{PresharedKey, PublicKey};
use crate::locks::{lock, read};
use crate::noise::cookie::Maker;
use crate::noise::handshake::{Initiated, Timestamp};
use crate::noise::session::{Role, Session};
use crate::staged::Staged;
use crate::timers::Timers;
use crate::udp::{Endpoint, Source};
use crate::wake::Alarm;

/// The sessions of a peer (the kernel's `struct noise_keypairs`).
#[derive(Default)]
pub(crate) struct Keypairs {
    pub(crate) current: Option<Arc<Session>>,
    previous: Option<Arc<Session>>,
    /// A session that we hold as responder, until a packet confirms that the initiator has it too.
    next: Option<Arc<Session>>,
}

/// The local indexes of sessions that were removed.
pub(crate) type Forgotten = Vec<u32>;

impl Keypairs {
    /// Adds a new session (`add_new_keypair` of the kernel's `noise.c`).
    pub(crate) fn add(&mut self, new: Arc<Session>) -> Forgotten {
        let mut forgotten = Forgotten::new();
        let mut forget = |session: Option<Arc<Session>>| forgotten.extend(session.map(|s| s.indexes.local));
        if new.role == Role::Initiator {
            let outgoing = match self.next.take() {
                Some(next) => {
                    forget(self.current.take());
                    Some(next)
                }
                None => self.current.take(),
            };
            forget(std::mem::replace(&mut self.previous, outgoing));
            self.current = Some(new);
        } else {
            forget(self.next.replace(new));
            forget(self.previous.take());
        }
        forgotten
    }

    /// Handles a packet of a session. The first packet of the next session makes it the current one
    /// (`wg_noise_received_with_keypair`).
    pub(crate) fn confirm(&mut self, session: &Arc<Session>) -> Option<Forgotten> {
        if !self.next.as_ref().is_some_and(|next| Arc::ptr_eq(next, session)) {
            return None;
        }
        let next = self.next.take();
        let old = std::mem::replace(&mut self.current, next);
        let oldest = std::mem::replace(&mut self.previous, old);
        Some(oldest.map(|s| s.indexes.local).into_iter().collect())
    }

    pub(crate) fn is_next(&self, session: &Arc<Session>) -> bool {
        self.next.as_ref().is_some_and(|next| Arc::ptr_eq(next, session))
    }

    pub(crate) fn clear(&mut self) -> Forgotten {
        let all = [self.current.take(), self.previous.take(), self.next.take()];
        all.into_iter().flatten().map(|s| s.indexes.local).collect()
    }

    /// Expires the sessions for sending, so that the next packet starts a handshake.
    pub(crate) fn expire(&self) {
        self.current.iter().chain(&self.next).for_each(|s| s.expire_sending());
    }
}

/// The handshake of a peer.
pub struct Handshake {
    pub(crate) psk: PresharedKey,
    pub cookies: Maker,
    pub pending: Option<Initiated>,
    /// The time stamp of the newest initiation sent.
    pub(crate) stamp: Timestamp,
    /// The time stamp of the newest initiation received. An older one is a replay.
    pub newest: Timestamp,
    /// When the last initiation was accepted, in milliseconds of `now_ms`; zero before the first one.
    pub last_received: u64,
}

/// One peer.
pub struct Peer {
    pub key: PublicKey,
    /// The index in the table of peers, which identifies the peer in the allowed IPs.
    pub(crate) slot: u32,
    /// The position in the order of addition, which listings keep.
    pub(crate) sequence: u64,
    pub(crate) endpoint: Mutex<Option<Endpoint>>,
    pub(crate) keypairs: RwLock<Keypairs>,
    pub handshake: Mutex<Handshake>,
    pub(crate) staged: Staged,
    pub(crate) timers: Timers,
    /// The interval of persistent keepalives; zero if there are none.
    pub(crate) keepalive_seconds: AtomicU16,
    pub rx_bytes: AtomicU64,
    pub(crate) tx_bytes: AtomicU64,
    /// The time of the last handshake, in nanoseconds since 1970; zero before the first one.
    pub(crate) last_handshake: AtomicU64,
    /// When the last handshake message was sent, in milliseconds of `now_ms`; zero if the next may be sent at once.
    pub(crate) last_sent: AtomicU64,
    /// The number of times that the current handshake was repeated.
    pub(crate) attempts: AtomicU32,
    /// Whether a handshake is queued for the control thread.
    pub(crate) handshake_wanted: AtomicBool,
    pub(crate) events: Events,
}

impl Peer {
    pub(crate) fn new(key: PublicKey, slot: u32, sequence: u64) -> Self {
        Self {
            key,
            slot,
            sequence,
            endpoint: Mutex::new(None),
            keypairs: RwLock::new(Keypairs::default()),
            handshake: Mutex::new(Handshake {
                psk: PresharedKey([0; 32]),
                cookies: Maker::new(key),
                pending: None,
                stamp: [0; 12],
                newest: [0; 12],
                last_received: 0,
            }),
            staged: Staged::default(),
            timers: Timers::default(),
            keepalive_seconds: AtomicU16::new(0),
            rx_bytes: AtomicU64::new(0),
            tx_bytes: AtomicU64::new(0),
            last_handshake: AtomicU64::new(0),
            last_sent: AtomicU64::new(0),
            attempts: AtomicU32::new(0),
            handshake_wanted: AtomicBool::new(false),
            events: Events::default(),
        }
    }

    pub fn endpoint(&self) -> Option<Endpoint> {
        *lock(&self.endpoint)
    }

    /// The session to send with, if there is one.
    pub fn sending_session(&self, now: u64) -> Option<Arc<Session>> {
        let keypairs = read(&self.keypairs);
        keypairs.current.as_ref().filter(|s| s.can_send(now)).cloned()
    }

    /// Sets the endpoint to the source of an authenticated packet.
    pub(crate) fn roam(&self, arrived: Endpoint) {
        *lock(&self.endpoint) = Some(arrived);
    }

    /// Replaces the endpoint, unless it has changed meanwhile.
    pub(crate) fn renew(&self, old: &Endpoint, new: Endpoint) {
        let mut endpoint = lock(&self.endpoint);
        if endpoint.as_ref() == Some(old) {
            *endpoint = Some(new);
        }
    }

    /// Clears the source address, because it may be the reason why packets do not arrive.
    pub(crate) fn clear_source(&self) {
        if let Some(endpoint) = lock(&self.endpoint).as_mut() {
            endpoint.source = Source::Unknown;
        }
    }

    pub(crate) fn count_sent(&self, bytes: usize) {
        self.tx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_received(&self, bytes: usize) {
        self.rx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Records that both ends have the new session.
    pub(crate) fn handshake_complete(&self) {
        self.timers.handshake_complete();
        self.attempts.store(0, Ordering::Relaxed);
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_handshake.store(since_1970.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Updates the timers after a packet was sent.
    #[inline]
    pub(crate) fn note_sent(&self, data: bool, now: u64, alarm: &Alarm) {
        if data {
            self.timers.data_sent(now, alarm);
        }
        self.timers.authenticated_sent();
        self.timers.traversed(self.keepalive_seconds.load(Ordering::Relaxed), now, alarm);
    }

    /// Updates the timers after a packet was received.
    #[inline]
    pub(crate) fn note_received(&self, data: bool, now: u64, alarm: &Alarm) {
        self.timers.authenticated_received();
        self.timers.traversed(self.keepalive_seconds.load(Ordering::Relaxed), now, alarm);
        if data {
            self.timers.data_received(now, alarm);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::session::{Indexes, Keys};

    fn session(local: u32, role: Role) -> Arc<Session> {
        let keys = Keys { send: [1; 32], receive: [2; 32] };
        Arc::new(Session::new(&keys, Indexes { local, remote: local + 100 }, role, 0))
    }

    fn indexes(keypairs: &Keypairs) -> [Option<u32>; 3] {
        [&keypairs.current, &keypairs.previous, &keypairs.next].map(|s| s.as_ref().map(|s| s.indexes.local))
    }

    #[test]
    fn the_initiator_uses_a_new_session_at_once() {
        let mut keypairs = Keypairs::default();
        assert!(keypairs.add(session(1, Role::Initiator)).is_empty());
        assert!(keypairs.add(session(2, Role::Initiator)).is_empty());
        assert_eq!(indexes(&keypairs), [Some(2), Some(1), None]);
        assert_eq!(keypairs.add(session(3, Role::Initiator)), [1]);
        assert_eq!(indexes(&keypairs), [Some(3), Some(2), None]);
    }

    #[test]
    fn the_responder_uses_a_new_session_after_its_first_packet() {
        let mut keypairs = Keypairs::default();
        keypairs.add(session(1, Role::Initiator));
        let next = session(2, Role::Responder);
        keypairs.add(next.clone());
        assert_eq!(indexes(&keypairs), [Some(1), None, Some(2)]);
        assert_eq!(keypairs.confirm(&next), Some(vec![]));
        assert_eq!(indexes(&keypairs), [Some(2), Some(1), None]);
        assert_eq!(keypairs.confirm(&next), None);
        let later = session(3, Role::Responder);
        assert_eq!(keypairs.add(later), [1]);
    }
}
