//! Tokens from a table, plus their positions if they have some; the twin of `shaders/embedding.wgsl`.

use crate::plan::Embedding;

/// table `[rows, dim]`, which are rows `first ..` of the whole one, index `[batch, count]` (u32 bits), position the whole table of
/// positions, out `[batch, tokens, dim]`. Tokens of other rows are left as they are; without index all are row 0. Callers refuse
/// indices beyond the table before.
pub fn embedding(table: &[f32], index: Option<&[f32]>, position: Option<&[f32]>, out: &mut [f32], s: &Embedding) {
    let dim = s.dim;
    for b in 0..s.batch {
        for i in 0..s.count {
            let row = index.map_or(0, |index| index[b * s.count + i].to_bits() as usize).wrapping_sub(s.first);
            if row >= s.rows {
                continue;
            }
            let o = &mut out[(b * s.tokens + s.at + i) * dim..][..dim];
            o.copy_from_slice(&table[row * dim..][..dim]);
            if let (Some(position), Some(of)) = (position, s.position) {
                for d in 0..dim {
                    o[d] += position[of.row(i) * dim + d];
                }
            }
        }
    }
}
