//! Checkpoint to manifest and tensors in their stored form; [`super::Writer`] makes files of them.

use super::given;
use super::manifest::{BlockCache, Component, DENOISER, FORMAT_VERSION, Label, Licence, Manifest, Sampling};
use super::named::Named;
use super::task::Task;
use crate::model::{Batch, Network};
use crate::plan::WeightUse;
use crate::sampler::{Prediction, SamplerKind, Schedule};
use crate::weights::checkpoint::Checkpoint;
use crate::weights::quantize::{gptq, quantize};
use crate::weights::{Dtype, Tensor};
use crate::{Code, Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// A model's configuration file beside the network's parameters: the schedule, and sampling defaults.
#[derive(Clone, Debug, Deserialize)]
struct ModelConfig {
    name: Option<String>,
    #[serde(default = "uvit_name")]
    architecture: String,
    schedule: ScheduleConfig,
    prediction: Prediction,
    time_scale: f64,
    null_class: Option<u32>,
    #[serde(default)]
    clip_x0: bool,
    #[serde(default = "yes")]
    lower_order_final: bool,
    sampler: SamplerKind,
    steps: usize,
    #[serde(alias = "guidance")]
    guidance_scale: f64,
    cache: Option<BlockCache>,
}

#[derive(Clone, Debug, Deserialize)]
struct ScheduleConfig {
    #[serde(flatten)]
    schedule: Schedule,
    #[serde(default = "default_t_min")]
    t_min: f64,
    #[serde(default = "one")]
    t_max: f64,
}

fn uvit_name() -> String {
    "uvit".into()
}
fn yes() -> bool {
    true
}
fn default_t_min() -> f64 {
    0.001
}
fn one() -> f64 {
    1.0
}

/// A manifest whose denoiser has no variants yet, from `config.json` and, if given, `labels.json` and `licences.json`.
///
/// # Errors
/// `UNSUPPORTED_MODEL`, `INVALID_ARGUMENT` naming what is wrong in which file.
pub fn describe(config: &str, labels: Option<&str>, licences: Option<&str>) -> Result<Manifest> {
    const REMEDY: &str = "See docs/format.md for what it must hold";
    let bad = |file: &str, e: serde_json::Error| Error::new(Code::InvalidArgument, format!("{file}: {e}"), REMEDY);
    let params: Value = serde_json::from_str(config).map_err(|e| bad("the configuration", e))?;
    let config: ModelConfig = serde_json::from_value(params.clone()).map_err(|e| bad("the configuration", e))?;
    let network = Network::of(&config.architecture, &params)
        .map_err(|e| Error::new(e.code, format!("the configuration: {}", e.cause), REMEDY))?;
    #[derive(Deserialize)]
    struct Labels {
        labels: Vec<Label>,
    }
    let labels = match labels {
        Some(json) => serde_json::from_str::<Labels>(json).map_err(|e| bad("the labels", e))?.labels,
        None => Vec::new(),
    };
    let licences: Vec<Licence> = match licences {
        Some(json) => serde_json::from_str(json).map_err(|e| bad("the licences", e))?,
        None => Vec::new(),
    };
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        name: config.name.unwrap_or_else(|| "model".into()),
        task: Task::Class,
        sampling: Sampling {
            schedule: config.schedule.schedule,
            prediction: config.prediction,
            time_scale: config.time_scale,
            t_min: config.schedule.t_min,
            t_max: config.schedule.t_max,
            sampler: config.sampler,
            steps: config.steps,
            guidance_scale: config.guidance_scale,
            clip_x0: config.clip_x0,
            lower_order_final: config.lower_order_final,
            cache: config.cache,
        },
        null_class: config.null_class,
        labels,
        licences,
        components: Named::of(DENOISER, Component::new(&network)),
        assets: Named::default(),
    };
    given::check(&manifest)?;
    Ok(manifest)
}

/// How to store one variant.
#[derive(Clone, Debug)]
pub struct Storing {
    /// Of the matrices.
    pub dtype: Dtype,
    /// Columns a scale; 0: the whole row.
    pub group: usize,
    /// Matrices whose name contains one of these stay q8, in q4 variants.
    pub keep_q8: Vec<String>,
    /// `X^T X` of the inputs of matrices, by weight name: these are rounded with error compensation.
    pub hessians: BTreeMap<String, Vec<f64>>,
}

impl Storing {
    /// Plain rounding: q8 with one scale a row, q4 in groups of 32.
    pub fn plain(dtype: Dtype) -> Storing {
        let group = if dtype == Dtype::Q4 { 32 } else { 0 };
        Storing { dtype, group, keep_q8: Vec::new(), hessians: BTreeMap::new() }
    }

    /// The stored form of one tensor. `decoder_pred` and what is read as floats is sensitive and small: it stays f32, or
    /// f16 in the half- and 4-bit variants; vectors are always f32.
    fn store(&self, name: &str, usage: WeightUse, shape: &[usize], values: &[f32]) -> Tensor {
        let vector = shape.len() == 1;
        let floats = match self.dtype {
            Dtype::F16 | Dtype::Q4 if !vector => Dtype::F16,
            _ => Dtype::F32,
        };
        if usage != WeightUse::Matrix || name.starts_with("decoder_pred") {
            return quantize(name, shape, values, floats, 0);
        }
        let (dtype, group) = match self.dtype {
            Dtype::Q4 if self.keep_q8.iter().any(|part| name.contains(part.as_str())) => (Dtype::Q8, 0),
            dtype => (dtype, self.group),
        };
        match self.hessians.get(name) {
            Some(hessian) if matches!(dtype, Dtype::Q8 | Dtype::Q4) => {
                let data = gptq(values, shape[0], shape[1], hessian, dtype, group);
                Tensor { name: name.into(), shape: shape.to_vec(), data }
            }
            _ => quantize(name, shape, values, dtype, group),
        }
    }
}

/// The tensors of a checkpoint (checked before) in one stored form.
///
/// # Errors
/// `UNSUPPORTED_MODEL`, `TENSOR_MISSING`, `NOT_FINITE` for a value beyond what f16 holds.
pub fn store(network: &Network, checkpoint: &Checkpoint, storing: &Storing) -> Result<Vec<Tensor>> {
    let plan = network.record(Batch::plain(1))?.plan;
    let mut tensors = Vec::with_capacity(plan.weights.len());
    for weight in plan.published() {
        let (shape, values) = checkpoint.get(&weight.name).ok_or_else(|| {
            Error::new(Code::TensorMissing, format!("tensor {} is missing", weight.name), "Check the checkpoint")
        })?;
        let tensor = storing.store(&weight.name, weight.usage, shape, values);
        if let Some(i) = tensor.first_not_finite() {
            return Err(Error::new(
                Code::NotFinite,
                format!("tensor {}: value {i} is too large for {}", weight.name, storing.dtype.as_str()),
                "Store it as f32 or q8",
            ));
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}
