//! `shaders/unpatchify.wgsl`; twin: `src/cpu/unpatchify.rs`.

use super::{Binding, Launch, Variant, groups};
use crate::plan::{Program, Unpatchify};

const WORKGROUP: usize = 64;

pub(super) fn variant() -> Variant {
    Variant { kernel: "unpatchify", variables: vec![("WORKGROUP", WORKGROUP.to_string())] }
}

pub(super) fn launch(k: &Unpatchify, program: &Program) -> Launch {
    let stride = program.view(k.x).row_stride;
    let p = &k.patches;
    let [of_channel, of_frame] = p.strides();
    let of_image = [p.channels, p.frames, p.height, p.width, p.size, p.depth, of_channel, of_frame];
    let of_tokens = [k.tokens, k.skip_tokens, stride, k.channels, k.first_channel, 0, 0, 0];
    Launch {
        variant: variant(),
        params: bytemuck::cast_slice(&[of_image, of_tokens].map(|values| values.map(|v| v as u32))).to_vec(),
        bindings: vec![(1, Binding::Tensor(k.x)), (2, Binding::Tensor(k.out))],
        workgroups: [groups(p.frames * p.height * p.width, WORKGROUP), p.channels as u32, k.batch as u32],
    }
}
