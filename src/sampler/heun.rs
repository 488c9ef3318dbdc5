//! Heun's method on the ODE dX/ds = noise of X = x_t / alpha_t, s = sigma_t / alpha_t (arXiv:2206.00364, algorithm 1;
//! diffusers 0.42.1 scheduling_heun_discrete.py): the slope of a step is the mean of those at its two ends.

use super::builder::Builder;
use super::dpm::Update;
use super::grid::Point;
use super::{Recipe, Slot};
use crate::error::Result;

const FIRST: Slot = Slot::Scratch(0);
const START: Slot = Slot::Scratch(1);
const SECOND: Slot = Slot::Scratch(2);

/// One step for each pair of neighbouring points, with two calls of the network, one in the last. `update` estimates the noise.
pub(super) fn compile(points: &[Point], update: &Update, init_noise_sigma: f64) -> Result<Recipe> {
    let mut recipe = Builder::default();
    for (i, pair) in points.windows(2).enumerate() {
        let (from, to) = (&pair[0].level, &pair[1].level);
        let carried = to.alpha_t / from.alpha_t;
        let slope = to.sigma_t - carried * from.sigma_t;
        if i + 2 < points.len() {
            recipe.combine(START, &[(Slot::Latents, 1.0)], None);
            update.estimate(&mut recipe, &pair[0], FIRST);
            recipe.combine(Slot::Latents, &[(START, carried), (FIRST, slope)], None);
            update.estimate(&mut recipe, &pair[1], SECOND);
            recipe.combine(Slot::Latents, &[(START, carried), (FIRST, slope / 2.0), (SECOND, slope / 2.0)], None);
        } else {
            update.estimate(&mut recipe, &pair[0], FIRST);
            recipe.combine(Slot::Latents, &[(Slot::Latents, carried), (FIRST, slope)], None);
        }
        recipe.arrive(to);
    }
    recipe.finish(&points[0].level, init_noise_sigma)
}
