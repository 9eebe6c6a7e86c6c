//! Handshake responses: only the correct response completes a handshake, once, after any number of invalid ones. Both ends
//! then have the same session.
#![no_main]

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use wgq_userspace::device::{Device, Indexed};
use wgq_userspace::keys::PresharedKey;
use wgq_userspace::locks::lock;
use wgq_userspace::noise::cookie::Maker;
use wgq_userspace::noise::handshake;
use wgq_userspace::noise::message::{INITIATION_LEN, RESPONSE, RESPONSE_LEN, kind};
use wgq_userspace::noise::ratelimit::RateLimiter;
use wgq_userspace::noise::session::{Indexes, Keys, Role, Session};
use wgq_userspace::peer::Peer;
use wgq_userspace::sys;
use wgq_userspace_fuzz::frames::{open, seal};
use wgq_userspace_fuzz::host::{OURS, PEERS, deliver, device_with_keys, place};
use wgq_userspace_fuzz::messages::{Journey, maker_with_cookie, u32_at};

const MOST_MESSAGES: usize = 6;
const BODY: std::ops::Range<usize> = 12..RESPONSE_LEN - 32;

#[derive(Arbitrary, Debug)]
struct Input {
    index: u32,
    psk: [u8; 32],
    answers: Vec<(Answer, Journey)>,
}

#[derive(Arbitrary, Debug)]
enum Answer {
    Right { index: u32 },
    WithAnotherKey { index: u32, change: (u8, u8) },
    Bytes { to: u32, from: u32, body: [[u8; 24]; 2] },
}

struct Begun {
    device: &'static Device,
    peer: Arc<Peer>,
    index: u32,
    psk: [u8; 32],
    initiation: [u8; INITIATION_LEN],
}

fn begin(index: u32, psk: [u8; 32]) -> Begun {
    let device = device_with_keys();
    let mut state = device.state_mut();
    let peer = state.add_peer(PEERS[0].public);
    let (pending, initiation) =
        handshake::initiate(&OURS.private, peer.key, &PresharedKey(psk), index, &handshake::timestamp())
            .expect("good keys");
    state.set_index(index, Indexed::Handshake(peer.clone()));
    lock(&peer.handshake).pending = Some(pending);
    Begun { device, peer, index, psk, initiation }
}

/// The peer's response and its keys.
fn respond(begun: &Begun, psk: [u8; 32], index: u32) -> ([u8; RESPONSE_LEN], Box<Keys>) {
    let received = handshake::receive(&PEERS[0].private, &begun.initiation).expect("it is unchanged");
    assert_eq!((received.peer, received.remote_index), (OURS.public, begun.index));
    received.respond(&PresharedKey(psk), index).expect("it can be answered")
}

fn made(begun: &Begun, answer: &Answer) -> ([u8; RESPONSE_LEN], Option<Box<Keys>>) {
    match *answer {
        Answer::Right { index } => {
            let (message, keys) = respond(begun, begun.psk, index);
            (message, Some(keys))
        }
        Answer::WithAnotherKey { index, change: (at, change) } => {
            let mut psk = begun.psk;
            psk[usize::from(at) % 32] ^= change;
            let (message, keys) = respond(begun, psk, index);
            (message, (change == 0).then_some(keys))
        }
        Answer::Bytes { to, from, body } => {
            let mut message = [0; RESPONSE_LEN];
            message[0] = RESPONSE;
            message[4..8].copy_from_slice(&from.to_le_bytes());
            message[8..12].copy_from_slice(&to.to_le_bytes());
            message[BODY].copy_from_slice(body.as_flattened());
            (message, None)
        }
    }
}

/// Checks that the peer can decrypt a packet of the device with the new session.
fn check_session(begun: &Begun, keys: &Keys, remote_index: u32) {
    let now = sys::now_ms();
    let ours = begun.peer.sending_session(now).expect("the handshake is complete");
    let indexes = Indexes { local: begun.index, remote: remote_index };
    assert_eq!((ours.indexes, ours.role), (indexes, Role::Initiator));
    let indexes = Indexes { local: remote_index, remote: begun.index };
    let theirs = Session::new(keys, indexes, Role::Responder, now);
    let message = seal(&ours, ours.reserve(1).expect("a new session"), &[7; 16]);
    assert_eq!(open(&theirs, &message), Some(vec![7; 16]));
}

/// Delivers a response. Returns whether it completed the handshake.
fn attempt(begun: &Begun, answer: &Answer, journey: &Journey, is_pending: bool) -> bool {
    let ((mut message, keys), now, from) = (made(begun, answer), sys::now_ms(), place(journey.from));
    let original = message;
    let identity = begun.device.state().identity.clone().expect("the device has keys");
    let mut maker = Maker::new(OURS.public);
    if journey.cookie {
        maker = maker_with_cookie(maker, &mut lock(&identity.checker), from, now);
    }
    let proven = journey.travel(&mut message, &mut maker, now);
    let is_ours = kind(&message) == Some(RESPONSE) && u32_at(&message, 8) == begun.index;
    let completes = is_pending && proven && is_ours && keys.is_some() && message[BODY] == original[BODY];
    *lock(&begun.device.handshake_sources) = RateLimiter::default();
    let before = begun.peer.rx_bytes.load(Relaxed);
    deliver(begun.device, &message, from, journey.under_load);
    let counted = begun.peer.rx_bytes.load(Relaxed) - before;
    assert_eq!(counted, if completes { RESPONSE_LEN as u64 } else { 0 });
    assert_eq!(lock(&begun.peer.handshake).pending.is_some(), is_pending && !completes);
    if let (true, Some(keys)) = (completes, keys) {
        assert_eq!(begun.peer.endpoint(), Some(from));
        check_session(begun, &keys, u32_at(&message, 4));
    }
    completes
}

fuzz_target!(|input: Input| {
    let begun = begin(input.index, input.psk);
    let mut is_pending = true;
    for (answer, journey) in input.answers.iter().take(MOST_MESSAGES) {
        is_pending &= !attempt(&begun, answer, journey, is_pending);
    }
    let undisturbed = Journey { before: vec![], after: vec![], cookie: false, from: 0, under_load: false };
    let completed = attempt(&begun, &Answer::Right { index: 1 }, &undisturbed, is_pending);
    assert_eq!(completed, is_pending, "wrong answers have spoiled the handshake");
});
