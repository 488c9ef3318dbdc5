//! Pictures as they come from people, and what networks take of them: cut to a square, resized, as floats.
//!
//! Resizing is that of Pillow's `Image.resize` for 8 bits a channel (`src/libImaging/Resample.c`), with which the published
//! models prepare their pictures: first rows become shorter or longer, then columns, each through a filter that is stretched where
//! the picture shrinks, in fixed point with 22 bits behind the point, rounded to bytes either time. `tests/pictures.rs` holds it
//! to the bytes of Pillow 11. Newer ones resize columns first where that is less work, and so may differ by 1 (Pillow 13 does, where
//! only columns shrink); so may a platform whose sine has another last bit.

use super::pixels::to_rgba;
use crate::{Code, Error, Result};
use std::ops::Range;

/// How pixels are weighted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981, with a = -1/2.
    Bicubic,
    /// A sinc in a window of three lobes of a sinc.
    Lanczos,
}

impl Filter {
    /// The filter is 0 beyond.
    fn support(self) -> f64 {
        match self {
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        if x >= self.support() {
            return 0.0;
        }
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
        match self {
            Filter::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Filter::Bicubic => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            Filter::Lanczos => sinc(x) * sinc(x / 3.0),
        }
    }
}

/// Bits behind the point of a weight.
const BITS: u32 = 22;

/// What a pixel of a line of `to` is made of where `from` were: the first of them, and the weights of all.
fn taps(at: usize, from: usize, to: usize, filter: Filter) -> (usize, Vec<i32>) {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let (center, reach) = ((at as f64 + 0.5) * scale, filter.support() * stretch);
    // Conversions cut off, and below 0 they are 0.
    let first = (center - reach + 0.5) as usize;
    let end = ((center + reach + 0.5) as usize).min(from);
    let mut weights = Vec::new();
    for i in first..end {
        weights.push(filter.at((i as f64 - center + 0.5) * (1.0 / stretch)));
    }
    let sum: f64 = weights.iter().sum();
    let fixed = |weight: &f64| {
        let scaled = weight / sum * f64::from(1 << BITS);
        (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i32
    };
    (first, weights.iter().map(fixed).collect())
}

/// Resizes one axis of `[.., from, inner]` to `to`, of which only `kept` are computed.
fn pass(source: &[u8], inner: usize, from: usize, to: usize, kept: Range<usize>, filter: Filter) -> Vec<u8> {
    let all: Vec<(usize, Vec<i32>)> = kept.map(|at| taps(at, from, to, filter)).collect();
    let outer = source.len() / (inner * from);
    let mut out = Vec::with_capacity(outer * all.len() * inner);
    let mut sums = vec![0i32; inner];
    for line in source.chunks_exact(inner * from) {
        for (first, weights) in &all {
            sums.fill(1 << (BITS - 1));
            for (values, &weight) in line[first * inner..].chunks_exact(inner).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(values) {
                    *sum += i32::from(value) * weight;
                }
            }
            for sum in &sums {
                out.push((sum >> BITS).clamp(0, 255) as u8);
            }
        }
    }
    out
}

/// Means and standard deviations of the colours that CLIP was trained with, as openai/CLIP's `clip/clip.py` has them.
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// A picture, 8 bits a channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// `[height, width, 3]`.
    rgb: Vec<u8>,
    width: usize,
    height: usize,
}

impl Picture {
    /// Of RGBA, row by row, not premultiplied, as a canvas and PNG have it; what is transparent shows white.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` unless `rgba` is `[height, width, 4]` with a pixel at least.
    pub fn from_rgba(rgba: &[u8], width: usize, height: usize) -> Result<Picture> {
        let bytes = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(4));
        if rgba.is_empty() || bytes != Some(rgba.len()) {
            let cause = format!("a picture of {width} x {height} pixels has {} bytes", rgba.len());
            return Err(Error::new(
                Code::InvalidArgument,
                cause,
                "Give four bytes a pixel: red, green, blue and alpha",
            ));
        }
        let mut rgb = Vec::with_capacity(rgba.len() / 4 * 3);
        for pixel in rgba.as_chunks::<4>().0 {
            let alpha = u32::from(pixel[3]);
            for &value in &pixel[..3] {
                rgb.push(((u32::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
            }
        }
        Ok(Picture { rgb, width, height })
    }

    /// Of `[channels, height, width]` in \[-1, 1\], rounded to bytes; one channel is grey.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` unless there are as many values, all finite.
    pub fn from_signed(values: &[f32], [channels, height, width]: [usize; 3]) -> Result<Picture> {
        let wrong = |cause| {
            let remedy = "Give floats from -1 to 1, plane by plane, or the picture itself";
            Err(Error::new(Code::InvalidArgument, cause, remedy))
        };
        if values.len() != channels * height * width {
            return wrong(format!("a picture of {channels} x {height} x {width} has {} values", values.len()));
        }
        if values.iter().any(|value| !value.is_finite()) {
            return wrong("a picture has values that are not finite".into());
        }
        Picture::from_rgba(&to_rgba(values, [channels, height, width]), width, height)
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Resized to `[width, height]`, of which only `columns` and `rows` are computed.
    fn part(&self, [width, height]: [usize; 2], columns: Range<usize>, rows: Range<usize>, filter: Filter) -> Picture {
        let (kept_width, kept_height) = (columns.len(), rows.len());
        let mut rgb;
        // Where nothing changes, Pillow does not filter either; the filters would give the same.
        if (width, &columns) == (self.width, &(0..width)) {
            rgb = self.rgb.clone();
        } else {
            rgb = pass(&self.rgb, 3, self.width, width, columns, filter);
        }
        if (height, &rows) != (self.height, &(0..height)) {
            rgb = pass(&rgb, 3 * kept_width, self.height, height, rows, filter);
        }
        Picture { rgb, width: kept_width, height: kept_height }
    }

    /// Resized, whatever its proportions: neither may be 0.
    pub fn resized(&self, width: usize, height: usize, filter: Filter) -> Picture {
        self.part([width, height], 0..width, 0..height, filter)
    }

    /// The square in the middle, as large as it can be, resized by Lanczos: `center_crop` of thu-ml/unidiffuser's `utils.py`.
    pub fn square(&self, size: usize) -> Picture {
        let side = self.width.min(self.height);
        let (left, top) = ((self.width - side) / 2, (self.height - side) / 2);
        let mut rgb = Vec::with_capacity(3 * side * side);
        for line in self.rgb.chunks_exact(3 * self.width).skip(top).take(side) {
            rgb.extend_from_slice(&line[3 * left..3 * (left + side)]);
        }
        Picture { rgb, width: side, height: side }.resized(size, size, Filter::Lanczos)
    }

    /// `[3, height, width]` in \[-1, 1\]: what an autoencoder encodes.
    pub fn signed(&self) -> Vec<f32> {
        self.planes(|_, value| (f64::from(value) / 127.5 - 1.0) as f32)
    }

    /// `[3, size, size]`, what CLIP's image encoder takes: the short side resized to `size` by a bicubic filter, cut in the middle,
    /// and each channel less its mean, over its standard deviation. That is `CLIPImageProcessor` of huggingface/transformers; of
    /// pictures that are no squares, openai/CLIP cuts half a pixel elsewhere where an odd number of pixels is cut off.
    pub fn for_clip(&self, size: usize) -> Vec<f32> {
        let short = self.width.min(self.height);
        let [width, height] = [self.width, self.height].map(|n| size * n / short);
        let (left, top) = ((width - size) / 2, (height - size) / 2);
        let cut = self.part([width, height], left..left + size, top..top + size, Filter::Bicubic);
        cut.planes(|channel, value| (f32::from(value) / 255.0 - CLIP_MEAN[channel]) / CLIP_STD[channel])
    }

    fn planes(&self, of: impl Fn(usize, u8) -> f32) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.rgb.len());
        for channel in 0..3 {
            for pixel in self.rgb.chunks_exact(3) {
                values.push(of(channel, pixel[channel]));
            }
        }
        values
    }
}
