//! What is done with handshake messages while the load is high: whoever shows no cookie of ours is sent one, all of them
//! by a few system calls, as a flood would otherwise take the processor from the peers.

use crate::allowed_ips::NONE;
use crate::device::{Device, Incoming};
use crate::exchange::HANDSHAKE_TOS;
use crate::noise::cookie::{Checker, Proof};
use crate::noise::message::{COOKIE_REPLY, COOKIE_REPLY_LEN};
use crate::peer::lock;
use crate::udp::send::{MAX_SEGMENTS, Run, Sender};
use crate::udp::{Endpoint, Sockets};

type Reply = [u8; COOKIE_REPLY_LEN];

/// The replies of a turn, and what sending them takes.
#[derive(Default)]
pub struct Crowd {
    replies: Vec<(Endpoint, Reply)>,
    bytes: Vec<u8>,
    runs: Vec<Run>,
    sender: Sender,
}

impl Crowd {
    /// Leaves the messages that show a cookie, and answers the rest.
    pub fn turn_away(&mut self, device: &Device, messages: &mut Vec<Incoming>, now: u64) {
        let Some(identity) = device.state().identity.clone() else {
            return messages.clear();
        };
        let mut checker = lock(&identity.checker);
        messages.retain(|message| self.may_stay(&mut checker, message, now));
        drop(checker);
        if let Some(sockets) = device.sockets().filter(|_| !self.replies.is_empty()) {
            self.send(&sockets);
        }
        self.replies.clear();
    }

    fn may_stay(&mut self, checker: &mut Checker, message: &Incoming, now: u64) -> bool {
        let (bytes, from) = (&message.bytes[..message.len], message.from);
        if bytes[0] == COOKIE_REPLY {
            return true;
        }
        let proof = checker.check(bytes, from.address, now);
        if proof == Proof::Mac1 {
            self.replies.push((from, checker.reply(bytes, from.address, now)));
        }
        proof == Proof::Cookie
    }

    /// The replies to one sender go out as one large send, and all of them by few calls.
    fn send(&mut self, sockets: &Sockets) {
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
        self.sender.send(sockets, &self.bytes, &self.runs, |_| ());
    }
}

fn single(at: usize, endpoint: Endpoint) -> Run {
    Run { at, len: COOKIE_REPLY_LEN, segment: COOKIE_REPLY_LEN, endpoint, peer: NONE, ecn: HANDSHAKE_TOS }
}
