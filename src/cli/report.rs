//! `uvit convert --report`: what each stored form of each component costs, against the same network in f32 on the same inputs.

use super::convert::Part;
use super::examples::{Examples, Given, Texts, conditions, exact, walk};
use super::output::say;
use std::path::Path;
use uvit_web::Result;
use uvit_web::model::{Batch, PortKind, Recording};
use uvit_web::package::{
    DECODER, DENOISER, ENCODER, Manifest, PREVIEW_DECODER, TEXT_ENCODER, TEXT_PROJECTOR, read_shards, reader,
};
use uvit_web::pipeline::{NamedTensor, Values};
use uvit_web::plan::{Compute, lower};
use uvit_web::runtime::{Device, Loading, Session, Weights};
use uvit_web::sampler::TorchGenerator;
use uvit_web::simd::Threads;

/// In the order in which one component's results are the next one's inputs.
const ORDER: [&str; 6] = [TEXT_ENCODER, TEXT_PROJECTOR, DENOISER, DECODER, PREVIEW_DECODER, ENCODER];

/// Pictures that are drawn for it.
const PICTURES: usize = 4;

/// Forwards of the denoiser that are compared, of all that drawing them takes.
const FORWARDS: usize = 8;

/// Prints a table: relative errors over all values of all outputs, and for pictures the PSNR.
pub fn print(out: &Path, manifest: &Manifest, parts: &mut [Part<'_>], texts: Option<&Texts>) -> Result<()> {
    say!("| component | dtype | MB | output | relative error | PSNR |\n|---|---|---|---|---|---|")?;
    let (mut latents, mut pictures) = (Vec::new(), Vec::new());
    for name in ORDER {
        let Some(part) = parts.iter_mut().find(|part| part.source.component == name) else { continue };
        let [_, height, width] = manifest.network(DENOISER)?.image_shape();
        let image = |port: &'static str, values: &Vec<f32>| {
            vec![Given::once(NamedTensor::new(port, Values::Floats(values.clone())))]
        };
        let weights = exact(&part.network, &mut part.found)?;
        let mut batch = Batch::plain(PICTURES);
        let forwards = match name {
            DENOISER => {
                let recording = part.network.record(batch)?;
                let (forwards, drawn) = draw(&weights, &recording, part, manifest, texts)?;
                latents = drawn;
                forwards
            }
            DECODER | PREVIEW_DECODER => {
                batch.size = Some([height, width]);
                image("z", &latents)
            }
            // There is no decoder that would have made some.
            ENCODER if pictures.is_empty() => continue,
            ENCODER => {
                let [_, height, width] = manifest.picture_shape()?;
                batch.size = Some([height, width]);
                image("image", &pictures)
            }
            _ => match texts.and_then(|texts| texts.examples(name)) {
                Some(Examples::Ready(items, forwards)) => {
                    batch = Batch::plain(items);
                    forwards
                }
                _ => continue,
            },
        };
        let recording = part.network.record(batch)?;
        let want = outputs(&weights, &recording, &forwards)?;
        drop(weights);
        if name == DECODER {
            pictures = want.first().map(|(_, values)| values.clone()).unwrap_or_default();
        }
        for variant in &manifest.component(name)?.variants {
            let got = outputs(&stored(out, manifest, name, variant.dtype)?, &recording, &forwards)?;
            for ((output, want), (_, got)) in want.iter().zip(&got) {
                let psnr = if name.ends_with(DECODER) {
                    format!("{:.1} dB", super::quality::psnr(got, want))
                } else {
                    String::new()
                };
                let megabytes = variant.bytes as f64 / 1e6;
                let dtype = variant.dtype.as_str();
                say!("| {name} | {dtype} | {megabytes:.2} | {output} | {:.5} | {psnr} |", relative(got, want))?;
            }
        }
    }
    Ok(())
}

/// What the denoiser is given while it draws, every so many forwards of it, and the latents that come out.
fn draw(
    weights: &Weights,
    recording: &Recording,
    part: &Part<'_>,
    manifest: &Manifest,
    texts: Option<&Texts>,
) -> Result<(Vec<Given>, Vec<f32>)> {
    let sampling = &manifest.sampling;
    let program = lower(&recording.plan, &weights.capabilities(), &[])?;
    let mut session = pollster::block_on(Session::new(weights, program, None))?;
    let given = conditions(&part.network, recording, (0, PICTURES), texts, sampling.time_scale);
    let mut forwards = Vec::new();
    let noise = TorchGenerator::new(0);
    let latents = walk(&mut session, recording, &sampling.settings(), given, noise, &mut |_, given| {
        forwards.push(given);
        Ok(())
    })?;
    let every = forwards.len().div_ceil(FORWARDS).max(1);
    Ok((forwards.into_iter().step_by(every).collect(), latents))
}

/// A component as it was written.
fn stored(out: &Path, manifest: &Manifest, name: &str, dtype: uvit_web::weights::Dtype) -> Result<Weights> {
    let plan = manifest.network(name)?.record(Batch::plain(1))?.plan;
    let mut loading = Loading::new(&Device::cpu(Threads::all()), Compute::F32)?;
    read_shards(out, &mut reader(manifest, name, Some(dtype))?, |tensor| {
        for (id, weight, form) in plan.loads(Compute::F32).filter(|(_, weight, _)| weight.name == tensor.name) {
            pollster::block_on(loading.load(id, weight, form, &tensor))?;
        }
        Ok(())
    })?;
    pollster::block_on(loading.finish())
}

/// All values of each output, over all forwards.
pub fn outputs(weights: &Weights, recording: &Recording, forwards: &[Given]) -> Result<Vec<(&'static str, Vec<f32>)>> {
    let program = lower(&recording.plan, &weights.capabilities(), &[])?;
    let mut session = pollster::block_on(Session::new(weights, program, None))?;
    let ports = recording.ports.iter().filter(|port| port.kind == PortKind::Output);
    let mut all: Vec<_> = ports.map(|port| (port, Vec::new())).collect();
    for given in forwards {
        given.write(&mut session, recording)?;
        pollster::block_on(session.forward(&|| false))?;
        for (port, values) in &mut all {
            values.extend(pollster::block_on(session.read(port.tensor))?);
        }
    }
    Ok(all.into_iter().map(|(port, values)| (port.name, values)).collect())
}

/// ||a - b|| over ||b||.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    let off: f64 = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    let size: f64 = b.iter().map(|&b| f64::from(b).powi(2)).sum();
    (off / size.max(1e-30)).sqrt()
}
