//! `softmax(q k^T / sqrt(head_dim)) v` per head, of keys and values in the rows of a cache. A row is read once and in order, whatever the
//! heads: a head's part of every row, one head after the other, would be a miss each.

use super::attention::softmax;
use super::isa::{Isa, Level, kernels};
use super::lines::Lines;
use super::threads::{Shared, Threads};
use crate::CachedShape;
use std::cell::RefCell;
use std::ops::Range;

/// qkv `[rows, 3, heads, head_dim]`, cache `[.., 2, heads, head_dim]`, places `[items, most]` and positions `[rows]` (u32 bits), out
/// `[rows, heads, head_dim]`.
pub fn cached_attention(
    level: Level,
    threads: &Threads,
    qkv: &[f32],
    cache: &[f32],
    places: &[f32],
    positions: &[f32],
    out: &mut [f32],
    shape: &CachedShape,
) {
    let dim = shape.heads * shape.head_dim;
    assert!(qkv.len() >= 3 * shape.rows * dim && out.len() >= shape.rows * dim);
    let out = Shared::of(out);
    // Heads of few rows are shared out.
    let parts = if shape.rows < threads.count() { threads.count().min(shape.heads) } else { 1 };
    threads.each(shape.rows * parts, |i| {
        let (row, part) = (i / parts, i % parts);
        let heads = part * shape.heads / parts..(part + 1) * shape.heads / parts;
        let seen = positions[row].to_bits() as usize + 1;
        let places = &places[row / shape.tokens * shape.most..][..seen];
        let inside = places.iter().all(|place| (place.to_bits() as usize + 1) * 2 * dim <= cache.len());
        assert!(inside, "a place in the cache");
        let q = &qkv[row * 3 * dim..][..dim];
        SCRATCH.with_borrow_mut(|scratch| {
            token(level, q, cache, shape.head_dim, heads, places, out.at(row * dim), scratch)
        });
    });
}

thread_local! {
    /// Scores of all heads; grows at the first run and stays.
    static SCRATCH: RefCell<Lines<f32>> = RefCell::default();
}

/// Floats of a line of the caches.
const LINE: usize = 16;

kernels! {
    fn token(
        q: &[f32], cache: &[f32], head_dim: usize, heads: Range<usize>, places: &[f32], out: *mut f32,
        scratch: &mut Lines<f32>,
    ) = token_with;
}

#[inline(always)]
unsafe fn token_with<I: Isa>(
    q: &[f32],
    cache: &[f32],
    head_dim: usize,
    heads: Range<usize>,
    places: &[f32],
    out: *mut f32,
    scratch: &mut Lines<f32>,
) {
    let (dim, whole) = (q.len(), head_dim - head_dim % I::LANES);
    let strip = places.len().next_multiple_of(I::LANES);
    scratch.resize(heads.len() * strip);
    let row = |place: &f32, part: usize| (place.to_bits() as usize * 2 + part) * dim;
    // SAFETY: the caller has seen that all places lie in the cache, and `out` has these heads; vectors lie below `whole`.
    unsafe {
        for (j, place) in places.iter().enumerate() {
            // Rows lie anyhow, and come from memory: the next one's keys and values are on their way while this one's keys are read.
            let next = cache.as_ptr().add(row(&places[(j + 1).min(places.len() - 1)], 0) + heads.start * head_dim);
            for i in (0..heads.len() * head_dim).step_by(LINE) {
                I::prefetch(next.add(i).cast());
                I::prefetch(next.add(i + dim).cast());
            }
            for (i, head) in heads.clone().enumerate() {
                let at = head * head_dim;
                let (q, key) = (q.as_ptr().add(at), cache.as_ptr().add(row(place, 0) + at));
                let mut sums = [I::splat(0.0); 2];
                let mut d = 0;
                while d + 2 * I::LANES <= whole {
                    let product = |i: usize, sum| I::madd(I::load(q.add(i)), I::load(key.add(i)), sum);
                    sums = [product(d, sums[0]), product(d + I::LANES, sums[1])];
                    d += 2 * I::LANES;
                }
                if d < whole {
                    sums[0] = I::madd(I::load(q.add(d)), I::load(key.add(d)), sums[0]);
                }
                let rest = (whole..head_dim).map(|d| *q.add(d) * *key.add(d)).sum::<f32>();
                scratch[i * strip + j] = I::sum(I::add(sums[0], sums[1])) + rest;
            }
        }
        for (scores, head) in scratch.chunks_exact_mut(strip).zip(heads.clone()) {
            let inverse = 1.0 / softmax::<I>(scores, places.len(), 1.0 / (head_dim as f32).sqrt());
            scores.iter_mut().for_each(|score| *score *= inverse);
            std::slice::from_raw_parts_mut(out.add(head * head_dim), head_dim).fill(0.0);
        }
        for (j, place) in places.iter().enumerate() {
            for (i, head) in heads.clone().enumerate() {
                let at = head * head_dim;
                let (value, out, weight) =
                    (cache.as_ptr().add(row(place, 1) + at), out.add(at), scratch[i * strip + j]);
                for d in (0..whole).step_by(I::LANES) {
                    let sum = I::madd(I::splat(weight), I::load(value.add(d)), I::load(out.add(d)));
                    I::store(out.add(d), sum);
                }
                for d in whole..head_dim {
                    *out.add(d) += weight * *value.add(d);
                }
            }
        }
    }
}
