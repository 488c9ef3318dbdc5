//! `shaders/write_cache.wgsl`; twin: `src/cpu/write_cache.rs`.

use super::{Binding, Launch, Variant, groups};
use crate::plan::WriteCache;

const WORKGROUP: usize = 64;

pub(super) fn variant() -> Variant {
    Variant { kernel: "write_cache", variables: vec![("WORKGROUP", WORKGROUP.to_string())] }
}

pub(super) fn launch(k: &WriteCache) -> Launch {
    let dim4 = k.dim / 4;
    Launch {
        variant: variant(),
        params: bytemuck::cast_slice(&[dim4 as u32, 0, 0, 0]).to_vec(),
        bindings: vec![(1, Binding::Tensor(k.qkv)), (2, Binding::Tensor(k.places)), (3, Binding::Tensor(k.out))],
        workgroups: [groups(2 * dim4, WORKGROUP), (k.batch * k.tokens) as u32, 1],
    }
}
