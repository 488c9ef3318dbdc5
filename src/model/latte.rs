//! Stub.
use super::dit;
use super::{Batch, Recording};
use crate::Result;
use crate::json;

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
    pub num_frames: usize,
    /// Stub.
    pub num_classes: usize,
    /// Stub.
    pub learn_sigma: bool,
    /// Stub.
    pub extras: usize,
}

json::fields!(Config { input_size, patch_size, in_channels, hidden_size, depth, num_heads, mlp_ratio = 4.0, num_frames, num_classes, learn_sigma, extras });

impl Config {
    /// Stub.
    pub fn tokens(&self) -> usize {
        (self.input_size / self.patch_size).pow(2)
    }
    /// Stub.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        let Config { input_size, patch_size, in_channels, hidden_size, depth, num_heads, mlp_ratio, num_classes, learn_sigma, .. } = *self;
        let c = dit::Config { input_size, patch_size, in_channels, hidden_size, depth, num_heads, mlp_ratio, num_classes, learn_sigma };
        let mut recording = c.record(batch)?;
        recording.plan.weights.clear();
        dit::weights(&mut recording.plan, &c, self.num_frames, self.extras == 2);
        Ok(recording)
    }
}
