//! Tokens to an image, the channel fastest inside a patch; the twin of `shaders/unpatchify.wgsl`.

use crate::plan::Unpatchify;

/// x `[batch, tokens, patch patch channels]`, out `[batch, channels, height, width]`.
pub fn unpatchify(x: &[f32], out: &mut [f32], s: &Unpatchify) {
    let p = s.patch;
    let dim = p * p * s.channels;
    for b in 0..s.batch {
        for c in 0..s.channels {
            for row in 0..s.height {
                for column in 0..s.width {
                    let token = s.skip_tokens + (row / p) * (s.width / p) + column / p;
                    let within = ((row % p) * p + column % p) * s.channels + c;
                    out[((b * s.channels + c) * s.height + row) * s.width + column] =
                        x[(b * s.tokens + token) * dim + within];
                }
            }
        }
    }
}
