//! Checkpoint to manifest and tensors in their stored form; [`super::Writer`] makes files of them.

use super::given;
use super::manifest::{Component, DENOISER, FORMAT_VERSION, Label, Licence, Manifest, Sampling};
use super::positions;
use super::task::Task;
use crate::json::{self, Fields, Read, Value};
use crate::model::{Batch, Network};
use crate::named::Named;
use crate::plan::{Weight, WeightUse};
use crate::weights::checkpoint::Source;
use crate::weights::gptq::{InputFactor, gptq};
use crate::weights::quantize::quantize;
use crate::weights::{Dtype, Entry, Tensor};
use crate::{Code, Error, Result};
use std::collections::BTreeMap;

const REMEDY: &str = "See docs/format.md for what it must hold";

fn bad(file: &str, what: impl std::fmt::Display) -> Error {
    Error::new(Code::InvalidArgument, format!("{file}: {what}"), REMEDY)
}

fn parse(file: &str, text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| bad(file, e))
}

/// A manifest whose denoiser has no variants yet, from `config.json` and, if given, `labels.json` and `licences.json`.
///
/// # Errors
/// `UNSUPPORTED_MODEL`, `INVALID_ARGUMENT` naming what is wrong in which file.
pub fn describe(config: &str, of_labels: Option<&str>, of_licences: Option<&str>) -> Result<Manifest> {
    let params = parse("the configuration", config)?;
    let of_config = |what| bad("the configuration", what);
    let architecture = Fields::of(&params).and_then(|fields| fields.or("architecture", String::from("uvit")));
    let architecture = architecture.map_err(of_config)?;
    let params = positions::kept(&architecture, params);
    let fields = Fields::of(&params).map_err(of_config)?;
    let network = Network::of(&architecture, &params)
        .map_err(|e| Error::new(e.code, format!("the configuration: {}", e.cause), REMEDY))?;
    let components = Named::of(DENOISER, Component::new(&network));
    let mut described = manifest(&fields, Task::Class, components).map_err(of_config)?;
    if let Some(text) = of_labels {
        described.labels = labels(text)?;
    }
    if let Some(text) = of_licences {
        described.licences = licences(text)?;
    }
    given::check(&described)?;
    Ok(described)
}

/// What labels mean, as `labels.json` says it.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn labels(text: &str) -> Result<Vec<Label>> {
    let value = parse("the labels", text)?;
    Fields::of(&value).and_then(|fields| fields.required("labels")).map_err(|what| bad("the labels", what))
}

/// Licences, as `licences.json` lists them.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn licences(text: &str) -> Result<Vec<Licence>> {
    Vec::<Licence>::read(&parse("the licences", text)?).map_err(|what| bad("the licences", what))
}

/// What a configuration or a description says of a model beside its components.
pub(super) fn manifest(fields: &Fields<'_>, task: Task, components: Named<Component>) -> json::Result<Manifest> {
    Ok(Manifest {
        format_version: FORMAT_VERSION,
        name: fields.or("name", String::from("model"))?,
        task,
        sampling: sampling(fields)?,
        null_class: fields.optional("null_class")?,
        labels: fields.value("labels").map_or(Ok(Vec::new()), labels_or_names)?,
        licences: fields.or("licences", Vec::new())?,
        preview: None,
        frame_rate: fields.optional("frame_rate")?.or(fields.optional("fps")?),
        components,
        assets: Named::default(),
    })
}

/// Labels, or their names alone, that of label 0 first.
fn labels_or_names(value: &Value) -> json::Result<Vec<Label>> {
    match Vec::<String>::read(value) {
        Ok(names) => {
            let numbered = names.into_iter().zip(0..);
            Ok(numbered.map(|(name, index)| Label { index, name, facets: json::Map::new() }).collect())
        }
        Err(_) => Read::read(value).map_err(|what| format!("labels: {what}")),
    }
}

/// The schedule and the sampling defaults, which stand beside the network's parameters.
fn sampling(fields: &Fields<'_>) -> json::Result<Sampling> {
    let schedule = fields.required("schedule")?;
    let times = fields.value("schedule").map(Fields::of).transpose()?;
    let time = |name, default| {
        let time = times.as_ref().map_or(Ok(default), |times| times.or(name, default));
        time.map_err(|what| format!("schedule: {what}"))
    };
    let guidance = match ["guidance_scale", "guidance"].map(|name| fields.value(name)) {
        [Some(_), Some(_)] => return Err("guidance is another name of guidance_scale, and both are given".into()),
        [None, Some(_)] => "guidance",
        _ => "guidance_scale",
    };
    Ok(Sampling {
        schedule,
        prediction: fields.required("prediction")?,
        time_scale: fields.required("time_scale")?,
        time_offset: fields.or("time_offset", 0.0)?,
        t_min: time("t_min", 0.001)?,
        t_max: time("t_max", 1.0)?,
        sampler: fields.required("sampler")?,
        grid: fields.optional("grid")?,
        steps: fields.required("steps")?,
        guidance_scale: fields.required(guidance)?,
        guided_channels: fields.optional("guided_channels")?,
        clip_x0: fields.or("clip_x0", false)?,
        lower_order_final: fields.or("lower_order_final", true)?,
        cache: fields.optional("cache")?,
    })
}

/// The layers whose results are the prediction: U-ViT's, what a UniDiffuser has beside it, DiT's and Stable Diffusion 3's.
const LAST: [&str; 5] = ["decoder_pred", "clip_img_out", "text_out", "final_layer.linear", "proj_out."];

/// Bytes of floats that 8-bit variants hold as they are, at most.
const LARGE: usize = 128 << 10;

/// How to store one variant.
#[derive(Clone, Debug)]
pub struct Storing {
    /// Of the matrices.
    pub dtype: Dtype,
    /// Columns a scale; 0: the whole row.
    pub group: usize,
    /// Matrices whose name contains one of these stay q8, in q4 variants.
    pub keep_q8: Vec<String>,
    /// Matrices that [`Storing::compensate`] has rounded, by name.
    compensated: BTreeMap<String, Tensor>,
}

impl Storing {
    /// Plain rounding: q8 with one scale a row, q4 in groups of 32.
    pub fn plain(dtype: Dtype) -> Storing {
        let group = if dtype == Dtype::Q4 { 32 } else { 0 };
        Storing { dtype, group, keep_q8: Vec::new(), compensated: BTreeMap::new() }
    }

    /// What a tensor is stored as, but for its parts. A denoiser's last layers and what is read as floats is sensitive and small: it
    /// stays f32, or f16 in the half- and 4-bit variants, and f16 where it is large, as a vocabulary's table; vectors are always f32.
    pub fn form(&self, weight: &Weight) -> Entry {
        let Weight { name, shape, usage, .. } = weight;
        let is_last = LAST.iter().any(|layer| name.starts_with(layer));
        let (dtype, group) = if *usage != WeightUse::Matrix || is_last {
            let large = 4 * shape.iter().product::<usize>() > LARGE;
            match self.dtype {
                Dtype::F16 | Dtype::Q4 if shape.len() != 1 => (Dtype::F16, 0),
                Dtype::Q8 if large => (Dtype::F16, 0),
                _ => (Dtype::F32, 0),
            }
        } else {
            match self.dtype {
                Dtype::Q4 if self.keep_q8.iter().any(|part| name.contains(part.as_str())) => (Dtype::Q8, 0),
                Dtype::F32 | Dtype::F16 => (self.dtype, 0),
                dtype => (dtype, self.group),
            }
        };
        Entry { shape: shape.clone(), dtype, group, parts: Vec::new() }
    }

    /// Whether a tensor is rounded so coarsely that its error should be compensated.
    pub fn is_coarse(&self, weight: &Weight) -> bool {
        matches!(self.form(weight).dtype, Dtype::Q8 | Dtype::Q4)
    }

    /// Rounds a matrix with error compensation; [`Storing::keep`] takes it. `factor` is that of the inputs that it sees.
    pub fn compensate(&self, weight: &Weight, values: &[f32], factor: &InputFactor) -> Tensor {
        let form = self.form(weight);
        let data = gptq(values, factor, form.dtype, form.group);
        Tensor { name: weight.name.clone(), shape: form.shape, data }
    }

    /// Takes a rounded matrix for the one of its name.
    pub fn keep(&mut self, tensor: Tensor) {
        self.compensated.insert(tensor.name.clone(), tensor);
    }

    /// One tensor in its stored form.
    ///
    /// # Errors
    /// Those of the source; `NOT_FINITE` for a value beyond what f16 holds.
    pub fn tensor(&self, weight: &Weight, form: &Entry, source: &mut dyn Source) -> Result<Tensor> {
        let name = weight.name.as_str();
        if let Some(tensor) = self.compensated.get(name) {
            return Ok(tensor.clone());
        }
        let values = source.weight(weight)?;
        let tensor = quantize(name, &form.shape, &values, form.dtype, form.group);
        match tensor.first_not_finite() {
            None => Ok(tensor),
            Some(i) => Err(Error::new(
                Code::NotFinite,
                format!("tensor {name}: value {i} is too large for {}", self.dtype.as_str()),
                "Store it as f32 or q8",
            )),
        }
    }

    /// What a network's tensors are stored as, by name, in its order.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL`.
    pub fn forms(&self, network: &Network) -> Result<Vec<(String, Entry)>> {
        let plan = network.record(Batch::plain(1))?.plan;
        Ok(plan.published().map(|weight| (weight.name.clone(), self.form(weight))).collect())
    }
}

/// The tensors of a checkpoint (checked before) in one stored form, all of them.
///
/// # Errors
/// `UNSUPPORTED_MODEL`, those of [`Storing::tensor`].
pub fn store(network: &Network, source: &mut dyn Source, storing: &Storing) -> Result<Vec<Tensor>> {
    let plan = network.record(Batch::plain(1))?.plan;
    plan.published().map(|weight| storing.tensor(weight, &storing.form(weight), source)).collect()
}
