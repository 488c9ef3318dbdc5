//! `shaders/copy_tokens.wgsl`; twin: `src/cpu/copy_tokens.rs`.

use super::{Binding, Launch, Variant, flag, groups, position_rule};
use crate::plan::CopyTokens;

const WORKGROUP: usize = 64;

pub(super) fn variant(position: bool) -> Variant {
    let variables = vec![("POSITION", flag(position)), ("WORKGROUP", WORKGROUP.to_string())];
    Variant { kernel: "copy_tokens", variables }
}

pub(super) fn launch(k: &CopyTokens) -> Launch {
    let dim4 = k.dim.div_ceil(4);
    let [at, width, stride, inner] = position_rule(k.position);
    let params = [k.x_tokens, k.x_at, k.out_tokens, k.out_at, dim4, 0, 0, 0, at, width, stride, inner];
    let mut bindings = vec![(1, Binding::Tensor(k.x)), (2, Binding::Tensor(k.out))];
    bindings.extend(k.position.map(|position| (3, Binding::Weight(position.table))));
    Launch {
        variant: variant(k.position.is_some()),
        params: bytemuck::cast_slice(&params.map(|v| v as u32)).to_vec(),
        bindings,
        workgroups: [groups(dim4, WORKGROUP), k.count as u32, k.batch as u32],
    }
}
