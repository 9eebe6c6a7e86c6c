//! The receiving thread: it reads from the UDP sockets, decrypts packets and writes them to the TUN device.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::aead::{MANY, Message};
use crate::device::{Device, Incoming, Indexed, State, Task};
use crate::diagnostics::{About, Event};
use crate::exchange;
use crate::headers::Header;
use crate::locks::{read, write};
use crate::noise::message::{self, DATA_HEADER_LEN, INITIATION_LEN, TAG_LEN};
use crate::noise::session::{Opened, Role, Session};
use crate::packet::{self, Address, ECN_CE};
use crate::peer::Peer;
use crate::sys::{self, poll, pollfd};
use crate::tun::coalesce::Coalescer;
use crate::udp::receive::{Arrival, Receiver};
use crate::udp::{Endpoint, Sockets};
use crate::wipe;

/// The most batches that are read from one socket before the other socket and the waker are checked.
const MAX_BATCHES: usize = 64;

/// Packets are written to the TUN device once they have this many bytes, while they are in the cache. A large packet holds
/// at most 64 KiB anyway.
const FLUSH_BYTES: usize = 48 << 10;

/// A session that is looked up once for consecutive packets. It is not kept longer than the read lock of the state.
struct Known<'a> {
    index: u32,
    peer: &'a Arc<Peer>,
    session: &'a Arc<Session>,
    /// Whether the session is already confirmed in the peer's sessions.
    confirmed: bool,
    /// What was received since the peer's counters and timers were last updated: the bytes of the accepted messages, whether
    /// there was a message with a packet, and whether there was any message.
    bytes: usize,
    data: bool,
    any: bool,
}

pub(crate) struct Inbound {
    device: Arc<Device>,
    receiver: Receiver,
    coalescer: Coalescer,
    arrivals: Vec<Arrival>,
    /// The data messages of the current session that are not yet decrypted, and the index of the arrival of each.
    sealed: Vec<Message>,
    carriers: Vec<usize>,
    /// The handshake messages of a batch.
    handshakes: Vec<Incoming>,
}

impl Inbound {
    pub(crate) fn new(device: Arc<Device>) -> Self {
        let coalescer = Coalescer::new(device.tun.offloads);
        Self {
            device,
            receiver: Receiver::default(),
            coalescer,
            arrivals: Vec::new(),
            sealed: Vec::with_capacity(MANY),
            carriers: Vec::with_capacity(MANY),
            handshakes: Vec::new(),
        }
    }

    /// Runs until the process ends.
    pub(crate) fn run(mut self) {
        let device = self.device.clone();
        loop {
            device.inbound.clear();
            wipe::stack();
            let sockets = device.sockets();
            let mut waiting = vec![pollfd(&device.inbound, libc::POLLIN)];
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

    /// Reads and decrypts what has arrived. It is not inlined, so that `run` can wipe its stack frames.
    #[inline(never)]
    fn drain(&mut self, sockets: &Sockets, waiting: &[libc::pollfd]) {
        for (fd, _) in sockets.each().zip(waiting).filter(|(_, waited)| waited.revents != 0) {
            // The number of batches is limited, so that the other socket and a change of sockets are noticed.
            for _ in 0..MAX_BATCHES {
                if self.batch(fd).is_err() {
                    break;
                }
            }
        }
    }

    /// Reads, decrypts and writes one batch.
    fn batch(&mut self, fd: &OwnedFd) -> io::Result<()> {
        let count = self.receiver.receive(fd)?;
        let device = self.device.clone();
        let state = device.state();
        let (mut known, now) = (None, sys::now_ms());
        self.arrivals.clear();
        self.arrivals.extend((0..count).filter_map(|slot| self.receiver.arrival(slot)));
        for carrier in 0..self.arrivals.len() {
            self.arrival(&device, &state, carrier, &mut known, now);
            if self.coalescer.bytes() >= FLUSH_BYTES {
                self.flush(&device);
            }
        }
        self.open(&device, &state, known.as_mut());
        settle(&device, known.as_mut(), now);
        drop(state);
        device.push_messages(&mut self.handshakes);
        self.flush(&device);
        Ok(())
    }

    fn flush(&mut self, device: &Device) {
        // If the kernel rejects a packet, it is lost: the link is down or the packet is not IP.
        self.coalescer.flush(&mut self.receiver.buffer, |pieces| device.tun.write(pieces));
    }

    /// Sorts the messages of one arrival into data messages and handshake messages.
    fn arrival<'a>(
        &mut self,
        device: &Device,
        state: &'a State,
        carrier: usize,
        known: &mut Option<Known<'a>>,
        now: u64,
    ) {
        let arrival = self.arrivals[carrier];
        let mut at = arrival.at;
        let end = arrival.at + arrival.len;
        while at < end {
            let len = arrival.segment.min(end - at);
            let message = &self.receiver.buffer[at..at + len];
            match message::kind(message) {
                None => device.events.note(Event::Malformed, About::From(arrival.from)),
                Some(message::DATA) => {
                    let header = message::Data::at(message, 0);
                    let (index, counter) = (header.start.index.get(), header.counter.get());
                    if known.as_ref().is_none_or(|known| known.index != index) {
                        self.open(device, state, known.as_mut());
                        settle(device, known.as_mut(), now);
                        *known = look_up(device, state, index, arrival.from, now);
                    }
                    if known.is_some() {
                        let len = len - DATA_HEADER_LEN - TAG_LEN;
                        self.sealed.push(Message { at: at + DATA_HEADER_LEN, len, counter });
                        self.carriers.push(carrier);
                    }
                    if self.sealed.len() == MANY {
                        self.open(device, state, known.as_mut());
                    }
                }
                Some(_) => {
                    let mut bytes = [0; INITIATION_LEN];
                    bytes[..len].copy_from_slice(message);
                    let from = origin(device, &arrival);
                    self.handshakes.push(Incoming { bytes, len, from });
                }
            }
            at += len;
        }
    }

    /// Decrypts the collected messages and keeps the packets with a source that the peer may use.
    fn open(&mut self, device: &Device, state: &State, known: Option<&mut Known<'_>>) {
        let Some(known) = known.filter(|_| !self.sealed.is_empty()) else {
            return;
        };
        let Opened { authentic, accepted } = known.session.open(&mut self.receiver.buffer, &self.sealed);
        if !accepted.is_empty() && !known.confirmed {
            confirm(device, known);
        }
        let mut roamed = None;
        for (index, (message, &carrier)) in self.sealed.iter().zip(&self.carriers).enumerate() {
            let arrival = &self.arrivals[carrier];
            if !accepted.contains(index) {
                let event = if authentic.contains(index) { Event::Replayed } else { Event::Undecryptable };
                known.peer.events.note(event, About::From(arrival.from));
                continue;
            }
            if roamed != Some(carrier) {
                exchange::roam(device, state, known.peer, origin(device, arrival));
                roamed = Some(carrier);
            }
            known.any = true;
            known.bytes += DATA_HEADER_LEN + message.len + TAG_LEN;
            if message.len > 0 {
                known.data = true;
                let padded = &mut self.receiver.buffer[message.at..message.at + message.len];
                if let Some(len) = admit(state, known, padded, arrival) {
                    self.coalescer.add(&self.receiver.buffer, message.at, len);
                }
            }
        }
        self.sealed.clear();
        self.carriers.clear();
    }
}

/// The endpoint that an arrival came from.
fn origin(device: &Device, arrival: &Arrival) -> Endpoint {
    Endpoint { address: arrival.from, source: arrival.to, generation: device.route_changes.load(Relaxed) }
}

/// The session of an index, if it still accepts packets.
fn look_up<'a>(
    device: &Device,
    state: &'a State,
    index: u32,
    from: SocketAddr,
    now: u64,
) -> Option<Known<'a>> {
    let Some(Indexed::Session(peer, session)) = state.indexed(index) else {
        device.events.note(Event::UnknownIndex, About::From(from));
        return None;
    };
    if !session.can_receive(now) {
        peer.events.note(Event::SessionExpired, About::From(from));
        return None;
    }
    let confirmed = session.role == Role::Initiator;
    Some(Known { index, peer, session, confirmed, bytes: 0, data: false, any: false })
}

/// Handles the first packet of a session that the peer initiated: from now on we also send with it.
fn confirm(device: &Device, known: &mut Known<'_>) {
    known.confirmed = true;
    let keypairs = read(&known.peer.keypairs);
    if !keypairs.is_next(known.session) {
        return;
    }
    drop(keypairs);
    let forgotten = write(&known.peer.keypairs).confirm(known.session);
    if let Some(forgotten) = forgotten {
        if !forgotten.is_empty() {
            device.inbox.push_task(Task::Forget(forgotten));
        }
        known.peer.handshake_complete();
        if !known.peer.staged.is_empty() {
            exchange::send_staged(device, known.peer);
        }
    }
}

/// Updates the counters and timers with what was received since the last update.
fn settle(device: &Device, known: Option<&mut Known<'_>>, now: u64) {
    let Some(known) = known.filter(|k| k.any) else {
        return;
    };
    known.peer.count_received(known.bytes);
    known.peer.note_received(known.data, now, &device.inbox.alarm);
    if known.session.wants_last_minute_rekey(now) && known.peer.timers.take_last_minute() {
        exchange::want_handshake(device, known.peer, now);
    }
    (known.bytes, known.data, known.any) = (0, false, false);
}

/// The length of a packet without its padding, if the peer may send from its source address.
#[inline]
fn admit(state: &State, known: &Known<'_>, padded: &mut [u8], arrival: &Arrival) -> Option<usize> {
    let refuse = |event, source| {
        known.peer.events.note(event, About::Source { from: arrival.from, source });
        None
    };
    let (Some(len), Some(source)) = (packet::claimed_len(padded), packet::source(padded)) else {
        return refuse(Event::InnerMalformed, None);
    };
    let slot = match source {
        Address::V4(address) => state.allowed_ips.lookup_v4(address),
        Address::V6(address) => state.allowed_ips.lookup_v6(address),
    };
    if slot != known.peer.slot {
        return refuse(Event::SourceNotAllowed, Some(source));
    }
    if arrival.ecn == ECN_CE {
        packet::mark_congestion(padded);
    }
    Some(len)
}
