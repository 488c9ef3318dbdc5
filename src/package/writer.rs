//! Writes a model's folder, from within: a mount point or a link to a folder will do. Files get their names only when all of
//! them are there, the manifest last, so at no time does a manifest list what is missing. What a run that was killed leaves
//! is known by its names, and by the manifests it wrote beforehand; the next run removes it, or takes over what is whole
//! ([`super::journal`]).
//!
//! Nothing is deleted but what a manifest in the folder lists.

use super::convert::Storing;
use super::journal::Journal;
use super::load::{manifest_path, read_manifest};
use super::manifest::{MANIFEST, Manifest};
use crate::model::Batch;
use crate::named::Named;
use crate::plan::Weight;
use crate::weights::checkpoint::Source;
use crate::weights::write::{Make, write_shards};
use crate::weights::{Dtype, MAX_FILE_BYTES, Part, ShardReader, StoredFile, Tensor, Variant, sha256};
use crate::{Code, Error, Result};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What the names of unfinished files begin with.
pub(super) const PARTIAL: &str = ".uvit-partial-";
/// The manifest to be, there before any of its files has its name.
const NEXT: &str = ".uvit-partial-next.json";
/// The manifest that was replaced, there until the last of its files is gone.
const LAST: &str = ".uvit-partial-last.json";

/// A model's folder that is being written. Unless [`Writer::finish`] succeeds, the folder is left as it was found.
pub struct Writer {
    folder: PathBuf,
    shard_bytes: usize,
    /// Names that files will have, and have with [`PARTIAL`] in front.
    written: BTreeSet<String>,
    /// What an interrupted run has finished, and this one.
    journal: Option<Journal>,
    /// Folders that were made, the outermost first.
    created: Vec<PathBuf>,
    finished: bool,
}

impl Writer {
    /// Checks, before any work, that the folder can be written and that nobody's files are at risk: it must be new, empty, or,
    /// with `replace`, hold a model and nothing else, none of the files that are converted in particular.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming what is in the way, `IO`.
    pub fn new(folder: &Path, inputs: &[&Path], replace: bool) -> Result<Writer> {
        Writer::open(folder, inputs, replace, None)
    }

    /// As [`Writer::new`], and takes over what a run that was killed has finished, if `work` was the same: a text that says
    /// all that decides what the files will hold.
    ///
    /// # Errors
    /// Those of [`Writer::new`].
    pub fn resuming(folder: &Path, inputs: &[&Path], replace: bool, work: &str) -> Result<Writer> {
        Writer::open(folder, inputs, replace, Some(work))
    }

    fn open(folder: &Path, inputs: &[&Path], replace: bool, work: Option<&str>) -> Result<Writer> {
        let refuse = |cause: String, remedy: &str| Err(Error::new(Code::InvalidArgument, cause, remedy));
        let shown = folder.display();
        if folder.as_os_str().is_empty() {
            return refuse("the folder to write has an empty name".into(), "Give a folder, or . for this one");
        }
        if folder.is_symlink() && !folder.exists() {
            return refuse(format!("{shown} is a link to nothing"), "Give a folder that is new or empty");
        }
        if folder.exists() && !folder.is_dir() {
            return refuse(format!("{shown} is a file"), "Give a folder that is new or empty");
        }
        if let Some(input) = inputs.iter().find(|input| lies_in(input, folder)) {
            let cause = format!("the input {} lies in the folder to be written, {shown}", input.display());
            return refuse(cause, "Give a folder that is new or empty");
        }
        match look(folder)? {
            Found::Other(name) => {
                let cause = format!("the folder {shown} holds {name}, which is no part of a model in it");
                return refuse(cause, "Give a folder that is new or empty");
            }
            Found::Unreadable(why) => {
                let cause = format!("the folder {shown} holds a {MANIFEST} that is no model's ({why})");
                return refuse(cause, "Give a folder that is new or empty, or delete it by hand");
            }
            Found::Model if !replace => {
                return refuse(format!("the folder {shown} holds a model"), "Give another, or --force to replace it");
            }
            Found::Model | Found::Nothing => {}
        }
        let missing = folder.ancestors().take_while(|part| !part.as_os_str().is_empty() && !part.exists());
        let mut created: Vec<PathBuf> = missing.map(Path::to_owned).collect();
        created.reverse();
        fs::create_dir_all(folder).map_err(|e| io(folder, &e))?;
        // From here on, whatever fails undoes it.
        let written = BTreeSet::new();
        let shard_bytes = MAX_FILE_BYTES as usize;
        let journal = work.map(|work| Journal::open(folder, work));
        let kept = journal.as_ref().map(Journal::names).unwrap_or_default();
        let writer = Writer { folder: folder.to_owned(), shard_bytes, written, journal, created, finished: false };
        remove_leftovers(folder, &kept);
        let probe = folder.join(format!("{PARTIAL}probe"));
        fs::write(&probe, "").and_then(|()| fs::remove_file(&probe)).map_err(|e| io(folder, &e))?;
        Ok(writer)
    }

    /// Smaller shards than the format allows.
    #[must_use]
    pub fn with_shard_bytes(mut self, shard_bytes: usize) -> Writer {
        self.shard_bytes = shard_bytes;
        self
    }

    /// Files of an interrupted run that may be taken over.
    pub fn found(&self) -> usize {
        self.journal.as_ref().map_or(0, |journal| journal.names().len().saturating_sub(1))
    }

    /// Writes one stored form of a component and lists it in the manifest. Tensors are read as they are written.
    ///
    /// # Errors
    /// `IO`, `BAD_MANIFEST` if the manifest has no such component, those of [`Storing::tensor`].
    pub fn add(
        &mut self,
        manifest: &mut Manifest,
        name: &str,
        storing: &Storing,
        source: &mut dyn Source,
    ) -> Result<()> {
        let network = manifest.network(name)?;
        let (plan, forms) = (network.record(Batch::plain(1))?.plan, storing.forms(&network)?);
        let weights: Vec<&Weight> = plan.published().collect();
        let (dtype, shard_bytes) = (storing.dtype, self.shard_bytes);
        let mut tensor = |i: usize| storing.tensor(weights[i], &forms[i].1, source);
        let variant = write_shards((dtype, storing.group), &forms, shard_bytes, &mut tensor, &mut |number, make| {
            let stored = self.save(&format!("{name}-{}-{number:05}", dtype.as_str()), "safetensors", make)?;
            self.written.insert(stored.file.clone());
            Ok(stored)
        })?;
        if let Some(component) = manifest.components.get_mut(name) {
            component.variants.push(variant);
        }
        Ok(())
    }

    /// Writes an asset and lists it in the manifest.
    ///
    /// # Errors
    /// `IO`.
    pub fn add_asset(&mut self, manifest: &mut Manifest, name: &str, ending: &str, bytes: &[u8]) -> Result<()> {
        let stored = self.save(name, ending, &mut || Ok(bytes.to_vec()))?;
        self.written.insert(stored.file.clone());
        manifest.assets.insert(name, stored);
        Ok(())
    }

    /// Keeps a component's matrix that calibration has rounded, for the next run should this one be killed. It is no part of the model.
    ///
    /// # Errors
    /// `IO`.
    pub fn keep_rounded(&mut self, name: &str, storing: &Storing, weight: &Weight, tensor: &Tensor) -> Result<()> {
        let form = [(weight.name.clone(), storing.form(weight))];
        let mut one = |_| Ok(tensor.clone());
        let stem = rounded(name, storing.dtype, weight);
        write_shards((storing.dtype, storing.group), &form, usize::MAX, &mut one, &mut |_, make| {
            self.save(&stem, "safetensors", make)
        })?;
        Ok(())
    }

    /// The matrix of a component that an interrupted run has kept, if it is whole.
    pub fn rounded(&self, name: &str, storing: &Storing, weight: &Weight) -> Option<Tensor> {
        let (stored, bytes) = self.journal.as_ref()?.find(&rounded(name, storing.dtype, weight))?;
        let mut entry = storing.form(weight);
        entry.parts.push(Part { shard: 0, rows: [0, weight.shape[0]] });
        let variant = Variant {
            dtype: storing.dtype,
            group: storing.group,
            bytes: stored.bytes,
            shards: vec![stored],
            tensors: Named::of(&weight.name, entry),
        };
        let mut reader = ShardReader::new(variant, std::iter::once(weight)).ok()?;
        let mut shard = reader.open(0, &bytes).ok()?;
        reader.next_tensor(&mut shard).ok()?
    }

    /// A file's name carries its hash: what a cache holds under a name is what the manifest means.
    fn save(&mut self, stem: &str, ending: &str, make: Make<'_>) -> Result<StoredFile> {
        if let Some((stored, _)) = self.journal.as_ref().and_then(|journal| journal.find(stem)) {
            return Ok(stored);
        }
        let bytes = make()?;
        let sha256 = sha256(&bytes);
        let file = format!("{stem}-{}.{ending}", &sha256[..8]);
        write_synced(&self.folder.join(format!("{PARTIAL}{file}")), &bytes)?;
        let stored = StoredFile { file, bytes: bytes.len() as u64, sha256 };
        if let Some(journal) = &mut self.journal {
            journal.note(stem, &stored)?;
        }
        Ok(stored)
    }

    /// Gives all files their names and writes the manifest; then the replaced model's files go.
    ///
    /// # Errors
    /// Those of [`Manifest::parse`], `IO`.
    pub fn finish(mut self, manifest: &Manifest) -> Result<()> {
        let json = manifest.to_json();
        Manifest::parse(&json)?;
        let path = |name: &str| self.folder.join(name);
        let target = path(MANIFEST);
        write_synced(&path(NEXT), json.as_bytes())?;
        if target.exists() {
            fs::copy(&target, path(LAST)).map_err(|e| io(&target, &e))?;
        }
        for file in &self.written {
            fs::rename(path(&format!("{PARTIAL}{file}")), path(file)).map_err(|e| io(&path(file), &e))?;
        }
        fs::rename(path(NEXT), &target).map_err(|e| io(&target, &e))?;
        self.finished = true;
        remove_leftovers(&self.folder, &[]);
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            remove_leftovers(&self.folder, &[]);
            // Those that others have put something into meanwhile stay.
            self.created.iter().rev().for_each(|folder| drop(fs::remove_dir(folder)));
        }
    }
}

/// What the journal calls a rounded matrix.
fn rounded(name: &str, dtype: Dtype, weight: &Weight) -> String {
    format!("rounded-{name}-{}-{}", dtype.as_str(), weight.name)
}

/// Writes a manifest in the place of another one of the same files, given its path or its folder's: beside it, then renamed.
///
/// # Errors
/// Those of [`Manifest::parse`], `IO`.
pub fn write_manifest(path: &Path, manifest: &Manifest) -> Result<PathBuf> {
    let json = manifest.to_json();
    Manifest::parse(&json)?;
    let target = manifest_path(path);
    let next = target.with_file_name(NEXT);
    write_synced(&next, json.as_bytes())?;
    fs::rename(&next, &target).map_err(|e| io(&target, &e))?;
    Ok(target)
}

/// What a folder that is to be written holds, leftovers aside.
enum Found {
    Nothing,
    Model,
    /// A manifest, of whatever, and why it is none of ours.
    Unreadable(String),
    /// The name of something that no manifest lists.
    Other(String),
}

fn look(folder: &Path) -> Result<Found> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(e) => return Err(io(folder, &e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| io(folder, &e))?;
        let is_folder = entry.file_type().map_err(|e| io(folder, &e))?.is_dir();
        names.push((entry.file_name().to_string_lossy().into_owned(), is_folder));
    }
    let model = names.iter().any(|(name, _)| name == MANIFEST);
    let mut ours = listed(folder, &[NEXT, LAST]);
    if model {
        match read_manifest(&folder.join(MANIFEST)) {
            Ok((manifest, _)) => ours.extend(manifest.files().map(|stored| stored.file.clone())),
            Err(error) => return Ok(Found::Unreadable(error.cause.clone())),
        }
    }
    ours.insert(MANIFEST.into());
    let other =
        names.into_iter().find(|(name, is_folder)| *is_folder || !(ours.contains(name) || name.starts_with(PARTIAL)));
    Ok(match other {
        Some((name, _)) => Found::Other(name),
        None if model => Found::Model,
        None => Found::Nothing,
    })
}

/// The files that these manifests list, as far as they are there and whole.
fn listed(folder: &Path, manifests: &[&str]) -> BTreeSet<String> {
    let read = |name: &&str| read_manifest(&folder.join(name)).ok();
    let manifests: Vec<Manifest> = manifests.iter().filter_map(read).map(|(manifest, _)| manifest).collect();
    manifests.iter().flat_map(Manifest::files).map(|stored| stored.file.clone()).collect()
}

/// Removes what a run left that was killed or has failed, and what is no longer needed after one that has not. What cannot be
/// removed stays for the next run; `kept` stays, too.
fn remove_leftovers(folder: &Path, kept: &[String]) {
    let model = folder.join(MANIFEST).exists();
    let needed = listed(folder, &[MANIFEST]);
    if model && needed.is_empty() {
        return; // unreadable: nobody knows what is needed
    }
    let stale = listed(folder, &[NEXT, LAST]);
    let mut gone = true;
    let mut remove = |name: &str| match fs::remove_file(folder.join(name)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => gone = false,
        _ => {}
    };
    stale.difference(&needed).for_each(|name| remove(name));
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let partial =
        |name: &&String| name.starts_with(PARTIAL) && ![NEXT, LAST].contains(&name.as_str()) && !kept.contains(name);
    names.iter().filter(partial).for_each(|name| remove(name));
    // The manifests go last: they say what else there is to remove.
    if gone {
        [NEXT, LAST].iter().for_each(|name| drop(fs::remove_file(folder.join(name))));
    }
}

/// Whether a file, or a link to it, lies in a folder or below.
fn lies_in(file: &Path, folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    let parent = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let inside = |path: &Path| path.canonicalize().is_ok_and(|path| path.starts_with(&folder));
    inside(file) || inside(parent)
}

pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = fs::File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| io(path, &e))
}

pub(super) fn io(path: &Path, error: &std::io::Error) -> Error {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let remedy = match error.kind() {
        StorageFull | QuotaExceeded => "Free some space on that disk, or give a folder on another",
        FileTooLarge => "Allow files of 32 MiB there, or give a folder on another disk",
        _ => "Check that the folder can be written",
    };
    Error::new(Code::Io, format!("{}: {error}", path.display()), remedy)
}
