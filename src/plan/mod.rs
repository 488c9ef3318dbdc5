//! What to compute ([`Plan`]) and how ([`Program`]), still without a device.
//!
//! A network records a Plan: operations over named tensors and weights, by meaning only. [`lower`] turns it into a
//! Program for given [`Capabilities`]: fused kernels, row strides, places in memory. Memory and cost of any model can
//! be read off a Program with no device and no weights at hand. Nothing here knows networks or devices.

mod arena;
mod arithmetic;
mod cost;
mod isolate;
mod lower;
mod program;
mod state;

pub use arithmetic::{Arithmetic, Compute, INT_CHUNK, LOW_BITS, PACK_GROUP, Precision, weight_limit};
pub use cost::Cost;
pub use isolate::{Isolated, isolate};
pub use lower::lower;
pub use program::{
    Activation, Attention, Capabilities, Conv2d, CopyTokens, Elementwise, Embedding, Kernel, LayerNorm, Matmul,
    PatchEmbed, Place, Program, ResizedPositions, SizeClass, Unpatchify, View,
};

pub use state::{Slot, StateLayout};

use crate::{Error, Result};

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
    /// Rank 4: image `[batch, channels, height, width]`; rank 3: tokens `[batch, tokens, dim]`; rank 2: `[batch, dim]`.
    pub shape: Vec<usize>,
    /// Who writes and reads it.
    pub role: Role,
}

/// How a weight is read, which decides how an executor may store it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightUse {
    /// The matrix of a Linear, `[out, in]`: any stored dtype, packed by executors.
    Matrix,
    /// The kernel of a patch embedding, `[out, channels, patch, patch]`, read as `[out, in]` floats.
    PatchKernel,
    /// Anything read element by element as floats.
    Floats,
}

/// A weight that the Plan reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// The published name.
    pub name: String,
    /// The published shape.
    pub shape: Vec<usize>,
    /// How it is read.
    pub usage: WeightUse,
    /// How coarse the input of a matrix may become.
    pub precision: Precision,
    /// Whether the kernel that makes a matrix's input can quantise it.
    pub packs_input: bool,
}

impl Weight {
    /// What a matrix is multiplied in.
    pub fn arithmetic(&self, compute: Compute) -> Arithmetic {
        match compute {
            Compute::W8A8 if self.packs_input && self.precision == Precision::Narrow => Arithmetic::W8A8,
            _ => self.precision.arithmetic(compute),
        }
    }
}

/// Rows of a table `[.., dim]` that are added to tokens, one each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The table.
    pub table: WeightId,
    /// The first token's row.
    pub at: usize,
}

/// One operation, by meaning. Fields are named as in its formula.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Op {
    /// `out[b] = [cos(t f_0) .. cos(t f_{h-1}), sin(t f_0) .. ]`, `f_i = 10000^(-i/h)`, h = dim / 2 (DDPM; U-ViT
    /// libs/timm.py). `time` `[batch]`, out `[batch, 1, dim]`. Always computed by the host in f64.
    TimestepEmbedding { time: TensorId, out: TensorId },
    /// `out = x W^T + bias`; with `skip` the input is `cat(x, skip)` along the last axis.
    Linear { x: TensorId, skip: Option<TensorId>, weight: WeightId, bias: Option<WeightId>, out: TensorId },
    /// `x/2 (1 + erf(x/sqrt 2))`.
    Gelu { x: TensorId, out: TensorId },
    /// `x sigmoid(x)`.
    Silu { x: TensorId, out: TensorId },
    /// `a + b`, equal shapes.
    Add { a: TensorId, b: TensorId, out: TensorId },
    /// `(x - mean) / sqrt(var + eps) weight + bias` over the last axis, biased variance.
    LayerNorm { x: TensorId, weight: WeightId, bias: WeightId, eps: f32, out: TensorId },
    /// Per head `softmax(q k^T / sqrt(head_dim)) v`; `qkv [batch, tokens, 3 dim]` holds q, k, v, each `heads` x
    /// `head_dim`; out `[batch, tokens, dim]`.
    Attention { qkv: TensorId, heads: usize, out: TensorId },
    /// Token `at` of every item of `out` becomes `table[index[b]]`, plus its position.
    Embedding { table: WeightId, index: TensorId, position: Option<Position>, out: TensorId, at: usize },
    /// Tokens `at ..` of `out` become tokens `from .. from + count` of `x`, plus their positions; x `[batch, n, dim]`.
    CopyTokens { x: TensorId, from: usize, count: usize, position: Option<Position>, out: TensorId, at: usize },
    /// Adds to tokens `at ..` of `out` the positions of a grid of `to` rows and columns, from a table for `from` rows and
    /// columns: bilinear as `torch.nn.functional.interpolate(align_corners=False)`.
    ResizedPositions { position: Position, from: [usize; 2], to: [usize; 2], out: TensorId, at: usize },
    /// Tokens `at ..` of `out` become the patches of `image`, row-major, through a convolution with kernel = stride =
    /// `patch`, plus bias and positions. Item b of `out` reads image `b mod images`: guidance runs the same images twice
    /// with two labels.
    PatchEmbed {
        image: TensorId,
        weight: WeightId,
        bias: WeightId,
        position: Option<Position>,
        patch: usize,
        out: TensorId,
        at: usize,
    },
    /// `out[b, c, i p + y, j p + x] = tokens[b, skip_tokens + i n + j, (y p + x) C + c]`: the channel is fastest.
    Unpatchify { x: TensorId, patch: usize, skip_tokens: usize, out: TensorId },
    /// 3x3 convolution, padding 1, stride 1, `weight [out, in, 3, 3]`.
    Conv2d { x: TensorId, weight: WeightId, bias: WeightId, out: TensorId },
}

impl Op {
    /// The tensors that the operation reads.
    pub fn reads(&self) -> Vec<TensorId> {
        match *self {
            Op::TimestepEmbedding { time, .. } => vec![time],
            Op::Linear { x, skip, .. } => [Some(x), skip].into_iter().flatten().collect(),
            Op::Gelu { x, .. } | Op::Silu { x, .. } | Op::LayerNorm { x, .. } => vec![x],
            Op::Add { a, b, .. } => vec![a, b],
            Op::Attention { qkv, .. } => vec![qkv],
            Op::Embedding { index, .. } => vec![index],
            Op::CopyTokens { x, .. } | Op::Unpatchify { x, .. } | Op::Conv2d { x, .. } => vec![x],
            Op::PatchEmbed { image, .. } => vec![image],
            Op::ResizedPositions { .. } => Vec::new(),
        }
    }

    /// The tensor that the operation writes.
    pub fn writes(&self) -> TensorId {
        match *self {
            Op::TimestepEmbedding { out, .. }
            | Op::Linear { out, .. }
            | Op::Gelu { out, .. }
            | Op::Silu { out, .. }
            | Op::Add { out, .. }
            | Op::LayerNorm { out, .. }
            | Op::Attention { out, .. }
            | Op::Embedding { out, .. }
            | Op::CopyTokens { out, .. }
            | Op::ResizedPositions { out, .. }
            | Op::PatchEmbed { out, .. }
            | Op::Unpatchify { out, .. }
            | Op::Conv2d { out, .. } => out,
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

    /// Adds a weight, or finds the one of that name.
    pub fn weight(&mut self, name: impl Into<String>, shape: &[usize], usage: WeightUse) -> WeightId {
        let name = name.into();
        if let Some(found) = self.weights.iter().position(|w| w.name == name) {
            return WeightId(found);
        }
        let (shape, precision) = (shape.to_vec(), Precision::Float);
        self.weights.push(Weight { name, shape, usage, precision, packs_input: false });
        WeightId(self.weights.len() - 1)
    }

    /// States how coarse the input of the Linear `name` may become; without it, it stays in floats.
    pub fn allow(&mut self, name: &str, precision: Precision) {
        if let Some(weight) = self.weights.iter_mut().find(|w| w.name.strip_suffix(".weight") == Some(name)) {
            weight.precision = precision;
        }
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

    /// Records `x W^T + b` under the name `name` (`name.weight`, `name.bias`); returns `[.., out]`.
    pub fn linear(
        &mut self,
        name: &str,
        x: TensorId,
        skip: Option<TensorId>,
        out_features: usize,
        bias: bool,
    ) -> TensorId {
        let mut shape = self.shape(x).to_vec();
        let last = shape.len() - 1;
        let in_features = shape[last] + skip.map_or(0, |s| *self.shape(s).last().unwrap_or(&0));
        shape[last] = out_features;
        let weight = self.weight(format!("{name}.weight"), &[out_features, in_features], WeightUse::Matrix);
        self.weights[weight.0].packs_input = skip.is_none() && self.packs(x);
        let bias = bias.then(|| self.weight(format!("{name}.bias"), &[out_features], WeightUse::Floats));
        let out = self.scratch(name, &shape);
        self.push(Op::Linear { x, skip, weight, bias, out });
        out
    }

    /// Whether one invocation of the kernel that writes `x` has all of a group of values at hand.
    fn packs(&self, x: TensorId) -> bool {
        let writer = |x: TensorId| self.ops.iter().find(|op| op.writes() == x);
        let dim = *self.shape(x).last().unwrap_or(&1);
        let at_once = match writer(x) {
            Some(Op::LayerNorm { .. }) => dim,
            // Joins the Linear before it, which must compute so itself.
            Some(Op::Gelu { x: from, .. } | Op::Silu { x: from, .. }) => match writer(*from) {
                Some(Op::Linear { weight, .. }) if self.weights[weight.0].packs_input => dim,
                _ => 1,
            },
            Some(Op::Attention { heads, .. }) => dim / heads,
            _ => 1,
        };
        at_once.is_multiple_of(PACK_GROUP)
    }

    /// Records LayerNorm with the affine weights `name.weight`, `name.bias`.
    pub fn layer_norm(&mut self, name: &str, x: TensorId, eps: f32) -> TensorId {
        let shape = self.shape(x).to_vec();
        let dim = [shape[shape.len() - 1]];
        let weight = self.weight(format!("{name}.weight"), &dim, WeightUse::Floats);
        let bias = self.weight(format!("{name}.bias"), &dim, WeightUse::Floats);
        let out = self.scratch(name, &shape);
        self.push(Op::LayerNorm { x, weight, bias, eps, out });
        out
    }

    /// Records `a + b`.
    pub fn add(&mut self, name: impl Into<String>, a: TensorId, b: TensorId) -> TensorId {
        let shape = self.shape(a).to_vec();
        let out = self.scratch(name, &shape);
        self.push(Op::Add { a, b, out });
        out
    }

    /// Checks that shapes agree, ids exist, and every tensor is written before it is read.
    ///
    /// # Errors
    /// `INTERNAL` with the operation that contradicts itself: a network recorded a wrong Plan.
    pub fn validate(&self) -> Result<()> {
        let mut written: Vec<bool> =
            self.tensors.iter().map(|t| !matches!(t.role, Role::Scratch | Role::Output)).collect();
        for (i, op) in self.ops.iter().enumerate() {
            let fail = |what: &str| Err(Error::internal(format!("plan: operation {i} ({op:?}): {what}")));
            for id in op.reads() {
                match written.get(id.0) {
                    None => return fail("reads a tensor that does not exist"),
                    Some(false) => return fail("reads a tensor before it is written"),
                    Some(true) => {}
                }
            }
            let Some(slot) = written.get_mut(op.writes().0) else { return fail("writes a tensor that does not exist") };
            *slot = true;
            if let Some(what) = self.mismatch(op) {
                return fail(what);
            }
        }
        Ok(())
    }

    /// What is wrong with an operation's shapes, if anything.
    fn mismatch(&self, op: &Op) -> Option<&'static str> {
        let shape = |id: TensorId| self.shape(id);
        let last = |id: TensorId| shape(id).last().copied().unwrap_or(0);
        let wshape = |id: WeightId| self.weights[id.0].shape.as_slice();
        let check = |ok: bool, what: &'static str| (!ok).then_some(what);
        let positions = |position: Option<Position>, out: TensorId, count: usize| {
            let fits = |p: Position| {
                let s = wshape(p.table);
                s.last() == Some(&last(out)) && p.at + count <= s.iter().rev().skip(1).product::<usize>()
            };
            check(position.is_none_or(fits), "positions do not fit")
        };
        match *op {
            Op::TimestepEmbedding { time, out } => check(shape(time)[0] == shape(out)[0], "batch differs"),
            Op::Linear { x, skip, weight, bias, out } => {
                let k = last(x) + skip.map_or(0, last);
                check(wshape(weight) == [last(out), k], "weight is not [out, in]")
                    .or(check(bias.is_none_or(|b| wshape(b) == [last(out)]), "bias is not [out]"))
            }
            Op::Gelu { x, out } | Op::Silu { x, out } => check(shape(x) == shape(out), "shapes differ"),
            Op::Add { a, b, out } => check(shape(a) == shape(b) && shape(a) == shape(out), "shapes differ"),
            Op::LayerNorm { x, weight, bias, out, .. } => check(
                shape(x) == shape(out) && wshape(weight) == [last(x)] && wshape(bias) == [last(x)],
                "shapes differ",
            ),
            Op::Attention { qkv, heads, out } => {
                let dim = last(out);
                check(last(qkv) == 3 * dim && dim % heads == 0, "qkv is not 3 x heads x head_dim").or(check(
                    dim / heads <= 128 && (dim / heads).is_multiple_of(4),
                    "head_dim is not a multiple of 4 up to 128",
                ))
            }
            Op::Embedding { table, index, position, out, at } => check(
                wshape(table)[1] == last(out) && shape(index)[0] == shape(out)[0] && at < shape(out)[1],
                "table or index does not fit",
            )
            .or(positions(position, out, 1)),
            Op::CopyTokens { x, from, count, position, out, at } => check(
                last(x) == last(out)
                    && shape(x)[0] == shape(out)[0]
                    && from + count <= shape(x)[1]
                    && at + count <= shape(out)[1],
                "tokens do not fit",
            )
            .or(positions(position, out, count)),
            Op::ResizedPositions { position, from, to, out, at } => check(
                at + to[0] * to[1] <= shape(out)[1] && from[0] * from[1] > 0,
                "tokens do not fit",
            )
            .or(positions(Some(position), out, from[0] * from[1])),
            Op::PatchEmbed { image, weight, position, patch, out, at, .. } => {
                let s = shape(image);
                let patches = (s[2] / patch) * (s[3] / patch);
                check(wshape(weight) == [last(out), s[1], patch, patch], "weight is not [dim, channels, p, p]")
                    .or(check(at + patches <= shape(out)[1] && shape(out)[0] % s[0] == 0, "patches do not fit"))
                    .or(positions(position, out, patches))
            }
            Op::Unpatchify { x, patch, skip_tokens, out } => {
                let s = shape(out);
                check(last(x) == patch * patch * s[1], "tokens are not p p C wide")
                    .or(check(shape(x)[1] == skip_tokens + (s[2] / patch) * (s[3] / patch), "token count differs"))
            }
            Op::Conv2d { x, weight, out, .. } => {
                check(wshape(weight) == [shape(out)[1], shape(x)[1], 3, 3], "weight is not [out, in, 3, 3]")
            }
        }
    }
}
