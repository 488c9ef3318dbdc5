//! `shaders/layer_norm.wgsl`; twin: `src/cpu/layer_norm.rs`.

use super::{Binding, Launch, Variant, groups};
use crate::plan::{LayerNorm, Program};

const WORKGROUP: usize = 16;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    dim: u32,
    dim4: u32,
    eps: f32,
}

pub(super) fn variant(packed: bool) -> Variant {
    let variables = vec![("PACKED", u8::from(packed).to_string()), ("WORKGROUP", WORKGROUP.to_string())];
    Variant { kernel: "layer_norm", variables }
}

pub(super) fn launch(k: &LayerNorm, program: &Program) -> Launch {
    let dim4 = program.view(k.x).row_stride / 4;
    let params = Params { rows: k.rows as u32, dim: k.dim as u32, dim4: dim4 as u32, eps: k.eps };
    Launch {
        variant: variant(program.view(k.out).packed),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![
            (1, Binding::Tensor(k.x)),
            (2, Binding::Weight(k.weight)),
            (3, Binding::Weight(k.bias)),
            (4, Binding::Tensor(k.out)),
        ],
        workgroups: [groups(k.rows, WORKGROUP), 1, 1],
    }
}
