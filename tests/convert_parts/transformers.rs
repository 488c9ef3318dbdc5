//! DiT, Latte and Stable Diffusion 3 in the layouts that people have them in: one and the same model each.

use super::layouts::*;
use super::odd_model::fresh;
use super::pth::{Py, dict, save as save_pth};
use super::small::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use uvit_web::model::{Batch, Network};
use uvit_web::package::{DENOISER, Description, Located, Manifest, Preset, preset, read_asset, read_manifest};
use uvit_web::pipeline::{ComputeChoice, DeviceChoice, LoadOptions, Loader, NamedTensor, Values};
use uvit_web::plan::Compute;
use uvit_web::runtime::Tune;
use uvit_web::weights::Dtype;
use uvit_web::weights::checkpoint::{Checkpoint, Weights as Which, read};

const F32: [&str; 4] = ["--dtype", "f32", "--preview", "0"];

fn manifest(out: &Path) -> Manifest {
    read_manifest(out).unwrap().0
}

fn hash(out: &Path) -> String {
    manifest(out).model_hash(None).unwrap()
}

/// A conversion that must fail, writing nothing.
fn refused(input: &Path, more: &[&str], code: i32, words: &[&str]) {
    let out = input.with_file_name("never");
    let run = uvit(&[&[input.to_str().unwrap(), "--dtype", "f32", "--out", out.to_str().unwrap()], more].concat());
    let text = said(&run);
    assert!(run.status.code() == Some(code) && !out.exists(), "{code}: {text}");
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
}

fn dit() -> Value {
    json!({
        "input_size": 8, "patch_size": 2, "in_channels": 4, "hidden_size": 48, "depth": 2, "num_heads": 3, "mlp_ratio": 4.0,
        "num_classes": 9, "learn_sigma": true
    })
}

/// With the positions that all of them have.
fn dit_weights() -> Checkpoint {
    let mut weights = random(&Network::of("dit", &dit()).unwrap(), 1);
    weights.insert("pos_embed".into(), positions(4, 48));
    weights
}

/// A configuration of a small network, sampled as the published one.
fn configured(like: &str, architecture: &str, params: &Value) -> String {
    let mut config = preset(like).unwrap().config;
    params.as_object().unwrap().iter().for_each(|(name, value)| config[name] = value.clone());
    (config["architecture"], config["name"]) = (architecture.into(), "small".into());
    if !config["null_class"].is_null() {
        config["null_class"] = params["num_classes"].clone();
    }
    config.to_string()
}

fn dit_folder(folder: &Path, weights: &Checkpoint) {
    write(
        &folder.join("model_index.json"),
        &json!({
            "_class_name": "DiTPipeline", "transformer": ["diffusers", "Transformer2DModel"],
            "scheduler": ["diffusers", "DDIMScheduler"], "vae": ["diffusers", "AutoencoderKL"],
            "id2label": { "0": "tench, Tinca tinca", "3": "crane", "7": "crane" }
        }),
    );
    write(
        &folder.join("transformer/config.json"),
        &json!({
            "_class_name": "Transformer2DModel", "activation_fn": "gelu-approximate", "attention_bias": true, "attention_head_dim": 16,
            "cross_attention_dim": null, "in_channels": 4, "norm_elementwise_affine": false, "norm_type": "ada_norm_zero",
            "num_attention_heads": 3, "num_embeds_ada_norm": 9, "num_layers": 2, "out_channels": 8, "patch_size": 2, "sample_size": 8
        }),
    );
    save(&folder.join("transformer/diffusion_pytorch_model.safetensors"), weights);
    write(
        &folder.join("vae/config.json"),
        &json!({ "_class_name": "AutoencoderKL", "block_out_channels": [32, 64], "layers_per_block": 1, "sample_size": 16 }),
    );
    save(&folder.join("vae/diffusion_pytorch_model.safetensors"), &autoencoder_weights());
    write(
        &folder.join("scheduler/scheduler_config.json"),
        &json!({ "_class_name": "DDIMScheduler", "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
            "clip_sample": false, "num_train_timesteps": 1000, "prediction_type": "epsilon", "steps_offset": 0 }),
    );
}

#[test]
fn a_dit_is_one_model_as_published_as_trained_and_of_diffusers() {
    let folder = fresh("dit");
    let weights = dit_weights();
    std::fs::create_dir_all(&folder).unwrap();
    let config = folder.join("config.json");
    std::fs::write(&config, configured("dit-xl-2-256", "dit", &dit())).unwrap();
    let options = [&F32[..], &["--config", config.to_str().unwrap()]].concat();
    let converted = |name: &str| {
        let out = folder.with_file_name(format!("out-{}", name.replace('/', "-")));
        let words = convert(&folder.join(name), &out, &options);
        (words, out)
    };
    save(&folder.join("dit.safetensors"), &weights);
    let (_, plain) = converted("dit.safetensors");
    let denoiser = stored(&plain, DENOISER, Dtype::F32);
    for (name, (_, values)) in &weights {
        assert!(denoiser[name] == *values, "{name}");
    }
    let sampling = manifest(&plain).sampling;
    assert_eq!((sampling.sampler.as_str(), sampling.steps, sampling.guided_channels), ("ddpm", 250, Some(3)));
    // As train.py leaves it: the average, the trained ones, the optimizer.
    let state = |weights: &Checkpoint| {
        Py::StateDict(weights.iter().map(|(name, (s, v))| (name.clone(), Py::Tensor(s.clone(), v.clone()))).collect())
    };
    let trained = random(&Network::of("dit", &dit()).unwrap(), 2);
    let optimizer = dict([("state", Py::Dict(Vec::new()))]);
    save_pth(
        &folder.join("trained.pt"),
        &dict([("model", state(&trained)), ("ema", state(&weights)), ("opt", optimizer)]),
        2,
    );
    let (words, out) = converted("trained.pt");
    assert!(words.contains("took \"ema\" (EMA)"), "{words}");
    assert_eq!(hash(&out), hash(&plain));
    // Behind a prefix.
    save(&folder.join("wrapped.safetensors"), &prefixed("model.module.", &weights));
    assert_eq!(hash(&converted("wrapped.safetensors").1), hash(&plain));
    // diffusers' transformer alone, and its whole pipeline.
    dit_folder(&folder.join("hub"), &dit_of_diffusers(&weights, 2));
    let (words, out) = converted("hub/transformer");
    assert!(words.contains("pos_embed is not there, and computed"), "{words}");
    assert_eq!(hash(&out), hash(&plain));
    let out = folder.with_file_name("out-hub");
    convert(&folder.join("hub"), &out, &F32);
    assert!(stored(&out, DENOISER, Dtype::F32) == denoiser);
    let hub = manifest(&out);
    assert_eq!(hub.component(DENOISER).unwrap().params, manifest(&plain).component(DENOISER).unwrap().params);
    assert_eq!((hub.name.as_str(), hub.null_class, hub.stages()), ("hub", Some(9), vec![DENOISER, "decoder"]));
    assert_eq!(hub.on_demand(), ["encoder"]);
    let labels: Vec<(u32, &str)> = hub.labels.iter().map(|label| (label.index, label.name.as_str())).collect();
    assert_eq!(labels, [(0, "tench, Tinca tinca"), (3, "crane (3)"), (7, "crane (7)")]);
    // As DiTPipeline draws: all channels guided.
    let sampling = &hub.sampling;
    assert_eq!((sampling.sampler.as_str(), sampling.steps, sampling.guided_channels), ("ddim", 50, None));
    assert_eq!(sampling.grid.map(|grid| grid.as_str()), Some("strided"));
}

#[test]
fn what_a_dit_of_diffusers_may_not_be_is_said() {
    let folder = fresh("dit-refused");
    let sound = dit_of_diffusers(&dit_weights(), 2);
    let hub = folder.join("hub");
    dit_folder(&hub, &sound);
    let mut changed = sound.clone();
    let copy = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight";
    changed.get_mut(copy).unwrap().1[5] += 1.0;
    save(&hub.join("transformer/diffusion_pytorch_model.safetensors"), &changed);
    refused(&hub, &F32[2..], 3, &["UNSUPPORTED_MODEL", copy, "is not that of block 0"]);
    save(&hub.join("transformer/diffusion_pytorch_model.safetensors"), &sound);
    for (file, field, value, words) in [
        ("transformer", "norm_type", json!("ada_norm_single"), "PixArt, which is not supported"),
        ("transformer", "out_channels", json!(5), "out_channels is 5, not 4 or twice as many"),
        ("transformer", "num_layers", json!(3), "transformer_blocks.2."),
        ("transformer", "sample_size", json!(16), "denoiser gives [4, 16, 16]"),
        ("scheduler", "prediction_type", json!("v_prediction"), "prediction_type is \"v_prediction\""),
    ] {
        let name = if file == "scheduler" { "scheduler_config.json" } else { "config.json" };
        let path = hub.join(file).join(name);
        let own: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let mut other = own.clone();
        other[field] = value;
        write(&path, &other);
        if field == "sample_size" {
            // The autoencoder is of whatever size the denoiser's latents make: nothing is wrong with that.
            convert(&hub, &folder.with_file_name("larger"), &F32);
        } else {
            let code = if field == "num_layers" || words.contains("type") || file == "transformer" { 3 } else { 2 };
            refused(&hub, &F32[2..], code, &[words]);
        }
        write(&path, &own);
    }
}

#[test]
fn a_latte_is_found_behind_its_key_and_frames_that_it_cannot_draw_are_said() {
    let folder = fresh("latte");
    let params = json!({
        "input_size": 8, "patch_size": 2, "in_channels": 4, "hidden_size": 32, "depth": 4, "num_heads": 4, "mlp_ratio": 4.0,
        "num_frames": 3, "num_classes": 6, "learn_sigma": true, "extras": 2
    });
    let config = folder.join("config.json");
    write(&config, &Value::Null);
    std::fs::write(&config, configured("latte-xl-2-ucf101", "latte", &params)).unwrap();
    let options = [&F32[..], &["--config", config.to_str().unwrap()]].concat();
    let weights = random(&Network::of("latte", &params).unwrap(), 1);
    save(&folder.join("latte.safetensors"), &weights);
    let plain = folder.with_file_name("plain");
    convert(&folder.join("latte.safetensors"), &plain, &options);
    let state = weights.iter().map(|(name, (s, v))| (name.clone(), Py::Tensor(s.clone(), v.clone()))).collect();
    save_pth(&folder.join("ucf101.pt"), &dict([("ema", Py::StateDict(state))]), 2);
    let out = folder.with_file_name("out");
    let words = convert(&folder.join("ucf101.pt"), &out, &options);
    assert!(words.contains("took \"ema\" (EMA)"), "{words}");
    assert_eq!(hash(&out), hash(&plain));
    for (field, value, words) in [
        ("num_frames", json!(5), "temp_embed is [1, 3, 32], the network needs [1, 5, 32]"),
        ("depth", json!(3), "depth"),
    ] {
        let mut other = params.clone();
        other[field] = value;
        std::fs::write(&config, configured("latte-xl-2-ucf101", "latte", &other)).unwrap();
        refused(&folder.join("latte.safetensors"), &options[2..], 3, &[words]);
    }
    // Patches of two frames each.
    let mut clip = preset("cifar10_uvit_small").unwrap().config;
    (clip["architecture"], clip["num_frames"], clip["t_patch_size"]) = ("uvit_video".into(), 5.into(), 2.into());
    std::fs::write(&config, clip.to_string()).unwrap();
    refused(&folder.join("latte.safetensors"), &options[2..], 3, &["num_frames 5 is no multiple of t_patch_size 2"]);
}

fn sd3(is_35: bool) -> Sd3 {
    let (transformer, encoders, vae) = sd3_params(is_35);
    let of = |architecture: &str, params: &Value, seed| random(&Network::of(architecture, params).unwrap(), seed);
    let mut weights = Weights {
        transformer: of("mmdit", &transformer, 1),
        encoders: [of("clip_text", &encoders[0], 2), of("clip_text", &encoders[1], 3)],
        vae: of("autoencoder_kl_decoder", &vae, 4),
    };
    weights.vae.extend(of("autoencoder_kl_encoder", &vae, 5));
    // What the single files leave out.
    let identity = (0..24 * 24).map(|i| f32::from(i % 25 == 0)).collect();
    weights.encoders[0].insert("text_projection.weight".into(), (vec![24, 24], identity));
    Sd3 { transformer, encoders, vae, weights }
}

/// The published one's preset with a small one's parameters.
fn small_preset(name: &str, model: &Sd3) -> Preset {
    let mut small = preset(name).unwrap();
    let parts = small.parts.as_mut().unwrap();
    let components = [
        (DENOISER, &model.transformer),
        ("text_encoder", &model.encoders[0]),
        ("text_encoder_2", &model.encoders[1]),
        ("decoder", &model.vae),
        ("encoder", &model.vae),
    ];
    for (component, params) in components {
        let own = &mut parts["components"][component]["params"];
        let used: Vec<(&str, Value)> = ["hidden_state", "pad_token"].map(|field| (field, own[field].take())).to_vec();
        *own = params.clone();
        used.into_iter().filter(|(_, value)| !value.is_null()).for_each(|(field, value)| own[field] = value);
    }
    small
}

#[test]
fn stable_diffusion_3_is_one_model_in_a_folder_and_in_files() {
    for is_35 in [false, true] {
        let (name, model) = (if is_35 { "sd3.5-medium" } else { "sd3-medium" }, sd3(is_35));
        let folder = fresh(name);
        model.save_folder(&folder.join("hub"));
        let out = folder.with_file_name("out");
        let words = convert(&folder.join("hub"), &out, &F32);
        assert!(words.contains("left out: text_encoder_3: a T5, which is ignored"), "{words}");
        assert!(words.contains("stable-diffusion-3: taken for the published one"), "{words}");
        let converted = manifest(&out);
        assert_eq!((converted.name.as_str(), converted.task.as_str()), ("stable-diffusion-3", "text"));
        assert_eq!(converted.stages(), ["text_encoder", "text_encoder_2", DENOISER, "decoder"]);
        assert_eq!(read_asset(&out, &converted, "tokenizer").unwrap(), MERGES.as_bytes());
        let second = &converted.component("text_encoder_2").unwrap().params;
        assert_eq!((&second["pad_token"], &second["hidden_state"]), (&json!("!"), &json!(-2)));
        let wanted = &model.weights;
        let denoiser = stored(&out, DENOISER, Dtype::F32);
        for (own, (_, values)) in wanted.transformer.iter().filter(|(own, _)| !own.contains(".to_q.")) {
            assert!(denoiser.get(own).is_none_or(|stored| stored == values), "{own}");
        }
        let parts = ["q", "k", "v"]
            .map(|part| wanted.transformer[&format!("transformer_blocks.1.attn.add_{part}_proj.bias")].1.clone());
        assert_eq!(denoiser["transformer_blocks.1.attn.add_{q,k,v}_proj.bias"], parts.concat());

        // The published files, beside the tokenizer: with the text encoders inside, and without.
        let published = small_preset(name, &model);
        std::fs::write(folder.join("merges.txt"), MERGES).unwrap();
        let located = |name: &str, path: PathBuf| (name.to_owned(), path);
        let tokenizer = [located("tokenizer", folder.join("merges.txt"))];
        let converted = |at: &str, given: &Path, located: &[Located]| {
            let found = Description::of_official(&published, given, &Which::Auto, located);
            let found = found.and_then(Description::complete).unwrap_or_else(|e| panic!("{at}: {e}"));
            // The tool's way with a description of the same.
            let mut described = published.parts.clone().unwrap();
            described["name"] = json!("stable-diffusion-3");
            for source in &found.sources {
                let part = &mut described["components"][&source.component];
                part["checkpoint"] = source.checkpoint.to_str().unwrap().into();
                if source.weights == Which::Auto {
                    part["weights"] = Value::Null;
                }
            }
            described["assets"]["tokenizer"] = folder.join("merges.txt").to_str().unwrap().into();
            let file = folder.join(format!("{at}.json"));
            write(&file, &described);
            let out = folder.with_file_name(format!("out-{at}"));
            convert(&file, &out, &F32);
            (found.left_out, hash(&out))
        };
        let mut described = published.parts.clone().unwrap();
        described["components"]["text_encoder_3"] = json!({ "checkpoint": "t5.safetensors" });
        let read = Description::read(&described, &folder).unwrap();
        assert!(read.left_out[0].contains("a T5, which is ignored"), "{:?}", read.left_out);
        model.save_file(&folder.join("clips.safetensors"), true, false);
        let (left_out, same) = converted("clips", &folder.join("clips.safetensors"), &tokenizer);
        assert_eq!((left_out, same), (Vec::new(), hash(&out)));
        model.save_file(&folder.join("t5.safetensors"), true, true);
        let (left_out, same) = converted("t5", &folder.join("t5.safetensors"), &tokenizer);
        assert!(left_out[0].contains("a T5, which is ignored"), "{left_out:?}");
        assert_eq!(same, hash(&out));
        let alone = folder.join("alone/sd3.safetensors");
        model.save_file(&alone, false, false);
        let read = |located: &[Located]| Description::of_official(&published, &alone, &Which::Auto, located);
        let error = read(&tokenizer).unwrap_err();
        assert!(error.cause.contains("text_encoder: there is no text_encoders/clip_l.safetensors in"), "{error}");
        for part in ["holds no text encoders", "Put clip_l.safetensors beside it", "sd3_medium_incl_clips.safetensors"]
        {
            assert!(error.remedy.contains(part), "{part}: {error}");
        }
        let [first, second] = model.published_encoders();
        save(&folder.join("alone/clip_l.safetensors"), &first);
        let error = read(&tokenizer).unwrap_err();
        assert!(error.cause.contains("text_encoder_2: ") && error.remedy.contains("clip_g.safetensors"), "{error}");
        save(&folder.join("alone/text_encoders/clip_g.safetensors"), &second);
        let error = read(&[]).unwrap_err();
        assert!(error.cause.contains("no tokenizer") && error.remedy.contains("--component tokenizer="), "{error}");
        let (left_out, same) = converted("alone", &alone, &tokenizer);
        assert_eq!((left_out, same), (Vec::new(), hash(&out)));
        // The encoders of the folder, and a T5 that somebody gives.
        let third = located("text_encoder_3", folder.join("hub/text_encoder_3"));
        let given = ["text_encoder", "text_encoder_2"].map(|name| located(name, folder.join("hub")));
        let (left_out, same) = converted("given", &alone, &[&tokenizer[..], &given, &[third]].concat());
        assert!(left_out[0].contains("a T5, which is ignored"), "{left_out:?}");
        assert_eq!(same, hash(&out));
    }
}

/// Stable Diffusion 3's tables are of more places than a picture has.
#[test]
fn the_middle_of_large_tables_of_positions_is_kept() {
    let folder = fresh("positions");
    let mut model = sd3(false);
    model.transformer["pos_embed_max_size"] = json!(101);
    let network = Network::of("mmdit", &model.transformer).unwrap();
    model.weights.transformer = random(&network, 1);
    let table = model.weights.transformer["pos_embed.pos_embed"].1.clone();
    model.save_folder(&folder.join("hub"));
    let out = folder.with_file_name("out");
    convert(&folder.join("hub"), &out, &F32);
    let kept = &stored(&out, DENOISER, Dtype::F32)["pos_embed.pos_embed"];
    assert_eq!(manifest(&out).component(DENOISER).unwrap().params["pos_embed_max_size"], 97);
    let (row, column) = (5, 90);
    assert_eq!(kept.len(), 97 * 97 * 32);
    assert_eq!(kept[(row * 97 + column) * 32..][..32], table[((row + 2) * 101 + column + 2) * 32..][..32]);
}

/// The tensors of published models, under the names of their files, without their gigabytes.
#[test]
fn the_published_files_are_recognised() {
    let folder = fresh("recognised");
    let tensors = |name: &str| {
        let plan = preset(name).unwrap().network().unwrap().record(Batch::plain(1)).unwrap().plan;
        plan.published().flat_map(|weight| weight.sources()).collect::<Vec<(String, Vec<usize>)>>()
    };
    hollow(&folder.join("DiT-XL-2-512x512.safetensors"), &tensors("dit-xl-2-512"));
    hollow(&folder.join("ucf101.safetensors"), &tensors("latte-xl-2-ucf101"));
    for (file, name) in [("DiT-XL-2-512x512", "dit-xl-2-512"), ("ucf101", "latte-xl-2-ucf101")] {
        let path = folder.join(format!("{file}.safetensors"));
        let mut tool = Command::new(env!("CARGO_BIN_EXE_uvit"));
        let inspected = tool.args(["inspect", path.to_str().unwrap(), "--json"]).output().unwrap();
        let words = said(&inspected);
        assert!(inspected.status.success() && words.contains(&format!("\"name\":\"{name}\"")), "{words}");
    }
    // Stable Diffusion 3 without its encoders: what is missing is said before anything is read.
    for (name, side) in [("sd3-medium", 192), ("sd3.5-medium", 384)] {
        let own: Checkpoint = tensors(name).into_iter().map(|(name, shape)| (name, (shape, Vec::new()))).collect();
        let published = mmdit_as_published_shapes(&own, 24);
        let mut all: Vec<(String, Vec<usize>)> =
            published.into_iter().map(|(name, shape)| (format!("model.diffusion_model.{name}"), shape)).collect();
        for (tensor, shape) in &mut all {
            if tensor.ends_with(".pos_embed") {
                *shape = vec![1, side * side, 1536];
            }
        }
        all.push(("first_stage_model.decoder.conv_in.weight".into(), vec![512, 16, 3, 3]));
        let path = folder.join(format!("{name}.safetensors"));
        hollow(&path, &all);
        let words = [&format!("{name}: taken for a Stable Diffusion 3 of 1536 channels"), "holds no text encoders"];
        refused(&path, &[], 2, &words);
    }
}

/// Names and shapes alone.
fn mmdit_as_published_shapes(diffusers: &Checkpoint, layers: usize) -> Vec<(String, Vec<usize>)> {
    // As many values as make the right shapes when they are split and stacked.
    let rows =
        |(name, (shape, _)): (&String, &(Vec<usize>, Vec<f32>))| (name.clone(), (shape.clone(), vec![0.0; shape[0]]));
    let small: Checkpoint = diffusers.iter().map(rows).collect();
    mmdit_as_published(&small, layers).into_iter().map(|(name, (shape, _))| (name, shape)).collect()
}

#[test]
fn other_models_are_called_by_their_names() {
    let folder = fresh("others");
    let unet = "model.diffusion_model.input_blocks.0.0.weight";
    for (what, names) in [
        ("Stable Diffusion 1", [unet, "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"]),
        ("Stable Diffusion 2", [unet, "cond_stage_model.model.transformer.resblocks.0.ln_1.bias"]),
        ("Stable Diffusion XL", [unet, "conditioner.embedders.1.model.positional_embedding"]),
        ("Flux", ["double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"]),
        ("Flux, of diffusers", ["single_transformer_blocks.0.attn.to_q.weight", "x_embedder.weight"]),
        ("PixArt", ["t_block.1.weight", "blocks.0.cross_attn.q_linear.weight"]),
        ("Latte for text", ["temporal_transformer_blocks.0.attn1.to_q.weight", "pos_embed.proj.weight"]),
    ] {
        let path = folder.join("other.safetensors");
        save(&path, &names.iter().map(|name| ((*name).to_owned(), (vec![4], vec![0.0; 4]))).collect());
        let looks = format!("it looks like {what}");
        refused(&path, &[], 3, &["UNSUPPORTED_MODEL", &looks, "which is not supported", "Stable Diffusion 3"]);
        refused(&path, &["--preset", "dit-xl-2-256"], 3, &["TENSOR_MISSING", &looks]);
    }
    let pipeline = |class: &str, denoiser: &str, kind: &str| {
        let hub = folder.join("hub");
        let _ = std::fs::remove_dir_all(&hub);
        write(&hub.join("model_index.json"), &json!({ "_class_name": class, denoiser: ["diffusers", kind] }));
        hub
    };
    for (what, class, denoiser, kind) in [
        ("Stable Diffusion XL", "StableDiffusionXLPipeline", "unet", "UNet2DConditionModel"),
        ("Flux", "FluxPipeline", "transformer", "FluxTransformer2DModel"),
        ("PixArt", "PixArtAlphaPipeline", "transformer", "Transformer2DModel"),
        ("Latte for text", "LattePipeline", "transformer", "LatteTransformer3DModel"),
    ] {
        let hub = pipeline(class, denoiser, kind);
        refused(&hub, &[], 3, &["UNSUPPORTED_MODEL", &format!("{what}, which is not supported, a {class}"), kind]);
    }
    for (what, wide) in [("Stable Diffusion 1", 768), ("Stable Diffusion 2", 1024)] {
        let hub = pipeline("StableDiffusionPipeline", "unet", "UNet2DConditionModel");
        write(&hub.join("unet/config.json"), &json!({ "cross_attention_dim": wide }));
        refused(
            &hub,
            &[],
            3,
            &["UNSUPPORTED_MODEL", &format!("{what}, which is not supported, a StableDiffusionPipeline")],
        );
    }
}

/// A reference case's weights in a layout of other libraries, converted, loaded and run: what the reference computed comes out.
#[test]
fn a_package_of_every_layout_computes_what_the_reference_does() {
    for (case, like, layout) in [
        ("dit", "dit-xl-2-256", Layout::Diffusers),
        ("latte", "latte-xl-2-ucf101", Layout::Average),
        ("mmdit", "sd3-medium", Layout::SingleFile),
        ("mmdit_rms_dual", "sd3.5-medium", Layout::SingleFile),
    ] {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(case);
        let described: Value = serde_json::from_slice(&std::fs::read(golden.join("config.json")).unwrap()).unwrap();
        let weights = read(&golden.join("weights.safetensors")).unwrap();
        let io = read(&golden.join("io.safetensors")).unwrap();
        let architecture = described["kind"].as_str().unwrap();
        let mut params = described["params"].clone();
        if let Some((shape, _)) = io.get("context_in") {
            params["context_tokens"] = shape[1].into();
        }
        let folder = fresh(&format!("golden-{case}"));
        std::fs::create_dir_all(&folder).unwrap();
        let config = folder.join("config.json");
        std::fs::write(&config, configured(like, architecture, &params)).unwrap();
        let file = folder.join(if layout == Layout::Average { "weights.pt" } else { "weights.safetensors" });
        let number = |name: &str| params[name].as_u64().unwrap() as usize;
        match layout {
            Layout::Diffusers => save(&file, &dit_of_diffusers(&weights, number("depth"))),
            Layout::Average => {
                let state = weights.iter().map(|(name, (s, v))| (name.clone(), Py::Tensor(s.clone(), v.clone())));
                save_pth(&file, &dict([("ema", Py::StateDict(state.collect()))]), 2);
            }
            Layout::SingleFile => {
                save(&file, &prefixed("model.diffusion_model.", &mmdit_as_published(&weights, number("num_layers"))));
            }
        }
        let out = folder.with_file_name("out");
        convert(&file, &out, &[&F32[..], &["--config", config.to_str().unwrap()]].concat());
        let given: Vec<NamedTensor> = ["x", "timesteps", "y", "context_in", "pooled"]
            .iter()
            .filter_map(|name| Some((*name, io.get(*name)?)))
            .map(|(name, (shape, values))| NamedTensor {
                name: name.into(),
                shape: Some(shape.clone()),
                values: match name {
                    "timesteps" => Values::Times(values.iter().map(|&v| v.into()).collect()),
                    "y" => Values::Indices(values.iter().map(|&v| v as u32).collect()),
                    _ => Values::Floats(values.clone()),
                },
            })
            .collect();
        let [got, want] = [forward(&out, given), published_order(case, &io["out_f64"])];
        let most = want.iter().fold(0f32, |most, v| most.max(v.abs()));
        let error = want.iter().zip(&got).fold(0f32, |error, (a, b)| error.max((a - b).abs())) / most;
        assert!(got.len() == want.len() && error < 1e-4, "{case}: {error}, {} of {}", got.len(), want.len());
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Layout {
    Diffusers,
    Average,
    SingleFile,
}

/// What a package's denoiser gives: the prediction, then the variance.
fn forward(folder: &Path, given: Vec<NamedTensor>) -> Vec<f32> {
    let (manifest, folder) = read_manifest(folder).unwrap();
    let options = LoadOptions {
        device: DeviceChoice::Cpu,
        compute: ComputeChoice::Fixed(Compute::F32),
        tune: Tune::Off,
        ..LoadOptions::default()
    };
    let mut loader = pollster::block_on(Loader::new(manifest, options)).unwrap();
    for index in 0..loader.files().len() {
        let bytes = std::fs::read(folder.join(&loader.files()[index].stored.file)).unwrap();
        pollster::block_on(loader.add_file(index, &bytes)).unwrap();
    }
    let mut pipeline = pollster::block_on(loader.finish()).unwrap();
    let results = pollster::block_on(pipeline.forward(DENOISER, given, &|| false)).unwrap();
    ["out", "variance"]
        .iter()
        .filter_map(|name| results.iter().find(|result| result.name == *name))
        .flat_map(|result| match &result.values {
            Values::Floats(values) => values.clone(),
            _ => panic!("floats come out"),
        })
        .collect()
}

/// All predictions, then all variances, of what has them one below the other in every picture or frame.
fn published_order(case: &str, (shape, values): &(Vec<usize>, Vec<f32>)) -> Vec<f32> {
    if case.starts_with("mmdit") {
        return values.clone();
    }
    let picture: usize = shape[shape.len() - 3..].iter().product();
    let halves = |half: usize| values.chunks(picture).flat_map(move |both| both.chunks(picture / 2).nth(half).unwrap());
    halves(0).chain(halves(1)).copied().collect()
}
