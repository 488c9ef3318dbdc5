//! Patches of images or clips to tokens: a convolution with kernel = stride = patch, plus bias and positions; the twin of
//! `shaders/patch_embed.wgsl`.

use crate::plan::PatchEmbed;

/// image: images or clips one after the other, w transposed `[channels depth size size, dim]`, bias `[dim]` or none, position the
/// whole table, out `[batch, tokens, dim]` from token `at` on; item b reads image `b mod images`.
pub fn patch_embed(
    image: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    position: Option<&[f32]>,
    out: &mut [f32],
    s: &PatchEmbed,
) {
    let (p, dim) = (&s.patches, s.dim);
    let [of_channel, of_frame] = p.strides();
    for b in 0..s.batch {
        let image = &image[(b % s.images) * p.values()..];
        for token in 0..p.count() {
            let [frame, top, left] = p.corner(token);
            let o = &mut out[(b * s.tokens + s.at + token) * dim..][..dim];
            match bias {
                Some(bias) => o.copy_from_slice(bias),
                None => o.fill(0.0),
            }
            for c in 0..p.channels {
                for t in 0..p.depth {
                    for y in 0..p.size {
                        for x in 0..p.size {
                            let line = c * of_channel + (frame + t) * of_frame + (top + y) * p.width;
                            let pixel = image[line + left + x];
                            let w_row = &w[(((c * p.depth + t) * p.size + y) * p.size + x) * dim..][..dim];
                            for d in 0..dim {
                                o[d] += pixel * w_row[d];
                            }
                        }
                    }
                }
            }
            if let (Some(position), Some(of)) = (position, s.position) {
                for d in 0..dim {
                    o[d] += position[of.row(token) * dim + d];
                }
            }
        }
    }
}
