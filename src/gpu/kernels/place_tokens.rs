//! `shaders/place_tokens.wgsl`; twin: `src/cpu/place_tokens.rs`.

use super::{Binding, Launch, Variant, groups};
use crate::plan::PlaceTokens;

const WORKGROUP: usize = 64;

pub(super) fn variant() -> Variant {
    Variant { kernel: "place_tokens", variables: vec![("WORKGROUP", WORKGROUP.to_string())] }
}

pub(super) fn launch(k: &PlaceTokens) -> Launch {
    let dim4 = k.dim.div_ceil(4);
    let params = [k.count, k.tokens, dim4, k.at].map(|v| v as u32);
    Launch {
        variant: variant(),
        params: bytemuck::cast_slice(&params).to_vec(),
        bindings: vec![(1, Binding::Tensor(k.x)), (2, Binding::Weight(k.position)), (3, Binding::Tensor(k.out))],
        workgroups: [groups(dim4, WORKGROUP), k.count as u32, k.batch as u32],
    }
}
