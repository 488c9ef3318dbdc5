//! `softmax(q k^T / sqrt(head_dim)) v` per head, six queries at a time: their scores against all keys are one strip
//! `[6, tokens]` that stays in the first cache, so that the `[tokens, tokens]` matrix never exists.
//!
//! Keys and values of a head are packed into panels once, and both products are the f32 tiles of `matmul.rs`.

use super::functions::exp;
use super::isa::{Isa, Level, ROWS, array, kernels, unroll};
use super::matmul::f32_tile;
use super::threads::{Shared, Threads};
use crate::AttentionShape;
use std::cell::RefCell;

/// qkv `[batch, tokens, 3, heads, head_dim]`, out `[batch, tokens, heads, head_dim]`.
pub fn attention(level: Level, threads: &Threads, qkv: &[f32], out: &mut [f32], shape: &AttentionShape) {
    let dim = shape.heads * shape.head_dim;
    let elements = shape.batch * shape.tokens * dim;
    assert!(qkv.len() >= 3 * elements && out.len() >= elements);
    let out = Shared::of(out);
    threads.each(shape.batch * shape.heads, |i| {
        SCRATCH.with_borrow_mut(|scratch| {
            head(level, qkv, out, shape, i / shape.heads, i % shape.heads, scratch);
        });
    });
}

thread_local! {
    /// Keys, values and scores of a head; grows at the first run and stays.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

kernels! {
    fn head(
        qkv: &[f32], out: Shared<f32>, shape: &AttentionShape, item: usize, index: usize, scratch: &mut Vec<f32>,
    ) = head_with;
}

#[inline(always)]
unsafe fn head_with<I: Isa>(
    qkv: &[f32],
    out: Shared<f32>,
    shape: &AttentionShape,
    item: usize,
    index: usize,
    scratch: &mut Vec<f32>,
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
    scratch: &mut Vec<f32>,
) {
    let width = C * I::LANES;
    let (tokens, head_dim) = (shape.tokens, shape.head_dim);
    let dim = shape.heads * head_dim;
    let columns = tokens.next_multiple_of(width);
    let value_columns = head_dim.next_multiple_of(width);
    scratch.resize(columns * head_dim + value_columns * tokens + ROWS * columns, 0.0);
    let (keys, rest) = scratch.split_at_mut(columns * head_dim);
    let (values, scores) = rest.split_at_mut(value_columns * tokens);

    let at =
        |token: usize, part: usize| &qkv[((item * tokens + token) * 3 + part) * dim + index * head_dim..][..head_dim];
    for token in 0..columns {
        let base = token / width * head_dim * width + token % width;
        for d in 0..head_dim {
            keys[base + d * width] = if token < tokens { at(token, 1)[d] } else { 0.0 };
        }
    }
    for token in 0..tokens {
        let value = at(token, 2);
        for panel in 0..value_columns / width {
            let line = &mut values[(panel * tokens + token) * width..][..width];
            let from = panel * width;
            let valid = width.min(head_dim - from);
            line[..valid].copy_from_slice(&value[from..from + valid]);
            line[valid..].fill(0.0);
        }
    }

    let scale = 1.0 / (head_dim as f32).sqrt();
    for first in (0..tokens).step_by(ROWS) {
        // SAFETY: panels have `head_dim` (keys) and `tokens` (values) rows of `width`, a strip ROWS rows of `columns`;
        // a head's columns of `out` belong to one thread.
        unsafe {
            let queries = array!(r < ROWS, qkv.as_ptr(), at((first + r).min(tokens - 1), 0).as_ptr());
            for panel in 0..columns / width {
                let mut sums = [[I::splat(0.0); C]; ROWS];
                f32_tile::<I, C>(queries, keys.as_ptr().add(panel * head_dim * width), head_dim, &mut sums);
                unroll!(r < ROWS, {
                    unroll!(c < C, {
                        let score = I::mul(sums[r][c], I::splat(scale));
                        I::store(scores.as_mut_ptr().add(r * columns + panel * width + c * I::LANES), score);
                    });
                });
            }
            let mut sums = [0.0; ROWS];
            for r in 0..ROWS {
                sums[r] = softmax::<I>(&mut scores[r * columns..][..columns], tokens);
            }
            let strips = array!(r < ROWS, scores.as_ptr(), scores.as_ptr().add(r * columns));
            for panel in 0..value_columns / width {
                let mut outs = [[I::splat(0.0); C]; ROWS];
                f32_tile::<I, C>(strips, values.as_ptr().add(panel * tokens * width), tokens, &mut outs);
                let mut lines = [[0f32; 64]; ROWS];
                unroll!(r < ROWS, {
                    let inverse = I::splat(1.0 / sums[r]);
                    unroll!(c < C, { I::store(lines[r].as_mut_ptr().add(c * I::LANES), I::mul(outs[r][c], inverse)) });
                });
                for (r, line) in lines.iter().enumerate().take(tokens - first) {
                    let from = panel * width;
                    let target = out.at((item * tokens + first + r) * dim + index * head_dim + from);
                    let valid = width.min(head_dim - from);
                    std::ptr::copy_nonoverlapping(line.as_ptr(), target, valid);
                }
            }
        }
    }
}

/// Scores to `e^(score - largest)`; returns their sum over the first `tokens`.
#[inline(always)]
unsafe fn softmax<I: Isa>(scores: &mut [f32], tokens: usize) -> f32 {
    scores[tokens..].fill(f32::NEG_INFINITY);
    // SAFETY: a strip is whole vectors long.
    unsafe {
        let mut largest = I::splat(f32::NEG_INFINITY);
        for i in (0..scores.len()).step_by(I::LANES) {
            largest = I::max(I::load(scores.as_ptr().add(i)), largest);
        }
        let largest = I::splat(I::fold(largest, f32::max));
        let mut sum = I::splat(0.0);
        for i in (0..scores.len()).step_by(I::LANES) {
            let e = exp::<I>(I::sub(I::load(scores.as_ptr().add(i)), largest));
            I::store(scores.as_mut_ptr().add(i), e);
            sum = I::add(sum, e);
        }
        // What the padding adds is e^-87 each.
        I::sum(sum)
    }
}
