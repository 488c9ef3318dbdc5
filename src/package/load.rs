//! Loads components and assets: each is checked against what the manifest says, and a component against its network.

use super::manifest::Manifest;
use crate::Result;
use crate::model::Batch;
use crate::weights::{Dtype, ShardReader};

/// Reads a component's shards, in the stored form that [`Manifest::variant`] takes.
///
/// # Errors
/// Those of [`Manifest::variant`], [`Manifest::network`] and [`ShardReader::new`].
pub fn reader(manifest: &Manifest, component: &str, dtype: Option<Dtype>) -> Result<ShardReader> {
    let variant = manifest.variant(component, dtype)?;
    let plan = manifest.network(component)?.record(Batch::plain(1))?.plan;
    ShardReader::new(variant.clone(), plan.published())
}

#[cfg(not(target_arch = "wasm32"))]
pub use files::{manifest_path, read_asset, read_manifest, read_shards};

#[cfg(not(target_arch = "wasm32"))]
mod files {
    use super::super::manifest::{MANIFEST, Manifest};
    use crate::weights::{ShardReader, Tensor};
    use crate::{Code, Error, Result};
    use std::path::{Path, PathBuf};

    /// A manifest's path, given it or its folder's.
    pub fn manifest_path(path: &Path) -> PathBuf {
        if path.is_dir() { path.join(MANIFEST) } else { path.to_owned() }
    }

    /// Reads and parses `manifest.json`, given its path or its folder's; gives the folder, too.
    ///
    /// # Errors
    /// `IO`, and as [`Manifest::parse`].
    pub fn read_manifest(path: &Path) -> Result<(Manifest, PathBuf)> {
        let path = manifest_path(path);
        let json = std::fs::read_to_string(&path).map_err(|e| io(&path, &e))?;
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok((Manifest::parse(&json)?, folder))
    }

    /// Reads all shards of a component from a folder and hands out the tensors one by one.
    ///
    /// # Errors
    /// `IO`, as [`ShardReader`], and whatever `take` returns.
    pub fn read_shards(
        folder: &Path,
        reader: &mut ShardReader,
        mut take: impl FnMut(Tensor) -> Result<()>,
    ) -> Result<()> {
        for index in 0..reader.shards().len() {
            let bytes = read(&folder.join(&reader.shards()[index].file))?;
            let mut open = reader.open(index, &bytes)?;
            while let Some(tensor) = reader.next_tensor(&mut open)? {
                take(tensor)?;
            }
        }
        reader.finish()
    }

    /// Reads an asset from a folder.
    ///
    /// # Errors
    /// `BAD_MANIFEST` if there is none of that name, `IO`, `SHARD_CORRUPT` if length or hash differ.
    pub fn read_asset(folder: &Path, manifest: &Manifest, name: &str) -> Result<Vec<u8>> {
        let asset = manifest.asset(name)?;
        let bytes = read(&folder.join(&asset.file))?;
        asset.verify(&bytes).map_err(|e| e.of(&format!("asset {name}")))?;
        Ok(bytes)
    }

    fn read(path: &Path) -> Result<Vec<u8>> {
        std::fs::read(path).map_err(|e| io(path, &e))
    }

    fn io(path: &Path, error: &std::io::Error) -> Error {
        Error::new(Code::Io, format!("{}: {error}", path.display()), "Check that the file exists and can be read")
    }
}
