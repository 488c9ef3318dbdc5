//! What to compute ([`Plan`]) and how ([`Program`]), still without a device.
//!
//! A network records a Plan: operations over named tensors and weights, by meaning only. [`lower`] turns it into a
//! Program for given [`Capabilities`]: fused kernels, row strides, places in memory. Memory and cost of any model can
//! be read off a Program with no device and no weights at hand. Nothing here knows networks or devices.

mod arena;
mod arithmetic;
mod cost;
mod isolate;
mod kernel;
mod lower;
mod program;
mod record;
mod shapes;
mod state;
mod validate;

pub use arithmetic::{Arithmetic, Compute, Form, INT_CHUNK, LOW_BITS, PACK_GROUP, Precision, weight_limit};
pub use cost::Cost;
pub use isolate::{Isolated, Kind, isolate};
pub use kernel::{
    Activation, Attention, CachedAttention, Conv2d, CopyTokens, Elementwise, Embedding, Gate, GroupMoments, GroupNorm,
    GroupScales, HeadNorm, ImageTokens, Kernel, LayerNorm, Matmul, Part, PatchEmbed, Patches, ResizedPositions,
    SizeClass, Span, Unpatchify, Window, WriteCache,
};
pub use lower::lower;
pub use program::{Capabilities, Place, Program, View};

pub use state::{Mix, Slot, StateLayout};

/// A tensor of one Plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub(crate) usize);

impl TensorId {
    /// Position in [`Plan::tensors`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// A weight of one Plan. Plans of one network record the same weights in the same order, so ids agree between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub(crate) usize);

impl WeightId {
    /// Position in [`Plan::weights`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// Who writes and reads a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Written by the host, f32.
    Input,
    /// Written by the host, u32 indices.
    Indices,
    /// Read by the host or by the sampler after the run.
    Output,
    /// Lives between two kernels.
    Scratch,
    /// Outlives runs and Programs: lies in a State, under its name (the sampler's slots, a block's cache).
    State,
}

/// A tensor: name, shape (row-major), role.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// The name under which references publish it, e.g. `in_blocks.0`; empty if none does.
    pub name: String,
    /// Rank 5: clip, as its [`FrameLayout`] says; rank 4: image `[batch, channels, height, width]`; rank 3: tokens `[batch, tokens, dim]`; rank 2: `[batch, dim]`.
    pub shape: Vec<usize>,
    /// Who writes and reads it.
    pub role: Role,
}

/// How a weight is read, which decides how a device may store it. What is read in two ways (a table that is a matrix too)
/// is two weights of one name: [`Plan::published`] has it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightUse {
    /// The matrix of a Linear, `[out, in]`: any stored dtype, packed by devices.
    Matrix,
    /// The kernel of a patch embedding, `[out, channels, patch, patch]` or, of clips, `[out, channels, frames, patch, patch]`, read
    /// as `[out, in]` floats.
    PatchKernel,
    /// Anything read element by element as floats.
    Floats,
}

/// How a matrix that is read as `[out, in]` is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrangement {
    /// As it is read.
    #[default]
    Rows,
    /// `[in, out]`, as GPT-2's.
    Columns,
    /// `[out, in, 3, 3]`, of a 3x3 convolution. It is read as `[out, 9 in]`, whose columns are those of one place of the window
    /// after the other, row by row.
    Windows,
}

/// A weight that the Plan reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// The published name.
    pub name: String,
    /// The shape in which it is read.
    pub shape: Vec<usize>,
    /// How it is read.
    pub usage: WeightUse,
    /// How coarse the input of a matrix may become.
    pub precision: Precision,
    /// How it is published.
    pub arrangement: Arrangement,
}

impl Weight {
    /// The published tensors whose rows it is, one below the other, with their shapes: `a.{q,k,v}.weight` is `a.q.weight`,
    /// `a.k.weight` and `a.v.weight`.
    pub fn sources(&self) -> Vec<(String, Vec<usize>)> {
        let names = joined(&self.name);
        let mut shape = self.shape.clone();
        shape[0] /= names.len();
        match self.arrangement {
            Arrangement::Rows => {}
            Arrangement::Columns => shape.reverse(),
            Arrangement::Windows => shape = vec![shape[0], shape[1] / self.taps(), 3, 3],
        }
        names.into_iter().map(|name| (name, shape.clone())).collect()
    }

    /// Places of the window that its columns belong to: 9 of a convolution's, else 1.
    pub fn taps(&self) -> usize {
        if self.arrangement == Arrangement::Windows { 9 } else { 1 }
    }

    /// Published values, those of its sources one after the other, in the order in which they are read.
    pub fn arranged(&self, published: Vec<f32>) -> Vec<f32> {
        // What of a part, or of a row, lies `many` apart comes together.
        let (part, many) = match self.arrangement {
            Arrangement::Rows => return published,
            Arrangement::Columns => {
                let rows = self.shape[0] / joined(&self.name).len();
                (rows * self.shape[1], rows)
            }
            Arrangement::Windows => (self.shape[1], self.taps()),
        };
        let mut values = vec![0.0; published.len()];
        for (out, of_part) in values.chunks_exact_mut(part).zip(published.chunks_exact(part)) {
            for (i, row) in of_part.chunks_exact(many).enumerate() {
                row.iter().enumerate().for_each(|(j, &v)| out[j * (part / many) + i] = v);
            }
        }
        values
    }
}

/// The names that a name with a list in braces stands for.
pub fn joined(name: &str) -> Vec<String> {
    match name.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (list, after))) => list.split(',').map(|part| format!("{before}{part}{after}")).collect(),
        None => vec![name.to_owned()],
    }
}

/// Rows of a table `[.., dim]` that are added to the tokens that an operation places, one each: those are cut into runs, and token i
/// of an item takes row `at + i / width * stride + i % width * inner`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The table.
    pub table: WeightId,
    /// The first token's row.
    pub at: usize,
    /// Tokens of a run.
    pub width: usize,
    /// Rows from a run to the next.
    pub stride: usize,
    /// Rows from a token of a run to the next.
    pub inner: usize,
}

impl Position {
    /// One row after the other.
    pub fn plain(table: WeightId, at: usize) -> Position {
        Position { table, at, width: 1, stride: 1, inner: 0 }
    }

    /// The row of a token.
    pub fn row(&self, token: usize) -> usize {
        self.at + token / self.width * self.stride + token % self.width * self.inner
    }

    /// How many rows a table must have for so many tokens.
    fn rows(&self, tokens: usize) -> usize {
        let ends = [tokens.saturating_sub(1), (tokens / self.width * self.width).saturating_sub(1)];
        1 + self.row(ends[0]).max(self.row(ends[1]))
    }
}

/// How the frames of clips lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameLayout {
    /// There are none: images `[batch, channels, height, width]`.
    None,
    /// `[batch, channels, frames, height, width]`.
    ChannelsFirst,
    /// `[batch, frames, channels, height, width]`.
    FramesFirst,
}

/// The frames of clips that are cut into patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    /// Frames of a patch.
    pub patch: usize,
    /// How they lie.
    pub layout: FrameLayout,
}

impl Frames {
    /// Of images.
    pub const NONE: Frames = Frames { patch: 1, layout: FrameLayout::None };

    /// Tensors of such a shape in patches of `size` rows and columns; none if they are of another rank, or no whole number of patches.
    pub fn patches(self, shape: &[usize], size: usize) -> Option<Patches> {
        let [channels, frames, height, width] = match (self.layout, shape) {
            (FrameLayout::None, &[_, channels, height, width]) => [channels, 1, height, width],
            (FrameLayout::ChannelsFirst, &[_, channels, frames, height, width]) => [channels, frames, height, width],
            (FrameLayout::FramesFirst, &[_, frames, channels, height, width]) => [channels, frames, height, width],
            _ => return None,
        };
        let whole = |n: usize, of: usize| of > 0 && n.is_multiple_of(of);
        let frames_first = self.layout == FrameLayout::FramesFirst;
        let patches = Patches { channels, frames, height, width, size, depth: self.patch, frames_first };
        (whole(frames, self.patch) && whole(height, size) && whole(width, size)).then_some(patches)
    }
}

/// Channels `at ..` of a vector `[batch, 1, channels]`, a multiple of 4: as many as the tokens have that they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateOf {
    /// The vectors.
    pub vector: TensorId,
    /// The first channel.
    pub at: usize,
}

/// Tokens `first .. first + count` of every item of what is read, and the token of the result that the first of them becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Rows {
    pub first: usize,
    pub count: usize,
    pub at: usize,
}

/// Which tokens of an item attend to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Groups {
    /// All of them.
    #[default]
    Item,
    /// So many that follow each other, such as those of a clip's frame.
    Consecutive {
        /// Of a group.
        tokens: usize,
    },
    /// So many that lie as far apart as there are groups, such as those of one place in all frames of a clip.
    Strided {
        /// Of a group.
        tokens: usize,
    },
}

/// What a conditioning vector makes of normalised tokens (adaptive layer norm: Peebles and Xie, "Scalable Diffusion Models with
/// Transformers", 2023, section 3.2): `LN(x) (1 + scale) + shift`, the same for all tokens of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modulation {
    /// `[batch, 1, n]`.
    pub vector: TensorId,
    /// Its channel that the shift begins at, a multiple of 4.
    pub shift: usize,
    /// As many for the scale.
    pub scale: usize,
}

/// Slices of a GroupNorm's tokens: enough for many invocations, few for whoever joins them.
pub const MOST_SLICES: usize = 256;
/// Tokens of a slice.
const LEAST_SLICE: usize = 32;

/// Moments of an item's tokens, by slices: see [`Op::GroupMoments`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moments {
    /// `[batch, 2 slices, dim]`.
    pub tensor: TensorId,
    /// Tokens of an item.
    pub tokens: usize,
    /// Tokens of a slice.
    pub slice: usize,
}

/// One operation, by meaning. Fields are named as in its formula.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Op {
    /// `out[b] = [cos(t f_0) .. cos(t f_{h-1}), sin(t f_0) .. ]`, `f_i = 10000^(-i/h)`, h = dim / 2 (DDPM; U-ViT
    /// libs/timm.py). `time` `[batch]`, out `[batch, 1, dim]`. Always computed by the host in f64.
    TimestepEmbedding { time: TensorId, out: TensorId },
    /// `out = x W^T + bias`; with `skip` the input is `cat(x, skip)` along the last axis. With `rows`, only of some tokens, which
    /// become some of `out`'s; then there is no skip.
    Linear {
        x: TensorId,
        skip: Option<TensorId>,
        weight: WeightId,
        bias: Option<WeightId>,
        rows: Option<Rows>,
        out: TensorId,
    },
    /// A function of every value.
    Activate { activation: Activation, x: TensorId, out: TensorId },
    /// `scale x + offset` of every value.
    Affine { x: TensorId, scale: f32, offset: f32, out: TensorId },
    /// `a + b`, equal shapes.
    Add { a: TensorId, b: TensorId, out: TensorId },
    /// `out = x + gate y`: x, y and out `[batch, tokens, dim]`, one gate a channel for all tokens of an item (adaLN-Zero: Peebles and
    /// Xie, "Scalable Diffusion Models with Transformers", 2023, section 3.2).
    Gate { x: TensorId, gate: GateOf, y: TensorId, out: TensorId },
    /// `(x - mean) / sqrt(var + eps)` over the last axis, biased variance; with `affine` weights then `.. weight + bias`, then
    /// the modulation. One of them there is.
    LayerNorm {
        x: TensorId,
        affine: Option<(WeightId, WeightId)>,
        modulation: Option<Modulation>,
        eps: f32,
        out: TensorId,
    },
    /// Per head `softmax(q k^T / sqrt(head_dim)) v` among the tokens of a group; `qkv [batch, tokens, 3 dim]` holds q, k, v, each
    /// `heads` x `head_dim`; out `[batch, tokens, dim]`. With `causal` a token attends to itself and those before it.
    Attention { qkv: TensorId, heads: usize, causal: bool, groups: Groups, out: TensorId },
    /// Tokens `at ..` of `out` become those of `qkv`, both `[batch, tokens, 3 dim]`, every head of q and k as `v / sqrt(mean v^2 + eps)
    /// weight` with the weights of q and of k `[head_dim]` (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019).
    HeadNorm { qkv: TensorId, weights: [WeightId; 2], heads: usize, eps: f32, out: TensorId, at: usize },
    /// The rows `places` `[batch, tokens]` of `out`, a cache `[1, rows, 2 dim]`, become the keys and values of `qkv [batch, tokens, 3
    /// dim]`; the others stay as they are. No two tokens have one place.
    WriteCache { qkv: TensorId, places: TensorId, out: TensorId },
    /// [`Op::Attention`] to keys and values in such a cache: a token sees as many positions of its item as `positions` `[batch,
    /// tokens]` says, and its own; position p of an item lies in the row `places[p]`, `[batch, most]`, which items may share.
    CachedAttention {
        qkv: TensorId,
        cache: TensorId,
        places: TensorId,
        positions: TensorId,
        heads: usize,
        out: TensorId,
    },
    /// Tokens `at ..` of every item of `out` become the table's rows `index` `[batch]` or `[batch, count]`, plus their positions.
    /// Without `index` it is one token, the table's first row: learnt, and the same for every item.
    Embedding { table: WeightId, index: Option<TensorId>, position: Option<Position>, out: TensorId, at: usize },
    /// Tokens `at ..` of `out` become tokens `from .. from + count` of `x`, plus their positions; x `[batch, n, dim]`.
    CopyTokens { x: TensorId, from: usize, count: usize, position: Option<Position>, out: TensorId, at: usize },
    /// Adds to tokens `at ..` of `out` the positions of a grid of `to` rows and columns, from a table for `from` rows and
    /// columns: bilinear as `torch.nn.functional.interpolate(align_corners=False)`.
    ResizedPositions { position: Position, from: [usize; 2], to: [usize; 2], out: TensorId, at: usize },
    /// Tokens `at ..` of `out` become the patches of `image`, row-major, those of clips frame after frame, through a convolution with
    /// kernel = stride = `patch`, plus bias and positions. Item b of `out` reads image `b mod images`: guidance runs the same
    /// images twice with two labels.
    PatchEmbed {
        image: TensorId,
        weight: WeightId,
        bias: Option<WeightId>,
        position: Option<Position>,
        patch: usize,
        frames: Frames,
        out: TensorId,
        at: usize,
    },
    /// `out[b, c, f q + t, i p + y, j p + x] = tokens[b, skip_tokens + (f n + i) n + j, ((t p + y) p + x) C + first_channel + c]`: the
    /// channel is fastest, and of the tokens' C channels out has those from `first_channel` on.
    Unpatchify { x: TensorId, patch: usize, frames: Frames, skip_tokens: usize, first_channel: usize, out: TensorId },
    /// 3x3 convolution, padding 1, stride 1, `weight [out, in, 3, 3]`, of images, or of every frame of clips `[batch, channels,
    /// frames, height, width]` by itself.
    Conv2d { x: TensorId, weight: WeightId, bias: WeightId, out: TensorId },
    /// Tokens `[batch, height width, channels]` of an image, row by row.
    ImageTokens { image: TensorId, out: TensorId },
    /// 3x3 convolution over tokens that are an image's pixels, row by row: a Linear over the window of each pixel of `out`.
    Convolution { x: TensorId, window: Window, weight: WeightId, bias: Option<WeightId>, out: TensorId },
    /// Moments of slices of `slice` tokens of x, the last may have fewer: slice i's are rows `2 (first + i)` (every channel's mean)
    /// and the next (the sums of squared differences from it) of `out [batch, 2 slices, dim]`.
    GroupMoments { x: TensorId, slice: usize, first: usize, out: TensorId },
    /// `(x - mean) / sqrt(var + eps) weight + bias` with mean and biased variance over the channels of a group, of which
    /// neighbouring ones make `groups`, and all tokens that the moments are of (Wu and He, "Group Normalization", 2018).
    GroupNorm {
        x: TensorId,
        moments: Moments,
        groups: usize,
        weight: WeightId,
        bias: WeightId,
        eps: f32,
        out: TensorId,
    },
}

impl Op {
    /// The tensors that the operation reads.
    pub fn reads(&self) -> Vec<TensorId> {
        match *self {
            Op::TimestepEmbedding { time, .. } => vec![time],
            Op::Linear { x, skip, .. } => [Some(x), skip].into_iter().flatten().collect(),
            Op::LayerNorm { x, modulation, .. } => {
                [Some(x), modulation.map(|m| m.vector)].into_iter().flatten().collect()
            }
            Op::Activate { x, .. } | Op::Affine { x, .. } | Op::GroupMoments { x, .. } => vec![x],
            Op::GroupNorm { x, moments, .. } => vec![x, moments.tensor],
            Op::Add { a, b, .. } => vec![a, b],
            Op::Gate { x, gate, y, .. } => vec![x, gate.vector, y],
            Op::Attention { qkv, .. } | Op::HeadNorm { qkv, .. } => vec![qkv],
            Op::WriteCache { qkv, places, .. } => vec![qkv, places],
            Op::CachedAttention { qkv, cache, places, positions, .. } => vec![qkv, cache, places, positions],
            Op::Embedding { index, .. } => index.into_iter().collect(),
            Op::CopyTokens { x, .. } | Op::Unpatchify { x, .. } | Op::Conv2d { x, .. } | Op::Convolution { x, .. } => {
                vec![x]
            }
            Op::PatchEmbed { image, .. } | Op::ImageTokens { image, .. } => vec![image],
            Op::ResizedPositions { .. } => Vec::new(),
        }
    }

    /// The tensor that the operation writes.
    pub fn writes(&self) -> TensorId {
        match *self {
            Op::TimestepEmbedding { out, .. }
            | Op::Linear { out, .. }
            | Op::Activate { out, .. }
            | Op::Add { out, .. }
            | Op::Gate { out, .. }
            | Op::LayerNorm { out, .. }
            | Op::Attention { out, .. }
            | Op::HeadNorm { out, .. }
            | Op::WriteCache { out, .. }
            | Op::CachedAttention { out, .. }
            | Op::Embedding { out, .. }
            | Op::CopyTokens { out, .. }
            | Op::ResizedPositions { out, .. }
            | Op::PatchEmbed { out, .. }
            | Op::Unpatchify { out, .. }
            | Op::Conv2d { out, .. }
            | Op::Affine { out, .. }
            | Op::ImageTokens { out, .. }
            | Op::Convolution { out, .. }
            | Op::GroupMoments { out, .. }
            | Op::GroupNorm { out, .. } => out,
        }
    }
}

/// What to compute: operations in order over tensors and weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// All tensors; a [`TensorId`] is a position here.
    pub tensors: Vec<Tensor>,
    /// All weights; a [`WeightId`] is a position here.
    pub weights: Vec<Weight>,
    /// In order of execution.
    pub ops: Vec<Op>,
}

impl Plan {
    /// Adds a tensor.
    pub fn tensor(&mut self, name: impl Into<String>, shape: &[usize], role: Role) -> TensorId {
        self.tensors.push(Tensor { name: name.into(), shape: shape.to_vec(), role });
        TensorId(self.tensors.len() - 1)
    }

    /// Adds a scratch tensor.
    pub fn scratch(&mut self, name: impl Into<String>, shape: &[usize]) -> TensorId {
        self.tensor(name, shape, Role::Scratch)
    }

    /// Adds a weight, or finds the one of that name that is read so.
    pub fn weight(&mut self, name: impl Into<String>, shape: &[usize], usage: WeightUse) -> WeightId {
        let name = name.into();
        let known = |w: &Weight| w.name == name && w.usage == usage && w.shape == shape;
        if let Some(found) = self.weights.iter().position(known) {
            return WeightId(found);
        }
        self.weights.push(Weight {
            name,
            shape: shape.to_vec(),
            usage,
            precision: Precision::Float,
            arrangement: Arrangement::Rows,
        });
        WeightId(self.weights.len() - 1)
    }

    /// Every weight once, as files hold it: the matrix, where it is also read in another way.
    pub fn published(&self) -> impl Iterator<Item = &Weight> {
        let rank = |w: &Weight| w.usage != WeightUse::Matrix;
        self.weights.iter().enumerate().filter_map(move |(i, w)| {
            let of_name = self.weights.iter().enumerate().filter(|(_, other)| other.name == w.name);
            let first = of_name.min_by_key(|&(j, other)| (rank(other), j)).map(|(j, _)| j);
            (first == Some(i)).then_some(w)
        })
    }

    /// States how coarse the input of the Linear `name` may become; without it, it stays in floats.
    pub fn allow(&mut self, name: &str, precision: Precision) {
        let is = |w: &&mut Weight| w.usage == WeightUse::Matrix && w.name.strip_suffix(".weight") == Some(name);
        self.weights.iter_mut().filter(is).for_each(|weight| weight.precision = precision);
    }

    /// Gives a tensor a name of its own if it has none, so that lowering can be asked to keep it.
    pub fn name(&mut self, id: TensorId) {
        if self.tensors[id.0].name.is_empty() {
            self.tensors[id.0].name = format!("#{}", id.0);
        }
    }

    /// All weights with their ids.
    pub fn weight_ids(&self) -> impl Iterator<Item = (WeightId, &Weight)> {
        self.weights.iter().enumerate().map(|(i, w)| (WeightId(i), w))
    }

    /// Adds an operation.
    pub fn push(&mut self, op: Op) {
        self.ops.push(op);
    }

    /// The shape of a tensor.
    pub fn shape(&self, id: TensorId) -> &[usize] {
        &self.tensors[id.0].shape
    }

    /// The tensor of that name.
    pub fn find(&self, name: &str) -> Option<TensorId> {
        self.tensors.iter().position(|t| !name.is_empty() && t.name == name).map(TensorId)
    }

    /// How many rows of a table an item takes: see [`Op::Embedding`].
    fn indexed(&self, index: Option<TensorId>) -> usize {
        index.and_then(|index| self.shape(index).get(1)).copied().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_tables_follow_runs_of_tokens() {
        let rows = |position: Position| (0..6).map(|token| position.row(token)).collect::<Vec<usize>>();
        let table = WeightId(0);
        let plain = Position::plain(table, 3);
        assert_eq!((rows(plain), plain.rows(6)), (vec![3, 4, 5, 6, 7, 8], 9));
        // Two columns from the second of a table of five; the same three for every frame; one a frame.
        let crop = Position { width: 2, stride: 5, inner: 1, ..Position::plain(table, 1) };
        assert_eq!((rows(crop), crop.rows(6)), (vec![1, 2, 6, 7, 11, 12], 13));
        let same = Position { width: 3, stride: 0, inner: 1, ..Position::plain(table, 0) };
        assert_eq!((rows(same), same.rows(6), same.rows(4)), (vec![0, 1, 2, 0, 1, 2], 3, 3));
        let each = Position { width: 3, ..Position::plain(table, 0) };
        assert_eq!((rows(each), each.rows(6)), (vec![0, 0, 0, 1, 1, 1], 2));
    }

    #[test]
    fn published_matrices_come_as_they_are_read() {
        let weight = |name: &str, shape: [usize; 2], arrangement| Weight {
            name: name.into(),
            shape: shape.into(),
            usage: WeightUse::Matrix,
            precision: Precision::Float,
            arrangement,
        };
        let values = |n: u8| (0..n).map(f32::from).collect::<Vec<f32>>();
        let rows = weight("w", [2, 3], Arrangement::Rows);
        assert_eq!((rows.sources()[0].1.clone(), rows.arranged(values(6))), (vec![2, 3], values(6)));
        // [in, out]: three inputs of two outputs.
        let columns = weight("w", [2, 3], Arrangement::Columns);
        assert_eq!(columns.sources()[0].1, [3, 2]);
        assert_eq!(columns.arranged(values(6)), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
        // Two of them below each other.
        let joined = weight("{a,b}", [4, 2], Arrangement::Columns);
        assert_eq!(joined.sources(), [("a".to_owned(), vec![2, 2]), ("b".to_owned(), vec![2, 2])]);
        assert_eq!(joined.arranged(values(8)), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        // [out, in, 3, 3] to [out, 9 in].
        let windows = weight("w", [1, 18], Arrangement::Windows);
        assert_eq!(windows.sources()[0].1, [1, 2, 3, 3]);
        assert_eq!(windows.arranged(values(18))[..4], [0.0, 9.0, 1.0, 10.0]);
    }
}
