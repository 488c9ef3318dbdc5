//! The published U-ViTs by the names of their configuration files, sampled as their evaluation samples them, DiTs and Lattes, and with
//! all their networks the published UniDiffusers and Stable Diffusion 3: `presets.json`. U-ViT's official scale w
//! (cond + w (cond - uncond)) is written as our guidance scale 1 + w.

use super::convert::describe;
use super::description::{COMPONENTS, Description};
use super::manifest::{DENOISER, Manifest};
use super::task::{DECODER, ENCODER};
use super::unidiffuser;
use crate::json::{self, Fields, Value};
use crate::model::Network;
use crate::{Error, Result};
use std::path::Path;

/// A published model: a denoiser, or one with all the networks around it.
#[derive(Clone, Debug)]
pub struct Preset {
    /// The official configuration file's name, where there is one; `mscoco_uvit_small_deep` has none of its own.
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
    /// What the denoiser of such a model is published as, or the file with all of it.
    pub files: Vec<String>,
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
        Ok(Preset {
            source,
            latent_scale: fields.optional("latent_scale")?,
            config,
            name,
            parts: None,
            files: Vec::new(),
        })
    };
    let mut all = listed.iter().map(preset).collect::<json::Result<Vec<Preset>>>()?;
    let models = &file["models"];
    for entry in models["presets"].as_array().into_iter().flatten() {
        all.push(whole(models, entry)?);
    }
    all.append(&mut dits(&file["dit"])?);
    for entry in file["latte"]["presets"].as_array().into_iter().flatten() {
        all.push(latte(&file["latte"], entry)?);
    }
    for entry in file["sd3"]["presets"].as_array().into_iter().flatten() {
        all.push(stable_diffusion_3(&file["sd3"], entry)?);
    }
    Ok(all)
}

/// Every size with every size of patches, for pictures of either size.
fn dits(family: &Value) -> json::Result<Vec<Preset>> {
    let fields = Fields::of(family)?;
    let (source, latent_scale): (String, _) = (fields.required("source")?, fields.optional("latent_scale")?);
    let patches: Vec<usize> = fields.required("patch_sizes")?;
    let resolutions: Vec<usize> = fields.required("resolutions")?;
    let mut all = Vec::new();
    for of_size in family["sizes"].as_array().into_iter().flatten() {
        let size: String = Fields::of(of_size)?.required("size")?;
        for &patch in &patches {
            for &resolution in &resolutions {
                let name = format!("dit-{}-{patch}-{resolution}", size.to_lowercase());
                let own = json::json!({ "name": name, "input_size": resolution / 8, "patch_size": patch });
                let config = json::with(json::with(own, of_size.clone()), family["shared"].clone());
                let source = format!("{source} models.py DiT_{size}_{patch}, sample.py");
                all.push(Preset { name, source, latent_scale, config, parts: None, files: Vec::new() });
            }
        }
    }
    Ok(all)
}

fn latte(family: &Value, entry: &Value) -> json::Result<Preset> {
    let (fields, entry) = (Fields::of(family)?, Fields::of(entry)?);
    let (name, file): (String, String) = (entry.required("name")?, entry.required("file")?);
    let source = format!("{} {file}, sample/sample.py", fields.required::<String>("source")?);
    let own = json::with(json::json!({ "name": name }), entry.value("config").cloned().unwrap_or_default());
    let config = json::with(own, family["shared"].clone());
    Ok(Preset { name, source, latent_scale: fields.optional("latent_scale")?, config, parts: None, files: Vec::new() })
}

/// In one file, but for the text encoders, which may be beside it.
fn stable_diffusion_3(family: &Value, entry: &Value) -> json::Result<Preset> {
    let of_entry = Fields::of(entry)?;
    let (name, files): (String, Vec<String>) = (of_entry.required("name")?, of_entry.required("files")?);
    let mut description = json::with(json::json!({ "name": name }), family["shared"].clone());
    for field in ["steps", "guidance_scale"] {
        description[field] = entry[field].clone();
    }
    let components = &mut description[COMPONENTS];
    let denoiser = &mut components[DENOISER];
    denoiser["params"] = json::with(denoiser["params"].clone(), entry["params"].clone());
    denoiser["checkpoint"] = files.first().cloned().into();
    components[DECODER]["checkpoint"] = "sd3_vae.safetensors".into();
    components[ENCODER] = components[DECODER].clone();
    let latent_scale = components[DECODER]["params"]["scaling_factor"].as_f64();
    let says = of_entry.required::<String>("says")?;
    let source = format!("{} {says}", Fields::of(family)?.required::<String>("source")?);
    let config = of_parts(&description)?;
    Ok(Preset { name, source, latent_scale, config, parts: Some(description), files })
}

/// What a description says of the denoiser, and of how it is sampled.
fn of_parts(description: &Value) -> json::Result<Value> {
    let denoiser = &description[COMPONENTS][DENOISER];
    let mut config = json::with(json::json!({ "architecture": denoiser["architecture"] }), denoiser["params"].clone());
    for (field, value) in Fields::of(description)?.all().filter(|(field, _)| *field != COMPONENTS) {
        config[field] = value.clone();
    }
    Ok(config)
}

/// A model of several networks.
fn whole(models: &Value, entry: &Value) -> json::Result<Preset> {
    let of_entry = Fields::of(entry)?;
    let (name, file): (String, String) = (of_entry.required("name")?, of_entry.required("file")?);
    let mut shared = models["shared"].clone();
    shared["parts"]["uvit"]["version"] = entry["version"].clone();
    shared["parts"]["uvit"]["file"] = file.as_str().into();
    let description = unidiffuser::read(&shared, &name)?.description;
    let config = of_parts(&description)?;
    let latent_scale = description[COMPONENTS][DECODER]["params"]["scale_factor"].as_f64();
    let source = Fields::of(models)?.required::<String>("source")?;
    let source = format!("{source} configs/sample_{name}.py");
    Ok(Preset { name, source, latent_scale, config, parts: Some(description), files: vec![file] })
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
    fn all_of_them_are_whole() {
        let all = presets().unwrap();
        let of = |architecture: &str| {
            all.iter().filter(|preset| preset.network().unwrap().architecture() == architecture).count()
        };
        let known = ["uvit", "uvit_t2i", "unidiffuser", "dit", "latte", "mmdit"].map(of);
        assert_eq!((known, all.len()), ([8, 2, 2, 24, 2, 2], 40));
        for preset in &all {
            let manifest = preset.manifest().unwrap();
            assert!(preset.network().unwrap().record(crate::model::Batch::plain(1)).is_ok(), "{}", preset.name);
            assert!(recipe(&manifest.sampling.settings()).is_ok(), "{}", preset.name);
        }
        let xl = preset("dit-xl-2-512").unwrap();
        assert_eq!((xl.config["input_size"].as_u64(), xl.config["depth"].as_u64()), (Some(64), Some(28)));
        assert!(xl.source.ends_with("models.py DiT_XL_2, sample.py"), "{}", xl.source);
        let sampling = xl.manifest().unwrap().sampling;
        assert_eq!((sampling.sampler, sampling.steps, sampling.guided_channels), (SamplerKind::Ddpm, 250, Some(3)));
        let sd3 = preset("sd3.5-medium").unwrap();
        let components: Vec<String> =
            sd3.manifest().unwrap().components.iter().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(components, ["decoder", "denoiser", "encoder", "text_encoder", "text_encoder_2"]);
        // Of 384 rows, those in the middle.
        assert_eq!(sd3.network().unwrap().params()["pos_embed_max_size"], 96);
        let huge = preset("imagenet512_uvit_huge").unwrap();
        assert_eq!(huge.manifest().unwrap().sampling.guidance_scale, 1.7);
        assert_eq!(huge.manifest().unwrap().sampling.sampler, SamplerKind::DpmppThreeS);
        assert_eq!(huge.latent_scale, Some(0.18215));
        assert!(huge.source.ends_with("configs/imagenet512_uvit_huge.py, eval_ldm_discrete.py"), "{}", huge.source);
        let unknown = preset("imagenet512-h4").unwrap_err();
        assert!(unknown.remedy.contains("cifar10_uvit_small, celeba64_uvit_small"), "{}", unknown.remedy);
    }
}
