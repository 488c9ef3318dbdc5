//! `manifest.json`: what a model is and where its tensors lie. One manifest describes one model in one or several
//! stored variants; its shards are safetensors files beside it.

use crate::model::Network;
use crate::sampler::{Prediction, SamplerKind, SamplerSettings, Schedule, recipe};
use crate::{Code, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The format version that this build reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// The largest shard, in bytes, header included.
pub const MAX_SHARD_BYTES: u64 = 32 << 20;

/// A model: architecture, how to sample it, labels, licences, and its stored variants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// A short name for people.
    pub name: String,
    /// The network.
    pub architecture: Architecture,
    /// Its constructor's arguments.
    pub params: Value,
    /// How to sample.
    pub sampling: Sampling,
    /// The unconditional label, for guidance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null_class: Option<u32>,
    /// What the labels mean.
    #[serde(default)]
    pub labels: Vec<Label>,
    /// Licences of the weights and of what they learned from.
    #[serde(default)]
    pub licences: Vec<Licence>,
    /// The stored forms, the default one first.
    pub variants: Vec<Variant>,
}

/// Networks by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// U-ViT, with the parameters of [`crate::model::uvit::Config`].
    Uvit,
}

/// The noise schedule that the model was trained on, and the settings that it is best sampled with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Noise schedule.
    pub schedule: Schedule,
    /// What the network's output means.
    pub prediction: Prediction,
    /// The network is handed this times t.
    pub time_scale: f64,
    /// Where sampling ends.
    pub t_min: f64,
    /// Where sampling starts.
    pub t_max: f64,
    /// Default sampler.
    pub sampler: SamplerKind,
    /// Default number of steps.
    pub steps: usize,
    /// Default guidance scale, `uncond + s (cond - uncond)`.
    pub guidance_scale: f64,
    /// Whether x0 estimates are clipped to [-1, 1].
    pub clip_x0: bool,
    /// Whether the last step of multistep solvers is of order 1.
    pub lower_order_final: bool,
    /// Where inner blocks may be left out, if that was calibrated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<BlockCache>,
}

/// Steps that need not run all blocks: what lies between the outer ones changes little from one step to the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockCache {
    /// Blocks at either end that every step runs.
    pub outer: usize,
    /// The number of steps that it was calibrated for.
    pub steps: usize,
    /// Those of them that run all blocks, counted from 0, ascending, 0 first.
    pub refresh: Vec<usize>,
}

impl BlockCache {
    /// Whether step `i` of `steps` runs all blocks. Of fewer steps than it was calibrated for the same share does, of more
    /// the steps at the same times.
    pub fn refreshes(&self, i: usize, steps: usize) -> bool {
        let (own, all) = (self.steps.max(1), self.refresh.len());
        let count = (all * steps).div_ceil(own).min(all);
        let mut next = 0;
        (0..count).any(|k| {
            let step = next.max(self.refresh[k * all / count] * steps / own);
            next = step + 1;
            step == i
        })
    }

    fn check(&self) -> std::result::Result<(), String> {
        let BlockCache { steps, refresh, .. } = self;
        let ends = (refresh.first(), refresh.last().is_some_and(|last| last < steps));
        match refresh.is_sorted() && ends == (Some(&0), true) {
            true => Ok(()),
            false => Err(format!("sampling: cache.refresh is {refresh:?}, not ascending from 0 to below {steps}")),
        }
    }
}

/// What one label means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Label {
    /// The number that the network is given.
    pub index: u32,
    /// Unique.
    pub name: String,
    /// Anything else that a page may want to group by, e.g. `kind`, `style`.
    #[serde(flatten)]
    pub facets: Map<String, Value>,
}

impl TryFrom<Map<String, Value>> for Label {
    type Error = String;

    fn try_from(mut fields: Map<String, Value>) -> std::result::Result<Label, String> {
        let index = fields.remove("index").and_then(|index| u32::try_from(index.as_u64()?).ok());
        let index = index.ok_or("a label has no index")?;
        if let Some((name, value)) = fields.iter().find(|(_, value)| !value.is_string()) {
            return Err(format!("label {index}: {name} is {value}, no text"));
        }
        match fields.remove("name") {
            Some(Value::String(name)) => Ok(Label { index, name, facets: fields }),
            _ => Err(format!("label {index} has no name")),
        }
    }
}

/// A licence of the weights or of what they learned from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Licence {
    /// What it covers.
    pub name: String,
    /// SPDX identifier.
    pub spdx: String,
    /// Whom to credit, and for what.
    pub attribution: String,
}

/// Stored dtypes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// int8 with scales.
    Q8,
    /// int4 with scales.
    Q4,
}

impl Dtype {
    /// All of them.
    pub const ALL: [Dtype; 4] = [Dtype::F32, Dtype::F16, Dtype::Q8, Dtype::Q4];

    /// The name in manifests, options and file names.
    pub fn as_str(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Q8 => "q8",
            Dtype::Q4 => "q4",
        }
    }
}

impl std::str::FromStr for Dtype {
    type Err = Error;

    fn from_str(name: &str) -> Result<Dtype> {
        Dtype::ALL.into_iter().find(|d| d.as_str() == name).ok_or_else(|| {
            Error::new(Code::InvalidArgument, format!("there is no dtype {name:?}"), "Give one of f32, f16, q8, q4")
        })
    }
}

/// One stored form of all tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// The dtype of its matrices.
    pub dtype: Dtype,
    /// Columns a scale of its matrices; 0: the whole row.
    #[serde(default)]
    pub group: usize,
    /// Sum of the shards' bytes.
    pub bytes: u64,
    /// The files.
    pub shards: Vec<Shard>,
    /// All tensors of the network by name.
    pub tensors: BTreeMap<String, Entry>,
}

/// A safetensors file beside the manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shard {
    /// A plain file name.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

/// How a tensor is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The published shape.
    pub shape: Vec<usize>,
    /// Stored dtype.
    pub dtype: Dtype,
    /// q8 and q4: columns a scale; 0: the whole row.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub group: usize,
    /// Where its rows lie, in order and without gaps. In a shard, part i of a tensor in several parts is named `name#i`.
    pub parts: Vec<Part>,
}

fn bad(cause: String) -> Error {
    Error::new(Code::BadManifest, cause, "Convert the model again with `uvit convert`")
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Some rows of a tensor in one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Position in [`Variant::shards`].
    pub shard: usize,
    /// First row and one past the last.
    pub rows: [usize; 2],
}

impl Manifest {
    /// Parses and checks a manifest.
    ///
    /// # Errors
    /// `UNSUPPORTED_VERSION`, `UNSUPPORTED_MODEL` for an unknown architecture, `BAD_MANIFEST` naming what is wrong.
    pub fn parse(json: &str) -> Result<Manifest> {
        let value: Value = serde_json::from_str(json).map_err(|e| bad(format!("the manifest is no JSON ({e})")))?;
        match value.get("format_version").and_then(Value::as_u64) {
            Some(version) if version == u64::from(FORMAT_VERSION) => {}
            Some(version) => {
                return Err(Error::new(
                    Code::UnsupportedVersion,
                    format!("the manifest has format version {version}, this build reads {FORMAT_VERSION}"),
                    "Use the version of uvit-web that wrote it, or convert the model again",
                ));
            }
            None => return Err(bad("the manifest has no format_version".into())),
        }
        match value.get("architecture").and_then(Value::as_str) {
            Some("uvit") => {}
            other => {
                return Err(Error::new(
                    Code::UnsupportedModel,
                    format!("the architecture is {}, this build runs \"uvit\"", other.unwrap_or("missing")),
                    "Use a version of uvit-web that knows this architecture",
                ));
            }
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(|e| bad(format!("the manifest: {e}")))?;
        manifest.check(manifest.network()?.classes()).map_err(bad)?;
        Ok(manifest)
    }

    /// The network.
    ///
    /// # Errors
    /// `BAD_MANIFEST` if a parameter is missing or of another type.
    pub fn network(&self) -> Result<Network> {
        let Architecture::Uvit = self.architecture;
        serde_json::from_value(self.params.clone())
            .map(Network::Uvit)
            .map_err(|e| bad(format!("the manifest's params: {e}")))
    }

    /// The manifest as JSON, indented.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// What contradicts itself, or the network's number of classes.
    fn check(&self, classes: usize) -> std::result::Result<(), String> {
        let mut names = BTreeSet::new();
        for label in &self.labels {
            if label.index as usize >= classes {
                return Err(format!("label {:?} has index {}, the network has {classes}", label.name, label.index));
            }
            if !names.insert(label.name.as_str()) {
                return Err(format!("two labels are called {:?}", label.name));
            }
        }
        if self.null_class.is_some_and(|null| null as usize >= classes) {
            return Err(format!("null_class is {:?}, the network has {classes} classes", self.null_class));
        }
        self.sampling.check()?;
        if self.variants.is_empty() {
            return Err("the manifest has no variants".into());
        }
        for (i, variant) in self.variants.iter().enumerate() {
            let dtype = variant.dtype.as_str();
            if self.variants[..i].iter().any(|other| other.dtype == variant.dtype) {
                return Err(format!("{dtype}: two variants have this dtype"));
            }
            variant.check().map_err(|what| format!("{dtype}: {what}"))?;
        }
        Ok(())
    }

    /// The variant of a dtype, or the default one.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming those that exist.
    pub fn variant(&self, dtype: Option<Dtype>) -> Result<&Variant> {
        let found = match dtype {
            None => self.variants.first(),
            Some(dtype) => self.variants.iter().find(|v| v.dtype == dtype),
        };
        found.ok_or_else(|| {
            let known: Vec<&str> = self.variants.iter().map(|v| v.dtype.as_str()).collect();
            Error::new(
                Code::InvalidArgument,
                format!("the model is not stored as {}", dtype.map_or("anything", Dtype::as_str)),
                format!("Give one of {}", known.join(", ")),
            )
        })
    }
}

impl Sampling {
    /// The settings that the model is best sampled with.
    pub fn settings(&self) -> SamplerSettings {
        SamplerSettings {
            sampler: self.sampler,
            steps: self.steps,
            schedule: self.schedule,
            prediction: self.prediction,
            time_scale: self.time_scale,
            clip_x0: self.clip_x0,
            lower_order_final: self.lower_order_final,
            t_min: self.t_min,
            t_max: self.t_max,
            eta: 0.0,
        }
    }

    /// What is wrong with them, if anything is.
    pub fn check(&self) -> std::result::Result<(), String> {
        recipe(&self.settings()).map_err(|error| format!("sampling: {}", error.cause))?;
        if !self.guidance_scale.is_finite() {
            return Err(format!("sampling: guidance_scale is {}", self.guidance_scale));
        }
        self.cache.as_ref().map_or(Ok(()), BlockCache::check)
    }
}

impl Variant {
    fn check(&self) -> std::result::Result<(), String> {
        let mut files = BTreeSet::new();
        for Shard { file, bytes, sha256 } in &self.shards {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if file.is_empty() || file.starts_with('.') || !file.chars().all(plain) {
                return Err(format!("the shard name {file:?} is no plain file name"));
            }
            if !files.insert(file.as_str()) {
                return Err(format!("shard {file} is listed twice"));
            }
            if *bytes > MAX_SHARD_BYTES {
                return Err(format!("shard {file} has {bytes} bytes, at most {MAX_SHARD_BYTES} are allowed"));
            }
            if sha256.len() != 64 || !sha256.chars().all(|c| c.is_ascii_hexdigit()) {
                return Err(format!("the SHA-256 of shard {file} is no hexadecimal number of 64 digits"));
            }
        }
        let sum: u64 = self.shards.iter().map(|shard| shard.bytes).sum();
        if sum != self.bytes {
            return Err(format!("its shards have {sum} bytes in all, it says {}", self.bytes));
        }
        for (name, entry) in &self.tensors {
            entry.check(self.shards.len()).map_err(|what| format!("tensor {name}: {what}"))?;
        }
        Ok(())
    }
}

impl Entry {
    /// What part `i` of the tensor is called in its shard.
    pub fn stored_name(&self, name: &str, i: usize) -> String {
        if self.parts.len() == 1 { name.into() } else { format!("{name}#{i}") }
    }

    /// Bytes of one row as stored, its scales included.
    pub fn row_bytes(&self) -> u64 {
        let columns = self.shape.iter().skip(1).map(|&d| d as u64).product::<u64>();
        let groups = if self.group == 0 { 1 } else { columns.div_ceil(self.group as u64) };
        match self.dtype {
            Dtype::F32 => 4 * columns,
            Dtype::F16 => 2 * columns,
            Dtype::Q8 => columns + 4 * groups,
            Dtype::Q4 => columns.div_ceil(2) + 2 * groups,
        }
    }

    /// Bytes as stored, scales included.
    pub fn bytes(&self) -> u64 {
        self.row_bytes() * self.shape.first().map_or(1, |&rows| rows as u64)
    }

    fn check(&self, shards: usize) -> std::result::Result<(), String> {
        let elements = self.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        if self.shape.is_empty() || elements.is_none_or(|n| n == 0 || n > 1 << 30) {
            return Err(format!("the shape {:?} is empty or too large", self.shape));
        }
        let matrix = matches!(self.dtype, Dtype::Q8 | Dtype::Q4);
        if matrix && self.shape.len() != 2 {
            return Err(format!("a quantised tensor has two axes, not {:?}", self.shape));
        }
        if !self.group.is_multiple_of(4) || (self.dtype == Dtype::Q4 && self.group == 0) || (!matrix && self.group != 0)
        {
            return Err(format!("group {} does not fit {}", self.group, self.dtype.as_str()));
        }
        let mut next = 0;
        for part in &self.parts {
            if part.shard >= shards {
                return Err(format!("there is no shard {}", part.shard));
            }
            if part.rows[0] != next || part.rows[1] <= part.rows[0] {
                return Err(format!("rows {:?} do not continue at {next}", part.rows));
            }
            next = part.rows[1];
        }
        if next != self.shape[0] {
            return Err(format!("its parts hold {next} rows of {}", self.shape[0]));
        }
        Ok(())
    }
}
