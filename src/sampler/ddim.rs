//! DDIM (arXiv:2010.02502, equation 12): x_0 and the noise are read from the network's output and put together again at
//! the next, lower noise level; `eta` replaces part of the noise by fresh noise (1: DDPM). [`DiffusersDdim`] follows
//! diffusers 0.42.1 scheduling_ddim.py.

use super::builder::Builder;
use super::grid::Point;
use super::schedule::{NoiseLevel, rescale_zero_terminal_snr};
use super::timesteps::TimestepSpacing;
use super::{Prediction, Recipe, Schedule, Slot};
use crate::decimal::decimal;
use crate::error::{Code, Error, Result};

/// What a step does, apart from where.
struct Update {
    prediction: Prediction,
    /// Bound of |x_0|.
    clip: Option<f64>,
    /// The noise is recomputed from the clipped x_0.
    use_clipped_model_output: bool,
    eta: f64,
}

/// One step for each pair of neighbouring points. With `clip` the x_0 estimates are clipped to plus and minus that, and the noise is
/// recomputed from them, as OpenAI's guided-diffusion does it and diffusers does not: with hundreds of steps what was clipped away
/// would add up.
pub(super) fn over(
    points: &[Point],
    prediction: Prediction,
    clip: Option<f64>,
    eta: f64,
    init_noise_sigma: f64,
) -> Result<Recipe> {
    let moves: Vec<(Point, NoiseLevel)> = points.windows(2).map(|pair| (pair[0], pair[1].level)).collect();
    let update = Update { prediction, clip, use_clipped_model_output: clip.is_some(), eta };
    compile(&moves, &update, init_noise_sigma)
}

/// diffusers' DDIMScheduler; the fields are its arguments (and `step`'s).
#[derive(Clone, Debug, PartialEq)]
pub struct DiffusersDdim {
    /// Must be discrete.
    pub schedule: Schedule,
    /// How often the network runs.
    pub steps: usize,
    /// What the network predicts.
    pub prediction: Prediction,
    /// Which training steps are visited.
    pub timestep_spacing: TimestepSpacing,
    /// Added to the times of leading spacing.
    pub steps_offset: usize,
    /// x_0 is clipped to plus and minus this (`clip_sample`, `clip_sample_range`).
    pub clip_sample: Option<f64>,
    /// The last step ends without noise, not at the first training step.
    pub set_alpha_to_one: bool,
    /// The last training step is made pure noise.
    pub rescale_betas_zero_snr: bool,
    /// 0: deterministic, 1: as much fresh noise as DDPM.
    pub eta: f64,
    /// The noise is recomputed from the clipped x_0.
    pub use_clipped_model_output: bool,
}

impl DiffusersDdim {
    /// With diffusers' defaults.
    pub fn new(schedule: Schedule, prediction: Prediction, steps: usize) -> DiffusersDdim {
        DiffusersDdim {
            schedule,
            steps,
            prediction,
            timestep_spacing: TimestepSpacing::Leading,
            steps_offset: 0,
            clip_sample: Some(1.0),
            set_alpha_to_one: true,
            rescale_betas_zero_snr: false,
            eta: 0.0,
            use_clipped_model_output: false,
        }
    }

    /// The steps to execute.
    pub fn recipe(&self) -> Result<Recipe> {
        let mut alphas_cumprod = self.schedule.alphas_cumprod()?;
        if self.rescale_betas_zero_snr {
            rescale_zero_terminal_snr(&mut alphas_cumprod);
        }
        let train_steps = alphas_cumprod.len();
        let times = self.timestep_spacing.ddim(train_steps, self.steps, self.steps_offset)?;
        let end = if self.set_alpha_to_one { 1.0 } else { alphas_cumprod[0] };
        let moves: Vec<(Point, NoiseLevel)> = times
            .iter()
            .map(|&t| {
                // Always one stride down, also where the spacing's own neighbour lies elsewhere.
                let to = t.checked_sub(train_steps / self.steps).map_or(end, |previous| alphas_cumprod[previous]);
                let level = NoiseLevel::from_alphas_cumprod(alphas_cumprod[t]);
                (Point { network_time: t as f64, level }, NoiseLevel::from_alphas_cumprod(to))
            })
            .collect();
        compile(
            &moves,
            &Update {
                prediction: self.prediction,
                clip: self.clip_sample,
                use_clipped_model_output: self.use_clipped_model_output,
                eta: self.eta,
            },
            1.0,
        )
    }
}

const X0: Slot = Slot::Scratch(0);
const FRESH: Slot = Slot::Scratch(1);

/// One step a move: x = alpha_s x_0 + sqrt(sigma_s^2 - std^2) noise + std z,
/// std = eta sqrt(sigma_s^2 / sigma_t^2 (1 - alpha_t^2 / alpha_s^2)), from t to s.
fn compile(moves: &[(Point, NoiseLevel)], update: &Update, init_noise_sigma: f64) -> Result<Recipe> {
    if !(0.0..=1.0).contains(&update.eta) {
        return Err(Error::new(
            Code::InvalidArgument,
            format!("eta is {}", decimal(update.eta)),
            "Give a number from 0 to 1",
        ));
    }
    let clip = update.clip.map(|bound| (-bound, bound));
    let mut recipe = Builder::default();
    for &(Point { network_time, level: t }, s) in moves {
        let x0 = update.prediction.x0(t.alpha_t, t.sigma_t);
        recipe.eval(network_time, x0);
        recipe.combine(X0, &[(Slot::Latents, x0[0]), (Slot::Model, x0[1])], clip);

        let (source, noise) = if update.use_clipped_model_output {
            (X0, Prediction::X0.noise(t.alpha_t, t.sigma_t))
        } else {
            (Slot::Model, update.prediction.noise(t.alpha_t, t.sigma_t))
        };
        let fresh_share = 1.0 - (t.alpha_t / s.alpha_t).powi(2);
        let std = update.eta * s.sigma_t / t.sigma_t * fresh_share.max(0.0).sqrt();
        let direction = (s.sigma_t.powi(2) - std * std).max(0.0).sqrt();
        let mut sum = vec![(X0, s.alpha_t), (Slot::Latents, direction * noise[0]), (source, direction * noise[1])];
        if update.eta > 0.0 {
            recipe.noise(FRESH);
            sum.push((FRESH, std));
        }
        recipe.combine(Slot::Latents, &sum, None);
        recipe.arrive(&s);
    }
    recipe.finish(&moves[0].0.level, init_noise_sigma)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::Step;

    #[test]
    fn a_clipped_estimate_takes_its_noise_with_it() {
        let level = |ratio: f64| NoiseLevel::from_ratio(ratio);
        let points = [level(2.0), level(1.0)].map(|level| Point { network_time: 1.0, level });
        let (s, t) = (points[0].level, points[1].level);
        for prediction in Prediction::ALL {
            let recipe = over(&points, prediction, Some(1.0), 0.0, 1.0).unwrap();
            let Some(Step::Combine { terms, .. }) = recipe.steps.iter().rev().nth(1) else { panic!("{recipe:?}") };
            // x_t = (sigma_t / sigma_s) x_s + (alpha_t - alpha_s sigma_t / sigma_s) x_0, and nothing of the network's output.
            let kept = t.sigma_t / s.sigma_t;
            for term in terms {
                let wanted = if term.slot == X0 { t.alpha_t - s.alpha_t * kept } else { kept };
                assert!(
                    term.slot != Slot::Model && (term.coefficient - wanted).abs() < 1e-12,
                    "{prediction:?} {terms:?}"
                );
            }
        }
    }

    #[test]
    fn eta_draws_once_a_step() {
        let level = |ratio: f64| NoiseLevel::from_ratio(ratio);
        let points: Vec<Point> =
            (0..6).map(|i| Point { network_time: 10.0 - i as f64, level: level(5.0 - i as f64) }).collect();
        let recipe = over(&points, Prediction::X0, Some(1.0), 0.5, 1.0).unwrap();
        let draws = recipe.steps.iter().filter(|step| matches!(step, Step::Noise { .. })).count();
        assert_eq!((draws, recipe.scratch_slots, recipe.evaluations), (5, 2, 5));
        assert!(over(&points, Prediction::X0, Some(1.0), 1.5, 1.0).is_err());
    }
}
