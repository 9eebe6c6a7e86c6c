//! The TUN device: opening it, its offloads, and packets with virtio headers.

pub mod coalesce;
pub(crate) mod namespace;
pub mod split;

use std::ffi::CStr;
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use self::namespace::{LinkQuery, LinkState, TUNGETDEVNETNS, TUNGETIFF};
use crate::sys::{self, check, check_len, errno, interface_request, owned};

/// The length of the header that precedes each packet (`struct virtio_net_hdr`).
pub const VNET_LEN: usize = 10;
/// The MTU of a new link, as in wireguard-go.
pub(crate) const DEFAULT_MTU: u32 = 1420;
/// The largest packet that the kernel reads or writes, including the virtio header.
pub const MAX_PACKET: usize = 65_535 + VNET_LEN;

const IFF_VNET_HDR: i16 = 0x4000;
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO4: u32 = 0x02;
const TUN_F_TSO6: u32 = 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;
const TCP_OFFLOADS: u32 = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
const UDP_OFFLOADS: u32 = TUN_F_USO4 | TUN_F_USO6;

/// The offloads that the kernel accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Large TCP packets (any kernel since 2.6.27).
    pub tcp: bool,
    /// Large UDP packets (Linux 6.2).
    pub udp: bool,
}

/// An open TUN device.
pub struct Tun {
    fd: OwnedFd,
    pub(crate) offloads: Offloads,
}

fn ioctl<T>(fd: &impl AsRawFd, code: libc::c_ulong, argument: *mut T) -> io::Result<()> {
    // SAFETY: each caller passes the structure that its code asks for, or a number in the pointer's place.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), code as _, argument) }).map(drop)
}

/// Enables the most offloads that this kernel supports.
fn negotiate(fd: &impl AsRawFd) -> Offloads {
    let grants = |bits: u32| ioctl(fd, TUNSETOFFLOAD, bits as usize as *mut u8).is_ok();
    if grants(TCP_OFFLOADS | UDP_OFFLOADS) {
        return Offloads { tcp: true, udp: true };
    }
    Offloads { tcp: grants(TCP_OFFLOADS), udp: false }
}

impl Tun {
    /// Wraps an open descriptor: a TUN device, or a stand-in for tests.
    pub fn new(fd: OwnedFd, offloads: Offloads) -> Self {
        Self { fd, offloads }
    }

    /// Opens the device of this name, and creates it if there is none.
    pub(crate) fn open(name: &str) -> io::Result<(Self, String)> {
        let path = c"/dev/net/tun";
        // SAFETY: a valid C string.
        let fd =
            owned(unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK) })
                .map_err(|e| {
                    io::Error::new(
                        e.kind(),
                        format!("cannot open /dev/net/tun: {e}; is the tun module loaded?"),
                    )
                })?;
        let mut wanted = interface_request(name);
        wanted.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16 | IFF_VNET_HDR;
        ioctl(&fd, TUNSETIFF, &raw mut wanted)?;
        // An existing device keeps the length that its last user set.
        let mut header_len = VNET_LEN as libc::c_int;
        ioctl(&fd, TUNSETVNETHDRSZ, &raw mut header_len)?;
        // SAFETY: the kernel has filled in a name that ends in a zero.
        let name = unsafe { CStr::from_ptr(wanted.ifr_name.as_ptr()) }.to_string_lossy().into_owned();
        let offloads = negotiate(&fd);
        Ok((Self::new(fd, offloads), name))
    }

    /// Reads one packet with its virtio header.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        sys::read(&self.fd, buffer)
    }

    /// Writes one packet in several pieces. The first is the virtio header.
    pub(crate) fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        // SAFETY: an `IoSlice` has the layout of an iovec.
        check_len(unsafe {
            libc::writev(self.fd.as_raw_fd(), pieces.as_ptr().cast(), pieces.len() as libc::c_int)
        })
    }

    /// The network namespace that the link is in.
    fn namespace(&self) -> io::Result<OwnedFd> {
        // SAFETY: the request takes no argument.
        owned(unsafe { libc::ioctl(self.fd.as_raw_fd(), TUNGETDEVNETNS as _) })
    }

    /// The link's current name, terminated by a zero.
    fn name(&self) -> io::Result<Vec<u8>> {
        let mut asked = interface_request("");
        ioctl(&self.fd, TUNGETIFF, &raw mut asked)?;
        Ok(asked.ifr_name.iter().map(|&byte| byte as u8).take_while(|&byte| byte != 0).chain([0]).collect())
    }

    /// Whether the link is gone. Writes then fail with EBADFD.
    pub(crate) fn is_detached(&self) -> bool {
        // An empty write fails with EINVAL as long as there is a device.
        // SAFETY: no byte is read from the pointer.
        let result = check_len(unsafe { libc::write(self.fd.as_raw_fd(), [0u8].as_ptr().cast(), 0) });
        result.is_err_and(|e| e.raw_os_error() == Some(libc::EBADFD))
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// The link in the network namespace of the daemon. It is identified by its index, because it may be renamed.
pub struct Link {
    socket: OwnedFd,
    index: i32,
    links: LinkQuery,
}

impl Link {
    pub fn new(name: &str) -> io::Result<Self> {
        let socket = sys::ioctl_socket()?;
        Ok(Self { socket, index: sys::interface_index(name) as i32, links: LinkQuery::new()? })
    }

    /// A request about the link. Fails if the link is not in this namespace.
    fn request(&self) -> io::Result<libc::ifreq> {
        let mut asked = interface_request("");
        asked.ifr_ifru.ifru_ifindex = self.index;
        ioctl(&self.socket, libc::SIOCGIFNAME as libc::c_ulong, &raw mut asked)?;
        Ok(asked)
    }

    pub(crate) fn mtu(&self) -> io::Result<u32> {
        let mut asked = self.request()?;
        ioctl(&self.socket, libc::SIOCGIFMTU as libc::c_ulong, &raw mut asked)?;
        // SAFETY: the kernel has filled in the number.
        Ok(unsafe { asked.ifr_ifru.ifru_mtu } as u32)
    }

    pub(crate) fn set_mtu(&self, mtu: u32) -> io::Result<()> {
        let mut asked = self.request()?;
        asked.ifr_ifru.ifru_mtu = mtu as i32;
        ioctl(&self.socket, libc::SIOCSIFMTU as libc::c_ulong, &raw mut asked)
    }

    fn is_up(&self) -> io::Result<bool> {
        let mut asked = self.request()?;
        ioctl(&self.socket, libc::SIOCGIFFLAGS as libc::c_ulong, &raw mut asked)?;
        // SAFETY: the kernel has filled in the flags.
        Ok(i32::from(unsafe { asked.ifr_ifru.ifru_flags }) & libc::IFF_UP != 0)
    }

    /// Sets the link down. Fails if it is not in this namespace.
    pub(crate) fn set_down(&self) -> io::Result<()> {
        let mut asked = self.request()?;
        ioctl(&self.socket, libc::SIOCGIFFLAGS as libc::c_ulong, &raw mut asked)?;
        // SAFETY: the kernel has filled in the flags.
        unsafe { asked.ifr_ifru.ifru_flags &= !(libc::IFF_UP as i16) };
        ioctl(&self.socket, libc::SIOCSIFFLAGS as libc::c_ulong, &raw mut asked)
    }

    /// The link's index in the daemon's namespace; zero if it is in another one.
    pub(crate) fn index_here(&self) -> u32 {
        if self.is_here() { self.index as u32 } else { 0 }
    }

    /// Whether the link is in the daemon's namespace.
    pub(crate) fn is_here(&self) -> bool {
        self.request().is_ok()
    }

    /// The link's state in any namespace.
    pub(crate) fn state(&self, tun: &Tun) -> io::Result<LinkState> {
        match (self.mtu(), self.is_up()) {
            (Ok(mtu), Ok(is_up)) => Ok(LinkState { mtu, is_up }),
            _ => self.links.state(tun),
        }
    }
}

/// Checks the name of an interface, as the kernel's `dev_valid_name` does. A pattern with `%` is also rejected.
pub fn check_name(name: &str) -> io::Result<()> {
    let valid = !name.is_empty()
        && name.len() < libc::IFNAMSIZ
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b));
    if valid { Ok(()) } else { Err(errno(libc::EINVAL)) }
}

/// The virtio header, which describes the offloads that a packet still needs (`struct virtio_net_hdr`, in native byte order).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VnetHeader {
    pub flags: u8,
    pub gso_type: u8,
    pub header_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
}

impl VnetHeader {
    pub const NEEDS_CSUM: u8 = 1;
    pub const GSO_NONE: u8 = 0;
    pub const GSO_TCPV4: u8 = 1;
    pub const GSO_TCPV6: u8 = 4;
    pub const GSO_UDP_L4: u8 = 5;
    pub const GSO_ECN: u8 = 0x80;

    pub fn parse(bytes: &[u8; VNET_LEN]) -> Self {
        // SAFETY: the structure has this length and no padding, and any bytes are valid.
        unsafe { mem::transmute(*bytes) }
    }

    pub(crate) fn bytes(&self) -> [u8; VNET_LEN] {
        // SAFETY: as above.
        unsafe { mem::transmute(*self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_kernel_rejects_or_expands_is_rejected() {
        for name in ["", ".", "..", "a/b", "a b", "wg%d", "a:1", "sixteen-letters-"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        for name in ["wg0", "wg-home.2", "a=b+c_d", "fifteen-letters"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_virtio_header_has_the_kernels_layout() {
        let header = VnetHeader {
            flags: 1,
            gso_type: 4,
            header_len: 60,
            gso_size: 1360,
            csum_start: 40,
            csum_offset: 16,
        };
        let words = [60_u16, 1360, 40, 16].map(u16::to_ne_bytes);
        assert_eq!(header.bytes()[..], [&[1, 4], words.as_flattened()].concat());
        assert_eq!(VnetHeader::parse(&header.bytes()), header);
    }
}
