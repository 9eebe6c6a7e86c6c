//! ChaCha20-Poly1305 (RFC 8439) for batches of data messages.
//!
//! ring handles one packet at a time. If the processor has AVX-512 with IFMA, or AVX2 with BMI2, [`wide`] handles up to
//! sixteen packets of a session in parallel, so that even short packets fill the vectors.

#[cfg(test)]
mod exercised;
#[cfg(target_arch = "x86_64")]
mod wide;

use std::fmt::Display;
use std::sync::OnceLock;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::log;

/// The length of the tag that follows each packet.
pub const TAG_LEN: usize = 16;
/// The most messages in a batch.
pub const MANY: usize = 16;

/// The position of a message in a buffer: `len` bytes of packet, then the tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub at: usize,
    pub len: usize,
    /// The counter of the data message, which is the nonce.
    pub counter: u64,
}

/// Some of the messages of a batch, by their index in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageSet(u16);

impl MessageSet {
    pub(crate) const EMPTY: Self = Self(0);

    /// The first `count` messages of a batch. Panics beyond [`MANY`].
    pub fn first(count: usize) -> Self {
        assert!(count <= MANY, "more messages than a batch has");
        Self(((1_u32 << count) - 1) as u16)
    }

    /// The messages, of `count`, for which `is_in` returns true.
    #[inline]
    pub(crate) fn select(count: usize, mut is_in: impl FnMut(usize) -> bool) -> Self {
        (0..count).fold(Self::EMPTY, |set, index| Self(set.0 | u16::from(is_in(index)) << index))
    }

    #[inline]
    pub fn contains(self, index: usize) -> bool {
        self.0 & 1 << index != 0
    }

    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    #[must_use]
    pub(crate) fn without(self, index: usize) -> Self {
        Self(self.0 & !(1 << index))
    }
}

/// An implementation of the cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    Ring,
    Avx2,
    Avx512,
}

impl Cipher {
    /// All implementations, the fastest first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Ring];

    /// The cipher that `WGQ_CIPHER` selects, or the fastest one of this processor. It is chosen once per process.
    pub(crate) fn chosen() -> Self {
        static CHOSEN: OnceLock<Cipher> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let wanted = Self::wanted();
            wanted.trusted(wide_trial(wanted)).unwrap_or_else(|complaint| {
                log::error(format_args!("{complaint}"));
                Self::Ring
            })
        })
    }

    fn wanted() -> Self {
        let Some(asked) = std::env::var_os("WGQ_CIPHER") else {
            return Self::fastest();
        };
        asked.to_str().and_then(Self::asked).unwrap_or_else(|| {
            log::error(format_args!(
                "WGQ_CIPHER={} is not supported by this processor, or not one of ring, avx2 and avx512: using {}",
                asked.display(),
                Self::fastest().name(),
            ));
            Self::fastest()
        })
    }

    /// This cipher if its trial found no fault; otherwise the message for the user.
    fn trusted<F: Display>(self, trial: Result<(), F>) -> Result<Self, String> {
        trial.map(|()| self).map_err(|fault| {
            format!(
                "the cipher `{}' fails its test at start: {fault}; using ring, which is slower. \
                 Please report this, with the processor's name from /proc/cpuinfo",
                self.name()
            )
        })
    }

    fn fastest() -> Self {
        Self::ALL.into_iter().find(|cipher| cipher.is_possible()).unwrap_or(Self::Ring)
    }

    /// The cipher with a name of `WGQ_CIPHER`, if this processor supports it.
    fn asked(name: &str) -> Option<Self> {
        let cipher = match name {
            "ring" => Self::Ring,
            "avx2" => Self::Avx2,
            "avx512" => Self::Avx512,
            _ => return None,
        };
        cipher.is_possible().then_some(cipher)
    }

    /// Whether this processor supports the cipher.
    pub fn is_possible(self) -> bool {
        self == Self::Ring || wide_is_possible(self)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Avx2 => "AVX2, 2 packets in parallel",
            Self::Avx512 => "AVX-512, 16 packets in parallel",
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn wide_is_possible(cipher: Cipher) -> bool {
    wide::is_possible(cipher)
}

#[cfg(not(target_arch = "x86_64"))]
fn wide_is_possible(_: Cipher) -> bool {
    false
}

/// Compares a vector cipher with ring. ring itself needs no trial.
#[cfg(target_arch = "x86_64")]
fn wide_trial(cipher: Cipher) -> Result<(), wide::trial::Fault> {
    if cipher == Cipher::Ring { Ok(()) } else { wide::trial::run(|key| wide::Key::new(key, cipher)) }
}

#[cfg(not(target_arch = "x86_64"))]
fn wide_trial(_: Cipher) -> Result<(), std::convert::Infallible> {
    Ok(())
}

/// The key of one direction of a session.
pub struct Key {
    one: LessSafeKey,
    #[cfg(target_arch = "x86_64")]
    many: Option<wide::Key>,
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl Key {
    pub fn new(key: &[u8; 32], cipher: Cipher) -> Self {
        let one = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has the length of the cipher's");
        #[cfg(not(target_arch = "x86_64"))]
        let _ = cipher;
        Self {
            one: LessSafeKey::new(one),
            #[cfg(target_arch = "x86_64")]
            many: wide::Key::new(key, cipher),
        }
    }

    /// Encrypts each message in place and writes its tag behind it.
    ///
    /// Panics if a message reaches beyond the buffer.
    pub fn seal(&self, buffer: &mut [u8], messages: &[Message]) {
        for messages in messages.chunks(MANY) {
            #[cfg(target_arch = "x86_64")]
            if let Some(key) = self.many.as_ref().filter(|key| key.suits(messages)) {
                key.seal(buffer, messages);
                continue;
            }
            messages.iter().for_each(|message| self.seal_one(buffer, message));
        }
    }

    fn seal_one(&self, buffer: &mut [u8], message: &Message) {
        let (packet, rest) = buffer[message.at..].split_at_mut(message.len);
        let tag = self
            .one
            .seal_in_place_separate_tag(nonce(message.counter), Aad::empty(), packet)
            .expect("a packet is far below the cipher's limit");
        rest[..TAG_LEN].copy_from_slice(tag.as_ref());
    }

    /// Decrypts each message in place and returns the authentic ones; the bytes of the others are undefined. Takes at
    /// most [`MANY`] messages, which must not overlap.
    ///
    /// Panics if a message reaches beyond the buffer.
    #[must_use]
    pub fn open(&self, buffer: &mut [u8], messages: &[Message]) -> MessageSet {
        assert!(messages.len() <= MANY, "more messages than a batch has");
        #[cfg(target_arch = "x86_64")]
        if let Some(key) = self.many.as_ref().filter(|key| key.suits(messages)) {
            return key.open(buffer, messages);
        }
        MessageSet::select(messages.len(), |index| self.open_one(buffer, &messages[index]))
    }

    fn open_one(&self, buffer: &mut [u8], message: &Message) -> bool {
        let bytes = &mut buffer[message.at..message.at + message.len + TAG_LEN];
        self.one.open_in_place(nonce(message.counter), Aad::empty(), bytes).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_set_contains_its_messages() {
        let even = MessageSet::select(MANY, |index| index % 2 == 0);
        assert!((0..MANY).all(|index| even.contains(index) == (index % 2 == 0)));
        assert_eq!(even.without(0).without(3), MessageSet::select(MANY, |index| index > 0 && index % 2 == 0));
        assert_eq!(MessageSet::first(MANY), MessageSet::select(MANY, |_| true));
        assert!(MessageSet::first(0).is_empty() && !MessageSet::first(1).is_empty());
    }

    #[test]
    fn a_cipher_is_selected_by_name_if_the_processor_supports_it() {
        assert_eq!(Cipher::asked("ring"), Some(Cipher::Ring));
        for (name, cipher) in [("avx2", Cipher::Avx2), ("avx512", Cipher::Avx512)] {
            assert_eq!(Cipher::asked(name), exercised::exercised().contains(&cipher).then_some(cipher));
        }
        assert!(["", "AVX2", "rings", "avx"].into_iter().all(|name| Cipher::asked(name).is_none()));
    }

    #[test]
    fn a_cipher_that_fails_its_trial_is_replaced_by_ring() {
        assert_eq!(Cipher::Avx512.trusted(Ok::<_, &str>(())), Ok(Cipher::Avx512));
        let complaint = Cipher::Avx512.trusted(Err("it seals wrongly")).unwrap_err();
        assert!(complaint.contains("AVX-512") && complaint.contains("it seals wrongly; using ring"));
    }
}
