//! `(x - mean) / sqrt(var + eps)` over rows, biased variance, then weights and a modulation; the twin of
//! `shaders/layer_norm.wgsl`.

/// x and out `[items, tokens, dim]`; with affine weights and biases `[dim]` then `.. weight + bias`; with a modulation (vectors
/// `[items, n]`, and where a shift and a scale begin) then `.. (1 + scale) + shift`, the item's.
pub fn layer_norm(
    x: &[f32],
    affine: Option<(&[f32], &[f32])>,
    modulation: Option<(&[f32], usize, usize)>,
    eps: f32,
    out: &mut [f32],
    tokens: usize,
    dim: usize,
) {
    let rows = out.len() / dim;
    for r in 0..rows {
        let row = &x[r * dim..][..dim];
        let mean = row.iter().sum::<f32>() / dim as f32;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / dim as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        for i in 0..dim {
            let mut value = (row[i] - mean) * scale;
            if let Some((weight, bias)) = affine {
                value = value * weight[i] + bias[i];
            }
            if let Some((vectors, shift, scale)) = modulation {
                let vector = &vectors[r / tokens * (vectors.len() / (rows / tokens))..];
                value = value * (1.0 + vector[scale + i]) + vector[shift + i];
            }
            out[r * dim + i] = value;
        }
    }
}
