//! Euler's method on the ODE dX/ds = noise of X = x_t / alpha_t, s = sigma_t / alpha_t (arXiv:2206.00364). In x_t its step is
//! DDIM's, and that of the ancestral sampler is DDIM's with eta = 1: one update, other grids. Here: diffusers' schedulers over it
//! (0.42.1, scheduling_euler_discrete.py, scheduling_euler_ancestral_discrete.py, scheduling_heun_discrete.py), and churn.

use super::builder::Builder;
use super::dpm::{Algorithm, SolverType, Update};
use super::grid::Point;
use super::timesteps::TimestepSpacing;
use super::training_grid::{Sigmas, TrainingGrid};
use super::{Prediction, Recipe, Slot, ddim, heun};
use crate::decimal::decimal;
use crate::error::{Code, Error, Result};

/// Fresh noise before a step, as if it came from further up (arXiv:2206.00364, algorithm 2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// How much, over all steps; 0: none. A step's noise grows by at most sqrt(2) - 1.
    pub s_churn: f64,
    /// Only where sigma_t / alpha_t lies between these.
    pub s_tmin: f64,
    /// See `s_tmin`.
    pub s_tmax: f64,
    /// The deviation of the noise that is added.
    pub s_noise: f64,
}

impl Churn {
    /// So much everywhere.
    pub fn new(s_churn: f64) -> Churn {
        Churn { s_churn, s_tmin: 0.0, s_tmax: f64::INFINITY, s_noise: 1.0 }
    }
}

/// Which of diffusers' schedulers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// EulerDiscreteScheduler.
    Euler(Churn),
    /// EulerAncestralDiscreteScheduler.
    Ancestral,
    /// HeunDiscreteScheduler.
    Heun,
}

/// diffusers' schedulers in X; the states here are x_t = X / sqrt(s^2 + 1).
#[derive(Clone, Debug, PartialEq)]
pub struct DiffusersEuler {
    /// Where the network is called.
    pub grid: TrainingGrid,
    /// What it predicts.
    pub prediction: Prediction,
    /// Which of them.
    pub method: Method,
}

impl DiffusersEuler {
    /// X / x_t at every point, the end included.
    ///
    /// # Errors
    /// As [`DiffusersEuler::recipe`].
    pub fn scales(&self) -> Result<Vec<f64>> {
        Ok(self.grid.fine_points()?.iter().map(|point| 1.0 / point.level.alpha_t).collect())
    }

    /// The steps to execute.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`; `UNSUPPORTED_MODEL` for a schedule that is not discrete.
    pub fn recipe(&self) -> Result<Recipe> {
        let points = self.grid.fine_points()?;
        let init = init_noise_sigma(&self.grid, &points);
        match self.method {
            Method::Euler(churn) => compile(&points, self.prediction, None, churn, init),
            Method::Ancestral => ddim::over(&points, self.prediction, None, 1.0, init),
            Method::Heun => heun::compile(&points, &noise(self.prediction, None), init),
        }
    }
}

/// A grid that begins at the noisiest level begins without signal.
pub(super) fn init_noise_sigma(grid: &TrainingGrid, points: &[Point]) -> f64 {
    match (grid.sigmas, grid.timestep_spacing) {
        (Sigmas::Trained, TimestepSpacing::Leading) => 1.0,
        _ => points[0].level.sigma_t,
    }
}

/// An update that estimates the noise.
pub(super) fn noise(prediction: Prediction, clip: Option<(f64, f64)>) -> Update {
    Update { prediction, algorithm: Algorithm::DpmSolver, solver_type: SolverType::Midpoint, clip }
}

const NOISE: Slot = Slot::Scratch(0);
const FRESH: Slot = Slot::Scratch(1);

/// One step for each pair of neighbouring points: X' = X + k z + (s' - s_hat) noise, k^2 = s_noise^2 (s_hat^2 - s^2),
/// s_hat = s (1 + gamma). As in diffusers the network is called before the noise is added, not after.
pub(super) fn compile(
    points: &[Point],
    prediction: Prediction,
    clip: Option<f64>,
    churn: Churn,
    init_noise_sigma: f64,
) -> Result<Recipe> {
    if !(churn.s_churn >= 0.0 && churn.s_churn.is_finite()) {
        let cause = format!("churn is {}", decimal(churn.s_churn));
        return Err(Error::new(Code::InvalidArgument, cause, "Give a finite number, 0 or more"));
    }
    if churn.s_churn == 0.0 {
        return ddim::over(points, prediction, clip, 0.0, init_noise_sigma);
    }
    let update = noise(prediction, clip.map(|bound| (-bound, bound)));
    let share = (churn.s_churn / (points.len() - 1) as f64).min(2f64.sqrt() - 1.0);
    let mut recipe = Builder::default();
    for pair in points.windows(2) {
        let (from, to) = (&pair[0].level, &pair[1].level);
        update.estimate(&mut recipe, &pair[0], NOISE);
        let ratio = from.sigma_t / from.alpha_t;
        let gamma = if (churn.s_tmin..=churn.s_tmax).contains(&ratio) { share } else { 0.0 };
        let raised = ratio * (1.0 + gamma);
        let mut sum = vec![(Slot::Latents, to.alpha_t / from.alpha_t), (NOISE, to.sigma_t - to.alpha_t * raised)];
        if gamma > 0.0 {
            recipe.noise(FRESH);
            sum.push((FRESH, to.alpha_t * churn.s_noise * (raised * raised - ratio * ratio).sqrt()));
        }
        recipe.combine(Slot::Latents, &sum, None);
        recipe.arrive(to);
    }
    recipe.finish(&points[0].level, init_noise_sigma)
}
