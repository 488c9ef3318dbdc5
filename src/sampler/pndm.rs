//! PNDM (arXiv:2202.09778, equations 11 to 13): DDIM's step along a noise that is extrapolated from the network's earlier outputs by
//! Adams-Bashforth. The first outputs come from Runge-Kutta steps, or, as Stable Diffusion had it (PLMS), from one step that is taken
//! twice. The forms are those of diffusers 0.42.1 scheduling_pndm.py, whose history holds the network's output as it is.

use super::builder::Builder;
use super::grid::Point;
use super::training_grid::TrainingGrid;
use super::{Prediction, Recipe, Slot};
use crate::error::{Code, Error, Result};

/// diffusers' PNDMScheduler; the fields are its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Pndm {
    /// Where the network is called.
    pub grid: TrainingGrid,
    /// What it predicts.
    pub prediction: Prediction,
    /// Without Runge-Kutta.
    pub skip_prk_steps: bool,
}

impl Pndm {
    /// The steps to execute.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`; `UNSUPPORTED_MODEL` for a schedule that is not discrete.
    pub fn recipe(&self) -> Result<Recipe> {
        let points = self.grid.ddim_points()?;
        let halves = if self.skip_prk_steps { Vec::new() } else { self.grid.half_points()? };
        compile(&points, &halves, self.prediction)
    }
}

const START: Slot = Slot::Scratch(0);
/// The outputs, the newest of which takes the oldest's place.
const KEPT: usize = 4;

fn output(i: usize) -> Slot {
    Slot::Scratch(1 + (i % KEPT) as u8)
}

/// The weights of the newest output and those before it.
fn adams_bashforth(known: usize) -> &'static [f64] {
    match known {
        0 | 1 => &[1.0],
        2 => &[3.0 / 2.0, -1.0 / 2.0],
        3 => &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
        _ => &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
    }
}

/// One step for each pair of neighbouring points. With `halves`, which lie between the points, the first three steps are of
/// Runge and Kutta, with four calls of the network each; without, the first one takes two.
pub(super) fn compile(points: &[Point], halves: &[Point], prediction: Prediction) -> Result<Recipe> {
    let steps = points.len() - 1;
    if !halves.is_empty() && steps < 4 {
        let remedy = "Give 4 or more, or take the sampler plms";
        return Err(Error::new(Code::InvalidArgument, format!("pndm is asked for {steps} steps"), remedy));
    }
    let mut recipe = Builder::default();
    let call = |recipe: &mut Builder, point: &Point, to: Slot| {
        recipe.eval(point.network_time, prediction.x0(point.level.alpha_t, point.level.sigma_t));
        recipe.combine(to, &[(Slot::Model, 1.0)], None);
    };
    // x = A x_s + B noise, the noise read from x_s and a sum of outputs.
    let travel = |recipe: &mut Builder, source: Slot, from: &Point, to: &Point, outputs: &[(Slot, f64)]| {
        let (s, t) = (&from.level, &to.level);
        let carried = t.alpha_t / s.alpha_t;
        let slope = t.sigma_t - carried * s.sigma_t;
        let noise = prediction.noise(s.alpha_t, s.sigma_t);
        let mut sum = vec![(source, carried + slope * noise[0])];
        sum.extend(outputs.iter().map(|&(slot, weight)| (slot, slope * noise[1] * weight)));
        recipe.combine(Slot::Latents, &sum, None);
    };
    let mut known = 0;
    let mut at = 0;
    recipe.combine(START, &[(Slot::Latents, 1.0)], None);
    if halves.is_empty() && steps > 1 {
        call(&mut recipe, &points[0], output(0));
        travel(&mut recipe, START, &points[0], &points[1], &[(output(0), 1.0)]);
        call(&mut recipe, &points[1], output(1));
        travel(&mut recipe, START, &points[0], &points[1], &[(output(0), 0.5), (output(1), 0.5)]);
        recipe.arrive(&points[1].level);
        (known, at) = (1, 1);
    }
    if !halves.is_empty() {
        for step in 0..3 {
            let (from, half, to) = (&points[step], &halves[step], &points[step + 1]);
            let own = [output(step), Slot::Scratch(4), Slot::Scratch(5), Slot::Scratch(6)];
            recipe.combine(START, &[(Slot::Latents, 1.0)], None);
            for (i, (called, reached)) in [(from, half), (half, half), (half, to)].into_iter().enumerate() {
                call(&mut recipe, called, own[i]);
                travel(&mut recipe, START, from, reached, &[(own[i], 1.0)]);
            }
            call(&mut recipe, to, own[3]);
            let weights = [1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0];
            let sum: Vec<(Slot, f64)> = own.into_iter().zip(weights).collect();
            travel(&mut recipe, START, from, to, &sum);
            recipe.arrive(&to.level);
        }
        (known, at) = (3, 3);
    }
    for i in at..steps {
        call(&mut recipe, &points[i], output(known));
        known += 1;
        let weights = adams_bashforth(known);
        let sum: Vec<(Slot, f64)> = weights.iter().enumerate().map(|(j, &w)| (output(known - 1 - j), w)).collect();
        travel(&mut recipe, Slot::Latents, &points[i], &points[i + 1], &sum);
        recipe.arrive(&points[i + 1].level);
    }
    recipe.finish(&points[0].level, 1.0)
}
