//! The fast CPU kernels of uvit-web: WebAssembly SIMD in the browser, AVX2, AVX-512 or what the compiler makes of plain
//! arrays natively.
//!
//! Every kernel is written once, over vectors of the instruction set (`isa`), and has a twin in uvit-web's `cpu` module,
//! with which it is compared. Linears run in f32 or in integers; integer kernels give the same bits on every instruction
//! set. Our own tiles instead of a matmul crate: none of them has 8-bit kernels or WebAssembly SIMD, and the f32 tile then
//! costs thirty lines more.
//!
//! A crate of its own so that it alone is optimised for speed where the rest of the page is optimised for size. It knows
//! shapes and numbers; Programs, weights and networks are uvit-web's.

// Unrolled turns beyond the end are never taken.
#![allow(clippy::out_of_bounds_indexing)]

mod attention;
mod cached_attention;
mod conv2d;
mod elementwise;
mod functions;
mod group_norm;
mod head_norm;
mod int_attention;
mod isa;
mod layer_norm;
mod lines;
mod matmul;
mod pack;
mod patch_embed;
mod pixels;
mod quantize;
mod threads;
mod tile;

pub use attention::attention;
pub use cached_attention::cached_attention;
pub use conv2d::conv2d;
pub use elementwise::elementwise;
pub use functions::multiply_add_peak;
pub use group_norm::{group_moments, group_norm};
pub use head_norm::{HeadNormShape, head_norm};
pub use int_attention::int_attention;
pub use isa::Level;
pub use layer_norm::layer_norm;
pub use lines::Lines;
pub use matmul::{Finish, f32_convolution, f32_matmul, int_convolution, int_matmul};
pub use pack::{F32Matrix, Floats, IntMatrix};
pub use patch_embed::patch_embed;
pub use pixels::{Pixels, taps_of_chunk};
pub use quantize::{Inputs, Quantized};
pub use threads::Threads;

use std::ops::Range;

/// An activation fused into the kernel that feeds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Identity.
    #[default]
    None,
    /// Exact GELU.
    Gelu,
    /// SiLU.
    Silu,
    /// `x sigmoid(1.702 x)`, CLIP's.
    QuickGelu,
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// The positive part.
    Relu,
    /// Hyperbolic tangent.
    Tanh,
}

/// Bits of the lower part of an activation of 12, where 7 is all that a dot product takes.
pub const LOW_BITS: u32 = 5;

/// The most inputs whose products one i32 adds up: `4096 x 127 x 4095` is below 2^31. Longer rows are cut into chunks.
pub const INT_CHUNK: usize = 4096;

/// `qkv [batch, groups x tokens, 3, heads, head_dim]`, attention within each group; in integers at most 128 a head.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct AttentionShape {
    pub batch: usize,
    /// Of a group.
    pub tokens: usize,
    /// Of an item.
    pub groups: usize,
    /// Whether a group's tokens lie `groups` apart; else they follow each other.
    pub strided: bool,
    pub heads: usize,
    pub head_dim: usize,
    /// Whether a token sees itself and those before it alone.
    pub causal: bool,
    /// The first query of each group.
    pub first: usize,
    /// How many.
    pub queries: usize,
}

impl AttentionShape {
    /// Tokens of the whole batch times `heads x head_dim`.
    fn elements(&self) -> usize {
        self.batch * self.groups * self.tokens * self.heads * self.head_dim
    }

    /// Rows from one token of a group to the next.
    fn step(&self) -> usize {
        if self.strided { self.groups } else { 1 }
    }

    /// Row of the first token of a group, counted over the batch.
    fn row(&self, group: usize) -> usize {
        let (item, group) = (group / self.groups, group % self.groups);
        item * self.groups * self.tokens + if self.strided { group } else { group * self.tokens }
    }
}

/// `qkv [rows, 3, heads, head_dim]`, a cache `[.., 2, heads, head_dim]`; an item has so many tokens, which are rows, and positions.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct CachedShape {
    pub rows: usize,
    pub tokens: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub most: usize,
}

/// x `[batch, in_channels, frames, height, width]`, out `[batch, out_channels, frames, height, width]`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Conv2dShape {
    pub batch: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    /// Each by itself.
    pub frames: usize,
    pub height: usize,
    pub width: usize,
}

/// Places of a window.
pub const TAPS: usize = 9;

/// Where the windows of a 3x3 convolution lie: pixel (i, j) of its result sees the rows `skip + i stride - padding ..+ 3` and the
/// columns `j stride - padding ..+ 3` of the image, made `upsample` times as large by repeating its pixels; beyond it lie zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Rows of the image.
    pub height: usize,
    /// Columns of the image.
    pub width: usize,
    /// Rows of the result.
    pub out_height: usize,
    /// Columns of the result.
    pub out_width: usize,
    /// From window to window, 1 or 2.
    pub stride: usize,
    /// Zeros above and to the left, 0 or 1; below and to the right there are as many as are needed.
    pub padding: usize,
    /// How often every row and column of the image counts, 1 or 2.
    pub upsample: usize,
    /// Rows of the image above the first window and its padding: not 0 where only some rows of a result are computed.
    pub skip: usize,
}

impl Window {
    /// One a pixel.
    pub fn plain([height, width]: [usize; 2]) -> Window {
        Window { height, width, out_height: height, out_width: width, stride: 1, padding: 1, upsample: 1, skip: 0 }
    }

    /// Over the image twice as large.
    pub fn upsampled([height, width]: [usize; 2]) -> Window {
        Window { out_height: 2 * height, out_width: 2 * width, upsample: 2, ..Window::plain([height, width]) }
    }

    /// Every other one, with zeros below and to the right alone (`padding` 0), or all around (1).
    pub fn strided([height, width]: [usize; 2], padding: usize) -> Window {
        let of = |n: usize| (n + padding) / 2;
        Window { out_height: of(height), out_width: of(width), stride: 2, padding, ..Window::plain([height, width]) }
    }

    /// Of the result.
    pub fn pixels(&self) -> usize {
        self.out_height * self.out_width
    }

    /// The windows of some rows of the result, and the rows of the image that they see, over which they lie now.
    pub fn of_rows(&self, rows: Range<usize>) -> (Range<usize>, Window) {
        let first = (rows.start * self.stride).saturating_sub(self.padding);
        let end = (rows.end * self.stride + 3 - self.stride - self.padding).min(self.height * self.upsample);
        let seen = first / self.upsample..end.div_ceil(self.upsample);
        let skip = rows.start * self.stride - seen.start * self.upsample;
        (seen.clone(), Window { height: seen.len(), out_height: rows.len(), skip, ..*self })
    }

    /// The item of a row of the result, and what pixels of that item its window sees, row by row; none beyond the image.
    fn places(&self, row: usize) -> (usize, [Option<usize>; TAPS]) {
        let (item, pixel) = (row / (self.out_height * self.out_width), row % (self.out_height * self.out_width));
        let (top, left) = (pixel / self.out_width * self.stride, pixel % self.out_width * self.stride);
        // Of every tile of rows this is asked: divisions would be a twentieth of a small convolution's time.
        let halves = self.upsample - 1;
        // Above and to the left of the image the numbers wrap, and are too large.
        let along = |from: usize, size: usize| {
            [0, 1, 2].map(|i| (from + i).wrapping_sub(self.padding) >> halves).map(|at| (at < size).then_some(at))
        };
        let (rows, columns) = (along(top + self.skip, self.height), along(left, self.width));
        let place = |tap: usize| Some(rows[tap / 3]? * self.width + columns[tap % 3]?);
        (item, std::array::from_fn(place))
    }
}

/// A clip, or an image, which is a clip of one frame, cut into patches: frame after frame, row after row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Patches {
    /// Channels of the clip.
    pub channels: usize,
    /// Frames of the clip.
    pub frames: usize,
    /// Rows of a frame.
    pub height: usize,
    /// Columns of a frame.
    pub width: usize,
    /// Rows and columns of a patch.
    pub size: usize,
    /// Frames of a patch.
    pub depth: usize,
    /// Whether it lies as `[frames, channels, height, width]`, not as `[channels, frames, height, width]`.
    pub frames_first: bool,
}

impl Patches {
    /// How many patches there are along frames, rows and columns.
    pub fn grid(&self) -> [usize; 3] {
        [self.frames / self.depth, self.height / self.size, self.width / self.size]
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.grid().iter().product()
    }

    /// Values of a channel of a patch.
    pub fn pixels(&self) -> usize {
        self.depth * self.size * self.size
    }

    /// Values of the clip.
    pub fn values(&self) -> usize {
        self.channels * self.frames * self.height * self.width
    }

    /// Values from a channel to the next, and from a frame to the next.
    pub fn strides(&self) -> [usize; 2] {
        let planes = if self.frames_first { [1, self.channels] } else { [self.frames, 1] };
        planes.map(|planes| planes * self.height * self.width)
    }

    /// The frame, row and column where a patch begins.
    pub fn corner(&self, patch: usize) -> [usize; 3] {
        let [_, rows, columns] = self.grid();
        [patch / columns / rows * self.depth, patch / columns % rows * self.size, patch % columns * self.size]
    }
}

/// Clips to tokens `at ..` of `[batch, tokens, dim]`; item b reads clip b mod images.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct PatchShape {
    pub patches: Patches,
    pub at: usize,
    pub batch: usize,
    pub images: usize,
    pub tokens: usize,
    pub dim: usize,
}
