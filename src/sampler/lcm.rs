//! Consistency sampling for latent consistency models (arXiv:2310.04378, algorithm 3; diffusers 0.42.1 scheduling_lcm.py): every
//! step jumps to the picture and adds fresh noise of the next level.

use super::builder::Builder;
use super::grid::Point;
use super::training_grid::TrainingGrid;
use super::{Prediction, Recipe, Slot};
use crate::error::Result;

/// The noise of the training pictures, sigma_data.
const SIGMA_DATA: f64 = 0.5;

/// diffusers' LCMScheduler; the fields are its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Lcm {
    /// Where the network is called; how it is spread does not count.
    pub grid: TrainingGrid,
    /// What it predicts.
    pub prediction: Prediction,
    /// The steps that the model was distilled for.
    pub original_inference_steps: usize,
    /// How fast the boundary condition leaves x_t behind.
    pub timestep_scaling: f64,
}

impl Lcm {
    /// The steps to execute.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`; `UNSUPPORTED_MODEL` for a schedule that is not discrete.
    pub fn recipe(&self) -> Result<Recipe> {
        let points = self.grid.distilled_points(self.original_inference_steps)?;
        let boundary = |point: &Point| Some(self.timestep_scaling * point.network_time);
        compile(&points, self.prediction, None, boundary, false)
    }
}

/// One step for each pair of neighbouring points: x = alpha d + sigma z, the last x = d. d is x_0, or with a scaled time q:
/// q / sqrt(q^2 + sigma_data^2) x_0 + sigma_data^2 / (q^2 + sigma_data^2) x_t. With `draw_at_end` the last step draws, too, as the
/// generator's other users expect.
pub(super) fn compile(
    points: &[Point],
    prediction: Prediction,
    clip: Option<(f64, f64)>,
    boundary: impl Fn(&Point) -> Option<f64>,
    draw_at_end: bool,
) -> Result<Recipe> {
    let (x0, fresh) = (Slot::Scratch(0), Slot::Scratch(1));
    let steps = points.len() - 1;
    let mut recipe = Builder::default();
    for (i, pair) in points.windows(2).enumerate() {
        let (from, to) = (&pair[0].level, &pair[1].level);
        let form = prediction.x0(from.alpha_t, from.sigma_t);
        recipe.eval(pair[0].network_time, form);
        recipe.combine(x0, &[(Slot::Latents, form[0]), (Slot::Model, form[1])], clip);
        let last = i + 1 == steps;
        let alpha_t = if last { 1.0 } else { to.alpha_t };
        let [out, skip] = boundary(&pair[0]).map_or([1.0, 0.0], |q| {
            let sum = q * q + SIGMA_DATA * SIGMA_DATA;
            [q / sum.sqrt(), SIGMA_DATA * SIGMA_DATA / sum]
        });
        let mut sum = vec![(x0, alpha_t * out), (Slot::Latents, alpha_t * skip)];
        if !last || draw_at_end {
            recipe.noise(fresh);
            sum.push((fresh, if last { 0.0 } else { to.sigma_t }));
        }
        recipe.combine(Slot::Latents, &sum, None);
        recipe.arrive(to);
    }
    recipe.finish(&points[0].level, 1.0)
}
