//! DPM-Solver and DPM-Solver++, multistep: one call of the network a step, the slopes from the steps before. Orders 1 to 3
//! (arXiv:2211.01095, algorithm 2 and appendix A; the noise form is DPM-Solver's, arXiv:2206.00927, appendix B), and the SDE form.
//! [`Continuous`] walks a grid of times (the multistep update of baofff/U-ViT@ce551708dc9cde9818d2af7d84dfadfeb7bd9034
//! dpm_solver_pp.py); [`DpmMultistep`] walks the grid of diffusers 0.42.1 scheduling_dpmsolver_multistep.py. The arithmetic is one.

use super::builder::Builder;
use super::dpm::{Algorithm, Point, SolverType, Update};
use super::grid::Spacing;
use super::schedule::{NoiseLevel, rescale_zero_terminal_snr};
use super::timesteps::{self, TimestepSpacing};
use super::{Prediction, Recipe, Schedule, Slot};
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sigmas {
    /// Those of the visited training steps.
    Trained,
    /// Evenly in sigma^(1/7), from the last training step's to the first's (arXiv:2206.00364, equation 5).
    Karras,
    /// Evenly in ln sigma (`use_lu_lambdas`).
    Lu,
}

/// The solver on a grid of continuous times; all fields count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Continuous {
    /// The noise schedule.
    pub schedule: Schedule,
    /// What the network predicts.
    pub prediction: Prediction,
    /// How often the network runs.
    pub steps: usize,
    /// 1 to 3; the first steps have less.
    pub order: usize,
    /// x_0 or the noise.
    pub algorithm: Algorithm,
    /// The form of order 2.
    pub solver_type: SolverType,
    /// The last step is of order 1 (and of three the one before it of order 2 at most).
    pub lower_order_final: bool,
    /// How the grid is spread.
    pub spacing: Spacing,
    /// Where it starts.
    pub t_max: f64,
    /// Where it ends.
    pub t_min: f64,
    /// The network is handed this times t.
    pub time_scale: f64,
    /// x_0 estimates are clipped to \[-1, 1\], and the clipped ones are remembered.
    pub clip_x0: bool,
}

impl Continuous {
    /// The steps to execute.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`.
    pub fn recipe(&self) -> Result<Recipe> {
        check_order(self.order)?;
        let curve = self.schedule.curve()?;
        let points: Vec<Point> = self
            .spacing
            .times(&curve, self.t_max, self.t_min, self.steps)
            .into_iter()
            .map(|t| Point { network_time: self.time_scale * t, level: curve.level(t) })
            .collect();
        let update = Update {
            prediction: self.prediction,
            algorithm: self.algorithm,
            solver_type: self.solver_type,
            clip: self.clip_x0.then_some((-1.0, 1.0)),
        };
        compile(&points, &update, |i| match self.steps - i {
            left @ 1..=2 if self.lower_order_final => left.min(self.order),
            _ => self.order,
        })
    }
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
    /// Which noise levels are.
    pub sigmas: Sigmas,
    /// 1 to 3.
    pub solver_order: usize,
    /// x_0 or noise.
    pub algorithm_type: Algorithm,
    /// The form of order 2.
    pub solver_type: SolverType,
    /// Where the grid ends.
    pub final_sigmas_type: FinalSigma,
    /// The last step of fewer than 15 is of order 1, the one before it of order 2 at most.
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
            sigmas: Sigmas::Trained,
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
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`; `UNSUPPORTED_MODEL` for a schedule that is not discrete.
    pub fn recipe(&self) -> Result<Recipe> {
        check_order(self.solver_order)?;
        if self.algorithm_type == Algorithm::DpmSolver && self.final_sigmas_type == FinalSigma::Zero {
            return Err(Error::new(
                Code::InvalidArgument,
                "The algorithm dpmsolver cannot end without noise (final_sigmas_type zero)",
                "Take final_sigmas_type sigma_min, or the algorithm dpmsolver++",
            ));
        }
        let points = self.points()?;
        let few = self.lower_order_final && self.steps < 15;
        let last_is_first_order = self.euler_at_final || few || self.final_sigmas_type == FinalSigma::Zero;
        let update = Update {
            prediction: self.prediction,
            algorithm: self.algorithm_type,
            solver_type: self.solver_type,
            clip: None,
        };
        compile(&points, &update, |i| match self.steps - i {
            1 if last_is_first_order => 1,
            2 if few => self.solver_order.min(2),
            _ => self.solver_order,
        })
    }

    /// The visited noise levels and the end.
    fn points(&self) -> Result<Vec<Point>> {
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

/// One step for each pair of neighbouring points, of order `order_of(i)` where there are as many steps before it.
fn compile(points: &[Point], update: &Update, order_of: impl Fn(usize) -> usize) -> Result<Recipe> {
    let steps = points.len() - 1;
    let orders: Vec<usize> = (0..steps).map(|i| order_of(i).min(i + 1)).collect();
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
    }
    recipe.finish(1.0)
}
