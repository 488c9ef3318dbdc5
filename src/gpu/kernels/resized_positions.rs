//! `shaders/resized_positions.wgsl`; twin: `src/cpu/resized_positions.rs`.

use super::{Binding, Launch, Variant, groups, position_rule};
use crate::plan::ResizedPositions;

const WORKGROUP: usize = 64;

pub(super) fn variant() -> Variant {
    Variant { kernel: "resized_positions", variables: vec![("WORKGROUP", WORKGROUP.to_string())] }
}

pub(super) fn launch(k: &ResizedPositions) -> Launch {
    let dim4 = k.dim.div_ceil(4);
    let ([from_rows, from_columns], [rows, columns]) = (k.from, k.to);
    let [at, width, stride, inner] = position_rule(Some(k.position));
    let params = [from_rows, from_columns, rows, columns, k.tokens, k.at, dim4, k.batch, at, width, stride, inner]
        .map(|v| v as u32);
    Launch {
        variant: variant(),
        params: bytemuck::cast_slice(&params).to_vec(),
        bindings: vec![(1, Binding::Weight(k.position.table)), (2, Binding::Tensor(k.out))],
        workgroups: [groups(dim4, WORKGROUP), (rows * columns) as u32, 1],
    }
}
