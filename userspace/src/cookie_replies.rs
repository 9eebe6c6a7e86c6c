//! Handles handshake messages under load. Senders without a valid cookie get a cookie reply. The replies are sent with few
//! system calls, so that a flood does not take the processor from the peers.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;

use crate::allowed_ips::NONE;
use crate::device::{Device, Incoming};
use crate::diagnostics::{About, Event};
use crate::exchange::HANDSHAKE_TOS;
use crate::locks::lock;
use crate::noise::cookie::{Checker, Proof};
use crate::noise::limits::REKEY_TIMEOUT_MS;
use crate::noise::message::{COOKIE_REPLY, COOKIE_REPLY_LEN};
use crate::udp::send::{MAX_SEGMENTS, Run, Sender};
use crate::udp::{Endpoint, Sockets};

type Reply = [u8; COOKIE_REPLY_LEN];

/// Above this rate of requests only some sources are answered at a time. The sources of a flood are probably forged. Each
/// reply costs a send, which lowers the peers' rate, and it hits the real owner of a forged address.
const REPLIES_PER_SECOND: u64 = 32 << 10;
const COUNTED_MS: u64 = 1000;

/// Decides which sources are answered. The choice changes as often as initiations are repeated, so that every source that
/// repeats is answered eventually. A random hash keeps the choice unpredictable from outside.
#[derive(Default)]
struct Turns {
    hasher: RandomState,
    /// One source in `2^rarity` is answered.
    rarity: u32,
    asked: u64,
    counted: u64,
}

impl Turns {
    fn includes(&mut self, source: SocketAddr, now: u64) -> bool {
        self.count(now);
        let place = self.hasher.hash_one((source.ip(), source.port()));
        place.wrapping_add(now / REKEY_TIMEOUT_MS).trailing_zeros() >= self.rarity
    }

    fn count(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.counted);
        if elapsed >= COUNTED_MS {
            let rate = self.asked * 1000 / elapsed;
            self.rarity = rate.div_ceil(REPLIES_PER_SECOND).next_power_of_two().trailing_zeros();
            (self.asked, self.counted) = (0, now);
        }
        self.asked += 1;
    }
}

/// The cookie replies of a batch, and the buffers to send them.
#[derive(Default)]
pub(crate) struct CookieReplies {
    turns: Turns,
    replies: Vec<(Endpoint, Reply)>,
    bytes: Vec<u8>,
    runs: Vec<Run>,
    sender: Sender,
}

impl CookieReplies {
    /// Keeps the messages with a valid cookie in the batch, and answers the others with cookie replies.
    pub(crate) fn require_cookies(&mut self, device: &Device, messages: &mut Vec<Incoming>, now: u64) {
        let Some(identity) = device.state().identity.clone() else {
            device.events.note_many(Event::NoPrivateKey, messages.len(), About::Nothing);
            return messages.clear();
        };
        let mut checker = lock(&identity.checker);
        messages.retain(|message| self.may_stay(device, &mut checker, message, now));
        drop(checker);
        if let Some(sockets) = device.sockets().filter(|_| !self.replies.is_empty()) {
            self.send(device, &sockets);
        }
        self.replies.clear();
    }

    fn may_stay(&mut self, device: &Device, checker: &mut Checker, message: &Incoming, now: u64) -> bool {
        let (bytes, from) = (&message.bytes[..message.len], message.from);
        if bytes[0] == COOKIE_REPLY {
            return true;
        }
        let proof = checker.check(bytes, from.address, now);
        match proof {
            Proof::Invalid => device.events.note(Event::Mac1Invalid, About::From(from.address)),
            Proof::Mac1 => {
                device.events.note(Event::CookieMissing, About::From(from.address));
                if self.turns.includes(from.address, now) {
                    self.replies.push((from, checker.reply(bytes, from.address, now)));
                }
            }
            Proof::Cookie => (),
        }
        proof == Proof::Cookie
    }

    /// Sends the replies. Those to the same address are combined into one large send.
    fn send(&mut self, device: &Device, sockets: &Sockets) {
        let last = self.replies.last().map_or(About::Nothing, |(to, _)| About::To(to.address));
        device.events.note_many(Event::CookieSent, self.replies.len(), last);
        self.replies.sort_unstable_by_key(|(to, _)| to.address);
        self.bytes.clear();
        self.runs.clear();
        for (to, reply) in &self.replies {
            let at = self.bytes.len();
            self.bytes.extend(reply);
            match self.runs.last_mut().filter(|run| run.endpoint == *to && sockets.segments()) {
                Some(run) if run.len < MAX_SEGMENTS * COOKIE_REPLY_LEN => run.len += COOKIE_REPLY_LEN,
                _ => self.runs.push(single(at, *to)),
            }
        }
        self.sender.send(sockets, &self.bytes, &self.runs, |_, _| ());
    }
}

fn single(at: usize, endpoint: Endpoint) -> Run {
    Run { at, len: COOKIE_REPLY_LEN, segment: COOKIE_REPLY_LEN, endpoint, peer: NONE, ecn: HANDSHAKE_TOS }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `strangers` sources are answered in the second that ends at `end`.
    fn answered(turns: &mut Turns, strangers: u64, end: u64) -> u64 {
        let stranger = |n: u64| SocketAddr::from((((n * 0x9E37_79B9) as u32).to_be_bytes(), n as u16));
        let at = |n: u64| end - COUNTED_MS + n * COUNTED_MS / strangers;
        (0..strangers).map(|n| u64::from(turns.includes(stranger(n), at(n)))).sum()
    }

    #[test]
    fn every_source_is_answered_below_the_limit() {
        let mut turns = Turns::default();
        for second in 1..20 {
            assert_eq!(answered(&mut turns, REPLIES_PER_SECOND / 2, second * 1000), REPLIES_PER_SECOND / 2);
        }
    }

    #[test]
    fn replies_are_limited_and_repeating_sources_get_one() {
        let mut turns = Turns::default();
        let honest: Vec<_> = (0..50).map(|n| SocketAddr::from(([192, 0, 2, n], 51820))).collect();
        let mut waiting = honest.clone();
        answered(&mut turns, 50_000, 1000);
        for second in 2..=22 {
            assert!(answered(&mut turns, 50_000, second * 1000) < REPLIES_PER_SECOND);
            if second % 5 == 2 {
                waiting.retain(|&source| !turns.includes(source, second * 1000));
            }
        }
        assert!(waiting.is_empty(), "{waiting:?}");
        assert!(answered(&mut turns, 1000, 23_000) < 1000, "the flood is remembered for a second");
        assert_eq!(answered(&mut turns, 1000, 24_000), 1000);
    }
}
