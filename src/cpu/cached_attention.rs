//! `softmax(q k^T / sqrt(head_dim)) v` per head, of keys and values in a cache; the twin of `shaders/cached_attention.wgsl`.

use super::attention::dot;
use crate::plan::CachedAttention;

/// qkv `[batch, tokens, 3, heads, head_dim]`, cache `[rows, 2, heads, head_dim]`, places `[batch, most]` and positions `[batch,
/// tokens]` (u32 bits), out `[batch, tokens, heads, head_dim]`.
pub fn cached_attention(
    qkv: &[f32],
    cache: &[f32],
    places: &[f32],
    positions: &[f32],
    out: &mut [f32],
    k: &CachedAttention,
) {
    let (head_dim, dim) = (k.head_dim, k.heads * k.head_dim);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut weights = vec![0f32; k.most];
    for row in 0..k.batch * k.tokens {
        let seen = positions[row].to_bits() as usize + 1;
        let places = &places[row / k.tokens * k.most..][..seen];
        for h in 0..k.heads {
            let at = |j: usize, part: usize| (places[j].to_bits() as usize * 2 + part) * dim + h * head_dim;
            let q = &qkv[row * 3 * dim + h * head_dim..][..head_dim];
            let mut largest = f32::NEG_INFINITY;
            for j in 0..seen {
                weights[j] = dot(q, &cache[at(j, 0)..][..head_dim]) * scale;
                largest = largest.max(weights[j]);
            }
            let mut sum = 0.0;
            for w in &mut weights[..seen] {
                *w = libm::expf(*w - largest);
                sum += *w;
            }
            let o = &mut out[row * dim + h * head_dim..][..head_dim];
            o.fill(0.0);
            for j in 0..seen {
                let v = &cache[at(j, 1)..][..head_dim];
                let w = weights[j] / sum;
                for d in 0..head_dim {
                    o[d] += w * v[d];
                }
            }
        }
    }
}
