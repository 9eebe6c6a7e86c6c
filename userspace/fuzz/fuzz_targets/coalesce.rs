//! Splitting coalesced packets restores them in the order of each flow, and the kernel accepts the large packets.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use wgq_userspace::packet::claimed_len;
use wgq_userspace::tun::coalesce::Coalescer;
use wgq_userspace::tun::split::Splitter;
use wgq_userspace::tun::{MAX_PACKET, Offloads, VNET_LEN, VnetHeader};
use wgq_userspace_fuzz::packets::{ACK, Packet, TCP, UDP, addresses, is_v4, sum};

/// The room for a message's header and tag around each packet of a batch.
const GAP: usize = 16;
const MOST_BYTES: usize = 200_000;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    tcp: bool,
    udp: bool,
    /// The start of each flow, and the size of its packets.
    flows: [Packet; 3],
    steps: Vec<Step<'a>>,
}

/// A change of the next packet of a flow.
#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Comes(u8),
    ComesWith {
        flow: u8,
        flags: u8,
        len: u16,
    },
    Lost(u8),
    Doubled(u8),
    /// The packet overtakes its predecessor.
    Overtakes(u8),
    Damaged {
        flow: u8,
        at: u16,
        change: u8,
    },
    /// One field of the flow's headers changes from now on.
    Changes {
        flow: u8,
        which: u8,
        to: u16,
    },
    /// The flow is replaced by another one.
    Ends {
        flow: u8,
        headers: Packet,
    },
    Other(&'a [u8]),
    EndOfBatch,
}

/// Mostly small, so that an input has many packets.
fn size(number: u16) -> u16 {
    number % if number & 7 == 0 { 1500 } else { 150 }
}

/// Most flows have started: their packets have only ACK set.
fn under_way(mut flow: Packet) -> Packet {
    if flow.flags & 3 != 0 {
        flow.flags = ACK;
    }
    flow
}

struct Wire {
    flows: [Packet; 3],
    batches: Vec<Vec<Vec<u8>>>,
    bytes: usize,
}

impl Wire {
    fn next(&mut self, flow: u8, flags: u8, len: Option<u16>) -> Vec<u8> {
        let flow = &mut self.flows[usize::from(flow) % 3];
        let mut packet = flow.clone();
        packet.flags |= flags;
        packet.payload = size(len.unwrap_or(packet.payload));
        flow.sequence = flow.sequence.wrapping_add(u32::from(packet.payload));
        flow.id = flow.id.wrapping_add(1);
        packet.bytes()
    }

    fn put(&mut self, packet: Vec<u8>) {
        self.bytes += packet.len();
        self.batches.last_mut().expect("there always is one").push(packet);
    }

    fn step(&mut self, step: Step<'_>) {
        match step {
            Step::Comes(flow) => {
                let packet = self.next(flow, 0, None);
                self.put(packet);
            }
            Step::ComesWith { flow, flags, len } => {
                let packet = self.next(flow, flags, Some(len));
                self.put(packet);
            }
            Step::Lost(flow) => drop(self.next(flow, 0, None)),
            Step::Doubled(flow) => {
                let packet = self.next(flow, 0, None);
                self.put(packet.clone());
                self.put(packet);
            }
            Step::Overtakes(flow) => {
                let packet = self.next(flow, 0, None);
                self.put(packet);
                if let [.., a, b] = &mut self.batches.last_mut().expect("there always is one")[..] {
                    std::mem::swap(a, b);
                }
            }
            Step::Damaged { flow, at, change } => {
                let mut packet = self.next(flow, 0, None);
                let at = usize::from(at) % packet.len();
                packet[at] ^= change;
                self.put(packet);
            }
            Step::Changes { flow, which, to } => change(&mut self.flows[usize::from(flow) % 3], which, to),
            Step::Ends { flow, headers } => self.flows[usize::from(flow) % 3] = under_way(headers),
            Step::Other(bytes) => self.put(bytes.to_vec()),
            Step::EndOfBatch => self.batches.push(Vec::new()),
        }
    }
}

fn change(flow: &mut Packet, which: u8, to: u16) {
    match which % 10 {
        0 => flow.tos = to as u8,
        1 => flow.hops = to as u8,
        2 => flow.id = to,
        3 => flow.dont_fragment = to & 1 == 1,
        4 => flow.acknowledged = to.into(),
        5 => flow.flags = to as u8,
        6 => flow.window = to,
        7 => flow.options = to as u8,
        8 => flow.option = to as u8,
        _ => flow.payload = to,
    }
}

fn coalesce(coalescer: &mut Coalescer, packets: &[Vec<u8>]) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut buffer = vec![0xaa; GAP];
    for packet in packets {
        let at = buffer.len();
        buffer.extend(packet);
        buffer.extend([0xaa; GAP]);
        coalescer.add(&buffer, at, packet.len());
    }
    let mut out = Vec::new();
    coalescer.flush(&mut buffer, |pieces| {
        let header: [u8; VNET_LEN] = pieces[0][..].try_into().expect("a virtio header");
        let packet: Vec<u8> = pieces[1..].iter().flat_map(|piece| piece.to_vec()).collect();
        out.push((VnetHeader::parse(&header), packet));
        Ok(())
    });
    out
}

/// Checks that the kernel accepts a packet and interprets it correctly (`virtio_net_hdr_to_skb`).
fn check_large(header: &VnetHeader, packet: &[u8], offloads: Offloads) {
    assert!(packet.len() + VNET_LEN <= MAX_PACKET);
    assert_eq!(claimed_len(packet), Some(packet.len()));
    let is_udp = header.gso_type == VnetHeader::GSO_UDP_L4;
    let kind = match header.gso_type & !VnetHeader::GSO_ECN {
        VnetHeader::GSO_NONE => return assert_eq!(*header, VnetHeader::default()),
        _ if is_udp => VnetHeader::GSO_UDP_L4,
        _ if is_v4(packet) => VnetHeader::GSO_TCPV4,
        _ => VnetHeader::GSO_TCPV6,
    };
    assert_eq!(header.gso_type & !VnetHeader::GSO_ECN, kind);
    assert!(if is_udp { offloads.udp } else { offloads.tcp });
    assert_eq!(header.flags, VnetHeader::NEEDS_CSUM);
    let payload = packet.len() - usize::from(header.header_len);
    assert!(header.gso_size > 0 && payload > usize::from(header.gso_size), "not worth a segmentation");
}

fn split(header: &VnetHeader, packet: &[u8], packets: &mut Vec<Vec<u8>>) {
    let mut splitter = Splitter::new(header, packet).expect("what was coalesced can be split");
    while let Some(len) = splitter.next_len() {
        let mut out = vec![0; len];
        splitter.write(&mut out);
        packets.push(out);
    }
}

/// Clears the identification of a packet with DF, where it has no meaning (RFC 6864), and adjusts the checksum.
fn comparable(packet: &[u8]) -> (Vec<u8>, bool) {
    let mut packet = packet.to_vec();
    if !is_v4(&packet) || packet[6] & 0x40 == 0 {
        return (packet, true);
    }
    let header = (usize::from(packet[0] & 15) * 4).clamp(20, packet.len());
    let right = sum(&[&packet[..header]]) == 0xffff;
    packet[4..6].fill(0);
    packet[10..12].fill(0);
    (packet, right)
}

/// Protocol and ports, if the packet has them.
fn flow(packet: &[u8]) -> Option<Vec<u8>> {
    let (protocol, at) = if is_v4(packet) {
        let is_later_fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff != 0;
        (packet[9], if is_later_fragment { usize::MAX } else { usize::from(packet[0] & 15) * 4 })
    } else {
        (packet[6], 40)
    };
    let ports = packet.get(at..at.checked_add(4)?).filter(|_| matches!(protocol, TCP | UDP))?;
    Some([&[protocol], ports].concat())
}

/// By pair of addresses and flow: the packets, including those that may belong to any flow.
fn check_order(came: &[Vec<u8>], left: &[Vec<u8>]) {
    let mut flows: BTreeMap<Vec<u8>, BTreeSet<Option<Vec<u8>>>> = BTreeMap::new();
    for packet in came {
        flows.entry(addresses(packet).to_vec()).or_default().insert(flow(packet));
    }
    for (addresses_of, flows) in flows {
        for wanted in flows {
            let of = |packets: &[Vec<u8>]| -> Vec<_> {
                let between = packets.iter().filter(|packet| addresses(packet) == addresses_of);
                between.filter(|p| flow(p).is_none_or(|f| Some(f) == wanted)).map(|p| comparable(p)).collect()
            };
            assert!(of(left) == of(came), "flow {wanted:?} came out changed: {came:02x?} became {left:02x?}");
        }
    }
}

fuzz_target!(|input: Input| {
    let offloads = Offloads { tcp: input.tcp, udp: input.udp };
    let mut wire = Wire { flows: input.flows.map(under_way), batches: vec![Vec::new()], bytes: 0 };
    for step in input.steps {
        wire.step(step);
        if wire.bytes > MOST_BYTES {
            break;
        }
    }
    let mut coalescer = Coalescer::new(offloads);
    for mut packets in wire.batches {
        // Packets are admitted with the length in their header.
        packets.retain_mut(|packet| claimed_len(packet).map(|len| packet.truncate(len)).is_some());
        let (mut left, large) = (Vec::new(), coalesce(&mut coalescer, &packets));
        for (header, packet) in &large {
            check_large(header, packet, offloads);
            split(header, packet, &mut left);
        }
        assert_eq!(left.len(), packets.len());
        check_order(&packets, &left);
    }
});
