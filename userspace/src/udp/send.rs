//! Sending: one system call for a batch, and one message per run of equal packets to a peer.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, OwnedFd};

use super::cmsg::{Control, to_sockaddr};
use super::{Endpoint, SOL_UDP, Sockets, Source};
use crate::sys::{check, check_len, setsockopt};

pub(crate) const UDP_SEGMENT: i32 = 103;
/// The most packets of one large send (`UDP_MAX_SEGMENTS`; 64 before Linux 6.9).
pub(crate) const MAX_SEGMENTS: usize = 64;
/// The most bytes of one large send, for either family.
pub(crate) const MAX_BYTES: usize = 65_000;
/// The most runs of packets per system call.
const MAX_MESSAGES: usize = 64;

/// Whether this kernel splits large sends (Linux 4.18).
pub(crate) fn can_segment(fd: &OwnedFd) -> bool {
    setsockopt(fd, SOL_UDP, UDP_SEGMENT, 0i32).is_ok()
}

/// Consecutive packets in a buffer, all of one size except for a shorter last one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) at: usize,
    pub(crate) len: usize,
    pub(crate) segment: usize,
    pub(crate) endpoint: Endpoint,
    /// The slot of the peer.
    pub(crate) peer: u32,
    pub(crate) ecn: u8,
}

/// Why a run was not sent as requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The source address is no longer valid.
    Source,
    /// The kernel refused this number of packets with this errno.
    Lost { packets: usize, errno: i32 },
}

impl Run {
    fn packets(&self) -> usize {
        self.len.div_ceil(self.segment)
    }

    fn is_large(&self) -> bool {
        self.len > self.segment
    }
}

/// The structures for `sendmmsg`, which are reused.
pub(crate) struct Sender {
    headers: Box<[libc::mmsghdr]>,
    pieces: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_in6]>,
    controls: Box<[Control]>,
}

// SAFETY: the pointers in it point to its own boxes and are rewritten before each call.
unsafe impl Send for Sender {}

impl Default for Sender {
    fn default() -> Self {
        // SAFETY: these kernel structures are valid as zeros.
        unsafe {
            Self {
                headers: vec![zeroed(); MAX_MESSAGES].into(),
                pieces: vec![zeroed(); MAX_MESSAGES].into(),
                names: vec![zeroed(); MAX_MESSAGES].into(),
                controls: vec![Control::new(); MAX_MESSAGES].into(),
            }
        }
    }
}

impl Sender {
    /// Sends all runs and reports those with trouble. Packets that cannot be sent are lost, as on any network.
    pub(crate) fn send(
        &mut self,
        sockets: &Sockets,
        buffer: &[u8],
        runs: &[Run],
        mut report: impl FnMut(&Run, Trouble),
    ) {
        for batch in runs.chunk_by(|a, b| a.endpoint.address.is_ipv4() == b.endpoint.address.is_ipv4()) {
            let fd = match sockets.of(&batch[0].endpoint.address) {
                Ok(fd) => fd,
                Err(e) => {
                    batch.iter().for_each(|run| report(run, lost(run.packets(), &e)));
                    continue;
                }
            };
            for batch in batch.chunks(MAX_MESSAGES) {
                self.batch(sockets, fd, buffer, batch, &mut report);
            }
        }
    }

    fn batch(
        &mut self,
        sockets: &Sockets,
        fd: &OwnedFd,
        buffer: &[u8],
        runs: &[Run],
        report: &mut impl FnMut(&Run, Trouble),
    ) {
        for (slot, run) in runs.iter().enumerate() {
            self.prepare(slot, buffer, run);
        }
        let mut sent = 0;
        while sent < runs.len() {
            let rest = &mut self.headers[sent..runs.len()];
            // SAFETY: `prepare` has pointed these headers to live structures and to bytes within `buffer`.
            let result = check(unsafe {
                libc::sendmmsg(fd.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, libc::MSG_DONTWAIT)
            });
            match result {
                Ok(count) => sent += count.max(1) as usize,
                Err(error) => {
                    retry(sockets, fd, buffer, &runs[sent], &error, report);
                    sent += 1;
                }
            }
        }
    }

    fn prepare(&mut self, slot: usize, buffer: &[u8], run: &Run) {
        let (name, name_len) = to_sockaddr(run.endpoint.address);
        self.names[slot] = name;
        let control = &mut self.controls[slot];
        control.clear();
        if run.is_large() {
            control.push(SOL_UDP, UDP_SEGMENT, &(run.segment as u16).to_ne_bytes());
        }
        fill(control, &run.endpoint, run.ecn);
        let bytes = &buffer[run.at..run.at + run.len];
        self.pieces[slot] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let header = &mut self.headers[slot].msg_hdr;
        header.msg_name = (&raw mut self.names[slot]).cast();
        header.msg_namelen = name_len;
        header.msg_iov = &raw mut self.pieces[slot];
        header.msg_iovlen = 1;
        header.msg_controllen = control.len() as _;
        header.msg_control = control.as_mut_ptr();
    }
}

fn fill(control: &mut Control, endpoint: &Endpoint, tos: u8) {
    control.push_source(endpoint.source);
    if tos != 0 {
        control.push_tos(endpoint.address.is_ipv4(), tos);
    }
}

/// The trouble of a number of packets that the kernel refused.
fn lost(packets: usize, error: &io::Error) -> Trouble {
    Trouble::Lost { packets, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

/// Retries a run that failed: sends its packets one by one, or from another address.
fn retry(
    sockets: &Sockets,
    fd: &OwnedFd,
    buffer: &[u8],
    run: &Run,
    error: &io::Error,
    report: &mut impl FnMut(&Run, Trouble),
) {
    let mut endpoint = run.endpoint;
    match error.raw_os_error() {
        // A device without checksum offload rejects every large send (before Linux 6.10).
        Some(libc::EIO) if run.is_large() => sockets.stop_segmenting(),
        // A packet exceeds the link's MTU: sent alone, it is fragmented. Or the source address is gone.
        Some(libc::EMSGSIZE) if run.is_large() => (),
        Some(libc::EINVAL) if run.is_large() || endpoint.source != Source::Unknown => (),
        // After a full queue, one retry is worthwhile. A packet lost then is a valid congestion signal.
        Some(libc::ENOBUFS | libc::EINTR) => (),
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) if endpoint.source != Source::Unknown => (),
        _ => return report(run, lost(run.packets(), error)),
    }
    for packet in buffer[run.at..run.at + run.len].chunks(run.segment) {
        let mut sent = send_packet(fd, packet, &endpoint, run.ecn);
        if let Err(error) = &sent
            && endpoint.source != Source::Unknown
            && matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENETUNREACH | libc::EHOSTUNREACH))
        {
            report(run, Trouble::Source);
            endpoint.source = Source::Unknown;
            sent = send_packet(fd, packet, &endpoint, run.ecn);
        }
        if let Err(error) = sent {
            report(run, lost(1, &error));
        }
    }
}

/// Sends one message from the endpoint's source address, if it has one.
fn send_packet(fd: &OwnedFd, packet: &[u8], endpoint: &Endpoint, tos: u8) -> io::Result<()> {
    let (mut name, name_len) = to_sockaddr(endpoint.address);
    let mut control = Control::new();
    fill(&mut control, endpoint, tos);
    let mut piece = libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
    // SAFETY: all zeros are a valid header.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = name_len;
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    if control.len() > 0 {
        header.msg_controllen = control.len() as _;
        header.msg_control = control.as_mut_ptr();
    }
    // SAFETY: the header points to structures and bytes that outlive the call.
    check_len(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) }).map(drop)
}

/// Sends one message from the endpoint's source address or, if that fails, from any address. Returns whether it failed.
pub fn send_one(sockets: &Sockets, packet: &[u8], endpoint: &Endpoint, tos: u8) -> io::Result<bool> {
    let fd = sockets.of(&endpoint.address)?;
    match send_packet(fd, packet, endpoint, tos) {
        Err(_) if endpoint.source != Source::Unknown => {
            send_packet(fd, packet, &Endpoint::new(endpoint.address), tos).map(|()| true)
        }
        result => result.map(|()| false),
    }
}
