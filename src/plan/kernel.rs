//! The kernels of a Program, with all their sizes.

pub use uvit_simd::{Activation, Patches, Window};

use super::{Arithmetic, Modulation, Position, TensorId, WeightId};

/// `out = gate activation(cat(x, x2) W^T + bias) + residual`; with a window, x is what it sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Matmul {
    /// `[rows, k]`.
    pub x: TensorId,
    /// `[rows, k2]`: the second part of the input.
    pub x2: Option<TensorId>,
    /// `[n, k + k2]`.
    pub weight: WeightId,
    /// `[n]`.
    pub bias: Option<WeightId>,
    /// Applied before the residual.
    pub activation: Activation,
    /// Of every item, where there is a residual; 1 without.
    pub gate: Option<Gate>,
    /// `[rows, n]`.
    pub residual: Option<TensorId>,
    /// `[rows, n]`.
    pub out: TensorId,
    /// Batch times tokens.
    pub rows: usize,
    /// Of an item of the batch; 1 where an item is a vector.
    pub tokens: usize,
    /// Input features of x; with a window, of each of its 9 places.
    pub k: usize,
    /// Input features of x2, 0 without one.
    pub k2: usize,
    /// Output features.
    pub n: usize,
    /// Of the products.
    pub arithmetic: Arithmetic,
    /// Of the whole batch, whatever part of it runs.
    pub size: SizeClass,
    /// Where the rows of x come from, for a 3x3 convolution.
    pub window: Option<Window>,
    /// Where rows lie that are not all those of x and out.
    pub span: Option<Span>,
    /// The first row of out, where it takes several launches.
    pub first: usize,
}

/// Channels `at ..` of vectors `[items, 1, channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Gate {
    pub vector: TensorId,
    pub at: usize,
    pub channels: usize,
}

/// Which tokens of an item a matmul reads and writes: as many as it has, from these on, of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Span {
    pub x_at: usize,
    pub x_tokens: usize,
    pub out_at: usize,
    pub out_tokens: usize,
}

/// Rows of a matmul that follow each other in x as well as in out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Whose they are, where there are gates.
    pub item: usize,
    /// The first one's row of x.
    pub x: usize,
    /// Its row of out, and of the residual.
    pub out: usize,
    /// How many.
    pub rows: usize,
}

impl Matmul {
    /// Columns of the weight.
    pub fn columns(&self) -> usize {
        if self.window.is_some() { 9 * self.k } else { self.k + self.k2 }
    }

    /// The launch's rows in parts: all of them, or item by item where items have gates or lie apart.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        let Matmul { tokens, gate, span, first, rows, .. } = *self;
        let mut row = first;
        std::iter::from_fn(move || {
            let left = first + rows - row;
            if left == 0 {
                return None;
            }
            let mut part = Part { item: 0, x: row, out: row, rows: left };
            if gate.is_some() || span.is_some() {
                let token = row % tokens;
                (part.item, part.rows) = (row / tokens, left.min(tokens - token));
                if let Some(s) = span {
                    part.x = part.item * s.x_tokens + s.x_at + token;
                    part.out = part.item * s.out_tokens + s.out_at + token;
                }
            }
            row += part.rows;
            Some(part)
        })
    }
}

/// How many rows a matmul has: what suits one suits not the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SizeClass {
    /// A vector an item, in a small batch.
    One,
    /// Tens.
    Few,
    /// More.
    Many,
}

impl SizeClass {
    /// All of them.
    pub const ALL: [SizeClass; 3] = [SizeClass::One, SizeClass::Few, SizeClass::Many];

    /// The class of so many rows.
    pub fn of(rows: usize) -> SizeClass {
        match rows {
            0..=4 => SizeClass::One,
            5..=32 => SizeClass::Few,
            _ => SizeClass::Many,
        }
    }
}

/// See [`super::Op::LayerNorm`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct LayerNorm {
    pub x: TensorId,
    pub affine: Option<(WeightId, WeightId)>,
    pub modulation: Option<Modulation>,
    pub eps: f32,
    pub out: TensorId,
    pub rows: usize,
    /// Rows of an item.
    pub tokens: usize,
    pub dim: usize,
}

/// See [`super::Op::Attention`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Attention {
    pub qkv: TensorId,
    pub out: TensorId,
    pub batch: usize,
    /// Of a group.
    pub tokens: usize,
    /// Of an item.
    pub groups: usize,
    /// Whether a group's tokens lie `groups` apart; else they follow each other.
    pub strided: bool,
    pub heads: usize,
    pub head_dim: usize,
    pub causal: bool,
    /// Of both products.
    pub arithmetic: Arithmetic,
    /// The first query, where it takes several launches.
    pub first: usize,
    /// Queries of this launch.
    pub queries: usize,
}

/// See [`super::Op::HeadNorm`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct HeadNorm {
    pub qkv: TensorId,
    /// Of queries, and of keys.
    pub weights: [WeightId; 2],
    pub eps: f32,
    pub out: TensorId,
    pub at: usize,
    pub batch: usize,
    pub tokens: usize,
    pub out_tokens: usize,
    pub heads: usize,
    pub head_dim: usize,
}

/// See [`super::Op::WriteCache`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct WriteCache {
    pub qkv: TensorId,
    pub places: TensorId,
    pub out: TensorId,
    pub batch: usize,
    pub tokens: usize,
    pub dim: usize,
    /// Of the cache.
    pub rows: usize,
}

/// See [`super::Op::CachedAttention`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct CachedAttention {
    pub qkv: TensorId,
    pub cache: TensorId,
    pub places: TensorId,
    pub positions: TensorId,
    pub out: TensorId,
    pub batch: usize,
    pub tokens: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// Positions of an item.
    pub most: usize,
    /// Of the cache.
    pub rows: usize,
}

/// `out = gate activation(scale a + offset) + b`: what could not be fused; a copy, or a quantised one, where a kernel needs it.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Elementwise {
    pub a: TensorId,
    pub b: Option<TensorId>,
    pub activation: Activation,
    pub scale: f32,
    pub offset: f32,
    /// Of every item, where there is a b; 1 without.
    pub gate: Option<Gate>,
    pub out: TensorId,
    pub rows: usize,
    /// Rows of an item, where there are gates.
    pub tokens: usize,
    pub dim: usize,
}

/// See [`super::Op::Embedding`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Embedding {
    pub table: WeightId,
    /// The first row of the table that is bound, and how many are: a table beyond a binding's limit takes several launches, of
    /// which each writes the tokens whose rows it has.
    pub first: usize,
    pub rows: usize,
    pub index: Option<TensorId>,
    pub position: Option<Position>,
    pub out: TensorId,
    pub at: usize,
    /// Tokens an item.
    pub count: usize,
    pub batch: usize,
    pub tokens: usize,
    pub dim: usize,
}

/// See [`super::Op::CopyTokens`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct CopyTokens {
    pub x: TensorId,
    pub x_tokens: usize,
    pub x_at: usize,
    pub position: Option<Position>,
    pub out: TensorId,
    pub out_tokens: usize,
    pub out_at: usize,
    pub count: usize,
    pub batch: usize,
    pub dim: usize,
}

/// See [`super::Op::ResizedPositions`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct ResizedPositions {
    pub position: Position,
    pub from: [usize; 2],
    pub to: [usize; 2],
    pub out: TensorId,
    pub at: usize,
    pub batch: usize,
    pub tokens: usize,
    pub dim: usize,
}

/// See [`super::Op::PatchEmbed`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct PatchEmbed {
    pub image: TensorId,
    pub weight: WeightId,
    pub bias: Option<WeightId>,
    pub position: Option<Position>,
    pub out: TensorId,
    pub at: usize,
    pub patches: Patches,
    pub batch: usize,
    pub images: usize,
    pub tokens: usize,
    pub dim: usize,
}

/// See [`super::Op::Unpatchify`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Unpatchify {
    pub x: TensorId,
    pub out: TensorId,
    /// Of out.
    pub patches: Patches,
    pub skip_tokens: usize,
    /// Of the tokens' channels, how many there are, and which is the first of out.
    pub channels: usize,
    pub first_channel: usize,
    pub batch: usize,
    pub tokens: usize,
}

/// See [`super::Op::Conv2d`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Conv2d {
    pub x: TensorId,
    pub weight: WeightId,
    pub bias: WeightId,
    pub out: TensorId,
    pub batch: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    pub frames: usize,
    pub height: usize,
    pub width: usize,
}

/// See [`super::Op::ImageTokens`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct ImageTokens {
    pub image: TensorId,
    pub out: TensorId,
    pub batch: usize,
    pub channels: usize,
    pub pixels: usize,
}

/// The first part of [`super::Op::GroupNorm`]: every channel's mean and sum of squared differences from it, over slices of
/// an item's tokens. Row 2 s of an item of `out [batch, 2 slices, dim]` holds the means of slice s, row 2 s + 1 the sums.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct GroupMoments {
    pub x: TensorId,
    pub out: TensorId,
    pub batch: usize,
    pub tokens: usize,
    pub dim: usize,
    /// Tokens of a slice; the last may have fewer.
    pub slice: usize,
    /// Where the first slice's moments go, of how many slices.
    pub first: usize,
    pub slices: usize,
}

/// The second part: of an item of `out [batch, 2, dim]` row 0 holds every channel's mean over its group, row 1
/// `weight / sqrt(var + eps)`. Slices and channels are joined as by Chan, Golub and LeVeque ("Updating formulae and a pairwise
/// algorithm for computing sample variances", 1979).
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct GroupScales {
    pub moments: TensorId,
    pub weight: WeightId,
    pub out: TensorId,
    pub batch: usize,
    pub tokens: usize,
    pub dim: usize,
    pub slice: usize,
    pub groups: usize,
    pub eps: f32,
}

/// The last part: `out = activation((x - mean) scale + bias)`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct GroupNorm {
    pub x: TensorId,
    pub scales: TensorId,
    /// What the scales were made with.
    pub weight: WeightId,
    pub bias: WeightId,
    pub activation: Activation,
    pub out: TensorId,
    pub batch: usize,
    pub tokens: usize,
    pub dim: usize,
    pub groups: usize,
    pub eps: f32,
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Kernel {
    Matmul(Matmul),
    LayerNorm(LayerNorm),
    Attention(Attention),
    HeadNorm(HeadNorm),
    WriteCache(WriteCache),
    CachedAttention(CachedAttention),
    Elementwise(Elementwise),
    Embedding(Embedding),
    CopyTokens(CopyTokens),
    ResizedPositions(ResizedPositions),
    PatchEmbed(PatchEmbed),
    Unpatchify(Unpatchify),
    Conv2d(Conv2d),
    ImageTokens(ImageTokens),
    GroupMoments(GroupMoments),
    GroupScales(GroupScales),
    GroupNorm(GroupNorm),
}

impl Kernel {
    /// The kernel's file name in `shaders/`, `src/gpu/kernels/` and `src/cpu/`.
    pub fn name(&self) -> &'static str {
        match self {
            Kernel::Matmul(Matmul { arithmetic: Arithmetic::F32 | Arithmetic::F16, .. }) => "matmul",
            Kernel::Matmul(_) => "int_matmul",
            Kernel::LayerNorm(_) => "layer_norm",
            Kernel::Attention(_) => "attention",
            Kernel::HeadNorm(_) => "head_norm",
            Kernel::WriteCache(_) => "write_cache",
            Kernel::CachedAttention(_) => "cached_attention",
            Kernel::Elementwise(_) => "elementwise",
            Kernel::Embedding(_) => "embedding",
            Kernel::CopyTokens(_) => "copy_tokens",
            Kernel::ResizedPositions(_) => "resized_positions",
            Kernel::PatchEmbed(_) => "patch_embed",
            Kernel::Unpatchify(_) => "unpatchify",
            Kernel::Conv2d(_) => "conv2d",
            Kernel::ImageTokens(_) => "image_tokens",
            Kernel::GroupMoments(_) => "group_moments",
            Kernel::GroupScales(_) => "group_scales",
            Kernel::GroupNorm(_) => "group_norm",
        }
    }

    /// Its sizes for people.
    pub fn sizes(&self) -> String {
        match self {
            Kernel::Matmul(m) if m.window.is_some() => format!("{} x (3 x 3 x {}) x {}", m.rows, m.k, m.n),
            Kernel::Matmul(m) if m.k2 > 0 => format!("{} x ({} + {}) x {}", m.rows, m.k, m.k2, m.n),
            Kernel::Matmul(m) => format!("{} x {} x {}", m.rows, m.k, m.n),
            Kernel::LayerNorm(k) => format!("{} x {}", k.rows, k.dim),
            Kernel::Attention(k) if k.queries < k.tokens => {
                let groups = k.batch * k.groups;
                format!("{groups} x {} heads x {} of {} x {}", k.heads, k.queries, k.tokens, k.head_dim)
            }
            Kernel::Attention(k) => {
                format!("{} x {} heads x {} x {}", k.batch * k.groups, k.heads, k.tokens, k.head_dim)
            }
            Kernel::HeadNorm(k) => format!("{} x {} x 3 x {} heads x {}", k.batch, k.tokens, k.heads, k.head_dim),
            Kernel::WriteCache(k) => format!("{} x {} x {}", k.batch, k.tokens, k.dim),
            Kernel::CachedAttention(k) => {
                format!("{} x {} heads x {} of {} x {}", k.batch, k.heads, k.tokens, k.most, k.head_dim)
            }
            Kernel::Conv2d(k) => format!("{} x {} x {} x {}", k.batch * k.frames, k.out_channels, k.height, k.width),
            Kernel::PatchEmbed(k) => format!("{} x {} x {}", k.batch, k.tokens, k.dim),
            Kernel::Unpatchify(k) => {
                let p = &k.patches;
                format!("{} x {} x {} x {}", k.batch * p.frames, p.channels, p.height, p.width)
            }
            Kernel::Embedding(k) => format!("{} x {}", k.batch * k.count, k.dim),
            Kernel::CopyTokens(k) => format!("{} x {} x {}", k.batch, k.count, k.dim),
            Kernel::ResizedPositions(k) => format!("{} x {} x {} x {}", k.batch, k.to[0], k.to[1], k.dim),
            Kernel::Elementwise(k) => format!("{} x {}", k.rows, k.dim),
            Kernel::ImageTokens(k) => format!("{} x {} x {}", k.batch, k.pixels, k.channels),
            Kernel::GroupMoments(k) => format!("{} x {} x {}", k.batch, k.tokens, k.dim),
            Kernel::GroupScales(k) => format!("{} x {} x {}", k.batch, k.tokens.div_ceil(k.slice), k.dim),
            Kernel::GroupNorm(k) => format!("{} x {} x {}", k.batch, k.tokens, k.dim),
        }
    }

    /// The same for the first `items` of the `all` items of a batch.
    #[must_use]
    pub fn of_items(&self, items: usize, all: usize) -> Kernel {
        let mut kernel = self.clone();
        match &mut kernel {
            // What the launch has of them, perhaps nothing.
            Kernel::Matmul(k) => k.rows = (items * k.tokens).saturating_sub(k.first).min(k.rows),
            Kernel::LayerNorm(k) => k.rows = k.rows / all * items,
            Kernel::Attention(k) => k.batch = items,
            Kernel::HeadNorm(k) => k.batch = items,
            Kernel::WriteCache(k) => k.batch = items,
            Kernel::CachedAttention(k) => k.batch = items,
            Kernel::Embedding(k) => k.batch = items,
            Kernel::CopyTokens(k) => k.batch = items,
            Kernel::ResizedPositions(k) => k.batch = items,
            Kernel::PatchEmbed(k) => k.batch = items,
            Kernel::Unpatchify(k) => k.batch = items,
            Kernel::Conv2d(k) => k.batch = items,
            Kernel::Elementwise(k) => k.rows = k.rows / all * items,
            Kernel::ImageTokens(k) => k.batch = items,
            Kernel::GroupMoments(k) => k.batch = items,
            Kernel::GroupScales(k) => k.batch = items,
            Kernel::GroupNorm(k) => k.batch = items,
        }
        kernel
    }

    /// Whether nothing of it is left: a launch of other items than those that run.
    pub fn is_empty(&self) -> bool {
        matches!(self, Kernel::Matmul(Matmul { rows: 0, .. }))
    }

    /// The tensors that it reads.
    pub fn reads(&self) -> Vec<TensorId> {
        match self {
            Kernel::Matmul(m) => {
                [Some(m.x), m.x2, m.residual, m.gate.map(|g| g.vector)].into_iter().flatten().collect()
            }
            Kernel::LayerNorm(k) => [Some(k.x), k.modulation.map(|m| m.vector)].into_iter().flatten().collect(),
            Kernel::Attention(k) => vec![k.qkv],
            Kernel::HeadNorm(k) => vec![k.qkv],
            Kernel::WriteCache(k) => vec![k.qkv, k.places],
            Kernel::CachedAttention(k) => vec![k.qkv, k.cache, k.places, k.positions],
            Kernel::Elementwise(k) => [Some(k.a), k.b, k.gate.map(|g| g.vector)].into_iter().flatten().collect(),
            Kernel::Embedding(k) => k.index.into_iter().collect(),
            Kernel::CopyTokens(k) => vec![k.x],
            Kernel::ResizedPositions(_) => Vec::new(),
            Kernel::PatchEmbed(k) => vec![k.image],
            Kernel::Unpatchify(k) => vec![k.x],
            Kernel::Conv2d(k) => vec![k.x],
            Kernel::ImageTokens(k) => vec![k.image],
            Kernel::GroupMoments(k) => vec![k.x],
            Kernel::GroupScales(k) => vec![k.moments],
            Kernel::GroupNorm(k) => vec![k.x, k.scales],
        }
    }

    /// The tensor that it writes.
    pub fn writes(&self) -> TensorId {
        match self {
            Kernel::Matmul(k) => k.out,
            Kernel::LayerNorm(k) => k.out,
            Kernel::Attention(k) => k.out,
            Kernel::HeadNorm(k) => k.out,
            Kernel::WriteCache(k) => k.out,
            Kernel::CachedAttention(k) => k.out,
            Kernel::Elementwise(k) => k.out,
            Kernel::Embedding(k) => k.out,
            Kernel::CopyTokens(k) => k.out,
            Kernel::ResizedPositions(k) => k.out,
            Kernel::PatchEmbed(k) => k.out,
            Kernel::Unpatchify(k) => k.out,
            Kernel::Conv2d(k) => k.out,
            Kernel::ImageTokens(k) => k.out,
            Kernel::GroupMoments(k) => k.out,
            Kernel::GroupScales(k) => k.out,
            Kernel::GroupNorm(k) => k.out,
        }
    }
}
