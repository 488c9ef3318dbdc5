//! `shaders/patch_embed.wgsl`; twin: `src/cpu/patch_embed.rs`.

use super::{Binding, Launch, Variant, flag, groups, position_rule};
use crate::plan::PatchEmbed;

const WORKGROUP: usize = 16;
const PATCHES: usize = 8;

pub(super) fn variant(bias: bool, position: bool) -> Variant {
    Variant {
        kernel: "patch_embed",
        variables: vec![
            ("BIAS", flag(bias)),
            ("POSITION", flag(position)),
            ("PATCHES", PATCHES.to_string()),
            ("WORKGROUP", WORKGROUP.to_string()),
        ],
    }
}

pub(super) fn launch(k: &PatchEmbed) -> Launch {
    let dim4 = k.dim.div_ceil(4);
    let p = &k.patches;
    let [at, width, stride, inner] = position_rule(k.position);
    let [of_channel, of_frame] = p.strides();
    let of_image = [k.images, p.channels, p.height, p.width, p.size, k.tokens, k.at, dim4];
    let of_clip = [at, width, stride, inner, p.frames, p.depth, of_channel, of_frame];
    let mut bindings = vec![(1, Binding::Tensor(k.image)), (2, Binding::Weight(k.weight)), (5, Binding::Tensor(k.out))];
    bindings.extend(k.bias.map(|bias| (3, Binding::Weight(bias))));
    bindings.extend(k.position.map(|position| (4, Binding::Weight(position.table))));
    Launch {
        variant: variant(k.bias.is_some(), k.position.is_some()),
        params: bytemuck::cast_slice(&[of_image, of_clip].map(|values| values.map(|v| v as u32))).to_vec(),
        bindings,
        workgroups: [groups(dim4, WORKGROUP), groups(p.count(), PATCHES), k.batch as u32],
    }
}
