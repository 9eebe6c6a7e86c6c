//! A device without link and sockets, and keys known to the fuzzer.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{LazyLock, OnceLock};

use wgq_userspace::device::{Device, Identity, Incoming, State};
use wgq_userspace::exchange::receive_handshake;
use wgq_userspace::keys::{PrivateKey, PublicKey};
use wgq_userspace::noise::cookie::Checker;
use wgq_userspace::noise::message::{self, INITIATION_LEN};
use wgq_userspace::sys;
use wgq_userspace::tun::{Link, Offloads, Tun};
use wgq_userspace::udp::Endpoint;
use wgq_userspace::udp::binder::Binder;

/// A pair of keys.
pub struct Pair {
    pub private: PrivateKey,
    pub public: PublicKey,
}

fn pair(seed: u8) -> Pair {
    let private = PrivateKey::new([seed; 32]);
    let public = private.public();
    Pair { private, public }
}

/// The device's own keys, those of two peers, and those of a stranger.
pub static OURS: LazyLock<Pair> = LazyLock::new(|| pair(1));
pub static PEERS: LazyLock<[Pair; 2]> = LazyLock::new(|| [pair(2), pair(3)]);
pub static STRANGER: LazyLock<Pair> = LazyLock::new(|| pair(4));

/// The only device of the process, reset to its initial state. It has no sockets, so that it sends nothing.
pub fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let device = DEVICE.get_or_init(|| {
        leave_the_network();
        let (socket, _) = UnixDatagram::pair().expect("a pair of sockets in the place of a TUN device");
        let tun = Tun::new(OwnedFd::from(socket), Offloads { tcp: true, udp: true });
        let link = Link::new("lo").expect("a socket to ask for links");
        let binder = Binder::start(256 << 10).expect("a thread");
        Device::new("fuzz".to_owned(), tun, link, binder).expect("the loopback link has an MTU")
    });
    *device.state_mut() = State::default();
    *device.handshake_sources.lock().expect("a panic ends the process") =
        wgq_userspace::noise::ratelimit::RateLimiter::default();
    device.fwmark.store(0, Relaxed);
    device.listen_port.store(0, Relaxed);
    device.binder.release();
    device.inbox.take_tasks(usize::MAX);
    device
}

/// Enters a network namespace whose only link is down, so that no port of the host is bound.
fn leave_the_network() {
    // SAFETY: the call takes and returns numbers.
    let unshared = |flags| unsafe { libc::unshare(flags) == 0 };
    assert!(
        unshared(libc::CLONE_NEWNET) || unshared(libc::CLONE_NEWUSER | libc::CLONE_NEWNET),
        "cannot make a network namespace: {}",
        std::io::Error::last_os_error()
    );
}

/// The device with its keys.
pub fn device_with_keys() -> &'static Device {
    let device = device();
    let checker = Checker::new(OURS.public, sys::now_ms()).into();
    let identity = Identity { private: OURS.private.clone(), public: OURS.public, checker };
    device.state_mut().identity = Some(identity.into());
    device
}

/// One of four source addresses. No host has them.
pub fn place(number: u8) -> Endpoint {
    let port = u16::from(number & 1) + 1;
    Endpoint::new(match number & 2 {
        0 => ([192, 0, 2, number], port).into(),
        _ => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number)], port).into(),
    })
}

/// Passes a message to the device like the receiving thread, if its type and length are valid.
pub fn deliver(device: &Device, bytes: &[u8], from: Endpoint, under_load: bool) {
    if matches!(message::kind(bytes), None | Some(message::DATA)) {
        return;
    }
    let mut incoming = Incoming { bytes: [0; INITIATION_LEN], len: bytes.len(), from };
    incoming.bytes[..bytes.len()].copy_from_slice(bytes);
    receive_handshake(device, &incoming, under_load);
}

/// Changes bytes of a message. Positions wrap around at its end.
pub fn edit(bytes: &mut [u8], edits: &[(impl Into<usize> + Copy, u8)]) {
    for &(at, change) in edits {
        let at = at.into() % bytes.len();
        bytes[at] ^= change;
    }
}
