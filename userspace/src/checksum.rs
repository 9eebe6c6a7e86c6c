//! The Internet checksum (RFC 1071). It is summed in the machine's byte order, because the result does not depend on it.

/// Adds the 16-bit words of some bytes to a sum. An odd number of bytes is padded with a zero byte.
#[inline]
pub(crate) fn add(sum: u64, bytes: &[u8]) -> u64 {
    let (chunks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0u64; 8];
    for chunk in chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (words, odd) = rest.as_chunks::<2>();
    let mut total = sum + lanes.iter().map(|l| (l & 0xffff_ffff) + (l >> 32)).sum::<u64>();
    total += words.iter().map(|w| u64::from(u16::from_ne_bytes(*w))).sum::<u64>();
    match odd {
        [last] => total + u64::from(u16::from_ne_bytes([*last, 0])),
        _ => total,
    }
}

/// Folds a sum to 16 bits.
#[inline]
pub(crate) fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The value of the checksum field for a sum of all the bytes that it covers.
#[inline]
pub(crate) fn finish(sum: u64) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

/// The checksum field after one covered word has changed (RFC 1624, equation 3). A wrong checksum stays wrong.
#[inline]
pub(crate) fn replace(field: [u8; 2], before: [u8; 2], after: [u8; 2]) -> [u8; 2] {
    let word = |bytes| u64::from(u16::from_ne_bytes(bytes));
    let inverse = |bytes| u64::from(!u16::from_ne_bytes(bytes));
    finish(inverse(field) + inverse(before) + word(after))
}

/// The sum of the pseudo-header that the checksums of TCP, UDP and ICMPv6 include.
#[inline]
pub(crate) fn pseudo(addresses: &[u8], protocol: u8, len: usize) -> u64 {
    let sum = add(u64::from(u16::from_ne_bytes([0, protocol])), addresses);
    sum + u64::from((len as u16).to_be()) + u64::from(((len >> 16) as u16).to_be())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plainly(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn the_sum_matches_a_plain_implementation(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(u16::from_be_bytes(finish(add(0, &bytes))), plainly(&bytes));
        }
    }

    proptest! {
        #[test]
        fn replacing_a_word_matches_a_new_checksum(mut bytes: [u8; 20], at in 0usize..10, word: [u8; 2]) {
            bytes[0] = 0x45;
            let at = 2 * at.max(1);
            let before = [bytes[at], bytes[at + 1]];
            let field = finish(add(0, &bytes));
            bytes[at..at + 2].copy_from_slice(&word);
            prop_assert_eq!(replace(field, before, word), finish(add(0, &bytes)));
        }
    }

    /// The example of RFC 1624, section 4.
    #[test]
    fn a_field_that_becomes_zero_is_written_as_zero() {
        let [field, before, after] = [0xdd2f_u16, 0x5555, 0x3285].map(u16::to_be_bytes);
        assert_eq!(replace(field, before, after), [0, 0]);
    }

    #[test]
    fn the_largest_sums_fold() {
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(0x1_0000), 1);
    }
}
