//! ICMP errors about sent packets.
//!
//! A raw socket of each family receives them. On the UDP sockets (`IP_RECVERR`) every error would make the next send to
//! any peer fail, and anyone can send an error. Opening the raw sockets needs `CAP_NET_RAW`, which is dropped afterwards;
//! without it no errors are received. The kernel filters the sockets for errors, and no option is set later.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use super::cmsg::from_sockaddr;
use crate::diagnostics::Icmp as Kind;
use crate::headers::{Header, Icmp, Ipv4, Ipv6, UDP};
use crate::log;
use crate::sys::{check_len, owned, pollfd, setsockopt};

const SOL_RAW: i32 = 255;
const ICMP_FILTER: i32 = 1;
const ICMPV6_FILTER: i32 = 1;
/// The fragment header of IPv6.
const FRAGMENT: u8 = 44;
/// The bytes of an error that are read: the needed fields after the longest IPv4 headers.
const MAX_ERROR: usize = 256;
/// The most errors that are read before other work is done.
const MAX_ERRORS: usize = 64;
/// The size of the receive buffer. A flood of errors beyond it is dropped and has no other effect.
const RECEIVE_BYTES: i32 = 64 << 10;

/// An error as received. It is not authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    pub kind: Kind,
    /// The sender of the error.
    pub(crate) router: IpAddr,
    /// The MTU in the error.
    pub(crate) mtu: Option<u32>,
    /// The source port of the quoted packet.
    pub port: u16,
    pub destination: SocketAddr,
}

/// The sockets that receive errors.
pub struct Listener {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
}

fn socket(family: i32, protocol: i32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain call, no pointers.
    let fd = owned(unsafe { libc::socket(family, kind, protocol) })?;
    setsockopt(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BYTES)?;
    Ok(fd)
}

/// Receives destination unreachable and time exceeded. A set bit in the filter blocks a type (raw(7)).
fn open_v4() -> io::Result<OwnedFd> {
    let fd = socket(libc::AF_INET, libc::IPPROTO_ICMP)?;
    setsockopt(&fd, SOL_RAW, ICMP_FILTER, !(1_u32 << 3 | 1 << 11))?;
    Ok(fd)
}

/// Receives destination unreachable, packet too big and time exceeded (RFC 3542, section 3.2; set bits block too).
fn open_v6() -> io::Result<OwnedFd> {
    let fd = socket(libc::AF_INET6, libc::IPPROTO_ICMPV6)?;
    let mut filter = [u32::MAX; 8];
    filter[0] = !(1 << 1 | 1 << 2 | 1 << 3);
    setsockopt(&fd, libc::IPPROTO_ICMPV6, ICMPV6_FILTER, filter)?;
    Ok(fd)
}

impl Listener {
    /// Opens the sockets that the system permits.
    pub fn open() -> Self {
        let unless_refused = |opened: io::Result<OwnedFd>| {
            opened.inspect_err(|e| log::verbose(format_args!("cannot receive ICMP errors: {e}"))).ok()
        };
        Self { v4: unless_refused(open_v4()), v6: unless_refused(open_v6()) }
    }

    /// The entries for poll(2). A missing socket has an entry that poll(2) ignores.
    pub fn pollfds(&self) -> [libc::pollfd; 2] {
        let nothing = libc::pollfd { fd: -1, events: 0, revents: 0 };
        [&self.v4, &self.v6].map(|fd| fd.as_ref().map_or(nothing, |fd| pollfd(fd, libc::POLLIN)))
    }

    /// The received errors, up to a limit.
    pub fn read(&self) -> Vec<IcmpError> {
        let mut errors = Vec::new();
        for fd in self.v4.iter().chain(&self.v6) {
            let mut buffer = [0; MAX_ERROR];
            for _ in 0..MAX_ERRORS {
                let Ok((len, router)) = receive(fd, &mut buffer) else {
                    break;
                };
                errors.extend(router.and_then(|router| parse(router, &buffer[..len])));
            }
        }
        errors
    }
}

fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Option<IpAddr>)> {
    // SAFETY: all zeros are a valid address structure.
    let mut name: libc::sockaddr_in6 = unsafe { zeroed() };
    let mut name_len = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    // SAFETY: the buffer and the address are valid for their lengths.
    let len = check_len(unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_DONTWAIT,
            (&raw mut name).cast(),
            &raw mut name_len,
        )
    })?;
    Ok((len, from_sockaddr(&name).map(|address| address.ip())))
}

/// Parses an error; raw sockets include the IP header for IPv4 only. `None` if it does not quote a UDP packet.
fn parse(router: IpAddr, packet: &[u8]) -> Option<IcmpError> {
    match router {
        IpAddr::V4(_) => parse_v4(router, payload_v4(packet)?),
        IpAddr::V6(_) => parse_v6(router, packet),
    }
}

/// The bytes after an IPv4 header and its options.
fn payload_v4(packet: &[u8]) -> Option<&[u8]> {
    packet.get(Some(Ipv4::of(packet)?.header_len()).filter(|&len| len >= Ipv4::LEN)?..)
}

/// The source and destination port of a quoted packet, which may end after them (RFC 792).
fn ports(udp: &[u8]) -> Option<(u16, u16)> {
    let &[source_high, source_low, to_high, to_low] = udp.first_chunk()?;
    Some((u16::from_be_bytes([source_high, source_low]), u16::from_be_bytes([to_high, to_low])))
}

/// RFC 792, RFC 1812.
fn parse_v4(router: IpAddr, error: &[u8]) -> Option<IcmpError> {
    let (icmp, quoted) = (Icmp::of(error)?, &error[Icmp::LEN..]);
    let ip = Ipv4::of(quoted)?;
    if ip.protocol != UDP || ip.is_later_fragment() {
        return None;
    }
    let (kind, mtu) = match (icmp.kind, icmp.code) {
        (3, 0 | 6 | 11) => (Kind::NetUnreachable, None),
        (3, 1 | 7 | 12) => (Kind::HostUnreachable, None),
        (3, 3) => (Kind::PortUnreachable, None),
        // The MTU has 16 bits (RFC 1191), and is zero in errors of older routers.
        (3, 4) => (Kind::TooBig, Some(icmp.rest.get() & 0xffff).filter(|&mtu| mtu != 0)),
        (3, 9 | 10 | 13) => (Kind::Prohibited, None),
        (11, _) => (Kind::TimeExceeded, None),
        _ => (Kind::Other, None),
    };
    let (port, to) = ports(payload_v4(quoted)?)?;
    Some(IcmpError { kind, router, mtu, port, destination: (ip.destination(), to).into() })
}

/// RFC 4443.
fn parse_v6(router: IpAddr, error: &[u8]) -> Option<IcmpError> {
    let (icmp, quoted) = (Icmp::of(error)?, &error[Icmp::LEN..]);
    let (ip, rest) = (Ipv6::of(quoted)?, &quoted[Ipv6::LEN..]);
    let udp = match ip.next_header {
        UDP => rest,
        FRAGMENT => first_fragment(rest)?,
        _ => return None,
    };
    let (kind, mtu) = match (icmp.kind, icmp.code) {
        (1, 0) => (Kind::NetUnreachable, None),
        (1, 3) => (Kind::HostUnreachable, None),
        (1, 4) => (Kind::PortUnreachable, None),
        (1, 1 | 5 | 6) => (Kind::Prohibited, None),
        (2, _) => (Kind::TooBig, Some(icmp.rest.get())),
        (3, _) => (Kind::TimeExceeded, None),
        _ => (Kind::Other, None),
    };
    let (port, to) = ports(udp)?;
    Some(IcmpError { kind, router, mtu, port, destination: (ip.destination(), to).into() })
}

/// The UDP header after a fragment header (RFC 8200, section 4.5); `None` in a later fragment.
fn first_fragment(fragment: &[u8]) -> Option<&[u8]> {
    let (&[next, _, high, low, ..], rest) = fragment.split_first_chunk::<8>()?;
    (next == UDP && u16::from_be_bytes([high, low]) >> 3 == 0).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROUTERS: [&str; 2] = ["192.0.2.254", "2001:db8::254"];

    /// An error over IPv4 about a packet from port 51820 to 192.0.2.2:7, with options in both IP headers.
    fn error_v4(kind: u8, code: u8, rest: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0x46; 24];
        packet.extend([kind, code, 0, 0]);
        packet.extend(rest);
        packet.extend([0x46, 0, 0, 176, 0, 1, 0, 0, 64, UDP, 0, 0]);
        packet.extend([192, 0, 2, 1, 192, 0, 2, 2, 1, 1, 1, 1]);
        packet.extend([0xca, 0x6c, 0, 7, 0, 156, 0, 0]);
        packet
    }

    /// The same over IPv6 to port 7 of `2001:db8::2`; `more` is between the quoted IP header and UDP.
    fn error_v6(kind: u8, code: u8, rest: [u8; 4], (next, more): (u8, &[u8])) -> Vec<u8> {
        let mut packet = vec![kind, code, 0, 0];
        packet.extend(rest);
        packet.extend([0x60, 0, 0, 0, 0, 156, next, 64]);
        packet.extend([0x20; 16]);
        packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        packet.extend(more);
        packet.extend([0xca, 0x6c, 0, 7, 0, 156, 0, 0]);
        packet
    }

    fn parsed(packet: &[u8], version: usize) -> Option<IcmpError> {
        parse(ROUTERS[version / 6].parse().unwrap(), packet)
    }

    #[test]
    fn each_kind_of_error_over_ipv4_is_parsed() {
        for (kind, code, rest, expected, mtu) in [
            (3, 0, 0, Kind::NetUnreachable, None),
            (3, 1, 0, Kind::HostUnreachable, None),
            (3, 2, 0, Kind::Other, None),
            (3, 3, 0, Kind::PortUnreachable, None),
            (3, 4, 1400, Kind::TooBig, Some(1400)),
            (3, 4, 0, Kind::TooBig, None),
            (3, 9, 0, Kind::Prohibited, None),
            (3, 13, 0, Kind::Prohibited, None),
            (11, 0, 0, Kind::TimeExceeded, None),
        ] {
            let error = parsed(&error_v4(kind, code, u32::to_be_bytes(rest)), 4).unwrap();
            assert_eq!((error.kind, error.mtu), (expected, mtu), "{kind}, {code}");
            assert_eq!((error.port, error.destination), (51820, "192.0.2.2:7".parse().unwrap()));
            assert_eq!(error.router, ROUTERS[0].parse::<IpAddr>().unwrap());
        }
    }

    #[test]
    fn each_kind_of_error_over_ipv6_is_parsed() {
        let first_fragment = (FRAGMENT, &[UDP, 0, 0, 1, 0, 0, 0, 9][..]);
        for (kind, code, rest, expected, mtu) in [
            (1, 0, 0, Kind::NetUnreachable, None),
            (1, 1, 0, Kind::Prohibited, None),
            (1, 3, 0, Kind::HostUnreachable, None),
            (1, 4, 0, Kind::PortUnreachable, None),
            (2, 0, 1280, Kind::TooBig, Some(1280)),
            (3, 0, 0, Kind::TimeExceeded, None),
            (1, 2, 0, Kind::Other, None),
        ] {
            for headers in [(UDP, &[][..]), first_fragment] {
                let error = parsed(&error_v6(kind, code, u32::to_be_bytes(rest), headers), 6).unwrap();
                assert_eq!((error.kind, error.mtu), (expected, mtu), "{kind}, {code}");
                assert_eq!((error.port, error.destination), (51820, "[2001:db8::2]:7".parse().unwrap()));
            }
        }
    }

    #[test]
    fn incomplete_errors_and_those_not_about_udp_are_ignored() {
        let mut tcp = error_v4(3, 3, [0; 4]);
        tcp[24 + Icmp::LEN + 9] = 6;
        let mut later = error_v4(3, 3, [0; 4]);
        later[24 + Icmp::LEN + 7] = 1;
        assert!(parsed(&tcp, 4).is_none() && parsed(&later, 4).is_none());
        assert!(parsed(&error_v6(1, 4, [0; 4], (6, &[])), 6).is_none());
        let later = (FRAGMENT, &[UDP, 0, 1, 1, 0, 0, 0, 9][..]);
        assert!(parsed(&error_v6(1, 4, [0; 4], later), 6).is_none());
        for (version, whole) in [(4, error_v4(3, 3, [0; 4])), (6, error_v6(1, 4, [0; 4], (UDP, &[])))] {
            // The ports are the first half of UDP's header.
            for len in 0..=whole.len() {
                assert_eq!(parsed(&whole[..len], version).is_some(), len >= whole.len() - 4, "{len} bytes");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, v4: bool) {
            let _ = parsed(&bytes, if v4 { 4 } else { 6 });
        }
    }
}
