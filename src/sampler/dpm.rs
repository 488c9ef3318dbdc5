//! What the DPM solvers share. They hold one of two quantities, m, constant (or nearly so) over a step in lambda: the noise
//! (DPM-Solver, arXiv:2206.00927) or x_0 (DPM-Solver++, arXiv:2211.01095). From s to t, with h = lambda_t - lambda_s and e = +1
//! for the noise, -1 for x_0 (-2 with fresh noise): x_t = A x_s + B (p1 m_s + ..), where A, B and the p are those of `Span`.

use super::builder::Builder;
use super::grid::Point;
use super::schedule::NoiseLevel;
use super::{Prediction, Slot};

/// Which of the two quantities is held constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// x_0: DPM-Solver++.
    DpmSolverPlusPlus,
    /// The noise: DPM-Solver.
    DpmSolver,
    /// x_0, and the noise is fresh at every step (diffusers' sde-dpmsolver++).
    SdeDpmSolverPlusPlus,
}

/// How slopes enter an update of order 2 or 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SolverType {
    /// As if taken in the middle of the step ("dpm_solver" in U-ViT's code).
    Midpoint,
    /// By the Taylor expansion ("taylor" in U-ViT's code, "heun" in diffusers).
    Heun,
}

/// What an update does, apart from where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Update {
    pub(super) prediction: Prediction,
    pub(super) algorithm: Algorithm,
    pub(super) solver_type: SolverType,
    /// Of the x_0 estimates.
    pub(super) clip: Option<(f64, f64)>,
}

impl Update {
    /// Calls the network on the latents, at `point`, and writes m.
    pub(super) fn estimate(&self, recipe: &mut Builder, point: &Point, m: Slot) {
        let NoiseLevel { alpha_t, sigma_t, .. } = point.level;
        let (x0, noise) = (self.prediction.x0(alpha_t, sigma_t), self.prediction.noise(alpha_t, sigma_t));
        recipe.eval(point.network_time, x0);
        let form = match (self.algorithm, self.clip) {
            (Algorithm::DpmSolver, None) => noise,
            _ => x0,
        };
        recipe.combine(m, &[(Slot::Latents, form[0]), (Slot::Model, form[1])], self.clip);
        if self.algorithm == Algorithm::DpmSolver && self.clip.is_some() {
            let noise = Prediction::X0.noise(alpha_t, sigma_t);
            recipe.combine(m, &[(Slot::Latents, noise[0]), (m, noise[1])], None);
        }
    }

    /// The way from one level to another.
    pub(super) fn span(&self, s: &NoiseLevel, t: &NoiseLevel) -> Span {
        let h = t.lambda_t - s.lambda_t;
        match self.algorithm {
            Algorithm::DpmSolverPlusPlus => Span { h, e: -1.0, a: t.sigma_t / s.sigma_t, b: -t.alpha_t },
            Algorithm::DpmSolver => Span { h, e: 1.0, a: t.alpha_t / s.alpha_t, b: -t.sigma_t },
            Algorithm::SdeDpmSolverPlusPlus => {
                Span { h, e: -2.0, a: t.sigma_t / s.sigma_t * (-h).exp(), b: -t.alpha_t }
            }
        }
    }
}

/// The coefficients of a way.
pub(super) struct Span {
    pub(super) h: f64,
    pub(super) e: f64,
    /// Of x_s.
    pub(super) a: f64,
    /// Of what is in brackets.
    pub(super) b: f64,
}

impl Span {
    /// expm1(e h).
    pub(super) fn p1(&self) -> f64 {
        (self.e * self.h).exp_m1()
    }

    /// p1 / (e h) - 1.
    pub(super) fn p2(&self) -> f64 {
        self.p1() / (self.e * self.h) - 1.0
    }

    /// p2 / (e h) - 1/2.
    pub(super) fn p3(&self) -> f64 {
        self.p2() / (self.e * self.h) - 0.5
    }
}
