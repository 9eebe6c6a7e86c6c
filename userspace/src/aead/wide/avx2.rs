//! The AVX2 cipher. `ChaCha20` computes sixteen blocks at once, alternating between two packets. Between its rounds Poly1305
//! hashes the available ciphertext of both with the multiplier of the general registers, which the vectors leave idle.

mod chacha20;
pub(crate) mod poly1305;

use super::{BLOCK, State, Tags};
use crate::aead::{MANY, Message, TAG_LEN};
use chacha20::Lanes;
use poly1305::Sum;

/// The number of packets hashed at the same time, because each step of one packet must wait for the step before it.
const CHAINS: usize = 2;

/// The number of blocks hashed per turn: more than the vectors produce in a round.
const TURN: usize = 2;

/// Whether this processor supports the cipher.
pub(crate) fn is_possible() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2")
}

/// One of two hash chains, each of which hashes every second packet.
#[derive(Clone, Copy, Default)]
struct Chain {
    run: Run,
    /// The index of the packet in the batch.
    slot: usize,
    /// Whether the packet's one-time key is loaded.
    begun: bool,
    /// The bytes of the packet that are neither hashed nor part of the current run.
    left: usize,
    /// The available part of later packets and, after the end of the run, of this one.
    ready: Ready,
    /// Whether the chain must wait for more ciphertext.
    idle: bool,
}

/// A number of one-time keys and of bytes of ciphertext.
#[derive(Clone, Copy, Default)]
struct Ready {
    keys: usize,
    bytes: usize,
}

/// A stretch of whole blocks of ciphertext.
#[derive(Clone, Copy)]
struct Run {
    sum: Sum,
    at: *const u8,
    blocks: usize,
}

impl Default for Run {
    fn default() -> Self {
        Self { sum: Sum::default(), at: std::ptr::null(), blocks: 0 }
    }
}

impl Run {
    /// Hashes the next block.
    ///
    /// # Safety
    /// There must be one.
    // A call would double the cost.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    unsafe fn step(&mut self) {
        // SAFETY: a run is a part of a message, which lies within the buffer.
        self.sum.step(unsafe { self.at.cast::<u128>().read_unaligned() });
        self.at = self.at.wrapping_add(poly1305::BLOCK);
        self.blocks -= 1;
    }
}

/// The work on a batch of messages.
struct Work<'a> {
    state: &'a State,
    start: *mut u8,
    messages: &'a [Message],
    hashing: Hashing<'a>,
    /// The blocks to compute, and the next blocks, which are collected early: written words must reach the cache before
    /// vectors read them.
    lanes: [Lanes; 2],
    /// The part of each chain that the lanes compute.
    held: [[Ready; CHAINS]; 2],
    gathering: usize,
}

/// Encrypts each message in place and returns the tags.
///
/// # Safety
/// The messages must lie within the buffer.
#[target_feature(enable = "avx2,bmi2")]
pub(crate) unsafe fn seal(state: &State, buffer: &mut [u8], messages: &[Message]) -> Tags {
    let mut one_time = [[0; BLOCK]; MANY];
    let mut work = Work::new(state, buffer, messages, &mut one_time);
    work.data::<true>();
    work.hashing.tags
}

/// Decrypts each message in place and returns the correct tags.
///
/// # Safety
/// The messages must lie within the buffer.
#[target_feature(enable = "avx2,bmi2")]
pub(crate) unsafe fn open(state: &State, buffer: &mut [u8], messages: &[Message]) -> Tags {
    let mut one_time = [[0; BLOCK]; MANY];
    let mut work = Work::new(state, buffer, messages, &mut one_time);
    for slot in 0..messages.len() {
        work.push_key::<true>(slot);
    }
    work.flush_all::<true>();
    work.data::<false>();
    work.hashing.tags
}

/// The tags of messages that consist of padded additional data and a padded packet. `last` returns the block of lengths.
///
/// # Safety
/// The processor must have the instructions.
#[cfg(test)]
#[target_feature(enable = "avx2,bmi2")]
pub(crate) unsafe fn tags_with(
    state: &State,
    buffer: &[u8],
    messages: &[Message],
    last: impl Fn(&Message) -> [u64; 2],
) -> Tags {
    let (mut one_time, mut tags) = ([[0; BLOCK]; MANY], Tags::default());
    let mut work = Work::new(state, &mut [], messages, &mut one_time);
    for slot in 0..messages.len() {
        work.push_key::<true>(slot);
    }
    let places = work.lanes;
    for mut lanes in places.into_iter().filter(|lanes| !lanes.is_empty()) {
        let blocks = lanes.blocks(state, &mut work.hashing);
        // SAFETY: each place is a one-time key.
        unsafe { lanes.apply(&blocks) };
    }
    for ((tag, message), one_time) in tags.iter_mut().zip(messages).zip(&one_time) {
        let [low, high] = last(message).map(u128::from);
        *tag = poly1305::tag(one_time, &buffer[message.at..][..message.len], low | high << 64);
    }
    tags
}

impl<'a> Work<'a> {
    fn new(
        state: &'a State,
        buffer: &mut [u8],
        messages: &'a [Message],
        one_time: &mut [[u8; BLOCK]; MANY],
    ) -> Self {
        // From here on only pointers are used, because one side reads what the other writes in place.
        let start = buffer.as_mut_ptr();
        Self {
            state,
            start,
            messages,
            hashing: Hashing {
                start,
                messages,
                one_time: one_time.as_mut_ptr(),
                tags: [[0; TAG_LEN]; MANY],
                chains: std::array::from_fn(|slot| Chain { slot, idle: true, ..Chain::default() }),
            },
            lanes: [Lanes::default(); 2],
            held: [[Ready::default(); CHAINS]; 2],
            gathering: 0,
        }
    }

    #[target_feature(enable = "avx2,bmi2")]
    fn data<const SEALS: bool>(&mut self) {
        let messages = self.messages;
        for (pair, two) in messages.chunks(CHAINS).enumerate() {
            if SEALS {
                for chain in 0..two.len() {
                    self.push_key::<SEALS>(pair * CHAINS + chain);
                }
            }
            let longest = two.iter().map(|message| message.len).max().unwrap_or(0);
            for (index, done) in (0..longest).step_by(BLOCK).enumerate() {
                for (chain, message) in two.iter().enumerate().filter(|(_, message)| done < message.len) {
                    let len = BLOCK.min(message.len - done);
                    let place = self.start.wrapping_add(message.at + done);
                    self.push::<SEALS>(chain, message.counter, index as u32 + 1, place, len);
                }
            }
        }
        self.flush_all::<SEALS>();
        self.hashing.catch_up();
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi2")]
    fn push_key<const SEALS: bool>(&mut self, slot: usize) {
        let place = self.hashing.one_time.wrapping_add(slot).cast();
        self.push::<SEALS>(slot % CHAINS, self.messages[slot].counter, 0, place, BLOCK);
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi2")]
    fn push<const SEALS: bool>(
        &mut self,
        chain: usize,
        nonce: u64,
        counter: u32,
        place: *mut u8,
        len: usize,
    ) {
        let held = &mut self.held[self.gathering][chain];
        match counter {
            0 => held.keys += 1,
            _ => held.bytes += len,
        }
        self.lanes[self.gathering].push(nonce, counter, place, len);
        if self.lanes[self.gathering].is_full() {
            self.turn::<SEALS>();
        }
    }

    /// Computes the blocks that were collected before, and collects the next ones.
    #[target_feature(enable = "avx2,bmi2")]
    fn turn<const SEALS: bool>(&mut self) {
        self.gathering ^= 1;
        self.flush::<SEALS>(self.gathering);
    }

    #[target_feature(enable = "avx2,bmi2")]
    fn flush_all<const SEALS: bool>(&mut self) {
        self.turn::<SEALS>();
        self.turn::<SEALS>();
    }

    #[target_feature(enable = "avx2,bmi2")]
    fn flush<const SEALS: bool>(&mut self, which: usize) {
        if self.lanes[which].is_empty() {
            return;
        }
        if !SEALS {
            self.settle(which);
        }
        let blocks = self.lanes[which].blocks(self.state, &mut self.hashing);
        if !SEALS {
            self.hashing.catch_up();
        }
        // SAFETY: each place is a part of a message, which lie within the buffer, or a one-time key.
        unsafe { self.lanes[which].apply(&blocks) };
        if SEALS {
            self.settle(which);
        }
    }

    /// Makes the ciphertext of the lanes available to the chains.
    fn settle(&mut self, which: usize) {
        for (chain, held) in self.hashing.chains.iter_mut().zip(&mut self.held[which]) {
            let held = std::mem::take(held);
            chain.ready.keys += held.keys;
            chain.ready.bytes += held.bytes;
            chain.idle = false;
        }
    }
}

/// The two chains with their input and output.
struct Hashing<'a> {
    start: *const u8,
    messages: &'a [Message],
    /// One for each message.
    one_time: *mut [u8; BLOCK],
    tags: Tags,
    chains: [Chain; CHAINS],
}

impl Hashing<'_> {
    /// Hashes a part of the available ciphertext.
    #[inline(never)]
    #[target_feature(enable = "avx2,bmi2")]
    fn turn(&mut self) {
        if self.chains.iter().any(|chain| chain.run.blocks == 0 && !chain.idle) {
            self.advance();
        }
        let [mut a, mut b] = [self.chains[0].run, self.chains[1].run];
        let both = a.blocks.min(b.blocks).min(TURN);
        // SAFETY: both runs have that many blocks; below, the one that is not empty.
        unsafe {
            for _ in 0..both {
                a.step();
                b.step();
            }
            for run in [&mut a, &mut b].into_iter().filter(|_| both == 0) {
                for _ in 0..run.blocks.min(2 * TURN) {
                    run.step();
                }
            }
        }
        (self.chains[0].run, self.chains[1].run) = (a, b);
    }

    #[cold]
    #[inline(never)]
    fn advance(&mut self) {
        for chain in &mut self.chains {
            while chain.run.blocks == 0 && !chain.idle {
                chain.idle = !chain.advance(self.start, self.messages, self.one_time, &mut self.tags);
            }
        }
    }

    /// Hashes all available ciphertext.
    #[inline(never)]
    #[target_feature(enable = "avx2,bmi2")]
    fn catch_up(&mut self) {
        while self.chains.iter().any(|chain| chain.run.blocks > 0 || !chain.idle) {
            self.turn();
        }
    }
}

impl Chain {
    /// Starts or ends a packet, or a run of it. Returns whether there was something to do.
    fn advance(
        &mut self,
        start: *const u8,
        messages: &[Message],
        one_time: *const [u8; BLOCK],
        tags: &mut Tags,
    ) -> bool {
        let Some(message) = messages.get(self.slot) else {
            return false;
        };
        // SAFETY: there is one for each message, and no other reference writes to it.
        let one_time = || unsafe { one_time.add(self.slot).read() };
        if !self.begun {
            if self.ready.keys == 0 {
                return false;
            }
            self.ready.keys -= 1;
            self.begun = true;
            self.left = message.len;
            self.run = Run { sum: Sum::new(&one_time()), at: start.wrapping_add(message.at), blocks: 0 };
            return true;
        }
        self.run.blocks = self.left.min(self.ready.bytes) / poly1305::BLOCK;
        if self.run.blocks > 0 {
            let len = self.run.blocks * poly1305::BLOCK;
            self.left -= len;
            self.ready.bytes -= len;
            return true;
        }
        if self.left >= poly1305::BLOCK || self.ready.bytes < self.left {
            return false;
        }
        if self.left > 0 {
            let mut last = [0; poly1305::BLOCK];
            // SAFETY: this is the rest of a message, shorter than a block, and that lies within the buffer.
            unsafe { self.run.at.copy_to_nonoverlapping(last.as_mut_ptr(), self.left) };
            self.run.sum.step(u128::from_le_bytes(last));
        }
        self.ready.bytes -= self.left;
        self.run.sum.step((message.len as u128) << 64);
        tags[self.slot] = self.run.sum.tag(&one_time());
        self.slot += CHAINS;
        self.begun = false;
        true
    }
}
