//! Ancestral sampling (DDPM, arXiv:2006.11239, equations 6 and 7): from x_t to x_s by the posterior q(x_s | x_t, x_0), x_0 being the network's.
//! Its variance lies between two bounds, q (the posterior's own) and beta (that of the step), and a network that has learned it says where:
//! exp(f ln beta + (1 - f) ln q), f = (v + 1) / 2 (Improved DDPM, arXiv:2102.09672, equation 15; facebookresearch/DiT@
//! ed81ce2229091fd4ecc9a223645f95cf379d582b diffusion/gaussian_diffusion.py `p_mean_variance`). One that has not takes q.

use super::builder::Builder;
use super::grid::Point;
use super::{Prediction, Recipe, Slot};
use crate::error::Result;

const FRESH: Slot = Slot::Scratch(0);
const X0: Slot = Slot::Scratch(1);

/// One step for each pair of neighbouring points, t and s: with r = alpha_t / alpha_s and beta = sigma_t^2 - r^2 sigma_s^2 the mean is
/// (alpha_s beta x_0 + r sigma_s^2 x_t) / sigma_t^2, and q = beta sigma_s^2 / sigma_t^2. Where no noise is left none is added, but drawn, as
/// the published code does. `clip` bounds x_0.
pub(super) fn compile(points: &[Point], prediction: Prediction, clip: Option<(f64, f64)>) -> Result<Recipe> {
    let mut recipe = Builder::default();
    for pair in points.windows(2) {
        let (t, s) = (&pair[0].level, &pair[1].level);
        let form = prediction.x0(t.alpha_t, t.sigma_t);
        recipe.eval(pair[0].network_time, form);
        let ratio = t.alpha_t / s.alpha_t;
        let [before, after] = [t.sigma_t.powi(2), s.sigma_t.powi(2)];
        let beta = before - ratio * ratio * after;
        let (of_x0, of_latents) = (s.alpha_t * beta / before, ratio * after / before);
        if clip.is_some() {
            recipe.combine(X0, &[(Slot::Latents, form[0]), (Slot::Model, form[1])], clip);
            recipe.combine(Slot::Latents, &[(X0, of_x0), (Slot::Latents, of_latents)], None);
        } else {
            let sum = [(Slot::Latents, of_latents + of_x0 * form[0]), (Slot::Model, of_x0 * form[1])];
            recipe.combine(Slot::Latents, &sum, None);
        }
        recipe.noise(FRESH);
        if after > 0.0 {
            let [beta, q] = [beta, beta * after / before].map(f64::ln);
            recipe.spread(Slot::Latents, FRESH, [(beta + q) / 4.0, (beta - q) / 4.0]);
        }
        recipe.arrive(s);
    }
    recipe.finish(&points[0].level, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::Step;
    use crate::sampler::schedule::NoiseLevel;

    fn points(alphas_cumprod: &[f64]) -> Vec<Point> {
        let point = |a: &f64| Point { network_time: 1.0, level: NoiseLevel::from_alphas_cumprod(*a) };
        alphas_cumprod.iter().map(point).collect()
    }

    #[test]
    fn the_variance_lies_between_its_bounds() {
        let (a, b) = (0.3, 0.5);
        let recipe = compile(&points(&[a, b, 1.0]), Prediction::Noise, None).unwrap();
        let spreads: Vec<[f64; 2]> = recipe
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Spread { log_std, .. } => Some(*log_std),
                _ => None,
            })
            .collect();
        let [[constant, slope]] = spreads[..] else { panic!("noise where none is left: {recipe:?}") };
        let beta = 1.0 - a / b;
        for (v, variance) in [(-1.0, beta * (1.0 - b) / (1.0 - a)), (1.0, beta)] {
            assert!(((2.0 * (constant + slope * v)).exp() - variance).abs() < 1e-14);
        }
        let draws = recipe.steps.iter().filter(|step| matches!(step, Step::Noise { .. })).count();
        assert_eq!((draws, recipe.evaluations, recipe.scratch_slots), (2, 2, 1));
    }

    /// What DDIM does with as much noise (eta 1) is the same: arXiv:2010.02502, equation 16.
    #[test]
    fn with_the_small_variance_it_is_ddim_at_eta_1() {
        let points = points(&[0.1, 0.4, 0.7]);
        for prediction in [Prediction::Noise, Prediction::X0, Prediction::V] {
            let [ours, theirs] =
                [compile(&points, prediction, None), crate::sampler::ddim::over(&points, prediction, None, 1.0, 1.0)]
                    .map(|recipe| one_step(&recipe.unwrap().steps, 0.3, -0.8, 1.7));
            assert!((ours - theirs).abs() < 1e-14, "{prediction:?}: {ours} and {theirs}");
        }
    }

    /// The latents after the first update of one value.
    fn one_step(steps: &[Step], latents: f64, model: f64, noise: f64) -> f64 {
        let mut slots = [latents, model, f64::NAN, f64::NAN];
        let at = |slot| match slot {
            Slot::Latents => 0,
            Slot::Model => 1,
            Slot::Scratch(i) => 2 + i as usize,
        };
        for step in steps.iter().take_while(|step| !matches!(step, Step::Arrive { .. })) {
            match step {
                Step::Combine { out, terms, .. } => {
                    slots[at(*out)] = terms.iter().map(|term| term.coefficient * slots[at(term.slot)]).sum();
                }
                Step::Noise { out } => slots[at(*out)] = noise,
                Step::Spread { out, noise, log_std } => {
                    slots[at(*out)] += (log_std[0] - log_std[1]).exp() * slots[at(*noise)]
                }
                Step::Eval { .. } | Step::Arrive { .. } => {}
            }
        }
        slots[0]
    }
}
