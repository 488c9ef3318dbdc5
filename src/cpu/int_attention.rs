//! Attention with both products in integers; the twin of `src/simd/int_attention.rs`.

use uvit_simd::AttentionShape;

/// As [`super::attention`], all queries. Queries have `bits` bits, 7 or 12; softmax weights 7 or 11, keys and values 8 or 12 with
/// the sign, with a scale a token and a scale a column of a group.
pub fn int_attention(qkv: &[f32], out: &mut [f32], shape: &AttentionShape, bits: u32) {
    let AttentionShape { batch, tokens, groups, strided, heads, head_dim, causal, .. } = *shape;
    let dim = heads * head_dim;
    // The largest magnitude of a key or value, and the softmax weight 1.
    let most = if bits == 7 { 127.0 } else { 2047.0 };
    for (b, g, h) in (0..batch * groups * heads).map(|i| (i / heads / groups, i / heads % groups, i % heads)) {
        let row = |token: usize| {
            let of_item = if strided { token * groups + g } else { g * tokens + token };
            b * groups * tokens + of_item
        };
        let at = |token: usize, part: usize| &qkv[(row(token) * 3 + part) * dim + h * head_dim..][..head_dim];
        let keys: Vec<(Vec<i32>, f32)> = (0..tokens).map(|j| signed(at(j, 1), most)).collect();
        let columns: Vec<(Vec<i32>, f32)> =
            (0..head_dim).map(|d| signed(&(0..tokens).map(|j| at(j, 2)[d]).collect::<Vec<f32>>(), most)).collect();
        for i in 0..tokens {
            let (query, scale, least) = unsigned(at(i, 0), bits);
            let seen = if causal { i + 1 } else { tokens };
            let scores: Vec<f32> = keys[..seen]
                .iter()
                .map(|(key, key_scale)| {
                    let product: i32 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                    let sum: i32 = key.iter().sum();
                    (product as f32 * scale + sum as f32 * least) * key_scale / (head_dim as f32).sqrt()
                })
                .collect();
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let spoiled: f32 = scores.iter().map(|v| v * 0.0).sum();
            let weights: Vec<i64> =
                scores.iter().map(|s| (most * libm::expf(s - largest)).round_ties_even() as i64).collect();
            let total = weights.iter().sum::<i64>() as f32 + spoiled;
            for (d, (values, value_scale)) in columns.iter().enumerate() {
                let product: i64 = weights.iter().zip(values).map(|(w, &v)| w * i64::from(v)).sum();
                out[row(i) * dim + h * head_dim + d] = product as f32 * (value_scale / total);
            }
        }
    }
}

/// Rounded to `-most ..= most`, and the scale; NaN if a value is NaN or infinite.
fn signed(values: &[f32], most: f32) -> (Vec<i32>, f32) {
    let spoiled: f32 = values.iter().map(|v| v * 0.0).sum();
    let scale = (values.iter().fold(0f32, |m, v| m.max(v.abs())) + spoiled) / most;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    (values.iter().map(|v| (v * inverse).round_ties_even() as i32).collect(), scale)
}

/// `value = least + scale q`, q in 0 ..= 2^bits - 1: q, scale, least.
fn unsigned(values: &[f32], bits: u32) -> (Vec<i32>, f32, f32) {
    let spoiled: f32 = values.iter().map(|v| v * 0.0).sum();
    let least = values.iter().copied().fold(f32::INFINITY, f32::min) + spoiled;
    let scale = (values.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least) / ((1u32 << bits) - 1) as f32;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    (values.iter().map(|v| ((v - least) * inverse).round_ties_even() as i32).collect(), scale, least)
}
