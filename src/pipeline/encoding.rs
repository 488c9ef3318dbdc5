//! What a generation starts from, if not from noise alone: a picture, of which a mask may keep parts. Where the denoiser draws
//! latents the encoder makes some of it, a stage of its own before the step loop; in the end kept pixels are put back as they were.

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

/// A picture to start from, checked.
pub(super) struct Origin {
    /// One for all images, or one for each, of this shape: what the denoiser draws, or what the encoder takes.
    values: Vec<f32>,
    shape: [usize; 3],
    encoded: bool,
    /// 1: painted anew, 0: kept; `[height, width]` of that shape.
    mask: Option<Vec<f32>>,
    /// Of what the denoiser draws.
    latent_shape: [usize; 3],
    count: usize,
}

impl Pipeline {
    /// What a request starts from. Values that could be pictures as well as latents of several images are a picture.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for values that are neither, or not finite, for a picture that nothing encodes, and for a mask of another size.
    pub(super) fn origin(&self, request: &Request, count: usize) -> Result<Option<Origin>> {
        let Some(values) = &request.init_image else { return Ok(None) };
        let (start, latent_shape) = (self.start_shape, self.network.image_shape());
        let fits = |shape: [usize; 3]| [1, count].iter().any(|n| n * elements(shape) == values.len());
        let shape = if fits(start) { start } else { latent_shape };
        if !fits(shape) {
            if fits(self.picture_shape) {
                let remedy = "Give latents, or convert the model again with its autoencoder's encoder";
                return Err(invalid("a picture is given to start from, and the model has no encoder", remedy));
            }
            let latents = if start == latent_shape { String::new() } else { format!(", or latents {latent_shape:?}") };
            return Err(invalid(
                format!("the picture to start from has {} values", values.len()),
                format!("Give {start:?} for all images, or one for each{latents}"),
            ));
        }
        if !values.iter().all(|v| v.is_finite()) {
            return Err(invalid("the picture to start from has a value that is NaN or infinite", "Give finite values"));
        }
        let mask = request.mask.clone();
        if let Some(mask) = &mask {
            check_mask(mask, shape)?;
        }
        let encoded = self.components.network(ENCODER).is_some() && shape == start;
        Ok(Some(Origin { values: values.clone(), shape, encoded, mask, latent_shape, count }))
    }
}

fn elements([channels, height, width]: [usize; 3]) -> usize {
    channels * height * width
}

fn check_mask(mask: &[f32], [_, height, width]: [usize; 3]) -> Result<()> {
    if mask.len() != height * width {
        let remedy = format!("Give [{height}, {width}], as large as the picture to start from");
        return Err(invalid(format!("the mask has {} values", mask.len()), remedy));
    }
    if !mask.iter().all(|v| (0.0..=1.0).contains(v)) {
        let remedy = "Give 1 for what is painted anew and 0 for what is kept";
        return Err(invalid("the mask has values outside 0 to 1", remedy));
    }
    Ok(())
}

impl Origin {
    /// x_0 as the denoiser draws it, `[count, channels, height, width]`. Of an encoder's distribution it is the mean: the same picture
    /// gives the same latents whatever the seed, and no noise is drawn that a start without a picture would not draw.
    ///
    /// # Errors
    /// Those of [`Half::run`].
    pub async fn latents(
        &self,
        components: &mut Components,
        control: &mut Control<'_>,
        timings: &mut Timings,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<f32>> {
        let mut latents = self.values.clone();
        if self.encoded {
            let began = Instant::now();
            let (encoded, more) = ENCODING.run(components, &latents, self.shape, control).await?;
            latents = match components.network(ENCODER) {
                Some(Network::AutoencoderKlEncoder(config)) => {
                    config.latents(&encoded.values, encoded.values.len() / (2 * elements(self.latent_shape)), &[])
                }
                _ => encoded.values,
            };
            warnings.extend(more);
            timings.encoding_ms = began.elapsed().as_secs_f64() * 1e3;
        }
        let one = latents.len() == elements(self.latent_shape);
        Ok(if one { latents.repeat(self.count) } else { latents })
    }

    /// The mask of those. Where any pixel of its square is painted anew a latent is: otherwise thin strokes would be lost. What that
    /// paints anew beside them, [`Origin::keep`] puts back.
    pub fn latent_mask(&self) -> Option<Vec<f32>> {
        let ([_, height, width], [channels, latent_height, latent_width]) = (self.shape, self.latent_shape);
        let mut coarse = vec![0f32; latent_height * latent_width];
        for (i, share) in self.mask.as_ref()?.iter().enumerate() {
            let (y, x) = (i / width * latent_height / height, i % width * latent_width / width);
            let latent = &mut coarse[y * latent_width + x];
            *latent = latent.max(*share);
        }
        Some(coarse.repeat(self.count * channels))
    }

    /// Puts kept pixels back into pictures `[count, channels, height, width]` that came of its latents.
    pub fn keep(&self, pictures: &mut [f32]) {
        let Some(mask) = self.mask.as_ref().filter(|_| self.encoded) else { return };
        for (i, value) in pictures.iter_mut().enumerate() {
            let (share, kept) = (mask[i % mask.len()], self.values[i % self.values.len()]);
            *value = share * *value + (1.0 - share) * kept;
        }
    }
}
