//! The published U-ViTs by the names of their configuration files, sampled as their evaluation samples them, and the published
//! UniDiffusers with all their networks: `presets.json`. The official scale w (cond + w (cond - uncond)) is written as our guidance
//! scale 1 + w.

use super::convert::describe;
use super::description::{COMPONENTS, Description};
use super::manifest::{DENOISER, Manifest};
use super::unidiffuser;
use crate::json::{self, Fields, Value};
use crate::model::Network;
use crate::{Error, Result};
use std::path::Path;

/// A published model: a denoiser, or one with all the networks around it.
#[derive(Clone, Debug)]
pub struct Preset {
    /// The official configuration file's name; `mscoco_uvit_small_deep` has none of its own.
    pub name: String,
    /// Repository, commit and files that its numbers are from.
    pub source: String,
    /// What its latents are multiplied with after the autoencoder's encoder; none for models of pixels.
    pub latent_scale: Option<f64>,
    /// The denoiser, as [`describe`] reads it.
    pub config: Value,
    /// Of a model of several networks, as [`Description::read`] reads it: the checkpoints are the files and folders that they are
    /// published as.
    pub parts: Option<Value>,
}

/// All of them.
///
/// # Errors
/// `INTERNAL` if the file is broken.
pub fn presets() -> Result<Vec<Preset>> {
    let broken = |what: String| Error::internal(format!("presets.json: {what}"));
    let file: Value = serde_json::from_str(include_str!("presets.json")).map_err(|e| broken(e.to_string()))?;
    read(&file).map_err(broken)
}

fn read(file: &Value) -> json::Result<Vec<Preset>> {
    let fields = Fields::of(file)?;
    let repository: String = fields.required("source")?;
    let shared = json::json!({
        "mlp_ratio": 4, "qkv_bias": false, "mlp_time_embed": false, "skip": true, "conv": true,
        "prediction": "noise", "guidance_scale": 1.0,
    });
    let listed = fields.value("presets").and_then(Value::as_array).ok_or("no presets")?;
    let preset = |entry: &Value| -> json::Result<Preset> {
        let fields = Fields::of(entry)?;
        let name: String = fields.required("name")?;
        let (network, sampling): (String, String) = (fields.required("network")?, fields.required("sampling")?);
        let mut config = json::json!({ "name": name });
        for part in [&shared, &file["networks"][&network], &file["samplings"][&sampling], &entry["config"]] {
            let part = part.as_object().ok_or_else(|| format!("{name}: a part is missing"))?;
            part.iter().for_each(|(key, value)| config[key] = value.clone());
        }
        let file = name.strip_suffix("_deep").unwrap_or(&name);
        let source = format!("{repository} configs/{file}.py, {sampling}");
        Ok(Preset { source, latent_scale: fields.optional("latent_scale")?, config, name, parts: None })
    };
    let mut all = listed.iter().map(preset).collect::<json::Result<Vec<Preset>>>()?;
    let models = &file["models"];
    for entry in models["presets"].as_array().into_iter().flatten() {
        all.push(whole(models, entry)?);
    }
    Ok(all)
}

/// A model of several networks.
fn whole(models: &Value, entry: &Value) -> json::Result<Preset> {
    let of_entry = Fields::of(entry)?;
    let (name, file): (String, String) = (of_entry.required("name")?, of_entry.required("file")?);
    let mut shared = models["shared"].clone();
    shared["parts"]["uvit"]["version"] = entry["version"].clone();
    shared["parts"]["uvit"]["file"] = file.into();
    let description = unidiffuser::read(&shared, &name)?.description;
    let denoiser = &description[COMPONENTS][DENOISER];
    let mut config = json::with(json::json!({ "architecture": denoiser["architecture"] }), denoiser["params"].clone());
    for (field, value) in Fields::of(&description)?.all().filter(|(field, _)| *field != COMPONENTS) {
        config[field] = value.clone();
    }
    let latent_scale = description[COMPONENTS]["decoder"]["params"]["scale_factor"].as_f64();
    let source = Fields::of(models)?.required::<String>("source")?;
    let source = format!("{source} configs/sample_{name}.py");
    Ok(Preset { name, source, latent_scale, config, parts: Some(description) })
}

/// The preset of that name.
///
/// # Errors
/// `INVALID_ARGUMENT` naming those that there are.
pub fn preset(name: &str) -> Result<Preset> {
    let all = presets()?;
    let known = all.iter().map(|preset| preset.name.as_str()).collect::<Vec<_>>().join(", ");
    all.into_iter()
        .find(|preset| preset.name == name)
        .ok_or_else(|| Error::unknown("preset", name, format!("Give one of {known}")))
}

impl Preset {
    /// A manifest without weights, of all its networks.
    ///
    /// # Errors
    /// As [`describe`], and [`Description::read`].
    pub fn manifest(&self) -> Result<Manifest> {
        match &self.parts {
            Some(parts) => Ok(Description::read(parts, Path::new(""))?.manifest),
            None => describe(&self.config.to_string(), None, None),
        }
    }

    /// Its network.
    ///
    /// # Errors
    /// As [`describe`].
    pub fn network(&self) -> Result<Network> {
        self.manifest()?.network(DENOISER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{SamplerKind, recipe};

    #[test]
    fn all_twelve_are_whole() {
        let all = presets().unwrap();
        assert_eq!(all.len(), 12);
        for preset in &all {
            let manifest = preset.manifest().unwrap();
            assert!(preset.network().unwrap().record(crate::model::Batch::plain(1)).is_ok(), "{}", preset.name);
            assert!(recipe(&manifest.sampling.settings()).is_ok(), "{}", preset.name);
        }
        let huge = preset("imagenet512_uvit_huge").unwrap();
        assert_eq!(huge.manifest().unwrap().sampling.guidance_scale, 1.7);
        assert_eq!(huge.manifest().unwrap().sampling.sampler, SamplerKind::DpmppThreeS);
        assert_eq!(huge.latent_scale, Some(0.18215));
        assert!(huge.source.ends_with("configs/imagenet512_uvit_huge.py, eval_ldm_discrete.py"), "{}", huge.source);
        let unknown = preset("imagenet512-h4").unwrap_err();
        assert!(unknown.remedy.contains("cifar10_uvit_small, celeba64_uvit_small"), "{}", unknown.remedy);
    }
}
