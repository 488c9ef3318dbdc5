//! DPM-Solver++ (2M) and its kin: multistep solvers of the probability-flow ODE in lambda, of order 1 or 2
//! (arXiv:2211.01095, algorithm 2 and appendix A; the noise form is DPM-Solver's, arXiv:2206.00927, appendix B).
//! [`continuous`] walks a grid even in t (the multistep update of baofff/U-ViT@ce551708dc9cde9818d2af7d84dfadfeb7bd9034
//! dpm_solver_pp.py); [`DpmMultistep`] walks the grid of diffusers 0.42.1 scheduling_dpmsolver_multistep.py. The arithmetic is one.

use super::builder::Builder;
use super::schedule::{NoiseLevel, rescale_zero_terminal_snr, time_grid};
use super::timesteps::TimestepSpacing;
use super::{Prediction, Recipe, Schedule, Slot};
use crate::error::{Code, Error, Result};

/// Which of the two quantities is held constant (or linear) over a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// x_0: DPM-Solver++.
    DpmSolverPlusPlus,
    /// The noise: DPM-Solver.
    DpmSolver,
}

/// How the slope enters an update of order 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SolverType {
    /// As if taken in the middle of the step ("dpm_solver" in U-ViT's code).
    Midpoint,
    /// By the Taylor expansion ("taylor" in U-ViT's code).
    Heun,
}

/// Where diffusers' grid ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinalSigma {
    /// Without noise.
    Zero,
    /// At the noise of the first training step.
    SigmaMin,
}

/// One end of a step.
struct Point {
    network_time: f64,
    level: NoiseLevel,
}

/// What an update does, apart from where.
struct Update {
    prediction: Prediction,
    algorithm: Algorithm,
    solver_type: SolverType,
    clip: Option<(f64, f64)>,
}

/// DPM-Solver++ (2M) on an even grid of times from `t_max` to `t_min`; the network is handed `time_scale` t.
///
/// The first step is of order 1, and so is the last with `lower_order_final`. With `clip_x0` the x_0 estimates are
/// clipped to \[-1, 1\], and the clipped ones are what the next step remembers.
pub fn continuous(
    schedule: &Schedule,
    prediction: Prediction,
    steps: usize,
    t_max: f64,
    t_min: f64,
    time_scale: f64,
    clip_x0: bool,
    lower_order_final: bool,
) -> Result<Recipe> {
    let curve = schedule.curve()?;
    let points: Vec<Point> = time_grid(t_max, t_min, steps)
        .iter()
        .map(|&t| Point { network_time: time_scale * t, level: curve.level(t) })
        .collect();
    let update = Update {
        prediction,
        algorithm: Algorithm::DpmSolverPlusPlus,
        solver_type: SolverType::Midpoint,
        clip: clip_x0.then_some((-1.0, 1.0)),
    };
    compile(&points, &update, |i| if i == 0 || (lower_order_final && i + 1 == steps) { 1 } else { 2 })
}

/// diffusers' DPMSolverMultistepScheduler; the fields are its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct DpmMultistep {
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
    /// 1 or 2.
    pub solver_order: usize,
    /// x_0 or noise.
    pub algorithm_type: Algorithm,
    /// The form of order 2.
    pub solver_type: SolverType,
    /// Where the grid ends.
    pub final_sigmas_type: FinalSigma,
    /// The last step of fewer than 15 is of order 1.
    pub lower_order_final: bool,
    /// The last step is of order 1.
    pub euler_at_final: bool,
    /// The last training step is made (all but) pure noise.
    pub rescale_betas_zero_snr: bool,
}

impl DpmMultistep {
    /// With diffusers' defaults.
    pub fn new(schedule: Schedule, prediction: Prediction, steps: usize) -> DpmMultistep {
        DpmMultistep {
            schedule,
            steps,
            prediction,
            timestep_spacing: TimestepSpacing::Linspace,
            steps_offset: 0,
            solver_order: 2,
            algorithm_type: Algorithm::DpmSolverPlusPlus,
            solver_type: SolverType::Midpoint,
            final_sigmas_type: FinalSigma::Zero,
            lower_order_final: true,
            euler_at_final: false,
            rescale_betas_zero_snr: false,
        }
    }

    /// The steps to execute.
    pub fn recipe(&self) -> Result<Recipe> {
        if !(1..=2).contains(&self.solver_order) {
            return Err(Error::new(
                Code::InvalidArgument,
                format!("solver_order is {}", self.solver_order),
                "Give 1 or 2",
            ));
        }
        if self.algorithm_type == Algorithm::DpmSolver && self.final_sigmas_type == FinalSigma::Zero {
            return Err(Error::new(
                Code::InvalidArgument,
                "The algorithm dpmsolver cannot end without noise (final_sigmas_type zero)",
                "Take final_sigmas_type sigma_min, or the algorithm dpmsolver++",
            ));
        }
        let points = self.points()?;
        let last = self.steps - 1;
        let last_is_first_order = self.euler_at_final
            || (self.lower_order_final && self.steps < 15)
            || self.final_sigmas_type == FinalSigma::Zero;
        let update = Update {
            prediction: self.prediction,
            algorithm: self.algorithm_type,
            solver_type: self.solver_type,
            clip: None,
        };
        compile(&points, &update, |i| if i == 0 || (i == last && last_is_first_order) { 1 } else { self.solver_order })
    }

    /// The visited training steps and the end.
    fn points(&self) -> Result<Vec<Point>> {
        let mut alphas_cumprod = self.schedule.alphas_cumprod()?;
        let train_steps = alphas_cumprod.len();
        if self.rescale_betas_zero_snr {
            rescale_zero_terminal_snr(&mut alphas_cumprod);
            // diffusers' stand-in for 0, which would make the first sigma infinite.
            alphas_cumprod[train_steps - 1] = 2f64.powi(-24);
        }
        let ratio = |k: usize| ((1.0 - alphas_cumprod[k]) / alphas_cumprod[k]).sqrt();
        let times = self.timestep_spacing.multistep(train_steps, self.steps, self.steps_offset)?;
        let mut points: Vec<Point> = times
            .iter()
            .map(|&t| Point { network_time: t as f64, level: NoiseLevel::from_ratio(ratio(t.min(train_steps - 1))) })
            .collect();
        let end = match self.final_sigmas_type {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => ratio(0),
        };
        points.push(Point { network_time: 0.0, level: NoiseLevel::from_ratio(end) });
        Ok(points)
    }
}

/// One step for each pair of neighbouring points. m is x_0 or the noise, e is -1 or +1, from s to t:
/// x_t = A x_s + B (p1 m_0 + d (m_0 - m_1) / r_0), h = lambda_t - lambda_s, p1 = expm1(e h), r_0 = h_previous / h.
fn compile(points: &[Point], update: &Update, order_of: impl Fn(usize) -> usize) -> Result<Recipe> {
    let mut recipe = Builder::default();
    let mut h_previous = f64::NAN;
    for (i, pair) in points.windows(2).enumerate() {
        let (s, t) = (pair[0].level, pair[1].level);
        let x0 = update.prediction.x0(s.alpha_t, s.sigma_t);
        recipe.eval(pair[0].network_time, x0);

        let (m, e, a, b) = match update.algorithm {
            Algorithm::DpmSolverPlusPlus => (x0, -1.0, t.sigma_t / s.sigma_t, -t.alpha_t),
            Algorithm::DpmSolver => {
                (update.prediction.noise(s.alpha_t, s.sigma_t), 1.0, t.alpha_t / s.alpha_t, -t.sigma_t)
            }
        };
        // The newest m and the one before take turns in two slots.
        let (m_0, m_1) = (Slot::Scratch((i % 2) as u8), Slot::Scratch(((i + 1) % 2) as u8));
        recipe.combine(m_0, &[(Slot::Latents, m[0]), (Slot::Model, m[1])], update.clip);

        let h = t.lambda_t - s.lambda_t;
        let p1 = (e * h).exp_m1();
        if order_of(i) == 1 {
            recipe.combine(Slot::Latents, &[(Slot::Latents, a), (m_0, b * p1)], None);
        } else {
            let d = match update.solver_type {
                SolverType::Midpoint => p1 / 2.0,
                SolverType::Heun => p1 / (e * h) - 1.0,
            };
            let slope = d * h / h_previous;
            recipe.combine(Slot::Latents, &[(Slot::Latents, a), (m_0, b * (p1 + slope)), (m_1, -b * slope)], None);
        }
        h_previous = h;
    }
    recipe.finish(1.0)
}
