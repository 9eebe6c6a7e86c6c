//! Handshake messages with changes in transit, and their expected validity.

use arbitrary::Arbitrary;
use wgq_userspace::noise::cookie::{Checker, Maker};
use wgq_userspace::noise::message::MAC_LEN;
use wgq_userspace::udp::Endpoint;

use crate::host::edit;

/// The 32-bit field at an offset of a message.
pub fn u32_at(message: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*message[at..].first_chunk().expect("four bytes"))
}

/// The changes to a handshake message between its creation and its arrival.
#[derive(Arbitrary, Debug)]
pub struct Journey {
    /// Changes before the MACs are written, by someone who knows the receiver's public key.
    pub before: Vec<(u8, u8)>,
    /// Changes afterwards, by anyone.
    pub after: Vec<(u8, u8)>,
    /// Whether the sender has a cookie for its apparent address.
    pub cookie: bool,
    pub from: u8,
    pub under_load: bool,
}

impl Journey {
    /// Signs a message and changes it. Returns whether its MACs are valid enough for further checks.
    pub fn travel(&self, message: &mut [u8], maker: &mut Maker, now: u64) -> bool {
        let (len, body) = (message.len(), message.len() - 2 * MAC_LEN);
        edit(&mut message[..body], &self.before);
        maker.sign(message, now);
        let signed = message.to_vec();
        edit(message, &self.after);
        let mac2_is_right = self.cookie && message[len - MAC_LEN..] == signed[len - MAC_LEN..];
        message[..len - MAC_LEN] == signed[..len - MAC_LEN] && (!self.under_load || mac2_is_right)
    }
}

/// A maker for a receiver, with the cookie that the receiver sends to an address.
pub fn maker_with_cookie(mut maker: Maker, checker: &mut Checker, from: Endpoint, now: u64) -> Maker {
    let mut message = [0; 92];
    maker.sign(&mut message, now);
    let reply = checker.reply(&message, from.address, now);
    assert!(maker.receive(&reply, now), "a cookie for the last message is refused");
    maker
}
