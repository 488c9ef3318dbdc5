//! The cheapest look at latents: their channels as colours, by one linear map, without any network.

use crate::json::{self, Fields, Read, Value, Write};
#[cfg(not(target_arch = "wasm32"))]
use crate::weights::gptq::solve;

/// One pixel of the latents, as the denoiser draws them, is the colour `bias + sum over channels c of latent[c] factors[c]`:
/// red, green and blue in about [-1, 1], as decoders give them. Names and meaning are ComfyUI's (`comfy/latent_formats.py`,
/// `latent_preview.py`).
#[derive(Clone, Debug, PartialEq)]
pub struct LatentRgb {
    /// What a channel adds to red, green and blue: a row a channel.
    pub latent_rgb_factors: Vec<[f64; 3]>,
    /// The colour of latents that are 0.
    pub latent_rgb_factors_bias: [f64; 3],
}

fn colour(value: &Value) -> json::Result<[f64; 3]> {
    match Vec::<f64>::read(value)?[..] {
        [red, green, blue] => Ok([red, green, blue]),
        _ => Err([json::shown(value).as_str(), " is no colour: red, green and blue"].concat()),
    }
}

impl Read for LatentRgb {
    fn read(value: &Value) -> json::Result<LatentRgb> {
        let fields = Fields::of(value)?;
        let rows = fields.value("latent_rgb_factors").and_then(Value::as_array);
        let mut latent_rgb_factors = Vec::new();
        for row in rows.ok_or("latent_rgb_factors is no list")? {
            latent_rgb_factors.push(colour(row)?);
        }
        let latent_rgb_factors_bias = fields.value("latent_rgb_factors_bias").map_or(Ok([0.0; 3]), colour)?;
        Ok(LatentRgb { latent_rgb_factors, latent_rgb_factors_bias })
    }
}

impl Write for LatentRgb {
    fn write(&self) -> Value {
        json::object([
            ("latent_rgb_factors", self.latent_rgb_factors.clone().into()),
            ("latent_rgb_factors_bias", self.latent_rgb_factors_bias.into()),
        ])
    }
}

impl LatentRgb {
    /// The colours `[3, height, width]` of one image's latents `[channels, height, width]`.
    pub fn colours(&self, latents: &[f32]) -> Vec<f32> {
        let pixels = latents.len() / self.latent_rgb_factors.len().max(1);
        let mut colours = Vec::with_capacity(3 * pixels);
        for (colour, bias) in self.latent_rgb_factors_bias.iter().enumerate() {
            for pixel in 0..pixels {
                let mut sum = *bias;
                for (c, factors) in self.latent_rgb_factors.iter().enumerate() {
                    sum += factors[colour] * f64::from(latents[c * pixels + pixel]);
                }
                colours.push(sum as f32);
            }
        }
        colours
    }

    /// Whether it is of so many channels, and what f32 holds.
    pub(super) fn check(&self, channels: usize) -> Result<(), String> {
        let rows = self.latent_rgb_factors.len();
        if rows != channels {
            return Err(format!("preview: latent_rgb_factors has {rows} rows, and what is drawn {channels} channels"));
        }
        let numbers = self.latent_rgb_factors.as_flattened();
        match [numbers, &self.latent_rgb_factors_bias].iter().all(|part| part.iter().all(|v| (*v as f32).is_finite())) {
            true => Ok(()),
            false => Err("preview: a number is too large".into()),
        }
    }

    /// Fits it by least squares, in f64: `latents [images, channels, pixels]` to `colours [images, 3, pixels]`. None if the numbers
    /// are not finite.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn fit(latents: &[f32], colours: &[f32], [channels, pixels]: [usize; 2]) -> Option<LatentRgb> {
        let n = channels;
        let images = || latents.chunks(channels * pixels).zip(colours.chunks(3 * pixels));
        let mean = |values: &[f32], planes: usize| -> Vec<f64> {
            let of_plane =
                |c| values.chunks(pixels).skip(c).step_by(planes).flatten().map(|&v| f64::from(v)).sum::<f64>();
            (0..planes).map(|c| of_plane(c) * planes as f64 / values.len() as f64).collect()
        };
        let (middle, bias) = (mean(latents, n), mean(colours, 3));
        let (mut covariance, mut moments) = (vec![0.0; n * n], vec![0.0; n * 3]);
        for (latents, colours) in images() {
            for pixel in 0..pixels {
                let x = |c: usize| f64::from(latents[c * pixels + pixel]) - middle[c];
                for i in 0..n {
                    (0..n).for_each(|j| covariance[i * n + j] += x(i) * x(j));
                    (0..3)
                        .for_each(|j| moments[i * 3 + j] += x(i) * (f64::from(colours[j * pixels + pixel]) - bias[j]));
                }
            }
        }
        let spread = (0..n).map(|i| covariance[i * n + i]).sum::<f64>() / n as f64;
        // A channel that never changes would make it singular.
        (0..n).for_each(|i| covariance[i * n + i] += 1e-9 * spread + 1e-12);
        let factors = solve(covariance, n, &moments);
        let bias = |j: usize| bias[j] - (0..n).map(|i| factors[i * 3 + j] * middle[i]).sum::<f64>();
        let short = |v: f64| (v * 1e6).round() / 1e6;
        let fitted = LatentRgb {
            latent_rgb_factors: factors.chunks(3).map(|row| [0, 1, 2].map(|j| short(row[j]))).collect(),
            latent_rgb_factors_bias: [0, 1, 2].map(|j| short(bias(j))),
        };
        fitted.check(channels).is_ok().then_some(fitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::TorchGenerator;

    #[test]
    fn a_fit_finds_the_map_that_the_colours_come_from() {
        let map = LatentRgb {
            latent_rgb_factors: vec![[0.298, 0.207, 0.208], [0.187, -0.286, 0.173], [-0.158, 0.189, 0.264], [0.0; 3]],
            latent_rgb_factors_bias: [-0.1, 0.2, 0.3],
        };
        let (channels, pixels, images) = (4, 30, 3);
        let mut latents = TorchGenerator::new(1).randn_f32(images * channels * pixels);
        for (i, plane) in latents.chunks_mut(pixels).enumerate() {
            // Not centred, correlated; and the last channel never changes.
            let constant = i % channels == channels - 1;
            plane.iter_mut().for_each(|v| *v = if constant { 7.0 } else { *v + 0.5 * i as f32 });
        }
        let colours: Vec<f32> = latents.chunks(channels * pixels).flat_map(|image| map.colours(image)).collect();
        assert_eq!(colours.len(), images * 3 * pixels);
        let fitted = LatentRgb::fit(&latents, &colours, [channels, pixels]).unwrap();
        for (got, want) in fitted.latent_rgb_factors.iter().flatten().zip(map.latent_rgb_factors.iter().flatten()) {
            assert!((got - want).abs() < 1e-5, "{fitted:?}");
        }
        for (got, want) in fitted.latent_rgb_factors_bias.iter().zip(map.latent_rgb_factors_bias) {
            assert!((got - want).abs() < 1e-5, "{fitted:?}");
        }
        assert_eq!(LatentRgb::fit(&vec![f32::NAN; latents.len()], &colours, [channels, pixels]), None);
    }
}
