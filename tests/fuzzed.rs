//! The corpus of `scripts/fuzz`, through the same functions: what was found once is not found again.
#![cfg(feature = "cli")]

#[path = "fuzz/targets.rs"]
mod targets;

use std::path::Path;

/// Every file of a target's corpus.
fn corpus(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        target(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 10, "{name}: {count} files");
}

#[test]
fn pth() {
    corpus("pth", targets::pth);
}

#[test]
fn safetensors() {
    corpus("safetensors", targets::safetensors);
}

#[test]
fn manifest() {
    corpus("manifest", targets::manifest);
}

#[test]
fn png() {
    corpus("png", targets::png);
}
