//! Loading, the step loop, progress, cancellation and results. Nothing here knows JavaScript, files or command lines.
//!
//! A [`Loader`] opens a device and takes shards one by one; [`Loader::finish`] makes it a [`Pipeline`], whose
//! [`Pipeline::generate`] turns a [`Request`] into [`Generated`] pictures.

mod component;
mod denoiser;
mod device;
mod guidance;
mod helpers;
mod loader;
mod noise;
pub mod pixels;
mod request;
mod result;
pub mod sampling;
mod savings;
mod shared;
mod tensors;

pub use component::{Component, stored_forms};
pub use denoiser::{Denoiser, Shape};
#[cfg(feature = "gpu")]
pub use device::capabilities;
pub use device::{ComputeChoice, DeviceChoice, DeviceInfo, LoadOptions, Opened, open as open_device};
pub use guidance::Guidance;
pub use helpers::Helpers;
pub use loader::Loader;
pub use noise::Noise;
pub use request::{LabelChoice, Preset, Request};
pub use result::{Generated, Info, Timings};
pub use savings::Pass;
pub use tensors::{NamedTensor, Values};

use crate::model::{Batch, Network};
use crate::package::Manifest;
use crate::sampler::{SamplerKind, SamplerSettings, guidance::needs_uncond, recipe};
use crate::{Code, Error, Result};
use request::skipped;
use sampling::{Control, Inputs, Mask, Picture, Readback, noise_for, sample};
use web_time::Instant;

/// The port of a text's embedding.
const CONTEXT: &str = "context";

/// The most images of one call.
pub const MAX_COUNT: usize = 64;

/// A model ready to generate.
pub struct Pipeline {
    manifest: Manifest,
    component: Component,
    denoiser: Option<Denoiser>,
    info: Info,
}

impl Pipeline {
    fn new(manifest: Manifest, component: Component, info: Info) -> Pipeline {
        Pipeline { manifest, component, denoiser: None, info }
    }

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
        self.component.network()
    }

    /// The network on its device, for measurements and tests.
    pub fn component(&mut self) -> &mut Component {
        &mut self.component
    }

    /// What the last generation ran on, for measurements and tests.
    pub fn denoiser(&self) -> Option<&Denoiser> {
        self.denoiser.as_ref()
    }

    /// The network alone.
    pub fn into_component(self) -> Component {
        self.component
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
        let (recording, session) = self.component.prepare(Batch::plain(items)).await?;
        for sampled in &recording.sampled {
            session.write_times(sampled.time, &vec![500.0; items])?;
        }
        match session.as_gpu() {
            Some(gpu) => gpu.profile().await.map(Some),
            None => Ok(None),
        }
    }

    /// One forward of the network on a batch of its own: a tensor for every port that takes one; gives those that come out.
    ///
    /// # Errors
    /// As [`Component::forward`].
    pub async fn forward(&mut self, given: &[NamedTensor], stopped: &dyn Fn() -> bool) -> Result<Vec<NamedTensor>> {
        self.component.forward(given, stopped).await
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
        let mut settings = self.settings(request);
        let strength = request.strength()?;
        settings.skip = strength.map_or(0, |strength| skipped(settings.steps, strength));
        let recipe = recipe(&settings)?;
        let [channels, height, width] = self.network().image_shape();
        if recipe.adaptive.is_some() {
            let unknown = [
                ("mask", request.mask.is_some()),
                ("guidanceInterval", request.guidance_interval.is_some()),
                ("cache", request.cache),
            ];
            if let Some((name, _)) = unknown.iter().find(|(_, given)| *given) {
                let cause = format!(
                    "{name} needs steps that are known beforehand, which {} has not",
                    settings.sampler.as_str()
                );
                return Err(invalid(cause, format!("Leave {name} out, or take another sampler")));
            }
        }
        let elements = channels * height * width;
        let picture = request.init_image.as_ref().map(|values| match values.len() == elements {
            true => values.repeat(count),
            false => values.clone(),
        });
        let mask = match &request.mask {
            Some(mask) => Some(of_mask(mask, count * channels, height * width)?),
            None => None,
        };
        // What stands for no condition.
        let can_guide = self.manifest.null_class.is_some() || request.null_context.is_some();
        let usual = if can_guide { self.manifest.sampling.guidance_scale } else { 1.0 };
        let guidance_scale = request.guidance_scale.unwrap_or(usual);
        if !guidance_scale.is_finite() || guidance_scale.abs() > 1000.0 {
            return Err(invalid(format!("guidanceScale is {guidance_scale}"), "Give a number from -1000 to 1000"));
        }
        if guidance_scale != 1.0 && !can_guide {
            let (lacks, remedy) = match self.context_elements()? {
                None => ("the model has no null class", "Give guidanceScale 1 or leave it out"),
                Some(_) => ("the empty text's embedding is missing", "Give it, or guidanceScale 1"),
            };
            return Err(invalid(format!("guidanceScale is {guidance_scale}, and {lacks}"), remedy));
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
        if !(0.0..=1.0).contains(&request.guidance_rescale) {
            let cause = format!("guidanceRescale is {}", request.guidance_rescale);
            return Err(invalid(cause, "Give a number from 0 (off) to 1"));
        }
        let labels = match &request.labels {
            None => self.label(request.label.as_ref())?.map(|label| vec![label; count]),
            Some(labels) if labels.len() == count => {
                labels.iter().map(|label| self.label(Some(label))).collect::<Result<_>>()?
            }
            Some(labels) => {
                return Err(invalid(format!("{} labels for {count} images", labels.len()), "Give one for each image"));
            }
        };
        let label = labels.as_ref().map(|labels| labels[0]).filter(|_| request.labels.is_none());
        let given = |labels: Option<Vec<u32>>, context: Option<Vec<f32>>| -> Vec<NamedTensor> {
            let labels = labels.map(|labels| NamedTensor::new("y", Values::Indices(labels)));
            let context = context.map(|values| NamedTensor::new(CONTEXT, Values::Floats(values)));
            labels.into_iter().chain(context).collect()
        };
        let null = self.manifest.null_class.map(|null| vec![null; count]);
        let null_context = match needs_uncond(guidance_scale) {
            true => self.context(request.null_context.as_ref(), count)?,
            false => None,
        };
        let cond = given(labels, self.context(request.context.as_ref(), count)?);
        let mut guidance = Guidance::classifier_free(cond, given(null, null_context), guidance_scale);
        guidance.rescale = request.guidance_rescale;
        let mut step_ms: Vec<f64> = Vec::with_capacity(recipe.evaluations);
        let mut last = 0.0;
        let guided = guidance.copies.len() > 1;
        // Helpers keep nothing between their forwards.
        let helpers = helpers.filter(|_| cache.is_none());
        let batch = guidance.batch(count);
        let shape = Shape {
            batch,
            drawn: 0..1,
            scratch_slots: recipe.scratch_slots,
            workers: (1 + helpers.map_or(0, Helpers::count)).min(batch.items()),
            outer: cache.map(|cache| cache.outer),
            masked: mask.is_some(),
        };
        let inputs = Inputs {
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
            noise: noise_for(request.seed, request.seed_stride.unwrap_or(1), count)?,
            readback: if request.preview { Readback::Preview } else { Readback::None },
            passes: savings::passes(&recipe, settings.time_scale, guided, request.guidance_interval, cache),
        };
        let device = self.component.weights().device();
        let (dispatched, encoded, worked) = (device.dispatches(), device.encode_time(), device.multiply_adds());
        if self.denoiser.as_ref().is_none_or(|denoiser| *denoiser.shape() != shape) {
            self.denoiser = None;
            self.component.release();
            self.denoiser = Some(Denoiser::new(&mut self.component, shape).await?);
        }
        let denoiser = self.denoiser.as_mut().ok_or_else(|| Error::internal("nothing is prepared"))?;
        let mut on_step = |event: sampling::StepEvent| {
            step_ms.push(event.elapsed_ms - last);
            last = event.elapsed_ms;
            (control.on_step)(event);
        };
        let mut watch = Control { on_step: &mut on_step, stopped: control.stopped };
        let values = sample(denoiser, &recipe, inputs, &mut watch, helpers).await?;
        let workers = denoiser.workers();
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
            grid: settings.walked(),
            eta: settings.eta,
            churn: settings.churn,
            strength,
            masked: mask.is_some(),
            guidance_rescale: request.guidance_rescale,
            guidance_interval: request.guidance_interval.filter(|_| needs_uncond(guidance_scale)),
            cache: request.cache,
            workers,
            timings: Timings {
                total_ms: began.elapsed().as_secs_f64() * 1e3,
                step_ms,
                encode_ms: (device.encode_time() - encoded).as_secs_f64() * 1e3,
            },
            dispatches: device.dispatches() - dispatched,
            multiply_adds: device.multiply_adds() - worked,
            info: self.info.clone(),
        })
    }

    /// Elements of a text's embedding, if the network takes one.
    fn context_elements(&self) -> Result<Option<usize>> {
        let recording = self.network().record(Batch::plain(1))?;
        let elements = |tensor| recording.plan.shape(tensor).iter().product();
        Ok(recording.port(CONTEXT).map(|port| elements(port.tensor)))
    }

    /// A text's embedding for every image.
    fn context(&self, given: Option<&Vec<f32>>, count: usize) -> Result<Option<Vec<f32>>> {
        let (elements, values) = match (self.context_elements()?, given) {
            (None, None) => return Ok(None),
            (None, Some(_)) => {
                return Err(invalid("a context is given, and the network takes none", "Leave the context out"));
            }
            (Some(elements), None) => {
                let remedy = format!("Give the text's embedding, {elements} values, as context");
                return Err(invalid("the network draws a text, and none is given", remedy));
            }
            (Some(elements), Some(values)) => (elements, values),
        };
        if !values.iter().all(|v| v.is_finite()) {
            return Err(invalid("the context holds a value that is NaN or infinite", "Give finite values"));
        }
        match values.len() {
            n if n == elements => Ok(Some(values.repeat(count))),
            n if n == count * elements => Ok(Some(values.clone())),
            n => Err(invalid(
                format!("the context has {n} values"),
                format!("Give {elements}, or so many for each image"),
            )),
        }
    }

    /// The label's number: as given, by name, or the null class.
    fn label(&self, label: Option<&LabelChoice>) -> Result<Option<u32>> {
        let classes = self.network().classes();
        match label {
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

/// A mask of one channel and image, for all of them.
fn of_mask(mask: &[f32], times: usize, elements: usize) -> Result<Vec<f32>> {
    if mask.len() != elements {
        return Err(invalid(
            format!("the mask has {} values", mask.len()),
            format!("Give [height, width], {elements}"),
        ));
    }
    if !mask.iter().all(|v| (0.0..=1.0).contains(v)) {
        return Err(invalid(
            "the mask has values outside 0 to 1",
            "Give 1 for what is painted anew and 0 for what is kept",
        ));
    }
    Ok(mask.repeat(times))
}

fn invalid(cause: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, cause, remedy)
}
