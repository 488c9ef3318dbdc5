//! The tuner's memory: one file in the user's cache folder. It only saves time, so nothing that goes wrong with it matters.

use std::path::PathBuf;

fn path() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("LOCALAPPDATA")).or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(cache.join("uvit-web").join("tuning.json"))
}

/// What earlier runs have measured.
pub fn read() -> Option<String> {
    std::fs::read_to_string(path()?).ok()
}

/// Keeps it for later runs. Two runs at once never leave half a file.
pub fn write(records: &str) {
    let Some(path) = path() else { return };
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    if folder.and_then(|()| std::fs::write(&new, records)).and_then(|()| std::fs::rename(&new, &path)).is_err() {
        let _ = std::fs::remove_file(&new);
    }
}
