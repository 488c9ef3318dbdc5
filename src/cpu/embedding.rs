//! Tokens from a table, plus their positions if they have some; the twin of `shaders/embedding.wgsl`.

/// table `[rows, dim]`, which are rows `first ..` of the whole one, index `[batch, count]` (u32 bits), position `[count, dim]`,
/// out `[batch, tokens, dim]`. Tokens of other rows are left as they are; without index all are row 0. Callers refuse indices beyond
/// the table before.
pub fn embedding(
    table: &[f32],
    first: usize,
    index: Option<&[f32]>,
    position: Option<&[f32]>,
    out: &mut [f32],
    at: usize,
    count: usize,
    batch: usize,
    tokens: usize,
    dim: usize,
) {
    let rows = table.len() / dim;
    for b in 0..batch {
        for i in 0..count {
            let row = index.map_or(0, |index| index[b * count + i].to_bits() as usize).wrapping_sub(first);
            if row >= rows {
                continue;
            }
            for d in 0..dim {
                out[(b * tokens + at + i) * dim + d] =
                    table[row * dim + d] + position.map_or(0.0, |position| position[i * dim + d]);
            }
        }
    }
}
