//! Splitting any packet: the payload is complete and in order, the number of packets is correct, the headers differ only
//! where they must, and lengths and checksums are correct.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use wgq_userspace::tun::VnetHeader;
use wgq_userspace::tun::split::Splitter;
use wgq_userspace_fuzz::packets::{CWR, FIN, PSH, Packet, TCP, UDP, is_right, is_v4, sum};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// A large packet as the kernel creates it, with a segment size.
    Kernels {
        packet: Packet,
        size: u16,
    },
    /// The same with an arbitrary virtio header.
    Confused {
        packet: Packet,
        header: [u16; 5],
    },
    Bytes {
        header: [u16; 5],
        packet: &'a [u8],
    },
}

const KINDS: [u8; 6] = [0, 1, 4, 5, 0x81, 3];

fn header([kind, size, start, offset, flags]: [u16; 5]) -> VnetHeader {
    // Mostly inside a packet, or slightly beyond.
    let near = |place: u16| if place & 7 == 0 { place } else { (place >> 3) % 128 };
    VnetHeader {
        flags: flags as u8,
        gso_type: KINDS[usize::from(kind) % KINDS.len()],
        header_len: 0,
        gso_size: size,
        csum_start: near(start),
        csum_offset: near(offset),
    }
}

fn kernels_header(packet: &Packet, size: u16) -> VnetHeader {
    let gso_type = match (packet.udp, packet.v6) {
        (true, _) => VnetHeader::GSO_UDP_L4,
        (false, true) => VnetHeader::GSO_TCPV6,
        (false, false) => VnetHeader::GSO_TCPV4,
    };
    VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: if size == 0 { VnetHeader::GSO_NONE } else { gso_type },
        header_len: (packet.transport() + packet.transport_len()) as u16,
        gso_size: size,
        csum_start: packet.transport() as u16,
        csum_offset: packet.checksum() as u16,
    }
}

fn split(header: &VnetHeader, packet: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut splitter = Splitter::new(header, packet)?;
    let mut packets = Vec::new();
    while let Some(len) = splitter.next_len() {
        let mut out = vec![0; len];
        splitter.write(&mut out);
        packets.push(out);
    }
    Some(packets)
}

/// Checks a single packet: only a requested checksum may differ.
fn check_whole(header: &VnetHeader, packet: &[u8], out: &[Vec<u8>]) {
    assert_eq!(out.len(), 1);
    let mut expected = packet.to_vec();
    if header.flags & VnetHeader::NEEDS_CSUM != 0 {
        let start = usize::from(header.csum_start);
        let at = start + usize::from(header.csum_offset);
        let field = match !sum(&[&packet[start..]]) {
            0 if header.csum_offset == 6 => 0xffff,
            field => field,
        };
        expected[at..at + 2].copy_from_slice(&field.to_be_bytes());
    }
    assert_eq!(out[0], expected);
}

/// The headers of a segment with everything set to zero that splitting may change.
fn constant(headers: &[u8], transport: usize, protocol: u8) -> Vec<u8> {
    let mut headers = headers.to_vec();
    if is_v4(&headers) {
        headers[2..6].fill(0);
        headers[10..12].fill(0);
    } else {
        headers[4..6].fill(0);
    }
    if protocol == TCP {
        headers[transport + 4..transport + 8].fill(0);
        headers[transport + 13] &= !(FIN | PSH | CWR);
        headers[transport + 16..transport + 18].fill(0);
    } else {
        headers[transport + 4..transport + 8].fill(0);
    }
    headers
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn check_segments(header: &VnetHeader, packet: &[u8], out: &[Vec<u8>]) {
    let protocol = if header.gso_type == VnetHeader::GSO_UDP_L4 { UDP } else { TCP };
    let (at, size) = (usize::from(header.csum_start), usize::from(header.gso_size));
    let body = at + if protocol == UDP { 8 } else { usize::from(packet[at + 12] >> 4) * 4 };
    assert_eq!(out.len(), (packet.len() - body).div_ceil(size).max(1));
    let payload: Vec<u8> = out.iter().flat_map(|segment| segment[body..].to_vec()).collect();
    assert!(payload == packet[body..], "the payload came out changed");
    // With extension headers, the sum is correct if the kernel's was.
    let header_is_plain = at == if is_v4(packet) { 20 } else { 40 };
    for (index, segment) in out.iter().enumerate() {
        let (first, last) = (index == 0, index + 1 == out.len());
        assert!(last || segment.len() == body + size);
        assert_eq!(constant(&segment[..body], at, protocol), constant(&packet[..body], at, protocol));
        assert!(!header_is_plain || is_right(segment, at, protocol), "segment {index} of {}", out.len());
        if is_v4(packet) {
            let id = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
            assert_eq!(id(segment), id(packet).wrapping_add(index as u16));
        }
        if protocol == TCP {
            assert_eq!(be32(segment, at + 4), be32(packet, at + 4).wrapping_add((index * size) as u32));
            let flags = (if last { FIN | PSH } else { 0 }) | (if first { CWR } else { 0 });
            assert_eq!(segment[at + 13] & (FIN | PSH | CWR), packet[at + 13] & flags);
        }
    }
}

fn check(header: &VnetHeader, packet: &[u8]) -> bool {
    let Some(out) = split(header, packet) else { return false };
    match header.gso_type & !VnetHeader::GSO_ECN {
        VnetHeader::GSO_NONE => check_whole(header, packet, &out),
        _ => check_segments(header, packet, &out),
    }
    true
}

/// The most segments to check. More would not test anything else.
fn shorten(packet: &mut Packet, size: u16) {
    if size > 0 {
        packet.payload = packet.payload.min(size.saturating_mul(200));
    }
}

fuzz_target!(|input: Input| {
    match input {
        Input::Kernels { mut packet, size } => {
            shorten(&mut packet, size);
            let bytes = packet.unfinished();
            let header = kernels_header(&packet, size);
            assert!(check(&header, &bytes), "a packet of the kernel's is refused");
            if size == 0 {
                let out = split(&header, &bytes).expect("it was not refused");
                assert!(is_right(&out[0], packet.transport(), packet.protocol()));
            }
        }
        Input::Confused { mut packet, header: fields } => {
            shorten(&mut packet, fields[1]);
            check(&header(fields), &packet.unfinished());
        }
        Input::Bytes { header: fields, packet } => {
            check(&header(fields), packet);
        }
    }
});
