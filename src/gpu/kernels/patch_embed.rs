//! `shaders/patch_embed.wgsl`; twin: `src/cpu/patch_embed.rs`.

use super::{Binding, Launch, Variant, groups};
use crate::plan::PatchEmbed;

const WORKGROUP: usize = 16;
const PATCHES: usize = 8;

pub(super) fn variant() -> Variant {
    Variant {
        kernel: "patch_embed",
        variables: vec![("PATCHES", PATCHES.to_string()), ("WORKGROUP", WORKGROUP.to_string())],
    }
}

pub(super) fn launch(k: &PatchEmbed) -> Launch {
    let dim4 = k.dim.div_ceil(4);
    let patches = (k.height / k.patch) * (k.width / k.patch);
    let params = [k.images, k.channels, k.height, k.width, k.patch, k.tokens, k.at, dim4].map(|v| v as u32);
    Launch {
        variant: variant(),
        params: bytemuck::cast_slice(&params).to_vec(),
        bindings: vec![
            (1, Binding::Tensor(k.image)),
            (2, Binding::Weight(k.weight)),
            (3, Binding::Weight(k.bias)),
            (4, Binding::Weight(k.position)),
            (5, Binding::Tensor(k.out)),
        ],
        workgroups: [groups(dim4, WORKGROUP), groups(patches, PATCHES), k.batch as u32],
    }
}
