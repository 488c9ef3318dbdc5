//! U-ViT, "All are Worth Words: A ViT Backbone for Diffusion Models" (Bao et al., CVPR 2023): time, label and image
//! patches are tokens of one transformer with long skip connections. Follows `libs/uvit.py` of baofff/U-ViT at
//! ce551708dc9cde9818d2af7d84dfadfeb7bd9034, tensor names included.

use super::transformer::{Norms, Pictures, Transformer, time_token, unsupported};
use super::{Batch, Port, PortKind, Recording, Sampled};
use crate::Result;
use crate::json;
use crate::plan::{Op, Plan, Position, Role, WeightUse};

/// The published constructor's arguments, under its names.
#[derive(Clone, Debug, PartialEq)]
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
    num_classes,
    conv,
    skip,
});

impl Config {
    /// Tokens in front of the patches: time, and the label if there is one.
    pub fn extras(&self) -> usize {
        if self.num_classes > 0 { 2 } else { 1 }
    }

    /// All tokens of one item.
    pub fn tokens(&self) -> usize {
        self.tokens_of(&self.pictures(None))
    }

    pub(super) fn tokens_of(&self, pictures: &Pictures) -> usize {
        self.extras() + pictures.count()
    }

    pub(super) fn pictures(&self, frames: Option<[usize; 2]>) -> Pictures {
        let Config { img_size, patch_size, in_chans, .. } = *self;
        Pictures { img_size, patch_size, in_chans, frames }
    }

    fn transformer(&self) -> Transformer {
        let Config { embed_dim, depth, num_heads, mlp_ratio, qkv_bias, skip, .. } = *self;
        Transformer { embed_dim, depth, num_heads, mlp_ratio, qkv_bias, skip, norms: Norms::Before }
    }

    fn validate(&self, pictures: &Pictures) -> Result<()> {
        pictures.validate()?;
        if self.num_classes > 1 << 16 {
            return Err(unsupported(format!("num_classes is {}, at most 65536 are supported", self.num_classes)));
        }
        self.transformer().validate(self.tokens_of(pictures))
    }

    /// Records one forward for `batch`: ports `x [images, C, H, W]`, `timesteps [items]`, `y [items]` for networks with
    /// classes, and `out [items, C, H, W]`.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` if the parameters contradict each other or the head dim is no multiple of 4 up to 128.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        self.record_of(&self.pictures(None), batch)
    }

    /// The same of pictures or clips.
    pub(super) fn record_of(&self, pictures: &Pictures, batch: Batch) -> Result<Recording> {
        self.validate(pictures)?;
        let (items, dim, count) = (batch.items(), self.embed_dim, self.tokens_of(pictures));
        let mut plan = Plan::default();
        let x = plan.tensor("x", &pictures.shape(batch.images), Role::Input);
        let time = plan.tensor("timesteps", &[items], Role::Input);
        let label = (self.num_classes > 0).then(|| plan.tensor("y", &[items], Role::Indices));

        let token = time_token(&mut plan, "time_embed", time, dim, self.mlp_time_embed);
        let tokens = plan.scratch("tokens", &[items, count, dim]);
        let table = plan.weight("pos_embed", &[1, count, dim], WeightUse::Floats);
        let position = |at| Some(Position::plain(table, at));
        let classes = self.num_classes.max(0) as usize;
        if let Some(index) = label {
            let table = plan.weight("label_emb.weight", &[classes, dim], WeightUse::Floats);
            plan.push(Op::Embedding { table, index: Some(index), position: position(0), out: tokens, at: 0 });
        }
        let extras = self.extras();
        let at = extras - 1;
        plan.push(Op::CopyTokens { x: token, from: 0, count: 1, position: position(at), out: tokens, at });
        pictures.embed(&mut plan, x, position(extras), tokens, extras);

        let normed = self.transformer().record(&mut plan, tokens);
        let out = pictures.predict_and_smooth(&mut plan, normed, extras, self.conv);
        let mut ports = vec![
            Port { name: "x", kind: PortKind::Latents, tensor: x },
            Port { name: "timesteps", kind: PortKind::Time, tensor: time },
        ];
        let indices = PortKind::Indices { of: classes };
        ports.extend(label.map(|tensor| Port { name: "y", kind: indices, tensor }));
        ports.push(Port { name: "out", kind: PortKind::Output, tensor: out });
        Ok(Recording { plan, ports, sampled: vec![Sampled { input: x, time, output: out, variance: None }] })
    }

    /// See [`super::Network::inner_blocks`].
    pub fn inner_blocks(&self, outer: usize) -> Option<[String; 2]> {
        self.transformer().inner_blocks(outer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_too_large_is_refused_before_anything_is_recorded() {
        let refused = |change: &dyn Fn(&mut Config)| {
            let mut config = Config {
                img_size: 64,
                patch_size: 4,
                in_chans: 4,
                embed_dim: 1152,
                depth: 28,
                num_heads: 16,
                mlp_ratio: 4.0,
                qkv_bias: false,
                mlp_time_embed: false,
                num_classes: 1001,
                conv: false,
                skip: true,
            };
            assert!(config.validate(&config.pictures(None)).is_ok());
            change(&mut config);
            config.record(Batch::plain(1)).unwrap_err().cause.clone()
        };
        let cause = refused(&|c| (c.patch_size, c.img_size, c.in_chans) = (128, 256, 4));
        assert!(cause.contains("a patch has 65536 values"), "{cause}");
        let cause = refused(&|c| c.mlp_ratio = 15.0);
        assert!(cause.contains("makes the MLP 17280 wide"), "{cause}");
        let cause = refused(&|c| (c.embed_dim, c.num_heads, c.depth) = (4096, 32, 128));
        assert!(cause.contains("3.0e10 parameters, at most 8e9"), "{cause}");
        let cause = refused(&|c| c.img_size = 1000);
        assert!(cause.contains("multiply-adds an image, at most 4e13"), "{cause}");
    }
}
