//! An analytic denoiser: clips of a blob that moves over a torus at a constant speed, from any pixel, one pixel a frame in any of eight
//! directions, all equally likely. The posterior mean E[x0 | x_t] of these is known exactly. It stands where a worker computes the
//! network's part of a batch.

use uvit_web::Result;
use uvit_web::pipeline::{Answer, Helpers, NamedTensor, Values};

/// The blob's width in pixels.
const WIDTH: f64 = 1.5;
/// The model's.
const TIME_SCALE: f64 = 999.0;
const BETA_MIN: f64 = 0.1;
const BETA_MAX: f64 = 20.0;

pub struct Blobs {
    /// Pixels of a frame.
    pixels: usize,
    frames: usize,
    /// A frame for every place of the blob.
    places: Vec<Vec<f32>>,
    /// For every clip, where the blob is in every frame.
    clips: Vec<Vec<usize>>,
}

impl Blobs {
    /// Clips of so many frames of `side` pixels squared.
    pub fn new(side: usize, frames: usize) -> Blobs {
        let pixels = side * side;
        let apart = |a: usize, b: usize| a.abs_diff(b).min(side - a.abs_diff(b)) as f64;
        let value = |place: usize, pixel: usize| {
            let (across, down) = (apart(place % side, pixel % side), apart(place / side, pixel / side));
            (2.0 * (-(across * across + down * down) / (2.0 * WIDTH * WIDTH)).exp() - 1.0) as f32
        };
        let places = (0..pixels).map(|place| (0..pixels).map(|pixel| value(place, pixel)).collect()).collect();
        let mut clips = Vec::new();
        for direction in (0..9).filter(|direction| *direction != 4) {
            // -1, 0 or 1, as steps forward on the torus.
            let (across, down) = (direction % 3 + side - 1, direction / 3 + side - 1);
            for place in 0..pixels {
                let at = |k: usize| (place / side + k * down) % side * side + (place % side + k * across) % side;
                clips.push((0..frames).map(at).collect());
            }
        }
        Blobs { pixels, frames, places, clips }
    }

    /// E[x0 | x_t]: all clips weighted by exp(-|x_t - alpha clip|^2 / (2 sigma^2)). They are equally long, so that only products count.
    fn mean(&self, noisy: &[f32], time: f64) -> Vec<f32> {
        let t = time / TIME_SCALE;
        let log_alpha = -(BETA_MAX - BETA_MIN) * t * t / 4.0 - BETA_MIN * t / 2.0;
        let (alpha, sigma) = (log_alpha.exp(), (-(2.0 * log_alpha).exp_m1()).sqrt());
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let of_frame = |frame: &[f32]| self.places.iter().map(|place| product(place, frame)).collect::<Vec<_>>();
        let products: Vec<Vec<f64>> = noisy.chunks(self.pixels).map(of_frame).collect();
        let weight = |clip: &Vec<usize>| {
            let sum: f64 = clip.iter().zip(&products).map(|(place, of_frame)| of_frame[*place]).sum();
            alpha * sum / (sigma * sigma)
        };
        let weights: Vec<f64> = self.clips.iter().map(weight).collect();
        let largest = weights.iter().copied().fold(f64::MIN, f64::max);
        let mut shares = vec![0.0; self.frames * self.pixels];
        let mut all = 0.0;
        for (clip, weight) in self.clips.iter().zip(&weights) {
            let share = (weight - largest).exp();
            all += share;
            for (frame, place) in clip.iter().enumerate() {
                shares[frame * self.pixels + place] += share;
            }
        }
        let mut mean = vec![0f64; noisy.len()];
        for (frame, shares) in shares.chunks(self.pixels).enumerate() {
            for (place, share) in self.places.iter().zip(shares).filter(|(_, share)| **share > 0.0) {
                for (to, value) in mean[frame * self.pixels..][..self.pixels].iter_mut().zip(place) {
                    *to += share / all * f64::from(*value);
                }
            }
        }
        mean.into_iter().map(|value| value as f32).collect()
    }
}

impl Helpers for Blobs {
    fn count(&self) -> usize {
        1
    }

    fn forward(&self, _: usize, tensors: Vec<NamedTensor>, _: Vec<&'static str>) -> Answer<Vec<Vec<f32>>> {
        let of = |name: &str| tensors.iter().find(|tensor| tensor.name == name).map(|tensor| &tensor.values);
        let (Some(Values::Floats(noisy)), Some(Values::Times(times))) = (of("x"), of("timesteps")) else {
            panic!("the network takes noise and a time")
        };
        let clips = noisy.chunks(self.frames * self.pixels).zip(times);
        let mean: Vec<f32> = clips.flat_map(|(noisy, time)| self.mean(noisy, *time)).collect();
        Box::pin(async move { Result::Ok(vec![mean]) })
    }
}
