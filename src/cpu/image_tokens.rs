//! An image's pixels as tokens; the twin of `shaders/image_tokens.wgsl`.

use crate::plan::ImageTokens;

/// image `[batch, channels, pixels]`, out `[batch, pixels, channels]`.
pub fn image_tokens(image: &[f32], out: &mut [f32], s: &ImageTokens) {
    for b in 0..s.batch {
        for pixel in 0..s.pixels {
            for c in 0..s.channels {
                out[(b * s.pixels + pixel) * s.channels + c] = image[(b * s.channels + c) * s.pixels + pixel];
            }
        }
    }
}
