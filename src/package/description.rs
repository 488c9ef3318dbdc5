//! A model of several networks as `uvit convert` is told of it: a JSON file that names each component's network and checkpoint.
//! What people have in other forms (a folder of a UniDiffuser, a published U-ViT with an autoencoder and a text encoder) becomes
//! such a description first.

use super::convert::manifest;
use super::given;
use super::manifest::{Component, DENOISER, Manifest};
use super::pipelines;
use super::positions;
use super::published;
use super::task::{
    CAPTION_DECODER, CAPTION_TOKENIZER, DECODER, ENCODER, IMAGE_ENCODER, PREVIEW_DECODER, TEXT_ENCODER, TEXT_ENCODER_2,
    TEXT_PROJECTOR, TOKENIZER, Task,
};
use super::unidiffuser;
use crate::json::{Fields, Value, json};
use crate::model::Network;
use crate::named::Named;
use crate::weights::Dtype;
use crate::weights::checkpoint::Weights;
use crate::{Code, Error, Result};
use std::path::{Path, PathBuf};

/// A model to be converted; [`Description::complete`] checks it.
#[derive(Clone, Debug)]
pub struct Description {
    /// The model, without stored forms and assets.
    pub manifest: Manifest,
    /// Where its components' weights come from, sorted by name.
    pub sources: Vec<PartSource>,
    /// Data that is no tensor, by name: the text of a tokenizer's merges.
    pub assets: Named<String>,
    /// The file that says all this, if one does.
    pub file: Option<PathBuf>,
    /// Where the tokenizer's merges are from.
    pub tokenizer: Option<PathBuf>,
    /// Where those of the captions are from, if they have others.
    pub caption_tokenizer: Option<PathBuf>,
    /// Texts as people give them to this model, to calibrate its text encoder with; may be empty.
    pub prompts: Vec<String>,
    /// What it leaves out of what it was given, and why.
    pub left_out: Vec<String>,
}

/// Where a component's weights come from.
#[derive(Clone, Debug, PartialEq)]
pub struct PartSource {
    /// The component.
    pub component: String,
    /// A file, an index or a folder.
    pub checkpoint: PathBuf,
    /// Which of the weights in it.
    pub weights: Weights,
    /// How to store it, the default form first; empty: as the other components.
    pub dtypes: Vec<Dtype>,
}

/// The components that there are, and the architectures that they may have; the denoiser's are those that draw.
const KNOWN: [(&str, &[&str]); 9] = [
    (DENOISER, &[]),
    (TEXT_ENCODER, &["clip_text"]),
    (TEXT_ENCODER_2, &["clip_text"]),
    (TEXT_PROJECTOR, &["prefix_encoder"]),
    (DECODER, &["autoencoder_kl_decoder", "autoencoder_tiny_decoder"]),
    (ENCODER, &["autoencoder_kl_encoder", "autoencoder_tiny_encoder"]),
    (PREVIEW_DECODER, &["autoencoder_tiny_decoder", "autoencoder_kl_decoder"]),
    (IMAGE_ENCODER, &["clip_vision"]),
    (CAPTION_DECODER, &["caption_decoder"]),
];

/// The field that lists them.
pub(super) const COMPONENTS: &str = "components";

/// Stable Diffusion 3's third text encoder, and what is said of it.
pub(super) const THIRD_ENCODER: &str = "text_encoder_3";
pub(super) const T5: &str =
    "text_encoder_3: a T5, which is ignored: the model draws without it, as if its tokens were zeros";

/// What Stable Diffusion's latents are multiplied with.
const SCALE: f64 = 0.18215;

const REMEDY: &str = "See docs/format.md for what a description must hold";

fn invalid(cause: String, remedy: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, cause, remedy)
}

impl Description {
    /// Reads a description, or what becomes one, given its file or folder; none if that is a checkpoint.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, `UNSUPPORTED_MODEL`, `IO`.
    pub fn find(path: &Path) -> Result<Option<Description>> {
        if path.is_dir() {
            if let Some(found) = pipelines::dit(path)? {
                let mut description = Description::read(&found, path)?;
                description.file = Some(path.join(published::PIPELINE));
                return Ok(Some(description));
            }
            published::refuse_pipeline(path)?;
        }
        let file = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
        if !file.is_file() || !begins_as_json(&file) {
            return Ok(None);
        }
        let value = published::read_json(&file)?;
        let folder = file.parent().map(Path::to_owned).unwrap_or_default();
        let bad = |what: String| invalid(format!("{}: {what}", file.display()), REMEDY);
        let mut left_out = Vec::new();
        let value = if value[COMPONENTS].is_object() && value["format_version"].is_null() {
            value
        } else if value["parts"].is_object() {
            let full = folder.canonicalize().unwrap_or_else(|_| folder.clone());
            let name = full.file_name().map_or("unidiffuser".into(), |name| name.to_string_lossy());
            let read = unidiffuser::read(&value, &name).map_err(bad)?;
            left_out = read.left_out;
            read.description
        } else {
            return Ok(None);
        };
        let mut description = Description::read(&value, &folder).map_err(|e| match e.code {
            Code::Io => e,
            _ => e.of(&file.display().to_string()),
        })?;
        description.left_out.append(&mut left_out);
        description.file = Some(file);
        Ok(Some(description))
    }

    /// Reads a description; its paths are relative to `folder`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, `UNSUPPORTED_MODEL`, `IO`.
    pub fn read(value: &Value, folder: &Path) -> Result<Description> {
        let bad = |what: String| invalid(what, REMEDY);
        let fields = Fields::of(value).map_err(bad)?;
        let (mut components, mut sources) = (Named::default(), Vec::new());
        let mut left_out = Vec::new();
        for (name, value) in Fields::of(&value[COMPONENTS]).map_err(bad)?.all() {
            if name == THIRD_ENCODER {
                left_out.push(T5.to_owned());
                continue;
            }
            let (component, source) = read_component(name, value, folder)?;
            components.insert(name, component);
            sources.push(source);
        }
        let of_assets = |what| bad(format!("assets: {what}"));
        let [mut tokenizer, mut caption_tokenizer] = [TOKENIZER, CAPTION_TOKENIZER].map(|name| beside(&sources, name));
        for (name, path) in Fields::of(fields.value("assets").unwrap_or(&json!({}))).map_err(of_assets)?.all() {
            let path = path.as_str().ok_or_else(|| of_assets(format!("{name} is no path")))?;
            let asset = match name.as_str() {
                TOKENIZER => &mut tokenizer,
                CAPTION_TOKENIZER => &mut caption_tokenizer,
                _ => {
                    let cause = format!("there is no asset {name:?} that this build has a use for");
                    return Err(invalid(cause, format!("Those that there are: {TOKENIZER}, {CAPTION_TOKENIZER}")));
                }
            };
            *asset = Some(published::in_pipeline(folder.join(path), name));
        }
        let known = if components.get(TEXT_ENCODER).is_some() { Task::Text } else { Task::Class };
        let task = fields.or("task", known).map_err(bad)?;
        let manifest = manifest(&fields, task, components).map_err(bad)?;
        let prompts = fields.or("prompts", Vec::new()).map_err(bad)?;
        Ok(Description { sources, tokenizer, caption_tokenizer, prompts, left_out, ..Description::of(manifest) })
    }

    /// A denoiser alone, as it was described by [`super::describe`].
    pub fn of_denoiser(manifest: Manifest, checkpoint: PathBuf, weights: Weights) -> Description {
        let source = PartSource { component: DENOISER.into(), checkpoint, weights, dtypes: Vec::new() };
        Description { sources: vec![source], ..Description::of(manifest) }
    }

    fn of(manifest: Manifest) -> Description {
        Description {
            manifest,
            sources: Vec::new(),
            assets: Named::default(),
            file: None,
            tokenizer: None,
            caption_tokenizer: None,
            prompts: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Checks the parts against each other and reads the assets.
    ///
    /// # Errors
    /// Those of [`Description::read`].
    pub fn complete(mut self) -> Result<Description> {
        let Manifest { task, components, .. } = &self.manifest;
        let missing: Vec<&str> = task.needs().iter().copied().filter(|name| components.get(name).is_none()).collect();
        if !missing.is_empty() {
            let cause = format!("the task {:?} needs {}", task.as_str(), missing.join(", "));
            return Err(invalid(cause, "Describe these components, too, or another task"));
        }
        given::check(&self.manifest)?;
        given::check_fit(&self.manifest)?;
        for (i, source) in self.sources.iter().enumerate() {
            let network =
                |source: &PartSource| self.manifest.component(&source.component).map(|c| c.architecture.clone());
            for other in &self.sources[..i] {
                let same = (&other.checkpoint, &other.weights) == (&source.checkpoint, &source.weights);
                if same && network(other)? == network(source)? {
                    let (a, b, file) = (&other.component, &source.component, source.checkpoint.display());
                    return Err(invalid(
                        format!("{a} and {b} are the same network of {file}"),
                        "Leave one of them out",
                    ));
                }
            }
        }
        let read = |name| self.manifest.components.get(name);
        if let Some(encoder) = read(TEXT_ENCODER).or(read(TEXT_ENCODER_2)) {
            let Some(path) = &self.tokenizer else {
                let cause =
                    "a text encoder needs the merges of its tokenizer, and there is no asset tokenizer".to_owned();
                return Err(invalid(cause, "Add \"assets\": { \"tokenizer\": \"merges.txt\" }"));
            };
            let merges = published::merges(path, TOKENIZER)?;
            given::check_tokenizer(&merges, encoder)?;
            read(TEXT_ENCODER_2).map_or(Ok(()), |second| given::check_tokenizer(&merges, second))?;
            self.assets.insert(TOKENIZER, merges);
        }
        if let Some(decoder) = self.manifest.components.get(CAPTION_DECODER) {
            let merges = self.caption_tokenizer.as_ref().map(|path| published::merges(path, CAPTION_TOKENIZER));
            let merges = merges.transpose()?;
            given::check_captions(merges.as_deref(), self.assets.get(TOKENIZER).map(String::as_str), decoder)?;
            merges.into_iter().for_each(|merges| self.assets.insert(CAPTION_TOKENIZER, merges));
        }
        Ok(self)
    }

    /// Adds an autoencoder's halves: a folder of diffusers, or the published f8 of Stable Diffusion in whichever form.
    /// `scale` is what the denoiser's latents are multiplied with.
    ///
    /// # Errors
    /// Those of [`Description::read`].
    pub fn add_autoencoder(&mut self, path: &Path, scale: Option<f64>) -> Result<()> {
        // `configs` and `libs/autoencoder.py` of baofff/U-ViT: the one autoencoder that all its models in latent space use.
        let published = json!({
            "ddconfig": {
                "double_z": true, "z_channels": 4, "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4],
                "num_res_blocks": 2, "attn_resolutions": [],
            },
            "embed_dim": 4, "scale_factor": SCALE,
        });
        for component in [DECODER, ENCODER] {
            let at = published::in_pipeline(path.to_owned(), component);
            let folder = published::of_folder(&at, component)?;
            let (architecture, params) =
                folder.unwrap_or_else(|| (published::architecture("autoencoder_kl", component), published.clone()));
            self.add(component, json!({ "architecture": architecture, "params": params, "checkpoint": at }))?;
            if let (Some(scale), Some(added)) = (scale, self.manifest.components.get_mut(component)) {
                added.params["scaling_factor"] = scale.into();
            }
        }
        Ok(())
    }

    /// Adds a decoder for previews: TAESD's as it was published for Stable Diffusion, or a folder of diffusers. `scale` as for
    /// [`Description::add_autoencoder`].
    ///
    /// # Errors
    /// Those of [`Description::read`].
    pub fn add_preview_decoder(&mut self, path: &Path, scale: Option<f64>) -> Result<()> {
        let folder = published::of_folder(path, PREVIEW_DECODER)?;
        let (architecture, params) =
            folder.unwrap_or_else(|| (published::architecture("autoencoder_tiny", PREVIEW_DECODER), json!({})));
        self.add(PREVIEW_DECODER, json!({ "architecture": architecture, "params": params, "checkpoint": path }))?;
        if let (Some(scale), Some(added)) = (scale, self.manifest.components.get_mut(PREVIEW_DECODER)) {
            // A tiny one was trained on latents that were scaled already, by Stable Diffusion's factor.
            let own = if added.architecture.starts_with("autoencoder_tiny") { SCALE } else { 1.0 };
            added.params["scaling_factor"] = (scale / own).into();
        }
        Ok(())
    }

    /// Adds a text encoder with its tokenizer: a folder of transformers, or a diffusers pipeline's.
    ///
    /// # Errors
    /// Those of [`Description::read`].
    pub fn add_text_encoder(&mut self, path: &Path) -> Result<()> {
        self.add(TEXT_ENCODER, json!({ "checkpoint": path }))?;
        self.manifest.task = Task::Text;
        self.tokenizer = beside(&self.sources, TOKENIZER);
        Ok(())
    }

    fn add(&mut self, component: &str, value: Value) -> Result<()> {
        let (described, source) = read_component(component, &value, Path::new(""))?;
        self.manifest.components.insert(component, described);
        self.sources.push(source);
        Ok(())
    }
}

/// Where a tokenizer lies if nobody says so: in its network's folder, or beside that in a diffusers pipeline.
fn beside(sources: &[PartSource], asset: &str) -> Option<PathBuf> {
    let network = if asset == TOKENIZER { TEXT_ENCODER } else { CAPTION_DECODER };
    let folder = &sources.iter().find(|source| source.component == network)?.checkpoint;
    let files = ["merges.txt", "tokenizer.json"].map(|file| folder.join(file));
    files.into_iter().find(|file| file.exists()).or_else(|| published::beside(folder, asset))
}

/// One component of a description.
fn read_component(name: &str, value: &Value, folder: &Path) -> Result<(Component, PartSource)> {
    let bad = |what: String| invalid(format!("component {name}: {what}"), REMEDY);
    let Some((_, architectures)) = KNOWN.iter().find(|(known, _)| *known == name) else {
        let known = KNOWN.map(|(known, _)| known).join(", ");
        return Err(invalid(format!("there is no component {name:?}"), format!("Those that there are: {known}")));
    };
    let fields = Fields::of(value).map_err(bad)?;
    const FIELDS: [&str; 5] = ["architecture", "params", "checkpoint", "weights", "dtype"];
    if let Some((field, _)) = fields.all().find(|(field, _)| !FIELDS.contains(&field.as_str())) {
        return Err(invalid(
            format!("component {name}: there is no field {field:?}"),
            format!("Those that there are: {}", FIELDS.join(", ")),
        ));
    }
    let checkpoint = folder.join(fields.required::<String>("checkpoint").map_err(bad)?);
    let checkpoint = published::in_pipeline(checkpoint, name);
    let said: Option<String> = fields.optional("architecture").map_err(bad)?;
    let (architecture, params) = match (said, fields.value("params")) {
        (Some(architecture), Some(params)) => (published::architecture(&architecture, name), params.clone()),
        (None, None) => published::of_folder(&checkpoint, name)?.ok_or_else(|| {
            bad(format!("{} has no config.json that would say architecture and params", checkpoint.display()))
        })?,
        (None, Some(_)) => return Err(bad("it has params, but no architecture".into())),
        (Some(_), None) => return Err(bad("it has an architecture, but no params".into())),
    };
    let params = positions::kept(&architecture, params);
    let network = Network::of(&architecture, &params);
    let network = network.map_err(|e| e.of(&format!("component {name}")))?;
    network.record(crate::model::Batch::plain(1)).map_err(|e| e.of(&format!("component {name}")))?;
    if !architectures.is_empty() && !architectures.contains(&architecture.as_str()) {
        let cause = format!("component {name}: {architecture} is none");
        return Err(invalid(cause, format!("It may be {}", architectures.join(" or "))));
    }
    let weights = fields.named("weights").map_err(bad)?.unwrap_or_default();
    let dtypes = match fields.value("dtype") {
        Some(Value::String(_)) => fields.named("dtype").map_err(bad)?.into_iter().collect(),
        _ => fields.or("dtype", Vec::<Dtype>::new()).map_err(bad)?,
    };
    if let Some((_, dtype)) = dtypes.iter().enumerate().find(|(i, dtype)| dtypes[..*i].contains(dtype)) {
        return Err(bad(format!("dtype {} is given twice", dtype.as_str())));
    }
    Ok((Component::new(&network), PartSource { component: name.into(), checkpoint, weights, dtypes }))
}

/// Whether a file is a JSON object at first sight; whoever reads it finds out more.
fn begins_as_json(path: &Path) -> bool {
    use std::io::Read;
    let mut head = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(64).read_to_end(&mut head));
    let head = String::from_utf8_lossy(&head);
    read.is_ok() && head.trim_start_matches('\u{feff}').trim_start().starts_with('{')
}
