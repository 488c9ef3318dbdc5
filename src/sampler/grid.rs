//! Where a solver calls the network: how times are spread between the noisiest and the cleanest. `time_uniform`, `log_snr` and
//! `quadratic` follow `get_time_steps` of dpm_solver_pp.py (baofff/U-ViT@ce551708dc9cde9818d2af7d84dfadfeb7bd9034), `karras` equation 5
//! of arXiv:2206.00364; the others visit training steps ([`super::training_grid`]).

use super::Schedule;
use super::schedule::{Curve, NoiseLevel};
use super::timesteps::TimestepSpacing;
use crate::error::{Error, Result};
use crate::json::{self, Value};

/// Where the network is called.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// As handed to the network.
    pub(super) network_time: f64,
    pub(super) level: NoiseLevel,
}

/// Times of a continuous schedule, or of a discrete one through its interpolation; all fields count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContinuousGrid {
    /// The noise schedule.
    pub schedule: Schedule,
    /// How often the network runs.
    pub steps: usize,
    /// How times are spread.
    pub spacing: Spacing,
    /// Where it starts.
    pub t_max: f64,
    /// Where it ends.
    pub t_min: f64,
    /// The network is handed this times t.
    pub time_scale: f64,
}

impl ContinuousGrid {
    /// `steps` points and the end.
    pub(super) fn points(&self) -> Result<Vec<Point>> {
        let curve = self.schedule.curve()?;
        let times = self.spacing.times(&curve, self.t_max, self.t_min, self.steps);
        let point = |t: f64| Point { network_time: self.time_scale * t, level: curve.level(t) };
        Ok(times.into_iter().map(point).collect())
    }
}

/// How times are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spacing {
    /// Evenly in t.
    TimeUniform,
    /// Evenly in lambda, half the log signal-to-noise ratio ("exponential" in k-diffusion: even in the logarithm of the noise).
    LogSnr,
    /// Evenly in the root of t: denser where there is little noise.
    Quadratic,
    /// Evenly in the seventh root of sigma_t / alpha_t.
    Karras,
    /// Training steps, evenly from the last to the first; discrete schedules only.
    Linspace,
    /// Training steps, multiples of a stride, which leaves out the noisiest; discrete schedules only.
    Leading,
    /// Training steps, down from the last, which leaves out the cleanest; discrete schedules only.
    Trailing,
    /// Training steps, evenly from the last to the first, and then without noise, as DiT's code respaces them; discrete schedules only.
    Respaced,
    /// Training steps, multiples of a stride down to the first, and then without noise, as DDIM's authors do; discrete schedules only.
    Strided,
}

impl Spacing {
    /// All of them.
    pub const ALL: [Spacing; 9] = [
        Spacing::TimeUniform,
        Spacing::LogSnr,
        Spacing::Quadratic,
        Spacing::Karras,
        Spacing::Linspace,
        Spacing::Leading,
        Spacing::Trailing,
        Spacing::Respaced,
        Spacing::Strided,
    ];

    /// The stable name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Spacing::TimeUniform => "time_uniform",
            Spacing::LogSnr => "log_snr",
            Spacing::Quadratic => "quadratic",
            Spacing::Karras => "karras",
            Spacing::Linspace => "linspace",
            Spacing::Leading => "leading",
            Spacing::Trailing => "trailing",
            Spacing::Respaced => "respaced",
            Spacing::Strided => "strided",
        }
    }

    /// Which training steps it visits, if it visits such.
    pub fn of_training_steps(self) -> Option<TimestepSpacing> {
        match self {
            Spacing::Linspace => Some(TimestepSpacing::Linspace),
            Spacing::Leading | Spacing::Strided => Some(TimestepSpacing::Leading),
            Spacing::Trailing => Some(TimestepSpacing::Trailing),
            Spacing::Respaced => Some(TimestepSpacing::Respaced),
            _ => None,
        }
    }

    /// Whether what follows the last visited training step is the picture itself, as OpenAI's code has it, whatever the solver.
    pub fn ends_without_noise(self) -> bool {
        matches!(self, Spacing::Respaced | Spacing::Strided)
    }

    /// `intervals + 1` times from `t_max` down to `t_min`, for those that need no training steps (else evenly).
    pub fn times(self, curve: &Curve, t_max: f64, t_min: f64, intervals: usize) -> Vec<f64> {
        let evenly = |from: f64, to: f64| evenly(from, to, intervals);
        match self {
            Spacing::LogSnr => {
                evenly(curve.lambda_t(t_max), curve.lambda_t(t_min)).map(|lambda| curve.t_of_lambda(lambda)).collect()
            }
            Spacing::Quadratic => evenly(t_max.sqrt(), t_min.sqrt()).map(|root| root * root).collect(),
            Spacing::Karras => {
                let root = |t: f64| (-curve.lambda_t(t) / KARRAS_RHO).exp();
                evenly(root(t_max), root(t_min)).map(|root| curve.t_of_lambda(-KARRAS_RHO * root.ln())).collect()
            }
            _ => evenly(t_max, t_min).collect(),
        }
    }
}

/// rho of arXiv:2206.00364.
const KARRAS_RHO: f64 = 7.0;

/// `intervals + 1` numbers.
fn evenly(from: f64, to: f64, intervals: usize) -> impl Iterator<Item = f64> {
    (0..=intervals).map(move |i| from + (to - from) * i as f64 / intervals as f64)
}

/// `count` noise ratios, evenly in their seventh root, from `first` to `last`.
pub(super) fn karras(first: f64, last: f64, count: usize) -> Vec<f64> {
    let (first, last) = (first.powf(1.0 / KARRAS_RHO), last.powf(1.0 / KARRAS_RHO));
    spread(first, last, count).map(|root| root.powf(KARRAS_RHO)).collect()
}

/// `count` numbers from `first` to `last`; one alone is the first.
pub(super) fn spread(first: f64, last: f64, count: usize) -> impl Iterator<Item = f64> {
    (0..count).map(move |i| first + (last - first) * i as f64 / (count.max(2) - 1) as f64)
}

impl std::str::FromStr for Spacing {
    type Err = Error;

    fn from_str(name: &str) -> Result<Spacing> {
        let name = if name == "exponential" { Spacing::LogSnr.as_str() } else { name };
        Spacing::ALL.into_iter().find(|spacing| spacing.as_str() == name).ok_or_else(|| {
            let known = Spacing::ALL.map(Spacing::as_str).join(", ");
            Error::unknown("grid", name, format!("Give one of {known}"))
        })
    }
}

impl json::Read for Spacing {
    fn read(value: &Value) -> json::Result<Spacing> {
        json::named(value)
    }
}

impl json::Write for Spacing {
    fn write(&self) -> Value {
        self.as_str().into()
    }
}
