//! Folders as other libraries and projects leave them.

use super::devices;
use super::odd_model::fresh;
use super::small::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use uvit_web::model::Network;
use uvit_web::package::{DENOISER, Description, read_asset, read_manifest, read_shards, reader};
use uvit_web::weights::Dtype;
use uvit_web::weights::checkpoint::{Checkpoint, Weights, official_autoencoder_name};

/// A CLIP model as transformers saves it, with what is no text encoder's, in two files if `sharded`.
fn clip_folder(folder: &Path, whole: bool, sharded: bool) {
    let mut config = text_encoder();
    config["projection_dim"] = json!(16);
    let config = match whole {
        true => {
            json!({ "model_type": "clip", "architectures": ["CLIPModel"], "text_config": config, "vision_config": {} })
        }
        false => {
            config["model_type"] = json!("clip_text_model");
            config["architectures"] = json!(["CLIPTextModel"]);
            config
        }
    };
    let mut tensors = random(&Network::of("clip_text", &text_encoder()).unwrap(), 2);
    if whole {
        tensors.insert("vision_model.embeddings.class_embedding".into(), (vec![4], vec![0.5; 4]));
        tensors.insert("text_projection.weight".into(), (vec![16, 24], vec![0.5; 16 * 24]));
        tensors.insert("logit_scale".into(), (vec![], vec![4.6]));
    }
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    if !sharded {
        return save(&folder.join("model.safetensors"), &tensors);
    }
    let mut map = serde_json::Map::new();
    for (i, name) in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"].iter().enumerate() {
        let part: Checkpoint =
            tensors.clone().into_iter().enumerate().filter(|(at, _)| at % 2 == i).map(|(_, t)| t).collect();
        part.keys().for_each(|tensor| drop(map.insert(tensor.clone(), json!(name))));
        save(&folder.join(name), &part);
    }
    std::fs::write(folder.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
}

#[test]
fn folders_of_transformers_and_diffusers_are_components() {
    let folder = small("folders");
    let plain = folder.with_file_name("plain");
    convert(&folder.join("model.json"), &plain, &["--dtype", "f32"]);
    let want = stored(&plain, "text_encoder", Dtype::F32);
    let tokenizer_json = json!({ "model": { "type": "BPE", "merges": [["c", "a"], "ca t</w>"] } }).to_string();
    for (at, whole, sharded) in [("clip", true, false), ("clip-sharded", true, true), ("sd/text_encoder", false, false)]
    {
        clip_folder(&folder.join(at), whole, sharded);
        let mut described = description();
        described.as_object_mut().unwrap().remove("assets");
        // A whole pipeline's folder stands for the part in it that is called as diffusers calls it.
        let named = at.strip_suffix("/text_encoder").unwrap_or(at);
        described["components"]["text_encoder"] = json!({ "checkpoint": named, "dtype": "f32" });
        match at {
            "clip" => std::fs::write(folder.join(at).join("merges.txt"), MERGES).unwrap(),
            "clip-sharded" => std::fs::write(folder.join(at).join("tokenizer.json"), &tokenizer_json).unwrap(),
            _ => {
                std::fs::create_dir_all(folder.join("sd/tokenizer")).unwrap();
                std::fs::write(folder.join("sd/tokenizer/merges.txt"), MERGES).unwrap();
                let index = json!({ "_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
                    "text_encoder": ["transformers", "CLIPTextModel"], "safety_checker": [null, null] });
                std::fs::write(folder.join("sd/model_index.json"), index.to_string()).unwrap();
            }
        }
        std::fs::write(folder.join("folder.json"), described.to_string()).unwrap();
        let out = folder.with_file_name(format!("out-{}", named));
        convert(&folder.join("folder.json"), &out, &["--dtype", "f32"]);
        assert_eq!(stored(&out, "text_encoder", Dtype::F32), want, "{at}");
        let (manifest, _) = read_manifest(&out).unwrap();
        assert_eq!(read_asset(&out, &manifest, "tokenizer").unwrap(), MERGES.as_bytes(), "{at}");
        assert_eq!(manifest.component("text_encoder").unwrap().params["projection_dim"], 0);
    }
    // The same from options, beside a denoiser with a configuration.
    let mut config = json!({ "architecture": "uvit_t2i" });
    for part in [denoiser(), sampling()] {
        part.as_object().unwrap().iter().for_each(|(name, value)| config[name] = value.clone());
    }
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let out = folder.with_file_name("options");
    let options = ["--config", &path("config.json"), "--text-encoder", &path("sd"), "--dtype", "f32"];
    convert(&folder.join("weights/uvit.safetensors"), &out, &options);
    let hash = |out: &Path| read_manifest(out).unwrap().0.model_hash(None).unwrap();
    assert_eq!(hash(&out), hash(&folder.with_file_name("out-sd")));
    // A pipeline's own denoiser is none of ours.
    let run = uvit(&[&path("sd"), "--dtype", "q8", "--out", &path("never")]);
    let words = said(&run);
    assert!(run.status.code() == Some(3) && words.contains("UNSUPPORTED_MODEL"), "{words}");
    for part in [
        "a StableDiffusionPipeline",
        "its unet is a UNet2DConditionModel",
        "text_encoder (CLIPTextModel)",
        "write a description",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
}

#[test]
fn an_autoencoder_is_the_same_under_all_its_names() {
    let folder = small("autoencoder");
    let diffusers = autoencoder_weights();
    // Linears of the middle's attention were convolutions of one pixel at first.
    let spelled = |spell: &dyn Fn(&str) -> String, pixel: bool| -> Checkpoint {
        let tensor = |(name, (shape, values)): (&String, &(Vec<usize>, Vec<f32>))| {
            let pixel = pixel && shape.len() == 2;
            (spell(name), (if pixel { [&shape[..], &[1, 1]].concat() } else { shape.clone() }, values.clone()))
        };
        diffusers.iter().map(tensor).collect()
    };
    let before = |name: &str| {
        let old = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
        old.iter().fold(name.to_owned(), |name, (now, then)| name.replace(now, then))
    };
    let config = json!({
        "_class_name": "AutoencoderKL", "block_out_channels": [32, 64], "layers_per_block": 1, "latent_channels": 4,
        "sample_size": 16, "scaling_factor": 0.25, "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"]
    });
    for at in ["sd/vae", "old"] {
        std::fs::create_dir_all(folder.join(at)).unwrap();
        std::fs::write(folder.join(at).join("config.json"), config.to_string()).unwrap();
    }
    std::fs::write(folder.join("sd/model_index.json"), "{}").unwrap();
    save(&folder.join("sd/vae/diffusion_pytorch_model.safetensors"), &diffusers);
    save(&folder.join("old/diffusion_pytorch_model.safetensors"), &spelled(&before, false));
    save(&folder.join("kl.safetensors"), &spelled(&|name| official_autoencoder_name(name, 2), true));
    save(
        &folder.join("ldm.safetensors"),
        &spelled(&|name| format!("first_stage_model.{}", official_autoencoder_name(name, 2)), true),
    );
    let folder_of = |at: &str| json!({ "checkpoint": at });
    let file_of = |at: &str| json!({ "architecture": "autoencoder_kl", "params": autoencoder(), "checkpoint": at });
    let mut hashes = Vec::new();
    for (i, part) in [folder_of("sd"), folder_of("old"), file_of("kl.safetensors"), file_of("ldm.safetensors")]
        .into_iter()
        .enumerate()
    {
        let mut described = description();
        described["components"]["decoder"] = part.clone();
        described["components"]["encoder"] = part;
        std::fs::write(folder.join("model.json"), described.to_string()).unwrap();
        let out = folder.with_file_name(format!("out-{i}"));
        convert(&folder.join("model.json"), &out, &["--dtype", "f32"]);
        let (manifest, _) = read_manifest(&out).unwrap();
        assert_eq!(manifest.component("decoder").unwrap().architecture, "autoencoder_kl_decoder");
        assert_eq!(manifest.component("encoder").unwrap().params["scaling_factor"], 0.25);
        hashes.push(manifest.model_hash(None).unwrap());
        let stored = stored(&out, "decoder", Dtype::F32);
        let attention = "decoder.mid_block.attentions.0";
        let parts = ["q", "k", "v"].map(|part| diffusers[&format!("{attention}.to_{part}.weight")].1.clone());
        assert_eq!(stored[&format!("{attention}.to_{{q,k,v}}.weight")], parts.concat());
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    // Halves of two autoencoders, and one whose latents are not the denoiser's.
    let mut described = description();
    described["components"]["decoder"] = file_of("kl.safetensors");
    described["components"]["encoder"] = file_of("kl.safetensors");
    described["components"]["encoder"]["params"]["scale_factor"] = json!(0.5);
    let text = error(&folder, &described).to_string();
    assert!(text.contains("decoder has scaling_factor 0.25, and component encoder 0.5"), "{text}");
    described["components"].as_object_mut().unwrap().remove("encoder");
    described["components"]["decoder"]["params"]["ddconfig"]["z_channels"] = json!(8);
    described["components"]["decoder"]["params"]["embed_dim"] = json!(8);
    let text = error(&folder, &described).to_string();
    assert!(text.contains("denoiser gives [4, 8, 8], and component decoder takes [8, 8, 8]"), "{text}");
    // The same network twice.
    described["components"]["decoder"] = file_of("kl.safetensors");
    described["components"]["preview_decoder"] = file_of("kl.safetensors");
    let text = error(&folder, &described).to_string();
    assert!(text.contains("decoder and preview_decoder are the same network of"), "{text}");
}

#[test]
fn a_preview_decoder_is_taesds_under_both_its_names() {
    let folder = fresh("taesd");
    let mut config = json!({ "architecture": "uvit_t2i" });
    for part in [denoiser(), sampling()] {
        part.as_object().unwrap().iter().for_each(|(name, value)| config[name] = value.clone());
    }
    save(&folder.join("uvit.safetensors"), &random(&Network::of("uvit_t2i", &denoiser()).unwrap(), 1));
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    // As the published one is: by numbers, of which the decoder's first stands for a layer without weights.
    let published = random(&Network::of("autoencoder_tiny_decoder", &json!({})).unwrap(), 3);
    let own = |(name, tensor): (&String, &(Vec<usize>, Vec<f32>))| {
        let rest = name.strip_prefix("decoder.layers.").unwrap();
        let (number, rest) = rest.split_once('.').unwrap();
        (format!("{}.{rest}", number.parse::<usize>().unwrap() + 1), tensor.clone())
    };
    save(&folder.join("taesd_decoder.safetensors"), &published.iter().map(own).collect());
    let config = json!({ "_class_name": "AutoencoderTiny", "scaling_factor": 1.0 });
    save(&folder.join("tiny/diffusion_pytorch_model.safetensors"), &published);
    std::fs::write(folder.join("tiny/config.json"), config.to_string()).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let converted = |given: &str| {
        let out = folder.with_file_name(format!("out-{given}"));
        let options = ["--config", &path("config.json"), "--preview-decoder", &path(given), "--dtype", "f32"];
        convert(&folder.join("uvit.safetensors"), &out, &options);
        let (manifest, _) = read_manifest(&out).unwrap();
        // Nothing decodes what a map could be fitted to.
        assert_eq!(manifest.preview, None);
        (manifest.component("preview_decoder").unwrap().clone(), stored(&out, "preview_decoder", Dtype::F32))
    };
    let (component, tensors) = converted("taesd_decoder.safetensors");
    assert_eq!((&component.params["scaling_factor"], tensors.len()), (&json!(1.0), published.len()));
    assert_eq!(tensors["decoder.layers.0.bias"], published["decoder.layers.0.bias"].1);
    assert!(converted("tiny").1 == tensors);
    let (from, out) = (path("uvit.safetensors"), path("never"));
    let run = uvit(&[&from, "--config", &path("config.json"), "--preview", "3", "--dtype", "f32", "--out", &out]);
    assert!(
        run.status.code() == Some(2) && said(&run).contains("--preview is for a model with a decoder"),
        "{}",
        said(&run)
    );
    // What another scale of the latents makes of it.
    let manifest = read_manifest(&folder.with_file_name("out-tiny")).unwrap().0;
    let mut described = Description::of_denoiser(manifest, folder.join("uvit.safetensors"), Weights::Auto);
    described.add_preview_decoder(&folder.join("taesd_decoder.safetensors"), Some(0.2301)).unwrap();
    let scale = described.manifest.component("preview_decoder").unwrap().params["scaling_factor"].as_f64().unwrap();
    assert!((scale - 0.2301 / 0.18215).abs() < 1e-12, "{scale}");
}

#[test]
fn a_unidiffusers_folder_is_a_model() {
    let folder = fresh("joint");
    let config = joint(&folder);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let out = folder.with_file_name("out");
    let words = convert(&folder, &out, &["--dtype", "f32"]);
    assert!(words.contains("left out: melody (sheet_music)"), "{words}");
    assert!(words.contains("preview: "), "{words}");
    let (manifest, _) = read_manifest(&out).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.task.as_str()), ("model", "any"));
    assert_eq!(manifest.stages(), ["text_encoder", "text_projector", DENOISER, "decoder"]);
    // Brought with the first request that needs them.
    assert_eq!(manifest.on_demand(), ["encoder", "image_encoder", "caption_decoder"]);
    assert_eq!((manifest.runs().len(), manifest.components.iter().count()), (7, 7));
    let sampling = &manifest.sampling;
    assert_eq!((sampling.guidance_scale, sampling.steps, sampling.t_min), (5.0, 20, 0.002));
    assert_eq!(serde_json::to_value(manifest.component(DENOISER).unwrap().params.clone()).unwrap()["version"], 1);
    assert_eq!(read_asset(&out, &manifest, "tokenizer").unwrap(), MERGES.as_bytes());
    // By its configuration's path, too.
    convert(&folder.join("config.json"), &folder.with_file_name("again"), &["--dtype", "f32"]);
    let refused = |pointer: &str, value: Value, words: &str| {
        let mut changed = config.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        std::fs::write(folder.join("config.json"), changed.to_string()).unwrap();
        let error = Description::find(&folder).and_then(|found| found.unwrap().complete()).map(drop).unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
    };
    refused("/sampler/method", json!("adaptive"), "no sampler is dpm_solver_pp of order 3, adaptive");
    refused("/sampler/order", json!(-1), "sampler: order: -1");
    refused("/schedule/type", json!("continuous"), "schedule: the type is \"continuous\"");
    refused("/schedule/N", Value::Null, "schedule: N is missing");
    refused("/parts/uvit/kind", json!("uvit"), "\"any\" needs denoiser");
    refused("/parts/uvit/file", json!(1), "parts: uvit: file: 1 is no text");
    refused(
        "/parts/caption_decoder/params/prefix_dim",
        json!(20),
        "text_encoder gives [7, 24], and component text_projector takes [7, 20]",
    );
    refused(
        "/parts/clip_vision/params/projection_dim",
        json!(24),
        "image_encoder gives [1, 24], and component denoiser takes [1, 20]",
    );
    refused(
        "/parts/caption_decoder/params/gpt2/vocab_size",
        json!(517),
        "there is no asset caption_tokenizer, and the tokenizer has 516 ids; the caption decoder has vocab_size 517",
    );
}

/// The real thing, where it is: every part in its own form.
#[test]
fn the_avatars_model_is_converted_as_it_lies_there() {
    let named = std::env::var_os("UVIT_MODELS").map(PathBuf::from);
    let folder =
        named.clone().unwrap_or(Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models")).join("avatars");
    if !folder.join("config.json").exists() {
        assert!(named.is_none(), "UVIT_MODELS is set, and {} lacks a model", folder.display());
        return devices::skip("the avatars model is not here (UVIT_MODELS): it is not converted");
    }
    let out = fresh("avatars");
    let words = convert(&folder, &out, &["--dtype", "q8", "--calibration", "0"]);
    let (manifest, _) = read_manifest(&out).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.task.as_str(), manifest.sampling.steps), ("avatars", "any", 50));
    // How well four channels say what the decoder draws there: 20.7 dB, and seven eighths of the variance.
    let said = words
        .lines()
        .find_map(|line| line.strip_prefix("preview: a linear map of the latents, fitted to 12 pictures: "));
    let (psnr, r2) = said.and_then(|said| said.split_once(" dB, R^2 ")).unwrap_or_else(|| panic!("{words}"));
    let [psnr, r2] = [psnr, r2].map(|number| number.parse::<f64>().unwrap());
    assert!((20.0..40.0).contains(&psnr) && (0.85..1.0).contains(&r2), "{words}");
    assert_eq!(manifest.preview.as_ref().map(|preview| preview.latent_rgb_factors.len()), Some(4));
    let bytes: u64 = manifest.files().map(|stored| stored.bytes).sum();
    assert!(bytes < 8_000_000, "{bytes} bytes");
    for name in ["decoder", DENOISER, "encoder", "text_encoder", "text_projector"] {
        let mut reader = reader(&manifest, name, None).unwrap();
        read_shards(&out, &mut reader, |_| Ok(())).unwrap();
    }
    assert_eq!(manifest.component("decoder").unwrap().params["scaling_factor"], 0.295_819_041_268_772_84);
}
