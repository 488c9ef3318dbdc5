//! `shaders/group_moments.wgsl`, `shaders/group_scales.wgsl` and `shaders/group_norm.wgsl`; twins: `src/cpu/` under these names.

use super::elementwise::{ACTIVATIONS, activation_name};
use super::{Binding, Launch, Variant, folded, groups};
use crate::plan::{Activation, GroupMoments, GroupNorm, GroupScales, Program};

const WORKGROUP: usize = 64;
/// Of moments: a workgroup's channels.
const CHANNELS4: usize = 16;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ScalesParams {
    dim: u32,
    stride: u32,
    tokens: u32,
    slice: u32,
    slices: u32,
    of_group: u32,
    eps: f32,
    unused: u32,
}

fn moments() -> Variant {
    Variant { kernel: "group_moments", variables: vec![("WORKGROUP", CHANNELS4.to_string())] }
}

fn scales() -> Variant {
    Variant { kernel: "group_scales", variables: vec![("WORKGROUP", WORKGROUP.to_string())] }
}

fn norm(activation: Activation) -> Variant {
    let variables = vec![("ACTIVATION", activation_name(activation).into()), ("WORKGROUP", WORKGROUP.to_string())];
    Variant { kernel: "group_norm", variables }
}

pub(super) fn variants() -> impl Iterator<Item = Variant> {
    ACTIVATIONS.into_iter().map(norm).chain([moments(), scales()])
}

pub(super) fn launch_moments(k: &GroupMoments, program: &Program) -> Launch {
    let dim4 = program.view(k.x).row_stride / 4;
    let params = [dim4, k.tokens, k.slice, k.first, k.slices, 0, 0, 0].map(|v| v as u32);
    Launch {
        variant: moments(),
        params: bytemuck::cast_slice(&params).to_vec(),
        bindings: vec![(1, Binding::Tensor(k.x)), (2, Binding::Tensor(k.out))],
        workgroups: [groups(dim4, CHANNELS4), k.tokens.div_ceil(k.slice) as u32, k.batch as u32],
    }
}

pub(super) fn launch_scales(k: &GroupScales, program: &Program) -> Launch {
    let stride = program.view(k.out).row_stride;
    let params = ScalesParams {
        dim: k.dim as u32,
        stride: stride as u32,
        tokens: k.tokens as u32,
        slice: k.slice as u32,
        slices: k.tokens.div_ceil(k.slice) as u32,
        of_group: (k.dim / k.groups) as u32,
        eps: k.eps,
        unused: 0,
    };
    Launch {
        variant: scales(),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![(1, Binding::Tensor(k.moments)), (2, Binding::Weight(k.weight)), (3, Binding::Tensor(k.out))],
        workgroups: [groups(stride, WORKGROUP), k.batch as u32, 1],
    }
}

pub(super) fn launch_norm(k: &GroupNorm, program: &Program) -> Launch {
    let dim4 = program.view(k.out).row_stride / 4;
    let count = k.batch * k.tokens * dim4;
    let params = [count, dim4, k.tokens * dim4, 0].map(|v| v as u32);
    Launch {
        variant: norm(k.activation),
        params: bytemuck::cast_slice(&params).to_vec(),
        bindings: vec![
            (1, Binding::Tensor(k.x)),
            (2, Binding::Tensor(k.scales)),
            (3, Binding::Weight(k.bias)),
            (4, Binding::Tensor(k.out)),
        ],
        workgroups: folded(count, WORKGROUP),
    }
}
