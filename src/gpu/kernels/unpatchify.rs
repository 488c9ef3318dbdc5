//! `shaders/unpatchify.wgsl`; twin: `src/cpu/unpatchify.rs`.

use super::{Binding, Launch, Variant, groups};
use crate::plan::{Program, Unpatchify};

const WORKGROUP: usize = 64;

pub(super) fn variant() -> Variant {
    Variant { kernel: "unpatchify", variables: vec![("WORKGROUP", WORKGROUP.to_string())] }
}

pub(super) fn launch(k: &Unpatchify, program: &Program) -> Launch {
    let stride = program.view(k.x).row_stride;
    let params = [k.channels, k.height, k.width, k.patch, k.tokens, k.skip_tokens, stride, 0].map(|v| v as u32);
    Launch {
        variant: variant(),
        params: bytemuck::cast_slice(&params).to_vec(),
        bindings: vec![(1, Binding::Tensor(k.x)), (2, Binding::Tensor(k.out))],
        workgroups: [groups(k.height * k.width, WORKGROUP), k.channels as u32, k.batch as u32],
    }
}
