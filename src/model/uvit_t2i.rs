//! U-ViT for text to image (Bao et al., CVPR 2023, section 5.2): the label's token gives way to the text's. Follows
//! `libs/uvit_t2i.py` of baofff/U-ViT at ce551708dc9cde9818d2af7d84dfadfeb7bd9034, tensor names included.

use super::transformer::{Norms, Pictures, Transformer, time_token, within};
use super::{Batch, Port, PortKind, Recording, Sampled};
use crate::Result;
use crate::json;
use crate::plan::{Op, Plan, Position, Role, WeightUse};

/// The published constructor's arguments, under its names.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Height and width of the latent.
    pub img_size: usize,
    /// Height and width of a patch.
    pub patch_size: usize,
    /// Channels of the latent.
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
    /// Width of a token of the text encoder.
    pub clip_dim: usize,
    /// Tokens of the text.
    pub num_clip_token: usize,
    /// Whether a 3x3 convolution ends the network.
    pub conv: bool,
    /// Whether the long skip connections exist.
    pub skip: bool,
}

json::fields!(Config {
    img_size,
    patch_size,
    in_chans,
    embed_dim,
    depth,
    num_heads,
    mlp_ratio,
    qkv_bias,
    mlp_time_embed,
    clip_dim,
    num_clip_token,
    conv,
    skip,
});

impl Config {
    fn pictures(&self) -> Pictures {
        let Config { img_size, patch_size, in_chans, .. } = *self;
        Pictures { img_size, patch_size, in_chans, frames: None }
    }

    fn transformer(&self) -> Transformer {
        let Config { embed_dim, depth, num_heads, mlp_ratio, qkv_bias, skip, .. } = *self;
        Transformer { embed_dim, depth, num_heads, mlp_ratio, qkv_bias, skip, norms: Norms::Before }
    }

    /// All tokens of one item: time, text, patches.
    pub fn tokens(&self) -> usize {
        1 + self.num_clip_token + self.pictures().count()
    }

    /// Records one forward for `batch`: ports `x [images, C, H, W]`, `timesteps [items]`, `context [items, num_clip_token,
    /// clip_dim]` and `out [items, C, H, W]`.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` if the parameters contradict each other.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        self.pictures().validate()?;
        within("clip_dim", self.clip_dim, 8192)?;
        within("num_clip_token", self.num_clip_token, 4096)?;
        self.transformer().validate(self.tokens())?;
        let (items, dim, size) = (batch.items(), self.embed_dim, self.img_size);
        let texts = self.num_clip_token;
        let mut plan = Plan::default();
        let x = plan.tensor("x", &[batch.images, self.in_chans, size, size], Role::Input);
        let time = plan.tensor("timesteps", &[items], Role::Input);
        let context = plan.tensor("context", &[items, texts, self.clip_dim], Role::Input);

        let token = time_token(&mut plan, "time_embed", time, dim, self.mlp_time_embed);
        let text = plan.linear("context_embed", context, None, dim, true);
        let tokens = plan.scratch("tokens", &[items, self.tokens(), dim]);
        let table = plan.weight("pos_embed", &[1, self.tokens(), dim], WeightUse::Floats);
        let position = |at| Some(Position::plain(table, at));
        plan.push(Op::CopyTokens { x: token, from: 0, count: 1, position: position(0), out: tokens, at: 0 });
        plan.push(Op::CopyTokens { x: text, from: 0, count: texts, position: position(1), out: tokens, at: 1 });
        let extras = 1 + texts;
        self.pictures().embed(&mut plan, x, position(extras), tokens, extras);

        let normed = self.transformer().record(&mut plan, tokens);
        let out = self.pictures().predict_and_smooth(&mut plan, normed, extras, self.conv);
        let ports = vec![
            Port { name: "x", kind: PortKind::Latents, tensor: x },
            Port { name: "timesteps", kind: PortKind::Time, tensor: time },
            Port { name: "context", kind: PortKind::Floats, tensor: context },
            Port { name: "out", kind: PortKind::Output, tensor: out },
        ];
        Ok(Recording { plan, ports, sampled: vec![Sampled { input: x, time, output: out, variance: None }] })
    }

    /// See [`super::Network::inner_blocks`].
    pub fn inner_blocks(&self, outer: usize) -> Option<[String; 2]> {
        self.transformer().inner_blocks(outer)
    }
}
