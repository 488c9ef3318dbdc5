//! What untrusted files reach, one function a kind of file. `scripts/fuzz` runs them with libFuzzer, `tests/fuzzed.rs` over the
//! corpus alone. Whatever the bytes are: no panic, no hang, no more memory than some times the file.
#![allow(dead_code)] // every target uses one

#[path = "../../src/cli/settings_png.rs"]
mod settings_png;

use std::io::{Cursor, Write};
use std::path::PathBuf;
use uvit_web::package::{Manifest, preset, reader, recognise};
use uvit_web::sampler::recipe;
use uvit_web::weights::checkpoint::{self, Weights};

/// Bytes as a file, which the checkpoint readers want; in memory where the system has such a folder.
struct Temporary(PathBuf);

impl Temporary {
    fn new(bytes: &[u8], ending: &str) -> Temporary {
        let shared = PathBuf::from("/dev/shm");
        let folder = if shared.is_dir() { shared } else { std::env::temp_dir() };
        let path = folder.join(format!("uvit-fuzz-{}.{ending}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Temporary(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// All that `uvit convert` does with a checkpoint before it writes.
fn checkpoint(bytes: &[u8], ending: &str) {
    let file = Temporary::new(bytes, ending);
    let _ = checkpoint::read(&file.0);
    let _ = recognise(&file.0);
    let network = preset("cifar10_uvit_small").unwrap().network().unwrap();
    for weights in [Weights::Auto, Weights::Ema, Weights::Model, "state_dict".parse().unwrap()] {
        let _ = checkpoint::find(&file.0, &network, &weights);
    }
}

/// A `.pth`: from the second byte on a zip, or a pickle that is put into one with two storages.
pub fn pth(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    if kind == b'z' {
        return checkpoint(bytes, "pth");
    }
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("a/data.pkl", bytes), ("a/data/0", &[0; 64]), ("a/data/1", &[0; 4])] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    checkpoint(&zip.finish().unwrap().into_inner(), "pth");
}

/// A `.safetensors`: from the second byte on the file, or a header that 64 bytes of values follow.
pub fn safetensors(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    if kind == b'f' {
        return checkpoint(bytes, "safetensors");
    }
    let length = (bytes.len() as u64).to_le_bytes();
    checkpoint(&[&length, bytes, &[0; 64]].concat(), "safetensors");
}

/// A `manifest.json`, up to where shards are read and the sampler begins.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(manifest) = Manifest::parse(text) else { return };
    let _ = manifest.check_task();
    let _ = manifest.model_hash(None);
    let _ = recipe(&manifest.sampling.settings());
    for name in manifest.runs() {
        if let Ok(recording) = manifest.network(name).and_then(|network| network.record(manifest.one(name)?)) {
            // A page does not check what it records.
            recording.plan.validate().unwrap();
            let _ = reader(&manifest, name, None);
        }
    }
    assert_eq!(Manifest::parse(&manifest.to_json()).unwrap().to_json(), manifest.to_json());
}

/// A picture that `--from` reads.
pub fn png(data: &[u8]) {
    let _ = settings_png::read_from(Cursor::new(data));
}
