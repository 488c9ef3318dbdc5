//! `softmax(q k^T / sqrt(head_dim)) v` per head, among the tokens of a group; the twin of `shaders/attention.wgsl`.

use uvit_simd::AttentionShape;

/// qkv `[batch, groups x tokens, 3, heads, head_dim]`, out `[batch, groups x tokens, heads, head_dim]`, of which some queries' rows;
/// with `causal` token i of a group sees its tokens 0 to i.
pub fn attention(qkv: &[f32], out: &mut [f32], shape: &AttentionShape) {
    let AttentionShape { batch, tokens, groups, strided, heads, head_dim, causal, first, queries } = *shape;
    let dim = heads * head_dim;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut weights = vec![0f32; tokens];
    for b in 0..batch {
        for g in 0..groups {
            let row = |token: usize| {
                let of_item = if strided { token * groups + g } else { g * tokens + token };
                b * groups * tokens + of_item
            };
            for h in 0..heads {
                let at = |token: usize, part: usize| row(token) * 3 * dim + part * dim + h * head_dim;
                for i in first..first + queries {
                    let q = &qkv[at(i, 0)..][..head_dim];
                    let seen = if causal { i + 1 } else { tokens };
                    let mut largest = f32::NEG_INFINITY;
                    for j in 0..seen {
                        let k = &qkv[at(j, 1)..][..head_dim];
                        weights[j] = dot(q, k) * scale;
                        largest = largest.max(weights[j]);
                    }
                    let mut sum = 0.0;
                    for w in &mut weights[..seen] {
                        *w = libm::expf(*w - largest);
                        sum += *w;
                    }
                    let o = &mut out[row(i) * dim + h * head_dim..][..head_dim];
                    o.fill(0.0);
                    for j in 0..seen {
                        let v = &qkv[at(j, 2)..][..head_dim];
                        let w = weights[j] / sum;
                        for d in 0..head_dim {
                            o[d] += w * v[d];
                        }
                    }
                }
            }
        }
    }
}

/// The dot product of two vectors, summed in four lanes.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; 4];
    for (a, b) in a.as_chunks::<4>().0.iter().zip(b.as_chunks::<4>().0) {
        for i in 0..4 {
            lanes[i] += a[i] * b[i];
        }
    }
    let whole = a.len() - a.len() % 4;
    for i in whole..a.len() {
        lanes[i - whole] += a[i] * b[i];
    }
    (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])
}
