//! Loading, the step loop, progress, cancellation and results. Nothing here knows JavaScript, files or command lines.
//!
//! A [`Loader`] opens a device and takes shards one by one; [`Loader::finish`] makes it a [`Pipeline`], whose
//! [`Pipeline::generate`] turns a [`Request`] into [`Generated`] pictures.

mod component;
mod components;
mod conditions;
mod decoding;
mod denoiser;
mod device;
mod drawn;
mod encoding;
mod fitting;
mod guidance;
mod helpers;
mod loader;
mod noise;
pub mod picture;
pub mod pixels;
mod preview;
mod request;
mod result;
pub mod sampling;
mod savings;
mod shared;
mod tensors;
mod words;

pub use component::{Component, stored_forms};
pub use components::{Source, StoredFile};
pub use denoiser::{Denoiser, Shape};
#[cfg(feature = "gpu")]
pub use device::capabilities;
pub use device::{ComputeChoice, DeviceChoice, DeviceInfo, LoadOptions, Opened, Wanted, open as open_device};
pub use guidance::Guidance;
pub use helpers::{Answer, Helpers};
pub use loader::{Loader, Needed, files};
pub use noise::Noise;
pub use preview::Preview;
pub use request::{LabelChoice, Preset, Prompt, Request};
pub use result::{Generated, Info, Timings};
pub use savings::Pass;
pub use tensors::{NamedTensor, Values};

use crate::model::{Batch, Network};
use crate::package::{DECODER, DENOISER, ENCODER, Manifest, PREVIEW_DECODER};
use crate::runtime::Device;
use crate::sampler::{SamplerKind, SamplerSettings, guidance::needs_uncond, recipe};
use crate::{Code, Error, Result};
use components::Components;
use conditions::Conditions;
use decoding::DECODING;
use encoding::Origin;
use request::skipped;
use sampling::{Control, Inputs, Mask, Picture, Readback, Stage, StepEvent, noise_for, sample};
use std::rc::Rc;
use web_time::Instant;
use words::Words;

/// The most images of one call.
pub const MAX_COUNT: usize = 64;

/// A model ready to generate.
pub struct Pipeline {
    manifest: Manifest,
    components: Components,
    network: Network,
    words: Option<Words>,
    denoiser: Option<Denoiser>,
    /// Of what generating gives, and of what it can start from.
    picture_shape: [usize; 3],
    start_shape: [usize; 3],
    info: Info,
}

impl Pipeline {
    fn new(manifest: Manifest, components: Components, words: Option<Words>, info: Info) -> Result<Pipeline> {
        let network = manifest.network(DENOISER)?;
        let picture_shape =
            if components.network(DECODER).is_some() { manifest.picture_shape()? } else { network.image_shape() };
        let start_shape =
            if components.network(ENCODER).is_some() { manifest.start_shape()? } else { network.image_shape() };
        Ok(Pipeline { manifest, components, network, words, denoiser: None, picture_shape, start_shape, info })
    }

    /// Who brings components that are not loaded: where they do not stay loaded, or are needed in another arithmetic.
    pub fn bring_from(&mut self, source: Rc<dyn Source>) {
        self.components.bring_from(source);
    }

    /// What it is and runs on.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The model's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The network that is sampled.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// `[channels, height, width]` of what [`Pipeline::generate`] gives: pictures, or latents where nothing decodes them.
    pub fn picture_shape(&self) -> [usize; 3] {
        self.picture_shape
    }

    /// `[channels, height, width]` of a picture to start from ([`Request::init_image`]): as [`Pipeline::picture_shape`]; where nothing
    /// encodes pictures, that of latents.
    pub fn start_shape(&self) -> [usize; 3] {
        self.start_shape
    }

    /// Whether it takes prompts.
    pub fn reads_prompts(&self) -> bool {
        self.words.is_some()
    }

    /// Guidance's scale where a request says nothing.
    pub fn usual_guidance(&self) -> f64 {
        self.guidance_scale(&Request::default()).unwrap_or(1.0)
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        self.components.device()
    }

    /// The network on its device, for measurements and tests.
    ///
    /// # Errors
    /// `INTERNAL` if it does not stay loaded.
    pub fn component(&mut self) -> Result<&mut Component> {
        self.components.loaded(DENOISER)
    }

    /// What the last generation ran on, for measurements and tests.
    pub fn denoiser(&self) -> Option<&Denoiser> {
        self.denoiser.as_ref()
    }

    /// The network alone.
    ///
    /// # Errors
    /// As [`Pipeline::component`].
    pub fn into_component(mut self) -> Result<Component> {
        self.components.take(DENOISER)
    }

    /// The settings of a request, with the manifest's defaults.
    pub fn settings(&self, request: &Request) -> SamplerSettings {
        let defaults = self.manifest.sampling.settings();
        SamplerSettings {
            sampler: (request.sampler).or(request.preset.map(|_| SamplerKind::DpmppTwoM)).unwrap_or(defaults.sampler),
            steps: (request.steps).or(request.preset.map(Preset::steps)).unwrap_or(defaults.steps),
            grid: request.grid,
            eta: request.eta,
            churn: request.churn,
            ..defaults
        }
    }

    /// Where the time of a forward of so many items goes, on a GPU: every kernel's beside the adapter's peak.
    ///
    /// # Errors
    /// `DEVICE_LOST`, `OUT_OF_MEMORY`, `SHADER_FAILED`.
    #[cfg(feature = "gpu")]
    pub async fn profile(&mut self, items: usize) -> Result<Option<crate::gpu::Profile>> {
        let denoiser = self.components.get(DENOISER, &|| false).await?;
        let (recording, session) = denoiser.prepare(Batch::plain(items)).await?;
        for sampled in &recording.sampled {
            session.write_times(sampled.time, &vec![500.0; items])?;
        }
        match session.as_gpu() {
            Some(gpu) => gpu.profile().await.map(Some),
            None => Ok(None),
        }
    }

    /// One forward of a component's network on a batch of its own: a tensor for every port that takes one; gives those that come
    /// out. What has no shape is of the size that the model draws.
    ///
    /// # Errors
    /// As [`Component::forward`]; `INVALID_ARGUMENT` if generating runs no such component.
    pub async fn forward(
        &mut self,
        component: &str,
        mut given: Vec<NamedTensor>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Vec<NamedTensor>> {
        let Some(network) = self.components.network(component) else {
            let cause = format!("there is no component \"{component}\" that generating runs");
            return Err(invalid(cause, format!("Give one of {}", self.manifest.runs().join(", "))));
        };
        let one = network.record(self.manifest.one(component)?)?;
        for tensor in &mut given {
            if let (None, Some(port)) = (&tensor.shape, one.port(&tensor.name)) {
                let mut shape = one.plan.shape(port.tensor).to_vec();
                let own = shape.iter().product::<usize>();
                if tensor.values.len().is_multiple_of(own) {
                    shape[0] *= tensor.values.len() / own;
                    tensor.shape = Some(shape);
                }
            }
        }
        self.components.get(component, stopped).await?.forward(&given, stopped).await
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
        let generated = self.run_stages(request, control, helpers).await;
        if !self.components.stay() {
            // Of a stage that has failed, too.
            self.denoiser = None;
            self.components.clear();
        }
        generated
    }

    async fn run_stages(
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
        let mut settings = self.settings(request);
        let strength = request.strength()?;
        settings.skip = strength.map_or(0, |strength| skipped(settings.steps, strength));
        let recipe = recipe(&settings)?;
        request.check(recipe.adaptive.is_some(), settings.sampler)?;
        let cache = self.manifest.sampling.cache.as_ref().filter(|_| request.cache);
        if request.cache && cache.is_none() {
            let remedy = "Leave cache out, or calibrate the model with `uvit block-cache`";
            return Err(invalid("cache is on, and the manifest has no calibrated schedule for it", remedy));
        }
        let cache = cache.cloned();
        let origin = self.origin(request, count)?;
        let mask = origin.as_ref().and_then(Origin::latent_mask);
        let noise = noise_for(request.seed, request.seed_stride.unwrap_or(1), count)?;
        let labels = self.labels(request, count)?;
        let label = labels.as_ref().map(|labels| labels[0]).filter(|_| request.labels.is_none());
        let guidance_scale = self.guidance_scale(request)?;

        let device = self.components.device().clone();
        let (dispatched, encoded, worked) = (device.dispatches(), device.encode_time(), device.multiply_adds());
        let mut timings = Timings::default();
        let mut warnings = Vec::new();
        if request.negative_prompt.is_some() && !needs_uncond(guidance_scale) {
            warnings.push("the negative prompt does nothing at guidanceScale 1".into());
        }
        let texts = self.texts(request, count, needs_uncond(guidance_scale))?;
        if let (Some(texts), Some(words)) = (&texts, &mut self.words) {
            let (all, stage) = (texts.all(), Instant::now());
            let mut report = |step| {
                let elapsed_ms = stage.elapsed().as_secs_f64() * 1e3;
                (control.on_step)(StepEvent { stage: Stage::Text, step, steps: 1, elapsed_ms, values: None });
            };
            let learnt = words.learn(&all, &mut self.components, &mut || report(0), control.stopped).await?;
            if learnt.ran {
                timings.text_ms = stage.elapsed().as_secs_f64() * 1e3;
                report(1);
            }
            warnings.extend(learnt.warnings);
        }

        let Conditions { guidance, drawn } = self.conditions(request, labels, texts.as_ref(), count, guidance_scale)?;
        let picture = match &origin {
            Some(origin) => Some(origin.latents(&mut self.components, control, &mut timings, &mut warnings).await?),
            None => None,
        };
        let mut last = 0.0;
        let guided = guidance.copies.len() > 1;
        // Helpers keep nothing between their forwards.
        let helpers = helpers.filter(|_| cache.is_none());
        let batch = guidance.batch(count);
        let shape = Shape {
            batch,
            drawn,
            scratch_slots: recipe.scratch_slots,
            workers: (1 + helpers.map_or(0, Helpers::count)).min(batch.items()),
            outer: cache.as_ref().map(|cache| cache.outer),
            masked: mask.is_some(),
        };
        let mut inputs = Inputs {
            guidance,
            start: request.start.as_deref(),
            picture: picture.as_deref().map(|values| Picture {
                values,
                mask: mask.as_deref().map(|values| Mask {
                    values,
                    fresh_noise: request.fresh_noise,
                    from_noise: settings.skip == 0,
                }),
            }),
            noise,
            readback: Readback::None,
            passes: savings::passes(&recipe, settings.time_scale, guided, request.guidance_interval, cache.as_ref()),
        };
        let component = self.components.get(DENOISER, control.stopped).await?;
        if self.denoiser.as_ref().is_none_or(|denoiser| *denoiser.shape() != shape) {
            self.denoiser = None;
            component.release();
            self.denoiser = Some(Denoiser::new(component, shape).await?);
        }
        let denoiser = self.denoiser.as_mut().ok_or_else(|| Error::internal("nothing is prepared"))?;
        if request.preview {
            let (components, stopped) = (&mut self.components, control.stopped);
            let preview =
                Preview::new(&self.manifest, components, self.network.image_shape(), &mut warnings, stopped).await?;
            inputs.readback = Readback::Preview(preview);
        }
        let mut on_step = |event: StepEvent| {
            timings.step_ms.push(event.elapsed_ms - last);
            last = event.elapsed_ms;
            (control.on_step)(event);
        };
        let mut watch = Control { on_step: &mut on_step, stopped: control.stopped };
        let sampled = sample(denoiser, &recipe, inputs, &mut watch, helpers).await;
        let (workers, of_image, of_picture) =
            (denoiser.workers(), denoiser.drawn.of_image(), denoiser.drawn.of_picture());
        if !self.components.stay() {
            self.denoiser = None;
        }
        self.components.done(DENOISER);
        self.components.done(PREVIEW_DECODER);
        let mut values: Vec<f32> = Vec::with_capacity(count * of_picture);
        for image in sampled?.chunks(of_image) {
            values.extend(&image[..of_picture]);
        }

        if self.components.network(DECODER).is_some() {
            let stage = Instant::now();
            let latent_shape = self.network.image_shape();
            let (decoded, more) = DECODING.run(&mut self.components, &values, latent_shape, control).await?;
            values = decoded.values;
            if let Some(origin) = &origin {
                origin.keep(&mut values);
            }
            warnings.extend(more);
            timings.decode_ms = stage.elapsed().as_secs_f64() * 1e3;
        }
        timings.total_ms = began.elapsed().as_secs_f64() * 1e3;
        timings.encode_ms = (device.encode_time() - encoded).as_secs_f64() * 1e3;
        let [channels, height, width] = self.picture_shape;
        Ok(Generated {
            values,
            count,
            channels,
            height,
            width,
            label,
            label_name: self.manifest.labels.iter().find(|l| Some(l.index) == label).map(|l| l.name.clone()),
            prompt: request.prompt.clone(),
            negative_prompt: request.negative_prompt.clone(),
            steps: settings.steps,
            guidance_scale,
            seed: request.seed,
            sampler: settings.sampler,
            grid: settings.walked(),
            eta: settings.eta,
            churn: settings.churn,
            strength,
            masked: mask.is_some(),
            guidance_rescale: request.guidance_rescale,
            guidance_interval: request.guidance_interval.filter(|_| needs_uncond(guidance_scale)),
            cache: request.cache,
            workers,
            warnings,
            timings,
            dispatches: device.dispatches() - dispatched,
            multiply_adds: device.multiply_adds() - worked,
            info: self.info.clone(),
        })
    }
}

fn invalid(cause: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, cause, remedy)
}
