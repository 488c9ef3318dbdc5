//! Pixels of images to integers, for convolutions: one scale and smallest value an item, since a window sees nine pixels at
//! once. What lies beyond an image is zero, so zero is one of the integers' values.

use super::isa::{Isa, Level, kernels};
use super::lines::Lines;
use super::pack::{steps_for, values_per_word};
use super::quantize::{Extent, pack_halves, pack_planes, pack_signed};
use super::threads::{Shared, Threads};
use crate::{INT_CHUNK, TAPS};
use std::ops::Range;

/// Quantised pixels `[items][pixels + 1][planes][steps]`, the last one of an item zeros; words as in [`super::Quantized`].
#[derive(Default)]
pub struct Pixels {
    pub(super) words: Lines<u32>,
    /// Of an item.
    pub(super) scales: Vec<f32>,
    /// Of an item: what the integer 0 stands for.
    pub(super) mins: Vec<f32>,
    /// Of a pixel: what a sum starts from in 8 bits, where the dot product takes bytes; else empty.
    pub(super) starts: Lines<u32>,
    /// Words of a plane of a pixel.
    pub(super) steps: usize,
    /// Register rows a pixel.
    pub(super) planes: usize,
    /// Of an item.
    pub(super) pixels: usize,
    pub(super) items: usize,
    /// Values of a pixel.
    pub(super) k: usize,
    pub(super) made_for: Option<(Level, u32)>,
}

/// How many places of a window of `k` values each one sum of 32 bits may hold.
pub fn taps_of_chunk(k: usize) -> usize {
    (INT_CHUNK / k.next_multiple_of(64)).clamp(1, TAPS)
}

/// Pixels whose extent is found at once.
const BLOCK: usize = 256;

impl Pixels {
    /// Quantises x `[items, pixels, k]`; the memory of the last call is used again.
    pub fn fill(
        &mut self,
        level: Level,
        threads: &Threads,
        x: &[f32],
        k: usize,
        items: usize,
        pixels: usize,
        bits: u32,
    ) {
        assert!(x.len() >= items * pixels * k && k <= INT_CHUNK && [8, 12].contains(&bits));
        (self.items, self.pixels, self.k, self.made_for) = (items, pixels, k, Some((level, bits)));
        self.steps = steps_for(level, bits, k);
        self.planes = if bits == 12 && level.bytes(bits) { 2 } else { 1 };
        let all = items * (pixels + 1);
        self.words.resize(all * self.planes * self.steps);
        self.starts.resize(if bits == 8 && level.bytes(bits) { all } else { 0 });
        self.scales.clear();
        self.mins.clear();
        let mut extents = vec![[0f32; 2]; pixels.div_ceil(BLOCK)];
        let (words, starts) = (Shared::of(&mut self.words), Shared::of(&mut self.starts));
        let has_starts = bits == 8 && level.bytes(bits);
        for item in 0..items {
            let x = &x[item * pixels * k..][..pixels * k];
            let shared = Shared::of(&mut extents);
            threads.each(pixels.div_ceil(BLOCK), |block| {
                let values = &x[block * BLOCK * k..(pixels * k).min((block + 1) * BLOCK * k)];
                extent_of(level, values, shared.at(block));
            });
            // Zero is a value, and NaN stays one.
            let (low, high) = extents.iter().fold((0f32, 0f32), |(low, high), [least, most]| {
                let spoiled = least * 0.0;
                (low.min(*least) + spoiled, high.max(*most) + spoiled)
            });
            // One step less than there are, so that the smallest value may lie below the lowest by what makes zero a whole step.
            let scale = (high - low) / ((1u32 << bits) - 2) as f32;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let least = (low * inverse).floor() * scale;
            let signed = if bits == 8 { 128.0 } else { 0.0 };
            self.scales.push(scale);
            self.mins.push(least + signed * scale);
            let first = item * (pixels + 1);
            let out = Place {
                words: Shared(words.at(first * self.planes * self.steps)),
                starts: has_starts.then(|| Shared(starts.at(first))),
                steps: self.steps,
                planes: self.planes,
                padded: self.steps * values_per_word(level, bits),
                bits,
            };
            threads.parts(pixels + 1, |from, to| quantize_pixels(level, x, k, from..to, least, inverse, out));
        }
    }
}

/// Where an item's pixels go.
#[derive(Clone, Copy)]
struct Place {
    words: Shared<u32>,
    starts: Option<Shared<u32>>,
    steps: usize,
    planes: usize,
    /// Values of a pixel, filled up to whole words.
    padded: usize,
    bits: u32,
}

kernels! {
    fn extent_of(values: &[f32], out: *mut [f32; 2]) = extent_with;
    fn quantize_pixels(x: &[f32], k: usize, pixels: Range<usize>, least: f32, inverse: f32, out: Place)
        = quantize_pixels_with;
}

#[inline(always)]
unsafe fn extent_with<I: Isa>(values: &[f32], out: *mut [f32; 2]) {
    unsafe {
        let mut extent = Extent::<I>::new();
        extent.include(values);
        let (least, most) = extent.ends();
        *out = [least, most];
    }
}

#[inline(always)]
unsafe fn quantize_pixels_with<I: Isa>(
    x: &[f32],
    k: usize,
    pixels: Range<usize>,
    least: f32,
    inverse: f32,
    out: Place,
) {
    // A pixel that is no whole words is copied, zeros behind it; so is the one of zeros.
    let mut copy = vec![0f32; out.padded];
    for pixel in pixels {
        let values = x.get(pixel * k..(pixel + 1) * k).unwrap_or(&[]);
        let whole = values.len() == out.padded;
        if !whole {
            copy.fill(0.0);
            copy[..values.len()].copy_from_slice(values);
        }
        let from = if whole { values.as_ptr() } else { copy.as_ptr() };
        let words = out.words.at(pixel * out.planes * out.steps);
        // SAFETY: the caller's target features are those of I; a pixel's words belong to one thread, and there are as many as
        // its padded values fill.
        unsafe {
            if out.bits == 8 {
                // All values count, those that fill up too: their weights are zero, which is 64 to the dot product.
                let mut unused = 0;
                let start = out.starts.map_or(std::ptr::from_mut(&mut unused), |starts| starts.at(pixel));
                pack_signed::<I, false>(from, out.padded, least, inverse, words, out.steps, start, 0);
            } else if out.planes == 2 {
                pack_planes::<I>(from, least, inverse, words, out.steps);
            } else if I::BYTES {
                pack_halves::<I::Pairs>(from, least, inverse, words, out.steps);
            } else {
                pack_halves::<I>(from, least, inverse, words, out.steps);
            }
        }
    }
}
