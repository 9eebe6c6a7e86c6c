//! The few fields of an inner IP packet that a tunnel looks at.

use std::net::IpAddr;

use crate::checksum;

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

fn v4(packet: &[u8], at: usize) -> Option<Address> {
    packet.get(at..at + 4)?.try_into().ok().map(Address::V4)
}

fn v6(packet: &[u8], at: usize) -> Option<Address> {
    packet.get(at..at + 16)?.try_into().ok().map(Address::V6)
}

/// Where a packet goes; none for what is not IP or too short.
#[inline]
pub fn destination(packet: &[u8]) -> Option<Address> {
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 => v4(packet, 16),
        6 if packet.len() >= 40 => v6(packet, 24),
        _ => None,
    }
}

/// Where a packet comes from.
#[inline]
pub fn source(packet: &[u8]) -> Option<Address> {
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 => v4(packet, 12),
        6 if packet.len() >= 40 => v6(packet, 8),
        _ => None,
    }
}

/// The length that the packet itself claims, without the padding behind it; none where it cannot be true.
#[inline]
pub fn claimed_len(packet: &[u8]) -> Option<usize> {
    let len = match packet.first()? >> 4 {
        4 if packet.len() >= 20 => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
        6 if packet.len() >= 40 => usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40,
        _ => return None,
    };
    (20..=packet.len()).contains(&len).then_some(len)
}

/// The ECN bits of a packet whose header is whole.
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

/// Marks a packet that came through congestion (`IP_ECN_set_ce`), where its sender knows what that means.
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
    let before = [packet[0], packet[1]];
    packet[1] |= ECN_CE;
    let field = checksum::replace([packet[10], packet[11]], before, [packet[0], packet[1]]);
    packet[10..12].copy_from_slice(&field);
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
    fn congestion_is_marked_only_for_those_who_understand_it_and_the_checksum_stays_right() {
        for (before, after) in [(0, 0), (1, 3), (2, 3), (3, 3)] {
            let mut packet = packet(before);
            mark_congestion(&mut packet);
            assert_eq!(packet[1], after);
            assert_eq!(checksum::fold(checksum::add(0, &packet)), 0xffff);
        }
    }

    /// How far the checksum of a header is from the right one.
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
    fn a_packet_longer_than_what_came_is_refused_and_padding_is_not_part_of_one() {
        let mut padded = packet(0);
        padded.extend([0; 12]);
        assert_eq!(claimed_len(&padded), Some(20));
        padded[3] = 200;
        assert_eq!(claimed_len(&padded), None);
        assert_eq!(claimed_len(&[]), None);
        assert_eq!(destination(&padded), Some(Address::V4([10, 0, 0, 2])));
        assert_eq!(source(&[0x60; 39]), None);
    }

    /// Every length and first byte of a packet, every length that it can claim.
    #[test]
    fn only_a_whole_header_is_read_and_only_a_length_that_came_is_believed() {
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
