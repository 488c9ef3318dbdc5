//! GroupNorm over tokens, in three steps: moments of every channel over slices of the tokens, which the caller joins to a mean
//! and a scale a channel; then `activation((x - mean) scale + bias)`.

use super::functions::{activate, activate_called};
use super::isa::{Isa, Level, kernels};
use super::threads::{Shared, Threads};
use crate::Activation;

/// x `[batch, tokens, dim]`; of out `[batch, slices, 2, dim]` row 0 of a slice of `slice` tokens holds every channel's mean, row
/// 1 the sum of squared differences from it. Slices go to those from `first` on.
pub fn group_moments(
    level: Level,
    threads: &Threads,
    x: &[f32],
    out: &mut [f32],
    batch: usize,
    tokens: usize,
    dim: usize,
    slice: usize,
    first: usize,
    slices: usize,
) {
    let count = tokens.div_ceil(slice);
    assert!(x.len() >= batch * tokens * dim && out.len() >= batch * slices * 2 * dim && first + count <= slices);
    let out = Shared::of(out);
    threads.each(batch * count, |i| {
        let (item, from) = (i / count, i % count * slice);
        let x = &x[(item * tokens + from) * dim..(item * tokens + tokens.min(from + slice)) * dim];
        // SAFETY: slices belong to one thread each.
        let out =
            unsafe { std::slice::from_raw_parts_mut(out.at((item * slices + first + i % count) * 2 * dim), 2 * dim) };
        moments_of(level, x, out);
    });
}

/// x and out `[batch, tokens, dim]`; scales `[batch, 2, dim]`: means, then scales; bias `[dim]`.
pub fn group_norm(
    level: Level,
    threads: &Threads,
    x: &[f32],
    scales: &[f32],
    bias: &[f32],
    activation: Activation,
    out: &mut [f32],
    tokens: usize,
    dim: usize,
) {
    let rows = out.len() / dim;
    assert!(x.len() >= rows * dim && scales.len() >= rows / tokens * 2 * dim && bias.len() == dim);
    let out = Shared::of(out);
    threads.parts(rows, |from, to| {
        for row in from..to {
            let scales = &scales[row / tokens * 2 * dim..][..2 * dim];
            // SAFETY: rows belong to one thread each.
            let out = unsafe { std::slice::from_raw_parts_mut(out.at(row * dim), dim) };
            row_of(level, &x[row * dim..][..dim], scales, bias, activation, out);
        }
    });
}

kernels! {
    fn moments_of(x: &[f32], out: &mut [f32]) = moments_with;
    fn row_of(x: &[f32], scales: &[f32], bias: &[f32], activation: Activation, out: &mut [f32]) = row_with;
}

/// Two passes, the second over what the first left in the cache.
#[inline(always)]
unsafe fn moments_with<I: Isa>(x: &[f32], out: &mut [f32]) {
    let dim = out.len() / 2;
    let share = 1.0 / (x.len() / dim) as f32;
    let (means, squares) = out.split_at_mut(dim);
    let whole = dim - dim % I::LANES;
    means.fill(0.0);
    squares.fill(0.0);
    // SAFETY: vectors lie below `whole`; the caller's target features are those of I.
    unsafe {
        for row in x.chunks_exact(dim) {
            for i in (0..whole).step_by(I::LANES) {
                let sum = I::add(I::load(means.as_ptr().add(i)), I::load(row.as_ptr().add(i)));
                I::store(means.as_mut_ptr().add(i), sum);
            }
            for i in whole..dim {
                means[i] += row[i];
            }
        }
        means.iter_mut().for_each(|mean| *mean *= share);
        for row in x.chunks_exact(dim) {
            for i in (0..whole).step_by(I::LANES) {
                let off = I::sub(I::load(row.as_ptr().add(i)), I::load(means.as_ptr().add(i)));
                let sum = I::madd(off, off, I::load(squares.as_ptr().add(i)));
                I::store(squares.as_mut_ptr().add(i), sum);
            }
            for i in whole..dim {
                squares[i] += (row[i] - means[i]) * (row[i] - means[i]);
            }
        }
    }
}

#[inline(always)]
unsafe fn row_with<I: Isa>(x: &[f32], scales: &[f32], bias: &[f32], activation: Activation, out: &mut [f32]) {
    let dim = x.len();
    let (means, scales) = scales.split_at(dim);
    let mut lines = [[0f32; 16]; 5];
    for at in (0..dim).step_by(I::LANES) {
        let rest = (dim - at).min(I::LANES);
        // A vector that does not exist whole is copied.
        let (from, to) = if rest == I::LANES {
            ([x, means, scales, bias].map(|values| values[at..].as_ptr()), out[at..].as_mut_ptr())
        } else {
            for (line, values) in lines.iter_mut().zip([x, means, scales, bias]) {
                line[..rest].copy_from_slice(&values[at..]);
            }
            ([0, 1, 2, 3].map(|i| lines[i].as_ptr()), lines[4].as_mut_ptr())
        };
        // SAFETY: all of these places hold a vector; the caller's target features are those of I.
        unsafe {
            let [x, mean, scale, bias] = from.map(|values| I::load(values));
            let normed = I::madd(I::sub(x, mean), scale, bias);
            // A call would cost as much as SiLU itself, which is the one that follows in autoencoders.
            let out = match activation {
                Activation::Silu => activate::<I>(Activation::Silu, normed),
                other => activate_called::<I>(other, normed),
            };
            I::store(to, out);
        }
        if rest < I::LANES {
            out[at..].copy_from_slice(&lines[4][..rest]);
        }
    }
}
