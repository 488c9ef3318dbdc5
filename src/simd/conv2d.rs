//! 3x3 convolution, padding 1: nine shifted rows, each added with its weight.

use super::isa::{Isa, Level, kernels};
use super::threads::{Shared, Threads};
use crate::Conv2dShape;

/// x `[batch, in, height, width]`, weight `[out, in, 3, 3]`, bias `[out]`, out `[batch, out, height, width]`.
pub fn conv2d(
    level: Level,
    threads: &Threads,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    out: &mut [f32],
    s: &Conv2dShape,
) {
    let size = s.height * s.width;
    let out = Shared::of(out);
    threads.each(s.batch * s.out_channels, |plane| {
        let (item, o) = (plane / s.out_channels, plane % s.out_channels);
        // SAFETY: planes belong to one thread each.
        let out = unsafe { std::slice::from_raw_parts_mut(out.at(plane * size), size) };
        out.fill(bias[o]);
        let x = &x[item * s.in_channels * size..][..s.in_channels * size];
        add_planes(level, x, &weight[o * s.in_channels * 9..][..s.in_channels * 9], out, s.height, s.width);
    });
}

kernels! {
    fn add_planes(x: &[f32], weight: &[f32], out: &mut [f32], height: usize, width: usize) = add_planes_with;
}

#[inline(always)]
#[allow(clippy::extra_unused_type_parameters)] // decides the target features
unsafe fn add_planes_with<I: Isa>(x: &[f32], weight: &[f32], out: &mut [f32], height: usize, width: usize) {
    for (plane, kernel) in x.chunks_exact(height * width).zip(weight.as_chunks::<9>().0) {
        for row in 0..height {
            let out = &mut out[row * width..][..width];
            for dy in 0..3 {
                if row + dy < 1 || row + dy > height {
                    continue;
                }
                let line = &plane[(row + dy - 1) * width..][..width];
                let [left, centre, right] = [kernel[3 * dy], kernel[3 * dy + 1], kernel[3 * dy + 2]];
                // The compiler makes vectors of these loops.
                for i in 0..width {
                    out[i] += centre * line[i];
                }
                for (out, v) in out[1..].iter_mut().zip(line) {
                    *out += left * v;
                }
                for (out, v) in out.iter_mut().zip(&line[1..]) {
                    *out += right * v;
                }
            }
        }
    }
}
