//! `out = gate activation(cat(x, x2) W^T + bias) + residual` in register tiles of [`ROWS`] rows and one panel of columns.
//!
//! In integers ([`int_matmul`]) a token's sum is `S = sum of q w`, exact in i32 over at most [`INT_CHUNK`] inputs, and
//! `x W^T = scale_x scale_w S + min_x scale_w (sum of w)`. Where the dot product takes bytes, the second one below 128, 12
//! bits are two register rows, `q = 32 high + low`, unless 16-bit numbers are faster; and activations of 8 bits come first,
//! with weights of 7 as `w + 64`, for which the sum starts from -64 times the token's sum.

use super::functions::{activate, coarse_gelu};
use super::isa::{INT_ROWS, Isa, Level, ROWS, kernels};
use super::lines::Lines;
use super::pack::{F32Matrix, Floats, IntMatrix, steps_for, values_per_word};
use super::pixels::{Pixels, taps_of_chunk};
use super::quantize::Quantized;
use super::threads::{Shared, Threads};
use super::tile::{Edge, IntRows, Place, Rows, Scaling, Target, WIDEST, f32_tiles, int_tiles, strips};
use crate::{Activation, INT_CHUNK, TAPS, Window};
use std::ops::Range;

/// What follows the sums.
#[derive(Clone, Copy)]
pub struct Finish<'a> {
    /// `[n]`.
    pub bias: Option<&'a Floats>,
    /// Applied before gate and residual.
    pub activation: Activation,
    /// `[n]`, where there is a residual.
    pub gate: Option<&'a [f32]>,
    /// `[rows, n]`.
    pub residual: Option<&'a [f32]>,
    /// Whether the activation may be off by 2e-4, for what is rounded to 8 bits next.
    pub coarse: bool,
}

impl Finish<'_> {
    /// Whether all sums come first: an activation runs over whole rows of them, and so do gates.
    #[inline(always)]
    fn is_late(&self) -> bool {
        self.activation != Activation::None || self.gate.is_some()
    }

    /// Whether bias and residual are as large as the result.
    fn fits(&self, rows: usize, n: usize) -> bool {
        self.bias.is_none_or(|bias| bias.values().len() == n)
            && self.gate.is_none_or(|gate| gate.len() == n && self.residual.is_some())
            && self.residual.is_none_or(|r| r.len() >= rows * n)
    }

    /// The activation of `len` values, a multiple of `LANES`.
    #[cfg_attr(target_arch = "wasm32", inline(never))]
    #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
    unsafe fn activate_all<I: Isa>(&self, values: *mut f32, len: usize) {
        for i in (0..len).step_by(I::LANES) {
            unsafe {
                let v = I::load(values.add(i));
                let v = match (self.activation, self.coarse) {
                    (Activation::Gelu, true) => coarse_gelu::<I>(v),
                    (activation, _) => activate::<I>(activation, v),
                };
                I::store(values.add(i), v);
            }
        }
    }
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
    assert!(w.k == k + k2 && w.level == level, "a matrix that was packed for something else");
    let rows = out.len() / w.n;
    assert!(x.len() >= rows * k && x2.len() >= rows * k2 && out.len() == rows * w.n && finish.fits(rows, w.n));
    let (out, source) = (Shared::of(out), Source { x, k, x2, k2, window: None });
    threads.parts(w.n.div_ceil(level.panel()), |from, to| {
        f32_panels(level, source, w, finish, out, 0..rows, from..to);
    });
}

/// The rows of `out` from `first` on, of a 3x3 convolution in f32: x `[batch, height width, k]`, w `[n, 9 k]`, out and the
/// residual `[rows, n]` of those rows; `zeros` is scratch.
pub fn f32_convolution(
    level: Level,
    threads: &Threads,
    (x, k): (&[f32], usize),
    shape: &Window,
    first: usize,
    w: &F32Matrix,
    finish: Finish,
    out: &mut [f32],
    zeros: &mut Lines<f32>,
) {
    assert!(w.k == 9 * k && w.level == level, "a matrix that was packed for something else");
    let rows = out.len() / w.n;
    let items = (first + rows).div_ceil(shape.out_height * shape.out_width);
    assert!(x.len() >= items * shape.height * shape.width * k && out.len() == rows * w.n && finish.fits(rows, w.n));
    zeros.resize(k);
    zeros.fill(0.0);
    let window = Some(Windows { shape, first, zeros });
    let (out, source) = (Shared::of(out), Source { x, k, x2: &[], k2: 0, window });
    let panels = w.n.div_ceil(level.panel());
    // Whole tiles a thread.
    threads.parts(rows.div_ceil(ROWS), |from, to| {
        f32_panels(level, source, w, finish, out, from * ROWS..rows.min(to * ROWS), 0..panels);
    });
}

/// The same in integers: x quantised, w of [`IntMatrix::of_windows`].
pub fn int_convolution(
    level: Level,
    threads: &Threads,
    x: &Pixels,
    shape: &Window,
    first: usize,
    w: &IntMatrix,
    finish: Finish,
    out: &mut [f32],
) {
    let rows = out.len() / w.n;
    let items = (first + rows).div_ceil(shape.out_height * shape.out_width);
    assert!(w.level == level && x.made_for == Some((level, w.bits)), "operands that were packed for something else");
    assert!(w.k == TAPS * x.steps * values_per_word(level, w.bits) && x.pixels == shape.height * shape.width);
    assert!(items <= x.items && out.len() == rows * w.n && finish.fits(rows, w.n));
    let out = Shared::of(out);
    // Whole tiles a thread.
    threads.parts(rows.div_ceil(INT_ROWS), |from, to| {
        int_windows(level, x, shape, first, w, finish, out, from * INT_ROWS..rows.min(to * INT_ROWS));
    });
}

/// The input of a matmul.
#[derive(Clone, Copy)]
struct Source<'a> {
    x: &'a [f32],
    k: usize,
    x2: &'a [f32],
    k2: usize,
    /// Where x are pixels that windows see.
    window: Option<Windows<'a>>,
}

#[derive(Clone, Copy)]
struct Windows<'a> {
    shape: &'a Window,
    /// The window that row 0 belongs to.
    first: usize,
    /// What lies beyond the image, at least k of them.
    zeros: &'a [f32],
}

impl Source<'_> {
    /// A tile's rows in each of the parts that make its input one after the other, at most so many; beyond `count` the last row
    /// stands in. Of a convolution every place of the windows is a part: rows need not lie at equal distances (Dukhan, "The
    /// Indirect Convolution Algorithm", 2019).
    #[cfg_attr(target_arch = "wasm32", inline(never))]
    unsafe fn parts(&self, first: usize, count: usize, parts: &mut [Rows; TAPS]) -> usize {
        let Source { x, k, x2, k2, window } = *self;
        unsafe {
            let Some(Windows { shape: s, first: origin, zeros }) = window else {
                parts[0] = Rows::strided(x.as_ptr().add(first * k), k, count, k);
                if k2 == 0 {
                    return 1;
                }
                parts[1] = Rows::strided(x2.as_ptr().add(first * k2), k2, count, k2);
                return 2;
            };
            for r in 0..ROWS {
                let (item, places) = s.places(origin + first + r.min(count - 1));
                let image = x.as_ptr().add(item * s.height * s.width * k);
                for (part, place) in parts.iter_mut().zip(places) {
                    part.k = k;
                    part.x[r] = place.map_or(zeros.as_ptr(), |pixel| image.add(pixel * k));
                }
            }
            TAPS
        }
    }
}

/// In integers: x quantised, w `[n, k]` in i8, out `[rows, n]`.
pub fn int_matmul(level: Level, threads: &Threads, x: &Quantized, w: &IntMatrix, finish: Finish, out: &mut [f32]) {
    let rows = out.len() / w.n;
    assert!(w.level == level && x.made_for == Some((level, w.bits)), "operands that were packed for something else");
    assert!(
        x.steps == steps_for(level, w.bits, w.k) && x.rows == rows && out.len() == rows * w.n && finish.fits(rows, w.n)
    );
    let out = Shared::of(out);
    threads.parts(w.n.div_ceil(level.panel()), |from, to| {
        int_panels(level, x, w, finish, out, rows, from..to);
    });
}

kernels! {
    fn f32_panels(
        source: Source, w: &F32Matrix, finish: Finish, out: Shared<f32>, rows: Range<usize>, panels: Range<usize>,
    ) = f32_panels_with;
    fn int_windows(
        x: &Pixels, shape: &Window, first: usize, w: &IntMatrix, finish: Finish, out: Shared<f32>, rows: Range<usize>,
    ) = int_windows_with;
    fn int_panels(
        x: &Quantized, w: &IntMatrix, finish: Finish, out: Shared<f32>, rows: usize, panels: Range<usize>,
    ) = int_panels_with;
}

#[inline(always)]
unsafe fn f32_panels_with<I: Isa>(
    source: Source,
    w: &F32Matrix,
    finish: Finish,
    out: Shared<f32>,
    rows: Range<usize>,
    panels: Range<usize>,
) {
    unsafe {
        match I::COLUMNS {
            1 => f32_panels_of::<I, 1>(source, w, finish, out, rows, panels),
            2 => f32_panels_of::<I, 2>(source, w, finish, out, rows, panels),
            _ => f32_panels_of::<I, 4>(source, w, finish, out, rows, panels),
        }
    }
}

#[inline(always)]
unsafe fn f32_panels_of<I: Isa, const C: usize>(
    source: Source,
    w: &F32Matrix,
    finish: Finish,
    out: Shared<f32>,
    rows: Range<usize>,
    panels: Range<usize>,
) {
    let width = C * I::LANES;
    let columns = Columns { finish, out, n: w.n, width };
    let mut edge = Edge::new();
    let mut parts = [Rows { x: [std::ptr::null(); ROWS], k: 0 }; TAPS];
    for group in groups(panels, 4 * w.k * width) {
        for first in rows.clone().step_by(ROWS) {
            let count = ROWS.min(rows.end - first);
            // SAFETY: the caller's assertions found the rows in x, x2 and out; a panel has w.k x width values; rows and
            // columns of `out` belong to one thread each.
            unsafe {
                let several = source.parts(first, count, &mut parts);
                let inputs = &parts[..several];
                for (panel, together) in strips(group.clone(), width, w.n, count == ROWS) {
                    let place = columns.place(first, count, panel);
                    let residual = if finish.is_late() { std::ptr::null() } else { columns.residual(first, panel) };
                    let target = edge.target(place, ROWS, width, columns.bias(panel), residual);
                    f32_tiles::<I, C>(inputs, w.panels.as_ptr().add(panel * w.k * width), together, target);
                    edge.deliver(place, ROWS, width);
                }
                if finish.is_late() {
                    columns.finish::<I>(first, count, &group);
                }
            }
        }
    }
}

/// Panels of a group.
const MOST_PANELS: usize = 16;

/// Panels that are computed together for a tile of rows, so that rows of `out` are written in long runs: with a few columns
/// at a time, rows a power of two apart would push each other out of the first cache. As many as fit half of it.
fn groups(panels: Range<usize>, panel_bytes: usize) -> impl Iterator<Item = Range<usize>> {
    const BYTES: usize = 16 << 10;
    let size = (BYTES / panel_bytes.max(1)).clamp(2, MOST_PANELS);
    let end = panels.end;
    panels.step_by(size).map(move |from| from..end.min(from + size))
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
        match I::COLUMNS {
            1 => int_panels_of_width::<I, 1>(x, w, finish, out, rows, panels),
            2 => int_panels_of_width::<I, 2>(x, w, finish, out, rows, panels),
            _ => int_panels_of_width::<I, 4>(x, w, finish, out, rows, panels),
        }
    }
}

#[inline(always)]
unsafe fn int_panels_of_width<I: Isa, const C: usize>(
    x: &Quantized,
    w: &IntMatrix,
    finish: Finish,
    out: Shared<f32>,
    rows: usize,
    panels: Range<usize>,
) {
    unsafe {
        match (I::BYTES, w.bits, x.planes) {
            // Of one row alone, only weights take time. (In the page it is not worth a third kernel.)
            #[cfg(not(target_arch = "wasm32"))]
            (true, 12, 2) if rows == 1 => int_panels_of::<I, C, 2, false, 2>(x, w, finish, out, rows, panels),
            (true, 12, 2) => int_panels_of::<I, C, 2, false, INT_ROWS>(x, w, finish, out, rows, panels),
            (true, 12, _) => int_panels_of::<I::Pairs, C, 1, true, INT_ROWS>(x, w, finish, out, rows, panels),
            #[cfg(not(target_arch = "wasm32"))]
            (false, 12, _) if rows == 1 => int_panels_of::<I, C, 1, true, 1>(x, w, finish, out, rows, panels),
            _ => int_panels_of::<I, C, 1, true, INT_ROWS>(x, w, finish, out, rows, panels),
        }
    }
}

#[inline(always)]
unsafe fn int_panels_of<I: Isa, const C: usize, const PLANES: usize, const SIGNED: bool, const R: usize>(
    x: &Quantized,
    w: &IntMatrix,
    finish: Finish,
    out: Shared<f32>,
    rows: usize,
    panels: Range<usize>,
) {
    let width = C * I::LANES;
    let columns = Columns { finish, out, n: w.n, width };
    let chunk = INT_CHUNK / if I::BYTES { 4 } else { 2 };
    let tokens = R / PLANES;
    // With several chunks, `out` holds the sum of those before.
    let late = finish.is_late() || x.steps > chunk;
    // Items apart where each has a mean of its own; else all tokens in a row.
    let (items, tokens_each) = if x.lead > 0 { (rows / x.tokens, x.tokens) } else { (1, rows) };
    let mut edge = Edge::new();
    let mut shared = Shares::new();
    for group in groups(panels, 4 * x.steps.min(chunk) * width) {
        for begin in (0..x.steps).step_by(chunk) {
            let steps = chunk.min(x.steps - begin);
            for item in 0..items {
                for tile in (0..x.lead + tokens_each).step_by(tokens) {
                    let count = tokens.min(x.lead + tokens_each - tile);
                    let register_row = item * (x.lead + tokens_each) + tile;
                    // SAFETY: tokens and panels have PLANES x `steps` and `steps` x width words; scales and sums are padded
                    // to whole panels, tokens with their scales and mins to whole tiles; columns of `out` belong to one
                    // thread each.
                    unsafe {
                        let words = x.words.as_ptr().add(register_row * PLANES * x.steps + begin);
                        let words = [IntRows::strided(words, x.steps)];
                        let starts = match x.starts.len() {
                            0 => std::ptr::null(),
                            _ => x.starts.as_ptr().add(begin / chunk * x.scales.len() + register_row),
                        };
                        let scaling = |panel: usize| Scaling {
                            starts,
                            scales: x.scales.as_ptr().add(register_row),
                            // Smallest values count once.
                            mins: if begin == 0 { x.mins.as_ptr().add(register_row) } else { std::ptr::null() },
                            column_scales: w.scales.as_ptr().add(panel * width),
                            column_sums: w.sums.as_ptr().add(panel * width),
                        };
                        let weights = |panel: usize| w.words.as_ptr().add((panel * x.steps + begin) * width);
                        let w_stride = x.steps * width;
                        let before = |first: usize, panel: usize| match (begin, late) {
                            (0, false) => columns.residual(first, panel),
                            (0, true) => std::ptr::null(),
                            _ => columns.place(first, 0, panel).out.cast_const(),
                        };
                        let bias = |panel: usize| if begin == 0 { columns.bias(panel) } else { std::ptr::null() };
                        if tile < x.lead {
                            let (first, target) = (item * tokens_each, shared.target(group.len() * width));
                            let (scaling, weights) = (scaling(group.start), weights(group.start));
                            int_tiles::<I, C, PLANES, SIGNED, R>(
                                w.level.emulates_bytes(),
                                &words,
                                weights,
                                w_stride,
                                steps,
                                group.len(),
                                scaling,
                                target,
                            );
                            let place = columns.place(first, count - x.lead, group.start);
                            shared.spread::<I>(
                                group.len() * width,
                                bias(group.start),
                                place,
                                before(first, group.start),
                            );
                        } else {
                            let first = item * tokens_each + tile - x.lead;
                            for (panel, together) in strips(group.clone(), width, w.n, count == tokens) {
                                let place = columns.place(first, count, panel);
                                let bias = match x.lead {
                                    0 => bias(panel),
                                    _ => shared.all.as_ptr().add((panel - group.start) * width),
                                };
                                let target = edge.target(place, tokens, width, bias, before(first, panel));
                                int_tiles::<I, C, PLANES, SIGNED, R>(
                                    w.level.emulates_bytes(),
                                    &words,
                                    weights(panel),
                                    w_stride,
                                    steps,
                                    together,
                                    scaling(panel),
                                    target,
                                );
                                edge.deliver(place, tokens, width);
                            }
                        }
                        if late && begin + steps == x.steps {
                            let first = item * tokens_each + tile.saturating_sub(x.lead);
                            columns.finish::<I>(first, count - x.lead.saturating_sub(tile), &group);
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn int_windows_with<I: Isa>(
    x: &Pixels,
    shape: &Window,
    first: usize,
    w: &IntMatrix,
    finish: Finish,
    out: Shared<f32>,
    rows: Range<usize>,
) {
    unsafe {
        match I::COLUMNS {
            1 => int_windows_of_width::<I, 1>(x, shape, first, w, finish, out, rows),
            2 => int_windows_of_width::<I, 2>(x, shape, first, w, finish, out, rows),
            _ => int_windows_of_width::<I, 4>(x, shape, first, w, finish, out, rows),
        }
    }
}

#[inline(always)]
unsafe fn int_windows_of_width<I: Isa, const C: usize>(
    x: &Pixels,
    shape: &Window,
    first: usize,
    w: &IntMatrix,
    finish: Finish,
    out: Shared<f32>,
    rows: Range<usize>,
) {
    unsafe {
        match (I::BYTES, w.bits, x.planes) {
            (true, 12, 2) => int_windows_of::<I, C, 2, false>(x, shape, first, w, finish, out, rows),
            (true, 12, _) => int_windows_of::<I::Pairs, C, 1, true>(x, shape, first, w, finish, out, rows),
            _ => int_windows_of::<I, C, 1, true>(x, shape, first, w, finish, out, rows),
        }
    }
}

#[inline(always)]
unsafe fn int_windows_of<I: Isa, const C: usize, const PLANES: usize, const SIGNED: bool>(
    x: &Pixels,
    shape: &Window,
    origin: usize,
    w: &IntMatrix,
    finish: Finish,
    out: Shared<f32>,
    rows: Range<usize>,
) {
    let width = C * I::LANES;
    let columns = Columns { finish, out, n: w.n, width };
    let taps_each = taps_of_chunk(x.k);
    let tokens = INT_ROWS / PLANES;
    // With several chunks, `out` holds the sum of those before.
    let late = finish.is_late() || taps_each < TAPS;
    let mut edge = Edge::new();
    let mut parts = [IntRows([std::ptr::null(); INT_ROWS]); TAPS];
    for group in groups(0..w.n.div_ceil(width), 4 * x.steps * TAPS.min(taps_each) * width) {
        for begin in (0..TAPS).step_by(taps_each) {
            let taps = begin..TAPS.min(begin + taps_each);
            for first in rows.clone().step_by(tokens) {
                let count = tokens.min(rows.end - first);
                // SAFETY: pixels and panels have PLANES x `steps` and 9 `steps` x width words; scales and sums of columns are
                // padded to whole panels; rows of `out` belong to one thread each.
                unsafe {
                    let (mut scales, mut mins, mut starts) = ([0f32; INT_ROWS], [0f32; INT_ROWS], [0u32; INT_ROWS]);
                    for r in 0..tokens {
                        let row = origin + first + r.min(count - 1);
                        let (item, places) = shape.places(row);
                        scales[r] = x.scales[item];
                        mins[r] = x.mins[item];
                        for (part, tap) in parts.iter_mut().zip(taps.clone()) {
                            // Behind the pixels of an item lies one of zeros.
                            let pixel = item * (x.pixels + 1) + places[tap].unwrap_or(x.pixels);
                            if let Some(start) = x.starts.get(pixel) {
                                starts[r] = starts[r].wrapping_add(*start);
                            }
                            let words = x.words.as_ptr().add(pixel * PLANES * x.steps);
                            for plane in 0..PLANES {
                                part.0[r * PLANES + plane] = words.add(plane * x.steps);
                            }
                        }
                    }
                    let parts = &parts[..taps.len()];
                    for (panel, together) in strips(group.clone(), width, w.n, count == tokens) {
                        let scaling = Scaling {
                            starts: if x.starts.is_empty() { std::ptr::null() } else { starts.as_ptr() },
                            scales: scales.as_ptr(),
                            // Smallest values count once.
                            mins: if begin == 0 { mins.as_ptr() } else { std::ptr::null() },
                            column_scales: w.scales.as_ptr().add(panel * width),
                            column_sums: w.sums.as_ptr().add(panel * width),
                        };
                        let place = columns.place(first, count, panel);
                        let before = match (begin, late) {
                            (0, false) => columns.residual(first, panel),
                            (0, true) => std::ptr::null(),
                            _ => place.out.cast_const(),
                        };
                        let bias = if begin == 0 { columns.bias(panel) } else { std::ptr::null() };
                        let target = edge.target(place, tokens, width, bias, before);
                        let weights = w.words.as_ptr().add((panel * TAPS + begin) * x.steps * width);
                        int_tiles::<I, C, PLANES, SIGNED, INT_ROWS>(
                            w.level.emulates_bytes(),
                            parts,
                            weights,
                            TAPS * x.steps * width,
                            x.steps,
                            together,
                            scaling,
                            target,
                        );
                        edge.deliver(place, tokens, width);
                    }
                    if late && taps.end == TAPS {
                        columns.finish::<I>(first, count, &group);
                    }
                }
            }
        }
    }
}

/// What all tokens of an item have in common: their mean's products.
struct Shares {
    /// A group's columns.
    all: [f32; MOST_COLUMNS],
    /// A tile of the mean's high and low part, and two tokens.
    tile: [f32; INT_ROWS * MOST_COLUMNS],
}

/// Columns of a group.
const MOST_COLUMNS: usize = MOST_PANELS * WIDEST;

impl Shares {
    fn new() -> Shares {
        Shares { all: [0.0; MOST_COLUMNS], tile: [0.0; INT_ROWS * MOST_COLUMNS] }
    }

    /// Where the first tile of an item goes.
    fn target(&mut self, columns: usize) -> Target {
        Target::plain(self.tile.as_mut_ptr(), columns)
    }

    /// Adds what its first two rows say to the others, which go to `place`; `before` lies as `place` does.
    #[cfg_attr(target_arch = "wasm32", inline(never))]
    #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
    unsafe fn spread<I: Isa>(&mut self, columns: usize, bias: *const f32, place: Place, before: *const f32) {
        let row = |tile: &[f32], r: usize, c: usize| unsafe { I::load(tile.as_ptr().add(r * columns + c)) };
        let existing = place.columns.min(columns);
        unsafe {
            for c in (0..columns).step_by(I::LANES) {
                let mut all = I::add(row(&self.tile, 0, c), row(&self.tile, 1, c));
                if !bias.is_null() {
                    all = I::add(all, I::load(bias.add(c)));
                }
                I::store(self.all.as_mut_ptr().add(c), all);
                for r in 0..place.rows {
                    let mut v = I::add(row(&self.tile, 2 + r, c), all);
                    let at = r * place.stride + c;
                    if c + I::LANES <= existing {
                        if !before.is_null() {
                            v = I::add(v, I::load(before.add(at)));
                        }
                        I::store(place.out.add(at), v);
                    } else {
                        let mut lanes = [0f32; 16];
                        I::store(lanes.as_mut_ptr(), v);
                        for (i, lane) in lanes.iter().enumerate().take(existing.saturating_sub(c)) {
                            *place.out.add(at + i) = lane + if before.is_null() { 0.0 } else { *before.add(at + i) };
                        }
                    }
                }
            }
        }
    }
}

/// A matmul's outputs, in panels.
#[derive(Clone, Copy)]
struct Columns<'a> {
    finish: Finish<'a>,
    out: Shared<f32>,
    n: usize,
    width: usize,
}

impl Columns<'_> {
    #[inline(always)]
    fn place(&self, first: usize, rows: usize, panel: usize) -> Place {
        let column = panel * self.width;
        let out = self.out.at(first * self.n + column);
        Place { out, stride: self.n, rows, columns: self.n - column }
    }

    #[inline(always)]
    unsafe fn bias(&self, panel: usize) -> *const f32 {
        self.finish.bias.map_or(std::ptr::null(), |bias| unsafe { bias.padded().as_ptr().add(panel * self.width) })
    }

    #[inline(always)]
    unsafe fn residual(&self, first: usize, panel: usize) -> *const f32 {
        let at = first * self.n + panel * self.width;
        self.finish.residual.map_or(std::ptr::null(), |residual| unsafe { residual.as_ptr().add(at) })
    }

    /// Activation, gate and residual for a few rows of a group of panels, whose sums lie in `out`.
    #[cfg_attr(target_arch = "wasm32", inline(never))]
    #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
    unsafe fn finish<I: Isa>(&self, first: usize, rows: usize, group: &Range<usize>) {
        let Columns { finish, out, n, width } = *self;
        let columns = group.start * width..n.min(group.end * width);
        let rest = columns.len() % I::LANES;
        for r in first..first + rows {
            let row = r * n + columns.start..r * n + columns.end;
            // SAFETY: these values of `out` belong to this thread.
            unsafe {
                finish.activate_all::<I>(out.at(row.start), row.len() - rest);
                if rest > 0 {
                    let mut lanes = [0f32; 16];
                    std::ptr::copy_nonoverlapping(out.at(row.end - rest), lanes.as_mut_ptr(), rest);
                    finish.activate_all::<I>(lanes.as_mut_ptr(), I::LANES);
                    std::ptr::copy_nonoverlapping(lanes.as_ptr(), out.at(row.end - rest), rest);
                }
                let Some(residual) = finish.residual else { continue };
                let (residual, sums) = (&residual[row.clone()], out.at(row.start));
                let sums = std::slice::from_raw_parts_mut(sums, residual.len()).iter_mut().zip(residual);
                match finish.gate {
                    Some(gate) => sums.zip(&gate[columns.clone()]).for_each(|((v, r), g)| *v = *v * g + r),
                    None => sums.for_each(|(v, r)| *v += r),
                }
            }
        }
    }
}
