//! TCP and UDP packets built from a few numbers, and checks that share no code with the daemon.

use arbitrary::Arbitrary;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const FIN: u8 = 0x01;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const CWR: u8 = 0x80;

/// The header fields of a packet.
#[derive(Arbitrary, Clone, Debug)]
pub struct Packet {
    pub v6: bool,
    pub udp: bool,
    pub hosts: u8,
    pub ports: u8,
    pub tos: u8,
    pub hops: u8,
    pub id: u16,
    pub dont_fragment: bool,
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
    pub window: u16,
    /// Words of TCP options, modulo the eleven possible lengths.
    pub options: u8,
    /// The content of the options.
    pub option: u8,
    pub payload: u16,
}

/// The folded sum of RFC 1071 over bytes at an even offset; 0xffff if they include their own correct checksum.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub fn is_v4(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4
}

/// Source and destination.
pub fn addresses(packet: &[u8]) -> &[u8] {
    if is_v4(packet) { &packet[12..20] } else { &packet[8..40] }
}

/// The pseudo-header of RFC 9293 and RFC 8200, which have the same sum.
fn pseudo(packet: &[u8], protocol: u8, len: usize) -> Vec<u8> {
    [addresses(packet), &(len as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat()
}

/// The sum over the transport header and payload from an offset on, with their pseudo-header.
pub fn transport_sum(packet: &[u8], at: usize, protocol: u8) -> u16 {
    sum(&[&pseudo(packet, protocol, packet.len() - at), &packet[at..]])
}

/// The sum of the pseudo-header alone, which the kernel leaves in the checksum field for hardware to complete.
pub fn pseudo_sum(packet: &[u8], at: usize, protocol: u8) -> u16 {
    sum(&[&pseudo(packet, protocol, packet.len() - at)])
}

/// Whether the lengths and the checksums of a packet agree with its bytes.
pub fn is_right(packet: &[u8], at: usize, protocol: u8) -> bool {
    let ip = if is_v4(packet) {
        word(packet, 2) == packet.len() && sum(&[&packet[..at]]) == 0xffff
    } else {
        word(packet, 4) + 40 == packet.len()
    };
    ip && transport_sum(packet, at, protocol) == 0xffff
        && (protocol != UDP || word(packet, at + 4) == packet.len() - at)
}

impl Packet {
    pub fn protocol(&self) -> u8 {
        if self.udp { UDP } else { TCP }
    }

    /// The offset of the transport header.
    pub fn transport(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    /// The offset of the checksum in the transport header.
    pub fn checksum(&self) -> usize {
        if self.udp { 6 } else { 16 }
    }

    /// The length of the transport header.
    pub fn transport_len(&self) -> usize {
        if self.udp { 8 } else { 20 + usize::from(self.options % 11) * 4 }
    }

    fn ip_header(&self, rest: usize) -> Vec<u8> {
        if self.v6 {
            let mut ip = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0, 0, 0, self.protocol(), self.hops];
            put(&mut ip, 4, rest as u16);
            ip.extend([0xfd; 16]);
            ip.extend([self.hosts; 16]);
            return ip;
        }
        let mut ip = vec![0x45, self.tos, 0, 0, 0, 0, 0, 0, self.hops, self.protocol(), 0, 0];
        ip[6] = if self.dont_fragment { 0x40 } else { 0 };
        ip.extend([10, 0, 0, 1, 10, 0, 0, self.hosts]);
        put(&mut ip, 2, (20 + rest) as u16);
        put(&mut ip, 4, self.id);
        let checksum = !sum(&[&ip]);
        put(&mut ip, 10, checksum);
        ip
    }

    fn transport_header(&self, payload: usize) -> Vec<u8> {
        let mut header = vec![0, 80, 1, self.ports];
        if self.udp {
            header.extend(((8 + payload) as u16).to_be_bytes());
            header.extend([0, 0]);
            return header;
        }
        header.extend(self.sequence.to_be_bytes());
        header.extend(self.acknowledged.to_be_bytes());
        header.extend([(5 + self.options % 11) << 4, self.flags]);
        header.extend(self.window.to_be_bytes());
        header.extend([0; 4]);
        header.resize(self.transport_len(), self.option);
        header
    }

    /// The packet without a transport checksum; its payload is limited to the maximum of an IP packet.
    fn unchecked(&self) -> Vec<u8> {
        let headers = self.transport() + self.transport_len();
        let payload = usize::from(self.payload).min(65_535 - headers);
        let mut packet = self.ip_header(self.transport_len() + payload);
        packet.extend(self.transport_header(payload));
        packet.extend((0..payload).map(|i| (self.sequence as usize).wrapping_add(i).wrapping_mul(31) as u8));
        packet
    }

    /// The packet with its correct checksum.
    pub fn bytes(&self) -> Vec<u8> {
        let mut packet = self.unchecked();
        let checksum = match !transport_sum(&packet, self.transport(), self.protocol()) {
            0 if self.udp => 0xffff,
            other => other,
        };
        put(&mut packet, self.transport() + self.checksum(), checksum);
        packet
    }

    /// The packet with an unfinished checksum, as the kernel passes it on.
    pub fn unfinished(&self) -> Vec<u8> {
        let mut packet = self.unchecked();
        let partial = pseudo_sum(&packet, self.transport(), self.protocol());
        put(&mut packet, self.transport() + self.checksum(), partial);
        packet
    }
}
