//! `ChaCha20` (RFC 8439, section 2.4): sixteen blocks at once, one per lane.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_loadu_si512, _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8,
    _mm512_rol_epi32, _mm512_set1_epi32, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi32, _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use crate::aead::wide::{BLOCK, State};
use crate::aead::{MANY, Message};

/// Two registers of sixteen lanes each. The second one uses the cycles in which the first waits for its results.
const LANES: usize = 32;

/// The destinations of the sixteen blocks of one computation.
struct Lanes {
    counters: [u32; LANES],
    nonces_low: [u32; LANES],
    nonces_high: [u32; LANES],
    /// The destination of each block, with a mask of its bytes.
    places: [*mut u8; LANES],
    masks: [u64; LANES],
    used: usize,
}

/// Encrypts or decrypts each message in place if `data` is set, and computes the one-time keys of Poly1305 if requested.
///
/// # Safety
/// The messages must lie within the buffer.
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn apply(
    state: &State,
    buffer: &mut [u8],
    messages: &[Message],
    one_time: Option<&mut [[u8; BLOCK]; MANY]>,
    data: bool,
) {
    let mut lanes = Lanes {
        counters: [0; LANES],
        nonces_low: [0; LANES],
        nonces_high: [0; LANES],
        places: [std::ptr::null_mut(); LANES],
        masks: [0; LANES],
        used: 0,
    };
    let (start, keys) = (buffer.as_mut_ptr(), one_time.map(|keys| keys.as_flattened_mut().as_mut_ptr()));
    for (slot, message) in messages.iter().enumerate() {
        if let Some(keys) = keys {
            // SAFETY: there is room for a block of each message.
            unsafe { lanes.push(state, message.counter, 0, keys.add(slot * BLOCK), BLOCK) };
        }
        if !data {
            continue;
        }
        for (index, done) in (0..message.len).step_by(BLOCK).enumerate() {
            let len = BLOCK.min(message.len - done);
            // SAFETY: the caller's messages lie within the buffer, and this is a part of one.
            unsafe {
                lanes.push(state, message.counter, index as u32 + 1, start.add(message.at + done), len);
            };
        }
    }
    // SAFETY: all places that were pushed are valid.
    unsafe { lanes.flush(state) };
}

impl Lanes {
    /// Adds a block, and computes the blocks once there are sixteen.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn push(&mut self, state: &State, nonce: u64, counter: u32, place: *mut u8, len: usize) {
        let lane = self.used;
        self.counters[lane] = counter;
        self.nonces_low[lane] = nonce as u32;
        self.nonces_high[lane] = (nonce >> 32) as u32;
        self.places[lane] = place;
        self.masks[lane] = u64::MAX >> (BLOCK - len);
        self.used += 1;
        if self.used == LANES {
            // SAFETY: as the caller promises of each place.
            unsafe { self.flush(state) };
        }
    }

    /// Computes the blocks and combines each with the bytes at its destination by XOR.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn flush(&mut self, state: &State) {
        let blocks = blocks(state, &self.counters, &self.nonces_low, &self.nonces_high);
        for ((block, place), mask) in
            blocks.as_flattened().iter().zip(self.places).zip(self.masks).take(self.used)
        {
            // SAFETY: the mask keeps both accesses to the bytes that the place was pushed with.
            unsafe {
                let bytes = _mm512_maskz_loadu_epi8(mask, place.cast());
                _mm512_mask_storeu_epi8(place.cast(), mask, _mm512_xor_si512(bytes, *block));
            }
        }
        self.used = 0;
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(words: &[u32; LANES], half: usize) -> __m512i {
    let words: &[u32; 16] = &words.as_chunks().0[half];
    // SAFETY: the load reads sixteen words.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

/// A quarter of the quarter round, in all lanes of both halves.
macro_rules! add_xor_turn {
    ($x:ident, $y:ident, $to:literal, $from:literal, $turned:literal, $bits:literal) => {
        $x[$to] = _mm512_add_epi32($x[$to], $x[$from]);
        $y[$to] = _mm512_add_epi32($y[$to], $y[$from]);
        $x[$turned] = _mm512_rol_epi32::<$bits>(_mm512_xor_si512($x[$turned], $x[$to]));
        $y[$turned] = _mm512_rol_epi32::<$bits>(_mm512_xor_si512($y[$turned], $y[$to]));
    };
}

/// The quarter round of section 2.1.
macro_rules! quarter_round {
    ($x:ident, $y:ident, $a:literal, $b:literal, $c:literal, $d:literal) => {
        add_xor_turn!($x, $y, $a, $b, $d, 16);
        add_xor_turn!($x, $y, $c, $d, $b, 12);
        add_xor_turn!($x, $y, $a, $b, $d, 8);
        add_xor_turn!($x, $y, $c, $d, $b, 7);
    };
}

#[inline]
#[target_feature(enable = "avx512f")]
fn blocks(
    state: &State,
    counters: &[u32; LANES],
    nonces_low: &[u32; LANES],
    nonces_high: &[u32; LANES],
) -> [[__m512i; 16]; 2] {
    let word = |word: u32| _mm512_set1_epi32(word as i32);
    let start = |half| {
        let mut start = [word(0); 16];
        for (to, from) in start.iter_mut().zip(state) {
            *to = word(*from);
        }
        start[12] = load(counters, half);
        start[14] = load(nonces_low, half);
        start[15] = load(nonces_high, half);
        start
    };
    let (mut x, mut y) = (start(0), start(1));
    for _ in 0..10 {
        quarter_round!(x, y, 0, 4, 8, 12);
        quarter_round!(x, y, 1, 5, 9, 13);
        quarter_round!(x, y, 2, 6, 10, 14);
        quarter_round!(x, y, 3, 7, 11, 15);
        quarter_round!(x, y, 0, 5, 10, 15);
        quarter_round!(x, y, 1, 6, 11, 12);
        quarter_round!(x, y, 2, 7, 8, 13);
        quarter_round!(x, y, 3, 4, 9, 14);
    }
    let sum = |x: [__m512i; 16], start: [__m512i; 16]| {
        transposed(&std::array::from_fn(|i| _mm512_add_epi32(x[i], start[i])))
    };
    [sum(x, start(0)), sum(y, start(1))]
}

/// Sixteen blocks, each in one register, from sixteen words of each in as many registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(words: &[__m512i; 16]) -> [__m512i; 16] {
    // By four words: `quarters[g][j]` has, in its quarter q, words 4g to 4g + 3 of block 4q + j.
    let mut quarters = [[words[0]; 4]; 4];
    for (quarter, w) in quarters.iter_mut().zip(words.as_chunks::<4>().0) {
        let (low, high) = (_mm512_unpacklo_epi32(w[0], w[1]), _mm512_unpackhi_epi32(w[0], w[1]));
        let (low2, high2) = (_mm512_unpacklo_epi32(w[2], w[3]), _mm512_unpackhi_epi32(w[2], w[3]));
        *quarter = [
            _mm512_unpacklo_epi64(low, low2),
            _mm512_unpackhi_epi64(low, low2),
            _mm512_unpacklo_epi64(high, high2),
            _mm512_unpackhi_epi64(high, high2),
        ];
    }
    let mut blocks = [words[0]; 16];
    for j in 0..4 {
        let rows = quarters_transposed([quarters[0][j], quarters[1][j], quarters[2][j], quarters[3][j]]);
        for (q, row) in rows.into_iter().enumerate() {
            blocks[4 * q + j] = row;
        }
    }
    blocks
}

/// Transposes four registers of four quarters each.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn quarters_transposed([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab, ab_high) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
    let (cd, cd_high) = (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xee>(c, d));
    [
        _mm512_shuffle_i32x4::<0x88>(ab, cd),
        _mm512_shuffle_i32x4::<0xdd>(ab, cd),
        _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high),
        _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high),
    ]
}
