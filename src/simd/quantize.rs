//! Activations to unsigned integers, a scale and a smallest value a token, as the integer matmul reads them.
//!
//! `x = min + scale q`, q in `0 ..= 2^bits - 1`, rounded half to even: both ends of a token's range are exact, and the
//! matmul corrects for `min` with the column sums of the weights. In 8 bits it is not the tokens that are rounded but what
//! they differ by from their mean over the item, which spans a smaller range; the mean is a token of its own, in 16 bits.
//! There q is kept as `q - 128`, for dot products with a sign, and `min` is what 0 stands for.
//! Everything is plain multiplication and addition, so every instruction set, and the twin (`cpu/int_matmul.rs`), gives the
//! same bits.

use super::isa::{INT_ROWS, Isa, Level, array, kernels};
use super::lines::Lines;
use super::pack::{WEIGHT_OFFSET, steps_for, values_per_word};
use super::threads::{Shared, Threads};
use crate::{INT_CHUNK, LOW_BITS};
use std::ops::Range;

/// Adding it to a number from 0 to 2^22 rounds that to a whole number, which then lies in the lowest bits.
const ROUND: f32 = 8_388_608.0;

/// Quantised tokens in register rows of `steps` words. Word i of a block of `LANES` words holds the block's values i,
/// `LANES` + i, `2 LANES` + i, ..: so vectors of values become vectors of words by shifts alone.
///
/// In 12 bits a token has one row, or two where its operand of the dot product takes 7: the high part first. In 8 bits
/// every item has two rows for the mean of its tokens, high and low byte, and then a row a token.
#[derive(Default)]
pub struct Quantized {
    /// `[register row][steps]`.
    pub(super) words: Lines<u32>,
    /// Of a token in 12 bits, of a register row in 8.
    pub(super) scales: Lines<f32>,
    /// As the scales: smallest values.
    pub(super) mins: Lines<f32>,
    /// `[chunks][as the scales]`: what a chunk's sums start from, in 8 bits where the dot product takes bytes.
    pub(super) starts: Lines<u32>,
    /// Words of a register row.
    pub(super) steps: usize,
    /// Register rows a token.
    pub(super) planes: usize,
    /// Register rows in front of the tokens of an item.
    pub(super) lead: usize,
    /// Tokens of an item.
    pub(super) tokens: usize,
    /// Tokens of all items.
    pub(super) rows: usize,
    /// What they were quantised for.
    pub(super) made_for: Option<(Level, u32)>,
    /// `[items][values of a register row]`.
    means: Lines<f32>,
}

/// Activations `cat(x [k], x2 [k2])` of items of `tokens` tokens each.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// `[items, tokens, k]`.
    pub x: &'a [f32],
    /// Features of x.
    pub k: usize,
    /// `[items, tokens, k2]`.
    pub x2: &'a [f32],
    /// Features of x2, 0 without one.
    pub k2: usize,
    /// How many.
    pub items: usize,
    /// Of an item.
    pub tokens: usize,
}

impl Quantized {
    /// Quantises `inputs`; the memory of the last call is used again.
    pub fn fill(&mut self, level: Level, threads: &Threads, inputs: Inputs, bits: u32) {
        let Inputs { x, k, x2, k2, items, tokens } = inputs;
        let rows = items * tokens;
        assert!(tokens > 0 && x.len() >= rows * k && x2.len() >= rows * k2 && [8, 12].contains(&bits));
        (self.rows, self.made_for) = (rows, Some((level, bits)));
        self.steps = steps_for(level, bits, k + k2);
        self.tokens = tokens;
        (self.planes, self.lead) = match bits {
            8 => (1, 2),
            _ if level.bytes(bits) => (2, 0),
            _ => (1, 0),
        };
        // Whole tiles: what a last tile reads beyond the tokens is never stored.
        let padded = (items * (self.lead + tokens)).next_multiple_of(INT_ROWS) + INT_ROWS;
        self.words.resize(padded * self.planes * self.steps);
        self.scales.resize(padded);
        self.mins.resize(padded);
        let chunks = if self.lead > 0 && level.bytes(bits) { (k + k2).div_ceil(INT_CHUNK) } else { 0 };
        self.starts.resize(chunks * padded);
        let (words, scales, mins, starts) = (
            Shared::of(&mut self.words),
            Shared::of(&mut self.scales),
            Shared::of(&mut self.mins),
            Shared::of(&mut self.starts),
        );
        let out = Rows { words, scales, mins, starts, padded, steps: self.steps, planes: self.planes };
        if self.lead == 0 {
            return threads.parts(rows, |from, to| quantize_rows(level, inputs, from..to, out));
        }
        let width = self.steps * values_per_word(level, bits);
        self.means.resize(items * width);
        let means = Shared::of(&mut self.means);
        // In blocks of columns, each summed up in the order of the tokens.
        let blocks = (k + k2).div_ceil(MEAN_BLOCK);
        threads.parts(items * blocks, |from, to| {
            for i in from..to {
                let begin = i % blocks * MEAN_BLOCK;
                add_up(
                    level,
                    inputs,
                    i / blocks,
                    begin..(begin + MEAN_BLOCK).min(k + k2),
                    means.at(i / blocks * width),
                );
            }
        });
        threads.parts(items * (tokens + 1), |from, to| {
            quantize_centred(level, inputs, from..to, &self.means, width, out);
        });
    }
}

/// Columns whose mean is computed at once.
const MEAN_BLOCK: usize = 128;

/// Where register rows go.
#[derive(Clone, Copy)]
struct Rows {
    words: Shared<u32>,
    scales: Shared<f32>,
    mins: Shared<f32>,
    starts: Shared<u32>,
    /// How many there are.
    padded: usize,
    steps: usize,
    /// Of a token.
    planes: usize,
}

kernels! {
    fn quantize_rows(inputs: Inputs, rows: Range<usize>, out: Rows) = quantize_rows_with;
    fn add_up(inputs: Inputs, item: usize, columns: Range<usize>, mean: *mut f32) = add_up_with;
    fn quantize_centred(inputs: Inputs, rows: Range<usize>, means: &[f32], width: usize, out: Rows)
        = quantize_centred_with;
}

/// In 12 bits.
#[inline(always)]
unsafe fn quantize_rows_with<I: Isa>(inputs: Inputs, rows: Range<usize>, out: Rows) {
    unsafe {
        match (I::BYTES, out.planes) {
            (true, 1) => quantize_rows_of::<I::Pairs>(inputs, rows, out),
            _ => quantize_rows_of::<I>(inputs, rows, out),
        }
    }
}

#[inline(always)]
unsafe fn quantize_rows_of<I: Isa>(inputs: Inputs, rows: Range<usize>, out: Rows) {
    let Inputs { x, k, x2, k2, .. } = inputs;
    // A token whose parts or end are not whole blocks is copied, zeros behind it.
    let block = I::LANES * if I::BYTES { 4 } else { 2 };
    let mut copy =
        if k2 == 0 && k.is_multiple_of(block) { Vec::new() } else { vec![0.0; out.steps * block / I::LANES] };
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
            let (scale, least) = match I::BYTES {
                true => quantize_row::<I, 2>(token, padded, 12, out.words.at(row * 2 * out.steps), out.steps),
                false => quantize_row::<I, 1>(token, padded, 12, out.words.at(row * out.steps), out.steps),
            };
            *out.scales.at(row) = scale;
            *out.mins.at(row) = least;
        }
    }
}

/// The mean of some columns over an item's tokens, into its row.
#[inline(always)]
unsafe fn add_up_with<I: Isa>(inputs: Inputs, item: usize, columns: Range<usize>, mean: *mut f32) {
    let Inputs { x, k, x2, k2, tokens, .. } = inputs;
    let share = 1.0 / tokens as f32;
    // The columns of either input.
    for (x, k, from, to, at) in [
        (x, k, columns.start.min(k), columns.end.min(k), 0),
        (x2, k2, columns.start.max(k) - k, columns.end.max(k) - k, k),
    ] {
        let x = &x[item * tokens * k..];
        let mut column = from;
        // SAFETY: columns lie below k, rows below the item's tokens; a mean's columns belong to one thread.
        unsafe {
            while column + 8 * I::LANES <= to {
                let mut sums = [I::splat(0.0); 8];
                for token in 0..tokens {
                    let row = x.as_ptr().add(token * k + column);
                    sums = array!(i < 8, I::splat(0.0), I::add(sums[i], I::load(row.add(i * I::LANES))));
                }
                for (i, sum) in sums.iter().enumerate() {
                    I::store(mean.add(at + column + i * I::LANES), I::mul(*sum, I::splat(share)));
                }
                column += 8 * I::LANES;
            }
            for column in column..to {
                let sum = (0..tokens).fold(0.0, |sum, token| sum + x[token * k + column]);
                *mean.add(at + column) = sum * share;
            }
        }
    }
}

/// In 8 bits: row 0 of an item is its mean, row 1 + i its token i.
#[inline(always)]
unsafe fn quantize_centred_with<I: Isa>(inputs: Inputs, rows: Range<usize>, means: &[f32], width: usize, out: Rows) {
    let Inputs { x, k, x2, k2, tokens, .. } = inputs;
    let mut centred = vec![0.0; width];
    for row in rows {
        let (item, token) = (row / (tokens + 1), row % (tokens + 1));
        let mean = &means[item * width..][..k + k2];
        let register_row = item * (tokens + 2) + if token == 0 { 0 } else { token + 1 };
        // SAFETY: the caller's target features are those of I; a row's words belong to one thread; `means` and `centred`
        // are as wide as a register row.
        unsafe {
            let words = |i: usize| out.words.at((register_row + i) * out.steps);
            let note = |i: usize, scale: f32, least: f32| {
                *out.scales.at(register_row + i) = scale;
                *out.mins.at(register_row + i) = least + 128.0 * scale;
            };
            let starts = |i: usize| out.starts.at(register_row + i);
            let mut extent = Extent::<I>::new();
            if token == 0 {
                extent.include(mean);
                let (least, most) = extent.ends();
                let (scale, inverse) = step(least, most, 16);
                note(0, 256.0 * scale, least);
                note(1, scale, 0.0);
                let at = mean.as_ptr();
                pack_signed::<I, true>(at, k + k2, least, inverse, words(0), out.steps, starts(0), out.padded);
                pack_signed::<I, false>(at, k + k2, least, inverse, words(1), out.steps, starts(1), out.padded);
                continue;
            }
            let place = item * tokens + token - 1;
            extent.centre(&x[place * k..][..k], &mean[..k], &mut centred);
            extent.centre(&x2[place * k2..][..k2], &mean[k..], &mut centred[k..]);
            let (least, most) = extent.ends();
            let (scale, inverse) = step(least, most, 8);
            note(0, scale, least);
            let at = centred.as_ptr();
            pack_signed::<I, false>(at, k + k2, least, inverse, words(0), out.steps, starts(0), out.padded);
        }
    }
}

/// The lower or the higher byte of each of `k` values, less 128, as signed numbers to words; `padded` has whole blocks of
/// values. What the sums of a chunk start from goes to `starts`.
#[cfg_attr(target_arch = "wasm32", inline(never))]
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub(super) unsafe fn pack_signed<I: Isa, const HIGH: bool>(
    padded: *const f32,
    k: usize,
    least: f32,
    inverse: f32,
    out: *mut u32,
    steps: usize,
    starts: *mut u32,
    starts_stride: usize,
) {
    let per_word = if I::BYTES { 4 } else { 2 };
    let chunk = INT_CHUNK / per_word;
    unsafe {
        let signed = |x: I::F| {
            let shifted = I::add(I::mul(I::sub(x, I::splat(least)), I::splat(inverse)), I::splat(ROUND));
            let q = I::bits(shifted);
            let byte = I::and_i(if HIGH { I::shift_right::<8>(q) } else { q }, I::splat_i(255));
            I::add_i(byte, I::splat_i(-128i32 as u32))
        };
        for begin in (0..steps).step_by(chunk) {
            let end = steps.min(begin + chunk);
            let mut sum = I::zero_i();
            for step in (begin..end).step_by(I::LANES) {
                let at = padded.add(per_word * step);
                let word = if I::BYTES {
                    let q = array!(j < 4, I::zero_i(), signed(I::load(at.add(j * I::LANES))));
                    sum = I::add_i(sum, I::add_i(I::add_i(q[0], q[1]), I::add_i(q[2], q[3])));
                    join::<I>(q.map(|q| I::and_i(q, I::splat_i(255))))
                } else {
                    let low = I::and_i(signed(I::load(at)), I::splat_i(0xffff));
                    I::add_i(low, I::shift_left::<16>(signed(I::load(at.add(I::LANES)))))
                };
                I::store_i(out.add(step), word);
            }
            if I::BYTES {
                let mut lanes = [0u32; 16];
                I::store_i(lanes.as_mut_ptr(), sum);
                let mut sum = lanes.iter().take(I::LANES).fold(0u32, |sum, lane| sum.wrapping_add(*lane));
                // Padding has no weight.
                for i in k.max(per_word * begin)..per_word * end {
                    I::store_i(lanes.as_mut_ptr(), signed(I::splat(*padded.add(i))));
                    sum = sum.wrapping_sub(lanes[0]);
                }
                *starts.add(begin / chunk * starts_stride) = sum.wrapping_mul(-WEIGHT_OFFSET as u32);
            }
        }
    }
}

/// One token, whose values `padded` repeats in whole blocks, to its register rows; its scale and smallest value. With two
/// planes the lower 5 bits are a row of their own.
#[inline(always)]
pub(super) unsafe fn quantize_row<I: Isa, const PLANES: usize>(
    token: &[f32],
    padded: *const f32,
    bits: u32,
    out: *mut u32,
    steps: usize,
) -> (f32, f32) {
    unsafe {
        let mut extent = Extent::<I>::new();
        extent.include(token);
        let (least, most) = extent.ends();
        let (scale, inverse) = step(least, most, bits);
        match (I::BYTES, PLANES) {
            (true, 1) => pack_bytes::<I>(padded, least, inverse, out, steps),
            (false, 1) => pack_halves::<I>(padded, least, inverse, out, steps),
            _ => pack_planes::<I>(padded, least, inverse, out, steps),
        }
        (scale, least)
    }
}

/// What one step of the integers is worth, and its inverse.
fn step(least: f32, most: f32, bits: u32) -> (f32, f32) {
    let scale = (most - least) / ((1u32 << bits) - 1) as f32;
    (scale, if scale > 0.0 { 1.0 / scale } else { 0.0 })
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
            I::store_i(out.add(step), join::<I>(q));
        }
    }
}

#[inline(always)]
pub(super) unsafe fn pack_planes<I: Isa>(x: *const f32, least: f32, inverse: f32, out: *mut u32, steps: usize) {
    unsafe {
        let (least, inverse) = (I::splat(least), I::splat(inverse));
        for step in (0..steps).step_by(I::LANES) {
            let (high, low) = if I::BYTES {
                let q = array!(j < 4, I::zero_i(), quantized::<I>(x.add(4 * step + j * I::LANES), least, inverse));
                let low = q.map(|q| I::and_i(q, I::splat_i((1 << LOW_BITS) - 1)));
                (join::<I>(q.map(|q| I::shift_right::<LOW_BITS>(q))), join::<I>(low))
            } else {
                let first = quantized::<I>(x.add(2 * step), least, inverse);
                let second = quantized::<I>(x.add(2 * step + I::LANES), least, inverse);
                let pair = |a, b| I::add_i(a, I::shift_left::<16>(b));
                let low = |q| I::and_i(q, I::splat_i((1 << LOW_BITS) - 1));
                let high = |q| I::shift_right::<LOW_BITS>(q);
                (pair(high(first), high(second)), pair(low(first), low(second)))
            };
            I::store_i(out.add(step), high);
            I::store_i(out.add(steps + step), low);
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
pub(super) unsafe fn pack_halves<I: Isa>(x: *const f32, least: f32, inverse: f32, out: *mut u32, steps: usize) {
    unsafe {
        let (least, inverse) = (I::splat(least), I::splat(inverse));
        for step in (0..steps).step_by(I::LANES) {
            let low = quantized::<I>(x.add(2 * step), least, inverse);
            let high = quantized::<I>(x.add(2 * step + I::LANES), least, inverse);
            I::store_i(out.add(step), I::add_i(low, I::shift_left::<16>(high)));
        }
    }
}

/// The smallest and largest of many values.
pub(super) struct Extent<I: Isa> {
    low: I::F,
    high: I::F,
    /// Zero, unless something is not finite.
    bad: I::F,
    /// Of what is no whole vector.
    rest: (f32, f32, f32),
}

impl<I: Isa> Extent<I> {
    #[inline(always)]
    pub unsafe fn new() -> Extent<I> {
        let (low, high) = (f32::INFINITY, f32::NEG_INFINITY);
        unsafe { Extent { low: I::splat(low), high: I::splat(high), bad: I::splat(0.0), rest: (low, high, 0.0) } }
    }

    #[inline(always)]
    unsafe fn take(&mut self, v: I::F) {
        unsafe {
            self.low = I::min(v, self.low);
            self.high = I::max(v, self.high);
            self.bad = I::madd(v, I::splat(0.0), self.bad);
        }
    }

    #[inline(always)]
    fn take_one(&mut self, v: f32) {
        let (low, high, bad) = self.rest;
        self.rest = (if v < low { v } else { low }, if v > high { v } else { high }, bad + v * 0.0);
    }

    #[inline(always)]
    pub unsafe fn include(&mut self, values: &[f32]) {
        let whole = values.len() - values.len() % I::LANES;
        for i in (0..whole).step_by(I::LANES) {
            unsafe { self.take(I::load(values.as_ptr().add(i))) };
        }
        for &v in &values[whole..] {
            self.take_one(v);
        }
    }

    /// [`Extent::include`]s `x - mean`, which goes to `out`.
    #[inline(always)]
    unsafe fn centre(&mut self, x: &[f32], mean: &[f32], out: &mut [f32]) {
        let whole = x.len() - x.len() % I::LANES;
        for i in (0..whole).step_by(I::LANES) {
            // SAFETY: all three have the length of x, or more.
            unsafe {
                let v = I::sub(I::load(x.as_ptr().add(i)), I::load(mean.as_ptr().add(i)));
                I::store(out.as_mut_ptr().add(i), v);
                self.take(v);
            }
        }
        for i in whole..x.len() {
            out[i] = x[i] - mean[i];
            self.take_one(out[i]);
        }
    }

    /// Both NaN if a value is NaN or infinite, so that the outputs are.
    #[inline(always)]
    pub unsafe fn ends(&self) -> (f32, f32) {
        unsafe {
            let spoiled = I::sum(self.bad) + self.rest.2;
            let low = I::least(self.low).min(self.rest.0);
            (low + spoiled, I::largest(self.high).max(self.rest.1) + spoiled)
        }
    }
}
