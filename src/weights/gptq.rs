//! Rounding with error compensation: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
//! Transformers", 2022 (arXiv:2210.17323), algorithm 1.

use super::quantize::Grid;
use super::{Data, Dtype};

/// Largest magnitude of compensated int8 values: 7 bits, which the integer kernels of `compute: "fast"` take as they are
/// (docs/arithmetic.md), and lose no more than plain rounding to 8 does.
const MOST: i8 = 63;

/// Rows that are worked on together, so that they stay in the second cache while all others pass by once.
const BLOCK: usize = 32;

/// What compensation has to know of a layer's inputs X `[samples, n]`: U, upper triangular, with `U^T U = (X^T X)^-1`.
pub struct InputFactor {
    n: usize,
    u: Vec<f64>,
}

impl InputFactor {
    /// Of `X^T X` `[n, n]`.
    ///
    /// With rows and columns in reverse order, `H = M M^T` is the Cholesky decomposition with M upper triangular, and U is the
    /// inverse of M.
    pub fn new(mut hessian: Vec<f64>, n: usize) -> InputFactor {
        let mean = (0..n).map(|i| hessian[i * n + i]).sum::<f64>() / n as f64;
        for i in 0..n {
            // Inputs that never fire would make it singular.
            hessian[i * n + i] += 0.01 * mean + 1e-12;
        }
        hessian.reverse();
        cholesky(&mut hessian, n);
        hessian.reverse();
        // The reverse of an upper triangle is a lower one: its transpose.
        for r in 0..n {
            for c in r + 1..n {
                hessian[r * n + c] = hessian[c * n + r];
            }
        }
        InputFactor { n, u: inverse(&hessian, n) }
    }
}

/// Quantises a matrix `[rows, n]` so that its outputs, not its values, change least: columns are rounded one after the
/// other, and what each loses is made up for in the columns still to come.
pub fn gptq(weight: &[f32], factor: &InputFactor, dtype: Dtype, group: usize) -> Data {
    let &InputFactor { n, ref u } = factor;
    let rows = weight.len() / n;
    let grid = Grid { dtype, most: MOST, group: if group == 0 { n } else { group } };
    let importance: Vec<f64> = (0..n).map(|i| 1.0 / u[i * n + i].powi(2)).collect();
    let groups = n.div_ceil(grid.group);
    let mut codes = vec![0i8; rows * n];
    let mut scales = vec![0f32; rows * groups];
    let blocks = weight.chunks(BLOCK * n).zip(codes.chunks_mut(BLOCK * n)).zip(scales.chunks_mut(BLOCK * groups));
    in_parallel(blocks.collect(), |((weight, codes), scales)| {
        let mut left: Vec<f64> = weight.iter().map(|&v| f64::from(v)).collect();
        for c in 0..n {
            let (at, factors) = (c / grid.group, &u[c * n..][..n]);
            for ((row, codes), scales) in left.chunks_mut(n).zip(codes.chunks_mut(n)).zip(scales.chunks_mut(groups)) {
                if c % grid.group == 0 {
                    let end = (c + grid.group).min(n);
                    let group: Vec<f32> = row[c..end].iter().map(|&v| v as f32).collect();
                    scales[at] = grid.scale(&group, &importance[c..end]);
                }
                codes[c] = grid.round(row[c] as f32, scales[at]);
                let error = (row[c] - f64::from(scales[at]) * f64::from(codes[c])) / factors[c];
                subtract(&mut row[c + 1..], error, &factors[c + 1..]);
            }
        }
    });
    grid.store(codes, scales, rows, n, group)
}

/// `row -= factor * other`
fn subtract(row: &mut [f64], factor: f64, other: &[f64]) {
    row.iter_mut().zip(other).for_each(|(v, o)| *v -= factor * o);
}

/// A becomes U, upper triangular, with `U^T U = A`; what lies below the diagonal is not read, and is left.
fn cholesky(a: &mut [f64], n: usize) {
    for first in (0..n).step_by(BLOCK) {
        let end = n.min(first + BLOCK);
        for k in first..end {
            let (head, below) = a.split_at_mut((k + 1) * n);
            let row = &mut head[k * n..];
            let pivot = row[k].max(1e-300).sqrt();
            row[k..].iter_mut().for_each(|v| *v /= pivot);
            for (i, target) in (k + 1..end).zip(below.chunks_mut(n)) {
                subtract(&mut target[i..], row[i], &row[i..]);
            }
        }
        let (head, below) = a.split_at_mut(end * n);
        let block = &head[first * n..];
        in_parallel((end..n).zip(below.chunks_mut(n)).collect(), |(i, target)| {
            for row in block.chunks(n) {
                subtract(&mut target[i..], row[i], &row[i..]);
            }
        });
    }
}

/// The inverse of an upper triangular matrix; what lies below the diagonal is not read.
fn inverse(m: &[f64], n: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; n * n];
    for end in (1..=n).rev().step_by(BLOCK) {
        let first = end.saturating_sub(BLOCK);
        let (head, below) = inverse.split_at_mut(end * n);
        // Few rows at a time pass over all that are done.
        let parts = head[first * n..].chunks_mut(BLOCK / 4 * n).enumerate().collect();
        in_parallel(parts, |(part, rows)| {
            for (k, other) in (end..n).zip(below.chunks(n)) {
                for (i, row) in rows.chunks_mut(n).enumerate() {
                    let r = first + part * (BLOCK / 4) + i;
                    subtract(&mut row[k..], m[r * n + k], &other[k..]);
                }
            }
        });
        for r in (first..end).rev() {
            let (head, below) = head.split_at_mut((r + 1) * n);
            let row = &mut head[r * n..];
            for (k, other) in (r + 1..end).zip(below.chunks(n)) {
                subtract(&mut row[k..], m[r * n + k], &other[k..]);
            }
            let diagonal = 1.0 / m[r * n + r];
            row[r + 1..].iter_mut().for_each(|v| *v *= diagonal);
            row[r] = diagonal;
        }
    }
    inverse
}

/// X `[n, columns]` of `A X = B`, A `[n, n]` being symmetric and positive definite.
pub fn solve(mut a: Vec<f64>, n: usize, b: &[f64]) -> Vec<f64> {
    cholesky(&mut a, n);
    let (inverse, columns) = (inverse(&a, n), b.len() / n);
    // A^-1 = U^-1 U^-T
    let mut left = vec![0.0; b.len()];
    let mut x = vec![0.0; b.len()];
    for i in 0..n {
        for k in 0..=i {
            subtract(&mut left[i * columns..][..columns], -inverse[k * n + i], &b[k * columns..]);
        }
    }
    for i in 0..n {
        for k in i..n {
            subtract(&mut x[i * columns..][..columns], -inverse[i * n + k], &left[k * columns..]);
        }
    }
    x
}

/// Does everything, on all cores.
pub(super) fn in_parallel<T: Send>(all: Vec<T>, work: impl Fn(T) + Sync) {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    if cores == 1 || all.len() == 1 {
        return all.into_iter().for_each(work);
    }
    let mut hands: Vec<Vec<T>> = (0..cores).map(|_| Vec::new()).collect();
    // In turn: the last rows of a triangle are the shortest.
    all.into_iter().enumerate().for_each(|(i, one)| hands[i % cores].push(one));
    std::thread::scope(|scope| {
        for hand in hands {
            scope.spawn(|| hand.into_iter().for_each(&work));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::Tensor;
    use super::super::quantize::quantize;
    use super::*;
    use crate::sampler::TorchGenerator;

    #[test]
    fn the_factor_of_the_inverse_undoes_the_matrix() {
        // More than one block, the last one not whole.
        let n = 2 * BLOCK + 13;
        let x = TorchGenerator::new(9).randn_f32(3 * n * n);
        let mut h = vec![0.0; n * n];
        for row in x.chunks(n) {
            for i in 0..n {
                for j in 0..n {
                    h[i * n + j] += f64::from(row[i]) * f64::from(row[j]);
                }
            }
        }
        let u = InputFactor::new(h.clone(), n).u;
        let mean = (0..n).map(|i| h[i * n + i]).sum::<f64>() / n as f64;
        (0..n).for_each(|i| h[i * n + i] += 0.01 * mean);
        assert!((0..n).all(|r| (0..r).all(|c| u[r * n + c] == 0.0)));
        // H U^T U = 1.
        for i in 0..n {
            for j in 0..n {
                let inverse = |k: usize| (0..n).map(|m| u[m * n + k] * u[m * n + j]).sum::<f64>();
                let product: f64 = (0..n).map(|k| h[i * n + k] * inverse(k)).sum();
                let one = if i == j { 1.0 } else { 0.0 };
                assert!((product - one).abs() < 1e-9, "{i}, {j}: {product}");
            }
        }
    }

    #[test]
    fn compensation_beats_plain_rounding_on_correlated_inputs() {
        let (rows, columns, samples) = (8, 48, 200);
        let mut random = TorchGenerator::new(5);
        let weight = random.randn_f32(rows * columns);
        let (common, own) = (random.randn_f32(samples * 6), random.randn_f32(samples * columns));
        let x = |s: usize, c: usize| f64::from(common[s * 6 + c % 6]) + 0.3 * f64::from(own[s * columns + c]);
        let mut hessian = vec![0.0; columns * columns];
        for s in 0..samples {
            for i in 0..columns {
                for j in 0..columns {
                    hessian[i * columns + j] += x(s, i) * x(s, j);
                }
            }
        }
        let loss = |data: Data| {
            let back = Tensor { name: String::new(), shape: vec![rows, columns], data }.to_f32();
            let e: Vec<f64> = back.iter().zip(&weight).map(|(a, b)| f64::from(a - b)).collect();
            let mut total = 0.0;
            for row in e.chunks(columns) {
                for i in 0..columns {
                    for j in 0..columns {
                        total += row[i] * hessian[i * columns + j] * row[j];
                    }
                }
            }
            total
        };
        let plain = loss(quantize("w", &[rows, columns], &weight, Dtype::Q4, 32).data);
        let compensated = loss(gptq(&weight, &InputFactor::new(hessian.clone(), columns), Dtype::Q4, 32));
        assert!(compensated < 0.5 * plain, "{compensated} against {plain}");
    }
}
