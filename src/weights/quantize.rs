//! Floats to stored dtypes. Rounding is to nearest, halves to even; scales are symmetric.

use super::{Data, Dtype, Tensor};
use half::f16;

/// Largest magnitude of int8 values; -128 is not used.
const Q8_MAX: i8 = 127;

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
pub(super) struct Grid {
    pub(super) dtype: Dtype,
    /// int8: the largest magnitude.
    pub(super) most: i8,
    pub(super) group: usize,
}

impl Grid {
    fn limits(&self) -> (f32, f32) {
        match self.dtype {
            Dtype::Q4 => (-8.0, 7.0),
            _ => (-f32::from(self.most), f32::from(self.most)),
        }
    }

    pub(super) fn round(&self, value: f32, scale: f32) -> i8 {
        self.whole(value, scale) as i8
    }

    /// The code as a float. Ties go to even, as wherever floats are added: what is added to this number loses its fraction.
    fn whole(&self, value: f32, scale: f32) -> f32 {
        const SHIFT: f32 = 12_582_912.0;
        let (low, high) = self.limits();
        if scale == 0.0 { 0.0 } else { ((value / scale).clamp(low, high) + SHIFT) - SHIFT }
    }

    /// Every value to the nearest code; codes, and scales row by row.
    fn round_rows(&self, values: &[f32], columns: usize) -> (Vec<i8>, Vec<f32>) {
        let groups = columns.div_ceil(self.group);
        let mut codes = vec![0i8; values.len()];
        let mut scales = vec![0f32; values.len() / columns * groups];
        let rows = values.chunks(columns).zip(codes.chunks_mut(columns)).zip(scales.chunks_mut(groups));
        let round = |((row, codes), scales): ((&[f32], &mut [i8]), &mut [f32])| {
            let groups = row.chunks(self.group).zip(codes.chunks_mut(self.group)).zip(scales);
            for ((values, codes), scale) in groups {
                *scale = self.scale(values, &[]);
                codes.iter_mut().zip(values).for_each(|(code, &v)| *code = self.round(v, *scale));
            }
        };
        // A scale of q4 is one of many that are tried. Pages only read it.
        #[cfg(not(target_arch = "wasm32"))]
        if self.dtype == Dtype::Q4 {
            super::gptq::in_parallel(rows.collect(), round);
            return (codes, scales);
        }
        rows.for_each(round);
        (codes, scales)
    }

    /// The scale of a group. int8: the largest magnitude over the largest code. int4: the one with the least squared error,
    /// each column weighted by `importance` if given, among clipped ranges of either sign (-8 reaches further than 7).
    pub(super) fn scale(&self, values: &[f32], importance: &[f64]) -> f32 {
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        if self.dtype != Dtype::Q4 {
            return largest / f32::from(self.most);
        }
        const COLUMNS: usize = 4;
        let mut best = (f64::INFINITY, 0.0);
        for step in 0..=60 {
            for sign in [1.0, -1.0] {
                let scale = f16::from_f32(sign * largest * (1.0 - 0.01 * step as f32) / 8.0).to_f32();
                let mut error = 0.0;
                for (i, some) in values.chunks(COLUMNS).enumerate() {
                    for (j, &v) in some.iter().enumerate() {
                        let off = f64::from(v - scale * self.whole(v, scale));
                        error += importance.get(COLUMNS * i + j).copied().unwrap_or(1.0) * off * off;
                    }
                    // It only grows: most candidates are worse after a few columns.
                    if error >= best.0 {
                        break;
                    }
                }
                if error < best.0 {
                    best = (error, scale);
                }
            }
        }
        best.1
    }

    pub(super) fn store(&self, codes: Vec<i8>, scales: Vec<f32>, rows: usize, columns: usize, group: usize) -> Data {
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
}
