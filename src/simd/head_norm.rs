//! RMS norm of the heads of queries and keys, whose tokens find their place among others.

use super::isa::{Isa, Level, kernels};
use super::threads::{Shared, Threads};

/// Tokens of qkv `[batch, tokens, 3, heads, head_dim]` become those from `at` on of out `[batch, out_tokens, 3, heads, head_dim]`;
/// head_dim is a multiple of 4.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct HeadNormShape {
    pub tokens: usize,
    pub out_tokens: usize,
    pub at: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub eps: f32,
}

/// Heads of queries and keys become `v / sqrt(mean v^2 + eps) weight`, with the weights of either `[head_dim]`; values stay.
pub fn head_norm(
    level: Level,
    threads: &Threads,
    qkv: &[f32],
    weights: [&[f32]; 2],
    out: &mut [f32],
    s: &HeadNormShape,
) {
    let width = 3 * s.heads * s.head_dim;
    let rows = qkv.len() / width;
    assert!(rows.is_multiple_of(s.tokens) && s.at + s.tokens <= s.out_tokens && s.head_dim.is_multiple_of(4));
    assert!(out.len() >= rows / s.tokens * s.out_tokens * width && weights.iter().all(|w| w.len() == s.head_dim));
    let out = Shared::of(out);
    threads.parts(rows, |from, to| {
        for row in from..to {
            let place = row / s.tokens * s.out_tokens + s.at + row % s.tokens;
            // SAFETY: the assertions found it in `out`; tokens belong to one thread each.
            let out = unsafe { std::slice::from_raw_parts_mut(out.at(place * width), width) };
            token(level, &qkv[row * width..][..width], weights, s.heads, s.eps, out);
        }
    });
}

kernels! {
    fn token(x: &[f32], weights: [&[f32]; 2], heads: usize, eps: f32, out: &mut [f32]) = token_with;
}

/// Plain loops over four values at a time, which the compiler makes vectors of.
#[inline(always)]
unsafe fn token_with<I: Isa>(x: &[f32], weights: [&[f32]; 2], heads: usize, eps: f32, out: &mut [f32]) {
    let head_dim = weights[0].len();
    for (i, (x, out)) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)).enumerate() {
        let Some(weight) = weights.get(i / heads) else {
            out.copy_from_slice(x);
            continue;
        };
        let mut squares = [0f32; 4];
        for four in x.as_chunks::<4>().0 {
            for j in 0..4 {
                squares[j] += four[j] * four[j];
            }
        }
        let mean = (squares[0] + squares[1] + squares[2] + squares[3]) / head_dim as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        for ((out, v), weight) in out.iter_mut().zip(x).zip(*weight) {
            *out = v * scale * weight;
        }
    }
}
