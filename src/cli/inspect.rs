//! `uvit inspect`.

use super::output::say;
use super::{read_text, refusal};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use uvit_web::model::{Batch, Network, uvit};
use uvit_web::plan::{Capabilities, lower};
use uvit_web::weights::checkpoint::{self, Weights};
use uvit_web::weights::convert::describe;
use uvit_web::weights::manifest::{Manifest, Variant};
use uvit_web::weights::read_manifest;
use uvit_web::{Code, Error, Result};

#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Arguments {
    /// A manifest.json or its folder, or a checkpoint (with --config)
    #[arg(required_unless_present = "preset")]
    path: Option<PathBuf>,
    /// The checkpoint's configuration
    #[arg(long)]
    config: Option<PathBuf>,
    /// Which weights of a checkpoint that holds several: auto (EMA if there are some), ema, model or a key
    #[arg(long, default_value = "auto", value_name = "auto|ema|model|KEY", requires = "config")]
    weights: Weights,
    /// A published model without any file: cifar10-s2, celeba64-s4, imagenet64-m4, imagenet64-l4, imagenet256-l2,
    /// imagenet256-h2, imagenet512-l4, imagenet512-h4
    #[arg(long, conflicts_with_all = ["path", "config"])]
    preset: Option<String>,
    /// Images a forward
    #[arg(long, default_value_t = 1, value_parser = refusal::images)]
    batch: usize,
    /// Count guidance: every image twice
    #[arg(long)]
    guidance: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print every tensor
    #[arg(long)]
    tensors: bool,
}

/// A published architecture.
pub fn preset(name: &str) -> Result<uvit::Config> {
    uvit::preset(name).ok_or_else(|| {
        let known = uvit::preset_names().collect::<Vec<_>>().join(", ");
        Error::new(Code::InvalidArgument, format!("there is no preset {name:?}"), format!("Give one of {known}"))
    })
}

/// Bytes of the tensors of a variant, by the dtype that each is stored in.
fn by_dtype(variant: &Variant) -> BTreeMap<&'static str, u64> {
    let mut sums = BTreeMap::new();
    for entry in variant.tensors.values() {
        *sums.entry(entry.dtype.as_str()).or_default() += entry.bytes();
    }
    sums
}

fn is_manifest(path: &Path) -> bool {
    path.is_dir() || path.extension().is_some_and(|e| e == "json")
}

pub fn run(a: &Arguments) -> Result<()> {
    let mut manifest: Option<Manifest> = None;
    let mut taken = None;
    let network = match (&a.preset, &a.path) {
        (Some(name), _) => Network::Uvit(preset(name)?),
        (None, Some(path)) if a.config.is_none() && is_manifest(path) => {
            manifest.insert(read_manifest(path)?.0).network()?
        }
        (None, Some(path)) => {
            let config = a.config.as_ref().ok_or_else(|| {
                let remedy = "Give --config FILE with the architecture's parameters";
                Error::new(Code::InvalidArgument, "a checkpoint does not say its architecture", remedy)
            })?;
            let network = describe(&read_text(config)?, None, None)?.network()?;
            taken = checkpoint::take(path, &network, &a.weights)?.report;
            network
        }
        (None, None) => return Err(Error::internal("neither a path nor a preset")),
    };
    let batch = Batch { images: a.batch, copies: if a.guidance { 2 } else { 1 } };
    let plan = network.record(batch)?.plan;
    let program = lower(&plan, &Capabilities::WEBGPU, &[])?;
    let parameters: usize = plan.weights.iter().map(|w| w.shape.iter().product::<usize>()).sum();
    let multiply_adds = program.cost().multiply_adds;
    let variants: Vec<serde_json::Value> = manifest
        .iter()
        .flat_map(|m| &m.variants)
        .map(|v| {
            serde_json::json!({
                "dtype": v.dtype, "group": v.group, "bytes": v.bytes, "shards": v.shards.len(), "bytesByDtype": by_dtype(v),
            })
        })
        .collect();
    let Network::Uvit(params) = &network else { return Err(Error::internal("an unknown network")) };
    let report = serde_json::json!({
        "name": manifest.as_ref().map(|m| m.name.clone()).or(a.preset.clone()),
        "architecture": "uvit",
        "params": params,
        "parameters": parameters,
        "tensors": plan.weights.len(),
        "items": batch.items(),
        "multiplyAdds": multiply_adds,
        "gflops": 2e-9 * multiply_adds as f64,
        "dispatches": program.kernels.len(),
        "peakActivationBytes": program.activation_bytes(),
        "arenaBytes": program.slab_bytes.iter().sum::<usize>(),
        "largestLiveBytes": program.peak_live_bytes,
        "bytes": { "f32": 4 * parameters, "f16": 2 * parameters },
        "variants": variants,
        "weights": taken,
    });
    if a.json {
        return say!("{report}");
    }
    let name = report["name"].as_str().unwrap_or("checkpoint");
    say!("{name}: uvit, {:.2} M parameters in {} tensors", parameters as f64 / 1e6, plan.weights.len())?;
    if let Some(taken) = taken {
        say!("  {taken}")?;
    }
    say!("  {}", report["params"])?;
    say!(
        "one forward of {} items: {:.3} G multiply-adds ({:.2} GFLOP), {} dispatches, {:.2} MB of activations",
        batch.items(),
        multiply_adds as f64 / 1e9,
        2e-9 * multiply_adds as f64,
        program.kernels.len(),
        program.activation_bytes() as f64 / 1e6
    )?;
    for variant in manifest.iter().flat_map(|m| &m.variants) {
        let megabytes = variant.bytes as f64 / 1e6;
        let parts = by_dtype(variant);
        let parts = parts.iter().map(|(dtype, bytes)| format!("{dtype} {:.2} MB", *bytes as f64 / 1e6));
        let parts = parts.collect::<Vec<_>>().join(", ");
        say!("  {:4} {megabytes:8.2} MB in {} shards: {parts}", variant.dtype.as_str(), variant.shards.len())?;
    }
    if a.tensors {
        for weight in &plan.weights {
            say!("  {:50} {:?}", weight.name, weight.shape)?;
        }
    }
    Ok(())
}
