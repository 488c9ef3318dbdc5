//! The last stage of a model of latents: from latents to pixels, one picture after the other, so that a call of many takes the
//! memory of one.

use super::component::Component;
use super::components::Components;
use super::sampling::{Control, Snapshot, Stage, StepEvent};
use super::tensors::{NamedTensor, Values};
use crate::package::DECODER;
use crate::plan::Compute;
use crate::{Code, Error, Result};
use web_time::Instant;

/// Decodes latents `[count, channels, height, width]`; says what was not as it should be.
///
/// # Errors
/// `ABORTED`, `DEVICE_LOST`, `OUT_OF_MEMORY`, `NOT_FINITE`, and those of loading the component.
pub(super) async fn decode(
    components: &mut Components,
    latents: &[f32],
    [channels, height, width]: [usize; 3],
    control: &mut Control<'_>,
) -> Result<(Vec<f32>, Vec<String>)> {
    let began = Instant::now();
    let images = latents.chunks(channels * height * width);
    let steps = images.len();
    let report = |control: &mut Control<'_>, step: usize| {
        let elapsed_ms = began.elapsed().as_secs_f64() * 1e3;
        (control.on_step)(StepEvent { stage: Stage::Decoding, step, steps, elapsed_ms, values: None });
    };
    report(control, 0);
    let (mut pixels, mut warnings) = (Vec::new(), Vec::new());
    let mut exact: Option<Component> = None;
    for (k, latents) in images.enumerate() {
        let shape = [channels, height, width];
        let decoder = match &mut exact {
            Some(exact) => exact,
            None => components.get(DECODER, control.stopped).await?,
        };
        let picture = match decoded(decoder, latents, shape, control.stopped).await {
            // Numbers too large for the arithmetic, perhaps: those of f32 are larger.
            Err(error) if error.code == Code::NotFinite && exact.is_none() && can_repeat(components) => {
                let compute = components.compute().as_str();
                warnings
                    .push(format!("decoding in {compute} gave numbers that are not finite: it was repeated in f32"));
                components.done(DECODER);
                let exact = exact.insert(components.load(DECODER, Compute::F32, control.stopped).await?);
                decoded(exact, latents, shape, control.stopped).await?
            }
            result => result?,
        };
        pixels.extend(picture.values);
        report(control, k + 1);
    }
    components.done(DECODER);
    Ok((pixels, warnings))
}

/// What a decoder makes of latents `[count, channels, height, width]`, one image after the other.
///
/// # Errors
/// As [`Component::forward`].
pub(super) async fn decoded(
    decoder: &mut Component,
    latents: &[f32],
    [channels, height, width]: [usize; 3],
    stopped: &dyn Fn() -> bool,
) -> Result<Snapshot> {
    let mut pictures = Snapshot { values: Vec::new(), shape: Vec::new() };
    for image in latents.chunks(channels * height * width) {
        let shape = Some(vec![1, channels, height, width]);
        let given = [NamedTensor { name: "z".into(), shape, values: Values::Floats(image.to_vec()) }];
        // It has one port that gives something.
        let result = decoder.forward(&given, stopped).await?.pop();
        let Some(NamedTensor { values: Values::Floats(values), shape: Some(shape), .. }) = result else {
            return Err(Error::internal("a decoder decoded nothing"));
        };
        pictures.values.extend(values);
        pictures.shape = shape[1..].to_vec();
    }
    Ok(pictures)
}

fn can_repeat(components: &Components) -> bool {
    components.can_load() && components.compute() != Compute::F32
}
