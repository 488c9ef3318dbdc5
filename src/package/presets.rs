//! The published U-ViTs by the names of their configuration files, sampled as their evaluation samples them: `presets.json`.
//! The official scale w (cond + w (cond - uncond)) is written as our guidance scale 1 + w.

use super::convert::describe;
use super::manifest::{DENOISER, Manifest};
use crate::json::{self, Fields, Value};
use crate::model::Network;
use crate::{Error, Result};

/// A published model.
#[derive(Clone, Debug)]
pub struct Preset {
    /// The official configuration file's name; `mscoco_uvit_small_deep` has none of its own.
    pub name: String,
    /// Repository, commit and files that its numbers are from.
    pub source: String,
    /// What its latents are multiplied with after the autoencoder's encoder; none for models of pixels.
    pub latent_scale: Option<f64>,
    /// As [`describe`] reads it.
    pub config: Value,
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
        Ok(Preset { source, latent_scale: fields.optional("latent_scale")?, config, name })
    };
    listed.iter().map(preset).collect()
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
    /// A manifest without weights.
    ///
    /// # Errors
    /// As [`describe`].
    pub fn manifest(&self) -> Result<Manifest> {
        describe(&self.config.to_string(), None, None)
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
    fn all_ten_are_whole() {
        let all = presets().unwrap();
        assert_eq!(all.len(), 10);
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
