//! CLIP's text encoder (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021).
//! Follows `CLIPTextModel` and `CLIPTextModelWithProjection` of huggingface/transformers
//! 5.23.0 (`models/clip/modeling_clip.py`), tensor names included.

use super::clip::{Act, Layers, output};
use super::transformer::{unsupported, within};
use super::{Batch, Port, PortKind, Recording};
use crate::Result;
use crate::json;
use crate::plan::{Activation, Op, Plan, Position, Role, WeightUse};

/// The published configuration, under its names.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Tokens that there are.
    pub vocab_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Hidden width of the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Tokens of a text.
    pub max_position_embeddings: usize,
    /// `quick_gelu` or `gelu`.
    pub hidden_act: Act,
    /// Of every LayerNorm.
    pub layer_norm_eps: f64,
    /// Width of `text_embeds`; 0: there is no projection.
    pub projection_dim: usize,
}

json::fields!(Config {
    vocab_size,
    hidden_size,
    intermediate_size,
    num_hidden_layers,
    num_attention_heads,
    max_position_embeddings,
    hidden_act = Act(Activation::QuickGelu),
    layer_norm_eps = 1e-5,
    projection_dim = 0,
});

impl Config {
    /// Tokens of a text.
    pub fn tokens(&self) -> usize {
        self.max_position_embeddings
    }

    fn layers(&self) -> Layers {
        Layers {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
            causal: true,
        }
    }

    fn validate(&self) -> Result<()> {
        within("vocab_size", self.vocab_size, 1 << 20)?;
        within("max_position_embeddings", self.max_position_embeddings, 4096)?;
        if self.projection_dim > 4096 {
            return Err(unsupported(format!("projection_dim is {}, not in 0..=4096", self.projection_dim)));
        }
        self.layers().validate()
    }

    /// Records one forward for `batch`: ports `input_ids [items, tokens]`, `last_hidden_state [items, tokens, hidden_size]` and,
    /// with a projection, `text_embeds [items, tokens, projection_dim]`: of every token, of which a text's own is the first
    /// that ends it.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` if the parameters contradict each other.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        self.validate()?;
        let (items, tokens, dim) = (batch.items(), self.tokens(), self.hidden_size);
        let mut plan = Plan::default();
        let index = plan.tensor("input_ids", &[items, tokens], Role::Indices);
        let mut ports =
            vec![Port { name: "input_ids", kind: PortKind::Indices { of: self.vocab_size }, tensor: index }];
        let embeddings = "text_model.embeddings";
        let table =
            plan.weight(format!("{embeddings}.token_embedding.weight"), &[self.vocab_size, dim], WeightUse::Floats);
        let positions =
            plan.weight(format!("{embeddings}.position_embedding.weight"), &[tokens, dim], WeightUse::Floats);
        let words = plan.scratch("", &[items, tokens, dim]);
        let position = Some(Position::plain(positions, 0));
        plan.push(Op::Embedding { table, index: Some(index), position, out: words, at: 0 });
        let layers = self.layers();
        let x = layers.record(&mut plan, "text_model.encoder", words);
        let last = plan.layer_norm("text_model.final_layer_norm", x, layers.eps());
        ports.push(output(&mut plan, "last_hidden_state", last));
        if self.projection_dim > 0 {
            let projected = plan.linear("text_projection", last, None, self.projection_dim, false);
            ports.push(output(&mut plan, "text_embeds", projected));
        }
        Ok(Recording { plan, ports, sampled: Vec::new() })
    }
}
