//! What diffusers and transformers save: a folder of which one file is the checkpoint, and a checkpoint in several
//! safetensors files with an index that says which tensor lies in which.

use super::{Bytes, File, Listed, Place, bad, io, kind, open_safetensors};
use crate::Result;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What the checkpoint in a folder is called, in the order in which those libraries look for it.
const USUAL: [&str; 6] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
];

const AGAIN: &str = "Download the whole folder again, every file that the index lists";

/// The file in a folder that is its checkpoint.
///
/// # Errors
/// `BAD_CHECKPOINT` saying what there is instead.
pub fn checkpoint_in(folder: &Path) -> Result<PathBuf> {
    let usual = USUAL.iter().map(|name| folder.join(name));
    usual.into_iter().find(|path| path.is_file()).ok_or_else(|| kind::folder(folder))
}

/// Opens all files that an index lists.
///
/// # Errors
/// `BAD_CHECKPOINT` for an index that leads out of its folder, and for files that are missing or hold other tensors than the
/// index says; `IO`.
pub fn open(path: &Path, index: &Value) -> Result<File> {
    let mut files: BTreeMap<&str, &str> = BTreeMap::new();
    for (tensor, file) in index["weight_map"].as_object().into_iter().flatten() {
        let file = file.as_str().filter(|name| is_plain(name)).ok_or_else(|| {
            let cause = format!("an index whose tensor {tensor} lies in {file}, which is no name of a file beside it");
            bad(path, cause, "Download it again from its publisher")
        })?;
        files.insert(tensor, file);
    }
    let names: BTreeSet<&str> = files.values().copied().collect();
    let mut tensors = Vec::new();
    let mut shards = Vec::new();
    if let Some(name) = names.iter().find(|name| !path.with_file_name(name).is_file()) {
        return Err(bad(path, format!("an index that lists {name}, which is not beside it"), AGAIN));
    }
    for name in names {
        let shard = path.with_file_name(name);
        let mut bytes = std::fs::File::open(&shard).map_err(|e| io(&shard, &e))?;
        let length = bytes.metadata().map_err(|e| io(&shard, &e))?.len();
        let file = match kind::of(&shard, &mut bytes, length)? {
            kind::Kind::Safetensors => open_safetensors(&shard, bytes, length)?.0,
            _ => return Err(bad(path, format!("an index that lists {name}, which is no safetensors file"), AGAIN)),
        };
        for (at, tensor) in file.tensors.iter().enumerate() {
            let place = Place::InShard { shard: shards.len(), at };
            match files.remove(tensor.name.as_str()) {
                Some(listed) if listed == name => tensors.push(Listed { place, ..tensor.clone() }),
                Some(listed) => {
                    let cause = format!("an index by which tensor {} lies in {listed}; it lies in {name}", tensor.name);
                    return Err(bad(path, cause, AGAIN));
                }
                None => {
                    let cause = format!("an index that does not list tensor {} of {name}, or twice", tensor.name);
                    return Err(bad(path, cause, AGAIN));
                }
            }
        }
        shards.push(file);
    }
    if let Some((tensor, file)) = files.first_key_value() {
        return Err(bad(
            path,
            format!("an index by which tensor {tensor} lies in {file}, which does not hold it"),
            AGAIN,
        ));
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(File { path: path.into(), tensors, bytes: Bytes::Shards(shards) })
}

/// The files that a checkpoint consists of: of a folder the one that is its checkpoint, and of an index also what it lists.
///
/// # Errors
/// `IO`, `BAD_CHECKPOINT`.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let file = File::open(path)?;
    let shards = match &file.bytes {
        Bytes::Shards(shards) => shards.iter().map(|shard| shard.path.clone()).collect(),
        _ => Vec::new(),
    };
    Ok([vec![file.path], shards].concat())
}

/// Whether a name is one of a file in the same folder, on any system.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\', ':', '\0']) && !name.starts_with('.')
}
