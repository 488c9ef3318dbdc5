//! U-ViT, "All are Worth Words: A ViT Backbone for Diffusion Models" (Bao et al., CVPR 2023): time, label and image
//! patches are tokens of one transformer with long skip connections. Follows `libs/uvit.py` of baofff/U-ViT at
//! ce551708dc9cde9818d2af7d84dfadfeb7bd9034, tensor names included.

use super::{Batch, Recording};
use crate::plan::{Op, Plan, Precision, Role, TensorId, WeightUse};
use crate::{Code, Error, Result};
use serde::{Deserialize, Serialize};

/// LayerNorm's epsilon in every U-ViT.
const EPS: f32 = 1e-5;

/// The published constructor's arguments, under its names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Height and width of the image or latent.
    pub img_size: usize,
    /// Height and width of a patch.
    pub patch_size: usize,
    /// Channels of the image or latent.
    pub in_chans: usize,
    /// Width of a token.
    pub embed_dim: usize,
    /// `depth / 2` in_blocks, one mid_block, `depth / 2` out_blocks.
    pub depth: usize,
    /// Attention heads; the head dim is `embed_dim / num_heads`.
    pub num_heads: usize,
    /// Hidden width of the MLP over `embed_dim`.
    pub mlp_ratio: f64,
    /// Whether qkv has a bias.
    pub qkv_bias: bool,
    /// Whether the time embedding goes through an MLP.
    pub mlp_time_embed: bool,
    /// Rows of the label table, the null class included; 0 or less: unconditional.
    pub num_classes: i64,
    /// Whether a 3x3 convolution ends the network.
    pub conv: bool,
    /// Whether the long skip connections exist.
    pub skip: bool,
}

/// A published model, in what the published models differ: all have mlp_ratio 4, skips, no qkv bias, no time MLP.
struct Preset {
    name: &'static str,
    img_size: usize,
    patch_size: usize,
    in_chans: usize,
    embed_dim: usize,
    depth: usize,
    num_heads: usize,
    num_classes: i64,
    conv: bool,
}

/// README and configs of baofff/U-ViT at the commit above.
#[rustfmt::skip]
const PRESETS: [Preset; 8] = [
    Preset { name: "cifar10-s2", img_size: 32, patch_size: 2, in_chans: 3, embed_dim: 512, depth: 12, num_heads: 8, num_classes: -1, conv: true },
    Preset { name: "celeba64-s4", img_size: 64, patch_size: 4, in_chans: 3, embed_dim: 512, depth: 12, num_heads: 8, num_classes: -1, conv: true },
    Preset { name: "imagenet64-m4", img_size: 64, patch_size: 4, in_chans: 3, embed_dim: 768, depth: 16, num_heads: 12, num_classes: 1000, conv: true },
    Preset { name: "imagenet64-l4", img_size: 64, patch_size: 4, in_chans: 3, embed_dim: 1024, depth: 20, num_heads: 16, num_classes: 1000, conv: true },
    Preset { name: "imagenet256-l2", img_size: 32, patch_size: 2, in_chans: 4, embed_dim: 1024, depth: 20, num_heads: 16, num_classes: 1001, conv: true },
    Preset { name: "imagenet256-h2", img_size: 32, patch_size: 2, in_chans: 4, embed_dim: 1152, depth: 28, num_heads: 16, num_classes: 1001, conv: false },
    Preset { name: "imagenet512-l4", img_size: 64, patch_size: 4, in_chans: 4, embed_dim: 1024, depth: 20, num_heads: 16, num_classes: 1001, conv: true },
    Preset { name: "imagenet512-h4", img_size: 64, patch_size: 4, in_chans: 4, embed_dim: 1152, depth: 28, num_heads: 16, num_classes: 1001, conv: false },
];

/// The names that [`preset`] knows.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|preset| preset.name)
}

/// A published model's configuration.
pub fn preset(name: &str) -> Option<Config> {
    let p = PRESETS.iter().find(|preset| preset.name == name)?;
    Some(Config {
        img_size: p.img_size,
        patch_size: p.patch_size,
        in_chans: p.in_chans,
        embed_dim: p.embed_dim,
        depth: p.depth,
        num_heads: p.num_heads,
        mlp_ratio: 4.0,
        qkv_bias: false,
        mlp_time_embed: false,
        num_classes: p.num_classes,
        conv: p.conv,
        skip: true,
    })
}

impl Config {
    /// Tokens in front of the patches: time, and the label if there is one.
    pub fn extras(&self) -> usize {
        if self.num_classes > 0 { 2 } else { 1 }
    }

    /// All tokens of one item.
    pub fn tokens(&self) -> usize {
        let side = self.img_size / self.patch_size;
        self.extras() + side * side
    }

    fn validate(&self) -> Result<()> {
        let fail = |cause: String| {
            Err(Error::new(Code::UnsupportedModel, cause, "Check the architecture's parameters in the configuration"))
        };
        // Far beyond any published model; what fits can neither overflow 32-bit sizes nor take long to record or to test,
        // which happens before anybody knows whether the weights exist.
        for (name, value, most) in [
            ("img_size", self.img_size, 4096),
            ("patch_size", self.patch_size, 256),
            ("in_chans", self.in_chans, 64),
            ("embed_dim", self.embed_dim, 4096),
            ("depth", self.depth, 128),
            ("num_heads", self.num_heads, 1024),
        ] {
            if !(1..=most).contains(&value) {
                return fail(format!("{name} is {value}, not in 1..={most}"));
            }
        }
        if self.num_classes > 1 << 16 {
            return fail(format!("num_classes is {}, at most 65536 are supported", self.num_classes));
        }
        if !self.img_size.is_multiple_of(self.patch_size) {
            return fail(format!("img_size {} is no multiple of patch_size {}", self.img_size, self.patch_size));
        }
        if !self.embed_dim.is_multiple_of(self.num_heads) {
            return fail(format!("embed_dim {} is no multiple of num_heads {}", self.embed_dim, self.num_heads));
        }
        let head_dim = self.embed_dim / self.num_heads;
        if !head_dim.is_multiple_of(4) || head_dim > 128 {
            return fail(format!("the head dim {head_dim} is no multiple of 4 up to 128"));
        }
        let hidden = self.embed_dim as f64 * self.mlp_ratio;
        if !(1.0..16385.0).contains(&hidden) {
            return fail(format!("mlp_ratio {} makes the MLP {hidden} wide, not 1 to 16384", self.mlp_ratio));
        }
        if self.tokens() > 1 << 16 {
            return fail(format!("an image has {} tokens, at most 65536 are supported", self.tokens()));
        }
        let patch = self.patch_size * self.patch_size * self.in_chans;
        if patch > 1 << 14 {
            return fail(format!("a patch has {patch} values, at most 16384 are supported"));
        }
        let (d, tokens, blocks) = (self.embed_dim as f64, self.tokens() as f64, (self.depth | 1) as f64);
        let parameters = blocks * d * (6.0 * d + 2.0 * hidden);
        let work = tokens * (parameters + 2.0 * blocks * tokens * d);
        for (what, found, most) in [("parameters", parameters, 8e9), ("multiply-adds an image", work, 4e13)] {
            if found > most {
                return fail(format!("the network has {found:.1e} {what}, at most {most:.0e} are supported"));
            }
        }
        Ok(())
    }

    /// Records one forward for `batch`.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` if the parameters contradict each other or the head dim is no multiple of 4 up to 128.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        self.validate()?;
        let (b, d, p) = (batch.items(), self.embed_dim, self.patch_size);
        let mut plan = Plan::default();
        let size = [self.in_chans, self.img_size, self.img_size];
        let latents = plan.tensor("x", &[batch.images, size[0], size[1], size[2]], Role::Input);
        let time = plan.tensor("timesteps", &[b], Role::Input);
        let label = (self.num_classes > 0).then(|| plan.tensor("y", &[b], Role::Indices));

        let mut e = plan.scratch(if self.mlp_time_embed { "" } else { "time_embed" }, &[b, 1, d]);
        plan.push(Op::TimestepEmbedding { time, out: e });
        if self.mlp_time_embed {
            let hidden = plan.linear("time_embed.0", e, None, 4 * d, true);
            let activated = plan.scratch("", &[b, 1, 4 * d]);
            plan.push(Op::Silu { x: hidden, out: activated });
            e = plan.linear("time_embed.2", activated, None, d, true);
            plan.tensors[e.0].name = "time_embed".into();
        }

        let tokens = plan.scratch("tokens", &[b, self.tokens(), d]);
        let position = plan.weight("pos_embed", &[1, self.tokens(), d], WeightUse::Floats);
        if let Some(index) = label {
            let classes = self.num_classes as usize;
            let table = plan.weight("label_emb.weight", &[classes, d], WeightUse::Floats);
            plan.push(Op::Embedding { table, index, position, out: tokens, at: 0 });
        }
        let extras = self.extras();
        plan.push(Op::PlaceTokens { x: e, position, out: tokens, at: extras - 1 });
        let weight = plan.weight("patch_embed.proj.weight", &[d, size[0], p, p], WeightUse::PatchKernel);
        let bias = plan.weight("patch_embed.proj.bias", &[d], WeightUse::Floats);
        plan.push(Op::PatchEmbed { image: latents, weight, bias, position, patch: p, out: tokens, at: extras });

        let mut x = tokens;
        let mut skips = Vec::new();
        for i in 0..self.depth / 2 {
            x = self.block(&mut plan, &format!("in_blocks.{i}"), x, None);
            skips.push(x);
        }
        x = self.block(&mut plan, "mid_block", x, None);
        for i in 0..self.depth / 2 {
            let skip = skips.pop().filter(|_| self.skip);
            x = self.block(&mut plan, &format!("out_blocks.{i}"), x, skip);
        }

        x = plan.layer_norm("norm", x, EPS);
        x = plan.linear("decoder_pred", x, None, p * p * size[0], true);
        let image_shape = [b, size[0], size[1], size[2]];
        let mut out = plan.tensor("", &image_shape, if self.conv { Role::Scratch } else { Role::Output });
        plan.push(Op::Unpatchify { x, patch: p, skip_tokens: extras, out });
        if self.conv {
            let weight = plan.weight("final_layer.weight", &[size[0], size[0], 3, 3], WeightUse::Floats);
            let bias = plan.weight("final_layer.bias", &[size[0]], WeightUse::Floats);
            let image = out;
            out = plan.tensor("", &image_shape, Role::Output);
            plan.push(Op::Conv2d { x: image, weight, bias, out });
        }
        plan.tensors[out.0].name = "out".into();
        Ok(Recording { plan, latents, time, label, out })
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

    /// `x = skip_linear(cat(x, skip))` if there is a skip; `x += attn(norm1(x))`; `x += mlp(norm2(x))`.
    fn block(&self, plan: &mut Plan, name: &str, mut x: TensorId, skip: Option<TensorId>) -> TensorId {
        let d = self.embed_dim;
        let hidden = (d as f64 * self.mlp_ratio) as usize;
        if let Some(skip) = skip {
            x = plan.linear(&format!("{name}.skip_linear"), x, Some(skip), d, true);
        }
        let shape = plan.shape(x).to_vec();

        let normed = plan.layer_norm(&format!("{name}.norm1"), x, EPS);
        let qkv = plan.linear(&format!("{name}.attn.qkv"), normed, None, 3 * d, self.qkv_bias);
        let attended = plan.scratch("", &shape);
        plan.push(Op::Attention { qkv, heads: self.num_heads, out: attended });
        let projected = plan.linear(&format!("{name}.attn.proj"), attended, None, d, true);
        plan.tensors[projected.0].name = format!("{name}.attn");
        x = plan.add("", x, projected);

        let normed = plan.layer_norm(&format!("{name}.norm2"), x, EPS);
        let up = plan.linear(&format!("{name}.mlp.fc1"), normed, None, hidden, true);
        let activated = plan.scratch("", plan.shape(up).to_vec().as_slice());
        plan.push(Op::Gelu { x: up, out: activated });
        let down = plan.linear(&format!("{name}.mlp.fc2"), activated, None, d, true);
        plan.tensors[down.0].name = format!("{name}.mlp");
        // docs/arithmetic.md has the measurements.
        for layer in ["skip_linear", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"] {
            plan.allow(&format!("{name}.{layer}"), Precision::Narrow);
        }
        plan.add(name, x, down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_too_large_is_refused_before_anything_is_recorded() {
        let refused = |change: &dyn Fn(&mut Config)| {
            let mut config = preset("imagenet512-h4").unwrap();
            change(&mut config);
            config.record(Batch::plain(1)).unwrap_err().cause
        };
        let cause = refused(&|c| (c.patch_size, c.img_size, c.in_chans) = (128, 256, 4));
        assert!(cause.contains("a patch has 65536 values"), "{cause}");
        let cause = refused(&|c| c.mlp_ratio = 15.0);
        assert!(cause.contains("makes the MLP 17280 wide"), "{cause}");
        let cause = refused(&|c| (c.embed_dim, c.num_heads, c.depth) = (4096, 32, 128));
        assert!(cause.contains("3.0e10 parameters, at most 8e9"), "{cause}");
        let cause = refused(&|c| c.img_size = 1000);
        assert!(cause.contains("multiply-adds an image, at most 4e13"), "{cause}");
        for name in preset_names() {
            assert!(preset(name).unwrap().validate().is_ok());
        }
    }
}
