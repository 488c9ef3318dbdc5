//! Moments of every channel over slices of tokens; the twin of `shaders/group_moments.wgsl`.

use crate::plan::GroupMoments;

/// x `[batch, tokens, dim]`, out `[batch, 2 slices, dim]`, of which those from `first` on are written: a slice's means, then its
/// sums of squared differences from them.
pub fn group_moments(x: &[f32], out: &mut [f32], s: &GroupMoments) {
    for b in 0..s.batch {
        for slice in 0..s.tokens.div_ceil(s.slice) {
            let tokens = slice * s.slice..s.tokens.min((slice + 1) * s.slice);
            for c in 0..s.dim {
                let at = |token: usize| x[(b * s.tokens + token) * s.dim + c];
                let mean = tokens.clone().map(at).sum::<f32>() / tokens.len() as f32;
                let squares = tokens.clone().map(|token| (at(token) - mean) * (at(token) - mean)).sum::<f32>();
                let row = 2 * (b * s.slices + s.first + slice);
                out[row * s.dim + c] = mean;
                out[(row + 1) * s.dim + c] = squares;
            }
        }
    }
}
