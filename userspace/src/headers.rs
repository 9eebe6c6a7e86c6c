//! The headers of IP, ICMP, TCP and UDP as views of a packet's bytes, with named fields and without copies; and the types
//! for the fields of other headers.
//!
//! A field holds bytes in the order of the wire. So a header needs no alignment, has no padding, and any bytes are valid.

/// The protocol numbers of IP.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// A 16-bit number in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Be16([u8; 2]);

impl Be16 {
    #[inline]
    pub(crate) fn get(self) -> u16 {
        u16::from_be_bytes(self.0)
    }

    #[inline]
    pub(crate) fn set(&mut self, value: u16) {
        self.0 = value.to_be_bytes();
    }
}

/// A 32-bit number in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Be32([u8; 4]);

impl Be32 {
    #[inline]
    pub(crate) fn get(self) -> u32 {
        u32::from_be_bytes(self.0)
    }

    #[inline]
    pub(crate) fn set(&mut self, value: u32) {
        self.0 = value.to_be_bytes();
    }
}

/// A 32-bit number in little-endian byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Le32([u8; 4]);

impl Le32 {
    #[inline]
    pub(crate) fn get(self) -> u32 {
        u32::from_le_bytes(self.0)
    }

    #[inline]
    pub(crate) fn set(&mut self, value: u32) {
        self.0 = value.to_le_bytes();
    }
}

/// A 64-bit number in little-endian byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Le64([u8; 8]);

impl Le64 {
    #[inline]
    pub(crate) fn get(self) -> u64 {
        u64::from_le_bytes(self.0)
    }

    #[inline]
    pub(crate) fn set(&mut self, value: u64) {
        self.0 = value.to_le_bytes();
    }
}

/// A header that a packet's bytes can be read and written as.
///
/// # Safety
///
/// The type is `repr(C)` and consists only of bytes and arrays of bytes.
pub(crate) unsafe trait Header: Sized {
    const LEN: usize = size_of::<Self>();

    /// The header at the start of some bytes; `None` if there are too few.
    #[inline]
    fn of(bytes: &[u8]) -> Option<&Self> {
        let bytes = bytes.get(..Self::LEN)?;
        // SAFETY: there are enough bytes, and the trait promises that they need no alignment and that any are valid.
        Some(unsafe { &*bytes.as_ptr().cast() })
    }

    /// The header at an offset. Panics if it is incomplete.
    #[inline]
    fn at(bytes: &[u8], offset: usize) -> &Self {
        let bytes = &bytes[offset..offset + Self::LEN];
        // SAFETY: as in `of`.
        unsafe { &*bytes.as_ptr().cast() }
    }

    /// A mutable header at an offset. Panics if it is incomplete.
    #[inline]
    fn at_mut(bytes: &mut [u8], offset: usize) -> &mut Self {
        let bytes = &mut bytes[offset..offset + Self::LEN];
        // SAFETY: as in `of`; the bytes stay borrowed as long as the header.
        unsafe { &mut *bytes.as_mut_ptr().cast() }
    }
}

/// RFC 791, without options.
#[repr(C)]
pub(crate) struct Ipv4 {
    pub(crate) version_and_length: u8,
    pub(crate) tos: u8,
    pub(crate) total_length: Be16,
    pub(crate) identification: Be16,
    pub(crate) flags_and_offset: Be16,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) checksum: [u8; 2],
    /// Source and destination.
    pub(crate) addresses: [u8; 8],
}

// SAFETY: only bytes.
unsafe impl Header for Ipv4 {}

impl Ipv4 {
    const DONT_FRAGMENT: u16 = 0x4000;
    /// "More fragments" and the offset.
    const FRAGMENT: u16 = 0x3fff;
    const FRAGMENT_OFFSET: u16 = 0x1fff;

    /// The length in the header, including options, in bytes.
    #[inline]
    pub(crate) fn header_len(&self) -> usize {
        usize::from(self.version_and_length & 15) * 4
    }

    #[inline]
    pub(crate) fn has_options(&self) -> bool {
        self.version_and_length != 0x45
    }

    #[inline]
    pub(crate) fn is_fragment(&self) -> bool {
        self.flags_and_offset.get() & Self::FRAGMENT != 0
    }

    #[inline]
    pub(crate) fn is_later_fragment(&self) -> bool {
        self.flags_and_offset.get() & Self::FRAGMENT_OFFSET != 0
    }

    #[inline]
    pub(crate) fn dont_fragment(&self) -> bool {
        self.flags_and_offset.get() & Self::DONT_FRAGMENT != 0
    }

    #[inline]
    pub(crate) fn source(&self) -> [u8; 4] {
        self.addresses.as_chunks().0[0]
    }

    #[inline]
    pub(crate) fn destination(&self) -> [u8; 4] {
        self.addresses.as_chunks().0[1]
    }
}

/// RFC 8200.
#[repr(C)]
pub(crate) struct Ipv6 {
    /// Version, traffic class and flow label.
    pub(crate) class_and_flow: [u8; 4],
    pub(crate) payload_length: Be16,
    pub(crate) next_header: u8,
    pub(crate) hop_limit: u8,
    /// Source and destination.
    pub(crate) addresses: [u8; 32],
}

// SAFETY: only bytes.
unsafe impl Header for Ipv6 {}

impl Ipv6 {
    #[inline]
    pub(crate) fn source(&self) -> [u8; 16] {
        self.addresses.as_chunks().0[0]
    }

    #[inline]
    pub(crate) fn destination(&self) -> [u8; 16] {
        self.addresses.as_chunks().0[1]
    }
}

/// RFC 792 and RFC 4443.
#[repr(C)]
pub(crate) struct Icmp {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) checksum: [u8; 2],
    /// The meaning depends on the type. In an error about a packet that is too big it has the MTU.
    pub(crate) rest: Be32,
}

// SAFETY: only bytes.
unsafe impl Header for Icmp {}

/// RFC 9293, without options.
#[repr(C)]
pub(crate) struct Tcp {
    /// Source and destination.
    pub(crate) ports: [u8; 4],
    pub(crate) sequence: Be32,
    pub(crate) acknowledgment: Be32,
    pub(crate) data_offset: u8,
    pub(crate) flags: u8,
    pub(crate) window: Be16,
    pub(crate) checksum: [u8; 2],
    pub(crate) urgent: Be16,
}

// SAFETY: only bytes.
unsafe impl Header for Tcp {}

impl Tcp {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const ACK: u8 = 0x10;
    pub(crate) const URG: u8 = 0x20;
    pub(crate) const CWR: u8 = 0x80;

    /// The length in the header, including options, in bytes.
    #[inline]
    pub(crate) fn header_len(&self) -> usize {
        usize::from(self.data_offset >> 4) * 4
    }
}

/// RFC 768.
#[repr(C)]
pub(crate) struct Udp {
    /// Source and destination.
    pub(crate) ports: [u8; 4],
    pub(crate) length: Be16,
    pub(crate) checksum: [u8; 2],
}

// SAFETY: only bytes.
unsafe impl Header for Udp {}

/// The IP header of a packet, of either version.
#[derive(Clone, Copy)]
pub(crate) enum Ip<'a> {
    V4(&'a Ipv4),
    V6(&'a Ipv6),
}

impl<'a> Ip<'a> {
    /// `None` for a packet that is not IP, or too short.
    #[inline]
    pub(crate) fn of(packet: &'a [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Ipv4::of(packet).map(Self::V4),
            6 => Ipv6::of(packet).map(Self::V6),
            _ => None,
        }
    }

    /// The length of the header, without IPv4 options and IPv6 extension headers.
    #[inline]
    pub(crate) fn header_len(self) -> usize {
        match self {
            Self::V4(_) => Ipv4::LEN,
            Self::V6(_) => Ipv6::LEN,
        }
    }

    /// Source and destination.
    #[inline]
    pub(crate) fn addresses(self) -> &'a [u8] {
        match self {
            Self::V4(ip) => &ip.addresses,
            Self::V6(ip) => &ip.addresses,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn each_field_has_the_offset_of_its_rfc() {
        assert_eq!((Ipv4::LEN, Ipv6::LEN, Tcp::LEN, Udp::LEN, Icmp::LEN), (20, 40, 20, 8, 8));
        assert_eq!(offset_of!(Ipv4, total_length), 2);
        assert_eq!(offset_of!(Ipv4, identification), 4);
        assert_eq!(offset_of!(Ipv4, flags_and_offset), 6);
        assert_eq!((offset_of!(Ipv4, ttl), offset_of!(Ipv4, protocol)), (8, 9));
        assert_eq!((offset_of!(Ipv4, checksum), offset_of!(Ipv4, addresses)), (10, 12));
        assert_eq!((offset_of!(Ipv6, payload_length), offset_of!(Ipv6, next_header)), (4, 6));
        assert_eq!((offset_of!(Ipv6, hop_limit), offset_of!(Ipv6, addresses)), (7, 8));
        assert_eq!((offset_of!(Tcp, sequence), offset_of!(Tcp, acknowledgment)), (4, 8));
        assert_eq!((offset_of!(Tcp, data_offset), offset_of!(Tcp, flags)), (12, 13));
        assert_eq!((offset_of!(Tcp, window), offset_of!(Tcp, checksum)), (14, 16));
        assert_eq!(offset_of!(Tcp, urgent), 18);
        assert_eq!((offset_of!(Udp, length), offset_of!(Udp, checksum)), (4, 6));
        assert_eq!((offset_of!(Icmp, checksum), offset_of!(Icmp, rest)), (2, 4));
        let aligns = [align_of::<Ipv4>(), align_of::<Ipv6>(), align_of::<Tcp>(), align_of::<Udp>()];
        assert_eq!((aligns, align_of::<Icmp>()), ([1; 4], 1));
    }

    #[test]
    fn source_and_destination_follow_each_other() {
        let bytes: [u8; 40] = std::array::from_fn(|i| i as u8);
        let (v4, v6) = (Ipv4::at(&bytes, 0), Ipv6::at(&bytes, 0));
        assert_eq!((v4.source(), v4.destination()), ([12, 13, 14, 15], [16, 17, 18, 19]));
        assert_eq!((&v6.source()[..], &v6.destination()[..]), (&bytes[8..24], &bytes[24..40]));
    }

    #[test]
    fn an_incomplete_header_is_not_read() {
        for len in 0..64 {
            let bytes = vec![0x45; len];
            assert_eq!(Ip::of(&bytes).is_some(), len >= 20);
            assert_eq!(Ipv6::of(&bytes).is_some(), len >= 40);
            assert_eq!(Udp::of(&bytes).is_some(), len >= 8);
        }
        assert!(Ip::of(&[0x55; 60]).is_none());
    }

    #[test]
    fn a_written_field_is_in_the_bytes() {
        let mut bytes = [0; 32];
        Tcp::at_mut(&mut bytes, 3).sequence.set(0x0102_0304);
        assert_eq!(bytes[7..11], [1, 2, 3, 4]);
        assert_eq!(Tcp::at(&bytes, 3).sequence.get(), 0x0102_0304);
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn a_header_beyond_the_end_panics() {
        Tcp::at(&[0; 30], 11);
    }
}
