//! `shaders/attention.wgsl`; twin: `src/cpu/attention.rs`.

use super::{Binding, Launch, Variant, groups};
use crate::json::{self, Fields, Read, Value, Write};
use crate::plan::{Attention, Program};

const WORKGROUP: usize = 16;

/// What one invocation keeps in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionTile {
    /// Queries of one head.
    pub queries: usize,
    /// Groups of four keys a turn.
    pub keys4: usize,
    /// Whether as many invocations of a subgroup load these groups for each other.
    pub shared: bool,
}

impl Read for AttentionTile {
    fn read(value: &Value) -> json::Result<AttentionTile> {
        let fields = Fields::of(value)?;
        Ok(AttentionTile {
            queries: fields.required("queries")?,
            keys4: fields.required("keys4")?,
            shared: fields.required("shared")?,
        })
    }
}

impl Write for AttentionTile {
    fn write(&self) -> Value {
        json::object([("queries", self.queries.into()), ("keys4", self.keys4.into()), ("shared", self.shared.into())])
    }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    tokens: u32,
    heads: u32,
    scale: f32,
    causal: u32,
    first: u32,
    end: u32,
    tiles: u32,
    groups: u32,
    apart: u32,
    step: u32,
    unused: [u32; 2],
}

/// For some head dims, which are nothing but a loop's length.
pub(super) fn variants(tile: AttentionTile) -> Vec<Variant> {
    let plain = [4, 10, 12, 64, 72, 128].map(|head_dim| variant(head_dim, tile, false));
    plain.into_iter().chain([16, 64, 128].map(|head_dim| variant(head_dim, tile, true))).collect()
}

fn variant(head_dim: usize, tile: AttentionTile, packed: bool) -> Variant {
    let odd = !head_dim.is_multiple_of(4);
    Variant {
        kernel: "attention",
        variables: vec![
            ("HEAD", (if odd { head_dim } else { head_dim / 4 }).to_string()),
            ("HEAD_DIM4", head_dim.div_ceil(4).to_string()),
            ("ODD", u8::from(odd).to_string()),
            ("QUERIES", tile.queries.to_string()),
            ("KEYS4", tile.keys4.to_string()),
            ("SHARED", u8::from(tile.shared).to_string()),
            ("PACKED", u8::from(packed).to_string()),
            ("WORKGROUP", WORKGROUP.to_string()),
        ],
    }
}

pub(super) fn launch(k: &Attention, program: &Program, tile: AttentionTile) -> Launch {
    let scale = 1.0 / (k.head_dim as f32).sqrt();
    let tiles = k.queries.div_ceil(tile.queries);
    let tiles = if tile.shared { tiles.next_multiple_of(WORKGROUP) } else { tiles };
    let (apart, step) = if k.strided { (1, k.groups) } else { (k.tokens, 1) };
    let params = Params {
        tokens: k.tokens as u32,
        heads: k.heads as u32,
        scale,
        causal: k.causal.into(),
        first: k.first as u32,
        end: (k.first + k.queries) as u32,
        tiles: tiles as u32,
        groups: k.groups as u32,
        apart: apart as u32,
        step: step as u32,
        unused: [0; 2],
    };
    Launch {
        variant: variant(k.head_dim, tile, program.view(k.out).packed),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![(1, Binding::Tensor(k.qkv)), (2, Binding::Tensor(k.out))],
        workgroups: [groups(k.groups * tiles, WORKGROUP), k.heads as u32, k.batch as u32],
    }
}
