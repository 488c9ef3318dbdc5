//! `manifest.json`: what a model is and where its tensors lie. A model is one or several networks, its components, each in
//! one or several stored variants; shards and assets lie beside the manifest. `docs/format.md` specifies it.

use super::preview::LatentRgb;
use super::task::Task;
use super::version1;
use crate::decimal::decimal;
use crate::json::{self, Map, Read, Value};
use crate::model::Network;
use crate::named::Named;
use crate::sampler::{Prediction, SamplerKind, SamplerSettings, Schedule, Spacing, recipe};
use crate::weights::{Dtype, StoredFile, Variant};
use crate::{Code, Error, Result};

/// The format version that this build writes. It also reads version 1.
pub const FORMAT_VERSION: u32 = 2;

/// The file's name.
pub const MANIFEST: &str = "manifest.json";

/// Frames a second where a manifest says nothing.
const FRAME_RATE: f64 = 8.0;

/// The component that is sampled: every model has one.
pub const DENOISER: &str = "denoiser";

/// A model: its networks, how to sample it, labels, licences.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// A short name for people.
    pub name: String,
    /// What it makes, and out of what.
    pub task: Task,
    /// How to sample.
    pub sampling: Sampling,
    /// The unconditional label, for guidance.
    pub null_class: Option<u32>,
    /// What the labels mean.
    pub labels: Vec<Label>,
    /// Licences of the weights and of what they learned from.
    pub licences: Vec<Licence>,
    /// How latents look before they are decoded, if that was fitted. It decides no picture, and is no part of the model hash.
    pub preview: Option<LatentRgb>,
    /// Frames a second at which clips are meant to be played. It decides no picture, either.
    pub frame_rate: Option<f64>,
    /// The networks by what they do: [`Task::needs`] names those that this build knows a use for.
    pub components: Named<Component>,
    /// Data that is no tensor, such as a tokenizer's merges.
    pub assets: Named<StoredFile>,
}

/// A network with its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Component {
    /// The network's name, [`Network::of`].
    pub architecture: String,
    /// Its constructor's arguments.
    pub params: Value,
    /// The stored forms, the default one first.
    pub variants: Vec<Variant>,
}

/// The noise schedule that the model was trained on, and the settings that it is best sampled with.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Noise schedule.
    pub schedule: Schedule,
    /// What the network's output means.
    pub prediction: Prediction,
    /// The network is handed this times t.
    pub time_scale: f64,
    /// Added to that; 0 if nothing is said.
    pub time_offset: f64,
    /// Where sampling ends.
    pub t_min: f64,
    /// Where sampling starts.
    pub t_max: f64,
    /// Default sampler.
    pub sampler: SamplerKind,
    /// The grid that it walks, if not its own.
    pub grid: Option<Spacing>,
    /// Default number of steps.
    pub steps: usize,
    /// Default guidance scale, `uncond + s (cond - uncond)`.
    pub guidance_scale: f64,
    /// So many of the first channels are guided, the others are the conditional output's; none: all.
    pub guided_channels: Option<usize>,
    /// Whether x0 estimates are clipped to [-1, 1].
    pub clip_x0: bool,
    /// Whether the last step of multistep solvers is of order 1.
    pub lower_order_final: bool,
    /// Where inner blocks may be left out, if that was calibrated.
    pub cache: Option<BlockCache>,
}

/// Steps that need not run all blocks: what lies between the outer ones changes little from one step to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockCache {
    /// Blocks at either end that every step runs.
    pub outer: usize,
    /// The number of steps that it was calibrated for.
    pub steps: usize,
    /// Those of them that run all blocks, counted from 0, ascending, 0 first.
    pub refresh: Vec<usize>,
}

impl BlockCache {
    /// Which of `steps` steps run all blocks. Of fewer steps than it was calibrated for the same share does, of more the
    /// steps at the same times.
    pub fn refreshed(&self, steps: usize) -> Vec<bool> {
        let (own, all) = (self.steps.max(1), self.refresh.len());
        let mut refreshed = vec![false; steps];
        // Saturating: the numbers are a stranger's.
        let scaled = |value: usize, by: usize| (value as u64).saturating_mul(by as u64);
        let count = scaled(all, steps).div_ceil(own as u64).min(all as u64) as usize;
        let mut next = 0;
        for k in 0..count {
            let nearest = (scaled(k, all) / count as u64) as usize;
            let step = next.max((scaled(self.refresh[nearest], steps) / own as u64) as usize);
            next = step + 1;
            if let Some(step) = refreshed.get_mut(step) {
                *step = true;
            }
        }
        refreshed
    }

    fn check(&self) -> std::result::Result<(), String> {
        let BlockCache { steps, refresh, .. } = self;
        let ends = (refresh.first(), refresh.last().is_some_and(|last| last < steps));
        match refresh.is_sorted_by(|a, b| a < b) && ends == (Some(&0), true) {
            true => Ok(()),
            false => Err(format!("sampling: cache.refresh is {refresh:?}, not ascending from 0 to below {steps}")),
        }
    }
}

/// What one label means.
#[derive(Clone, Debug, PartialEq)]
pub struct Label {
    /// The number that the network is given.
    pub index: u32,
    /// Unique.
    pub name: String,
    /// Anything else that a page may want to group by, e.g. `kind`, `style`.
    pub facets: Map,
}

/// A licence of the weights or of what they learned from.
#[derive(Clone, Debug, PartialEq)]
pub struct Licence {
    /// What it covers.
    pub name: String,
    /// SPDX identifier.
    pub spdx: String,
    /// Whom to credit, and for what.
    pub attribution: String,
}

pub(super) fn bad(cause: String) -> Error {
    Error::new(Code::BadManifest, cause, "Convert the model again with `uvit convert`")
}

impl Component {
    /// A network that is not stored yet.
    pub fn new(network: &Network) -> Component {
        Component { architecture: network.architecture().into(), params: network.params(), variants: Vec::new() }
    }

    /// The network.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` for an architecture that this build does not know, `BAD_MANIFEST` if a parameter is missing or of
    /// another type.
    pub fn network(&self) -> Result<Network> {
        Network::of(&self.architecture, &self.params).map_err(|error| match error.code {
            Code::InvalidArgument => bad(error.cause.clone()),
            _ => error,
        })
    }

    /// The variant of a dtype, or the default one.
    pub fn variant(&self, dtype: Option<Dtype>) -> Option<&Variant> {
        match dtype {
            None => self.variants.first(),
            Some(dtype) => self.variants.iter().find(|v| v.dtype == dtype),
        }
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.variants.is_empty() {
            return Err("it has no variants".into());
        }
        for (i, variant) in self.variants.iter().enumerate() {
            let dtype = variant.dtype.as_str();
            if self.variants[..i].iter().any(|other| other.dtype == variant.dtype) {
                return Err(format!("two variants are {dtype}"));
            }
            variant.check().map_err(|what| format!("{dtype}: {what}"))?;
        }
        Ok(())
    }
}

impl Manifest {
    /// Parses and checks a manifest of any version that this build reads.
    ///
    /// # Errors
    /// `UNSUPPORTED_VERSION`, `UNSUPPORTED_MODEL` for an unknown task or architecture, `BAD_MANIFEST` naming what is wrong.
    pub fn parse(json: &str) -> Result<Manifest> {
        let mut value = json::parse(json).map_err(|e| bad(format!("the manifest is no JSON ({e})")))?;
        match value.get("format_version").and_then(Value::as_u64) {
            Some(1) => value = version1::upgrade(value),
            Some(version) if version == u64::from(FORMAT_VERSION) => {}
            Some(version) => {
                return Err(Error::new(
                    Code::UnsupportedVersion,
                    format!("the manifest has format version {version}, this build reads 1 and {FORMAT_VERSION}"),
                    "Use the version of uvit-web that wrote it, or convert the model again",
                ));
            }
            None => return Err(bad("the manifest has no format_version".into())),
        }
        Task::check_known(value.get("task"))?;
        let manifest: Manifest = Manifest::read(&value).map_err(|what| bad(format!("the manifest: {what}")))?;
        manifest.check_components()?;
        manifest.check_description()?;
        manifest.check_fit()?;
        manifest.check_files().map_err(bad)?;
        Ok(manifest)
    }

    /// A component.
    ///
    /// # Errors
    /// `BAD_MANIFEST` if there is none of that name.
    pub fn component(&self, name: &str) -> Result<&Component> {
        self.components.get(name).ok_or_else(|| bad(format!("the manifest has no component \"{name}\"")))
    }

    /// A component's network.
    ///
    /// # Errors
    /// Those of [`Component::network`], naming the component; `UNSUPPORTED_MODEL` for a denoiser that draws no pictures.
    pub fn network(&self, name: &str) -> Result<Network> {
        let network = self.component(name)?.network();
        let network = network.map_err(|e| e.of(&format!("component {name}")))?;
        if name == DENOISER && network.image_shape() == [0; 3] {
            let cause = format!("component {name}: {} draws no pictures", network.architecture());
            return Err(Error::new(Code::UnsupportedModel, cause, "Give the network that is sampled"));
        }
        Ok(network)
    }

    /// The stored form of a component: the one asked for, or else its default one. A model may hold an autoencoder in f16
    /// beside a denoiser in q4, so what is asked for need not be there for every component, only for one.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the dtypes that exist, `BAD_MANIFEST` for a component that does not.
    pub fn variant(&self, name: &str, dtype: Option<Dtype>) -> Result<&Variant> {
        let component = self.component(name)?;
        if let Some(dtype) = dtype.filter(|_| self.components.iter().all(|(_, other)| other.variant(dtype).is_none())) {
            let variants = self.components.iter().flat_map(|(_, other)| &other.variants);
            let mut known: Vec<&str> = Vec::new();
            for name in variants.map(|variant| variant.dtype.as_str()) {
                if !known.contains(&name) {
                    known.push(name);
                }
            }
            return Err(Error::new(
                Code::InvalidArgument,
                format!("the model is not stored as {}", dtype.as_str()),
                format!("Give one of {}", known.join(", ")),
            ));
        }
        let found = component.variant(dtype).or(component.variant(None));
        found.ok_or_else(|| bad(format!("component {name}: it has no variants")))
    }

    /// An asset.
    ///
    /// # Errors
    /// `BAD_MANIFEST` if there is none of that name.
    pub fn asset(&self, name: &str) -> Result<&StoredFile> {
        self.assets.get(name).ok_or_else(|| bad(format!("the manifest has no asset \"{name}\"")))
    }

    /// All files beside the manifest.
    pub fn files(&self) -> impl Iterator<Item = &StoredFile> {
        let variants = self.components.iter().flat_map(|(_, component)| &component.variants);
        variants.flat_map(|variant| &variant.shards).chain(self.assets.iter().map(|(_, asset)| asset))
    }

    /// Components that this build has no use for in this task.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        self.components.iter().map(|(name, _)| name).filter(|name| !self.task.uses(name))
    }

    /// Frames a second at which clips are meant to be played.
    pub fn frame_rate(&self) -> f64 {
        self.frame_rate.unwrap_or(FRAME_RATE)
    }

    /// Whether every component is there that the task needs, and of a known architecture.
    fn check_components(&self) -> Result<()> {
        let missing: Vec<&str> =
            self.task.needs().iter().copied().filter(|name| self.components.get(name).is_none()).collect();
        if !missing.is_empty() {
            let (task, missing) = (self.task.as_str(), missing.join(", "));
            return Err(bad(format!("the manifest lacks components that task \"{task}\" needs: {missing}")));
        }
        if let Some(name) = self.task.needs_assets().iter().find(|name| self.assets.get(name).is_none()) {
            let task = self.task.as_str();
            return Err(bad(format!("the manifest lacks the asset that task \"{task}\" needs: {name}")));
        }
        for (name, _) in self.components.iter().filter(|(name, _)| self.task.uses(name)) {
            self.network(name)?;
        }
        Ok(())
    }

    /// Whether labels, null class, preview and sampling fit the denoiser and each other: known before there are any weights.
    fn check_description(&self) -> Result<()> {
        let classes = self.network(DENOISER)?.classes();
        for (at, Label { index, name, .. }) in self.labels.iter().enumerate() {
            if *index as usize >= classes {
                return Err(bad(format!("label \"{name}\" has index {index}, the network has {classes} classes")));
            }
            if self.labels[..at].iter().any(|other| other.name == *name) {
                let indices: Vec<u32> = self.labels.iter().filter(|l| l.name == *name).map(|l| l.index).collect();
                return Err(bad(format!("several labels are called \"{name}\", those of index {indices:?}")));
            }
        }
        if let Some(null) = self.null_class.filter(|null| *null as usize >= classes) {
            return Err(bad(format!("null_class is {null}, the network has {classes} classes")));
        }
        let channels = self.network(DENOISER)?.image_shape()[0];
        if let Some(guided) = self.sampling.guided_channels.filter(|guided| *guided > channels) {
            return Err(bad(format!("sampling: guided_channels is {guided}, the network has {channels} channels")));
        }
        if let Some(rate) = self.frame_rate.filter(|rate| !(*rate > 0.0 && *rate <= 1000.0)) {
            return Err(bad(format!("frame_rate is {}, not above 0 and at most 1000", decimal(rate))));
        }
        if let Some(preview) = &self.preview {
            preview.check(channels).map_err(bad)?;
        }
        self.sampling.check().map_err(bad)
    }

    /// What contradicts itself in components and assets.
    fn check_files(&self) -> std::result::Result<(), String> {
        for (name, component) in self.components.iter() {
            plain_name(name)?;
            component.check().map_err(|what| format!("component {name}: {what}"))?;
        }
        for (name, asset) in self.assets.iter() {
            plain_name(name)?;
            asset.check().map_err(|what| format!("asset {name}: {what}"))?;
        }
        // Some file systems do not tell cases apart.
        let mut names = vec![MANIFEST.to_owned()];
        for stored in self.files() {
            let name = stored.file.to_ascii_lowercase();
            if names.contains(&name) {
                return Err(format!("the file name {name} is used twice"));
            }
            names.push(name);
        }
        Ok(())
    }
}

/// Names of components and assets become parts of file names.
fn plain_name(name: &str) -> std::result::Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match !name.is_empty() && name.len() <= 64 && name.chars().all(plain) {
        true => Ok(()),
        false => Err(format!("\"{name}\" is no name of a component or asset: lower-case letters, digits and _")),
    }
}

impl Sampling {
    /// The settings that the model is best sampled with.
    pub fn settings(&self) -> SamplerSettings {
        SamplerSettings {
            sampler: self.sampler,
            grid: self.grid,
            steps: self.steps,
            schedule: self.schedule,
            prediction: self.prediction,
            time_scale: self.time_scale,
            time_offset: self.time_offset,
            clip_x0: self.clip_x0,
            lower_order_final: self.lower_order_final,
            t_min: self.t_min,
            t_max: self.t_max,
            eta: 0.0,
            churn: 0.0,
            skip: 0,
        }
    }

    /// What contradicts itself.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        recipe(&self.settings()).map_err(|error| format!("sampling: {}", error.cause))?;
        if !self.guidance_scale.is_finite() {
            return Err(format!("sampling: guidance_scale is {}", decimal(self.guidance_scale)));
        }
        if self.guided_channels == Some(0) {
            return Err("sampling: guided_channels is 0".into());
        }
        self.cache.as_ref().map_or(Ok(()), BlockCache::check)
    }
}
