//! `activation((x - mean) scale + bias)`; the twin of `shaders/group_norm.wgsl`.

use super::activate;
use crate::plan::GroupNorm;

/// x and out `[batch, tokens, dim]`, scales `[batch, 2, dim]` (means, then scales), bias `[dim]`.
pub fn group_norm(x: &[f32], scales: &[f32], bias: &[f32], out: &mut [f32], s: &GroupNorm) {
    for b in 0..s.batch {
        for token in 0..s.tokens {
            for c in 0..s.dim {
                let at = (b * s.tokens + token) * s.dim + c;
                let [mean, scale] = [0, 1].map(|row| scales[(b * 2 + row) * s.dim + c]);
                out[at] = activate(s.activation, (x[at] - mean) * scale + bias[c]);
            }
        }
    }
}
