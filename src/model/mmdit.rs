//! Stub.
use super::{Batch, Port, PortKind, Recording, Sampled};
use crate::Result;
use crate::json;
use crate::plan::{Plan, Role, WeightUse};

/// Stub.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Stub.
    pub sample_size: usize,
    /// Stub.
    pub patch_size: usize,
    /// Stub.
    pub in_channels: usize,
    /// Stub.
    pub num_layers: usize,
    /// Stub.
    pub attention_head_dim: usize,
    /// Stub.
    pub num_attention_heads: usize,
    /// Stub.
    pub joint_attention_dim: usize,
    /// Stub.
    pub caption_projection_dim: usize,
    /// Stub.
    pub pooled_projection_dim: usize,
    /// Stub.
    pub out_channels: usize,
    /// Stub.
    pub pos_embed_max_size: usize,
    /// Stub.
    pub qk_norm: String,
    /// Stub.
    pub dual_attention_layers: Vec<usize>,
}

json::fields!(Config { sample_size, patch_size, in_channels, num_layers, attention_head_dim, num_attention_heads, joint_attention_dim, caption_projection_dim, pooled_projection_dim, out_channels, pos_embed_max_size, qk_norm = String::new(), dual_attention_layers = Vec::new() });

impl Config {
    /// Stub.
    pub fn tokens(&self) -> usize {
        (self.sample_size / self.patch_size).pow(2)
    }

    /// Stub.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        let (d, p, c) = (self.num_attention_heads * self.attention_head_dim, self.patch_size, self.in_channels);
        let mut plan = Plan::default();
        let x = plan.tensor("x", &[batch.images, c, self.sample_size, self.sample_size], Role::Input);
        let time = plan.tensor("timesteps", &[batch.items()], Role::Input);
        let out = plan.tensor("out", &[batch.items(), c, self.sample_size, self.sample_size], Role::Output);
        let mut w = |name: &str, shape: &[usize]| {
            plan.weight(name, shape, WeightUse::Floats);
        };
        let mut linear = |name: &str, o: usize, i: usize| {
            w(&format!("{name}.weight"), &[o, i]);
            w(&format!("{name}.bias"), &[o]);
        };
        linear("time_text_embed.timestep_embedder.linear_1", d, 256);
        linear("time_text_embed.timestep_embedder.linear_2", d, d);
        linear("time_text_embed.text_embedder.linear_1", d, self.pooled_projection_dim);
        linear("time_text_embed.text_embedder.linear_2", d, d);
        linear("context_embedder", d, self.joint_attention_dim);
        for i in 0..self.num_layers {
            let last = i + 1 == self.num_layers;
            let dual = self.dual_attention_layers.contains(&i);
            let b = format!("transformer_blocks.{i}");
            linear(&format!("{b}.norm1.linear"), if dual { 9 } else { 6 } * d, d);
            linear(&format!("{b}.norm1_context.linear"), if last { 2 } else { 6 } * d, d);
            linear(&format!("{b}.attn.to_{{q,k,v}}"), 3 * d, d);
            linear(&format!("{b}.attn.add_{{q,k,v}}_proj"), 3 * d, d);
            linear(&format!("{b}.attn.to_out.0"), d, d);
            linear(&format!("{b}.ff.net.0.proj"), 4 * d, d);
            linear(&format!("{b}.ff.net.2"), d, 4 * d);
            if !last {
                linear(&format!("{b}.attn.to_add_out"), d, d);
                linear(&format!("{b}.ff_context.net.0.proj"), 4 * d, d);
                linear(&format!("{b}.ff_context.net.2"), d, 4 * d);
            }
            if dual {
                linear(&format!("{b}.attn2.to_{{q,k,v}}"), 3 * d, d);
                linear(&format!("{b}.attn2.to_out.0"), d, d);
            }
        }
        linear("norm_out.linear", 2 * d, d);
        linear("proj_out", p * p * self.out_channels, d);
        w("pos_embed.proj.weight", &[d, c, p, p]);
        w("pos_embed.proj.bias", &[d]);
        w("pos_embed.pos_embed", &[1, self.pos_embed_max_size.pow(2), d]);
        if !self.qk_norm.is_empty() {
            for i in 0..self.num_layers {
                for n in ["norm_q", "norm_k", "norm_added_q", "norm_added_k"] {
                    w(&format!("transformer_blocks.{i}.attn.{n}.weight"), &[self.attention_head_dim]);
                }
                if self.dual_attention_layers.contains(&i) {
                    for n in ["norm_q", "norm_k"] {
                        w(&format!("transformer_blocks.{i}.attn2.{n}.weight"), &[self.attention_head_dim]);
                    }
                }
            }
        }
        let ports = vec![
            Port { name: "x", kind: PortKind::Latents, tensor: x },
            Port { name: "timesteps", kind: PortKind::Time, tensor: time },
            Port { name: "out", kind: PortKind::Output, tensor: out },
        ];
        Ok(Recording { plan, ports, sampled: vec![Sampled { input: x, time, output: out, variance: None }] })
    }
}
