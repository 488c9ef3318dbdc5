//! RMS norm of every head of queries and keys, the twin of `shaders/head_norm.wgsl`.

use crate::plan::HeadNorm;

/// qkv `[batch, tokens, 3 dim]`, weights of queries and keys `[head_dim]`; tokens `at ..` of out `[batch, out_tokens, 3 dim]` become
/// `v / sqrt(mean v^2 + eps) weight` head by head, values as they are.
pub fn head_norm(qkv: &[f32], weights: [&[f32]; 2], out: &mut [f32], k: &HeadNorm) {
    let width = 3 * k.heads * k.head_dim;
    for (row, token) in qkv.chunks_exact(width).enumerate() {
        let to = row / k.tokens * k.out_tokens + k.at + row % k.tokens;
        let out = &mut out[to * width..][..width];
        for (i, (x, out)) in token.chunks_exact(k.head_dim).zip(out.chunks_exact_mut(k.head_dim)).enumerate() {
            let Some(weight) = weights.get(i / k.heads) else {
                out.copy_from_slice(x);
                continue;
            };
            let mut squares = 0.0;
            for v in x {
                squares += v * v;
            }
            let scale = 1.0 / (squares / k.head_dim as f32 + k.eps).sqrt();
            for c in 0..k.head_dim {
                out[c] = x[c] * scale * weight[c];
            }
        }
    }
}
