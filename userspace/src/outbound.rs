//! The sending thread: it reads packets from the TUN device, encrypts them and sends them to the peers.

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

/// A batch is sent once it has this many bytes, while it is in the cache.
const BATCH_BYTES: usize = 48 << 10;
const BATCH_PACKETS: usize = 128;
/// The most batches before the thread checks whether it was woken.
const MAX_BATCHES: usize = 64;
/// Room for a batch and one more packet of the largest size, split into the smallest segments.
const BUFFER_BYTES: usize = 256 << 10;

/// A peer with its endpoint and session, looked up once for consecutive packets to one destination.
struct Route {
    destination: Address,
    peer: Arc<Peer>,
    endpoint: Endpoint,
    session: Option<Arc<Session>>,
}

/// The device with its state and sockets, which do not change during a batch.
#[derive(Clone, Copy)]
struct Batch<'a> {
    device: &'a Device,
    state: &'a State,
    sockets: &'a Sockets,
}

/// The buffers of the thread, allocated once.
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

    /// Runs until the link is gone.
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

    /// Reads and sends up to `MAX_BATCHES` batches. It is not inlined, so that `run` can wipe its stack frames.
    #[inline(never)]
    fn batches(&mut self, device: &Device) -> io::Result<()> {
        for _ in 0..MAX_BATCHES {
            let first = match device.tun.read(&mut self.read) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            };
            let Some(sockets) = device.sockets().or_else(|| {
                // A packet shows that the link is up, even if the notification has not arrived yet.
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

    /// Fills a batch until it is full (true) or no packet is left (false). Packets without a peer count too, because a thread
    /// that waits for the write lock gets it only after the batch.
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

    /// Answers a packet without a peer with an ICMP error.
    fn refuse(&mut self, device: &Device, packet: &[u8], now: u64) {
        if self.icmp.allows(now)
            && let Some(answer) = icmp::unreachable(packet)
        {
            let header = VnetHeader::default().bytes();
            let _ = device.tun.write(&[io::IoSlice::new(&header), io::IoSlice::new(&answer)]);
        }
    }

    /// Splits a large packet and adds its packets to the batch. They are encrypted sixteen at a time.
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

    /// Adds a packet to the last run if the kernel can send both as one.
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

    /// Encrypts the rest of the batch and sends all of it.
    fn flush(&mut self, Batch { device, state, sockets }: Batch<'_>) {
        let now = sys::now_ms();
        // The timers are updated before the send, so that an immediate answer updates them afterwards.
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

/// Stages the packets until a handshake creates a session.
fn stage(device: &Device, peer: &Arc<Peer>, splitter: &mut Splitter<'_>) {
    while let Some(len) = splitter.next_len() {
        let mut packet = vec![0; len].into_boxed_slice();
        splitter.write(&mut packet);
        if peer.staged.push(packet) {
            peer.events.note(Event::StagedDropped(Reason::Overflow), About::Nothing);
        }
    }
    // A session may exist by now.
    exchange::send_staged(device, peer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tun::{Link, Offloads, Tun};
    use crate::udp::binder::Binder;
    use std::fs::File;

    /// A device with a TUN device that always has another packet, but none for a peer.
    fn endless() -> Device {
        let tun = Tun::new(File::open("/dev/zero").unwrap().into(), Offloads { tcp: false, udp: false });
        let binder = Binder::start(256 << 10).unwrap();
        let device = Device::new("test".to_owned(), tun, Link::new("lo").unwrap(), binder).unwrap();
        device.set_sockets(Some(Sockets::bind(0, 0).unwrap()));
        device
    }

    #[test]
    fn endless_packets_without_a_peer_block_nothing() {
        let device = Arc::new(endless());
        let mut outbound = Outbound::new(device.clone());
        let (state, sockets) = (device.state(), device.sockets().unwrap());
        let batch = Batch { device: &device, state: &state, sockets: &sockets };
        assert!(outbound.fill(batch, 0).unwrap(), "the batch is full");
        drop(state);
        outbound.batches(&device).unwrap();
    }
}
