//! The matmul in integers: weights in i8, activations in unsigned integers of `bits` bits; the twin of
//! `simd/quantize.rs` and `simd/matmul.rs`, which give the same bits.

use super::{activate, windows};
use crate::plan::{Activation, INT_CHUNK, PACK_GROUP, Window};
use uvit_simd::taps_of_chunk;

/// `out = gate activation(cat(x, x2) W^T + bias) + residual`: x `[rows, k]`, x2 `[rows, k2]`, `W[n] = scales[n] w[n]` with
/// w `[n, k + k2]`, bias and gate `[n]`, residual and out `[rows, n]`.
///
/// A token becomes `least + scale q`, q from 0 to `2^bits - 1`; then
/// `x W^T = scale scales (sum of q w) + least scales (sum of w)`, the first sum in chunks of at most [`INT_CHUNK`] inputs.
/// In 8 bits, q stands for the difference from the mean of the item's `tokens` rows, whose own product, in 16 bits, is
/// added; w are -63 ..= 63.
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
    gate: Option<&[f32]>,
    residual: Option<&[f32]>,
    out: &mut [f32],
    rows: usize,
    tokens: usize,
    n: usize,
) {
    for first in (0..rows).step_by(tokens) {
        let row = |r: usize| [&x[r * k..][..k], &x2[r * k2..][..k2]].concat();
        let mut mean = vec![0.0; k + k2];
        if bits == 8 {
            for r in first..first + tokens {
                mean.iter_mut().zip(row(r)).for_each(|(mean, v)| *mean += v);
            }
            mean.iter_mut().for_each(|mean| *mean *= 1.0 / tokens as f32);
        }
        // In two parts, as the bytes of a dot product take it.
        let common = Quantized::of(&mean, 16);
        let part = |q: &dyn Fn(i32) -> i32, scale: f32, least: f32| {
            Quantized { q: common.q.iter().map(|&v| q(v)).collect(), scale, least }.signed()
        };
        let high = part(&|q| q >> 8, 256.0 * common.scale, common.least);
        let low = part(&|q| q & 255, common.scale, 0.0);
        for r in first..first + tokens {
            let token: Vec<f32> = row(r).iter().zip(&mean).map(|(v, mean)| v - mean).collect();
            let token = Quantized::of(&token, bits);
            let token = if bits == 8 { token.signed() } else { token };
            for c in 0..n {
                let w = &w[c * (k + k2)..][..k + k2];
                let mut value = 0.0;
                for chunk in 0..(k + k2).div_ceil(INT_CHUNK) {
                    let mut part = token.times(w, scales[c], chunk);
                    let mut more = None;
                    if bits == 8 {
                        more = Some(high.times(w, scales[c], chunk) + low.times(w, scales[c], chunk));
                    }
                    if let (0, Some(bias)) = (chunk, bias) {
                        more = Some(more.map_or(bias[c], |more| more + bias[c]));
                    }
                    if let Some(more) = more {
                        part += more;
                    }
                    value = if chunk == 0 { part } else { part + value };
                }
                let value = activate(activation, value);
                let value = gate.map_or(value, |gate| gate[c] * value);
                out[r * n + c] = value + residual.map_or(0.0, |residual| residual[r * n + c]);
            }
        }
    }
}

/// The rows from `first` on of a 3x3 convolution: x `[items, height width, k]`, w `[n, 9 k]`, bias `[n]`, residual and out `[rows,
/// n]`. All pixels of an item have one scale and smallest value, zero among what they can be.
pub fn int_convolution(
    x: &[f32],
    k: usize,
    window: &Window,
    first: usize,
    w: &[i8],
    scales: &[f32],
    bits: u32,
    bias: Option<&[f32]>,
    activation: Activation,
    residual: Option<&[f32]>,
    out: &mut [f32],
    n: usize,
) {
    let of_item = window.height * window.width * k;
    let items: Vec<Quantized> = x.chunks(of_item).map(|x| Quantized::with_zero(x, bits)).collect();
    let chunk = taps_of_chunk(k) * k;
    for (r, out) in out.chunks_exact_mut(n).enumerate() {
        let item = (first + r) / window.pixels();
        let Quantized { q, scale, least } = &items[item];
        // As floats, which hold them exactly; beyond the image lies what stands for zero.
        let zero = (-least / if *scale > 0.0 { *scale } else { 1.0 }).round_ties_even();
        let centred: Vec<f32> = q.iter().map(|&q| q as f32 - zero).collect();
        let seen = windows(&centred, k, window, (first + r) % window.pixels(), 1);
        let offset = if bits == 8 { 128 } else { 0 };
        for c in 0..n {
            let w = &w[c * 9 * k..][..9 * k];
            let sum: i32 = w.iter().map(|&w| i32::from(w)).sum();
            let mut value = 0.0;
            for (i, (seen, w)) in seen.chunks(chunk).zip(w.chunks(chunk)).enumerate() {
                let product = |(q, w): (&f32, &i8)| (*q as i32 + zero as i32 - offset) * i32::from(*w);
                let products: i32 = seen.iter().zip(w).map(product).sum();
                let mut part = products as f32 * (scale * scales[c]);
                if i == 0 {
                    part += (least + offset as f32 * scale) * (sum as f32 * scales[c]);
                    part += bias.map_or(0.0, |bias| bias[c]);
                }
                value = if i == 0 { part } else { part + value };
            }
            out[c] = activate(activation, value) + residual.map_or(0.0, |residual| residual[r * n + c]);
        }
    }
}

/// `out = gate activation(x W^T + bias) + residual`: x `[rows, k]`, w `[n, k]` with a scale for every `group` columns (0: a row),
/// bias and gate `[n]`, residual and out `[rows, n]`. Of a token every [`PACK_GROUP`] values become `scale q` with the largest as 127.
/// The twin of `shaders/int_matmul.wgsl`, where the values come quantised (`shaders/lib/pack.wgsl`).
pub fn w8a8_matmul(
    x: &[f32],
    k: usize,
    w: &[i8],
    scales: &[f32],
    group: usize,
    bias: Option<&[f32]>,
    activation: Activation,
    gate: Option<&[f32]>,
    residual: Option<&[f32]>,
    out: &mut [f32],
    rows: usize,
    n: usize,
) {
    let group = if group == 0 { k } else { group };
    let groups = k.div_ceil(group);
    for r in 0..rows {
        let token: Vec<(f32, Vec<i32>)> = x[r * k..][..k].chunks(PACK_GROUP).map(symmetric).collect();
        for c in 0..n {
            let mut value = 0.0;
            for (i, ((scale, q), w)) in token.iter().zip(w[c * k..][..k].chunks(PACK_GROUP)).enumerate() {
                let products: i32 = q.iter().zip(w).map(|(q, &w)| q * i32::from(w)).sum();
                value += products as f32 * scale * scales[c * groups + i * PACK_GROUP / group];
            }
            let value = activate(activation, value + bias.map_or(0.0, |bias| bias[c]));
            let value = gate.map_or(value, |gate| gate[c] * value);
            out[r * n + c] = value + residual.map_or(0.0, |residual| residual[r * n + c]);
        }
    }
}

/// Scale and integers from -127 to 127, rounded as WGSL's `pack4x8snorm` does.
fn symmetric(values: &[f32]) -> (f32, Vec<i32>) {
    let most = values.iter().fold(0f32, |most, v| most.max(v.abs()));
    let inverse = if most > 0.0 { 1.0 / most } else { 0.0 };
    (most / 127.0, values.iter().map(|v| (127.0 * (v * inverse) + 0.5).floor() as i32).collect())
}

/// `least + scale q`.
struct Quantized {
    q: Vec<i32>,
    scale: f32,
    least: f32,
}

impl Quantized {
    fn of(values: &[f32], bits: u32) -> Quantized {
        // Zero, unless a value is NaN or infinite: then every output is NaN.
        let spoiled: f32 = values.iter().map(|v| v * 0.0).sum();
        let least = values.iter().copied().fold(f32::INFINITY, f32::min) + spoiled;
        let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max) + spoiled;
        let scale = (most - least) / ((1u32 << bits) - 1) as f32;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let q = values.iter().map(|v| ((v - least) * inverse).round_ties_even() as i32).collect();
        Quantized { q, scale, least }
    }

    /// Where one of the values is zero, in all but one of the steps.
    fn with_zero(values: &[f32], bits: u32) -> Quantized {
        let spoiled: f32 = values.iter().map(|v| v * 0.0).sum();
        let low = values.iter().copied().fold(0.0, f32::min) + spoiled;
        let high = values.iter().copied().fold(0.0, f32::max) + spoiled;
        let scale = (high - low) / ((1u32 << bits) - 2) as f32;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let least = (low * inverse).floor() * scale;
        let q = values.iter().map(|v| ((v - least) * inverse).round_ties_even() as i32).collect();
        Quantized { q, scale, least }
    }

    /// The same with q from -128 to 127.
    fn signed(self) -> Quantized {
        let Quantized { q, scale, least } = self;
        Quantized { q: q.iter().map(|q| q - 128).collect(), scale, least: least + 128.0 * scale }
    }

    /// The product with one chunk of a row of weights; what `least` gives comes with the first one.
    fn times(&self, w: &[i8], scale: f32, chunk: usize) -> f32 {
        let from = chunk * INT_CHUNK;
        let products: i32 = self.q[from..].iter().zip(&w[from..]).take(INT_CHUNK).map(|(q, &w)| q * i32::from(w)).sum();
        let part = products as f32 * (self.scale * scale);
        let sum: i32 = w.iter().map(|&w| i32::from(w)).sum();
        if chunk == 0 { part + self.least * (sum as f32 * scale) } else { part }
    }
}
