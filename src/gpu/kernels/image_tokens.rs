//! `shaders/image_tokens.wgsl`; twin: `src/cpu/image_tokens.rs`.

use super::{Binding, Launch, Variant, folded};
use crate::plan::{ImageTokens, Program};

const WORKGROUP: usize = 64;

pub(super) fn variant() -> Variant {
    Variant { kernel: "image_tokens", variables: vec![("WORKGROUP", WORKGROUP.to_string())] }
}

pub(super) fn launch(k: &ImageTokens, program: &Program) -> Launch {
    let dim4 = program.view(k.out).row_stride / 4;
    let count = k.batch * k.pixels * dim4;
    let params = [count, k.channels, k.pixels, dim4].map(|v| v as u32);
    Launch {
        variant: variant(),
        params: bytemuck::cast_slice(&params).to_vec(),
        bindings: vec![(1, Binding::Tensor(k.image)), (2, Binding::Tensor(k.out))],
        workgroups: folded(count, WORKGROUP),
    }
}
