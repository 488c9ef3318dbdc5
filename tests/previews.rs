//! What a step shows of pictures of latents: a preview decoder's picture, colours by a linear map, or the latents' own channels.
#![cfg(all(feature = "cli", feature = "gpu"))]

mod avatar_package;
mod devices;

use avatar_package::pipeline::{load, scratch};
use std::path::{Path, PathBuf};
use uvit_web::Code;
use uvit_web::package::{DECODER, Manifest, PREVIEW_DECODER, read_manifest, write_manifest};
use uvit_web::pipeline::sampling::{Control, Snapshot, Stage, StepEvent};
use uvit_web::pipeline::{DeviceChoice, Generated, Pipeline, Request};

/// The avatars in f32, and their decoder a second time, for previews; its first layer is amplified by `gain`.
fn package(name: &str, gain: f32) -> (PathBuf, Manifest) {
    let folder = scratch(name);
    let amplified = folder.join("amplified");
    let mut manifest = avatar_package::write(&folder, Some(1.0));
    let mut preview = avatar_package::write(&amplified, Some(gain)).component(DECODER).unwrap().clone();
    for shard in &mut preview.variants[0].shards {
        let file = format!("preview_{}", shard.file);
        std::fs::copy(amplified.join(&shard.file), folder.join(&file)).unwrap();
        shard.file = file;
    }
    manifest.components.insert(PREVIEW_DECODER, preview);
    let embedded = Path::new(env!("CARGO_MANIFEST_DIR")).join("web/models/avatars");
    manifest.preview = read_manifest(&embedded).unwrap().0.preview;
    assert!(manifest.preview.is_some());
    write_manifest(&folder, &manifest).unwrap();
    (folder, manifest)
}

/// Two pictures, and what their steps showed.
fn draw(pipeline: &mut Pipeline, preview: bool) -> (Generated, Vec<Option<Snapshot>>) {
    let mut shown = Vec::new();
    let mut on_step = |event: StepEvent| {
        assert!(event.stage == Stage::Sampling || event.values.is_none());
        if event.stage == Stage::Sampling {
            shown.push(event.values);
        }
    };
    let request = Request {
        prompt: Some("a smiling person with long red hair, wearing a blue shirt".into()),
        steps: Some(8),
        seed: 5,
        count: Some(2),
        preview,
        ..Request::default()
    };
    let mut control = Control { on_step: &mut on_step, stopped: &|| false };
    let drawn = pollster::block_on(pipeline.generate(&request, &mut control)).unwrap();
    assert_eq!(shown.len(), 8);
    (drawn, shown)
}

/// Of pictures in [-1, 1].
fn psnr(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let clip = |v: f32| f64::from(v.clamp(-1.0, 1.0));
    let mse = a.iter().zip(b).map(|(&a, &b)| (clip(a) - clip(b)).powi(2)).sum::<f64>() / a.len() as f64;
    10.0 * (4.0 / mse).log10()
}

/// The means of squares of 4 x 4 of pictures `[images, 3, 64, 64]`.
fn small(pictures: &[f32]) -> Vec<f32> {
    let mut small = vec![0.0; pictures.len() / 16];
    for (i, value) in pictures.iter().enumerate() {
        let (plane, y, x) = (i / 4096, i / 64 % 64, i % 64);
        small[plane * 256 + y / 4 * 16 + x / 4] += value / 16.0;
    }
    small
}

#[test]
fn a_step_shows_what_the_model_has_for_it() {
    if avatar_package::found().is_none() {
        return;
    }
    let (folder, mut manifest) = package("previews", 1.0);
    let device = |keep_loaded| {
        [DeviceChoice::Cpu, DeviceChoice::WebGpu].into_iter().filter_map({
            let folder = folder.clone();
            move |device| match device {
                DeviceChoice::Cpu => Some(load(&folder, device, keep_loaded).unwrap()),
                _ => devices::found(load(&folder, device, keep_loaded)),
            }
        })
    };
    for mut pipeline in device(true) {
        let (plain, none) = draw(&mut pipeline, false);
        assert!(none.iter().all(Option::is_none));
        let (drawn, shown) = draw(&mut pipeline, true);
        // It is looked at, not touched.
        assert!(drawn.values == plain.values && drawn.warnings.is_empty(), "{:?}", drawn.warnings);
        let dbs: Vec<f64> = shown.iter().flatten().map(|shown| psnr(&shown.values, &drawn.values)).collect();
        println!("decoded: {dbs:.1?}");
        assert!(shown.iter().flatten().all(|shown| shown.shape == [3, 64, 64]) && dbs.len() == 8);
        assert!(dbs[7] > 24.0 && dbs[0] < dbs[4] && dbs[4] < dbs[7], "{dbs:?}");
    }
    for mut pipeline in device(false) {
        let before = pipeline.device().memory();
        let (drawn, shown) = draw(&mut pipeline, true);
        let last = shown.last().unwrap().as_ref().unwrap();
        assert!(last.shape == [3, 64, 64] && psnr(&last.values, &drawn.values) > 24.0);
        let after = pipeline.device().memory();
        assert!(after.bytes <= before.bytes + (64 << 10), "{before:?} {after:?}");
    }

    let all = std::mem::take(&mut manifest.components);
    for (name, component) in all.iter().filter(|(name, _)| *name != PREVIEW_DECODER) {
        manifest.components.insert(name, component.clone());
    }
    write_manifest(&folder, &manifest).unwrap();
    let mut pipeline = load(&folder, DeviceChoice::Cpu, true).unwrap();
    let (drawn, shown) = draw(&mut pipeline, true);
    let last = shown[7].as_ref().unwrap();
    let db = psnr(&last.values, &small(&drawn.values));
    println!("linear: {db:.1} dB");
    assert_eq!((last.shape.as_slice(), last.values.len()), (&[3, 16, 16][..], 2 * 3 * 256));
    assert!(db > 20.0, "{db}");

    manifest.preview = None;
    write_manifest(&folder, &manifest).unwrap();
    let mut pipeline = load(&folder, DeviceChoice::Cpu, true).unwrap();
    let (_, shown) = draw(&mut pipeline, true);
    let latents = pollster::block_on(pipeline.denoiser().unwrap().latents()).unwrap();
    let last = shown[7].as_ref().unwrap();
    assert_eq!(last.shape, [4, 16, 16]);
    // Latents have a variance of 1; either image's come before its embedding.
    for (latents, shown) in latents.chunks(latents.len() / 2).zip(last.values.chunks(4 * 256)) {
        let apart: f32 = latents.iter().zip(shown).map(|(a, b)| (a - b).powi(2)).sum();
        println!("latents: a mean square of {:.3} apart", apart / 1024.0);
        assert!(apart < 0.25 * 1024.0 && shown.iter().any(|v| v.abs() > 1.0), "{apart}");
    }
}

#[test]
fn a_preview_that_fails_is_a_warning() {
    if avatar_package::found().is_none() {
        return;
    }
    let (folder, manifest) = package("previews-fail", 1e38);
    let check = |mut pipeline: Pipeline, cause: &str| {
        let (drawn, shown) = draw(&mut pipeline, true);
        assert_eq!(drawn.warnings.len(), 1, "{:?}", drawn.warnings);
        let warning = &drawn.warnings[0];
        assert!(warning.contains("the preview decoder is not used: ") && warning.contains(cause), "{warning}");
        assert!(shown.iter().flatten().all(|shown| shown.shape == [3, 16, 16]));
        let db = psnr(&shown[7].as_ref().unwrap().values, &small(&drawn.values));
        assert!(db > 20.0, "{db}");
    };
    check(load(&folder, DeviceChoice::Cpu, true).unwrap(), "of the result is");
    let file = &manifest.component(PREVIEW_DECODER).unwrap().variants[0].shards[0].file;
    let staged = load(&folder, DeviceChoice::Cpu, false).unwrap();
    std::fs::remove_file(folder.join(file)).unwrap();
    check(staged, "it is gone");
}

#[test]
fn a_generation_stops_while_a_preview_is_decoded() {
    if avatar_package::found().is_none() {
        return;
    }
    let (folder, _) = package("previews-stop", 1.0);
    let mut pipeline = load(&folder, DeviceChoice::Cpu, true).unwrap();
    let asked = std::cell::Cell::new(0);
    // Whenever it is asked, the preview's forward among the times.
    let request = Request { prompt: Some("a person".into()), steps: Some(1), preview: true, ..Request::default() };
    let mut run = |after: usize| {
        asked.set(0);
        let stopped = || {
            asked.set(asked.get() + 1);
            asked.get() > after
        };
        let mut control = Control { on_step: &mut |_| {}, stopped: &stopped };
        pollster::block_on(pipeline.generate(&request, &mut control)).map(|_| asked.get())
    };
    // The text is read once.
    run(usize::MAX).unwrap();
    let all = run(usize::MAX).unwrap();
    for after in 0..all {
        assert_eq!(run(after).unwrap_err().code, Code::Aborted, "{after} of {all}");
    }
}
