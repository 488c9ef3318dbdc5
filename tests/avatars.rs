//! The avatars model, part by part, against what PyTorch computed. It is found beside the f32 demo checkpoint (`UVIT_MODELS`,
//! default `../shared/models`); a clean clone skips, loudly.
#![cfg(all(feature = "cli", feature = "gpu"))]

#[allow(dead_code)]
mod avatar_package;
mod devices;

use avatar_package::pipeline::{error, psnr};
use avatar_package::reference::Reference;
use serde_json::Value;
use std::path::Path;
use uvit_web::model::{Batch, Network};
use uvit_web::pipeline::{Component, NamedTensor, Values};
use uvit_web::plan::{Compute, WeightUse};
use uvit_web::runtime::{Device, Loading};
use uvit_web::simd::Threads;
use uvit_web::text::Tokenizer;
use uvit_web::weights::Dtype;
use uvit_web::weights::checkpoint::{self, Source, Weights};
use uvit_web::weights::quantize::quantize;

/// One part's network with its weights, in f32.
fn load(device: &Device, folder: &Path, part: &Value) -> Component {
    load_as(device, folder, part, part["kind"].as_str().unwrap())
}

/// A network of a part's, or of one half of it.
fn load_as(device: &Device, folder: &Path, part: &Value, architecture: &str) -> Component {
    load_in(device, folder, part, architecture, Dtype::F32, Compute::F32)
}

/// The same, stored and computed in another way.
fn load_in(
    device: &Device,
    folder: &Path,
    part: &Value,
    architecture: &str,
    dtype: Dtype,
    compute: Compute,
) -> Component {
    let network = Network::of(architecture, &part["params"]).unwrap();
    let mut found =
        checkpoint::find_part(&folder.join(part["file"].as_str().unwrap()), &network, &Weights::Auto).unwrap();
    let plan = network.record(Batch::plain(1)).unwrap().plan;
    let mut loading = Loading::new(device, compute).unwrap();
    for (id, weight, form) in plan.loads(compute) {
        let dtype = if weight.usage == WeightUse::Matrix { dtype } else { Dtype::F32 };
        let tensor = quantize(&weight.name, &weight.shape, &found.weight(weight).unwrap(), dtype, 0);
        pollster::block_on(loading.load(id, weight, form, &tensor)).unwrap();
    }
    let stored = plan.weights.iter().map(|_| (Dtype::F32, 0)).collect();
    Component::new(network, pollster::block_on(loading.finish()).unwrap(), stored, Vec::new())
}

#[test]
fn words_become_the_ids_and_the_embeddings_of_pytorch() {
    let Some((folder, config, reference)) = avatar_package::found() else { return };
    let computed = Reference::read().unwrap();
    let about = &config["parts"]["tokenizer"];
    let number = |name: &str| about[name].as_u64().unwrap() as u32;
    let tokenizer = Tokenizer::new(&std::fs::read_to_string(folder.join("merges.txt")).unwrap()).unwrap();
    assert_eq!(tokenizer.vocabulary(), number("vocab_size") as usize);
    assert_eq!((tokenizer.start(), tokenizer.end()), (number("bos"), number("eos")));
    let texts = reference["clip_text"]["texts"].as_array().unwrap();
    let encoded = texts.iter().map(|text| {
        let encoded = tokenizer.encode(text.as_str().unwrap(), number("max_length") as usize, &number("pad").into());
        assert_eq!(encoded.left_out, None);
        encoded.ids
    });
    let ids: Vec<u32> = encoded.flatten().collect();
    assert_eq!(ids, computed.words("clip_text/input_ids").into_iter().map(u32::from_le_bytes).collect::<Vec<_>>());

    let gpu = devices::found(pollster::block_on(Device::gpu()));
    for device in [Some(Device::reference()), Some(Device::cpu(Threads::all())), gpu].into_iter().flatten() {
        let mut encoder = load(&device, &folder, &config["parts"]["clip_text"]);
        let given = [NamedTensor::new("input_ids", Values::Indices(ids.clone()))];
        let names = ["hidden_states.0", "hidden_states.1", "hidden_states.2", "hidden_states.3", "last_hidden_state"];
        let traced = pollster::block_on(encoder.trace(texts.len(), &given, &names)).unwrap();
        for (name, got) in names.iter().zip(traced) {
            let error = error(&got, &computed.floats(&format!("clip_text/{name}")));
            assert!(error < 2e-5, "{}: {name} is off by {error:.1e}", device.name());
        }
    }
}

#[test]
fn pictures_become_the_embeddings_of_pytorch() {
    let Some((folder, config, _)) = avatar_package::found() else { return };
    let computed = Reference::read().unwrap();
    let floats = |name: &str| computed.floats(&format!("clip_vision/{name}"));
    let part = &config["parts"]["clip_vision"];
    let gpu = devices::found(pollster::block_on(Device::gpu()));
    for device in [Some(Device::reference()), Some(Device::cpu(Threads::all())), gpu].into_iter().flatten() {
        let mut encoder = load(&device, &folder, part);
        let given = [NamedTensor::new("pixel_values", Values::Floats(floats("pixel_values")))];
        let names = ["hidden_states.0", "hidden_states.1", "hidden_states.2", "last_hidden_state", "image_embeds"];
        let items = computed.tensor("clip_vision/pixel_values").unwrap().0[0];
        let traced = pollster::block_on(encoder.trace(items, &given, &names)).unwrap();
        for (name, got) in names.iter().zip(traced) {
            let error = error(&got, &floats(name));
            assert!(error < 2e-5, "{}: {name} is off by {error:.1e}", device.name());
        }
    }
}

#[test]
fn coarser_image_encoders_see_the_same() {
    let Some((folder, config, _)) = avatar_package::found() else { return };
    let computed = Reference::read().unwrap();
    let floats = |name: &str| computed.floats(&format!("clip_vision/{name}"));
    let part = &config["parts"]["clip_vision"];
    let gpu = devices::found(pollster::block_on(Device::gpu()));
    let cpu = Some(Device::cpu(Threads::all()));
    for (device, dtype, compute, least) in [
        (&cpu, Dtype::F16, Compute::F32, 0.999_99),
        (&cpu, Dtype::Q8, Compute::F32, 0.999),
        (&cpu, Dtype::Q8, Compute::Quality, 0.999),
        (&cpu, Dtype::Q8, Compute::Fast, 0.99),
        (&gpu, Dtype::Q8, Compute::W8A8, 0.99),
    ] {
        let Some(device) = device else { continue };
        let mut encoder = load_in(device, &folder, part, "clip_vision", dtype, compute);
        let given = [NamedTensor::new("pixel_values", Values::Floats(floats("pixel_values")))];
        let got = pollster::block_on(encoder.trace(2, &given, &["image_embeds"])).unwrap().remove(0);
        let want = floats("image_embeds");
        for (got, want) in got.chunks(got.len() / 2).zip(want.chunks(want.len() / 2)) {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let cosine = dot(got, want) / (dot(got, got) * dot(want, want)).sqrt();
            let how = format!("{} in {}", dtype.as_str(), compute.as_str());
            println!("{how}: cosine {cosine:.6}");
            assert!(cosine >= least, "{how}: cosine {cosine}");
        }
    }
}

#[test]
fn pictures_become_the_latents_of_pytorch_and_latents_its_pictures() {
    let Some((folder, config, _)) = avatar_package::found() else { return };
    let computed = Reference::read().unwrap();
    let floats = |name: &str| computed.floats(&format!("autoencoder_kl/{name}"));
    let part = &config["parts"]["autoencoder"];
    let gpu = devices::found(pollster::block_on(Device::gpu()));
    for device in [Some(Device::reference()), Some(Device::cpu(Threads::all())), gpu].into_iter().flatten() {
        let mut encoder = load_as(&device, &folder, part, "autoencoder_kl_encoder");
        let given = [NamedTensor::new("image", Values::Floats(floats("image")))];
        let moments = pollster::block_on(encoder.trace(2, &given, &["moments"])).unwrap().remove(0);
        let Network::AutoencoderKlEncoder(half) = encoder.network() else { panic!("another network") };
        let latents = half.latents(&moments, 2, &floats("sample_noise"));
        let mut decoder = load_as(&device, &folder, part, "autoencoder_kl_decoder");
        let given = [NamedTensor::new("z", Values::Floats(floats("z_sampled")))];
        let decoded = pollster::block_on(decoder.trace(2, &given, &["decoded"])).unwrap().remove(0);
        for (name, got) in [("moments", moments), ("z_sampled", latents), ("decoded", decoded)] {
            let error = error(&got, &floats(name));
            assert!(error < 2e-5, "{}: {name} is off by {error:.1e}", device.name());
        }
    }
}

#[test]
fn coarser_decoders_draw_the_same_pictures() {
    let Some((folder, config, _)) = avatar_package::found() else { return };
    let computed = Reference::read().unwrap();
    let floats = |name: &str| computed.floats(&format!("autoencoder_kl/{name}"));
    let (part, want) = (&config["parts"]["autoencoder"], floats("decoded"));
    let device = Device::cpu(Threads::all());
    for (dtype, compute, least) in [
        (Dtype::F16, Compute::F32, 50.0),
        (Dtype::Q8, Compute::F32, 45.0),
        (Dtype::F32, Compute::Quality, 45.0),
        (Dtype::Q8, Compute::Quality, 45.0),
        (Dtype::Q8, Compute::Fast, 45.0),
    ] {
        let given = [NamedTensor::new("z", Values::Floats(floats("z_sampled")))];
        // Whole, and in bands of a few rows: integers have a scale a band then.
        for tiled in [None, Some(1 << 14)] {
            let decoder = load_in(&device, &folder, part, "autoencoder_kl_decoder", dtype, compute);
            let decoded = pollster::block_on(decoder.tiled(tiled).forward(&given, &|| false)).unwrap().remove(0);
            let Values::Floats(decoded) = decoded.values else { panic!("floats come out") };
            let psnr = psnr(&decoded, &want);
            let how = format!("{} in {}, tiled {tiled:?}", dtype.as_str(), compute.as_str());
            println!("{how}: {psnr:.1} dB");
            assert!(psnr >= least, "{how}: {psnr:.1} dB");
        }
    }
}

#[test]
fn coarser_encoders_give_latents_of_the_same_pictures() {
    let Some((folder, config, _)) = avatar_package::found() else { return };
    let image = Reference::read().unwrap().floats("autoencoder_kl/image");
    let part = &config["parts"]["autoencoder"];
    let device = Device::cpu(Threads::all());
    let mut decoder = load_as(&device, &folder, part, "autoencoder_kl_decoder");
    let mut shown = |dtype, compute| {
        let mut encoder = load_in(&device, &folder, part, "autoencoder_kl_encoder", dtype, compute);
        let given = [NamedTensor::new("image", Values::Floats(image.clone()))];
        let moments = pollster::block_on(encoder.trace(2, &given, &["moments"])).unwrap().remove(0);
        let Network::AutoencoderKlEncoder(half) = encoder.network() else { panic!("another network") };
        let given = [NamedTensor::new("z", Values::Floats(half.latents(&moments, 2, &[])))];
        pollster::block_on(decoder.trace(2, &given, &["decoded"])).unwrap().remove(0)
    };
    let want = shown(Dtype::F32, Compute::F32);
    for (dtype, compute, least) in [
        (Dtype::F16, Compute::F32, 50.0),
        (Dtype::Q8, Compute::F32, 45.0),
        (Dtype::Q8, Compute::Quality, 45.0),
        (Dtype::Q8, Compute::Fast, 45.0),
    ] {
        let psnr = psnr(&shown(dtype, compute), &want);
        println!("{} in {}: {psnr:.1} dB", dtype.as_str(), compute.as_str());
        assert!(psnr >= least, "{} in {}: {psnr:.1} dB", dtype.as_str(), compute.as_str());
    }
}
