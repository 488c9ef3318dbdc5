//! 3x3 convolution, padding 1, over planes with a border of zeros.

use super::isa::{Isa, Level, kernels};
use super::lines::Lines;
use super::threads::{Shared, Threads};
use crate::Conv2dShape;

/// Columns to the right of a row and its border that a vector may read.
const SLACK: usize = 16;

/// x `[batch, in, frames, height, width]`, weight `[out, in, 3, 3]`, bias `[out]`, out `[batch, out, frames, height, width]`;
/// `padded` is scratch.
pub fn conv2d(
    level: Level,
    threads: &Threads,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    out: &mut [f32],
    padded: &mut Lines<f32>,
    s: &Conv2dShape,
) {
    let (size, stride) = (s.height * s.width, s.width + 2 + SLACK);
    let (plane_size, planes) = ((s.height + 2) * stride, s.batch * s.frames);
    assert!(size > 0 && x.len() >= planes * s.in_channels * size && out.len() >= planes * s.out_channels * size);
    padded.resize(planes * s.in_channels * plane_size);
    padded.fill(0.0);
    for (plane, padded) in x.chunks_exact(size).zip(padded.chunks_exact_mut(plane_size)) {
        for (row, padded) in plane.chunks_exact(s.width).zip(padded.chunks_exact_mut(stride).skip(1)) {
            padded[1..=s.width].copy_from_slice(row);
        }
    }
    let (padded, out) = (&*padded, Shared::of(out));
    threads.each(planes * s.out_channels, |plane| {
        let (frame, o) = (plane % s.frames, plane / s.frames % s.out_channels);
        let first = plane / s.frames / s.out_channels * s.in_channels * s.frames + frame;
        // SAFETY: planes belong to one thread each.
        let out = unsafe { std::slice::from_raw_parts_mut(out.at(plane * size), size) };
        let weight = &weight[o * s.in_channels * 9..][..s.in_channels * 9];
        let seen = &padded[first * plane_size..][..((s.in_channels - 1) * s.frames + 1) * plane_size];
        plane_of(level, seen, [s.frames * plane_size, stride], weight, bias[o], out, s.width);
    });
}

kernels! {
    fn plane_of(padded: &[f32], strides: [usize; 2], weight: &[f32], bias: f32, out: &mut [f32], width: usize) = plane_with;
}

#[inline(always)]
unsafe fn plane_with<I: Isa>(
    padded: &[f32],
    [of_channel, stride]: [usize; 2],
    weight: &[f32],
    bias: f32,
    out: &mut [f32],
    width: usize,
) {
    for (row, out) in out.chunks_exact_mut(width).enumerate() {
        for column in (0..width).step_by(I::LANES) {
            // SAFETY: a padded row is SLACK longer than what its vectors need; the caller's target features are those of I.
            unsafe {
                let mut sum = I::splat(bias);
                for (channel, kernel) in weight.as_chunks::<9>().0.iter().enumerate() {
                    let from = padded.as_ptr().add(channel * of_channel + row * stride + column);
                    for (i, &w) in kernel.iter().enumerate() {
                        sum = I::madd(I::splat(w), I::load(from.add(i / 3 * stride + i % 3)), sum);
                    }
                }
                if column + I::LANES <= width {
                    I::store(out.as_mut_ptr().add(column), sum);
                } else {
                    let mut lanes = [0f32; 16];
                    I::store(lanes.as_mut_ptr(), sum);
                    out[column..].copy_from_slice(&lanes[..width - column]);
                }
            }
        }
    }
}
