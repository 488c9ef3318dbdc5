//! Pictures, and how they came about.

use super::{DeviceInfo, pixels};
use crate::plan::Compute;
use crate::sampler::SamplerKind;
use crate::weights::Dtype;
use serde::Serialize;

/// What a loaded model is and runs on.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    /// The model's name.
    pub name: String,
    /// The stored dtype that was loaded.
    pub dtype: Dtype,
    /// The arithmetic.
    pub compute: Compute,
    /// Threads that work on a kernel.
    pub threads: usize,
    /// Bytes of the shards.
    pub bytes: u64,
    /// Numbers of the model.
    pub parameters: u64,
    /// SHA-256 over the shards' hashes.
    pub model_hash: String,
    /// From opening the device to the last shard.
    pub load_ms: f64,
    /// Where it runs.
    #[serde(flatten)]
    pub device: DeviceInfo,
}

/// Pictures and how they came about.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Generated {
    /// `[count, channels, height, width]`, about [-1, 1], not clipped.
    #[serde(skip)]
    pub values: Vec<f32>,
    /// Images.
    pub count: usize,
    /// Of each image.
    pub channels: usize,
    /// Of each image.
    pub height: usize,
    /// Of each image.
    pub width: usize,
    /// The label's number, if the model has labels.
    pub label: Option<u32>,
    /// The label's name, if it has one.
    pub label_name: Option<String>,
    /// As used.
    pub steps: usize,
    /// As used.
    pub guidance_scale: f64,
    /// As used; image k has seed + k.
    pub seed: u32,
    /// As used.
    pub sampler: SamplerKind,
    /// As used.
    pub eta: f64,
    /// As used.
    pub guidance_interval: Option<[f64; 2]>,
    /// As used.
    pub cache: bool,
    /// Workers that shared the items.
    pub workers: usize,
    /// Times.
    pub timings: Timings,
    /// Kernel launches on the GPU, 0 on the CPU.
    pub dispatches: u64,
    /// Multiply-adds of the network, those of helpers aside.
    pub multiply_adds: u64,
    /// The model and its device.
    #[serde(flatten)]
    pub info: Info,
}

/// Milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    /// The whole call.
    pub total_ms: f64,
    /// Each step, first to last.
    pub step_ms: Vec<f64>,
    /// What encoding and submitting to a GPU took of all that, 0 on the CPU.
    pub encode_ms: f64,
}

impl Generated {
    /// Image `k`'s values `[channels, height, width]`.
    pub fn image(&self, k: usize) -> &[f32] {
        let size = self.channels * self.height * self.width;
        &self.values[k * size..(k + 1) * size]
    }

    /// Image `k` as RGBA.
    pub fn rgba(&self, k: usize) -> Vec<u8> {
        pixels::to_rgba(self.image(k), [self.channels, self.height, self.width])
    }
}
