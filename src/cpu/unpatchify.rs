//! Tokens to an image, the channel fastest inside a patch; the twin of `shaders/unpatchify.wgsl`.

use crate::plan::Unpatchify;

/// x `[batch, tokens, patch patch channels]`, out `[batch, channels, height, width]`.
pub fn unpatchify(x: &[f32], out: &mut [f32], s: &Unpatchify) {
    let (patch, size) = (s.patch, s.height * s.width);
    let dim = patch * patch * s.channels;
    let columns = s.width / patch;
    for b in 0..s.batch {
        let tokens = &x[(b * s.tokens + s.skip_tokens) * dim..];
        for (k, token) in tokens.chunks_exact(dim).take(s.height / patch * columns).enumerate() {
            let (top, left) = (k / columns * patch, k % columns * patch);
            for (i, pixel) in token.chunks_exact(s.channels).enumerate() {
                let at = (top + i / patch) * s.width + left + i % patch;
                for (c, &v) in pixel.iter().enumerate() {
                    out[(b * s.channels + c) * size + at] = v;
                }
            }
        }
    }
}
