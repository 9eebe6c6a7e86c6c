//! Reads the state of a link in another network namespace through netlink, because ioctls reach only our own namespace.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::Tun;
use crate::rtnetlink::{NLMSG_HEADER, Rtnetlink, attribute, number};
use crate::sys::errno;

pub(crate) const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
/// Linux 5.5.
pub(crate) const TUNGETDEVNETNS: libc::c_ulong = 0x54e3;

const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const IFLA_TARGET_NETNSID: u16 = 46;
/// The length of `struct ifinfomsg`, and the offset of its flags.
const IFINFOMSG: usize = 16;
const IFI_FLAGS: usize = 8;
/// The length of `struct rtgenmsg`, aligned.
const RTGENMSG: usize = 4;
const ANY: i32 = -1;

/// The state of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) mtu: u32,
    pub(crate) is_up: bool,
}

/// Queries links in other namespaces.
pub(crate) struct LinkQuery(Rtnetlink);

impl LinkQuery {
    pub(crate) fn new() -> io::Result<Self> {
        Rtnetlink::new().map(Self)
    }

    /// The state of the device's link in any namespace.
    pub(crate) fn state(&self, tun: &Tun) -> io::Result<LinkState> {
        let namespace = self.identifier(&tun.namespace()?)?;
        let mut body = vec![0; IFINFOMSG];
        attribute(&mut body, IFLA_TARGET_NETNSID, &namespace.to_ne_bytes());
        attribute(&mut body, libc::IFLA_IFNAME, &tun.name()?);
        let answer = self.0.ask(libc::RTM_GETLINK, &body)?;
        let flags = answer.get(NLMSG_HEADER + IFI_FLAGS..).and_then(|bytes| bytes.first_chunk());
        let is_up = flags.is_some_and(|&flags| u32::from_ne_bytes(flags) & libc::IFF_UP as u32 != 0);
        let mtu = number(&answer, IFINFOMSG, libc::IFLA_MTU).ok_or_else(|| errno(libc::EPROTO))?;
        Ok(LinkState { mtu, is_up })
    }

    /// The ID of another namespace in ours. An ID is assigned if there is none.
    fn identifier(&self, namespace: &OwnedFd) -> io::Result<u32> {
        let mut body = vec![0; RTGENMSG];
        attribute(&mut body, NETNSA_FD, &namespace.as_raw_fd().to_ne_bytes());
        let mut naming = body.clone();
        attribute(&mut naming, NETNSA_NSID, &ANY.to_ne_bytes());
        // The request fails with EEXIST if the namespace has an ID already.
        let _ = self.0.ask(RTM_NEWNSID, &naming);
        number(&self.0.ask(RTM_GETNSID, &body)?, RTGENMSG, NETNSA_NSID).ok_or_else(|| errno(libc::EPROTO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_gets_an_id() {
        let ours = std::fs::File::open("/proc/self/ns/net").unwrap();
        assert!(LinkQuery::new().unwrap().identifier(&ours.into()).is_ok());
    }
}
