//! The answer to a packet without a peer: "host unreachable", as the kernel's `wg_xmit` sends it.

use crate::checksum;
use crate::headers::{Header, ICMP, ICMPV6, Icmp, Ip, Ipv4, Ipv6};

const HOP_LIMIT: u8 = 64;
/// The DS field of the kernel's ICMP errors over IPv4: network control (`icmp_send`).
const TOS: u8 = 0xc0;
/// The extension headers of IPv6 that may precede ICMPv6.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// The type and code of "host unreachable" (RFC 792), and of "address unreachable" (RFC 4443).
const HOST_UNREACHABLE_V4: (u8, u8) = (3, 1);
const ADDRESS_UNREACHABLE_V6: (u8, u8) = (1, 3);
/// The most bytes of an answer. An ICMPv6 error fits the smallest MTU of IPv6 (RFC 4443); the kernel answers IPv4 within
/// 576 bytes (RFC 1812).
const MAX_V6: usize = 1280;
const MAX_V4: usize = 576;

/// The ICMP error for a packet; `None` if none may be sent (RFC 1122, RFC 4443: not for ICMP errors, multicast, later
/// fragments).
pub fn unreachable(packet: &[u8]) -> Option<Vec<u8>> {
    match Ip::of(packet)? {
        Ip::V4(ip) => unreachable_v4(ip, packet),
        Ip::V6(ip) => unreachable_v6(ip, packet),
    }
}

fn unreachable_v4(ip: &Ipv4, packet: &[u8]) -> Option<Vec<u8>> {
    let header = ip.header_len();
    if header < Ipv4::LEN || packet.len() < header {
        return None;
    }
    // Multicast, broadcast and reserved addresses, "this host", and loopback.
    let is_no_host = |address: [u8; 4]| address[0] >= 224 || address[0] == 0 || address[0] == 127;
    if ip.is_later_fragment() || is_no_host(ip.source()) || is_no_host(ip.destination()) {
        return None;
    }
    // Other types, such as echo and timestamp, are not errors.
    if ip.protocol == ICMP && matches!(packet.get(header), None | Some(3..=5 | 11 | 12)) {
        return None;
    }
    let quoted = &packet[..packet.len().min(MAX_V4 - Ipv4::LEN - Icmp::LEN)];
    let mut answer = vec![0; Ipv4::LEN + Icmp::LEN];
    answer.extend(quoted);
    let total = answer.len();
    let (header, body) = answer.split_at_mut(Ipv4::LEN);
    let to = Ipv4::at_mut(header, 0);
    (to.version_and_length, to.tos, to.ttl, to.protocol) = (0x45, TOS, HOP_LIMIT, ICMP);
    to.total_length.set(total as u16);
    to.addresses = swapped(ip.addresses);
    let sum = checksum::finish(checksum::add(0, header));
    Ipv4::at_mut(header, 0).checksum = sum;
    finish(body, HOST_UNREACHABLE_V4, 0);
    Some(answer)
}

fn unreachable_v6(ip: &Ipv6, packet: &[u8]) -> Option<Vec<u8>> {
    let (source, destination) = (ip.source(), ip.destination());
    if source[0] == 0xff || source == [0; 16] || destination[0] == 0xff || !may_be_answered_v6(ip, packet) {
        return None;
    }
    let quoted = &packet[..packet.len().min(MAX_V6 - Ipv6::LEN - Icmp::LEN)];
    let mut answer = vec![0; Ipv6::LEN + Icmp::LEN];
    answer.extend(quoted);
    let (header, body) = answer.split_at_mut(Ipv6::LEN);
    let to = Ipv6::at_mut(header, 0);
    to.class_and_flow = [0x60, 0, 0, 0];
    (to.next_header, to.hop_limit) = (ICMPV6, HOP_LIMIT);
    to.payload_length.set(body.len() as u16);
    to.addresses = swapped(ip.addresses);
    finish(body, ADDRESS_UNREACHABLE_V6, checksum::pseudo(&to.addresses, ICMPV6, body.len()));
    Some(answer)
}

/// Source and destination exchanged.
fn swapped<const LEN: usize>(mut addresses: [u8; LEN]) -> [u8; LEN] {
    addresses.rotate_left(LEN / 2);
    addresses
}

/// Writes type, code and checksum of an ICMP error. `sum` is the sum of its pseudo-header, if it has one.
fn finish(body: &mut [u8], (kind, code): (u8, u8), sum: u64) {
    let icmp = Icmp::at_mut(body, 0);
    (icmp.kind, icmp.code) = (kind, code);
    let sum = checksum::finish(checksum::add(sum, body));
    Icmp::at_mut(body, 0).checksum = sum;
}

/// Skips the extension headers to find the type of an ICMPv6 message. Their lengths are in units of eight bytes.
fn may_be_answered_v6(ip: &Ipv6, packet: &[u8]) -> bool {
    let (mut header, mut at) = (ip.next_header, Ipv6::LEN);
    while matches!(header, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
        let Some(&[next, len, high, low]) = packet.get(at..at + 4) else {
            return false;
        };
        let is_fragment = header == FRAGMENT;
        if is_fragment && u16::from_be_bytes([high, low]) >> 3 != 0 {
            return false;
        }
        at += if is_fragment { 8 } else { 8 * (usize::from(len) + 1) };
        header = next;
    }
    // ICMPv6 errors have types below 128.
    header != ICMPV6 || packet.get(at).is_some_and(|&kind| kind >= 128)
}

/// Limits the rate of answers with a token bucket, to the kernel's defaults (`icmp_msgs_per_sec` and `icmp_msgs_burst`).
pub(crate) struct Limit {
    tokens: u64,
    /// When tokens were last added, in milliseconds of `now_ms`.
    filled: u64,
}

const BURST: u64 = 50;
const MS_PER_TOKEN: u64 = 1;

impl Default for Limit {
    fn default() -> Self {
        Self { tokens: BURST, filled: 0 }
    }
}

impl Limit {
    /// Takes a token. Returns false if there is none. `now` is in milliseconds of `now_ms`.
    pub(crate) fn allows(&mut self, now: u64) -> bool {
        let gained = now.saturating_sub(self.filled) / MS_PER_TOKEN;
        if gained > 0 {
            self.tokens = (self.tokens + gained).min(BURST);
            self.filled = now;
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp_v4() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend([0; 8]);
        packet
    }

    #[test]
    fn the_answer_to_ipv4_quotes_the_packet_with_correct_checksums() {
        let answer = unreachable(&udp_v4()).unwrap();
        assert_eq!(answer[12..20], [10, 0, 0, 2, 10, 0, 0, 1]);
        assert_eq!(answer[20..22], [3, 1]);
        assert_eq!(answer[28..], udp_v4());
        assert_eq!(checksum::fold(checksum::add(0, &answer[..20])), 0xffff);
        assert_eq!(checksum::fold(checksum::add(0, &answer[20..])), 0xffff);
    }

    #[test]
    fn the_answer_to_ipv6_fits_the_minimum_mtu() {
        let mut packet = vec![0x60, 0, 0, 0, 5, 0xb4, 17, 64];
        packet.extend([0xfd; 16]);
        packet.extend([0x20; 16]);
        packet.extend([7; 1460]);
        let answer = unreachable(&packet).unwrap();
        assert_eq!(answer.len(), 1280);
        assert_eq!(answer[40..42], [1, 3]);
        let sum = checksum::pseudo(&answer[8..40], ICMPV6, answer.len() - 40);
        assert_eq!(checksum::fold(checksum::add(sum, &answer[40..])), 0xffff);
    }

    #[test]
    fn errors_multicast_and_later_fragments_get_no_answer() {
        let mut error = udp_v4();
        (error[9], error[20]) = (ICMP, 3);
        assert!(unreachable(&error).is_none());
        error[20] = 8;
        assert!(unreachable(&error).is_some());
        let mut group = udp_v4();
        group[16] = 224;
        assert!(unreachable(&group).is_none());
        let mut fragment = udp_v4();
        fragment[7] = 1;
        assert!(unreachable(&fragment).is_none());
        assert!(unreachable(&[0x45]).is_none() && unreachable(&[]).is_none());
    }

    /// A packet with extension headers before an ICMPv6 message of a type.
    fn icmp_v6(headers: &[(u8, &[u8])], kind: u8) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, ICMPV6, 64];
        packet.extend([0xfd; 16]);
        packet.extend([0x20; 16]);
        let mut names_next = 6;
        for (header, rest) in headers {
            packet[names_next] = *header;
            names_next = packet.len();
            packet.push(ICMPV6);
            packet.extend(*rest);
        }
        packet.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        packet
    }

    #[test]
    fn an_icmpv6_error_is_found_after_extension_headers() {
        let (options, routing): (&[u8], &[u8]) = (&[0, 1, 4, 0, 0, 0, 0], &[1; 15]);
        let (first, later): (&[u8], &[u8]) = (&[0, 0, 1, 0, 0, 0, 9], &[0, 0, 8, 0, 0, 0, 9]);
        for headers in [
            &[][..],
            &[(HOP_BY_HOP, options)],
            &[(DESTINATION_OPTIONS, options), (ROUTING, routing)],
            &[(HOP_BY_HOP, options), (FRAGMENT, first)],
        ] {
            assert!(unreachable(&icmp_v6(headers, 1)).is_none(), "{headers:?}");
            assert!(unreachable(&icmp_v6(headers, 128)).is_some(), "{headers:?}");
            let whole = icmp_v6(headers, 128);
            assert!((40..whole.len() - 7).all(|len| unreachable(&whole[..len]).is_none()));
        }
        assert!(unreachable(&icmp_v6(&[(FRAGMENT, later)], 128)).is_none());
    }

    #[test]
    fn the_rate_of_answers_is_limited() {
        let mut limit = Limit::default();
        let answered = (0..10_000).filter(|_| limit.allows(5)).count();
        assert_eq!(answered, 50);
        assert!(limit.allows(6));
    }
}
