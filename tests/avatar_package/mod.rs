//! The avatars model as a package: the parts that draw pictures of a text, in f32.

#[allow(dead_code)] // each test uses a part
pub mod pipeline;
#[allow(dead_code)]
pub mod reference;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use uvit_web::model::Network;
use uvit_web::package::{
    CAPTION_DECODER, Component, DECODER, DENOISER, ENCODER, IMAGE_ENCODER, Manifest, Storing, TEXT_ENCODER,
    TEXT_PROJECTOR, TOKENIZER, Task, Writer,
};
use uvit_web::weights::Dtype;
use uvit_web::weights::checkpoint::{self, Found, Source, Weights};

/// The model's folder, its `config.json` and `reference.json`.
pub fn found() -> Option<(PathBuf, Value, Value)> {
    let named = std::env::var_os("UVIT_MODELS").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models");
    let folder = named.clone().unwrap_or(beside).join("avatars");
    let json = |name: &str| Some(serde_json::from_slice(&std::fs::read(folder.join(name)).ok()?).unwrap());
    match (json("config.json"), json("reference.json")) {
        (Some(config), Some(reference)) => Some((folder, config, reference)),
        _ => {
            assert!(named.is_none(), "UVIT_MODELS is set, and {} lacks a model", folder.display());
            super::devices::skip("the avatars model is not here (UVIT_MODELS): nothing of it is compared");
            None
        }
    }
}

/// A network of a part of the model.
pub fn network(part: &Value) -> Network {
    let mut params = part["params"].clone();
    params["version"] = part["version"].clone();
    Network::of(part["kind"].as_str().unwrap(), &params).unwrap()
}

/// Weights whose first layer counts for more.
struct Amplified(Found, f32);

impl Source for Amplified {
    fn values(&mut self, name: &str) -> uvit_web::Result<Vec<f32>> {
        let gain = if name.starts_with("decoder.conv_in.") { self.1 } else { 1.0 };
        Ok(self.0.values(name)?.into_iter().map(|v| gain * v).collect())
    }
}

/// Writes the package into a new folder: words to latents alone, or all of it, the decoder's first layer amplified.
pub fn write(out: &Path, decoder_gain: Option<f32>) -> Manifest {
    let (folder, config, _) = found().unwrap();
    let parts = &config["parts"];
    let projector = json!({
        "kind": "prefix_encoder", "file": "caption_decoder.safetensors",
        "params": { "prefix_dim": 128, "hidden_dim": 32, "tokens": 32 },
    });
    let sampling = json!({
        "schedule": { "type": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "train_steps": 1000 },
        "prediction": "noise", "time_scale": 1000.0, "sampler": "dpmpp_3s", "steps": 50, "guidance_scale": 5.0,
    });
    let mut about = parts["uvit"]["params"].clone();
    about["architecture"] = "unidiffuser".into();
    about["name"] = "avatars".into();
    for (name, value) in sampling.as_object().unwrap() {
        about[name] = value.clone();
    }
    let mut manifest = uvit_web::package::describe(&about.to_string(), None, None).unwrap();
    manifest.task = Task::Any;
    let mut writer = Writer::new(out, &[], true).unwrap();
    let [decoder, encoder] = ["autoencoder_kl_decoder", "autoencoder_kl_encoder"].map(|kind| {
        let mut half = parts["autoencoder"].clone();
        half["kind"] = kind.into();
        half
    });
    let all = [
        (DENOISER, &parts["uvit"]),
        (TEXT_ENCODER, &parts["clip_text"]),
        (TEXT_PROJECTOR, &projector),
        (DECODER, &decoder),
        (ENCODER, &encoder),
        (IMAGE_ENCODER, &parts["clip_vision"]),
        (CAPTION_DECODER, &parts["caption_decoder"]),
    ];
    for (name, part) in all.into_iter().take(if decoder_gain.is_some() { all.len() } else { 3 }) {
        let network = network(part);
        manifest.components.insert(name, Component::new(&network));
        let path = folder.join(part["file"].as_str().unwrap());
        let found = checkpoint::find_part(&path, &network, &Weights::Auto).unwrap();
        let mut found = Amplified(found, decoder_gain.unwrap_or(1.0));
        writer.add(&mut manifest, name, &Storing::plain(Dtype::F32), &mut found).unwrap();
    }
    let merges = std::fs::read(folder.join("merges.txt")).unwrap();
    writer.add_asset(&mut manifest, TOKENIZER, "txt", &merges).unwrap();
    writer.finish(&manifest).unwrap();
    manifest
}
