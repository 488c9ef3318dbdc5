//! Activations to unsigned integers, a scale and a smallest value a token, as the integer matmul reads them.
//!
//! `x = min + scale q`, q in `0 ..= 2^bits - 1`, rounded half to even: both ends of a token's range are exact, and the
//! matmul corrects for `min` with the column sums of the weights. Everything is plain multiplication and addition, so
//! every instruction set, and the twin (`cpu/int_matmul.rs`), gives the same bits.

use super::isa::{Isa, ROWS, kernels};
use super::pack::values_per_word;
use super::threads::{Shared, Threads};
use crate::plan::LOW_BITS;
use crate::simd::isa::Level;

/// Adding it to a number from 0 to 2^22 rounds that to a whole number, which then lies in the lowest bits.
const ROUND: f32 = 8_388_608.0;

/// Quantised rows: tiles of [`ROWS`] register rows, `[tile][step][ROWS]` words.
#[derive(Default)]
pub struct Quantized {
    pub(super) words: Vec<u32>,
    /// A token's scale.
    pub(super) scales: Vec<f32>,
    /// A token's smallest value.
    pub(super) mins: Vec<f32>,
    /// Words of a register row.
    pub(super) steps: usize,
    /// Register rows a token: two where 12 bits do not fit the operand of the dot product.
    pub(super) planes: usize,
}

/// How many register rows a token takes.
pub(super) fn planes(level: Level, bits: u32) -> usize {
    if level.bytes() && bits > 7 { 2 } else { 1 }
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
        self.steps = (k + k2).div_ceil(values_per_word(level));
        self.planes = planes(level, bits);
        let tokens_per_tile = ROWS / self.planes;
        let tiles = rows.div_ceil(tokens_per_tile);
        self.words.resize(tiles * self.steps * ROWS, 0);
        self.scales.resize(tiles * tokens_per_tile, 0.0);
        self.mins.resize(tiles * tokens_per_tile, 0.0);
        let (words, scales, mins) =
            (Shared::of(&mut self.words), Shared::of(&mut self.scales), Shared::of(&mut self.mins));
        let steps = self.steps;
        threads.parts(tiles, |from, to| {
            let rows = from * tokens_per_tile..rows.min(to * tokens_per_tile);
            quantize_rows(level, x, k, x2, k2, rows, bits, steps, words, scales, mins);
        });
    }
}

kernels! {
    /// Some rows of [`Quantized::fill`].
    fn quantize_rows(
        x: &[f32], k: usize, x2: &[f32], k2: usize, rows: std::ops::Range<usize>, bits: u32, steps: usize,
        words: Shared<u32>, scales: Shared<f32>, mins: Shared<f32>,
    ) = quantize_rows_with;
}

#[inline(always)]
unsafe fn quantize_rows_with<I: Isa>(
    x: &[f32],
    k: usize,
    x2: &[f32],
    k2: usize,
    rows: std::ops::Range<usize>,
    bits: u32,
    steps: usize,
    words: Shared<u32>,
    scales: Shared<f32>,
    mins: Shared<f32>,
) {
    let planes = if I::BYTES && bits > 7 { 2 } else { 1 };
    let top = ((1u32 << bits) - 1) as f32;
    // One register row's values, before they are dealt out: bytes, or 16-bit numbers.
    let mut low = vec![0u32; steps];
    let mut high = vec![0u32; if planes == 2 { steps } else { 0 }];
    for row in rows {
        let parts = [&x[row * k..][..k], &x2[row * k2..][..k2]];
        // SAFETY: the caller's target features are those of I.
        let (least, most) = unsafe { range::<I>(parts) };
        let scale = (most - least) / top;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let mut at = 0;
        for part in parts {
            let values = part.iter().map(|v| ((v - least) * inverse + ROUND).to_bits());
            if !I::BYTES {
                let out = &mut bytemuck::cast_slice_mut::<u32, u16>(&mut low)[at..at + part.len()];
                out.iter_mut().zip(values).for_each(|(out, q)| *out = q as u16);
            } else if planes == 1 {
                let out = &mut bytemuck::cast_slice_mut::<u32, u8>(&mut low)[at..at + part.len()];
                out.iter_mut().zip(values).for_each(|(out, q)| *out = q as u8);
            } else {
                let low = &mut bytemuck::cast_slice_mut::<u32, u8>(&mut low)[at..at + part.len()];
                let high = &mut bytemuck::cast_slice_mut::<u32, u8>(&mut high)[at..at + part.len()];
                for ((low, high), q) in low.iter_mut().zip(high).zip(values) {
                    *low = q as u8 & ((1 << LOW_BITS) - 1);
                    *high = (q as u16 >> LOW_BITS) as u8 & 127;
                }
            }
            at += part.len();
        }
        let register_row = row * planes;
        let first = (register_row / ROWS * steps) * ROWS + register_row % ROWS;
        // SAFETY: tiles belong to one thread each, and a row's words lie in its tile.
        unsafe {
            for (step, &word) in low.iter().enumerate() {
                *words.at(first + step * ROWS) = word;
            }
            for (step, &word) in high.iter().enumerate() {
                *words.at(first + step * ROWS + 1) = word;
            }
            *scales.at(row) = scale;
            *mins.at(row) = least;
        }
    }
}

/// The smallest and largest value of a row; both NaN if a value is NaN or infinite, so that the outputs are.
#[inline(always)]
unsafe fn range<I: Isa>(parts: [&[f32]; 2]) -> (f32, f32) {
    let (mut least, mut most, mut spoiled) = (f32::INFINITY, f32::NEG_INFINITY, 0.0);
    unsafe {
        let (mut low, mut high) = (I::splat(least), I::splat(most));
        let mut bad = I::splat(0.0);
        for part in parts {
            let whole = part.len() - part.len() % I::LANES;
            for i in (0..whole).step_by(I::LANES) {
                let v = I::load(part.as_ptr().add(i));
                low = I::min(v, low);
                high = I::max(v, high);
                bad = I::add(bad, I::mul(v, I::splat(0.0)));
            }
            for &v in &part[whole..] {
                least = if v < least { v } else { least };
                most = if v > most { v } else { most };
                spoiled += v * 0.0;
            }
        }
        least = I::fold(low, f32::min).min(least);
        most = I::fold(high, f32::max).max(most);
        spoiled += I::sum(bad);
    }
    // Zero, unless something is not finite.
    (least + spoiled, most + spoiled)
}
