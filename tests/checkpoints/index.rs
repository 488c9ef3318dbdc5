//! Checkpoints in several files with an index, and the folders that libraries save.

use super::{fixture, fresh, small, take};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use uvit_web::Code;
use uvit_web::weights::checkpoint::{self, Checkpoint};

/// Writes some of the tensors as f32.
fn write<'a>(path: &Path, tensors: impl Iterator<Item = (&'a String, &'a (Vec<usize>, Vec<f32>))>) {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = bytes.iter().map(|(name, shape, b)| (name, TensorView::new(Dtype::F32, shape.to_vec(), b).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

const SHARDS: [&str; 3] =
    ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"];
const INDEX: &str = "model.safetensors.index.json";

/// The golden network in three files, and its index.
fn sharded(test: &str) -> (PathBuf, Checkpoint, Value) {
    let folder = fresh(test);
    let (_, weights) = small();
    let names: Vec<&String> = weights.keys().collect();
    let mut map = serde_json::Map::new();
    for (i, shard) in SHARDS.iter().enumerate() {
        write(&folder.join(shard), weights.iter().enumerate().filter(|(at, _)| at % 3 == i).map(|(_, tensor)| tensor));
        names.iter().skip(i).step_by(3).for_each(|name| drop(map.insert(name.to_string(), json!(shard))));
    }
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    std::fs::write(folder.join(INDEX), index.to_string()).unwrap();
    (folder, weights, index)
}

#[test]
fn a_checkpoint_in_several_files_is_one() {
    let (folder, weights, _) = sharded("sharded");
    for path in [folder.clone(), folder.join(INDEX)] {
        assert_eq!(take(&path, "auto").unwrap(), (1.0, String::new()));
        assert_eq!(checkpoint::read(&path).unwrap(), weights);
        let files = checkpoint::files(&path).unwrap();
        assert_eq!(files, [&[INDEX], &SHARDS[..]].concat().iter().map(|name| folder.join(name)).collect::<Vec<_>>());
    }
    // One whole file beside it comes first, as libraries have it.
    let doubled =
        weights.iter().map(|(name, (shape, v))| (name.clone(), (shape.clone(), v.iter().map(|v| 2.0 * v).collect())));
    write(&folder.join("model.safetensors"), doubled.collect::<Checkpoint>().iter());
    assert_eq!(take(&folder, "auto").unwrap().0, 2.0);
    assert_eq!(checkpoint::files(&folder).unwrap(), [folder.join("model.safetensors")]);
}

#[test]
fn folders_as_libraries_save_them_are_checkpoints() {
    for name in
        ["model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.bin"]
    {
        let folder = fresh("saved");
        std::fs::write(folder.join("config.json"), "{}").unwrap();
        let file = if name.ends_with("bin") {
            "weights/tiny.pth"
        } else {
            "goldens/uvit_small_activations/weights.safetensors"
        };
        std::fs::copy(fixture(file), folder.join(name)).unwrap();
        assert_eq!(take(&folder, "auto").unwrap().0, 1.0, "{name}");
    }
    let folder = fresh("saved-not");
    std::fs::write(folder.join("config.json"), "{}").unwrap();
    let error = take(&folder, "auto").unwrap_err();
    assert!(error.code == Code::BadCheckpoint && error.cause.contains("a folder without a checkpoint"), "{error}");
}

#[test]
fn an_index_that_is_wrong_is_refused_with_what_is_wrong() {
    let (folder, _, index) = sharded("index-wrong");
    let outside = folder.with_file_name("outside.safetensors");
    std::fs::copy(folder.join(SHARDS[0]), &outside).unwrap();
    let refused = |index: &Value, words: &[&str]| {
        std::fs::write(folder.join(INDEX), index.to_string()).unwrap();
        let error = take(&folder, "auto").unwrap_err();
        assert!(error.code == Code::BadCheckpoint && words.iter().all(|word| error.cause.contains(word)), "{error}");
    };
    let with = |tensor: &str, file: Value| {
        let mut changed = index.clone();
        changed["weight_map"][tensor] = file;
        changed
    };
    // Only files beside it.
    let absolute = outside.to_str().unwrap().to_owned();
    for name in [
        "../outside.safetensors",
        absolute.as_str(),
        "a/b.safetensors",
        "..\\outside.safetensors",
        "C:x",
        "",
        ".",
        "..",
    ] {
        refused(&with("norm.weight", json!(name)), &["tensor norm.weight lies in", "no name of a file beside it"]);
    }
    refused(&with("norm.weight", json!(1)), &["tensor norm.weight lies in 1"]);
    // A file that is missing; tensors that are elsewhere, unlisted, nowhere; a file of another kind, the index itself.
    refused(&with("norm.weight", json!("model-4.safetensors")), &["lists model-4.safetensors, which is not beside it"]);
    let here = index["weight_map"]["norm.weight"].as_str().unwrap();
    let other = SHARDS.iter().find(|name| **name != here).unwrap();
    refused(&with("norm.weight", json!(other)), &["by which tensor norm.weight lies in", other, here]);
    let mut without = index.clone();
    without["weight_map"].as_object_mut().unwrap().remove("norm.weight");
    refused(&without, &["does not list tensor norm.weight of", here]);
    refused(&with("more.weight", json!(here)), &["tensor more.weight lies in", here, "does not hold it"]);
    std::fs::copy(fixture("weights/tiny.pth"), folder.join("tiny.pth")).unwrap();
    refused(&with("more.weight", json!("tiny.pth")), &["tiny.pth, which is no safetensors file"]);
    refused(&with("more.weight", json!(INDEX)), &[INDEX, "which is no safetensors file"]);
    // Sound after all that.
    std::fs::write(folder.join(INDEX), index.to_string()).unwrap();
    assert_eq!(take(&folder, "auto").unwrap().0, 1.0);
    std::fs::write(folder.join(SHARDS[1]), "<html>").unwrap();
    assert!(take(&folder, "auto").unwrap_err().cause.contains("web page"));
}
