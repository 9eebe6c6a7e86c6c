//! `ChaCha20` (RFC 8439, section 2.4): sixteen blocks at once, one per lane.

use std::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm_storeu_si128, _mm_xor_si128, _mm256_add_epi32, _mm256_castsi256_si128,
    _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_or_si256, _mm256_permute2x128_si256,
    _mm256_set_epi64x, _mm256_set1_epi32, _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_srli_epi32,
    _mm256_storeu_si256, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi32,
    _mm256_unpacklo_epi64, _mm256_xor_si256,
};
use std::hint::black_box;

use super::Hashing;
use crate::aead::wide::{BLOCK, State};

/// Two registers of eight lanes each. The second one uses the cycles in which the first waits for its results.
pub(crate) const LANES: usize = 16;

/// The destinations of the sixteen blocks of one computation.
#[derive(Clone, Copy)]
pub(crate) struct Lanes {
    counters: [u32; LANES],
    nonces_low: [u32; LANES],
    nonces_high: [u32; LANES],
    /// The destination of each block and the number of bytes.
    places: [(*mut u8, usize); LANES],
    used: usize,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            counters: [0; LANES],
            nonces_low: [0; LANES],
            nonces_high: [0; LANES],
            places: [(std::ptr::null_mut(), 0); LANES],
            used: 0,
        }
    }
}

impl Lanes {
    pub(crate) fn push(&mut self, nonce: u64, counter: u32, place: *mut u8, len: usize) {
        let lane = self.used;
        self.counters[lane] = counter;
        self.nonces_low[lane] = nonce as u32;
        self.nonces_high[lane] = (nonce >> 32) as u32;
        self.places[lane] = (place, len);
        self.used += 1;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.used == LANES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// The state before the rounds.
    #[inline]
    #[target_feature(enable = "avx2,bmi2")]
    fn start(&self, state: &State, half: usize) -> [__m256i; 16] {
        let mut start = [_mm256_set1_epi32(0); 16];
        for (to, from) in start.iter_mut().zip(state) {
            *to = _mm256_set1_epi32(*from as i32);
        }
        start[12] = load(&self.counters, half);
        start[14] = load(&self.nonces_low, half);
        start[15] = load(&self.nonces_high, half);
        start
    }

    /// Computes the blocks. The hashing takes a turn after each round.
    #[inline]
    #[target_feature(enable = "avx2,bmi2")]
    pub(crate) fn blocks(&self, state: &State, hashing: &mut Hashing) -> [[__m256i; 2]; LANES] {
        let (mut x, mut y) = (self.start(state, 0), self.start(state, 1));
        // `black_box` keeps the compiler from replacing one shuffle with several slower ones.
        let turn = black_box([
            _mm256_set_epi64x(
                0x0d0c_0f0e_0908_0b0a,
                0x0504_0706_0100_0302,
                0x0d0c_0f0e_0908_0b0a,
                0x0504_0706_0100_0302,
            ),
            _mm256_set_epi64x(
                0x0e0d_0c0f_0a09_080b,
                0x0605_0407_0201_0003,
                0x0e0d_0c0f_0a09_080b,
                0x0605_0407_0201_0003,
            ),
        ]);
        for _ in 0..10 {
            quarter_round(&mut x, turn, [0, 4, 8, 12]);
            quarter_round(&mut y, turn, [0, 4, 8, 12]);
            quarter_round(&mut x, turn, [1, 5, 9, 13]);
            quarter_round(&mut y, turn, [1, 5, 9, 13]);
            quarter_round(&mut x, turn, [2, 6, 10, 14]);
            quarter_round(&mut y, turn, [2, 6, 10, 14]);
            quarter_round(&mut x, turn, [3, 7, 11, 15]);
            quarter_round(&mut y, turn, [3, 7, 11, 15]);
            hashing.turn();
            quarter_round(&mut x, turn, [0, 5, 10, 15]);
            quarter_round(&mut y, turn, [0, 5, 10, 15]);
            quarter_round(&mut x, turn, [1, 6, 11, 12]);
            quarter_round(&mut y, turn, [1, 6, 11, 12]);
            quarter_round(&mut x, turn, [2, 7, 8, 13]);
            quarter_round(&mut y, turn, [2, 7, 8, 13]);
            quarter_round(&mut x, turn, [3, 4, 9, 14]);
            quarter_round(&mut y, turn, [3, 4, 9, 14]);
            hashing.turn();
        }
        let mut blocks = [[x[0]; 2]; LANES];
        for (half, x) in [x, y].into_iter().enumerate() {
            let start = self.start(state, half);
            let sum: [__m256i; 16] = std::array::from_fn(|i| _mm256_add_epi32(x[i], start[i]));
            let [low, high] = [0, 1].map(|part| transposed(&sum.as_chunks().0[part]));
            for (block, parts) in blocks[8 * half..].iter_mut().zip(low.into_iter().zip(high)) {
                *block = parts.into();
            }
        }
        blocks
    }

    /// Combines each block with the bytes at its destination by XOR.
    ///
    /// # Safety
    /// Each destination must be valid for its number of bytes.
    #[inline]
    #[target_feature(enable = "avx2,bmi2")]
    pub(crate) unsafe fn apply(&mut self, blocks: &[[__m256i; 2]; LANES]) {
        for (block, (place, len)) in blocks.iter().zip(self.places).take(self.used) {
            // SAFETY: as the caller promises.
            unsafe {
                if len == BLOCK {
                    add_half(place, block[0]);
                    add_half(place.add(BLOCK / 2), block[1]);
                } else {
                    add_part(place, len, *block);
                }
            }
        }
        self.used = 0;
    }
}

#[inline]
#[target_feature(enable = "avx2,bmi2")]
fn load(words: &[u32; LANES], half: usize) -> __m256i {
    let words: &[u32; 8] = &words.as_chunks().0[half];
    // SAFETY: the load reads eight words.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

/// The quarter round of section 2.1.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
fn quarter_round(state: &mut [__m256i; 16], [by_16, by_8]: [__m256i; 2], [a, b, c, d]: [usize; 4]) {
    state[a] = _mm256_add_epi32(state[a], state[b]);
    state[d] = _mm256_shuffle_epi8(_mm256_xor_si256(state[d], state[a]), by_16);
    state[c] = _mm256_add_epi32(state[c], state[d]);
    state[b] = _mm256_xor_si256(state[b], state[c]);
    state[b] = _mm256_or_si256(_mm256_slli_epi32::<12>(state[b]), _mm256_srli_epi32::<20>(state[b]));
    state[a] = _mm256_add_epi32(state[a], state[b]);
    state[d] = _mm256_shuffle_epi8(_mm256_xor_si256(state[d], state[a]), by_8);
    state[c] = _mm256_add_epi32(state[c], state[d]);
    state[b] = _mm256_xor_si256(state[b], state[c]);
    state[b] = _mm256_or_si256(_mm256_slli_epi32::<7>(state[b]), _mm256_srli_epi32::<25>(state[b]));
}

#[inline]
#[target_feature(enable = "avx2,bmi2")]
unsafe fn add_half(place: *mut u8, half: __m256i) {
    // SAFETY: the caller's place has room for a half.
    unsafe {
        let bytes = _mm256_loadu_si256(place.cast());
        _mm256_storeu_si256(place.cast(), _mm256_xor_si256(bytes, half));
    }
}

/// Combines the first bytes of a block with those at a destination by XOR.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
unsafe fn add_part(place: *mut u8, len: usize, [low, high]: [__m256i; 2]) {
    let (mut rest, mut done) = (low, 0);
    // SAFETY: each access is below `len`, up to which the caller's place is valid.
    unsafe {
        if len >= 32 {
            add_half(place, low);
            (rest, done) = (high, 32);
        }
        let mut quarter = _mm256_castsi256_si128(rest);
        if len >= done + 16 {
            let place = place.add(done).cast();
            _mm_storeu_si128(place, _mm_xor_si128(_mm_loadu_si128(place), quarter));
            quarter = _mm256_extracti128_si256::<1>(rest);
            done += 16;
        }
        let mut bytes = [0u8; 16];
        _mm_storeu_si128(bytes.as_mut_ptr().cast(), quarter);
        for (i, byte) in bytes.iter().enumerate().take(len - done) {
            *place.add(done + i) ^= byte;
        }
    }
}

/// Eight halves of blocks, each in one register, from eight words of each in as many registers.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
fn transposed(words: &[__m256i; 8]) -> [__m256i; 8] {
    // By four words: `quarters[g][j]` has, in its half h, words 4g to 4g + 3 of block 4h + j.
    let mut quarters = [[words[0]; 4]; 2];
    for (quarter, w) in quarters.iter_mut().zip(words.as_chunks::<4>().0) {
        let (low, high) = (_mm256_unpacklo_epi32(w[0], w[1]), _mm256_unpackhi_epi32(w[0], w[1]));
        let (low2, high2) = (_mm256_unpacklo_epi32(w[2], w[3]), _mm256_unpackhi_epi32(w[2], w[3]));
        *quarter = [
            _mm256_unpacklo_epi64(low, low2),
            _mm256_unpackhi_epi64(low, low2),
            _mm256_unpacklo_epi64(high, high2),
            _mm256_unpackhi_epi64(high, high2),
        ];
    }
    let mut halves = [words[0]; 8];
    for j in 0..4 {
        halves[j] = _mm256_permute2x128_si256::<0x20>(quarters[0][j], quarters[1][j]);
        halves[4 + j] = _mm256_permute2x128_si256::<0x31>(quarters[0][j], quarters[1][j]);
    }
    halves
}
