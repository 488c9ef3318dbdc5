//! Tokens copied from place to place, plus their positions; the twin of `shaders/copy_tokens.wgsl`.

use crate::plan::CopyTokens;

/// x `[batch, x_tokens, dim]` from token `x_at` on, out `[batch, out_tokens, dim]` from token `out_at` on; position: rows of
/// `dim`, the first for the first token.
pub fn copy_tokens(x: &[f32], position: Option<&[f32]>, out: &mut [f32], s: &CopyTokens) {
    for b in 0..s.batch {
        for t in 0..s.count {
            for d in 0..s.dim {
                let added = position.map_or(0.0, |position| position[t * s.dim + d]);
                out[(b * s.out_tokens + s.out_at + t) * s.dim + d] =
                    x[(b * s.x_tokens + s.x_at + t) * s.dim + d] + added;
            }
        }
    }
}
