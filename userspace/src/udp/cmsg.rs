//! Socket addresses and control messages in the kernel's layout.

use std::mem::{size_of, zeroed};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

use super::Source;

const ALIGN: usize = size_of::<usize>();
const HEADER: usize = size_of::<libc::cmsghdr>();

/// A buffer for all control messages of a packet, aligned like a `cmsghdr`.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Control {
    bytes: [u8; Self::ROOM],
    len: usize,
}

impl Control {
    pub(crate) const ROOM: usize = 128;

    pub(crate) const fn new() -> Self {
        Self { bytes: [0; Self::ROOM], len: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.bytes.as_mut_ptr().cast()
    }

    /// Appends one message.
    pub(crate) fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let at = self.len;
        self.bytes[at..at + ALIGN].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        self.bytes[at + ALIGN..at + ALIGN + 4].copy_from_slice(&level.to_ne_bytes());
        self.bytes[at + ALIGN + 4..at + HEADER].copy_from_slice(&kind.to_ne_bytes());
        self.bytes[at + HEADER..at + HEADER + data.len()].copy_from_slice(data);
        self.len = at + HEADER + data.len().next_multiple_of(ALIGN);
    }

    /// Sets the source address.
    pub(crate) fn push_source(&mut self, source: Source) {
        match source {
            Source::Unknown => (),
            // struct in_pktinfo: interface, local address, destination. The interface is left to the route.
            Source::V4 { address, .. } => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&address);
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Source::V6 { address, interface } => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&address);
                let link_local = address[0] == 0xfe && address[1] & 0xc0 == 0x80;
                info[16..].copy_from_slice(&if link_local { interface } else { 0 }.to_ne_bytes());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    /// Sets the DS field.
    pub(crate) fn push_tos(&mut self, v4: bool, tos: u8) {
        let (level, kind) =
            if v4 { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
        self.push(level, kind, &i32::from(tos).to_ne_bytes());
    }

    /// The messages in the first `len` bytes, which the kernel has written.
    pub(crate) fn messages(&self, len: usize) -> impl Iterator<Item = (i32, i32, &[u8])> {
        let mut rest = &self.bytes[..len.min(Self::ROOM)];
        std::iter::from_fn(move || {
            let total = usize::from_ne_bytes(rest.get(..ALIGN)?.try_into().ok()?);
            let data = rest.get(HEADER..total)?;
            let level = i32::from_ne_bytes(rest[ALIGN..ALIGN + 4].try_into().ok()?);
            let kind = i32::from_ne_bytes(rest[ALIGN + 4..HEADER].try_into().ok()?);
            rest = rest.get(total.next_multiple_of(ALIGN)..).unwrap_or_default();
            Some((level, kind, data))
        })
    }
}

/// Converts an address for `bind` and `sendmsg`.
pub(crate) fn to_sockaddr(address: SocketAddr) -> (libc::sockaddr_in6, libc::socklen_t) {
    // SAFETY: all zeros are a valid address structure.
    let mut storage: libc::sockaddr_in6 = unsafe { zeroed() };
    match address {
        SocketAddr::V4(a) => {
            let v4 = (&raw mut storage).cast::<libc::sockaddr_in>();
            // SAFETY: `sockaddr_in` is the smaller of the two and no more strictly aligned.
            unsafe {
                (*v4).sin_family = libc::AF_INET as u16;
                (*v4).sin_port = a.port().to_be();
                (*v4).sin_addr.s_addr = u32::from_ne_bytes(a.ip().octets());
            }
            (storage, size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        SocketAddr::V6(a) => {
            storage.sin6_family = libc::AF_INET6 as u16;
            storage.sin6_port = a.port().to_be();
            storage.sin6_addr.s6_addr = a.ip().octets();
            storage.sin6_scope_id = a.scope_id();
            (storage, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
        }
    }
}

/// Converts an address that the kernel reported.
#[inline]
pub(crate) fn from_sockaddr(storage: &libc::sockaddr_in6) -> Option<SocketAddr> {
    match i32::from(storage.sin6_family) {
        libc::AF_INET => {
            // SAFETY: the family says that these bytes are a `sockaddr_in`, the smaller of the two.
            let v4 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = v4.sin_addr.s_addr.to_ne_bytes();
            Some(SocketAddrV4::new(ip.into(), u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            let ip = storage.sin6_addr.s6_addr;
            Some(
                SocketAddrV6::new(ip.into(), u16::from_be(storage.sin6_port), 0, storage.sin6_scope_id)
                    .into(),
            )
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_written() {
        for text in ["192.0.2.1:51820", "[2001:db8::1]:51820", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(from_sockaddr(&to_sockaddr(address).0), Some(address));
        }
    }

    #[test]
    fn control_messages_read_back_as_written() {
        let mut control = Control::new();
        control.push(17, 103, &1420u16.to_ne_bytes());
        control.push_source(Source::V6 { address: [0x20; 16], interface: 3 });
        control.push_tos(false, 2);
        let kinds: Vec<_> =
            control.messages(control.len()).map(|(level, kind, data)| (level, kind, data.len())).collect();
        assert_eq!(
            kinds,
            [
                (17, 103, 2),
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, 20),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, 4)
            ]
        );
        assert_eq!(control.messages(7).count(), 0);
    }
}
