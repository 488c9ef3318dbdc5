//! Patches through a convolution with kernel = stride, as a matmul over the patches' pixels.

use super::isa::Level;
use super::lines::Lines;
use super::matmul::{Finish, f32_matmul};
use super::pack::{F32Matrix, Floats};
use super::threads::Threads;
use crate::{Activation, PatchShape};

/// image: clips one after the other, w `[dim, (channel, frame, row, column of a patch)]`, bias `[dim]` or none, position a row of
/// `dim` a patch, out `[batch, tokens, dim]` from token `at` on; `pixels` is scratch.
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
    let p = &s.patches;
    let [of_channel, of_frame] = p.strides();
    let (count, size, features) = (p.count(), p.size, p.channels * p.pixels());
    pixels.resize(count * features);
    for item in 0..s.batch {
        let image = &image[(item % s.images) * p.values()..];
        for (i, pixels) in pixels.chunks_exact_mut(features).enumerate() {
            let [frame, top, left] = p.corner(i);
            for (line, pixels) in pixels.chunks_exact_mut(size).enumerate() {
                let (channel, t, y) = (line / size / p.depth, line / size % p.depth, line % size);
                let from = channel * of_channel + (frame + t) * of_frame + (top + y) * p.width + left;
                pixels.copy_from_slice(&image[from..from + size]);
            }
        }
        let span = s.at * s.dim..(s.at + count) * s.dim;
        let finish = Finish { bias, activation: Activation::None, gate: None, residual: position, coarse: false };
        let out = &mut out[item * s.tokens * s.dim..][span];
        f32_matmul(level, threads, (pixels, features), (&[], 0), w, finish, out);
    }
}
