//! One token an item from a table, plus its position if it has one; the twin of `shaders/embedding.wgsl`.

/// table `[classes, dim]`, index `[batch]` (u32 bits), position `[dim]`, out `[batch, tokens, dim]`.
/// An index beyond the table reads its last row; callers refuse such labels before.
pub fn embedding(
    table: &[f32],
    index: &[f32],
    position: Option<&[f32]>,
    out: &mut [f32],
    at: usize,
    batch: usize,
    tokens: usize,
    dim: usize,
) {
    let classes = table.len() / dim;
    for b in 0..batch {
        let row = (index[b].to_bits() as usize).min(classes - 1);
        for d in 0..dim {
            out[(b * tokens + at) * dim + d] = table[row * dim + d] + position.map_or(0.0, |position| position[d]);
        }
    }
}
