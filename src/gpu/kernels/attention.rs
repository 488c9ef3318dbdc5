//! `shaders/attention.wgsl`; twin: `src/cpu/attention.rs`.

use super::{Binding, Launch, Variant, groups};
use crate::plan::Attention;

const WORKGROUP: usize = 16;
const QUERIES: usize = 2;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    tokens: u32,
    heads: u32,
    scale: f32,
    unused: u32,
}

pub(super) fn variant(head_dim: usize) -> Variant {
    Variant {
        kernel: "attention",
        variables: vec![
            ("HEAD_DIM4", (head_dim / 4).to_string()),
            ("QUERIES", QUERIES.to_string()),
            ("WORKGROUP", WORKGROUP.to_string()),
        ],
    }
}

pub(super) fn launch(k: &Attention) -> Launch {
    let params =
        Params { tokens: k.tokens as u32, heads: k.heads as u32, scale: 1.0 / (k.head_dim as f32).sqrt(), unused: 0 };
    Launch {
        variant: variant(k.head_dim),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![(1, Binding::Tensor(k.qkv)), (2, Binding::Tensor(k.out))],
        workgroups: [groups(k.tokens, QUERIES * WORKGROUP), k.heads as u32, k.batch as u32],
    }
}
