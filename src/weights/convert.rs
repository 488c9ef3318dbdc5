//! Checkpoint to manifest and shards. Everything is written into a temporary folder beside the target, which is renamed
//! at the end: a failure leaves nothing half-written.

use super::checkpoint::Checkpoint;
use super::manifest::{
    Architecture, BlockCache, Dtype, Entry, FORMAT_VERSION, Label, Licence, MAX_SHARD_BYTES, Manifest, Part, Sampling,
    Shard, Variant,
};
use super::quantize::{gptq, quantize};
use super::{Data, Tensor};
use crate::model::{Batch, uvit};
use crate::plan::WeightUse;
use crate::sampler::{Prediction, SamplerKind, Schedule};
use crate::{Code, Error, Result};
use safetensors::tensor::TensorView;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// The largest shard, in bytes.
pub const SHARD_BYTES: usize = MAX_SHARD_BYTES as usize;
/// Bytes of a shard's header for each tensor beside its name (dtype, shape, offsets), and for the whole: rounded up.
const HEADER_BYTES: usize = 160;

/// A model's configuration file: the constructor's arguments, the schedule, and sampling defaults.
#[derive(Clone, Debug, Deserialize)]
struct ModelConfig {
    name: Option<String>,
    #[serde(default = "uvit_name")]
    architecture: String,
    #[serde(flatten)]
    params: uvit::Config,
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

/// A manifest without variants, from `config.json` and, if given, `labels.json` and `licences.json`.
///
/// # Errors
/// `UNSUPPORTED_MODEL`, `INVALID_ARGUMENT` naming what is wrong in which file.
pub fn describe(config: &str, labels: Option<&str>, licences: Option<&str>) -> Result<Manifest> {
    let bad = |file: &str, e: serde_json::Error| {
        Error::new(Code::InvalidArgument, format!("{file}: {e}"), "See docs/format.md for what it must hold")
    };
    let config: ModelConfig = serde_json::from_str(config).map_err(|e| bad("the configuration", e))?;
    if config.architecture != "uvit" {
        let cause = format!("the architecture is {:?}, this build converts \"uvit\"", config.architecture);
        return Err(Error::new(Code::UnsupportedModel, cause, "Check the configuration"));
    }
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
    Ok(Manifest {
        format_version: FORMAT_VERSION,
        name: config.name.unwrap_or_else(|| "model".into()),
        architecture: Architecture::Uvit,
        params: serde_json::json!(config.params),
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
        variants: Vec::new(),
    })
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
pub fn store(manifest: &Manifest, checkpoint: &Checkpoint, storing: &Storing) -> Result<Vec<Tensor>> {
    let plan = manifest.network()?.record(Batch::plain(1))?.plan;
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

/// Writes `manifest.json` and the shards of all variants into the folder `out`; no shard exceeds `shard_bytes` unless one
/// row does.
///
/// # Errors
/// `IO`; `INVALID_ARGUMENT` if `out` exists and is not empty, unless `force` and it is a model's folder (with
/// `manifest.json`, and nothing else but shards).
pub fn write(
    mut manifest: Manifest,
    variants: &[(Storing, Vec<Tensor>)],
    out: &Path,
    shard_bytes: usize,
    force: bool,
) -> Result<Manifest> {
    let refuse = |cause: String, remedy: &str| Err(Error::new(Code::InvalidArgument, cause, remedy));
    let occupied = match contents(out)? {
        Contents::Nothing => false,
        Contents::Model if force => true,
        Contents::Model => {
            return refuse(
                format!("the folder {} holds a model", out.display()),
                "Give another, or --force to replace it",
            );
        }
        Contents::Other(name) => {
            let cause = format!("{} is no folder of a model: it holds {name}", out.display());
            return refuse(cause, "Give a folder that is new or empty");
        }
    };
    let beside = |what: &str| {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        out.with_file_name(format!(".{name}.{}.{what}", std::process::id()))
    };
    let (partial, replaced) = (beside("partial"), beside("replaced"));
    let written = (|| {
        std::fs::create_dir_all(&partial).map_err(|e| io(&partial, &e))?;
        for (storing, tensors) in variants {
            manifest.variants.push(write_variant(storing, tensors, &partial, shard_bytes)?);
        }
        let path = partial.join("manifest.json");
        std::fs::write(&path, manifest.to_json()).map_err(|e| io(&path, &e))?;
        Manifest::parse(&manifest.to_json())?;
        if occupied {
            std::fs::rename(out, &replaced).map_err(|e| io(out, &e))?;
        }
        std::fs::rename(&partial, out).map_err(|e| {
            // The old model goes back to its place.
            let _ = std::fs::rename(&replaced, out);
            io(out, &e)
        })
    })();
    let _ = std::fs::remove_dir_all(if written.is_ok() { &replaced } else { &partial });
    written.map(|()| manifest)
}

/// What a folder that is to be written holds.
enum Contents {
    Nothing,
    Model,
    /// The name of something that no model's folder has.
    Other(String),
}

fn contents(folder: &Path) -> Result<Contents> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Contents::Nothing),
        Err(e) => return Err(io(folder, &e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(|e| io(folder, &e))?.file_name().to_string_lossy().into_owned());
    }
    let other = names.iter().find(|name| *name != "manifest.json" && !name.ends_with(".safetensors"));
    Ok(match other {
        _ if names.is_empty() => Contents::Nothing,
        None if names.iter().any(|name| name == "manifest.json") => Contents::Model,
        None => Contents::Other(names.swap_remove(0)),
        Some(other) => Contents::Other(other.clone()),
    })
}

fn io(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::Io, format!("{}: {error}", path.display()), "Check that the folder can be written")
}

/// Some rows of one tensor, as bytes for a shard: name, dtype, shape, bytes.
type Piece = Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)>;

fn write_variant(storing: &Storing, tensors: &[Tensor], folder: &Path, shard_bytes: usize) -> Result<Variant> {
    let mut variant =
        Variant { dtype: storing.dtype, group: storing.group, bytes: 0, shards: Vec::new(), tensors: BTreeMap::new() };
    let mut shard: Piece = Vec::new();
    let mut filled = HEADER_BYTES;
    for tensor in tensors {
        let rows = tensor.rows();
        let row_bytes = tensor.bytes().div_ceil(rows);
        let header = 2 * (HEADER_BYTES + tensor.name.len());
        let room = shard_bytes.saturating_sub(HEADER_BYTES + header);
        let rows_a_part = (room / row_bytes.max(1)).clamp(1, rows);
        let parts_count = rows.div_ceil(rows_a_part);
        let mut parts = Vec::new();
        for i in 0..parts_count {
            let range = [i * rows_a_part, ((i + 1) * rows_a_part).min(rows)];
            let bytes = header + (range[1] - range[0]) * row_bytes;
            if !shard.is_empty() && filled + bytes > shard_bytes {
                flush(&mut variant, std::mem::take(&mut shard), folder)?;
                filled = HEADER_BYTES;
            }
            let stored = if parts_count == 1 { tensor.name.clone() } else { format!("{}#{i}", tensor.name) };
            shard.extend(piece(tensor, stored, range));
            filled += bytes;
            parts.push(Part { shard: variant.shards.len(), rows: range });
        }
        let (dtype, group) = match &tensor.data {
            Data::F32(_) => (Dtype::F32, 0),
            Data::F16(_) => (Dtype::F16, 0),
            Data::Q8 { group, .. } => (Dtype::Q8, *group),
            Data::Q4 { group, .. } => (Dtype::Q4, *group),
        };
        variant.tensors.insert(tensor.name.clone(), Entry { shape: tensor.shape.clone(), dtype, group, parts });
    }
    flush(&mut variant, shard, folder)?;
    Ok(variant)
}

/// Rows `first..end` of a tensor and its scales.
fn piece(tensor: &Tensor, name: String, [first, end]: [usize; 2]) -> Piece {
    use safetensors::Dtype::{F16, F32, I8, U8};
    let columns = tensor.columns();
    let mut shape = tensor.shape.clone();
    shape[0] = end - first;
    let rows = |a: usize| first * a..end * a;
    let scale = format!("{name}.scale");
    match &tensor.data {
        Data::F32(v) => vec![(name, F32, shape, v[rows(columns)].iter().flat_map(|v| v.to_le_bytes()).collect())],
        Data::F16(v) => vec![(name, F16, shape, v[rows(columns)].iter().flat_map(|v| v.to_le_bytes()).collect())],
        Data::Q8 { values, scales, group } => {
            let groups = if *group == 0 { 1 } else { columns.div_ceil(*group) };
            let scales = scales[rows(groups)].iter().flat_map(|v| v.to_le_bytes()).collect();
            vec![
                (name, I8, shape, values[rows(columns)].iter().map(|&v| v as u8).collect()),
                (scale, F32, vec![end - first, groups], scales),
            ]
        }
        Data::Q4 { values, scales, group } => {
            let (groups, row_bytes) = (columns.div_ceil(*group), columns.div_ceil(2));
            let scales = scales[rows(groups)].iter().flat_map(|v| v.to_le_bytes()).collect();
            vec![
                (name, U8, vec![end - first, row_bytes], values[rows(row_bytes)].to_vec()),
                (scale, F16, vec![end - first, groups], scales),
            ]
        }
    }
}

fn flush(variant: &mut Variant, shard: Piece, folder: &Path) -> Result<()> {
    let broken = |e: safetensors::SafeTensorError| Error::internal(format!("a shard could not be written: {e}"));
    let mut views = BTreeMap::new();
    for (name, dtype, shape, bytes) in &shard {
        views.insert(name.clone(), TensorView::new(*dtype, shape.clone(), bytes).map_err(broken)?);
    }
    let bytes = safetensors::serialize(views, None).map_err(broken)?;
    let file = format!("{}-{:05}.safetensors", variant.dtype.as_str(), variant.shards.len() + 1);
    let path = folder.join(&file);
    std::fs::write(&path, &bytes).map_err(|e| io(&path, &e))?;
    let sha256 = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    variant.bytes += bytes.len() as u64;
    variant.shards.push(Shard { file, bytes: bytes.len() as u64, sha256 });
    Ok(())
}
