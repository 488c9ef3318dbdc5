//! The folders in which diffusers and transformers leave networks and tokenizers.

use super::configurations;
use super::manifest::DENOISER;
use super::task::{
    CAPTION_DECODER, CAPTION_TOKENIZER, DECODER, ENCODER, IMAGE_ENCODER, TEXT_ENCODER, TEXT_ENCODER_2, TEXT_PROJECTOR,
    TOKENIZER,
};
use crate::json::Value;
use crate::{Code, Error, Result};
use std::path::{Path, PathBuf};

/// What the folders of a diffusers pipeline are called, by component or asset; some have two names.
const FOLDERS: [(&str, &str); 12] = [
    (DENOISER, "unet"),
    (DENOISER, "transformer"),
    (DECODER, "vae"),
    (ENCODER, "vae"),
    (TEXT_ENCODER, "text_encoder"),
    (TEXT_ENCODER_2, "text_encoder_2"),
    (TEXT_PROJECTOR, "text_decoder"),
    (CAPTION_DECODER, "text_decoder"),
    (IMAGE_ENCODER, "image_encoder"),
    (TOKENIZER, "tokenizer"),
    (TOKENIZER, "clip_tokenizer"),
    (CAPTION_TOKENIZER, "text_tokenizer"),
];

/// diffusers' list of a pipeline's parts.
pub(super) const PIPELINE: &str = "model_index.json";

/// Pipelines that people may take for one of this build's, by the beginnings of their names. What Stable Diffusion before XL is, its
/// UNet says.
const OTHERS: [(&str, &str); 7] = [
    ("StableDiffusionXL", "Stable Diffusion XL"),
    ("StableCascade", "Stable Cascade"),
    ("Flux", "Flux"),
    ("PixArt", "PixArt"),
    ("Latte", "Latte for text"),
    ("HunyuanDiT", "Hunyuan-DiT"),
    ("Sana", "Sana"),
];

/// What people call a pipeline.
fn called(folder: &Path, class: &str) -> Option<&'static str> {
    if let Some((_, name)) = OTHERS.iter().find(|(begin, _)| class.starts_with(begin)) {
        return Some(name);
    }
    // CLIP's widths: that of OpenAI's, and that of OpenCLIP's, which the second version reads.
    let unet =
        read_json(&folder.join("unet").join("config.json")).ok().filter(|_| class.starts_with("StableDiffusion"));
    match unet?["cross_attention_dim"].as_u64() {
        Some(768) => Some("Stable Diffusion 1"),
        Some(1024) => Some("Stable Diffusion 2"),
        _ => None,
    }
}

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
    if !path.join(PIPELINE).is_file() {
        return path;
    }
    let folders = folders(name).map(|folder| path.join(folder));
    let folders: Vec<PathBuf> = folders.collect();
    folders.iter().find(|folder| folder.is_dir()).or(folders.first()).cloned().unwrap_or(path)
}

/// Where an asset lies, beside the folder of a component of a diffusers pipeline.
pub(super) fn beside(folder: &Path, asset: &str) -> Option<PathBuf> {
    let parent = folder.parent()?;
    folders(asset).map(|name| parent.join(name)).find(|path| path.is_dir())
}

fn folders(name: &str) -> impl Iterator<Item = &'static str> {
    FOLDERS.iter().filter(move |(of, _)| *of == name).map(|(_, folder)| *folder)
}

/// What class a diffusers pipeline is, if a folder is one.
///
/// # Errors
/// `IO`, `INVALID_ARGUMENT`.
pub(super) fn pipeline_class(folder: &Path) -> Result<Option<String>> {
    let path = folder.join(PIPELINE);
    if !path.is_file() {
        return Ok(None);
    }
    Ok(read_json(&path)?["_class_name"].as_str().map(str::to_owned))
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
    let name = called(folder, pipeline).map_or(String::new(), |name| format!("{name}, which is not supported, "));
    let cause = format!("{}: {name}a {pipeline} of diffusers: {what}; it holds {}", folder.display(), parts.join(", "));
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
    let known = configurations::read(&config, component);
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

/// The merges of a byte-level tokenizer, CLIP's or GPT-2's, as text, one a line behind a header: from `merges.txt`, from
/// `tokenizer.json`, or from a folder with one of them.
///
/// # Errors
/// `IO`, `INVALID_ARGUMENT` for what is neither.
pub(super) fn merges(path: &Path, asset: &str) -> Result<String> {
    let inside = ["merges.txt", "tokenizer.json"].map(|name| path.join(name));
    let path =
        if path.is_dir() { inside.iter().find(|file| file.is_file()).map_or(path, PathBuf::as_path) } else { path };
    let bad = |what: String| {
        let cause = format!("the asset {asset}: {}: {what}", path.display());
        let whose = if asset == TOKENIZER { "text encoder" } else { "caption decoder" };
        Error::new(Code::InvalidArgument, cause, format!("Give the merges.txt of the {whose}'s tokenizer"))
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

    #[test]
    fn a_component_says_which_half_of_an_autoencoder_it_is() {
        assert_eq!(architecture("autoencoder_kl", "decoder"), "autoencoder_kl_decoder");
        assert_eq!(architecture("autoencoder_tiny", "preview_decoder"), "autoencoder_tiny_decoder");
        assert_eq!(architecture("autoencoder_kl", "encoder"), "autoencoder_kl_encoder");
        assert_eq!(architecture("clip_text", "text_encoder"), "clip_text");
    }
}
