//! `(x - mean) / sqrt(var + eps) weight + bias` over rows, biased variance; the twin of `shaders/layer_norm.wgsl`.

/// x and out `[rows, dim]`, weight and bias `[dim]`.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32], rows: usize, dim: usize) {
    for r in 0..rows {
        let row = &x[r * dim..][..dim];
        let mean = row.iter().sum::<f32>() / dim as f32;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / dim as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        for i in 0..dim {
            out[r * dim + i] = (row[i] - mean) * scale * weight[i] + bias[i];
        }
    }
}
