//! Queries links and routes (rtnetlink(7)).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::sys::{self, check_len, errno, owned};

/// The length of a message's header (`struct nlmsghdr`): its length, type, flags, sequence number and port.
pub(crate) const NLMSG_HEADER: usize = 16;
const RTM_NEWNSID: u16 = 88;

/// Appends an attribute (`struct rtattr`): its length, type and value, padded to four bytes.
pub(crate) fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(((4 + value.len()) as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// The number in an attribute of a message, after its fixed part.
pub(crate) fn number(message: &[u8], fixed: usize, wanted: u16) -> Option<u32> {
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

/// The types of the messages in a netlink read.
pub(crate) fn message_kinds(mut bytes: &[u8]) -> impl Iterator<Item = u16> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        bytes = bytes.get(len.max(NLMSG_HEADER).next_multiple_of(4)..).unwrap_or_default();
        Some(kind)
    })
}

/// The netlink socket. It is opened before the system call filter takes effect.
pub(crate) struct Rtnetlink(OwnedFd);

impl Rtnetlink {
    pub(crate) fn new() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: plain call, no pointers.
        owned(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) }).map(Self)
    }

    /// Sends a request and reads the answer, which the kernel sends at once.
    pub(crate) fn ask(&self, kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
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
        let is_error = message_kinds(&answer).next() == Some(libc::NLMSG_ERROR as u16);
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

    const IFINFOMSG: usize = 16;
    const IFLA_TARGET_NETNSID: u16 = 46;

    #[test]
    fn a_number_is_found_after_other_attributes() {
        let mut message = vec![0; NLMSG_HEADER + IFINFOMSG];
        attribute(&mut message, libc::IFLA_IFNAME, b"wg0\0");
        attribute(&mut message, libc::IFLA_MTU, &1280u32.to_ne_bytes());
        assert_eq!(number(&message, IFINFOMSG, libc::IFLA_MTU), Some(1280));
        assert_eq!(number(&message, IFINFOMSG, IFLA_TARGET_NETNSID), None);
        for len in 0..message.len() {
            assert_eq!(number(&message[..len], IFINFOMSG, libc::IFLA_MTU), None, "{len} bytes");
        }
    }
}
