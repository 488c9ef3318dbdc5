//! A UniDiffuser's folder: a `config.json` that lists all its parts with the published constructors' arguments, and how it is
//! sampled. It becomes a description as a person would write it.

use super::task::{CAPTION_TOKENIZER, TOKENIZER};
use crate::Code;
use crate::json::{self, Fields, Value, json};
use crate::model::Network;

/// The description, and what of the folder it leaves out.
pub(super) struct Read {
    pub(super) description: Value,
    pub(super) left_out: Vec<String>,
}

/// Reads such a configuration; `name` is what to call the model.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(config: &Value, name: &str) -> json::Result<Read> {
    let fields = Fields::of(config)?;
    let mut description = sampling(&fields)?;
    description["name"] = name.into();
    description["task"] = "any".into();
    let (mut components, mut assets, mut left_out) = (json!({}), json!({}), Vec::new());
    let parts = fields.value("parts").map(Fields::of).transpose()?;
    for (name, part) in parts.iter().flat_map(Fields::all) {
        let of_part = |what| format!("parts: {name}: {what}");
        let part = Fields::of(part).map_err(of_part)?;
        let (kind, file): (String, String) =
            (part.required("kind").map_err(of_part)?, part.required("file").map_err(of_part)?);
        let params = part.value("params").cloned().unwrap_or_default();
        let all: Vec<(&str, &str, Value)> = match kind.as_str() {
            "unidiffuser" => {
                let version = part.or("version", 1u32).map_err(of_part)?;
                vec![("denoiser", "unidiffuser", json::with(json!({ "version": version }), params))]
            }
            "autoencoder_kl" => vec![
                ("decoder", "autoencoder_kl_decoder", params.clone()),
                ("encoder", "autoencoder_kl_encoder", params),
            ],
            "clip_text" => vec![("text_encoder", "clip_text", params)],
            "clip_vision" => vec![("image_encoder", "clip_vision", params)],
            "caption_decoder" => {
                let projector = json!({
                    "prefix_dim": params["prefix_dim"], "hidden_dim": params["hidden_dim"], "tokens": params["prefix_length"],
                });
                vec![("text_projector", "prefix_encoder", projector), ("caption_decoder", "caption_decoder", params)]
            }
            "clip_tokenizer" | "gpt2_tokenizer" => {
                let asset = if kind == "clip_tokenizer" { TOKENIZER } else { CAPTION_TOKENIZER };
                assets[asset] = file.as_str().into();
                continue;
            }
            other => {
                left_out.push(format!("{name} ({other}): this build has no use for it"));
                continue;
            }
        };
        for (component, architecture, params) in all {
            // Parts that a later version computes: the rest makes pictures without them.
            if Network::of(architecture, &Value::Null).is_err_and(|e| e.code == Code::UnsupportedModel) {
                left_out.push(format!("{component} ({architecture}): this build does not know it"));
            } else {
                components[component] = json!({ "architecture": architecture, "params": params, "checkpoint": file });
            }
        }
    }
    description["components"] = components;
    description["assets"] = assets;
    Ok(Read { description, left_out })
}

/// Schedule and sampler in the fields of a description.
fn sampling(fields: &Fields<'_>) -> json::Result<Value> {
    let object = |name: &str| {
        let value = fields.value(name).ok_or_else(|| format!("{name} is missing"))?;
        Fields::of(value).map_err(|what| format!("{name}: {what}"))
    };
    let (schedule, sampler) = (object("schedule")?, object("sampler")?);
    let of_schedule = |what| format!("schedule: {what}");
    let of_sampler = |what| format!("sampler: {what}");
    let kind: String = schedule.required("type").map_err(of_schedule)?;
    if kind != "discrete" {
        return Err(format!("schedule: the type is {kind:?}, not \"discrete\""));
    }
    let order =
        (sampler.required::<String>("type"), sampler.required::<usize>("order"), sampler.required::<String>("method"));
    let solver = match (
        order.0.map_err(of_sampler)?.as_str(),
        order.1.map_err(of_sampler)?,
        order.2.map_err(of_sampler)?.as_str(),
    ) {
        ("dpm_solver_pp", 3, "fast") => "dpmpp_3s",
        ("dpm_solver_pp", 3, "multistep") => "dpmpp_3m",
        ("dpm_solver_pp", 2, "multistep") => "dpmpp_2m",
        (kind, order, method) => return Err(format!("sampler: no sampler is {kind} of order {order}, {method}")),
    };
    let skip: String = sampler.or("skip_type", "time_uniform".into()).map_err(of_sampler)?;
    if skip != "time_uniform" {
        return Err(format!("sampler: the skip_type is {skip:?}, not \"time_uniform\""));
    }
    // The official scale w is cond + w (cond - uncond).
    let modes = fields.value("modes").map(|modes| &modes["t2i"]["scale"]).and_then(Value::as_f64);
    Ok(json!({
        "schedule": {
            "type": schedule.required::<String>("beta_schedule").map_err(of_schedule)?,
            "beta_start": schedule.required::<f64>("beta_start").map_err(of_schedule)?,
            "beta_end": schedule.required::<f64>("beta_end").map_err(of_schedule)?,
            "train_steps": schedule.required::<usize>("N").map_err(of_schedule)?,
            "t_min": sampler.or("eps", 0.001).map_err(of_sampler)?,
            "t_max": sampler.or("T", 1.0).map_err(of_sampler)?,
        },
        "prediction": fields.required::<String>("prediction")?,
        "time_scale": fields.required::<f64>("time_scale")?,
        "sampler": solver,
        "steps": sampler.required::<usize>("steps").map_err(of_sampler)?,
        "guidance_scale": 1.0 + modes.unwrap_or(0.0),
        "clip_x0": sampler.or("thresholding", false).map_err(of_sampler)?,
    }))
}
