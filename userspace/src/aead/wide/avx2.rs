//! With AVX2: `ChaCha20` computes sixteen blocks at once, of two packets in turn, and between its rounds Poly1305 takes in
//! what is there of the one and the other with the multiplier of general registers, which the vectors leave idle.

mod chacha20;
pub(crate) mod poly1305;

use super::{BLOCK, State, Tags};
use crate::aead::{MANY, Message, TAG_LEN};
use chacha20::Lanes;
use poly1305::Sum;

/// How many packets are hashed side by side, as each step of one has to wait for the step before it.
const CHAINS: usize = 2;

/// How many blocks of both one turn takes: more than the vectors make in a round.
const TURN: usize = 2;

/// Whether this processor has the instructions.
pub(crate) fn is_possible() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2")
}

/// One of two that hash: every second packet, one after the other.
#[derive(Clone, Copy, Default)]
struct Chain {
    run: Run,
    /// The packet's place among the messages.
    slot: usize,
    /// Whether its one-time key is taken in.
    begun: bool,
    /// How much of the packet is not hashed, and not handed to the run either.
    left: usize,
    /// What is there of the packets to come and, from the run's end on, of this one.
    ready: Ready,
    /// Whether nothing can be done until more is ready.
    idle: bool,
}

/// So many one-time keys and bytes of ciphertext.
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
    /// Takes in the next block.
    ///
    /// # Safety
    /// There must be one.
    // Out of line it would cost as much again.
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
    /// The blocks to be computed, and those that are gathered in the meantime: so what is written here word by word
    /// has reached the cache when it is read by vectors.
    lanes: [Lanes; 2],
    /// What of each chain is among the lanes.
    held: [[Ready; CHAINS]; 2],
    gathering: usize,
}

/// Encrypts each message in place; its tag.
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

/// Decrypts each message in place; the tag that it should have.
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

/// The tags of messages that consist of additional data and packet, each padded; `last` returns the lengths of both.
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
        // By pointers from here on: what one side writes in place, the other reads.
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

    /// Computes the blocks that were gathered before, and gathers in their place.
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

    /// Lets the chains have the ciphertext of the lanes.
    fn settle(&mut self, which: usize) {
        for (chain, held) in self.hashing.chains.iter_mut().zip(&mut self.held[which]) {
            let held = std::mem::take(held);
            chain.ready.keys += held.keys;
            chain.ready.bytes += held.bytes;
            chain.idle = false;
        }
    }
}

/// The two chains, and what they take from and write to.
struct Hashing<'a> {
    start: *const u8,
    messages: &'a [Message],
    /// One for each message.
    one_time: *mut [u8; BLOCK],
    tags: Tags,
    chains: [Chain; CHAINS],
}

impl Hashing<'_> {
    /// Takes in some of what is ready.
    #[inline(never)]
    #[target_feature(enable = "avx2,bmi2")]
    fn turn(&mut self) {
        if self.chains.iter().any(|chain| chain.run.blocks == 0 && !chain.idle) {
            self.advance();
        }
        let [mut a, mut b] = [self.chains[0].run, self.chains[1].run];
        let both = a.blocks.min(b.blocks).min(TURN);
        // SAFETY: both runs have so many blocks; below, the one that has any.
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

    /// Takes in all that is ready.
    #[inline(never)]
    #[target_feature(enable = "avx2,bmi2")]
    fn catch_up(&mut self) {
        while self.chains.iter().any(|chain| chain.run.blocks > 0 || !chain.idle) {
            self.turn();
        }
    }
}

impl Chain {
    /// Begins a packet, or a run of it, or ends it; whether something was to be done.
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
        // SAFETY: there is one for each message, and nobody writes it while this reads.
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
