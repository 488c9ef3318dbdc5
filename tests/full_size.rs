//! Published networks at their full size, with random weights: converted by the tool, loaded, and run on the CPU and a GPU.
//! Minutes and gigabytes: `scripts/test full`.
#![cfg(all(feature = "cli", feature = "gpu"))]

#[path = "checkpoints/random.rs"]
#[allow(dead_code)]
mod random_checkpoint;

mod devices;
#[allow(dead_code)]
mod networks;
#[path = "full_size/transformers.rs"]
mod transformers;
#[path = "full_size/unidiffuser.rs"]
mod unidiffuser;
#[path = "full_size/unidiffuser_files.rs"]
mod unidiffuser_files;

use std::path::Path;
use std::process::Command;
use std::time::Instant;
use uvit_web::Result;
use uvit_web::model::{Batch, Network};
use uvit_web::package::{DENOISER, preset, read_manifest};
use uvit_web::pipeline::{ComputeChoice, DeviceChoice, LoadOptions, Loader, NamedTensor, Values};
use uvit_web::plan::{Capabilities, Compute, lower};
use uvit_web::runtime::{Device, Tune};
use uvit_web::sampler::TorchGenerator;
use uvit_web::simd::Threads;
use uvit_web::weights::Dtype;

/// What a folder's denoiser, loaded as users load it, gives for one item.
fn forward(folder: &Path, dtype: Dtype, device: DeviceChoice, compute: Compute) -> Result<Vec<f32>> {
    let begin = Instant::now();
    let (manifest, folder) = read_manifest(folder)?;
    let options = LoadOptions {
        device,
        dtype: Some(dtype),
        compute: ComputeChoice::Fixed(compute),
        tune: Tune::Off,
        ..LoadOptions::default()
    };
    let mut loader = pollster::block_on(Loader::new(manifest, options))?;
    let on = loader.device().adapter.as_ref().map_or("the CPU".to_owned(), |adapter| adapter.description.clone());
    for index in 0..loader.files().len() {
        let bytes = std::fs::read(folder.join(&loader.files()[index].stored.file)).unwrap();
        pollster::block_on(loader.add_file(index, &bytes))?;
    }
    let mut pipeline = pollster::block_on(loader.finish())?;
    let loaded = begin.elapsed();
    let given = networks::inputs(pipeline.network(), 1);
    let results = pollster::block_on(pipeline.forward(DENOISER, given, &|| false))?;
    let Values::Floats(values) = &results[0].values else { panic!("floats come out") };
    println!(
        "  {} in {} on {on}: loaded in {:.1} s, forward in {:.2} s",
        dtype.as_str(),
        compute.as_str(),
        loaded.as_secs_f64(),
        (begin.elapsed() - loaded).as_secs_f64(),
    );
    Ok(values.clone())
}

/// Its published multiply-adds a forward, in billions, where there are some.
fn full_size(name: &str, published: Option<f64>) {
    let network = preset(name).unwrap().network().unwrap();
    let plan = network.record(Batch::plain(1)).unwrap().plan;
    let billions = 1e-9 * lower(&plan, &Capabilities::WEBGPU, &[]).unwrap().cost().multiply_adds as f64;
    println!("{name}: {billions:.2} billion multiply-adds a forward, published: {published:?}");
    assert!(published.is_none_or(|published| (billions / published - 1.0).abs() < 0.02));

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("full-size-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let (checkpoint, out) = (folder.join("weights.pth"), folder.join("model"));
    random_checkpoint::write(name, &checkpoint);
    let begin = Instant::now();
    let mut convert = Command::new(env!("CARGO_BIN_EXE_uvit"));
    convert.arg("convert").arg(&checkpoint).args(["--dtype", "q8", "--dtype", "q4", "--calibration", "0", "--out"]);
    assert!(convert.arg(&out).status().unwrap().success());
    println!("{name}: converted to q8 and q4 in {:.0} s", begin.elapsed().as_secs_f64());

    let cpu = |dtype, compute| forward(&out, dtype, DeviceChoice::Cpu, compute).unwrap();
    for dtype in [Dtype::Q8, Dtype::Q4] {
        let exact = cpu(dtype, Compute::F32);
        let size = norm(exact.iter().copied());
        assert!(size > 0.0 && exact.iter().all(|v| v.is_finite()));
        let close = |values: Vec<f32>, tolerance: f64| {
            let error = norm(values.iter().zip(&exact).map(|(a, b)| a - b)) / size;
            println!("  relative error {error:.1e}");
            assert!(values.len() == exact.len() && error < tolerance, "{error}");
        };
        // As the emoji model is held to (tests/goldens_harness/devices.rs has f32's), with 7-bit activations for fast.
        close(cpu(dtype, Compute::Quality), 1e-2);
        close(cpu(dtype, Compute::Fast), 0.1);
        if let Some(values) = devices::found(forward(&out, dtype, DeviceChoice::WebGpu, Compute::F32)) {
            close(values, 1e-4);
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

/// 133.25 for both resolutions: table 8 of Bao et al., "All are Worth Words".
#[test]
#[ignore = "minutes and gigabytes: scripts/test full"]
fn imagenet512_uvit_huge() {
    full_size("imagenet512_uvit_huge", Some(133.25));
}

#[test]
#[ignore = "minutes: scripts/test full"]
fn mscoco_uvit_small_deep() {
    full_size("mscoco_uvit_small_deep", None);
}

/// What drawing a picture of latents takes, stage by stage, with weights in f16: read off Plans, so nothing is loaded.
#[test]
#[ignore = "prints what docs/latents.md says: scripts/test full"]
fn stages_of_published_latent_models() {
    let network = |architecture: &str, params: serde_json::Value| Network::of(architecture, &params).unwrap();
    let decoder = network(
        "autoencoder_kl_decoder",
        serde_json::json!({ "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2 }),
    );
    let text = network(
        "clip_text",
        serde_json::json!({
            "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "max_position_embeddings": 77,
        }),
    );
    let denoiser = preset("mscoco_uvit_small_deep").unwrap().network().unwrap();
    let tiled = Some(64 << 20);
    for (name, network, side, copies, tiled, most) in [
        ("CLIP ViT-L/14 text", &text, None, 2, None, 300e6),
        ("U-ViT-S/2 deep", &denoiser, None, 2, None, 200e6),
        ("KL-f8 decoder, 256 x 256", &decoder, Some(32), 1, None, 500e6),
        ("KL-f8 decoder, 512 x 512", &decoder, Some(64), 1, None, 1.2e9),
        ("KL-f8 decoder, 512 x 512, tiled", &decoder, Some(64), 1, tiled, 350e6),
    ] {
        let batch = Batch { size: side.map(|side| [side; 2]), tiled, ..Batch::copied(1, copies) };
        let plan = network.record(batch).unwrap().plan;
        let weights: f64 = 2.0 * plan.published().map(|w| w.shape.iter().product::<usize>() as f64).sum::<f64>();
        let wide = Capabilities { max_binding: 1 << 30, ..Capabilities::WEBGPU };
        let program = lower(&plan, &wide, &[]).unwrap();
        let activations = program.activation_bytes() as f64;
        let limit = match lower(&plan, &Capabilities::WEBGPU, &[]) {
            Ok(_) => "fits bindings of 128 MiB".to_owned(),
            Err(error) => error.cause.clone(),
        };
        println!(
            "{name}: {:.2} G multiply-adds, {:.0} MB of weights, {:.0} MB of activations; {limit}",
            1e-9 * program.cost().multiply_adds as f64,
            1e-6 * weights,
            1e-6 * activations,
        );
        assert!(weights + activations < most, "{name}");
    }
}

/// 512 x 512 pixels of random weights, as a whole and in bands, on the CPU.
#[test]
#[ignore = "minutes: scripts/test full"]
fn a_tiled_decoder_draws_what_a_whole_one_draws() {
    let params = serde_json::json!({ "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2 });
    let network = Network::of("autoencoder_kl_decoder", &params).unwrap();
    let device = Device::cpu(Threads::all());
    for compute in [Compute::F32, Compute::Quality] {
        let z = TorchGenerator::new(1).randn_f32(4 * 64 * 64);
        let given = [NamedTensor { name: "z".into(), shape: Some(vec![1, 4, 64, 64]), values: Values::Floats(z) }];
        let decode = |tiled| {
            let component = pollster::block_on(networks::load(&device, compute, network.clone())).unwrap();
            let begin = Instant::now();
            let decoded = pollster::block_on(component.tiled(tiled).forward(&given, &|| false)).unwrap().remove(0);
            let Values::Floats(values) = decoded.values else { panic!("floats come out") };
            (values, begin.elapsed().as_secs_f64())
        };
        let ((whole, time), (tiled, longer)) = (decode(None), decode(Some(64 << 20)));
        let peak = whole.iter().fold(0f32, |peak, v| peak.max(v.abs()));
        let off = norm(tiled.iter().zip(&whole).map(|(a, b)| a - b)) / (whole.len() as f64).sqrt();
        let psnr = -20.0 * (off / (2.0 * f64::from(peak))).log10();
        println!("{}: {time:.1} s, tiled {longer:.1} s, {psnr:.1} dB", compute.as_str());
        assert!(psnr > 45.0);
    }
}
