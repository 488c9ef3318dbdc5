//! Register tiles: a few rows times one panel of columns, summed up in registers and written where they belong.
//!
//! In WebAssembly a tile is a function of its own, whose loop gets all registers, and longer than the 500 bytes up to which
//! Chromium's compiler inlines it again: within a larger function it keeps its sums in memory, at up to twice the time.
//!
//! Its loop may end after every step of a turn, not for the remainder's sake alone: within one block LLVM moves a multiply-add
//! down to the next one of the same sum, so that all weights of the turn are alive at once, more than there are registers. That
//! cost the f32 tile a fifth of its speed.

use super::isa::{INT_ROWS, Isa, ROWS, array, unroll};
use crate::LOW_BITS;
use std::ops::Range;

/// The widest panel of all instruction sets.
pub const WIDEST: usize = 64;

/// Where a tile's values go, and what is added to them.
#[derive(Clone, Copy)]
pub struct Target {
    /// Place of the first value.
    pub out: *mut f32,
    /// Values from row to row, in `out` and `residual`.
    pub stride: usize,
    /// Of the panel's columns, or null.
    pub bias: *const f32,
    /// Of the first value, or null.
    pub residual: *const f32,
}

impl Target {
    /// Places alone.
    pub fn plain(out: *mut f32, stride: usize) -> Target {
        Target { out, stride, bias: std::ptr::null(), residual: std::ptr::null() }
    }

    /// Of the panel to the right.
    #[inline(always)]
    fn next(mut self, width: usize) -> Target {
        self.out = self.out.wrapping_add(width);
        if !self.bias.is_null() {
            self.bias = self.bias.wrapping_add(width);
        }
        if !self.residual.is_null() {
            self.residual = self.residual.wrapping_add(width);
        }
        self
    }

    /// Writes the first `rows` rows, a constant.
    #[inline(always)]
    unsafe fn put<I: Isa, const C: usize, const R: usize>(&self, mut values: [[I::F; C]; R], rows: usize) {
        macro_rules! each {
            ($r:ident, $c:ident, $body:expr) => {
                unroll!($r < R, {
                    if $r < rows {
                        unroll!($c < C, { $body });
                    }
                })
            };
        }
        unsafe {
            if !self.bias.is_null() {
                let bias = array!(c < C, I::splat(0.0), I::load(self.bias.add(c * I::LANES)));
                each!(r, c, values[r][c] = I::add(values[r][c], bias[c]));
            }
            if !self.residual.is_null() {
                let at = |r: usize, c: usize| self.residual.add(r * self.stride + c * I::LANES);
                each!(r, c, values[r][c] = I::add(values[r][c], I::load(at(r, c))));
            }
            each!(r, c, I::store(self.out.add(r * self.stride + c * I::LANES), values[r][c]));
        }
    }
}

/// Rows of floats.
#[derive(Clone, Copy)]
pub struct Rows {
    /// Each row's first value.
    pub x: [*const f32; ROWS],
    /// Values of a row.
    pub k: usize,
}

impl Rows {
    /// `count` rows, at least one, `stride` values apart; beyond them the last one stands in.
    #[inline(always)]
    #[allow(clippy::unnecessary_min_or_max)] // of the first row, which is unrolled
    pub fn strided(x: *const f32, stride: usize, count: usize, k: usize) -> Rows {
        Rows { x: array!(r < ROWS, x, x.wrapping_add(r.min(count - 1) * stride)), k }
    }
}

/// `cat(inputs) W` for so many panels side by side, w `[panels][sum of k][C x LANES]`; `ROWS` rows are written.
#[cfg_attr(target_arch = "wasm32", inline(never))]
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub unsafe fn f32_tiles<I: Isa, const C: usize>(inputs: &[Rows], mut w: *const f32, panels: usize, mut target: Target) {
    /// Inputs a turn: the rows' addresses move on once for all of them.
    const TURN: usize = if cfg!(target_arch = "wasm32") { 8 } else { 1 };
    macro_rules! step {
        ($tile:ident, $x:ident, $w:expr, $i:expr) => {
            let w = array!(c < C, I::splat(0.0), I::load($w.add(($i * C + c) * I::LANES)));
            unroll!(r < ROWS, {
                let a = I::splat(*$x[r].add($i));
                unroll!(c < C, { $tile[r][c] = I::madd(a, w[c], $tile[r][c]) });
            });
        };
    }
    unsafe {
        for _ in 0..panels {
            let mut tile = [[I::splat(0.0); C]; ROWS];
            for rows in inputs {
                if cfg!(not(target_arch = "wasm32")) {
                    // Sums that live across inputs are kept in memory within the loop too: 56% of the peak, not 96%.
                    tile = std::hint::black_box(tile);
                }
                let x = rows.x;
                let mut i = 0;
                'input: while i < rows.k {
                    let from = w.add(i * C * I::LANES);
                    let turns = array!(r < ROWS, x[0], x[r].add(i));
                    unroll!(turn < TURN, {
                        step!(tile, turns, from, turn);
                        if i + turn + 1 == rows.k {
                            break 'input;
                        }
                    });
                    i += TURN;
                }
                w = w.add(rows.k * C * I::LANES);
            }
            target.put::<I, C, ROWS>(tile, ROWS);
            target = target.next(C * I::LANES);
        }
    }
}

/// What makes floats of integer sums: `(start + sum) scale column_scale + min column_sum`.
#[derive(Clone, Copy)]
pub struct Scaling {
    /// What the integer sums of the tile's rows start from, or null: zeros.
    pub starts: *const u32,
    /// Of the tile's rows.
    pub scales: *const f32,
    /// Of the tile's rows, or null.
    pub mins: *const f32,
    /// Of the panel's columns.
    pub column_scales: *const f32,
    /// Of the panel's columns.
    pub column_sums: *const f32,
}

/// Rows of words.
#[derive(Clone, Copy)]
pub struct IntRows(pub [*const u32; INT_ROWS]);

impl IntRows {
    /// `stride` words apart.
    #[inline(always)]
    pub fn strided(x: *const u32, stride: usize) -> IntRows {
        IntRows(array!(r < INT_ROWS, x, x.wrapping_add(r * stride)))
    }
}

/// In integers: of each of the parts that make the input the first R rows of `steps` words, w `[panels][parts steps][C x LANES]`,
/// `w_stride` words from panel to panel. With two planes, a value's high and low part lie in neighbouring rows, and `R / 2` rows are
/// written. `emulated`: [`Level::emulates_bytes`].
#[inline(always)]
pub unsafe fn int_tiles<I: Isa, const C: usize, const PLANES: usize, const SIGNED: bool, const R: usize>(
    emulated: bool,
    parts: &[IntRows],
    w: *const u32,
    w_stride: usize,
    steps: usize,
    panels: usize,
    scaling: Scaling,
    target: Target,
) {
    unsafe {
        if cfg!(target_arch = "wasm32") && I::BYTES && PLANES == 1 && emulated {
            int_tiles_of::<I::Stepwise, C, PLANES, SIGNED, R>(parts, w, w_stride, steps, panels, scaling, target);
        } else {
            int_tiles_of::<I, C, PLANES, SIGNED, R>(parts, w, w_stride, steps, panels, scaling, target);
        }
    }
}

#[cfg_attr(target_arch = "wasm32", inline(never))]
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
unsafe fn int_tiles_of<I: Isa, const C: usize, const PLANES: usize, const SIGNED: bool, const R: usize>(
    parts: &[IntRows],
    mut w: *const u32,
    w_stride: usize,
    steps: usize,
    panels: usize,
    mut scaling: Scaling,
    mut target: Target,
) {
    /// Steps a turn.
    const TURN: usize = if cfg!(target_arch = "wasm32") { 4 } else { 2 };
    /// Words from those that are multiplied to those that are fetched: with fewer rows than a tile has, weights come from memory.
    const AHEAD: usize = 1024;
    unsafe {
        for _ in 0..panels {
            let mut tile = [[I::zero_i(); C]; R];
            if !scaling.starts.is_null() {
                unroll!(r < R, { tile[r] = [I::splat_i(*scaling.starts.add(r)); C] });
            }
            let mut of_part = w;
            for IntRows(x) in parts {
                if cfg!(not(target_arch = "wasm32")) {
                    // As in f32: sums that live across parts would be kept in memory within the loop too.
                    tile = std::hint::black_box(tile);
                }
                let mut first = 0;
                'part: while first < steps {
                    let (w, rows) =
                        (of_part.add(first * C * I::LANES), array!(r < R, x[0], x[r % INT_ROWS].add(first)));
                    unroll!(turn < TURN, {
                        let at = w.add(turn * C * I::LANES);
                        let w = array!(c < C, I::zero_i(), I::load_i(at.add(c * I::LANES)));
                        if R < INT_ROWS {
                            unroll!(c < C, { I::prefetch(at.wrapping_add(c * I::LANES + AHEAD)) });
                        }
                        unroll!(r < R, {
                            let x = I::splat_i(*rows[r].add(turn));
                            unroll!(c < C, {
                                tile[r][c] =
                                    if SIGNED { I::dot(tile[r][c], x, w[c]) } else { I::dot(tile[r][c], w[c], x) };
                            });
                        });
                        if first + turn + 1 == steps {
                            break 'part;
                        }
                    });
                    first += TURN;
                }
                of_part = of_part.add(steps * C * I::LANES);
            }
            let column_scales = array!(c < C, I::splat(0.0), I::load(scaling.column_scales.add(c * I::LANES)));
            let mut values = [[I::splat(0.0); C]; R];
            unroll!(r < R, {
                if r < R / PLANES {
                    let scale = I::splat(*scaling.scales.add(r));
                    unroll!(c < C, {
                        let sum = match PLANES {
                            1 => tile[r][c],
                            _ => {
                                let high = I::shift_left::<LOW_BITS>(tile[2 * r % R][c]);
                                I::add_i(high, tile[(2 * r + 1) % R][c])
                            }
                        };
                        values[r][c] = I::mul(I::to_float(sum), I::mul(scale, column_scales[c]));
                    });
                }
            });
            if !scaling.mins.is_null() {
                let column_sums = array!(c < C, I::splat(0.0), I::load(scaling.column_sums.add(c * I::LANES)));
                unroll!(r < R, {
                    if r < R / PLANES {
                        let least = I::splat(*scaling.mins.add(r));
                        unroll!(c < C, { values[r][c] = I::add(values[r][c], I::mul(least, column_sums[c])) });
                    }
                });
            }
            target.put::<I, C, R>(values, R / PLANES);
            w = w.add(w_stride);
            scaling.column_scales = scaling.column_scales.wrapping_add(C * I::LANES);
            scaling.column_sums = scaling.column_sums.wrapping_add(C * I::LANES);
            target = target.next(C * I::LANES);
        }
    }
}

/// Where a tile lies in a matrix of floats.
#[derive(Clone, Copy)]
pub struct Place {
    /// The first value.
    pub out: *mut f32,
    /// Values from row to row.
    pub stride: usize,
    /// Rows that exist.
    pub rows: usize,
    /// Columns that exist.
    pub columns: usize,
}

/// Stands in for the place of a tile that reaches beyond its matrix.
pub struct Edge {
    values: [f32; ROWS * WIDEST],
    residual: [f32; ROWS * WIDEST],
}

impl Edge {
    /// One for any number of tiles.
    pub fn new() -> Edge {
        Edge { values: [0.0; ROWS * WIDEST], residual: [0.0; ROWS * WIDEST] }
    }

    /// The target of a tile of `rows` x `width`: its place if all of it exists. `residual` lies as the place does.
    #[inline(always)]
    pub unsafe fn target(
        &mut self,
        place: Place,
        rows: usize,
        width: usize,
        bias: *const f32,
        residual: *const f32,
    ) -> Target {
        if place.rows >= rows && place.columns >= width {
            return Target { out: place.out, stride: place.stride, bias, residual };
        }
        let mut target = Target { out: self.values.as_mut_ptr(), stride: width, bias, residual };
        if !residual.is_null() {
            unsafe {
                copy(residual, place.stride, self.residual.as_mut_ptr(), width, place.rows, place.columns.min(width))
            };
            target.residual = self.residual.as_ptr();
        }
        target
    }

    /// Brings the values that exist to their place, if they are not there.
    #[inline(always)]
    pub unsafe fn deliver(&self, place: Place, rows: usize, width: usize) {
        if place.rows < rows || place.columns < width {
            unsafe { copy(self.values.as_ptr(), width, place.out, place.stride, place.rows, place.columns.min(width)) };
        }
    }
}

#[inline(never)]
unsafe fn copy(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize, rows: usize, columns: usize) {
    for r in 0..rows {
        for c in 0..columns {
            unsafe { *to.add(r * to_stride + c) = *from.add(r * from_stride + c) };
        }
    }
}

/// Panels of a matrix of so many columns as (first, how many) that one call computes: those of which all exists at once.
#[inline(always)]
pub fn strips(
    panels: Range<usize>,
    width: usize,
    columns: usize,
    whole_rows: bool,
) -> impl Iterator<Item = (usize, usize)> {
    let whole = if whole_rows { panels.end.min(columns / width).max(panels.start) } else { panels.start };
    let strip = (whole > panels.start).then_some((panels.start, whole - panels.start));
    strip.into_iter().chain((whole..panels.end).map(|panel| (panel, 1)))
}
