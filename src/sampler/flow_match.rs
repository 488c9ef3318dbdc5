//! The noise levels of rectified flow, x = (1 - s) x_0 + s noise, and diffusers 0.42.1's FlowMatchEulerDiscreteScheduler
//! (scheduling_flow_match_euler_discrete.py) over them (arXiv:2403.03206, section 3.1 and equation 23). Euler's step
//! along the flow is DDIM's.

use super::grid::{Point, karras, spread};
use super::schedule::NoiseLevel;
use super::{Prediction, Recipe, ddim, lcm};
use crate::decimal::decimal;
use crate::error::{Code, Error, Result};

/// How levels are moved towards noise, as larger pictures need.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shift {
    /// s becomes shift s / (1 + (shift - 1) s).
    Fixed(f64),
    /// s becomes e^mu / (e^mu + 1 / s - 1).
    Dynamic {
        /// Usually a linear function of the number of tokens.
        mu: f64,
    },
}

impl Shift {
    /// A level, shifted.
    pub fn of(self, s: f64) -> f64 {
        match self {
            Shift::Fixed(shift) => shift * s / (1.0 + (shift - 1.0) * s),
            Shift::Dynamic { mu } => mu.exp() / (mu.exp() + 1.0 / s - 1.0),
        }
    }
}

/// diffusers' FlowMatchEulerDiscreteScheduler; the fields are its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowMatchEuler {
    /// How often the network runs.
    pub steps: usize,
    /// Of the levels.
    pub shift: Shift,
    /// The last level before 0, all others are stretched to it.
    pub shift_terminal: Option<f64>,
    /// Evenly in the seventh root of s.
    pub use_karras_sigmas: bool,
    /// Fresh noise at every step.
    pub stochastic_sampling: bool,
    /// The network is handed this times s.
    pub time_scale: f64,
}

impl FlowMatchEuler {
    /// With diffusers' defaults.
    pub fn new(steps: usize, shift: Shift) -> FlowMatchEuler {
        let (shift_terminal, use_karras_sigmas, stochastic_sampling) = (None, false, false);
        FlowMatchEuler { steps, shift, shift_terminal, use_karras_sigmas, stochastic_sampling, time_scale: 1000.0 }
    }

    /// Where the network is called, and 0.
    pub(super) fn points(&self) -> Result<Vec<Point>> {
        let sound = match self.shift {
            Shift::Fixed(shift) => shift > 0.0 && shift.is_finite(),
            Shift::Dynamic { mu } => mu.is_finite(),
        };
        let terminal = self.shift_terminal.is_none_or(|terminal| (0.0..1.0).contains(&terminal));
        if !(sound && terminal) {
            let (Shift::Fixed(shift) | Shift::Dynamic { mu: shift }) = self.shift;
            let terminal = self.shift_terminal.map_or("none".into(), decimal);
            let cause = format!("the shift is {}, the terminal level {terminal}", decimal(shift));
            return Err(Error::new(Code::InvalidArgument, cause, "Give a shift above 0 and a level from 0 to 1"));
        }
        // A fixed shift is applied to the ends, then to what lies between: twice to the cleanest.
        let ends = match self.shift {
            Shift::Fixed(_) => [self.shift.of(1.0), self.shift.of(CLEANEST)],
            Shift::Dynamic { .. } => [1.0, CLEANEST],
        };
        let mut levels: Vec<f64> = spread(ends[0], ends[1], self.steps).map(|s| self.shift.of(s)).collect();
        let last = levels.last().copied().unwrap_or(1.0);
        if let Some(terminal) = self.shift_terminal {
            let stretch = (1.0 - last) / (1.0 - terminal);
            levels.iter_mut().for_each(|s| *s = 1.0 - (1.0 - *s) / stretch);
        }
        if self.use_karras_sigmas {
            levels = karras(levels[0], levels.last().copied().unwrap_or(1.0), self.steps);
        }
        levels.push(0.0);
        let point = |s: f64| Point { network_time: self.time_scale * s, level: NoiseLevel::of_flow(s) };
        Ok(levels.into_iter().map(point).collect())
    }

    /// The steps to execute.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`.
    pub fn recipe(&self) -> Result<Recipe> {
        let points = self.points()?;
        match self.stochastic_sampling {
            false => ddim::over(&points, Prediction::Flow, None, 0.0, 1.0),
            true => lcm::compile(&points, Prediction::Flow, None, |_| None, true),
        }
    }
}

/// The level of the first of 1000 training steps.
const CLEANEST: f64 = 0.001;
