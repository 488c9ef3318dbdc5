//! Weights in the layouts that the shaders read, made at load from the stored form.

use crate::plan::{Arithmetic, Form, PACK_GROUP, Weight};
use crate::weights::{Data, Tensor};
use crate::{Code, Error, Result};

/// How a matrix's values lie on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// 4 x 4 blocks of f32.
    F32,
    /// 4 x 4 blocks of f16.
    F16,
    /// 4 x 4 blocks of int8.
    Q8,
    /// 4 x 4 blocks of int4.
    Q4,
    /// 4 x 4 blocks of int8, for dot products.
    Q8Dot,
    /// 4 x 4 blocks of int4, for dot products.
    Q4Dot,
}

impl Storage {
    /// Its name in the shader's template.
    pub fn name(self) -> &'static str {
        match self {
            Storage::F32 => "f32",
            Storage::F16 => "f16",
            Storage::Q8 | Storage::Q8Dot => "q8",
            Storage::Q4 | Storage::Q4Dot => "q4",
        }
    }
}

/// A weight in device layout.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The values.
    pub values: Vec<u8>,
    /// `[n / 4][groups]` vec4s, empty for floats.
    pub scales: Vec<u8>,
    /// How `values` lie; matrices only.
    pub storage: Storage,
    /// vec4 columns a scale; all of a row if there is one scale a row.
    pub group4: usize,
    /// Scales a row.
    pub groups: usize,
}

/// Packs a weight for the way it is read.
///
/// # Errors
/// `LIMIT_TOO_SMALL` if its values or scales exceed the largest binding.
pub fn pack(weight: &Weight, form: Form, tensor: &Tensor, max_binding: usize) -> Result<Packed> {
    let packed = pack_any(weight, form, tensor);
    let needed = packed.values.len().max(packed.scales.len());
    // A table may lie in several (`plan::Embedding`).
    let table = form == Form::Floats && weight.shape.len() == 2;
    if needed > max_binding && !table {
        return Err(Error::new(
            Code::LimitTooSmall,
            format!(
                "weight {} {:?} needs {needed} bytes in one binding; maxStorageBufferBindingSize is {max_binding}",
                weight.name, weight.shape
            ),
            "Load a smaller dtype or model, or use device \"cpu\"",
        ));
    }
    Ok(packed)
}

/// The matrix of a convolution with every place's columns filled up to whole vec4s with zeros, as pixels are; floats, since only
/// that of a picture's few channels needs it.
fn filled_up(weight: &Weight, tensor: &Tensor) -> Tensor {
    let (rows, inputs) = (weight.shape[0], weight.shape[1] / weight.taps());
    let wide = inputs.next_multiple_of(4);
    let mut values = vec![0.0; rows * weight.taps() * wide];
    for (to, from) in values.chunks_exact_mut(wide).zip(tensor.to_f32().chunks_exact(inputs)) {
        to[..inputs].copy_from_slice(from);
    }
    Tensor { name: tensor.name.clone(), shape: vec![rows, weight.taps() * wide], data: Data::F32(values) }
}

fn pack_any(weight: &Weight, form: Form, tensor: &Tensor) -> Packed {
    if weight.taps() > 1 && !(weight.shape[1] / weight.taps()).is_multiple_of(4) {
        let tensor = filled_up(weight, tensor);
        return matrix(&tensor, weight.shape[0], tensor.shape[1]);
    }
    let plain = |values: Vec<f32>| Packed {
        values: bytemuck::cast_slice(&padded(values)).to_vec(),
        scales: Vec::new(),
        storage: Storage::F32,
        group4: 0,
        groups: 1,
    };
    let rows = weight.shape[0];
    let columns = weight.shape[1..].iter().product::<usize>();
    match form {
        Form::Floats => plain(tensor.to_f32()),
        Form::PatchKernel => plain(tensor.to_f32_transposed()),
        Form::Matrix(Arithmetic::W8A8) => dot_matrix(tensor, rows, columns),
        Form::Matrix(_) => matrix(tensor, rows, columns),
    }
}

/// Fills up to a whole number of vec4s.
fn padded(mut values: Vec<f32>) -> Vec<f32> {
    values.resize(values.len().next_multiple_of(4).max(4), 0.0);
    values
}

fn matrix(tensor: &Tensor, rows: usize, columns: usize) -> Packed {
    let k4 = columns.div_ceil(4);
    match &tensor.data {
        Data::F32(v) => Packed {
            values: bytemuck::cast_slice(&blocks(rows, columns, |r, c| v[r * columns + c])).to_vec(),
            scales: Vec::new(),
            storage: Storage::F32,
            group4: k4,
            groups: 1,
        },
        Data::F16(v) => Packed {
            values: bytemuck::cast_slice(&blocks(rows, columns, |r, c| v[r * columns + c].to_bits())).to_vec(),
            scales: Vec::new(),
            storage: Storage::F16,
            group4: k4,
            groups: 1,
        },
        Data::Q8 { values, scales, group } => {
            let (group4, groups) = if *group == 0 { (k4, 1) } else { (group / 4, columns.div_ceil(*group)) };
            Packed {
                values: bytemuck::cast_slice(&blocks(rows, columns, |r, c| values[r * columns + c])).to_vec(),
                scales: pack_scales(rows, groups, |r, g| 127.0 * scales[r * groups + g]),
                storage: Storage::Q8,
                group4,
                groups,
            }
        }
        Data::Q4 { values, scales, group } => {
            let groups = columns.div_ceil(*group);
            let row_bytes = columns.div_ceil(2);
            // Nibbles as q + 8; outside the matrix too, where q is 0.
            let nibble = |r: usize, c: usize| {
                if r >= rows || c >= columns {
                    return 8;
                }
                ((values[r * row_bytes + c / 2] >> (4 * (c % 2))) & 15) ^ 8
            };
            let mut packed = Vec::with_capacity(rows.div_ceil(4) * k4 * 8);
            for n4 in 0..rows.div_ceil(4) {
                for k in 0..k4 {
                    for pair in 0..2 {
                        for r in 0..4 {
                            let low = nibble(4 * n4 + r, 4 * k + 2 * pair);
                            packed.push(low | nibble(4 * n4 + r, 4 * k + 2 * pair + 1) << 4);
                        }
                    }
                }
            }
            Packed {
                values: packed,
                scales: pack_scales(rows, groups, |r, g| scales[r * groups + g].to_f32()),
                storage: Storage::Q4,
                group4: group / 4,
                groups,
            }
        }
    }
}

/// For `dot4I8Packed`, which reads four inputs of one output at once.
fn dot_matrix(tensor: &Tensor, rows: usize, columns: usize) -> Packed {
    let (values, scales, group) = tensor.to_i8_groups(PACK_GROUP);
    let is_q4 = matches!(tensor.data, Data::Q4 { .. }) && group > 0;
    let (group, groups) = if group == 0 { (columns, 1) } else { (group, columns.div_ceil(group)) };
    let at = |r: usize, c: usize| if r < rows && c < columns { values[r * columns + c] as u8 } else { 0 };
    let mut packed = Vec::with_capacity(rows.next_multiple_of(4) * columns.next_multiple_of(4));
    for n in (0..rows).step_by(4) {
        for k in (0..columns).step_by(4) {
            if is_q4 {
                for r in [n, n + 2] {
                    packed.extend((k..k + 4).map(|c| at(r, c) & 15 | at(r + 1, c) << 4));
                }
            } else {
                packed.extend((n..n + 4).flat_map(|r| (k..k + 4).map(move |c| (r, c))).map(|(r, c)| at(r, c)));
            }
        }
    }
    // The shader takes a nibble as the upper half of a byte.
    let unit = if is_q4 { 16.0 } else { 1.0 };
    Packed {
        values: packed,
        scales: pack_scales(rows, groups, |r, g| scales[r * groups + g] / unit),
        storage: if is_q4 { Storage::Q4Dot } else { Storage::Q8Dot },
        group4: group / 4,
        groups,
    }
}

/// `[n / 4][k / 4]` blocks, each `[4 columns][4 rows]`, zeros outside the matrix.
fn blocks<T: Copy + Default>(rows: usize, columns: usize, at: impl Fn(usize, usize) -> T) -> Vec<T> {
    let mut out = Vec::with_capacity(rows.next_multiple_of(4) * columns.next_multiple_of(4));
    for n4 in 0..rows.div_ceil(4) {
        for k4 in 0..columns.div_ceil(4) {
            for c in 4 * k4..4 * k4 + 4 {
                for r in 4 * n4..4 * n4 + 4 {
                    out.push(if r < rows && c < columns { at(r, c) } else { T::default() });
                }
            }
        }
    }
    out
}

/// `[n / 4][groups][4 rows]`.
fn pack_scales(rows: usize, groups: usize, at: impl Fn(usize, usize) -> f32) -> Vec<u8> {
    let mut out: Vec<f32> = Vec::with_capacity(rows.next_multiple_of(4) * groups);
    for n4 in 0..rows.div_ceil(4) {
        for g in 0..groups {
            out.extend((4 * n4..4 * n4 + 4).map(|r| if r < rows { at(r, g) } else { 0.0 }));
        }
    }
    bytemuck::cast_slice(&out).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Arithmetic, Plan, WeightUse};

    #[test]
    fn a_weight_beyond_the_binding_limit_is_named_with_what_is_needed_and_found() {
        let mut plan = Plan::default();
        let id = plan.weight("wte.weight", &[50, 30], WeightUse::Matrix);
        let weight = &plan.weights[id.index()].clone();
        let data = Data::F32(vec![0.5; 1500]);
        let tensor = Tensor { name: weight.name.clone(), shape: weight.shape.clone(), data };
        let form = Form::Matrix(Arithmetic::F32);
        assert!(pack(weight, form, &tensor, 52 * 32 * 4).is_ok());
        let error = pack(weight, form, &tensor, 6000).unwrap_err();
        assert_eq!(error.code, Code::LimitTooSmall);
        assert!(error.cause.contains("wte.weight [50, 30] needs 6656 bytes"), "{error}");
        assert!(error.cause.contains("maxStorageBufferBindingSize is 6000"), "{error}");
        // Floats have no columns to fill up, and a table may lie in several bindings.
        let kernel = plan.weight("final_layer.weight", &[50, 30, 1, 1], WeightUse::Floats);
        assert!(pack(&plan.weights[kernel.index()], Form::Floats, &tensor, 6000).is_ok());
        assert!(pack(&plan.weights[kernel.index()], Form::Floats, &tensor, 5999).is_err());
        assert!(pack(&plan.weights[id.index()], Form::Floats, &tensor, 5999).is_ok());
    }
}
