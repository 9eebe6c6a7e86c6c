//! Cookie replies: the device accepts one reply to its last message, and uses the cookie to prove its address.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use wgq_userspace::device::{Device, Indexed};
use wgq_userspace::keys::PresharedKey;
use wgq_userspace::locks::lock;
use wgq_userspace::noise::cookie::{Checker, Proof};
use wgq_userspace::noise::handshake;
use wgq_userspace::noise::message::{COOKIE_REPLY, COOKIE_REPLY_LEN, INITIATION_LEN, kind};
use wgq_userspace::peer::Peer;
use wgq_userspace::sys;
use wgq_userspace_fuzz::host::{OURS, PEERS, deliver, device_with_keys, edit, place};
use wgq_userspace_fuzz::messages::u32_at;

#[derive(Arbitrary, Debug)]
struct Input {
    index: u32,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// The device sends its initiation, again.
    Sends,
    /// The peer replies to the message, which arrived from a given address.
    Reply {
        to: u8,
        edits: Vec<(u8, u8)>,
    },
    /// The peer replies to an earlier message.
    LateReply {
        to: u8,
    },
    Bytes {
        to_us: bool,
        bytes: [[u8; 30]; 2],
    },
}

/// The peer's state, and the expected state of the device.
struct Exchange {
    device: &'static Device,
    peer: std::sync::Arc<Peer>,
    index: u32,
    checker: Checker,
    unsigned: [u8; INITIATION_LEN],
    /// The last message and the one before, and whether a reply to the last one is expected.
    last: [u8; INITIATION_LEN],
    before: Option<[u8; INITIATION_LEN]>,
    awaited: bool,
    /// The address for which the device has a cookie.
    cookie: Option<u8>,
}

impl Exchange {
    fn new(index: u32) -> Self {
        let (device, now) = (device_with_keys(), sys::now_ms());
        let mut state = device.state_mut();
        let peer = state.add_peer(PEERS[0].public);
        let none = PresharedKey([0; 32]);
        let (_, unsigned) =
            handshake::initiate(&OURS.private, peer.key, &none, index, &[1; 12]).expect("good keys");
        state.set_index(index, Indexed::Handshake(peer.clone()));
        let checker = Checker::new(peer.key, now);
        Self {
            device,
            peer,
            index,
            checker,
            unsigned,
            last: unsigned,
            before: None,
            awaited: false,
            cookie: None,
        }
    }

    /// The device signs a message, which shows whether it has a cookie and for which address.
    fn send(&mut self) {
        let now = sys::now_ms();
        let mut message = self.unsigned;
        // Each message differs, as real ones do in their time stamps.
        message[8] = self.last[8].wrapping_add(1);
        lock(&self.peer.handshake).cookies.sign(&mut message, now);
        for number in 0..4 {
            let proof = if self.cookie == Some(number) { Proof::Cookie } else { Proof::Mac1 };
            assert_eq!(self.checker.check(&message, place(number).address, now), proof);
        }
        self.before = self.awaited.then_some(self.last);
        (self.last, self.awaited) = (message, true);
    }

    fn reply(&mut self, to: u8, edits: &[(u8, u8)]) {
        let mut reply = self.checker.reply(&self.last, place(to).address, sys::now_ms());
        let original = reply;
        edit(&mut reply, edits);
        let is_ours = kind(&reply) == Some(COOKIE_REPLY) && u32_at(&reply, 4) == self.index;
        if self.awaited && is_ours && reply[8..] == original[8..] {
            (self.cookie, self.awaited) = (Some(to), false);
        }
        deliver(self.device, &reply, place(0), false);
    }

    fn late_reply(&mut self, to: u8) {
        if let Some(before) = self.before {
            let reply = self.checker.reply(&before, place(to).address, sys::now_ms());
            deliver(self.device, &reply, place(0), false);
        }
    }

    fn bytes(&self, to_us: bool, bytes: &[u8]) {
        let mut reply = [0; COOKIE_REPLY_LEN];
        reply[0] = COOKIE_REPLY;
        reply[4..].copy_from_slice(bytes);
        if to_us {
            reply[4..8].copy_from_slice(&self.index.to_le_bytes());
        }
        deliver(self.device, &reply, place(0), true);
    }
}

fuzz_target!(|input: Input| {
    let mut exchange = Exchange::new(input.index);
    exchange.send();
    for step in &input.steps {
        match step {
            Step::Sends => exchange.send(),
            Step::Reply { to, edits } => exchange.reply(to % 4, edits),
            Step::LateReply { to } => exchange.late_reply(to % 4),
            Step::Bytes { to_us, bytes } => exchange.bytes(*to_us, bytes.as_flattened()),
        }
    }
    exchange.send();
});
