//! Combines the packets of a batch into as few large ones as the kernel accepts: the reverse of `split`.
//!
//! Invariants: if the kernel splits a large packet again, the result is the packets that arrived. Packets of a flow are not
//! reordered: a packet that cannot join its predecessor closes the group. A wrong checksum stays wrong.

use std::io::{self, IoSlice};

use super::split::{Splitter, TCP_CHECKSUM, UDP_CHECKSUM};
use super::{Offloads, VNET_LEN, VnetHeader};
use crate::checksum;
use crate::headers::{Header, Ip, Ipv4, Ipv6, TCP, Tcp, UDP, Udp};

const MAX_LEN: usize = 65_535;
/// The most packets in a large one, within the limit of one write.
const MAX_PIECES: usize = 128;
/// The most datagrams in a large one if the kernel rejects more (`UDP_MAX_SEGMENTS`, before Linux 6.9).
const FEWER_DATAGRAMS: usize = 64;
/// The most groups of a batch that are searched for one that a packet may join.
const MAX_OPEN: usize = 16;

/// A byte range in the buffer of the batch.
#[derive(Clone, Copy)]
struct Piece {
    at: usize,
    len: usize,
}

/// The header positions of a packet that may become part of a large one.
#[derive(Clone, Copy)]
struct Headers {
    protocol: u8,
    /// The offset of the TCP or UDP header.
    transport: usize,
    /// The offset of the payload.
    payload: usize,
    /// A hash of addresses, ports and protocol.
    hash: u64,
}

/// Packets that are written as one.
struct Group {
    first: Piece,
    /// The payloads of the packets after the first one.
    rest: Vec<Piece>,
    headers: Option<Headers>,
    /// The payload length of each packet but the last.
    size: usize,
    /// The length of the whole.
    total: usize,
    /// The most packets that the group may have.
    most: usize,
    next_sequence: u32,
    /// Whether all packets have the same identification. This is allowed only with DF, where it has no meaning (RFC 6864).
    fixed_id: bool,
    /// The FIN and PSH flags of the last packet, which the large packet gets.
    last_flags: u8,
    /// Whether another packet may join.
    open: bool,
    /// Whether the checksums of the first packet were found correct.
    checked: bool,
}

/// The groups of a batch, in the order of their first packets.
pub struct Coalescer {
    offloads: Offloads,
    /// The first `used` groups are of this batch. The others keep their memory for a later one.
    groups: Vec<Group>,
    used: usize,
    /// The number of bytes added since the last flush.
    bytes: usize,
    /// The most datagrams that this kernel accepts in a large packet.
    most_datagrams: usize,
}

fn mix(a: u64, b: u64) -> u64 {
    (a ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

impl Headers {
    fn is_v4(&self) -> bool {
        self.transport == Ipv4::LEN
    }
}

fn hash_v6(addresses: &[u8; 32]) -> u64 {
    addresses.as_chunks().0.iter().fold(0, |sum, part| mix(sum, u64::from_ne_bytes(*part)))
}

/// Finds the headers of a packet; `None` if it has IP options or extension headers, is a fragment or has no payload.
#[inline]
fn headers(packet: &[u8], offloads: Offloads) -> Option<Headers> {
    let (protocol, transport, addresses) = match Ip::of(packet)? {
        Ip::V4(ip) if ip.has_options() || ip.is_fragment() => return None,
        Ip::V4(ip) => (ip.protocol, Ipv4::LEN, u64::from_ne_bytes(ip.addresses)),
        Ip::V6(ip) => (ip.next_header, Ipv6::LEN, hash_v6(&ip.addresses)),
    };
    let rest = &packet[transport..];
    let (ports, len) = match protocol {
        TCP if offloads.tcp => {
            Tcp::of(rest).map(|tcp| (tcp.ports, tcp.header_len())).filter(|(_, len)| *len >= Tcp::LEN)?
        }
        UDP if offloads.udp => (Udp::of(rest)?.ports, Udp::LEN),
        _ => return None,
    };
    (len < rest.len()).then(|| Headers {
        protocol,
        transport,
        payload: transport + len,
        hash: mix(mix(addresses, u64::from(u32::from_be_bytes(ports))), u64::from(protocol)),
    })
}

/// Whether a packet may be part of a large one.
fn is_joinable(packet: &[u8], headers: &Headers) -> bool {
    if headers.protocol == TCP {
        let flags = Tcp::at(packet, headers.transport).flags;
        return flags & (Tcp::SYN | Tcp::RST | Tcp::URG | Tcp::ACK) == Tcp::ACK;
    }
    let udp = Udp::at(packet, headers.transport);
    udp.checksum != [0, 0] && usize::from(udp.length.get()) == packet.len() - headers.transport
}

/// Whether the checksums of a packet are correct.
fn is_intact(packet: &[u8], headers: &Headers) -> bool {
    let (ip, transport) = packet.split_at(headers.transport);
    let is_right = |sum| checksum::fold(sum) == 0xffff;
    let addresses = if headers.is_v4() { &Ipv4::at(ip, 0).addresses[..] } else { &Ipv6::at(ip, 0).addresses };
    let pseudo = checksum::pseudo(addresses, headers.protocol, transport.len());
    (!headers.is_v4() || is_right(checksum::add(0, ip))) && is_right(checksum::add(pseudo, transport))
}

impl Group {
    fn new() -> Self {
        Self {
            first: Piece { at: 0, len: 0 },
            rest: Vec::new(),
            headers: None,
            size: 0,
            total: 0,
            most: MAX_PIECES,
            next_sequence: 0,
            fixed_id: false,
            last_flags: 0,
            open: false,
            checked: false,
        }
    }

    fn start(&mut self, buffer: &[u8], piece: Piece, headers: Option<Headers>) {
        self.first = piece;
        self.rest.clear();
        self.headers = headers;
        self.total = piece.len;
        self.checked = false;
        self.open = false;
        let Some(headers) = headers else { return };
        let packet = &buffer[piece.at..piece.at + piece.len];
        self.size = piece.len - headers.payload;
        self.last_flags = 0;
        self.open = is_joinable(packet, &headers);
        if headers.protocol == TCP {
            let tcp = Tcp::at(packet, headers.transport);
            self.next_sequence = tcp.sequence.get().wrapping_add(self.size as u32);
            self.open &= tcp.flags & (Tcp::FIN | Tcp::PSH) == 0;
        }
    }

    /// Adds a packet of the same flow if it continues the group. Returns whether it did.
    #[inline]
    fn join(&mut self, buffer: &[u8], piece: Piece, headers: &Headers) -> bool {
        let first = &buffer[self.first.at..self.first.at + self.first.len];
        let packet = &buffer[piece.at..piece.at + piece.len];
        if self.headers.is_none_or(|ours| ours.payload != headers.payload) {
            return false;
        }
        let len = piece.len - headers.payload;
        let fits = len <= self.size && self.total + len <= MAX_LEN && self.rest.len() + 1 < self.most;
        if !fits || !self.continues(first, packet, headers) || !is_joinable(packet, headers) {
            return false;
        }
        if !self.checked {
            self.checked = is_intact(first, headers);
        }
        if !self.checked || !is_intact(packet, headers) {
            return false;
        }
        self.rest.push(Piece { at: piece.at + headers.payload, len });
        self.total += len;
        self.next_sequence = self.next_sequence.wrapping_add(len as u32);
        self.open = len == self.size;
        if headers.protocol == TCP {
            self.last_flags = Tcp::at(packet, headers.transport).flags & (Tcp::FIN | Tcp::PSH);
            self.open &= self.last_flags == 0;
        }
        true
    }

    /// Whether the fields that splitting copies are equal to the first packet's, and the fields that it counts up continue.
    fn continues(&mut self, first: &[u8], packet: &[u8], headers: &Headers) -> bool {
        let same_ip = if headers.is_v4() {
            self.continues_v4(Ipv4::at(first, 0), Ipv4::at(packet, 0))
        } else {
            let (first, ip) = (Ipv6::at(first, 0), Ipv6::at(packet, 0));
            ip.class_and_flow == first.class_and_flow
                && ip.next_header == first.next_header
                && ip.hop_limit == first.hop_limit
        };
        same_ip && (headers.protocol == UDP || self.continues_tcp(first, packet, headers))
    }

    fn continues_v4(&mut self, first: &Ipv4, ip: &Ipv4) -> bool {
        let count = self.rest.len() as u16 + 1;
        let (id, first_id) = (ip.identification.get(), first.identification.get());
        if count == 1 {
            self.fixed_id = first.dont_fragment() && id == first_id;
        }
        let expected = if self.fixed_id { first_id } else { first_id.wrapping_add(count) };
        id == expected
            && ip.version_and_length == first.version_and_length
            && ip.tos == first.tos
            && ip.flags_and_offset == first.flags_and_offset
            && ip.ttl == first.ttl
            && ip.protocol == first.protocol
    }

    fn continues_tcp(&self, first: &[u8], packet: &[u8], headers: &Headers) -> bool {
        let options = headers.transport + Tcp::LEN..headers.payload;
        let same_options = packet[options.clone()] == first[options];
        let (first, tcp) = (Tcp::at(first, headers.transport), Tcp::at(packet, headers.transport));
        let may_differ = Tcp::FIN | Tcp::PSH;
        // Splitting sets CWR on the first packet only, so no later one may have it.
        let flags = first.flags & !Tcp::CWR & !may_differ == tcp.flags & !may_differ;
        tcp.sequence.get() == self.next_sequence
            && tcp.acknowledgment == first.acknowledgment
            && tcp.data_offset == first.data_offset
            && flags
            && tcp.window == first.window
            && tcp.urgent == first.urgent
            && same_options
    }

    fn is_flow(&self, buffer: &[u8], packet: &[u8], headers: &Headers) -> bool {
        let Some(ours) = &self.headers else { return false };
        if ours.hash != headers.hash
            || ours.protocol != headers.protocol
            || ours.transport != headers.transport
        {
            return false;
        }
        let first = &buffer[self.first.at..];
        // The ports of TCP are at the same offset.
        Udp::at(first, headers.transport).ports == Udp::at(packet, headers.transport).ports
            && shares_addresses(first, packet)
    }

    /// Turns the headers of the first packet into those of the large one. Returns the virtio header that describes how to split
    /// it again.
    fn finish(&self, buffer: &mut [u8]) -> VnetHeader {
        let Some(headers) = self.headers.filter(|_| !self.rest.is_empty()) else {
            return VnetHeader::default();
        };
        let packet = &mut buffer[self.first.at..self.first.at + headers.payload];
        let (ip, transport) = packet.split_at_mut(headers.transport);
        let len = self.total - headers.transport;
        let (gso_tcp, addresses) = if headers.is_v4() {
            finish_v4(ip, self.total);
            (VnetHeader::GSO_TCPV4, &Ipv4::at(ip, 0).addresses[..])
        } else {
            let ip = Ipv6::at_mut(ip, 0);
            ip.payload_length.set(len as u16);
            (VnetHeader::GSO_TCPV6, &ip.addresses[..])
        };
        let pseudo = checksum::fold(checksum::pseudo(addresses, headers.protocol, len)).to_ne_bytes();
        let (gso_type, csum_offset) = if headers.protocol == TCP {
            let tcp = Tcp::at_mut(transport, 0);
            tcp.checksum = pseudo;
            tcp.flags |= self.last_flags;
            let ecn = if tcp.flags & Tcp::CWR == 0 { 0 } else { VnetHeader::GSO_ECN };
            (gso_tcp | ecn, TCP_CHECKSUM)
        } else {
            let udp = Udp::at_mut(transport, 0);
            udp.checksum = pseudo;
            udp.length.set(len as u16);
            (VnetHeader::GSO_UDP_L4, UDP_CHECKSUM)
        };
        VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            gso_type,
            header_len: headers.payload as u16,
            gso_size: self.size as u16,
            csum_start: headers.transport as u16,
            csum_offset: csum_offset as u16,
        }
    }
}

impl Coalescer {
    pub fn new(offloads: Offloads) -> Self {
        Self { offloads, groups: Vec::new(), used: 0, bytes: 0, most_datagrams: MAX_PIECES }
    }

    /// Adds the packet of `len` bytes at an offset of the buffer. Panics if it is not within the buffer.
    #[inline]
    pub fn add(&mut self, buffer: &[u8], at: usize, len: usize) {
        self.bytes += len;
        let piece = Piece { at, len };
        let packet = &buffer[at..at + len];
        let headers = headers(packet, self.offloads);
        if let Some(headers) = &headers {
            let newest = self.groups[..self.used].iter_mut().rev().take(MAX_OPEN);
            if let Some(group) = newest.into_iter().find(|g| g.is_flow(buffer, packet, headers))
                && group.open
            {
                if group.join(buffer, piece, headers) {
                    return;
                }
                group.open = false;
            }
        } else {
            self.close_flow_of(buffer, packet);
        }
        if self.used == self.groups.len() {
            self.groups.push(Group::new());
        }
        let group = &mut self.groups[self.used];
        group.start(buffer, piece, headers);
        group.most =
            if headers.is_some_and(|h| h.protocol == UDP) { self.most_datagrams } else { MAX_PIECES };
        self.used += 1;
    }

    /// The number of bytes added since the last flush.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Closes the groups with the addresses of a packet that cannot be combined, such as one without payload. It may belong to
    /// one of these flows, and must not be overtaken.
    fn close_flow_of(&mut self, buffer: &[u8], packet: &[u8]) {
        for group in self.groups[..self.used].iter_mut().rev().take(MAX_OPEN) {
            if group.open && shares_addresses(&buffer[group.first.at..], packet) {
                group.open = false;
            }
        }
    }

    /// Writes the large packets, each as a virtio header and pieces. If the kernel rejects one, its packets are written one by
    /// one.
    pub fn flush<T>(&mut self, buffer: &mut [u8], mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<T>) {
        for group in &self.groups[..self.used] {
            let header = group.finish(buffer);
            let header_bytes = header.bytes();
            let mut pieces = [IoSlice::new(&[]); MAX_PIECES + 1];
            fill(&mut pieces, &header_bytes, group, buffer);
            let pieces = &pieces[..group.rest.len() + 2];
            if let Err(e) = write(pieces)
                && e.raw_os_error() == Some(libc::EINVAL)
                && header != VnetHeader::default()
            {
                if header.gso_type == VnetHeader::GSO_UDP_L4 {
                    self.most_datagrams = FEWER_DATAGRAMS;
                }
                write_apart(&header, &pieces[1..], &mut write);
            }
        }
        self.used = 0;
        self.bytes = 0;
    }
}

/// Writes the packets of a large one separately. This is rare, so it is kept out of the hot code.
#[cold]
fn write_apart<T>(
    header: &VnetHeader,
    pieces: &[IoSlice<'_>],
    mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<T>,
) {
    let whole: Vec<u8> = pieces.iter().flat_map(|piece| &**piece).copied().collect();
    let Some(mut splitter) = Splitter::new(header, &whole) else {
        return;
    };
    while let Some(len) = splitter.next_len() {
        let mut packet = vec![0; VNET_LEN + len];
        splitter.write(&mut packet[VNET_LEN..]);
        let _ = write(&[IoSlice::new(&packet)]);
    }
}

fn fill<'a>(pieces: &mut [IoSlice<'a>], header: &'a [u8; VNET_LEN], group: &Group, buffer: &'a [u8]) {
    pieces[0] = IoSlice::new(header);
    let all = std::iter::once(&group.first).chain(&group.rest);
    for (slot, piece) in pieces[1..].iter_mut().zip(all) {
        *slot = IoSlice::new(&buffer[piece.at..piece.at + piece.len]);
    }
}

/// Sets the total length and the checksum of a header without options.
fn finish_v4(header: &mut [u8], total: usize) {
    let ip = Ipv4::at_mut(header, 0);
    ip.total_length.set(total as u16);
    ip.checksum = [0; 2];
    let sum = checksum::finish(checksum::add(0, header));
    Ipv4::at_mut(header, 0).checksum = sum;
}

fn shares_addresses(first: &[u8], packet: &[u8]) -> bool {
    match (Ip::of(first), Ip::of(packet)) {
        (Some(Ip::V4(first)), Some(Ip::V4(ip))) => first.addresses == ip.addresses,
        (Some(Ip::V6(first)), Some(Ip::V6(ip))) => first.addresses == ip.addresses,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: Offloads = Offloads { tcp: true, udp: true };

    /// A packet with correct checksums.
    #[derive(Clone, Debug)]
    struct Made {
        v6: bool,
        flow: u8,
        udp: bool,
        sequence: u32,
        id: u16,
        flags: u8,
        tos: u8,
        /// Whether DF is set. Without it the identification of each packet matters.
        whole: bool,
        hops: u8,
        acknowledged: u8,
        window: u8,
        /// Words of options.
        options: u8,
        /// The value of the options.
        option: u8,
        len: usize,
    }

    /// The first packet of a plain stream.
    const PLAIN: Made = Made {
        v6: false,
        flow: 1,
        udp: false,
        sequence: 0,
        id: 0,
        flags: Tcp::ACK,
        tos: 0,
        whole: true,
        hops: 64,
        acknowledged: 7,
        window: 1,
        options: 3,
        option: 1,
        len: 100,
    };

    fn made(made: &Made) -> Vec<u8> {
        let mut transport = if made.udp {
            let len = 8 + made.len;
            vec![0, made.flow, 0, 9, (len >> 8) as u8, len as u8, 0, 0]
        } else {
            let words = 5 + made.options;
            let mut tcp = vec![0, made.flow, 0, 9];
            tcp.extend(made.sequence.to_be_bytes());
            tcp.extend([0, 0, 0, made.acknowledged, words << 4, made.flags, made.window, 0, 0, 0, 0, 0]);
            tcp.extend(std::iter::repeat_n(made.option, usize::from(words - 5) * 4));
            tcp
        };
        transport.extend((0..made.len).map(|i| (made.sequence as usize + i) as u8));
        let mut packet = if made.v6 {
            let len = transport.len();
            let mut ip =
                vec![0x60 | made.tos >> 4, made.tos << 4, 0, 0, (len >> 8) as u8, len as u8, 0, made.hops];
            ip[6] = if made.udp { UDP } else { TCP };
            ip.extend([0xfd; 16]);
            ip.extend([made.flow; 16]);
            ip
        } else {
            let len = transport.len() + 20;
            let mut ip = vec![0x45, made.tos, (len >> 8) as u8, len as u8];
            ip.extend(made.id.to_be_bytes());
            let protocol = if made.udp { UDP } else { TCP };
            ip.extend([u8::from(made.whole) << 6, 0, made.hops, protocol, 0, 0]);
            ip.extend([10, 0, 0, 1, 10, 0, 0, made.flow]);
            let sum = checksum::finish(checksum::add(0, &ip));
            ip[10..12].copy_from_slice(&sum);
            ip
        };
        let addresses = if made.v6 { &packet[8..40] } else { &packet[12..20] };
        let pseudo = checksum::pseudo(addresses, if made.udp { UDP } else { TCP }, transport.len());
        let at = if made.udp { 6 } else { 16 };
        let sum = match checksum::finish(checksum::add(pseudo, &transport)) {
            [0, 0] if made.udp => [0xff, 0xff],
            sum => sum,
        };
        transport[at..at + 2].copy_from_slice(&sum);
        packet.extend(transport);
        packet
    }

    fn stream(count: u32, len: usize) -> Vec<Vec<u8>> {
        let of = |i: u32| Made { sequence: i * len as u32, id: i as u16, len, ..PLAIN };
        (0..count).map(|i| made(&of(i))).collect()
    }

    /// The large packets that are written, each with its virtio header.
    fn coalesced(packets: &[Vec<u8>], offloads: Offloads) -> Vec<(VnetHeader, Vec<u8>)> {
        let mut buffer: Vec<u8> = packets.concat();
        let (mut coalescer, mut at) = (Coalescer::new(offloads), 0);
        for packet in packets {
            coalescer.add(&buffer, at, packet.len());
            at += packet.len();
        }
        let mut out = Vec::new();
        coalescer.flush(&mut buffer, |pieces| {
            let header = VnetHeader::parse(pieces[0][..].try_into().unwrap());
            out.push((header, pieces[1..].iter().flat_map(|p| p.to_vec()).collect()));
            Ok(())
        });
        out
    }

    fn split(large: &[(VnetHeader, Vec<u8>)]) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for (header, packet) in large {
            let mut splitter = Splitter::new(header, packet).expect("the kernel would refuse it");
            while let Some(len) = splitter.next_len() {
                let mut out = vec![0; len];
                splitter.write(&mut out);
                packets.push(out);
            }
        }
        packets
    }

    #[test]
    fn a_stream_becomes_one_packet() {
        let large = coalesced(&stream(20, 1348), ALL);
        assert_eq!(large.len(), 1);
        assert_eq!(large[0].1.len(), 20 + 32 + 20 * 1348);
        assert_eq!((large[0].0.gso_type, large[0].0.gso_size), (VnetHeader::GSO_TCPV4, 1348));
    }

    #[test]
    fn no_packet_exceeds_the_maximum_ip_length() {
        let lens: Vec<_> = coalesced(&stream(60, 1348), ALL).iter().map(|(_, packet)| packet.len()).collect();
        assert_eq!(lens.len(), 2);
        assert!(lens.iter().all(|&len| len <= 65_535));
    }

    #[test]
    fn a_kernel_that_rejects_large_groups_gets_smaller_ones() {
        let of = |i: u32| made(&Made { udp: true, sequence: i, id: i as u16, len: 10, ..PLAIN });
        let packets: Vec<_> = (0..200).map(of).collect();
        let mut coalescer = Coalescer::new(ALL);
        let mut refused = 0;
        for rounds in 0..2 {
            let mut buffer = packets.concat();
            let mut out = Vec::new();
            (0..packets.len()).for_each(|i| coalescer.add(&buffer, i * packets[0].len(), packets[0].len()));
            coalescer.flush(&mut buffer, |pieces| {
                let whole: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
                let header = VnetHeader::parse(whole[..VNET_LEN].try_into().unwrap());
                // `virtio_net_hdr_to_skb` of Linux 6.7.
                if whole.len() - VNET_LEN - 28 > usize::from(header.gso_size) * 64 && header.gso_size != 0 {
                    refused += 1;
                    return Err(io::Error::from_raw_os_error(libc::EINVAL));
                }
                out.push((header, whole[VNET_LEN..].to_vec()));
                Ok(())
            });
            assert_eq!(split(&out), packets);
            assert_eq!(refused, 2, "round {rounds}");
        }
    }

    #[test]
    fn packets_are_unchanged_without_the_offload() {
        let packets = stream(5, 100);
        let large = coalesced(&packets, Offloads { tcp: false, udp: true });
        assert!(large.iter().all(|(header, _)| *header == VnetHeader::default()));
        assert_eq!(large.into_iter().map(|(_, packet)| packet).collect::<Vec<_>>(), packets);
    }

    #[test]
    fn a_packet_with_a_wrong_checksum_is_unchanged() {
        let mut packets = stream(3, 100);
        packets[1][60] ^= 1;
        let large = coalesced(&packets, ALL);
        assert_eq!(large.len(), 3);
        assert_eq!(split(&large), packets);
    }

    #[test]
    fn an_acknowledgement_between_data_packets_keeps_its_order() {
        let mut packets = stream(4, 100);
        let bare = Made { sequence: 200, id: 9, len: 0, ..PLAIN };
        packets.insert(2, made(&bare));
        assert_eq!(split(&coalesced(&packets, ALL)), packets);
    }

    #[test]
    fn fin_and_psh_are_set_on_the_last_packet_only() {
        let mut packets = stream(3, 100);
        for (packet, flags) in
            packets.iter_mut().zip([Tcp::ACK | Tcp::CWR, Tcp::ACK, Tcp::ACK | Tcp::FIN | Tcp::PSH])
        {
            let tcp = Tcp::at_mut(packet, 20);
            let before = [tcp.data_offset, tcp.flags];
            tcp.flags = flags;
            tcp.checksum = checksum::replace(tcp.checksum, before, [tcp.data_offset, flags]);
        }
        let large = coalesced(&packets, ALL);
        assert_eq!(large.len(), 1);
        assert_eq!(large[0].0.gso_type, VnetHeader::GSO_TCPV4 | VnetHeader::GSO_ECN);
        assert_eq!(split(&large), packets);
    }

    /// Changes one field of a packet's headers.
    fn change(flow: &mut Made, random: u16) {
        let to = (random >> 4) as u8;
        match random % 9 {
            0 => flow.tos = to % 4,
            1 => flow.hops = to,
            2 => flow.acknowledged = to,
            3 => flow.window = to,
            4 => flow.option = to,
            5 => flow.options = to % 4,
            6 => flow.whole = !flow.whole,
            7 => flow.id = to.into(),
            _ => flow.sequence = to.into(),
        }
    }

    /// Streams of several flows, interleaved, with packets lost, doubled, swapped and damaged.
    fn traffic() -> impl Strategy<Value = Vec<Vec<u8>>> {
        type Flow = ([bool; 4], usize, u8, u8);
        let flow = (any::<[bool; 4]>(), 1usize..400, 0u8..4, 0u8..4);
        let step = (0usize..4, 0u8..40, any::<u16>());
        (prop::collection::vec(flow, 1..4), prop::collection::vec(step, 1..120)).prop_map(|(flows, steps)| {
            let flow = |(i, ([v6, udp, whole, fixed_id], len, tos, options)): (usize, Flow)| {
                (Made { v6, flow: i as u8 + 1, udp, tos, whole, options, len, ..PLAIN }, fixed_id)
            };
            let mut flows: Vec<_> = flows.into_iter().enumerate().map(flow).collect();
            let mut packets: Vec<Vec<u8>> = Vec::new();
            for (which, event, random) in steps {
                let which = which % flows.len();
                let (flow, fixed_id) = &mut flows[which];
                if event == 7 {
                    change(flow, random);
                }
                let len = if event == 1 { usize::from(random) % (flow.len + 1) } else { flow.len };
                let special = [Tcp::PSH, Tcp::FIN, Tcp::CWR, Tcp::SYN][usize::from(random % 4)];
                let flags = if event == 2 { Tcp::ACK | special } else { Tcp::ACK };
                let mut packet = made(&Made { flags, len, ..flow.clone() });
                flow.sequence = flow.sequence.wrapping_add(len as u32);
                flow.id = flow.id.wrapping_add(u16::from(!*fixed_id));
                match event {
                    3 => continue,
                    4 => packets.push(packet.clone()),
                    5 => {
                        let at = usize::from(random) % packet.len();
                        packet[at] ^= 1 << (random % 8);
                    }
                    _ => (),
                }
                packets.push(packet);
                let newest = packets.len() - 1;
                if event == 6 && newest > 0 {
                    packets.swap(newest - 1, newest);
                }
            }
            packets
        })
    }

    /// A key that identifies the flow of a packet, which may be damaged, even into a short one of the other IP version.
    fn flow_of(packet: &[u8]) -> Vec<u8> {
        match packet[0] >> 4 {
            4 => packet[9..10].iter().chain(&packet[12..24]).copied().collect(),
            _ => packet[6..7].iter().chain(packet[8..].iter().take(36)).copied().collect(),
        }
    }

    /// Clears the identification of a packet with DF, where it has no meaning and splitting counts it up.
    fn without_id(mut packet: Vec<u8>) -> Vec<u8> {
        if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
        packet
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn splitting_reverses_coalescing_in_each_flow(packets in traffic()) {
            // Packets that are not IP are dropped earlier.
            let packets: Vec<_> = packets.into_iter().filter(|p| crate::packet::claimed_len(p) == Some(p.len())).collect();
            let large = coalesced(&packets, ALL);
            prop_assert!(large.len() <= packets.len());
            let got = split(&large);
            prop_assert_eq!(got.len(), packets.len());
            let mut flows: Vec<_> = packets.iter().map(|p| flow_of(p)).collect();
            flows.sort();
            flows.dedup();
            for flow in flows {
                let of = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
                    all.iter().filter(|p| flow_of(p) == flow).cloned().map(without_id).collect()
                };
                prop_assert_eq!(of(&got), of(&packets));
            }
        }

        #[test]
        fn coalescing_split_packets_restores_the_large_one(
            [v6, udp, whole] in any::<[bool; 3]>(),
            options in 0u8..=10,
            (segment, count, rest) in (1usize..1400).prop_flat_map(|size| {
                (Just(size), 1..MAX_PIECES.min(64_000 / size), 1..=size)
            }),
            [first, last] in [prop::sample::select(vec![0, Tcp::CWR]), prop::sample::select(vec![0, Tcp::FIN, Tcp::PSH])],
        ) {
            let flags = if udp { 0 } else { Tcp::ACK | first | last };
            let len = segment * count + rest;
            let mut large = made(&Made { v6, udp, flags, whole, options, len, ..PLAIN });
            let transport = if v6 { 40 } else { 20 };
            let kind = match (udp, v6) {
                (true, _) => VnetHeader::GSO_UDP_L4,
                (_, true) => VnetHeader::GSO_TCPV6,
                _ => VnetHeader::GSO_TCPV4,
            };
            let csum_offset = if udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
            let header = VnetHeader {
                flags: VnetHeader::NEEDS_CSUM,
                gso_type: kind | if flags & Tcp::CWR == 0 { 0 } else { VnetHeader::GSO_ECN },
                header_len: (large.len() - len) as u16,
                gso_size: segment as u16,
                csum_start: transport as u16,
                csum_offset: csum_offset as u16,
            };
            let (protocol, addresses) = (if udp { UDP } else { TCP }, if v6 { 8..40 } else { 12..20 });
            let pseudo = checksum::pseudo(&large[addresses], protocol, large.len() - transport);
            let at = transport + csum_offset;
            large[at..at + 2].copy_from_slice(&checksum::fold(pseudo).to_ne_bytes());
            let packets = split(&[(header, large.clone())]);
            prop_assert_eq!(packets.len(), count + 1);
            prop_assert_eq!(coalesced(&packets, ALL), [(header, large)]);
        }

        #[test]
        fn no_bytes_panic(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 20..120), 1..20)) {
            let packets: Vec<_> = packets.into_iter().map(|mut p| {
                p[0] = if p[1] & 1 == 0 { 0x45 } else { 0x60 };
                p
            }).collect();
            coalesced(&packets, ALL);
        }

        #[test]
        fn no_virtio_header_makes_splitting_panic(
            bytes in prop::array::uniform10(any::<u8>()),
            packet in prop::collection::vec(any::<u8>(), 0..200),
            kind in prop::sample::select(vec![0u8, 1, 4, 5]),
        ) {
            let mut header = VnetHeader::parse(&bytes);
            header.gso_type = kind;
            header.csum_start %= 80;
            header.csum_offset %= 40;
            if let Some(mut splitter) = Splitter::new(&header, &packet) {
                for _ in 0..300 {
                    let Some(len) = splitter.next_len() else { break };
                    splitter.write(&mut vec![0; len]);
                }
            }
        }
    }

    /// Every three packets of a flow with payloads of up to four bytes, each as expected, with PSH, or out of sequence.
    #[test]
    fn any_three_short_packets_are_restored() {
        let digits = |number: usize, base: usize| [number % base, number / base % base, number / base / base];
        for (v6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
            for (lens, kinds) in (0..125).flat_map(|lens| (0..27).map(move |kinds| (lens, kinds))) {
                let (lens, kinds) = (digits(lens, 5), digits(kinds, 3));
                let packet = |i: usize| {
                    let sequence = (lens[..i].iter().sum::<usize>() + usize::from(kinds[i] == 2)) as u32;
                    let flags = if kinds[i] == 1 { Tcp::ACK | Tcp::PSH } else { Tcp::ACK };
                    made(&Made { v6, udp, sequence, flags, id: i as u16, len: lens[i], ..PLAIN })
                };
                let packets = [0, 1, 2].map(packet);
                assert_eq!(
                    split(&coalesced(&packets, ALL)),
                    packets,
                    "v6 {v6}, udp {udp}, {lens:?}, {kinds:?}"
                );
            }
        }
    }
}
