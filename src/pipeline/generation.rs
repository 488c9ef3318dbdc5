//! One generation from the first stage to the last: texts are read and pictures seen, step loops draw, and what they have drawn
//! becomes pictures and texts.

use super::clip::{Clip, Kept};
use super::conditions::Conditions;
use super::decoding::{DECODING, ENCODING};
use super::denoiser::{Denoiser, Shape};
use super::encoding::Origin;
use super::helpers::Helpers;
use super::modes::{Known, Mode};
use super::noise::Noise;
use super::preview::{Parts, Preview};
use super::request::Request;
use super::result::Timings;
use super::sampling::{Control, Inputs, Mask, Picture, Readback, Stage, StepEvent, noise_for, sample};
use super::tensors::{NamedTensor, Values, floats};
use super::{Caption, Generated, MAX_BEAMS, MAX_COUNT, Pipeline, invalid, savings};
use crate::model::{Batch, Network};
use crate::package::{BlockCache, CAPTION_DECODER, DECODER, DENOISER, ENCODER, IMAGE_ENCODER, PREVIEW_DECODER};
use crate::sampler::{Recipe, SamplerSettings, guidance::needs_uncond, recipe};
use crate::{Error, Result};
use web_time::Instant;

/// A request with everything decided that it leaves open, before anything runs.
pub(super) struct Settled<'r> {
    request: &'r Request,
    pub count: usize,
    pub clip: Clip,
    mode: Option<Mode>,
    settings: SamplerSettings,
    recipe: Recipe,
    strength: Option<f64>,
    cache: Option<BlockCache>,
    guidance_scale: f64,
}

/// What a generation has come to so far.
pub(super) struct Progress {
    noise: Noise,
    timings: Timings,
    warnings: Vec<String>,
    /// Workers that shared the items.
    workers: usize,
    /// Step loops that are done, and how many there will be.
    half: usize,
    halves: usize,
    /// Of a clip, the window that is drawn, from 0.
    pub window: usize,
}

/// What a step loop has drawn, by port: `[count, ..]` each.
pub(super) type Drawn = Vec<NamedTensor>;

impl Known {
    /// What the next step loop is given of what one has drawn; it leads away from nothing but noise.
    fn of(drawn: &[NamedTensor]) -> Result<Known> {
        let (mut picture, text) = (None, floats(drawn, "text").ok().cloned());
        if text.is_none() {
            picture = Some([floats(drawn, "img")?.clone(), floats(drawn, "clip_img")?.clone()]);
        }
        Ok(Known { picture, text, negative: None })
    }
}

impl Pipeline {
    pub(super) async fn run_stages(
        &mut self,
        request: &Request,
        control: &mut Control<'_>,
        helpers: Option<&dyn Helpers>,
    ) -> Result<Generated> {
        let began = Instant::now();
        let settled = self.settle(request)?;
        let Settled { count, mode, guidance_scale, .. } = settled;
        let origin = self.origin(request, count, &settled.clip)?;
        let mut labels = self.labels(request, count)?;
        let label = labels.as_ref().map(|labels| labels[0]).filter(|_| request.labels.is_none());
        let device = self.components.device().clone();
        let (dispatched, encoded, worked) = (device.dispatches(), device.encode_time(), device.multiply_adds());
        let mut progress = Progress {
            noise: noise_for(request.seed, request.seed_stride.unwrap_or(1), count)?,
            timings: Timings::default(),
            warnings: Vec::new(),
            workers: 1,
            half: 0,
            halves: mode.map_or(1, |mode| mode.halves().len()),
            window: 0,
        };

        let [text, negative] = self.read(&settled, control, &mut progress).await?;
        let start = match &origin {
            Some(origin) => {
                let Progress { timings, warnings, .. } = &mut progress;
                Some(origin.start(&mut self.components, control, timings, warnings).await?)
            }
            None => None,
        };
        let picture = match mode.filter(|mode| mode.takes_image()) {
            Some(_) => Some(self.see(&settled, control, &mut progress).await?),
            None => None,
        };
        let mut known = Known { picture, text, negative };
        let mut drawn = Vec::new();
        let halves = mode.map_or(&[][..], Mode::halves);
        while progress.half < progress.halves {
            let conditions = match halves.get(progress.half) {
                Some(half) => self.half(*half, &known, guidance_scale, count)?,
                None => {
                    self.conditions(labels.take(), [known.text.take(), known.negative.take()], guidance_scale, count)?
                }
            };
            let of_half = self.draw_clip(&settled, conditions, start.as_ref(), control, &mut progress, helpers).await?;
            progress.half += 1;
            if progress.half < progress.halves {
                known = Known::of(&of_half)?;
            }
            drawn.extend(of_half);
        }
        self.components.done(DENOISER);
        self.components.done(PREVIEW_DECODER);

        let mut values = Vec::new();
        if mode.is_none_or(Mode::gives_images) {
            values = self.decode(&drawn, settled.clip.frames, origin.as_ref(), control, &mut progress).await?;
        }
        let mut texts = Vec::new();
        if mode.is_some_and(Mode::gives_texts) && self.components.network(CAPTION_DECODER).is_some() {
            texts = self.tell(floats(&drawn, "text")?, request.beams, control, &mut progress).await?;
        }

        let Progress { mut timings, warnings, workers, .. } = progress;
        timings.total_ms = began.elapsed().as_secs_f64() * 1e3;
        timings.encode_ms = (device.encode_time() - encoded).as_secs_f64() * 1e3;
        let [channels, height, width] = self.picture_shape;
        let Settled { settings, strength, clip, .. } = settled;
        Ok(Generated {
            values,
            texts,
            latents: if request.latents { drawn } else { Vec::new() },
            mode,
            count,
            frames: clip.frames,
            frame_rate: self.frame_rate(),
            overlap: clip.overlap,
            first_frames: origin.map_or(0, |origin| origin.first),
            channels,
            height,
            width,
            label,
            label_name: self.manifest.labels.iter().find(|l| Some(l.index) == label).map(|l| l.name.clone()),
            prompt: request.prompt.clone(),
            prompt_2: request.prompt_2.clone(),
            negative_prompt: request.negative_prompt.clone(),
            steps: settings.steps,
            guidance_scale,
            seed: request.seed,
            sampler: settings.sampler,
            grid: settings.walked(),
            eta: settings.eta,
            churn: settings.churn,
            strength,
            masked: request.mask.is_some(),
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

    fn settle<'r>(&self, request: &'r Request) -> Result<Settled<'r>> {
        let count = request.count.unwrap_or(1);
        if !(1..=MAX_COUNT).contains(&count) {
            return Err(invalid(format!("count is {count}"), format!("Give a whole number from 1 to {MAX_COUNT}")));
        }
        if let Some(beams) = request.beams.filter(|beams| !(1..=MAX_BEAMS).contains(beams)) {
            return Err(invalid(format!("beams is {beams}"), format!("Give a whole number from 1 to {MAX_BEAMS}")));
        }
        let mode = self.mode(request)?;
        let clip = self.clip(request)?;
        let mut settings = self.settings(request);
        let strength = request.strength()?;
        settings.skip = strength.map_or(0, |strength| settings.skipped(strength));
        let recipe = recipe(&settings)?;
        request.check(recipe.adaptive.is_some(), settings.sampler, clip.windows.len())?;
        let cache = self.manifest.sampling.cache.as_ref().filter(|_| request.cache);
        if request.cache && cache.is_none() {
            let remedy = "Leave cache out, or calibrate the model with `uvit block-cache`";
            return Err(invalid("cache is on, and the manifest has no calibrated schedule for it", remedy));
        }
        let (cache, guidance_scale) = (cache.cloned(), self.guidance_scale(request, mode)?);
        Ok(Settled { request, count, clip, mode, settings, recipe, strength, cache, guidance_scale })
    }

    /// The stage of texts: their embeddings, and those that guidance leads away from.
    async fn read(
        &mut self,
        settled: &Settled<'_>,
        control: &mut Control<'_>,
        progress: &mut Progress,
    ) -> Result<[Option<Vec<f32>>; 2]> {
        let Settled { request, count, mode, guidance_scale, .. } = *settled;
        let guided = needs_uncond(guidance_scale);
        if request.negative_prompt.is_some() && !guided {
            progress.warnings.push("the negative prompt does nothing at guidanceScale 1".into());
        }
        let texts = self.texts(request, mode, count, guided)?;
        if let (Some(texts), Some(words)) = (&texts, &mut self.words) {
            let (all, began) = (texts.all(), Instant::now());
            let mut report = |step| (control.on_step)(StepEvent::new(Stage::Text, step, 1, began));
            let learnt = words.learn(&all, &mut self.components, &mut || report(0), control.stopped).await?;
            if learnt.ran {
                progress.timings.text_ms = began.elapsed().as_secs_f64() * 1e3;
                report(1);
            }
            progress.warnings.extend(learnt.warnings);
        }
        if mode.is_some_and(|mode| !mode.takes_prompt()) {
            return Ok([None, None]);
        }
        self.embeddings(request, texts.as_ref(), count, guided)
    }

    /// The stage of a picture that a mode starts from: latents, a sample of the encoder's distribution, and the CLIP embedding.
    async fn see(
        &mut self,
        settled: &Settled<'_>,
        control: &mut Control<'_>,
        progress: &mut Progress,
    ) -> Result<[Vec<f32>; 2]> {
        let (began, count) = (Instant::now(), settled.count);
        let image = settled.request.image.as_ref().ok_or_else(|| Error::internal("there is no image"))?;
        let (shape, latent_shape) = (self.start_shape, self.network.image_shape());
        let square = image.square(shape[1]);
        let (encoded, warnings) = ENCODING.run(&mut self.components, &square.signed(), shape, control).await?;
        progress.warnings.extend(warnings);
        let noise = progress.noise.draw(count, &[latent_shape.iter().product()]);
        let of_all = encoded.values.repeat(count);
        let latents = match self.components.network(ENCODER) {
            Some(Network::AutoencoderKlEncoder(config)) => config.latents(&of_all, count, &noise),
            _ => of_all,
        };
        let seer = self.components.get(IMAGE_ENCODER, control.stopped).await?;
        let recording = seer.network().record(Batch::plain(1))?;
        let pixels =
            recording.port("pixel_values").ok_or_else(|| Error::internal("the image encoder takes no pixels"))?;
        let size = recording.plan.shape(pixels.tensor)[2];
        let given = [NamedTensor::new("pixel_values", Values::Floats(square.for_clip(size)))];
        let embedding = floats(&seer.forward(&given, control.stopped).await?, "image_embeds")?.repeat(count);
        self.components.done(IMAGE_ENCODER);
        progress.timings.encoding_ms = began.elapsed().as_secs_f64() * 1e3;
        Ok([latents, embedding])
    }

    /// A step loop.
    pub(super) async fn draw(
        &mut self,
        settled: &Settled<'_>,
        conditions: Conditions,
        kept: Option<&Kept>,
        control: &mut Control<'_>,
        progress: &mut Progress,
        helpers: Option<&dyn Helpers>,
    ) -> Result<Drawn> {
        let Settled { request, count, clip, settings, recipe, cache, .. } = settled;
        let Conditions { mut guidance, drawn } = conditions;
        guidance.rescale = request.guidance_rescale;
        guidance.channels = self.manifest.sampling.guided_channels;
        let Progress { noise, timings, warnings, workers, half, halves, window } = progress;
        let windows = clip.windows.len();
        let guided = guidance.copies.len() > 1;
        // Helpers keep nothing between their forwards.
        let helpers = helpers.filter(|_| cache.is_none());
        let batch = guidance.batch(*count);
        let shape = Shape {
            batch,
            drawn: drawn.clone(),
            scratch_slots: recipe.scratch_slots,
            workers: (1 + helpers.map_or(0, Helpers::count)).min(batch.items()),
            outer: cache.as_ref().map(|cache| cache.outer),
            // All windows in one memory.
            masked: windows > 1 || kept.is_some_and(|kept| kept.mask.is_some()),
            absent: guidance.absent(),
        };
        let mut inputs = Inputs {
            guidance,
            start: request.start.as_deref(),
            picture: kept.map(|kept| Picture {
                values: &kept.values,
                mask: kept.mask.as_deref().map(|values| Mask {
                    values,
                    fresh_noise: request.fresh_noise,
                    from_noise: settings.skip == 0,
                    insist: kept.insist,
                }),
            }),
            noise,
            readback: Readback::None,
            passes: savings::passes(
                recipe,
                [settings.time_scale, settings.time_offset],
                guided,
                request.guidance_interval,
                cache.as_ref(),
            ),
        };
        let component = self.components.get(DENOISER, control.stopped).await?;
        if self.denoiser.as_ref().is_none_or(|denoiser| *denoiser.shape() != shape) {
            self.denoiser = None;
            component.release();
            self.denoiser = Some(Denoiser::new(component, shape).await?);
        }
        let denoiser = self.denoiser.as_mut().ok_or_else(|| Error::internal("nothing is prepared"))?;
        if request.preview {
            let picture = (drawn.start == 0).then(|| self.network.sample());
            let parts = Parts { of_image: denoiser.drawn.of_image(), picture, text: denoiser.drawn.within("text") };
            let (components, captions) = (&mut self.components, self.captions.as_mut());
            let preview = Preview::new(&self.manifest, components, captions, parts, warnings, control.stopped).await?;
            inputs.readback = Readback::Preview(preview);
        }
        let (mut last, before) = (0.0, timings.step_ms.iter().sum::<f64>());
        let mut on_step = |mut event: StepEvent| {
            timings.step_ms.push(event.elapsed_ms - last);
            last = event.elapsed_ms;
            event.elapsed_ms += before;
            event.step += (*half * windows + *window) * event.steps;
            event.steps *= *halves * windows;
            (event.window, event.windows) = (*window + 1, windows);
            (control.on_step)(event);
        };
        let mut watch = Control { on_step: &mut on_step, stopped: control.stopped };
        let sampled = sample(denoiser, recipe, inputs, &mut watch, helpers).await;
        *workers = denoiser.workers();
        let named = sampled.map(|values| denoiser.drawn.named(&values));
        if !self.components.stay() {
            self.denoiser = None;
        }
        named
    }

    /// The stage of decoding: pictures, of what was drawn.
    async fn decode(
        &mut self,
        drawn: &Drawn,
        frames: usize,
        origin: Option<&Origin>,
        control: &mut Control<'_>,
        progress: &mut Progress,
    ) -> Result<Vec<f32>> {
        let first = drawn.iter().find(|tensor| tensor.shape.as_ref().is_some_and(|shape| shape.len() >= 4));
        let Some(NamedTensor { values: Values::Floats(values), .. }) = first else {
            return Err(Error::internal("no picture was drawn"));
        };
        let values = self.whole(frames).to_frames(values);
        if self.components.network(DECODER).is_none() {
            return Ok(values);
        }
        let began = Instant::now();
        let (decoded, warnings) =
            DECODING.run(&mut self.components, &values, self.network.image_shape(), control).await?;
        let mut values = decoded.values;
        if let Some(origin) = origin {
            origin.keep(&mut values);
        }
        progress.warnings.extend(warnings);
        progress.timings.decode_ms = began.elapsed().as_secs_f64() * 1e3;
        Ok(values)
    }

    /// The stage of captions: texts, of their latents.
    async fn tell(
        &mut self,
        latents: &[f32],
        beams: Option<usize>,
        control: &mut Control<'_>,
        progress: &mut Progress,
    ) -> Result<Vec<Caption>> {
        let began = Instant::now();
        let captions = self.captions.as_mut().ok_or_else(|| Error::internal("nothing tells texts"))?;
        let (longest, beams) = (captions.longest(), beams.unwrap_or(captions.beams()));
        let stopped = control.stopped;
        let mut report = |tokens: usize, texts: &[String]| {
            let mut event = StepEvent::new(Stage::Captioning, tokens, longest, began);
            event.texts = texts.to_vec();
            (control.on_step)(event);
        };
        report(0, &[]);
        let told = captions.tell(&mut self.components, latents, beams, &mut report, stopped).await?;
        if told.iter().any(|caption| !caption.ended) {
            progress.warnings.push(format!("a text has not ended after {longest} tokens, and is cut there"));
        }
        progress.timings.caption_ms = began.elapsed().as_secs_f64() * 1e3;
        Ok(told)
    }
}
