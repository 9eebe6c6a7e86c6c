//! The timers of a peer (whitepaper, section 6; the kernel's `timers.c`). They are deadlines that any thread may set. All
//! times are in milliseconds of `now_ms`.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::noise::limits::{
    KEEPALIVE_TIMEOUT_MS, REJECT_AFTER_TIME_MS, REKEY_TIMEOUT_JITTER_MS, REKEY_TIMEOUT_MS,
};
use crate::sys;
use crate::wake::{Alarm, Deadline};

/// The action of a timer that has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    RetryHandshake,
    SendKeepalive,
    NewHandshake,
    WipeKeys,
    PersistentKeepalive,
}

/// All deadlines of one peer.
#[derive(Default)]
pub(crate) struct Timers {
    /// The kernel's `timer_retransmit_handshake`.
    retry_handshake: Deadline,
    /// `timer_send_keepalive`.
    send_keepalive: Deadline,
    /// `timer_new_handshake`.
    new_handshake: Deadline,
    /// `timer_zero_key_material`.
    wipe_keys: Deadline,
    /// `timer_persistent_keepalive`.
    persistent_keepalive: Deadline,
    /// Whether data was received since the keepalive became due (`timer_need_another_keepalive`).
    another_keepalive: AtomicBool,
    /// Whether the session's last-minute handshake was requested (`sent_lastminute_handshake`).
    last_minute: AtomicBool,
}

/// A random delay, so that two peers do not keep initiating at the same time.
fn jitter() -> u64 {
    u64::from(u16::from_ne_bytes(sys::random())) % (REKEY_TIMEOUT_JITTER_MS + 1)
}

impl Timers {
    fn deadlines(&self) -> impl Iterator<Item = (&Deadline, Due)> {
        [
            (&self.retry_handshake, Due::RetryHandshake),
            (&self.send_keepalive, Due::SendKeepalive),
            (&self.new_handshake, Due::NewHandshake),
            (&self.wipe_keys, Due::WipeKeys),
            (&self.persistent_keepalive, Due::PersistentKeepalive),
        ]
        .into_iter()
    }

    /// Takes the timers that are due.
    pub(crate) fn due(&self, now: u64) -> impl Iterator<Item = Due> + '_ {
        self.deadlines().filter_map(move |(deadline, due)| deadline.take(now).then_some(due))
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<u64> {
        self.deadlines().filter_map(|(deadline, _)| deadline.next()).min()
    }

    pub(crate) fn stop(&self) {
        self.deadlines().for_each(|(deadline, _)| deadline.clear());
        self.another_keepalive.store(false, Relaxed);
        self.last_minute.store(false, Relaxed);
    }

    /// A data packet was sent: any packet is expected in return.
    #[inline]
    pub(crate) fn data_sent(&self, now: u64, alarm: &Alarm) {
        if !self.new_handshake.is_set() {
            self.new_handshake.set(now + KEEPALIVE_TIMEOUT_MS + REKEY_TIMEOUT_MS + jitter(), alarm);
        }
    }

    /// A data packet was received: a packet must be sent back soon.
    #[inline]
    pub(crate) fn data_received(&self, now: u64, alarm: &Alarm) {
        if self.send_keepalive.is_set() {
            self.another_keepalive.store(true, Relaxed);
        } else {
            self.send_keepalive.set(now + KEEPALIVE_TIMEOUT_MS, alarm);
        }
    }

    #[inline]
    pub(crate) fn authenticated_sent(&self) {
        self.send_keepalive.clear();
    }

    #[inline]
    pub(crate) fn authenticated_received(&self) {
        self.new_handshake.clear();
    }

    /// An authenticated packet was sent or received.
    #[inline]
    pub(crate) fn traversed(&self, keepalive_seconds: u16, now: u64, alarm: &Alarm) {
        if keepalive_seconds != 0 {
            self.persistent_keepalive.set(now + u64::from(keepalive_seconds) * 1000, alarm);
        }
    }

    pub(crate) fn handshake_initiated(&self, now: u64, alarm: &Alarm) {
        self.retry_handshake.set(now + REKEY_TIMEOUT_MS + jitter(), alarm);
    }

    /// A requested handshake must wait, because a handshake message was sent just before.
    #[inline]
    pub(crate) fn handshake_postponed(&self, last_sent: u64, alarm: &Alarm) {
        if !self.retry_handshake.is_set() {
            self.handshake_initiated(last_sent, alarm);
        }
    }

    pub(crate) fn handshake_complete(&self) {
        self.retry_handshake.clear();
        self.last_minute.store(false, Relaxed);
    }

    pub(crate) fn session_derived(&self, now: u64, alarm: &Alarm) {
        self.wipe_keys.set(now + 3 * REJECT_AFTER_TIME_MS, alarm);
    }

    /// The keys were wiped before their timer expired.
    pub(crate) fn keys_wiped(&self) {
        self.wipe_keys.clear();
    }

    /// The handshake failed after all its attempts.
    pub(crate) fn handshake_failed(&self, now: u64, alarm: &Alarm) {
        self.send_keepalive.clear();
        if !self.wipe_keys.is_set() {
            self.session_derived(now, alarm);
        }
    }

    /// A passive keepalive was sent. If data was received meanwhile, another one follows.
    pub(crate) fn keepalive_sent(&self, now: u64, alarm: &Alarm) {
        if self.another_keepalive.swap(false, Relaxed) {
            self.send_keepalive.set(now + KEEPALIVE_TIMEOUT_MS, alarm);
        }
    }

    /// Records the last-minute handshake of the session. Returns false if it was requested before.
    pub(crate) fn take_last_minute(&self) -> bool {
        !self.last_minute.swap(true, Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(timers: &Timers, now: u64) -> Vec<Due> {
        timers.due(now).collect()
    }

    #[test]
    fn unanswered_data_starts_a_handshake_after_15_seconds() {
        let (timers, alarm) = (Timers::default(), Alarm::new().unwrap());
        timers.data_sent(1000, &alarm);
        timers.data_sent(9000, &alarm);
        assert!(due(&timers, 15_999).is_empty());
        assert_eq!(due(&timers, 16_000 + REKEY_TIMEOUT_JITTER_MS), [Due::NewHandshake]);
        timers.data_sent(20_000, &alarm);
        timers.authenticated_received();
        assert!(due(&timers, 90_000).is_empty());
    }

    #[test]
    fn received_data_is_followed_by_a_keepalive_in_10_seconds() {
        let (timers, alarm) = (Timers::default(), Alarm::new().unwrap());
        timers.data_received(1000, &alarm);
        assert_eq!(due(&timers, 11_000), [Due::SendKeepalive]);
        timers.data_received(12_000, &alarm);
        timers.data_received(13_000, &alarm);
        assert_eq!(due(&timers, 22_000), [Due::SendKeepalive]);
        timers.keepalive_sent(22_000, &alarm);
        assert_eq!(due(&timers, 32_000), [Due::SendKeepalive]);
        timers.data_received(33_000, &alarm);
        timers.authenticated_sent();
        assert!(due(&timers, 90_000).is_empty());
    }

    #[test]
    fn any_traffic_postpones_the_persistent_keepalive() {
        let (timers, alarm) = (Timers::default(), Alarm::new().unwrap());
        timers.traversed(25, 0, &alarm);
        timers.traversed(25, 20_000, &alarm);
        assert!(due(&timers, 44_999).is_empty());
        assert_eq!(due(&timers, 45_000), [Due::PersistentKeepalive]);
        timers.traversed(0, 50_000, &alarm);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn the_alarm_is_set_to_the_earliest_deadline() {
        let (timers, alarm) = (Timers::default(), Alarm::new().unwrap());
        timers.session_derived(0, &alarm);
        timers.traversed(1, 0, &alarm);
        timers.handshake_initiated(0, &alarm);
        assert_eq!((alarm.set_to(), timers.next()), (Some(1000), Some(1000)));
    }
}
