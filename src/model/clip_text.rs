//! CLIP's text encoder (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021).
//! Follows `CLIPTextModel` and `CLIPTextModelWithProjection` of huggingface/transformers
//! 5.23.0 (`models/clip/modeling_clip.py`), tensor names included. Stable Diffusion 3 reads two of them, each a layer before its
//! last one (`hidden_state`), and their projections.

use super::clip::{Act, Layers, output};
use super::transformer::{unsupported, within};
use super::{Batch, Port, PortKind, Recording};
use crate::Result;
use crate::json;
use crate::plan::{Activation, Op, Plan, Position, Role, WeightUse};

/// What fills a text up to its length, unless [`Config::pad_token`] is another.
const END_OF_TEXT: &str = "<|endoftext|>";

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
    /// Which of the layers' results is given as `hidden_state`, without a norm: -1 the last one's, -2 that before it; 0: none.
    pub hidden_state: i64,
    /// What the tokenizer fills texts up with: `<|endoftext|>`; or `!`, its first symbol, which then is a token of its own wherever it
    /// stands in a text.
    pub pad_token: String,
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
} beside {
    hidden_state = 0,
    pad_token = END_OF_TEXT.to_owned(),
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
        if !(-(self.num_hidden_layers as i64)..=0).contains(&self.hidden_state) {
            let layers = self.num_hidden_layers;
            return Err(unsupported(format!("hidden_state is {}, not in -{layers}..=0", self.hidden_state)));
        }
        if ![END_OF_TEXT, "!"].contains(&self.pad_token.as_str()) {
            return Err(unsupported(format!("pad_token is \"{}\", not \"{END_OF_TEXT}\" or \"!\"", self.pad_token)));
        }
        self.layers().validate()
    }

    /// Records one forward for `batch`: ports `input_ids [items, tokens]`, `last_hidden_state [items, tokens, hidden_size]`, if it
    /// is asked for `hidden_state` of the same shape, and, with a projection, `text_embeds [items, tokens, projection_dim]`: of every token, of which a text's own is the first
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
        if self.hidden_state < 0 {
            let layer = self.num_hidden_layers as i64 + 1 + self.hidden_state;
            let found = plan.find(&format!("hidden_states.{layer}"));
            let hidden = found.ok_or_else(|| crate::Error::internal("a layer has no name"))?;
            ports.push(output(&mut plan, "hidden_state", hidden));
        }
        let last = plan.layer_norm("text_model.final_layer_norm", x, layers.eps());
        ports.push(output(&mut plan, "last_hidden_state", last));
        if self.projection_dim > 0 {
            let projected = plan.linear("text_projection", last, None, self.projection_dim, false);
            ports.push(output(&mut plan, "text_embeds", projected));
        }
        Ok(Recording { plan, ports, sampled: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Read, Write, json};

    #[test]
    fn what_is_not_asked_for_is_not_written() {
        let published = json!({
            "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "max_position_embeddings": 77, "pad_token_id": 1,
        });
        let config = Config::read(&published).unwrap();
        let written = config.write();
        assert!(written["hidden_state"].is_null() && written["pad_token"].is_null(), "{written}");
        assert_eq!(Config::read(&written), Ok(config.clone()));
        let second = Config { hidden_state: -2, pad_token: "!".into(), ..config };
        assert_eq!(second.write()["hidden_state"], json!(-2));
        assert_eq!(Config::read(&second.write()), Ok(second.clone()));
        let ports = |config: &Config| -> Vec<&str> {
            config.record(Batch::plain(1)).unwrap().ports.iter().map(|port| port.name).collect()
        };
        assert_eq!(ports(&second), ["input_ids", "hidden_state", "last_hidden_state"]);
        for wrong in [
            Config { hidden_state: 1, ..second.clone() },
            Config { hidden_state: -13, ..second.clone() },
            Config { pad_token: "?".into(), ..second },
        ] {
            assert!(wrong.record(Batch::plain(1)).is_err(), "{wrong:?}");
        }
    }
}
