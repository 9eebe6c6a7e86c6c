//! The fields of an inner IP packet that the tunnel reads.

use std::net::IpAddr;

use crate::checksum;
use crate::headers::{Header, Ip, Ipv4, Ipv6};

/// The ECN bits of a packet: "congestion experienced" when both are set (RFC 3168).
pub(crate) const ECN_MASK: u8 = 3;
pub(crate) const ECN_CE: u8 = 3;
pub(crate) const ECN_ECT0: u8 = 2;

/// An address of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Address {
    pub fn ip(self) -> IpAddr {
        match self {
            Self::V4(address) => address.into(),
            Self::V6(address) => address.into(),
        }
    }
}

/// The destination of a packet; `None` if it is not IP or too short.
#[inline]
pub fn destination(packet: &[u8]) -> Option<Address> {
    match Ip::of(packet)? {
        Ip::V4(ip) => Some(Address::V4(ip.destination())),
        Ip::V6(ip) => Some(Address::V6(ip.destination())),
    }
}

/// The source of a packet; `None` if it is not IP or too short.
#[inline]
pub fn source(packet: &[u8]) -> Option<Address> {
    match Ip::of(packet)? {
        Ip::V4(ip) => Some(Address::V4(ip.source())),
        Ip::V6(ip) => Some(Address::V6(ip.source())),
    }
}

/// The length in bytes that the packet's header gives, without the padding. `None` if the packet is not IP, too short, or
/// shorter than that length.
#[inline]
pub fn claimed_len(packet: &[u8]) -> Option<usize> {
    let len = match Ip::of(packet)? {
        Ip::V4(ip) => usize::from(ip.total_length.get()),
        Ip::V6(ip) => usize::from(ip.payload_length.get()) + Ipv6::LEN,
    };
    (Ipv4::LEN..=packet.len()).contains(&len).then_some(len)
}

/// The ECN bits of a packet with a complete header.
#[inline]
pub fn ecn(packet: &[u8]) -> u8 {
    ECN_MASK & if packet[0] >> 4 == 4 { packet[1] } else { packet[1] >> 4 }
}

/// The ECN bits of the outer packet (`ip_tunnel_ecn_encap` of the kernel, for a DS field of zero).
#[inline]
pub(crate) fn outer_ecn(packet: &[u8]) -> u8 {
    match ecn(packet) {
        ECN_CE => ECN_ECT0,
        other => other,
    }
}

/// Marks a packet as having experienced congestion (`IP_ECN_set_ce`), if its sender supports ECN.
#[inline]
pub fn mark_congestion(packet: &mut [u8]) {
    let old = ecn(packet);
    if old == 0 || old == ECN_CE {
        return;
    }
    if packet[0] >> 4 == 6 {
        packet[1] |= ECN_CE << 4;
        return;
    }
    let ip = Ipv4::at_mut(packet, 0);
    let before = [ip.version_and_length, ip.tos];
    ip.tos |= ECN_CE;
    ip.checksum = checksum::replace(ip.checksum, before, [ip.version_and_length, ip.tos]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(tos: u8) -> Vec<u8> {
        let mut packet = vec![0x45, tos, 0, 20, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let sum = checksum::finish(checksum::add(0, &packet));
        packet[10..12].copy_from_slice(&sum);
        packet
    }

    #[test]
    fn congestion_is_marked_on_ecn_capable_packets_only() {
        for (before, after) in [(0, 0), (1, 3), (2, 3), (3, 3)] {
            let mut packet = packet(before);
            mark_congestion(&mut packet);
            assert_eq!(packet[1], after);
            assert_eq!(checksum::fold(checksum::add(0, &packet)), 0xffff);
        }
    }

    /// The difference between the checksum of a header and the correct one.
    fn error(header: &[u8]) -> u16 {
        !checksum::fold(checksum::add(0, header))
    }

    proptest! {
        #[test]
        fn a_wrong_checksum_stays_wrong_by_the_same_difference(mut header: [u8; 60], words in 5u8..=15) {
            header[0] = 0x40 | words;
            let len = usize::from(words) * 4;
            let before = error(&header[..len]);
            mark_congestion(&mut header);
            prop_assert_eq!(error(&header[..len]), before);
        }
    }

    #[test]
    fn the_length_in_the_header_excludes_padding() {
        let mut padded = packet(0);
        padded.extend([0; 12]);
        assert_eq!(claimed_len(&padded), Some(20));
        padded[3] = 200;
        assert_eq!(claimed_len(&padded), None);
        assert_eq!(claimed_len(&[]), None);
        assert_eq!(destination(&padded), Some(Address::V4([10, 0, 0, 2])));
        assert_eq!(source(&[0x60; 39]), None);
    }

    /// Tests every length, first byte and claimed length.
    #[test]
    fn only_complete_headers_and_possible_lengths_are_accepted() {
        for (len, first) in (0..=64_usize).flat_map(|len| (0..=u8::MAX).map(move |first| (len, first))) {
            let mut packet = vec![0; len];
            packet.iter_mut().take(1).for_each(|to| *to = first);
            let header = match first >> 4 {
                4 => 20,
                6 => 40,
                _ => usize::MAX,
            };
            assert_eq!(destination(&packet).is_some(), len >= header);
            assert_eq!(source(&packet).is_some(), len >= header);
            for claim in (0..=70_u16).chain([u16::MAX]).filter(|_| first & 0xf == 5) {
                let (at, more) = if first >> 4 == 4 { (2, 0) } else { (4, 40) };
                if let Some(field) = packet.get_mut(at..at + 2) {
                    field.copy_from_slice(&claim.to_be_bytes());
                }
                let claimed = usize::from(claim) + more;
                let believed = len >= header && (20..=len).contains(&claimed);
                assert_eq!(claimed_len(&packet), believed.then_some(claimed), "{first:#x}, {len} bytes");
            }
        }
    }
}
