//! The linear preview that `uvit convert` fits to a model of latents: on pictures that it draws itself, and on what its decoder makes
//! of them.

use super::calibrate::{batch, steps_within};
use super::convert::Part;
use super::examples::{Given, Texts, conditions, exact, walk};
use super::progress::Progress;
use super::quality::psnr;
use super::report::outputs;
use uvit_web::model::Batch;
use uvit_web::package::{DECODER, DENOISER, LatentRgb, Manifest};
use uvit_web::pipeline::{NamedTensor, Values};
use uvit_web::plan::{Capabilities, lower};
use uvit_web::runtime::Session;
use uvit_web::sampler::{SamplerSettings, TorchGenerator};
use uvit_web::{Code, Error, Result};

/// Pictures, unless their number is given and it is no large model.
const PICTURES: usize = 12;

/// Texts that they are drawn of.
pub const TEXTS: usize = 8;

/// Steps that one is drawn in: its colours are there early.
const STEPS: usize = 12;

/// Multiply-adds of drawing and decoding them all: a minute or so.
const MOST_WORK: u64 = 2_000_000_000_000;

/// A fit, and how good it is on the pictures that it was made from.
pub struct Fitted {
    pub preview: LatentRgb,
    pub pictures: usize,
    /// Of the decoded pictures, each made as small as its latents by averaging.
    pub psnr: f64,
    /// The share of their variance that the map explains, all colours together.
    pub r2: f64,
}

impl std::fmt::Display for Fitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Fitted { pictures, psnr, r2, .. } = self;
        write!(f, "preview: a linear map of the latents, fitted to {pictures} pictures: {psnr:.1} dB, R^2 {r2:.3}")
    }
}

/// Fits it to a model that has a denoiser and a decoder; `pictures` is how many to draw, if somebody said so.
///
/// # Errors
/// `UNSUPPORTED_MODEL` where pictures are no multiple of their latents' size, `NOT_FINITE`; those of running the networks.
pub fn fit(
    parts: &mut [Part<'_>],
    manifest: &Manifest,
    texts: Option<&Texts>,
    pictures: Option<usize>,
) -> Result<Fitted> {
    let shape @ [channels, height, width] = manifest.network(DENOISER)?.image_shape();
    let [planes, high, wide] = manifest.picture_shape()?;
    if !high.is_multiple_of(height) || high / height != wide / width || !wide.is_multiple_of(width) {
        let cause = format!("pictures of {high} x {wide} are no multiple of latents of {height} x {width}");
        return Err(Error::new(Code::UnsupportedModel, cause, "Leave the preview out (--preview 0)"));
    }
    let pictures = match pictures {
        Some(pictures) => pictures,
        None => {
            let a_picture = 4 * cost(manifest, DENOISER)? + cost(manifest, DECODER)?;
            ((MOST_WORK / a_picture.max(1)) as usize).clamp(2, PICTURES)
        }
    };
    let latents = draw(part(parts, DENOISER)?, manifest, texts, pictures)?;
    let decoder = part(parts, DECODER)?;
    let recording = decoder.network.record(manifest.one(DECODER)?)?;
    let z = |image: &[f32]| Given::once(NamedTensor::new("z", Values::Floats(image.to_vec())));
    let forwards: Vec<Given> = latents.chunks(shape.iter().product()).map(z).collect();
    let decoded = outputs(&exact(&decoder.network, &mut decoder.found)?, &recording, &forwards)?;
    let decoded = decoded.into_iter().find(|(name, _)| *name == "decoded").map(|(_, values)| values);
    let decoded = decoded.ok_or_else(|| Error::internal("a decoder decoded nothing"))?;
    let small = averaged(&decoded, [planes, high, wide], high / height);
    let preview = LatentRgb::fit(&latents, &small, [channels, height * width]).ok_or_else(|| {
        let cause = "the latents or the pictures that were drawn are not finite";
        Error::new(Code::NotFinite, cause, "Check the weights")
    })?;
    let colours: Vec<f32> =
        latents.chunks(channels * height * width).flat_map(|image| preview.colours(image)).collect();
    let r2 = explained(&colours, &small, height * width);
    Ok(Fitted { psnr: psnr(&colours, &small), r2, pictures: forwards.len(), preview })
}

fn part<'a, 'b>(parts: &'a mut [Part<'b>], name: &str) -> Result<&'a mut Part<'b>> {
    let found = parts.iter_mut().find(|part| part.source.component == name);
    found.ok_or_else(|| Error::internal(format!("there is no {name}")))
}

/// Multiply-adds of a component's forward of one picture.
fn cost(manifest: &Manifest, component: &str) -> Result<u64> {
    let plan = manifest.network(component)?.record(manifest.one(component)?)?.plan;
    Ok(lower(&plan, &Capabilities::WEBGPU, &[])?.cost().multiply_adds)
}

/// Latents as the denoiser draws them, unguided; classes and texts in turn.
fn draw(part: &mut Part<'_>, manifest: &Manifest, texts: Option<&Texts>, pictures: usize) -> Result<Vec<f32>> {
    let batch = batch(&part.network)?.min(pictures);
    let batches = pictures.div_ceil(batch);
    let recording = part.network.record(Batch::plain(batch))?;
    let weights = exact(&part.network, &mut part.found)?;
    let program = lower(&recording.plan, &weights.capabilities(), &[])?;
    let sampling = &manifest.sampling;
    let few = SamplerSettings { steps: sampling.steps.min(STEPS), ..sampling.settings() };
    let settings = steps_within(MOST_WORK, program.cost().multiply_adds, batches, few);
    let mut session = pollster::block_on(Session::new(&weights, program, None))?;
    let mut latents = Vec::new();
    let mut progress = Progress::new("drawing for the preview", (batches * settings.steps) as u64);
    for k in 0..batches {
        let given = conditions(&part.network, &recording, (k, batch), texts, sampling.time_scale);
        // Seeds apart from those of calibration and of measuring.
        let noise = TorchGenerator::new(700_000 + (k * batch) as u64);
        latents.extend(walk(&mut session, &recording, &settings, given, noise, &mut |_, _| {
            progress.step();
            Ok(())
        })?);
    }
    latents.truncate(latents.len() / (batches * batch) * pictures);
    Ok(latents)
}

/// Pictures `[images, planes, height, width]` as colours `[images, 3, height / by, width / by]`: the means of squares. Of fewer planes
/// than three, and of more, what a picture shows.
fn averaged(pictures: &[f32], [planes, height, width]: [usize; 3], by: usize) -> Vec<f32> {
    let mut small = Vec::with_capacity(3 * pictures.len() / (planes * by * by));
    for picture in pictures.chunks(planes * height * width) {
        for c in 0..3 {
            let plane = &picture[if planes < 3 { 0 } else { c } * height * width..][..height * width];
            for rows in plane.chunks(by * width) {
                for x in (0..width).step_by(by) {
                    let square = rows.chunks(width).flat_map(|row| &row[x..x + by]);
                    let sum: f64 = square.map(|&v| f64::from(v)).sum();
                    small.push((sum / (by * by) as f64) as f32);
                }
            }
        }
    }
    small
}

/// R^2 over all values of `[images, 3, pixels]`, each colour about its own mean.
fn explained(got: &[f32], want: &[f32], pixels: usize) -> f64 {
    let (mut left, mut all) = (0.0, 0.0);
    for colour in 0..3 {
        let plane = |values: &[f32]| -> Vec<f64> {
            values.chunks(pixels).skip(colour).step_by(3).flatten().map(|&v| f64::from(v)).collect()
        };
        let (got, want) = (plane(got), plane(want));
        let mean = want.iter().sum::<f64>() / want.len() as f64;
        left += got.iter().zip(&want).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
        all += want.iter().map(|b| (b - mean).powi(2)).sum::<f64>();
    }
    1.0 - left / all.max(1e-30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_averaged_over_the_square_of_each_latent() {
        // Two pictures of one plane, 4 x 6.
        let pictures: Vec<f32> = (0..48).map(|v| v as f32).collect();
        let small = averaged(&pictures, [1, 4, 6], 2);
        let first = [3.5, 5.5, 7.5, 15.5, 17.5, 19.5];
        assert_eq!(small[..18], [first; 3].concat());
        assert_eq!(small[18..24], first.map(|v| v + 24.0));
        // Of four planes the first three.
        assert_eq!(averaged(&pictures, [4, 2, 6], 2)[..9], [3.5, 5.5, 7.5, 15.5, 17.5, 19.5, 27.5, 29.5, 31.5]);
    }

    #[test]
    fn a_map_that_says_nothing_explains_nothing() {
        let want = [0.0, 2.0, 10.0, 12.0, -4.0, 4.0];
        assert_eq!(explained(&want, &want, 2), 1.0);
        assert_eq!(explained(&[1.0, 1.0, 11.0, 11.0, 0.0, 0.0], &want, 2), 0.0);
    }
}
