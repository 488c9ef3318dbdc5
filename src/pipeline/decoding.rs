//! The last stage of a model of latents: from latents to pixels. What the first one of a picture to start from has in common with it
//! ([`super::encoding`]) is here, too: one picture after the other, so that a call of many takes the memory of one.

use super::component::Component;
use super::components::Components;
use super::sampling::{Control, Snapshot, Stage, StepEvent};
use super::tensors::{NamedTensor, Values};
use crate::package::{DECODER, ENCODER};
use crate::plan::Compute;
use crate::{Code, Error, Result};
use web_time::Instant;

/// The last stage, and what previews have in common with it.
pub(super) const DECODING: Half = Half { component: DECODER, stage: Stage::Decoding, takes: "z", gives: &["decoded"] };

/// The first stage of a picture to start from, or to look at; a KL autoencoder's half gives moments, a tiny one's latents.
pub(super) const ENCODING: Half =
    Half { component: ENCODER, stage: Stage::Encoding, takes: "image", gives: &["moments", "latents"] };

/// One half of an autoencoder, and the stage that it is.
pub(super) struct Half {
    pub component: &'static str,
    pub stage: Stage,
    /// The port that a picture goes into, and those of which one gives what becomes of it.
    pub takes: &'static str,
    pub gives: &'static [&'static str],
}

impl Half {
    /// Runs it on `[count, channels, height, width]`; gives what it gives, and says what was not as it should be.
    ///
    /// # Errors
    /// `ABORTED`, `DEVICE_LOST`, `OUT_OF_MEMORY`, `NOT_FINITE`, and those of loading the component.
    pub async fn run(
        &self,
        components: &mut Components,
        values: &[f32],
        shape: [usize; 3],
        control: &mut Control<'_>,
    ) -> Result<(Snapshot, Vec<String>)> {
        let began = Instant::now();
        let images = values.chunks(shape.iter().product());
        let (stage, steps) = (self.stage, images.len());
        let report = |control: &mut Control<'_>, step: usize| {
            (control.on_step)(StepEvent::new(stage, step, steps, began));
        };
        report(control, 0);
        let (mut all, mut warnings) = (Snapshot::default(), Vec::new());
        let mut exact: Option<Component> = None;
        for (k, image) in images.enumerate() {
            let component = match &mut exact {
                Some(exact) => exact,
                None => components.get(self.component, control.stopped).await?,
            };
            match self.add(component, image, shape, control.stopped, &mut all).await {
                // Numbers too large for the arithmetic, perhaps: those of f32 are larger.
                Err(error) if error.code == Code::NotFinite && exact.is_none() && can_repeat(components) => {
                    let (stage, compute) = (stage.as_str(), components.compute().as_str());
                    warnings
                        .push(format!("{stage} in {compute} gave numbers that are not finite: it was repeated in f32"));
                    components.done(self.component);
                    let loaded = components.load(self.component, Compute::F32, control.stopped).await?;
                    self.add(exact.insert(loaded), image, shape, control.stopped, &mut all).await?;
                }
                result => result?,
            }
            report(control, k + 1);
        }
        components.done(self.component);
        Ok((all, warnings))
    }

    /// Adds what a component makes of one image.
    ///
    /// # Errors
    /// As [`Component::forward`].
    pub async fn add(
        &self,
        component: &mut Component,
        image: &[f32],
        [channels, height, width]: [usize; 3],
        stopped: &dyn Fn() -> bool,
        all: &mut Snapshot,
    ) -> Result<()> {
        let shape = Some(vec![1, channels, height, width]);
        let given = [NamedTensor { name: self.takes.into(), shape, values: Values::Floats(image.to_vec()) }];
        let result = component.forward(&given, stopped).await?;
        let made = result.into_iter().find(|tensor| self.gives.contains(&tensor.name.as_str()));
        let Some(NamedTensor { values: Values::Floats(values), shape: Some(shape), .. }) = made else {
            return Err(Error::internal(format!("component {} gave nothing", self.component)));
        };
        all.values.extend(values);
        all.shape = shape[1..].to_vec();
        Ok(())
    }
}

fn can_repeat(components: &Components) -> bool {
    components.can_load() && components.compute() != Compute::F32
}
