//! Positions of a grid of another size than the table's; the twin of `shaders/resized_positions.wgsl`.

use crate::plan::ResizedPositions;

/// table: the whole one, of which `from` rows x `from` columns are a grid, out `[batch, tokens, dim]` from token `at` on, to which positions are added:
/// bilinear as `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`.
pub fn resized_positions(table: &[f32], out: &mut [f32], s: &ResizedPositions) {
    let ([from_rows, from_columns], [rows, columns]) = (s.from, s.to);
    let source = |at: usize, size: usize, from: usize| ((at as f32 + 0.5) * (from as f32 / size as f32) - 0.5).max(0.0);
    for i in 0..rows {
        for j in 0..columns {
            let (y, x) = (source(i, rows, from_rows), source(j, columns, from_columns));
            let (y0, x0) = (y as usize, x as usize);
            let (y1, x1) = ((y0 + 1).min(from_rows - 1), (x0 + 1).min(from_columns - 1));
            let (fy, fx) = (y - y0 as f32, x - x0 as f32);
            for d in 0..s.dim {
                let at = |y: usize, x: usize| table[s.position.row(y * from_columns + x) * s.dim + d];
                let upper = (1.0 - fx) * at(y0, x0) + fx * at(y0, x1);
                let lower = (1.0 - fx) * at(y1, x0) + fx * at(y1, x1);
                for b in 0..s.batch {
                    out[(b * s.tokens + s.at + i * columns + j) * s.dim + d] += (1.0 - fy) * upper + fy * lower;
                }
            }
        }
    }
}
