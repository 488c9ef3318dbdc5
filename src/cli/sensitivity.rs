//! `uvit sensitivity`: what coarse activations cost, one kind of layer at a time. `docs/arithmetic.md` holds its table.

use super::load::load;
use super::output::say;
use super::quality::{cosine, draw_pictures, noised};
use super::refusal;
use std::collections::BTreeMap;
use std::path::PathBuf;
use uvit_web::model::Batch;
use uvit_web::package::{DENOISER, read_manifest, read_shards, reader};
use uvit_web::pipeline::{ComputeChoice, DeviceChoice, LoadOptions, Pipeline};
use uvit_web::plan::{Compute, Plan, Precision, WeightUse, lower};
use uvit_web::runtime::{Device, Loading, Session};
use uvit_web::simd::Threads;
use uvit_web::weights::Tensor;
use uvit_web::{Error, Result};

#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Arguments {
    /// The model: a manifest.json or its folder
    #[arg(default_value = "web/models/emoji")]
    model: PathBuf,
    /// Forwards to compare, at times spread evenly
    #[arg(long, default_value_t = 24, value_parser = refusal::some)]
    forwards: usize,
}

/// Outputs of the same forwards in one arithmetic.
struct Measured {
    outputs: Vec<Vec<f32>>,
}

pub fn run(a: &Arguments) -> Result<()> {
    let (manifest, folder) = read_manifest(&a.model)?;
    let options = LoadOptions {
        device: DeviceChoice::Cpu,
        compute: ComputeChoice::Fixed(Compute::F32),
        ..LoadOptions::default()
    };
    let mut pipeline = load(&a.model, options)?;
    let pictures = draw_pictures(&mut pipeline, a.forwards)?;
    let mut reader = reader(&manifest, DENOISER, None)?;
    let mut tensors = Vec::new();
    read_shards(&folder, &mut reader, |tensor| {
        tensors.push(tensor);
        Ok(())
    })?;

    let plan = pipeline.network().record(Batch::plain(1))?.plan;
    let mut shares: BTreeMap<String, f64> = BTreeMap::new();
    for weight in plan.weights.iter().filter(|w| w.usage == WeightUse::Matrix && w.precision != Precision::Float) {
        *shares.entry(kind(&weight.name)).or_default() += weight.shape.iter().product::<usize>() as f64;
    }
    let all: f64 = shares.values().sum();
    let mut measure = |compute: Compute, precision: &dyn Fn(&str) -> Precision| {
        measure(&mut pipeline, &tensors, &pictures, compute, precision)
    };
    let exact = measure(Compute::F32, &|_| Precision::Wide)?;
    say!("| 8 bits for the inputs of | share of multiply-adds | relative error | worst cosine |\n|---|---|---|---|")?;
    let mut row = |name: &str, share: f64, precision: &dyn Fn(&str) -> Precision| -> Result<()> {
        let got = measure(Compute::Fast, precision)?;
        let (error, worst) = got.against(&exact);
        say!("| {name} | {:.0}% | {:.2}% | {worst:.6} |", 100.0 * share, 100.0 * error)
    };
    row("none (12 bits everywhere)", 0.0, &|_| Precision::Wide)?;
    for (name, share) in &shares {
        row(name, share / all, &|kind| if kind == name { Precision::Narrow } else { Precision::Wide })?;
    }
    row("all but fc2", 1.0 - shares.get("fc2").unwrap_or(&0.0) / all, &|kind| {
        if kind == "fc2" { Precision::Wide } else { Precision::Narrow }
    })?;
    row("all", 1.0, &|_| Precision::Narrow)
}

/// The last part of a layer's name.
fn kind(weight: &str) -> String {
    weight.trim_end_matches(".weight").rsplit('.').next().unwrap_or(weight).to_owned()
}

impl Measured {
    /// The root mean square of the error over that of the values, and the worst cosine.
    fn against(&self, exact: &Measured) -> (f64, f64) {
        let (mut off, mut size, mut worst) = (0.0, 0.0, 1f64);
        for (a, b) in self.outputs.iter().zip(&exact.outputs) {
            off += a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            size += b.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>();
            worst = worst.min(cosine(a, b));
        }
        ((off / size).sqrt(), worst)
    }
}

/// Forwards with the precision of each layer chosen by its kind.
fn measure(
    pipeline: &mut Pipeline,
    tensors: &[Tensor],
    pictures: &[Vec<f32>],
    compute: Compute,
    precision: &dyn Fn(&str) -> Precision,
) -> Result<Measured> {
    let mut recording = pipeline.network().record(Batch::plain(1))?;
    choose(&mut recording.plan, precision);
    let mut loading = Loading::new(&Device::cpu(Threads::all()), compute)?;
    for (id, weight, form) in recording.plan.loads(compute) {
        let tensor = tensors.iter().find(|t| t.name == weight.name);
        let tensor = tensor.ok_or_else(|| Error::internal(format!("no tensor {}", weight.name)))?;
        pollster::block_on(loading.load(id, weight, form, tensor))?;
    }
    let weights = pollster::block_on(loading.finish())?;
    let program = lower(&recording.plan, &weights.capabilities(), &[])?;
    let mut session = pollster::block_on(Session::new(&weights, program, None))?;
    let network = recording.picture()?;
    let labels: Vec<u32> = pipeline.manifest().labels.iter().map(|l| l.index).collect();
    let mut outputs = Vec::new();
    for (k, picture) in pictures.iter().enumerate() {
        let (x, time) = noised(pipeline, picture, k, pictures.len())?;
        session.write(network.input, &x)?;
        session.write_times(network.time, &[time])?;
        if let (Some(id), false) = (recording.label(), labels.is_empty()) {
            session.write_indices(id, &[labels[k * labels.len() / pictures.len()]])?;
        }
        pollster::block_on(session.forward(&|| false))?;
        outputs.push(pollster::block_on(session.read(network.output))?);
    }
    Ok(Measured { outputs })
}

fn choose(plan: &mut Plan, precision: &dyn Fn(&str) -> Precision) {
    for weight in &mut plan.weights {
        if weight.precision != Precision::Float {
            weight.precision = precision(&kind(&weight.name));
        }
    }
}
