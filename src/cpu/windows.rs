//! What the windows of a 3x3 convolution see, as the rows of a matmul: what `shaders/matmul.wgsl` reads in place.

use crate::plan::Window;

/// x `[batch, height width, k]` to `[rows, 9 k]`, of the windows from `first` on.
pub fn windows(x: &[f32], k: usize, s: &Window, first: usize, rows: usize) -> Vec<f32> {
    let mut seen = vec![0.0; rows * 9 * k];
    for (i, seen) in seen.chunks_exact_mut(9 * k).enumerate() {
        let (item, pixel) = ((first + i) / s.pixels(), (first + i) % s.pixels());
        for (tap, seen) in seen.chunks_exact_mut(k).enumerate() {
            let y = (pixel / s.out_width * s.stride + s.skip + tap / 3) as isize - s.padding as isize;
            let z = (pixel % s.out_width * s.stride + tap % 3) as isize - s.padding as isize;
            let (height, width) = ((s.height * s.upsample) as isize, (s.width * s.upsample) as isize);
            if (0..height).contains(&y) && (0..width).contains(&z) {
                let (y, z) = (y as usize / s.upsample, z as usize / s.upsample);
                seen.copy_from_slice(&x[((item * s.height + y) * s.width + z) * k..][..k]);
            }
        }
    }
    seen
}
