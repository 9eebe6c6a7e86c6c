//! MACs and cookies (whitepaper, sections 5.4.4 and 5.4.7; the kernel's `cookie.c`).

use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::AeadInPlace;
use std::net::{IpAddr, SocketAddr};
use subtle::ConstantTimeEq;

use super::message::{COOKIE_REPLY, COOKIE_REPLY_LEN, CookieReply, MAC_LEN, Start};
use crate::headers::Header;
use crate::keys::PublicKey;
use crate::sys;

const SECRET_MAX_AGE_MS: u64 = 120_000;
/// A cookie is used for five seconds less than the lifetime of its secret, to allow for latency.
const COOKIE_MAX_AGE_MS: u64 = SECRET_MAX_AGE_MS - 5_000;

pub(crate) type Mac = [u8; MAC_LEN];

fn labelled(label: [u8; 8], key: PublicKey) -> [u8; 32] {
    Blake2s256::new().chain_update(label).chain_update(key.0).finalize().into()
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Mac {
    let mut mac = <Blake2sMac<blake2::digest::consts::U16> as KeyInit>::new_from_slice(key)
        .expect("a key of 16 or 32 bytes");
    parts.iter().for_each(|part| Update::update(&mut mac, part));
    mac.finalize_fixed().into()
}

/// What the MACs of a handshake message prove.
#[derive(Debug, PartialEq, Eq)]
pub enum Proof {
    /// The sender does not know our public key.
    Invalid,
    /// The sender knows our public key.
    Mac1,
    /// The sender also has a cookie that we sent to its address.
    Cookie,
}

type Nonce = [u8; 24];

/// A supply of random nonces, drawn in bulk because a flood requires one per message.
#[derive(Default)]
struct Nonces(Vec<Nonce>);

impl Nonces {
    fn next(&mut self) -> Nonce {
        if self.0.is_empty() {
            let drawn: [u8; 40 * 24] = sys::random();
            self.0.extend(drawn.as_chunks().0);
        }
        self.0.pop().expect("some have just been drawn")
    }
}

/// Checks the MACs of received messages and creates cookies.
pub struct Checker {
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
    secret: [u8; 32],
    secret_born: u64,
    nonces: Nonces,
}

fn split_macs(message: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let (body, macs) = message.split_at(message.len() - 2 * MAC_LEN);
    let (mac1, mac2) = macs.split_at(MAC_LEN);
    (body, mac1, mac2)
}

fn address_bytes(source: SocketAddr) -> ([u8; 18], usize) {
    let mut bytes = [0; 18];
    let len = match source.ip() {
        IpAddr::V4(a) => {
            bytes[..4].copy_from_slice(&a.octets());
            4
        }
        IpAddr::V6(a) => {
            bytes[..16].copy_from_slice(&a.octets());
            16
        }
    };
    bytes[len..len + 2].copy_from_slice(&source.port().to_be_bytes());
    (bytes, len + 2)
}

impl Checker {
    pub fn new(our_key: PublicKey, now: u64) -> Self {
        Self {
            mac1_key: labelled(*b"mac1----", our_key),
            cookie_key: labelled(*b"cookie--", our_key),
            secret: sys::random(),
            secret_born: now,
            nonces: Nonces::default(),
        }
    }

    /// Checks the MACs of an initiation or a response from an address.
    pub fn check(&mut self, message: &[u8], source: SocketAddr, now: u64) -> Proof {
        let (body, mac1, mac2) = split_macs(message);
        if !bool::from(mac(&self.mac1_key, &[body]).ct_eq(mac1)) {
            return Proof::Invalid;
        }
        if mac2 == [0; MAC_LEN] {
            return Proof::Mac1;
        }
        let cookie = self.cookie(source, now);
        if mac(&cookie, &[body, mac1]).ct_eq(mac2).into() { Proof::Cookie } else { Proof::Mac1 }
    }

    fn cookie(&mut self, source: SocketAddr, now: u64) -> Mac {
        if now.saturating_sub(self.secret_born) >= SECRET_MAX_AGE_MS {
            self.secret = sys::random();
            self.secret_born = now;
        }
        let (address, len) = address_bytes(source);
        mac(&self.secret, &[&address[..len]])
    }

    /// Creates the cookie reply to a message from an address.
    pub fn reply(&mut self, message: &[u8], source: SocketAddr, now: u64) -> [u8; COOKIE_REPLY_LEN] {
        let (_, mac1, _) = split_macs(message);
        let mut bytes = [0; COOKIE_REPLY_LEN];
        let reply = CookieReply::at_mut(&mut bytes, 0);
        reply.start.set(COOKIE_REPLY, Start::at(message, 0).index.get());
        reply.nonce = self.nonces.next();
        reply.cookie = self.cookie(source, now);
        reply.tag = XChaCha20Poly1305::new(&self.cookie_key.into())
            .encrypt_in_place_detached(&reply.nonce.into(), mac1, &mut reply.cookie)
            .expect("a cookie is far below the cipher's limit")
            .into();
        bytes
    }
}

/// Writes the MACs of messages to one peer and stores the cookie received from it.
pub struct Maker {
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
    /// The cookie, and when it was received in milliseconds of `now_ms`.
    cookie: Option<(Mac, u64)>,
    last_mac1: Option<Mac>,
}

impl Maker {
    pub fn new(their_key: PublicKey) -> Self {
        Self {
            mac1_key: labelled(*b"mac1----", their_key),
            cookie_key: labelled(*b"cookie--", their_key),
            cookie: None,
            last_mac1: None,
        }
    }

    /// Writes the MACs, the last 32 bytes of a handshake message.
    pub fn sign(&mut self, message: &mut [u8], now: u64) {
        let (body, macs) = message.split_at_mut(message.len() - 2 * MAC_LEN);
        let mac1 = mac(&self.mac1_key, &[body]);
        macs[..MAC_LEN].copy_from_slice(&mac1);
        let mac2 = match self.cookie {
            Some((cookie, born)) if now.saturating_sub(born) < COOKIE_MAX_AGE_MS => {
                mac(&cookie, &[body, &mac1])
            }
            _ => [0; MAC_LEN],
        };
        macs[MAC_LEN..].copy_from_slice(&mac2);
        self.last_mac1 = Some(mac1);
    }

    /// Decrypts the cookie in a reply to our last message. Returns whether the reply is authentic.
    pub fn receive(&mut self, reply: &[u8; COOKIE_REPLY_LEN], now: u64) -> bool {
        let Some(mac1) = self.last_mac1 else {
            return false;
        };
        let &CookieReply { nonce, mut cookie, tag, .. } = CookieReply::at(reply, 0);
        let opened = XChaCha20Poly1305::new(&self.cookie_key.into())
            .decrypt_in_place_detached(&nonce.into(), &mac1, &mut cookie, &tag.into())
            .is_ok();
        if opened {
            self.cookie = Some((cookie, now));
            self.last_mac1 = None;
        }
        opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PublicKey = PublicKey([9; 32]);

    fn source(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 51820))
    }

    #[test]
    fn a_message_without_our_public_key_is_invalid() {
        let mut message = [7; 148];
        assert_eq!(Checker::new(KEY, 0).check(&message, source(1), 0), Proof::Invalid);
        Maker::new(KEY).sign(&mut message, 0);
        assert_eq!(Checker::new(KEY, 0).check(&message, source(1), 0), Proof::Mac1);
    }

    #[test]
    fn a_cookie_is_valid_for_its_address_and_lifetime_only() {
        let (mut checker, mut maker, mut message) = (Checker::new(KEY, 0), Maker::new(KEY), [7; 148]);
        maker.sign(&mut message, 0);
        let reply = checker.reply(&message, source(1), 0);
        assert!(maker.receive(&reply, 0));
        assert!(!maker.receive(&reply, 0), "a second reply to the same message");
        maker.sign(&mut message, 1);
        assert_eq!(checker.check(&message, source(1), 1), Proof::Cookie);
        assert_eq!(checker.check(&message, source(2), 1), Proof::Mac1);
        assert_eq!(checker.check(&message, source(1), SECRET_MAX_AGE_MS), Proof::Mac1);
        maker.sign(&mut message, COOKIE_MAX_AGE_MS);
        assert_eq!(message[132..], [0; 16]);
    }

    #[test]
    fn a_forged_cookie_is_rejected() {
        let (mut checker, mut maker, mut message) = (Checker::new(KEY, 0), Maker::new(KEY), [7; 92]);
        maker.sign(&mut message, 0);
        let mut reply = checker.reply(&message, source(1), 0);
        reply[40] ^= 1;
        assert!(!maker.receive(&reply, 0));
    }
}
