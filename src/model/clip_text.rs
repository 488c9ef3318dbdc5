//! CLIP's text encoder (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021).
//! Follows `CLIPTextModel` and `CLIPTextModelWithProjection` of huggingface/transformers
//! 5.23.0 (`models/clip/modeling_clip.py`), tensor names included.

use super::transformer::{unsupported, within};
use super::{Batch, Port, PortKind, Recording};
use crate::decimal::decimal;
use crate::json;
use crate::plan::{Activation, Op, Plan, Position, Precision, Role, TensorId, WeightUse};
use crate::{Error, Result};

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

/// An activation by its name in transformers' configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act(pub Activation);

const ACTS: [(&str, Activation); 3] =
    [("quick_gelu", Activation::QuickGelu), ("gelu", Activation::Gelu), ("gelu_new", Activation::GeluTanh)];

impl std::str::FromStr for Act {
    type Err = Error;

    fn from_str(name: &str) -> Result<Act> {
        let known = ACTS.iter().find(|(known, _)| *known == name);
        known
            .map(|&(_, activation)| Act(activation))
            .ok_or_else(|| unsupported(format!("there is no activation \"{name}\"")))
    }
}

impl json::Read for Act {
    fn read(value: &json::Value) -> json::Result<Act> {
        json::named(value)
    }
}

impl From<Act> for json::Value {
    fn from(act: Act) -> json::Value {
        ACTS.iter().find(|(_, activation)| *activation == act.0).map(|(name, _)| *name).into()
    }
}

impl Config {
    /// Tokens of a text.
    pub fn tokens(&self) -> usize {
        self.max_position_embeddings
    }

    fn validate(&self) -> Result<()> {
        within("vocab_size", self.vocab_size, 1 << 20)?;
        within("hidden_size", self.hidden_size, 4096)?;
        within("intermediate_size", self.intermediate_size, 16384)?;
        within("num_hidden_layers", self.num_hidden_layers, 64)?;
        within("num_attention_heads", self.num_attention_heads, 1024)?;
        within("max_position_embeddings", self.max_position_embeddings, 4096)?;
        let Config { hidden_size, num_attention_heads, projection_dim, layer_norm_eps, .. } = self;
        if !hidden_size.is_multiple_of(4 * num_attention_heads) || hidden_size / num_attention_heads > 128 {
            let cause =
                format!("{hidden_size} channels in {num_attention_heads} heads are not 4 to 128 each, by fours");
            return Err(unsupported(cause));
        }
        if *projection_dim > 4096 {
            return Err(unsupported(format!("projection_dim is {projection_dim}, not in 0..=4096")));
        }
        if !(*layer_norm_eps > 0.0 && *layer_norm_eps < 1.0) {
            return Err(unsupported(format!("layer_norm_eps is {}", decimal(*layer_norm_eps))));
        }
        Ok(())
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
        let mut x = plan.scratch("hidden_states.0", &[items, tokens, dim]);
        plan.push(Op::Embedding { table, index, position: Some(Position { table: positions, at: 0 }), out: x, at: 0 });
        for i in 0..self.num_hidden_layers {
            x = self.layer(&mut plan, &format!("text_model.encoder.layers.{i}"), x);
            plan.tensors[x.index()].name = format!("hidden_states.{}", i + 1);
        }
        let last = plan.layer_norm("text_model.final_layer_norm", x, self.layer_norm_eps as f32);
        let mut output = |plan: &mut Plan, name: &'static str, id: TensorId| {
            let tensor = &mut plan.tensors[id.index()];
            (tensor.name, tensor.role) = (name.into(), Role::Output);
            ports.push(Port { name, kind: PortKind::Output, tensor: id });
        };
        output(&mut plan, "last_hidden_state", last);
        if self.projection_dim > 0 {
            let projected = plan.linear("text_projection", last, None, self.projection_dim, false);
            output(&mut plan, "text_embeds", projected);
        }
        Ok(Recording { plan, ports, sampled: Vec::new() })
    }

    fn layer(&self, plan: &mut Plan, name: &str, mut x: TensorId) -> TensorId {
        let (dim, eps, shape) = (self.hidden_size, self.layer_norm_eps as f32, plan.shape(x).to_vec());
        let normed = plan.layer_norm(&format!("{name}.layer_norm1"), x, eps);
        let qkv = plan.linear(&format!("{name}.self_attn.{{q,k,v}}_proj"), normed, None, 3 * dim, true);
        let attended = plan.scratch("", &shape);
        plan.push(Op::Attention { qkv, heads: self.num_attention_heads, causal: true, out: attended });
        let projected = plan.linear(&format!("{name}.self_attn.out_proj"), attended, None, dim, true);
        x = plan.add("", x, projected);
        let normed = plan.layer_norm(&format!("{name}.layer_norm2"), x, eps);
        let up = plan.linear(&format!("{name}.mlp.fc1"), normed, None, self.intermediate_size, true);
        let activated = plan.scratch("", &[shape[0], shape[1], self.intermediate_size]);
        plan.push(Op::Activate { activation: self.hidden_act.0, x: up, out: activated });
        let down = plan.linear(&format!("{name}.mlp.fc2"), activated, None, dim, true);
        // docs/arithmetic.md has the measurements.
        for layer in ["self_attn.{q,k,v}_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"] {
            plan.allow(&format!("{name}.{layer}"), Precision::Narrow);
        }
        plan.add("", x, down)
    }
}
