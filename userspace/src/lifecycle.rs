//! Reacts to the link going up or down, a new port, and interruptions of the machine.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::device::{Device, Task};
use crate::diagnostics::{About, Event, Reason};
use crate::exchange::send_staged;
use crate::interruption::Interruption;
use crate::log;
use crate::peer::Peer;
use crate::tun::Link;
use crate::tun::namespace::LinkState;

/// Follows the link: binds the sockets when it goes up; closes them and wipes all keys when it goes down.
pub(crate) fn sync_link(device: &Device) {
    let link = device.link();
    if device.tun.is_detached() {
        return device.inbox.push_task(Task::End);
    }
    device.link_index.store(link.index_here(), Relaxed);
    // Before Linux 5.5 the state of a link in another namespace is unknown. It then counts as up.
    let mtu = device.mtu.load(Relaxed);
    let LinkState { mtu, is_up } = link.state(&device.tun).unwrap_or(LinkState { mtu, is_up: true });
    device.mtu.store(mtu, Relaxed);
    match (is_up, device.is_up()) {
        (true, false) => bring_up(device, &link),
        (false, true) => bring_down(device),
        _ => (),
    }
}

/// Changes the port. While the link is down, the port is bound and held: a port in use is an error here, because a
/// daemon cannot stop its TUN device from going up (the kernel's WireGuard can, in `wg_open`). If the link is up without
/// sockets, binding failed before, and the same port is tried again.
pub(crate) fn set_port(device: &Device, port: u16, fwmark: u32) -> io::Result<()> {
    let link = device.link();
    if device.is_up() {
        if u32::from(port) != device.listen_port.load(Relaxed) {
            device.use_sockets(device.binder.bind(port, fwmark)?);
        }
    } else if link.state(&device.tun).is_ok_and(|state| state.is_up) {
        device.use_sockets(device.binder.bind(port, fwmark)?);
        start_peers(device);
    } else if u32::from(port) != device.listen_port.load(Relaxed) {
        device.binder.reserve(port, fwmark)?;
        device.listen_port.store(port.into(), Relaxed);
    }
    Ok(())
}

/// Changes the fwmark of the sockets, and of those that are bound later. The lock of the link keeps another thread from
/// binding sockets with the old fwmark meanwhile.
pub(crate) fn set_fwmark(device: &Device, fwmark: u32) -> io::Result<()> {
    let _link = device.link();
    if let Some(sockets) = device.sockets() {
        sockets.set_fwmark(fwmark)?;
    }
    device.fwmark.store(fwmark, Relaxed);
    Ok(())
}

/// Binds the sockets. If that fails, the link is set down again, so that a link that is up can always receive.
fn bring_up(device: &Device, link: &Link) {
    match device.binder.bind(device.listen_port.load(Relaxed) as u16, device.fwmark.load(Relaxed)) {
        Ok(sockets) => {
            log::verbose(format_args!("the link is up; UDP port {}", sockets.port));
            device.use_sockets(sockets);
            start_peers(device);
        }
        Err(e) => {
            let port = device.listen_port.load(Relaxed);
            log::error(format_args!(
                "cannot bind UDP port {port}: {e}; choose another with `wg set {} listen-port`, then set the link up",
                device.name
            ));
            if let Err(e) = link.set_down() {
                log::verbose(format_args!("cannot set the link down: {e}"));
            }
        }
    }
}

fn start_peers(device: &Device) {
    device.state().peers().for_each(|peer| start_peer(device, peer));
}

/// Sends the staged packets of a peer and its first keepalive (`wg_open` of the kernel's `device.c`).
fn start_peer(device: &Device, peer: &Arc<Peer>) {
    if peer.keepalive_seconds.load(Relaxed) != 0 {
        peer.staged.push_keepalive();
    }
    if !peer.staged.is_empty() {
        send_staged(device, peer);
    }
}

/// Ends the sessions that must not continue after an interruption.
pub(crate) fn end_sessions(device: &Device, by: Interruption) {
    match by {
        Interruption::Restored => {
            log::notice(format_args!(
                "restored from a snapshot: the old keys are no longer used for sending"
            ));
            device.state_mut().expire_sending();
        }
        Interruption::Slept => {
            log::verbose(format_args!("the machine has slept: ending all sessions"));
            device.state_mut().forget_all_keys();
        }
    }
}

fn bring_down(device: &Device) {
    log::verbose(format_args!("the link is down"));
    device.set_sockets(None);
    let mut state = device.state_mut();
    let peers: Vec<_> = state.peers().cloned().collect();
    for peer in peers {
        state.forget_keys(&peer);
        peer.timers.stop();
        let dropped = peer.staged.clear();
        peer.events.note_many(Event::StagedDropped(Reason::LinkDown), dropped, About::Nothing);
        peer.last_sent.store(0, Relaxed);
    }
}
