//! Types for keys. Secret keys are wiped when dropped and never printed.

use std::fmt;

use base16ct::{lower, mixed};
use curve25519_dalek::montgomery::MontgomeryPoint;
use subtle::{ConditionallySelectable, ConstantTimeEq};
use zeroize::{Zeroize, ZeroizeOnDrop};

pub(crate) const KEY_LEN: usize = 32;

/// A Curve25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; KEY_LEN]);

impl PublicKey {
    /// Whether the key is a point of low order. The shared secret with such a point is zero for every private key, so it
    /// proves no identity (the kernel's `curve25519` fails on them; RFC 7748, section 6.1).
    pub(crate) fn is_of_low_order(&self) -> bool {
        // Eight times a point of low order is zero.
        MontgomeryPoint(self.0).mul_bits_be([true, false, false, false].into_iter())
            == MontgomeryPoint([0; 32])
    }
}

impl fmt::Debug for PublicKey {
    /// Shows the first eight digits, which distinguish peers in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// A Curve25519 private key.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; KEY_LEN]);

impl PrivateKey {
    /// Clamps the bytes, as Curve25519 requires. wireguard-go also reports the clamped key.
    pub fn new(mut bytes: [u8; KEY_LEN]) -> Self {
        let is_key = !bytes.ct_eq(&[0; KEY_LEN]);
        let (first, last) = (bytes[0] & 0xf8, (bytes[31] & 0x7f) | 0x40);
        bytes[0].conditional_assign(&first, is_key);
        bytes[31].conditional_assign(&last, is_key);
        let key = Self(bytes);
        bytes.zeroize();
        key
    }

    /// Whether the key is all zeros, which means "no key" in the UAPI and the kernel.
    pub fn is_zero(&self) -> bool {
        self.0.ct_eq(&[0; KEY_LEN]).into()
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(MontgomeryPoint::mul_base_clamped(self.0).to_bytes())
    }

    pub fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A symmetric key shared by two peers; all zeros if there is none.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey(pub [u8; KEY_LEN]);

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Parses a key from 64 hexadecimal digits, as in the UAPI, in constant time.
pub(crate) fn parse_hex(text: &str) -> Option<[u8; KEY_LEN]> {
    let mut key = [0; KEY_LEN];
    let len = mixed::decode(text, &mut key).ok()?.len();
    (len == KEY_LEN).then_some(key)
}

/// Writes a key as 64 hexadecimal digits, in constant time.
pub(crate) fn push_hex(out: &mut Vec<u8>, key: &[u8; KEY_LEN]) {
    let at = out.len();
    out.resize(at + 2 * KEY_LEN, 0);
    lower::encode(key, &mut out[at..]).expect("there is room for two digits a byte");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_as_written() {
        let key: [u8; 32] = std::array::from_fn(|i| (i * 7) as u8);
        let mut text = Vec::new();
        push_hex(&mut text, &key);
        assert_eq!(parse_hex(std::str::from_utf8(&text).unwrap()), Some(key));
    }

    #[test]
    fn a_key_of_the_wrong_length_or_alphabet_is_rejected() {
        assert_eq!(parse_hex("00"), None);
        assert_eq!(parse_hex(&"0".repeat(62)), None);
        assert_eq!(parse_hex(&"0".repeat(63)), None);
        assert_eq!(parse_hex(&"0".repeat(66)), None);
        assert_eq!(parse_hex(&"é".repeat(32)), None);
    }

    #[test]
    fn digits_are_parsed_as_by_the_standard_library() {
        for byte in 0..=127u8 {
            let digit = char::from(byte);
            for at in [0, 31, 63] {
                let mut text = "0".repeat(64);
                text.replace_range(at..=at, &digit.to_string());
                let value = digit.to_digit(16).map(|value| (value as u8) << if at % 2 == 0 { 4 } else { 0 });
                assert_eq!(parse_hex(&text).map(|key| key[at / 2]), value, "{digit:?} at {at}");
            }
        }
    }

    #[test]
    fn a_private_key_is_clamped_unless_it_is_zero() {
        assert!(PrivateKey::new([0; 32]).is_zero());
        let key = PrivateKey::new([0xff; 32]);
        assert_eq!((key.0[0], key.0[1], key.0[31]), (0xf8, 0xff, 0x7f));
        assert_eq!(PrivateKey::new(std::array::from_fn(|i| u8::from(i == 0))).0[31], 0x40);
    }

    #[test]
    fn secret_keys_are_not_printed() {
        let shown = format!("{:?} {:?}", PrivateKey::new([0x41; 32]), PresharedKey([0x41; 32]));
        assert_eq!(shown, "(hidden) (hidden)");
    }

    /// The points of order 1, 2, 4 and 8 on the curve and its twist, with noncanonical encodings of the first two.
    #[test]
    fn points_of_low_order_are_recognised() {
        for low in [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        ] {
            assert!(PublicKey(parse_hex(low).unwrap()).is_of_low_order(), "{low}");
        }
        for seed in 1..4 {
            assert!(!PrivateKey::new([seed; 32]).public().is_of_low_order());
        }
    }

    #[test]
    fn the_public_key_is_the_one_that_wg_pubkey_prints() {
        let public = PrivateKey::new(std::array::from_fn(|i| i as u8 + 1)).public();
        assert_eq!(
            parse_hex("07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c"),
            Some(public.0)
        );
    }
}
