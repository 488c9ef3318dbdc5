//! The noise levels that diffusers' multistep schedulers visit, on a schedule of training steps (diffusers 0.42.1,
//! `set_timesteps` of scheduling_dpmsolver_multistep.py, scheduling_unipc_multistep.py and scheduling_deis_multistep.py).

use super::Schedule;
use super::dpm::Point;
use super::schedule::{NoiseLevel, rescale_zero_terminal_snr};
use super::timesteps::{self, TimestepSpacing};
use crate::error::Result;

/// Where diffusers' grid ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinalSigma {
    /// Without noise.
    Zero,
    /// At the noise of the first training step.
    SigmaMin,
}

/// How diffusers spreads the noise levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sigmas {
    /// Those of the visited training steps.
    Trained,
    /// Evenly in sigma^(1/7), from the last training step's to the first's (arXiv:2206.00364, equation 5).
    Karras,
    /// Evenly in ln sigma (`use_lu_lambdas`).
    Lu,
}

/// The grid; the fields are the schedulers' arguments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingGrid {
    /// Must be discrete.
    pub schedule: Schedule,
    /// How often the network runs.
    pub steps: usize,
    /// Which training steps are visited.
    pub timestep_spacing: TimestepSpacing,
    /// Added to the times of leading spacing.
    pub steps_offset: usize,
    /// Which noise levels are.
    pub sigmas: Sigmas,
    /// Where it ends.
    pub final_sigmas_type: FinalSigma,
    /// The last training step is made (all but) pure noise.
    pub rescale_betas_zero_snr: bool,
}

impl TrainingGrid {
    /// With diffusers' defaults.
    pub fn new(schedule: Schedule, steps: usize) -> TrainingGrid {
        TrainingGrid {
            schedule,
            steps,
            timestep_spacing: TimestepSpacing::Linspace,
            steps_offset: 0,
            sigmas: Sigmas::Trained,
            final_sigmas_type: FinalSigma::Zero,
            rescale_betas_zero_snr: false,
        }
    }

    /// The visited noise levels and the end.
    pub(super) fn points(&self) -> Result<Vec<Point>> {
        let mut alphas_cumprod = self.schedule.alphas_cumprod()?;
        let train_steps = alphas_cumprod.len();
        if self.rescale_betas_zero_snr {
            rescale_zero_terminal_snr(&mut alphas_cumprod);
            // diffusers' stand-in for 0, which would make the first sigma infinite.
            alphas_cumprod[train_steps - 1] = 2f64.powi(-24);
        }
        let sigmas: Vec<f64> = alphas_cumprod.iter().map(|a| ((1.0 - a) / a).sqrt()).collect();
        let spread = |power: fn(f64) -> f64, back: fn(f64) -> f64| {
            let (first, last) = (power(sigmas[train_steps - 1]), power(sigmas[0]));
            let share = |i: usize| i as f64 / (self.steps.max(2) - 1) as f64;
            let sigmas: Vec<f64> = (0..self.steps).map(|i| back(first + share(i) * (last - first))).collect();
            sigmas
        };
        let visited = match self.sigmas {
            Sigmas::Trained => None,
            Sigmas::Karras => Some(spread(|sigma| sigma.powf(1.0 / 7.0), |root| root.powi(7))),
            Sigmas::Lu => Some(spread(f64::ln, f64::exp)),
        };
        let mut points: Vec<Point> = match visited {
            None => self
                .timestep_spacing
                .multistep(train_steps, self.steps, self.steps_offset)?
                .into_iter()
                .map(|t| (t as f64, sigmas[t.min(train_steps - 1)]))
                .map(|(network_time, sigma)| Point { network_time, level: NoiseLevel::from_ratio(sigma) })
                .collect(),
            Some(visited) => {
                if !(1..=train_steps).contains(&self.steps) {
                    self.timestep_spacing.multistep(train_steps, self.steps, self.steps_offset)?;
                }
                visited
                    .into_iter()
                    .map(|sigma| Point {
                        network_time: timesteps::of_sigma(&sigmas, sigma).round_ties_even(),
                        level: NoiseLevel::from_ratio(sigma),
                    })
                    .collect()
            }
        };
        let end = match self.final_sigmas_type {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => sigmas[0],
        };
        points.push(Point { network_time: 0.0, level: NoiseLevel::from_ratio(end) });
        Ok(points)
    }
}
