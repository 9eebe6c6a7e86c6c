//! Splits large packets of the kernel with unfinished checksums into packets for the wire.

use std::mem::offset_of;

use super::VnetHeader;
use crate::checksum;
use crate::headers::{Header, Ip, Ipv4, Ipv6, TCP, Tcp, UDP, Udp};

/// A large packet and the position of the next packet to write.
pub struct Splitter<'a> {
    packet: &'a [u8],
    kind: Kind,
    /// The payload bytes that are already written.
    done: usize,
    index: u16,
}

enum Kind {
    /// The packet is copied as it is, and its checksum is finished.
    Whole {
        checksum: Option<Unfinished>,
    },
    Segments(Layout),
}

/// A checksum that the kernel left to the device. The field has the sum of the pseudo-header.
#[derive(Clone, Copy)]
struct Unfinished {
    /// The offset of the bytes that the checksum covers.
    start: usize,
    /// The offset of the checksum field from there.
    field: usize,
}

struct Layout {
    protocol: u8,
    /// The offset of the TCP or UDP header.
    transport: usize,
    /// The offset of the payload.
    payload: usize,
    /// The payload length of each segment but the last.
    size: usize,
    /// The sum of the pseudo-header without its length.
    pseudo: u64,
}

impl<'a> Splitter<'a> {
    /// `None` for a packet that is not IP or contradicts its virtio header.
    pub fn new(header: &VnetHeader, packet: &'a [u8]) -> Option<Self> {
        let ip = Ip::of(packet)?;
        let kind = match header.gso_type & !VnetHeader::GSO_ECN {
            VnetHeader::GSO_NONE => whole(header, packet)?,
            VnetHeader::GSO_TCPV4 | VnetHeader::GSO_TCPV6 => Kind::Segments(layout(header, packet, ip, TCP)?),
            VnetHeader::GSO_UDP_L4 => Kind::Segments(layout(header, packet, ip, UDP)?),
            _ => return None,
        };
        Some(Self { packet, kind, done: 0, index: 0 })
    }

    /// The ECN bits of the outer packets.
    pub(crate) fn outer_ecn(&self) -> u8 {
        crate::packet::outer_ecn(self.packet)
    }

    /// The length of the next packet; `None` after the last one.
    pub fn next_len(&self) -> Option<usize> {
        match &self.kind {
            Kind::Whole { .. } => (self.index == 0).then_some(self.packet.len()),
            Kind::Segments(layout) => {
                let left = self.packet.len() - layout.payload - self.done;
                (left > 0 || self.index == 0).then_some(layout.payload + left.min(layout.size))
            }
        }
    }

    /// Writes the next packet. `out` must have the length that `next_len` returned.
    pub fn write(&mut self, out: &mut [u8]) {
        match &self.kind {
            Kind::Whole { checksum } => {
                out.copy_from_slice(self.packet);
                if let Some(Unfinished { start, field }) = *checksum {
                    let sum = checksum::add(0, &out[start..]);
                    put_checksum(&mut out[start..], field, sum);
                }
            }
            Kind::Segments(layout) => {
                let len = out.len() - layout.payload;
                let last = layout.payload + self.done + len == self.packet.len();
                layout.segment(self.packet, out, self.done, self.index, last);
                self.done += len;
            }
        }
        self.index = self.index.wrapping_add(1);
    }
}

/// The offsets of the checksum field in the headers of TCP and UDP. They also distinguish the protocols.
pub(crate) const TCP_CHECKSUM: usize = offset_of!(Tcp, checksum);
pub(crate) const UDP_CHECKSUM: usize = offset_of!(Udp, checksum);

fn checksum_of(protocol: u8) -> usize {
    if protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM }
}

/// Writes a checksum. For UDP a zero means "no checksum", so a computed zero is written as 0xffff.
fn put_checksum(transport: &mut [u8], at: usize, sum: u64) {
    let field = match checksum::finish(sum) {
        [0, 0] if at == UDP_CHECKSUM => [0xff, 0xff],
        field => field,
    };
    transport[at..at + 2].copy_from_slice(&field);
}

/// A packet that is not split; `None` if its virtio header points outside it.
fn whole(header: &VnetHeader, packet: &[u8]) -> Option<Kind> {
    if header.flags & VnetHeader::NEEDS_CSUM == 0 {
        return Some(Kind::Whole { checksum: None });
    }
    let (start, field) = (usize::from(header.csum_start), usize::from(header.csum_offset));
    let is_inside = start + field + 2 <= packet.len();
    is_inside.then_some(Kind::Whole { checksum: Some(Unfinished { start, field }) })
}

/// The positions in a packet to split; `None` if it contradicts its virtio header.
fn layout(header: &VnetHeader, packet: &[u8], ip: Ip<'_>, protocol: u8) -> Option<Layout> {
    let transport = usize::from(header.csum_start);
    let size = usize::from(header.gso_size);
    if transport < ip.header_len() || size == 0 {
        return None;
    }
    let rest = packet.get(transport..)?;
    let (header_len, partial) = match protocol {
        TCP => {
            Tcp::of(rest).map(|tcp| (tcp.header_len(), tcp.checksum)).filter(|(len, _)| *len >= Tcp::LEN)?
        }
        _ => Udp::of(rest).map(|udp| (Udp::LEN, udp.checksum))?,
    };
    if header_len > rest.len() {
        return None;
    }
    let pseudo = if transport == ip.header_len() {
        checksum::pseudo(ip.addresses(), protocol, 0)
    } else {
        // With a source route or a routing header, the pseudo-header has the final address and not the destination. The
        // kernel's sum in the checksum field uses the final address and the length of the whole packet.
        u64::from(u16::from_ne_bytes(partial)) + u64::from((!(rest.len() as u16)).to_be())
    };
    Some(Layout { protocol, transport, payload: transport + header_len, size, pseudo })
}

impl Layout {
    /// Writes a segment. `done` is the number of payload bytes in the segments before it.
    fn segment(&self, packet: &[u8], out: &mut [u8], done: usize, index: u16, last: bool) {
        let (headers, body) = out.split_at_mut(self.payload);
        headers.copy_from_slice(&packet[..self.payload]);
        let from = self.payload + done;
        body.copy_from_slice(&packet[from..from + body.len()]);
        let (ip, transport) = headers.split_at_mut(self.transport);
        let len = transport.len() + body.len();
        ip_header(ip, len, index);
        match self.protocol {
            TCP => tcp_header(Tcp::at_mut(transport, 0), done, index == 0, last),
            _ => udp_header(Udp::at_mut(transport, 0), len),
        }
        let sum = self.pseudo + u64::from((len as u16).to_be());
        let sum = checksum::add(checksum::add(sum, transport), body);
        put_checksum(transport, checksum_of(self.protocol), sum);
    }
}

/// Sets the length, and for IPv4 the identification and the checksum, as the kernel's `inet_gso_segment` does. `len` is the
/// length of the transport header and the payload.
fn ip_header(headers: &mut [u8], len: usize, index: u16) {
    let total = headers.len() + len;
    if headers[0] >> 4 == 6 {
        Ipv6::at_mut(headers, 0).payload_length.set((total - Ipv6::LEN) as u16);
        return;
    }
    let ip = Ipv4::at_mut(headers, 0);
    ip.total_length.set(total as u16);
    ip.identification.set(ip.identification.get().wrapping_add(index));
    ip.checksum = [0; 2];
    let sum = checksum::finish(checksum::add(0, headers));
    Ipv4::at_mut(headers, 0).checksum = sum;
}

/// Sets the sequence number and the flags, as the kernel's `tcp_gso_segment` does.
fn tcp_header(tcp: &mut Tcp, done: usize, first: bool, last: bool) {
    tcp.sequence.set(tcp.sequence.get().wrapping_add(done as u32));
    if !last {
        tcp.flags &= !(Tcp::FIN | Tcp::PSH);
    }
    if !first {
        tcp.flags &= !Tcp::CWR;
    }
    tcp.checksum = [0; 2];
}

fn udp_header(udp: &mut Udp, len: usize) {
    udp.length.set(len as u16);
    udp.checksum = [0; 2];
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(header: &VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::new(header, packet).expect("a packet");
        let mut packets = Vec::new();
        while let Some(len) = splitter.next_len() {
            packets.push(vec![0; len]);
            splitter.write(packets.last_mut().expect("just pushed"));
        }
        packets
    }

    /// An IPv6 UDP packet with an unfinished checksum: the field holds the sum of the pseudo-header.
    fn udp(payload: usize) -> Vec<u8> {
        let len = 8 + payload;
        let mut packet = vec![0x60, 0, 0, 0, (len >> 8) as u8, len as u8, UDP, 64];
        packet.extend([0xfd; 32]);
        packet.extend([0, 1, 0, 2, (len >> 8) as u8, len as u8]);
        packet.extend(checksum::fold(checksum::pseudo(&[0xfd; 32], UDP, len)).to_ne_bytes());
        packet.extend((0..payload).map(|i| i as u8));
        packet
    }

    fn header(gso_type: u8, gso_size: u16) -> VnetHeader {
        VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            gso_type,
            header_len: 48,
            gso_size,
            csum_start: 40,
            csum_offset: 6,
        }
    }

    fn is_right(packet: &[u8]) -> bool {
        let sum = checksum::pseudo(&packet[8..40], UDP, packet.len() - 40);
        checksum::fold(checksum::add(sum, &packet[40..])) == 0xffff
            && usize::from(u16::from_be_bytes([packet[4], packet[5]])) == packet.len() - 40
            && packet[4..6] == packet[44..46]
    }

    #[test]
    fn an_unfinished_checksum_is_finished() {
        let packets = split(&header(VnetHeader::GSO_NONE, 0), &udp(33));
        assert_eq!(packets.len(), 1);
        assert!(is_right(&packets[0]));
    }

    #[test]
    fn a_large_datagram_is_split_into_datagrams_of_the_given_size() {
        let packets = split(&header(VnetHeader::GSO_UDP_L4, 100), &udp(250));
        assert_eq!(packets.iter().map(|p| p.len() - 48).collect::<Vec<_>>(), [100, 100, 50]);
        assert!(packets.iter().all(|p| is_right(p)));
        assert_eq!(packets[2][48..], udp(250)[248..]);
    }

    #[test]
    fn checksums_of_routed_packets_use_the_final_address() {
        let (plain, end) = (udp(250), [0x20; 16]);
        let mut packet = plain[..40].to_vec();
        packet[6] = 43;
        // A routing header with one more segment (RFC 8754): the final address.
        packet.extend([UDP, 2, 4, 1, 0, 0, 0, 0]);
        packet.extend(end);
        packet.extend(&plain[40..]);
        let pseudo = |len: usize| checksum::add(checksum::pseudo(&packet[8..24], UDP, len), &end);
        let sum = checksum::fold(pseudo(258)).to_ne_bytes();
        let mut large = packet.clone();
        large[70..72].copy_from_slice(&sum);
        let packets = split(&VnetHeader { csum_start: 64, ..header(VnetHeader::GSO_UDP_L4, 100) }, &large);
        assert_eq!(packets.iter().map(Vec::len).collect::<Vec<_>>(), [172, 172, 122]);
        for packet in packets {
            let datagram = &packet[64..];
            assert_eq!(checksum::fold(checksum::add(pseudo(datagram.len()), datagram)), 0xffff);
        }
    }

    #[test]
    fn headers_that_contradict_the_packet_are_rejected() {
        let packet = udp(100);
        let refused = |header: VnetHeader, packet: &[u8]| Splitter::new(&header, packet).is_none();
        assert!(refused(header(VnetHeader::GSO_UDP_L4, 0), &packet));
        assert!(refused(VnetHeader { csum_start: 20, ..header(VnetHeader::GSO_UDP_L4, 100) }, &packet));
        assert!(refused(VnetHeader { csum_start: 147, ..header(VnetHeader::GSO_NONE, 0) }, &packet));
        assert!(refused(header(VnetHeader::GSO_UDP_L4, 100), &packet[..44]));
        assert!(refused(header(3, 100), &packet));
        assert!(refused(VnetHeader::default(), &[]) && refused(VnetHeader::default(), &[0x20; 60]));
    }

    /// Tests every small length.
    mod exhaustive {
        use super::*;

        /// A large packet with its offsets of the transport header and the payload.
        fn large(protocol: u8, v6: bool, options: usize, payload: usize) -> (Vec<u8>, usize, usize) {
            let ip = if v6 { 40 } else { 20 };
            let transport = if protocol == TCP { 20 + 4 * options } else { 8 };
            let mut packet = vec![0; ip];
            let total = ip + transport + payload;
            if v6 {
                (packet[0], packet[6]) = (0x60, protocol);
                packet[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
                packet[8..40].fill(0xfd);
            } else {
                (packet[0], packet[9]) = (0x45, protocol);
                packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
                packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
            }
            packet.extend(vec![0; transport]);
            if protocol == TCP {
                packet[ip + 12] = ((5 + options) << 4) as u8;
                packet[ip + 13] = Tcp::FIN | Tcp::PSH | Tcp::CWR;
            }
            packet.extend((0..payload).map(|i| i as u8 + 1));
            (packet, ip, ip + transport)
        }

        /// Checks a segment as a receiver does.
        fn check(segment: &[u8], ip: usize, protocol: u8) {
            let v6 = segment[0] >> 4 == 6;
            let claimed = crate::packet::claimed_len(segment);
            assert_eq!(claimed, Some(segment.len()));
            assert!(v6 || checksum::fold(checksum::add(0, &segment[..ip])) == 0xffff);
            let pseudo = checksum::pseudo(Ip::of(segment).unwrap().addresses(), protocol, segment.len() - ip);
            assert_eq!(checksum::fold(checksum::add(pseudo, &segment[ip..])), 0xffff);
            if protocol == UDP {
                assert_eq!(
                    usize::from(u16::from_be_bytes([segment[ip + 4], segment[ip + 5]])),
                    segment.len() - ip
                );
            }
        }

        fn check_split(protocol: u8, v6: bool, options: usize, payload: usize, size: usize) {
            let (packet, ip, body) = large(protocol, v6, options, payload);
            let gso_type = if protocol == TCP { VnetHeader::GSO_TCPV4 } else { VnetHeader::GSO_UDP_L4 };
            let header = VnetHeader { csum_start: ip as u16, ..super::header(gso_type, size as u16) };
            let segments = split(&header, &packet);
            assert_eq!(segments.len(), payload.div_ceil(size).max(1));
            for (i, segment) in segments.iter().enumerate() {
                let (first, last) = (i == 0, i + 1 == segments.len());
                check(segment, ip, protocol);
                assert!(last || segment.len() == body + size);
                if protocol == TCP {
                    assert_eq!(Tcp::at(segment, ip).sequence.get() as usize, i * size);
                    let flags = if last { Tcp::FIN | Tcp::PSH } else { 0 } | if first { Tcp::CWR } else { 0 };
                    assert_eq!(segment[ip + 13], flags);
                }
            }
            let bodies: Vec<u8> = segments.iter().flat_map(|segment| segment[body..].to_vec()).collect();
            assert_eq!(bodies, packet[body..]);
        }

        #[test]
        fn every_small_payload_is_split_by_every_small_size() {
            for v6 in [false, true] {
                for (payload, size) in (0..=24).flat_map(|payload| (1..=25).map(move |size| (payload, size)))
                {
                    check_split(UDP, v6, 0, payload, size);
                    (0..=10).for_each(|options| check_split(TCP, v6, options, payload, size));
                }
            }
        }

        /// Splits a packet that is not rejected. Checks that nothing panics and that it ends.
        fn exhaust(header: &VnetHeader, packet: &[u8]) {
            let Some(mut splitter) = Splitter::new(header, packet) else { return };
            for _ in 0..=packet.len() {
                let Some(len) = splitter.next_len() else { return };
                assert!(len <= packet.len());
                splitter.write(&mut vec![0; len]);
            }
            panic!("there is no end to {header:?} with {packet:02x?}");
        }

        #[test]
        fn no_virtio_header_causes_a_read_outside_a_short_packet() {
            let lens = || (0..=64_usize).flat_map(|len| [0x00, 0x45, 0x4f, 0x60].map(|first| (len, first)));
            for (len, first) in lens() {
                for start in 0..=66 {
                    for byte in [0x00, 0x40, 0x50, 0xf0] {
                        let mut packet = vec![byte; len];
                        packet.iter_mut().take(1).for_each(|to| *to = first);
                        let header = |gso_type, gso_size| VnetHeader {
                            csum_start: start,
                            ..super::header(gso_type, gso_size)
                        };
                        for size in [0, 1, 7, u16::MAX] {
                            exhaust(&header(VnetHeader::GSO_TCPV4, size), &packet);
                            exhaust(&header(VnetHeader::GSO_UDP_L4, size), &packet);
                        }
                        for csum_offset in (0..=66).filter(|_| byte == 0).chain([u16::MAX]) {
                            exhaust(&VnetHeader { csum_offset, ..header(VnetHeader::GSO_NONE, 0) }, &packet);
                        }
                    }
                }
            }
        }
    }
}
