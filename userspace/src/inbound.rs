//! The thread that receives from the peers, opens their packets and hands them to the TUN device.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use crate::device::{Device, Incoming, Indexed, State, Task};
use crate::noise::message::{self, DATA_HEADER_LEN, INITIATION_LEN};
use crate::noise::session::Session;
use crate::packet::{self, Address, ECN_CE};
use crate::peer::Peer;
use crate::sys::{self, poll, pollfd};
use crate::tun::coalesce::Coalescer;
use crate::udp::receive::{Arrival, Receiver};
use crate::udp::{Endpoint, Sockets};

/// How many batches are read from one socket before anything else is looked at.
const MAX_BATCHES: usize = 64;

/// So much is handed on while it still is in the cache: more would not fit into one packet anyway.
const FLUSH_BYTES: usize = 48 << 10;

/// A session looked up once for a stretch of packets.
struct Known {
    index: u32,
    peer: Arc<Peer>,
    session: Arc<Session>,
    /// Whether the peer's sessions know that this one is in use by both ends.
    confirmed: bool,
    /// What was received since the peer's counters and timers were told.
    bytes: usize,
    data: bool,
    any: bool,
}

pub struct Inbound {
    device: Arc<Device>,
    receiver: Receiver,
    coalescer: Coalescer,
    /// The handshake messages of a batch.
    handshakes: Vec<Incoming>,
}

impl Inbound {
    pub fn new(device: Arc<Device>) -> Self {
        let coalescer = Coalescer::new(device.tun.offloads);
        Self { device, receiver: Receiver::default(), coalescer, handshakes: Vec::new() }
    }

    /// Works for as long as the process does.
    pub fn run(mut self) {
        let device = self.device.clone();
        loop {
            device.sockets_changed.clear();
            let sockets = device.sockets();
            let mut waiting = vec![pollfd(&device.sockets_changed, libc::POLLIN)];
            if let Some(sockets) = &sockets {
                waiting.extend(sockets.each().map(|fd| pollfd(fd, libc::POLLIN)));
            }
            while waiting[0].revents == 0 {
                if poll(&mut waiting, None).is_err() {
                    break;
                }
                if let Some(sockets) = sockets.as_deref() {
                    self.drain(sockets, &waiting[1..]);
                }
            }
        }
    }

    fn drain(&mut self, sockets: &Sockets, waiting: &[libc::pollfd]) {
        for (fd, _) in sockets.each().zip(waiting).filter(|(_, waited)| waited.revents != 0) {
            // Not for ever: the other socket and the sockets' change have their turn too.
            for _ in 0..MAX_BATCHES {
                if self.batch(fd).is_err() {
                    break;
                }
            }
        }
    }

    /// Reads and hands on one batch.
    fn batch(&mut self, fd: &OwnedFd) -> io::Result<()> {
        let count = self.receiver.receive(fd)?;
        let device = self.device.clone();
        let state = device.state();
        let (mut known, now) = (None, sys::now_ms());
        for slot in 0..count {
            if let Some(arrival) = self.receiver.arrival(slot) {
                self.arrival(&device, &state, &arrival, &mut known, now);
            }
            if self.coalescer.bytes() >= FLUSH_BYTES {
                self.flush(&device);
            }
        }
        settle(&device, known.as_mut(), now);
        drop(state);
        device.push_messages(&mut self.handshakes);
        self.flush(&device);
        Ok(())
    }

    fn flush(&mut self, device: &Device) {
        self.coalescer.flush(&mut self.receiver.buffer, |pieces| {
            // The kernel's refusal is a packet lost: the link is down, or the packet is none of IP.
            let _ = device.tun.write(pieces);
        });
    }

    fn arrival(
        &mut self,
        device: &Device,
        state: &State,
        arrival: &Arrival,
        known: &mut Option<Known>,
        now: u64,
    ) {
        let from =
            Endpoint { address: arrival.from, source: arrival.to, generation: device.routes.load(Relaxed) };
        let mut roamed = None;
        let mut at = arrival.at;
        let end = arrival.at + arrival.len;
        while at < end {
            let len = arrival.segment.min(end - at);
            let packet_at = at + DATA_HEADER_LEN;
            let message = &mut self.receiver.buffer[at..at + len];
            at += len;
            match message::kind(message) {
                None => (),
                Some(message::DATA) => {
                    let Some(known) = look_up(device, state, known, message::u32_at(message, 4), now) else {
                        continue;
                    };
                    let Some(packet_len) = open(device, known, message, now) else {
                        continue;
                    };
                    if roamed != Some(known.index) {
                        known.peer.roam(from);
                        roamed = Some(known.index);
                    }
                    known.any = true;
                    known.bytes += len;
                    if packet_len > 0 {
                        known.data = true;
                        let padded = &mut message[DATA_HEADER_LEN..DATA_HEADER_LEN + packet_len];
                        if let Some(len) = admit(state, known, padded, arrival.ecn) {
                            self.coalescer.add(&self.receiver.buffer, packet_at, len);
                        }
                    }
                }
                Some(_) => {
                    let mut bytes = [0; INITIATION_LEN];
                    bytes[..len].copy_from_slice(message);
                    self.handshakes.push(Incoming { bytes, len, from });
                }
            }
        }
    }
}

/// The session of an index, which mostly is the one before.
fn look_up<'a>(
    device: &Device,
    state: &State,
    known: &'a mut Option<Known>,
    index: u32,
    now: u64,
) -> Option<&'a mut Known> {
    if known.as_ref().is_none_or(|k| k.index != index) {
        settle(device, known.as_mut(), now);
        *known = None;
        let Indexed::Session(peer, session) = state.indexed(index)? else {
            return None;
        };
        *known = Some(Known {
            index,
            peer: peer.clone(),
            session: session.clone(),
            confirmed: session.initiator,
            bytes: 0,
            data: false,
            any: false,
        });
    }
    known.as_mut()
}

fn open(device: &Device, known: &mut Known, message: &mut [u8], now: u64) -> Option<usize> {
    if !known.session.can_receive(now) {
        return None;
    }
    let len = known.session.open(message)?;
    if !known.confirmed {
        confirm(device, known);
    }
    Some(len)
}

/// The first packet of a session that the peer began: from now on we send with it too.
fn confirm(device: &Device, known: &mut Known) {
    known.confirmed = true;
    let keypairs = known.peer.keypairs.read().unwrap_or_else(PoisonError::into_inner);
    if !keypairs.is_next(&known.session) {
        return;
    }
    drop(keypairs);
    let forgotten =
        known.peer.keypairs.write().unwrap_or_else(PoisonError::into_inner).confirm(&known.session);
    if let Some(forgotten) = forgotten {
        if !forgotten.is_empty() {
            device.push(Task::Forget(forgotten));
        }
        known.peer.handshake_complete();
        if known.peer.has_staged() {
            device.send_staged(&known.peer);
        }
    }
}

/// Tells counters and timers what has come since they were last told.
fn settle(device: &Device, known: Option<&mut Known>, now: u64) {
    let Some(known) = known.filter(|k| k.any) else {
        return;
    };
    known.peer.count_received(known.bytes);
    known.peer.note_received(known.data, now, &device.alarm);
    if known.session.wants_last_minute_rekey(now) && known.peer.timers.take_last_minute() {
        device.want_handshake(&known.peer, now);
    }
    (known.bytes, known.data, known.any) = (0, false, false);
}

/// The length of a packet, without its padding, if it is the peer's to send.
#[inline]
fn admit(state: &State, known: &Known, padded: &mut [u8], outer_ecn: u8) -> Option<usize> {
    let len = packet::claimed_len(padded)?;
    let slot = match packet::source(padded)? {
        Address::V4(address) => state.allowed_ips.lookup_v4(address),
        Address::V6(address) => state.allowed_ips.lookup_v6(address),
    };
    if slot != known.peer.slot {
        return None;
    }
    if outer_ecn == ECN_CE {
        packet::mark_congestion(padded);
    }
    Some(len)
}
