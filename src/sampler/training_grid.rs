//! The noise levels that diffusers' schedulers visit, on a schedule of training steps (diffusers 0.42.1, `set_timesteps` of
//! scheduling_dpmsolver_multistep.py, scheduling_unipc_multistep.py, scheduling_deis_multistep.py, scheduling_pndm.py,
//! scheduling_euler_discrete.py and scheduling_lcm.py).

use super::Schedule;
use super::flow_match::Shift;
use super::grid::{Point, karras, spread};
use super::schedule::{NoiseLevel, rescale_zero_terminal_snr};
use super::timesteps::{self, TimestepSpacing};
use crate::error::{Code, Error, Result};

/// Where diffusers' grid ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinalSigma {
    /// Without noise.
    Zero,
    /// At the noise of the first training step.
    SigmaMin,
}

/// How diffusers spreads the noise levels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sigmas {
    /// Those of the visited training steps.
    Trained,
    /// Evenly in sigma^(1/7), from the last training step's to the first's (arXiv:2206.00364, equation 5).
    Karras,
    /// Evenly in ln sigma (`use_lu_lambdas`).
    Lu,
    /// Those of rectified flow, shifted (`use_flow_sigmas`, `flow_shift`).
    Flow {
        /// See [`Shift::Fixed`].
        shift: f64,
        /// As UniPC does it: the first level is 1 - 1e-6, not 1.
        unipc: bool,
    },
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

/// The (fractional) step 0 and upwards, and sigma_t / alpha_t.
type Visit = (f64, f64);

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

    /// sigma_t / alpha_t of every training step.
    fn ratios(&self) -> Result<Vec<f64>> {
        let mut alphas_cumprod = self.schedule.alphas_cumprod()?;
        if self.rescale_betas_zero_snr {
            rescale_zero_terminal_snr(&mut alphas_cumprod);
            // diffusers' stand-in for 0, which would make the first sigma infinite.
            alphas_cumprod[self.schedule.train_steps() - 1] = 2f64.powi(-24);
        }
        Ok(alphas_cumprod.iter().map(|a| ((1.0 - a) / a).sqrt()).collect())
    }

    fn end(&self, ratios: &[f64]) -> Visit {
        match self.final_sigmas_type {
            FinalSigma::Zero => (0.0, 0.0),
            FinalSigma::SigmaMin => (0.0, ratios[0]),
        }
    }

    /// The multistep solvers' points and the end.
    pub(super) fn points(&self) -> Result<Vec<Point>> {
        let ratios = self.ratios()?;
        let train_steps = ratios.len();
        let times = self.timestep_spacing.multistep(train_steps, self.steps, self.steps_offset)?;
        let (first, last) = (ratios[train_steps - 1], ratios[0]);
        let nearest = |sigma: f64| (timesteps::of_sigma(&ratios, sigma).round_ties_even(), sigma);
        let mut visits: Vec<Visit> = match self.sigmas {
            Sigmas::Trained => times.into_iter().map(|t| (t as f64, ratios[t.min(train_steps - 1)])).collect(),
            Sigmas::Karras => karras(first, last, self.steps).into_iter().map(nearest).collect(),
            Sigmas::Lu => spread(first.ln(), last.ln(), self.steps).map(|ln| nearest(ln.exp())).collect(),
            Sigmas::Flow { shift, unipc } => return Ok(self.flow_points(shift, unipc)),
        };
        visits.push(self.end(&ratios));
        Ok(points(visits))
    }

    fn flow_points(&self, shift: f64, unipc: bool) -> Vec<Point> {
        let train_steps = self.schedule.train_steps() as f64;
        // One level more than is visited; DPM-Solver's run from 0 to 1 - 0.001 before they are turned round.
        let levels = spread(1.0, 1.0 / train_steps, self.steps + 1);
        let mut levels: Vec<f64> = match unipc {
            true => levels.map(|s| Shift::Fixed(shift).of(s)).collect(),
            false => levels.map(|s| Shift::Fixed(shift).of(1.0 - s)).collect(),
        };
        if !unipc {
            levels.reverse();
        }
        levels.truncate(self.steps);
        if unipc {
            levels[0] = 1.0 - 1e-6;
        }
        levels.push(0.0);
        let point = |s: f64| Point { network_time: (s * train_steps).floor(), level: NoiseLevel::of_flow(s) };
        levels.into_iter().map(point).collect()
    }

    /// Euler's and Heun's points, which may lie between training steps, and the end.
    pub(super) fn fine_points(&self) -> Result<Vec<Point>> {
        let ratios = self.ratios()?;
        let train_steps = ratios.len();
        let times: Vec<f64> = match self.timestep_spacing {
            TimestepSpacing::Linspace => {
                self.timestep_spacing.ddim(train_steps, self.steps, 0)?;
                let mut times: Vec<f64> = spread(0.0, (train_steps - 1) as f64, self.steps).collect();
                times.reverse();
                times
            }
            spacing => {
                let times = spacing.ddim(train_steps, self.steps, self.steps_offset)?;
                times.into_iter().map(|t| t as f64).collect()
            }
        };
        let ratio = |t: f64| {
            let low = (t as usize).min(train_steps - 2);
            ratios[low] + (t - low as f64) * (ratios[low + 1] - ratios[low])
        };
        let mut visits: Vec<Visit> = times.into_iter().map(|t| (t, ratio(t))).collect();
        if self.sigmas == Sigmas::Karras {
            let (first, last) = (visits[0].1, visits[self.steps - 1].1);
            let at = |sigma: f64| (timesteps::of_sigma(&ratios, sigma), sigma);
            visits = karras(first, last, self.steps).into_iter().map(at).collect();
        }
        visits.push(self.end(&ratios));
        Ok(points(visits))
    }

    /// DDIM's points, and the end.
    pub(super) fn ddim_points(&self) -> Result<Vec<Point>> {
        let ratios = self.ratios()?;
        let times = self.timestep_spacing.ddim(ratios.len(), self.steps, self.steps_offset)?;
        let mut visits: Vec<Visit> = times.into_iter().map(|t| (t as f64, ratios[t])).collect();
        visits.push(self.end(&ratios));
        Ok(points(visits))
    }

    /// What lies half a stride below each of DDIM's points.
    pub(super) fn half_points(&self) -> Result<Vec<Point>> {
        let ratios = self.ratios()?;
        let times = self.timestep_spacing.ddim(ratios.len(), self.steps, self.steps_offset)?;
        let half = ratios.len() / self.steps / 2;
        let below = |t: usize| t.saturating_sub(half);
        Ok(points(times.into_iter().map(|t| (below(t) as f64, ratios[below(t)])).collect()))
    }

    /// LCM's points, some of those that the model was distilled for, and the end without noise.
    pub(super) fn distilled_points(&self, original_steps: usize) -> Result<Vec<Point>> {
        let ratios = self.ratios()?;
        if !(1..=ratios.len()).contains(&original_steps) || !(1..=original_steps).contains(&self.steps) {
            return Err(Error::new(
                Code::InvalidArgument,
                format!("steps is {}, for a model distilled for {original_steps}", self.steps),
                format!("Give a whole number from 1 to {original_steps}"),
            ));
        }
        let stride = ratios.len() / original_steps;
        let time = |i: usize| (original_steps - i * original_steps / self.steps) * stride - 1;
        let mut visits: Vec<Visit> = (0..self.steps).map(time).map(|t| (t as f64, ratios[t])).collect();
        visits.push((0.0, 0.0));
        Ok(points(visits))
    }
}

fn points(visits: Vec<Visit>) -> Vec<Point> {
    let point = |(network_time, ratio)| Point { network_time, level: NoiseLevel::from_ratio(ratio) };
    visits.into_iter().map(point).collect()
}
