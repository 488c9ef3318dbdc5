//! Networks as diffusers and transformers describe them, as this project's architectures and parameters.

use super::task::{IMAGE_ENCODER, TEXT_PROJECTOR};
use crate::json::{self, Value, json};

/// What a library's `config.json` describes: the architecture, of an autoencoder without its half, and the parameters. `component` says
/// which of several networks is meant.
///
/// # Errors
/// What this build does not know, or what no network here computes.
pub(super) fn read(config: &Value, component: &str) -> json::Result<(&'static str, Value)> {
    let text = |name: &str| config[name].as_str().unwrap_or_default();
    match (text("_class_name"), text("model_type")) {
        ("AutoencoderKL", _) => autoencoder_kl(config).map(|params| ("autoencoder_kl", params)),
        ("AutoencoderTiny", _) => Ok(("autoencoder_tiny", config.clone())),
        ("UniDiffuserModel", _) => unidiffuser(config).map(|params| ("unidiffuser", params)),
        ("DiTTransformer2DModel" | "Transformer2DModel", _) => dit(config).map(|params| ("dit", params)),
        ("SD3Transformer2DModel", _) => mmdit(config).map(|params| ("mmdit", params)),
        ("UniDiffuserTextDecoder", _) if component == TEXT_PROJECTOR => {
            prefix_encoder(config).map(|params| ("prefix_encoder", params))
        }
        ("UniDiffuserTextDecoder", _) => caption_decoder(config).map(|params| ("caption_decoder", params)),
        (_, "clip_text_model") => Ok(("clip_text", clip_text(config, config))),
        (_, "clip_vision_model") => Ok(("clip_vision", clip_vision(config, config, &Value::Null))),
        (_, "clip") if component == IMAGE_ENCODER => {
            let both = (&config["vision_config"], &config["vision_config_dict"]);
            Ok(("clip_vision", clip_vision(both.0, both.1, &config["projection_dim"])))
        }
        (_, "clip") => Ok(("clip_text", clip_text(&config["text_config"], &config["text_config_dict"]))),
        (_, "gpt2") => Err("a GPT-2 without what makes a caption decoder of it (encode_prefix, decode_prefix)".into()),
        (class, kind) => {
            let what = if class.is_empty() { kind } else { class };
            Err(format!("a network of the kind {what:?}, which this build does not know"))
        }
    }
}

/// A field of a configuration, or what it is where the library leaves it out.
fn filled(config: &Value, defaults: Value) -> Value {
    let given = config.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let mut filled = defaults;
    given.for_each(|(name, value)| filled[name] = value.clone());
    filled
}

/// diffusers' AutoencoderKL: its defaults, and what of it no network here computes.
fn autoencoder_kl(config: &Value) -> json::Result<Value> {
    let filled = filled(
        config,
        json!({
            "in_channels": 3, "out_channels": 3, "block_out_channels": [64], "layers_per_block": 1, "latent_channels": 4,
            "norm_num_groups": 32, "scaling_factor": 0.18215, "shift_factor": null, "use_quant_conv": true,
            "use_post_quant_conv": true, "act_fn": "silu", "mid_block_add_attention": true,
        }),
    );
    let computed = [("act_fn", json!("silu")), ("mid_block_add_attention", json!(true))];
    only("an AutoencoderKL", &filled, &computed)?;
    for (name, only) in [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")] {
        if let Some(other) = filled[name].as_array().into_iter().flatten().find(|kind| **kind != only) {
            return Err(format!("an AutoencoderKL whose {name} has {other}, not only {only:?}"));
        }
    }
    match ["latents_mean", "latents_std"].iter().find(|name| !filled[**name].is_null()) {
        Some(name) => Err(format!("an AutoencoderKL with {name}, which is not computed")),
        None => Ok(filled),
    }
}

/// transformers' CLIPTextConfig: its defaults. `also` has the last word, as `text_config_dict` of older files does. All of them
/// have a `projection_dim`; only CLIPTextModelWithProjection is a network with a projection.
fn clip_text(config: &Value, also: &Value) -> Value {
    let defaults = json!({
        "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "projection_dim": 512, "num_hidden_layers": 12,
        "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    });
    let mut filled = filled(also, filled(config, defaults));
    let projects = |class: &Value| class == "CLIPTextModelWithProjection";
    if !config["architectures"].as_array().into_iter().flatten().any(projects) {
        filled["projection_dim"] = 0.into();
    }
    filled
}

/// transformers' CLIPVisionConfig: its defaults. `also` has the last word, as for [`clip_text`], and `projection_dim` of a whole
/// CLIPModel, whose own width it is, the very last.
fn clip_vision(config: &Value, also: &Value, projection_dim: &Value) -> Value {
    let defaults = json!({
        "hidden_size": 768, "intermediate_size": 3072, "projection_dim": 512, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    });
    filled(&json!({ "projection_dim": projection_dim }), filled(also, filled(config, defaults)))
}

/// diffusers' UniDiffuserModel: its defaults, and what of it no network here computes.
fn unidiffuser(config: &Value) -> json::Result<Value> {
    let filled = filled(
        config,
        json!({
            "text_dim": 768, "clip_img_dim": 512, "num_text_tokens": 77, "num_attention_heads": 16, "attention_head_dim": 88,
            "in_channels": null, "out_channels": config["in_channels"], "num_layers": 1, "attention_bias": false,
            "cross_attention_dim": null, "sample_size": null, "patch_size": null, "activation_fn": "geglu", "norm_type": "layer_norm",
            "block_type": "unidiffuser", "pre_layer_norm": false, "use_timestep_embedding": false, "norm_elementwise_affine": true,
            "use_patch_pos_embed": false, "use_data_type_embedding": false,
        }),
    );
    only(
        "a UniDiffuserModel",
        &filled,
        &[
            ("activation_fn", json!("gelu")),
            ("norm_type", json!("layer_norm")),
            ("block_type", json!("unidiffuser")),
            ("pre_layer_norm", json!(false)),
            ("norm_elementwise_affine", json!(true)),
            ("use_patch_pos_embed", json!(false)),
            ("cross_attention_dim", Value::Null),
            ("out_channels", filled["in_channels"].clone()),
        ],
    )?;
    let number = |name: &str| filled[name].as_u64().ok_or_else(|| format!("a UniDiffuserModel without {name}"));
    Ok(json!({
        "version": u32::from(filled["use_data_type_embedding"] == true), "img_size": number("sample_size")?,
        "in_chans": number("in_channels")?, "patch_size": number("patch_size")?,
        "embed_dim": number("num_attention_heads")?.saturating_mul(number("attention_head_dim")?),
        "depth": number("num_layers")?, "num_heads": number("num_attention_heads")?, "mlp_ratio": 4,
        "qkv_bias": filled["attention_bias"], "mlp_time_embed": filled["use_timestep_embedding"],
        "text_dim": number("text_dim")?, "num_text_tokens": number("num_text_tokens")?,
        "clip_img_dim": number("clip_img_dim")?,
    }))
}

/// diffusers' DiTTransformer2DModel, which was called Transformer2DModel at first: its defaults, and what of it no network here
/// computes. Its norms before the MLP have another `norm_eps`, and its time embedding other frequencies, than the DiT that was trained:
/// those of facebookresearch/DiT are computed.
fn dit(config: &Value) -> json::Result<Value> {
    let filled = filled(
        config,
        json!({
            "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": null,
            "num_layers": 28, "attention_bias": true, "sample_size": 32, "patch_size": 2, "activation_fn": "gelu-approximate",
            "num_embeds_ada_norm": 1000, "norm_type": "ada_norm_zero", "norm_elementwise_affine": false,
        }),
    );
    let class = "a transformer of diffusers";
    if filled["norm_type"] == "ada_norm_single" {
        return Err(format!("{class} whose norm_type is \"ada_norm_single\": PixArt, which is not supported"));
    }
    only(
        class,
        &filled,
        &[
            ("norm_type", json!("ada_norm_zero")),
            ("activation_fn", json!("gelu-approximate")),
            ("attention_bias", json!(true)),
            ("norm_elementwise_affine", json!(false)),
        ],
    )?;
    let number = |name: &str| filled[name].as_u64().ok_or_else(|| format!("{class} without {name}"));
    let channels = number("in_channels")?;
    let out = filled["out_channels"].as_u64().unwrap_or(channels);
    if out != channels && out != channels.saturating_mul(2) {
        return Err(format!("{class} whose out_channels is {out}, not {channels} or twice as many"));
    }
    Ok(json!({
        "input_size": number("sample_size")?, "patch_size": number("patch_size")?, "in_channels": channels,
        "hidden_size": number("num_attention_heads")?.saturating_mul(number("attention_head_dim")?),
        "depth": number("num_layers")?, "num_heads": number("num_attention_heads")?, "mlp_ratio": 4.0,
        "num_classes": number("num_embeds_ada_norm")?, "learn_sigma": out != channels,
    }))
}

/// diffusers' SD3Transformer2DModel: its defaults, and what of it no network here computes.
fn mmdit(config: &Value) -> json::Result<Value> {
    let filled = filled(
        config,
        json!({
            "sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 18, "attention_head_dim": 64,
            "num_attention_heads": 18, "joint_attention_dim": 4096, "caption_projection_dim": 1152, "pooled_projection_dim": 2048,
            "out_channels": 16, "pos_embed_max_size": 96, "dual_attention_layers": [],
        }),
    );
    only("an SD3Transformer2DModel", &filled, &[("out_channels", filled["in_channels"].clone())])?;
    match filled["qk_norm"].as_str() {
        None | Some("rms_norm") => Ok(filled),
        Some(other) => Err(format!("an SD3Transformer2DModel whose qk_norm is {other:?}, not \"rms_norm\"")),
    }
}

/// diffusers' UniDiffuserTextDecoder with its defaults.
fn text_decoder(config: &Value) -> json::Result<Value> {
    let filled = filled(
        config,
        json!({
            "prefix_length": null, "prefix_inner_dim": null, "prefix_hidden_dim": null, "vocab_size": 50257, "n_positions": 1024,
            "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": null, "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5, "scale_attn_weights": true, "scale_attn_by_inverse_layer_idx": false,
        }),
    );
    only(
        "a UniDiffuserTextDecoder",
        &filled,
        &[("scale_attn_weights", json!(true)), ("scale_attn_by_inverse_layer_idx", json!(false))],
    )?;
    let inner = filled["n_embd"].as_u64().map(|wide| wide.saturating_mul(4));
    if !filled["n_inner"].is_null() && filled["n_inner"].as_u64() != inner {
        return Err(format!("a UniDiffuserTextDecoder whose n_inner is {}, not 4 n_embd", filled["n_inner"]));
    }
    match ["prefix_length", "prefix_inner_dim", "prefix_hidden_dim"].iter().find(|name| filled[**name].is_null()) {
        Some(name) => Err(format!("a UniDiffuserTextDecoder without {name}")),
        None => Ok(filled),
    }
}

fn prefix_encoder(config: &Value) -> json::Result<Value> {
    let filled = text_decoder(config)?;
    Ok(json!({
        "prefix_dim": filled["prefix_inner_dim"], "hidden_dim": filled["prefix_hidden_dim"], "tokens": filled["prefix_length"],
    }))
}

/// What it says of the search stands in thu-ml/unidiffuser (`libs/caption_decoder.py`): 5 beams, at most 67 tokens, and a stop token
/// that was added to GPT-2's vocabulary as its last. So does the activation: the weights were trained as GPT-2's, with the tanh of
/// `gelu_new`, and the published folder's `gelu` is a slip of the script that made it.
fn caption_decoder(config: &Value) -> json::Result<Value> {
    let filled = text_decoder(config)?;
    let activation = match filled["activation_function"].as_str() {
        Some("gelu" | "gelu_new" | "gelu_pytorch_tanh") => "gelu_new",
        _ => {
            let other = &filled["activation_function"];
            return Err(format!("a UniDiffuserTextDecoder whose activation_function is {other}, not \"gelu_new\""));
        }
    };
    let stop = filled["vocab_size"].as_u64().and_then(|words| words.checked_sub(1));
    let stop = stop.ok_or_else(|| format!("a UniDiffuserTextDecoder whose vocab_size is {}", filled["vocab_size"]))?;
    let mut gpt2 = json!({ "activation_function": activation });
    for name in ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "layer_norm_epsilon"] {
        gpt2[name] = filled[name].clone();
    }
    Ok(json!({
        "gpt2": gpt2, "prefix_length": filled["prefix_length"], "hidden_dim": filled["prefix_hidden_dim"],
        "prefix_dim": filled["prefix_inner_dim"], "stop_token": stop, "beam_size": 5, "entry_length": 67,
    }))
}

/// Refuses what has another value than the one that is computed here.
fn only(class: &str, config: &Value, fields: &[(&str, Value)]) -> json::Result<()> {
    match fields.iter().find(|(name, only)| config[*name] != *only) {
        Some((name, only)) => Err(format!("{class} whose {name} is {}, not {only}", config[*name])),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Network;
    use crate::package::preset;
    use crate::package::published::architecture;

    #[test]
    fn an_autoencoder_has_diffusers_defaults_and_nothing_that_is_not_computed() {
        let published = json!({
            "_class_name": "AutoencoderKL", "_diffusers_version": "0.6.0", "act_fn": "silu", "in_channels": 3, "out_channels": 3,
            "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
        });
        // The same as the original's.
        let original = json!({
            "ddconfig": {
                "double_z": true, "z_channels": 4, "resolution": 512, "in_channels": 3, "out_ch": 3, "ch": 128,
                "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
            },
            "embed_dim": 4, "scale_factor": 0.18215,
        });
        for half in ["decoder", "encoder"] {
            let network = |params| Network::of(&architecture("autoencoder_kl", half), params).unwrap();
            assert_eq!(network(&autoencoder_kl(&published).unwrap()), network(&original));
        }
        let with = |name: &str, value: Value| {
            let mut changed = published.clone();
            changed[name] = value;
            autoencoder_kl(&changed).unwrap_err()
        };
        assert!(with("act_fn", json!("gelu")).contains("act_fn is \"gelu\""));
        assert!(with("up_block_types", json!(["AttnUpDecoderBlock2D"])).contains("AttnUpDecoderBlock2D"));
        assert!(with("latents_mean", json!([0.0])).contains("latents_mean"));
    }

    #[test]
    fn a_text_encoder_projects_only_where_its_class_says_so() {
        let config = |value: Value| clip_text(&value, &value);
        let small = json!({ "architectures": ["CLIPTextModel"], "hidden_size": 768, "projection_dim": 768 });
        let filled = config(small);
        assert_eq!((&filled["projection_dim"], &filled["hidden_size"]), (&json!(0), &json!(768)));
        assert_eq!((&filled["vocab_size"], &filled["max_position_embeddings"]), (&json!(49408), &json!(77)));
        let projecting = json!({ "architectures": ["CLIPTextModelWithProjection"] });
        assert_eq!(config(projecting)["projection_dim"], json!(512));
        // The second has the last word, and a null none.
        let both = clip_text(
            &json!({ "hidden_size": 512, "num_hidden_layers": 9 }),
            &json!({ "hidden_size": 768, "num_hidden_layers": null }),
        );
        assert_eq!((&both["hidden_size"], &both["num_hidden_layers"]), (&json!(768), &json!(9)));
        assert_eq!(clip_text(&json!({}), &Value::Null)["num_hidden_layers"], json!(12));
    }

    /// As diffusers' script writes them for the published checkpoints.
    #[test]
    fn a_unidiffuser_of_diffusers_is_the_published_one() {
        let unet = json!({
            "_class_name": "UniDiffuserModel", "text_dim": 64, "clip_img_dim": 512, "num_text_tokens": 77, "num_attention_heads": 24,
            "attention_head_dim": 64, "in_channels": 4, "out_channels": 4, "num_layers": 30, "dropout": 0.0, "norm_num_groups": 32,
            "attention_bias": false, "sample_size": 64, "patch_size": 2, "activation_fn": "gelu", "num_embeds_ada_norm": 1000,
            "norm_type": "layer_norm", "block_type": "unidiffuser", "pre_layer_norm": false, "use_timestep_embedding": false,
            "norm_elementwise_affine": true, "use_patch_pos_embed": false, "ff_final_dropout": true, "use_data_type_embedding": true,
        });
        let decoder = json!({
            "_class_name": "UniDiffuserTextDecoder", "prefix_length": 77, "prefix_inner_dim": 768, "prefix_hidden_dim": 64,
            "vocab_size": 50258, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": 3072,
            "activation_function": "gelu", "layer_norm_epsilon": 1e-5,
        });
        let image = json!({ "model_type": "clip_vision_model", "architectures": ["CLIPVisionModelWithProjection"] });
        let whole = json!({ "model_type": "clip", "projection_dim": 512, "vision_config": { "projection_dim": 640 } });
        for (name, version) in [("unidiffuser_v1", true), ("unidiffuser_v0", false)] {
            let mut unet = unet.clone();
            unet["use_data_type_embedding"] = version.into();
            let parts = preset(name).unwrap().parts.unwrap();
            for (component, config) in [
                ("denoiser", &unet),
                ("text_projector", &decoder),
                ("caption_decoder", &decoder),
                ("image_encoder", &image),
                ("image_encoder", &whole),
            ] {
                let (architecture, params) = read(config, component).unwrap();
                let published = &parts["components"][component];
                assert_eq!(architecture, published["architecture"], "{component}");
                let network = |params| Network::of(architecture, params).unwrap();
                assert_eq!(network(&params), network(&published["params"]), "{component}");
            }
        }
        let refused = |config: &Value, field: &str, value: Value, component: &str| {
            let mut changed = config.clone();
            changed[field] = value;
            read(&changed, component).unwrap_err()
        };
        assert!(refused(&unet, "block_type", json!("block"), "denoiser").contains("block_type is \"block\""));
        assert!(refused(&unet, "out_channels", json!(8), "denoiser").contains("out_channels is 8, not 4"));
        assert!(refused(&unet, "sample_size", Value::Null, "denoiser").contains("without sample_size"));
        assert!(refused(&decoder, "n_inner", json!(37), "caption_decoder").contains("n_inner is 37"));
        assert!(refused(&decoder, "vocab_size", json!(0), "caption_decoder").contains("vocab_size is 0"));
        assert!(refused(&decoder, "activation_function", json!("relu"), "caption_decoder").contains("\"relu\""));
        let gpt2 = read(&json!({ "model_type": "gpt2" }), "caption_decoder").unwrap_err();
        assert!(gpt2.contains("encode_prefix"), "{gpt2}");
    }

    /// As diffusers' scripts write them for the published checkpoints.
    #[test]
    fn transformers_of_diffusers_are_the_published_ones() {
        let dit = json!({
            "_class_name": "Transformer2DModel", "activation_fn": "gelu-approximate", "attention_bias": true, "attention_head_dim": 72,
            "cross_attention_dim": null, "dropout": 0.0, "in_channels": 4, "norm_elementwise_affine": false, "norm_num_groups": 32,
            "norm_type": "ada_norm_zero", "num_attention_heads": 16, "num_embeds_ada_norm": 1000, "num_layers": 28, "out_channels": 8,
            "patch_size": 2, "sample_size": 64,
        });
        let mmdit = json!({
            "_class_name": "SD3Transformer2DModel", "attention_head_dim": 64, "caption_projection_dim": 1536, "in_channels": 16,
            "joint_attention_dim": 4096, "num_attention_heads": 24, "num_layers": 24, "out_channels": 16, "patch_size": 2,
            "pooled_projection_dim": 2048, "pos_embed_max_size": 384, "qk_norm": "rms_norm", "sample_size": 128,
            "dual_attention_layers": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        });
        for (config, name) in [(&dit, "dit-xl-2-512"), (&mmdit, "sd3.5-medium")] {
            let (architecture, params) = read(config, "denoiser").unwrap();
            let published = preset(name).unwrap().config;
            let network = |params| Network::of(architecture, params).unwrap();
            assert_eq!(network(&params), network(&published), "{name}");
        }
        let refused = |config: &Value, field: &str, value: Value| {
            let mut changed = config.clone();
            changed[field] = value;
            read(&changed, "denoiser").unwrap_err()
        };
        assert!(refused(&dit, "norm_type", json!("ada_norm_single")).contains("PixArt"));
        assert!(refused(&dit, "attention_bias", json!(false)).contains("attention_bias is false"));
        assert!(refused(&dit, "sample_size", Value::String("64".into())).contains("without sample_size"));
        assert!(refused(&mmdit, "qk_norm", json!("layer_norm")).contains("qk_norm is \"layer_norm\""));
        assert!(refused(&mmdit, "out_channels", json!(32)).contains("out_channels is 32, not 16"));
    }
}
