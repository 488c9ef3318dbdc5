//! Floats to stored dtypes. Rounding is to nearest, halves to even; scales are symmetric. [`gptq`] rounds with error
//! compensation: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
//! 2022 (arXiv:2210.17323), algorithm 1.

use super::manifest::Dtype;
use super::{Data, Tensor};
use half::f16;

/// Largest magnitude of int8 values; -128 is not used.
const Q8_MAX: f32 = 127.0;

/// A tensor in a stored dtype; `group` as in [`Data`], ignored by floats.
pub fn quantize(name: &str, shape: &[usize], values: &[f32], dtype: Dtype, group: usize) -> Tensor {
    let rows = shape[0];
    let columns = values.len() / rows;
    let data = match dtype {
        Dtype::F32 => Data::F32(values.to_vec()),
        Dtype::F16 => Data::F16(values.iter().map(|&v| f16::from_f32(v)).collect()),
        Dtype::Q8 | Dtype::Q4 => {
            let grid = Grid { dtype, group: if group == 0 { columns } else { group } };
            let mut codes = vec![0i8; values.len()];
            let mut scales = Vec::new();
            for (row, codes) in values.chunks(columns).zip(codes.chunks_mut(columns)) {
                for (values, codes) in row.chunks(grid.group).zip(codes.chunks_mut(grid.group)) {
                    let scale = grid.scale(values, &[]);
                    codes.iter_mut().zip(values).for_each(|(code, &v)| *code = grid.round(v, scale));
                    scales.push(scale);
                }
            }
            grid.store(codes, scales, rows, columns, group)
        }
    };
    Tensor { name: name.into(), shape: shape.to_vec(), data }
}

/// A grid of codes with one scale a group.
struct Grid {
    dtype: Dtype,
    group: usize,
}

impl Grid {
    fn limits(&self) -> (f32, f32) {
        match self.dtype {
            Dtype::Q4 => (-8.0, 7.0),
            _ => (-Q8_MAX, Q8_MAX),
        }
    }

    fn round(&self, value: f32, scale: f32) -> i8 {
        let (low, high) = self.limits();
        if scale == 0.0 { 0 } else { (value / scale).round_ties_even().clamp(low, high) as i8 }
    }

    /// The scale of a group. int8: the largest magnitude over 127. int4: the one with the least squared error, each
    /// column weighted by `importance` if given, among clipped ranges of either sign (-8 reaches further than 7).
    fn scale(&self, values: &[f32], importance: &[f64]) -> f32 {
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        if self.dtype != Dtype::Q4 {
            return largest / Q8_MAX;
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
    let grid = Grid { dtype, group: if group == 0 { columns } else { group } };
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
fn upper_cholesky_of_inverse(hessian: Vec<f64>, n: usize) -> Vec<f64> {
    // H = L L^T, so H^-1 = L^-T L^-1.
    let l = lower_cholesky(hessian, n);
    let mut l_inverse = vec![0.0; n * n];
    for c in 0..n {
        l_inverse[c * n + c] = 1.0 / l[c * n + c];
        for r in c + 1..n {
            let sum: f64 = (c..r).map(|k| l[r * n + k] * l_inverse[k * n + c]).sum();
            l_inverse[r * n + c] = -sum / l[r * n + r];
        }
    }
    let mut inverse = vec![0.0; n * n];
    for k in 0..n {
        for r in 0..=k {
            let a = l_inverse[k * n + r];
            for c in 0..=k {
                inverse[r * n + c] += a * l_inverse[k * n + c];
            }
        }
    }
    let lower = lower_cholesky(inverse, n);
    let mut upper = vec![0.0; n * n];
    for r in 0..n {
        for c in 0..=r {
            upper[c * n + r] = lower[r * n + c];
        }
    }
    upper
}

/// L with `L L^T = A`.
fn lower_cholesky(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    for c in 0..n {
        for r in c..n {
            let (row, pivot) = (&a[r * n..r * n + c], &a[c * n..c * n + c]);
            let sum: f64 = row.iter().zip(pivot).map(|(x, y)| x * y).sum();
            let value = a[r * n + c] - sum;
            a[r * n + c] = if r == c { value.max(1e-300).sqrt() } else { value / a[c * n + c] };
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
