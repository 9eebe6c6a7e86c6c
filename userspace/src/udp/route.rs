//! Route lookups. A source address is kept while packets still leave by the interface at which the peer's packets arrived.

use std::net::IpAddr;
use std::sync::Mutex;

use super::{Endpoint, Source};
use crate::locks::lock;
use crate::rtnetlink::{Rtnetlink, attribute, number};

/// The length of `struct rtmsg`.
const RTMSG: usize = 12;
const RTA_MARK: u16 = 16;

/// The body of a route lookup. An empty `from` means any source.
fn question(family: i32, to: &[u8], from: &[u8], fwmark: u32) -> Vec<u8> {
    let mut body = vec![0; RTMSG];
    body[..3].copy_from_slice(&[family as u8, to.len() as u8 * 8, from.len() as u8 * 8]);
    attribute(&mut body, libc::RTA_DST, to);
    if !from.is_empty() {
        attribute(&mut body, libc::RTA_SRC, from);
    }
    if fwmark != 0 {
        attribute(&mut body, RTA_MARK, &fwmark.to_ne_bytes());
    }
    body
}

/// Looks up routes.
pub(crate) struct Routes(Mutex<Rtnetlink>);

impl Routes {
    pub(crate) fn new() -> std::io::Result<Self> {
        Rtnetlink::new().map(|socket| Self(Mutex::new(socket)))
    }

    /// Whether packets from the source of an endpoint still leave by the interface at which the peer's packets arrived
    /// (`send4` and `send6` of the kernel's `socket.c`).
    pub(crate) fn keep_source(&self, endpoint: &Endpoint, fwmark: u32) -> bool {
        let (body, came_to) = match (endpoint.address.ip(), endpoint.source) {
            (IpAddr::V4(to), Source::V4 { address, interface }) => {
                (question(libc::AF_INET, &to.octets(), &address, fwmark), interface)
            }
            // Link-local packets always leave by their own link.
            (IpAddr::V6(to), Source::V6 { .. }) if to.is_unicast_link_local() => return true,
            (IpAddr::V6(to), Source::V6 { address, interface }) => {
                (question(libc::AF_INET6, &to.octets(), &address, fwmark), interface)
            }
            _ => return false,
        };
        self.interface(&body) == Some(came_to)
    }

    /// Whether packets to an address leave by this interface.
    pub(crate) fn leave_by(&self, address: IpAddr, interface: u32, fwmark: u32) -> bool {
        let body = match address {
            IpAddr::V4(to) => question(libc::AF_INET, &to.octets(), &[], fwmark),
            IpAddr::V6(to) => question(libc::AF_INET6, &to.octets(), &[], fwmark),
        };
        self.interface(&body) == Some(interface)
    }

    /// The outgoing interface of a route lookup.
    fn interface(&self, question: &[u8]) -> Option<u32> {
        let route = lock(&self.0).ask(libc::RTM_GETROUTE, question).ok()?;
        number(&route, RTMSG, libc::RTA_OIF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_lookup_finds_the_interface() {
        let routes = Routes::new().unwrap();
        for address in [IpAddr::from([127, 0, 0, 2]), "::1".parse().unwrap()] {
            assert!(routes.leave_by(address, 1, 0));
            assert!(!routes.leave_by(address, 2, 0));
        }
    }

    #[test]
    fn a_source_is_valid_if_packets_leave_by_the_same_link() {
        let routes = Routes::new().unwrap();
        let suits = |address, interface| {
            let source = Source::V4 { address, interface };
            routes.keep_source(&Endpoint { source, ..Endpoint::new(([127, 0, 0, 1], 1).into()) }, 0)
        };
        assert!(suits([127, 0, 0, 2], 1));
        assert!(!suits([127, 0, 0, 2], 2));
        assert!(!suits([192, 0, 2, 1], 1), "an address that is not ours");
    }
}
