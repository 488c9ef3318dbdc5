//! A published model of several networks as it lies on somebody's disk: the files of its publisher and the folders of the networks
//! that it took from others, each under the name that it was published as; or a folder of diffusers.

use super::description::{COMPONENTS, Description, T5, THIRD_ENCODER};
use super::manifest::DENOISER;
use super::pipelines;
use super::presets::{Preset, preset, presets};
use super::published::{self, PIPELINE};
use super::task::{TEXT_ENCODER, TEXT_ENCODER_2, TOKENIZER, Task};
use crate::json::{Fields, Value, json, with_some};
use crate::model::Network;
use crate::weights::checkpoint::{self, Weights};
use crate::{Code, Error, Result};
use std::path::{Path, PathBuf};

/// Where a component or an asset of the model lies, said by its name.
pub type Located = (String, PathBuf);

fn invalid(cause: String, remedy: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, cause, remedy)
}

/// The published model whose files are in a folder, or whose folder of diffusers it is; none if there is no such.
///
/// # Errors
/// `INVALID_ARGUMENT` if the files of several are there; `IO`, `UNSUPPORTED_MODEL`.
pub fn official(folder: &Path) -> Result<Option<Preset>> {
    if published::pipeline_class(folder)?.as_deref() == Some("UniDiffuserPipeline") {
        let unet = published::in_pipeline(folder.to_owned(), DENOISER);
        let version =
            published::of_folder(&unet, DENOISER)?.map_or(Value::Null, |(_, params)| params["version"].clone());
        return preset(if version == json!(0) { "unidiffuser_v0" } else { "unidiffuser_v1" }).map(Some);
    }
    if published::pipeline_class(folder)?.as_deref() == Some("StableDiffusion3Pipeline") {
        return stable_diffusion_3(folder).map(Some);
    }
    // A folder that has such a file says itself what it is.
    if folder.join("config.json").is_file() {
        return Ok(None);
    }
    let mut found = presets()?;
    found.retain(|preset| published_in(preset, folder).is_some());
    if found.len() > 1 {
        let names = found.iter().map(|preset| preset.name.as_str()).collect::<Vec<_>>().join(" and ");
        let cause = format!("{}: it holds the files of {names}", folder.display());
        return Err(invalid(cause, "Say which with --preset NAME"));
    }
    Ok(found.pop())
}

/// Stable Diffusion 3 as a folder of diffusers: which of them it is, the norms of its heads say. What the published ones are not has a
/// name of its own.
fn stable_diffusion_3(folder: &Path) -> Result<Preset> {
    let transformer = published::in_pipeline(folder.to_owned(), DENOISER);
    let said = published::of_folder(&transformer, DENOISER)?;
    let said = said.map(|(architecture, params)| Network::of(&architecture, &params)).transpose()?;
    let normed = said.as_ref().is_some_and(|network| network.params()["qk_norm"] == "rms_norm");
    let mut preset = preset(if normed { "sd3.5-medium" } else { "sd3-medium" })?;
    let published = Network::of("mmdit", &preset.config)?;
    if let (Some(parts), true) = (&mut preset.parts, said.is_some_and(|network| network != published)) {
        preset.name = "stable-diffusion-3".into();
        parts["name"] = preset.name.as_str().into();
    }
    Ok(preset)
}

/// The file in a folder that a whole model's denoiser is published as.
fn published_in(preset: &Preset, folder: &Path) -> Option<PathBuf> {
    preset.files.iter().map(|file| folder.join(file)).find(|path| path.is_file())
}

impl Description {
    /// A published model, given the folder with its files, or its denoiser's file, beside which the others lie. `located` goes first,
    /// name by name. What the model can do without is left out where it is not there.
    ///
    /// # Errors
    /// Those of [`Description::read`]; `INVALID_ARGUMENT` naming what is missing, and for a name that the model has not.
    pub fn of_official(preset: &Preset, given: &Path, weights: &Weights, located: &[Located]) -> Result<Description> {
        let parts = preset.parts.as_ref().ok_or_else(|| Error::internal("a preset of one network"))?;
        let (folder, denoiser) = if given.join(PIPELINE).is_file() {
            (given, None)
        } else if given.is_dir() || !given.exists() {
            (given, published_in(preset, given))
        } else {
            (given.parent().unwrap_or(Path::new("")), Some(given.to_owned()))
        };
        let search = Search { preset, folder, denoiser, located };
        search.check_names(parts)?;
        let (mut components, mut assets, mut left_out) = (json!({}), json!({}), Vec::new());
        for (name, part) in entries(&parts[COMPONENTS]) {
            let mut part = part.clone();
            let path = match search.inside(name, &part)? {
                Some(path) => path,
                None => {
                    part["weights"] = Value::Null;
                    let file = part["checkpoint"].as_str().unwrap_or_default();
                    let Some(path) = search.find(name, file) else {
                        left_out.push(search.missing(name, file)?);
                        continue;
                    };
                    path
                }
            };
            part["checkpoint"] = path.to_string_lossy().into_owned().into();
            // A folder that says what it holds is believed, but for what this model does with it.
            if let Some((architecture, mut params)) = published::of_folder(&path, name)? {
                for field in ["hidden_state", "pad_token"] {
                    let own = part["params"][field].take();
                    params = with_some(params, field, own);
                }
                (part["architecture"], part["params"]) = (architecture.into(), params);
            }
            components[name] = part;
        }
        left_out.extend(search.third_encoder(parts)?);
        for (name, file) in entries(&parts["assets"]) {
            if let Some(path) = search.find(name, file.as_str().unwrap_or_default()) {
                assets[name] = path.to_string_lossy().into_owned().into();
            }
        }
        let mut whole = parts.clone();
        (whole[COMPONENTS], whole["assets"]) = (components, assets);
        // Its solver is not the publisher's, and is left.
        if let Some(scheduler) = pipelines::scheduler(folder)? {
            pipelines::schedule(&scheduler)?.into_iter().for_each(|(name, value)| whole["schedule"][name] = value);
        }
        let mut description = Description::read(&whole, Path::new(""))?;
        search.check_tokenizer(&description)?;
        let of_denoiser = description.sources.iter_mut().find(|source| source.component == DENOISER);
        of_denoiser.into_iter().for_each(|source| source.weights = weights.clone());
        description.left_out = left_out;
        Ok(description)
    }
}

fn entries(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    Fields::of(object).ok().into_iter().flat_map(|fields| fields.all())
}

/// Where to look for a model's parts.
struct Search<'a> {
    preset: &'a Preset,
    folder: &'a Path,
    denoiser: Option<PathBuf>,
    located: &'a [Located],
}

impl Search<'_> {
    fn check_names(&self, parts: &Value) -> Result<()> {
        let names: Vec<&str> =
            entries(&parts[COMPONENTS]).chain(entries(&parts["assets"])).map(|(name, _)| name.as_str()).collect();
        for (at, (name, path)) in self.located.iter().enumerate() {
            let ignored = name == THIRD_ENCODER && names.contains(&TEXT_ENCODER_2);
            if !ignored && !names.contains(&name.as_str()) {
                let cause = format!("{} has no component {name:?}", self.preset.name);
                return Err(invalid(cause, format!("Give one of {}", names.join(", "))));
            }
            if self.located[..at].iter().any(|(other, _)| other == name) {
                return Err(invalid(format!("--component {name} is given twice"), "Give each component once"));
            }
            if !path.exists() {
                let cause = format!("{}: there is no such file or folder", path.display());
                return Err(Error::new(Code::Io, cause, format!("Check the path after --component {name}=")));
            }
        }
        Ok(())
    }

    /// Where a part lies: where somebody said, under its published name, or in a folder of diffusers.
    fn find(&self, name: &str, file: &str) -> Option<PathBuf> {
        if let Some((_, path)) = self.located.iter().find(|(of, _)| of == name) {
            return Some(published::in_pipeline(path.clone(), name));
        }
        if let (DENOISER, Some(path)) = (name, &self.denoiser) {
            return Some(path.to_owned());
        }
        let inside = published::in_pipeline(self.folder.to_owned(), name);
        let inside = if inside == self.folder { None } else { Some(inside) };
        // As it was published, without its folder, or in a folder of diffusers.
        let alone = Path::new(file).file_name().map(|file| self.folder.join(file));
        [Some(self.folder.join(file)), alone, inside].into_iter().flatten().find(|path| path.exists())
    }

    /// The file of the denoiser, if it holds a part that nobody located elsewhere.
    fn inside(&self, name: &str, part: &Value) -> Result<Option<PathBuf>> {
        let (Some(key), Some(file)) = (part["weights"].as_str(), &self.denoiser) else { return Ok(None) };
        let located = self.located.iter().any(|(of, _)| of == name);
        Ok((!located && checkpoint::holds(file, key)?).then(|| file.clone()))
    }

    /// What is said of Stable Diffusion 3's third text encoder, if there is one.
    fn third_encoder(&self, parts: &Value) -> Result<Option<String>> {
        if parts[COMPONENTS][TEXT_ENCODER_2].is_null() {
            return Ok(None);
        }
        let there = self.located.iter().any(|(name, _)| name == THIRD_ENCODER)
            || match &self.denoiser {
                Some(file) => checkpoint::holds(file, "text_encoders.t5xxl")?,
                None => self.folder.join(THIRD_ENCODER).is_dir(),
            };
        Ok(there.then(|| T5.to_owned()))
    }

    /// Without one nothing can be read.
    fn check_tokenizer(&self, found: &Description) -> Result<()> {
        let task = &found.manifest.task;
        if found.tokenizer.is_some() || !task.needs_assets().contains(&TOKENIZER) {
            return Ok(());
        }
        let cause = format!("{}: there is no tokenizer in {}", self.preset.name, self.folder.display());
        let remedy =
            "Say where CLIP's merges lie: --component tokenizer=merges.txt (that of openai/clip-vit-large-patch14)";
        Err(invalid(cause, remedy))
    }

    /// What is said of a component that is left out; an error if the model is nothing without it.
    fn missing(&self, name: &str, file: &str) -> Result<String> {
        let folder = self.folder.display();
        let cause = format!("{name}: there is no {file} in {folder}");
        if !Task::Any.needs().contains(&name) && name != TEXT_ENCODER_2 {
            return Ok(format!("{cause}, and no --component {name}=PATH"));
        }
        let remedy = match &self.denoiser {
            Some(denoiser) if name.starts_with(TEXT_ENCODER) && self.preset.files.len() > 1 => {
                let (denoiser, file) = (denoiser.display(), Path::new(file).file_name().unwrap_or_default().display());
                format!(
                    "{denoiser} holds no text encoders. Put {file} beside it, say where it lies (--component {name}=PATH), or \
                     give a file with them, as sd3_medium_incl_clips.safetensors"
                )
            }
            _ => format!("Put it there, or say where it lies: --component {name}=PATH"),
        };
        Err(invalid(format!("{}: {cause}", self.preset.name), remedy))
    }
}
