//! `shaders/matmul.wgsl`; twin: `src/cpu/matmul.rs`.

use super::elementwise::{ACTIVATIONS, activation_name};
use super::{Binding, Launch, Tuning, Variant, WeightLayouts, groups};
use crate::gpu::pack::Storage;
use crate::plan::{Activation, Matmul};

const WORKGROUP: usize = 16;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    n4: u32,
    k4: u32,
    k4_second: u32,
    group4: u32,
    groups: u32,
    unused: [u32; 2],
}

/// Rows and vec4 columns that one invocation keeps in registers.
type Tile = (usize, usize);

/// Wide tiles pay where weights are cheap to load.
fn tile(storage: Storage, tuning: &Tuning) -> Tile {
    match storage {
        Storage::F32 | Storage::F16 => (8, 2),
        Storage::Q8 | Storage::Q4 => (tuning.matmul_rows, 4),
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
}

fn variant(kind: Kind, (rows, columns): Tile) -> Variant {
    let flag = |is: bool| u8::from(is).to_string();
    Variant {
        kernel: "matmul",
        variables: vec![
            ("WEIGHTS", kind.storage.name().into()),
            ("GROUPED", flag(kind.grouped)),
            ("SOURCES", if kind.two_sources { "2" } else { "1" }.into()),
            ("BIAS", flag(kind.bias)),
            ("ACTIVATION", activation_name(kind.activation).into()),
            ("RESIDUAL", flag(kind.residual)),
            ("ROWS", rows.to_string()),
            ("COLUMNS", columns.to_string()),
            ("WORKGROUP", WORKGROUP.to_string()),
        ],
    }
}

pub(super) fn variants(tuning: &Tuning) -> Vec<Variant> {
    let storages =
        [(Storage::F32, false), (Storage::F16, false), (Storage::Q8, false), (Storage::Q8, true), (Storage::Q4, true)];
    let mut all = Vec::new();
    for (storage, grouped) in storages {
        for activation in ACTIVATIONS {
            for flags in 0..8 {
                let [two_sources, bias, residual] = [1, 2, 4].map(|flag| flags & flag != 0);
                let kind = Kind { storage, grouped, two_sources, bias, activation, residual };
                all.push(variant(kind, tile(storage, tuning)));
            }
        }
    }
    all
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
    };
    let tile = tile(storage, tuning);
    let n4 = m.n.div_ceil(4);
    let params = Params {
        rows: m.rows as u32,
        n4: n4 as u32,
        k4: m.k.div_ceil(4) as u32,
        k4_second: m.k2.div_ceil(4) as u32,
        group4: group4 as u32,
        groups: scale_groups as u32,
        unused: [0; 2],
    };
    let mut bindings = vec![(1, Binding::Tensor(m.x)), (2, Binding::Weight(m.weight)), (6, Binding::Tensor(m.out))];
    bindings.extend(m.bias.map(|bias| (4, Binding::Weight(bias))));
    bindings.extend(m.residual.map(|residual| (5, Binding::Tensor(residual))));
    if matches!(storage, Storage::Q8 | Storage::Q4) {
        bindings.push((3, Binding::Scales(m.weight)));
    }
    if let Some(x2) = m.x2 {
        bindings.push((7, Binding::Tensor(x2)));
    }
    Launch {
        variant: variant(kind, tile),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings,
        workgroups: [groups(n4, tile.1 * WORKGROUP), groups(m.rows, tile.0), 1],
    }
}
