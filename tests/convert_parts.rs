//! `uvit convert` of models of several networks: descriptions, the folders of other libraries, and what can be wrong with them.
#![cfg(feature = "cli")]

#[allow(dead_code)]
mod devices;
mod odd_model;

use odd_model::{fresh, listing};
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use uvit_web::model::{Batch, Network};
use uvit_web::package::{DENOISER, Description, read_asset, read_manifest, read_shards, reader};
use uvit_web::sampler::TorchGenerator;
use uvit_web::text::Tokenizer;
use uvit_web::weights::checkpoint::{Checkpoint, official_autoencoder_name};
use uvit_web::weights::{Data, Dtype};
use uvit_web::{Code, Error};

const MERGES: &str = "#version: 0.2\nc a\nca t</w>\n";

fn uvit(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_uvit")).arg("convert").args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// Random weights under a network's published names, each after a prefix.
fn random(network: &Network, seed: u64) -> Checkpoint {
    let mut generator = TorchGenerator::new(seed);
    let plan = network.record(Batch::plain(1)).unwrap().plan;
    let tensors = plan.published().flat_map(|weight| weight.sources());
    tensors
        .map(|(name, shape)| {
            let n = shape.iter().product();
            (name, (shape, generator.randn_f32(n)))
        })
        .collect()
}

fn save(path: &Path, tensors: &Checkpoint) {
    let bytes: Vec<_> = tensors
        .iter()
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()))
        .collect();
    let views = bytes
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap()));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn denoiser() -> Value {
    json!({
        "img_size": 8, "patch_size": 2, "in_chans": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2,
        "qkv_bias": false, "mlp_time_embed": false, "clip_dim": 24, "num_clip_token": 7, "conv": true, "skip": true
    })
}

fn text_encoder() -> Value {
    json!({
        "vocab_size": 516, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 7
    })
}

/// How the small models are sampled.
fn sampling() -> Value {
    json!({
        "name": "small", "prediction": "noise", "time_scale": 1000, "sampler": "dpmpp_3s", "steps": 6, "guidance_scale": 2,
        "schedule": { "type": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "train_steps": 1000 }
    })
}

/// A description of a small model of pictures of a text.
fn description() -> Value {
    let mut all = sampling();
    all["components"] = json!({
        "denoiser": { "architecture": "uvit_t2i", "params": denoiser(), "checkpoint": "weights/uvit.safetensors" },
        "text_encoder": { "architecture": "clip_text", "params": text_encoder(), "checkpoint": "text.safetensors", "dtype": ["f16", "f32"] },
    });
    all["assets"] = json!({ "tokenizer": "merges.txt" });
    all["licences"] = json!([{ "name": "weights", "spdx": "CC0-1.0", "attribution": "nobody" }]);
    all
}

/// A folder with that model's files.
fn small(test: &str) -> PathBuf {
    let folder = fresh(test);
    save(&folder.join("weights/uvit.safetensors"), &random(&Network::of("uvit_t2i", &denoiser()).unwrap(), 1));
    save(&folder.join("text.safetensors"), &random(&Network::of("clip_text", &text_encoder()).unwrap(), 2));
    std::fs::write(folder.join("merges.txt"), MERGES).unwrap();
    std::fs::write(folder.join("model.json"), description().to_string()).unwrap();
    folder
}

/// A component's tensors as they are stored, in f32.
fn stored(folder: &Path, component: &str, dtype: Dtype) -> BTreeMap<String, Vec<f32>> {
    let (manifest, folder) = read_manifest(folder).unwrap();
    let mut tensors = BTreeMap::new();
    read_shards(&folder, &mut reader(&manifest, component, Some(dtype)).unwrap(), |tensor| {
        if let Data::F32(values) = &tensor.data {
            tensors.insert(tensor.name.clone(), values.clone());
        }
        Ok(())
    })
    .unwrap();
    tensors
}

/// Converts, which must work; what it said.
fn convert(input: &Path, out: &Path, more: &[&str]) -> String {
    let run = uvit(&[&[input.to_str().unwrap(), "--out", out.to_str().unwrap()], more].concat());
    assert!(run.status.success(), "{}", said(&run));
    said(&run)
}

#[test]
fn a_description_becomes_a_model_of_several_networks() {
    let folder = small("described");
    let out = folder.with_file_name("out");
    let words = convert(&folder.join("model.json"), &out, &["--dtype", "q8", "--calibration", "0"]);
    assert!(words.contains("text_encoder: f32 ") && words.contains("denoiser: q8 "), "{words}");
    let (manifest, _) = read_manifest(&out).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.task.as_str()), ("small", "text"));
    assert_eq!(manifest.licences.len(), 1);
    let dtypes = |name: &str| manifest.component(name).unwrap().variants.iter().map(|v| v.dtype).collect::<Vec<_>>();
    assert_eq!((dtypes(DENOISER), dtypes("text_encoder")), (vec![Dtype::Q8], vec![Dtype::F16, Dtype::F32]));
    let merges = read_asset(&out, &manifest, "tokenizer").unwrap();
    assert_eq!(merges, MERGES.as_bytes());
    assert_eq!(Tokenizer::new(&String::from_utf8(merges).unwrap()).unwrap().vocabulary(), 516);
    assert!(listing(&out).iter().any(|name| name.starts_with("tokenizer-") && name.ends_with(".txt")));
    // q, k and v lie below each other, as published.
    let published = random(&Network::of("clip_text", &text_encoder()).unwrap(), 2);
    let layer = "text_model.encoder.layers.0.self_attn";
    let parts = ["q", "k", "v"].map(|part| published[&format!("{layer}.{part}_proj.weight")].1.clone());
    let stored = stored(&out, "text_encoder", Dtype::F32);
    assert_eq!(stored[&format!("{layer}.{{q,k,v}}_proj.weight")], parts.concat());
    // The same again has the same names; another tool's file among them is seen.
    let before = listing(&out);
    convert(&folder.join("model.json"), &out, &["--dtype", "q8", "--calibration", "0", "--force"]);
    assert_eq!(listing(&out), before);
    // What it reads is not overwritten.
    let run = uvit(&[
        folder.join("model.json").to_str().unwrap(),
        "--dtype",
        "f32",
        "--force",
        "--out",
        folder.join("weights").to_str().unwrap(),
    ]);
    assert!(
        run.status.code() == Some(2) && said(&run).contains("uvit.safetensors lies in the folder"),
        "{}",
        said(&run)
    );
    // `uvit inspect` lists all of it.
    let inspected = Command::new(env!("CARGO_BIN_EXE_uvit")).arg("inspect").arg(&out).output().unwrap();
    for words in ["component denoiser: uvit_t2i", "component text_encoder: clip_text", "asset tokenizer: tokenizer-"] {
        assert!(said(&inspected).contains(words), "{}", said(&inspected));
    }
}

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

/// What is wrong with a description.
fn error(folder: &Path, described: &Value) -> Error {
    let read = Description::read(described, folder).and_then(Description::complete);
    read.map(drop).unwrap_err()
}

#[test]
fn what_is_wrong_with_a_description_is_said() {
    let folder = small("wrong");
    let sound = description();
    Description::read(&sound, &folder).unwrap().complete().unwrap();
    let with = |pointer: &str, value: Value| {
        let mut changed = sound.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        changed.pointer_mut(parent).unwrap()[key] = value;
        changed
    };
    let encoder = |field: &str, value: Value| with(&format!("/components/text_encoder/params/{field}"), value);
    let text = &sound["components"]["text_encoder"];
    std::fs::write(folder.join("short.txt"), "#version: 0.2\nc a\n").unwrap();
    std::fs::write(folder.join("nonsense.txt"), "#version: 0.2\nc a\nxyz\n").unwrap();
    std::fs::write(folder.join("binary.txt"), [0xff, 0xfe, 0, 1]).unwrap();
    for (described, code, words) in [
        (with("/task", json!("any")), Code::InvalidArgument, &["task \"any\" needs"][..]),
        (with("/task", json!("dream")), Code::InvalidArgument, &["dream", "this build knows class"]),
        (
            with("/components/vae", text.clone()),
            Code::InvalidArgument,
            &["no component \"vae\"", "text_encoder, text_projector, decoder"],
        ),
        (
            with("/components/decoder", text.clone()),
            Code::InvalidArgument,
            &["component decoder: clip_text is none", "autoencoder_kl_decoder"],
        ),
        (
            with("/components/denoiser", text.clone()),
            Code::UnsupportedModel,
            &["component denoiser: clip_text draws no pictures"],
        ),
        (
            with("/components/text_encoder/architecture", json!("t5")),
            Code::UnsupportedModel,
            &["component text_encoder", "\"t5\""],
        ),
        (
            with("/components/text_encoder/dtypes", json!("q8")),
            Code::InvalidArgument,
            &["no field \"dtypes\"", "weights, dtype"],
        ),
        (
            with("/components/text_encoder/dtype", json!(["q8", "q8"])),
            Code::InvalidArgument,
            &["dtype q8 is given twice"],
        ),
        (with("/components/text_encoder/dtype", json!("q5")), Code::InvalidArgument, &["no dtype \"q5\""]),
        (
            with("/components/text_encoder/checkpoint", json!(3)),
            Code::InvalidArgument,
            &["component text_encoder: checkpoint: 3 is no text"],
        ),
        (
            with("/components/text_encoder/params", Value::Null),
            Code::InvalidArgument,
            &["an architecture, but no params"],
        ),
        (
            with("/components/text_encoder", json!({ "checkpoint": "weights" })),
            Code::InvalidArgument,
            &["no config.json"],
        ),
        // Both numbers, and which of the two says which.
        (
            encoder("hidden_size", json!(32)),
            Code::InvalidArgument,
            &["component text_encoder gives [7, 32], and component denoiser takes [7, 24]"],
        ),
        (
            encoder("max_position_embeddings", json!(9)),
            Code::InvalidArgument,
            &["gives [9, 24]", "denoiser takes [7, 24]"],
        ),
        (encoder("vocab_size", json!(520)), Code::InvalidArgument, &["2 merges", "516 ids", "vocab_size 520"]),
        (
            with("/assets/tokenizer", json!("short.txt")),
            Code::InvalidArgument,
            &["1 merges", "515 ids", "vocab_size 516"],
        ),
        (with("/assets/tokenizer", json!("nonsense.txt")), Code::InvalidArgument, &["xyz"]),
        (with("/assets/tokenizer", json!("binary.txt")), Code::InvalidArgument, &["binary.txt: no text"]),
        (with("/assets/tokenizer", json!("nowhere.txt")), Code::InvalidArgument, &["nowhere.txt"]),
        (with("/assets", json!({})), Code::InvalidArgument, &["no asset tokenizer"]),
        (
            with("/assets/vocabulary", json!("merges.txt")),
            Code::InvalidArgument,
            &["no asset \"vocabulary\"", "tokenizer"],
        ),
        (with("/schedule", Value::Null), Code::InvalidArgument, &["schedule is missing"]),
        (with("/labels", json!([{ "index": 0, "name": "a" }])), Code::InvalidArgument, &["0 classes"]),
    ] {
        let error = error(&folder, &described);
        let text = error.to_string();
        assert!(error.code == code && words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
    }
    // A UniDiffuser's text latents are not its encoder's words.
    let mut joint = sound.clone();
    joint["components"]["denoiser"] = json!({
        "architecture": "unidiffuser", "checkpoint": "joint.safetensors",
        "params": { "img_size": 8, "in_chans": 4, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2,
            "qkv_bias": false, "mlp_time_embed": false, "text_dim": 12, "num_text_tokens": 7, "clip_img_dim": 20 }
    });
    let text = error(&folder, &joint).to_string();
    assert!(
        text.contains("text_encoder gives [7, 24], and component denoiser takes [7, 12]")
            && text.contains("text_projector"),
        "{text}"
    );
    let projector = |prefix: usize, hidden: usize| {
        let params = json!({ "prefix_dim": prefix, "hidden_dim": hidden, "tokens": 7 });
        let mut joint = joint.clone();
        joint["components"]["text_projector"] =
            json!({ "architecture": "prefix_encoder", "params": params, "checkpoint": "captions.safetensors" });
        joint
    };
    Description::read(&projector(24, 12), &folder).unwrap().complete().unwrap();
    let text = error(&folder, &projector(20, 12)).to_string();
    assert!(text.contains("text_encoder gives [7, 24], and component text_projector takes [7, 20]"), "{text}");
    let text = error(&folder, &projector(24, 16)).to_string();
    assert!(text.contains("text_projector gives [7, 16], and component denoiser takes [7, 12]"), "{text}");
    // A file that lacks a component's tensors, or has more of them, says whose.
    let out = folder.with_file_name("never");
    let run = |described: &Value| {
        std::fs::write(folder.join("model.json"), described.to_string()).unwrap();
        let run =
            uvit(&[folder.join("model.json").to_str().unwrap(), "--dtype", "f32", "--out", out.to_str().unwrap()]);
        assert!(run.status.code() == Some(3) && !out.exists(), "{}", said(&run));
        said(&run)
    };
    let words = run(&with("/components/text_encoder/checkpoint", json!("weights/uvit.safetensors")));
    assert!(words.contains("TENSOR_MISSING") && words.contains("component text_encoder: "), "{words}");
    let words = run(&encoder("num_hidden_layers", json!(2)));
    assert!(words.contains("TENSOR_MISSING") && words.contains("encoder.layers.1."), "{words}");
    let mut more = random(&Network::of("clip_text", &text_encoder()).unwrap(), 2);
    more.insert("text_model.encoder.layers.1.mlp.fc1.bias".into(), (vec![32], vec![0.0; 32]));
    save(&folder.join("more.safetensors"), &more);
    let words = run(&with("/components/text_encoder/checkpoint", json!("more.safetensors")));
    assert!(words.contains("TENSOR_UNEXPECTED") && words.contains("encoder.layers.1."), "{words}");
    let words = run(&with("/components/text_encoder/checkpoint", json!("nowhere.safetensors")));
    assert!(words.contains("error[IO]") && words.contains("nowhere.safetensors"), "{words}");
}

/// Stable Diffusion's autoencoder in small, as it was published first.
fn autoencoder() -> Value {
    json!({
        "ddconfig": { "double_z": true, "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2],
            "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0 },
        "embed_dim": 4, "scale_factor": 0.25
    })
}

/// All its tensors under diffusers' names.
fn autoencoder_weights() -> Checkpoint {
    let half = |name: &str, seed| random(&Network::of(name, &autoencoder()).unwrap(), seed);
    [half("autoencoder_kl_decoder", 5), half("autoencoder_kl_encoder", 6)].into_iter().flatten().collect()
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

/// A UniDiffuser's folder in small.
fn joint(folder: &Path) -> Value {
    let params = json!({ "img_size": 8, "in_chans": 4, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2,
        "qkv_bias": false, "mlp_time_embed": false, "text_dim": 12, "num_text_tokens": 7, "clip_img_dim": 20 });
    let network = |name: &str, params: &Value| Network::of(name, params).unwrap();
    save(&folder.join("uvit.safetensors"), &random(&network("unidiffuser", &params), 1));
    save(&folder.join("text.safetensors"), &random(&network("clip_text", &text_encoder()), 2));
    let weights = autoencoder_weights();
    let official = weights.into_iter().map(|(name, tensor)| (official_autoencoder_name(&name, 2), tensor));
    save(&folder.join("kl.safetensors"), &official.collect());
    let prefix = json!({ "prefix_dim": 24, "hidden_dim": 12, "tokens": 7 });
    let mut captions = random(&network("prefix_encoder", &prefix), 3);
    captions.insert("gpt.transformer.wte.weight".into(), (vec![516, 8], vec![0.0; 516 * 8]));
    save(&folder.join("captions.safetensors"), &captions);
    std::fs::write(folder.join("merges.txt"), MERGES).unwrap();
    json!({
        "model": "unidiffuser",
        "parts": {
            "uvit": { "kind": "unidiffuser", "version": 1, "file": "uvit.safetensors", "params": params },
            "autoencoder": { "kind": "autoencoder_kl", "file": "kl.safetensors", "params": autoencoder() },
            "clip_text": { "kind": "clip_text", "file": "text.safetensors", "params": text_encoder() },
            "caption_decoder": { "kind": "caption_decoder", "file": "captions.safetensors",
                "params": { "gpt2": {}, "prefix_length": 7, "hidden_dim": 12, "prefix_dim": 24 } },
            "tokenizer": { "kind": "clip_tokenizer", "file": "merges.txt" },
            "melody": { "kind": "sheet_music", "file": "song.txt" }
        },
        "schedule": { "type": "discrete", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "N": 1000 },
        "prediction": "noise", "time_scale": 1000,
        "sampler": { "type": "dpm_solver_pp", "order": 3, "method": "fast", "skip_type": "time_uniform", "T": 1.0, "eps": 0.002, "steps": 20 },
        "modes": { "t2i": { "scale": 4.0 } }
    })
}

#[test]
fn a_unidiffusers_folder_is_a_model() {
    let folder = fresh("joint");
    let config = joint(&folder);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let out = folder.with_file_name("out");
    let words = convert(&folder, &out, &["--dtype", "f32"]);
    assert!(words.contains("left out: melody (sheet_music)"), "{words}");
    let (manifest, _) = read_manifest(&out).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.task.as_str()), ("model", "any"));
    let names: Vec<&str> =
        manifest.components.iter().map(|(name, _)| name).filter(|name| *name != "caption_decoder").collect();
    assert_eq!(names, ["decoder", DENOISER, "encoder", "text_encoder", "text_projector"]);
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
    convert(&folder, &out, &["--dtype", "q8", "--calibration", "0"]);
    let (manifest, _) = read_manifest(&out).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.task.as_str(), manifest.sampling.steps), ("avatars", "any", 50));
    let bytes: u64 = manifest.files().map(|stored| stored.bytes).sum();
    assert!(bytes < 8_000_000, "{bytes} bytes");
    for name in ["decoder", DENOISER, "encoder", "text_encoder", "text_projector"] {
        let mut reader = reader(&manifest, name, None).unwrap();
        read_shards(&out, &mut reader, |_| Ok(())).unwrap();
    }
    assert_eq!(manifest.component("decoder").unwrap().params["scaling_factor"], 0.295_819_041_268_772_84);
}

#[test]
fn every_network_is_calibrated_with_what_it_sees_and_the_report_says_what_it_costs() {
    let folder = fresh("calibrated");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.json"), joint(&folder).to_string()).unwrap();
    std::fs::write(folder.join("prompts.txt"), "cat\n\n  a cat\nact\ncat cat\ntac\n").unwrap();
    let prompts = folder.join("prompts.txt");
    let run = |out: &str, more: &[&str]| {
        let out = folder.with_file_name(out);
        let words = convert(&folder, &out, &[&["--dtype", "q8", "--dtype", "f32"], more].concat());
        let (manifest, _) = read_manifest(&out).unwrap();
        let shard = |name: &str| manifest.component(name).unwrap().variants[0].shards[0].sha256.clone();
        (words, ["text_encoder", "text_projector", DENOISER, "decoder"].map(shard))
    };
    let (words, everyday) = run("everyday", &["--calibration", "6", "--report"]);
    // Every output of every component in every form: what is stored as it is costs nothing, what is rounded a little.
    for (name, output) in [
        ("text_encoder", "last_hidden_state"),
        ("text_projector", "encoded_prefix"),
        (DENOISER, "img_out"),
        (DENOISER, "text_out"),
        ("decoder", "decoded"),
        ("encoder", "moments"),
    ] {
        for (dtype, most) in [("q8", 0.1), ("f32", 1e-5)] {
            let row = |line: &&str| {
                line.starts_with(&format!("| {name} | {dtype} |")) && line.contains(&format!("| {output} |"))
            };
            let line = words.lines().find(row).unwrap_or_else(|| panic!("{name} {dtype} {output}: {words}"));
            let error: f64 = line.split('|').nth(5).unwrap().trim().parse().unwrap();
            assert!(error <= most && (error > 0.0) == (dtype == "q8"), "{line}");
        }
    }
    assert!(words.lines().any(|line| line.starts_with("| decoder |") && line.ends_with(" dB |")), "{words}");
    let (words, plain) = run("plain", &["--calibration", "0"]);
    assert!(!words.contains("| output |"), "{words}");
    let (_, own) = run("own", &["--calibration", "6", "--prompts", prompts.to_str().unwrap()]);
    let differ = |a: &[String; 4], b: &[String; 4]| [0, 1, 2, 3].map(|i| a[i] != b[i]);
    assert_eq!(differ(&everyday, &plain), [true, true, true, false]);
    assert_eq!(differ(&everyday, &own), [true, true, true, false]);
}
