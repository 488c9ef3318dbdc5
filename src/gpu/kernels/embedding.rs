//! `shaders/embedding.wgsl`; twin: `src/cpu/embedding.rs`.

use super::{Binding, Launch, Variant, flag, groups, position_rule};
use crate::plan::Embedding;

const WORKGROUP: usize = 64;

pub(super) fn variant(index: bool, position: bool) -> Variant {
    let variables = vec![("INDEX", flag(index)), ("POSITION", flag(position)), ("WORKGROUP", WORKGROUP.to_string())];
    Variant { kernel: "embedding", variables }
}

pub(super) fn launch(k: &Embedding) -> Launch {
    let dim4 = k.dim.div_ceil(4);
    let [at, width, stride, inner] = position_rule(k.position);
    let params = [k.batch, k.tokens, dim4, k.at, k.rows, k.count, k.first, 0, at, width, stride, inner];
    let table = Binding::Rows(k.table, 4 * k.dim * k.first, 4 * k.dim * k.rows);
    let mut bindings = vec![(1, table), (4, Binding::Tensor(k.out))];
    bindings.extend(k.index.map(|index| (2, Binding::Tensor(index))));
    bindings.extend(k.position.map(|position| (3, Binding::Weight(position.table))));
    Launch {
        variant: variant(k.index.is_some(), k.position.is_some()),
        params: bytemuck::cast_slice(&params.map(|v| v as u32)).to_vec(),
        bindings,
        workgroups: [groups(dim4, WORKGROUP), (k.batch * k.count) as u32, 1],
    }
}
