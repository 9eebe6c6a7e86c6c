//! Poly1305 (RFC 8439, section 2.5) of eight packets at once, one per 64-bit lane.
//!
//! Numbers below 2^130 have limbs of 44, 44 and 42 bits, which leaves headroom in the 52-bit multiplications of IFMA. Only
//! the packet is authenticated, because WireGuard's data messages have no additional data.

use std::arch::x86_64::{
    __m512i, __mmask8, _mm512_add_epi64, _mm512_and_si512, _mm512_loadu_si512, _mm512_madd52hi_epu64,
    _mm512_madd52lo_epu64, _mm512_mask_mov_epi64, _mm512_maskz_loadu_epi8, _mm512_or_si512,
    _mm512_set1_epi64, _mm512_setzero_si512, _mm512_slli_epi64, _mm512_srli_epi64, _mm512_storeu_si512,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

use super::chacha20::quarters_transposed;
use crate::aead::wide::CLAMP;
use crate::aead::{MANY, Message, TAG_LEN};

const LANES: usize = 8;
const BLOCK: usize = 16;
const MASK_44: u64 = (1 << 44) - 1;
const MASK_42: u64 = (1 << 42) - 1;
/// The bit above each block, in the highest limb.
const HIGH_BIT: u64 = 1 << (128 - 88);

type Limbs = [__m512i; 3];

/// The tags of up to sixteen messages of the buffer. The one-time key is the start of each first block.
///
/// # Safety
/// The messages must lie within the buffer.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) unsafe fn tags(
    one_time: &[[u8; 64]; MANY],
    buffer: &[u8],
    messages: &[Message],
) -> [[u8; TAG_LEN]; MANY] {
    // SAFETY: as the caller promises.
    unsafe { tags_with(one_time, buffer, messages, |message| [0, message.len as u64]) }
}

/// The same, with the last block of each: the lengths of the additional data and of the packet.
///
/// # Safety
/// The messages must lie within the buffer.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(crate) unsafe fn tags_with(
    one_time: &[[u8; 64]; MANY],
    buffer: &[u8],
    messages: &[Message],
    last: impl Fn(&Message) -> [u64; 2] + Copy,
) -> [[u8; TAG_LEN]; MANY] {
    let mut tags = [[0; TAG_LEN]; MANY];
    let (keys, out) = (one_time.as_chunks::<LANES>().0, tags.as_chunks_mut::<LANES>().0);
    // SAFETY: as the caller promises.
    unsafe {
        match messages.split_at_checked(LANES) {
            // Two groups of eight at the same time, because each step of a group must wait for the step before it.
            Some((first, second)) => eights([&keys[0], &keys[1]], buffer, [first, second], last, out),
            None => eights([&keys[0]], buffer, [messages], last, out),
        }
    }
    tags
}

#[inline]
#[target_feature(enable = "avx512f")]
fn splat(word: u64) -> __m512i {
    _mm512_set1_epi64(word as i64)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(words: &[u64; LANES]) -> __m512i {
    // SAFETY: the load reads eight words.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(register: __m512i) -> [u64; LANES] {
    let mut words = [0; LANES];
    // SAFETY: the store writes eight words.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), register) };
    words
}

/// The limbs of numbers of 128 bits, given by their halves.
#[inline]
#[target_feature(enable = "avx512f")]
fn limbs(low: __m512i, high: __m512i) -> Limbs {
    let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
    [
        _mm512_and_si512(low, splat(MASK_44)),
        _mm512_and_si512(middle, splat(MASK_44)),
        _mm512_srli_epi64::<24>(high),
    ]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
unsafe fn eights<const N: usize>(
    one_time: [&[[u8; 64]; LANES]; N],
    buffer: &[u8],
    messages: [&[Message]; N],
    last: impl Fn(&Message) -> [u64; 2],
    tags: &mut [[[u8; TAG_LEN]; LANES]],
) {
    let keys = one_time.map(|keys| Multiplier::new(keys));
    // SAFETY: as the caller promises.
    let sums = unsafe { absorb(&keys, buffer, messages) };
    for eight in 0..N {
        let mut ends = [[0; LANES]; 2];
        for (lane, message) in messages[eight].iter().enumerate() {
            [ends[0][lane], ends[1][lane]] = last(message);
        }
        let sum = keys[eight].step(sums[eight], load(&ends[0]), load(&ends[1])).map(|limb| store(limb));
        let (s_low, s_high) = (words(one_time[eight], 2), words(one_time[eight], 3));
        for lane in 0..messages[eight].len() {
            let sum = [sum[0][lane], sum[1][lane], sum[2][lane]];
            tags[eight][lane] = finish(sum, s_low[lane], s_high[lane]);
        }
    }
}

/// A word of each key.
fn words(keys: &[[u8; 64]; LANES], at: usize) -> [u64; LANES] {
    std::array::from_fn(|lane| u64::from_le_bytes(keys[lane].as_chunks().0[at]))
}

/// The sums over all whole or padded blocks of the packets.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
unsafe fn absorb<const N: usize>(
    keys: &[Multiplier; N],
    buffer: &[u8],
    messages: [&[Message]; N],
) -> [Limbs; N] {
    let mut sums = [[_mm512_setzero_si512(); 3]; N];
    let lens = || messages.into_iter().flatten().map(|message| message.len);
    let longest = lens().max().unwrap_or(0);
    let shortest = if lens().count() == N * LANES { lens().min().unwrap_or(0) } else { 0 };
    let mut done = 0;
    while done < longest {
        // SAFETY: as the caller promises.
        let words = messages.map(|messages| unsafe { four_blocks(buffer, messages, done) });
        for block in 0..4 {
            let at = done + block * BLOCK;
            for eight in 0..N {
                let sum = sums[eight];
                let next = keys[eight].step(sum, words[eight][2 * block], words[eight][2 * block + 1]);
                let all = at < shortest;
                sums[eight] = if all { next } else { chosen(unfinished(messages[eight], at), sum, next) };
            }
        }
        done += 4 * BLOCK;
    }
    sums
}

/// The lanes with packets that extend beyond an offset.
#[inline]
fn unfinished(messages: &[Message], at: usize) -> __mmask8 {
    messages.iter().enumerate().fold(0, |mask, (lane, message)| mask | u8::from(at < message.len) << lane)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn chosen(lanes: __mmask8, otherwise: Limbs, those: Limbs) -> Limbs {
    std::array::from_fn(|limb| _mm512_mask_mov_epi64(otherwise[limb], lanes, those[limb]))
}

/// The next 64 bytes of each packet, padded with zeros: eight words with one packet per lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn four_blocks(buffer: &[u8], messages: &[Message], done: usize) -> [__m512i; 8] {
    let mut rows = [_mm512_setzero_si512(); LANES];
    for (row, message) in rows.iter_mut().zip(messages) {
        let left = message.len.saturating_sub(done).min(64);
        if left > 0 {
            // SAFETY: the mask keeps the reading within the message, and that lies within the buffer.
            *row = unsafe {
                _mm512_maskz_loadu_epi8(
                    u64::MAX >> (64 - left),
                    buffer.as_ptr().add(message.at + done).cast(),
                )
            };
        }
    }
    let pair = |p: usize| {
        (
            _mm512_unpacklo_epi64(rows[2 * p], rows[2 * p + 1]),
            _mm512_unpackhi_epi64(rows[2 * p], rows[2 * p + 1]),
        )
    };
    let pairs = [pair(0), pair(1), pair(2), pair(3)];
    let even = quarters_transposed(pairs.map(|p| p.0));
    let odd = quarters_transposed(pairs.map(|p| p.1));
    std::array::from_fn(|i| if i % 2 == 0 { even[i / 2] } else { odd[i / 2] })
}

/// The multiples of `r` that a multiplication needs.
struct Multiplier {
    r: Limbs,
    /// Twenty times the two higher limbs. They reduce the part above 2^132, because 2^130 is congruent to 5.
    twenty: [__m512i; 2],
}

impl Multiplier {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(one_time: &[[u8; 64]; LANES]) -> Self {
        let r = limbs(
            _mm512_and_si512(load(&words(one_time, 0)), splat(CLAMP[0])),
            _mm512_and_si512(load(&words(one_time, 1)), splat(CLAMP[1])),
        );
        let twenty = |limb| _mm512_add_epi64(_mm512_slli_epi64::<4>(limb), _mm512_slli_epi64::<2>(limb));
        Self { r, twenty: [twenty(r[1]), twenty(r[2])] }
    }

    /// Adds a block with its high bit to the sums and multiplies by `r`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn step(&self, sum: Limbs, low: __m512i, high: __m512i) -> Limbs {
        let block = limbs(low, high);
        let h = [
            _mm512_add_epi64(sum[0], block[0]),
            _mm512_add_epi64(sum[1], block[1]),
            _mm512_add_epi64(sum[2], _mm512_or_si512(block[2], splat(HIGH_BIT))),
        ];
        let ([r0, r1, r2], [s1, s2]) = (self.r, self.twenty);
        let (low0, high0) = products(h, [r0, s2, s1]);
        let (low1, high1) = products(h, [r1, r0, s2]);
        let (low2, high2) = products(h, [r2, r1, r0]);
        // A high half counts 2^52: in the next limb, 2^44 above, that is 2^8; above 2^130 the highest one's is 2^10.
        let carry0 = _mm512_add_epi64(_mm512_srli_epi64::<44>(low0), _mm512_slli_epi64::<8>(high0));
        let low1 = _mm512_add_epi64(low1, carry0);
        let carry1 = _mm512_add_epi64(_mm512_srli_epi64::<44>(low1), _mm512_slli_epi64::<8>(high1));
        let low2 = _mm512_add_epi64(low2, carry1);
        let carry2 = _mm512_add_epi64(_mm512_srli_epi64::<42>(low2), _mm512_slli_epi64::<10>(high2));
        let five = _mm512_add_epi64(carry2, _mm512_slli_epi64::<2>(carry2));
        let h0 = _mm512_add_epi64(_mm512_and_si512(low0, splat(MASK_44)), five);
        let h1 = _mm512_add_epi64(_mm512_and_si512(low1, splat(MASK_44)), _mm512_srli_epi64::<44>(h0));
        [_mm512_and_si512(h0, splat(MASK_44)), h1, _mm512_and_si512(low2, splat(MASK_42))]
    }
}

/// The sum of three products: its lower 52 bits, and the bits above.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn products(a: Limbs, b: Limbs) -> (__m512i, __m512i) {
    let zero = _mm512_setzero_si512();
    let low = _mm512_madd52lo_epu64(zero, a[0], b[0]);
    let low = _mm512_madd52lo_epu64(low, a[1], b[1]);
    let low = _mm512_madd52lo_epu64(low, a[2], b[2]);
    let high = _mm512_madd52hi_epu64(zero, a[0], b[0]);
    let high = _mm512_madd52hi_epu64(high, a[1], b[1]);
    let high = _mm512_madd52hi_epu64(high, a[2], b[2]);
    (low, high)
}

/// Reduces a sum below 2^130 - 5 and adds `s`. The result is the tag.
fn finish([h0, h1, h2]: [u64; 3], s_low: u64, s_high: u64) -> [u8; TAG_LEN] {
    let carried = |mut h: [u64; 3]| {
        h[1] += h[0] >> 44;
        h[0] &= MASK_44;
        h[2] += h[1] >> 44;
        h[1] &= MASK_44;
        h
    };
    let mut h = carried([h0, h1, h2]);
    for _ in 0..2 {
        let above = h[2] >> 42;
        h[2] &= MASK_42;
        h[0] += above * 5;
        h = carried(h);
    }
    // h + 5 - 2^130, where that is not negative, is h modulo 2^130 - 5.
    let mut reduced = carried([h[0] + 5, h[1], h[2]]);
    let keep = (reduced[2] >> 42).wrapping_sub(1);
    reduced[2] &= MASK_42;
    let [h0, h1, h2] = std::array::from_fn(|i| (h[i] & keep) | (reduced[i] & !keep));
    let number = u128::from(h0) | u128::from(h1) << 44 | u128::from(h2) << 88;
    let s = u128::from(s_low) | u128::from(s_high) << 64;
    number.wrapping_add(s).to_le_bytes()
}
