//! Poly1305 (RFC 8439, section 2.5) of one packet in the general registers. The vectors leave their multiplier idle.

use crate::aead::TAG_LEN;
use crate::aead::wide::CLAMP;

/// The bytes per multiplication.
pub(crate) const BLOCK: usize = 16;

/// The sum over the blocks so far, below 2^131, and its multiplier.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum {
    low: u128,
    /// The part above 2^128.
    high: u64,
    r: [u64; 2],
    /// Five quarters of `r[1]`, which has its low two bits clear. It reduces the part above 2^130.
    s: u64,
}

impl Sum {
    pub(crate) fn new(one_time: &[u8; 64]) -> Self {
        let words = one_time.as_chunks().0;
        let r: [u64; 2] = std::array::from_fn(|i| u64::from_le_bytes(words[i]) & CLAMP[i]);
        Self { low: 0, high: 0, r, s: r[1] + (r[1] >> 2) }
    }

    /// Adds a block with its high bit and multiplies by `r`.
    // A call would double the cost.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    pub(crate) fn step(&mut self, block: u128) {
        let product = |a: u64, b: u64| u128::from(a) * u128::from(b);
        let [r0, r1] = self.r;
        let (low, carry) = self.low.overflowing_add(block);
        let [h0, h1, h2] = [low as u64, (low >> 64) as u64, self.high + 1 + u64::from(carry)];
        // As the top four bits of `r`'s halves are clear and h2 is below 8, no sum reaches 2^128, nor d2 2^64.
        let d0 = product(h0, r0) + product(h1, self.s);
        let d1 = product(h0, r1) + product(h1, r0) + u128::from(h2 * self.s) + (d0 >> 64);
        let d2 = h2 * r0 + (d1 >> 64) as u64;
        let low = u128::from(d0 as u64) | d1 << 64;
        // Five times the part above 2^130: four times and once.
        let (low, carry) = low.overflowing_add(u128::from((d2 >> 2) + (d2 & !3)));
        (self.low, self.high) = (low, (d2 & 3) + u64::from(carry));
    }

    /// Reduces the sum below 2^130 - 5 and adds `s`. The result is the tag.
    pub(crate) fn tag(&self, one_time: &[u8; 64]) -> [u8; TAG_LEN] {
        // h + 5 - 2^130, where that is not negative, is h modulo 2^130 - 5: h is below twice that.
        let (reduced, carry) = self.low.overflowing_add(5);
        let keep = u128::from((self.high + u64::from(carry)) >> 2).wrapping_sub(1);
        let s = u128::from_le_bytes(one_time.as_chunks().0[1]);
        ((self.low & keep) | (reduced & !keep)).wrapping_add(s).to_le_bytes()
    }
}

/// The tag of a single packet with its last block.
#[cfg(test)]
pub(crate) fn tag(one_time: &[u8; 64], packet: &[u8], last: u128) -> [u8; TAG_LEN] {
    let mut sum = Sum::new(one_time);
    for block in packet.chunks(BLOCK) {
        let mut padded = [0; BLOCK];
        padded[..block.len()].copy_from_slice(block);
        sum.step(u128::from_le_bytes(padded));
    }
    sum.step(last);
    sum.tag(one_time)
}
