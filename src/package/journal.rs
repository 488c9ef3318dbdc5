//! What a conversion that was killed has finished: files under partial names, and a list of them. The next run takes them
//! over if it would make the same; whatever does not fit is made anew.

use super::manifest::FORMAT_VERSION;
use super::writer::{PARTIAL, io, write_synced};
use crate::Result;
use crate::json::{self, Fields, Read, Value, Write, json};
use crate::named::Named;
use crate::weights::{StoredFile, sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// The list.
const JOURNAL: &str = ".uvit-partial-journal.json";
/// The list to be.
const NEXT_JOURNAL: &str = ".uvit-partial-journal.next";

/// Finished files by what they are: `denoiser-q8-00001`.
pub struct Journal {
    folder: PathBuf,
    /// Of all that decides what the files hold.
    fingerprint: String,
    files: Named<StoredFile>,
}

impl Journal {
    /// Reads the list in a folder, if it is one of the same work: `inputs` is all that decides what the files hold.
    pub fn open(folder: &Path, inputs: &str) -> Journal {
        let version = env!("CARGO_PKG_VERSION");
        let fingerprint = sha256(format!("uvit-web {version}, format {FORMAT_VERSION}: {inputs}").as_bytes());
        let files = fs::read_to_string(folder.join(JOURNAL)).ok().and_then(|text| {
            let list: Value = serde_json::from_str(&text).ok()?;
            read(&list, &fingerprint).ok()
        });
        Journal { folder: folder.into(), fingerprint, files: files.unwrap_or_default() }
    }

    /// The names of the files that may be taken over, the list's with them; none if there are none.
    pub fn names(&self) -> Vec<String> {
        let names: Vec<String> = self.files.values().map(|stored| format!("{PARTIAL}{}", stored.file)).collect();
        if names.is_empty() { names } else { [names, vec![JOURNAL.into()]].concat() }
    }

    /// A finished file, whole, and what it is.
    pub fn find(&self, what: &str) -> Option<(StoredFile, Vec<u8>)> {
        let stored = self.files.get(what)?;
        let bytes = fs::read(self.folder.join(format!("{PARTIAL}{}", stored.file))).ok()?;
        stored.verify(&bytes).ok()?;
        Some((stored.clone(), bytes))
    }

    /// Lists a finished file.
    ///
    /// # Errors
    /// `IO`.
    pub fn note(&mut self, what: &str, stored: &StoredFile) -> Result<()> {
        self.files.insert(what, stored.clone());
        let list = json!({ "fingerprint": self.fingerprint, "files": self.files.write() });
        let (next, path) = (self.folder.join(NEXT_JOURNAL), self.folder.join(JOURNAL));
        write_synced(&next, list.to_string().as_bytes())?;
        fs::rename(&next, &path).map_err(|e| io(&path, &e))
    }
}

fn read(list: &Value, fingerprint: &str) -> json::Result<Named<StoredFile>> {
    let fields = Fields::of(list)?;
    if fields.required::<String>("fingerprint")? != fingerprint {
        return Err("another work's".into());
    }
    let files: Named<StoredFile> = fields.value("files").map_or_else(|| Err("no files".into()), Named::read)?;
    if files.values().any(|stored| stored.file.contains(['/', '\\'])) {
        return Err("a name that leads out of the folder".into());
    }
    Ok(files)
}
