//! Tokens copied from place to place, plus their positions; the twin of `shaders/copy_tokens.wgsl`.

use crate::plan::CopyTokens;

/// x `[batch, x_tokens, dim]` from token `x_at` on, out `[batch, out_tokens, dim]` from token `out_at` on; position the whole table.
pub fn copy_tokens(x: &[f32], position: Option<&[f32]>, out: &mut [f32], s: &CopyTokens) {
    let dim = s.dim;
    for b in 0..s.batch {
        for t in 0..s.count {
            let o = &mut out[(b * s.out_tokens + s.out_at + t) * dim..][..dim];
            o.copy_from_slice(&x[(b * s.x_tokens + s.x_at + t) * dim..][..dim]);
            if let (Some(position), Some(of)) = (position, s.position) {
                for d in 0..dim {
                    o[d] += position[of.row(t) * dim + d];
                }
            }
        }
    }
}
