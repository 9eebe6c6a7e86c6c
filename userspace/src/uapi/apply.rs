//! Applies `set` requests to the device and writes answers to `get` (compare the kernel's `netlink.c`).

use std::io::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use super::parse::{Errno, SetDevice, SetPeer};
use crate::device::{Device, Identity, State};
use crate::exchange;
use crate::keys::{PrivateKey, PublicKey, push_hex};
use crate::lifecycle;
use crate::locks::lock;
use crate::noise::cookie::Checker;
use crate::peer::Peer;
use crate::sys;
use crate::udp::Endpoint;
use crate::wipe;

fn code(error: &std::io::Error) -> Errno {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Applies a whole request. The sockets come first, because only they can fail.
pub(crate) fn set(device: &Device, request: &SetDevice) -> Result<(), Errno> {
    set_sockets(device, request)?;
    let mut state = device.state_mut();
    if request.replace_peers {
        state.remove_all_peers();
    }
    let mut changed = Vec::new();
    if let Some(key) = &request.private_key {
        let is_first = state.identity.is_none();
        wipe::after(|| set_private_key(&mut state, key));
        if is_first && device.is_up() {
            changed.extend(state.peers().filter(|peer| !peer.staged.is_empty()).cloned());
        }
    }
    for peer in &request.peers {
        changed.extend(set_peer(&mut state, peer, device.is_up()));
    }
    drop(state);
    changed.iter().for_each(|peer| exchange::send_staged(device, peer));
    Ok(())
}

/// Starts a handshake with each peer, even if it has a session, except peers that were sent a handshake message less than
/// five seconds ago. The kernel's module has no such request and keeps a young session.
pub(crate) fn begin_handshakes(device: &Device, keys: &[PublicKey]) -> Result<(), Errno> {
    if !device.is_up() {
        return Err(libc::ENETDOWN);
    }
    let found: Option<Vec<_>> = {
        let state = device.state();
        keys.iter().map(|&key| state.find(key).cloned()).collect()
    };
    let now = sys::now_ms();
    for peer in found.ok_or(libc::ENOENT)? {
        exchange::want_handshake(device, &peer, now);
    }
    Ok(())
}

fn set_sockets(device: &Device, request: &SetDevice) -> Result<(), Errno> {
    let (old_port, old_mark) = (device.listen_port.load(Relaxed), device.fwmark.load(Relaxed));
    let mark = request.fwmark.unwrap_or(old_mark);
    if let Some(port) = request.listen_port {
        lifecycle::set_port(device, port, mark).map_err(|e| code(&e))?;
    }
    if mark != old_mark {
        lifecycle::set_fwmark(device, mark).map_err(|e| code(&e))?;
    }
    if (device.listen_port.load(Relaxed), mark) != (old_port, old_mark) {
        device.state().peers().for_each(|peer| peer.clear_source());
    }
    Ok(())
}

/// Sets the private key and expires all sessions. A peer with our own public key is removed.
fn set_private_key(state: &mut State, private: &PrivateKey) {
    if private.is_zero() {
        state.identity = None;
    } else {
        let public = private.public();
        if state.identity.as_ref().is_some_and(|old| old.public == public) {
            return;
        }
        state.remove_peer(public);
        let checker = Mutex::new(Checker::new(public, sys::now_ms()));
        state.identity = Some(Arc::new(Identity { private: private.clone(), public, checker }));
    }
    state.expire_sending();
}

/// Applies the section of one peer. Returns the peer if the device is up and the peer has packets to send.
fn set_peer(state: &mut State, change: &SetPeer, up: bool) -> Option<Arc<Peer>> {
    if change.remove {
        state.remove_peer(change.key);
        return None;
    }
    let peer = match state.find(change.key) {
        Some(peer) => peer.clone(),
        None if change.update_only || is_own(state, change.key) => return None,
        None => state.add_peer(change.key),
    };
    if let Some(psk) = &change.psk {
        // The key is copied from heap to heap. A clone would leave a copy on the stack.
        lock(&peer.handshake).psk.0.copy_from_slice(&psk.0);
    }
    if let Some(address) = change.endpoint {
        *lock(&peer.endpoint) = Some(Endpoint::new(address));
    }
    set_allowed_ips(state, &peer, change);
    let old = change.keepalive_seconds.map(|seconds| peer.keepalive_seconds.swap(seconds, Relaxed));
    if up && old == Some(0) && change.keepalive_seconds != Some(0) {
        peer.staged.push_keepalive();
    }
    (up && !peer.staged.is_empty()).then_some(peer)
}

fn is_own(state: &State, key: PublicKey) -> bool {
    state.identity.as_ref().is_some_and(|own| own.public == key)
}

fn set_allowed_ips(state: &mut State, peer: &Peer, change: &SetPeer) {
    if change.replace_allowed_ips {
        state.allowed_ips.clear(peer.slot);
    }
    for allowed in &change.allowed_ips {
        if allowed.remove {
            state.allowed_ips.remove(allowed.prefix, peer.slot);
        } else {
            state.allowed_ips.insert(allowed.prefix, peer.slot);
        }
    }
}

/// The answer to `get`, without its errno.
pub(crate) fn get(device: &Device) -> Vec<u8> {
    let state = device.state();
    let peers = state.peers_in_order();
    let mut out = Vec::with_capacity(256 + peers.len() * 512);
    if let Some(identity) = &state.identity {
        line_key(&mut out, "private_key", identity.private.bytes());
    }
    for (name, number) in [("listen_port", &device.listen_port), ("fwmark", &device.fwmark)] {
        let number = number.load(Relaxed);
        if number != 0 {
            let _ = writeln!(out, "{name}={number}");
        }
    }
    peers.into_iter().for_each(|peer| push_peer(&mut out, &state, peer));
    out
}

fn line_key(out: &mut Vec<u8>, name: &str, key: &[u8; 32]) {
    out.extend(name.as_bytes());
    out.push(b'=');
    push_hex(out, key);
    out.push(b'\n');
}

fn push_peer(out: &mut Vec<u8>, state: &State, peer: &Peer) {
    line_key(out, "public_key", &peer.key.0);
    line_key(out, "preshared_key", &lock(&peer.handshake).psk.0);
    out.extend(b"protocol_version=1\n");
    if let Some(endpoint) = peer.endpoint() {
        let _ = writeln!(out, "endpoint={}", endpoint.address);
    }
    let last = peer.last_handshake.load(Relaxed);
    let _ = write!(
        out,
        "last_handshake_time_sec={}\nlast_handshake_time_nsec={}\ntx_bytes={}\nrx_bytes={}\npersistent_keepalive_interval={}\n",
        last / 1_000_000_000,
        last % 1_000_000_000,
        peer.tx_bytes.load(Relaxed),
        peer.rx_bytes.load(Relaxed),
        peer.keepalive_seconds.load(Relaxed),
    );
    for prefix in state.allowed_ips.of_peer(peer.slot) {
        let _ = writeln!(out, "allowed_ip={}/{}", prefix.address, prefix.len);
    }
}
