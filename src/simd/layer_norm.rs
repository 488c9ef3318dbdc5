//! `(x - mean) / sqrt(var + eps) weight + bias` over rows, biased variance. Plain additions and multiplications, so that
//! every instruction set of one width gives the same bits.

use super::isa::{Isa, Level, kernels};
use super::pack::Floats;
use super::threads::{Shared, Threads};

/// x and out `[rows, dim]`, weight and bias `[dim]`.
pub fn layer_norm(
    level: Level,
    threads: &Threads,
    x: &[f32],
    weight: &Floats,
    bias: &Floats,
    eps: f32,
    out: &mut [f32],
    dim: usize,
) {
    let rows = out.len() / dim;
    assert!(x.len() >= rows * dim && weight.values().len() == dim && bias.values().len() == dim);
    let out = Shared::of(out);
    threads.parts(rows, |from, to| {
        // SAFETY: rows belong to one thread each.
        let out = unsafe { std::slice::from_raw_parts_mut(out.at(from * dim), (to - from) * dim) };
        rows_of(level, &x[from * dim..to * dim], weight.values(), bias.values(), eps, out, dim);
    });
}

kernels! {
    fn rows_of(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32], dim: usize) = rows_with;
}

#[inline(always)]
unsafe fn rows_with<I: Isa>(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32], dim: usize) {
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
            let scales = I::splat(scale);
            for i in (0..whole).step_by(I::LANES) {
                let normed = I::mul(I::mul(I::sub(at(i), means), scales), I::load(weight.as_ptr().add(i)));
                I::store(out.as_mut_ptr().add(i), I::add(normed, I::load(bias.as_ptr().add(i))));
            }
            for i in whole..dim {
                out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
            }
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
