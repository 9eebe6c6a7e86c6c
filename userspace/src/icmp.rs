//! The answer to a packet without a peer: "host unreachable", as the kernel's `wg_xmit` sends it.

use crate::checksum;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const HOP_LIMIT: u8 = 64;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// An ICMPv6 error fits the smallest MTU of IPv6 (RFC 4443); the kernel answers IPv4 within 576 bytes (RFC 1812).
const MAX_V6: usize = 1280;
const MAX_V4: usize = 576;

/// The ICMP error for a packet; `None` if none may be sent (RFC 1122, RFC 4443: not for ICMP errors, multicast, later
/// fragments).
pub fn unreachable(packet: &[u8]) -> Option<Vec<u8>> {
    match packet.first()? >> 4 {
        4 => unreachable_v4(packet),
        6 => unreachable_v6(packet),
        _ => None,
    }
}

fn unreachable_v4(packet: &[u8]) -> Option<Vec<u8>> {
    let header = usize::from(packet[0] & 15) * 4;
    if header < 20 || packet.len() < header {
        return None;
    }
    let (source, destination) = (&packet[12..16], &packet[16..20]);
    let is_later_fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff != 0;
    let is_group = |address: &[u8]| address[0] >= 224 || address[0] == 0 || address[0] == 127;
    if is_later_fragment || is_group(source) || is_group(destination) {
        return None;
    }
    // Other types, such as echo and timestamp, are not errors.
    if packet[9] == ICMP && matches!(packet.get(header), None | Some(3..=5 | 11 | 12)) {
        return None;
    }
    let quoted = &packet[..packet.len().min(MAX_V4 - 28)];
    let total = 28 + quoted.len();
    let mut answer = vec![0x45, 0xc0, 0, 0, 0, 0, 0, 0, HOP_LIMIT, ICMP, 0, 0];
    answer[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    answer.extend(destination);
    answer.extend(source);
    let sum = checksum::finish(checksum::add(0, &answer));
    answer[10..12].copy_from_slice(&sum);
    // Destination unreachable, host unreachable.
    answer.extend([3, 1, 0, 0, 0, 0, 0, 0]);
    answer.extend(quoted);
    let sum = checksum::finish(checksum::add(0, &answer[20..]));
    answer[22..24].copy_from_slice(&sum);
    Some(answer)
}

fn unreachable_v6(packet: &[u8]) -> Option<Vec<u8>> {
    if packet.len() < 40 {
        return None;
    }
    let (source, destination) = (&packet[8..24], &packet[24..40]);
    if source[0] == 0xff || source == [0; 16] || destination[0] == 0xff {
        return None;
    }
    if !may_be_answered_v6(packet) {
        return None;
    }
    let quoted = &packet[..packet.len().min(MAX_V6 - 48)];
    let len = 8 + quoted.len();
    let mut answer = vec![0x60, 0, 0, 0, 0, 0, ICMPV6, HOP_LIMIT];
    answer[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    answer.extend(destination);
    answer.extend(source);
    // Destination unreachable, address unreachable.
    answer.extend([1, 3, 0, 0, 0, 0, 0, 0]);
    answer.extend(quoted);
    let sum = checksum::pseudo(&answer[8..40], ICMPV6, len);
    let field = checksum::finish(checksum::add(sum, &answer[40..]));
    answer[42..44].copy_from_slice(&field);
    Some(answer)
}

/// Skips the extension headers to find the type of an ICMPv6 message. Their lengths are in units of eight bytes.
fn may_be_answered_v6(packet: &[u8]) -> bool {
    let (mut header, mut at) = (packet[6], 40);
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

/// Limits the rate of answers with a token bucket.
pub(crate) struct Limit {
    tokens: u64,
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
