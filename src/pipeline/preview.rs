//! What a step shows of pictures that are not done: of pixels the estimate itself; of latents what the model's preview decoder makes of
//! it, or a linear map, or else their own channels. A preview never fails a generation.

use super::components::Components;
use super::decoding::DECODING;
use super::sampling::Snapshot;
use crate::model::Batch;
use crate::package::{LatentRgb, Manifest, PREVIEW_DECODER};
use crate::{Code, Error, Result};

/// How estimates become pictures.
pub struct Preview<'a> {
    components: &'a mut Components,
    linear: Option<&'a LatentRgb>,
    /// Whether there is a preview decoder that has not failed.
    decodes: bool,
    /// `[channels, height, width]` of an estimate.
    shape: [usize; 3],
    warnings: &'a mut Vec<String>,
}

impl<'a> Preview<'a> {
    /// Of a model whose estimates have this shape. Makes the decoder ready: nothing is loaded or compiled between steps.
    ///
    /// # Errors
    /// `ABORTED`.
    pub(super) async fn new(
        manifest: &'a Manifest,
        components: &'a mut Components,
        shape: [usize; 3],
        warnings: &'a mut Vec<String>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Preview<'a>> {
        let decodes = components.network(PREVIEW_DECODER).is_some();
        let mut preview = Preview { components, linear: manifest.preview.as_ref(), decodes, shape, warnings };
        if decodes {
            let batch = Batch { size: Some([shape[1], shape[2]]), ..Batch::plain(1) };
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

    /// The pictures of estimates `[count, channels, height, width]`.
    ///
    /// # Errors
    /// `ABORTED`; what else goes wrong is a warning.
    pub(super) async fn show(&mut self, estimates: Vec<f32>, stopped: &dyn Fn() -> bool) -> Result<Snapshot> {
        if self.decodes {
            match self.decoded(&estimates, stopped).await {
                Ok(shown) => return Ok(shown),
                Err(error) => self.give_up(error)?,
            }
        }
        let [channels, height, width] = self.shape;
        let Some(linear) = self.linear else {
            return Ok(Snapshot { values: estimates, shape: self.shape.to_vec() });
        };
        let mut values = Vec::new();
        for image in estimates.chunks(channels * height * width) {
            values.extend(linear.colours(image));
        }
        Ok(Snapshot { values, shape: vec![3, height, width] })
    }

    async fn decoded(&mut self, estimates: &[f32], stopped: &dyn Fn() -> bool) -> Result<Snapshot> {
        let decoder = self.components.loaded(PREVIEW_DECODER)?;
        let mut shown = Snapshot::default();
        for image in estimates.chunks(self.shape.iter().product()) {
            DECODING.add(decoder, image, self.shape, stopped, &mut shown).await?;
        }
        Ok(shown)
    }
}
