//! The handshake `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` with WireGuard's messages (whitepaper, section 5.4).
//!
//! Each step wipes the stack that it used. Keys are passed on through the heap only.

use snow::{Builder, HandshakeState};
use std::time::{SystemTime, UNIX_EPOCH};

use super::message::{INITIATION, INITIATION_LEN, Initiation, RESPONSE, RESPONSE_LEN, Response};
use super::session::Keys;
use crate::headers::Header;
use crate::keys::{PresharedKey, PrivateKey, PublicKey};
use crate::wipe;

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// The position of the preshared key in the pattern.
const PSK_AT: usize = 2;
const TIMESTAMP_LEN: usize = 12;

/// A TAI64N label. Later labels are greater.
pub type Timestamp = [u8; TIMESTAMP_LEN];

fn builder(ours: &PrivateKey) -> Option<Builder<'_>> {
    Builder::new(PATTERN.parse().ok()?).local_private_key(ours.bytes()).ok()?.prologue(PROLOGUE).ok()
}

/// The seconds of the TAI64N label of 1970-01-01.
const TAI_BASE: u64 = (1 << 62) + 10;

/// The seconds since 1970 of a time stamp, which may be any.
pub(crate) fn unix_seconds(stamp: &Timestamp) -> i64 {
    u64::from_be_bytes(stamp[..8].try_into().expect("eight bytes")).wrapping_sub(TAI_BASE) as i64
}

/// The current time, rounded to 2^24 ns as in the kernel, so that it does not reveal the precise clock.
pub fn timestamp() -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut stamp = [0; TIMESTAMP_LEN];
    stamp[..8].copy_from_slice(&(TAI_BASE + now.as_secs()).to_be_bytes());
    stamp[8..].copy_from_slice(&(now.subsec_nanos() & !((1 << 24) - 1)).to_be_bytes());
    stamp
}

/// The next time stamp that rounding keeps distinct from the given one.
fn after(stamp: &Timestamp) -> Timestamp {
    let seconds = u64::from_be_bytes(stamp[..8].try_into().expect("eight bytes"));
    let nanos = u32::from_be_bytes(stamp[8..].try_into().expect("four bytes")) + (1 << 24);
    let (seconds, nanos) = if nanos < 1_000_000_000 { (seconds, nanos) } else { (seconds + 1, 0) };
    let mut next = [0; TIMESTAMP_LEN];
    next[..8].copy_from_slice(&seconds.to_be_bytes());
    next[8..].copy_from_slice(&nanos.to_be_bytes());
    next
}

/// The sender's ephemeral key, which is the unencrypted start of each message of the pattern.
fn ephemeral(noise: &[u8]) -> Option<PublicKey> {
    Some(PublicKey(*noise.first_chunk()?))
}

/// The time stamps of a device's initiations.
#[derive(Default)]
pub(crate) struct Stamps {
    newest: Timestamp,
}

impl Stamps {
    /// The time stamp of the next initiation. It is later than the last one for the same peer and not earlier than any other,
    /// even if the clock is set back. Different peers may get equal time stamps: otherwise the time stamps would run ahead of
    /// the clock, from which a restarted daemon begins.
    pub(crate) fn next(&mut self, last: &Timestamp, now: Timestamp) -> Timestamp {
        self.newest = now.max(self.newest);
        if self.newest <= *last {
            self.newest = after(last);
        }
        self.newest
    }
}

/// A handshake that we initiated and that is not yet answered.
pub struct Initiated {
    state: Box<HandshakeState>,
    pub(crate) local_index: u32,
}

/// Starts a handshake. The message still lacks its MACs. `None` if the peer's key is a point of low order.
pub fn initiate(
    ours: &PrivateKey,
    theirs: PublicKey,
    psk: &PresharedKey,
    local_index: u32,
    stamp: &Timestamp,
) -> Option<(Initiated, [u8; INITIATION_LEN])> {
    wipe::after(|| write_initiation(ours, theirs, psk, local_index, stamp))
}

fn write_initiation(
    ours: &PrivateKey,
    theirs: PublicKey,
    psk: &PresharedKey,
    local_index: u32,
    stamp: &Timestamp,
) -> Option<(Initiated, [u8; INITIATION_LEN])> {
    if theirs.is_of_low_order() {
        return None;
    }
    let mut state = builder(ours)?
        .remote_public_key(&theirs.0)
        .ok()?
        .psk(PSK_AT as u8, &psk.0)
        .ok()?
        .build_initiator()
        .ok()?;
    let mut bytes = [0; INITIATION_LEN];
    let message = Initiation::at_mut(&mut bytes, 0);
    message.start.set(INITIATION, local_index);
    state.write_message(stamp, &mut message.noise).ok()?;
    Some((Initiated { state: Box::new(state), local_index }, bytes))
}

impl Initiated {
    /// Reads the response and returns the peer's index and the keys. An invalid response leaves the handshake unchanged.
    pub fn finish(&mut self, message: &[u8]) -> Option<(u32, Box<Keys>)> {
        wipe::after(|| self.read_response(message))
    }

    fn read_response(&mut self, message: &[u8]) -> Option<(u32, Box<Keys>)> {
        let message = Response::of(message).filter(|_| message.len() == RESPONSE_LEN)?;
        if ephemeral(&message.noise)?.is_of_low_order() {
            return None;
        }
        self.state.read_message(&message.noise, &mut []).ok()?;
        let (send, receive) = self.state.dangerously_get_raw_split();
        Some((message.start.index.get(), Box::new(Keys { send, receive })))
    }
}

/// A received initiation, decrypted up to the sender's key and time stamp.
pub struct Received {
    state: Box<HandshakeState>,
    pub peer: PublicKey,
    pub(crate) timestamp: Timestamp,
    pub remote_index: u32,
}

/// Decrypts an initiation.
pub fn receive(ours: &PrivateKey, message: &[u8]) -> Option<Received> {
    wipe::after(|| read_initiation(ours, message))
}

fn read_initiation(ours: &PrivateKey, message: &[u8]) -> Option<Received> {
    let message = Initiation::of(message).filter(|_| message.len() == INITIATION_LEN)?;
    let mut state = builder(ours)?.build_responder().ok()?;
    let mut timestamp = [0; TIMESTAMP_LEN];
    state.read_message(&message.noise, &mut timestamp).ok()?;
    let peer = PublicKey(state.get_remote_static()?.try_into().ok()?);
    if peer.is_of_low_order() || ephemeral(&message.noise)?.is_of_low_order() {
        return None;
    }
    Some(Received { state: Box::new(state), peer, timestamp, remote_index: message.start.index.get() })
}

impl Received {
    /// Creates the response, which still lacks its MACs, and the keys.
    pub fn respond(self, psk: &PresharedKey, local_index: u32) -> Option<([u8; RESPONSE_LEN], Box<Keys>)> {
        wipe::after(|| self.write_response(psk, local_index))
    }

    fn write_response(
        mut self,
        psk: &PresharedKey,
        local_index: u32,
    ) -> Option<([u8; RESPONSE_LEN], Box<Keys>)> {
        self.state.set_psk(PSK_AT, &psk.0).ok()?;
        let mut bytes = [0; RESPONSE_LEN];
        let message = Response::at_mut(&mut bytes, 0);
        message.start.set(RESPONSE, local_index);
        message.receiver.set(self.remote_index);
        self.state.write_message(&[], &mut message.noise).ok()?;
        let (receive, send) = self.state.dangerously_get_raw_split();
        Some((bytes, Box::new(Keys { send, receive })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wipe::tests::depth;
    use curve25519_dalek::montgomery::MontgomeryPoint;
    use snow::params::{CipherChoice, DHChoice, HashChoice};
    use snow::resolvers::{CryptoResolver, DefaultResolver};

    fn keys(seed: u8) -> (PrivateKey, PublicKey) {
        let private = PrivateKey::new([seed; 32]);
        let public = private.public();
        (private, public)
    }

    #[test]
    fn both_ends_derive_the_same_keys() {
        let ((a, a_public), (b, b_public), psk) = (keys(3), keys(5), PresharedKey([7; 32]));
        let (mut initiated, initiation) = initiate(&a, b_public, &psk, 11, &timestamp()).unwrap();
        let received = receive(&b, &initiation).unwrap();
        assert_eq!((received.peer, received.remote_index), (a_public, 11));
        let (response, theirs) = received.respond(&psk, 22).unwrap();
        let (index, ours) = initiated.finish(&response).unwrap();
        assert_eq!(index, 22);
        assert_eq!((ours.send, ours.receive), (theirs.receive, theirs.send));
    }

    #[test]
    fn a_response_with_a_wrong_key_or_byte_is_rejected() {
        let ((a, _), (b, b_public), psk) = (keys(3), keys(5), PresharedKey([7; 32]));
        let (mut initiated, initiation) = initiate(&a, b_public, &psk, 11, &timestamp()).unwrap();
        let (wrong, _) = receive(&b, &initiation).unwrap().respond(&PresharedKey([8; 32]), 22).unwrap();
        assert!(initiated.finish(&wrong).is_none());
        let (right, _) = receive(&b, &initiation).unwrap().respond(&psk, 22).unwrap();
        let mut changed = right;
        changed[20] ^= 1;
        assert!(initiated.finish(&changed).is_none());
        assert!(initiated.finish(&right).is_some());
    }

    #[test]
    fn each_step_uses_less_stack_than_is_wiped() {
        let ((a, _), (b, b_public), psk) = (keys(3), keys(5), PresharedKey([7; 32]));
        let deepest = depth(|| {
            let (mut begun, initiation) = write_initiation(&a, b_public, &psk, 11, &timestamp()).unwrap();
            let received = read_initiation(&b, &initiation).unwrap();
            let (response, _) = received.write_response(&psk, 22).unwrap();
            assert!(begun.read_response(&response).is_some());
        });
        assert!((1024..wipe::STACK_BYTES).contains(&deepest), "{deepest} bytes");
    }

    /// A fake key pair. Its public key is a point of low order until a private key is set.
    #[derive(Default)]
    struct Blank {
        private: [u8; 32],
        public: [u8; 32],
    }

    impl snow::types::Dh for Blank {
        fn name(&self) -> &'static str {
            "25519"
        }

        fn pub_len(&self) -> usize {
            32
        }

        fn priv_len(&self) -> usize {
            32
        }

        fn set(&mut self, private: &[u8]) {
            self.private.copy_from_slice(private);
            if self.private != [0; 32] {
                self.public = PrivateKey::new(self.private).public().0;
            }
        }

        fn generate(&mut self, _: &mut dyn snow::types::Random) -> Result<(), snow::Error> {
            Ok(())
        }

        fn pubkey(&self) -> &[u8] {
            &self.public
        }

        fn privkey(&self) -> &[u8] {
            &self.private
        }

        fn dh(&self, theirs: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
            let theirs = MontgomeryPoint(theirs[..32].try_into().unwrap());
            out[..32].fill(0);
            if self.private != [0; 32] {
                out[..32].copy_from_slice(theirs.mul_clamped(self.private).as_bytes());
            }
            Ok(())
        }
    }

    struct Blanks(DefaultResolver);

    impl CryptoResolver for Blanks {
        fn resolve_rng(&self) -> Option<Box<dyn snow::types::Random>> {
            self.0.resolve_rng()
        }

        fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn snow::types::Dh>> {
            Some(Box::new(Blank::default()))
        }

        fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn snow::types::Hash>> {
            self.0.resolve_hash(choice)
        }

        fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn snow::types::Cipher>> {
            self.0.resolve_cipher(choice)
        }
    }

    /// An initiation with an ephemeral key of low order.
    fn blank_initiation(private: [u8; 32], to: PublicKey) -> [u8; INITIATION_LEN] {
        let mut state = Builder::with_resolver(PATTERN.parse().unwrap(), Box::new(Blanks(DefaultResolver)))
            .local_private_key(&private)
            .unwrap()
            .prologue(PROLOGUE)
            .unwrap()
            .remote_public_key(&to.0)
            .unwrap()
            .psk(PSK_AT as u8, &[0; 32])
            .unwrap()
            .build_initiator()
            .unwrap();
        let mut bytes = [0; INITIATION_LEN];
        let message = Initiation::at_mut(&mut bytes, 0);
        message.start.set(INITIATION, 0);
        state.write_message(&timestamp(), &mut message.noise).unwrap();
        bytes
    }

    #[test]
    fn an_initiation_with_a_low_order_key_is_rejected() {
        let ((_, _), (b, b_public)) = (keys(3), keys(5));
        assert!(receive(&b, &blank_initiation([0; 32], b_public)).is_none(), "no key at all");
        assert!(receive(&b, &blank_initiation([3; 32], b_public)).is_none(), "no ephemeral key");
    }

    #[test]
    fn no_handshake_starts_with_a_key_of_low_order() {
        let nobody = PublicKey([0; 32]);
        assert!(initiate(&keys(3).0, nobody, &PresharedKey([0; 32]), 11, &timestamp()).is_none());
    }

    #[test]
    fn time_stamps_increase_per_peer_but_not_ahead_of_the_clock() {
        let (mut stamps, now) = (Stamps::default(), timestamp());
        for _peer in 0..10_000 {
            assert_eq!(stamps.next(&[0; 12], now), now);
        }
        let mut last = now;
        for set_back in [now, [0; 12], now] {
            let next = stamps.next(&last, set_back);
            assert!(next > last);
            last = next;
        }
        assert_eq!(stamps.next(&[0; 12], [0; 12]), last, "another peer's, with the clock set back");
    }

    #[test]
    fn time_stamps_carry_into_the_next_second() {
        let mut stamp = timestamp();
        for _ in 0..200 {
            assert!(after(&stamp) > stamp);
            stamp = after(&stamp);
        }
    }

    #[test]
    fn a_changed_initiation_is_rejected() {
        let ((a, _), (b, b_public)) = (keys(3), keys(5));
        let (_, initiation) = initiate(&a, b_public, &PresharedKey([0; 32]), 11, &timestamp()).unwrap();
        for at in 8..INITIATION_LEN - 32 {
            let mut changed = initiation;
            changed[at] ^= 1;
            // The highest bit of a Curve25519 point is ignored, but it is hashed.
            assert!(receive(&b, &changed).is_none(), "byte {at}");
        }
        assert!(receive(&b, &initiation[..100]).is_none());
    }

    /// Runs Project Wycheproof's X25519 vectors through our clamping and our check for points of low order.
    #[test]
    fn every_wycheproof_vector_gives_its_secret_or_is_rejected() {
        use wycheproof::xdh::{TestName, TestSet};
        let set = TestSet::load(TestName::X25519).unwrap();
        let tests: Vec<_> = set.test_groups.into_iter().flat_map(|group| group.tests).collect();
        assert!(tests.len() >= 500, "only {} vectors", tests.len());
        for test in tests {
            let private = PrivateKey::new(test.private_key[..].try_into().unwrap());
            let public = PublicKey(test.public_key[..].try_into().unwrap());
            let mut dh = DefaultResolver.resolve_dh(&DHChoice::Curve25519).unwrap();
            dh.set(private.bytes());
            let mut secret = [0; 32];
            let outcome = dh.dh(&public.0, &mut secret);
            assert_eq!(public.is_of_low_order(), test.shared_secret[..] == [0; 32], "{}", test.tc_id);
            if !public.is_of_low_order() {
                assert!(outcome.is_ok());
                assert_eq!(secret, test.shared_secret[..], "{}", test.tc_id);
            }
        }
    }
}
