//! `shaders/embedding.wgsl`; twin: `src/cpu/embedding.rs`.

use super::{Binding, Launch, Variant, groups};
use crate::plan::{Embedding, Program};

const WORKGROUP: usize = 64;

pub(super) fn variant() -> Variant {
    Variant { kernel: "embedding", variables: vec![("WORKGROUP", WORKGROUP.to_string())] }
}

pub(super) fn launch(k: &Embedding, program: &Program) -> Launch {
    let classes = program.weights[k.table.index()].shape[0];
    let dim4 = k.dim.div_ceil(4);
    let params = [k.batch, k.tokens, dim4, k.at, classes, 0, 0, 0].map(|v| v as u32);
    Launch {
        variant: variant(),
        params: bytemuck::cast_slice(&params).to_vec(),
        bindings: vec![
            (1, Binding::Weight(k.table)),
            (2, Binding::Tensor(k.index)),
            (3, Binding::Weight(k.position)),
            (4, Binding::Tensor(k.out)),
        ],
        workgroups: [groups(dim4, WORKGROUP), k.batch as u32, 1],
    }
}
