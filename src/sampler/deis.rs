//! DEIS (arXiv:2204.13902, section 3 and appendix), in the form of diffusers 0.42.1 scheduling_deis_multistep.py: the noise
//! is extrapolated by a polynomial in ln rho, rho = sigma_t / alpha_t, and integrated over rho exactly.

use super::builder::Builder;
use super::euler;
use super::grid::Point;
use super::training_grid::TrainingGrid;
use super::{Prediction, Recipe, Slot};
use crate::error::{Code, Error, Result};

/// diffusers' DEISMultistepScheduler; the fields are its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Deis {
    /// Where the network is called; it must end with noise.
    pub grid: TrainingGrid,
    /// What it predicts.
    pub prediction: Prediction,
    /// 1 to 3; the first steps have less.
    pub solver_order: usize,
    /// The last steps of fewer than 15 have less, too.
    pub lower_order_final: bool,
}

impl Deis {
    /// The steps to execute.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`; `UNSUPPORTED_MODEL` for a schedule that is not discrete.
    pub fn recipe(&self) -> Result<Recipe> {
        let lower = self.lower_order_final && self.grid.steps < 15;
        compile(&self.grid.points()?, self.prediction, None, self.solver_order, lower)
    }
}

/// One step for each pair of neighbouring points; with `lower_order_final` the last has order 1, the one before it at most 2.
pub(super) fn compile(
    points: &[Point],
    prediction: Prediction,
    clip: Option<(f64, f64)>,
    solver_order: usize,
    lower_order_final: bool,
) -> Result<Recipe> {
    if !(1..=3).contains(&solver_order) {
        return Err(Error::new(Code::InvalidArgument, format!("the order is {solver_order}"), "Give 1, 2 or 3"));
    }
    let steps = points.len() - 1;
    let update = euler::noise(prediction, clip);
    let remembered = solver_order.min(steps);
    let slot = |i: usize| Slot::Scratch((i % remembered) as u8);
    let rho = |i: usize| points[i].level.sigma_t / points[i].level.alpha_t;
    let mut recipe = Builder::default();
    for i in 0..steps {
        let (from, to) = (&points[i].level, &points[i + 1].level);
        update.estimate(&mut recipe, &points[i], slot(i));
        let left = if lower_order_final { steps - i } else { solver_order };
        let order = solver_order.min(left).min(i + 1);
        let mut sum = vec![(Slot::Latents, to.alpha_t / from.alpha_t)];
        for j in 0..order {
            let others: Vec<f64> = (0..order).filter(|&k| k != j).map(|k| rho(i - k).ln()).collect();
            let integral = |at: f64| antiderivative(at, rho(i - j).ln(), &others);
            sum.push((slot(i - j), to.alpha_t * (integral(rho(i + 1)) - integral(rho(i)))));
        }
        recipe.combine(Slot::Latents, &sum, None);
        recipe.arrive(to);
    }
    recipe.finish(&points[0].level, 1.0)
}

/// Of the polynomial in ln rho that is 1 at `one` and 0 at `zeros` (at most two), over rho.
fn antiderivative(rho: f64, one: f64, zeros: &[f64]) -> f64 {
    let ln = rho.ln();
    match *zeros {
        [] => rho,
        [c] => rho * (ln - c - 1.0) / (one - c),
        [c, d, ..] => {
            let of_product = ln * ln - (c + d + 2.0) * ln + c * d + c + d + 2.0;
            rho * of_product / ((one - c) * (one - d))
        }
    }
}
