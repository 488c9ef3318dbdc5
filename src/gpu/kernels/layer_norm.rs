//! `shaders/layer_norm.wgsl`; twin: `src/cpu/layer_norm.rs`.

use super::{Binding, Launch, Variant, flag, groups};
use crate::plan::{LayerNorm, Program};

const WORKGROUP: usize = 16;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    dim: u32,
    dim4: u32,
    eps: f32,
    tokens: u32,
    vector4: u32,
    shift4: u32,
    scale4: u32,
}

/// All of them.
pub(super) fn variants() -> Vec<Variant> {
    let kinds = [[true, false], [false, true], [true, true]];
    kinds.into_iter().flat_map(|[affine, modulated]| [false, true].map(|p| variant(affine, modulated, p))).collect()
}

fn variant(affine: bool, modulated: bool, packed: bool) -> Variant {
    let variables = vec![
        ("AFFINE", flag(affine)),
        ("MODULATED", flag(modulated)),
        ("PACKED", flag(packed)),
        ("WORKGROUP", WORKGROUP.to_string()),
    ];
    Variant { kernel: "layer_norm", variables }
}

pub(super) fn launch(k: &LayerNorm, program: &Program) -> Launch {
    let dim4 = program.view(k.x).row_stride / 4;
    let mut params = Params {
        rows: k.rows as u32,
        dim: k.dim as u32,
        dim4: dim4 as u32,
        eps: k.eps,
        tokens: k.tokens as u32,
        vector4: 0,
        shift4: 0,
        scale4: 0,
    };
    let mut bindings = vec![(1, Binding::Tensor(k.x)), (4, Binding::Tensor(k.out))];
    if let Some((weight, bias)) = k.affine {
        bindings.extend([(2, Binding::Weight(weight)), (3, Binding::Weight(bias))]);
    }
    if let Some(m) = k.modulation {
        params.vector4 = (program.view(m.vector).row_stride / 4) as u32;
        (params.shift4, params.scale4) = ((m.shift / 4) as u32, (m.scale / 4) as u32);
        bindings.push((5, Binding::Tensor(m.vector)));
    }
    Launch {
        variant: variant(k.affine.is_some(), k.modulation.is_some(), program.view(k.out).packed),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings,
        workgroups: [groups(k.rows, WORKGROUP), 1, 1],
    }
}
