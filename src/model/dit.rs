//! Stub.
use super::{Batch, Port, PortKind, Recording, Sampled};
use crate::Result;
use crate::json;
use crate::plan::{Plan, Role, WeightUse};

/// Stub.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Stub.
    pub input_size: usize,
    /// Stub.
    pub patch_size: usize,
    /// Stub.
    pub in_channels: usize,
    /// Stub.
    pub hidden_size: usize,
    /// Stub.
    pub depth: usize,
    /// Stub.
    pub num_heads: usize,
    /// Stub.
    pub mlp_ratio: f64,
    /// Stub.
    pub num_classes: usize,
    /// Stub.
    pub learn_sigma: bool,
}

json::fields!(Config { input_size, patch_size, in_channels, hidden_size, depth, num_heads, mlp_ratio = 4.0, num_classes, learn_sigma });

impl Config {
    /// Stub.
    pub fn tokens(&self) -> usize {
        (self.input_size / self.patch_size).pow(2)
    }

    /// Stub.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        let (d, p, c) = (self.hidden_size, self.patch_size, self.in_channels);
        let mut plan = Plan::default();
        let x = plan.tensor("x", &[batch.images, c, self.input_size, self.input_size], Role::Input);
        let time = plan.tensor("timesteps", &[batch.items()], Role::Input);
        let out = plan.tensor("out", &[batch.items(), c, self.input_size, self.input_size], Role::Output);
        weights(&mut plan, self, 1, true);
        let _ = (d, p);
        let ports = vec![
            Port { name: "x", kind: PortKind::Latents, tensor: x },
            Port { name: "timesteps", kind: PortKind::Time, tensor: time },
            Port { name: "out", kind: PortKind::Output, tensor: out },
        ];
        Ok(Recording { plan, ports, sampled: vec![Sampled { input: x, time, output: out, variance: None }] })
    }
}

/// Stub.
pub fn weights(plan: &mut Plan, c: &Config, frames: usize, classes: bool) {
    let (d, p) = (c.hidden_size, c.patch_size);
    let hidden = (d as f64 * c.mlp_ratio) as usize;
    let out = p * p * c.in_channels * if c.learn_sigma { 2 } else { 1 };
    let mut w = |name: &str, shape: &[usize]| {
        plan.weight(name, shape, WeightUse::Floats);
    };
    let mut linear = |name: &str, o: usize, i: usize| {
        w(&format!("{name}.weight"), &[o, i]);
        w(&format!("{name}.bias"), &[o]);
    };
    linear("t_embedder.mlp.0", d, 256);
    linear("t_embedder.mlp.2", d, d);
    for i in 0..c.depth {
        linear(&format!("blocks.{i}.adaLN_modulation.1"), 6 * d, d);
        linear(&format!("blocks.{i}.attn.qkv"), 3 * d, d);
        linear(&format!("blocks.{i}.attn.proj"), d, d);
        linear(&format!("blocks.{i}.mlp.fc1"), hidden, d);
        linear(&format!("blocks.{i}.mlp.fc2"), d, hidden);
    }
    linear("final_layer.adaLN_modulation.1", 2 * d, d);
    linear("final_layer.linear", out, d);
    w("x_embedder.proj.weight", &[d, c.in_channels, p, p]);
    w("x_embedder.proj.bias", &[d]);
    w("pos_embed", &[1, c.tokens(), d]);
    if frames > 1 {
        w("temp_embed", &[1, frames, d]);
    }
    if classes {
        w("y_embedder.embedding_table.weight", &[c.num_classes + 1, d]);
    }
}
