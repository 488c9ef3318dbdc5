//! Published checkpoints: `.safetensors`, and `.pth` (a zip with a pickle) through candle's reader, which interprets the
//! few opcodes that tensors need and never runs what a pickle names.

use super::load::check_names;
use crate::model::{Batch, Network};
use crate::{Code, Error, Result};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::Path;

/// The tensors of a checkpoint, by name: shape and values.
pub type Checkpoint = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Reads a checkpoint by its ending, `.safetensors` or `.pth` / `.pt` / `.bin`.
///
/// # Errors
/// `IO`, `BAD_CHECKPOINT`.
pub fn read(path: &Path) -> Result<Checkpoint> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => read_safetensors(path),
        Some("pth" | "pt" | "bin" | "ckpt") => read_pickle(path),
        _ => Err(bad(path, "the ending is neither .safetensors nor .pth")),
    }
}

/// Checks that a checkpoint holds the network's tensors, all of them, no others, in their shapes, and finite.
///
/// # Errors
/// `TENSOR_MISSING`, `TENSOR_UNEXPECTED`, `TENSOR_SHAPE`, `NOT_FINITE` naming the value.
pub fn check(checkpoint: &Checkpoint, network: &Network) -> Result<()> {
    let plan = network.record(Batch::plain(1))?.plan;
    check_names(
        plan.published().map(|w| (w.name.as_str(), w.shape.as_slice())),
        checkpoint.iter().map(|(name, (shape, _))| (name.as_str(), shape.as_slice())),
    )?;
    for (name, (_, values)) in checkpoint {
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::new(
                Code::NotFinite,
                format!("tensor {name}: value {i} is {}", values[i]),
                "Use a checkpoint from before the training broke down",
            ));
        }
    }
    Ok(())
}

fn bad(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(
        Code::BadCheckpoint,
        format!("{}: {what}", path.display()),
        "Give a PyTorch state_dict (.pth) or a .safetensors file",
    )
}

fn io(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::Io, format!("{}: {error}", path.display()), "Check that the file exists and can be read")
}

fn read_safetensors(path: &Path) -> Result<Checkpoint> {
    let bytes = std::fs::read(path).map_err(|e| io(path, &e))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(path, e))?;
    let mut tensors = Checkpoint::new();
    for (name, view) in file.tensors() {
        let data = view.data();
        let values: Vec<f32> = match view.dtype() {
            Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => data.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => data.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            other => return Err(bad(path, format!("tensor {name} is {other:?}, not a float"))),
        };
        tensors.insert(name, (view.shape().to_vec(), values));
    }
    Ok(tensors)
}

#[cfg(not(feature = "cli"))]
fn read_pickle(path: &Path) -> Result<Checkpoint> {
    Err(bad(path, "this build does not read .pth files; build with the feature \"cli\""))
}

#[cfg(feature = "cli")]
fn read_pickle(path: &Path) -> Result<Checkpoint> {
    // The reader trusts the pickle's structure in places and panics on some broken files.
    std::panic::catch_unwind(|| read_state_dict(path))
        .unwrap_or_else(|_| Err(bad(path, "its pickle is broken, or is no state_dict")))
}

#[cfg(feature = "cli")]
fn read_state_dict(path: &Path) -> Result<Checkpoint> {
    use candle_core::{DType, pickle};
    let fail = |e: candle_core::Error| bad(path, e);
    let file_bytes = std::fs::metadata(path).map_err(|e| io(path, &e))?.len();
    // A bare state_dict, or one inside a training checkpoint.
    let mut file = pickle::PthTensors::new(path, None).map_err(fail)?;
    for key in ["state_dict", "model", "nnet_ema", "ema"] {
        if !file.tensor_infos().is_empty() {
            break;
        }
        if let Ok(inner) = pickle::PthTensors::new(path, Some(key)) {
            file = inner;
        }
    }
    let mut tensors = Checkpoint::new();
    for (name, info) in file.tensor_infos() {
        if info.layout.start_offset() != 0 || !info.layout.is_contiguous() {
            return Err(bad(
                path,
                format!("tensor {name} is a view into another; save contiguous clones of the tensors"),
            ));
        }
        // The reader allocates what the pickle claims; PyTorch stores without compression, so the file bounds it.
        let elements = info.layout.dims().iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        let bytes = elements.and_then(|n| n.checked_mul(info.dtype.size_in_bytes() as u64));
        if bytes.is_none_or(|bytes| bytes > file_bytes) {
            return Err(bad(path, format!("tensor {name} {:?} is larger than the file", info.layout.dims())));
        }
        let tensor = file.get(name).map_err(fail)?.ok_or_else(|| bad(path, format!("tensor {name} is missing")))?;
        let shape = tensor.dims().to_vec();
        let values =
            tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1::<f32>()).map_err(fail)?;
        tensors.insert(name.strip_prefix("module.").unwrap_or(name).to_owned(), (shape, values));
    }
    if tensors.is_empty() {
        return Err(bad(path, "it holds no tensors"));
    }
    Ok(tensors)
}
