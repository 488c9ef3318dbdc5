//! `shaders/patch_embed.wgsl`; twin: `src/cpu/patch_embed.rs`.

use super::{Binding, Launch, Variant, flag, groups};
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
    let patches = (k.height / k.patch) * (k.width / k.patch);
    let position_at = k.position.map_or(0, |position| position.at);
    let params = [k.images, k.channels, k.height, k.width, k.patch, k.tokens, k.at, dim4, position_at, 0, 0, 0];
    let mut bindings = vec![(1, Binding::Tensor(k.image)), (2, Binding::Weight(k.weight)), (5, Binding::Tensor(k.out))];
    bindings.extend(k.bias.map(|bias| (3, Binding::Weight(bias))));
    bindings.extend(k.position.map(|position| (4, Binding::Weight(position.table))));
    Launch {
        variant: variant(k.bias.is_some(), k.position.is_some()),
        params: bytemuck::cast_slice(&params.map(|v| v as u32)).to_vec(),
        bindings,
        workgroups: [groups(dim4, WORKGROUP), groups(patches, PATCHES), k.batch as u32],
    }
}
