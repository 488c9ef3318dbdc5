//! A UniDiffuser as its publisher leaves it, and as diffusers does: the same model.

use super::odd_model::fresh;
use super::small::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use uvit_web::model::Network;
use uvit_web::package::{Description, Located, official, preset, read_asset, read_manifest};
use uvit_web::weights::checkpoint::{Checkpoint, Weights};

/// A tensor's name in diffusers, as its script for published checkpoints says (`convert_unidiffuser_to_diffusers.py`); `qkv` is three.
fn of_diffusers(name: &str) -> String {
    let first = name.split('.').next().unwrap();
    let whole = [
        ("patch_embed", "vae_img_in"),
        ("text_embed", "text_in"),
        ("clip_img_embed", "clip_img_in"),
        ("pos_embed_token", "data_type_pos_embed_token"),
        ("token_embedding", "data_type_token_embedding"),
        ("norm", "transformer.norm_out"),
        ("decoder_pred", "vae_img_out"),
    ];
    if let Some((ours, theirs)) = whole.iter().find(|(ours, _)| *ours == first) {
        return format!("{theirs}{}", &name[ours.len()..]);
    }
    if !first.ends_with("_blocks") && first != "mid_block" {
        return name.to_owned();
    }
    let words: Vec<&str> = name.splitn(if first == "mid_block" { 2 } else { 3 }, '.').collect();
    let (block, inside) = (words[..words.len() - 1].join("."), words[words.len() - 1]);
    let (inside, ending) = inside.rsplit_once('.').unwrap();
    let at = format!("transformer.transformer_{block}");
    let block = if first == "out_blocks" { format!("{at}.block") } else { at.clone() };
    match inside {
        "skip_linear" => format!("{at}.skip.skip_linear.{ending}"),
        "norm1" => format!("{at}.skip.norm.{ending}"),
        "norm2" => format!("{block}.norm1.{ending}"),
        "norm3" => format!("{block}.norm3.{ending}"),
        "attn.proj" => format!("{block}.attn1.to_out.0.{ending}"),
        "attn.qkv" => format!("{block}.attn1.qkv.{ending}"),
        "mlp.fc1" => format!("{block}.ff.net.0.proj.{ending}"),
        "mlp.fc2" => format!("{block}.ff.net.2.{ending}"),
        other => panic!("{other}"),
    }
}

/// A U-ViT as diffusers saves it.
fn unet(official: &Checkpoint) -> Checkpoint {
    let mut saved = Checkpoint::new();
    for (name, (shape, values)) in official {
        let theirs = of_diffusers(name);
        if !theirs.contains(".qkv.") {
            saved.insert(theirs, (shape.clone(), values.clone()));
            continue;
        }
        for (i, part) in ["to_q", "to_k", "to_v"].iter().enumerate() {
            let (mut shape, third) = (shape.clone(), values.len() / 3);
            shape[0] /= 3;
            saved.insert(theirs.replace("qkv", part), (shape, values[third * i..third * (i + 1)].to_vec()));
        }
    }
    for ending in ["weight", "bias"] {
        let copied = saved[&format!("vae_img_in.proj.{ending}")].clone();
        saved.insert(format!("transformer.pos_embed.proj.{ending}"), copied);
    }
    saved
}

fn write(path: &Path, value: &Value) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, value.to_string()).unwrap();
}

/// As many as make the words of [`caption_decoder`] with 256 bytes, an end of text and a stop token.
fn gpt2_merges() -> String {
    let letters = || 'a'..='z';
    let pairs = letters().flat_map(|a| letters().map(move |b| format!("{a} {b}\n")));
    format!("#version: 0.2\n{}", pairs.take(516 - 258).collect::<String>())
}

/// The small UniDiffuser of [`joint`], sampled as the published ones are, as a folder of diffusers.
fn pipeline(folder: &Path, config: &Value) {
    let part = |name: &str| &config["parts"][name]["params"];
    let network = |name: &str, params: &Value| Network::of(name, params).unwrap();
    let weights =
        |folder: &Path, tensors: &Checkpoint| save(&folder.join("diffusion_pytorch_model.safetensors"), tensors);
    let at = |name: &str| folder.join(name);
    write(
        &at("model_index.json"),
        &json!({ "_class_name": "UniDiffuserPipeline", "unet": ["unidiffuser", "UniDiffuserModel"] }),
    );
    let uvit = part("uvit");
    write(
        &at("unet/config.json"),
        &json!({
            "_class_name": "UniDiffuserModel", "text_dim": uvit["text_dim"], "clip_img_dim": uvit["clip_img_dim"],
            "num_text_tokens": uvit["num_text_tokens"], "num_attention_heads": uvit["num_heads"],
            "attention_head_dim": uvit["embed_dim"].as_u64().unwrap() / uvit["num_heads"].as_u64().unwrap(),
            "in_channels": uvit["in_chans"], "out_channels": uvit["in_chans"], "num_layers": uvit["depth"], "dropout": 0.0,
            "norm_num_groups": 32, "cross_attention_dim": null, "attention_bias": false, "sample_size": uvit["img_size"],
            "num_vector_embeds": null, "patch_size": uvit["patch_size"], "activation_fn": "gelu", "num_embeds_ada_norm": 1000,
            "norm_type": "layer_norm", "block_type": "unidiffuser", "pre_layer_norm": false, "use_timestep_embedding": false,
            "norm_elementwise_affine": true, "use_patch_pos_embed": false, "ff_final_dropout": true,
            "use_data_type_embedding": true
        }),
    );
    weights(&at("unet"), &unet(&random(&network("unidiffuser", uvit), 1)));
    write(
        &at("vae/config.json"),
        &json!({ "_class_name": "AutoencoderKL", "block_out_channels": [32, 64], "layers_per_block": 1, "scaling_factor": 0.25, "sample_size": 16 }),
    );
    weights(&at("vae"), &autoencoder_weights());
    let mut text = text_encoder();
    (text["model_type"], text["architectures"]) = (json!("clip_text_model"), json!(["CLIPTextModel"]));
    write(&at("text_encoder/config.json"), &text);
    save(&at("text_encoder/model.safetensors"), &random(&network("clip_text", &text_encoder()), 2));
    let captions = part("caption_decoder");
    let gpt2 = &captions["gpt2"];
    write(
        &at("text_decoder/config.json"),
        &json!({
            "_class_name": "UniDiffuserTextDecoder", "prefix_length": captions["prefix_length"],
            "prefix_inner_dim": captions["prefix_dim"], "prefix_hidden_dim": captions["hidden_dim"], "vocab_size": gpt2["vocab_size"],
            "n_positions": gpt2["n_positions"], "n_embd": gpt2["n_embd"], "n_layer": gpt2["n_layer"], "n_head": gpt2["n_head"],
            "n_inner": 96, "activation_function": "gelu"
        }),
    );
    let renamed = super::small::captions().into_iter().map(|(name, tensor)| match name.strip_prefix("gpt.") {
        Some(name) => (format!("transformer.{name}"), tensor),
        None => (name, tensor),
    });
    weights(&at("text_decoder"), &renamed.collect());
    let mut image = image_encoder();
    image["model_type"] = json!("clip_vision_model");
    write(&at("image_encoder/config.json"), &image);
    save(&at("image_encoder/model.safetensors"), &random(&network("clip_vision", &image_encoder()), 7));
    for (tokenizer, merges) in [("clip_tokenizer", MERGES.to_owned()), ("text_tokenizer", gpt2_merges())] {
        std::fs::create_dir_all(at(tokenizer)).unwrap();
        std::fs::write(at(tokenizer).join("merges.txt"), merges).unwrap();
    }
    write(
        &at("scheduler/scheduler_config.json"),
        &json!({ "_class_name": "DPMSolverMultistepScheduler", "beta_start": 0.00085, "beta_end": 0.012,
            "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "solver_order": 3 }),
    );
}

fn hash(out: &Path) -> String {
    read_manifest(out).unwrap().0.model_hash(None).unwrap()
}

#[test]
fn a_folder_of_diffusers_is_the_model_that_was_published() {
    let folder = fresh("diffusers");
    let mut config = joint(&folder);
    (config["sampler"]["eps"], config["sampler"]["steps"]) = (json!(0.001), json!(50));
    config["modes"]["t2i"]["scale"] = json!(7.0);
    config["parts"]["caption_tokenizer"] = json!({ "kind": "gpt2_tokenizer", "file": "gpt2.txt" });
    std::fs::write(folder.join("gpt2.txt"), gpt2_merges()).unwrap();
    // diffusers' is always four times as wide.
    config["parts"]["uvit"]["params"]["mlp_ratio"] = json!(4);
    let uvit = Network::of("unidiffuser", &config["parts"]["uvit"]["params"]).unwrap();
    save(&folder.join("uvit.safetensors"), &random(&uvit, 1));
    write(&folder.join("config.json"), &config);
    let plain = folder.with_file_name("plain");
    let options = ["--dtype", "f32", "--preview", "0"];
    convert(&folder, &plain, &options);
    pipeline(&folder.join("hub"), &config);
    let out = folder.with_file_name("of-diffusers");
    let words = convert(&folder.join("hub"), &out, &options);
    assert!(words.contains("unidiffuser_v1: taken for the published one"), "{words}");
    assert_eq!(hash(&out), hash(&plain));
    let manifest = read_manifest(&out).unwrap().0;
    assert_eq!(manifest.runs().len(), 7);
    assert_eq!(read_asset(&out, &manifest, "caption_tokenizer").unwrap(), gpt2_merges().as_bytes());
    // One row of one matrix elsewhere is another model.
    let mut saved = unet(&random(&uvit, 1));
    let name = "transformer.transformer_out_blocks.0.block.attn1.to_k.weight";
    saved.get_mut(name).unwrap().1[0] += 1.0;
    save(&folder.join("hub/unet/diffusion_pytorch_model.safetensors"), &saved);
    convert(&folder.join("hub"), &folder.with_file_name("other"), &options);
    assert_ne!(hash(&folder.with_file_name("other")), hash(&plain));
    // What it does not compute is refused, and so is what it does not find.
    let refused = |file: &str, field: &str, value: Value, cause: &str| {
        let path = folder.join("hub").join(file);
        let sound: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let mut changed = sound.clone();
        changed[field] = value;
        write(&path, &changed);
        let never = folder.with_file_name("never");
        let run = super::small::uvit(&[
            folder.join("hub").to_str().unwrap(),
            "--dtype",
            "f32",
            "--out",
            never.to_str().unwrap(),
        ]);
        assert!(!run.status.success() && said(&run).contains(cause) && !never.exists(), "{cause}: {}", said(&run));
        write(&path, &sound);
    };
    refused("unet/config.json", "activation_fn", json!("geglu"), "a UniDiffuserModel whose activation_fn is \"geglu\"");
    refused("unet/config.json", "pre_layer_norm", json!(true), "pre_layer_norm is true, not false");
    refused("unet/config.json", "num_layers", json!(4), "transformer.transformer_in_blocks.1.");
    refused("unet/config.json", "text_dim", json!(16), "component denoiser takes [7, 16]");
    refused("text_decoder/config.json", "prefix_hidden_dim", Value::Null, "without prefix_hidden_dim");
    refused(
        "text_decoder/config.json",
        "vocab_size",
        json!(515),
        "the caption tokenizer has 258 merges, which makes 516 ids",
    );
    refused("image_encoder/config.json", "projection_dim", json!(24), "component denoiser takes [1, 20]");
    refused("scheduler/scheduler_config.json", "beta_schedule", json!("cosine"), "cosine");
    refused("model_index.json", "_class_name", json!("StableDiffusionPipeline"), "which this build does not know");
}

/// Names and shapes that the published model has, without its gigabytes: that is for `scripts/test full`.
#[test]
fn the_files_of_a_published_model_are_found_by_their_names() {
    let v1 = preset("unidiffuser_v1").unwrap();
    assert!(v1.source.ends_with("configs/sample_unidiffuser_v1.py"), "{}", v1.source);
    let folder = fresh("official");
    let put = |name: &str| {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "{}").unwrap();
        path
    };
    let read = |given: &Path, located: &[Located]| Description::of_official(&v1, given, &Weights::Auto, located);
    let missing = |cause: &str| {
        let error = read(&folder, &[]).unwrap_err();
        assert!(error.cause.contains(cause) && error.remedy.contains("--component "), "{error}");
    };
    std::fs::create_dir_all(&folder).unwrap();
    missing("denoiser: there is no uvit_v1.pth in");
    assert!(official(&folder).unwrap().is_none());
    let uvit = put("uvit_v1.pth");
    assert_eq!(official(&folder).unwrap().unwrap().name, "unidiffuser_v1");
    missing("text_encoder: there is no clip-vit-large-patch14 in");
    put("clip-vit-large-patch14/merges.txt");
    missing("text_projector: there is no caption_decoder.pth in");
    put("caption_decoder.pth");
    let found = read(&folder, &[]).unwrap();
    let left_out: Vec<&str> = found.left_out.iter().map(|what| what.split(':').next().unwrap()).collect();
    assert_eq!(left_out, ["decoder", "encoder", "image_encoder"]);
    let checkpoint = |found: &Description, name: &str| {
        found.sources.iter().find(|source| source.component == name).map(|source| source.checkpoint.clone())
    };
    assert_eq!(checkpoint(&found, "denoiser"), Some(uvit.clone()));
    assert_eq!(checkpoint(&found, "text_projector"), Some(folder.join("caption_decoder.pth")));
    assert_eq!(found.tokenizer, Some(folder.join("clip-vit-large-patch14")));
    // Beside the denoiser, and where somebody says.
    let located = |name: &str, path: PathBuf| [(name.to_owned(), path)];
    let kl = put("elsewhere/kl.pth");
    let found = read(&uvit, &located("decoder", kl.clone())).unwrap();
    assert_eq!((checkpoint(&found, "decoder"), checkpoint(&found, "encoder")), (Some(kl), None));
    assert_eq!(found.manifest.sampling.guidance_scale, 8.0);
    let error = read(&folder, &located("upscaler", uvit.clone())).unwrap_err();
    assert!(error.cause.contains("has no component \"upscaler\"") && error.remedy.contains("text_encoder"), "{error}");
    let error = read(&folder, &located("decoder", folder.join("nowhere.pth"))).unwrap_err();
    assert!(error.cause.contains("nowhere.pth"), "{error}");
    put("uvit_v0.pth");
    let error = official(&folder).unwrap_err();
    assert!(error.cause.contains("unidiffuser_v0 and unidiffuser_v1"), "{error}");
    assert!(error.remedy.contains("--preset"), "{error}");
}

#[test]
fn options_for_a_whole_model_are_for_no_other() {
    let folder = small("whole-options");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let refused = |arguments: &[&str], cause: &str| {
        let out = path("never");
        let run = uvit(&[arguments, &["--dtype", "f32", "--out", &out]].concat());
        assert!(run.status.code() == Some(2) && said(&run).contains(cause), "{cause}: {}", said(&run));
    };
    let (uvit, text) = (path("weights/uvit.safetensors"), path("text.safetensors"));
    let located = format!("text_encoder={text}");
    refused(
        &[&uvit, "--preset", "mscoco_uvit_small", "--component", &located],
        "for a published model of several networks",
    );
    refused(&[&path("model.json"), "--component", &located], "this is a model of several");
    refused(&[&uvit, "--component", "text_encoder"], "--component is \"text_encoder\"");
}
