//! Published checkpoints: `.safetensors`, and `.pth` (a zip with a pickle, of which nothing is ever run). A file is listed
//! first; then one set of weights in it is chosen for a network, and only that is read.

mod choice;
mod kind;
#[cfg(feature = "cli")]
mod opcodes;
#[cfg(feature = "cli")]
mod pickle;
mod sets;
#[cfg(feature = "cli")]
mod torch;

pub use choice::{Taken, Weights};

use super::load::check_names;
use crate::model::{Batch, Network};
use crate::{Code, Error, Result};
use half::{bf16, f16};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The tensors of a checkpoint, by name: shape and values.
pub type Checkpoint = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

const GIVE: &str = "Give a PyTorch state_dict (.pth) or a .safetensors file";

/// How a checkpoint stores values.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    /// By its name; not read.
    Other(String),
}

impl Dtype {
    /// By a storage's class or a dtype's name.
    #[cfg(feature = "cli")]
    fn of_torch(name: &str) -> Dtype {
        match name.trim_start_matches("torch.") {
            "DoubleStorage" | "float64" => Dtype::F64,
            "FloatStorage" | "float32" => Dtype::F32,
            "HalfStorage" | "float16" => Dtype::F16,
            "BFloat16Storage" | "bfloat16" => Dtype::Bf16,
            "LongStorage" | "int64" => Dtype::I64,
            "IntStorage" | "int32" => Dtype::I32,
            "ShortStorage" | "int16" => Dtype::I16,
            "CharStorage" | "int8" => Dtype::I8,
            "ByteStorage" | "BoolStorage" | "uint8" | "bool" => Dtype::U8,
            other => Dtype::Other(other.trim_end_matches("Storage").into()),
        }
    }

    fn of_safetensors(dtype: safetensors::Dtype) -> Dtype {
        match dtype {
            safetensors::Dtype::F64 => Dtype::F64,
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::Bf16,
            safetensors::Dtype::I64 => Dtype::I64,
            safetensors::Dtype::I32 => Dtype::I32,
            safetensors::Dtype::I16 => Dtype::I16,
            safetensors::Dtype::I8 => Dtype::I8,
            safetensors::Dtype::U8 | safetensors::Dtype::BOOL => Dtype::U8,
            other => Dtype::Other(format!("{other:?}")),
        }
    }

    /// Bytes a value; at least 1.
    #[cfg(feature = "cli")]
    fn bytes(&self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::Bf16 | Dtype::I16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Other(_) => 1,
        }
    }

    fn is_float(&self) -> bool {
        matches!(self, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16)
    }

    fn values(&self, bytes: &[u8]) -> Option<Vec<f32>> {
        Some(match self {
            Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::Bf16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect(),
            Dtype::I32 => bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as f32).collect(),
            Dtype::I16 => bytes.as_chunks().0.iter().map(|b| f32::from(i16::from_le_bytes(*b))).collect(),
            Dtype::I8 => bytes.iter().map(|&b| f32::from(b as i8)).collect(),
            Dtype::U8 => bytes.iter().map(|&b| f32::from(b)).collect(),
            Dtype::Other(_) => return None,
        })
    }
}

/// Where a tensor's bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// In a safetensors file, by its name.
    Named,
    /// In a storage of a `.pth`: its key, the first value and the steps between values.
    #[cfg(feature = "cli")]
    Storage { key: String, offset: usize, strides: Vec<usize> },
}

/// A tensor that a file lists.
#[derive(Clone, Debug)]
struct Listed {
    /// The dict that holds it, keys from the outermost one joined by dots; empty: the outermost.
    dict: String,
    /// Its name in that dict.
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    place: Place,
}

impl Listed {
    fn full_name(&self) -> String {
        if self.dict.is_empty() { self.name.clone() } else { format!("{}.{}", self.dict, self.name) }
    }
}

enum Source {
    Bytes(Vec<u8>),
    #[cfg(feature = "cli")]
    Torch(Box<torch::Archive>),
}

/// A checkpoint file, listed but not read.
struct File {
    path: PathBuf,
    tensors: Vec<Listed>,
    source: Source,
}

impl File {
    /// Opens a file and lists its tensors.
    ///
    /// # Errors
    /// `IO`; `BAD_CHECKPOINT` saying what the file is instead.
    fn open(path: &Path) -> Result<File> {
        let about = std::fs::metadata(path).map_err(|e| io(path, &e))?;
        if about.is_dir() {
            return Err(kind::folder(path));
        }
        let mut file = std::fs::File::open(path).map_err(|e| io(path, &e))?;
        let listed = match kind::of(path, &mut file, about.len())? {
            kind::Kind::Safetensors => open_safetensors(path)?,
            kind::Kind::Zip => open_zip(path, file, about.len())?,
        };
        if listed.0.tensors.is_empty() {
            let what = match listed.1.as_slice() {
                [] => "it holds no tensors".into(),
                keys => format!("it holds no tensors, only {}", choice::few(keys.iter().map(String::as_str))),
            };
            return Err(bad(path, what, GIVE));
        }
        Ok(listed.0)
    }

    fn values(&mut self, i: usize) -> Result<Vec<f32>> {
        let tensor = &self.tensors[i];
        let unread = || {
            let cause = format!("tensor {} is {:?}, no float", tensor.full_name(), tensor.dtype);
            bad(&self.path, cause, "Save the weights as float32, float16 or bfloat16")
        };
        match &mut self.source {
            Source::Bytes(bytes) => {
                let file = SafeTensors::deserialize(bytes).map_err(|e| bad(&self.path, e, GIVE))?;
                let view = file.tensor(&tensor.name).map_err(|e| bad(&self.path, e, GIVE))?;
                tensor.dtype.values(view.data()).ok_or_else(unread)
            }
            #[cfg(feature = "cli")]
            Source::Torch(archive) => tensor.dtype.values(&archive.bytes(tensor)?).ok_or_else(unread),
        }
    }
}

/// Reads the weights of a file whatever network they are for: the EMA ones where there are some, under their names without
/// what a wrapper put before all of them.
///
/// # Errors
/// `IO`, `BAD_CHECKPOINT`.
pub fn read(path: &Path) -> Result<Checkpoint> {
    let mut file = File::open(path)?;
    let names = choice::without_network(&file)?;
    names.into_iter().map(|(name, i)| Ok((name, (file.tensors[i].shape.clone(), file.values(i)?)))).collect()
}

/// Reads a network's weights from a file and checks them.
///
/// # Errors
/// `IO`, `BAD_CHECKPOINT`, those of [`check`]; `INVALID_ARGUMENT` if the file has no such `weights`.
pub fn take(path: &Path, network: &Network, weights: &Weights) -> Result<Taken> {
    let mut file = File::open(path)?;
    let plan = network.record(Batch::plain(1))?.plan;
    let expected: Vec<(&str, &[usize])> = plan.published().map(|w| (w.name.as_str(), w.shape.as_slice())).collect();
    let (chosen, report) = choice::choose(&file, &expected, weights)?;
    let mut tensors = Checkpoint::new();
    for (name, i) in chosen {
        if !file.tensors[i].dtype.is_float() {
            let cause = format!("tensor {} is {:?}, no float", file.tensors[i].full_name(), file.tensors[i].dtype);
            return Err(bad(path, cause, "Save the weights as float32, float16 or bfloat16"));
        }
        tensors.insert(name, (file.tensors[i].shape.clone(), file.values(i)?));
    }
    check(&tensors, network)?;
    Ok(Taken { tensors, report })
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

fn bad(path: &Path, what: impl std::fmt::Display, remedy: impl Into<String>) -> Error {
    Error::new(Code::BadCheckpoint, format!("{}: {what}", path.display()), remedy)
}

fn io(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::Io, format!("{}: {error}", path.display()), "Check that the file exists and can be read")
}

/// A file, and the keys of its outermost dict.
type Opened = (File, Vec<String>);

fn open_safetensors(path: &Path) -> Result<Opened> {
    let bytes = std::fs::read(path).map_err(|e| io(path, &e))?;
    let broken = |e| bad(path, format!("a safetensors file that is damaged ({e})"), "Download or copy it again");
    let file = SafeTensors::deserialize(&bytes).map_err(broken)?;
    let listed = file.tensors().into_iter().map(|(name, view)| Listed {
        dict: String::new(),
        name,
        dtype: Dtype::of_safetensors(view.dtype()),
        shape: view.shape().to_vec(),
        place: Place::Named,
    });
    let tensors = listed.collect();
    Ok((File { path: path.into(), tensors, source: Source::Bytes(bytes) }, Vec::new()))
}

#[cfg(feature = "cli")]
fn open_zip(path: &Path, file: std::fs::File, bytes: u64) -> Result<Opened> {
    let (archive, contents) = torch::open(path, file, bytes)?;
    let source = Source::Torch(Box::new(archive));
    Ok((File { path: path.into(), tensors: contents.tensors, source }, contents.keys))
}

#[cfg(not(feature = "cli"))]
fn open_zip(path: &Path, _file: std::fs::File, _bytes: u64) -> Result<Opened> {
    Err(bad(path, "this build does not read .pth files", "Build with the feature \"cli\""))
}
