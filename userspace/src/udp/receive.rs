//! Receiving: one system call reads several messages, and each is a run of packets from one sender.

use std::io;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use super::cmsg::{Control, from_sockaddr};
use super::{SOL_UDP, Source, UDP_GRO};
use crate::packet::ECN_MASK;
use crate::sys::check;

const MESSAGES: usize = 8;
/// The largest message that the kernel merges packets into.
const MESSAGE_BYTES: usize = 65_536;

/// The position and metadata of one message.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub(crate) at: usize,
    pub len: usize,
    /// The size of each packet in the message but the last.
    pub(crate) segment: usize,
    pub(crate) from: SocketAddr,
    pub(crate) to: Source,
    pub(crate) ecn: u8,
}

/// The structures for `recvmmsg`, which are reused, and the bytes read.
pub struct Receiver {
    pub(crate) buffer: Box<[u8]>,
    headers: Box<[libc::mmsghdr]>,
    pieces: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_in6]>,
    controls: Box<[Control]>,
}

// SAFETY: the pointers in it point to its own boxes and are rewritten before each call.
unsafe impl Send for Receiver {}

impl Default for Receiver {
    fn default() -> Self {
        // SAFETY: these kernel structures are valid as zeros.
        unsafe {
            Self {
                buffer: vec![0; MESSAGES * MESSAGE_BYTES].into(),
                headers: vec![zeroed(); MESSAGES].into(),
                pieces: vec![zeroed(); MESSAGES].into(),
                names: vec![zeroed(); MESSAGES].into(),
                controls: vec![Control::new(); MESSAGES].into(),
            }
        }
    }
}

impl Receiver {
    /// Reads the waiting messages without blocking. Returns their number.
    pub fn receive(&mut self, fd: &OwnedFd) -> io::Result<usize> {
        for slot in 0..MESSAGES {
            self.prepare(slot);
        }
        // SAFETY: `prepare` has pointed the headers to live structures and to distinct parts of the buffer.
        let count = check(unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                MESSAGES as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        })?;
        Ok(count as usize)
    }

    fn prepare(&mut self, slot: usize) {
        let bytes = &mut self.buffer[slot * MESSAGE_BYTES..(slot + 1) * MESSAGE_BYTES];
        self.pieces[slot] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let header = &mut self.headers[slot].msg_hdr;
        header.msg_name = (&raw mut self.names[slot]).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in6>() as u32;
        header.msg_iov = &raw mut self.pieces[slot];
        header.msg_iovlen = 1;
        header.msg_control = self.controls[slot].as_mut_ptr();
        header.msg_controllen = Control::ROOM as _;
        header.msg_flags = 0;
    }

    /// The message in a slot; `None` if it was truncated.
    pub fn arrival(&self, slot: usize) -> Option<Arrival> {
        let header = &self.headers[slot];
        let len = header.msg_len as usize;
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 || len == 0 {
            return None;
        }
        let from = from_sockaddr(&self.names[slot])?;
        let mut arrival =
            Arrival { at: slot * MESSAGE_BYTES, len, segment: len, from, to: Source::Unknown, ecn: 0 };
        for (level, kind, data) in self.controls[slot].messages(header.msg_hdr.msg_controllen as _) {
            arrival.note(level, kind, data);
        }
        Some(arrival)
    }
}

impl Arrival {
    fn note(&mut self, level: i32, kind: i32, data: &[u8]) {
        let number = |at: usize| data.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
        match (level, kind) {
            (SOL_UDP, UDP_GRO) => {
                self.segment = number(0).map_or(self.len, |size| size as usize).clamp(1, self.len);
            }
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                self.ecn = data.first().unwrap_or(&0) & ECN_MASK;
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                if let (Some(interface), Some(address)) = (number(0), number(4)) {
                    self.to = Source::V4 { address: address.to_ne_bytes(), interface };
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let (Some(address), Some(interface)) =
                    (data.get(..16).and_then(|b| b.try_into().ok()), number(16))
                {
                    self.to = Source::V6 { address, interface };
                }
            }
            _ => (),
        }
    }
}
