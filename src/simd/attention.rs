//! `softmax(q k^T / sqrt(head_dim)) v` per head, six queries at a time: their scores against all keys are one strip
//! `[6, tokens]` that stays in the first cache, so that the `[tokens, tokens]` matrix never exists.
//!
//! Keys and values of a head are packed into panels once, and both products are the f32 tiles of `matmul.rs`.

use super::functions::exp;
use super::isa::{Isa, Level, ROWS, kernels, unroll};
use super::lines::Lines;
use super::threads::{Shared, Threads};
use super::tile::{Edge, Place, Rows, Target, f32_tiles, strips};
use crate::AttentionShape;
use std::cell::RefCell;

/// qkv `[batch, groups x tokens, 3, heads, head_dim]`, out `[batch, groups x tokens, heads, head_dim]`.
pub fn attention(level: Level, threads: &Threads, qkv: &[f32], out: &mut [f32], shape: &AttentionShape) {
    let elements = shape.elements();
    assert!(qkv.len() >= 3 * elements && out.len() >= elements && shape.first + shape.queries <= shape.tokens);
    let (out, heads) = (Shared::of(out), shape.batch * shape.groups * shape.heads);
    // Few heads are shared, although each thread packs keys and values for itself.
    let parts = if heads < threads.count() { threads.count() } else { 1 };
    threads.each(heads * parts, |i| {
        let (head_index, part) = (i / parts, i % parts);
        let of_part = shape.queries.div_ceil(parts).next_multiple_of(ROWS);
        let from = (part * of_part).min(shape.queries);
        let queries = (of_part).min(shape.queries - from);
        if queries == 0 {
            return;
        }
        let shape = AttentionShape { first: shape.first + from, queries, ..*shape };
        SCRATCH.with_borrow_mut(|scratch| {
            head(level, qkv, out, &shape, head_index / shape.heads, head_index % shape.heads, scratch);
        });
    });
}

thread_local! {
    /// Keys, values and scores of a head; grows at the first run and stays.
    static SCRATCH: RefCell<Lines<f32>> = RefCell::default();
}

kernels! {
    fn head(
        qkv: &[f32], out: Shared<f32>, shape: &AttentionShape, group: usize, index: usize, scratch: &mut Lines<f32>,
    ) = head_with;
}

#[inline(always)]
unsafe fn head_with<I: Isa>(
    qkv: &[f32],
    out: Shared<f32>,
    shape: &AttentionShape,
    group: usize,
    index: usize,
    scratch: &mut Lines<f32>,
) {
    unsafe {
        match I::COLUMNS {
            1 => head_of::<I, 1>(qkv, out, shape, group, index, scratch),
            _ => head_of::<I, 2>(qkv, out, shape, group, index, scratch),
        }
    }
}

#[inline(always)]
unsafe fn head_of<I: Isa, const C: usize>(
    qkv: &[f32],
    out: Shared<f32>,
    shape: &AttentionShape,
    group: usize,
    index: usize,
    scratch: &mut Lines<f32>,
) {
    let width = C * I::LANES;
    let (tokens, head_dim) = (shape.tokens, shape.head_dim);
    let dim = shape.heads * head_dim;
    let columns = tokens.next_multiple_of(width);
    let value_columns = head_dim.next_multiple_of(width);
    scratch.resize(columns * head_dim + value_columns * tokens + ROWS * columns);
    let (keys, rest) = scratch.split_at_mut(columns * head_dim);
    let (values, scores) = rest.split_at_mut(value_columns * tokens);

    let (row, step) = (shape.row(group), shape.step());
    let at = |token: usize, part: usize| &qkv[((row + token * step) * 3 + part) * dim + index * head_dim..][..head_dim];
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
            let value = &value[panel * width..];
            if value.len() >= width {
                // SAFETY: both have a panel's width.
                unsafe { copy_vectors::<I, C>(value.as_ptr(), line.as_mut_ptr()) };
            } else {
                line[..value.len()].copy_from_slice(value);
                line[value.len()..].fill(0.0);
            }
        }
    }

    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut edge = Edge::new();
    let end = shape.first + shape.queries;
    for first in (shape.first..end).step_by(ROWS) {
        let count = ROWS.min(end - first);
        // SAFETY: panels have `head_dim` (keys) and `tokens` (values) rows of `width`, a strip ROWS rows of `columns`;
        // a head's columns of `out` belong to one thread.
        unsafe {
            let queries = [Rows::strided(at(first, 0).as_ptr(), 3 * dim * step, count, head_dim)];
            let target = Target::plain(scores.as_mut_ptr(), columns);
            f32_tiles::<I, C>(&queries, keys.as_ptr(), columns / width, target);
            let mut inverses = [0.0; ROWS];
            for r in 0..count {
                let seen = if shape.causal { first + r + 1 } else { tokens };
                inverses[r] = 1.0 / softmax::<I>(&mut scores[r * columns..][..columns], seen, scale);
            }
            let strip = [Rows::strided(scores.as_ptr(), columns, count, tokens)];
            let target = out.at((row + first * step) * dim + index * head_dim);
            for (panel, together) in strips(0..value_columns / width, width, head_dim, count == ROWS) {
                let from = panel * width;
                let place = Place { out: target.add(from), stride: dim * step, rows: count, columns: head_dim - from };
                let target = edge.target(place, ROWS, width, std::ptr::null(), std::ptr::null());
                f32_tiles::<I, C>(&strip, values.as_ptr().add(panel * tokens * width), together, target);
                edge.deliver(place, ROWS, width);
            }
            for r in 0..count {
                let row = std::slice::from_raw_parts_mut(target.add(r * dim * step), head_dim);
                scale_row::<I>(row, inverses[r]);
            }
        }
    }
}

/// `row *= by`.
#[inline(always)]
unsafe fn scale_row<I: Isa>(row: &mut [f32], by: f32) {
    let whole = row.len() - row.len() % I::LANES;
    for i in (0..whole).step_by(I::LANES) {
        // SAFETY: vectors lie below `whole`.
        unsafe { I::store(row.as_mut_ptr().add(i), I::mul(I::load(row.as_ptr().add(i)), I::splat(by))) };
    }
    for v in &mut row[whole..] {
        *v *= by;
    }
}

/// `C` vectors from place to place.
#[inline(always)]
unsafe fn copy_vectors<I: Isa, const C: usize>(from: *const f32, to: *mut f32) {
    unsafe { unroll!(c < C, { I::store(to.add(c * I::LANES), I::load(from.add(c * I::LANES))) }) };
}

/// Scores to `e^(scale (score - largest))`; returns their sum over the first `tokens`.
#[inline(always)]
pub(super) unsafe fn softmax<I: Isa>(scores: &mut [f32], tokens: usize, scale: f32) -> f32 {
    scores[tokens..].fill(f32::NEG_INFINITY);
    // SAFETY: a strip is whole vectors long.
    unsafe {
        let mut largest = I::splat(f32::NEG_INFINITY);
        for i in (0..scores.len()).step_by(I::LANES) {
            largest = I::max(I::load(scores.as_ptr().add(i)), largest);
        }
        let largest = I::splat(I::largest(largest));
        let mut sum = I::splat(0.0);
        for i in (0..scores.len()).step_by(I::LANES) {
            let e = exp::<I>(I::mul(I::sub(I::load(scores.as_ptr().add(i)), largest), I::splat(scale)));
            I::store(scores.as_mut_ptr().add(i), e);
            sum = I::add(sum, e);
        }
        // What the padding adds is e^-87 each.
        I::sum(sum)
    }
}
