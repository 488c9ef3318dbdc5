//! Tokens copied to their place, plus their positions; the twin of `shaders/place_tokens.wgsl`.

/// x `[batch, count, dim]`, position `[tokens, dim]`, out `[batch, tokens, dim]` from token `at` on.
pub fn place_tokens(
    x: &[f32],
    position: &[f32],
    out: &mut [f32],
    at: usize,
    count: usize,
    batch: usize,
    tokens: usize,
    dim: usize,
) {
    for b in 0..batch {
        for t in 0..count {
            for d in 0..dim {
                out[(b * tokens + at + t) * dim + d] = x[(b * count + t) * dim + d] + position[(at + t) * dim + d];
            }
        }
    }
}
