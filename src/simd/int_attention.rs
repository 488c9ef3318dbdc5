//! Attention with both products in integers: queries and softmax weights in 7 bits, keys and values in i8.
//!
//! Keys have one scale a token, values one a column of a head; a query is quantised like a token of a matmul
//! (`quantize.rs`), a softmax weight `e^(score - largest)` in (0, 1] as `round(127 e)`, and the sum that it is divided by is
//! that of the rounded weights. The twin is `src/cpu/int_attention.rs`.

use super::functions::exp_below_zero;
use super::isa::{INT_ROWS, Isa, Level, array, kernels, unroll};
use super::matmul::int_tile;
use super::quantize::{join, quantize_row};
use super::threads::{Shared, Threads};
use crate::AttentionShape;
use std::cell::RefCell;

/// As [`super::attention::attention`].
pub fn int_attention(level: Level, threads: &Threads, qkv: &[f32], out: &mut [f32], shape: &AttentionShape) {
    let elements = shape.batch * shape.tokens * shape.heads * shape.head_dim;
    assert!(qkv.len() >= 3 * elements && out.len() >= elements && shape.head_dim <= MOST_HEAD_DIM);
    let out = Shared::of(out);
    threads.each(shape.batch * shape.heads, |i| {
        SCRATCH.with_borrow_mut(|scratch| {
            head(level, qkv, out, shape, i / shape.heads, i % shape.heads, scratch);
        });
    });
}

/// What a Plan allows.
const MOST_HEAD_DIM: usize = 128;

/// Adding it rounds a number of either sign below 2^22 to a whole one, in two's complement in the lowest bits.
const ROUND: f32 = 12_582_912.0;

#[derive(Default)]
struct Scratch {
    /// `[tokens / panel][steps of head_dim][panel]`.
    keys: Vec<u32>,
    key_scales: Vec<f32>,
    key_sums: Vec<f32>,
    /// `[head_dim / panel][steps of tokens][panel]`.
    values: Vec<u32>,
    value_scales: Vec<f32>,
    /// Four queries, `[steps of head_dim][INT_ROWS]`.
    queries: Vec<u32>,
    /// `[INT_ROWS][columns]`.
    scores: Vec<f32>,
    /// Four rows of softmax weights, `[steps of tokens][INT_ROWS]`.
    weights: Vec<u32>,
}

thread_local! {
    /// Of one head; grows in the first run and stays.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

kernels! {
    fn head(
        qkv: &[f32], out: Shared<f32>, shape: &AttentionShape, item: usize, index: usize, scratch: &mut Scratch,
    ) = head_with;
}

#[inline(always)]
unsafe fn head_with<I: Isa>(
    qkv: &[f32],
    out: Shared<f32>,
    shape: &AttentionShape,
    item: usize,
    index: usize,
    scratch: &mut Scratch,
) {
    unsafe {
        match I::COLUMNS {
            1 => head_of::<I, 1>(qkv, out, shape, item, index, scratch),
            _ => head_of::<I, 2>(qkv, out, shape, item, index, scratch),
        }
    }
}

#[inline(always)]
unsafe fn head_of<I: Isa, const C: usize>(
    qkv: &[f32],
    out: Shared<f32>,
    shape: &AttentionShape,
    item: usize,
    index: usize,
    scratch: &mut Scratch,
) {
    let width = C * I::LANES;
    let block = I::LANES * if I::BYTES { 4 } else { 2 };
    let (tokens, head_dim) = (shape.tokens, shape.head_dim);
    let dim = shape.heads * head_dim;
    let (head_blocks, token_blocks) = (head_dim.div_ceil(block), tokens.div_ceil(block));
    let (head_steps, token_steps) = (head_blocks * I::LANES, token_blocks * I::LANES);
    // Scores are read in whole blocks by the second product, and written in whole panels by the first.
    let columns = tokens.next_multiple_of(width).max(token_blocks * block);
    let panels = tokens.div_ceil(width);
    let value_panels = head_dim.div_ceil(width);
    scratch.keys.resize(panels * head_steps * width, 0);
    scratch.key_scales.resize(panels * width, 0.0);
    scratch.key_sums.resize(panels * width, 0.0);
    scratch.values.resize(value_panels * token_steps * width, 0);
    scratch.value_scales.resize(value_panels * width, 0.0);
    scratch.queries.resize(head_steps * INT_ROWS, 0);
    scratch.scores.resize(INT_ROWS * columns, 0.0);
    scratch.weights.resize(token_steps * INT_ROWS, 0);
    let at =
        |token: usize, part: usize| &qkv[((item * tokens + token) * 3 + part) * dim + index * head_dim..][..head_dim];
    let root = 1.0 / (head_dim as f32).sqrt();

    // SAFETY: places are those of the sizes above; a head's columns of `out` belong to one thread; the caller's target
    // features are those of I.
    unsafe {
        for token in 0..panels * width {
            let target = scratch.keys.as_mut_ptr().add(token / width * head_steps * width + token % width);
            let (scale, sum) = match token < tokens {
                true => pack_key::<I>(at(token, 1), target, width),
                false => (0.0, 0.0),
            };
            scratch.key_scales[token] = scale * root;
            scratch.key_sums[token] = sum * scale * root;
        }
        for panel in 0..value_panels {
            let from = panel * width;
            let valid = width.min(head_dim - from);
            let value = |token: usize| match token < tokens {
                true => &at(token, 2)[from..from + valid],
                false => &[],
            };
            let target = scratch.values.as_mut_ptr().add(panel * token_steps * width);
            pack_values::<I, C>(value, tokens, target, &mut scratch.value_scales[from..from + width]);
        }

        for first in (0..tokens).step_by(INT_ROWS) {
            let (mut scales, mut mins) = ([0.0; INT_ROWS], [0.0; INT_ROWS]);
            let mut sums = [[I::zero_i(); C]; INT_ROWS];
            for r in 0..INT_ROWS {
                let mut query = [0f32; MOST_HEAD_DIM + 64];
                query[..head_dim].copy_from_slice(at((first + r).min(tokens - 1), 0));
                let target = scratch.queries.as_mut_ptr().add(r);
                (scales[r], mins[r]) = quantize_row::<I, 1>(&query[..head_dim], query.as_ptr(), 7, target, head_steps);
            }
            for panel in 0..panels {
                let keys = scratch.keys.as_ptr().add(panel * head_steps * width);
                int_tile::<I, C>(scratch.queries.as_ptr(), keys, head_steps, &mut sums);
                unroll!(c < C, {
                    let column = panel * width + c * I::LANES;
                    let key_scales = I::load(scratch.key_scales.as_ptr().add(column));
                    let key_sums = I::load(scratch.key_sums.as_ptr().add(column));
                    unroll!(r < INT_ROWS, {
                        let product = I::mul(I::to_float(sums[r][c]), I::mul(I::splat(scales[r]), key_scales));
                        let score = I::add(product, I::mul(I::splat(mins[r]), key_sums));
                        I::store(scratch.scores.as_mut_ptr().add(r * columns + column), score);
                    });
                });
            }
            let mut totals = [0.0; INT_ROWS];
            for r in 0..INT_ROWS {
                let target = scratch.weights.as_mut_ptr().add(r);
                totals[r] = softmax::<I>(&mut scratch.scores[r * columns..][..columns], tokens, target, token_steps);
            }
            for panel in 0..value_panels {
                let values = scratch.values.as_ptr().add(panel * token_steps * width);
                int_tile::<I, C>(scratch.weights.as_ptr(), values, token_steps, &mut sums);
                let from = panel * width;
                let mut lines = [[0f32; 64]; INT_ROWS];
                unroll!(c < C, {
                    let scale = I::load(scratch.value_scales.as_ptr().add(from + c * I::LANES));
                    unroll!(r < INT_ROWS, {
                        let v = I::mul(I::to_float(sums[r][c]), I::mul(scale, I::splat(1.0 / totals[r])));
                        I::store(lines[r].as_mut_ptr().add(c * I::LANES), v);
                    });
                });
                for (r, line) in lines.iter().enumerate().take(tokens - first) {
                    let target = out.at((item * tokens + first + r) * dim + index * head_dim + from);
                    std::ptr::copy_nonoverlapping(line.as_ptr(), target, width.min(head_dim - from));
                }
            }
        }
    }
}

/// A key in i8 to its column of a panel `[steps][width]`; its scale, and the sum of its values.
#[inline(always)]
unsafe fn pack_key<I: Isa>(key: &[f32], target: *mut u32, width: usize) -> (f32, f32) {
    let mut padded = [0f32; MOST_HEAD_DIM + 64];
    padded[..key.len()].copy_from_slice(key);
    let per_word = if I::BYTES { 4 } else { 2 };
    let blocks = key.len().div_ceil(I::LANES * per_word);
    unsafe {
        let (mut most, mut bad) = (I::splat(0.0), I::splat(0.0));
        for i in (0..blocks * per_word * I::LANES).step_by(I::LANES) {
            let v = I::load(padded.as_ptr().add(i));
            most = I::max(I::max(v, I::sub(I::splat(0.0), v)), most);
            bad = I::add(bad, I::mul(v, I::splat(0.0)));
        }
        // NaN if a value is NaN or infinite.
        let scale = (I::fold(most, f32::max) + I::sum(bad)) / 127.0;
        let inverse = I::splat(if scale > 0.0 { 1.0 / scale } else { 0.0 });
        let mut sum = I::splat(0.0);
        for block in 0..blocks {
            let mut q = |j: usize| {
                let v = I::load(padded.as_ptr().add((block * per_word + j) * I::LANES));
                let shifted = I::add(I::mul(v, inverse), I::splat(ROUND));
                sum = I::add(sum, I::sub(shifted, I::splat(ROUND)));
                I::bits(shifted)
            };
            let words = signed_words::<I>(&mut q);
            let mut line = [0u32; 16];
            I::store_i(line.as_mut_ptr(), words);
            for i in 0..I::LANES {
                *target.add((block * I::LANES + i) * width) = line[i];
            }
        }
        (scale, I::sum(sum))
    }
}

/// Columns of values in i8 as a panel `[steps of tokens][width]`, a scale a column.
#[inline(always)]
unsafe fn pack_values<'a, I: Isa, const C: usize>(
    value: impl Fn(usize) -> &'a [f32],
    tokens: usize,
    target: *mut u32,
    scales: &mut [f32],
) {
    let per_word = if I::BYTES { 4 } else { 2 };
    let width = C * I::LANES;
    let mut line = [0f32; 64];
    unsafe {
        let mut load = |token: usize| -> [I::F; C] {
            let value = value(token);
            if value.len() == width {
                return array!(c < C, I::splat(0.0), I::load(value.as_ptr().add(c * I::LANES)));
            }
            line[..width].fill(0.0);
            line[..value.len()].copy_from_slice(value);
            array!(c < C, I::splat(0.0), I::load(line.as_ptr().add(c * I::LANES)))
        };
        let (mut most, mut bad) = ([I::splat(0.0); C], [I::splat(0.0); C]);
        for token in 0..tokens {
            let v = load(token);
            unroll!(c < C, {
                most[c] = I::max(I::max(v[c], I::sub(I::splat(0.0), v[c])), most[c]);
                bad[c] = I::add(bad[c], I::mul(v[c], I::splat(0.0)));
            });
        }
        let mut inverses = [I::splat(0.0); C];
        unroll!(c < C, {
            let scale = I::mul(I::add(most[c], bad[c]), I::splat(1.0 / 127.0));
            I::store(scales.as_mut_ptr().add(c * I::LANES), scale);
            // A column of zeros has no inverse; any number does.
            inverses[c] = I::div(I::splat(1.0), I::max(scale, I::splat(f32::MIN_POSITIVE)));
        });
        for block in 0..tokens.div_ceil(per_word * I::LANES) {
            for i in 0..I::LANES {
                let mut vectors = [[I::splat(0.0); C]; 4];
                unroll!(j < 4, {
                    if j < per_word {
                        vectors[j] = load((block * per_word + j) * I::LANES + i);
                    }
                });
                unroll!(c < C, {
                    let mut q = |j: usize| I::bits(I::add(I::mul(vectors[j][c], inverses[c]), I::splat(ROUND)));
                    let words = signed_words::<I>(&mut q);
                    I::store_i(target.add((block * I::LANES + i) * width + c * I::LANES), words);
                });
            }
        }
    }
}

/// Vectors of small signed numbers, of whose bits only the lowest count, as one of words.
#[inline(always)]
unsafe fn signed_words<I: Isa>(q: &mut impl FnMut(usize) -> I::I) -> I::I {
    unsafe {
        if I::BYTES {
            let bytes = [q(0), q(1), q(2), q(3)].map(|q| I::and_i(q, I::splat_i(0xff)));
            join::<I>(bytes)
        } else {
            let low = I::and_i(q(0), I::splat_i(0xffff));
            I::add_i(low, I::shift_left::<16>(q(1)))
        }
    }
}

/// Scores to words of `round(127 e^(score - largest))`; returns the sum of these over the first `tokens`.
#[inline(always)]
unsafe fn softmax<I: Isa>(scores: &mut [f32], tokens: usize, target: *mut u32, steps: usize) -> f32 {
    /// Adding it to a number from 0 to 2^22 rounds that to a whole number.
    const ROUND: f32 = 8_388_608.0;
    scores[tokens..].fill(f32::NEG_INFINITY);
    unsafe {
        let (mut largest, mut bad) = (I::splat(f32::NEG_INFINITY), I::splat(0.0));
        let whole = tokens - tokens % I::LANES;
        for i in (0..whole).step_by(I::LANES) {
            let v = I::load(scores.as_ptr().add(i));
            largest = I::max(v, largest);
            bad = I::add(bad, I::mul(v, I::splat(0.0)));
        }
        let mut spoiled = I::sum(bad);
        let mut most = I::fold(largest, f32::max);
        for &v in &scores[whole..tokens] {
            most = if v > most { v } else { most };
            spoiled += v * 0.0;
        }
        let largest = I::splat(most);
        let mut sum = I::splat(0.0);
        let mut weight = |i: usize| {
            let e = exp_below_zero::<I>(I::sub(I::load(scores.as_ptr().add(i)), largest));
            let shifted = I::add(I::mul(e, I::splat(127.0)), I::splat(ROUND));
            sum = I::add(sum, I::sub(shifted, I::splat(ROUND)));
            I::and_i(I::bits(shifted), I::splat_i(127))
        };
        for step in (0..steps).step_by(I::LANES) {
            let words = if I::BYTES {
                let from = 4 * step;
                let q =
                    [weight(from), weight(from + I::LANES), weight(from + 2 * I::LANES), weight(from + 3 * I::LANES)];
                join::<I>(q)
            } else {
                let low = weight(2 * step);
                I::add_i(low, I::shift_left::<16>(weight(2 * step + I::LANES)))
            };
            let mut line = [0u32; 16];
            I::store_i(line.as_mut_ptr(), words);
            for i in 0..I::LANES {
                *target.add((step + i) * INT_ROWS) = line[i];
            }
        }
        I::sum(sum) + spoiled
    }
}
