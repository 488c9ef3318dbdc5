//! `shaders/conv2d.wgsl`; twin: `src/cpu/conv2d.rs`.

use super::{Binding, Launch, Variant, groups};
use crate::plan::Conv2d;

const WORKGROUP: usize = 16;
/// Neighbouring pixels that an invocation computes.
const PIXELS: usize = 4;

pub(super) fn variant() -> Variant {
    Variant { kernel: "conv2d", variables: vec![("WORKGROUP", WORKGROUP.to_string())] }
}

pub(super) fn launch(k: &Conv2d) -> Launch {
    let params = [k.in_channels, k.out_channels, k.height, k.width, k.frames, 0, 0, 0].map(|v| v as u32);
    Launch {
        variant: variant(),
        params: bytemuck::cast_slice(&params).to_vec(),
        bindings: vec![
            (1, Binding::Tensor(k.x)),
            (2, Binding::Weight(k.weight)),
            (3, Binding::Weight(k.bias)),
            (4, Binding::Tensor(k.out)),
        ],
        workgroups: [
            groups(k.height * k.width.div_ceil(PIXELS), WORKGROUP),
            k.out_channels as u32,
            (k.batch * k.frames) as u32,
        ],
    }
}
