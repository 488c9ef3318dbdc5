//! What a generation starts from, if not from noise alone: a picture or a clip, of which a mask may keep parts, and frames that clips
//! begin with. Where the denoiser draws latents the encoder makes some of them, a stage of its own before the step loop; in the end
//! kept pixels are put back as they were.

use super::clip::Clip;
use super::components::Components;
use super::decoding::ENCODING;
use super::request::Request;
use super::result::Timings;
use super::sampling::Control;
use super::{Pipeline, invalid};
use crate::Result;
use crate::model::Network;
use crate::package::ENCODER;
use web_time::Instant;

/// Pictures to start from, checked.
pub(super) struct Origin {
    /// Frames of this shape, for all clips or for each: what the denoiser draws, or what the encoder takes. A picture is a clip of one.
    values: Vec<f32>,
    shape: [usize; 3],
    /// How many frames of a clip these are: all of them, or the first.
    given: usize,
    encoded: bool,
    /// 1: painted anew, 0: kept; `[frames, height, width]` of that shape.
    mask: Option<Vec<f32>>,
    /// So many frames are kept that clips begin with.
    pub first: usize,
    /// Of what the denoiser draws.
    latent_shape: [usize; 3],
    count: usize,
    /// Frames of a clip.
    frames: usize,
}

/// What step loops start from, as the denoiser draws it but frame after frame.
pub(super) struct Start {
    /// x_0, `[count, frames, channels, height, width]`; 0 where nothing is known.
    pub values: Vec<f32>,
    /// 1: painted anew, 0: kept; `[frames, channels, height, width]`, for all of them.
    pub mask: Option<Vec<f32>>,
    /// As [`Origin::first`].
    pub first: usize,
}

impl Pipeline {
    /// What a request starts from. Values that could be pictures as well as latents of several images are pictures.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for values that are neither, or not finite, for pictures that nothing encodes, and for a mask of another size.
    pub(super) fn origin(&self, request: &Request, count: usize, clip: &Clip) -> Result<Option<Origin>> {
        let (init, first) = (&request.init_image, &request.first_frames);
        let (frames, own) = (clip.frames, self.network.frames());
        let mut shape = None;
        if let Some(values) = init {
            let fits = |n: usize| n == frames || n == count * frames;
            let several = match own {
                None => ("the picture to start from", String::new(), "images"),
                Some(_) => ("the clip to start from", format!("{frames} frames of "), "clips"),
            };
            shape = Some(self.shape_of(values, &fits, several)?);
        }
        let mut kept = 0;
        if let Some(values) = first {
            let most = own.unwrap_or(1) - 1;
            let several = ("what the clips begin with", format!("1 to {most} frames of "), "clips");
            let of_first = self.shape_of(values, &|n| (1..=most).contains(&n), several)?;
            if shape.is_some_and(|shape| shape != of_first) {
                let cause = "the clip to start from is of pictures, and what clips begin with of latents, or the other way round";
                return Err(invalid(cause, "Give both as pictures, or both as latents"));
            }
            (shape, kept) = (Some(of_first), values.len() / elements(of_first));
        }
        let Some(shape) = shape else { return Ok(None) };
        let given = if init.is_some() { frames } else { kept };
        let mut values = init.as_ref().or(first.as_ref()).cloned().unwrap_or_default();
        if let (Some(_), Some(first)) = (init, first) {
            for clip in values.chunks_exact_mut(frames * elements(shape)) {
                clip[..first.len()].copy_from_slice(first);
            }
        }
        let plane = shape[1] * shape[2];
        let mut mask = None;
        if let Some(given) = &request.mask {
            check_mask(given, shape, frames)?;
            mask = Some(if given.len() == plane { given.repeat(frames) } else { given.clone() });
        }
        if kept > 0 {
            mask.get_or_insert_with(|| vec![1.0; frames * plane])[..kept * plane].fill(0.0);
        }
        let encoded = self.components.network(ENCODER).is_some() && shape == self.start_shape;
        let latent_shape = self.network.image_shape();
        Ok(Some(Origin { values, shape, given, encoded, mask, first: kept, latent_shape, count, frames }))
    }

    /// Whether values are pictures or latents, of which so many as `fits` says are needed; what they are, what is needed before the
    /// shape, and what it is needed for, for messages.
    fn shape_of(
        &self,
        values: &[f32],
        fits: &dyn Fn(usize) -> bool,
        (what, several, all): (&str, String, &str),
    ) -> Result<[usize; 3]> {
        let (start, latent_shape) = (self.start_shape, self.network.image_shape());
        let fits =
            |shape: [usize; 3]| values.len().is_multiple_of(elements(shape)) && fits(values.len() / elements(shape));
        let shape = if fits(start) { start } else { latent_shape };
        if !fits(shape) {
            if fits(self.picture_shape) {
                let remedy = "Give latents, or convert the model again with its autoencoder's encoder";
                return Err(invalid("a picture is given to start from, and the model has no encoder", remedy));
            }
            let latents = if start == latent_shape { String::new() } else { format!(", or latents {latent_shape:?}") };
            let mut cause = format!("{what} has {} values", values.len());
            if !several.is_empty() && values.len().is_multiple_of(elements(start)) {
                cause = format!("{what} has {} frames", values.len() / elements(start));
            }
            return Err(invalid(cause, format!("Give {several}{start:?} for all {all}, or one for each{latents}")));
        }
        if !values.iter().all(|v| v.is_finite()) {
            return Err(invalid(format!("{what} has a value that is NaN or infinite"), "Give finite values"));
        }
        Ok(shape)
    }
}

fn elements([channels, height, width]: [usize; 3]) -> usize {
    channels * height * width
}

fn check_mask(mask: &[f32], [_, height, width]: [usize; 3], frames: usize) -> Result<()> {
    let plane = height * width;
    if mask.len() != plane && mask.len() != frames * plane {
        let of_frames = if frames > 1 { format!(" or [{frames}, {height}, {width}]") } else { String::new() };
        let remedy = format!("Give [{height}, {width}]{of_frames}, as large as the picture to start from");
        return Err(invalid(format!("the mask has {} values", mask.len()), remedy));
    }
    if !mask.iter().all(|v| (0.0..=1.0).contains(v)) {
        let remedy = "Give 1 for what is painted anew and 0 for what is kept";
        return Err(invalid("the mask has values outside 0 to 1", remedy));
    }
    Ok(())
}

impl Origin {
    /// What step loops start from. Of an encoder's distribution it is the mean: the same picture gives the same latents whatever the
    /// seed, and no noise is drawn that a start without a picture would not draw.
    ///
    /// # Errors
    /// Those of [`super::decoding::Half::run`].
    pub async fn start(
        &self,
        components: &mut Components,
        control: &mut Control<'_>,
        timings: &mut Timings,
        warnings: &mut Vec<String>,
    ) -> Result<Start> {
        let mut latents = self.values.clone();
        let of_latent = elements(self.latent_shape);
        if self.encoded {
            let began = Instant::now();
            let (encoded, more) = ENCODING.run(components, &latents, self.shape, control).await?;
            latents = match components.network(ENCODER) {
                Some(Network::AutoencoderKlEncoder(config)) => {
                    config.latents(&encoded.values, encoded.values.len() / (2 * of_latent), &[])
                }
                _ => encoded.values,
            };
            warnings.extend(more);
            timings.encoding_ms = began.elapsed().as_secs_f64() * 1e3;
        }
        let of_given = self.given * of_latent;
        let mut values = Vec::with_capacity(self.count * self.frames * of_latent);
        for k in 0..self.count {
            values.extend_from_slice(&latents[k * of_given % latents.len()..][..of_given]);
            values.resize((k + 1) * self.frames * of_latent, 0.0);
        }
        Ok(Start { values, mask: self.latent_mask(), first: self.first })
    }

    /// The mask of those. Where any pixel of its square is painted anew a latent is: otherwise thin strokes would be lost. What that
    /// paints anew beside them, [`Origin::keep`] puts back.
    fn latent_mask(&self) -> Option<Vec<f32>> {
        let ([_, height, width], [channels, latent_height, latent_width]) = (self.shape, self.latent_shape);
        let mut all = Vec::with_capacity(self.frames * elements(self.latent_shape));
        for mask in self.mask.as_ref()?.chunks_exact(height * width) {
            let mut coarse = vec![0f32; latent_height * latent_width];
            for (i, share) in mask.iter().enumerate() {
                let (y, x) = (i / width * latent_height / height, i % width * latent_width / width);
                let latent = &mut coarse[y * latent_width + x];
                *latent = latent.max(*share);
            }
            for _ in 0..channels {
                all.extend_from_slice(&coarse);
            }
        }
        Some(all)
    }

    /// Puts kept pixels back into pictures `[count, frames, channels, height, width]` that came of its latents.
    pub fn keep(&self, pictures: &mut [f32]) {
        let Some(mask) = self.mask.as_ref().filter(|_| self.encoded) else { return };
        let (plane, of_frame) = (self.shape[1] * self.shape[2], elements(self.shape));
        for (i, picture) in pictures.chunks_exact_mut(of_frame).enumerate() {
            let (clip, frame) = (i / self.frames, i % self.frames);
            if frame >= self.given {
                continue;
            }
            let kept = &self.values[(clip * self.given + frame) * of_frame % self.values.len()..][..of_frame];
            let mask = &mask[frame * plane..][..plane];
            for (at, (value, kept)) in picture.iter_mut().zip(kept).enumerate() {
                let share = mask[at % plane];
                *value = share * *value + (1.0 - share) * kept;
            }
        }
    }
}
