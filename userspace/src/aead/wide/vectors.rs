//! Runs Project Wycheproof's vectors of ChaCha20-Poly1305 in each lane of each cipher.
//!
//! The vectors have additional data and any nonces. WireGuard has no additional data, and its nonces start with zeros. So
//! the nonce's first word is put into the state here, and the additional data is passed to Poly1305 before the packet.

use ring::aead::{Aad, Nonce};
use wycheproof::TestResult;
use wycheproof::aead::{Test, TestName, TestSet};

use super::{Key, State, Tags, avx2, avx512, state, unlimited};
use crate::aead::exercised::exercised;
use crate::aead::{self, Cipher, MANY, Message, MessageSet, TAG_LEN};

/// A vector with a nonce of the correct length. The types here allow no other length.
struct Vector {
    test: Test,
    key: [u8; 32],
    nonce: [u8; 12],
}

fn vectors() -> Vec<Vector> {
    let set = TestSet::load(TestName::ChaCha20Poly1305).expect("the vectors can be read");
    let tests = set.test_groups.into_iter().flat_map(|group| group.tests);
    let vectors = tests.filter_map(|test| {
        let (key, nonce) = (test.key[..].try_into().ok()?, test.nonce[..].try_into().ok()?);
        Some(Vector { test, key, nonce })
    });
    vectors.collect()
}

impl Vector {
    fn is_valid(&self) -> bool {
        self.test.result == TestResult::Valid
    }

    /// The part of the nonce that is WireGuard's counter.
    fn counter(&self) -> u64 {
        u64::from_le_bytes(*self.nonce[4..].first_chunk().expect("eight bytes"))
    }

    /// The state, with the part of the nonce that is always zero in WireGuard.
    fn state(&self) -> State {
        let mut state = state(&self.key);
        state[13] = u32::from_le_bytes(*self.nonce.first_chunk().expect("four bytes"));
        state
    }

    fn check_ring(&self) {
        let key = aead::Key::new(&self.key, Cipher::Ring).one;
        let (nonce, aad) = (|| Nonce::assume_unique_for_key(self.nonce), Aad::from(&self.test.aad[..]));
        let mut packet = self.test.pt.to_vec();
        let tag = key.seal_in_place_separate_tag(nonce(), aad, &mut packet).unwrap();
        assert_eq!(packet, self.test.ct[..]);
        assert_eq!(tag.as_ref() == &self.test.tag[..], self.is_valid());
        let mut sealed = [&self.test.ct[..], &self.test.tag[..]].concat();
        assert_eq!(key.open_in_place(nonce(), aad, &mut sealed).is_ok(), self.is_valid());
    }

    fn check_wide(&self, cipher: Cipher) {
        let key = Key { state: self.state(), ..unlimited(&self.key, cipher).many.expect("a vector cipher") };
        self.check_sealing(&key);
        self.check_tags(cipher);
        if self.test.aad.is_empty() {
            self.check_opening(&key);
        }
    }

    /// One copy of a packet with its tag per lane.
    fn laid_out(&self, packet: &[u8], tag: &[u8]) -> (Vec<u8>, [Message; MANY]) {
        let (len, counter) = (packet.len(), self.counter());
        let messages = std::array::from_fn(|slot| Message { at: slot * (len + TAG_LEN), len, counter });
        ([packet, tag].concat().repeat(MANY), messages)
    }

    fn check_sealing(&self, key: &Key) {
        let (mut buffer, messages) = self.laid_out(&self.test.pt, &[0; TAG_LEN]);
        key.seal(&mut buffer, &messages);
        for message in messages {
            let (packet, rest) = buffer[message.at..].split_at(message.len);
            assert_eq!(packet, &self.test.ct[..]);
            if self.test.aad.is_empty() {
                assert_eq!(rest[..TAG_LEN] == self.test.tag[..], self.is_valid());
            }
        }
    }

    fn check_opening(&self, key: &Key) {
        let (mut buffer, messages) = self.laid_out(&self.test.ct, &self.test.tag);
        assert_eq!(
            key.open(&mut buffer, &messages),
            if self.is_valid() { MessageSet::first(MANY) } else { MessageSet::EMPTY }
        );
        for message in messages {
            assert_eq!(buffer[message.at..][..message.len], self.test.pt[..]);
        }
    }

    fn check_tags(&self, cipher: Cipher) {
        let padded = |bytes: &[u8]| [bytes, &vec![0; bytes.len().wrapping_neg() % 16]].concat();
        let authenticated = [padded(&self.test.aad), padded(&self.test.ct)].concat();
        let (buffer, messages) = self.laid_out(&authenticated, &[0; TAG_LEN]);
        for tag in self.tags(cipher, &buffer, &messages) {
            assert_eq!(tag[..] == self.test.tag[..], self.is_valid());
        }
    }

    fn tags(&self, cipher: Cipher, buffer: &[u8], messages: &[Message]) -> Tags {
        let last = |_: &Message| [self.test.aad.len() as u64, self.test.ct.len() as u64];
        // SAFETY: the messages lie within the buffer, and the caller's cipher is one that the processor has.
        unsafe {
            match cipher {
                Cipher::Avx512 => avx512::tags_with(&self.state(), buffer, messages, last),
                _ => avx2::tags_with(&self.state(), buffer, messages, last),
            }
        }
    }
}

#[test]
fn every_vector_of_wycheproof_passes_in_every_cipher_and_lane() {
    let (vectors, ciphers) = (vectors(), exercised());
    assert!(vectors.len() >= 316, "only {} vectors", vectors.len());
    assert!(vectors.iter().filter(|vector| !vector.is_valid()).count() >= 60);
    assert!(vectors.iter().filter(|vector| vector.test.aad.is_empty()).count() >= 45);
    for vector in &vectors {
        for &cipher in &ciphers {
            match cipher {
                Cipher::Ring => vector.check_ring(),
                wide => vector.check_wide(wide),
            }
        }
    }
}
