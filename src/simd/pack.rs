//! Weights as the fast kernels read them: panels of as many columns as a register tile has, made once at load.

use super::isa::Level;
use super::lines::Lines;
use crate::TAPS;

/// Floats that may be read a vector or two beyond the end: what follows the values is zeros.
pub struct Floats(Lines<f32>);

/// No panel is wider.
const SLACK: usize = 64;

impl Floats {
    /// Appends the zeros.
    pub fn new(values: &[f32]) -> Floats {
        let mut lines = Lines::zeroed(values.len() + SLACK);
        lines[..values.len()].copy_from_slice(values);
        Floats(lines)
    }

    /// The values alone.
    pub fn values(&self) -> &[f32] {
        &self.0[..self.0.len() - SLACK]
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        4 * self.0.len()
    }

    /// With the zeros behind them.
    pub(super) fn padded(&self) -> &[f32] {
        &self.0
    }
}

/// `[n, k]` in f32 as `[n / panel][k][panel]`, the last panel filled up with zeros.
pub struct F32Matrix {
    pub(super) level: Level,
    pub(super) panels: Lines<f32>,
    pub(super) n: usize,
    pub(super) k: usize,
}

impl F32Matrix {
    /// Packs `w [n, k]`.
    pub fn new(level: Level, w: &[f32], n: usize, k: usize) -> F32Matrix {
        assert!(n > 0 && k > 0 && w.len() == n * k, "[n, k] values");
        let panel = level.panel();
        let mut panels = Lines::zeroed(n.next_multiple_of(panel) * k);
        for (r, row) in w.chunks_exact(k).enumerate() {
            let base = r / panel * k * panel + r % panel;
            for (c, &v) in row.iter().enumerate() {
                panels[base + c * panel] = v;
            }
        }
        F32Matrix { level, panels, n, k }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        4 * self.panels.len()
    }
}

/// `[n, k]` in i8 with one scale a row, as 32-bit words of four i8 (or two i16) along k: `[n / panel][steps][panel]`. Which
/// values share a word is told at [`super::Quantized`].
pub struct IntMatrix {
    pub(super) level: Level,
    pub(super) bits: u32,
    pub(super) words: Lines<u32>,
    /// A row's scale, zeros up to a whole panel.
    pub(super) scales: Vec<f32>,
    /// A row's sum of values times its scale, zeros up to a whole panel.
    pub(super) sums: Vec<f32>,
    pub(super) n: usize,
    pub(super) k: usize,
}

/// What makes weights of 7 bits positive.
pub(super) const WEIGHT_OFFSET: i32 = 64;

/// Values that one word holds, beside or of activations of so many bits.
pub(super) fn values_per_word(level: Level, bits: u32) -> usize {
    if level.bytes(bits) { 4 } else { 2 }
}

/// Words of `k` values: whole vectors.
pub(super) fn steps_for(level: Level, bits: u32, k: usize) -> usize {
    let lanes = level.lanes();
    k.div_ceil(values_per_word(level, bits) * lanes) * lanes
}

impl IntMatrix {
    /// Packs `w [n, k]` and `scales [n]`, for activations of `bits` bits: w are -127 ..= 127 for 12 and -63 ..= 63 for 8,
    /// where they are the operand of the dot product that takes 7 bits without a sign.
    pub fn new(level: Level, w: &[i8], scales: &[f32], n: usize, k: usize, bits: u32) -> IntMatrix {
        assert!(n > 0 && k > 0 && w.len() == n * k && scales.len() == n && [8, 12].contains(&bits), "[n, k] values");
        let (panel, lanes, per_word) = (level.panel(), level.lanes(), values_per_word(level, bits));
        let steps = steps_for(level, bits, k);
        let offset = if bits == 8 && per_word == 4 { WEIGHT_OFFSET } else { 0 };
        assert!(bits != 8 || w.iter().all(|v| v.unsigned_abs() < 64), "weights of 7 bits");
        let mut words = Lines::<u32>::zeroed(n.next_multiple_of(panel) * steps);
        let mut padded = vec![0f32; n.next_multiple_of(panel)];
        padded[..n].copy_from_slice(scales);
        let mut sums = vec![0f32; padded.len()];
        for (r, row) in w.chunks_exact(k).enumerate() {
            let base = r / panel * steps * panel + r % panel;
            for (block, values) in row.chunks(per_word * lanes).enumerate() {
                for (i, &value) in values.iter().enumerate() {
                    let (step, place) = (block * lanes + i % lanes, i / lanes);
                    words[base + step * panel] |= if per_word == 4 {
                        u32::from((i32::from(value) + offset) as u8) << (8 * place)
                    } else {
                        u32::from(value as i16 as u16) << (16 * place)
                    };
                }
            }
            sums[r] = row.iter().map(|&v| i32::from(v)).sum::<i32>() as f32 * scales[r];
        }
        IntMatrix { level, bits, words, scales: padded, sums, n, k }
    }

    /// Packs the matrix of a 3x3 convolution, `w [n, 9, k]`: every place's columns are filled up to whole vectors of words.
    pub fn of_windows(level: Level, w: &[i8], scales: &[f32], n: usize, k: usize, bits: u32) -> IntMatrix {
        let wide = steps_for(level, bits, k) * values_per_word(level, bits);
        let mut padded = vec![0; n * TAPS * wide];
        for (to, from) in padded.chunks_exact_mut(wide).zip(w.chunks_exact(k)) {
            to[..k].copy_from_slice(from);
        }
        IntMatrix::new(level, &padded, scales, n, TAPS * wide, bits)
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        4 * (self.words.len() + self.scales.len() + self.sums.len())
    }
}
