//! Moments to every channel's mean and scale; the twin of `shaders/group_scales.wgsl`.

use crate::plan::GroupScales;

/// moments as [`super::group_moments`] makes them, weight `[dim]`, out `[batch, 2, dim]`: the mean over a channel's group, and
/// `weight / sqrt(var + eps)`.
pub fn group_scales(moments: &[f32], weight: &[f32], out: &mut [f32], s: &GroupScales) {
    let (of_group, slices) = (s.dim / s.groups, s.tokens.div_ceil(s.slice));
    for b in 0..s.batch {
        for group in 0..s.groups {
            let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
            for slice in 0..slices {
                let more = s.slice.min(s.tokens - slice * s.slice) as f32;
                for c in group * of_group..(group + 1) * of_group {
                    let at = (b * slices + slice) * 2 * s.dim + c;
                    let off = moments[at] - mean;
                    mean += off * (more / (count + more));
                    squares += moments[at + s.dim] + off * off * (count * more / (count + more));
                    count += more;
                }
            }
            let scale = 1.0 / (squares / count + s.eps).sqrt();
            for c in group * of_group..(group + 1) * of_group {
                out[b * 2 * s.dim + c] = mean;
                out[(b * 2 + 1) * s.dim + c] = scale * weight[c];
            }
        }
    }
}
