//! Noise schedules: x_t = alpha_t x_0 + sigma_t noise, with alpha_t^2 + sigma_t^2 = 1 or, in rectified flow, alpha_t + sigma_t = 1, in f64.
//! lambda_t = ln(alpha_t / sigma_t) is half the log signal-to-noise ratio, the natural time of the DPM solvers
//! (arXiv:2206.00927, section 2 and appendix D). The forms follow dpm_solver_pp.py of
//! baofff/U-ViT@ce551708dc9cde9818d2af7d84dfadfeb7bd9034 (class NoiseScheduleVP) and diffusers 0.42.1.

use crate::decimal::decimal;
use crate::error::{Code, Error, Result};
use crate::json::{self, Fields, Value};

/// A noise schedule as a model's configuration names it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// Continuous, beta(t) = beta_min + (beta_max - beta_min) t on t in \[0, 1\] (Score SDE, arXiv:2011.13456, VP SDE).
    VpLinear {
        /// beta(0), usually 0.1.
        beta_min: f64,
        /// beta(1), usually 20.
        beta_max: f64,
    },
    /// Continuous, alpha_t = cos u(t) / cos u(0) with u(t) = (t + 0.008) / 1.008 pi / 2 (Improved DDPM, arXiv:2102.09672,
    /// equation 17; `cosine` in U-ViT's code). There is no signal left at 1: sampling starts at 0.9946 there.
    VpCosine,
    /// Discrete, sqrt(beta_k) linear in k: Stable Diffusion's. In continuous time step k lies at t = (k + 1) / train_steps
    /// and ln alpha_t is interpolated linearly between the steps, as DPM-Solver does.
    ScaledLinear {
        /// beta_0, usually 0.00085.
        beta_start: f64,
        /// The last beta, usually 0.012.
        beta_end: f64,
        /// How many steps there are, usually 1000.
        train_steps: usize,
    },
    /// Discrete, beta_k linear in k: DiT's. Otherwise as `ScaledLinear`.
    Linear {
        /// beta_0, usually 0.0001.
        beta_start: f64,
        /// The last beta, usually 0.02.
        beta_end: f64,
        /// How many steps there are, usually 1000.
        train_steps: usize,
    },
    /// x = (1 - s) x_0 + s noise; the network is handed `time_scale` s (arXiv:2403.03206, section 2).
    RectifiedFlow {
        /// Moves the levels that are visited towards noise: s becomes shift s / (1 + (shift - 1) s). Stable Diffusion 3 has 3.
        shift: f64,
    },
}

const KNOWN: &str = "vp_linear, vp_cosine, scaled_linear, linear, rectified_flow";

impl json::Read for Schedule {
    fn read(value: &Value) -> json::Result<Schedule> {
        let fields = Fields::of(value)?;
        match fields.required::<String>("type")?.as_str() {
            "vp_linear" => Ok(Schedule::VpLinear {
                beta_min: fields.required("beta_min")?,
                beta_max: fields.required("beta_max")?,
            }),
            "vp_cosine" => Ok(Schedule::VpCosine),
            "scaled_linear" => Ok(Schedule::ScaledLinear {
                beta_start: fields.required("beta_start")?,
                beta_end: fields.required("beta_end")?,
                train_steps: fields.required("train_steps")?,
            }),
            "linear" => Ok(Schedule::Linear {
                beta_start: fields.required("beta_start")?,
                beta_end: fields.required("beta_end")?,
                train_steps: fields.required("train_steps")?,
            }),
            "rectified_flow" => Ok(Schedule::RectifiedFlow { shift: fields.or("shift", 1.0)? }),
            other => Err(format!("type: there is no schedule \"{other}\". Give one of {KNOWN}")),
        }
    }
}

impl json::Write for Schedule {
    fn write(&self) -> Value {
        match *self {
            Schedule::VpLinear { beta_min, beta_max } => json::object([
                ("type", "vp_linear".into()),
                ("beta_min", beta_min.into()),
                ("beta_max", beta_max.into()),
            ]),
            Schedule::VpCosine => json::object([("type", "vp_cosine".into())]),
            Schedule::ScaledLinear { beta_start, beta_end, train_steps } => json::object([
                ("type", "scaled_linear".into()),
                ("beta_start", beta_start.into()),
                ("beta_end", beta_end.into()),
                ("train_steps", train_steps.into()),
            ]),
            Schedule::Linear { beta_start, beta_end, train_steps } => json::object([
                ("type", "linear".into()),
                ("beta_start", beta_start.into()),
                ("beta_end", beta_end.into()),
                ("train_steps", train_steps.into()),
            ]),
            Schedule::RectifiedFlow { shift } => {
                json::object([("type", "rectified_flow".into()), ("shift", shift.into())])
            }
        }
    }
}

impl Schedule {
    /// Refuses numbers that describe no schedule.
    pub fn validate(&self) -> Result<()> {
        let (ok, found) = match *self {
            Schedule::VpCosine => (true, String::new()),
            Schedule::VpLinear { beta_min, beta_max } => (
                beta_min >= 0.0 && beta_max >= beta_min && beta_max > 0.0 && beta_max.is_finite(),
                format!("beta_min = {}, beta_max = {}", decimal(beta_min), decimal(beta_max)),
            ),
            Schedule::RectifiedFlow { shift } => {
                (shift > 0.0 && shift.is_finite(), format!("shift = {}", decimal(shift)))
            }
            Schedule::ScaledLinear { beta_start, beta_end, train_steps }
            | Schedule::Linear { beta_start, beta_end, train_steps } => (
                beta_start > 0.0 && beta_end >= beta_start && beta_end < 1.0 && (2..=100_000).contains(&train_steps),
                format!(
                    "beta_start = {}, beta_end = {}, train_steps = {train_steps}",
                    decimal(beta_start),
                    decimal(beta_end)
                ),
            ),
        };
        if ok {
            return Ok(());
        }
        Err(Error::new(
            Code::InvalidArgument,
            format!("The noise schedule has {found}"),
            "Give finite betas that do not fall, above 0 (below 1 and with 2 to 100000 steps if discrete), and a shift above 0",
        ))
    }

    /// How many training steps there are; 1000, which is usual, where time is continuous.
    pub fn train_steps(&self) -> usize {
        match *self {
            Schedule::ScaledLinear { train_steps, .. } | Schedule::Linear { train_steps, .. } => train_steps,
            _ => 1000,
        }
    }

    /// alpha_t, sigma_t, lambda_t in continuous time.
    pub fn curve(&self) -> Result<Curve> {
        match *self {
            Schedule::VpLinear { beta_min, beta_max } => {
                self.validate()?;
                Ok(Curve::VpLinear { beta_min, beta_max })
            }
            Schedule::VpCosine => Ok(Curve::VpCosine),
            Schedule::RectifiedFlow { .. } => {
                self.validate()?;
                Ok(Curve::Flow)
            }
            Schedule::ScaledLinear { .. } | Schedule::Linear { .. } => {
                let log_alphas = self.log_alphas_cumprod()?.iter().map(|la| la / 2.0).collect();
                Ok(Curve::Discrete { log_alphas })
            }
        }
    }

    /// alphas_cumprod\[k\] = product over j <= k of (1 - beta_j), as diffusers' schedulers hold it. Only of a discrete schedule.
    pub fn alphas_cumprod(&self) -> Result<Vec<f64>> {
        let mut product = 1.0;
        Ok(self
            .betas()?
            .iter()
            .map(|beta| {
                product *= 1.0 - beta;
                product
            })
            .collect())
    }

    fn log_alphas_cumprod(&self) -> Result<Vec<f64>> {
        let mut sum = 0.0;
        Ok(self
            .betas()?
            .iter()
            .map(|beta| {
                sum += (-beta).ln_1p();
                sum
            })
            .collect())
    }

    fn betas(&self) -> Result<Vec<f64>> {
        self.validate()?;
        match *self {
            Schedule::ScaledLinear { beta_start, beta_end, train_steps } => {
                let (first, last) = (beta_start.sqrt(), beta_end.sqrt());
                let root = |k: usize| first + (last - first) * k as f64 / (train_steps - 1) as f64;
                Ok((0..train_steps).map(|k| root(k).powi(2)).collect())
            }
            Schedule::Linear { beta_start, beta_end, train_steps } => {
                let beta = |k: usize| beta_start + (beta_end - beta_start) * k as f64 / (train_steps - 1) as f64;
                Ok((0..train_steps).map(beta).collect())
            }
            Schedule::VpLinear { .. } | Schedule::VpCosine | Schedule::RectifiedFlow { .. } => Err(Error::new(
                Code::UnsupportedModel,
                "A continuous schedule has no discrete training steps",
                "Take another grid: time_uniform, log_snr, quadratic or karras",
            )),
        }
    }
}

/// Shifts and scales alphas_cumprod so that the last one is 0: no signal is left at the last training step
/// (arXiv:2305.08891, algorithm 1; `rescale_betas_zero_snr` in diffusers).
pub fn rescale_zero_terminal_snr(alphas_cumprod: &mut [f64]) {
    if let (Some(first), Some(last)) = (alphas_cumprod.first(), alphas_cumprod.last()) {
        let (first, last) = (first.sqrt(), last.sqrt());
        for value in alphas_cumprod.iter_mut() {
            *value = ((value.sqrt() - last) * first / (first - last)).powi(2);
        }
    }
}

/// A [`Schedule`] ready to be evaluated at any time t.
#[derive(Clone, Debug, PartialEq)]
pub enum Curve {
    /// See [`Schedule::VpLinear`].
    VpLinear {
        /// beta(0).
        beta_min: f64,
        /// beta(1).
        beta_max: f64,
    },
    /// See [`Schedule::VpCosine`].
    VpCosine,
    /// See [`Schedule::ScaledLinear`].
    Discrete {
        /// ln alpha_t at t = (k + 1) / n, k = 0 .. n - 1.
        log_alphas: Vec<f64>,
    },
    /// See [`Schedule::RectifiedFlow`]; t is s.
    Flow,
}

impl Curve {
    /// ln alpha_t.
    pub fn log_alpha_t(&self, t: f64) -> f64 {
        match self {
            Curve::VpLinear { beta_min, beta_max } => -(beta_max - beta_min) * t * t / 4.0 - beta_min * t / 2.0,
            Curve::VpCosine => cosine_angle(t).cos().ln() - cosine_angle(0.0).cos().ln(),
            Curve::Discrete { log_alphas } => {
                let n = log_alphas.len();
                let position = t * n as f64 - 1.0;
                let k = (position.max(0.0) as usize).min(n - 2);
                log_alphas[k] + (position - k as f64) * (log_alphas[k + 1] - log_alphas[k])
            }
            Curve::Flow => (-t).ln_1p(),
        }
    }

    /// The part of the picture in x_t.
    pub fn alpha_t(&self, t: f64) -> f64 {
        self.log_alpha_t(t).exp()
    }

    /// The part of the noise in x_t: sqrt(1 - alpha_t^2), without cancellation at small t.
    pub fn sigma_t(&self, t: f64) -> f64 {
        if *self == Curve::Flow {
            return t;
        }
        (-(2.0 * self.log_alpha_t(t)).exp_m1()).sqrt()
    }

    /// ln(alpha_t / sigma_t); falls as t grows.
    pub fn lambda_t(&self, t: f64) -> f64 {
        self.log_alpha_t(t) - self.sigma_t(t).ln()
    }

    /// The t whose lambda_t this is.
    pub fn t_of_lambda(&self, lambda: f64) -> f64 {
        // ln(1 + e^(-2 lambda)) = -2 ln alpha_t, without overflow at very negative lambda.
        let minus_2_log_alpha = (-2.0 * lambda).max(0.0) + (-2.0 * lambda.abs()).exp().ln_1p();
        match self {
            Curve::VpLinear { beta_min, beta_max } => {
                let root = (beta_min * beta_min + 2.0 * (beta_max - beta_min) * minus_2_log_alpha).sqrt();
                2.0 * minus_2_log_alpha / (root + beta_min)
            }
            Curve::Flow => 1.0 / (1.0 + lambda.exp()),
            Curve::VpCosine => {
                let cosine = (-minus_2_log_alpha / 2.0).exp() * cosine_angle(0.0).cos();
                COSINE_SCALE * cosine.acos() / std::f64::consts::FRAC_PI_2 - COSINE_OFFSET
            }
            Curve::Discrete { log_alphas } => {
                let n = log_alphas.len();
                let log_alpha = -minus_2_log_alpha / 2.0;
                let k = log_alphas.partition_point(|la| *la > log_alpha).saturating_sub(1).min(n - 2);
                let part = (log_alpha - log_alphas[k]) / (log_alphas[k + 1] - log_alphas[k]);
                (k as f64 + part + 1.0) / n as f64
            }
        }
    }

    /// beta(t) of the SDE dx = -beta x / 2 dt + sqrt(beta) dw, which only a continuous schedule has.
    pub fn beta_t(&self, t: f64) -> Option<f64> {
        match self {
            Curve::VpLinear { beta_min, beta_max } => Some(beta_min + (beta_max - beta_min) * t),
            Curve::VpCosine => Some(std::f64::consts::PI / COSINE_SCALE * cosine_angle(t).tan()),
            Curve::Discrete { .. } | Curve::Flow => None,
        }
    }

    /// alpha_t, sigma_t and lambda_t together.
    pub fn level(&self, t: f64) -> NoiseLevel {
        NoiseLevel { alpha_t: self.alpha_t(t), sigma_t: self.sigma_t(t), lambda_t: self.lambda_t(t) }
    }
}

const COSINE_OFFSET: f64 = 0.008;
const COSINE_SCALE: f64 = 1.0 + COSINE_OFFSET;

fn cosine_angle(t: f64) -> f64 {
    (t + COSINE_OFFSET) / COSINE_SCALE * std::f64::consts::FRAC_PI_2
}

/// How noisy x_t is at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseLevel {
    /// The part of the picture in x_t.
    pub alpha_t: f64,
    /// The part of the noise in x_t.
    pub sigma_t: f64,
    /// ln(alpha_t / sigma_t); infinite where there is no noise.
    pub lambda_t: f64,
}

impl NoiseLevel {
    /// From one of diffusers' `alphas_cumprod`, which is alpha_t^2.
    pub fn from_alphas_cumprod(alphas_cumprod: f64) -> NoiseLevel {
        let (alpha_t, sigma_t) = (alphas_cumprod.sqrt(), (1.0 - alphas_cumprod).sqrt());
        NoiseLevel { alpha_t, sigma_t, lambda_t: (alpha_t / sigma_t).ln() }
    }

    /// From one of diffusers' scheduler sigmas, which is sigma_t / alpha_t.
    pub fn from_ratio(ratio: f64) -> NoiseLevel {
        let alpha_t = 1.0 / (1.0 + ratio * ratio).sqrt();
        NoiseLevel { alpha_t, sigma_t: ratio * alpha_t, lambda_t: -ratio.ln() }
    }

    /// From rectified flow's s, which is sigma_t.
    pub fn of_flow(s: f64) -> NoiseLevel {
        NoiseLevel { alpha_t: 1.0 - s, sigma_t: s, lambda_t: ((1.0 - s) / s).ln() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lambda_and_its_inverse_agree() {
        for schedule in [
            Schedule::VpLinear { beta_min: 0.1, beta_max: 20.0 },
            Schedule::VpLinear { beta_min: 3.0, beta_max: 3.0 },
            Schedule::VpCosine,
            Schedule::ScaledLinear { beta_start: 0.00085, beta_end: 0.012, train_steps: 1000 },
            Schedule::Linear { beta_start: 0.0001, beta_end: 0.02, train_steps: 1000 },
            Schedule::RectifiedFlow { shift: 3.0 },
        ] {
            let curve = schedule.curve().unwrap();
            for t in [0.0007, 0.001, 0.0123, 0.37, 0.5, 0.9996] {
                let level = curve.level(t);
                let sum = match curve {
                    Curve::Flow => level.alpha_t + level.sigma_t,
                    _ => level.alpha_t.powi(2) + level.sigma_t.powi(2),
                };
                assert!((sum - 1.0).abs() < 1e-14);
                let back = curve.t_of_lambda(level.lambda_t);
                assert!((back - t).abs() < 1e-10 * t.max(0.01), "{schedule:?}: {t} came back as {back}");
            }
        }
    }

    #[test]
    fn discrete_time_meets_the_training_steps() {
        let schedule = Schedule::ScaledLinear { beta_start: 0.00085, beta_end: 0.012, train_steps: 1000 };
        let (curve, alphas_cumprod) = (schedule.curve().unwrap(), schedule.alphas_cumprod().unwrap());
        for k in [0, 1, 500, 999] {
            let alpha_t = curve.alpha_t((k + 1) as f64 / 1000.0);
            assert!((alpha_t.powi(2) / alphas_cumprod[k] - 1.0).abs() < 1e-11, "step {k}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for schedule in [
            Schedule::VpLinear { beta_min: -1.0, beta_max: 20.0 },
            Schedule::VpLinear { beta_min: 0.1, beta_max: f64::NAN },
            Schedule::VpLinear { beta_min: 0.0, beta_max: 0.0 },
            Schedule::ScaledLinear { beta_start: 0.1, beta_end: 1.5, train_steps: 1000 },
            Schedule::ScaledLinear { beta_start: 0.1, beta_end: 0.2, train_steps: 1 },
            Schedule::Linear { beta_start: 0.0, beta_end: 0.2, train_steps: 1000 },
            Schedule::RectifiedFlow { shift: 0.0 },
        ] {
            assert_eq!(schedule.curve().unwrap_err().code, Code::InvalidArgument, "{schedule:?}");
        }
    }
}
