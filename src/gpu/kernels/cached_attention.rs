//! `shaders/cached_attention.wgsl`; twin: `src/cpu/cached_attention.rs`.

use super::{Binding, Launch, Variant, groups};
use crate::plan::CachedAttention;

/// Few: there are only so many heads, and each works for long.
const WORKGROUP: usize = 8;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    tokens: u32,
    heads: u32,
    most: u32,
    scale: f32,
    unused: [u32; 3],
}

/// For some head dims, which are nothing but a loop's length.
pub(super) fn variants() -> Vec<Variant> {
    [4, 12, 64, 128].map(variant).into()
}

fn variant(head_dim: usize) -> Variant {
    let variables = vec![("HEAD_DIM4", (head_dim / 4).to_string()), ("WORKGROUP", WORKGROUP.to_string())];
    Variant { kernel: "cached_attention", variables }
}

pub(super) fn launch(k: &CachedAttention) -> Launch {
    let rows = k.batch * k.tokens;
    let params = Params {
        rows: rows as u32,
        tokens: k.tokens as u32,
        heads: k.heads as u32,
        most: k.most as u32,
        scale: 1.0 / (k.head_dim as f32).sqrt(),
        unused: [0; 3],
    };
    let tensors = [k.qkv, k.cache, k.places, k.positions, k.out];
    Launch {
        variant: variant(k.head_dim),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: (1..).zip(tensors.map(Binding::Tensor)).collect(),
        workgroups: [groups(rows * k.heads, WORKGROUP), 1, 1],
    }
}
