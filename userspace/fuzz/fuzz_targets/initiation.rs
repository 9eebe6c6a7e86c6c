//! Handshake initiations: the device answers only those that a peer created, that are unchanged and that are newer than
//! earlier ones. Both ends derive the same keys.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use wgq_userspace::device::Device;
use wgq_userspace::keys::PresharedKey;
use wgq_userspace::locks::lock;
use wgq_userspace::noise::cookie::Maker;
use wgq_userspace::noise::handshake::{self, Initiated, Timestamp};
use wgq_userspace::noise::message::{INITIATION, INITIATION_LEN, kind};
use wgq_userspace::noise::ratelimit::RateLimiter;
use wgq_userspace::peer::Peer;
use wgq_userspace::sys;
use wgq_userspace_fuzz::host::{OURS, PEERS, Pair, STRANGER, deliver, device_with_keys, place};
use wgq_userspace_fuzz::messages::{Journey, maker_with_cookie, u32_at};

const MOST_MESSAGES: usize = 6;
const BODY: std::ops::Range<usize> = 8..INITIATION_LEN - 32;

#[derive(Arbitrary, Debug)]
enum Origin {
    Peer {
        second: bool,
        index: u32,
        stamp: Timestamp,
    },
    Stranger {
        index: u32,
        stamp: Timestamp,
    },
    /// Someone who pretends to be the device itself.
    Ourselves {
        index: u32,
        stamp: Timestamp,
    },
    /// Random bytes.
    Noise([[u8; 29]; 4]),
}

/// The kind of a message, and its handshake if it has one.
struct Made {
    bytes: [u8; INITIATION_LEN],
    peer: Option<usize>,
    stamp: Timestamp,
    initiated: Option<Initiated>,
}

fn made(origin: &Origin) -> Made {
    let by = |pair: &Pair, peer, index, stamp: &Timestamp| {
        let none = PresharedKey([0; 32]);
        let (initiated, bytes) =
            handshake::initiate(&pair.private, OURS.public, &none, index, stamp).expect("the keys are good");
        Made { bytes, peer, stamp: *stamp, initiated: Some(initiated) }
    };
    match origin {
        Origin::Peer { second, index, stamp } => {
            let which = usize::from(*second);
            by(&PEERS[which], Some(which), *index, stamp)
        }
        Origin::Stranger { index, stamp } => by(&STRANGER, None, *index, stamp),
        Origin::Ourselves { index, stamp } => by(&OURS, None, *index, stamp),
        Origin::Noise(body) => {
            let mut bytes = [0; INITIATION_LEN];
            bytes[0] = INITIATION;
            bytes[4..120].copy_from_slice(body.as_flattened());
            Made { bytes, peer: None, stamp: [0; 12], initiated: None }
        }
    }
}

/// The received bytes of a peer and whether its endpoint is known, which show whether an initiation was accepted.
fn received(peer: &Peer) -> u64 {
    peer.rx_bytes.load(std::sync::atomic::Ordering::Relaxed)
}

/// Reads only the message: up to its authentic part, and then both ends have the same keys.
fn check_reading(message: &[u8], is_authentic: bool, initiated: Option<Initiated>) {
    let read = handshake::receive(&OURS.private, message);
    assert_eq!(read.is_some(), is_authentic, "an initiation was misjudged");
    let (Some(read), Some(mut initiated)) = (read, initiated) else { return };
    assert_eq!(read.remote_index, u32_at(message, 4));
    let (response, theirs) = read.respond(&PresharedKey([0; 32]), 77).expect("an initiation can be answered");
    let (index, ours) = initiated.finish(&response).expect("the answer is right");
    assert!(index == 77 && ours.send == theirs.receive && ours.receive == theirs.send);
}

fn attempt(
    device: &Device,
    peers: &[std::sync::Arc<Peer>; 2],
    newest: &mut [Timestamp; 2],
    origin: &Origin,
    journey: &Journey,
) {
    let (mut message, now, from) = (made(origin), sys::now_ms(), place(journey.from));
    let original = message.bytes;
    let identity = device.state().identity.clone().expect("the device has keys");
    let mut maker = Maker::new(OURS.public);
    if journey.cookie {
        maker = maker_with_cookie(maker, &mut lock(&identity.checker), from, now);
    }
    let proven = journey.travel(&mut message.bytes, &mut maker, now);
    let is_authentic = message.initiated.is_some() && message.bytes[BODY] == original[BODY];
    check_reading(&message.bytes, is_authentic, message.initiated.take());

    let is_newer = message.peer.is_some_and(|which| message.stamp > newest[which]);
    let is_initiation = kind(&message.bytes) == Some(INITIATION);
    let counts = is_initiation && proven && is_authentic && is_newer;
    // The limits per peer and per source are not tested here, because both depend on the clock.
    peers.iter().for_each(|peer| lock(&peer.handshake).last_received = 0);
    *lock(&device.handshake_sources) = RateLimiter::default();
    let before = [received(&peers[0]), received(&peers[1])];
    deliver(device, &message.bytes, from, journey.under_load);
    for (which, peer) in peers.iter().enumerate() {
        let answered = counts && message.peer == Some(which);
        assert_eq!(received(peer) - before[which], if answered { INITIATION_LEN as u64 } else { 0 });
        if answered {
            newest[which] = message.stamp;
            assert_eq!(peer.endpoint(), Some(from), "a peer is where its last authentic message came from");
        }
        assert_eq!(lock(&peer.handshake).newest, newest[which]);
        assert!(
            peer.sending_session(now).is_none(),
            "a session is used before the peer has shown that it has it"
        );
    }
}

fuzz_target!(|messages: Vec<(Origin, Journey)>| {
    let device = device_with_keys();
    let peers = [0, 1].map(|which| device.state_mut().add_peer(PEERS[which].public));
    let mut newest = [[0; 12]; 2];
    for (origin, journey) in messages.iter().take(MOST_MESSAGES) {
        attempt(device, &peers, &mut newest, origin, journey);
    }
});
