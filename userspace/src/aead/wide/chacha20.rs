//! `ChaCha20` (RFC 8439, section 2.4): sixteen blocks at once, a block to a lane.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_loadu_si512, _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8,
    _mm512_rol_epi32, _mm512_set1_epi32, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi32, _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use super::super::{MANY, Message};

const BLOCK: usize = 64;
const LANES: usize = 16;
/// "expand 32-byte k".
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// What the sixteen blocks of one computation are for.
struct Lanes {
    counters: [u32; LANES],
    nonces_low: [u32; LANES],
    nonces_high: [u32; LANES],
    /// Where each block goes; its bits say to which bytes.
    places: [*mut u8; LANES],
    masks: [u64; LANES],
    used: usize,
}

/// Encrypts or decrypts each message in place, if `data`, and makes the one-time keys of Poly1305, if wanted.
///
/// # Safety
/// The messages must lie within the buffer.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn apply(
    key: &[u32; 8],
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
            unsafe { lanes.push(key, message.counter, 0, keys.add(slot * BLOCK), BLOCK) };
        }
        if !data {
            continue;
        }
        for (index, done) in (0..message.len).step_by(BLOCK).enumerate() {
            let len = BLOCK.min(message.len - done);
            // SAFETY: the caller's messages lie within the buffer, and this is a part of one.
            unsafe { lanes.push(key, message.counter, index as u32 + 1, start.add(message.at + done), len) };
        }
    }
    // SAFETY: all places that were pushed are valid.
    unsafe { lanes.flush(key) };
}

impl Lanes {
    /// Adds a block to the sixteen, and computes them when they are together.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn push(&mut self, key: &[u32; 8], nonce: u64, counter: u32, place: *mut u8, len: usize) {
        let lane = self.used;
        self.counters[lane] = counter;
        self.nonces_low[lane] = nonce as u32;
        self.nonces_high[lane] = (nonce >> 32) as u32;
        self.places[lane] = place;
        self.masks[lane] = u64::MAX >> (BLOCK - len);
        self.used += 1;
        if self.used == LANES {
            // SAFETY: as the caller promises of each place.
            unsafe { self.flush(key) };
        }
    }

    /// Computes the blocks and adds each to what is at its place.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn flush(&mut self, key: &[u32; 8]) {
        let blocks = blocks(key, &self.counters, &self.nonces_low, &self.nonces_high);
        for ((block, place), mask) in blocks.iter().zip(self.places).zip(self.masks).take(self.used) {
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
fn load(words: &[u32; LANES]) -> __m512i {
    // SAFETY: sixteen words are what is loaded.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

/// The quarter round of section 2.1, in all lanes.
macro_rules! quarter_round {
    ($x:ident, $a:literal, $b:literal, $c:literal, $d:literal) => {
        $x[$a] = _mm512_add_epi32($x[$a], $x[$b]);
        $x[$d] = _mm512_rol_epi32::<16>(_mm512_xor_si512($x[$d], $x[$a]));
        $x[$c] = _mm512_add_epi32($x[$c], $x[$d]);
        $x[$b] = _mm512_rol_epi32::<12>(_mm512_xor_si512($x[$b], $x[$c]));
        $x[$a] = _mm512_add_epi32($x[$a], $x[$b]);
        $x[$d] = _mm512_rol_epi32::<8>(_mm512_xor_si512($x[$d], $x[$a]));
        $x[$c] = _mm512_add_epi32($x[$c], $x[$d]);
        $x[$b] = _mm512_rol_epi32::<7>(_mm512_xor_si512($x[$b], $x[$c]));
    };
}

#[inline]
#[target_feature(enable = "avx512f")]
fn blocks(
    key: &[u32; 8],
    counters: &[u32; LANES],
    nonces_low: &[u32; LANES],
    nonces_high: &[u32; LANES],
) -> [__m512i; LANES] {
    let word = |word: u32| _mm512_set1_epi32(word as i32);
    let mut start = [word(0); 16];
    for (to, from) in start.iter_mut().zip(CONSTANTS.iter().chain(key)) {
        *to = word(*from);
    }
    start[12] = load(counters);
    start[14] = load(nonces_low);
    start[15] = load(nonces_high);
    let mut x = start;
    for _ in 0..10 {
        quarter_round!(x, 0, 4, 8, 12);
        quarter_round!(x, 1, 5, 9, 13);
        quarter_round!(x, 2, 6, 10, 14);
        quarter_round!(x, 3, 7, 11, 15);
        quarter_round!(x, 0, 5, 10, 15);
        quarter_round!(x, 1, 6, 11, 12);
        quarter_round!(x, 2, 7, 8, 13);
        quarter_round!(x, 3, 4, 9, 14);
    }
    for (word, start) in x.iter_mut().zip(start) {
        *word = _mm512_add_epi32(*word, start);
    }
    transposed(&x)
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
pub fn quarters_transposed([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab, ab_high) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
    let (cd, cd_high) = (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xee>(c, d));
    [
        _mm512_shuffle_i32x4::<0x88>(ab, cd),
        _mm512_shuffle_i32x4::<0xdd>(ab, cd),
        _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high),
        _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high),
    ]
}
