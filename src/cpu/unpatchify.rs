//! Tokens to images or clips, the channel fastest inside a patch; the twin of `shaders/unpatchify.wgsl`.

use crate::plan::Unpatchify;

/// x `[batch, tokens, depth size size channels]`, out: images or clips one after the other, of the channels from `first_channel` on.
pub fn unpatchify(x: &[f32], out: &mut [f32], s: &Unpatchify) {
    let p = &s.patches;
    let [of_channel, of_frame] = p.strides();
    let dim = p.pixels() * s.channels;
    for b in 0..s.batch {
        let tokens = &x[(b * s.tokens + s.skip_tokens) * dim..];
        for (k, token) in tokens.chunks_exact(dim).take(p.count()).enumerate() {
            let [frame, top, left] = p.corner(k);
            for (i, pixel) in token.chunks_exact(s.channels).enumerate() {
                let (t, y, x) = (i / p.size / p.size, i / p.size % p.size, i % p.size);
                let at = b * p.values() + (frame + t) * of_frame + (top + y) * p.width + left + x;
                for (c, &v) in pixel[s.first_channel..][..p.channels].iter().enumerate() {
                    out[at + c * of_channel] = v;
                }
            }
        }
    }
}
