//! Activations to unsigned integers, a scale and a smallest value a token, as the integer matmul reads them.
//!
//! `x = min + scale q`, q in `0 ..= 2^bits - 1`, rounded half to even: both ends of a token's range are exact, and the
//! matmul corrects for `min` with the column sums of the weights. Everything is plain multiplication and addition, so
//! every instruction set, and the twin (`cpu/int_matmul.rs`), gives the same bits.

use super::isa::{INT_ROWS, Isa, Level, array, kernels};
use super::pack::steps_for;
use super::threads::{Shared, Threads};
use crate::LOW_BITS;
use std::ops::Range;

/// Adding it to a number from 0 to 2^22 rounds that to a whole number, which then lies in the lowest bits.
const ROUND: f32 = 8_388_608.0;

/// Quantised tokens, for each one or two register rows of `steps` words, in tiles of [`INT_ROWS`] such rows. Word i of a block of `LANES` words holds the
/// block's values i, `LANES` + i, `2 LANES` + i, ..: so vectors of values become vectors of words by shifts alone.
#[derive(Default)]
pub struct Quantized {
    /// `[tile][steps][INT_ROWS]`.
    pub(super) words: Vec<u32>,
    /// A token's scale.
    pub(super) scales: Vec<f32>,
    /// A token's smallest value.
    pub(super) mins: Vec<f32>,
    /// Words of a register row.
    pub(super) steps: usize,
    /// Register rows a token: two where 12 bits do not fit the operand of the dot product, the high part first.
    pub(super) planes: usize,
}

impl Quantized {
    /// Quantises `rows` rows `cat(x [k], x2 [k2])`; the memory of the last call is used again.
    pub fn fill(
        &mut self,
        level: Level,
        threads: &Threads,
        (x, k): (&[f32], usize),
        (x2, k2): (&[f32], usize),
        rows: usize,
        bits: u32,
    ) {
        assert!(x.len() >= rows * k && x2.len() >= rows * k2 && [7, 12].contains(&bits));
        self.steps = steps_for(level, k + k2);
        self.planes = if level.bytes() && bits > 7 { 2 } else { 1 };
        // Whole tiles: what a last tile reads beyond the tokens is never stored.
        let padded = rows.next_multiple_of(INT_ROWS / self.planes);
        self.words.resize(padded * self.planes * self.steps, 0);
        self.scales.resize(padded, 0.0);
        self.mins.resize(padded, 0.0);
        let (words, scales, mins) =
            (Shared::of(&mut self.words), Shared::of(&mut self.scales), Shared::of(&mut self.mins));
        let steps = self.steps;
        threads.parts(rows, |from, to| {
            quantize_rows(level, x, k, x2, k2, from..to, bits, steps, words, scales, mins);
        });
    }
}

kernels! {
    /// Some rows of [`Quantized::fill`].
    fn quantize_rows(
        x: &[f32], k: usize, x2: &[f32], k2: usize, rows: Range<usize>, bits: u32, steps: usize, words: Shared<u32>,
        scales: Shared<f32>, mins: Shared<f32>,
    ) = quantize_rows_with;
}

#[inline(always)]
unsafe fn quantize_rows_with<I: Isa>(
    x: &[f32],
    k: usize,
    x2: &[f32],
    k2: usize,
    rows: Range<usize>,
    bits: u32,
    steps: usize,
    words: Shared<u32>,
    scales: Shared<f32>,
    mins: Shared<f32>,
) {
    let planes = if I::BYTES && bits > 7 { 2 } else { 1 };
    // A token whose parts or end are not whole blocks is copied, zeros behind it.
    let block = I::LANES * if I::BYTES { 4 } else { 2 };
    let mut copy = if k2 == 0 && k.is_multiple_of(block) { Vec::new() } else { vec![0.0; steps * block / I::LANES] };
    for row in rows {
        // SAFETY: the caller's target features are those of I; a row's words belong to one thread.
        unsafe {
            let token = &x[row * k..][..k];
            let (token, padded) = if copy.is_empty() {
                (token, token.as_ptr())
            } else {
                copy[..k].copy_from_slice(token);
                copy[k..k + k2].copy_from_slice(&x2[row * k2..][..k2]);
                (&copy[..k + k2], copy.as_ptr())
            };
            let register_row = row * planes;
            let out = words.at(register_row / INT_ROWS * steps * INT_ROWS + register_row % INT_ROWS);
            let (scale, least) = match planes {
                2 => quantize_row::<I, 2>(token, padded, bits, out, steps),
                _ => quantize_row::<I, 1>(token, padded, bits, out, steps),
            };
            *scales.at(row) = scale;
            *mins.at(row) = least;
        }
    }
}

/// One token, whose values `padded` repeats in whole blocks, to its register rows of a tile; its scale and smallest value.
#[inline(always)]
pub(super) unsafe fn quantize_row<I: Isa, const PLANES: usize>(
    token: &[f32],
    padded: *const f32,
    bits: u32,
    out: *mut u32,
    steps: usize,
) -> (f32, f32) {
    unsafe {
        let (least, most) = range::<I>(token);
        let scale = (most - least) / ((1u32 << bits) - 1) as f32;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        match (I::BYTES, PLANES) {
            (true, 1) => pack_bytes::<I>(padded, least, inverse, out, steps),
            (true, _) => pack_planes::<I>(padded, least, inverse, out, steps),
            (false, _) => pack_halves::<I>(padded, least, inverse, out, steps),
        }
        (scale, least)
    }
}

/// A vector of values as whole numbers.
#[inline(always)]
unsafe fn quantized<I: Isa>(x: *const f32, least: I::F, inverse: I::F) -> I::I {
    unsafe {
        let shifted = I::add(I::mul(I::sub(I::load(x), least), inverse), I::splat(ROUND));
        // What padding gives is cut off; its weights are zeros.
        I::and_i(I::bits(shifted), I::splat_i(0xfff))
    }
}

#[inline(always)]
unsafe fn pack_bytes<I: Isa>(x: *const f32, least: f32, inverse: f32, out: *mut u32, steps: usize) {
    unsafe {
        let (least, inverse) = (I::splat(least), I::splat(inverse));
        for step in (0..steps).step_by(I::LANES) {
            let q = array!(j < 4, I::zero_i(), {
                I::and_i(quantized::<I>(x.add(4 * step + j * I::LANES), least, inverse), I::splat_i(127))
            });
            deal::<I>(out, step, join::<I>(q));
        }
    }
}

#[inline(always)]
unsafe fn pack_planes<I: Isa>(x: *const f32, least: f32, inverse: f32, out: *mut u32, steps: usize) {
    unsafe {
        let (least, inverse) = (I::splat(least), I::splat(inverse));
        for step in (0..steps).step_by(I::LANES) {
            let q = array!(j < 4, I::zero_i(), quantized::<I>(x.add(4 * step + j * I::LANES), least, inverse));
            let high = join::<I>(q.map(|q| I::shift_right::<LOW_BITS>(q)));
            let low = join::<I>(q.map(|q| I::and_i(q, I::splat_i((1 << LOW_BITS) - 1))));
            deal::<I>(out, step, high);
            deal::<I>(out.add(1), step, low);
        }
    }
}

/// Words to their places in a tile, from `step` on.
#[inline(always)]
unsafe fn deal<I: Isa>(out: *mut u32, step: usize, words: I::I) {
    unsafe {
        let mut line = [0u32; 16];
        I::store_i(line.as_mut_ptr(), words);
        for i in 0..I::LANES {
            *out.add((step + i) * INT_ROWS) = line[i];
        }
    }
}

/// Four vectors of bytes as one of words.
#[inline(always)]
pub(super) unsafe fn join<I: Isa>(q: [I::I; 4]) -> I::I {
    unsafe {
        let low = I::add_i(q[0], I::shift_left::<8>(q[1]));
        I::add_i(low, I::shift_left::<16>(I::add_i(q[2], I::shift_left::<8>(q[3]))))
    }
}

#[inline(always)]
unsafe fn pack_halves<I: Isa>(x: *const f32, least: f32, inverse: f32, out: *mut u32, steps: usize) {
    unsafe {
        let (least, inverse) = (I::splat(least), I::splat(inverse));
        for step in (0..steps).step_by(I::LANES) {
            let low = quantized::<I>(x.add(2 * step), least, inverse);
            let high = quantized::<I>(x.add(2 * step + I::LANES), least, inverse);
            deal::<I>(out, step, I::add_i(low, I::shift_left::<16>(high)));
        }
    }
}

/// The smallest and largest value of a row; both NaN if a value is NaN or infinite, so that the outputs are.
#[inline(always)]
unsafe fn range<I: Isa>(row: &[f32]) -> (f32, f32) {
    let (mut least, mut most, mut spoiled) = (f32::INFINITY, f32::NEG_INFINITY, 0.0);
    unsafe {
        let (mut low, mut high) = (I::splat(least), I::splat(most));
        let mut bad = I::splat(0.0);
        let whole = row.len() - row.len() % I::LANES;
        for i in (0..whole).step_by(I::LANES) {
            let v = I::load(row.as_ptr().add(i));
            low = I::min(v, low);
            high = I::max(v, high);
            bad = I::add(bad, I::mul(v, I::splat(0.0)));
        }
        for &v in &row[whole..] {
            least = if v < least { v } else { least };
            most = if v > most { v } else { most };
            spoiled += v * 0.0;
        }
        least = I::fold(low, f32::min).min(least);
        most = I::fold(high, f32::max).max(most);
        spoiled += I::sum(bad);
    }
    // Zero, unless something is not finite.
    (least + spoiled, most + spoiled)
}
