//! Image patches to tokens: a convolution with kernel = stride = patch, plus bias and positions; the twin of
//! `shaders/patch_embed.wgsl`.

use crate::plan::PatchEmbed;

/// image `[images, channels, height, width]`, w transposed `[channels patch patch, dim]`, bias `[dim]` or none,
/// position a row of `dim` a patch, out `[batch, tokens, dim]` from token `at` on; item b reads image `b mod images`.
pub fn patch_embed(
    image: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    position: Option<&[f32]>,
    out: &mut [f32],
    s: &PatchEmbed,
) {
    let (p, dim) = (s.patch, s.dim);
    let (rows, columns) = (s.height / p, s.width / p);
    for b in 0..s.batch {
        for token in 0..rows * columns {
            let (i, j) = (token / columns, token % columns);
            let o = &mut out[(b * s.tokens + s.at + token) * dim..][..dim];
            match bias {
                Some(bias) => o.copy_from_slice(bias),
                None => o.fill(0.0),
            }
            for c in 0..s.channels {
                for y in 0..p {
                    for x in 0..p {
                        let plane = (b % s.images) * s.channels + c;
                        let pixel = image[(plane * s.height + i * p + y) * s.width + j * p + x];
                        let w_row = &w[((c * p + y) * p + x) * dim..][..dim];
                        for d in 0..dim {
                            o[d] += pixel * w_row[d];
                        }
                    }
                }
            }
            if let Some(position) = position {
                for d in 0..dim {
                    o[d] += position[token * dim + d];
                }
            }
        }
    }
}
