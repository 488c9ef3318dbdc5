//! DPM-Solver and DPM-Solver++, singlestep: updates of order 1 to 3, each from its own calls of the network, none remembered.
//! The forms and the "fast" schedule of orders are those of U-ViT's evaluation (baofff/U-ViT@ce551708dc9cde9818d2af7d84dfadfeb7bd9034):
//! dpm_solver_pytorch.py walks one interval of its grid an update and puts the inner calls at fixed ratios of it; dpm_solver_pp.py
//! walks `order` intervals an update, and the inner calls are the grid's own points.

use super::builder::Builder;
use super::dpm::{Algorithm, SolverType, Update};
use super::grid::{ContinuousGrid, Point};
use super::schedule::{Curve, NoiseLevel};
use super::{Prediction, Recipe, Slot};
use crate::error::{Code, Error, Result};

/// Which orders the updates have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// All the same: `steps / order` updates, the rest of the steps is not used.
    Singlestep,
    /// As many of the highest order as `steps` calls of the network allow, then lower ones.
    Fast,
}

/// Where an update calls the network on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inner {
    /// At 1/2 (order 2), or at 1/3 and 2/3 (order 3) of an interval of the grid, in lambda.
    Ratios,
    /// At the points of the grid, of which an update covers as many intervals as its order.
    GridPoints,
}

/// The solver; all fields count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DpmSinglestep {
    /// Its spread, its ends, and how often the network runs, at most.
    pub grid: ContinuousGrid,
    /// What the network predicts.
    pub prediction: Prediction,
    /// 1 to 3.
    pub order: usize,
    /// Which orders the updates have.
    pub method: Method,
    /// x_0 or the noise.
    pub algorithm: Algorithm,
    /// The form of orders 2 and 3.
    pub solver_type: SolverType,
    /// Where an update calls the network on its way; with [`Method::Singlestep`] always at ratios.
    pub inner: Inner,
    /// x_0 estimates are clipped to \[-1, 1\].
    pub clip_x0: bool,
    /// The result is the x_0 estimate at the end: one more call.
    pub denoise: bool,
}

pub(super) const START: Slot = Slot::Scratch(1);
const M: [Slot; 3] = [Slot::Scratch(0), Slot::Scratch(2), Slot::Scratch(3)];

/// The order of every update.
///
/// # Errors
/// `INVALID_ARGUMENT`: the order, or fewer steps than one update takes.
pub fn orders(method: Method, steps: usize, order: usize) -> Result<Vec<usize>> {
    let refuse = |cause: String, remedy: &str| Err(Error::new(Code::InvalidArgument, cause, remedy));
    if !(1..=3).contains(&order) {
        return refuse(format!("the order is {order}"), "Give 1, 2 or 3");
    }
    let orders = match (method, order) {
        (Method::Singlestep, _) => vec![order; steps / order],
        (Method::Fast, 1) => vec![1; steps],
        (Method::Fast, 2) => [vec![2; steps / 2], vec![1; steps % 2]].concat(),
        (Method::Fast, _) => match (steps / 3, steps % 3) {
            (0, _) | (1, 0) => [vec![2; steps / 2], vec![1; steps % 2]].concat(),
            (threes, 0) => [vec![3; threes - 1], vec![2, 1]].concat(),
            (threes, rest) => [vec![3; threes], vec![rest]].concat(),
        },
    };
    if orders.is_empty() {
        return refuse(format!("steps is {steps} and the order {order}"), "Give at least as many steps as the order");
    }
    Ok(orders)
}

impl DpmSinglestep {
    /// The steps to execute.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`.
    pub fn recipe(&self) -> Result<Recipe> {
        let orders = orders(self.method, self.grid.steps, self.order)?;
        let curve = self.grid.schedule.curve()?;
        let own = self.method == Method::Fast && self.inner == Inner::GridPoints;
        let intervals = if own { orders.iter().sum() } else { orders.len() };
        let grid = ContinuousGrid { steps: intervals, ..self.grid }.points()?;

        let update = Update {
            prediction: self.prediction,
            algorithm: self.algorithm,
            solver_type: self.solver_type,
            clip: self.clip_x0.then_some((-1.0, 1.0)),
        };
        let mut recipe = Builder::default();
        let mut at = 0;
        for order in orders {
            let end = at + if own { order } else { 1 };
            let inner = if own {
                grid[at + 1..end].to_vec()
            } else {
                ratios(order).iter().map(|r| between(&curve, &grid[at], &grid[end], *r, self.grid.time_scale)).collect()
            };
            self::update(&mut recipe, &update, &grid[at], &inner, &grid[end].level);
            recipe.arrive(&grid[end].level);
            at = end;
        }
        if self.denoise {
            let end = &grid[at];
            let x0 = self.prediction.x0(end.level.alpha_t, end.level.sigma_t);
            recipe.eval(end.network_time, x0);
            recipe.combine(Slot::Latents, &[(Slot::Latents, x0[0]), (Slot::Model, x0[1])], update.clip);
        }
        recipe.finish(&grid[0].level, 1.0)
    }
}

pub(super) fn ratios(order: usize) -> &'static [f64] {
    match order {
        1 => &[],
        2 => &[0.5],
        _ => &[1.0 / 3.0, 2.0 / 3.0],
    }
}

/// The point at a ratio of the way in lambda.
pub(super) fn between(curve: &Curve, s: &Point, t: &Point, ratio: f64, time_scale: f64) -> Point {
    let time = curve.t_of_lambda(s.level.lambda_t + ratio * (t.level.lambda_t - s.level.lambda_t));
    Point { network_time: time_scale * time, level: curve.level(time) }
}

/// One update from s to t by way of `inner`: its order is one more than these are.
pub(super) fn update(recipe: &mut Builder, update: &Update, s: &Point, inner: &[Point], t: &NoiseLevel) {
    update.estimate(recipe, s, M[0]);
    if inner.is_empty() {
        let whole = update.span(&s.level, t);
        return recipe.combine(Slot::Latents, &[(Slot::Latents, whole.a), (M[0], whole.b * whole.p1())], None);
    }
    recipe.combine(START, &[(Slot::Latents, 1.0)], None);
    let whole = update.span(&s.level, t);
    let ratio = |point: &Point| (point.level.lambda_t - s.level.lambda_t) / whole.h;
    let mut slope: Option<f64> = None;
    for (i, point) in inner.iter().enumerate() {
        let part = update.span(&s.level, &point.level);
        let mut terms = vec![(START, part.a), (M[0], part.b * part.p1())];
        // m goes on as it has begun: (m_1 - m_s) / r1 over the way so far.
        if let Some(r1) = slope {
            let more = part.b * ratio(point) / r1 * part.p2();
            terms.extend([(M[1], more), (M[0], -more)]);
        }
        recipe.combine(Slot::Latents, &terms, None);
        update.estimate(recipe, point, M[i + 1]);
        slope = Some(ratio(point));
    }
    recipe.combine(Slot::Latents, &arrival(update, s, inner, t), None);
}

/// x_t from what an update has left in its slots: the start, m there and at `inner`.
pub(super) fn arrival(update: &Update, s: &Point, inner: &[Point], t: &NoiseLevel) -> Vec<(Slot, f64)> {
    let whole = update.span(&s.level, t);
    let (a, b, p1, p2) = (whole.a, whole.b, whole.p1(), whole.p2());
    let ratio = |point: &Point| (point.level.lambda_t - s.level.lambda_t) / whole.h;
    match (update.solver_type, inner) {
        (_, []) => vec![(START, a), (M[0], b * p1)],
        (SolverType::Heun, [first, last]) => {
            let (r1, r2) = (ratio(first), ratio(last));
            // First and second derivative: D1 = (r2 D_1 - r1 D_2) / (r2 - r1), D2 = 2 (D_2 - D_1) / (r2 - r1), D_i = (m_i - m_s) / r_i.
            let of_1 = (p2 * r2 - 2.0 * whole.p3()) / (r2 - r1) / r1;
            let of_2 = (2.0 * whole.p3() - p2 * r1) / (r2 - r1) / r2;
            vec![(START, a), (M[0], b * (p1 - of_1 - of_2)), (M[1], b * of_1), (M[2], b * of_2)]
        }
        (solver_type, [.., last]) => {
            let slope = match (solver_type, inner.len()) {
                (SolverType::Midpoint, 1) => p1 / 2.0,
                _ => p2,
            };
            let slope = slope / ratio(last);
            vec![(START, a), (M[0], b * (p1 - slope)), (M[inner.len()], b * slope)]
        }
    }
}
