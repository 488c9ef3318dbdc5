//! DiT and Latte as whole models: packages of a denoiser and a decoder, from labels and seeds to pixels. The weights are those of the golden
//! cases `end_to_end_dit`, `latte` and `autoencoder_kl`, so of DiT what the published samplers gave is what comes out.
#![cfg(all(feature = "cli", feature = "gpu"))]

mod devices;
#[allow(dead_code)] // each test uses a part
#[path = "avatar_package/pipeline.rs"]
mod pipeline;

use pipeline::{draw, error, load, loaded, scratch};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use uvit_web::Code;
use uvit_web::model::Network;
use uvit_web::package::{Component, DECODER, DENOISER, Manifest, Storing, Writer, describe};
use uvit_web::pipeline::sampling::{Control, Stage, StepEvent};
use uvit_web::pipeline::{
    self as core, Answer, DeviceChoice, Generated, Helpers, LabelChoice, NamedTensor, Request, Values,
};
use uvit_web::sampler::{SamplerKind, Spacing};
use uvit_web::weights::Dtype;
use uvit_web::weights::checkpoint::{Weights, find_part};

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

fn config(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(case(name).join("config.json")).unwrap()).unwrap()
}

/// A tensor of the case's, stored in f32 or f64.
fn tensor(name: &str, tensor: &str) -> Vec<f32> {
    let bytes = std::fs::read(case(name).join("io.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let data = file.tensor(tensor).unwrap();
    match data.dtype() {
        safetensors::Dtype::F64 => data.data().as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        _ => data.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    }
}

/// Writes the package: the denoiser of one case, the decoder of another.
fn write(out: &Path, denoiser: &str, more: Value) -> Manifest {
    let mut about = config(denoiser)["params"].clone();
    let sampling = json!({
        "name": denoiser, "null_class": about["num_classes"],
        "schedule": { "type": "linear", "beta_start": 0.0001, "beta_end": 0.02, "train_steps": 1000 },
        "prediction": "noise", "time_scale": 1000.0, "time_offset": -1.0,
        "sampler": "ddpm", "grid": "respaced", "steps": 250, "guidance_scale": 4.0,
    });
    for (name, value) in [&sampling, &more].into_iter().flat_map(|fields| fields.as_object().unwrap()) {
        about[name] = value.clone();
    }
    let mut manifest = describe(&about.to_string(), None, None).unwrap();
    let mut writer = Writer::new(out, &[], true).unwrap();
    let decoder = Network::of("autoencoder_kl_decoder", &config("autoencoder_kl")["params"]).unwrap();
    manifest.components.insert(DECODER, Component::new(&decoder));
    for (name, folder) in [(DENOISER, denoiser), (DECODER, "autoencoder_kl")] {
        let network = manifest.network(name).unwrap();
        let mut found = find_part(&case(folder).join("weights.safetensors"), &network, &Weights::Auto).unwrap();
        writer.add(&mut manifest, name, &Storing::plain(Dtype::F32), &mut found).unwrap();
    }
    writer.finish(&manifest).unwrap();
    manifest
}

fn write_dit(out: &Path) -> Manifest {
    write(out, "end_to_end_dit", json!({ "architecture": "dit", "guided_channels": 3 }))
}

fn request() -> Request {
    let labels = Some([3, 8].map(LabelChoice::Index).to_vec());
    Request { labels, count: Some(2), steps: Some(8), seed: 7, latents: true, ..Request::default() }
}

fn latents(drawn: &Generated) -> &[f32] {
    match &drawn.latents[0].values {
        Values::Floats(values) => values,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_alone_draws_what_the_published_sampler_draws() {
    let out = scratch("dit-published");
    let manifest = write_dit(&out);
    assert_eq!(Manifest::parse(&manifest.to_json()).unwrap().sampling, manifest.sampling);
    for device in [DeviceChoice::Cpu, DeviceChoice::WebGpu] {
        let Some(mut pipeline) = loaded(&out, device) else { continue };
        let start = Some(tensor("end_to_end_dit", "z"));
        let ddim = (Some(SamplerKind::Ddim), Some(Spacing::Respaced));
        let ddim = Request { start: start.clone(), sampler: ddim.0, grid: ddim.1, ..request() };
        let drawn = draw(&mut pipeline, &ddim).unwrap();
        let off = error(latents(&drawn), &tensor("end_to_end_dit", "run_1/final_f64"));
        println!("{device:?}: DDIM {off:.1e}");
        assert!(off < 1e-4, "{device:?}: off by {off:.1e}");
        // An autoencoder of two halvings, and three channels.
        assert_eq!([drawn.count, drawn.channels, drawn.height, drawn.width], [2, 3, 32, 32]);
        assert!(drawn.values.iter().all(|v| v.is_finite()) && drawn.values.len() == 2 * 3 * 32 * 32);

        // By itself it is DDPM on its grid, with noise at every step but the last.
        let ddpm = draw(&mut pipeline, &Request { start, ..request() }).unwrap();
        assert_eq!((ddpm.sampler, ddpm.grid), (SamplerKind::Ddpm, Some(Spacing::Respaced)));
        assert!(error(latents(&ddpm), latents(&drawn)) > 0.1, "{device:?}: nothing was drawn on the way");
    }
}

#[test]
fn pictures_are_what_they_are_alone_and_on_every_device() {
    let out = scratch("dit-devices");
    write_dit(&out);
    let mut all: Vec<Vec<f32>> = Vec::new();
    for device in [DeviceChoice::Cpu, DeviceChoice::WebGpu] {
        let Some(mut pipeline) = loaded(&out, device) else { continue };
        let both = draw(&mut pipeline, &request()).unwrap();
        let again = draw(&mut pipeline, &request()).unwrap();
        assert!(both.values == again.values, "{device:?}: the same request draws another picture");
        let alone = Request { labels: None, label: Some(LabelChoice::Index(8)), seed: 8, count: None, ..request() };
        let alone = draw(&mut pipeline, &alone).unwrap();
        let off = error(alone.image(0), both.image(1));
        assert!(off < 1e-4, "{device:?}: the second picture is off by {off:.1e} alone");
        // Without guidance the batch is half as large, and the variance that of the only copy.
        let unguided = draw(&mut pipeline, &Request { guidance_scale: Some(1.0), ..request() }).unwrap();
        assert!(error(&unguided.values, &both.values) > 1e-2);
        all.push(both.values);
    }
    if let [cpu, gpu] = &all[..] {
        let off = error(gpu, cpu);
        println!("CPU and GPU differ by {off:.1e}");
        assert!(off < 1e-3, "the GPU is off by {off:.1e}");
    }
}

/// Another holder of the same weights.
struct Second(RefCell<core::Component>);

impl Helpers for Second {
    fn count(&self) -> usize {
        1
    }

    fn forward(&self, _: usize, tensors: Vec<NamedTensor>, outputs: Vec<&'static str>) -> Answer<Vec<Vec<f32>>> {
        let results = pollster::block_on(self.0.borrow_mut().forward(&tensors, &|| false));
        let of = |results: Vec<NamedTensor>, name: &str| {
            results.into_iter().find_map(|tensor| match tensor.values {
                Values::Floats(values) if tensor.name == name => Some(values),
                _ => None,
            })
        };
        let answer = results.map(|results| outputs.iter().map(|name| of(results.clone(), name).unwrap()).collect());
        Box::pin(async move { answer })
    }
}

#[test]
fn workers_that_share_a_batch_share_its_variance() {
    let out = scratch("dit-workers");
    write_dit(&out);
    let second = Rc::new(Second(RefCell::new(load(&out, DeviceChoice::Cpu, true).unwrap().into_component().unwrap())));
    let mut pipeline = load(&out, DeviceChoice::Cpu, true).unwrap();
    for (steps, scale) in [(4, 4.0), (4, 1.0), (1, 4.0)] {
        let request = Request { steps: Some(steps), guidance_scale: Some(scale), ..request() };
        let alone = draw(&mut pipeline, &request).unwrap();
        let mut control = Control { on_step: &mut |_| {}, stopped: &|| false };
        let shared = pollster::block_on(pipeline.generate_with(&request, &mut control, Some(&*second))).unwrap();
        assert_eq!((alone.workers, shared.workers), (1, 2));
        assert!(
            shared.values == alone.values,
            "{steps} steps at {scale}: {:.1e}",
            error(&shared.values, &alone.values)
        );
    }
}

#[test]
fn it_stops_while_it_samples_and_while_it_decodes() {
    let out = scratch("dit-abort");
    write_dit(&out);
    let mut pipeline = load(&out, DeviceChoice::Cpu, true).unwrap();
    for stage in [Stage::Sampling, Stage::Decoding] {
        let reached = std::cell::Cell::new(false);
        let mut on_step = |event: StepEvent| reached.set(reached.get() || event.stage == stage);
        let mut control = Control { on_step: &mut on_step, stopped: &|| reached.get() };
        let error = pollster::block_on(pipeline.generate(&request(), &mut control)).unwrap_err();
        assert_eq!(error.code, Code::Aborted, "{stage:?}");
    }
    draw(&mut pipeline, &request()).unwrap();
}

#[test]
fn a_clip_of_latents_is_decoded_frame_by_frame() {
    let out = scratch("latte");
    // What a network of random weights estimates would grow from step to step.
    write(&out, "latte", json!({ "architecture": "latte", "clip_x0": true }));
    let labels = Some([3, 5].map(LabelChoice::Index).to_vec());
    let request = Request { labels, ..request() };
    let mut all: Vec<Vec<f32>> = Vec::new();
    for device in [DeviceChoice::Cpu, DeviceChoice::WebGpu] {
        let Some(mut pipeline) = loaded(&out, device) else { continue };
        let drawn = draw(&mut pipeline, &request).unwrap();
        assert_eq!([drawn.count, drawn.frames, drawn.channels, drawn.height, drawn.width], [2, 3, 3, 32, 32]);
        let (of_frame, of_picture) = (4 * 8 * 8, 3 * 32 * 32);
        assert_eq!(drawn.latents[0].shape.as_deref(), Some(&[2, 3, 4, 8, 8][..]));
        assert!(drawn.values.len() == 2 * 3 * of_picture && drawn.values.iter().all(|v| v.is_finite()));
        for frame in [0, 1, 5] {
            let z = latents(&drawn)[frame * of_frame..][..of_frame].to_vec();
            let z = vec![NamedTensor::new("z", Values::Floats(z))];
            let decoded = pollster::block_on(pipeline.forward("decoder", z, &|| false)).unwrap();
            let shown = drawn.values[frame * of_picture..][..of_picture].to_vec();
            assert!(decoded[0].values == Values::Floats(shown), "{device:?}: frame {frame}");
        }
        let again = draw(&mut pipeline, &request).unwrap();
        assert!(drawn.values == again.values, "{device:?}: the same request draws another clip");
        // A clip is what it is alone.
        let alone =
            Request { labels: None, label: Some(LabelChoice::Index(5)), seed: 8, count: None, ..request.clone() };
        let alone = draw(&mut pipeline, &alone).unwrap();
        let off = error(latents(&alone), &latents(&drawn)[3 * of_frame..]);
        assert!(off < 1e-4, "{device:?}: the second clip is off by {off:.1e} alone");
        let reached = std::cell::Cell::new(0);
        let mut on_step = |event: StepEvent| reached.set(reached.get() + usize::from(event.stage == Stage::Decoding));
        let mut control = Control { on_step: &mut on_step, stopped: &|| reached.get() > 2 };
        let stopped = pollster::block_on(pipeline.generate(&request, &mut control)).unwrap_err();
        assert_eq!((stopped.code, reached.get()), (Code::Aborted, 3), "{device:?}: it stops between frames");
        all.push(latents(&drawn).to_vec());
    }
    if let [cpu, gpu] = &all[..] {
        let off = error(gpu, cpu);
        println!("CPU and GPU differ by {off:.1e}");
        assert!(off < 1e-3, "the GPU is off by {off:.1e}");
    }
}

#[test]
fn guided_channels_are_those_of_every_frame() {
    let labels = Some([3, 5].map(LabelChoice::Index).to_vec());
    let request = Request { labels, steps: Some(1), ..request() };
    let of = |name: &str, guided: Value, scale: f64| {
        let out = scratch(name);
        write(&out, "latte", json!({ "architecture": "latte", "guided_channels": guided }));
        let mut pipeline = load(&out, DeviceChoice::Cpu, true).unwrap();
        let request = Request { guidance_scale: Some(scale), ..request.clone() };
        latents(&draw(&mut pipeline, &request).unwrap()).to_vec()
    };
    let all = of("latte-guided", Value::Null, 4.0);
    assert!(all == of("latte-guided-4", 4.into(), 4.0), "four of four channels are all");
    let (none, one) = (of("latte-unguided", 1.into(), 1.0), of("latte-guided-1", 1.into(), 4.0));
    for (i, value) in one.iter().enumerate() {
        let channel = i / 64 % 4;
        assert_eq!(*value, if channel == 0 { all[i] } else { none[i] }, "value {i}, of channel {channel}");
    }
    assert!(all != none);
}
