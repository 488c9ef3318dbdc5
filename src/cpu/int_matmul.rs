//! The matmul in integers: weights in i8, activations in unsigned integers of `bits` bits; the twin of
//! `simd/quantize.rs` and `simd/matmul.rs`, which give the same bits.

use super::activate;
use crate::plan::{Activation, INT_CHUNK};

/// `out = activation(cat(x, x2) W^T + bias) + residual`: x `[rows, k]`, x2 `[rows, k2]`, `W[n] = scales[n] w[n]` with
/// w `[n, k + k2]`, bias `[n]`, residual and out `[rows, n]`.
///
/// A token becomes `least + scale q`, q from 0 to `2^bits - 1`; then
/// `x W^T = scale scales (sum of q w) + least scales (sum of w)`, the first sum in chunks of at most [`INT_CHUNK`] inputs.
pub fn int_matmul(
    x: &[f32],
    k: usize,
    x2: &[f32],
    k2: usize,
    w: &[i8],
    scales: &[f32],
    bits: u32,
    bias: Option<&[f32]>,
    activation: Activation,
    residual: Option<&[f32]>,
    out: &mut [f32],
    rows: usize,
    n: usize,
) {
    let top = ((1u32 << bits) - 1) as f32;
    for r in 0..rows {
        let token: Vec<f32> = [&x[r * k..][..k], &x2[r * k2..][..k2]].concat();
        // Zero, unless a value is NaN or infinite: then every output is NaN.
        let spoiled: f32 = token.iter().map(|v| v * 0.0).sum();
        let least = token.iter().copied().fold(f32::INFINITY, f32::min) + spoiled;
        let most = token.iter().copied().fold(f32::NEG_INFINITY, f32::max) + spoiled;
        let scale = (most - least) / top;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let q: Vec<i32> = token.iter().map(|v| ((v - least) * inverse).round_ties_even() as i32).collect();
        for c in 0..n {
            let weights = &w[c * (k + k2)..][..k + k2];
            let sum: i32 = weights.iter().map(|&w| i32::from(w)).sum();
            let mut value = 0.0;
            for (i, (q, w)) in q.chunks(INT_CHUNK).zip(weights.chunks(INT_CHUNK)).enumerate() {
                let products: i32 = q.iter().zip(w).map(|(q, &w)| q * i32::from(w)).sum();
                let part = products as f32 * (scale * scales[c]);
                value = if i == 0 { part + least * (sum as f32 * scales[c]) } else { part + value };
            }
            value = activate(activation, value + bias.map_or(0.0, |b| b[c]));
            out[r * n + c] = value + residual.map_or(0.0, |residual| residual[r * n + c]);
        }
    }
}
