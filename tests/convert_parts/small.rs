//! Small random models of several networks, and `uvit convert` of them.

use super::odd_model::fresh;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use uvit_web::Error;
use uvit_web::model::{Batch, Network};
use uvit_web::package::{Description, read_manifest, read_shards, reader};
use uvit_web::sampler::TorchGenerator;
use uvit_web::weights::checkpoint::{Checkpoint, official_autoencoder_name};
use uvit_web::weights::{Data, Dtype};

pub const MERGES: &str = "#version: 0.2\nc a\nca t</w>\n";

pub fn uvit(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_uvit")).arg("convert").args(arguments).output().unwrap()
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// Random weights under a network's published names, each after a prefix.
pub fn random(network: &Network, seed: u64) -> Checkpoint {
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

pub fn save(path: &Path, tensors: &Checkpoint) {
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

pub fn denoiser() -> Value {
    json!({
        "img_size": 8, "patch_size": 2, "in_chans": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2,
        "qkv_bias": false, "mlp_time_embed": false, "clip_dim": 24, "num_clip_token": 7, "conv": true, "skip": true
    })
}

pub fn text_encoder() -> Value {
    json!({
        "vocab_size": 516, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 7
    })
}

/// How the small models are sampled.
pub fn sampling() -> Value {
    json!({
        "name": "small", "prediction": "noise", "time_scale": 1000, "sampler": "dpmpp_3s", "steps": 6, "guidance_scale": 2,
        "schedule": { "type": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "train_steps": 1000 }
    })
}

/// A description of a small model of pictures of a text.
pub fn description() -> Value {
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
pub fn small(test: &str) -> PathBuf {
    let folder = fresh(test);
    save(&folder.join("weights/uvit.safetensors"), &random(&Network::of("uvit_t2i", &denoiser()).unwrap(), 1));
    save(&folder.join("text.safetensors"), &random(&Network::of("clip_text", &text_encoder()).unwrap(), 2));
    std::fs::write(folder.join("merges.txt"), MERGES).unwrap();
    std::fs::write(folder.join("model.json"), description().to_string()).unwrap();
    folder
}

/// A component's tensors as they are stored, in f32.
pub fn stored(folder: &Path, component: &str, dtype: Dtype) -> BTreeMap<String, Vec<f32>> {
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
pub fn convert(input: &Path, out: &Path, more: &[&str]) -> String {
    let run = uvit(&[&[input.to_str().unwrap(), "--out", out.to_str().unwrap()], more].concat());
    assert!(run.status.success(), "{}", said(&run));
    said(&run)
}

/// What is wrong with a description.
pub fn error(folder: &Path, described: &Value) -> Error {
    let read = Description::read(described, folder).and_then(Description::complete);
    read.map(drop).unwrap_err()
}

/// Stable Diffusion's autoencoder in small, as it was published first.
pub fn autoencoder() -> Value {
    json!({
        "ddconfig": { "double_z": true, "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2],
            "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0 },
        "embed_dim": 4, "scale_factor": 0.25
    })
}

/// All its tensors under diffusers' names.
pub fn autoencoder_weights() -> Checkpoint {
    let half = |name: &str, seed| random(&Network::of(name, &autoencoder()).unwrap(), seed);
    [half("autoencoder_kl_decoder", 5), half("autoencoder_kl_encoder", 6)].into_iter().flatten().collect()
}

/// CLIP's other half in small.
pub fn image_encoder() -> Value {
    json!({
        "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
        "projection_dim": 20
    })
}

/// A caption decoder in small, of as many words as [`MERGES`] make.
pub fn caption_decoder() -> Value {
    json!({
        "gpt2": { "vocab_size": 516, "n_positions": 80, "n_embd": 24, "n_layer": 1, "n_head": 2, "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5 },
        "prefix_length": 7, "hidden_dim": 12, "prefix_dim": 24, "stop_token": 515, "beam_size": 5, "entry_length": 67
    })
}

/// Its tensors, those of its first Linear and what GPT-2 stores beside them.
pub fn captions() -> Checkpoint {
    let prefix = json!({ "prefix_dim": 24, "hidden_dim": 12, "tokens": 7 });
    let mut tensors = random(&Network::of("prefix_encoder", &prefix).unwrap(), 3);
    tensors.extend(random(&Network::of("caption_decoder", &caption_decoder()).unwrap(), 4));
    let table = tensors["gpt.transformer.wte.weight"].clone();
    tensors.insert("gpt.lm_head.weight".into(), table);
    tensors.insert("gpt.transformer.h.0.attn.bias".into(), (vec![1, 1, 80, 80], vec![1.0; 6400]));
    tensors.insert("gpt.transformer.h.0.attn.masked_bias".into(), (vec![], vec![-1e4]));
    tensors
}

/// A UniDiffuser's folder in small.
pub fn joint(folder: &Path) -> Value {
    let params = json!({ "img_size": 8, "in_chans": 4, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2,
        "qkv_bias": false, "mlp_time_embed": false, "text_dim": 12, "num_text_tokens": 7, "clip_img_dim": 20 });
    let network = |name: &str, params: &Value| Network::of(name, params).unwrap();
    save(&folder.join("uvit.safetensors"), &random(&network("unidiffuser", &params), 1));
    save(&folder.join("text.safetensors"), &random(&network("clip_text", &text_encoder()), 2));
    let weights = autoencoder_weights();
    let official = weights.into_iter().map(|(name, tensor)| (official_autoencoder_name(&name, 2), tensor));
    save(&folder.join("kl.safetensors"), &official.collect());
    save(&folder.join("image.safetensors"), &random(&network("clip_vision", &image_encoder()), 7));
    save(&folder.join("captions.safetensors"), &captions());
    std::fs::write(folder.join("merges.txt"), MERGES).unwrap();
    json!({
        "model": "unidiffuser",
        "parts": {
            "uvit": { "kind": "unidiffuser", "version": 1, "file": "uvit.safetensors", "params": params },
            "autoencoder": { "kind": "autoencoder_kl", "file": "kl.safetensors", "params": autoencoder() },
            "clip_text": { "kind": "clip_text", "file": "text.safetensors", "params": text_encoder() },
            "clip_vision": { "kind": "clip_vision", "file": "image.safetensors", "params": image_encoder() },
            "caption_decoder": { "kind": "caption_decoder", "file": "captions.safetensors", "params": caption_decoder() },
            "tokenizer": { "kind": "clip_tokenizer", "file": "merges.txt" },
            "melody": { "kind": "sheet_music", "file": "song.txt" }
        },
        "schedule": { "type": "discrete", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "N": 1000 },
        "prediction": "noise", "time_scale": 1000,
        "sampler": { "type": "dpm_solver_pp", "order": 3, "method": "fast", "skip_type": "time_uniform", "T": 1.0, "eps": 0.002, "steps": 20 },
        "modes": { "t2i": { "scale": 4.0 } }
    })
}
