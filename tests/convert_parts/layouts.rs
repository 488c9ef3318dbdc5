//! The layouts in which transformers are published, written by the rules of the scripts that convert one into another.

use super::small::{MERGES, save, text_encoder};
use serde_json::{Value, json};
use std::path::Path;
use uvit_web::weights::checkpoint::{Checkpoint, official_autoencoder_name};

pub fn write(path: &Path, value: &Value) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, value.to_string()).unwrap();
}

/// A file of these tensors in f16 that holds nothing but zeros, and takes no room on the disk.
pub fn hollow(path: &Path, tensors: &[(String, Vec<usize>)]) {
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let end = at + 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({ "dtype": "F16", "shape": shape, "data_offsets": [at, end] }));
        at = end;
    }
    let header = Value::Object(header).to_string();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    std::fs::write(path, &bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len((bytes.len() + at) as u64).unwrap();
}

/// A tensor's parts, one below the other.
fn split(tensor: &(Vec<usize>, Vec<f32>), parts: usize) -> Vec<(Vec<usize>, Vec<f32>)> {
    let (mut shape, values) = tensor.clone();
    shape[0] /= parts;
    values.chunks(values.len() / parts).map(|part| (shape.clone(), part.to_vec())).collect()
}

fn stacked(parts: &[&(Vec<usize>, Vec<f32>)]) -> (Vec<usize>, Vec<f32>) {
    let mut shape = parts[0].0.clone();
    shape[0] = parts.iter().map(|(shape, _)| shape[0]).sum();
    (shape, parts.iter().flat_map(|(_, values)| values).copied().collect())
}

/// The fixed positions of a DiT: sines and cosines of the column, then of the row.
pub fn positions(side: usize, dim: usize) -> (Vec<usize>, Vec<f32>) {
    let mut values = Vec::new();
    for (row, column) in (0..side).flat_map(|row| (0..side).map(move |column| (row, column))) {
        for (place, is_sine) in [(column, true), (column, false), (row, true), (row, false)] {
            for k in 0..dim / 4 {
                let angle = place as f64 * 10000f64.powf(-(k as f64) / (dim / 4) as f64);
                values.push(if is_sine { angle.sin() } else { angle.cos() } as f32);
            }
        }
    }
    (vec![1, side * side, dim], values)
}

/// A DiT's tensors as diffusers saves them (`scripts/convert_dit_to_diffusers.py`).
pub fn dit_of_diffusers(official: &Checkpoint, depth: usize) -> Checkpoint {
    let mut saved = Checkpoint::new();
    let mut put = |name: String, from: &str| saved.insert(name, official[from].clone());
    for end in ["weight", "bias"] {
        put(format!("pos_embed.proj.{end}"), &format!("x_embedder.proj.{end}"));
        put(format!("proj_out_1.{end}"), &format!("final_layer.adaLN_modulation.1.{end}"));
        put(format!("proj_out_2.{end}"), &format!("final_layer.linear.{end}"));
        for i in 0..depth {
            let (block, ours) = (format!("transformer_blocks.{i}"), format!("blocks.{i}"));
            let embedder = format!("{block}.norm1.emb.timestep_embedder");
            put(format!("{embedder}.linear_1.{end}"), &format!("t_embedder.mlp.0.{end}"));
            put(format!("{embedder}.linear_2.{end}"), &format!("t_embedder.mlp.2.{end}"));
            put(format!("{block}.norm1.linear.{end}"), &format!("{ours}.adaLN_modulation.1.{end}"));
            put(format!("{block}.attn1.to_out.0.{end}"), &format!("{ours}.attn.proj.{end}"));
            put(format!("{block}.ff.net.0.proj.{end}"), &format!("{ours}.mlp.fc1.{end}"));
            put(format!("{block}.ff.net.2.{end}"), &format!("{ours}.mlp.fc2.{end}"));
        }
    }
    for i in 0..depth {
        let classes = format!("transformer_blocks.{i}.norm1.emb.class_embedder.embedding_table.weight");
        put(classes, "y_embedder.embedding_table.weight");
    }
    for (i, end) in (0..depth).flat_map(|i| [(i, "weight"), (i, "bias")]) {
        let parts = split(&official[&format!("blocks.{i}.attn.qkv.{end}")], 3);
        for (part, tensor) in ["to_q", "to_k", "to_v"].iter().zip(parts) {
            saved.insert(format!("transformer_blocks.{i}.attn1.{part}.{end}"), tensor);
        }
    }
    saved
}

/// Stable Diffusion 3's tensors as it was published, from diffusers' (`scripts/convert_sd3_to_diffusers.py`, backwards).
pub fn mmdit_as_published(diffusers: &Checkpoint, layers: usize) -> Checkpoint {
    let mut saved = Checkpoint::new();
    let of = |name: &str| diffusers.get(name).unwrap_or_else(|| panic!("{name}"));
    let swapped = |name: &str| {
        let halves = split(of(name), 2);
        stacked(&[&halves[1], &halves[0]])
    };
    saved.insert("pos_embed".into(), of("pos_embed.pos_embed").clone());
    for end in ["weight", "bias"] {
        for (theirs, ours) in [
            ("x_embedder.proj", "pos_embed.proj"),
            ("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
            ("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
            ("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
            ("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
            ("context_embedder", "context_embedder"),
            ("final_layer.linear", "proj_out"),
        ] {
            saved.insert(format!("{theirs}.{end}"), of(&format!("{ours}.{end}")).clone());
        }
        let last = swapped(&format!("norm_out.linear.{end}"));
        saved.insert(format!("final_layer.adaLN_modulation.1.{end}"), last);
        for i in 0..layers {
            let ours = format!("transformer_blocks.{i}");
            let [x, context] = ["x", "context"].map(|stream| format!("joint_blocks.{i}.{stream}_block"));
            for (theirs, parts) in [
                (format!("{x}.attn"), ["attn.to_q", "attn.to_k", "attn.to_v"]),
                (format!("{context}.attn"), ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
                (format!("{x}.attn2"), ["attn2.to_q", "attn2.to_k", "attn2.to_v"]),
            ] {
                let parts = parts.map(|part| diffusers.get(&format!("{ours}.{part}.{end}")));
                if let [Some(q), Some(k), Some(v)] = parts {
                    saved.insert(format!("{theirs}.qkv.{end}"), stacked(&[q, k, v]));
                }
            }
            for (theirs, ours_is) in [
                (format!("{x}.attn.proj"), "attn.to_out.0"),
                (format!("{context}.attn.proj"), "attn.to_add_out"),
                (format!("{x}.attn2.proj"), "attn2.to_out.0"),
                (format!("{x}.attn.ln_q"), "attn.norm_q"),
                (format!("{x}.attn.ln_k"), "attn.norm_k"),
                (format!("{context}.attn.ln_q"), "attn.norm_added_q"),
                (format!("{context}.attn.ln_k"), "attn.norm_added_k"),
                (format!("{x}.attn2.ln_q"), "attn2.norm_q"),
                (format!("{x}.attn2.ln_k"), "attn2.norm_k"),
                (format!("{x}.adaLN_modulation.1"), "norm1.linear"),
                (format!("{x}.mlp.fc1"), "ff.net.0.proj"),
                (format!("{x}.mlp.fc2"), "ff.net.2"),
                (format!("{context}.mlp.fc1"), "ff_context.net.0.proj"),
                (format!("{context}.mlp.fc2"), "ff_context.net.2"),
            ] {
                if let Some(tensor) = diffusers.get(&format!("{ours}.{ours_is}.{end}")) {
                    saved.insert(format!("{theirs}.{end}"), tensor.clone());
                }
            }
            let norm = format!("{ours}.norm1_context.linear.{end}");
            let norm = if i + 1 == layers { swapped(&norm) } else { of(&norm).clone() };
            saved.insert(format!("{context}.adaLN_modulation.1.{end}"), norm);
        }
    }
    saved
}

/// A small Stable Diffusion 3.
pub struct Sd3 {
    pub transformer: Value,
    pub encoders: [Value; 2],
    pub vae: Value,
    /// Under diffusers' names.
    pub weights: Weights,
}

pub struct Weights {
    pub transformer: Checkpoint,
    pub encoders: [Checkpoint; 2],
    pub vae: Checkpoint,
}

/// Its parameters.
pub fn sd3_params(is_35: bool) -> (Value, [Value; 2], Value) {
    let mut transformer = json!({
        "sample_size": 8, "patch_size": 2, "in_channels": 16, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4,
        "joint_attention_dim": 60, "caption_projection_dim": 32, "pooled_projection_dim": 44, "out_channels": 16,
        "pos_embed_max_size": 12
    });
    if is_35 {
        (transformer["qk_norm"], transformer["dual_attention_layers"]) = (json!("rms_norm"), json!([0]));
    }
    let encoder = |fields: Value| {
        let mut encoder = text_encoder();
        encoder["num_hidden_layers"] = json!(2);
        fields.as_object().unwrap().iter().for_each(|(name, value)| encoder[name] = value.clone());
        encoder
    };
    let first = encoder(json!({ "projection_dim": 24, "hidden_act": "quick_gelu" }));
    let second = encoder(json!({ "hidden_size": 32, "projection_dim": 20, "hidden_act": "gelu" }));
    let vae = json!({
        "block_out_channels": [32, 64], "layers_per_block": 1, "latent_channels": 16, "sample_size": 16, "scaling_factor": 1.5305,
        "shift_factor": 0.0609, "use_quant_conv": false, "use_post_quant_conv": false
    });
    (transformer, [first, second], vae)
}

impl Sd3 {
    /// As a folder of diffusers, with a third encoder that nobody reads.
    pub fn save_folder(&self, folder: &Path) {
        let class = |mut config: Value, class: &str| {
            config["_class_name"] = json!(class);
            config
        };
        write(
            &folder.join("model_index.json"),
            &json!({
                "_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "SD3Transformer2DModel"],
                "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
                "text_encoder_3": ["transformers", "T5EncoderModel"], "vae": ["diffusers", "AutoencoderKL"]
            }),
        );
        write(&folder.join("transformer/config.json"), &class(self.transformer.clone(), "SD3Transformer2DModel"));
        save(&folder.join("transformer/diffusion_pytorch_model.safetensors"), &self.weights.transformer);
        write(&folder.join("vae/config.json"), &class(self.vae.clone(), "AutoencoderKL"));
        save(&folder.join("vae/diffusion_pytorch_model.safetensors"), &self.weights.vae);
        for (i, name) in ["text_encoder", "text_encoder_2"].iter().enumerate() {
            let mut config = self.encoders[i].clone();
            config["model_type"] = json!("clip_text_model");
            config["architectures"] = json!(["CLIPTextModelWithProjection"]);
            write(&folder.join(name).join("config.json"), &config);
            save(&folder.join(name).join("model.safetensors"), &self.weights.encoders[i]);
        }
        write(&folder.join("text_encoder_3/config.json"), &json!({ "model_type": "t5" }));
        std::fs::create_dir_all(folder.join("tokenizer")).unwrap();
        std::fs::write(folder.join("tokenizer/merges.txt"), MERGES).unwrap();
        write(
            &folder.join("scheduler/scheduler_config.json"),
            &json!({ "_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0 }),
        );
    }

    /// Transformer and autoencoder as one file, with the text encoders if `clips`, and with a bit of a T5 if `t5`.
    pub fn save_file(&self, path: &Path, clips: bool, t5: bool) {
        let layers = self.transformer["num_layers"].as_u64().unwrap() as usize;
        let published = mmdit_as_published(&self.weights.transformer, layers);
        let mut all = prefixed("model.diffusion_model.", &published);
        let pixel = |(name, (shape, values)): (&String, &(Vec<usize>, Vec<f32>))| {
            // Linears of the middle's attention are convolutions of one pixel there.
            let shape = if shape.len() == 2 { [&shape[..], &[1, 1]].concat() } else { shape.clone() };
            (official_autoencoder_name(name, 2), (shape, values.clone()))
        };
        all.extend(prefixed("first_stage_model.", &self.weights.vae.iter().map(pixel).collect()));
        if clips {
            let [first, second] = self.published_encoders();
            all.extend(prefixed("text_encoders.clip_l.transformer.", &first));
            all.extend(prefixed("text_encoders.clip_g.transformer.", &second));
            for encoder in ["clip_l", "clip_g"] {
                all.insert(format!("text_encoders.{encoder}.logit_scale"), (vec![], vec![4.6]));
            }
        }
        if t5 {
            all.insert("text_encoders.t5xxl.transformer.shared.weight".into(), (vec![2, 2], vec![0.0; 4]));
        }
        save(path, &all);
    }

    /// The encoders as `clip_l.safetensors`, which projects nothing, and `clip_g.safetensors`.
    pub fn published_encoders(&self) -> [Checkpoint; 2] {
        let [mut first, second] = self.weights.encoders.clone();
        first.remove("text_projection.weight");
        [first, second]
    }
}

pub fn prefixed(prefix: &str, tensors: &Checkpoint) -> Checkpoint {
    tensors.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone())).collect()
}
