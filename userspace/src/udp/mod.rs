//! The UDP sockets of the tunnel: a pair for IPv4 and IPv6 on one port.

pub mod binder;
mod cmsg;
pub mod icmp;
pub mod receive;
pub(crate) mod route;
pub mod send;

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys::{self, check, errno, setsockopt};

/// The size of the receive buffer: about ten milliseconds of packets at 5 Gbit/s.
const RECEIVE_BYTES: i32 = 8 << 20;
/// The size of the send buffer. It is smaller, because packets wait there in front of a slow link.
const SEND_BYTES: i32 = 2 << 20;
const UDP_GRO: i32 = 104;
const SOL_UDP: i32 = 17;
const MAX_BIND_ATTEMPTS: u32 = 100;

/// All options that are set on a socket, by level and name. The system call filter allows no others.
pub(crate) const OPTIONS: [(i32, i32); 14] = [
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_RCVBUF),
    (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE),
    (libc::SOL_SOCKET, libc::SO_SNDBUF),
    (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE),
    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    (libc::IPPROTO_IP, libc::IP_PKTINFO),
    (libc::IPPROTO_IP, libc::IP_RECVTOS),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    (SOL_UDP, UDP_GRO),
    (SOL_UDP, send::UDP_SEGMENT),
];

/// The local address and interface at which a peer's packets arrived. Answers are sent from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Source {
    #[default]
    Unknown,
    V4 {
        address: [u8; 4],
        interface: u32,
    },
    V6 {
        address: [u8; 16],
        interface: u32,
    },
}

/// The address of a peer, and the source address for packets to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub(crate) source: Source,
    /// The value of `Device::route_changes` when the source was learned.
    pub(crate) generation: u32,
}

impl Endpoint {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, source: Source::Unknown, generation: 0 }
    }
}

/// Both sockets. A family that the host lacks is missing.
pub struct Sockets {
    pub v4: Option<OwnedFd>,
    pub(crate) v6: Option<OwnedFd>,
    pub port: u16,
    /// Whether the kernel or the hardware splits large sends.
    segmentation: AtomicBool,
}

/// Whether this kernel splits large sends.
pub fn can_segment() -> io::Result<bool> {
    sys::ioctl_socket().map(|fd| send::can_segment(&fd))
}

/// Enlarges the buffers beyond the system's limit, which needs a privilege, or else up to the limit.
fn enlarge(fd: &OwnedFd) {
    for (force, plain, bytes) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BYTES),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BYTES),
    ] {
        if setsockopt(fd, libc::SOL_SOCKET, force, bytes).is_err() {
            let _ = setsockopt(fd, libc::SOL_SOCKET, plain, bytes);
        }
    }
}

fn bind(fd: &OwnedFd, address: SocketAddr) -> io::Result<u16> {
    let (mut storage, mut len) = cmsg::to_sockaddr(address);
    // SAFETY: the address is valid for its length; getsockname writes no more than that.
    unsafe {
        check(libc::bind(fd.as_raw_fd(), (&raw const storage).cast(), len))?;
        check(libc::getsockname(fd.as_raw_fd(), (&raw mut storage).cast(), &raw mut len))?;
    }
    cmsg::from_sockaddr(&storage).map(|a| a.port()).ok_or_else(|| errno(libc::EAFNOSUPPORT))
}

/// Opens an IPv4 socket. Outer packets have no DF bit and may be fragmented, as with the kernel's WireGuard.
fn open_v4(port: u16, fwmark: u32) -> io::Result<(OwnedFd, u16)> {
    let fd = sys::udp_socket(libc::AF_INET)?;
    setsockopt(&fd, libc::SOL_SOCKET, libc::SO_MARK, fwmark)
        .or_else(|e| if fwmark == 0 { Ok(()) } else { Err(e) })?;
    setsockopt(&fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
    setsockopt(&fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    setsockopt(&fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
    enlarge(&fd);
    let port = bind(&fd, SocketAddrV4::new(0.into(), port).into())?;
    Ok((fd, port))
}

fn open_v6(port: u16, fwmark: u32) -> io::Result<(OwnedFd, u16)> {
    let fd = sys::udp_socket(libc::AF_INET6)?;
    setsockopt(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    setsockopt(&fd, libc::SOL_SOCKET, libc::SO_MARK, fwmark)
        .or_else(|e| if fwmark == 0 { Ok(()) } else { Err(e) })?;
    setsockopt(&fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)?;
    setsockopt(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
    setsockopt(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
    enlarge(&fd);
    let port = bind(&fd, SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into())?;
    Ok((fd, port))
}

/// Whether the family is missing or disabled.
fn lacks_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// Enables large receives (Linux 5.0). Without them packets arrive one by one.
fn enable_large_receives(fd: &OwnedFd) {
    let _ = setsockopt(fd, SOL_UDP, UDP_GRO, 1);
}

fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(e) if lacks_family(&e) => Ok(None),
        other => other.map(Some),
    }
}

impl Sockets {
    /// Binds both families to one port. If the port is zero, one that is free for both is chosen.
    pub fn bind(port: u16, fwmark: u32) -> io::Result<Self> {
        let mut attempts = 0;
        loop {
            match Self::try_bind(port, fwmark) {
                Err(e)
                    if port == 0
                        && e.raw_os_error() == Some(libc::EADDRINUSE)
                        && attempts < MAX_BIND_ATTEMPTS =>
                {
                    attempts += 1;
                }
                other => return other,
            }
        }
    }

    fn try_bind(port: u16, fwmark: u32) -> io::Result<Self> {
        let v4 = optional(open_v4(port, fwmark))?;
        let port = v4.as_ref().map_or(port, |(_, port)| *port);
        let v6 = optional(open_v6(port, fwmark))?;
        let port = v6.as_ref().map_or(port, |(_, port)| *port);
        if v4.is_none() && v6.is_none() {
            return Err(errno(libc::EAFNOSUPPORT));
        }
        let (v4, v6) = (v4.map(|(fd, _)| fd), v6.map(|(fd, _)| fd));
        v4.iter().chain(&v6).for_each(enable_large_receives);
        let segmentation = v4.iter().chain(&v6).all(send::can_segment);
        Ok(Self { v4, v6, port, segmentation: AtomicBool::new(segmentation) })
    }

    /// The same sockets with other descriptors.
    fn duplicate(&self) -> io::Result<Self> {
        let copy = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        let segmentation = AtomicBool::new(self.segments());
        Ok(Self { v4: copy(&self.v4)?, v6: copy(&self.v6)?, port: self.port, segmentation })
    }

    /// Sets the fwmark of outgoing packets. Fails with EPERM without `CAP_NET_ADMIN`.
    pub fn set_fwmark(&self, fwmark: u32) -> io::Result<()> {
        self.each().try_for_each(|fd| setsockopt(fd, libc::SOL_SOCKET, libc::SO_MARK, fwmark))
    }

    pub(crate) fn each(&self) -> impl Iterator<Item = &OwnedFd> {
        self.v4.iter().chain(&self.v6)
    }

    pub(crate) fn segments(&self) -> bool {
        self.segmentation.load(Ordering::Relaxed)
    }

    fn stop_segmenting(&self) {
        self.segmentation.store(false, Ordering::Relaxed);
    }

    fn of(&self, address: &SocketAddr) -> io::Result<&OwnedFd> {
        let fd = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        fd.as_ref().ok_or_else(|| errno(libc::EAFNOSUPPORT))
    }
}
