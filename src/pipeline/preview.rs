//! What a step shows of pictures that are not done: of pixels the estimate itself; of latents what the model's preview decoder makes of
//! it, or a linear map, or else their own channels; of text latents the likeliest words. A preview never fails a generation.

use super::captions::Captions;
use super::components::Components;
use super::decoding::DECODING;
use super::sampling::{Snapshot, StepEvent};
use crate::model::{Batch, Sample};
use crate::package::{LatentRgb, Manifest, PREVIEW_DECODER};
use crate::{Code, Error, Result};
use std::ops::Range;
use std::time::Duration;
use web_time::Instant;

/// Telling texts takes at most one part in so many of the time, but for the first.
const TELLING: u32 = 5;

/// How an image's estimate lies: the latents of its picture first, those of its text within.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    /// Elements of all.
    pub of_image: usize,
    pub picture: Option<Sample>,
    pub text: Option<Range<usize>>,
}

/// How estimates become pictures.
pub struct Preview<'a> {
    components: &'a mut Components,
    linear: Option<&'a LatentRgb>,
    /// Whether there is a preview decoder that has not failed.
    decodes: bool,
    parts: Parts,
    captions: Option<&'a mut Captions>,
    /// What was told last, and when to tell again.
    told: (Vec<String>, Option<Instant>),
    warnings: &'a mut Vec<String>,
}

impl<'a> Preview<'a> {
    /// Of a model whose estimates lie so. Makes the decoder ready: nothing is loaded or compiled between steps.
    ///
    /// # Errors
    /// `ABORTED`.
    pub(super) async fn new(
        manifest: &'a Manifest,
        components: &'a mut Components,
        captions: Option<&'a mut Captions>,
        parts: Parts,
        warnings: &'a mut Vec<String>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Preview<'a>> {
        let decodes = components.network(PREVIEW_DECODER).is_some() && parts.picture.is_some();
        let captions = captions.filter(|_| parts.text.is_some());
        let linear = manifest.preview.as_ref();
        let mut preview = Preview { components, linear, decodes, parts, captions, told: (Vec::new(), None), warnings };
        if let (true, Some(Sample { picture: [_, height, width], .. })) = (decodes, preview.parts.picture) {
            let batch = Batch { size: Some([height, width]), ..Batch::plain(1) };
            let ready = match preview.components.get(PREVIEW_DECODER, stopped).await {
                Ok(decoder) => decoder.prepare(batch).await.err(),
                Err(error) => Some(error),
            };
            ready.map_or(Ok(()), |error| preview.give_up(error))?;
        }
        Ok(preview)
    }

    /// Goes on without the decoder, unless the caller has stopped it.
    fn give_up(&mut self, error: Error) -> Result<()> {
        if error.code == Code::Aborted {
            return Err(error);
        }
        self.decodes = false;
        self.warnings.push(["the preview decoder is not used: ", &error.cause].concat());
        Ok(())
    }

    /// Adds to an event what is shown of estimates, image by image.
    ///
    /// # Errors
    /// `ABORTED`; what else goes wrong is a warning.
    pub(super) async fn show(
        &mut self,
        estimates: Vec<f32>,
        event: &mut StepEvent,
        stopped: &dyn Fn() -> bool,
    ) -> Result<()> {
        let of_image = self.parts.of_image;
        let part = |range: Range<usize>| -> Vec<f32> {
            estimates.chunks(of_image).flat_map(|image| &image[range.clone()]).copied().collect()
        };
        if let Some(sample) = self.parts.picture {
            let estimates = sample.to_frames(&part(0..sample.elements()));
            let frames = sample.frames.unwrap_or(0);
            event.values = Some(Snapshot { frames, ..self.pictures(estimates, sample.picture, stopped).await? });
        }
        if let Some(text) = self.parts.text.clone() {
            self.tell(part(text), stopped).await?;
            event.texts.clone_from(&self.told.0);
        }
        Ok(())
    }

    async fn pictures(
        &mut self,
        estimates: Vec<f32>,
        shape: [usize; 3],
        stopped: &dyn Fn() -> bool,
    ) -> Result<Snapshot> {
        if self.decodes {
            match self.decoded(&estimates, shape, stopped).await {
                Ok(shown) => return Ok(shown),
                Err(error) => self.give_up(error)?,
            }
        }
        let [channels, height, width] = shape;
        let Some(linear) = self.linear else {
            return Ok(Snapshot { values: estimates, shape: shape.to_vec(), frames: 0 });
        };
        let mut values = Vec::new();
        for image in estimates.chunks(channels * height * width) {
            values.extend(linear.colours(image));
        }
        Ok(Snapshot { values, shape: vec![3, height, width], frames: 0 })
    }

    async fn decoded(&mut self, estimates: &[f32], shape: [usize; 3], stopped: &dyn Fn() -> bool) -> Result<Snapshot> {
        let decoder = self.components.loaded(PREVIEW_DECODER)?;
        let mut shown = Snapshot::default();
        for image in estimates.chunks(shape.iter().product()) {
            DECODING.add(decoder, image, shape, stopped, &mut shown).await?;
        }
        Ok(shown)
    }

    async fn tell(&mut self, latents: Vec<f32>, stopped: &dyn Fn() -> bool) -> Result<()> {
        let began = Instant::now();
        let Some(captions) = &mut self.captions else { return Ok(()) };
        if self.told.1.is_some_and(|next| began < next) {
            return Ok(());
        }
        match captions.tell(self.components, &latents, 1, &mut |_, _| {}, stopped).await {
            Ok(told) => {
                let took: Duration = began.elapsed();
                self.told = (told.into_iter().map(|caption| caption.text).collect(), Some(began + took * TELLING));
            }
            Err(error) if error.code == Code::Aborted => return Err(error),
            Err(error) => {
                self.captions = None;
                self.warnings.push(["texts are not previewed: ", &error.cause].concat());
            }
        }
        Ok(())
    }
}
