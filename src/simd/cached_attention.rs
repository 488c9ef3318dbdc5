//! `softmax(q k^T / sqrt(head_dim)) v` per head, of keys and values in the rows of a cache: one query at a time, so that nothing is
//! packed and every key and value is read once.

use super::attention::softmax;
use super::isa::{Isa, Level, array, kernels, unroll};
use super::lines::Lines;
use super::threads::{Shared, Threads};
use crate::CachedShape;
use std::cell::RefCell;

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
    threads.each(shape.rows * shape.heads, |i| {
        let (row, index) = (i / shape.heads, i % shape.heads);
        let seen = positions[row].to_bits() as usize + 1;
        let places = &places[row / shape.tokens * shape.most..][..seen];
        assert!(
            places.iter().all(|place| (place.to_bits() as usize + 1) * 2 * dim <= cache.len()),
            "a place in the cache"
        );
        let q = &qkv[row * 3 * dim + index * shape.head_dim..][..shape.head_dim];
        let (cache, at) = (&cache[index * shape.head_dim..], row * dim + index * shape.head_dim);
        SCRATCH.with_borrow_mut(|scores| head(level, q, cache, dim, places, out.at(at), scores));
    });
}

thread_local! {
    /// Scores of a head; grows at the first run and stays.
    static SCRATCH: RefCell<Lines<f32>> = RefCell::default();
}

kernels! {
    fn head(q: &[f32], cache: &[f32], dim: usize, places: &[f32], out: *mut f32, scores: &mut Lines<f32>) = head_with;
}

/// Values of a head that are summed up together, in vectors.
const TOGETHER: usize = 4;

#[inline(always)]
unsafe fn head_with<I: Isa>(
    q: &[f32],
    cache: &[f32],
    dim: usize,
    places: &[f32],
    out: *mut f32,
    scores: &mut Lines<f32>,
) {
    let (head_dim, seen) = (q.len(), places.len());
    let whole = head_dim - head_dim % I::LANES;
    let row = |j: usize, part: usize| (places[j].to_bits() as usize * 2 + part) * dim;
    scores.resize(seen.next_multiple_of(I::LANES));
    // SAFETY: the caller has seen that all places lie in the cache, and `out` is this head's; vectors lie below `whole`.
    unsafe {
        for j in 0..seen {
            let key = cache.as_ptr().add(row(j, 0));
            let mut sums = [I::splat(0.0); 2];
            let mut d = 0;
            while d + 2 * I::LANES <= whole {
                let product = |i: usize, sum| I::madd(I::load(q.as_ptr().add(i)), I::load(key.add(i)), sum);
                sums = [product(d, sums[0]), product(d + I::LANES, sums[1])];
                d += 2 * I::LANES;
            }
            if d < whole {
                sums[0] = I::madd(I::load(q.as_ptr().add(d)), I::load(key.add(d)), sums[0]);
            }
            let rest = (whole..head_dim).map(|d| q[d] * *key.add(d)).sum::<f32>();
            scores[j] = I::sum(I::add(sums[0], sums[1])) + rest;
        }
        let sum = softmax::<I>(scores, seen, 1.0 / (head_dim as f32).sqrt());
        let inverse = 1.0 / sum;
        let mut d = 0;
        while d + TOGETHER * I::LANES <= whole {
            let mut sums = [I::splat(0.0); TOGETHER];
            for j in 0..seen {
                let (value, weight) = (cache.as_ptr().add(row(j, 1) + d), I::splat(scores[j]));
                sums = array!(i < TOGETHER, I::splat(0.0), I::madd(weight, I::load(value.add(i * I::LANES)), sums[i]));
            }
            unroll!(i < TOGETHER, { I::store(out.add(d + i * I::LANES), I::mul(sums[i], I::splat(inverse))) });
            d += TOGETHER * I::LANES;
        }
        while d < whole {
            let mut sum = I::splat(0.0);
            for j in 0..seen {
                sum = I::madd(I::splat(scores[j]), I::load(cache.as_ptr().add(row(j, 1) + d)), sum);
            }
            I::store(out.add(d), I::mul(sum, I::splat(inverse)));
            d += I::LANES;
        }
        for d in whole..head_dim {
            *out.add(d) = (0..seen).map(|j| scores[j] * *cache.as_ptr().add(row(j, 1) + d)).sum::<f32>() * inverse;
        }
    }
}
