//! Small models of clips with random weights, written to folders.
#![allow(dead_code, missing_docs)] // no test needs all of it

use serde_json::{Value, json};
use std::path::Path;
use uvit_web::model::{Batch, Network};
use uvit_web::package::{Component, DECODER, DENOISER, ENCODER, Manifest, PREVIEW_DECODER, Storing, Writer, describe};
use uvit_web::sampler::TorchGenerator;
use uvit_web::weights::checkpoint::Checkpoint;
use uvit_web::weights::{Data, Dtype, random};

/// Eight frames of 8 x 8 pixels, two a patch; three classes and none; its numbers are odd where they can be.
pub fn small() -> Value {
    json!({
        "architecture": "uvit_video", "name": "small clips", "img_size": 8, "patch_size": 4, "in_chans": 3, "embed_dim": 36, "depth": 3,
        "num_heads": 3, "mlp_ratio": 2.0, "qkv_bias": true, "mlp_time_embed": false, "num_classes": 4, "conv": true, "skip": true,
        "num_frames": 8, "t_patch_size": 2,
        "schedule": { "type": "vp_linear", "beta_min": 0.1, "beta_max": 20.0 }, "prediction": "x0", "time_scale": 999.0,
        "null_class": 3, "sampler": "dpmpp_2m", "steps": 4, "guidance_scale": 1.5, "clip_x0": true, "frame_rate": 6
    })
}

/// Its latents are 4 channels of 4 x 4, its pictures 8 x 8.
pub fn of_latents() -> Value {
    let mut config = small();
    for (name, value) in [("name", json!("small latent clips")), ("img_size", json!(4)), ("patch_size", json!(2))] {
        config[name] = value;
    }
    (config["in_chans"], config["clip_x0"]) = (json!(4), json!(false));
    config
}

/// Random weights under a network's names and shapes, the same each time.
fn checkpoint(network: &Network) -> Checkpoint {
    let mut generator = TorchGenerator::new(1);
    let plan = network.record(Batch::plain(1)).unwrap().plan;
    let mut tensors = Checkpoint::default();
    for weight in plan.published() {
        let tensor = random::tensor(&weight.name, &weight.shape, None, &mut generator);
        let Data::F32(values) = tensor.data else { panic!("random weights are f32") };
        tensors.insert(weight.name.clone(), (weight.shape.clone(), values));
    }
    tensors
}

/// Writes a model in f32; of latents with a decoder, which previews too, and an encoder.
pub fn write(out: &Path, config: &Value) -> Manifest {
    let label = |index: u32| json!({ "index": index, "name": format!("motion {index}") });
    let labels = json!({ "labels": [label(0), label(1), label(2)] });
    let mut manifest = describe(&config.to_string(), Some(&labels.to_string()), None).unwrap();
    let mut writer = Writer::new(out, &[], true).unwrap();
    let tiny = json!({
        "encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8], "num_encoder_blocks": [1, 1],
        "num_decoder_blocks": [1, 1], "latent_channels": 4, "sample_size": 8,
    });
    let mut parts = vec![(DENOISER, "uvit_video", config)];
    if config["in_chans"] == 4 {
        let halves = [
            (DECODER, "autoencoder_tiny_decoder"),
            (PREVIEW_DECODER, "autoencoder_tiny_decoder"),
            (ENCODER, "autoencoder_tiny_encoder"),
        ];
        parts.extend(halves.map(|(name, kind)| (name, kind, &tiny)));
    }
    for (name, kind, params) in parts {
        let network = Network::of(kind, params).unwrap();
        manifest.components.insert(name, Component::new(&network));
        writer.add(&mut manifest, name, &Storing::plain(Dtype::F32), &mut checkpoint(&network)).unwrap();
    }
    writer.finish(&manifest).unwrap();
    manifest
}
