//! The demo network against what PyTorch computed with it (`reference.safetensors` beside its f32 checkpoint), and the
//! committed quantised models against what the CPU executor recorded in `tests/recorded/`.
//!
//! The checkpoint is found in `UVIT_MODELS` (default: `../shared/models`). Without it a clean clone skips that half, loudly;
//! where `UVIT_MODELS` is set, a missing checkpoint is a failure. `UVIT_RECORD=1` records anew: only with a core whose
//! goldens pass.
#![cfg(all(feature = "cli", feature = "gpu"))]

mod devices;
mod pytorch;

use pytorch::{DEVICES, Recorded, assert_close, converted, draw, load, load_in, root, run};
use safetensors::{Dtype as Stored, tensor::TensorView};
use std::path::{Path, PathBuf};
use uvit_web::pipeline::{DeviceChoice, Generated};
use uvit_web::plan::Compute;
use uvit_web::sampler::TorchGenerator;
use uvit_web::weights::Dtype;

/// The folder of the f32 demo checkpoint, if it is there.
fn emoji() -> Option<PathBuf> {
    let named = std::env::var_os("UVIT_MODELS");
    let models = named.clone().map_or_else(|| root().join("../shared/models"), PathBuf::from);
    let folder = models.join("emoji");
    if folder.join("emoji.safetensors").is_file() && folder.join("reference.safetensors").is_file() {
        return Some(folder);
    }
    assert!(named.is_none(), "UVIT_MODELS is set, and {} lacks emoji.safetensors or its reference", folder.display());
    devices::skip("the f32 demo checkpoint is not here (UVIT_MODELS): PyTorch's reference pictures are not compared");
    None
}

/// Fails unless at most 0.1% of the values are off by more than 2/255, and none by more than 6/255.
fn assert_same_picture(what: &str, got: &Generated, want: &[f32]) {
    let (rgba, pixels) = (got.rgba(0), got.width * got.height);
    assert_eq!(3 * pixels, want.len(), "{what}");
    let off = |i: usize| (f32::from(rgba[4 * (i % pixels) + i / pixels]) - want[i]).abs();
    let worst = (0..want.len()).map(off).fold(0f32, f32::max);
    let far = (0..want.len()).filter(|&i| off(i) > 2.0).count();
    assert!(worst <= 6.0 && far * 1000 <= want.len(), "{what}: {far} values off by more than 2, the worst by {worst}");
}

#[test]
fn forwards_and_blocks_equal_pytorch() {
    let Some(emoji) = emoji() else { return };
    let reference = Recorded::read(&emoji.join("reference.safetensors"));
    pytorch::forwards_equal(&reference, &converted(&emoji, "emoji", "forwards"), 13);
}

/// Pictures from their seeds alone: those of `samples` without guidance, those of `guided` with 2.
fn pictures_equal_pytorch(name: &str, samples: &[usize], guided: &[usize]) {
    let Some(emoji) = emoji() else { return };
    let reference = Recorded::read(&emoji.join("reference.safetensors"));
    let model = converted(&emoji, "emoji", name);
    for device in DEVICES {
        let Some(mut pipeline) = load(&model, device, Dtype::F32) else { continue };
        for (group, scale, which) in [("samples", 1.0, samples), ("guided", 2.0, guided)] {
            for &k in which {
                let of = |part: &str| reference.tensor(&format!("{group}.{part}"));
                let got = draw(&mut pipeline, of("y")[k], of("seed")[k], scale);
                assert_same_picture(&format!("{device:?}: {group} {k}"), &got, &of("u8")[k * 12288..(k + 1) * 12288]);
            }
        }
    }
}

#[test]
fn four_pictures_equal_pytorch() {
    pictures_equal_pytorch("four", &[1, 14], &[0, 6]);
}

#[test]
#[ignore = "minutes: scripts/test full"]
fn all_pictures_equal_pytorch() {
    let (samples, guided): (Vec<usize>, Vec<usize>) = ((0..24).collect(), (0..8).collect());
    pictures_equal_pytorch("all", &samples, &guided);
}

/// What the committed model computes in one dtype: a forward, and a guided picture as bytes `[3, 64, 64]`.
fn stored_model_equals_its_record(dtype: Dtype) {
    let model = root().join("web/models/emoji");
    let path = root().join(format!("tests/recorded/emoji_{}.safetensors", dtype.as_str()));
    const LABEL: f32 = 17.0; // sweet (fluent3d)
    for device in DEVICES {
        let Some(mut pipeline) = load(&model, device, dtype) else { continue };
        let x = TorchGenerator::new(7).randn_f32(12288);
        let out = run(&mut pipeline, &x, 999.0 * 0.6, LABEL as u32, &["out"]).remove(0);
        let picture = draw(&mut pipeline, LABEL, 20.0, 1.5);
        if std::env::var("UVIT_RECORD").is_ok_and(|v| v == "1") && device == DeviceChoice::Cpu {
            record(&path, &out, &picture);
        }
        let recorded = Recorded::read(&path);
        assert_close(&format!("{device:?}: forward"), &out, recorded.tensor("forward"));
        assert_same_picture(&format!("{device:?}: picture"), &picture, recorded.tensor("picture"));
    }
}

/// With activations of 8 bits, beside what the same weights give in f32.
#[test]
fn eight_bits_on_a_gpu_stay_close_to_the_record() {
    for dtype in [Dtype::Q8, Dtype::Q4] {
        let model = root().join("web/models/emoji");
        let Some(mut pipeline) = load_in(Compute::W8A8, &model, DeviceChoice::WebGpu, dtype) else { return };
        assert_eq!(pipeline.info().compute, Compute::W8A8);
        let recorded = Recorded::read(&root().join(format!("tests/recorded/emoji_{}.safetensors", dtype.as_str())));
        let x = TorchGenerator::new(7).randn_f32(12288);
        let out = run(&mut pipeline, &x, 999.0 * 0.6, 17, &["out"]).remove(0);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let want = recorded.tensor("forward");
        let cosine = dot(&out, want) / (dot(&out, &out) * dot(want, want)).sqrt();
        assert!((0.9999..0.999_999_9).contains(&cosine), "{dtype:?}: cosine {cosine}");
        let rgba = draw(&mut pipeline, 17.0, 20.0, 1.5).rgba(0);
        let planes = (0..3).flat_map(|c| rgba.iter().skip(c).step_by(4));
        let squares = planes.zip(recorded.tensor("picture")).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
        let psnr = 10.0 * (255.0 * 255.0 * 12288.0 / squares.sum::<f64>()).log10();
        assert!(psnr > 40.0, "{dtype:?}: {psnr} dB");
    }
}

fn record(path: &Path, out: &[f32], picture: &Generated) {
    let bytes: Vec<u8> = out.iter().flat_map(|v| v.to_le_bytes()).collect();
    let rgba = picture.rgba(0);
    let planes: Vec<u8> = (0..3).flat_map(|c| rgba.iter().skip(c).step_by(4).copied()).collect();
    let view = |dtype, data| TensorView::new(dtype, vec![3, 64, 64], data).unwrap();
    let tensors = [("forward", view(Stored::F32, &bytes)), ("picture", view(Stored::U8, &planes))];
    std::fs::write(path, safetensors::serialize(tensors, None).unwrap()).unwrap();
}

#[test]
fn the_committed_q8_model_equals_its_record() {
    stored_model_equals_its_record(Dtype::Q8);
}

#[test]
fn the_committed_q4_model_equals_its_record() {
    stored_model_equals_its_record(Dtype::Q4);
}
