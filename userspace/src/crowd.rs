//! What is done with handshake messages while the load is high: whoever shows no cookie of ours is sent one, all of them
//! by a few system calls, as a flood would otherwise take the processor from the peers.

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

/// Where more replies than this are asked for in a second, from senders that are as likely made up, sources have turns:
/// each reply is a send of its own, which costs the peers some of their rate and whoever really has the address a message.
const REPLIES_PER_SECOND: u64 = 32 << 10;
const COUNTED_MS: u64 = 1000;

/// Whose turn it is to be answered. It changes as often as an initiation is repeated, so that nobody who does so is
/// passed over for good, and nobody outside knows of another's turn.
#[derive(Default)]
struct Turns {
    hasher: RandomState,
    /// One source in two to this power is answered.
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

/// The replies of a turn, and what sending them takes.
#[derive(Default)]
pub(crate) struct Crowd {
    turns: Turns,
    replies: Vec<(Endpoint, Reply)>,
    bytes: Vec<u8>,
    runs: Vec<Run>,
    sender: Sender,
}

impl Crowd {
    /// Leaves the messages that show a cookie, and answers the rest.
    pub(crate) fn turn_away(&mut self, device: &Device, messages: &mut Vec<Incoming>, now: u64) {
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

    /// The replies to one sender go out as one large send, and all of them by few calls.
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

    /// How many of so many strangers are answered in the second that ends at a time.
    fn answered(turns: &mut Turns, strangers: u64, end: u64) -> u64 {
        let stranger = |n: u64| SocketAddr::from((((n * 0x9E37_79B9) as u32).to_be_bytes(), n as u16));
        let at = |n: u64| end - COUNTED_MS + n * COUNTED_MS / strangers;
        (0..strangers).map(|n| u64::from(turns.includes(stranger(n), at(n)))).sum()
    }

    #[test]
    fn all_are_answered_while_they_are_not_too_many() {
        let mut turns = Turns::default();
        for second in 1..20 {
            assert_eq!(answered(&mut turns, REPLIES_PER_SECOND / 2, second * 1000), REPLIES_PER_SECOND / 2);
        }
    }

    #[test]
    fn however_many_ask_the_replies_are_about_as_many_and_each_who_repeats_is_answered_in_the_end() {
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
