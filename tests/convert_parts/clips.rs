//! A network of clips through every command that knows networks: the golden one, whose numbers PyTorch computed.

use super::small::{convert, said, sampling};
use super::{fresh, read_manifest};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use uvit_web::package::DENOISER;

fn tool(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_uvit")).args(arguments).output().unwrap()
}

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/uvit_video").join(file)
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    tensors.tensor(name).unwrap().data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn a_network_of_clips_is_converted_inspected_called_and_measured() {
    let folder = fresh("clips");
    let out = folder.with_file_name("out");
    std::fs::create_dir_all(&folder).unwrap();
    let case: Value = serde_json::from_slice(&std::fs::read(golden("config.json")).unwrap()).unwrap();
    let mut config = sampling();
    for (name, value) in case["params"].as_object().unwrap() {
        config[name] = value.clone();
    }
    let classes = config["num_classes"].as_i64().unwrap();
    (config["architecture"], config["fps"]) = ("uvit_video".into(), 12.into());
    // Names alone, from 0 on.
    config["labels"] = json!((0..classes).map(|i| format!("motion {i}")).collect::<Vec<_>>());
    let [about, given, got] = ["config.json", "in.safetensors", "out.safetensors"].map(|name| folder.join(name));
    std::fs::write(&about, config.to_string()).unwrap();
    let [weights, about, model] =
        [&golden("weights.safetensors"), &about, &out].map(|path| path.to_str().unwrap().to_owned());
    let dtypes = ["--dtype", "f32", "--dtype", "q8", "--dtype", "q4", "--calibration", "2"];
    convert(Path::new(&weights), &out, &[&["--config", &about][..], &dtypes].concat());
    let (manifest, _) = read_manifest(&out).unwrap();
    assert_eq!((manifest.labels.len() as i64, manifest.frame_rate()), (classes, 12.0));
    assert_eq!((manifest.labels[1].index, manifest.labels[1].name.as_str()), (1, "motion 1"));
    let network = manifest.network(DENOISER).unwrap();
    assert_eq!(network.params()["t_patch_size"], case["params"]["t_patch_size"]);

    // What it is without a configuration, and what it is with one.
    let inspected = said(&tool(&["inspect", &weights]));
    assert!(inspected.contains("a U-ViT of clips") && inspected.contains("t_patch_size 1"), "{inspected}");
    let inspected = said(&tool(&["inspect", &model]));
    assert!(inspected.contains("component denoiser: uvit_video"), "{inspected}");

    // PyTorch's numbers come out of the tool.
    let bytes = std::fs::read(golden("io.safetensors")).unwrap();
    let io = SafeTensors::deserialize(&bytes).unwrap();
    let inputs = case["inputs"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
    let inputs = inputs.map(|name| (name, io.tensor(name).unwrap()));
    std::fs::write(&given, safetensors::serialize(inputs, None).unwrap()).unwrap();
    let [given, got] = [given, got].map(|path| path.to_str().unwrap().to_owned());
    let run = tool(&["forward", &model, &given, &got, "--device", "cpu", "--dtype", "f32", "--compute", "f32"]);
    assert!(run.status.success(), "{}", said(&run));
    let bytes = std::fs::read(&got).unwrap();
    let (got, want) = (floats(&SafeTensors::deserialize(&bytes).unwrap(), "out"), floats(&io, "out"));
    let largest = want.iter().fold(0f32, |most, v| most.max(v.abs()));
    let off = got.iter().zip(&want).fold(0f32, |off, (a, b)| off.max((a - b).abs())) / largest;
    assert!(got.len() == want.len() && off <= 2e-5, "off by {off:e}");

    // Stored in 8 bits it draws much the same, and single forwards are alike: they are given what the network is given.
    let run = tool(&[
        "quality",
        &model,
        "--reference",
        &weights,
        "--pictures",
        "2",
        "--dtype",
        "q8",
        "--compute",
        "f32",
        "--json",
    ]);
    assert!(run.status.success(), "{}", said(&run));
    let row: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert!(row["worst_cosine"].as_f64().unwrap() > 0.999, "{row}");
}
