//! 3x3 convolution of images, or of every frame of clips, padding 1; the twin of `shaders/conv2d.wgsl`.

use crate::plan::Conv2d;

/// x `[batch, in, frames, height, width]`, weight `[out, in, 3, 3]`, bias `[out]`, out `[batch, out, frames, height, width]`.
pub fn conv2d(x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32], s: &Conv2d) {
    let size = s.height * s.width;
    for plane in 0..s.batch * s.out_channels * s.frames {
        let (b, o, frame) = (plane / s.frames / s.out_channels, plane / s.frames % s.out_channels, plane % s.frames);
        for row in 0..s.height {
            for column in 0..s.width {
                let mut sum = bias[o];
                for c in 0..s.in_channels {
                    let from = ((b * s.in_channels + c) * s.frames + frame) * size;
                    for dy in 0..3 {
                        for dx in 0..3 {
                            let (y, z) = (row + dy, column + dx);
                            if y >= 1 && y <= s.height && z >= 1 && z <= s.width {
                                let pixel = x[from + (y - 1) * s.width + z - 1];
                                sum += pixel * weight[((o * s.in_channels + c) * 3 + dy) * 3 + dx];
                            }
                        }
                    }
                }
                out[plane * size + row * s.width + column] = sum;
            }
        }
    }
}
