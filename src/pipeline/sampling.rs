//! The step loop: walks a sampler's recipe. Latents, model outputs and the solver's history stay on the device; what crosses
//! is the noise, the times, and a preview where one is asked for.

use super::denoiser::Denoiser;
use super::guidance::Guidance;
use super::helpers::Helpers;
use super::noise::Noise;
use super::preview::Preview;
use super::savings::Pass;
use crate::decimal::decimal;
use crate::runtime::turn;
use crate::sampler::dpm_adaptive::MAX_ATTEMPTS;
use crate::sampler::{Adaptive, Recipe, Slot, Step};
use crate::{Code, Error, Result};
use web_time::Instant;

/// What is read back at every step. Each costs a wait for the device.
pub enum Readback<'a> {
    /// Nothing.
    None,
    /// The estimate of x0 as a picture.
    Preview(Preview<'a>),
    /// x_t after the step.
    Latents,
}

/// What was read back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// `[count, channels, height, width]`, not clipped, of clips frame after frame; latents of several ports one after the other, image
    /// by image.
    pub values: Vec<f32>,
    /// Of a clip; 0 where they are no clips.
    pub frames: usize,
    /// `[channels, height, width]` of an image; of latents of several ports, of the first.
    pub shape: Vec<usize>,
}

/// What a generation is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Texts become what the denoiser is given.
    Text,
    /// Pictures to start from become latents.
    Encoding,
    /// The step loop.
    Sampling,
    /// Latents become pixels.
    Decoding,
    /// Latents become texts, token by token.
    Captioning,
}

impl Stage {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Text => "text",
            Stage::Encoding => "encoding",
            Stage::Sampling => "sampling",
            Stage::Decoding => "decoding",
            Stage::Captioning => "captioning",
        }
    }
}

/// One step is done; on a GPU its last chunk may still run, unless something is read back.
#[derive(Clone, Debug)]
pub struct StepEvent {
    /// Of which stage.
    pub stage: Stage,
    /// Counted from 1; of stages around the step loop, 0 says that they begin.
    pub step: usize,
    /// How many there will be.
    pub steps: usize,
    /// Since the stage began.
    pub elapsed_ms: f64,
    /// Of a clip the window that is drawn, counted from 1, and how many there will be.
    pub window: usize,
    /// Mostly 1.
    pub windows: usize,
    /// What [`Readback`] asked for.
    pub values: Option<Snapshot>,
    /// Of texts that are drawn what is known of them, one for each image: while sampling those of the estimate, where a preview is
    /// asked for; while captioning, what is told so far.
    pub texts: Vec<String>,
}

impl StepEvent {
    /// Without anything to show.
    pub(super) fn new(stage: Stage, step: usize, steps: usize, began: Instant) -> StepEvent {
        let elapsed_ms = began.elapsed().as_secs_f64() * 1e3;
        StepEvent { stage, step, steps, elapsed_ms, window: 1, windows: 1, values: None, texts: Vec::new() }
    }
}

/// How the caller watches and stops the loop.
pub struct Control<'a> {
    /// Called after every step.
    pub on_step: &'a mut dyn FnMut(StepEvent),
    /// Asked between kernels: true ends the loop with `ABORTED`.
    pub stopped: &'a dyn Fn() -> bool,
}

/// A picture to start from.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// x_0 of the first port that is drawn, `[count, channels, height, width]`; of others nothing is known, and theirs is 0.
    pub values: &'a [f32],
    /// What is kept of it.
    pub mask: Option<Mask<'a>>,
}

/// Which parts of a picture are painted anew.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// 1: painted anew, 0: kept; of the picture's shape. Other ports are drawn freely.
    pub values: &'a [f32],
    /// The kept parts get other noise at every step, not that of the start.
    pub fresh_noise: bool,
    /// Sampling starts from noise alone, as it does without a picture.
    pub from_noise: bool,
    /// What is kept pulls what is not: see [`Denoiser::remind`]. For frames, which otherwise go on as if nothing were known.
    pub insist: bool,
}

/// What is sampled. Where the network draws several ports, an image's values are those of one port after the other.
pub struct Inputs<'a> {
    /// What the network is given, and how its outputs become one.
    pub guidance: Guidance,
    /// Standard normal `[count, channels, height, width]`, or none: drawn from `noise`.
    pub start: Option<&'a [f32]>,
    /// A picture that this noise is mixed into, by the recipe's first level.
    pub picture: Option<Picture<'a>>,
    /// Where noise comes from.
    pub noise: &'a mut Noise,
    /// What to read back at every step.
    pub readback: Readback<'a>,
    /// What each evaluation runs; empty: all of them everything.
    pub passes: Vec<Pass>,
}

/// Walks `recipe`; returns the final latents `[count, channels, height, width]`, as [`Inputs`] has them. `helpers` are those that `denoiser` was made
/// for.
///
/// # Errors
/// `ABORTED` when stopped, `DEVICE_LOST`, `NOT_FINITE` if the result is not finite.
pub async fn sample(
    denoiser: &mut Denoiser,
    recipe: &Recipe,
    mut inputs: Inputs<'_>,
    control: &mut Control<'_>,
    helpers: Option<&dyn Helpers>,
) -> Result<Vec<f32>> {
    let began = Instant::now();
    let (elements, count) = (denoiser.elements(), denoiser.shape().batch.images);
    // Drawn whether it is used or not: what the first stochastic step draws does not depend on where the start came from.
    let noise = denoiser.drawn.start(inputs.noise);
    let mut start = match inputs.start {
        Some(values) if values.len() == elements && values.iter().all(|v| v.is_finite()) => values.to_vec(),
        Some(values) if values.len() == elements => {
            let cause = "the start latents hold a value that is NaN or infinite";
            return Err(Error::new(Code::InvalidArgument, cause, "Give finite values"));
        }
        Some(values) => {
            return Err(Error::new(
                Code::InvalidArgument,
                format!("the start latents hold {} values, {elements} are needed", values.len()),
                "Give [count, channels, height, width] values",
            ));
        }
        None => noise,
    };
    let mask = inputs.picture.and_then(|picture| picture.mask);
    if let Some(picture) = inputs.picture {
        let (given, needed) = (picture.values.len(), count * denoiser.drawn.of_picture());
        if given != needed {
            return Err(Error::internal(format!("the picture to start from has {given} values, not {needed}")));
        }
        if let Some(mask) = mask {
            denoiser.give_kept(picture.values, &start, mask.values)?;
        }
    }
    match inputs.picture.filter(|_| mask.is_none_or(|mask| !mask.from_noise)) {
        None => start.iter_mut().for_each(|v| *v *= recipe.init_noise_sigma as f32),
        Some(picture) => {
            let [alpha_t, sigma_t] = recipe.start.map(|share| share as f32);
            start.iter_mut().for_each(|v| *v *= sigma_t);
            let pictures = picture.values.chunks(denoiser.drawn.of_picture());
            for (of_image, x0) in start.chunks_mut(denoiser.drawn.of_image()).zip(pictures) {
                of_image.iter_mut().zip(x0).for_each(|(v, x0)| *v += alpha_t * x0);
            }
        }
    }
    denoiser.write(Slot::Latents, &start)?;
    denoiser.give(&inputs.guidance)?;

    let arrivals = recipe.steps.iter().filter(|step| matches!(step, Step::Arrive { .. })).count();
    let everything = Pass { guided: inputs.guidance.copies.len() > 1, whole: true };
    let mut walk = Walk { began, pass: everything, everything, step: 0, arrivals, arrived: 0 };
    walk.along(&recipe.steps, recipe.evaluations, denoiser, &mut inputs, control, helpers).await?;
    if let Some(adaptive) = &recipe.adaptive {
        let mut adaptive = adaptive.clone();
        let mut attempts = 0;
        while let Some(steps) = adaptive.attempt() {
            attempts += 1;
            let calls = steps.iter().filter(|step| matches!(step, Step::Eval { .. })).count();
            let expected = ((walk.step + calls) as f64 / adaptive.progress().max(0.02)).round() as usize;
            walk.along(&steps, expected, denoiser, &mut inputs, control, helpers).await?;
            let f64s = |values: Vec<f32>| -> Vec<f64> { values.into_iter().map(f64::from).collect() };
            let [low, before] = Adaptive::compared();
            let high = f64s(denoiser.latents().await?);
            let (low, before) = (f64s(denoiser.read(low).await?), f64s(denoiser.read(before).await?));
            let error = adaptive.error(count, &high, &low, &before);
            if attempts > MAX_ATTEMPTS || !error.is_finite() {
                let cause = format!("the sampler's error estimate is {} after {attempts} attempts", decimal(error));
                return Err(Error::new(Code::NotFinite, cause, "Lower the guidance scale, or take another sampler"));
            }
            let steps = adaptive.settle(error);
            walk.along(&steps, expected, denoiser, &mut inputs, control, helpers).await?;
        }
    }
    let result = denoiser.latents().await?;
    finite(&result, "Lower the guidance scale, or raise the number of steps")?;
    Ok(result)
}

/// The state of a walk.
struct Walk {
    began: Instant,
    pass: Pass,
    everything: Pass,
    /// Calls of the network so far.
    step: usize,
    /// Updates of the recipe, and how many are done.
    arrivals: usize,
    arrived: usize,
}

impl Walk {
    async fn along(
        &mut self,
        steps: &[Step],
        expected: usize,
        denoiser: &mut Denoiser,
        inputs: &mut Inputs<'_>,
        control: &mut Control<'_>,
        helpers: Option<&dyn Helpers>,
    ) -> Result<()> {
        let mask = inputs.picture.and_then(|picture| picture.mask);
        let mut preview = None;
        let mut called = false;
        let mut steps = steps.iter().peekable();
        while let Some(instruction) = steps.next() {
            match instruction {
                Step::Eval { network_time, x0 } => {
                    self.pass = inputs.passes.get(self.step).copied().unwrap_or(self.everything);
                    let copies = if self.pass.guided { inputs.guidance.copies.len() } else { 1 };
                    denoiser.renew(&inputs.guidance, inputs.noise, copies)?;
                    denoiser.evaluate(*network_time, self.pass, helpers, control.stopped).await?;
                    turn().await;
                    if (control.stopped)() {
                        return Err(Error::new(Code::Aborted, "the generation was stopped", "Call generate again"));
                    }
                    if self.pass.guided && inputs.guidance.rescale > 0.0 {
                        denoiser.rescale(&inputs.guidance).await?;
                        self.pass.guided = false;
                    }
                    if matches!(inputs.readback, Readback::Preview(_)) {
                        preview = Some(denoiser.preview(*x0, &inputs.guidance, self.pass.guided).await?);
                    }
                    if mask.is_some_and(|mask| mask.insist) {
                        denoiser.remind(*x0, &inputs.guidance, self.pass.guided)?;
                    }
                    self.step += 1;
                    called = true;
                }
                Step::Combine { out, terms, clip } => {
                    let terms: Vec<(Slot, f64)> = terms.iter().map(|t| (t.slot, t.coefficient)).collect();
                    denoiser.combine(*out, &terms, &inputs.guidance, self.pass.guided, *clip)?;
                }
                Step::Arrive { alpha_t, sigma_t } => {
                    if let Some(mask) = mask {
                        self.arrived += 1;
                        // In the end the kept parts are the picture itself.
                        let last = self.arrived == self.arrivals;
                        let (alpha_t, sigma_t) = if last { (1.0, 0.0) } else { (*alpha_t, *sigma_t) };
                        if mask.fresh_noise && !last {
                            denoiser.renew_kept(&denoiser.drawn.noise(inputs.noise))?;
                        }
                        denoiser.keep(alpha_t, sigma_t, mask.insist && !last)?;
                    }
                }
                Step::Noise { out } => denoiser.write(*out, &denoiser.drawn.noise(inputs.noise))?,
                Step::Spread { out, noise, log_std } => denoiser.spread(*out, *noise, *log_std)?,
            }
            if called && matches!(steps.peek(), None | Some(Step::Eval { .. })) {
                let mut event = StepEvent::new(Stage::Sampling, self.step, expected, self.began);
                match (&mut inputs.readback, preview.take()) {
                    (Readback::Preview(preview), Some(x0)) => preview.show(x0, &mut event, control.stopped).await?,
                    (Readback::Latents, _) => {
                        let shape = denoiser.picture_shape().to_vec();
                        event.values = Some(Snapshot { values: denoiser.latents().await?, shape, frames: 0 });
                    }
                    _ => {}
                }
                (control.on_step)(event);
            }
        }
        Ok(())
    }
}

/// Whether a result is finite.
///
/// # Errors
/// `NOT_FINITE` naming the first value that is not.
pub fn finite(values: &[f32], remedy: &str) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(i) => Err(Error::new(
            Code::NotFinite,
            format!("value {i} of the result is {}", decimal(values[i].into())),
            remedy,
        )),
    }
}

/// Noise of `generate()`: image k of a call has seed + k stride.
///
/// # Errors
/// `INVALID_ARGUMENT` if the last seed exceeds 2^32 - 1.
pub fn noise_for(seed: u32, stride: u32, count: usize) -> Result<Noise> {
    if u64::from(seed) + (count as u64 - 1) * u64::from(stride) >= 1 << 32 {
        return Err(Error::new(
            Code::InvalidArgument,
            format!("seed {seed} with {count} images goes beyond 4294967295"),
            "Give a smaller seed or count",
        ));
    }
    Ok(Noise::per_image(seed, stride, count))
}
