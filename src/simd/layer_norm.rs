//! `(x - mean) / sqrt(var + eps)` over rows, biased variance, then weights and a modulation. Plain additions and multiplications, so that
//! every instruction set of one width gives the same bits.

use super::isa::{Isa, Level, kernels};
use super::threads::{Shared, Threads};

/// x and out `[items, tokens, dim]`; with affine weights and biases `[dim]` then `.. weight + bias`; with a modulation (vectors
/// `[items, n]`, and where a shift and a scale begin) then `.. (1 + scale) + shift`, the item's. One of them there is.
pub fn layer_norm(
    level: Level,
    threads: &Threads,
    x: &[f32],
    affine: Option<(&[f32], &[f32])>,
    modulation: Option<(&[f32], usize, usize)>,
    eps: f32,
    out: &mut [f32],
    tokens: usize,
    dim: usize,
) {
    let rows = out.len() / dim;
    assert!(x.len() >= rows * dim && rows.is_multiple_of(tokens));
    assert!(affine.is_none_or(|(weight, bias)| weight.len() == dim && bias.len() == dim));
    let affine = affine.map(|(by, plus)| Line { by, one: 0.0, plus });
    let out = Shared::of(out);
    threads.parts(rows, |from, to| {
        // Rows of one item are as long a part as there is one vector for.
        let mut row = from;
        while row < to {
            let (item, end) =
                (row / tokens, if modulation.is_some() { to.min(row - row % tokens + tokens) } else { to });
            let modulation = modulation.map(|(vectors, shift, scale)| {
                let vector = &vectors[item * (vectors.len() / (rows / tokens))..];
                Line { by: &vector[scale..][..dim], one: 1.0, plus: &vector[shift..][..dim] }
            });
            let (first, second) = match (affine, modulation) {
                (Some(affine), modulation) => (affine, modulation),
                (None, Some(modulation)) => (modulation, None),
                (None, None) => unreachable!("a Plan's norms have either"),
            };
            // SAFETY: rows belong to one thread each.
            let out = unsafe { std::slice::from_raw_parts_mut(out.at(row * dim), (end - row) * dim) };
            rows_of(level, &x[row * dim..end * dim], first, second, eps, out);
            row = end;
        }
    });
}

/// `v (by + one) + plus` of every value of a row.
#[derive(Clone, Copy)]
struct Line<'a> {
    by: &'a [f32],
    one: f32,
    plus: &'a [f32],
}

kernels! {
    fn rows_of(x: &[f32], first: Line<'_>, second: Option<Line<'_>>, eps: f32, out: &mut [f32]) = rows_with;
}

#[inline(always)]
unsafe fn rows_with<I: Isa>(x: &[f32], first: Line<'_>, second: Option<Line<'_>>, eps: f32, out: &mut [f32]) {
    let dim = first.by.len();
    let whole = dim - dim % I::LANES;
    for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        // SAFETY: vectors lie below `whole`; the caller's target features are those of I.
        unsafe {
            let at = |i: usize| I::load(x.as_ptr().add(i));
            let mean = sum::<I>(whole, at, x[whole..].iter().sum()) / dim as f32;
            let means = I::splat(mean);
            let square = |i: usize| {
                let d = I::sub(at(i), means);
                I::mul(d, d)
            };
            let tail = x[whole..].iter().map(|v| (v - mean) * (v - mean)).sum::<f32>();
            let variance = sum::<I>(whole, square, tail) / dim as f32;
            let scale = 1.0 / (variance + eps).sqrt();
            let to = out.as_mut_ptr();
            apply::<I>(x.as_ptr(), mean, scale, first, to);
            if let Some(second) = second {
                apply::<I>(to, 0.0, 1.0, second, to);
            }
        }
    }
}

/// `out = (x - mean) scale (by + one) + plus` of a row, which `out` itself may be.
#[inline(always)]
unsafe fn apply<I: Isa>(x: *const f32, mean: f32, scale: f32, line: Line<'_>, out: *mut f32) {
    let Line { by, one, plus } = line;
    let whole = by.len() - by.len() % I::LANES;
    // SAFETY: as the caller's; all rows have one length.
    unsafe {
        let (means, scales, ones) = (I::splat(mean), I::splat(scale), I::splat(one));
        for i in (0..whole).step_by(I::LANES) {
            let normed = I::mul(I::sub(I::load(x.add(i)), means), scales);
            let by = I::add(I::load(by.as_ptr().add(i)), ones);
            I::store(out.add(i), I::add(I::mul(normed, by), I::load(plus.as_ptr().add(i))));
        }
        for i in whole..by.len() {
            *out.add(i) = (*x.add(i) - mean) * scale * (by[i] + one) + plus[i];
        }
    }
}

/// The sum of the vectors that `value` gives below `whole`, plus `tail`; two sums, so that one addition need not wait for
/// the other.
#[inline(always)]
unsafe fn sum<I: Isa>(whole: usize, value: impl Fn(usize) -> I::F, tail: f32) -> f32 {
    unsafe {
        let mut sums = [I::splat(0.0); 2];
        let pairs = whole - whole % (2 * I::LANES);
        for i in (0..pairs).step_by(2 * I::LANES) {
            sums[0] = I::add(sums[0], value(i));
            sums[1] = I::add(sums[1], value(i + I::LANES));
        }
        if pairs < whole {
            sums[0] = I::add(sums[0], value(pairs));
        }
        I::sum(I::add(sums[0], sums[1])) + tail
    }
}
