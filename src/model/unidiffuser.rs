//! UniDiffuser's U-ViT, "One Transformer Fits All Distributions in Multi-Modal Diffusion at Scale" (Bao et al., ICML 2023):
//! text, an image's CLIP embedding and its latents are tokens of one post-norm transformer, text and image with a time
//! each. Follows `libs/uvit_multi_post_ln.py` (version 0) and `libs/uvit_multi_post_ln_v1.py` (version 1, with a token for
//! the kind of data) of thu-ml/unidiffuser at 845e14f7939fb28a7f8d879ff18b7c9e09c7434b, tensor names included.

use super::transformer::{Norms, Pictures, Transformer, time_token, unsupported, within};
use super::{Batch, Port, PortKind, Recording, Sampled};
use crate::Result;
use crate::json;
use crate::plan::{Op, Plan, Position, Role, TensorId, WeightUse};

/// Kinds of data that version 1 tells apart.
const DATA_TYPES: usize = 2;

/// The published constructor's arguments, under its names.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// 1: with a token for the kind of data; 0: without.
    pub version: u32,
    /// Height and width of the latent that the positions are made for.
    pub img_size: usize,
    /// Channels of the latent.
    pub in_chans: usize,
    /// Height and width of a patch.
    pub patch_size: usize,
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
    /// Whether the time embeddings go through an MLP each.
    pub mlp_time_embed: bool,
    /// Width of a token of the text.
    pub text_dim: usize,
    /// Tokens of the text.
    pub num_text_tokens: usize,
    /// Width of the image's CLIP embedding.
    pub clip_img_dim: usize,
}

json::fields!(Config {
    version = 1,
    img_size,
    in_chans,
    patch_size,
    embed_dim,
    depth,
    num_heads,
    mlp_ratio,
    qkv_bias,
    mlp_time_embed,
    text_dim,
    num_text_tokens,
    clip_img_dim,
});

impl Config {
    fn pictures(&self, size: usize) -> Pictures {
        let Config { patch_size, in_chans, .. } = *self;
        Pictures { img_size: size, patch_size, in_chans, frames: None }
    }

    fn transformer(&self) -> Transformer {
        let Config { embed_dim, depth, num_heads, mlp_ratio, qkv_bias, .. } = *self;
        Transformer { embed_dim, depth, num_heads, mlp_ratio, qkv_bias, skip: true, norms: Norms::After }
    }

    /// Tokens in front of the text: two times and, in version 1, the kind of data.
    fn leading(&self) -> usize {
        if self.version == 1 { 3 } else { 2 }
    }

    /// All tokens of one item of the published size.
    pub fn tokens(&self) -> usize {
        self.leading() + self.num_text_tokens + 1 + self.pictures(self.img_size).count()
    }

    fn validate(&self, [height, width]: [usize; 2]) -> Result<()> {
        if self.version > 1 {
            return Err(unsupported(format!("version is {}, not 0 or 1", self.version)));
        }
        for size in [self.img_size, height, width] {
            self.pictures(size).validate()?;
        }
        within("text_dim", self.text_dim, 8192)?;
        within("num_text_tokens", self.num_text_tokens, 4096)?;
        within("clip_img_dim", self.clip_img_dim, 8192)?;
        let patches = (height / self.patch_size) * (width / self.patch_size);
        self.transformer().validate(self.leading() + self.num_text_tokens + 1 + patches)
    }

    /// Records one forward for `batch`: ports `img [items, C, H, W]`, `clip_img [items, 1, clip_img_dim]`, `text [items,
    /// num_text_tokens, text_dim]`, their times `t_img` and `t_text` `[items]`, in version 1 `data_type [items]`; `img_out`,
    /// `clip_img_out` and `text_out` in the shapes of what went in. Other sizes than the published one have their positions
    /// interpolated.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` if the parameters contradict each other.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        let [height, width] = batch.size.unwrap_or([self.img_size; 2]);
        self.validate([height, width])?;
        let (items, dim, texts) = (batch.items(), self.embed_dim, self.num_text_tokens);
        let mut plan = Plan::default();
        let img = plan.tensor("img", &[items, self.in_chans, height, width], Role::Input);
        let clip_img = plan.tensor("clip_img", &[items, 1, self.clip_img_dim], Role::Input);
        let text = plan.tensor("text", &[items, texts, self.text_dim], Role::Input);
        let t_img = plan.tensor("t_img", &[items], Role::Input);
        let t_text = plan.tensor("t_text", &[items], Role::Input);
        let data_type = (self.version == 1).then(|| plan.tensor("data_type", &[items], Role::Indices));

        let time_img = time_token(&mut plan, "time_img_embed", t_img, dim, self.mlp_time_embed);
        let time_text = time_token(&mut plan, "time_text_embed", t_text, dim, self.mlp_time_embed);
        let text_tokens = plan.linear("text_embed", text, None, dim, true);
        let clip_token = plan.linear("clip_img_embed", clip_img, None, dim, true);

        // Version 1's table has one row fewer than there are tokens: the kind of data has a table of its own.
        let at_text = self.leading();
        let at_clip = at_text + texts;
        let at_patches = at_clip + 1;
        let own_side = self.img_size / self.patch_size;
        let [rows, columns] = [height / self.patch_size, width / self.patch_size];
        let own_row = usize::from(data_type.is_some());
        let table = plan.weight("pos_embed", &[1, at_patches - own_row + own_side * own_side, dim], WeightUse::Floats);
        let position = |at: usize| Position::plain(table, if at < 2 { at } else { at - own_row });

        let tokens = plan.scratch("tokens", &[items, at_patches + rows * columns, dim]);
        let place = |plan: &mut Plan, x: TensorId, count: usize, at: usize| {
            plan.push(Op::CopyTokens { x, from: 0, count, position: Some(position(at)), out: tokens, at });
        };
        place(&mut plan, time_img, 1, 0);
        place(&mut plan, time_text, 1, 1);
        if let Some(index) = data_type {
            let own = plan.weight("pos_embed_token", &[1, 1, dim], WeightUse::Floats);
            let kinds = plan.weight("token_embedding.weight", &[DATA_TYPES, dim], WeightUse::Floats);
            let position = Some(Position::plain(own, 0));
            plan.push(Op::Embedding { table: kinds, index: Some(index), position, out: tokens, at: 2 });
        }
        place(&mut plan, text_tokens, texts, at_text);
        place(&mut plan, clip_token, 1, at_clip);
        let [from, to] = [[own_side; 2], [rows, columns]];
        let positions = position(at_patches);
        let pictures = self.pictures(self.img_size);
        pictures.embed(&mut plan, img, (from == to).then_some(positions), tokens, at_patches);
        if from != to {
            plan.push(Op::ResizedPositions { position: positions, from, to, out: tokens, at: at_patches });
        }

        let normed = self.transformer().record(&mut plan, tokens);
        let part = |plan: &mut Plan, from: usize, count: usize| {
            let out = plan.scratch("", &[items, count, dim]);
            plan.push(Op::CopyTokens { x: normed, from, count, position: None, out, at: 0 });
            out
        };
        let patches = part(&mut plan, at_patches, rows * columns);
        let img_out = plan.tensor("img_out", &[items, self.in_chans, height, width], Role::Output);
        pictures.predict(&mut plan, patches, 0, img_out);
        let clip_part = part(&mut plan, at_clip, 1);
        let clip_img_out = plan.linear("clip_img_out", clip_part, None, self.clip_img_dim, true);
        let text_part = part(&mut plan, at_text, texts);
        let text_out = plan.linear("text_out", text_part, None, self.text_dim, true);
        for out in [clip_img_out, text_out] {
            plan.tensors[out.index()].role = Role::Output;
        }

        let mut ports = vec![
            Port { name: "img", kind: PortKind::Floats, tensor: img },
            Port { name: "clip_img", kind: PortKind::Floats, tensor: clip_img },
            Port { name: "text", kind: PortKind::Floats, tensor: text },
            Port { name: "t_img", kind: PortKind::Time, tensor: t_img },
            Port { name: "t_text", kind: PortKind::Time, tensor: t_text },
        ];
        let kind = PortKind::Indices { of: DATA_TYPES };
        ports.extend(data_type.map(|tensor| Port { name: "data_type", kind, tensor }));
        for (name, tensor) in [("img_out", img_out), ("clip_img_out", clip_img_out), ("text_out", text_out)] {
            ports.push(Port { name, kind: PortKind::Output, tensor });
        }
        let sampled = vec![
            Sampled { input: img, time: t_img, output: img_out, variance: None },
            Sampled { input: clip_img, time: t_img, output: clip_img_out, variance: None },
            Sampled { input: text, time: t_text, output: text_out, variance: None },
        ];
        Ok(Recording { plan, ports, sampled })
    }

    /// See [`super::Network::inner_blocks`].
    pub fn inner_blocks(&self, outer: usize) -> Option<[String; 2]> {
        self.transformer().inner_blocks(outer)
    }
}
