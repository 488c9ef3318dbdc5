//! Floats to stored dtypes. Rounding is to nearest, halves to even; scales are symmetric. [`gptq`] rounds with error
//! compensation: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
//! 2022 (arXiv:2210.17323), algorithm 1.

use super::{Data, Dtype, Tensor};
use half::f16;

/// Largest magnitude of int8 values; -128 is not used.
const Q8_MAX: i8 = 127;

/// The same where rounding is compensated: 7 bits, which the integer kernels of `compute: "fast"` take as they are
/// (docs/arithmetic.md), and lose no more than plain rounding to 8 does.
const COMPENSATED_MAX: i8 = 63;

/// A tensor in a stored dtype; `group` as in [`Data`], ignored by floats.
pub fn quantize(name: &str, shape: &[usize], values: &[f32], dtype: Dtype, group: usize) -> Tensor {
    let rows = shape[0];
    let columns = values.len() / rows;
    let data = match dtype {
        Dtype::F32 => Data::F32(values.to_vec()),
        Dtype::F16 => Data::F16(values.iter().map(|&v| f16::from_f32(v)).collect()),
        Dtype::Q8 | Dtype::Q4 => {
            let grid = Grid { dtype, most: Q8_MAX, group: if group == 0 { columns } else { group } };
            let (codes, scales) = grid.round_rows(values, columns);
            grid.store(codes, scales, rows, columns, group)
        }
    };
    Tensor { name: name.into(), shape: shape.to_vec(), data }
}

/// Rows in i8, one scale a row, magnitudes up to `most`.
pub fn to_i8_rows(values: &[f32], columns: usize, most: i8) -> (Vec<i8>, Vec<f32>) {
    Grid { dtype: Dtype::Q8, most, group: columns }.round_rows(values, columns)
}

/// A grid of codes with one scale a group.
struct Grid {
    dtype: Dtype,
    /// int8: the largest magnitude.
    most: i8,
    group: usize,
}

impl Grid {
    fn limits(&self) -> (f32, f32) {
        match self.dtype {
            Dtype::Q4 => (-8.0, 7.0),
            _ => (-f32::from(self.most), f32::from(self.most)),
        }
    }

    fn round(&self, value: f32, scale: f32) -> i8 {
        let (low, high) = self.limits();
        if scale == 0.0 { 0 } else { (value / scale).round_ties_even().clamp(low, high) as i8 }
    }

    /// Every value to the nearest code; codes, and scales row by row.
    fn round_rows(&self, values: &[f32], columns: usize) -> (Vec<i8>, Vec<f32>) {
        let mut codes = vec![0i8; values.len()];
        let mut scales = Vec::new();
        for (row, codes) in values.chunks(columns).zip(codes.chunks_mut(columns)) {
            for (values, codes) in row.chunks(self.group).zip(codes.chunks_mut(self.group)) {
                let scale = self.scale(values, &[]);
                codes.iter_mut().zip(values).for_each(|(code, &v)| *code = self.round(v, scale));
                scales.push(scale);
            }
        }
        (codes, scales)
    }

    /// The scale of a group. int8: the largest magnitude over the largest code. int4: the one with the least squared error,
    /// each column weighted by `importance` if given, among clipped ranges of either sign (-8 reaches further than 7).
    fn scale(&self, values: &[f32], importance: &[f64]) -> f32 {
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        if self.dtype != Dtype::Q4 {
            return largest / f32::from(self.most);
        }
        let mut best = (f64::INFINITY, 0.0);
        for step in 0..=60 {
            for sign in [1.0, -1.0] {
                let scale = f16::from_f32(sign * largest * (1.0 - 0.01 * step as f32) / 8.0).to_f32();
                let error: f64 = values
                    .iter()
                    .enumerate()
                    .map(|(i, &v)| {
                        let off = f64::from(v - scale * f32::from(self.round(v, scale)));
                        importance.get(i).copied().unwrap_or(1.0) * off * off
                    })
                    .sum();
                if error < best.0 {
                    best = (error, scale);
                }
            }
        }
        best.1
    }

    fn store(&self, codes: Vec<i8>, scales: Vec<f32>, rows: usize, columns: usize, group: usize) -> Data {
        if self.dtype != Dtype::Q4 {
            return Data::Q8 { values: codes, scales, group };
        }
        let row_bytes = columns.div_ceil(2);
        let mut values = vec![0u8; rows * row_bytes];
        for (r, row) in codes.chunks(columns).enumerate() {
            for (c, &code) in row.iter().enumerate() {
                values[r * row_bytes + c / 2] |= (code as u8 & 15) << (4 * (c % 2));
            }
        }
        Data::Q4 { values, scales: scales.into_iter().map(f16::from_f32).collect(), group: self.group }
    }
}

/// Quantises a matrix `[rows, columns]` so that its outputs, not its values, change least: columns are rounded one after
/// the other, and what each loses is made up for in the columns still to come, along the inverse of the Hessian
/// `X^T X` `[columns, columns]` of the layer's inputs X.
pub fn gptq(weight: &[f32], rows: usize, columns: usize, hessian: &[f64], dtype: Dtype, group: usize) -> Data {
    let grid = Grid { dtype, most: COMPENSATED_MAX, group: if group == 0 { columns } else { group } };
    let mean = (0..columns).map(|i| hessian[i * columns + i]).sum::<f64>() / columns as f64;
    let mut damped = hessian.to_vec();
    for i in 0..columns {
        // Inputs that never fire would make it singular.
        damped[i * columns + i] += 0.01 * mean + 1e-12;
    }
    let inverse = upper_cholesky_of_inverse(damped, columns);
    let importance: Vec<f64> = (0..columns).map(|i| 1.0 / inverse[i * columns + i].powi(2)).collect();
    let mut codes = vec![0i8; rows * columns];
    let mut scales = Vec::new();
    for r in 0..rows {
        let mut row: Vec<f64> = weight[r * columns..(r + 1) * columns].iter().map(|&v| f64::from(v)).collect();
        let mut scale = 0.0;
        for c in 0..columns {
            if c % grid.group == 0 {
                let end = (c + grid.group).min(columns);
                let left: Vec<f32> = row[c..end].iter().map(|&v| v as f32).collect();
                scale = grid.scale(&left, &importance[c..end]);
                scales.push(scale);
            }
            let code = grid.round(row[c] as f32, scale);
            codes[r * columns + c] = code;
            let error = (row[c] - f64::from(scale) * f64::from(code)) / inverse[c * columns + c];
            for j in c + 1..columns {
                row[j] -= error * inverse[c * columns + j];
            }
        }
    }
    grid.store(codes, scales, rows, columns, group)
}

/// U with `U^T U = H^-1`, upper triangular: what algorithm 1 of the paper walks along.
///
/// With rows and columns in reverse order, `H = M M^T` is the Cholesky decomposition with M upper triangular, and U is the
/// inverse of M.
fn upper_cholesky_of_inverse(hessian: Vec<f64>, n: usize) -> Vec<f64> {
    let reversed: Vec<f64> = hessian.into_iter().rev().collect();
    let mut m = upper_cholesky(reversed, n);
    m.reverse();
    // The reverse of an upper triangle is a lower one: its transpose.
    for r in 0..n {
        for c in r + 1..n {
            m[r * n + c] = m[c * n + r];
        }
    }
    let mut inverse = vec![0.0; n * n];
    for r in (0..n).rev() {
        let (head, below) = inverse.split_at_mut((r + 1) * n);
        let row = &mut head[r * n..];
        for k in r + 1..n {
            let factor = m[r * n + k];
            let other = &below[(k - r - 1) * n..][..n];
            row[k..].iter_mut().zip(&other[k..]).for_each(|(v, o)| *v -= factor * o);
        }
        let diagonal = 1.0 / m[r * n + r];
        row[r + 1..].iter_mut().for_each(|v| *v *= diagonal);
        row[r] = diagonal;
    }
    inverse
}

/// U, upper triangular, with `U^T U = A`; what lies below the diagonal is not read, and is left.
fn upper_cholesky(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    for k in 0..n {
        let (head, below) = a.split_at_mut((k + 1) * n);
        let row = &mut head[k * n..];
        let pivot = row[k].max(1e-300).sqrt();
        row[k..].iter_mut().for_each(|v| *v /= pivot);
        for i in k + 1..n {
            let factor = row[i];
            let target = &mut below[(i - k - 1) * n..][..n];
            target[i..].iter_mut().zip(&row[i..]).for_each(|(t, v)| *t -= factor * v);
        }
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::TorchGenerator;

    #[test]
    fn values_come_back_within_half_a_step() {
        let mut random = TorchGenerator::new(3);
        for columns in [1, 3, 7, 33, 90] {
            let values = random.randn_f32(5 * columns);
            let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (dtype, group, bound) in [
                (Dtype::F32, 0, 0.0),
                (Dtype::F16, 0, 5e-4),
                (Dtype::Q8, 0, 4e-3),
                (Dtype::Q8, 64, 4e-3),
                (Dtype::Q4, 32, 0.13),
            ] {
                let tensor = quantize("w", &[5, columns], &values, dtype, group);
                let back = tensor.to_f32();
                assert_eq!(back.len(), values.len());
                for (a, b) in back.iter().zip(&values) {
                    assert!((a - b).abs() <= bound * largest, "{dtype:?} {group} {columns}: {a} for {b}");
                }
            }
        }
    }

    #[test]
    fn the_factor_of_the_inverse_undoes_the_matrix() {
        let n = 13;
        let x = TorchGenerator::new(9).randn_f32(40 * n);
        let mut h = vec![0.0; n * n];
        for row in x.chunks(n) {
            for i in 0..n {
                for j in 0..n {
                    h[i * n + j] += f64::from(row[i]) * f64::from(row[j]);
                }
            }
        }
        let u = upper_cholesky_of_inverse(h.clone(), n);
        assert!((0..n).all(|r| (0..r).all(|c| u[r * n + c] == 0.0)));
        // H U^T U = 1.
        for i in 0..n {
            for j in 0..n {
                let inverse = |k: usize| (0..n).map(|m| u[m * n + k] * u[m * n + j]).sum::<f64>();
                let product: f64 = (0..n).map(|k| h[i * n + k] * inverse(k)).sum();
                let one = if i == j { 1.0 } else { 0.0 };
                assert!((product - one).abs() < 1e-9, "{i}, {j}: {product}");
            }
        }
    }

    #[test]
    fn compensation_beats_plain_rounding_on_correlated_inputs() {
        let (rows, columns, samples) = (8, 48, 200);
        let mut random = TorchGenerator::new(5);
        let weight = random.randn_f32(rows * columns);
        let (common, own) = (random.randn_f32(samples * 6), random.randn_f32(samples * columns));
        let x = |s: usize, c: usize| f64::from(common[s * 6 + c % 6]) + 0.3 * f64::from(own[s * columns + c]);
        let mut hessian = vec![0.0; columns * columns];
        for s in 0..samples {
            for i in 0..columns {
                for j in 0..columns {
                    hessian[i * columns + j] += x(s, i) * x(s, j);
                }
            }
        }
        let loss = |data: Data| {
            let back = Tensor { name: String::new(), shape: vec![rows, columns], data }.to_f32();
            let e: Vec<f64> = back.iter().zip(&weight).map(|(a, b)| f64::from(a - b)).collect();
            let mut total = 0.0;
            for row in e.chunks(columns) {
                for i in 0..columns {
                    for j in 0..columns {
                        total += row[i] * hessian[i * columns + j] * row[j];
                    }
                }
            }
            total
        };
        let plain = loss(quantize("w", &[rows, columns], &weight, Dtype::Q4, 32).data);
        let compensated = loss(gptq(&weight, rows, columns, &hessian, Dtype::Q4, 32));
        assert!(compensated < 0.5 * plain, "{compensated} against {plain}");
    }
}
