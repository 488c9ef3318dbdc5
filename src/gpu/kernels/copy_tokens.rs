//! `shaders/copy_tokens.wgsl`; twin: `src/cpu/copy_tokens.rs`.

use super::{Binding, Launch, Variant, flag, groups};
use crate::plan::CopyTokens;

const WORKGROUP: usize = 64;

pub(super) fn variant(position: bool) -> Variant {
    let variables = vec![("POSITION", flag(position)), ("WORKGROUP", WORKGROUP.to_string())];
    Variant { kernel: "copy_tokens", variables }
}

pub(super) fn launch(k: &CopyTokens) -> Launch {
    let dim4 = k.dim.div_ceil(4);
    let position_at = k.position.map_or(0, |position| position.at);
    let params = [k.x_tokens, k.x_at, k.out_tokens, k.out_at, dim4, position_at, 0, 0].map(|v| v as u32);
    let mut bindings = vec![(1, Binding::Tensor(k.x)), (2, Binding::Tensor(k.out))];
    bindings.extend(k.position.map(|position| (3, Binding::Weight(position.table))));
    Launch {
        variant: variant(k.position.is_some()),
        params: bytemuck::cast_slice(&params).to_vec(),
        bindings,
        workgroups: [groups(dim4, WORKGROUP), k.count as u32, k.batch as u32],
    }
}
