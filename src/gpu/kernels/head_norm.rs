//! `shaders/head_norm.wgsl`; twin: `src/cpu/head_norm.rs`.

use super::{Binding, Launch, Variant, folded};
use crate::plan::HeadNorm;

const WORKGROUP: usize = 64;

pub(super) fn variant() -> Variant {
    Variant { kernel: "head_norm", variables: vec![("WORKGROUP", WORKGROUP.to_string())] }
}

pub(super) fn launch(k: &HeadNorm) -> Launch {
    let count = k.batch * k.tokens * 3 * k.heads;
    let mut params = [count, k.heads, k.head_dim / 4, k.tokens, k.at, k.out_tokens, 0, 0].map(|v| v as u32);
    params[6] = k.eps.to_bits();
    let [queries, keys] = k.weights;
    Launch {
        variant: variant(),
        params: bytemuck::cast_slice(&params).to_vec(),
        bindings: vec![
            (1, Binding::Tensor(k.qkv)),
            (2, Binding::Weight(queries)),
            (3, Binding::Weight(keys)),
            (4, Binding::Tensor(k.out)),
        ],
        workgroups: folded(count, WORKGROUP),
    }
}
