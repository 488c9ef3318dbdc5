//! UniPC (arXiv:2302.04867, algorithms 5 to 8): a multistep predictor like DPM-Solver's, and a corrector that uses the network's
//! output at the predicted point, which it has anyhow. The forms are those of diffusers 0.42.1 scheduling_unipc_multistep.py.

use super::builder::Builder;
use super::dpm::{Algorithm, SolverType, Update};
use super::grid::Point;
use super::training_grid::TrainingGrid;
use super::{Prediction, Recipe, Slot};
use crate::error::{Code, Error, Result};

/// How B(h) is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BhType {
    /// h.
    Bh1,
    /// expm1(h): better with few steps.
    Bh2,
}

/// diffusers' UniPCMultistepScheduler; the fields are its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct UniPc {
    /// Where the network is called.
    pub grid: TrainingGrid,
    /// What the network predicts.
    pub prediction: Prediction,
    /// 1 to 3; the first and last steps have less.
    pub solver_order: usize,
    /// x_0 is what is extrapolated, not the noise.
    pub predict_x0: bool,
    /// B(h).
    pub solver_type: BhType,
    /// The last steps are of lower order.
    pub lower_order_final: bool,
}

impl UniPc {
    /// With diffusers' defaults.
    pub fn new(grid: TrainingGrid, prediction: Prediction) -> UniPc {
        let (solver_order, predict_x0, solver_type, lower_order_final) = (2, true, BhType::Bh2, true);
        UniPc { grid, prediction, solver_order, predict_x0, solver_type, lower_order_final }
    }

    /// The steps to execute.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`; `UNSUPPORTED_MODEL` for a schedule that is not discrete.
    pub fn recipe(&self) -> Result<Recipe> {
        let algorithm = if self.predict_x0 { Algorithm::DpmSolverPlusPlus } else { Algorithm::DpmSolver };
        let update = Update { prediction: self.prediction, algorithm, solver_type: SolverType::Midpoint, clip: None };
        compile(&self.grid.points()?, &update, self.solver_order, self.solver_type, self.lower_order_final)
    }
}

/// x_{i-1} as corrected.
const X: Slot = Slot::Scratch(0);

/// One step for each pair of neighbouring points.
pub(super) fn compile(
    points: &[Point],
    update: &Update,
    solver_order: usize,
    bh: BhType,
    lower_order_final: bool,
) -> Result<Recipe> {
    if !(1..=3).contains(&solver_order) {
        return Err(Error::new(Code::InvalidArgument, format!("the order is {solver_order}"), "Give 1, 2 or 3"));
    }
    let steps = points.len() - 1;
    let order_of = |i: usize| {
        let left = if lower_order_final { steps - i } else { solver_order };
        solver_order.min(left).min(i + 1)
    };
    // The newest m, and as many before it as the corrector looks at.
    let remembered = steps.min(solver_order + 1);
    let m = |i: usize| Slot::Scratch(1 + (i % remembered) as u8);
    let mut recipe = Builder::default();
    for i in 0..steps {
        update.estimate(&mut recipe, &points[i], m(i));
        if i == 0 {
            recipe.combine(X, &[(Slot::Latents, 1.0)], None);
        } else {
            let way = Way::of(points, update, i - 1, order_of(i - 1), bh);
            let mut terms = way.first(m(i - 1));
            let rho = if way.order == 1 { vec![0.5] } else { solve(&way.ratios, &way.b) };
            // The ratio of the point that was predicted is 1.
            for (j, rho) in rho.iter().enumerate() {
                let other = if j + 1 == way.order { m(i) } else { m(i - 2 - j) };
                way.slope(&mut terms, rho / way.ratios[j], other, m(i - 1));
            }
            recipe.combine(X, &terms, None);
        }
        let way = Way::of(points, update, i, order_of(i), bh);
        let mut terms = way.first(m(i));
        let rho = match way.order {
            1 => Vec::new(),
            2 => vec![0.5],
            order => solve(&way.ratios[..order - 1], &way.b[..order - 1]),
        };
        for (j, rho) in rho.iter().enumerate() {
            way.slope(&mut terms, rho / way.ratios[j], m(i - 1 - j), m(i));
        }
        recipe.combine(Slot::Latents, &terms, None);
        recipe.arrive(&points[i + 1].level);
    }
    recipe.finish(&points[0].level, 1.0)
}

/// From point `i` to the next: x = A x_i + B (expm1(hh) m_i + Bh sum rho_j (m_j - m_i) / rk_j).
struct Way {
    order: usize,
    a: f64,
    /// B expm1(hh)
    level: f64,
    /// B Bh
    slope: f64,
    /// Where the points before lie, in steps of this one; then 1, the next.
    ratios: Vec<f64>,
    b: Vec<f64>,
}

impl Way {
    fn of(points: &[Point], update: &Update, i: usize, order: usize, bh: BhType) -> Way {
        let (s, t) = (&points[i].level, &points[i + 1].level);
        let span = update.span(s, t);
        let hh = span.e * span.h;
        let expm1 = hh.exp_m1();
        let scale = match bh {
            BhType::Bh1 => hh,
            BhType::Bh2 => expm1,
        };
        let before = |j: usize| (points[i - j].level.lambda_t - s.lambda_t) / span.h;
        let ratios: Vec<f64> = (1..order).map(before).chain([1.0]).collect();
        let (mut p, mut factorial) = (expm1 / hh - 1.0, 1.0);
        let b = (1..=order)
            .map(|n| {
                let b = p * factorial / scale;
                factorial *= (n + 1) as f64;
                p = p / hh - 1.0 / factorial;
                b
            })
            .collect();
        Way { order, a: span.a, level: span.b * expm1, slope: span.b * scale, ratios, b }
    }

    fn first(&self, m: Slot) -> Vec<(Slot, f64)> {
        vec![(X, self.a), (m, self.level)]
    }

    /// Adds `weight` (other - m), unless it weighs nothing.
    fn slope(&self, terms: &mut Vec<(Slot, f64)>, weight: f64, other: Slot, m: Slot) {
        terms.extend([(other, self.slope * weight), (m, -self.slope * weight)]);
    }
}

/// rho of sum_j ratios_j^(n - 1) rho_j = b_n, n = 1 ..: Gauss's elimination, of at most three equations.
fn solve(ratios: &[f64], b: &[f64]) -> Vec<f64> {
    let n = ratios.len();
    let mut rows: Vec<Vec<f64>> =
        (0..n).map(|row| ratios.iter().map(|r| r.powi(row as i32)).chain([b[row]]).collect()).collect();
    for pivot in 0..n {
        let best = (pivot..n).max_by(|&a, &b| rows[a][pivot].abs().total_cmp(&rows[b][pivot].abs())).unwrap_or(pivot);
        rows.swap(pivot, best);
        for row in 0..n {
            if row != pivot {
                let factor = rows[row][pivot] / rows[pivot][pivot];
                for column in pivot..=n {
                    rows[row][column] -= factor * rows[pivot][column];
                }
            }
        }
    }
    (0..n).map(|row| rows[row][n] / rows[row][row]).collect()
}
