//! Euler-Maruyama on the reverse SDE and Euler on the probability-flow ODE of the VP SDE (arXiv:2011.13456, equations 6
//! and 13, appendix B), as the small pixel models of U-ViT are sampled: baofff/U-ViT@ce551708dc9cde9818d2af7d84dfadfeb7bd9034
//! sde.py, `euler_maruyama`. It needs beta(t), which a discrete schedule does not have.

use super::builder::Builder;
use super::{Prediction, Recipe, Schedule, Slot};
use crate::error::{Code, Error, Result};

/// Which of the two equations is followed back in time; both have the same marginal distributions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Equation {
    /// The reverse SDE: fresh noise in every step but the last.
    Sde,
    /// The probability-flow ODE: deterministic.
    Ode,
}

const X0: Slot = Slot::Scratch(0);

/// `steps` times t_max .. t_min, evenly spaced, and 0.
pub fn times(steps: usize, t_max: f64, t_min: f64) -> Vec<f64> {
    // One step has t_min alone before 0, not t_max.
    let spacing = if steps > 1 { (t_max - t_min) / (steps - 1) as f64 } else { 0.0 };
    (0..steps).rev().map(|i| t_min + spacing * i as f64).chain([0.0]).collect()
}

/// One update for each pair of neighbouring `times`; the network is handed `time_scale` t.
///
/// One step from t to s: x + (f - w g2 score) (s - t) + sqrt(g2 (t - s)) z with f = -beta x / 2, g2 = beta,
/// score = -noise / sigma_t, w = 1 (SDE) or 1/2 (ODE, without z). With `clip_x0` (not in the published code) x_0 is
/// estimated, clipped to \[-1, 1\], and the noise taken from what is left.
pub fn over(
    schedule: &Schedule,
    prediction: Prediction,
    equation: Equation,
    times: &[f64],
    time_scale: f64,
    clip_x0: bool,
) -> Result<Recipe> {
    let curve = schedule.curve()?;
    let discrete = || {
        Error::new(
            Code::UnsupportedModel,
            "Euler-Maruyama follows beta(t), and this model's noise schedule has none",
            "Take the sampler dpmpp_2m or ddim for this model",
        )
    };
    let steps = times.len() - 1;
    let fresh = Slot::Scratch(u8::from(clip_x0));
    let mut recipe = Builder::default();
    for (i, pair) in times.windows(2).enumerate() {
        let (t, s) = (pair[0], pair[1]);
        let level = curve.level(t);
        let beta = curve.beta_t(t).ok_or_else(discrete)?;
        let x0 = prediction.x0(level.alpha_t, level.sigma_t);
        recipe.eval(time_scale * t, x0);

        let (source, noise) = if clip_x0 {
            recipe.combine(X0, &[(Slot::Latents, x0[0]), (Slot::Model, x0[1])], Some((-1.0, 1.0)));
            (X0, Prediction::X0.noise(level.alpha_t, level.sigma_t))
        } else {
            (Slot::Model, prediction.noise(level.alpha_t, level.sigma_t))
        };
        let score_weight = match equation {
            Equation::Sde => 1.0,
            Equation::Ode => 0.5,
        };
        let pull = score_weight * beta / level.sigma_t * (s - t);
        let mut sum = vec![(Slot::Latents, 1.0 - beta / 2.0 * (s - t) + pull * noise[0]), (source, pull * noise[1])];
        if equation == Equation::Sde && i + 1 < steps {
            recipe.noise(fresh);
            sum.push((fresh, (beta * (t - s)).sqrt()));
        }
        recipe.combine(Slot::Latents, &sum, None);
        recipe.arrive(&curve.level(s));
    }
    recipe.finish(&curve.level(times[0]), 1.0)
}
