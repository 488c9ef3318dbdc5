//! `shaders/matmul.wgsl`; twin: `src/cpu/matmul.rs`.

use super::{Binding, Launch, Tuning, Variant, WeightLayouts, groups};
use crate::gpu::pack::Storage;
use crate::plan::Matmul;

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
    activation: u32,
    flags: u32,
}

/// Rows and vec4 columns that one invocation keeps in registers.
type Tile = (usize, usize);

/// All tiles of a storage: wide ones pay where weights are cheap to load.
fn tiles(storage: Storage, heights: &[usize]) -> impl Iterator<Item = Tile> {
    let is_wide = matches!(storage, Storage::Q8 | Storage::Q4);
    let heights = if is_wide { heights } else { &[8] };
    heights.iter().map(move |&rows| (rows, if is_wide { 4 } else { 2 }))
}

fn variant(storage: Storage, grouped: bool, sources: usize, (rows, columns): Tile) -> Variant {
    Variant {
        kernel: "matmul",
        variables: vec![
            ("WEIGHTS", storage.name().into()),
            ("GROUPED", u8::from(grouped).to_string()),
            ("SOURCES", sources.to_string()),
            ("ROWS", rows.to_string()),
            ("COLUMNS", columns.to_string()),
            ("WORKGROUP", WORKGROUP.to_string()),
        ],
    }
}

pub(super) fn variants() -> impl Iterator<Item = Variant> {
    let kinds =
        [(Storage::F32, false), (Storage::F16, false), (Storage::Q8, false), (Storage::Q8, true), (Storage::Q4, true)];
    kinds.into_iter().flat_map(|(storage, grouped)| {
        tiles(storage, Tuning::MATMUL_ROWS)
            .flat_map(move |tile| [1, 2].map(|sources| variant(storage, grouped, sources, tile)))
    })
}

pub(super) fn launch(m: &Matmul, weights: &dyn WeightLayouts, tuning: &Tuning) -> Launch {
    let (storage, group4, scale_groups) = weights.layout(m.weight);
    let grouped = storage == Storage::Q4 || (storage == Storage::Q8 && scale_groups > 1);
    // The one with the fewest rows beyond the matrix.
    let tile = tiles(storage, tuning.matmul_rows).min_by_key(|tile| m.rows.next_multiple_of(tile.0)).unwrap_or((8, 2));
    let n4 = m.n.div_ceil(4);
    let params = Params {
        rows: m.rows as u32,
        n4: n4 as u32,
        k4: m.k.div_ceil(4) as u32,
        k4_second: m.k2.div_ceil(4) as u32,
        group4: group4 as u32,
        groups: scale_groups as u32,
        activation: super::elementwise::activation_number(m.activation),
        flags: u32::from(m.bias.is_some()) | u32::from(m.residual.is_some()) << 1,
    };
    let mut bindings = vec![
        (1, Binding::Tensor(m.x)),
        (2, Binding::Weight(m.weight)),
        (4, m.bias.map_or(Binding::NoRead, Binding::Weight)),
        (5, m.residual.map_or(Binding::NoWrite, Binding::Tensor)),
        (6, Binding::Tensor(m.out)),
    ];
    if matches!(storage, Storage::Q8 | Storage::Q4) {
        bindings.push((3, Binding::Scales(m.weight)));
    }
    if let Some(x2) = m.x2 {
        bindings.push((7, Binding::Tensor(x2)));
    }
    Launch {
        variant: variant(storage, grouped, 1 + usize::from(m.x2.is_some()), tile),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings,
        workgroups: [groups(n4, tile.1 * WORKGROUP), groups(m.rows, tile.0), 1],
    }
}
