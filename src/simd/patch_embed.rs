//! Patches through a convolution with kernel = stride, as a matmul over the patches' pixels.

use super::isa::Level;
use super::lines::Lines;
use super::matmul::{Finish, f32_matmul};
use super::pack::{F32Matrix, Floats};
use super::threads::Threads;
use crate::{Activation, PatchShape};

/// image `[images, channels, height, width]`, w `[dim, channels patch patch]`, bias `[dim]` or none, position a row of `dim` a
/// patch, out `[batch, tokens, dim]` from token `at` on; `pixels` is scratch.
pub fn patch_embed(
    level: Level,
    threads: &Threads,
    image: &[f32],
    w: &F32Matrix,
    bias: Option<&Floats>,
    position: Option<&[f32]>,
    out: &mut [f32],
    pixels: &mut Lines<f32>,
    s: &PatchShape,
) {
    let (rows, columns, patch) = (s.height / s.patch, s.width / s.patch, s.patch);
    let features = s.channels * patch * patch;
    pixels.resize(rows * columns * features);
    for item in 0..s.batch {
        let image = &image[(item % s.images) * s.channels * s.height * s.width..];
        for (i, pixels) in pixels.chunks_exact_mut(features).enumerate() {
            let (top, left) = (i / columns * patch, i % columns * patch);
            for (line, pixels) in pixels.chunks_exact_mut(patch).enumerate() {
                let (channel, y) = (line / patch, line % patch);
                let from = (channel * s.height + top + y) * s.width + left;
                pixels.copy_from_slice(&image[from..from + patch]);
            }
        }
        let span = s.at * s.dim..(s.at + rows * columns) * s.dim;
        let finish = Finish { bias, activation: Activation::None, gate: None, residual: position, coarse: false };
        let out = &mut out[item * s.tokens * s.dim..][span];
        f32_matmul(level, threads, (pixels, features), (&[], 0), w, finish, out);
    }
}
