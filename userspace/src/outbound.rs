//! The thread that takes packets from the TUN device, seals them and sends them to the peers.

mod frames;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::allowed_ips::NONE;
use crate::device::{Device, State, Task};
use crate::diagnostics::{About, Event, Reason};
use crate::exchange::{self, padded};
use crate::icmp;
use crate::lifecycle;
use crate::noise::session::Session;
use crate::packet::{self, Address};
use crate::peer::Peer;
use crate::sys::{self, poll, pollfd};
use crate::tun::split::Splitter;
use crate::tun::{MAX_PACKET, VNET_LEN, VnetHeader};
use crate::udp::send::{MAX_BYTES, MAX_SEGMENTS, Run, Sender, Trouble};
use crate::udp::{Endpoint, Sockets};
use crate::wipe;
use frames::Frames;

/// When this much is sealed it is sent, so that the batch still is in the cache.
const BATCH_BYTES: usize = 48 << 10;
const BATCH_PACKETS: usize = 128;
/// After so many batches the thread looks whether it was woken.
const MAX_BATCHES: usize = 64;
/// A batch and the largest packet that may come on top of it, split into the smallest segments.
const BUFFER_BYTES: usize = 256 << 10;

/// A peer and what sending to it takes, looked up once for a stretch of packets.
struct Route {
    destination: Address,
    peer: Arc<Peer>,
    endpoint: Endpoint,
    session: Option<Arc<Session>>,
}

/// The device with its state and sockets, as they are for the whole of a batch.
#[derive(Clone, Copy)]
struct Batch<'a> {
    device: &'a Device,
    state: &'a State,
    sockets: &'a Sockets,
}

/// Everything that the thread works with, made once.
pub(crate) struct Outbound {
    device: Arc<Device>,
    read: Box<[u8]>,
    frames: Frames,
    packets: usize,
    runs: Vec<Run>,
    sender: Sender,
    icmp: icmp::Limit,
}

impl Outbound {
    pub(crate) fn new(device: Arc<Device>) -> Self {
        Self {
            device,
            read: vec![0; MAX_PACKET].into(),
            frames: Frames::new(BUFFER_BYTES),
            packets: 0,
            runs: Vec::with_capacity(BATCH_PACKETS),
            sender: Sender::default(),
            icmp: icmp::Limit::default(),
        }
    }

    /// Works until the link is gone.
    pub(crate) fn run(mut self) {
        let device = self.device.clone();
        loop {
            let mut waiting = [pollfd(&device.tun, libc::POLLIN), pollfd(&device.outbound, libc::POLLIN)];
            if poll(&mut waiting, None).is_err() {
                continue;
            }
            if waiting[1].revents != 0 {
                device.outbound.clear();
                wipe::stack();
            }
            match self.batches(&device) {
                Err(e) if e.raw_os_error() == Some(libc::EBADFD) => {
                    return device.inbox.push_task(Task::CheckLink);
                }
                _ => (),
            }
        }
    }

    /// Sends what is there to be read, in some batches at most; in frames of its own, which `run` wipes.
    #[inline(never)]
    fn batches(&mut self, device: &Device) -> io::Result<()> {
        for _ in 0..MAX_BATCHES {
            let first = match device.tun.read(&mut self.read) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            };
            let Some(sockets) = device.sockets().or_else(|| {
                // A packet comes from a link that is up, though the notice of it is still under way.
                lifecycle::sync_link(device);
                device.sockets()
            }) else {
                continue;
            };
            let state = device.state();
            let batch = Batch { device, state: &state, sockets: &sockets };
            let more = self.fill(batch, first);
            self.flush(batch);
            drop(state);
            if !more? {
                break;
            }
        }
        Ok(())
    }

    /// Seals packets until the batch is full (true) or no more are there. Packets that nobody takes count too: whoever
    /// waits to change the state has its turn after the batch.
    fn fill(&mut self, batch: Batch<'_>, first: usize) -> io::Result<bool> {
        let (mut len, mut route, now) = (first, None, sys::now_ms());
        for read in 1.. {
            self.packet(batch, len, &mut route, now);
            if self.frames.used() >= BATCH_BYTES || self.packets.max(read) >= BATCH_PACKETS {
                break;
            }
            len = match batch.device.tun.read(&mut self.read) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                other => other?,
            };
        }
        Ok(true)
    }

    fn packet(&mut self, batch: Batch<'_>, len: usize, cached: &mut Option<Route>, now: u64) {
        let device = batch.device;
        let read = std::mem::take(&mut self.read);
        if let Some((header, packet)) = read[..len].split_first_chunk::<VNET_LEN>()
            && let Some(destination) = packet::destination(packet)
            && let Some(mut splitter) = Splitter::new(&VnetHeader::parse(header), packet)
        {
            if cached.as_ref().is_none_or(|route| route.destination != destination) {
                *cached = find_route(device, batch.state, destination, now);
            }
            match cached {
                None => self.refuse(device, packet, now),
                Some(Route { session: None, peer, .. }) => stage(device, peer, &mut splitter),
                Some(Route { session: Some(session), peer, endpoint, .. }) => {
                    self.write(batch, session, peer, endpoint, &mut splitter);
                    if session.wants_rekey(now) {
                        exchange::want_handshake(device, peer, now);
                    }
                }
            }
        }
        self.read = read;
    }

    /// Tells the sender that nobody takes the packet.
    fn refuse(&mut self, device: &Device, packet: &[u8], now: u64) {
        if self.icmp.allows(now)
            && let Some(answer) = icmp::unreachable(packet)
        {
            let header = VnetHeader::default().bytes();
            let _ = device.tun.write(&[io::IoSlice::new(&header), io::IoSlice::new(&answer)]);
        }
    }

    /// Writes out the packets that a large one consists of, to be sealed sixteen by sixteen.
    fn write(
        &mut self,
        batch: Batch<'_>,
        session: &Arc<Session>,
        peer: &Peer,
        endpoint: &Endpoint,
        splitter: &mut Splitter<'_>,
    ) {
        let mtu = batch.device.mtu.load(Relaxed) as usize;
        let ecn = splitter.outer_ecn();
        let mut sent = 0;
        while let Some(len) = splitter.next_len() {
            let padded = padded(len, mtu);
            if !self.frames.has_room(padded) {
                self.flush(batch);
            }
            let Some(frame) = self.frames.push(session, len, padded, |room| splitter.write(room)) else {
                break;
            };
            self.packets += 1;
            sent += frame.len;
            self.extend_run(
                batch.sockets,
                Run {
                    at: frame.at,
                    len: frame.len,
                    segment: frame.len,
                    endpoint: *endpoint,
                    peer: peer.slot,
                    ecn,
                },
            );
        }
        peer.count_sent(sent);
    }

    /// Adds a packet to the run before it, where the kernel can send them as one.
    fn extend_run(&mut self, sockets: &Sockets, packet: Run) {
        if let Some(run) = self.runs.last_mut() {
            let joins = sockets.segments()
                && run.peer == packet.peer
                && run.ecn == packet.ecn
                && packet.len <= run.segment
                && run.len % run.segment == 0
                && run.len + packet.len <= MAX_BYTES
                && run.len / run.segment < MAX_SEGMENTS;
            if joins {
                run.len += packet.len;
                return;
            }
        }
        self.runs.push(packet);
    }

    /// Seals the rest and sends all of it.
    fn flush(&mut self, Batch { device, state, sockets }: Batch<'_>) {
        let now = sys::now_ms();
        // Before they go: what comes back at once is noted later then, and not taken back by this.
        let mut last = NONE;
        for run in &self.runs {
            if run.peer != last
                && let Some(peer) = state.peer(run.peer)
            {
                peer.note_sent(true, now, &device.inbox.alarm);
                last = run.peer;
            }
        }
        self.sender.send(sockets, self.frames.sealed(), &self.runs, |run, trouble| {
            match (state.peer(run.peer), trouble) {
                (Some(peer), Trouble::Source) => peer.clear_source(),
                (Some(peer), Trouble::Lost { packets, errno }) => {
                    peer.events.note_many(Event::SendError(errno), packets, About::To(run.endpoint.address));
                }
                (None, _) => (),
            }
        });
        self.runs.clear();
        self.frames.clear();
        self.packets = 0;
    }
}

fn find_route(device: &Device, state: &State, destination: Address, now: u64) -> Option<Route> {
    let slot = match destination {
        Address::V4(address) => state.allowed_ips.lookup_v4(address),
        Address::V6(address) => state.allowed_ips.lookup_v6(address),
    };
    let Some(peer) = state.peer(slot).cloned() else {
        // The host itself sends to groups on every link.
        if !destination.ip().is_multicast() {
            device.events.note(Event::NoPeer, About::Destination(destination));
        }
        return None;
    };
    let Some(endpoint) = exchange::endpoint_of(device, &peer) else {
        peer.events.note(Event::NoEndpoint, About::Destination(destination));
        return None;
    };
    let session = peer.sending_session(now);
    if session.is_some() && !peer.staged.is_empty() {
        exchange::send_staged(device, &peer);
    }
    Some(Route { destination, peer, endpoint, session })
}

/// Keeps the packets for the session that a handshake will bring.
fn stage(device: &Device, peer: &Arc<Peer>, splitter: &mut Splitter<'_>) {
    while let Some(len) = splitter.next_len() {
        let mut packet = vec![0; len].into_boxed_slice();
        splitter.write(&mut packet);
        if peer.staged.push(packet) {
            peer.events.note(Event::StagedDropped(Reason::Overflow), About::Nothing);
        }
    }
    // There may be a session by now.
    exchange::send_staged(device, peer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tun::{Link, Offloads, Tun};
    use crate::udp::binder::Binder;
    use std::fs::File;

    /// A link that has a next packet at any time, none of them for a peer.
    fn endless() -> Device {
        let tun = Tun::new(File::open("/dev/zero").unwrap().into(), Offloads { tcp: false, udp: false });
        let binder = Binder::start(256 << 10).unwrap();
        let device = Device::new("test".to_owned(), tun, Link::new("lo").unwrap(), binder).unwrap();
        device.set_sockets(Some(Sockets::bind(0, 0).unwrap()));
        device
    }

    #[test]
    fn packets_without_end_that_nobody_takes_lock_neither_the_state_nor_the_thread() {
        let device = Arc::new(endless());
        let mut outbound = Outbound::new(device.clone());
        let (state, sockets) = (device.state(), device.sockets().unwrap());
        let batch = Batch { device: &device, state: &state, sockets: &sockets };
        assert!(outbound.fill(batch, 0).unwrap(), "the batch is full");
        drop(state);
        outbound.batches(&device).unwrap();
    }
}
