//! Random weights: for tests of devices and for measurements, where only sizes and stored forms matter.

use super::{Data, Dtype, Tensor};
use crate::generator::TorchGenerator;
use half::f16;

/// Random values of the size that training leaves, in the stored form `kind` (dtype, group); floats without one.
pub fn tensor(name: &str, shape: &[usize], kind: Option<(Dtype, usize)>, generator: &mut TorchGenerator) -> Tensor {
    let columns = shape[1..].iter().product::<usize>();
    let rows = shape[0];
    let size = 1.0 / (columns.max(1) as f32).sqrt();
    let mut randn = |n: usize| generator.randn_f32(n);
    let groups = |group: usize| if group == 0 { 1 } else { columns.div_ceil(group) };
    let data = match kind {
        None | Some((Dtype::F32, _)) => Data::F32(randn(rows * columns).iter().map(|v| v * size).collect()),
        Some((Dtype::F16, _)) => Data::F16(randn(rows * columns).iter().map(|v| f16::from_f32(v * size)).collect()),
        Some((Dtype::Q8, group)) => Data::Q8 {
            values: randn(rows * columns).iter().map(|v| (v * 40.0).clamp(-127.0, 127.0) as i8).collect(),
            scales: randn(rows * groups(group)).iter().map(|v| (1.0 + v.abs()) * size / 60.0).collect(),
            group,
        },
        Some((Dtype::Q4, group)) => Data::Q4 {
            values: randn(rows * columns.div_ceil(2)).iter().map(|v| (v * 1e4) as i32 as u8).collect(),
            scales: randn(rows * groups(group)).iter().map(|v| f16::from_f32((1.0 + v.abs()) * size / 6.0)).collect(),
            group,
        },
    };
    Tensor { name: name.into(), shape: shape.to_vec(), data }
}
