//! The training steps that diffusers' schedulers visit, for each `timestep_spacing` (diffusers 0.42.1, `set_timesteps`
//! of scheduling_ddim.py and scheduling_dpmsolver_multistep.py; arXiv:2305.08891, table 2), and those of OpenAI's respacing
//! (facebookresearch/DiT@ed81ce2229091fd4ecc9a223645f95cf379d582b diffusion/respace.py `space_timesteps`). Halves are rounded to even and the
//! sums are taken in their order, so that a time that falls between two steps goes the same way.

use crate::error::{Code, Error, Result};

/// How the visited steps are spread over the training steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimestepSpacing {
    /// From the last training step to the first, evenly.
    Linspace,
    /// Multiples of a whole stride from 0 up (plus `steps_offset`): leaves out the noisiest steps.
    Leading,
    /// Down from the last training step: leaves out the cleanest steps.
    Trailing,
    /// As `Linspace`, but every time is the sum of the strides up to it: of an odd number of steps the middle one may be another.
    Respaced,
}

impl TimestepSpacing {
    /// DDIM's `steps` times, noisiest first.
    pub fn ddim(self, train_steps: usize, steps: usize, steps_offset: usize) -> Result<Vec<usize>> {
        check(train_steps, steps)?;
        let times = match self {
            TimestepSpacing::Linspace => linspace(train_steps, steps),
            TimestepSpacing::Leading => {
                let stride = train_steps / steps;
                (0..steps).rev().map(|i| i * stride + steps_offset).collect()
            }
            TimestepSpacing::Trailing => trailing(train_steps, steps),
            TimestepSpacing::Respaced => respaced(train_steps, steps),
        };
        match times.iter().find(|t| **t >= train_steps) {
            Some(t) => Err(Error::new(
                Code::InvalidArgument,
                format!("{steps} steps with steps_offset {steps_offset} visit step {t} of {train_steps}"),
                "Take fewer steps or a smaller steps_offset",
            )),
            None => Ok(times),
        }
    }

    /// The multistep solvers' `steps` times, noisiest first: of one point more, the cleanest is left out.
    /// A time may lie `steps_offset` beyond the last training step.
    pub fn multistep(self, train_steps: usize, steps: usize, steps_offset: usize) -> Result<Vec<usize>> {
        check(train_steps, steps)?;
        let mut times = match self {
            TimestepSpacing::Linspace => linspace(train_steps, steps + 1),
            TimestepSpacing::Leading => {
                let stride = train_steps / (steps + 1);
                (0..=steps).rev().map(|i| i * stride + steps_offset).collect()
            }
            TimestepSpacing::Trailing => trailing(train_steps, steps),
            TimestepSpacing::Respaced => respaced(train_steps, steps + 1),
        };
        times.truncate(steps);
        Ok(times)
    }
}

/// The (fractional) training step whose noise level `sigma` is: where ln sigma lies among theirs, which rise.
pub(super) fn of_sigma(sigmas: &[f64], sigma: f64) -> f64 {
    let last = sigmas.len() - 2;
    let low = sigmas.partition_point(|known| *known <= sigma).saturating_sub(1).min(last);
    let (from, to) = (sigmas[low].ln(), sigmas[low + 1].ln());
    low as f64 + ((sigma.ln() - from) / (to - from)).clamp(0.0, 1.0)
}

fn check(train_steps: usize, steps: usize) -> Result<()> {
    if (1..=train_steps).contains(&steps) {
        return Ok(());
    }
    Err(Error::new(
        Code::InvalidArgument,
        format!("steps is {steps}"),
        format!("Give a whole number from 1 to {train_steps}, the number of training steps"),
    ))
}

/// round(linspace(0, train_steps - 1, points)), descending.
fn linspace(train_steps: usize, points: usize) -> Vec<usize> {
    let last = (train_steps - 1) as f64;
    let stride = last / (points.max(2) - 1) as f64;
    (0..points).rev().map(|i| (i as f64 * stride).round_ties_even() as usize).collect()
}

/// As [`linspace`], stride added to stride.
fn respaced(train_steps: usize, points: usize) -> Vec<usize> {
    let stride = (train_steps - 1) as f64 / (points.max(2) - 1) as f64;
    let (mut at, mut times) = (0.0f64, vec![0; points]);
    for time in times.iter_mut().rev() {
        *time = at.round_ties_even() as usize;
        at += stride;
    }
    times
}

/// round(train_steps - i train_steps / steps) - 1.
fn trailing(train_steps: usize, steps: usize) -> Vec<usize> {
    let first = train_steps as f64;
    // NumPy's arange takes its stride from the first two values.
    let stride = (first - first / steps as f64) - first;
    (0..steps).map(|i| (first + i as f64 * stride).round_ties_even() as usize - 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spacings_of_ten_steps() {
        let ddim = |spacing: TimestepSpacing, steps| spacing.ddim(1000, steps, 1).unwrap();
        assert_eq!(ddim(TimestepSpacing::Leading, 4), [751, 501, 251, 1]);
        assert_eq!(ddim(TimestepSpacing::Trailing, 4), [999, 749, 499, 249]);
        assert_eq!(ddim(TimestepSpacing::Linspace, 4), [999, 666, 333, 0]);
        assert_eq!(ddim(TimestepSpacing::Linspace, 1), [0]);
        let respaced = |steps| TimestepSpacing::Respaced.ddim(1000, steps, 0).unwrap();
        assert_eq!(respaced(8), [999, 856, 714, 571, 428, 285, 143, 0]);
        assert_eq!((respaced(1), respaced(1000)[..2].to_vec()), (vec![0], vec![999, 998]));
        // Twenty sums of 49.95 fall short of a half.
        assert_eq!((respaced(21)[10], ddim(TimestepSpacing::Linspace, 21)[10]), (499, 500));
        assert_eq!(TimestepSpacing::Linspace.multistep(1000, 3, 0).unwrap(), [999, 666, 333]);
        assert_eq!(TimestepSpacing::Leading.multistep(1000, 3, 0).unwrap(), [750, 500, 250]);
        assert_eq!(TimestepSpacing::Trailing.multistep(1000, 1, 0).unwrap(), [999]);
    }

    #[test]
    fn too_many_steps_are_refused() {
        for steps in [0, 1001] {
            assert_eq!(TimestepSpacing::Leading.ddim(1000, steps, 0).unwrap_err().code, Code::InvalidArgument);
        }
        assert!(TimestepSpacing::Leading.ddim(1000, 1000, 1).is_err());
    }
}
