//! From the text encoder's features to UniDiffuser's text latents, `encode_prefix` of its caption decoder: a Linear, token by
//! token. Follows `libs/caption_decoder.py` of thu-ml/unidiffuser at 845e14f7939fb28a7f8d879ff18b7c9e09c7434b, tensor names
//! included; the caption decoder's other tensors are a network of their own.

use super::transformer::within;
use super::{Batch, Port, PortKind, Recording};
use crate::Result;
use crate::json;
use crate::plan::{Plan, Role};

/// The published constructor's arguments under its names, and the length of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Width of a token of the text encoder.
    pub prefix_dim: usize,
    /// Width of a token of the latents.
    pub hidden_dim: usize,
    /// Tokens of a text.
    pub tokens: usize,
}

json::fields!(Config { prefix_dim, hidden_dim, tokens });

impl Config {
    /// Tokens of a text.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Records one forward for `batch`: ports `prefix_features [items, tokens, prefix_dim]` and `encoded_prefix [items, tokens,
    /// hidden_dim]`.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` for sizes out of range.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        within("prefix_dim", self.prefix_dim, 8192)?;
        within("hidden_dim", self.hidden_dim, 8192)?;
        within("tokens", self.tokens, 4096)?;
        let mut plan = Plan::default();
        let features = plan.tensor("prefix_features", &[batch.items(), self.tokens, self.prefix_dim], Role::Input);
        let encoded = plan.linear("encode_prefix", features, None, self.hidden_dim, true);
        let tensor = &mut plan.tensors[encoded.index()];
        (tensor.name, tensor.role) = ("encoded_prefix".into(), Role::Output);
        let ports = vec![
            Port { name: "prefix_features", kind: PortKind::Floats, tensor: features },
            Port { name: "encoded_prefix", kind: PortKind::Output, tensor: encoded },
        ];
        Ok(Recording { plan, ports, sampled: Vec::new() })
    }
}
