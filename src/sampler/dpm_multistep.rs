//! DPM-Solver and DPM-Solver++, multistep: one call of the network a step, the slopes from the steps before. Orders 1 to 3
//! (arXiv:2211.01095, algorithm 2 and appendix A; the noise form is DPM-Solver's, arXiv:2206.00927, appendix B), and the SDE form.
//! [`Continuous`] walks a grid of times (the multistep update of baofff/U-ViT@ce551708dc9cde9818d2af7d84dfadfeb7bd9034
//! dpm_solver_pp.py); [`DpmMultistep`] walks the grid of diffusers 0.42.1 scheduling_dpmsolver_multistep.py. The arithmetic is one.

use super::builder::Builder;
use super::dpm::{Algorithm, SolverType, Update};
use super::grid::{ContinuousGrid, Point};
use super::training_grid::{FinalSigma, TrainingGrid};
use super::{Prediction, Recipe, Slot};
use crate::error::{Code, Error, Result};

/// The solver on a grid of continuous times; all fields count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Continuous {
    /// Where the network is called.
    pub grid: ContinuousGrid,
    /// What it predicts.
    pub prediction: Prediction,
    /// 1 to 3; the first steps have less.
    pub order: usize,
    /// x_0 or the noise.
    pub algorithm: Algorithm,
    /// The form of order 2.
    pub solver_type: SolverType,
}

impl Continuous {
    /// The steps to execute.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`.
    pub fn recipe(&self) -> Result<Recipe> {
        let Continuous { prediction, algorithm, solver_type, .. } = *self;
        let update = Update { prediction, algorithm, solver_type, clip: None };
        over(&self.grid.points()?, &update, self.order, false)
    }
}

/// One step for each pair of neighbouring points. With `lower_order_final` the last is of order 1, the one before it of order 2 at
/// most.
pub(super) fn over(points: &[Point], update: &Update, order: usize, lower_order_final: bool) -> Result<Recipe> {
    check_order(order)?;
    let steps = points.len() - 1;
    compile(points, update, |i| match steps - i {
        left @ 1..=2 if lower_order_final => left.min(order),
        _ => order,
    })
}

fn check_order(order: usize) -> Result<()> {
    match order {
        1..=3 => Ok(()),
        _ => Err(Error::new(Code::InvalidArgument, format!("the order is {order}"), "Give 1, 2 or 3")),
    }
}

/// diffusers' DPMSolverMultistepScheduler; the fields are its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct DpmMultistep {
    /// Where the network is called.
    pub grid: TrainingGrid,
    /// What the network predicts.
    pub prediction: Prediction,
    /// 1 to 3.
    pub solver_order: usize,
    /// x_0 or noise.
    pub algorithm_type: Algorithm,
    /// The form of order 2.
    pub solver_type: SolverType,
    /// The last step of fewer than 15 is of order 1, the one before it of order 2 at most.
    pub lower_order_final: bool,
    /// The last step is of order 1.
    pub euler_at_final: bool,
}

impl DpmMultistep {
    /// With diffusers' defaults.
    pub fn new(grid: TrainingGrid, prediction: Prediction) -> DpmMultistep {
        DpmMultistep {
            grid,
            prediction,
            solver_order: 2,
            algorithm_type: Algorithm::DpmSolverPlusPlus,
            solver_type: SolverType::Midpoint,
            lower_order_final: true,
            euler_at_final: false,
        }
    }

    /// The steps to execute.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`; `UNSUPPORTED_MODEL` for a schedule that is not discrete.
    pub fn recipe(&self) -> Result<Recipe> {
        check_order(self.solver_order)?;
        if self.algorithm_type == Algorithm::DpmSolver && self.grid.final_sigmas_type == FinalSigma::Zero {
            return Err(Error::new(
                Code::InvalidArgument,
                "The algorithm dpmsolver cannot end without noise (final_sigmas_type zero)",
                "Take final_sigmas_type sigma_min, or the algorithm dpmsolver++",
            ));
        }
        let points = self.grid.points()?;
        let few = self.lower_order_final && self.grid.steps < 15;
        let last_is_first_order = self.euler_at_final || few;
        let update = Update {
            prediction: self.prediction,
            algorithm: self.algorithm_type,
            solver_type: self.solver_type,
            clip: None,
        };
        compile(&points, &update, |i| match self.grid.steps - i {
            1 if last_is_first_order => 1,
            2 if few => self.solver_order.min(2),
            _ => self.solver_order,
        })
    }
}

/// One step for each pair of neighbouring points, of order `order_of(i)` where there are as many steps before it; the way to no
/// noise at all, which has no end in lambda, is of order 1.
fn compile(points: &[Point], update: &Update, order_of: impl Fn(usize) -> usize) -> Result<Recipe> {
    let steps = points.len() - 1;
    let most = |i: usize| if points[i + 1].level.sigma_t == 0.0 { 1 } else { i + 1 };
    let orders: Vec<usize> = (0..steps).map(|i| order_of(i).min(most(i))).collect();
    // The newest m and those before it take turns.
    let remembered = orders.iter().copied().max().unwrap_or(1).max(if steps > 1 { 2 } else { 1 });
    let slot = |i: usize| Slot::Scratch((i % remembered) as u8);
    let fresh = Slot::Scratch(remembered as u8);

    let mut recipe = Builder::default();
    for (i, pair) in points.windows(2).enumerate() {
        let span = update.span(&pair[0].level, &pair[1].level);
        update.estimate(&mut recipe, &pair[0], slot(i));
        let (p1, b) = (span.p1(), span.b);
        // How far back the points before lie, in steps of this one's length.
        let back = |n: usize| (points[i + 1 - n].level.lambda_t - points[i - n].level.lambda_t) / span.h;
        let mut terms = vec![(Slot::Latents, span.a), (slot(i), b * p1)];
        // D = (m_0 - m_1) / r_0, D' = (m_1 - m_2) / r_1.
        let mut add = |d: f64, d_before: f64| {
            terms.push((slot(i), b * d / back(1)));
            terms.push((slot(i - 1), -b * d / back(1)));
            if d_before != 0.0 {
                terms.push((slot(i - 1), b * d_before / back(2)));
                terms.push((slot(i - 2), -b * d_before / back(2)));
            }
        };
        match (orders[i], update.solver_type) {
            (1, _) => {}
            (2, SolverType::Midpoint) => add(p1 / 2.0, 0.0),
            (2, SolverType::Heun) => add(span.p2(), 0.0),
            _ => {
                let (r0, r1) = (back(1), back(2));
                // p2 (D + r0 (D - D') / (r0 + r1)) + p3 (D - D') / (r0 + r1)
                let bend = (span.p2() * r0 + span.p3()) / (r0 + r1);
                add(span.p2() + bend, -bend);
            }
        }
        if update.algorithm == Algorithm::SdeDpmSolverPlusPlus {
            recipe.noise(fresh);
            terms.push((fresh, pair[1].level.sigma_t * (-p1).sqrt()));
        }
        recipe.combine(Slot::Latents, &terms, None);
        recipe.arrive(&pair[1].level);
    }
    recipe.finish(&points[0].level, 1.0)
}
