//! Networks as diffusers and transformers describe them, as this project's architectures and parameters; and the folders in
//! which they lie.

use crate::json::{self, Value, json};
use crate::{Code, Error, Result};
use std::path::{Path, PathBuf};

/// What the folders of a diffusers pipeline are called, by component or asset.
const FOLDERS: [(&str, &str); 4] =
    [("decoder", "vae"), ("encoder", "vae"), ("text_encoder", "text_encoder"), ("tokenizer", "tokenizer")];

/// diffusers' list of a pipeline's parts.
const PIPELINE: &str = "model_index.json";

fn unsupported(cause: String, remedy: &str) -> Error {
    Error::new(Code::UnsupportedModel, cause, remedy)
}

/// Reads a JSON file.
///
/// # Errors
/// `IO`, `INVALID_ARGUMENT`.
pub(super) fn read_json(path: &Path) -> Result<Value> {
    let io = |e| {
        let cause = format!("{}: {e}", path.display());
        Error::new(Code::Io, cause, "Check that the file exists and can be read")
    };
    let text = std::fs::read_to_string(path).map_err(io)?;
    serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|e| {
        Error::new(Code::InvalidArgument, format!("{}: no JSON ({e})", path.display()), "Download or write it again")
    })
}

/// Where a component or an asset lies, given its own path or that of a diffusers pipeline.
pub(super) fn in_pipeline(path: PathBuf, name: &str) -> PathBuf {
    let folder = FOLDERS.iter().find(|(component, _)| *component == name).map(|(_, folder)| folder);
    match folder {
        Some(folder) if path.join(PIPELINE).is_file() => path.join(folder),
        _ => path,
    }
}

/// Refuses a whole diffusers pipeline, saying what it is; none if a folder is not one.
pub(super) fn refuse_pipeline(folder: &Path) -> Result<()> {
    let path = folder.join(PIPELINE);
    if !path.is_file() {
        return Ok(());
    }
    let index = read_json(&path)?;
    let class = |name: &str| index[name].get(1).and_then(Value::as_str);
    let fields = index.as_object().into_iter().flatten();
    let parts: Vec<String> = fields.filter_map(|(name, _)| Some(format!("{name} ({})", class(name)?))).collect();
    let denoiser = ["unet", "transformer", "prior"].into_iter().find_map(|name| Some((name, class(name)?)));
    let what = match denoiser {
        Some((name, class)) => format!("its {name} is a {class}, which this build does not know"),
        None => "it has no denoiser that this build knows".into(),
    };
    let pipeline = index["_class_name"].as_str().unwrap_or("pipeline");
    let cause = format!("{}: a {pipeline} of diffusers: {what}; it holds {}", folder.display(), parts.join(", "));
    let remedy = "Its vae, text_encoder and tokenizer can be components beside a denoiser that is known: write a description \
        (docs/format.md)";
    Err(unsupported(cause, remedy))
}

/// Architecture and parameters of the network in a folder, by its `config.json`; none if there is no such file.
///
/// # Errors
/// `UNSUPPORTED_MODEL` for a network that this build does not know, `INVALID_ARGUMENT`, `IO`.
pub(super) fn of_folder(folder: &Path, component: &str) -> Result<Option<(String, Value)>> {
    let path = folder.join("config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let config = read_json(&path)?;
    let text = |name: &str| config[name].as_str().unwrap_or_default();
    let known = match (text("_class_name"), text("model_type")) {
        ("AutoencoderKL", _) => autoencoder_kl(&config).map(|params| ("autoencoder_kl", params)),
        ("AutoencoderTiny", _) => Ok(("autoencoder_tiny", config.clone())),
        (_, "clip_text_model") => Ok(("clip_text", clip_text(&config, &config))),
        (_, "clip") => Ok(("clip_text", clip_text(&config["text_config"], &config["text_config_dict"]))),
        (class, kind) => {
            let what = if class.is_empty() { kind } else { class };
            Err(format!("a network of the kind {what:?}, which this build does not know"))
        }
    };
    let (family, params) = known.map_err(|what| {
        let cause = format!("component {component}: {}: {what}", path.display());
        unsupported(
            cause,
            "Give architecture and params in the description (docs/format.md), if it is one of this build's",
        )
    })?;
    Ok(Some((architecture(family, component), params)))
}

/// An autoencoder's halves are networks of their own: which one is meant, a component's name says.
pub(super) fn architecture(family: &str, component: &str) -> String {
    let half = if component.ends_with("decoder") { "decoder" } else { "encoder" };
    match family {
        "autoencoder_kl" | "autoencoder_tiny" => format!("{family}_{half}"),
        whole => whole.into(),
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
    for (name, only) in [("act_fn", json!("silu")), ("mid_block_add_attention", json!(true))] {
        if filled[name] != only {
            return Err(format!("an AutoencoderKL whose {name} is {}, not {only}", filled[name]));
        }
    }
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

/// The merges of CLIP's tokenizer as text, one a line behind a header: from `merges.txt`, from `tokenizer.json`, or from a folder
/// with one of them.
///
/// # Errors
/// `IO`, `INVALID_ARGUMENT` for what is neither.
pub(super) fn merges(path: &Path) -> Result<String> {
    let inside = ["merges.txt", "tokenizer.json"].map(|name| path.join(name));
    let path =
        if path.is_dir() { inside.iter().find(|file| file.is_file()).map_or(path, PathBuf::as_path) } else { path };
    let bad = |what: String| {
        let cause = format!("the asset tokenizer: {}: {what}", path.display());
        Error::new(Code::InvalidArgument, cause, "Give the merges.txt of the text encoder's tokenizer")
    };
    let bytes = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| bad("no text".into()))?;
    if !text.trim_start().starts_with('{') {
        return Ok(text);
    }
    let tokenizer: Value = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    let merges = tokenizer["model"]["merges"].as_array().ok_or_else(|| bad("no merges of a BPE tokenizer".into()))?;
    // "a b" in older files, ["a", "b"] in newer ones.
    let line = |merge: &Value| match (merge.as_str(), merge[0].as_str(), merge[1].as_str()) {
        (Some(line), ..) => Ok(format!("{line}\n")),
        (_, Some(left), Some(right)) => Ok(format!("{left} {right}\n")),
        _ => Err(bad(format!("{merge} is no merge"))),
    };
    let lines = merges.iter().map(line).collect::<Result<String>>()?;
    Ok(format!("#version: 0.2\n{lines}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Network;

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

    #[test]
    fn a_component_says_which_half_of_an_autoencoder_it_is() {
        assert_eq!(architecture("autoencoder_kl", "decoder"), "autoencoder_kl_decoder");
        assert_eq!(architecture("autoencoder_tiny", "preview_decoder"), "autoencoder_tiny_decoder");
        assert_eq!(architecture("autoencoder_kl", "encoder"), "autoencoder_kl_encoder");
        assert_eq!(architecture("clip_text", "text_encoder"), "clip_text");
    }
}
