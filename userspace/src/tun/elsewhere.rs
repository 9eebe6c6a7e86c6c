//! The link in another network namespace than ours: asked about by netlink, as other requests reach our own alone.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::Tun;
use crate::sys::{self, check_len, errno, owned};

pub const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
/// Linux 5.5.
pub const TUNGETDEVNETNS: libc::c_ulong = 0x54e3;

const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const IFLA_TARGET_NETNSID: u16 = 46;
const NLMSG_HEADER: usize = 16;
const IFINFOMSG: usize = 16;
/// `rtgenmsg`, aligned.
const RTGENMSG: usize = 4;
const ANY: i32 = -1;

/// What is to be known of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    pub mtu: u32,
    pub is_up: bool,
}

/// The socket that asks; it has to be there before the system calls are confined.
pub struct Elsewhere(OwnedFd);

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(((4 + value.len()) as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// A number in an attribute of a message, found behind its fixed part.
fn number(message: &[u8], fixed: usize, wanted: u16) -> Option<u32> {
    let mut rest = message.get(NLMSG_HEADER + fixed..)?;
    loop {
        let len = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        if kind == wanted {
            return Some(u32::from_ne_bytes(rest.get(4..8)?.try_into().ok()?));
        }
        rest = rest.get(len.max(4).next_multiple_of(4)..)?;
    }
}

impl Elsewhere {
    pub fn new() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: plain call, no pointers.
        owned(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) }).map(Self)
    }

    /// The state of the device's link, wherever it is.
    pub fn state(&self, tun: &Tun) -> io::Result<LinkState> {
        let namespace = self.identifier(&tun.namespace()?)?;
        let mut body = vec![0; IFINFOMSG];
        attribute(&mut body, IFLA_TARGET_NETNSID, &namespace.to_ne_bytes());
        attribute(&mut body, libc::IFLA_IFNAME, &tun.name()?);
        let answer = self.ask(libc::RTM_GETLINK, &body)?;
        let flags = answer.get(NLMSG_HEADER + 8..NLMSG_HEADER + 12).and_then(|b| b.try_into().ok());
        let is_up = flags.is_some_and(|bytes| u32::from_ne_bytes(bytes) & libc::IFF_UP as u32 != 0);
        let mtu = number(&answer, IFINFOMSG, libc::IFLA_MTU).ok_or_else(|| errno(libc::EPROTO))?;
        Ok(LinkState { mtu, is_up })
    }

    /// The number that our namespace knows another by; it is given one where there is none.
    fn identifier(&self, namespace: &OwnedFd) -> io::Result<u32> {
        let mut body = vec![0; RTGENMSG];
        attribute(&mut body, NETNSA_FD, &namespace.as_raw_fd().to_ne_bytes());
        let mut naming = body.clone();
        attribute(&mut naming, NETNSA_NSID, &ANY.to_ne_bytes());
        // EEXIST where it has one already.
        let _ = self.ask(RTM_NEWNSID, &naming);
        number(&self.ask(RTM_GETNSID, &body)?, RTGENMSG, NETNSA_NSID).ok_or_else(|| errno(libc::EPROTO))
    }

    /// Sends a request and reads its answer, which the kernel gives at once.
    fn ask(&self, kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
        let acknowledged = if kind == RTM_NEWNSID { libc::NLM_F_ACK } else { 0 };
        let mut request = Vec::with_capacity(NLMSG_HEADER + body.len());
        request.extend(((NLMSG_HEADER + body.len()) as u32).to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(((libc::NLM_F_REQUEST | acknowledged) as u16).to_ne_bytes());
        request.extend([0; 8]);
        request.extend(body);
        // SAFETY: the bytes are valid for their length; without an address the message goes to the kernel.
        check_len(unsafe { libc::send(self.0.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) })?;
        let mut answer = vec![0; 32 << 10];
        let len = sys::read(&self.0, &mut answer)?;
        answer.truncate(len);
        let is_error = answer.get(4..6) == Some(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
        match answer.get(NLMSG_HEADER..NLMSG_HEADER + 4).and_then(|b| b.try_into().ok()) {
            Some(code) if is_error && code != [0; 4] => Err(errno(-i32::from_ne_bytes(code))),
            Some(_) => Ok(answer),
            None => Err(errno(libc::EPROTO)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_behind_other_attributes_or_not_at_all() {
        let mut message = vec![0; NLMSG_HEADER + IFINFOMSG];
        attribute(&mut message, libc::IFLA_IFNAME, b"wg0\0");
        attribute(&mut message, libc::IFLA_MTU, &1280u32.to_ne_bytes());
        assert_eq!(number(&message, IFINFOMSG, libc::IFLA_MTU), Some(1280));
        assert_eq!(number(&message, IFINFOMSG, IFLA_TARGET_NETNSID), None);
        for len in 0..message.len() {
            assert_eq!(number(&message[..len], IFINFOMSG, libc::IFLA_MTU), None, "{len} bytes");
        }
    }

    #[test]
    fn a_namespace_is_known_by_a_number_once_asked_for() {
        let ours = std::fs::File::open("/proc/self/ns/net").unwrap();
        assert!(Elsewhere::new().unwrap().identifier(&ours.into()).is_ok());
    }
}
