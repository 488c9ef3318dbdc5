//! Loading, the step loop, progress, cancellation and results. Nothing here knows JavaScript, files or command lines.
//!
//! A [`Loader`] opens a device and takes shards one by one; [`Loader::finish`] makes it a [`Pipeline`], whose
//! [`Pipeline::generate`] turns a [`Request`] into [`Generated`] pictures.

mod beams;
mod captions;
mod clip;
mod component;
mod components;
mod conditions;
mod decoding;
mod denoiser;
mod device;
mod drawn;
mod encoding;
mod fitting;
mod generation;
mod guidance;
mod helpers;
mod joining;
mod kept;
mod loader;
mod modes;
mod noise;
mod picture;
pub mod pixels;
mod preview;
mod request;
mod result;
pub mod sampling;
mod savings;
mod shared;
mod tensors;
mod words;

pub use beams::{Beam, Search};
pub use captions::{Caption, rows_of, search};
pub use clip::MAX_FRAMES;
pub use component::{Component, stored_forms};
pub use components::{Source, StoredFile};
pub use denoiser::{Denoiser, Shape};
#[cfg(feature = "gpu")]
pub use device::capabilities;
pub use device::{ComputeChoice, DeviceChoice, DeviceInfo, LoadOptions, Opened, Wanted, open as open_device};
pub use fitting::fitting;
pub use guidance::Guidance;
pub use helpers::{Answer, Helpers};
pub use joining::{Joined, Joining};
pub use loader::{Loader, Needed, files};
pub use modes::Mode;
pub use noise::Noise;
pub use picture::{Filter, Picture};
pub use preview::Preview;
pub use request::{LabelChoice, Preset, Prompt, Request};
pub use result::{Generated, Info, Timings};
pub use savings::Pass;
pub use tensors::{NamedTensor, Values};

use crate::model::Network;
use crate::package::{DECODER, DENOISER, ENCODER, Manifest};
use crate::runtime::Device;
use crate::sampler::{SamplerKind, SamplerSettings};
use crate::{Code, Error, Result};
use captions::Captions;
use components::Components;
use sampling::Control;
use std::rc::Rc;
use words::Words;

/// The most images of one call.
pub const MAX_COUNT: usize = 64;
/// The most beams of a caption's search; so many beams are searched together, whatever they are of.
pub const MAX_BEAMS: usize = 32;

/// A model ready to generate.
pub struct Pipeline {
    manifest: Manifest,
    components: Components,
    network: Network,
    words: Option<Words>,
    captions: Option<Captions>,
    denoiser: Option<Denoiser>,
    /// Of what generating gives, and of what it can start from; of clips, a frame.
    picture_shape: [usize; 3],
    start_shape: [usize; 3],
    info: Info,
}

impl Pipeline {
    fn new(
        manifest: Manifest,
        components: Components,
        words: Option<Words>,
        captions: Option<Captions>,
        info: Info,
    ) -> Result<Pipeline> {
        let network = manifest.network(DENOISER)?;
        let picture_shape =
            if components.network(DECODER).is_some() { manifest.picture_shape()? } else { network.image_shape() };
        let start_shape =
            if components.network(ENCODER).is_some() { manifest.start_shape()? } else { network.image_shape() };
        Ok(Pipeline {
            manifest,
            components,
            network,
            words,
            captions,
            denoiser: None,
            picture_shape,
            start_shape,
            info,
        })
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

    /// `[channels, height, width]` of what [`Pipeline::generate`] gives: pictures or a clip's frames, or latents where nothing decodes
    /// them.
    pub fn picture_shape(&self) -> [usize; 3] {
        self.picture_shape
    }

    /// `[channels, height, width]` of a picture to start from ([`Request::init_image`]): as [`Pipeline::picture_shape`]; where nothing
    /// encodes pictures, that of latents.
    pub fn start_shape(&self) -> [usize; 3] {
        self.start_shape
    }

    /// Frames of the clips that the network draws; none for single pictures.
    pub fn frames(&self) -> Option<usize> {
        self.network.frames()
    }

    /// Frames a second at which clips are meant to be played; 0 for single pictures.
    pub fn frame_rate(&self) -> f64 {
        if self.network.frames().is_some() { self.manifest.frame_rate() } else { 0.0 }
    }

    /// Whether it takes prompts.
    pub fn reads_prompts(&self) -> bool {
        self.words.is_some()
    }

    /// Guidance's scale where a request says nothing.
    pub fn usual_guidance(&self) -> f64 {
        self.guidance_scale(&Request::default(), None).unwrap_or(1.0)
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
        let sampler = (request.sampler).or(request.preset.map(|_| SamplerKind::DpmppTwoM)).unwrap_or(defaults.sampler);
        SamplerSettings {
            sampler,
            steps: (request.steps).or(request.preset.map(Preset::steps)).unwrap_or(defaults.steps),
            grid: request.grid.or(defaults.grid.filter(|_| sampler == defaults.sampler)),
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
        let (recording, session) = denoiser.prepare(crate::model::Batch::plain(items)).await?;
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
}

fn invalid(cause: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, cause, remedy)
}
