//! `shaders/matmul.wgsl`; twin: `src/cpu/matmul.rs`.

use super::elementwise::{ACTIVATIONS, activation_name};
use super::{Binding, Launch, Tuning, Variant, WeightLayouts, groups};
use crate::gpu::pack::Storage;
use crate::json::{self, Fields, Read, Value, Write};
use crate::plan::{Activation, Arithmetic, Matmul, SizeClass};

const WORKGROUP: usize = 16;
/// The template's names, for as many groups as a tile may have ([`MatmulTile::is_unrolled`]).
const LANES_OF_GROUP: [&str; 16] = [
    "LANES_0", "LANES_1", "LANES_2", "LANES_3", "LANES_4", "LANES_5", "LANES_6", "LANES_7", "LANES_8", "LANES_9",
    "LANES_10", "LANES_11", "LANES_12", "LANES_13", "LANES_14", "LANES_15",
];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    n4: u32,
    k4: u32,
    k4_second: u32,
    group4: u32,
    groups: u32,
    skip: u32,
    first: u32,
}

/// What one invocation keeps in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatmulTile {
    /// Rows.
    pub rows: usize,
    /// Invocations of a subgroup that load rows for each other, at most its smallest size.
    pub lanes: usize,
    /// vec4 columns.
    pub columns: usize,
    /// 0, or the side of the square of invocations that share workgroup memory; then `lanes` is 1.
    pub tile: usize,
}

impl Read for MatmulTile {
    fn read(value: &Value) -> json::Result<MatmulTile> {
        let fields = Fields::of(value)?;
        Ok(MatmulTile {
            rows: fields.required("rows")?,
            lanes: fields.required("lanes")?,
            columns: fields.required("columns")?,
            tile: fields.required("tile")?,
        })
    }
}

impl Write for MatmulTile {
    fn write(&self) -> Value {
        json::object([
            ("rows", self.rows.into()),
            ("lanes", self.lanes.into()),
            ("columns", self.columns.into()),
            ("tile", self.tile.into()),
        ])
    }
}

impl MatmulTile {
    /// Rows without help from other invocations.
    pub const fn alone(rows: usize, columns: usize) -> MatmulTile {
        MatmulTile { rows, lanes: 1, columns, tile: 0 }
    }

    /// Rows that others load.
    pub const fn shared(rows: usize, lanes: usize, columns: usize) -> MatmulTile {
        MatmulTile { rows, lanes, columns, tile: 0 }
    }

    /// In squares of `tile` x `tile` with workgroup memory.
    pub const fn tiled(rows: usize, columns: usize, tile: usize) -> MatmulTile {
        MatmulTile { rows, lanes: 1, columns, tile }
    }

    /// Whether the shader's template can write it out.
    pub fn is_unrolled(&self) -> bool {
        let some = self.rows > 0 && self.lanes > 0 && self.columns > 0;
        some && self.rows.div_ceil(self.lanes) <= LANES_OF_GROUP.len()
    }

    /// Rows and vec4 columns of a workgroup.
    fn of_workgroup(&self) -> (usize, usize) {
        match self.tile {
            0 => (self.rows, self.columns * WORKGROUP),
            tile => (self.rows * tile, self.columns * tile),
        }
    }
}

/// Wide tiles pay where weights are cheap to load.
fn tile(storage: Storage, tuning: &Tuning, size: SizeClass) -> MatmulTile {
    match tuning.matmul_of(size) {
        MatmulTile { rows, columns, tile: 0, .. } if matches!(storage, Storage::F32 | Storage::F16) => {
            MatmulTile::alone(rows.min(8), columns.min(2))
        }
        tile => tile,
    }
}

/// What a shader is compiled for: an epilogue that decides at run time costs a fifth of the time on software adapters, and
/// two thirds of the compilation.
#[derive(Clone, Copy)]
struct Kind {
    storage: Storage,
    grouped: bool,
    two_sources: bool,
    bias: bool,
    activation: Activation,
    residual: bool,
    gate: bool,
    span: bool,
    half: bool,
    window: bool,
}

fn variant(kind: Kind, tile: MatmulTile) -> Variant {
    let flag = |is: bool| u8::from(is).to_string();
    let group_count = tile.rows.div_ceil(tile.lanes);
    let mut variant = Variant {
        kernel: "matmul",
        variables: vec![
            ("WEIGHTS", kind.storage.name().into()),
            ("GROUPED", flag(kind.grouped)),
            ("SOURCES", if kind.two_sources { "2" } else { "1" }.into()),
            ("WINDOW", flag(kind.window)),
            ("BIAS", flag(kind.bias)),
            ("ACTIVATION", activation_name(kind.activation).into()),
            ("RESIDUAL", flag(kind.residual)),
            ("GATE", flag(kind.gate)),
            ("SPAN", flag(kind.span)),
            ("ITEMS", flag(kind.gate || kind.span)),
            ("HALF", flag(kind.half)),
            ("FLOAT4", if kind.half { "vec4<f16>" } else { "vec4f" }.into()),
            ("MATRIX", if kind.half { "mat4x4<f16>" } else { "mat4x4f" }.into()),
            ("ROWS", tile.rows.to_string()),
            ("GROUPS", group_count.to_string()),
            ("LANES", tile.lanes.to_string()),
            ("SHARED", flag(tile.lanes > 1)),
            ("TILED", flag(tile.tile > 0)),
            ("TILE", tile.tile.to_string()),
            ("COLUMNS", tile.columns.to_string()),
            ("WORKGROUP", WORKGROUP.to_string()),
        ],
    };
    let sizes = (0..group_count).map(|g| tile.lanes.min(tile.rows - g * tile.lanes).to_string());
    variant.variables.extend(LANES_OF_GROUP.into_iter().zip(sizes));
    variant
}

pub(super) fn variants(tuning: &Tuning, half: bool) -> Vec<Variant> {
    let storages =
        [(Storage::F32, false), (Storage::F16, false), (Storage::Q8, false), (Storage::Q8, true), (Storage::Q4, true)];
    let mut all = Vec::new();
    for (storage, grouped) in storages {
        for activation in ACTIVATIONS {
            for (two_sources, window, gate, span) in [
                (false, false, false, false),
                (true, false, false, false),
                (false, true, false, false),
                (false, false, false, true),
                (false, false, true, false),
                (true, false, true, false),
                (false, false, true, true),
            ] {
                // Those two and activations know nothing of each other.
                if (gate || span) && activation != Activation::None {
                    continue;
                }
                for [bias, residual] in [[false, false], [true, false], [false, true], [true, true]] {
                    if gate && !residual {
                        continue;
                    }
                    let kind =
                        Kind { storage, grouped, two_sources, bias, activation, residual, gate, span, half, window };
                    all.extend(SizeClass::ALL.map(|size| variant(kind, tile(storage, tuning, size))));
                }
            }
        }
    }
    all
}

/// Tokens of an item, its gates, and which tokens are read and written: as shaders have it.
pub(super) fn of_items(m: &Matmul) -> [u32; 7] {
    let (at, channels) = m.gate.map_or((0, 0), |gate| (gate.at / 4, gate.channels.div_ceil(4)));
    let span = m.span.map_or([0; 4], |span| [span.x_at, span.x_tokens, span.out_at, span.out_tokens]);
    [m.tokens, at, channels, span[0], span[1], span[2], span[3]].map(|v| v as u32)
}

pub(super) fn launch(m: &Matmul, weights: &dyn WeightLayouts, tuning: &Tuning) -> Launch {
    let (storage, group4, scale_groups) = weights.layout(m.weight);
    let grouped = storage == Storage::Q4 || (storage == Storage::Q8 && scale_groups > 1);
    let kind = Kind {
        storage,
        grouped,
        two_sources: m.x2.is_some(),
        bias: m.bias.is_some(),
        activation: m.activation,
        residual: m.residual.is_some(),
        gate: m.gate.is_some(),
        span: m.span.is_some(),
        half: m.arithmetic == Arithmetic::F16,
        window: m.window.is_some(),
    };
    let tile = tile(storage, tuning, m.size);
    let (tile_rows, tile_columns) = tile.of_workgroup();
    let n4 = m.n.div_ceil(4);
    let params = Params {
        rows: m.rows as u32,
        n4: n4 as u32,
        k4: m.k.div_ceil(4) as u32,
        k4_second: m.k2.div_ceil(4) as u32,
        group4: group4 as u32,
        groups: scale_groups as u32,
        skip: m.window.map_or(0, |window| window.skip as u32),
        first: m.first as u32,
    };
    let mut bindings = vec![(1, Binding::Tensor(m.x)), (2, Binding::Weight(m.weight)), (6, Binding::Tensor(m.out))];
    bindings.extend(m.bias.map(|bias| (4, Binding::Weight(bias))));
    bindings.extend(m.residual.map(|residual| (5, Binding::Tensor(residual))));
    bindings.extend(m.gate.map(|gate| (8, Binding::Tensor(gate.vector))));
    if matches!(storage, Storage::Q8 | Storage::Q4) {
        bindings.push((3, Binding::Scales(m.weight)));
    }
    if let Some(x2) = m.x2 {
        bindings.push((7, Binding::Tensor(x2)));
    }
    let mut params = bytemuck::bytes_of(&params).to_vec();
    if let Some(w) = m.window {
        let doubled = usize::from(w.upsample == 2);
        let of_window = [w.height, w.width, w.out_width, w.pixels(), w.stride, w.padding, doubled, 0];
        params.extend_from_slice(bytemuck::cast_slice(&of_window.map(|v| v as u32)));
    }
    if kind.gate || kind.span {
        params.extend_from_slice(bytemuck::cast_slice(&of_items(m)));
        params.extend_from_slice(&[0; 4]);
    }
    Launch {
        variant: variant(kind, tile),
        params,
        bindings,
        workgroups: [groups(n4, tile_columns), groups(m.rows, tile_rows), 1],
    }
}
