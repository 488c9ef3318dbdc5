//! Tensors: stored dtypes, quantised blocks, shards, checkpoint readers. `docs/format.md` specifies the stored form. Nothing
//! here knows a network's maths, a manifest or a device.

#[cfg(not(target_arch = "wasm32"))]
pub mod checkpoint;
#[cfg(not(target_arch = "wasm32"))]
pub mod gptq;
mod load;
pub mod quantize;
pub mod random;
mod shard;
mod stored;
#[cfg(not(target_arch = "wasm32"))]
pub mod write;

pub use load::ShardReader;
pub use stored::{Dtype, Entry, MAX_FILE_BYTES, Part, StoredFile, Variant, sha256};

use half::f16;

/// One tensor as it is stored: shape and values in the stored dtype, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// The published name, e.g. `in_blocks.0.attn.qkv.weight`.
    pub name: String,
    /// The published shape; quantised tensors are matrices `[rows, columns]` (Linear: `[out, in]`).
    pub shape: Vec<usize>,
    /// The values.
    pub data: Data,
}

/// Values in a stored dtype. Rows are the first axis, columns all others together.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 16-bit floats.
    F16(Vec<f16>),
    /// value = q * scale, q in -127..=127; one scale a row (`group` 0) or a row and group of `group` columns
    /// (`scales[row * groups + column / group]`, the last group of a row may be shorter).
    Q8 {
        /// `[rows, columns]`.
        values: Vec<i8>,
        /// `[rows, groups]`.
        scales: Vec<f32>,
        /// Columns a scale; 0: the whole row.
        group: usize,
    },
    /// value = q * scale, q in -8..=7 as two's-complement nibbles, two a byte, the even column in the low nibble; every
    /// row starts on a fresh byte (`columns.div_ceil(2)` bytes a row).
    Q4 {
        /// `[rows, ceil(columns / 2)]`.
        values: Vec<u8>,
        /// `[rows, groups]`.
        scales: Vec<f16>,
        /// Columns a scale.
        group: usize,
    },
}

/// Value `column` of a row of q4.
fn nibble(row: &[u8], column: usize) -> i8 {
    let byte = row[column / 2];
    // The nibble's sign bit moves to the byte's, then shifts back.
    if column.is_multiple_of(2) { (byte << 4) as i8 >> 4 } else { byte as i8 >> 4 }
}

impl Tensor {
    /// The first axis.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// All axes but the first.
    pub fn columns(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Bytes that the values and scales take.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Data::F32(v) => 4 * v.len(),
            Data::F16(v) => 2 * v.len(),
            Data::Q8 { values, scales, .. } => values.len() + 4 * scales.len(),
            Data::Q4 { values, scales, .. } => values.len() + 2 * scales.len(),
        }
    }

    /// As [`Tensor::to_f32`], `[columns, rows]`.
    pub fn to_f32_transposed(&self) -> Vec<f32> {
        let (values, rows) = (self.to_f32(), self.rows());
        let mut out = vec![0.0; values.len()];
        for (r, row) in values.chunks(self.columns().max(1)).enumerate() {
            row.iter().enumerate().for_each(|(c, &v)| out[c * rows + r] = v);
        }
        out
    }

    /// The values that the stored form stands for, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        let columns = self.columns();
        match &self.data {
            Data::F32(v) => v.clone(),
            Data::F16(v) => v.iter().map(|h| h.to_f32()).collect(),
            Data::Q8 { values, scales, group } => {
                let group = if *group == 0 { columns } else { *group };
                let groups = columns.div_ceil(group);
                let scale = |i: usize| scales[i / columns * groups + i % columns / group];
                values.iter().enumerate().map(|(i, &q)| f32::from(q) * scale(i)).collect()
            }
            Data::Q4 { values, scales, group } => {
                let (groups, row_bytes) = (columns.div_ceil(*group), columns.div_ceil(2));
                let mut out = Vec::with_capacity(self.rows() * columns);
                for r in 0..self.rows() {
                    for c in 0..columns {
                        let q = nibble(&values[r * row_bytes..], c);
                        out.push(f32::from(q) * scales[r * groups + c / group].to_f32());
                    }
                }
                out
            }
        }
    }

    /// The values in i8 with one scale a row, value = q * scale, |q| <= most: as they are stored if that fits, else rounded
    /// to nearest.
    pub fn to_i8_rows(&self, most: i8) -> (Vec<i8>, Vec<f32>) {
        match &self.data {
            Data::Q8 { values, scales, group: 0 } if values.iter().all(|v| v.unsigned_abs() <= most as u8) => {
                (values.clone(), scales.clone())
            }
            _ => quantize::to_i8_rows(&self.to_f32(), self.columns(), most),
        }
    }

    /// The values in i8, value = q * scale, the scales, and how many columns each holds for (0: a row): as they are stored if
    /// that is a multiple of `least`, else rounded to nearest with one scale a row.
    pub fn to_i8_groups(&self, least: usize) -> (Vec<i8>, Vec<f32>, usize) {
        let columns = self.columns();
        match &self.data {
            Data::Q8 { values, scales, group } if group.is_multiple_of(least) => {
                (values.clone(), scales.clone(), *group)
            }
            Data::Q4 { values, scales, group } if group.is_multiple_of(least) => {
                let row = |bytes: &[u8]| (0..columns).map(|c| nibble(bytes, c)).collect::<Vec<i8>>();
                let values = values.chunks(columns.div_ceil(2)).flat_map(row).collect();
                (values, scales.iter().map(|scale| scale.to_f32()).collect(), *group)
            }
            _ => {
                let (values, scales) = self.to_i8_rows(127);
                (values, scales, 0)
            }
        }
    }

    /// The index of the first value (or scale) that is NaN or infinite.
    pub fn first_not_finite(&self) -> Option<usize> {
        match &self.data {
            Data::F32(v) | Data::Q8 { scales: v, .. } => v.iter().position(|v| !v.is_finite()),
            Data::F16(v) | Data::Q4 { scales: v, .. } => v.iter().position(|v| !v.is_finite()),
        }
    }
}
