//! `uvit bench`: how long a forward takes, and on a GPU which kernels take it.

use super::generate::Place;
use super::load::load_denoiser;
use super::output::{self, say};
use super::{rates, read_text, records, refusal, tokens};
use std::path::{Path, PathBuf};
use std::time::Instant;
use uvit_web::gpu::kernels::{AttentionTile, MatmulTile, Tuning};
use uvit_web::gpu::{Profile, roofline};
use uvit_web::json::{Fields, Value, Write};
use uvit_web::model::{Batch, Network, PortKind};
use uvit_web::package::preset;
use uvit_web::pipeline::{Component, LoadOptions, Opened, Wanted, open_device};
use uvit_web::plan::WeightUse;
use uvit_web::runtime::{Loading, Tuned};
use uvit_web::sampler::TorchGenerator;
use uvit_web::weights::{Dtype, random};
use uvit_web::{Code, Error, Result};

#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Arguments {
    /// A manifest.json or its folder
    #[arg(required_unless_present_any = ["preset", "config", "convolutions", "captions"])]
    model: Option<PathBuf>,
    /// A published architecture with random weights; `uvit presets` lists them
    #[arg(long, conflicts_with_all = ["model", "config"])]
    preset: Option<String>,
    /// Any architecture with random weights: its parameters as JSON
    #[arg(long, conflicts_with = "model")]
    config: Option<PathBuf>,
    /// In place of a network 3x3 convolutions, beside Linears of as many inputs and outputs; stored as --dtype says, else q8
    #[arg(long, conflicts_with_all = ["model", "preset", "config", "batch", "roofline", "json"])]
    convolutions: bool,
    /// In place of a network UniDiffuser's caption decoder, a token at a time, beside the time that reading its weights takes
    #[arg(long, conflicts_with_all = ["model", "preset", "config", "batch", "roofline", "json", "convolutions"])]
    captions: bool,
    /// Images a forward
    #[arg(long, default_value_t = 1, value_parser = refusal::images)]
    batch: usize,
    #[command(flatten)]
    place: Place,
    /// Forwards; the median counts
    #[arg(long, default_value_t = 5, value_parser = refusal::some)]
    repeats: usize,
    /// Also draw the profile's roofline into this SVG file
    #[arg(long)]
    roofline: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Arguments) -> Result<()> {
    if let Some(path) = &a.roofline {
        output::check(path)?;
    }
    let options = a.place.options();
    if a.convolutions {
        return rates::run(&options, options.dtype.unwrap_or(Dtype::Q8), a.repeats);
    }
    if a.captions {
        let (mut component, _) = unloaded(tokens::network()?, &options)?;
        return tokens::run(&mut component, options.dtype.unwrap_or(Dtype::Q8), a.repeats);
    }
    let (mut component, tuned) = match (&a.model, &a.preset, &a.config) {
        (Some(path), ..) => {
            let pipeline = load_denoiser(path, options)?;
            let tuned = pipeline.info().device.tuned.clone();
            (pipeline.into_component()?, tuned)
        }
        (None, Some(name), _) => unloaded(preset(name)?.network()?, &options)?,
        (None, None, Some(path)) => unloaded(described(path)?, &options)?,
        (None, None, None) => return Err(Error::internal("neither a model nor an architecture")),
    };
    let (device, compute) = (component.weights().device(), component.weights().compute());
    if a.roofline.is_some() && device.as_gpu().is_none() {
        let cause = "only GPUs are profiled, and this runs on the CPU";
        return Err(Error::new(Code::InvalidArgument, cause, "Give --device gpu, or leave --roofline out"));
    }
    let batch = a.batch;
    let (kernels, multiply_adds, times, profile) = pollster::block_on(async {
        let (recording, session) = component.prepare(Batch::plain(batch)).await?;
        for port in &recording.ports {
            let elements = session.program().view(port.tensor).elements();
            match port.kind {
                PortKind::Latents | PortKind::Floats => {
                    session.write(port.tensor, &TorchGenerator::new(0).randn_f32(elements))?;
                }
                PortKind::Time => session.write_times(port.tensor, &vec![500.0; batch])?,
                PortKind::Indices { .. } => session.write_indices(port.tensor, &vec![0; batch])?,
                PortKind::Output => {}
            }
        }
        let mut times = Vec::new();
        // The first forward compiles.
        for _ in 0..=a.repeats {
            let began = Instant::now();
            session.forward(&|| false).await?;
            device.finished().await?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let profile = match session.as_gpu() {
            Some(gpu) => Some(gpu.profile().await?),
            None => None,
        };
        let program = session.program();
        Ok::<_, Error>((program.kernels.len(), program.cost().multiply_adds, times, profile))
    })?;
    let first_ms = times[0];
    let mut times = times[1..].to_vec();
    times.sort_by(f64::total_cmp);
    let ms = times[times.len() / 2];
    let gflops = 2e-6 * multiply_adds as f64 / ms;
    let adapter = device.as_gpu().map(|gpu| gpu.backend().adapter().clone());
    if let (Some(path), Some(profile)) = (&a.roofline, &profile) {
        output::write(path, roofline(profile).as_bytes())?;
    }
    if a.json {
        let row = serde_json::json!({
            "adapter": adapter.write(), "batch": batch, "compute": compute.as_str(), "threads": device.threads(),
            "kernels": kernels, "multiplyAdds": multiply_adds, "firstMs": first_ms, "ms": ms, "allMs": times,
            "gflops": gflops, "tuned": tuned.write(), "profile": profile.write(),
        });
        say!("{row}")?;
        return Ok(());
    }
    match &adapter {
        Some(adapter) => say!("{}, {} ({})", adapter.vendor, adapter.architecture, adapter.description)?,
        None => say!("cpu, {}, {} threads", compute.as_str(), device.threads())?,
    }
    if let Some(tuned) = tuned {
        trials(&tuned)?;
    }
    say!("batch {}: {ms:.1} ms a forward, {gflops:.1} GFLOP/s; the first took {first_ms:.0} ms", batch)?;
    if let Some(profile) = profile {
        table(&profile)?;
    }
    Ok(())
}

/// The network of a configuration, which need not say how to sample.
fn described(path: &Path) -> Result<Network> {
    let bad = |what: String| {
        let cause = format!("{}: {what}", path.display());
        Error::new(Code::InvalidArgument, cause, "See docs/format.md for what it must hold")
    };
    let params: Value = serde_json::from_str(&read_text(path)?).map_err(|e| bad(e.to_string()))?;
    let architecture =
        Fields::of(&params).and_then(|fields| fields.or("architecture", "uvit".to_owned())).map_err(bad)?;
    Network::of(&architecture, &params)
}

/// The architecture on the device asked for, with random weights.
fn unloaded(network: Network, options: &LoadOptions) -> Result<(Component, Option<Tuned>)> {
    let kind = match options.dtype.unwrap_or(Dtype::Q8) {
        Dtype::Q4 => (Dtype::Q4, 32),
        dtype => (dtype, 0),
    };
    let plan = network.record(Batch::plain(1))?.plan;
    let stored: Vec<(Dtype, usize)> =
        plan.weights.iter().map(|w| if w.usage == WeightUse::Matrix { kind } else { (Dtype::F32, 0) }).collect();
    pollster::block_on(async {
        let batch = Batch::copied(1, if network.classes() > 0 { 2 } else { 1 });
        let wanted = [Wanted { network: &network, stored: &stored, batch }];
        let Opened { device, compute, info } = open_device(options, &wanted).await?;
        if let Some(new) = info.tuned.as_ref().and_then(|tuned| tuned.records.as_deref()) {
            records::write(new);
        }
        let mut generator = TorchGenerator::new(0);
        let mut loading = Loading::new(&device, compute)?;
        for (id, weight, form) in plan.loads(compute) {
            let kind = (weight.usage == WeightUse::Matrix).then_some(kind);
            let tensor = random::tensor(&weight.name, &weight.shape, kind, &mut generator);
            loading.load(id, weight, form, &tensor).await?;
        }
        Ok((Component::new(network, loading.finish().await?, stored, Vec::new()), info.tuned))
    })
}

/// What the tuner tried.
fn trials(tuned: &Tuned) -> Result<()> {
    let Tuning { matmul, attention, .. } = tuned.tuning;
    let (chosen, how) = (tile(&matmul, &attention), if tuned.remembered { "remembered" } else { "chosen" });
    say!("{how}: matmul {}, attention {}, in {:.0} ms", chosen.0, chosen.1, tuned.ms)?;
    if tuned.trials.is_empty() {
        return Ok(());
    }
    say!("| matmul | ms | attention | ms | |\n|---|---|---|---|---|")?;
    let ms = |time: Option<f64>| time.map_or_else(|| "-".into(), |ms| format!("{ms:.3}"));
    for trial in &tuned.trials {
        let (matmul, attention) = tile(&trial.tuning.matmul, &trial.tuning.attention);
        let error = trial.error.as_deref().unwrap_or_default();
        say!("| {matmul} | {} | {attention} | {} | {error} |", ms(trial.matmul_ms), ms(trial.attention_ms))?;
    }
    Ok(())
}

/// Tiles in words: rows x columns.
fn tile(matmul: &MatmulTile, attention: &AttentionTile) -> (String, String) {
    let lanes = match (matmul.lanes, matmul.tile) {
        (1, 0) => String::new(),
        (lanes, 0) => format!(", {lanes} lanes"),
        (_, tile) => format!(", {tile} x {tile} together"),
    };
    (
        format!("{} x {}{lanes}", matmul.rows, 4 * matmul.columns),
        format!(
            "{} queries x {} keys{}",
            attention.queries,
            4 * attention.keys4,
            if attention.shared { ", shared" } else { "" }
        ),
    )
}

/// Kernels of one kind and size together, the most expensive first.
fn table(profile: &Profile) -> Result<()> {
    let rows = profile.rows();
    let total: f64 = rows.iter().map(|row| row.nanoseconds).sum();
    say!("{} clock; peak in registers {:.1} GFLOP/s", profile.clock, 2e-9 * profile.peak)?;
    say!(
        "| kernel | sizes | launches | ms | share | GFLOP/s | of the peak | GB/s |\n|---|---|---|---|---|---|---|---|"
    )?;
    for row in &rows {
        let gflops = 2.0 * row.multiply_adds as f64 / row.nanoseconds;
        say!(
            "| {} | {} | {} | {:.3} | {:.1}% | {gflops:.1} | {:.1}% | {:.2} |",
            row.kernel,
            row.shape,
            row.launches,
            row.nanoseconds * 1e-6,
            100.0 * row.nanoseconds / total,
            100e9 * gflops / (2.0 * profile.peak),
            row.bytes as f64 / row.nanoseconds,
        )?;
    }
    say!("| all | | {} | {:.3} | | | | |", profile.kernels.len(), total * 1e-6)
}
