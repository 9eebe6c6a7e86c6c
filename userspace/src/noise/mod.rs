//! The WireGuard protocol without I/O: messages, handshake, sessions, replay window, cookies. A time `now` is in
//! milliseconds of `sys::now_ms`.
//!
//! The handshake is Noise_IKpsk2 from the `snow` crate. Sessions, timers and cookies are our own and follow the kernel. The
//! audited `gotatun` crate (0.10) is not used: its `Tunn` allocates and copies each packet, needs `&mut self` in both
//! directions, keeps eight sessions with replay windows in every configured peer, and leaves its keys in memory when it is
//! dropped.

pub mod cookie;
pub mod handshake;
pub mod ratelimit;
pub mod replay;
pub mod session;

/// The type numbers, lengths and fields of the four messages (whitepaper, section 5.4).
pub mod message {
    pub use crate::aead::TAG_LEN;
    use crate::headers::{Header, Le32, Le64};

    pub const INITIATION: u8 = 1;
    pub const RESPONSE: u8 = 2;
    pub const COOKIE_REPLY: u8 = 3;
    pub const DATA: u8 = 4;

    pub const INITIATION_LEN: usize = 148;
    pub const RESPONSE_LEN: usize = 92;
    pub const COOKIE_REPLY_LEN: usize = 64;
    pub const DATA_HEADER_LEN: usize = 16;
    pub const MAC_LEN: usize = 16;

    /// The type of a message. `None` if a reserved byte is not zero or the length does not match the type.
    #[inline]
    pub fn kind(packet: &[u8]) -> Option<u8> {
        let (&kind, rest) = packet.split_first()?;
        if rest.get(..3)? != [0; 3] {
            return None;
        }
        let fits = match kind {
            INITIATION => packet.len() == INITIATION_LEN,
            RESPONSE => packet.len() == RESPONSE_LEN,
            COOKIE_REPLY => packet.len() == COOKIE_REPLY_LEN,
            DATA => packet.len() >= DATA_HEADER_LEN + TAG_LEN,
            _ => false,
        };
        fits.then_some(kind)
    }

    /// The start of each message. The index is the receiver's in cookie replies and data messages, and the sender's in
    /// handshake messages.
    #[repr(C)]
    pub(crate) struct Start {
        /// The type in the first byte; the other three are reserved and zero.
        kind: Le32,
        pub(crate) index: Le32,
    }

    impl Start {
        #[inline]
        pub(crate) fn set(&mut self, kind: u8, index: u32) {
            self.kind.set(kind.into());
            self.index.set(index);
        }
    }

    /// Section 5.4.2. `noise` is the message of the handshake pattern: ephemeral key, static key, time stamp.
    #[repr(C)]
    pub(crate) struct Initiation {
        pub(crate) start: Start,
        pub(crate) noise: [u8; 108],
        pub(crate) macs: [[u8; MAC_LEN]; 2],
    }

    /// Section 5.4.3. `noise` is the message of the handshake pattern: ephemeral key and an empty payload.
    #[repr(C)]
    pub(crate) struct Response {
        pub(crate) start: Start,
        pub(crate) receiver: Le32,
        pub(crate) noise: [u8; 48],
        pub(crate) macs: [[u8; MAC_LEN]; 2],
    }

    /// Section 5.4.7.
    #[repr(C)]
    pub(crate) struct CookieReply {
        pub(crate) start: Start,
        pub(crate) nonce: [u8; 24],
        pub(crate) cookie: [u8; 16],
        pub(crate) tag: [u8; 16],
    }

    /// The header of a data message (section 5.4.6). The encrypted packet and its tag follow.
    #[repr(C)]
    pub(crate) struct Data {
        pub(crate) start: Start,
        pub(crate) counter: Le64,
    }

    // SAFETY: these consist of bytes, arrays of bytes and types of those.
    unsafe impl Header for Start {}
    // SAFETY: as above.
    unsafe impl Header for Initiation {}
    // SAFETY: as above.
    unsafe impl Header for Response {}
    // SAFETY: as above.
    unsafe impl Header for CookieReply {}
    // SAFETY: as above.
    unsafe impl Header for Data {}

    const _: () = assert!(Initiation::LEN == INITIATION_LEN && Response::LEN == RESPONSE_LEN);
    const _: () = assert!(CookieReply::LEN == COOKIE_REPLY_LEN && Data::LEN == DATA_HEADER_LEN);
}

/// The times and limits of the whitepaper, section 6, and of the kernel's `messages.h`.
pub(crate) mod limits {
    pub(crate) const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
    pub(crate) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - super::replay::WINDOW - 1;
    pub(crate) const REKEY_TIMEOUT_MS: u64 = 5_000;
    pub(crate) const REKEY_TIMEOUT_JITTER_MS: u64 = 333;
    pub(crate) const REKEY_AFTER_TIME_MS: u64 = 120_000;
    pub(crate) const REJECT_AFTER_TIME_MS: u64 = 180_000;
    pub(crate) const KEEPALIVE_TIMEOUT_MS: u64 = 10_000;
    pub(crate) const MAX_HANDSHAKE_ATTEMPTS: u32 = 90 / 5;
    pub(crate) const MAX_STAGED_PACKETS: usize = 128;
    /// The least time between two initiations of a peer: at most fifty per second are accepted.
    pub(crate) const INITIATION_INTERVAL_MS: u64 = 20;
}

#[cfg(test)]
mod tests {
    use super::message::kind;

    /// Tests every length, first byte and reserved byte.
    #[test]
    fn a_message_needs_a_type_and_the_length_of_that_type() {
        for (len, first) in (0..=200_usize).flat_map(|len| (0..=u8::MAX).map(move |first| (len, first))) {
            let mut packet = vec![0; len];
            packet.iter_mut().take(1).for_each(|to| *to = first);
            // Whitepaper, section 5.4: the lengths of initiation, response, cookie reply, and of data without a packet.
            let fits = matches!((first, len), (1, 148) | (2, 92) | (3, 64) | (4, 32..));
            assert_eq!(kind(&packet), fits.then_some(first), "type {first}, {len} bytes");
            for at in 1..4.min(len) {
                packet[at] = 1;
                assert_eq!(kind(&packet), None, "reserved byte {at} is set");
                packet[at] = 0;
            }
        }
    }
}
