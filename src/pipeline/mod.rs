//! Loading, the step loop, progress, cancellation and results. Nothing here knows JavaScript, files or command lines.
//!
//! A [`Loader`] opens a device and takes shards one by one; [`Loader::finish`] makes it a [`Pipeline`], whose
//! [`Pipeline::generate`] turns a [`Request`] into [`Generated`] pictures.

mod device;
mod executor;
mod helpers;
mod noise;
pub mod pixels;
pub mod sampling;
mod savings;
mod self_test;
#[cfg(feature = "gpu")]
mod tuning;
mod turn;

#[cfg(feature = "gpu")]
pub use device::automatic;
pub use device::{Device, DeviceChoice, LoadOptions, open as open_device};
pub use executor::Executor;
pub use helpers::{Helpers, Part};
pub use noise::Noise;
#[cfg(feature = "gpu")]
pub use tuning::{Trial, Tune, Tuned};

use crate::model::Batch;
use crate::model::Network;
use crate::plan::{Compute, Plan};
use crate::sampler::{SamplerKind, SamplerSettings, guidance, recipe};
use crate::weights::manifest::{Dtype, Manifest, Shard};
use crate::weights::{ShardReader, Tensor};
use crate::{Code, Error, Result};
use sampling::{Control, Inputs, Prepared, Readback, batch, finite, noise_for, sample};
use self_test::matrix_kinds;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use web_time::Instant;

/// The most images of one call.
pub const MAX_COUNT: usize = 64;

/// A model on its way to a device.
pub struct Loader {
    manifest: Manifest,
    network: Network,
    plan: Plan,
    reader: ShardReader,
    executor: Executor,
    device: Device,
    began: Instant,
}

impl Loader {
    /// Checks the manifest against its network and opens a device, which is tested before it is trusted.
    ///
    /// # Errors
    /// Those of [`ShardReader::new`] and of opening the device.
    pub async fn new(manifest: Manifest, options: LoadOptions) -> Result<Loader> {
        let began = Instant::now();
        let network = manifest.network()?;
        let reader = ShardReader::new(&manifest, options.dtype)?;
        let plan = network.record(crate::model::Batch::plain(1))?.plan;
        let (executor, device) = open_device(&options, &network, &matrix_kinds(reader.variant())).await?;
        Ok(Loader { manifest, network, plan, reader, executor, device, began })
    }

    /// The device that was chosen.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The files to bring, in order.
    pub fn shards(&self) -> &[Shard] {
        self.reader.shards()
    }

    /// Verifies a shard and moves its tensors to the device.
    ///
    /// # Errors
    /// Those of [`ShardReader::open`] and [`ShardReader::next_tensor`], `OUT_OF_MEMORY`.
    pub async fn add_shard(&mut self, index: usize, bytes: &[u8]) -> Result<()> {
        let mut open = self.reader.open(index, bytes)?;
        while let Some(tensor) = self.reader.next_tensor(&mut open)? {
            self.add_tensor(&tensor).await?;
        }
        Ok(())
    }

    async fn add_tensor(&mut self, tensor: &Tensor) -> Result<()> {
        let found = self.plan.weight_ids().find(|(_, weight)| weight.name == tensor.name);
        let (id, weight) = found.ok_or_else(|| Error::internal(format!("no weight is called {}", tensor.name)))?;
        self.executor.load(id, weight, tensor).await
    }

    /// The model, once all shards were brought.
    ///
    /// # Errors
    /// `TENSOR_MISSING`.
    pub async fn finish(self) -> Result<Pipeline> {
        self.reader.finish()?;
        let mut hash = Sha256::new();
        self.reader.shards().iter().for_each(|shard| hash.update(shard.sha256.to_ascii_lowercase()));
        let model_hash = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        let variant = self.reader.variant();
        let info = Info {
            name: self.manifest.name.clone(),
            dtype: variant.dtype,
            compute: self.executor.compute(),
            threads: self.executor.threads(),
            bytes: variant.bytes,
            parameters: variant.tensors.values().map(|e| e.shape.iter().product::<usize>() as u64).sum(),
            model_hash,
            load_ms: self.began.elapsed().as_secs_f64() * 1e3,
            device: self.device,
        };
        Ok(Pipeline { manifest: self.manifest, network: self.network, executor: self.executor, prepared: None, info })
    }
}

/// What a loaded model is and runs on.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    /// The model's name.
    pub name: String,
    /// The stored dtype that was loaded.
    pub dtype: Dtype,
    /// The arithmetic.
    pub compute: Compute,
    /// Threads that work on a kernel.
    pub threads: usize,
    /// Bytes of the shards.
    pub bytes: u64,
    /// Numbers of the model.
    pub parameters: u64,
    /// SHA-256 over the shards' hashes.
    pub model_hash: String,
    /// From opening the device to the last shard.
    pub load_ms: f64,
    /// Where it runs.
    #[serde(flatten)]
    pub device: Device,
}

/// A label as users give it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "serde_json::Value")]
pub enum LabelChoice {
    /// Its number.
    Index(u32),
    /// Its name.
    Name(String),
}

impl TryFrom<serde_json::Value> for LabelChoice {
    type Error = &'static str;

    fn try_from(value: serde_json::Value) -> std::result::Result<LabelChoice, &'static str> {
        let index = value.as_u64().and_then(|index| u32::try_from(index).ok());
        match (index, value) {
            (Some(index), _) => Ok(LabelChoice::Index(index)),
            (None, serde_json::Value::String(name)) => Ok(LabelChoice::Name(name)),
            _ => Err("a label is a number or a name"),
        }
    }
}

/// Few-step settings; `docs/savings.md` says what they cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// DPM-Solver++ (2M) in 12 steps.
    Fast,
    /// DPM-Solver++ (2M) in 6 steps.
    Draft,
}

impl std::str::FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Preset> {
        match name {
            "fast" => Ok(Preset::Fast),
            "draft" => Ok(Preset::Draft),
            _ => Err(invalid(format!("there is no preset {name:?}"), "Give \"fast\" or \"draft\"")),
        }
    }
}

impl Preset {
    /// How often the network runs.
    pub fn steps(self) -> usize {
        match self {
            Preset::Fast => 12,
            Preset::Draft => 6,
        }
    }
}

/// What to generate; what is not given comes from the manifest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Request {
    /// None: the null class.
    pub label: Option<LabelChoice>,
    /// How often the network runs, 1 to 1000.
    pub steps: Option<usize>,
    /// `uncond + s (cond - uncond)`; 1 is off.
    pub guidance_scale: Option<f64>,
    /// Image k has seed + k; 0 to 2^32 - 1.
    pub seed: u32,
    /// Images, 1 to [`MAX_COUNT`].
    pub count: Option<usize>,
    /// The solver.
    pub sampler: Option<SamplerKind>,
    /// DDIM: 0 is deterministic, 1 draws as much noise as DDPM.
    pub eta: f64,
    /// Fewer steps with a solver that bears them, where these are not given.
    pub preset: Option<Preset>,
    /// Guidance only while t lies between these, from 0 (the picture) to 1 (noise).
    pub guidance_interval: Option<[f64; 2]>,
    /// Whether steps leave out inner blocks, as the manifest's calibrated schedule says.
    pub cache: bool,
    /// Whether every step reads back a preview.
    pub preview: bool,
    /// Start latents `[count, channels, height, width]` instead of noise.
    #[serde(skip)]
    pub start: Option<Vec<f32>>,
}

/// Pictures and how they came about.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Generated {
    /// `[count, channels, height, width]`, about [-1, 1], not clipped.
    #[serde(skip)]
    pub values: Vec<f32>,
    /// Images.
    pub count: usize,
    /// Of each image.
    pub channels: usize,
    /// Of each image.
    pub height: usize,
    /// Of each image.
    pub width: usize,
    /// The label's number, if the model has labels.
    pub label: Option<u32>,
    /// The label's name, if it has one.
    pub label_name: Option<String>,
    /// As used.
    pub steps: usize,
    /// As used.
    pub guidance_scale: f64,
    /// As used; image k has seed + k.
    pub seed: u32,
    /// As used.
    pub sampler: SamplerKind,
    /// As used.
    pub eta: f64,
    /// As used.
    pub guidance_interval: Option<[f64; 2]>,
    /// As used.
    pub cache: bool,
    /// Workers that shared the items.
    pub workers: usize,
    /// Times.
    pub timings: Timings,
    /// Kernel launches on the GPU, 0 on the CPU.
    pub dispatches: u64,
    /// Multiply-adds of the network, those of helpers aside.
    pub multiply_adds: u64,
    /// The model and its device.
    #[serde(flatten)]
    pub info: Info,
}

/// Milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    /// The whole call.
    pub total_ms: f64,
    /// Each step, first to last.
    pub step_ms: Vec<f64>,
    /// What encoding and submitting to a GPU took of all that, 0 on the CPU.
    pub encode_ms: f64,
}

impl Generated {
    /// Image `k`'s values `[channels, height, width]`.
    pub fn image(&self, k: usize) -> &[f32] {
        let size = self.channels * self.height * self.width;
        &self.values[k * size..(k + 1) * size]
    }

    /// Image `k` as RGBA.
    pub fn rgba(&self, k: usize) -> Vec<u8> {
        pixels::to_rgba(self.image(k), [self.channels, self.height, self.width])
    }
}

/// A model ready to generate.
pub struct Pipeline {
    manifest: Manifest,
    network: Network,
    executor: Executor,
    prepared: Option<Prepared>,
    info: Info,
}

impl Pipeline {
    /// What it is and runs on.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The model's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The executor, for measurements and tests.
    pub fn executor(&mut self) -> &mut Executor {
        &mut self.executor
    }

    /// Its executor alone, with the weights.
    pub fn into_executor(self) -> Executor {
        self.executor
    }

    /// The settings of a request, with the manifest's defaults.
    pub fn settings(&self, request: &Request) -> SamplerSettings {
        let defaults = self.manifest.sampling.settings();
        SamplerSettings {
            sampler: (request.sampler).or(request.preset.map(|_| SamplerKind::DpmppTwoM)).unwrap_or(defaults.sampler),
            steps: (request.steps).or(request.preset.map(Preset::steps)).unwrap_or(defaults.steps),
            eta: request.eta,
            ..defaults
        }
    }

    /// Makes plain forwards of so many items the Program that runs.
    async fn prepare_forward(&mut self, items: usize) -> Result<()> {
        let batch = Batch::plain(items);
        if !self.prepared.as_ref().is_some_and(|p| p.serves_forward(batch)) {
            self.prepared = None;
            self.prepared = Some(Prepared::new(&mut self.executor, &self.network, batch, 0, 1, None).await?);
        }
        Ok(())
    }

    /// Where the time of a forward of so many items goes, on a GPU: every kernel's beside the adapter's peak.
    ///
    /// # Errors
    /// `DEVICE_LOST`, `OUT_OF_MEMORY`, `SHADER_FAILED`.
    #[cfg(feature = "gpu")]
    pub async fn profile(&mut self, items: usize) -> Result<Option<crate::gpu::Profile>> {
        if !matches!(self.executor, Executor::Gpu(_)) {
            return Ok(None);
        }
        self.prepare_forward(items).await?;
        self.executor.write_times(&vec![500.0; items])?;
        match &mut self.executor {
            Executor::Gpu(gpu) => gpu.profile().await.map(Some),
            _ => Ok(None),
        }
    }

    /// One forward of the network on a batch of its own: latents `[items, channels, height, width]`, the network's time
    /// and, for networks with labels, the label of each item; returns `[items, channels, height, width]`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for lengths that contradict each other and labels out of range, `NOT_FINITE` if the result is
    /// not finite, `ABORTED`, `DEVICE_LOST`, `OUT_OF_MEMORY`.
    pub async fn forward(&mut self, part: &Part, stopped: &dyn Fn() -> bool) -> Result<Vec<f32>> {
        let (items, size) = (part.times.len(), self.network.image_shape().iter().product::<usize>());
        let classes = self.network.classes();
        let labels = if classes > 0 { items } else { 0 };
        if !(1..=2 * MAX_COUNT).contains(&items) || part.latents.len() != items * size || part.labels.len() != labels {
            return Err(invalid(
                format!(
                    "{items} timesteps, {} latents and {} labels do not fit together",
                    part.latents.len(),
                    part.labels.len()
                ),
                format!(
                    "Give 1 to {} timesteps, {size} latents and {} an item",
                    2 * MAX_COUNT,
                    match labels {
                        0 => "no label",
                        _ => "one label",
                    }
                ),
            ));
        }
        if let Some(label) = part.labels.iter().find(|&&label| label as usize >= classes) {
            return Err(invalid(
                format!("label {label} is out of range"),
                format!("Give labels from 0 to {}", classes - 1),
            ));
        }
        self.prepare_forward(items).await?;
        let prepared = self.prepared.as_ref().ok_or_else(|| Error::internal("nothing is prepared"))?;
        let out = prepared.forward(&mut self.executor, part, stopped).await?;
        finite(&out, "Check the latents and the timesteps")?;
        Ok(out)
    }

    /// Generates pictures.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the setting, `ABORTED` when stopped, `NOT_FINITE`, `DEVICE_LOST`, `OUT_OF_MEMORY`.
    pub async fn generate(&mut self, request: &Request, control: &mut Control<'_>) -> Result<Generated> {
        self.generate_with(request, control, None).await
    }

    /// [`Pipeline::generate`] with other workers that take part of the items.
    ///
    /// # Errors
    /// Also those of the helpers.
    pub async fn generate_with(
        &mut self,
        request: &Request,
        control: &mut Control<'_>,
        helpers: Option<&dyn Helpers>,
    ) -> Result<Generated> {
        let began = Instant::now();
        let count = request.count.unwrap_or(1);
        if !(1..=MAX_COUNT).contains(&count) {
            return Err(invalid(format!("count is {count}"), format!("Give a whole number from 1 to {MAX_COUNT}")));
        }
        let settings = self.settings(request);
        let recipe = recipe(&settings)?;
        let guidance_scale = request.guidance_scale.unwrap_or(match self.manifest.null_class {
            Some(_) => self.manifest.sampling.guidance_scale,
            None => 1.0,
        });
        if !guidance_scale.is_finite() || guidance_scale.abs() > 1000.0 {
            return Err(invalid(format!("guidanceScale is {guidance_scale}"), "Give a number from -1000 to 1000"));
        }
        if guidance_scale != 1.0 && self.manifest.null_class.is_none() {
            return Err(invalid(
                format!("guidanceScale is {guidance_scale}, and the model has no null class"),
                "Give guidanceScale 1 or leave it out",
            ));
        }
        if let Some([low, high]) = request.guidance_interval
            && !(0.0 <= low && low <= high && high <= 1.0)
        {
            return Err(invalid(
                format!("guidanceInterval is {low} to {high}"),
                "Give two numbers from 0 (the picture) to 1 (noise), the smaller first",
            ));
        }
        let cache = self.manifest.sampling.cache.as_ref().filter(|_| request.cache);
        if request.cache && cache.is_none() {
            let remedy = "Leave cache out, or calibrate the model with `uvit block-cache`";
            return Err(invalid("cache is on, and the manifest has no calibrated schedule for it", remedy));
        }
        let label = self.label(request)?;
        let labels = vec![label.unwrap_or(0); if label.is_some() { count } else { 0 }];
        let mut step_ms: Vec<f64> = Vec::with_capacity(recipe.evaluations);
        let mut last = 0.0;
        let inputs = Inputs {
            count,
            labels: &labels,
            null_class: self.manifest.null_class,
            guidance_scale,
            start: request.start.as_deref(),
            noise: noise_for(request.seed, count)?,
            readback: if request.preview { Readback::Preview } else { Readback::None },
            passes: savings::passes(
                &recipe,
                settings.time_scale,
                guidance::needs_uncond(guidance_scale),
                request.guidance_interval,
                cache,
            ),
        };
        let batch = batch(&inputs);
        let (dispatched, encoded) = (self.executor.dispatches(), self.executor.encode_time());
        let worked = self.executor.multiply_adds();
        // Helpers keep nothing between their forwards.
        let helpers = helpers.filter(|_| cache.is_none());
        let workers = 1 + helpers.map_or(0, Helpers::count);
        let outer = cache.map(|cache| cache.outer);
        if !self.prepared.as_ref().is_some_and(|p| p.fits(batch, &recipe, workers, outer)) {
            self.prepared = None;
            let slots = recipe.scratch_slots;
            let made = Prepared::new(&mut self.executor, &self.network, batch, slots, workers, outer);
            self.prepared = Some(made.await?);
        }
        let prepared = self.prepared.as_ref().ok_or_else(|| Error::internal("nothing is prepared"))?;
        let mut on_step = |event: sampling::StepEvent| {
            step_ms.push(event.elapsed_ms - last);
            last = event.elapsed_ms;
            (control.on_step)(event);
        };
        let mut watch = Control { on_step: &mut on_step, stopped: control.stopped };
        let values = sample(&mut self.executor, prepared, &recipe, inputs, &mut watch, helpers).await?;
        let [channels, height, width] = self.network.image_shape();
        Ok(Generated {
            values,
            count,
            channels,
            height,
            width,
            label,
            label_name: self.manifest.labels.iter().find(|l| Some(l.index) == label).map(|l| l.name.clone()),
            steps: settings.steps,
            guidance_scale,
            seed: request.seed,
            sampler: settings.sampler,
            eta: settings.eta,
            guidance_interval: request.guidance_interval.filter(|_| guidance::needs_uncond(guidance_scale)),
            cache: request.cache,
            workers: self.prepared.as_ref().map_or(1, Prepared::workers),
            timings: Timings {
                total_ms: began.elapsed().as_secs_f64() * 1e3,
                step_ms,
                encode_ms: (self.executor.encode_time() - encoded).as_secs_f64() * 1e3,
            },
            dispatches: self.executor.dispatches() - dispatched,
            multiply_adds: self.executor.multiply_adds() - worked,
            info: self.info.clone(),
        })
    }

    /// The label's number: as given, by name, or the null class.
    fn label(&self, request: &Request) -> Result<Option<u32>> {
        let classes = self.network.classes();
        match &request.label {
            None if classes == 0 => Ok(None),
            None => match self.manifest.null_class {
                Some(null) => Ok(Some(null)),
                None => Err(invalid("no label is given", format!("Give a label from 0 to {}", classes - 1))),
            },
            Some(_) if classes == 0 => Err(invalid("a label is given, and the model has none", "Leave the label out")),
            Some(LabelChoice::Index(index)) if (*index as usize) < classes => Ok(Some(*index)),
            Some(LabelChoice::Index(index)) => Err(invalid(
                format!("label {index} is out of range"),
                format!("Give a label from 0 to {}", classes - 1),
            )),
            Some(LabelChoice::Name(name)) => {
                let found = self.manifest.labels.iter().find(|label| label.name == *name);
                let known = || self.manifest.labels.iter().take(3).map(|l| format!("{:?}", l.name)).collect::<Vec<_>>();
                found.map(|label| Some(label.index)).ok_or_else(|| {
                    let remedy = format!("Give one of the model's labels, such as {}", known().join(", "));
                    invalid(format!("there is no label {name:?}"), remedy)
                })
            }
        }
    }
}

fn invalid(cause: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, cause, remedy)
}
