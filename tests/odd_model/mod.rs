//! A small model with odd widths (groups of 32 and 64 end short, and q4 rows have an odd number of columns), written to and
//! read from real folders.
#![allow(dead_code)] // no test needs all of it

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use uvit_web::Result;
use uvit_web::model::{Batch, Network};
use uvit_web::package::{DENOISER, Manifest, Storing, Writer, describe, read_manifest, read_shards, reader};
use uvit_web::sampler::TorchGenerator;
use uvit_web::weights::checkpoint::Checkpoint;
use uvit_web::weights::{Dtype, Tensor};

/// A path in a fresh folder of one test's own.
pub fn fresh(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{test}", env!("CARGO_CRATE_NAME")));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder.join("model")
}

pub fn config() -> Value {
    json!({
        "name": "odd", "img_size": 6, "patch_size": 3, "in_chans": 3, "embed_dim": 36, "depth": 2, "num_heads": 3,
        "mlp_ratio": 1.25, "qkv_bias": true, "mlp_time_embed": false, "num_classes": 4, "conv": true, "skip": true,
        "schedule": { "type": "vp_linear", "beta_min": 0.1, "beta_max": 20.0 }, "prediction": "noise",
        "time_scale": 999.0, "null_class": 3, "sampler": "dpmpp_2m", "steps": 5, "guidance_scale": 1.5
    })
}

pub fn network(config: &Value) -> Network {
    Network::of("uvit", config).unwrap()
}

/// Random weights under the network's names and shapes.
pub fn checkpoint(config: &Value) -> Checkpoint {
    let mut random = TorchGenerator::new(1);
    let plan = network(config).record(Batch::plain(1)).unwrap().plan;
    let tensor = |w: &uvit_web::plan::Weight| (w.shape.clone(), random.randn_f32(w.shape.iter().product()));
    let names: Vec<String> = plan.weights.iter().map(|w| w.name.clone()).collect();
    names.into_iter().zip(plan.weights.iter().map(tensor)).collect()
}

/// Writes the model in one dtype.
pub fn convert(out: &Path, dtype: Dtype, group: usize, shard_bytes: usize) -> Result<Manifest> {
    let config = config();
    let mut manifest = describe(&config.to_string(), None, None)?;
    let mut storing = Storing::plain(dtype);
    storing.group = group;
    let mut writer = Writer::new(out, &[], false)?.with_shard_bytes(shard_bytes);
    writer.add(&mut manifest, DENOISER, &storing, &mut checkpoint(&config))?;
    writer.finish(&manifest)?;
    Ok(manifest)
}

/// All tensors of the denoiser.
pub fn load(folder: &Path) -> Result<BTreeMap<String, Tensor>> {
    let (manifest, folder) = read_manifest(folder)?;
    let mut tensors = BTreeMap::new();
    read_shards(&folder, &mut reader(&manifest, DENOISER, None)?, |tensor| {
        tensors.insert(tensor.name.clone(), tensor);
        Ok(())
    })?;
    Ok(tensors)
}

/// Names of everything in a folder, hidden files included.
pub fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
