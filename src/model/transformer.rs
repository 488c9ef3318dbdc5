//! What the U-ViTs share: the time token, patches, blocks joined by long skip connections, and the way back to pixels.
//! `libs/uvit.py` of baofff/U-ViT at ce551708dc9cde9818d2af7d84dfadfeb7bd9034, tensor names included.

use crate::decimal::{decimal, exponential};
use crate::plan::{Activation, FrameLayout, Frames, Groups, Op, Plan, Position, Precision, Role, TensorId, WeightUse};
use crate::{Code, Error, Result};

/// LayerNorm's epsilon in every U-ViT.
pub(super) const EPS: f32 = 1e-5;

/// Where a block's LayerNorms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Norms {
    /// `x += attn(norm1(x)); x += mlp(norm2(x))`.
    Before,
    /// `x = norm2(x + attn(x)); x = norm3(x + mlp(x))`, and norm1 after the skip (UniDiffuser).
    After,
}

/// The sizes of the transformer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Transformer {
    pub embed_dim: usize,
    pub depth: usize,
    pub num_heads: usize,
    pub mlp_ratio: f64,
    pub qkv_bias: bool,
    pub skip: bool,
    pub norms: Norms,
}

/// The sizes of pictures, or of clips.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pictures {
    pub img_size: usize,
    pub patch_size: usize,
    pub in_chans: usize,
    /// Frames of clips `[channels, frames, height, width]`, and how many of them a patch has; none of pictures.
    pub frames: Option<[usize; 2]>,
}

/// Checks a parameter of a configuration.
pub(super) fn within(name: &str, value: usize, most: usize) -> Result<()> {
    match (1..=most).contains(&value) {
        true => Ok(()),
        false => Err(unsupported(format!("{name} is {value}, not in 1..={most}"))),
    }
}

pub(super) fn unsupported(cause: String) -> Error {
    Error::new(Code::UnsupportedModel, cause, "Check the architecture's parameters in the configuration")
}

impl Pictures {
    /// Far beyond any published model; what fits can neither overflow 32-bit sizes nor take long to record or to test, which
    /// happens before anybody knows whether the weights exist.
    pub fn validate(&self) -> Result<()> {
        self.validate_as("img_size", "in_chans")
    }

    /// The same, where a configuration has other names for height and width, and for channels.
    pub fn validate_as(&self, size: &str, channels: &str) -> Result<()> {
        within(size, self.img_size, 4096)?;
        within("patch_size", self.patch_size, 256)?;
        within(channels, self.in_chans, 64)?;
        if !self.img_size.is_multiple_of(self.patch_size) {
            let Pictures { img_size, patch_size, .. } = self;
            return Err(unsupported(format!("{size} {img_size} is no multiple of patch_size {patch_size}")));
        }
        let [frames, depth] = self.frames.unwrap_or([1, 1]);
        within("num_frames", frames, 4096)?;
        within("t_patch_size", depth, 64)?;
        if !frames.is_multiple_of(depth) {
            return Err(unsupported(format!("num_frames {frames} is no multiple of t_patch_size {depth}")));
        }
        let patch = self.patch_size * self.patch_size * depth * self.in_chans;
        if patch > 1 << 14 {
            return Err(unsupported(format!("a patch has {patch} values, at most 16384 are supported")));
        }
        Ok(())
    }

    /// Patches a side.
    pub fn side(&self) -> usize {
        self.img_size / self.patch_size
    }

    /// Patches of a picture, or of a clip.
    pub fn count(&self) -> usize {
        self.side().pow(2) * self.frames.map_or(1, |[frames, depth]| frames / depth)
    }

    /// The shape of so many of them.
    pub fn shape(&self, items: usize) -> Vec<usize> {
        let [channels, size] = [self.in_chans, self.img_size];
        match self.frames {
            None => vec![items, channels, size, size],
            Some([frames, _]) => vec![items, channels, frames, size, size],
        }
    }

    /// How they are cut into patches along the frames.
    fn cut(&self) -> Frames {
        self.frames.map_or(Frames::NONE, |[_, patch]| Frames { patch, layout: FrameLayout::ChannelsFirst })
    }

    /// Records patches as tokens `at ..` of `out`, with the positions of the table's rows from `position` on.
    pub fn embed(&self, plan: &mut Plan, image: TensorId, position: Option<Position>, out: TensorId, at: usize) {
        let (d, p, frames) = (plan.shape(out)[2], self.patch_size, self.cut());
        // Like a picture whose sides are those of a patch.
        let kernel = Pictures { img_size: p, frames: self.frames.map(|[_, depth]| [depth, depth]), ..*self }.shape(d);
        let weight = plan.weight("patch_embed.proj.weight", &kernel, WeightUse::PatchKernel);
        let bias = plan.weight("patch_embed.proj.bias", &[d], WeightUse::Floats);
        plan.push(Op::PatchEmbed { image, weight, bias: Some(bias), position, patch: p, frames, out, at });
    }

    /// Records `decoder_pred` on the tokens of `x`, of which the first `extras` are no patches, and unpatchify.
    pub fn predict(&self, plan: &mut Plan, x: TensorId, extras: usize, out: TensorId) {
        let (p, frames) = (self.patch_size, self.cut());
        let x = plan.linear("decoder_pred", x, None, frames.patch * p * p * self.in_chans, true);
        plan.push(Op::Unpatchify { x, patch: p, frames, skip_tokens: extras, first_channel: 0, out });
    }

    /// Records [`Pictures::predict`] and, with `conv`, the last convolution; returns the tensor `out`.
    pub fn predict_and_smooth(&self, plan: &mut Plan, x: TensorId, extras: usize, conv: bool) -> TensorId {
        let c = self.in_chans;
        let shape = self.shape(plan.shape(x)[0]);
        if !conv {
            let out = plan.tensor("out", &shape, Role::Output);
            self.predict(plan, x, extras, out);
            return out;
        }
        let rough = plan.scratch("", &shape);
        self.predict(plan, x, extras, rough);
        let weight = plan.weight("final_layer.weight", &[c, c, 3, 3], WeightUse::Floats);
        let bias = plan.weight("final_layer.bias", &[c], WeightUse::Floats);
        let out = plan.tensor("out", &shape, Role::Output);
        plan.push(Op::Conv2d { x: rough, weight, bias, out });
        out
    }
}

/// Records a time token `[items, 1, dim]` called `name`, with an MLP of the weights `name.0` and `name.2` if there is one.
pub(super) fn time_token(plan: &mut Plan, name: &str, time: TensorId, dim: usize, mlp: bool) -> TensorId {
    let items = plan.shape(time)[0];
    let embedding = plan.scratch(if mlp { "" } else { name }, &[items, 1, dim]);
    plan.push(Op::TimestepEmbedding { time, out: embedding });
    if !mlp {
        return embedding;
    }
    let hidden = plan.linear(&format!("{name}.0"), embedding, None, 4 * dim, true);
    let activated = plan.scratch("", &[items, 1, 4 * dim]);
    plan.push(Op::Activate { activation: Activation::Silu, x: hidden, out: activated });
    let token = plan.linear(&format!("{name}.2"), activated, None, dim, true);
    plan.tensors[token.0].name = name.into();
    token
}

/// The sizes that blocks of attention and an MLP have everywhere.
pub(super) struct Blocks<'a> {
    /// What the configuration calls the width.
    pub width: &'a str,
    pub dim: usize,
    pub depth: usize,
    pub num_heads: usize,
    pub mlp_ratio: f64,
    /// Matrices `[dim, dim]` of a block, those of the MLP aside.
    pub squares: f64,
}

impl Blocks<'_> {
    /// As [`Pictures::validate`], for so many tokens an item, of which each attends to `seen`.
    pub fn validate(&self, tokens: usize, seen: usize) -> Result<()> {
        let Blocks { width, dim, depth, num_heads, mlp_ratio, squares } = *self;
        within(width, dim, 4096)?;
        within("depth", depth, 129)?;
        within("num_heads", num_heads, 1024)?;
        if !dim.is_multiple_of(num_heads) {
            return Err(unsupported(format!("{width} {dim} is no multiple of num_heads {num_heads}")));
        }
        let head_dim = dim / num_heads;
        if !head_dim.is_multiple_of(4) || head_dim > 128 {
            return Err(unsupported(format!("the head dim {head_dim} is no multiple of 4 up to 128")));
        }
        let hidden = dim as f64 * mlp_ratio;
        if !(1.0..16385.0).contains(&hidden) {
            return Err(unsupported(format!(
                "mlp_ratio {} makes the MLP {} wide, not 1 to 16384",
                decimal(mlp_ratio),
                decimal(hidden)
            )));
        }
        if tokens > 1 << 16 {
            return Err(unsupported(format!("an image has {tokens} tokens, at most 65536 are supported")));
        }
        let (d, tokens, blocks) = (dim as f64, tokens as f64, depth as f64);
        let parameters = blocks * d * (squares * d + 2.0 * hidden);
        let work = tokens * (parameters + 2.0 * blocks * seen as f64 * d);
        let limits = [("parameters", parameters, 8e9, "8e9"), ("multiply-adds an image", work, 4e13, "4e13")];
        for (what, found, most, shown) in limits {
            if found > most {
                return Err(unsupported(format!(
                    "the network has {} {what}, at most {shown} are supported",
                    exponential(found),
                )));
            }
        }
        Ok(())
    }
}

impl Transformer {
    /// As [`Pictures::validate`], for sequences of so many tokens.
    pub fn validate(&self, tokens: usize) -> Result<()> {
        let Transformer { embed_dim: dim, depth, num_heads, mlp_ratio, .. } = *self;
        let blocks = Blocks { width: "embed_dim", dim, depth: depth | 1, num_heads, mlp_ratio, squares: 6.0 };
        within("depth", depth, 128).and(blocks.validate(tokens, tokens))
    }

    /// Records all blocks and the last norm; returns the tensor `norm`.
    pub fn record(&self, plan: &mut Plan, tokens: TensorId) -> TensorId {
        let mut x = tokens;
        let mut skips = Vec::new();
        for i in 0..self.depth / 2 {
            x = self.block(plan, &format!("in_blocks.{i}"), x, None, false);
            skips.push(x);
        }
        x = self.block(plan, "mid_block", x, None, false);
        for i in 0..self.depth / 2 {
            let skip = skips.pop().filter(|_| self.skip);
            x = self.block(plan, &format!("out_blocks.{i}"), x, skip, true);
        }
        plan.layer_norm("norm", x, EPS)
    }

    /// See [`super::Network::inner_blocks`].
    pub fn inner_blocks(&self, outer: usize) -> Option<[String; 2]> {
        let half = self.depth / 2;
        let last = match half.checked_sub(outer)? {
            0 => "mid_block".into(),
            inner => format!("out_blocks.{}", inner - 1),
        };
        (outer > 0).then(|| [format!("in_blocks.{}", outer - 1), last])
    }

    /// `x = skip_linear(cat(x, skip))` if there is a skip, then attention and MLP with residuals.
    fn block(&self, plan: &mut Plan, name: &str, mut x: TensorId, skip: Option<TensorId>, out_block: bool) -> TensorId {
        let after = self.norms == Norms::After;
        if let Some(skip) = skip {
            x = plan.linear(&format!("{name}.skip_linear"), x, Some(skip), self.embed_dim, true);
        }
        if after && out_block {
            x = plan.layer_norm(&format!("{name}.norm1"), x, EPS);
        }
        let normed = if after { x } else { plan.layer_norm(&format!("{name}.norm1"), x, EPS) };
        let attended = self.attention(plan, name, normed);
        x = plan.add("", x, attended);
        if after {
            x = plan.layer_norm(&format!("{name}.norm2"), x, EPS);
        }
        let normed = if after { x } else { plan.layer_norm(&format!("{name}.norm2"), x, EPS) };
        let mixed = self.mlp(plan, name, normed);
        // docs/arithmetic.md has the measurements.
        for layer in ["skip_linear", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"] {
            plan.allow(&format!("{name}.{layer}"), Precision::Narrow);
        }
        if !after {
            return plan.add(name, x, mixed);
        }
        x = plan.add("", x, mixed);
        x = plan.layer_norm(&format!("{name}.norm3"), x, EPS);
        plan.tensors[x.0].name = name.into();
        x
    }

    fn attention(&self, plan: &mut Plan, name: &str, x: TensorId) -> TensorId {
        let qkv = plan.linear(&format!("{name}.attn.qkv"), x, None, 3 * self.embed_dim, self.qkv_bias);
        let shape = plan.shape(x).to_vec();
        let attended = plan.scratch("", &shape);
        plan.push(Op::Attention { qkv, heads: self.num_heads, causal: false, groups: Groups::Item, out: attended });
        let projected = plan.linear(&format!("{name}.attn.proj"), attended, None, self.embed_dim, true);
        plan.tensors[projected.0].name = format!("{name}.attn");
        projected
    }

    fn mlp(&self, plan: &mut Plan, name: &str, x: TensorId) -> TensorId {
        let hidden = (self.embed_dim as f64 * self.mlp_ratio) as usize;
        let up = plan.linear(&format!("{name}.mlp.fc1"), x, None, hidden, true);
        let shape = plan.shape(up).to_vec();
        let activated = plan.scratch("", &shape);
        plan.push(Op::Activate { activation: Activation::Gelu, x: up, out: activated });
        let down = plan.linear(&format!("{name}.mlp.fc2"), activated, None, self.embed_dim, true);
        plan.tensors[down.0].name = format!("{name}.mlp");
        down
    }
}
