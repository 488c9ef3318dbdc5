//! The clips model of the page against what PyTorch computed with the checkpoint that it was made of.
//!
//! `web/models/clips` is the model in q8 and q4, `tests/recorded/clips.safetensors` the clips of the checkpoint itself. `UVIT_CLIPS`
//! names the folder of the checkpoint: `clips.safetensors`, `config.json` and all of PyTorch's numbers, `reference.safetensors`.
//! Without it, nothing is compared in f32, which is said. `UVIT_RECORD=1` takes the recorded clips from there.
#![cfg(all(feature = "cli", feature = "gpu"))]

mod devices;
#[allow(dead_code)] // a part is for pictures
mod pytorch;

use half::f16;
use pytorch::{DEVICES, Recorded, converted, draw, load, load_in, root};
use safetensors::{Dtype as Stored, tensor::TensorView};
use std::path::PathBuf;
use uvit_web::package::{DENOISER, read_manifest};
use uvit_web::pipeline::{DeviceChoice, Pipeline};
use uvit_web::plan::Compute;
use uvit_web::weights::Dtype;

/// The checkpoint's folder.
fn checkpoint() -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("UVIT_CLIPS").map(PathBuf::from) else {
        devices::skip(
            "the f32 clips checkpoint is not here (UVIT_CLIPS): clips are not compared with PyTorch's in f32",
        );
        return None;
    };
    let there = ["clips.safetensors", "config.json", "reference.safetensors"].iter().all(|f| folder.join(f).is_file());
    assert!(
        there,
        "UVIT_CLIPS is set, and {} lacks the checkpoint, its configuration or its reference",
        folder.display()
    );
    Some(folder)
}

/// The page's model.
fn embedded() -> PathBuf {
    root().join("web/models/clips")
}

/// The clips of a file: those of `samples` were drawn without guidance, those of `guided` with 2.
const GROUPS: [(&str, f64); 2] = [("samples", 1.0), ("guided", 2.0)];

/// Clip `k` of a group, as the network has it, ours and PyTorch's, the tensor `part` of it.
fn pair(pipeline: &mut Pipeline, from: &Recorded, (group, scale): (&str, f64), k: usize, part: &str) -> [Vec<f32>; 2] {
    let of = |part: &str| from.tensor(&format!("{group}.{part}"));
    let drawn = draw(pipeline, of("y")[k], of("seed")[k], scale);
    let sample = pipeline.network().sample();
    assert_eq!((drawn.frames, drawn.values.len()), (sample.pictures(), sample.elements()));
    let size = sample.elements();
    [sample.from_frames(&drawn.values), of(part)[k * size..(k + 1) * size].to_vec()]
}

#[test]
fn forwards_and_blocks_equal_pytorch() {
    let Some(folder) = checkpoint() else { return };
    let reference = Recorded::read(&folder.join("reference.safetensors"));
    let model = converted(&folder, "clips", "clips-forwards");
    pytorch::forwards_equal(&reference, &model, reference.0.keys().filter(|n| n.starts_with("blocks.")).count());
}

/// Clips from their seeds alone: at most 0.1% of the values are off by more than 2/255.
fn clips_equal_pytorch(test: &str, which: [&[usize]; 2]) {
    let Some(folder) = checkpoint() else { return };
    let reference = Recorded::read(&folder.join("reference.safetensors"));
    let model = converted(&folder, "clips", test);
    for device in DEVICES {
        let Some(mut pipeline) = load(&model, device, Dtype::F32) else { continue };
        for (group, which) in GROUPS.into_iter().zip(which) {
            for &k in which {
                let [got, want] = pair(&mut pipeline, &reference, group, k, "u8");
                let byte = |v: f32| ((v.clamp(-1.0, 1.0) + 1.0) * 127.5).round_ties_even();
                let off = got.iter().zip(&want).map(|(&a, b)| (byte(a) - b).abs());
                let far = off.clone().filter(|&off| off > 2.0).count();
                let worst = off.fold(0f32, f32::max);
                let what =
                    format!("{device:?}: {} {k}: {far} values off by more than 2, the worst by {worst}", group.0);
                println!("{what}");
                assert!(far * 1000 <= want.len(), "{what}");
            }
        }
    }
}

#[test]
fn two_clips_equal_pytorch() {
    clips_equal_pytorch("clips-two", [&[1], &[0]]);
}

#[test]
#[ignore = "minutes: scripts/test full"]
fn all_clips_equal_pytorch() {
    clips_equal_pytorch("clips-all", [&[0, 1, 2, 3, 4, 5, 6, 7], &[0, 1, 2, 3]]);
}

/// Peak signal-to-noise ratios in dB between PyTorch's f32 clips and those of the page's model in one dtype, ascending.
fn ratios(dtype: Dtype) -> Option<Vec<f64>> {
    let model = embedded();
    let recorded = Recorded::read(&root().join("tests/recorded/clips.safetensors"));
    let mut pipeline = load_in(Compute::F32, &model, DeviceChoice::Cpu, dtype)?;
    let mut all = Vec::new();
    for group in GROUPS {
        for k in 0..recorded.tensor(&format!("{}.seed", group.0)).len() {
            let [got, want] = pair(&mut pipeline, &recorded, group, k, "x");
            let clip = |v: f32| f64::from(v.clamp(-1.0, 1.0));
            let squares: f64 = got.iter().zip(&want).map(|(&a, &b)| (clip(a) - clip(b)).powi(2)).sum();
            all.push(10.0 * (4.0 * want.len() as f64 / squares).log10());
        }
    }
    all.sort_by(f64::total_cmp);
    println!("{}: {all:.1?} dB", dtype.as_str());
    Some(all)
}

#[test]
fn stored_forms_draw_the_same_clips() {
    let Some(q8) = ratios(Dtype::Q8) else { return };
    let Some(q4) = ratios(Dtype::Q4) else { return };
    let mean = q8.iter().sum::<f64>() / q8.len() as f64;
    let median = 0.5 * (q4[(q4.len() - 1) / 2] + q4[q4.len() / 2]);
    println!("q8: {mean:.2} dB in the mean, q4: {median:.2} dB in the median");
    assert!(mean >= 48.0 && median >= 33.0, "q8: {mean:.2} dB in the mean, q4: {median:.2} dB in the median");
}

#[test]
fn the_page_has_eight_motions_in_two_stored_forms() {
    let folder = embedded();
    let (manifest, _) = read_manifest(&folder).unwrap();
    let network = manifest.network(DENOISER).unwrap();
    assert_eq!((network.architecture(), network.sample_shape()), ("uvit_video", vec![3, 16, 32, 32]));
    assert_eq!((manifest.labels.len(), manifest.null_class, network.classes()), (8, Some(8), 9));
    let dtypes: Vec<Dtype> = manifest.component(DENOISER).unwrap().variants.iter().map(|v| v.dtype).collect();
    assert_eq!(dtypes, [Dtype::Q8, Dtype::Q4]);
    let bytes: u64 = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= 6_000_000, "{bytes} bytes");
}

/// `UVIT_RECORD=1`: the clips of the checkpoint that the page's model is compared with, in f16.
#[test]
fn recorded_clips_are_the_checkpoints() {
    if std::env::var("UVIT_RECORD").is_err() {
        return;
    }
    let Some(folder) = checkpoint() else { return };
    let reference = Recorded::read(&folder.join("reference.safetensors"));
    let mut kept: Vec<(String, Stored, Vec<usize>, Vec<u8>)> = Vec::new();
    for (group, _) in GROUPS {
        let of = |part: &str| reference.tensor(&format!("{group}.{part}"));
        let items = of("seed").len();
        for part in ["seed", "y"] {
            let bytes = of(part).iter().flat_map(|&v| (v as i32).to_le_bytes()).collect();
            kept.push((format!("{group}.{part}"), Stored::I32, vec![items], bytes));
        }
        let bytes = of("x").iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        kept.push((format!("{group}.x"), Stored::F16, vec![items, of("x").len() / items], bytes));
    }
    let views = kept
        .iter()
        .map(|(name, dtype, shape, bytes)| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let path = root().join("tests/recorded/clips.safetensors");
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}
