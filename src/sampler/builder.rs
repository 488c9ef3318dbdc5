//! Collects a [`Recipe`] step by step, so that solvers read like their formulas: terms over the same slot are added
//! up, terms that vanish are left out, and a coefficient that no device could hold is refused before anything runs.

use super::schedule::NoiseLevel;
use super::{MAX_TERMS, Recipe, Slot, Step, Term};
use crate::error::{Code, Error, Result};

/// The steps so far.
#[derive(Default)]
pub(super) struct Builder {
    steps: Vec<Step>,
}

impl Builder {
    /// Begins a step: run the network at `network_time`; `x0` is the estimate as a form of (latents, model).
    pub(super) fn eval(&mut self, network_time: f64, x0: [f64; 2]) {
        self.steps.push(Step::Eval { network_time, x0 });
    }

    /// `out = clip(sum of coefficient * slot)`.
    pub(super) fn combine(&mut self, out: Slot, sum: &[(Slot, f64)], clip: Option<(f64, f64)>) {
        let mut terms: Vec<Term> = Vec::with_capacity(sum.len());
        for &(slot, coefficient) in sum {
            match terms.iter_mut().find(|term| term.slot == slot) {
                Some(term) => term.coefficient += coefficient,
                None => terms.push(Term { slot, coefficient }),
            }
        }
        if terms.iter().any(|term| term.coefficient != 0.0) {
            terms.retain(|term| term.coefficient != 0.0);
        } else {
            terms.truncate(1);
        }
        self.steps.push(Step::Combine { out, terms, clip });
    }

    /// Fill `out` with standard normal noise.
    pub(super) fn noise(&mut self, out: Slot) {
        self.steps.push(Step::Noise { out });
    }

    /// `out += exp(log_std[0] + log_std[1] v) noise`, v being the network's.
    pub(super) fn spread(&mut self, out: Slot, noise: Slot, log_std: [f64; 2]) {
        self.steps.push(Step::Spread { out, noise, log_std });
    }

    /// The latents have arrived at this level: the end of an update.
    pub(super) fn arrive(&mut self, level: &NoiseLevel) {
        self.steps.push(Step::Arrive { alpha_t: level.alpha_t, sigma_t: level.sigma_t });
    }

    /// The steps alone, of which more come.
    pub(super) fn steps(self) -> Vec<Step> {
        self.steps
    }

    /// The finished recipe from the level `start` on, checked: every number is one that f32 can hold, no combination is too long, and every
    /// scratch slot is written before it is read.
    pub(super) fn finish(self, start: &NoiseLevel, init_noise_sigma: f64) -> Result<Recipe> {
        let holdable = |value: f64| value.is_finite() && value.abs() <= f64::from(f32::MAX);
        let mut evaluations = 0;
        let mut written = [false; 256];
        for step in &self.steps {
            match step {
                Step::Eval { network_time, x0 } => {
                    if !(holdable(*network_time) && x0.iter().all(|c| holdable(*c))) {
                        return Err(degenerate(evaluations));
                    }
                    evaluations += 1;
                }
                Step::Combine { out, terms, .. } => {
                    if !terms.iter().all(|term| holdable(term.coefficient)) {
                        return Err(degenerate(evaluations.saturating_sub(1)));
                    }
                    if terms.len() > MAX_TERMS {
                        return Err(Error::internal(format!("A combination has {} terms", terms.len())));
                    }
                    for term in terms {
                        check_written(&written, term.slot)?;
                    }
                    mark(&mut written, *out);
                }
                Step::Noise { out } => mark(&mut written, *out),
                Step::Spread { out, noise, log_std } => {
                    if !log_std.iter().all(|c| holdable(*c)) {
                        return Err(degenerate(evaluations.saturating_sub(1)));
                    }
                    for slot in [*out, *noise] {
                        check_written(&written, slot)?;
                    }
                }
                Step::Arrive { .. } => {}
            }
        }
        let scratch_slots = written.iter().rposition(|w| *w).map_or(0, |last| last + 1);
        if !written[..scratch_slots].iter().all(|w| *w) {
            return Err(Error::internal("The scratch slots have gaps"));
        }
        let start = [start.alpha_t, start.sigma_t];
        Ok(Recipe { steps: self.steps, scratch_slots, evaluations, init_noise_sigma, start, adaptive: None })
    }
}

fn mark(written: &mut [bool; 256], out: Slot) {
    if let Slot::Scratch(i) = out {
        written[i as usize] = true;
    }
}

fn check_written(written: &[bool; 256], slot: Slot) -> Result<()> {
    match slot {
        Slot::Scratch(i) if !written[i as usize] => {
            Err(Error::internal(format!("Scratch slot {i} is read before it is written")))
        }
        _ => Ok(()),
    }
}

fn degenerate(step: usize) -> Error {
    Error::new(
        Code::InvalidArgument,
        format!("Step {step} of the sampler has a coefficient that is no finite 32-bit number"),
        "Check the schedule, the range of times, the number of steps and the prediction type: two times may coincide, \
         or the signal may vanish where the network predicts noise",
    )
}
