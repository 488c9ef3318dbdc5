//! 3x3 convolution, padding 1; the twin of `shaders/conv2d.wgsl`.

use crate::plan::Conv2d;

/// x `[batch, in, height, width]`, weight `[out, in, 3, 3]`, bias `[out]`, out `[batch, out, height, width]`.
pub fn conv2d(x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32], s: &Conv2d) {
    for b in 0..s.batch {
        for o in 0..s.out_channels {
            for row in 0..s.height {
                for column in 0..s.width {
                    let mut sum = bias[o];
                    for c in 0..s.in_channels {
                        for dy in 0..3 {
                            for dx in 0..3 {
                                let (y, z) = (row + dy, column + dx);
                                if y >= 1 && y <= s.height && z >= 1 && z <= s.width {
                                    let pixel = x[((b * s.in_channels + c) * s.height + y - 1) * s.width + z - 1];
                                    sum += pixel * weight[((o * s.in_channels + c) * 3 + dy) * 3 + dx];
                                }
                            }
                        }
                    }
                    out[((b * s.out_channels + o) * s.height + row) * s.width + column] = sum;
                }
            }
        }
    }
}
