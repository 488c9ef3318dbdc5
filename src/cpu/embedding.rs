//! Tokens from a table, plus their positions if they have some; the twin of `shaders/embedding.wgsl`.

/// table `[classes, dim]`, index `[batch, count]` (u32 bits), position `[count, dim]`, out `[batch, tokens, dim]`.
/// An index beyond the table reads its last row; callers refuse such indices before.
pub fn embedding(
    table: &[f32],
    index: &[f32],
    position: Option<&[f32]>,
    out: &mut [f32],
    at: usize,
    count: usize,
    batch: usize,
    tokens: usize,
    dim: usize,
) {
    let classes = table.len() / dim;
    for b in 0..batch {
        for i in 0..count {
            let row = (index[b * count + i].to_bits() as usize).min(classes - 1);
            for d in 0..dim {
                out[(b * tokens + at + i) * dim + d] =
                    table[row * dim + d] + position.map_or(0.0, |position| position[i * dim + d]);
            }
        }
    }
}
