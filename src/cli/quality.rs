//! `uvit quality`: what quantisation costs, against the same model in f32.

use super::load::load;
use super::output::say;
use super::refusal;
use std::io::Write;
use std::path::PathBuf;
use uvit_web::model::Batch;
use uvit_web::named::Named;
use uvit_web::package::{Component, DENOISER, Storing, Writer, read_manifest};
use uvit_web::pipeline::sampling::Control;
use uvit_web::pipeline::{ComputeChoice, DeviceChoice, LabelChoice, LoadOptions, Pipeline, Preset, Request};
use uvit_web::plan::Compute;
use uvit_web::sampler::TorchGenerator;
use uvit_web::weights::Dtype;
use uvit_web::weights::checkpoint::{self, Weights};
use uvit_web::{Code, Error, Result};

#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Arguments {
    /// The model: a manifest.json or its folder
    #[arg(default_value = "web/models/emoji")]
    model: PathBuf,
    /// The f32 checkpoint that it was converted from; if not given, NAME/NAME.safetensors in the folder UVIT_MODELS
    /// (../shared/models if unset), NAME being the model's
    #[arg(long, conflicts_with = "savings")]
    reference: Option<PathBuf>,
    /// Which weights of a reference that holds several: auto (EMA if there are some), ema, model or a key
    #[arg(long, default_value = "auto", value_name = "auto|ema|model|KEY")]
    weights: Weights,
    /// Pictures to draw, seeds 0 .., labels spread evenly
    #[arg(long, default_value_t = 24, value_parser = refusal::some)]
    pictures: usize,
    /// Which stored dtypes (all of the manifest's if not given)
    #[arg(long)]
    dtype: Vec<Dtype>,
    /// cpu, gpu or auto
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Which arithmetic (all that the device has if not given)
    #[arg(long)]
    compute: Vec<Compute>,
    /// Instead: what the savings cost (presets, guidance interval, block cache), against the same variant without them
    #[arg(long)]
    savings: bool,
    /// Print JSON, one row a line
    #[arg(long)]
    json: bool,
}

/// Where the f32 checkpoint of a model lies beside this project.
fn beside(name: &str) -> PathBuf {
    let folder = std::env::var_os("UVIT_MODELS").map_or_else(|| PathBuf::from("../shared/models"), PathBuf::from);
    folder.join(name).join(format!("{name}.safetensors"))
}

/// Pictures and single forwards of one model.
struct Drawn {
    pictures: Vec<Vec<f32>>,
    forwards: Vec<Vec<f32>>,
}

pub fn run(a: &Arguments) -> Result<()> {
    if a.savings {
        return savings(a);
    }
    let (manifest, _) = read_manifest(&a.model)?;
    a.dtype.iter().try_for_each(|&dtype| manifest.variant(DENOISER, Some(dtype)).map(|_| ()))?;
    // The reference goes through the same loader: converted to an f32 variant in a temporary folder.
    let scratch = std::env::temp_dir().join(format!("uvit-quality-{}", std::process::id()));
    let network = manifest.network(DENOISER)?;
    let mut reference = manifest.clone();
    reference.components = Named::of(DENOISER, Component::new(&network));
    reference.assets = Named::default();
    let file = a.reference.clone().unwrap_or_else(|| beside(&manifest.name));
    let mut found = checkpoint::find(&file, &network, &a.weights)?;
    if let Some(report) = &found.report {
        let _ = writeln!(std::io::stderr(), "{}: {report}", file.display());
    }
    let storing = Storing::plain(Dtype::F32);
    let mut writer = Writer::new(&scratch, &[], true)?;
    writer.add(&mut reference, DENOISER, &storing, &mut found)?;
    writer.finish(&reference)?;
    let loaded = load(&scratch, options(a.device, Dtype::F32, Compute::F32));
    let _ = std::fs::remove_dir_all(&scratch);
    let mut reference = loaded?;
    let labels: Vec<u32> = manifest.labels.iter().map(|l| l.index).collect();
    let want = draw(&mut reference, a.pictures, &labels, None)?;
    drop(reference);

    if !a.json {
        say!("| dtype | compute | MB | PSNR mean | median | worst | worst cosine |\n|---|---|---|---|---|---|---|")?;
    }
    for variant in &manifest.component(DENOISER)?.variants {
        if !a.dtype.is_empty() && !a.dtype.contains(&variant.dtype) {
            continue;
        }
        for compute in computes(a) {
            let mut pipeline = load(&a.model, options(a.device, variant.dtype, compute))?;
            let got = draw(&mut pipeline, a.pictures, &labels, Some(&want.pictures))?;
            let mut psnr: Vec<f64> = got.pictures.iter().zip(&want.pictures).map(|(a, b)| psnr(a, b)).collect();
            psnr.sort_by(f64::total_cmp);
            let mean = psnr.iter().sum::<f64>() / psnr.len() as f64;
            let median = 0.5 * (psnr[(psnr.len() - 1) / 2] + psnr[psnr.len() / 2]);
            let cosine = got.forwards.iter().zip(&want.forwards).map(|(a, b)| cosine(a, b)).fold(1.0, f64::min);
            let dtype = variant.dtype.as_str();
            if a.json {
                let row = serde_json::json!({
                    "dtype": dtype, "compute": compute.as_str(), "bytes": variant.bytes, "psnr_db": mean, "psnr_median_db": median,
                    "psnr_worst_db": psnr[0], "worst_cosine": cosine,
                });
                say!("{row}")?;
            } else {
                let megabytes = variant.bytes as f64 / 1e6;
                say!(
                    "| {dtype} | {} | {megabytes:.2} | {mean:.2} dB | {median:.2} dB | {:.2} dB | {cosine:.6} |",
                    compute.as_str(),
                    psnr[0]
                )?;
            }
        }
    }
    Ok(())
}

fn options(device: DeviceChoice, dtype: Dtype, compute: Compute) -> LoadOptions {
    LoadOptions { device, dtype: Some(dtype), compute: ComputeChoice::Fixed(compute), ..LoadOptions::default() }
}

/// Those asked for, or all that the device has.
fn computes(a: &Arguments) -> Vec<Compute> {
    match a.device {
        _ if !a.compute.is_empty() => a.compute.clone(),
        DeviceChoice::Cpu => vec![Compute::F32, Compute::Quality, Compute::Fast],
        _ => vec![Compute::F32, Compute::W8A8],
    }
}

/// What generations may leave out, with the model's own guidance.
fn savings(a: &Arguments) -> Result<()> {
    let (manifest, _) = read_manifest(&a.model)?;
    let labels: Vec<u32> = manifest.labels.iter().map(|l| l.index).collect();
    if a.dtype.len() > 1 || a.compute.len() > 1 {
        let cause = "--savings compares with one dtype and one compute, and several are given";
        return Err(Error::new(Code::InvalidArgument, cause, "Give one of each, or none"));
    }
    let dtype = a.dtype.first().copied();
    let compute = a.compute.first().map_or(ComputeChoice::Auto, |&compute| ComputeChoice::Fixed(compute));
    let mut pipeline = load(&a.model, LoadOptions { device: a.device, dtype, compute, ..LoadOptions::default() })?;
    let mut draw = |saving: &Request| {
        let mut pictures = Vec::new();
        let (mut ms, mut work) = (0.0, 0);
        for k in 0..a.pictures {
            let label = label_of(&labels, k, a.pictures).map(LabelChoice::Index);
            let request = Request { label, seed: k as u32, ..saving.clone() };
            let mut control = Control { on_step: &mut |_| {}, stopped: &|| false };
            let drawn = pollster::block_on(pipeline.generate(&request, &mut control))?;
            // The first call compiles and allocates.
            ms += if k == 0 && a.pictures > 1 { 0.0 } else { drawn.timings.total_ms };
            work += drawn.multiply_adds;
            pictures.push(drawn.values);
        }
        Ok::<_, Error>((pictures, ms, work))
    };
    let plain = Request::default();
    let (want, whole_ms, whole_work) = draw(&plain)?;
    let interval = |low: f64, high: f64| Request { guidance_interval: Some([low, high]), ..plain.clone() };
    let mut all = vec![
        ("guidance 0 to 0.8", interval(0.0, 0.8)),
        ("guidance 0.2 to 1", interval(0.2, 1.0)),
        ("guidance 0.2 to 0.8", interval(0.2, 0.8)),
        ("guidance 0.4 to 0.8", interval(0.4, 0.8)),
        ("preset fast", Request { preset: Some(Preset::Fast), ..plain.clone() }),
        ("preset draft", Request { preset: Some(Preset::Draft), ..plain.clone() }),
    ];
    if manifest.sampling.cache.is_some() {
        all.push(("cache", Request { cache: true, ..plain.clone() }));
        all.push(("cache, guidance 0.2 to 0.8", Request { cache: true, ..interval(0.2, 0.8) }));
        let preset = Some(Preset::Fast);
        all.push(("all, preset fast", Request { cache: true, preset, ..interval(0.2, 0.8) }));
    }
    if !a.json {
        say!("| saving | multiply-adds | time | PSNR mean | median | worst |\n|---|---|---|---|---|---|")?;
    }
    for (name, request) in all {
        let (got, ms, work) = draw(&request)?;
        let mut psnr: Vec<f64> = got.iter().zip(&want).map(|(a, b)| psnr(a, b)).collect();
        psnr.sort_by(f64::total_cmp);
        let mean = psnr.iter().sum::<f64>() / psnr.len() as f64;
        let median = 0.5 * (psnr[(psnr.len() - 1) / 2] + psnr[psnr.len() / 2]);
        let (work, time) = (work as f64 / whole_work as f64, ms / whole_ms);
        if a.json {
            let row = serde_json::json!({
                "saving": name, "multiply_adds": work, "time": time, "psnr_db": mean, "psnr_median_db": median,
                "psnr_worst_db": psnr[0],
            });
            say!("{row}")?;
        } else {
            say!("| {name} | {work:.2} | {time:.2} | {mean:.1} dB | {median:.1} dB | {:.1} dB |", psnr[0])?;
        }
    }
    Ok(())
}

/// Pictures, and single forwards on the reference's pictures with noise.
fn draw(pipeline: &mut Pipeline, count: usize, labels: &[u32], clean: Option<&[Vec<f32>]>) -> Result<Drawn> {
    let pictures = draw_pictures(pipeline, count)?;
    let mut forwards = Vec::new();
    for (k, own) in pictures.iter().enumerate() {
        let (x, time) = noised(pipeline, clean.map_or(own, |clean| &clean[k]), k, count)?;
        let label = label_of(labels, k, count).filter(|_| pipeline.network().classes() > 0);
        let (recording, session) = pollster::block_on(pipeline.component()?.prepare(Batch::plain(1)))?;
        let network = recording.picture()?;
        session.write(network.input, &x)?;
        session.write_times(network.time, &[time])?;
        if let (Some(id), Some(label)) = (recording.label(), label) {
            session.write_indices(id, &[label])?;
        }
        pollster::block_on(session.forward(&|| false))?;
        forwards.push(pollster::block_on(session.read(network.output))?);
    }
    Ok(Drawn { pictures, forwards })
}

/// Label k m / n of m, rounded down.
fn label_of(labels: &[u32], k: usize, count: usize) -> Option<u32> {
    labels.get(k * labels.len() / count).copied()
}

/// Picture k of n: seed k, labels spread evenly, no guidance.
pub fn draw_pictures(pipeline: &mut Pipeline, count: usize) -> Result<Vec<Vec<f32>>> {
    let labels: Vec<u32> = pipeline.manifest().labels.iter().map(|l| l.index).collect();
    let bar = indicatif::ProgressBar::new(count as u64);
    let mut pictures = Vec::new();
    for k in 0..count {
        let request = Request {
            label: label_of(&labels, k, count).map(LabelChoice::Index),
            guidance_scale: Some(1.0),
            seed: k as u32,
            ..Request::default()
        };
        let mut control = Control { on_step: &mut |_| {}, stopped: &|| false };
        pictures.push(pollster::block_on(pipeline.generate(&request, &mut control))?.values);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(pictures)
}

/// Forward k of n: `x = alpha(t) picture + sigma(t) randn(5000 + k)`, `t = (k + 0.5) / n`; x and the network's time.
pub fn noised(pipeline: &Pipeline, picture: &[f32], k: usize, count: usize) -> Result<(Vec<f32>, f64)> {
    let sampling = &pipeline.manifest().sampling;
    let t = (k as f64 + 0.5) / count as f64;
    let level = sampling.schedule.curve()?.level(t);
    let noise = TorchGenerator::new(5000 + k as u64).randn_f32(picture.len());
    // Of clips, as the network takes them.
    let drawn = pipeline.network().sample().from_frames(picture);
    let mixed = drawn.iter().zip(noise);
    let x = mixed.map(|(p, n)| (level.alpha_t * f64::from(*p) + level.sigma_t * f64::from(n)) as f32).collect();
    Ok((x, sampling.time_scale * t))
}

/// Peak signal-to-noise ratio in dB, both clipped to [-1, 1], peak to peak 2.
pub fn psnr(a: &[f32], b: &[f32]) -> f64 {
    let clip = |v: f32| f64::from(v.clamp(-1.0, 1.0));
    let mse = a.iter().zip(b).map(|(&a, &b)| (clip(a) - clip(b)).powi(2)).sum::<f64>() / a.len() as f64;
    10.0 * (4.0 / mse.max(1e-20)).log10()
}

/// The cosine of the angle between two vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
