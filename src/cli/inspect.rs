//! `uvit inspect`.

use super::output::say;
use super::{read_text, refusal, sizes};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use uvit_web::json::Write;
use uvit_web::model::{Batch, Port, Recording};
use uvit_web::package::{Component, DENOISER, Manifest, describe, preset, read_manifest, recognise};
use uvit_web::plan::lower;
use uvit_web::weights::Variant;
use uvit_web::weights::checkpoint::{self, Weights};
use uvit_web::{Error, Result};

#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Arguments {
    /// A manifest.json or its folder, or a checkpoint
    #[arg(required_unless_present = "preset")]
    path: Option<PathBuf>,
    /// The checkpoint's configuration. Without it: that of the published model whose tensors it has
    #[arg(long)]
    config: Option<PathBuf>,
    /// Which weights of a checkpoint that holds several: auto (EMA if there are some), ema, model or a key
    #[arg(long, default_value = "auto", value_name = "auto|ema|model|KEY")]
    weights: Weights,
    /// A published model without any file, one of `uvit presets`
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

/// Bytes of the tensors of a variant, by the dtype that each is stored in.
fn by_dtype(variant: &Variant) -> BTreeMap<&'static str, u64> {
    let mut sums = BTreeMap::new();
    for entry in variant.tensors.values() {
        *sums.entry(entry.dtype.as_str()).or_default() += entry.bytes();
    }
    sums
}

/// What lies in a model's folder.
fn in_json(manifest: &Manifest) -> Result<serde_json::Value> {
    let variant = |v: &Variant| {
        serde_json::json!({
            "dtype": v.dtype.write(), "group": v.group, "bytes": v.bytes, "shards": v.shards.len(), "bytesByDtype": by_dtype(v),
        })
    };
    let unused: Vec<&str> = manifest.unused().collect();
    let component = |(name, c): (&str, &Component)| {
        let variants: Vec<serde_json::Value> = c.variants.iter().map(variant).collect();
        let used = !unused.contains(&name);
        let described = serde_json::json!({
            "architecture": c.architecture, "params": c.params, "used": used, "variants": variants,
        });
        (name.to_owned(), described)
    };
    Ok(serde_json::json!({
        "task": manifest.task.write(),
        "components": manifest.components.iter().map(component).collect::<serde_json::Map<_, _>>(),
        "assets": manifest.assets.write(),
        "modelHash": hashes(manifest)?,
    }))
}

/// The model hash by the dtype that is asked for.
fn hashes(manifest: &Manifest) -> Result<BTreeMap<&'static str, String>> {
    let variants = manifest.components.iter().flat_map(|(_, component)| &component.variants);
    variants.map(|variant| Ok((variant.dtype.as_str(), manifest.model_hash(Some(variant.dtype))?))).collect()
}

fn print_stored(manifest: &Manifest) -> Result<()> {
    say!("task {}", manifest.task.as_str())?;
    let unused: Vec<&str> = manifest.unused().collect();
    for (name, component) in manifest.components.iter() {
        let note = if unused.contains(&name) { " (this build does not use it)" } else { "" };
        say!("component {name}: {}{note}", component.architecture)?;
        for variant in &component.variants {
            let megabytes = variant.bytes as f64 / 1e6;
            let parts = by_dtype(variant);
            let parts = parts.iter().map(|(dtype, bytes)| format!("{dtype} {:.2} MB", *bytes as f64 / 1e6));
            let parts = parts.collect::<Vec<_>>().join(", ");
            say!("  {:4} {megabytes:8.2} MB in {} shards: {parts}", variant.dtype.as_str(), variant.shards.len())?;
        }
    }
    if manifest.preview.is_some() {
        say!("preview: a linear map of the latents")?;
    }
    for (name, asset) in manifest.assets.iter() {
        say!("asset {name}: {}, {:.2} MB", asset.file, asset.bytes as f64 / 1e6)?;
    }
    for (dtype, hash) in hashes(manifest)? {
        say!("model hash as {dtype}: {hash}")?;
    }
    Ok(())
}

/// The network's ports with the shapes that one forward gives them.
fn ports(recording: &Recording) -> Vec<(&'static str, &'static str, &[usize])> {
    let port = |port: &Port| (port.name, port.kind.as_str(), recording.plan.shape(port.tensor));
    recording.ports.iter().map(port).collect()
}

fn is_manifest(path: &Path) -> bool {
    path.is_dir() || path.extension().is_some_and(|e| e == "json")
}

pub fn run(a: &Arguments) -> Result<()> {
    let mut manifest: Option<Manifest> = None;
    // Without weights.
    let mut described: Option<Manifest> = None;
    let mut name = a.preset.clone();
    let mut taken = None;
    let network = match (&a.preset, &a.path) {
        (Some(name), _) => described.insert(preset(name)?.manifest()?).network(DENOISER)?,
        (None, Some(path)) if a.config.is_none() && is_manifest(path) => {
            manifest.insert(read_manifest(path)?.0).network(DENOISER)?
        }
        (None, Some(path)) => {
            let network = match &a.config {
                Some(config) => described.insert(describe(&read_text(config)?, None, None)?).network(DENOISER)?,
                None => {
                    let (preset, _) = recognise(path)?;
                    name = Some(preset.name.clone());
                    described.insert(preset.manifest()?).network(DENOISER)?
                }
            };
            taken = checkpoint::find(path, &network, &a.weights)?.report;
            network
        }
        (None, None) => return Err(Error::internal("neither a path nor a preset")),
    };
    let batch = Batch::copied(a.batch, if a.guidance { 2 } else { 1 });
    let recording = network.record(batch)?;
    let plan = &recording.plan;
    let ports = ports(&recording);
    let program = sizes::least(|capabilities| lower(plan, capabilities, &[]))?;
    let parameters: usize = plan.published().map(|w| w.shape.iter().product::<usize>()).sum();
    let multiply_adds = program.cost().multiply_adds;
    let stored = manifest.as_ref().map(in_json).transpose()?.unwrap_or_default();
    let sizes = manifest.as_ref().or(described.as_ref()).map(|manifest| sizes::of(manifest, a.batch)).transpose()?;
    let report = serde_json::json!({
        "name": manifest.as_ref().map(|m| m.name.clone()).or(name),
        "architecture": network.architecture(),
        "params": network.params(),
        "parameters": parameters,
        "tensors": plan.published().count(),
        "ports": ports.iter().map(|(name, kind, shape)| serde_json::json!({ "name": name, "kind": kind, "shape": shape }))
            .collect::<Vec<_>>(),
        "items": batch.items(),
        "multiplyAdds": multiply_adds,
        "gflops": 2e-9 * multiply_adds as f64,
        "dispatches": program.kernels.len(),
        "peakActivationBytes": program.activation_bytes(),
        "arenaBytes": program.slab_bytes.iter().sum::<usize>(),
        "largestLiveBytes": program.peak_live_bytes,
        "bytes": { "f32": 4 * parameters, "f16": 2 * parameters },
        "variants": stored["components"][DENOISER]["variants"],
        "stored": stored,
        "sizes": sizes.as_ref().map(sizes::Sizes::in_json),
        "weights": taken,
    });
    if a.json {
        return say!("{report}");
    }
    let name = report["name"].as_str().unwrap_or("checkpoint");
    let (architecture, millions) = (network.architecture(), parameters as f64 / 1e6);
    say!("{name}: {architecture}, {millions:.2} M parameters in {} tensors", plan.published().count())?;
    if let Some(taken) = taken {
        say!("  {taken}")?;
    }
    say!("  {}", report["params"])?;
    ports.iter().try_for_each(|(name, kind, shape)| say!("  port {name}: {kind} {shape:?}"))?;
    say!(
        "one forward of {} items: {:.3} G multiply-adds ({:.2} GFLOP), {} dispatches, {:.2} MB of activations",
        batch.items(),
        multiply_adds as f64 / 1e9,
        2e-9 * multiply_adds as f64,
        program.kernels.len(),
        program.activation_bytes() as f64 / 1e6
    )?;
    if let Some(manifest) = &manifest {
        print_stored(manifest)?;
    }
    if let Some(sizes) = &sizes {
        sizes.print(a.batch)?;
    }
    if a.tensors {
        for weight in plan.published() {
            say!("  {:50} {:?}", weight.name, weight.shape)?;
        }
    }
    Ok(())
}
