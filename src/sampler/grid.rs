//! How the times of continuous samplers are spread between the noisiest and the cleanest (`get_time_steps` of dpm_solver_pp.py,
//! baofff/U-ViT@ce551708dc9cde9818d2af7d84dfadfeb7bd9034).

use super::schedule::Curve;
use crate::error::{Code, Error, Result};
use crate::json::{self, Value};

/// How times are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spacing {
    /// Evenly in t.
    TimeUniform,
    /// Evenly in lambda, half the log signal-to-noise ratio.
    LogSnr,
    /// Evenly in the root of t: denser where there is little noise.
    Quadratic,
}

impl Spacing {
    /// All of them.
    pub const ALL: [Spacing; 3] = [Spacing::TimeUniform, Spacing::LogSnr, Spacing::Quadratic];

    /// The stable name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Spacing::TimeUniform => "time_uniform",
            Spacing::LogSnr => "log_snr",
            Spacing::Quadratic => "quadratic",
        }
    }

    /// `intervals + 1` times from `t_max` down to `t_min`.
    pub fn times(self, curve: &Curve, t_max: f64, t_min: f64, intervals: usize) -> Vec<f64> {
        let evenly =
            |from: f64, to: f64| (0..=intervals).map(move |i| from + (to - from) * i as f64 / intervals as f64);
        match self {
            Spacing::TimeUniform => evenly(t_max, t_min).collect(),
            Spacing::LogSnr => {
                evenly(curve.lambda_t(t_max), curve.lambda_t(t_min)).map(|lambda| curve.t_of_lambda(lambda)).collect()
            }
            Spacing::Quadratic => evenly(t_max.sqrt(), t_min.sqrt()).map(|root| root * root).collect(),
        }
    }
}

impl std::str::FromStr for Spacing {
    type Err = Error;

    fn from_str(name: &str) -> Result<Spacing> {
        Spacing::ALL.into_iter().find(|spacing| spacing.as_str() == name).ok_or_else(|| {
            let known = Spacing::ALL.map(Spacing::as_str).join(", ");
            Error::new(Code::InvalidArgument, format!("There is no grid {name:?}"), format!("Give one of {known}"))
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
