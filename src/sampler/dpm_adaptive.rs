//! DPM-Solver and DPM-Solver++ with steps as long as an error estimate allows (arXiv:2206.00927, appendix C;
//! `dpm_solver_adaptive` of baofff/U-ViT@ce551708dc9cde9818d2af7d84dfadfeb7bd9034 dpm_solver_pytorch.py and dpm_solver_pp.py). Two updates
//! of neighbouring orders share their calls of the network; how far they differ, of all images the most, decides.

use super::builder::Builder;
use super::dpm::{Algorithm, SolverType, Update};
use super::dpm_singlestep::{START, arrival, between, ratios, update};
use super::grid::Point;
use super::schedule::Curve;
use super::settings::later;
use super::{Prediction, Recipe, Schedule, Slot, Step};
use crate::error::{Code, Error, Result};

/// The update of the lower order, and that of the last accepted step.
const LOW: Slot = Slot::Scratch(4);
const BEFORE: Slot = Slot::Scratch(5);
const SLOTS: usize = 6;

/// How exact it is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    /// The first step, in lambda.
    pub h: f64,
    /// Absolute, in latents.
    pub atol: f64,
    /// Relative.
    pub rtol: f64,
    /// How much of the step that would just do is taken.
    pub theta: f64,
}

impl Default for Tolerances {
    /// The published ones: half a step of 8-bit pixels.
    fn default() -> Tolerances {
        Tolerances { h: 0.05, atol: 0.0078, rtol: 0.05, theta: 0.9 }
    }
}

/// The solver on its way. Walk [`Adaptive::attempt`]'s steps, measure [`Adaptive::error`], walk [`Adaptive::settle`]'s, and again.
#[derive(Clone, Debug, PartialEq)]
pub struct Adaptive {
    update: Update,
    curve: Curve,
    order: usize,
    tolerances: Tolerances,
    time_scale: f64,
    /// The network's times are so much later.
    pub(super) time_offset: f64,
    t_min: f64,
    t: f64,
    h: f64,
    began: f64,
}

/// Nearer than this to the end is there.
const T_ERROR: f64 = 1e-5;

/// The most attempts: a network that no step is short enough for does not run forever.
pub const MAX_ATTEMPTS: usize = 1000;

/// The solver's settings; all fields count.
#[derive(Clone, Debug, PartialEq)]
pub struct DpmAdaptive {
    /// The noise schedule.
    pub schedule: Schedule,
    /// What the network predicts.
    pub prediction: Prediction,
    /// 2 or 3, the higher of the two that are compared.
    pub order: usize,
    /// x_0 or the noise.
    pub algorithm: Algorithm,
    /// The form of the updates.
    pub solver_type: SolverType,
    /// Where it starts.
    pub t_max: f64,
    /// Where it ends.
    pub t_min: f64,
    /// The network is handed this times t.
    pub time_scale: f64,
    /// x_0 estimates are clipped to \[-1, 1\].
    pub clip_x0: bool,
    /// How exact it is to be.
    pub tolerances: Tolerances,
}

impl DpmAdaptive {
    /// A recipe whose steps are only the first, and that has more to say.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`.
    pub fn recipe(&self) -> Result<Recipe> {
        let DpmAdaptive { prediction, order, algorithm, solver_type, time_scale, t_min, tolerances, .. } = *self;
        if !(2..=3).contains(&order) {
            return Err(Error::new(Code::InvalidArgument, format!("the order is {order}"), "Give 2 or 3"));
        }
        let curve = self.schedule.curve()?;
        let clip = self.clip_x0.then_some((-1.0, 1.0));
        let update = Update { prediction, algorithm, solver_type, clip };
        let (t, h, began) = (self.t_max, tolerances.h, curve.lambda_t(self.t_max));
        let start = curve.level(t);
        let mut first = Builder::default();
        first.combine(BEFORE, &[(Slot::Latents, 1.0)], None);
        Ok(Recipe {
            steps: first.steps(),
            scratch_slots: SLOTS,
            evaluations: 0,
            init_noise_sigma: 1.0,
            start: [start.alpha_t, start.sigma_t],
            adaptive: Some(Adaptive {
                update,
                curve,
                order,
                tolerances,
                time_scale,
                time_offset: 0.0,
                t_min,
                t,
                h,
                began,
            }),
        })
    }
}

impl Adaptive {
    /// The steps of an update from here, if it is not the end: the latents become its result.
    pub fn attempt(&self) -> Option<Vec<Step>> {
        if (self.t - self.t_min).abs() <= T_ERROR {
            return None;
        }
        let (from, to) = (self.point(self.t), self.point(self.next()));
        let inner: Vec<Point> =
            ratios(self.order).iter().map(|r| between(&self.curve, &from, &to, *r, self.time_scale)).collect();
        let mut steps = Builder::default();
        update(&mut steps, &self.update, &from, &inner, &to.level);
        steps.combine(LOW, &arrival(&self.update, &from, &inner[..inner.len() - 1], &to.level), None);
        let mut steps = steps.steps();
        later(&mut steps, self.time_offset);
        Some(steps)
    }

    /// What [`Adaptive::error`] compares: the update of the lower order, and that of the last accepted step.
    pub fn compared() -> [Slot; 2] {
        [LOW, BEFORE]
    }

    /// How far two updates differ: of all images the root mean square of (high - low) / tolerance that is the largest.
    pub fn error(&self, images: usize, high: &[f64], low: &[f64], before: &[f64]) -> f64 {
        let Tolerances { atol, rtol, .. } = self.tolerances;
        let of_one = high.len() / images.max(1);
        let square = |i: usize| ((high[i] - low[i]) / atol.max(rtol * low[i].abs().max(before[i].abs()))).powi(2);
        let of_image = |image: usize| {
            let sum: f64 = (image * of_one..(image + 1) * of_one).map(square).sum();
            (sum / of_one as f64).sqrt()
        };
        // f64::max would overlook a NaN.
        (0..images).map(of_image).fold(0.0, |most, error| if error > most || error.is_nan() { error } else { most })
    }

    /// Accepts or takes back the update, and chooses the next one's length.
    pub fn settle(&mut self, error: f64) -> Vec<Step> {
        let mut steps = Builder::default();
        if error <= 1.0 {
            self.t = self.next();
            steps.combine(BEFORE, &[(LOW, 1.0)], None);
            steps.arrive(&self.curve.level(self.t));
        } else {
            steps.combine(Slot::Latents, &[(START, 1.0)], None);
        }
        // The published code's error is an f32.
        let growth = f64::from(error.powf(-1.0 / self.order as f64) as f32);
        let left = self.curve.lambda_t(self.t_min) - self.curve.lambda_t(self.t);
        self.h = (self.tolerances.theta * self.h * growth).min(left);
        steps.steps()
    }

    /// How much of the way is done with the next update, 0 to 1.
    pub fn progress(&self) -> f64 {
        let end = self.curve.lambda_t(self.t_min);
        (self.curve.lambda_t(self.next()) - self.began) / (end - self.began)
    }

    fn next(&self) -> f64 {
        self.curve.t_of_lambda(self.curve.lambda_t(self.t) + self.h)
    }

    fn point(&self, t: f64) -> Point {
        Point { network_time: self.time_scale * t, level: self.curve.level(t) }
    }
}
