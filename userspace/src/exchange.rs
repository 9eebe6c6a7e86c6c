//! Handshakes, roaming and timers, and the packets sent outside the bulk path: initiations, responses, keepalives and
//! staged packets.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::aead::Message;
use crate::device::{Device, Identity, Incoming, Indexed, State, Task};
use crate::diagnostics::{About, Event, Reason};
use crate::headers::Header;
use crate::locks::{lock, write};
use crate::log;
use crate::noise::cookie::Proof;
use crate::noise::handshake;
use crate::noise::limits::{INITIATION_INTERVAL_MS, MAX_HANDSHAKE_ATTEMPTS, REKEY_TIMEOUT_MS};
use crate::noise::message::{self, DATA_HEADER_LEN, TAG_LEN};
use crate::noise::session::{Indexes, Role, Session};
use crate::packet;
use crate::peer::Peer;
use crate::sys;
use crate::timers::Due;
use crate::udp::{Endpoint, Source, send};
use crate::wipe;

/// The DS field of handshake messages: AF41, as in the kernel.
pub(crate) const HANDSHAKE_TOS: u8 = 0x88;

/// The length that a packet is padded to: a multiple of sixteen, but at most the MTU.
#[inline]
pub(crate) fn padded(len: usize, mtu: usize) -> usize {
    len.next_multiple_of(16).min(mtu.max(len))
}

fn install(state: &mut State, peer: &Arc<Peer>, session: Arc<Session>) {
    state.set_index(session.indexes.local, Indexed::Session(peer.clone(), session.clone()));
    let forgotten = write(&peer.keypairs).add(session);
    state.forget(&forgotten);
}

/// The endpoint of a peer. If routes or addresses have changed since its source address was learned, the source is checked
/// and kept only if it is still valid.
pub(crate) fn endpoint_of(device: &Device, peer: &Peer) -> Option<Endpoint> {
    let endpoint = peer.endpoint()?;
    let generation = device.route_changes.load(Relaxed);
    if endpoint.generation == generation || endpoint.source == Source::Unknown {
        return Some(endpoint);
    }
    let is_valid = device.routes.keep_source(&endpoint, device.fwmark.load(Relaxed));
    let source = if is_valid { endpoint.source } else { Source::Unknown };
    let renewed = Endpoint { source, generation, ..endpoint };
    peer.renew(&endpoint, renewed);
    Some(renewed)
}

/// Sets the endpoint of a peer to the source of an authenticated packet, unless packets to that address would be routed
/// into the tunnel to the same peer. This happens when a host loses its outer address and sends from its tunnel address.
/// With such an endpoint each packet would be encrypted again and again and never leave.
pub(crate) fn roam(device: &Device, state: &State, peer: &Peer, arrived: Endpoint) {
    let known = peer.endpoint();
    let is_elsewhere = known.is_none_or(|known| known.address.ip() != arrived.address.ip());
    if known == Some(arrived) {
        return;
    }
    if is_elsewhere && leads_into_tunnel(device, state, peer, arrived.address.ip()) {
        return peer.events.note(Event::RoamRefused, About::To(arrived.address));
    }
    if let Some(known) = known.filter(|known| known.address != arrived.address) {
        peer.events.note(Event::Roamed, About::Moved { from: known.address, to: arrived.address });
    }
    peer.roam(arrived);
}

fn leads_into_tunnel(device: &Device, state: &State, peer: &Peer, address: IpAddr) -> bool {
    let slot = match address {
        IpAddr::V4(address) => state.allowed_ips.lookup_v4(address.octets()),
        IpAddr::V6(address) => state.allowed_ips.lookup_v6(address.octets()),
    };
    let link = device.link_index.load(Relaxed);
    slot == peer.slot && link != 0 && device.routes.leave_by(address, link, device.fwmark.load(Relaxed))
}

/// Sends bytes to the endpoint of a peer, if it is known. Returns the address after a successful send.
fn transmit(device: &Device, peer: &Peer, bytes: &[u8], tos: u8) -> Option<SocketAddr> {
    let (sockets, endpoint) = (device.sockets()?, endpoint_of(device, peer)?);
    match send::send_one(&sockets, bytes, &endpoint, tos) {
        Ok(source_failed) => {
            peer.count_sent(bytes.len());
            if source_failed {
                peer.clear_source();
            }
            Some(endpoint.address)
        }
        Err(e) => {
            peer.events.note(Event::send_error(&e), About::To(endpoint.address));
            log::verbose(format_args!("peer {:?}: cannot send to {}: {e}", peer.key, endpoint.address));
            None
        }
    }
}

/// Requests a handshake, unless one has just been started (`wg_packet_send_queued_handshake_initiation`).
pub(crate) fn want_handshake(device: &Device, peer: &Arc<Peer>, now: u64) {
    peer.attempts.store(0, Relaxed);
    queue_handshake(device, peer, now);
}

fn queue_handshake(device: &Device, peer: &Arc<Peer>, now: u64) {
    if recently(peer, now) {
        postpone_handshake(device, peer);
    } else if !peer.handshake_wanted.swap(true, Relaxed) {
        device.inbox.push_task(Task::Initiate(peer.clone()));
    }
}

/// Starts the handshake once the last handshake message is old enough, unless another is due by then.
fn postpone_handshake(device: &Device, peer: &Peer) {
    peer.timers.handshake_postponed(peer.last_sent.load(Relaxed), &device.inbox.alarm);
}

/// Starts a handshake.
pub(crate) fn initiate(device: &Device, peer: &Arc<Peer>) {
    let now = sys::now_ms();
    peer.handshake_wanted.store(false, Relaxed);
    if !device.is_up() || peer.endpoint().is_none() {
        return;
    }
    if recently(peer, now) {
        return postpone_handshake(device, peer);
    }
    let Some(message) = new_initiation(device, peer, now) else {
        return;
    };
    log::verbose(format_args!("peer {:?}: sending a handshake initiation", peer.key));
    peer.last_sent.store(now, Relaxed);
    peer.note_sent(false, now, &device.inbox.alarm);
    if let Some(to) = transmit(device, peer, &message, HANDSHAKE_TOS) {
        peer.events.note(Event::InitiationSent, About::To(to));
    }
    peer.timers.handshake_initiated(now, &device.inbox.alarm);
}

fn new_initiation(device: &Device, peer: &Arc<Peer>, now: u64) -> Option<[u8; message::INITIATION_LEN]> {
    let mut state = device.state_mut();
    state.find(peer.key).filter(|found| Arc::ptr_eq(found, peer))?;
    let identity = state.identity.clone()?;
    let index = state.new_index();
    state.forget_handshake(peer);
    state.set_index(index, Indexed::Handshake(peer.clone()));
    drop(state);
    let mut handshake = lock(&peer.handshake);
    handshake.stamp = lock(&device.stamps).next(&handshake.stamp, handshake::timestamp());
    let begun = handshake::initiate(&identity.private, peer.key, &handshake.psk, index, &handshake.stamp);
    let Some((pending, mut message)) = begun else {
        drop(handshake);
        device.state_mut().forget(&vec![index]);
        return None;
    };
    handshake.pending = Some(pending);
    handshake.cookies.sign(&mut message, now);
    Some(message)
}

/// Handles a handshake message.
pub fn receive_handshake(device: &Device, incoming: &Incoming, under_load: bool) {
    let bytes = &incoming.bytes[..incoming.len];
    let from = About::From(incoming.from.address);
    let Some(identity) = device.state().identity.clone() else {
        return device.events.note(Event::NoPrivateKey, from);
    };
    let now = sys::now_ms();
    if bytes[0] == message::COOKIE_REPLY {
        return receive_cookie(device, bytes, from, now);
    }
    let proof = lock(&identity.checker).check(bytes, incoming.from.address, now);
    match proof {
        Proof::Invalid => return device.events.note(Event::Mac1Invalid, from),
        // Under load, `cookie_replies` has already answered senders without a cookie.
        Proof::Mac1 if under_load => return,
        Proof::Cookie if under_load && !allows_source(device, incoming, now) => {
            return device.events.note(Event::RateLimited, from);
        }
        Proof::Mac1 | Proof::Cookie => (),
    }
    let peer = match bytes[0] {
        message::INITIATION => receive_initiation(device, &identity, incoming, now),
        _ => receive_response(device, incoming, now),
    };
    if let Some(peer) = peer {
        peer.count_received(bytes.len());
        peer.note_received(false, now, &device.inbox.alarm);
    }
}

fn allows_source(device: &Device, incoming: &Incoming, now: u64) -> bool {
    lock(&device.handshake_sources).allows(incoming.from.address.ip(), now)
}

fn receive_cookie(device: &Device, bytes: &[u8], from: About, now: u64) {
    let state = device.state();
    let index = message::Start::at(bytes, 0).index.get();
    let Some(Indexed::Handshake(peer) | Indexed::Session(peer, _)) = state.indexed(index) else {
        return device.events.note(Event::CookieUnexpected, from);
    };
    if let Ok(reply) = bytes.try_into()
        && lock(&peer.handshake).cookies.receive(reply, now)
    {
        log::verbose(format_args!("peer {:?}: received a cookie", peer.key));
        peer.events.note(Event::CookieReceived, from);
    } else {
        peer.events.note(Event::CookieUndecryptable, from);
    }
}

fn receive_initiation(
    device: &Device,
    identity: &Identity,
    incoming: &Incoming,
    now: u64,
) -> Option<Arc<Peer>> {
    let from = incoming.from.address;
    let Some(received) = handshake::receive(&identity.private, &incoming.bytes[..incoming.len]) else {
        device.events.note(Event::InitiationUndecryptable, About::From(from));
        return None;
    };
    let Some(peer) = device.state().find(received.peer).cloned() else {
        device.events.note(Event::UnknownKey(received.peer), About::From(from));
        return None;
    };
    if let Err((reason, newest)) = accept_initiation(&peer, &received.timestamp, now) {
        peer.events.note(reason, About::Clock { from, stamp: received.timestamp, newest });
        return None;
    }
    peer.events.note(Event::InitiationReceived, About::From(from));
    log::verbose(format_args!("peer {:?}: received a handshake initiation", peer.key));
    let indexes = Indexes { local: device.state().new_index(), remote: received.remote_index };
    let mut handshake = lock(&peer.handshake);
    let (mut response, keys) = received.respond(&handshake.psk, indexes.local)?;
    handshake.cookies.sign(&mut response, now);
    drop(handshake);
    let mut state = device.state_mut();
    state.find(peer.key).filter(|found| Arc::ptr_eq(found, &peer))?;
    install(&mut state, &peer, Session::shared(&keys, indexes, Role::Responder, now));
    roam(device, &state, &peer, incoming.from);
    drop(state);
    peer.timers.session_derived(now, &device.inbox.alarm);
    peer.last_sent.store(now, Relaxed);
    peer.note_sent(false, now, &device.inbox.alarm);
    if let Some(to) = transmit(device, &peer, &response, HANDSHAKE_TOS) {
        peer.events.note(Event::ResponseSent, About::To(to));
    }
    Some(peer)
}

fn receive_response(device: &Device, incoming: &Incoming, now: u64) -> Option<Arc<Peer>> {
    let bytes = &incoming.bytes[..incoming.len];
    let index = message::Response::at(bytes, 0).receiver.get();
    let from = About::From(incoming.from.address);
    let Some(Indexed::Handshake(peer)) = device.state().indexed(index).cloned() else {
        device.events.note(Event::ResponseUnexpected, from);
        return None;
    };
    let (remote, keys) = {
        let mut handshake = lock(&peer.handshake);
        let pending = handshake.pending.as_mut().filter(|p| p.local_index == index)?;
        let Some(finished) = pending.finish(bytes) else {
            peer.events.note(Event::ResponseUndecryptable, from);
            return None;
        };
        handshake.pending = None;
        finished
    };
    let mut state = device.state_mut();
    state.find(peer.key).filter(|found| Arc::ptr_eq(found, &peer))?;
    let indexes = Indexes { local: index, remote };
    install(&mut state, &peer, Session::shared(&keys, indexes, Role::Initiator, now));
    roam(device, &state, &peer, incoming.from);
    drop(state);
    peer.events.note(Event::ResponseReceived, from);
    log::verbose(format_args!("peer {:?}: the handshake is complete", peer.key));
    peer.timers.session_derived(now, &device.inbox.alarm);
    peer.handshake_complete();
    peer.staged.push_keepalive();
    send_staged(device, &peer);
    Some(peer)
}

/// Sends the staged packets of a peer, or starts the handshake that they wait for.
pub(crate) fn send_staged(device: &Device, peer: &Arc<Peer>) {
    let now = sys::now_ms();
    let sent = peer.staged.send_with(
        || peer.sending_session(now),
        |session, packet| send_packet(device, peer, session, packet, now),
    );
    if sent.is_none_or(|session| session.wants_rekey(now)) {
        want_handshake(device, peer, now);
    }
}

/// Seals and sends one packet.
fn send_packet(device: &Device, peer: &Peer, session: &Session, packet: &[u8], now: u64) {
    let Some(counter) = session.reserve(1) else {
        return;
    };
    let len = padded(packet.len(), device.mtu.load(Relaxed) as usize);
    let message = Message { at: DATA_HEADER_LEN, len, counter };
    let mut frame = vec![0; DATA_HEADER_LEN + len + TAG_LEN];
    frame[DATA_HEADER_LEN..DATA_HEADER_LEN + packet.len()].copy_from_slice(packet);
    wipe::after(|| session.seal(&mut frame, &[message]));
    let ecn = if packet.is_empty() { 0 } else { packet::outer_ecn(packet) };
    peer.note_sent(!packet.is_empty(), now, &device.inbox.alarm);
    transmit(device, peer, &frame, ecn);
}

/// Runs the timers of a peer that are due.
pub(crate) fn run_timers(device: &Device, peer: &Arc<Peer>, now: u64) {
    for due in peer.timers.due(now) {
        match due {
            Due::RetryHandshake => retry_handshake(device, peer, now),
            Due::SendKeepalive => {
                send_keepalive(device, peer);
                peer.timers.keepalive_sent(now, &device.inbox.alarm);
            }
            Due::NewHandshake => {
                log::verbose(format_args!(
                    "peer {:?}: no answer for 15 seconds, starting a handshake",
                    peer.key
                ));
                peer.clear_source();
                want_handshake(device, peer, now);
            }
            Due::WipeKeys => device.state_mut().forget_keys(peer),
            Due::PersistentKeepalive => {
                if peer.keepalive_seconds.load(Relaxed) != 0 {
                    send_keepalive(device, peer);
                }
            }
        }
    }
}

pub(crate) fn send_keepalive(device: &Device, peer: &Arc<Peer>) {
    peer.staged.push_keepalive();
    send_staged(device, peer);
}

fn retry_handshake(device: &Device, peer: &Arc<Peer>, now: u64) {
    if has_fresh_session(peer, now) {
        return; // the peer completed a handshake while ours was postponed
    }
    if peer.attempts.load(Relaxed) > MAX_HANDSHAKE_ATTEMPTS {
        log::verbose(format_args!("peer {:?}: giving up the handshake after 90 seconds", peer.key));
        peer.events.note(Event::HandshakeGivenUp, About::Nothing);
        let dropped = peer.staged.clear();
        peer.events.note_many(Event::StagedDropped(Reason::HandshakeGivenUp), dropped, About::Nothing);
        peer.timers.handshake_failed(now, &device.inbox.alarm);
        return;
    }
    peer.attempts.fetch_add(1, Relaxed);
    peer.clear_source();
    queue_handshake(device, peer, now);
}

/// Whether the last handshake message is so recent that the next one must wait.
fn recently(peer: &Peer, now: u64) -> bool {
    let last = peer.last_sent.load(Relaxed);
    last != 0 && now.saturating_sub(last) < REKEY_TIMEOUT_MS
}

/// Whether there is a session to send with that needs no rekey, and no own handshake is pending.
fn has_fresh_session(peer: &Peer, now: u64) -> bool {
    lock(&peer.handshake).pending.is_none()
        && peer.sending_session(now).is_some_and(|session| !session.wants_rekey(now))
}

/// Records the time stamp of an initiation. If the initiation is a replay or exceeds the rate limit, returns that reason and
/// the newest time stamp accepted before.
fn accept_initiation(
    peer: &Peer,
    stamp: &handshake::Timestamp,
    now: u64,
) -> Result<(), (Event, handshake::Timestamp)> {
    let mut handshake = lock(&peer.handshake);
    let flooded =
        handshake.last_received != 0 && now.saturating_sub(handshake.last_received) < INITIATION_INTERVAL_MS;
    let reason = match (stamp.cmp(&handshake.newest), flooded) {
        (Ordering::Less, _) => Event::StaleTimestamp,
        (Ordering::Equal, _) => Event::InitiationReplayed,
        (Ordering::Greater, true) => Event::InitiationFlood,
        (Ordering::Greater, false) => {
            handshake.newest = *stamp;
            handshake.last_received = now;
            return Ok(());
        }
    };
    Err((reason, handshake.newest))
}
