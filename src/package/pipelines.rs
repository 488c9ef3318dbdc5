//! What a folder of diffusers says of how its model is sampled; and a DiT's folder, whose transformer, autoencoder, labels and sampling
//! become a description.

use super::description::COMPONENTS;
use super::manifest::DENOISER;
use super::presets::preset;
use super::published::{self, PIPELINE};
use super::task::{DECODER, ENCODER};
use crate::json::{Value, json};
use crate::{Code, Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// What of a published preset describes how it is sampled, not the network.
const SAMPLING: [&str; 6] = ["schedule", "prediction", "time_scale", "time_offset", "guidance_scale", "steps"];

/// The description of a DiT's folder; none if a folder is no DiT's.
///
/// # Errors
/// `UNSUPPORTED_MODEL` for a scheduler that is not known, `IO`, `INVALID_ARGUMENT`.
pub(super) fn dit(folder: &Path) -> Result<Option<Value>> {
    if published::pipeline_class(folder)?.as_deref() != Some("DiTPipeline") {
        return Ok(None);
    }
    let full = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = full.file_name().map_or("dit".into(), |name| name.to_string_lossy().into_owned());
    let mut description = json!({ "name": name, "task": "class" });
    let official = preset("dit-xl-2-256")?.config;
    SAMPLING.iter().for_each(|field| description[*field] = official[*field].clone());
    let scheduler = scheduler(folder)?.unwrap_or_default();
    sampling(&scheduler, &official, &mut description).map_err(|e| e.of(&folder.display().to_string()))?;
    let transformer = published::in_pipeline(folder.to_owned(), DENOISER);
    if let Some((_, params)) = published::of_folder(&transformer, DENOISER)? {
        description["null_class"] = params["num_classes"].clone();
    }
    for component in [DENOISER, DECODER, ENCODER] {
        let part = published::in_pipeline(folder.to_owned(), component);
        if component == DENOISER || part.is_dir() {
            description[COMPONENTS][component] = json!({ "checkpoint": "." });
        }
    }
    description["labels"] = labels(&published::read_json(&folder.join(PIPELINE))?["id2label"]);
    Ok(Some(description))
}

/// What configures a pipeline's scheduler, if a folder is one and has it.
///
/// # Errors
/// `IO`, `INVALID_ARGUMENT`.
pub(super) fn scheduler(folder: &Path) -> Result<Option<Value>> {
    let path = folder.join("scheduler").join("scheduler_config.json");
    let there = folder.join(PIPELINE).is_file() && path.is_file();
    there.then(|| published::read_json(&path)).transpose()
}

/// What it says of the schedule, in the fields of a description.
///
/// # Errors
/// `UNSUPPORTED_MODEL` for shifts that depend on the picture's size.
pub(super) fn schedule(scheduler: &Value) -> Result<Vec<(&'static str, Value)>> {
    if scheduler["use_dynamic_shifting"] == true {
        let cause = "the scheduler has use_dynamic_shifting, which is not computed";
        return Err(Error::new(Code::UnsupportedModel, cause, "Give a model whose schedule has one shift"));
    }
    let names = [
        ("beta_schedule", "type"),
        ("beta_start", "beta_start"),
        ("beta_end", "beta_end"),
        ("num_train_timesteps", "train_steps"),
        ("shift", "shift"),
    ];
    let said = names.into_iter().filter(|(theirs, _)| !scheduler[*theirs].is_null());
    Ok(said.map(|(theirs, ours)| (ours, scheduler[theirs].clone())).collect())
}

/// The schedule and the solver of a DiT's folder. DDIM guides all channels; instead of any other the published sampler is taken.
fn sampling(scheduler: &Value, official: &Value, description: &mut Value) -> Result<()> {
    schedule(scheduler)?.into_iter().for_each(|(name, value)| description["schedule"][name] = value);
    let prediction = scheduler["prediction_type"].as_str().unwrap_or("epsilon");
    if prediction != "epsilon" {
        let cause = format!("the scheduler's prediction_type is {prediction:?}, not \"epsilon\"");
        return Err(Error::new(Code::UnsupportedModel, cause, "Give a DiT that predicts noise"));
    }
    if scheduler["_class_name"] != "DDIMScheduler" {
        for field in ["sampler", "grid", "guided_channels"] {
            description[field] = official[field].clone();
        }
        return Ok(());
    }
    let grid = match (scheduler["timestep_spacing"].as_str(), scheduler["steps_offset"].as_u64()) {
        (Some("trailing"), _) => "trailing",
        (Some("linspace"), _) => "linspace",
        (_, Some(1..)) => "leading",
        _ => "strided",
    };
    // As many as `DiTPipeline.__call__` takes.
    (description["sampler"], description["grid"], description["steps"]) = ("ddim".into(), grid.into(), 50.into());
    Ok(())
}

/// Classes by their numbers. Two cranes, a bird and a machine, are told apart by these.
fn labels(names: &Value) -> Value {
    let named = names.as_object().into_iter().flatten();
    let named = named.filter_map(|(index, name)| Some((index.parse::<u32>().ok()?, name.as_str()?)));
    let named: BTreeMap<u32, &str> = named.collect();
    let name = |(index, name): (&u32, &&str)| {
        let twice = named.values().filter(|other| *other == name).count() > 1;
        let name = if twice { format!("{name} ({index})") } else { (*name).to_owned() };
        json!({ "index": index, "name": name })
    };
    named.iter().map(name).collect()
}
