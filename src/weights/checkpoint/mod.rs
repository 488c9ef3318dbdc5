//! Published checkpoints: `.safetensors`, and `.pth` (a zip with a pickle, of which nothing is ever run). A file is listed
//! first; then one set of weights in it is chosen for a network, and only that is read.

mod choice;
mod dtype;
mod found;
mod index;
mod kind;
mod made;
mod names;
#[cfg(feature = "cli")]
mod opcodes;
#[cfg(feature = "cli")]
mod pickle;
mod sets;
mod spellings;
mod stranger;
#[cfg(feature = "cli")]
mod torch;

pub use choice::{Taken, Weights};
pub use found::{Found, find, find_part, is_whole};
pub use index::files;
pub use spellings::{diffusers_autoencoder_name, official_autoencoder_name};
pub use stranger::looks_like;

use super::load::check_names;
use crate::model::{Batch, Network};
use crate::plan::{Weight, joined};
use crate::{Code, Error, Result};
use dtype::Dtype;
use safetensors::tensor::Metadata;
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The tensors of a checkpoint, by name: shape and values.
pub type Checkpoint = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Where a network's weights come from, one tensor at a time.
pub trait Source {
    /// The values of a tensor, by the network's name for it; all finite.
    ///
    /// # Errors
    /// `TENSOR_MISSING`, `NOT_FINITE`, `BAD_CHECKPOINT`, `IO`.
    fn values(&mut self, name: &str) -> Result<Vec<f32>>;

    /// The values of a weight in the order of its columns.
    ///
    /// # Errors
    /// As [`Source::values`].
    fn weight(&mut self, weight: &Weight) -> Result<Vec<f32>> {
        Ok(weight.arranged(self.values(&weight.name)?))
    }
}

impl Source for Checkpoint {
    fn values(&mut self, name: &str) -> Result<Vec<f32>> {
        let part = |name: String| {
            let missing =
                || Error::new(Code::TensorMissing, format!("tensor {name} is missing"), "Check the checkpoint");
            self.get(&name).map(|tensor| tensor.1.as_slice()).ok_or_else(missing)
        };
        Ok(joined(name).into_iter().map(part).collect::<Result<Vec<&[f32]>>>()?.concat())
    }
}

/// Bytes of a safetensors file's header, at most; the format's own bound.
const MOST_HEADER: u64 = 100_000_000;

const GIVE: &str = "Give a PyTorch state_dict (.pth) or a .safetensors file";

/// Where a tensor's bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// In a safetensors file: the first byte.
    At(u64),
    /// In a storage of a `.pth`: its key, the first value and the steps between values.
    #[cfg(feature = "cli")]
    Storage { key: String, offset: usize, strides: Vec<usize> },
    /// In one of several files, which lists it at a position.
    InShard { shard: usize, at: usize },
}

impl Place {
    /// Whether two tensors share bytes; safetensors files cannot hold such.
    fn overlaps(&self, other: &Place) -> bool {
        match (self, other) {
            #[cfg(feature = "cli")]
            (Place::Storage { key, .. }, Place::Storage { key: other, .. }) => key == other,
            _ => false,
        }
    }
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
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn full_name(&self) -> String {
        if self.dict.is_empty() { self.name.clone() } else { format!("{}.{}", self.dict, self.name) }
    }
}

enum Bytes {
    Safetensors(std::fs::File),
    #[cfg(feature = "cli")]
    Torch(Box<torch::Archive>),
    Shards(Vec<File>),
}

/// A checkpoint file, listed but not read.
struct File {
    path: PathBuf,
    tensors: Vec<Listed>,
    bytes: Bytes,
}

impl File {
    /// Opens a file, the checkpoint of a folder, or the files of an index, and lists the tensors.
    ///
    /// # Errors
    /// `IO`; `BAD_CHECKPOINT` saying what it is instead.
    fn open(path: &Path) -> Result<File> {
        let path = if path.is_dir() { &index::checkpoint_in(path)? } else { path };
        let bytes = std::fs::metadata(path).map_err(|e| io(path, &e))?.len();
        let mut file = std::fs::File::open(path).map_err(|e| io(path, &e))?;
        let listed = match kind::of(path, &mut file, bytes)? {
            kind::Kind::Safetensors => open_safetensors(path, file, bytes)?,
            kind::Kind::Zip => open_zip(path, file, bytes)?,
            kind::Kind::Index(index) => (index::open(path, &index)?, Vec::new()),
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

    fn no_float(&self, i: usize) -> Error {
        let tensor = &self.tensors[i];
        let dtype = match &tensor.dtype {
            Dtype::Other(name) => name.clone(),
            dtype => format!("{dtype:?}"),
        };
        let cause = format!("tensor {} is {dtype}, no float", tensor.full_name());
        bad(&self.path, cause, "Save the weights as float32, float16 or bfloat16")
    }

    /// Checks a tensor's place, so that [`File::values`] allocates no more than the file holds.
    fn check(&mut self, i: usize) -> Result<()> {
        match &mut self.bytes {
            Bytes::Safetensors(_) => Ok(()),
            #[cfg(feature = "cli")]
            Bytes::Torch(archive) => archive.check(&self.tensors[i]),
            // All of them are safetensors.
            Bytes::Shards(_) => Ok(()),
        }
    }

    fn values(&mut self, i: usize) -> Result<Vec<f32>> {
        if let Dtype::Other(_) = self.tensors[i].dtype {
            return Err(self.no_float(i));
        }
        self.check(i)?;
        let tensor = &self.tensors[i];
        match (&mut self.bytes, &tensor.place) {
            (Bytes::Safetensors(file), Place::At(at)) => {
                file.seek(SeekFrom::Start(*at)).map_err(|e| io(&self.path, &e))?;
                tensor.dtype.read(file, tensor.elements()).map_err(|e| io(&self.path, &e))
            }
            #[cfg(feature = "cli")]
            (Bytes::Torch(archive), _) => archive.values(tensor),
            (Bytes::Shards(shards), Place::InShard { shard, at }) => shards[*shard].values(*at),
            _ => Err(Error::internal("a tensor of another file")),
        }
    }
}

/// Shapes by name.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// The sets of tensors in a file that may be a network's: each dict's own, and those behind one prefix in it. Nothing is read
/// but names and shapes.
///
/// # Errors
/// `IO`, `BAD_CHECKPOINT`.
pub fn shapes(path: &Path) -> Result<Vec<Shapes>> {
    let file = File::open(path)?;
    // Each of these networks has one of them.
    const ONE: [&str; 3] = ["patch_embed.proj.weight", "x_embedder.proj.weight", "pos_embed.proj.weight"];
    let mut starts: Vec<(&str, &str)> = Vec::new();
    for tensor in &file.tensors {
        let prefix = ONE.into_iter().find_map(|one| tensor.name.strip_suffix(one));
        let prefix = prefix.filter(|prefix| prefix.is_empty() || prefix.ends_with('.'));
        for start in [Some(""), prefix].into_iter().flatten().map(|prefix| (tensor.dict.as_str(), prefix)) {
            if !starts.contains(&start) {
                starts.push(start);
            }
        }
    }
    let set = |&(dict, prefix): &(&str, &str)| {
        let own = file.tensors.iter().filter(|tensor| tensor.dict == dict && tensor.dtype.is_float());
        own.filter_map(|tensor| Some((tensor.name.strip_prefix(prefix)?.to_owned(), tensor.shape.clone()))).collect()
    };
    Ok(starts.iter().map(set).collect())
}

/// Whether a file holds tensors under a key.
///
/// # Errors
/// `IO`, `BAD_CHECKPOINT`.
pub fn holds(path: &Path, key: &str) -> Result<bool> {
    let under = |tensor: &Listed| tensor.full_name().strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
    Ok(File::open(path)?.tensors.iter().any(under))
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
/// Those of [`find`], `NOT_FINITE`.
pub fn take(path: &Path, network: &Network, weights: &Weights) -> Result<Taken> {
    let mut found = find(path, network, weights)?;
    let plan = network.record(Batch::plain(1))?.plan;
    let tensors = plan.published().flat_map(|weight| weight.sources()).map(|(name, shape)| {
        let values = found.values(&name)?;
        Ok((name, (shape, values)))
    });
    let tensors = tensors.collect::<Result<Checkpoint>>()?;
    Ok(Taken { tensors, report: found.report })
}

/// Checks that a checkpoint holds the network's tensors, all of them, no others, in their shapes, and finite.
///
/// # Errors
/// `TENSOR_MISSING`, `TENSOR_UNEXPECTED`, `TENSOR_SHAPE`, `NOT_FINITE` naming the value.
pub fn check(checkpoint: &Checkpoint, network: &Network) -> Result<()> {
    let plan = network.record(Batch::plain(1))?.plan;
    let sources: Vec<(String, Vec<usize>)> = plan.published().flat_map(|weight| weight.sources()).collect();
    check_names(
        sources.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())),
        checkpoint.iter().map(|(name, (shape, _))| (name.as_str(), shape.as_slice())),
    )?;
    checkpoint.iter().try_for_each(|(name, (_, values))| finite(name, values))
}

fn finite(name: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(i) => Err(Error::new(
            Code::NotFinite,
            format!("tensor {name}: value {i} is {}", values[i]),
            "Use a checkpoint from before the training broke down",
        )),
    }
}

fn bad(path: &Path, what: impl std::fmt::Display, remedy: impl Into<String>) -> Error {
    Error::new(Code::BadCheckpoint, format!("{}: {what}", path.display()), remedy)
}

fn io(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::Io, format!("{}: {error}", path.display()), "Check that the file exists and can be read")
}

/// A file, and the keys of its outermost dict.
type Opened = (File, Vec<String>);

fn open_safetensors(path: &Path, mut file: std::fs::File, bytes: u64) -> Result<Opened> {
    let broken = |e: &dyn std::fmt::Display| {
        bad(path, format!("a safetensors file that is damaged ({e})"), "Download or copy it again")
    };
    // `kind::of` has seen that the file is as long as its header says.
    let mut header = vec![0; 8];
    file.rewind().and_then(|()| file.read_exact(&mut header)).map_err(|e| io(path, &e))?;
    let length = header.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    if length > MOST_HEADER {
        return Err(broken(&format!("its header has {length} bytes")));
    }
    header.resize(8 + length as usize, 0);
    file.read_exact(&mut header[8..]).map_err(|e| io(path, &e))?;
    // Reading it checks that tensors neither overlap nor leave gaps, and are as large as their shapes.
    let about: Metadata = serde_json::from_slice(&header[8..]).map_err(|e| broken(&e))?;
    let begin = header.len() as u64;
    if begin + about.data_len() as u64 != bytes {
        let what = format!("its tensors take {} bytes, the file has {}", about.data_len(), bytes - begin);
        return Err(broken(&what));
    }
    let listed = about.tensors().into_iter().map(|(name, info)| Listed {
        dict: String::new(),
        name,
        dtype: Dtype::of_safetensors(info.dtype),
        shape: info.shape.clone(),
        place: Place::At(begin + info.data_offsets.0 as u64),
    });
    let mut tensors: Vec<Listed> = listed.collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((File { path: path.into(), tensors, bytes: Bytes::Safetensors(file) }, Vec::new()))
}

#[cfg(feature = "cli")]
fn open_zip(path: &Path, file: std::fs::File, bytes: u64) -> Result<Opened> {
    let (archive, contents) = torch::open(path, file, bytes)?;
    let bytes = Bytes::Torch(Box::new(archive));
    Ok((File { path: path.into(), tensors: contents.tensors, bytes }, contents.keys))
}

#[cfg(not(feature = "cli"))]
fn open_zip(path: &Path, _file: std::fs::File, _bytes: u64) -> Result<Opened> {
    Err(bad(path, "this build does not read .pth files", "Build with the feature \"cli\""))
}
