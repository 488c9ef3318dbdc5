//! `out = activation(cat(x, x2) W^T + bias) + residual` in register tiles of [`ROWS`] rows and one panel of columns.
//!
//! In integers ([`int_matmul`]) a token's sum is `S = sum of q w`, exact in i32 over at most [`INT_CHUNK`] inputs, and
//! `x W^T = scale_x scale_w S + min_x scale_w (sum of w)`. Where the dot product takes bytes below 128, 12 bits are two
//! register rows, `q = 32 high + low`.

use super::functions::activate;
use super::isa::{INT_ROWS, Isa, Level, ROWS, array, kernels, unroll};
use super::pack::{F32Matrix, Floats, IntMatrix, steps_for};
use super::quantize::Quantized;
use super::threads::{Shared, Threads};
use crate::{Activation, INT_CHUNK, LOW_BITS};
use std::ops::Range;

/// What follows the sums.
#[derive(Clone, Copy)]
pub struct Finish<'a> {
    /// `[n]`.
    pub bias: Option<&'a Floats>,
    /// Applied before the residual.
    pub activation: Activation,
    /// `[rows, n]`.
    pub residual: Option<&'a [f32]>,
}

/// In f32: x `[rows, k]`, x2 `[rows, k2]`, w `[n, k + k2]`, out `[rows, n]`.
pub fn f32_matmul(
    level: Level,
    threads: &Threads,
    (x, k): (&[f32], usize),
    (x2, k2): (&[f32], usize),
    w: &F32Matrix,
    finish: Finish,
    out: &mut [f32],
) {
    assert_eq!(w.k, k + k2);
    let rows = out.len() / w.n;
    assert!(x.len() >= rows * k && x2.len() >= rows * k2 && out.len() == rows * w.n);
    let out = Shared::of(out);
    threads.parts(w.n.div_ceil(level.panel()), |from, to| {
        f32_panels(level, x, k, x2, k2, w, finish, out, rows, from..to);
    });
}

/// In integers: x quantised, w `[n, k]` in i8, out `[rows, n]`.
pub fn int_matmul(level: Level, threads: &Threads, x: &Quantized, w: &IntMatrix, finish: Finish, out: &mut [f32]) {
    let rows = out.len() / w.n;
    assert!(x.steps == steps_for(level, w.k) && x.scales.len() >= rows && out.len() == rows * w.n);
    let out = Shared::of(out);
    threads.parts(w.n.div_ceil(level.panel()), |from, to| {
        int_panels(level, x, w, finish, out, rows, from..to);
    });
}

kernels! {
    fn f32_panels(
        x: &[f32], k: usize, x2: &[f32], k2: usize, w: &F32Matrix, finish: Finish, out: Shared<f32>, rows: usize,
        panels: Range<usize>,
    ) = f32_panels_with;
    fn int_panels(
        x: &Quantized, w: &IntMatrix, finish: Finish, out: Shared<f32>, rows: usize, panels: Range<usize>,
    ) = int_panels_with;
}

/// The widest panel of all instruction sets.
const WIDEST: usize = 64;

#[inline(always)]
unsafe fn f32_panels_with<I: Isa>(
    x: &[f32],
    k: usize,
    x2: &[f32],
    k2: usize,
    w: &F32Matrix,
    finish: Finish,
    out: Shared<f32>,
    rows: usize,
    panels: Range<usize>,
) {
    unsafe {
        match I::COLUMNS {
            1 => f32_panels_of::<I, 1>(x, k, x2, k2, w, finish, out, rows, panels),
            2 => f32_panels_of::<I, 2>(x, k, x2, k2, w, finish, out, rows, panels),
            _ => f32_panels_of::<I, 4>(x, k, x2, k2, w, finish, out, rows, panels),
        }
    }
}

#[inline(always)]
unsafe fn f32_panels_of<I: Isa, const C: usize>(
    x: &[f32],
    k: usize,
    x2: &[f32],
    k2: usize,
    w: &F32Matrix,
    finish: Finish,
    out: Shared<f32>,
    rows: usize,
    panels: Range<usize>,
) {
    let width = C * I::LANES;
    for group in groups(panels, 4 * w.k * width) {
        for first in (0..rows).step_by(ROWS) {
            let tile = |panel: usize| Tile::of(first, ROWS.min(rows - first), panel * width, width, w.n);
            // SAFETY: row numbers are kept below `rows`, whose values the caller's assertions found in x, x2 and out;
            // a panel has (k + k2) x width values; panels, and so columns of `out`, belong to one thread each.
            unsafe {
                let row = |r: usize| (first + r).min(rows - 1);
                for panel in group.clone() {
                    let weights = w.panels.as_ptr::<f32>().add(panel * w.k * width);
                    let mut sums = [[I::splat(0.0); C]; ROWS];
                    let from = array!(r < ROWS, x.as_ptr(), x.as_ptr().add(row(r) * k));
                    f32_tile::<I, C>(from, weights, k, &mut sums);
                    if k2 > 0 {
                        let weights = weights.add(k * width);
                        let from = array!(r < ROWS, x2.as_ptr(), x2.as_ptr().add(row(r) * k2));
                        f32_tile::<I, C>(from, weights, k2, &mut sums);
                    }
                    store::<I, C, _>(&sums, tile(panel), finish, out);
                }
                finish_panels::<I>(&group, width, tile, finish, out);
            }
        }
    }
}

/// Panels that are computed together for a tile of rows, so that rows of `out` are written in long runs: with a few columns
/// at a time, rows a power of two apart would push each other out of the first cache. As many as fit half of it.
fn groups(panels: Range<usize>, panel_bytes: usize) -> impl Iterator<Item = Range<usize>> {
    const BYTES: usize = 16 << 10;
    let size = (BYTES / panel_bytes.max(1)).clamp(2, 16);
    let end = panels.end;
    panels.step_by(size).map(move |from| from..end.min(from + size))
}

/// `sums[r] += x[r] W` over a panel's `k` rows of `C` vectors.
#[inline(always)]
pub(super) unsafe fn f32_tile<I: Isa, const C: usize>(
    x: [*const f32; ROWS],
    w: *const f32,
    k: usize,
    sums: &mut [[I::F; C]; ROWS],
) {
    /// Inputs a turn: the rows' addresses move on once for all of them.
    const TURN: usize = if cfg!(target_arch = "wasm32") { 4 } else { 1 };
    // A copy of its own stays in registers: what the caller's reference names could be read through x and w.
    let mut tile = *sums;
    macro_rules! step {
        ($x:ident, $w:ident, $i:expr) => {
            let w = array!(c < C, I::splat(0.0), I::load($w.add(($i * C + c) * I::LANES)));
            unroll!(r < ROWS, {
                let a = I::splat(*$x[r].add($i));
                unroll!(c < C, { tile[r][c] = I::madd(a, w[c], tile[r][c]) });
            });
        };
    }
    unsafe {
        let whole = k / TURN * TURN;
        for i in (0..whole).step_by(TURN) {
            let from = w.add(i * C * I::LANES);
            let rows = array!(r < ROWS, w, x[r].add(i));
            unroll!(turn < TURN, {
                step!(rows, from, turn);
            });
        }
        for i in whole..k {
            step!(x, w, i);
        }
    }
    *sums = tile;
}

#[inline(always)]
unsafe fn int_panels_with<I: Isa>(
    x: &Quantized,
    w: &IntMatrix,
    finish: Finish,
    out: Shared<f32>,
    rows: usize,
    panels: Range<usize>,
) {
    unsafe {
        match (I::COLUMNS, I::BYTES && x.planes == 2) {
            (1, false) => int_panels_of::<I, 1, 1>(x, w, finish, out, rows, panels),
            (1, true) => int_panels_of::<I, 1, 2>(x, w, finish, out, rows, panels),
            (2, false) => int_panels_of::<I, 2, 1>(x, w, finish, out, rows, panels),
            (2, true) => int_panels_of::<I, 2, 2>(x, w, finish, out, rows, panels),
            (_, false) => int_panels_of::<I, 4, 1>(x, w, finish, out, rows, panels),
            (_, true) => int_panels_of::<I, 4, 2>(x, w, finish, out, rows, panels),
        }
    }
}

#[inline(always)]
unsafe fn int_panels_of<I: Isa, const C: usize, const PLANES: usize>(
    x: &Quantized,
    w: &IntMatrix,
    finish: Finish,
    out: Shared<f32>,
    rows: usize,
    panels: Range<usize>,
) {
    let width = C * I::LANES;
    let chunk = INT_CHUNK / if I::BYTES { 4 } else { 2 };
    let tokens = INT_ROWS / PLANES;
    for group in groups(panels, 4 * x.steps.min(chunk) * width) {
        for begin in (0..x.steps).step_by(chunk) {
            let steps = chunk.min(x.steps - begin);
            let (is_first, is_last) = (begin == 0, begin + steps == x.steps);
            for first in (0..rows).step_by(tokens) {
                let tile = |panel: usize| Tile::of(first, tokens.min(rows - first), panel * width, width, w.n);
                // SAFETY: tiles and panels have `steps` x INT_ROWS and `steps` x width words; scales and sums are padded to
                // whole panels, scales and mins of tokens to whole tiles; columns of `out` belong to one thread each.
                unsafe {
                    let words = x.words.as_ptr().add(first * PLANES * x.steps + begin * INT_ROWS);
                    let mut sums = [[I::zero_i(); C]; INT_ROWS];
                    for panel in group.clone() {
                        let weights = w.words.as_ptr::<u32>().add((panel * x.steps + begin) * width);
                        int_tile::<I, C>(words, weights, steps, &mut sums);
                        let (scales, weight_sums) = (w.scales.as_ptr(), w.sums.as_ptr());
                        let mut values = [[I::splat(0.0); C]; INT_ROWS];
                        unroll!(c < C, {
                            let column = panel * width + c * I::LANES;
                            let weight_scales = I::load(scales.add(column));
                            let weight_sums = I::load(weight_sums.add(column));
                            unroll!(token < INT_ROWS, {
                                if token < tokens {
                                    let sum = if PLANES == 2 {
                                        let high = I::shift_left::<LOW_BITS>(sums[token * PLANES % INT_ROWS][c]);
                                        I::add_i(high, sums[(token * PLANES + 1) % INT_ROWS][c])
                                    } else {
                                        sums[token][c]
                                    };
                                    let scale = I::mul(I::splat(x.scales[first + token]), weight_scales);
                                    let mut value = I::mul(I::to_float(sum), scale);
                                    if is_first {
                                        let least = I::splat(x.mins[first + token]);
                                        value = I::add(value, I::mul(least, weight_sums));
                                    }
                                    values[token][c] = value;
                                }
                            });
                        });
                        if is_first && is_last {
                            store::<I, C, _>(&values, tile(panel), finish, out);
                        } else {
                            add_chunk::<I, C>(&values, tile(panel), is_first, is_last, finish, out);
                        }
                    }
                    if is_first && is_last {
                        finish_panels::<I>(&group, width, tile, finish, out);
                    }
                }
            }
        }
    }
}

/// The sums of a tile in i32; x `[steps][INT_ROWS]`, w `[steps][C x LANES]`. In WebAssembly a function of its own, whose one
/// loop gets all registers.
#[cfg_attr(target_arch = "wasm32", inline(never))]
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub(super) unsafe fn int_tile<I: Isa, const C: usize>(
    x: *const u32,
    w: *const u32,
    steps: usize,
    sums: &mut [[I::I; C]; INT_ROWS],
) {
    /// Steps a turn of the loop; a row's words are whole vectors, so no step is left.
    const TURN: usize = 2;
    unsafe {
        let mut tile = [[I::zero_i(); C]; INT_ROWS];
        for first in (0..steps).step_by(TURN) {
            let (x, w) = (x.add(first * INT_ROWS), w.add(first * C * I::LANES));
            unroll!(turn < TURN, {
                let w = array!(c < C, I::zero_i(), I::load_i(w.add((turn * C + c) * I::LANES)));
                unroll!(r < INT_ROWS, {
                    let x = I::splat_i(*x.add(turn * INT_ROWS + r));
                    unroll!(c < C, { tile[r][c] = I::dot(tile[r][c], w[c], x) });
                });
            });
        }
        *sums = tile;
    }
}

/// Where a tile lies in `out [.., n]`.
#[derive(Clone, Copy)]
struct Tile {
    first: usize,
    rows: usize,
    column: usize,
    /// Columns that exist.
    valid: usize,
    n: usize,
}

impl Tile {
    /// Of `width` columns from `column` on, as far as they exist.
    fn of(first: usize, rows: usize, column: usize, width: usize, n: usize) -> Tile {
        Tile { first, rows, column, valid: width.min(n - column), n }
    }
}

/// Writes a tile of sums, finished unless an activation is to come: [`finish_panels`] applies it to the whole group.
#[inline(always)]
unsafe fn store<I: Isa, const C: usize, const R: usize>(
    sums: &[[I::F; C]; R],
    tile: Tile,
    finish: Finish,
    out: Shared<f32>,
) {
    unsafe {
        let mut bias = [I::splat(0.0); C];
        if let Some(values) = finish.bias {
            let from = values.padded().as_ptr().add(tile.column);
            unroll!(c < C, { bias[c] = I::load(from.add(c * I::LANES)) });
        }
        if tile.valid < C * I::LANES {
            return store_edge::<I, C, R>(sums, bias, tile, finish, out);
        }
        let residual = finish.residual.filter(|_| finish.activation == Activation::None);
        unroll!(r < R, {
            if r < tile.rows {
                let at = (tile.first + r) * tile.n + tile.column;
                unroll!(c < C, {
                    let mut v = I::add(sums[r][c], bias[c]);
                    if let Some(residual) = residual {
                        v = I::add(v, I::load(residual.as_ptr().add(at + c * I::LANES)));
                    }
                    I::store(out.at(at + c * I::LANES), v);
                });
            }
        });
    }
}

/// [`store`] where columns are missing.
#[cfg_attr(target_arch = "wasm32", inline(never))]
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
unsafe fn store_edge<I: Isa, const C: usize, const R: usize>(
    sums: &[[I::F; C]; R],
    bias: [I::F; C],
    tile: Tile,
    finish: Finish,
    out: Shared<f32>,
) {
    let mut line = [0f32; WIDEST];
    unsafe {
        for r in 0..tile.rows {
            let at = (tile.first + r) * tile.n + tile.column;
            for c in 0..C {
                let v = activate::<I>(finish.activation, I::add(sums[r][c], bias[c]));
                I::store(line.as_mut_ptr().add(c * I::LANES), v);
            }
            for i in 0..tile.valid {
                *out.at(at + i) = line[i] + finish.residual.map_or(0.0, |residual| residual[at + i]);
            }
        }
    }
}

/// Activation and residual of a group's columns that lie in `out`, whole panels only.
#[inline(always)]
unsafe fn finish_panels<I: Isa>(
    group: &Range<usize>,
    width: usize,
    tile: impl Fn(usize) -> Tile,
    finish: Finish,
    out: Shared<f32>,
) {
    if finish.activation == Activation::None {
        return;
    }
    let last = tile(group.end - 1);
    // A panel with columns missing is finished as it is stored.
    let end = if last.valid == width { last.column + width } else { last.column };
    unsafe { finish_columns::<I>(tile(group.start), end, finish, out) };
}

/// Rows of a tile from its first column to `end`.
#[cfg_attr(target_arch = "wasm32", inline(never))]
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
unsafe fn finish_columns<I: Isa>(tile: Tile, end: usize, finish: Finish, out: Shared<f32>) {
    unsafe {
        for r in 0..tile.rows {
            let row = (tile.first + r) * tile.n;
            for i in (row + tile.column..row + end).step_by(I::LANES) {
                let mut v = activate::<I>(finish.activation, I::load(out.at(i)));
                if let Some(residual) = finish.residual {
                    v = I::add(v, I::load(residual.as_ptr().add(i)));
                }
                I::store(out.at(i), v);
            }
        }
    }
}

/// One of several chunks of the inputs, added up in `out`; the last one finishes.
#[cfg_attr(target_arch = "wasm32", inline(never))]
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
unsafe fn add_chunk<I: Isa, const C: usize>(
    values: &[[I::F; C]; INT_ROWS],
    tile: Tile,
    first: bool,
    last: bool,
    finish: Finish,
    out: Shared<f32>,
) {
    let mut line = [0f32; WIDEST];
    unsafe {
        for r in 0..tile.rows {
            let at = (tile.first + r) * tile.n + tile.column;
            for c in 0..C {
                I::store(line.as_mut_ptr().add(c * I::LANES), values[r][c]);
            }
            for i in 0..tile.valid {
                line[i] += if first { 0.0 } else { *out.at(at + i) };
            }
            for c in 0..C {
                let mut v = I::load(line.as_ptr().add(c * I::LANES));
                if last {
                    if let Some(bias) = finish.bias {
                        v = I::add(v, I::load(bias.padded().as_ptr().add(tile.column + c * I::LANES)));
                    }
                    v = activate::<I>(finish.activation, v);
                }
                I::store(line.as_mut_ptr().add(c * I::LANES), v);
            }
            for i in 0..tile.valid {
                let residual = if last { finish.residual.map_or(0.0, |residual| residual[at + i]) } else { 0.0 };
                *out.at(at + i) = line[i] + residual;
            }
        }
    }
}
