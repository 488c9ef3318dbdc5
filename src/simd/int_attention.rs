//! Attention with both products in integers: queries and softmax weights in 7 bits, keys and values in i8.
//!
//! Keys have one scale a token, values one a column of a head; a query is quantised like a token of a matmul
//! (`quantize.rs`), a softmax weight `e^(score - largest)` in (0, 1] as `round(127 e)`, and the sum that it is divided by is
//! that of the rounded weights. The twin is `src/cpu/int_attention.rs`.

use super::functions::exp2;
use super::isa::{INT_ROWS, Isa, Level, array, kernels, unroll};
use super::lines::Lines;
use super::quantize::{join, quantize_row};
use super::threads::{Shared, Threads};
use super::tile::{Edge, IntRows, Place, Scaling, Target, int_tiles, strips};
use crate::AttentionShape;
use std::cell::RefCell;

/// As [`super::attention::attention`].
pub fn int_attention(level: Level, threads: &Threads, qkv: &[f32], out: &mut [f32], shape: &AttentionShape, bits: u32) {
    let elements = shape.elements();
    assert!(qkv.len() >= 3 * elements && out.len() >= elements && shape.head_dim <= MOST_HEAD_DIM);
    let out = Shared::of(out);
    threads.each(shape.batch * shape.groups * shape.heads, |i| {
        SCRATCH.with_borrow_mut(|scratch| {
            head(level, qkv, out, shape, bits, i / shape.heads, i % shape.heads, scratch);
        });
    });
}

/// What a Plan allows.
const MOST_HEAD_DIM: usize = 128;

/// Adding it rounds a number of either sign below 2^22 to a whole one, in two's complement in the lowest bits.
const ROUND: f32 = 12_582_912.0;

/// The largest magnitude of a key or value, 8 bits beside queries and softmax weights of 7, else 12.
const fn most_signed(bits: u32) -> f32 {
    if bits == 7 { 127.0 } else { 2047.0 }
}

/// The softmax weight 1, and its logarithm to base 2.
const fn most_weight(bits: u32) -> (f32, f32) {
    if bits == 7 { (127.0, 6.988_685) } else { (2047.0, 10.999_295) }
}

/// Tokens whose products one i32 adds up: `tokens most_weight most_signed` stays below 2^31.
const fn most_tokens(bits: u32) -> usize {
    if bits == 7 { 1 << 17 } else { 512 }
}

#[derive(Default)]
struct Scratch {
    /// `[tokens / panel][steps of head_dim][panel]`.
    keys: Lines<u32>,
    key_scales: Lines<f32>,
    key_sums: Lines<f32>,
    /// `[head_dim / panel][steps of tokens][panel]`.
    values: Lines<u32>,
    value_scales: Lines<f32>,
    /// Four queries, `[INT_ROWS][steps of head_dim]`.
    queries: Lines<u32>,
    /// `[INT_ROWS][columns]`.
    scores: Lines<f32>,
    /// Four rows of softmax weights, `[INT_ROWS][steps of tokens]`.
    weights: Lines<u32>,
}

thread_local! {
    /// Of one head; grows in the first run and stays.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

kernels! {
    fn head(
        qkv: &[f32], out: Shared<f32>, shape: &AttentionShape, bits: u32, group: usize, index: usize,
        scratch: &mut Scratch,
    ) = head_with;
}

#[inline(always)]
unsafe fn head_with<I: Isa>(
    qkv: &[f32],
    out: Shared<f32>,
    shape: &AttentionShape,
    bits: u32,
    group: usize,
    index: usize,
    scratch: &mut Scratch,
) {
    unsafe {
        match (I::COLUMNS, bits) {
            (1, 7) => head_of::<I, 1, 7>(qkv, out, shape, group, index, scratch),
            (1, _) => head_of::<I::Pairs, 1, 12>(qkv, out, shape, group, index, scratch),
            (_, 7) => head_of::<I, 2, 7>(qkv, out, shape, group, index, scratch),
            (_, _) => head_of::<I::Pairs, 2, 12>(qkv, out, shape, group, index, scratch),
        }
    }
}

#[inline(always)]
unsafe fn head_of<I: Isa, const C: usize, const BITS: u32>(
    qkv: &[f32],
    out: Shared<f32>,
    shape: &AttentionShape,
    group: usize,
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
    scratch.keys.resize(panels * head_steps * width);
    scratch.key_scales.resize(panels * width);
    scratch.key_sums.resize(panels * width);
    scratch.values.resize(value_panels * token_steps * width);
    scratch.value_scales.resize(value_panels * width);
    scratch.queries.resize(head_steps * INT_ROWS);
    scratch.scores.resize(INT_ROWS * columns);
    scratch.weights.resize(token_steps * INT_ROWS);
    let (row, step) = (shape.row(group), shape.step());
    let at = |token: usize, part: usize| &qkv[((row + token * step) * 3 + part) * dim + index * head_dim..][..head_dim];
    // The softmax counts in powers of two.
    let root = std::f32::consts::LOG2_E / (head_dim as f32).sqrt();
    // What is not whole blocks is copied, zeros behind it.
    let whole = head_dim.is_multiple_of(block);
    let mut line = [0f32; MOST_HEAD_DIM + 64];

    // SAFETY: places are those of the sizes above; a head's columns of `out` belong to one thread; the caller's target
    // features are those of I.
    unsafe {
        for token in 0..panels * width {
            let target = scratch.keys.as_mut_ptr().add(token / width * head_steps * width + token % width);
            let (mut scale, mut sum) = (0.0, 0.0);
            if token < tokens {
                let mut key = at(token, 1).as_ptr();
                if !whole {
                    line[..head_dim].copy_from_slice(at(token, 1));
                    key = line.as_ptr();
                }
                (scale, sum) = pack_key::<I, BITS>(key, head_blocks, target, width);
            }
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
            pack_values::<I, C, BITS>(value, tokens, target, &mut scratch.value_scales[from..from + width]);
        }

        let chunk = most_tokens(BITS) / if I::BYTES { 4 } else { 2 };
        let mut edge = Edge::new();
        for first in (0..tokens).step_by(INT_ROWS) {
            let count = INT_ROWS.min(tokens - first);
            let (mut scales, mut mins) = ([0.0; INT_ROWS], [0.0; INT_ROWS]);
            for r in 0..INT_ROWS {
                let query = at((first + r).min(tokens - 1), 0);
                let mut padded = query.as_ptr();
                if !whole {
                    line[..head_dim].copy_from_slice(query);
                    padded = line.as_ptr();
                }
                let target = scratch.queries.as_mut_ptr().add(r * head_steps);
                (scales[r], mins[r]) = quantize_row::<I, 1>(query, padded, BITS, target, head_steps);
            }
            let scaling = Scaling {
                starts: std::ptr::null(),
                scales: scales.as_ptr(),
                mins: mins.as_ptr(),
                column_scales: scratch.key_scales.as_ptr(),
                column_sums: scratch.key_sums.as_ptr(),
            };
            let (queries, keys) = (scratch.queries.as_ptr(), scratch.keys.as_ptr());
            let target = Target::plain(scratch.scores.as_mut_ptr(), columns);
            int_tiles::<I, C, 1, false, INT_ROWS>(
                false,
                &[IntRows::strided(queries, head_steps)],
                keys,
                head_steps * width,
                head_steps,
                panels,
                scaling,
                target,
            );
            for r in 0..INT_ROWS {
                let target = scratch.weights.as_mut_ptr().add(r * token_steps);
                let seen = if shape.causal { tokens.min(first + r + 1) } else { tokens };
                let scores = &mut scratch.scores[r * columns..][..columns];
                scales[r] = 1.0 / softmax::<I, BITS>(scores, seen, target, token_steps);
            }
            let target = out.at((row + first * step) * dim + index * head_dim);
            for (panel, together) in strips(0..value_panels, width, head_dim, count == INT_ROWS) {
                let from = panel * width;
                let place = Place { out: target.add(from), stride: dim * step, rows: count, columns: head_dim - from };
                let scaling = Scaling {
                    starts: std::ptr::null(),
                    scales: scales.as_ptr(),
                    mins: std::ptr::null(),
                    column_scales: scratch.value_scales.as_ptr().add(from),
                    column_sums: std::ptr::null(),
                };
                for begin in (0..token_steps).step_by(chunk) {
                    // The sums of the chunks before are in place.
                    let before = if begin == 0 { std::ptr::null() } else { place.out.cast_const() };
                    let target = edge.target(place, INT_ROWS, width, std::ptr::null(), before);
                    let weights = scratch.weights.as_ptr().add(begin);
                    let (values, stride) = (scratch.values.as_ptr(), token_steps * width);
                    let values = values.add(panel * stride + begin * width);
                    let steps = chunk.min(token_steps - begin);
                    let weights = [IntRows::strided(weights, token_steps)];
                    int_tiles::<I, C, 1, false, INT_ROWS>(
                        false, &weights, values, stride, steps, together, scaling, target,
                    );
                    edge.deliver(place, INT_ROWS, width);
                }
            }
        }
    }
}

/// A key of whole blocks to its column of a panel `[steps][width]`; its scale, and the sum of its values.
#[cfg_attr(target_arch = "wasm32", inline(never))]
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
unsafe fn pack_key<I: Isa, const BITS: u32>(
    key: *const f32,
    blocks: usize,
    target: *mut u32,
    width: usize,
) -> (f32, f32) {
    let per_word = if I::BYTES { 4 } else { 2 };
    unsafe {
        let (mut most, mut bad) = (I::splat(0.0), I::splat(0.0));
        for i in (0..blocks * per_word * I::LANES).step_by(I::LANES) {
            let v = I::load(key.add(i));
            most = I::max(I::max(v, I::sub(I::splat(0.0), v)), most);
            bad = I::madd(v, I::splat(0.0), bad);
        }
        // NaN if a value is NaN or infinite.
        let scale = (I::largest(most) + I::sum(bad)) / most_signed(BITS);
        let inverse = I::splat(if scale > 0.0 { 1.0 / scale } else { 0.0 });
        let mut sum = I::splat(0.0);
        for block in 0..blocks {
            let mut q = |j: usize| {
                let v = I::load(key.add((block * per_word + j) * I::LANES));
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
#[cfg_attr(target_arch = "wasm32", inline(never))]
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
unsafe fn pack_values<'a, I: Isa, const C: usize, const BITS: u32>(
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
                bad[c] = I::madd(v[c], I::splat(0.0), bad[c]);
            });
        }
        let mut inverses = [I::splat(0.0); C];
        unroll!(c < C, {
            let scale = I::mul(I::add(most[c], bad[c]), I::splat(1.0 / most_signed(BITS)));
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

/// Scores, times the logarithm of 2, to words of whole numbers `round(most e^(score - largest))`; returns the sum of these over the
/// first `tokens`.
#[cfg_attr(target_arch = "wasm32", inline(never))]
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
unsafe fn softmax<I: Isa, const BITS: u32>(scores: &mut [f32], tokens: usize, target: *mut u32, steps: usize) -> f32 {
    /// Adding it to a number from 0 to 2^22 rounds that to a whole number.
    const ROUND: f32 = 8_388_608.0;
    scores[tokens..].fill(f32::NEG_INFINITY);
    unsafe {
        let (mut largest, mut bad) = (I::splat(f32::NEG_INFINITY), I::splat(0.0));
        let whole = tokens - tokens % I::LANES;
        for i in (0..whole).step_by(I::LANES) {
            let v = I::load(scores.as_ptr().add(i));
            largest = I::max(v, largest);
            bad = I::madd(v, I::splat(0.0), bad);
        }
        let mut spoiled = I::sum(bad);
        let mut largest = I::largest(largest);
        for &v in &scores[whole..tokens] {
            largest = if v > largest { v } else { largest };
            spoiled += v * 0.0;
        }
        let top = I::splat(largest - most_weight(BITS).1);
        let mut sum = I::zero_i();
        let mut weight = |i: usize| {
            // Below 2^-100 nothing is left of it.
            let score = I::max(I::splat(-100.0), I::sub(I::load(scores.as_ptr().add(i)), top));
            let shifted = I::add(exp2::<I>(score), I::splat(ROUND));
            let q = I::and_i(I::bits(shifted), I::splat_i(most_weight(BITS).0 as u32));
            sum = I::add_i(sum, q);
            q
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
            I::store_i(target.add(step), words);
        }
        I::sum(I::to_float(sum)) + spoiled
    }
}
