//! A published model of several networks as it lies on somebody's disk: the files of its publisher and the folders of the networks
//! that it took from others, each under the name that it was published as; or a folder of diffusers.

use super::description::{COMPONENTS, Description};
use super::manifest::DENOISER;
use super::presets::{Preset, preset, presets};
use super::published;
use super::task::Task;
use crate::json::{Fields, Value, json};
use crate::weights::checkpoint::Weights;
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
    // A folder that has such a file says itself what it is.
    if folder.join("config.json").is_file() {
        return Ok(None);
    }
    let mut found = Vec::new();
    for preset in presets()? {
        if denoiser_file(&preset).is_some_and(|file| folder.join(file).is_file()) {
            found.push(preset);
        }
    }
    if found.len() > 1 {
        let names = found.iter().map(|preset| preset.name.as_str()).collect::<Vec<_>>().join(" and ");
        let cause = format!("{}: it holds the files of {names}", folder.display());
        return Err(invalid(cause, "Say which with --preset NAME"));
    }
    Ok(found.pop())
}

/// The file that a whole model's denoiser is published as.
fn denoiser_file(preset: &Preset) -> Option<&str> {
    preset.parts.as_ref()?[COMPONENTS][DENOISER]["checkpoint"].as_str()
}

impl Description {
    /// A published model, given the folder with its files, or its denoiser's file, beside which the others lie. `located` goes first,
    /// name by name. What the model can do without is left out where it is not there.
    ///
    /// # Errors
    /// Those of [`Description::read`]; `INVALID_ARGUMENT` naming what is missing, and for a name that the model has not.
    pub fn of_official(preset: &Preset, given: &Path, weights: &Weights, located: &[Located]) -> Result<Description> {
        let parts = preset.parts.as_ref().ok_or_else(|| Error::internal("a preset of one network"))?;
        let (folder, denoiser) = if given.is_dir() || !given.exists() {
            (given, None)
        } else {
            (given.parent().unwrap_or(Path::new("")), Some(given))
        };
        let search = Search { preset, folder, denoiser, located };
        search.check_names(parts)?;
        let (mut components, mut assets, mut left_out) = (json!({}), json!({}), Vec::new());
        for (name, part) in entries(&parts[COMPONENTS]) {
            let Some(path) = search.find(name, part["checkpoint"].as_str().unwrap_or_default()) else {
                left_out.push(search.missing(name, part["checkpoint"].as_str())?);
                continue;
            };
            let mut part = part.clone();
            part["checkpoint"] = path.to_string_lossy().into_owned().into();
            // A folder that says what it holds is believed.
            if path.join("config.json").is_file() {
                for field in ["architecture", "params"] {
                    part[field] = Value::Null;
                }
            }
            components[name] = part;
        }
        for (name, file) in entries(&parts["assets"]) {
            if let Some(path) = search.find(name, file.as_str().unwrap_or_default()) {
                assets[name] = path.to_string_lossy().into_owned().into();
            }
        }
        let mut whole = parts.clone();
        (whole[COMPONENTS], whole["assets"]) = (components, assets);
        if let Some(schedule) = scheduler(folder)? {
            entries(&schedule).for_each(|(name, value)| whole["schedule"][name] = value.clone());
        }
        let mut description = Description::read(&whole, Path::new(""))?;
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
    denoiser: Option<&'a Path>,
    located: &'a [Located],
}

impl Search<'_> {
    fn check_names(&self, parts: &Value) -> Result<()> {
        let names: Vec<&str> =
            entries(&parts[COMPONENTS]).chain(entries(&parts["assets"])).map(|(name, _)| name.as_str()).collect();
        for (at, (name, path)) in self.located.iter().enumerate() {
            if !names.contains(&name.as_str()) {
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
        if let (DENOISER, Some(path)) = (name, self.denoiser) {
            return Some(path.to_owned());
        }
        let inside = published::in_pipeline(self.folder.to_owned(), name);
        let inside = if inside == self.folder { None } else { Some(inside) };
        [Some(self.folder.join(file)), inside].into_iter().flatten().find(|path| path.exists())
    }

    /// What is said of a component that is left out; an error if the model is nothing without it.
    fn missing(&self, name: &str, file: Option<&str>) -> Result<String> {
        let (folder, file) = (self.folder.display(), file.unwrap_or_default());
        let cause = format!("{name}: there is no {file} in {folder}");
        if Task::Any.needs().contains(&name) {
            let remedy = format!("Put it there, or say where it lies: --component {name}=PATH");
            return Err(invalid(format!("{}: {cause}", self.preset.name), remedy));
        }
        Ok(format!("{cause}, and no --component {name}=PATH"))
    }
}

/// What a folder of diffusers says of the schedule, in the fields of a description. Its solver is not the publisher's, and is left.
fn scheduler(folder: &Path) -> Result<Option<Value>> {
    let path = folder.join("scheduler").join("scheduler_config.json");
    if published::pipeline_class(folder)?.is_none() || !path.is_file() {
        return Ok(None);
    }
    let config = published::read_json(&path)?;
    let mut schedule = json!({});
    let names = [
        ("beta_schedule", "type"),
        ("beta_start", "beta_start"),
        ("beta_end", "beta_end"),
        ("num_train_timesteps", "train_steps"),
    ];
    for (theirs, ours) in names.into_iter().filter(|(theirs, _)| !config[*theirs].is_null()) {
        schedule[ours] = config[theirs].clone();
    }
    Ok(Some(schedule))
}
