//! What the tool writes: lines, whose reader may go away, and files, which appear whole or not at all.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use uvit_web::{Code, Error, Result};

/// The cause of [`closed`].
const CLOSED: &str = "nobody reads the output any more";
const REMEDY: &str = "Check that the folder exists and can be written to";

/// A line to standard output, as `println!`; an error where that would panic.
macro_rules! say {
    ($($arguments:tt)*) => { $crate::output::line(format_args!($($arguments)*)) };
}
pub(crate) use say;

pub fn line(text: std::fmt::Arguments<'_>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_fmt(text).and_then(|()| out.write_all(b"\n")).map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Error::new(Code::Aborted, CLOSED, "Nothing is wrong"),
        _ => Error::new(Code::Io, format!("the output: {e}"), "Check where it goes to"),
    })
}

/// Whether this is [`line`]'s error for a closed pipe, such as `| head -1` leaves: no failure.
pub fn closed(error: &Error) -> bool {
    error.code == Code::Aborted && error.cause == CLOSED
}

fn io(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::Io, format!("{}: {error}", path.display()), REMEDY)
}

/// A hidden name beside a file, for what is not whole yet.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.partial", std::process::id()))
}

/// Whether it is a pipe, a terminal or another device: written to, never replaced.
fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|about| !about.is_file() && !about.is_dir())
}

/// Finds out whether a file can be written, before the work for it is done. Leaves nothing.
///
/// # Errors
/// `IO`.
pub fn check(path: &Path) -> Result<()> {
    let refuse = |cause: String, remedy: &str| Err(Error::new(Code::Io, cause, remedy));
    if path.file_name().is_none() || path.is_dir() {
        return refuse(format!("{} is a folder", path.display()), "Give the name of a file");
    }
    if is_device(path) {
        return Ok(());
    }
    if std::fs::metadata(path).is_ok_and(|about| about.permissions().readonly()) {
        return refuse(format!("{} is read-only", path.display()), "Give another file, or make it writable");
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return refuse(format!("the folder {} does not exist", folder.display()), "Create it, or give another");
    }
    let probe = beside(path);
    std::fs::write(&probe, b"").map_err(|e| io(path, &e))?;
    std::fs::remove_file(&probe).map_err(|e| io(&probe, &e))
}

/// Makes a folder, if there is none, that files can be written into.
///
/// # Errors
/// `IO`.
pub fn folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| io(path, &e))?;
    check(&path.join("probe"))
}

/// Writes a file beside its place and renames it: whoever reads it sees the old one or the new one.
///
/// # Errors
/// `IO`.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if is_device(path) {
        return std::fs::write(path, bytes).map_err(|e| io(path, &e));
    }
    // A link stays one: what it names is replaced.
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let new = beside(path);
    let written = std::fs::File::create(&new).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| std::fs::rename(&new, path)).map_err(|e| {
        let _ = std::fs::remove_file(&new);
        io(path, &e)
    })
}
