//! CLIP's image encoder, a vision transformer (Radford et al., "Learning Transferable Visual Models From Natural Language
//! Supervision", 2021). Follows `CLIPVisionModelWithProjection` of huggingface/transformers 5.23.0
//! (`models/clip/modeling_clip.py`), tensor names included, `pre_layrnorm` among them.

use super::clip::{Act, Layers, output};
use super::transformer::{Pictures, within};
use super::{Batch, Port, PortKind, Recording};
use crate::Result;
use crate::json;
use crate::plan::{Activation, Frames, Op, Plan, Position, Role, WeightUse};

/// Channels of a picture.
const CHANNELS: usize = 3;

/// The published configuration, under its names.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Width of a token.
    pub hidden_size: usize,
    /// Hidden width of the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Height and width of a picture.
    pub image_size: usize,
    /// Height and width of a patch.
    pub patch_size: usize,
    /// `quick_gelu` or `gelu`.
    pub hidden_act: Act,
    /// Of every LayerNorm.
    pub layer_norm_eps: f64,
    /// Width of `image_embeds`.
    pub projection_dim: usize,
}

json::fields!(Config {
    hidden_size,
    intermediate_size,
    num_hidden_layers,
    num_attention_heads,
    image_size,
    patch_size,
    hidden_act = Act(Activation::QuickGelu),
    layer_norm_eps = 1e-5,
    projection_dim,
});

impl Config {
    /// Tokens of a picture: the class, then patches.
    pub fn tokens(&self) -> usize {
        1 + (self.image_size / self.patch_size).pow(2)
    }

    fn layers(&self) -> Layers {
        Layers {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
            causal: false,
        }
    }

    fn validate(&self) -> Result<()> {
        let (img_size, patch_size) = (self.image_size, self.patch_size);
        Pictures { img_size, patch_size, in_chans: CHANNELS, frames: None }.validate()?;
        within("the number of tokens", self.tokens(), 1 << 16)?;
        within("projection_dim", self.projection_dim, 4096)?;
        self.layers().validate()
    }

    /// Records one forward for `batch`: ports `pixel_values [items, 3, image_size, image_size]`, `image_embeds [items, 1,
    /// projection_dim]` (of the class token, not normalised) and `last_hidden_state [items, tokens, hidden_size]`, to which no norm
    /// is applied.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` if the parameters contradict each other.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        self.validate()?;
        let (items, tokens, dim, size, p) =
            (batch.items(), self.tokens(), self.hidden_size, self.image_size, self.patch_size);
        let layers = self.layers();
        let mut plan = Plan::default();
        let image = plan.tensor("pixel_values", &[items, CHANNELS, size, size], Role::Input);
        let embeddings = "vision_model.embeddings";
        let class = plan.weight(format!("{embeddings}.class_embedding"), &[dim], WeightUse::Floats);
        let kernel = format!("{embeddings}.patch_embedding.weight");
        let weight = plan.weight(kernel, &[dim, CHANNELS, p, p], WeightUse::PatchKernel);
        let table = plan.weight(format!("{embeddings}.position_embedding.weight"), &[tokens, dim], WeightUse::Floats);
        let position = |at| Some(Position::plain(table, at));
        let embedded = plan.scratch("", &[items, tokens, dim]);
        plan.push(Op::Embedding { table: class, index: None, position: position(0), out: embedded, at: 0 });
        let patches = Op::PatchEmbed {
            image,
            weight,
            bias: None,
            position: position(1),
            patch: p,
            frames: Frames::NONE,
            out: embedded,
            at: 1,
        };
        plan.push(patches);
        let x = plan.layer_norm("vision_model.pre_layrnorm", embedded, layers.eps());
        let last = layers.record(&mut plan, "vision_model.encoder", x);
        let of_class = plan.scratch("", &[items, 1, dim]);
        plan.push(Op::CopyTokens { x: last, from: 0, count: 1, position: None, out: of_class, at: 0 });
        let normed = plan.layer_norm("vision_model.post_layernorm", of_class, layers.eps());
        let embeds = plan.linear("visual_projection", normed, None, self.projection_dim, false);
        let ports = vec![
            Port { name: "pixel_values", kind: PortKind::Floats, tensor: image },
            output(&mut plan, "image_embeds", embeds),
            output(&mut plan, "last_hidden_state", last),
        ];
        Ok(Recording { plan, ports, sampled: Vec::new() })
    }
}
