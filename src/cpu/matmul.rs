//! `out = gate activation(cat(x, x2) W^T + bias) + residual`, the twin of `shaders/matmul.wgsl`.

use super::activate;
use crate::plan::Activation;

/// Columns of a panel, and rows of a block: a block's sums stay in registers.
const COLUMNS: usize = 16;
const ROWS: usize = 4;

/// `w [n, k]` as panels of 16 rows, `[n / 16][k][16]`, the last one filled up with zeros.
pub fn panels(w: &[f32], n: usize, k: usize) -> Vec<f32> {
    let mut out = vec![0.0; n.next_multiple_of(COLUMNS) * k];
    for r in 0..n {
        for c in 0..k {
            out[(r / COLUMNS * k + c) * COLUMNS + r % COLUMNS] = w[r * k + c];
        }
    }
    out
}

/// x `[rows, k]`, x2 `[rows, k2]`, w the [`panels`] of `[n, k + k2]`, bias and gate `[n]`, residual and out `[rows, n]`.
pub fn matmul(
    x: &[f32],
    k: usize,
    x2: &[f32],
    k2: usize,
    w: &[f32],
    bias: Option<&[f32]>,
    activation: Activation,
    gate: Option<&[f32]>,
    residual: Option<&[f32]>,
    out: &mut [f32],
    rows: usize,
    n: usize,
) {
    for (panel, w) in w.chunks((k + k2) * COLUMNS).enumerate() {
        let (w_x, w_x2) = w.as_chunks().0.split_at(k);
        let c0 = panel * COLUMNS;
        let mut store = |r: usize, sums: &[f32; COLUMNS]| {
            for c in c0..n.min(c0 + COLUMNS) {
                let value = activate(activation, sums[c - c0] + bias.map_or(0.0, |b| b[c]));
                let value = gate.map_or(value, |gate| gate[c] * value);
                out[r * n + c] = value + residual.map_or(0.0, |residual| residual[r * n + c]);
            }
        };
        let whole = rows - rows % ROWS;
        for r0 in (0..whole).step_by(ROWS) {
            let mut sums = [[0.0; COLUMNS]; ROWS];
            block(&x[r0 * k..], k, w_x, &mut sums);
            block(&x2[r0 * k2..], k2, w_x2, &mut sums);
            (0..ROWS).for_each(|r| store(r0 + r, &sums[r]));
        }
        for r in whole..rows {
            let mut sums = [[0.0; COLUMNS]];
            block(&x[r * k..], k, w_x, &mut sums);
            block(&x2[r * k2..], k2, w_x2, &mut sums);
            store(r, &sums[0]);
        }
    }
}

/// `sums[r] += x[r] W` for R rows of `k` values each.
fn block<const R: usize>(x: &[f32], k: usize, w: &[[f32; COLUMNS]], sums: &mut [[f32; COLUMNS]; R]) {
    let x: [&[f32]; R] = std::array::from_fn(|r| &x[r * k..][..k]);
    for (i, w) in w.iter().enumerate() {
        for r in 0..R {
            let a = x[r][i];
            for c in 0..COLUMNS {
                sums[r][c] += a * w[c];
            }
        }
    }
}
