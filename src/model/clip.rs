//! What CLIP's two encoders share (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
//! 2021): layers with norms in front. Follows `CLIPEncoder` of huggingface/transformers 5.23.0
//! (`models/clip/modeling_clip.py`), tensor names included.

use super::transformer::{unsupported, within};
use super::{Port, PortKind};
use crate::decimal::decimal;
use crate::json;
use crate::plan::{Activation, Groups, Op, Plan, Precision, Role, TensorId};
use crate::{Error, Result};

/// An activation by its name in transformers' configurations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// The sizes of an encoder's layers.
pub(super) struct Layers {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub hidden_act: Act,
    pub layer_norm_eps: f64,
    /// Whether a token attends only to itself and those before it.
    pub causal: bool,
}

impl Layers {
    /// Far beyond any published model, and small enough to be recorded and tested before anybody knows whether the weights exist.
    pub fn validate(&self) -> Result<()> {
        within("hidden_size", self.hidden_size, 4096)?;
        within("intermediate_size", self.intermediate_size, 16384)?;
        within("num_hidden_layers", self.num_hidden_layers, 64)?;
        within("num_attention_heads", self.num_attention_heads, 1024)?;
        let Layers { hidden_size, num_attention_heads, layer_norm_eps, .. } = self;
        let whole = hidden_size.is_multiple_of(4) && hidden_size.is_multiple_of(*num_attention_heads);
        if !whole || hidden_size / num_attention_heads > 128 {
            let cause = format!(
                "{hidden_size} channels in {num_attention_heads} heads are no multiple of 4, or not 1 to 128 a head"
            );
            return Err(unsupported(cause));
        }
        if !(*layer_norm_eps > 0.0 && *layer_norm_eps < 1.0) {
            return Err(unsupported(format!("layer_norm_eps is {}", decimal(*layer_norm_eps))));
        }
        Ok(())
    }

    /// Of every LayerNorm.
    pub fn eps(&self) -> f32 {
        self.layer_norm_eps as f32
    }

    /// Records all layers under `name` over the tokens `x`, which are `hidden_states.0`; returns those of the last one, no norm
    /// applied.
    pub fn record(&self, plan: &mut Plan, name: &str, mut x: TensorId) -> TensorId {
        for i in 0..self.num_hidden_layers {
            plan.tensors[x.index()].name = format!("hidden_states.{i}");
            x = self.layer(plan, &format!("{name}.layers.{i}"), x);
        }
        plan.tensors[x.index()].name = format!("hidden_states.{}", self.num_hidden_layers);
        x
    }

    fn layer(&self, plan: &mut Plan, name: &str, mut x: TensorId) -> TensorId {
        let (dim, shape) = (self.hidden_size, plan.shape(x).to_vec());
        let normed = plan.layer_norm(&format!("{name}.layer_norm1"), x, self.eps());
        let qkv = plan.linear(&format!("{name}.self_attn.{{q,k,v}}_proj"), normed, None, 3 * dim, true);
        let attended = plan.scratch("", &shape);
        plan.push(Op::Attention {
            qkv,
            heads: self.num_attention_heads,
            causal: self.causal,
            groups: Groups::Item,
            out: attended,
        });
        let projected = plan.linear(&format!("{name}.self_attn.out_proj"), attended, None, dim, true);
        x = plan.add("", x, projected);
        let normed = plan.layer_norm(&format!("{name}.layer_norm2"), x, self.eps());
        let up = plan.linear(&format!("{name}.mlp.fc1"), normed, None, self.intermediate_size, true);
        let activated = plan.activate("", self.hidden_act.0, up);
        let down = plan.linear(&format!("{name}.mlp.fc2"), activated, None, dim, true);
        // docs/arithmetic.md has the measurements.
        for layer in ["self_attn.{q,k,v}_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"] {
            plan.allow(&format!("{name}.{layer}"), Precision::Narrow);
        }
        plan.add("", x, down)
    }
}

/// Makes a tensor a port that comes out under its name.
pub(super) fn output(plan: &mut Plan, name: &'static str, id: TensorId) -> Port {
    let tensor = &mut plan.tensors[id.index()];
    (tensor.name, tensor.role) = (name.into(), Role::Output);
    Port { name, kind: PortKind::Output, tensor: id }
}
