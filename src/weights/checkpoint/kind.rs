//! What a file is, by its first bytes and never by its name: `model.pth.tar` is a zip, and what was downloaded as
//! `model.safetensors` may be a web page.

use super::bad;
use crate::{Error, Result};
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Files that are read.
pub enum Kind {
    /// A zip, as PyTorch 1.6 and later write.
    Zip,
    /// safetensors.
    Safetensors,
    /// The index of a checkpoint in several files.
    Index(Value),
}

/// How PyTorch before 1.6 began a file: protocol 2, and a number of ten bytes.
const OLD_TORCH: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
const AGAIN: &str = "Download or copy it again";
const CONVERT: &str = "Save the weights with torch.save or safetensors.torch.save_file, and give that file";

/// Files of other programs, by how they begin.
const OTHERS: [(&[u8], &str, &str); 18] = [
    (b"GGUF", "a GGUF file (llama.cpp)", "Give the checkpoint that it was made from"),
    (b"lmgg", "a GGML file (llama.cpp)", "Give the checkpoint that it was made from"),
    (b"tjgg", "a GGML file (llama.cpp)", "Give the checkpoint that it was made from"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras .h5)", CONVERT),
    (b"\x93NUMPY", "a NumPy array (.npy)", CONVERT),
    (b"\x1f\x8b", "compressed (gzip)", "Unpack it, and give the file inside"),
    (b"\xfd7zXZ", "compressed (xz)", "Unpack it, and give the file inside"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)", "Unpack it, and give the file inside"),
    (b"BZh", "compressed (bzip2)", "Unpack it, and give the file inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it, and give the file inside"),
    (b"Rar!", "a RAR archive", "Unpack it, and give the file inside"),
    (b"\x89PNG", "a PNG picture", "Give the model's checkpoint"),
    (b"\xff\xd8\xff", "a JPEG picture", "Give the model's checkpoint"),
    (b"%PDF", "a PDF", "Give the model's checkpoint"),
    (b"\x7fELF", "a program", "Give the model's checkpoint"),
    (b"PAR1", "a Parquet file", "Give the model's checkpoint"),
    (b"PK\x05\x06", "an empty zip", AGAIN),
    (b"\x00asm", "a WebAssembly module", "Give the model's checkpoint"),
];

/// What the file is, if it can be read.
///
/// # Errors
/// `BAD_CHECKPOINT` naming what it is instead.
pub fn of(path: &Path, file: &mut File, bytes: u64) -> Result<Kind> {
    let mut head = Vec::new();
    file.take(1 << 16).read_to_end(&mut head).map_err(|e| super::io(path, &e))?;
    let refuse = |what: &str, remedy: &str| Err(bad(path, what, remedy));
    if head.is_empty() {
        return refuse("the file is empty", AGAIN);
    }
    if head.starts_with(b"PK\x03\x04") {
        return Ok(Kind::Zip);
    }
    if let Some(&(_, what, remedy)) = OTHERS.iter().find(|(magic, ..)| head.starts_with(magic)) {
        return refuse(what, remedy);
    }
    if head.starts_with(OLD_TORCH) {
        let remedy =
            "Save it again with a newer one: torch.save(torch.load(FILE, map_location=\"cpu\"), \"weights.pth\")";
        return refuse("a file of PyTorch before 1.6 (or saved with _use_new_zipfile_serialization=False)", remedy);
    }
    if head.get(257..262) == Some(b"ustar") {
        return refuse("a tar archive", "Unpack it, and give the file inside");
    }
    if head.get(4..8) == Some(b"TFL3") {
        return refuse("a TensorFlow Lite model", "Give the checkpoint that it was made from");
    }
    if head.iter().all(|&byte| byte == 0) {
        return refuse("it begins with zeros only, as a download that was cut short", AGAIN);
    }
    // A length, then a JSON object: as long as the file is whole.
    if let (Some(length), Some(b"{\"" | b"{ " | b"{}" | b"{\n")) = (head.first_chunk(), head.get(8..10)) {
        let length = u64::from_le_bytes(*length);
        return match length.checked_add(8).filter(|&end| end <= bytes) {
            Some(_) => Ok(Kind::Safetensors),
            None => {
                let what =
                    format!("a safetensors file that was cut short: its header has {length} bytes, the file {bytes}");
                refuse(&what, AGAIN)
            }
        };
    }
    if let Ok(text) = text(&head) {
        return of_text(path, text);
    }
    if head[0] == 0x80 && matches!(head[1..], [2..=5, ..]) {
        let what = "a pickle that torch.save did not write";
        return refuse(what, "Load it in Python, and save the weights with torch.save");
    }
    let onnx = head.first_chunk() == Some(&[0x08]) && head.get(2) == Some(&0x12);
    if onnx || path.extension().is_some_and(|ending| ending == "onnx") {
        return refuse("an ONNX model", "Give the checkpoint that it was exported from");
    }
    let first = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    refuse(&format!("its first bytes, {first}, are of no kind that is read"), super::GIVE)
}

/// The beginning of the file as text; a character may be cut off at the end.
fn text(head: &[u8]) -> std::result::Result<&str, ()> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() && e.valid_up_to() > 0 => {
            std::str::from_utf8(&head[..e.valid_up_to()]).map_err(|_| ())?
        }
        Err(_) => return Err(()),
    };
    let strange = |c: char| c.is_control() && !c.is_whitespace();
    if text.contains(strange) { Err(()) } else { Ok(text.trim_start_matches('\u{feff}').trim_start()) }
}

fn of_text(path: &Path, text: &str) -> Result<Kind> {
    let bad = |path: &Path, what: String, remedy: &str| Err(bad(path, what, remedy));
    let lower = text.get(..text.len().min(2048)).unwrap_or(text).to_ascii_lowercase();
    if let Some(rest) = text.strip_prefix("version https://git-lfs.github.com/spec/") {
        let size = rest.lines().find_map(|line| line.strip_prefix("size "));
        let size = size.map_or(String::new(), |size| format!(" of {} bytes", size.trim()));
        let remedy = "Run `git lfs pull` in its repository, or download the file itself";
        return bad(path, format!("a Git LFS pointer, which stands for a file{size}"), remedy);
    }
    if lower.starts_with("<!doctype html") || lower.contains("<html") || lower.contains("<head") {
        let remedy = "Download the file itself (a link with /resolve/ or /raw/, not /blob/); where it needs a login, log in first";
        return bad(path, "a web page (HTML), saved instead of the file".into(), remedy);
    }
    if lower.starts_with('<') {
        return bad(path, format!("an XML message: {:?}", first_line(text)), "Download the file itself");
    }
    if text.starts_with(['{', '[']) {
        return of_json(path);
    }
    if text.is_empty() {
        return bad(path, "nothing but blanks".into(), AGAIN);
    }
    bad(path, format!("a text: {:?}", first_line(text)), "Download the file itself, or give the model's checkpoint")
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(80).collect()
}

fn of_json(path: &Path) -> Result<Kind> {
    let whole = std::fs::read_to_string(path).unwrap_or_default();
    let value = serde_json::from_str::<Value>(whole.trim_start_matches('\u{feff}')).unwrap_or_default();
    if value["weight_map"].is_object() {
        return Ok(Kind::Index(value));
    }
    if value.get("format_version").is_some() && (value.get("variants").is_some() || value.get("components").is_some()) {
        let what = "the manifest of a model that was converted already";
        return Err(bad(path, what, "Give the checkpoint that it was made from"));
    }
    let what = if value.is_null() { "a JSON text that was cut short" } else { "a JSON text, not weights" };
    let what = format!("{what}: {:?}", first_line(&whole));
    Err(bad(path, what, "Give the checkpoint itself; a configuration goes to --config"))
}

/// A folder given as a checkpoint: the files in it that may be meant.
pub fn folder(path: &Path) -> Error {
    let mut names: Vec<String> = std::fs::read_dir(path)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort();
    let likely =
        |name: &&String| [".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".tar"].iter().any(|e| name.ends_with(e));
    let files = names.iter().filter(likely).take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.iter().any(|name| name == ".metadata") {
        let remedy =
            "Make it one file: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pth";
        return bad(path, "a distributed checkpoint of PyTorch, which is a folder", remedy);
    }
    let cause = match files.as_str() {
        "" => "a folder without a checkpoint in it".into(),
        files => format!("a folder; it holds {files}"),
    };
    bad(path, cause, "Give one file: that of the network's EMA weights, if there is one")
}
