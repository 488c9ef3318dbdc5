//! Weights as the fast kernels read them: panels of as many columns as a register tile has, made once at load.

use super::isa::Level;

/// Floats that may be read a vector or two beyond the end: what follows the values is zeros.
pub struct Floats(Vec<f32>);

/// No panel is wider.
const SLACK: usize = 64;

impl Floats {
    /// Appends the zeros.
    pub fn new(mut values: Vec<f32>) -> Floats {
        values.reserve_exact(SLACK);
        values.resize(values.len() + SLACK, 0.0);
        Floats(values)
    }

    /// The values alone.
    pub fn values(&self) -> &[f32] {
        &self.0[..self.0.len() - SLACK]
    }

    /// With the zeros behind them.
    pub(super) fn padded(&self) -> &[f32] {
        &self.0
    }
}

/// Zeroed memory on a cache line's boundary: a vector that straddles two lines takes twice as long to load.
pub(super) struct Lines {
    lines: Vec<Line>,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u32; 16]);

impl Lines {
    /// Of at least `len` values of 32 bits.
    fn zeroed(len: usize) -> Lines {
        Lines { lines: vec![Line([0; 16]); len.div_ceil(16)] }
    }

    /// As numbers whose zero is all bits zero.
    pub(super) fn as_ptr<T: Word>(&self) -> *const T {
        self.lines.as_ptr().cast()
    }

    fn as_mut<T: Word>(&mut self) -> &mut [T] {
        let len = 16 * self.lines.len();
        // SAFETY: a line is sixteen words, any bits are a value of them, and their alignment is the smaller one.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), len) }
    }
}

/// Numbers of 32 bits.
pub(super) trait Word: Copy {}
impl Word for f32 {}
impl Word for u32 {}

/// `[n, k]` in f32 as `[n / panel][k][panel]`, the last panel filled up with zeros.
pub struct F32Matrix {
    pub(super) panels: Lines,
    pub(super) n: usize,
    pub(super) k: usize,
}

impl F32Matrix {
    /// Packs `w [n, k]`.
    pub fn new(level: Level, w: &[f32], n: usize, k: usize) -> F32Matrix {
        let panel = level.panel();
        let mut lines = Lines::zeroed(n.next_multiple_of(panel) * k);
        let panels = lines.as_mut::<f32>();
        for (r, row) in w.chunks_exact(k).enumerate() {
            let base = r / panel * k * panel + r % panel;
            for (c, &v) in row.iter().enumerate() {
                panels[base + c * panel] = v;
            }
        }
        F32Matrix { panels: lines, n, k }
    }
}

/// `[n, k]` in i8 with one scale a row, as 32-bit words of four i8 (or two i16) along k: `[n / panel][steps][panel]`. Which
/// values share a word is told at [`super::Quantized`].
pub struct IntMatrix {
    pub(super) words: Lines,
    /// A row's scale, zeros up to a whole panel.
    pub(super) scales: Vec<f32>,
    /// A row's sum of values times its scale, zeros up to a whole panel.
    pub(super) sums: Vec<f32>,
    pub(super) n: usize,
    pub(super) k: usize,
}

/// Values that one word holds.
fn values_per_word(level: Level) -> usize {
    if level.bytes() { 4 } else { 2 }
}

/// Words of `k` values: whole vectors.
pub(super) fn steps_for(level: Level, k: usize) -> usize {
    let lanes = level.lanes();
    k.div_ceil(values_per_word(level) * lanes) * lanes
}

impl IntMatrix {
    /// Packs `w [n, k]`, -127 ..= 127, and `scales [n]`.
    pub fn new(level: Level, w: &[i8], scales: &[f32], n: usize, k: usize) -> IntMatrix {
        let (panel, lanes, per_word) = (level.panel(), level.lanes(), values_per_word(level));
        let steps = steps_for(level, k);
        let mut lines = Lines::zeroed(n.next_multiple_of(panel) * steps);
        let words = lines.as_mut::<u32>();
        let mut padded = vec![0f32; n.next_multiple_of(panel)];
        padded[..n].copy_from_slice(scales);
        let mut sums = vec![0f32; padded.len()];
        for (r, row) in w.chunks_exact(k).enumerate() {
            let base = r / panel * steps * panel + r % panel;
            for (block, values) in row.chunks(per_word * lanes).enumerate() {
                for (i, &value) in values.iter().enumerate() {
                    let (step, place) = (block * lanes + i % lanes, i / lanes);
                    words[base + step * panel] |= if per_word == 4 {
                        u32::from(value as u8) << (8 * place)
                    } else {
                        u32::from(value as i16 as u16) << (16 * place)
                    };
                }
            }
            sums[r] = row.iter().map(|&v| i32::from(v)).sum::<i32>() as f32 * scales[r];
        }
        IntMatrix { words: lines, scales: padded, sums, n, k }
    }
}
