//! What a user chooses, and the one way from it to a [`Recipe`]. All samplers here run in continuous time on
//! \[t_min, t_max\], on a discrete schedule through its interpolation, and hand the network `time_scale` t.

use super::dpm::{Algorithm, SolverType};
use super::dpm_multistep::{Continuous, Multistep};
use super::dpm_singlestep::{DpmSinglestep, Inner, Method};
use super::euler_maruyama::Equation;
use super::unipc::BhType;
use super::{Prediction, Recipe, Schedule, Spacing, ddim, euler_maruyama};
use crate::error::{Code, Error, Result};
use crate::json::{self, Value};

/// The samplers by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SamplerKind {
    /// DPM-Solver++ (2M).
    DpmppTwoM,
    /// DPM-Solver++ (3M).
    DpmppThreeM,
    /// DPM-Solver++ (2M), with fresh noise at every step.
    DpmppTwoMSde,
    /// UniPC, order 2, B(h) = expm1(h).
    UniPc,
    /// DPM-Solver++, singlestep, order 3, "fast": U-ViT's own for latents of discrete schedules.
    DpmppThreeS,
    /// DPM-Solver, singlestep, order 3, "fast", even in lambda: U-ViT's own for continuous schedules.
    DpmSolver,
    /// Euler-Maruyama on the reverse SDE: U-ViT's own for small pictures.
    EulerMaruyamaSde,
    /// Euler on the probability-flow ODE.
    EulerMaruyamaOde,
    /// DDIM.
    Ddim,
}

impl SamplerKind {
    /// All of them, in the order to offer them.
    pub const ALL: [SamplerKind; 9] = [
        SamplerKind::DpmppTwoM,
        SamplerKind::DpmppThreeM,
        SamplerKind::DpmppTwoMSde,
        SamplerKind::UniPc,
        SamplerKind::DpmppThreeS,
        SamplerKind::DpmSolver,
        SamplerKind::EulerMaruyamaSde,
        SamplerKind::EulerMaruyamaOde,
        SamplerKind::Ddim,
    ];

    /// The stable name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            SamplerKind::DpmppTwoM => "dpmpp_2m",
            SamplerKind::DpmppThreeM => "dpmpp_3m",
            SamplerKind::DpmppTwoMSde => "dpmpp_2m_sde",
            SamplerKind::UniPc => "unipc",
            SamplerKind::DpmppThreeS => "dpmpp_3s",
            SamplerKind::DpmSolver => "dpm_solver",
            SamplerKind::EulerMaruyamaSde => "euler_maruyama_sde",
            SamplerKind::EulerMaruyamaOde => "euler_maruyama_ode",
            SamplerKind::Ddim => "ddim",
        }
    }

    /// Whether [`SamplerSettings::eta`] means something to it.
    pub fn takes_eta(self) -> bool {
        self == SamplerKind::Ddim
    }

    /// The grid that it walks if none is asked for; none for those that have but one.
    pub fn grid(self) -> Option<Spacing> {
        match self {
            SamplerKind::EulerMaruyamaSde | SamplerKind::EulerMaruyamaOde => None,
            SamplerKind::DpmSolver => Some(Spacing::LogSnr),
            _ => Some(Spacing::TimeUniform),
        }
    }
}

impl std::str::FromStr for SamplerKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<SamplerKind> {
        let known = SamplerKind::ALL.map(SamplerKind::as_str);
        known.iter().position(|known| *known == name).map(|i| SamplerKind::ALL[i]).ok_or_else(|| {
            Error::new(
                Code::InvalidArgument,
                format!("There is no sampler {name:?}"),
                format!("Give one of {}", known.join(", ")),
            )
        })
    }
}

impl json::Read for SamplerKind {
    fn read(value: &Value) -> json::Result<SamplerKind> {
        json::named(value)
    }
}

impl json::Write for SamplerKind {
    fn write(&self) -> Value {
        self.as_str().into()
    }
}

/// Everything that a recipe depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerSettings {
    /// Which solver.
    pub sampler: SamplerKind,
    /// How its times are spread; none: as it is usual with it.
    pub grid: Option<Spacing>,
    /// How often the network runs, 1 to 1000.
    pub steps: usize,
    /// The model's noise schedule.
    pub schedule: Schedule,
    /// What the model predicts.
    pub prediction: Prediction,
    /// The network is handed this times t: 999 for continuous schedules, 1000 for discrete ones.
    pub time_scale: f64,
    /// Clip the x_0 estimates to \[-1, 1\]; for models of pixels.
    pub clip_x0: bool,
    /// dpmpp_2m, dpmpp_3m, dpmpp_2m_sde and unipc: the last step is of order 1, the one before it at most of order 2.
    pub lower_order_final: bool,
    /// Where sampling ends (Euler-Maruyama goes on to 0 from here).
    pub t_min: f64,
    /// Where sampling starts.
    pub t_max: f64,
    /// ddim alone: 0 is deterministic, 1 draws as much fresh noise as DDPM.
    pub eta: f64,
}

impl SamplerSettings {
    /// The grid that is walked; none where the sampler has but one.
    pub fn walked(&self) -> Option<Spacing> {
        self.sampler.grid().map(|usual| self.grid.unwrap_or(usual))
    }
}

/// The most steps that are accepted.
pub const MAX_STEPS: usize = 1000;

/// Compiles settings into the steps to execute, or says which setting is wrong.
pub fn recipe(settings: &SamplerSettings) -> Result<Recipe> {
    let SamplerSettings { steps, schedule, prediction, time_scale, clip_x0, t_min, t_max, eta, .. } = *settings;
    let refuse = |cause: String, remedy: &str| Err(Error::new(Code::InvalidArgument, cause, remedy));
    if !(1..=MAX_STEPS).contains(&steps) {
        return refuse(format!("steps is {steps}"), "Give a whole number from 1 to 1000");
    }
    schedule.validate()?;
    if !(time_scale.is_finite() && time_scale > 0.0) {
        return refuse(format!("time_scale is {time_scale}"), "Give a finite number above 0");
    }
    if !(0.0 < t_min && t_min < t_max && t_max <= 1.0) {
        return refuse(format!("t_min is {t_min} and t_max is {t_max}"), "Give 0 < t_min < t_max <= 1");
    }
    if !(0.0..=1.0).contains(&eta) {
        return refuse(format!("eta is {eta}"), "Give a number from 0 to 1");
    }
    if eta != 0.0 && !settings.sampler.takes_eta() {
        let takers = SamplerKind::ALL.into_iter().filter(|sampler| sampler.takes_eta()).map(SamplerKind::as_str);
        let takers = takers.collect::<Vec<_>>().join(", ");
        let cause = format!("eta is {eta}, and the sampler {} takes none", settings.sampler.as_str());
        return refuse(cause, &format!("Leave eta out, or give a sampler that takes it: {takers}"));
    }
    let sampler = settings.sampler;
    let Some(spacing) = settings.walked() else {
        if let Some(grid) = settings.grid {
            let cause = format!("grid is {:?}, and the sampler {} has its own", grid.as_str(), sampler.as_str());
            return refuse(cause, "Leave the grid out, or give another sampler");
        }
        let equation = match sampler {
            SamplerKind::EulerMaruyamaSde => Equation::Sde,
            _ => Equation::Ode,
        };
        return euler_maruyama::continuous(&schedule, prediction, equation, steps, t_max, t_min, time_scale, clip_x0);
    };
    let algorithm = match sampler {
        SamplerKind::Ddim => {
            return ddim::continuous(&schedule, prediction, spacing, steps, t_max, t_min, time_scale, clip_x0, eta);
        }
        SamplerKind::DpmppTwoMSde => Algorithm::SdeDpmSolverPlusPlus,
        SamplerKind::DpmSolver => Algorithm::DpmSolver,
        _ => Algorithm::DpmSolverPlusPlus,
    };
    let solver_type = SolverType::Midpoint;
    match sampler {
        SamplerKind::DpmppThreeS | SamplerKind::DpmSolver => DpmSinglestep {
            schedule,
            prediction,
            steps,
            order: 3,
            method: Method::Fast,
            algorithm,
            solver_type,
            inner: if sampler == SamplerKind::DpmSolver { Inner::Ratios } else { Inner::GridPoints },
            spacing,
            t_max,
            t_min,
            time_scale,
            clip_x0,
            denoise: false,
        }
        .recipe(),
        _ => Continuous {
            schedule,
            prediction,
            steps,
            method: match sampler {
                SamplerKind::DpmppThreeM => Multistep::Dpm { order: 3 },
                SamplerKind::UniPc => Multistep::UniPc { order: 2, bh: BhType::Bh2 },
                _ => Multistep::Dpm { order: 2 },
            },
            algorithm,
            solver_type,
            lower_order_final: settings.lower_order_final,
            spacing,
            t_max,
            t_min,
            time_scale,
            clip_x0,
        }
        .recipe(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Write;
    use crate::sampler::{Slot, Step};

    const EMOJI: SamplerSettings = SamplerSettings {
        sampler: SamplerKind::DpmppTwoM,
        grid: None,
        steps: 25,
        schedule: Schedule::VpLinear { beta_min: 0.1, beta_max: 20.0 },
        prediction: Prediction::X0,
        time_scale: 999.0,
        clip_x0: true,
        lower_order_final: true,
        t_min: 0.001,
        t_max: 1.0,
        eta: 0.0,
    };

    const STABLE_DIFFUSION: Schedule =
        Schedule::ScaledLinear { beta_start: 0.00085, beta_end: 0.012, train_steps: 1000 };

    #[test]
    fn every_sampler_compiles_at_every_length() {
        for sampler in SamplerKind::ALL {
            for steps in [1, 2, 3, 25, 1000] {
                for prediction in [Prediction::Noise, Prediction::X0, Prediction::V] {
                    for clip_x0 in [false, true] {
                        let eta = if sampler.takes_eta() { 0.3 } else { 0.0 };
                        let settings = SamplerSettings { sampler, steps, prediction, clip_x0, eta, ..EMOJI };
                        let recipe = recipe(&settings).unwrap();
                        assert_eq!(recipe.evaluations, steps);
                        assert_eq!(recipe.init_noise_sigma, 1.0);
                    }
                }
            }
        }
    }

    #[test]
    fn discrete_schedules_run_where_they_have_a_meaning() {
        for sampler in SamplerKind::ALL {
            let settings = SamplerSettings { sampler, schedule: STABLE_DIFFUSION, time_scale: 1000.0, ..EMOJI };
            match sampler {
                SamplerKind::EulerMaruyamaSde | SamplerKind::EulerMaruyamaOde => {
                    assert_eq!(recipe(&settings).unwrap_err().code, Code::UnsupportedModel)
                }
                _ => assert_eq!(recipe(&settings).unwrap().evaluations, 25),
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let wrong = [
            SamplerSettings { steps: 0, ..EMOJI },
            SamplerSettings { steps: 100_000, ..EMOJI },
            SamplerSettings { t_min: 0.0, ..EMOJI },
            SamplerSettings { t_min: f64::NAN, ..EMOJI },
            SamplerSettings { t_max: 0.001, ..EMOJI },
            SamplerSettings { t_max: 1.5, ..EMOJI },
            SamplerSettings { time_scale: f64::INFINITY, ..EMOJI },
            SamplerSettings { time_scale: 0.0, ..EMOJI },
            SamplerSettings { eta: 0.5, ..EMOJI },
            SamplerSettings { sampler: SamplerKind::Ddim, eta: -0.1, ..EMOJI },
            SamplerSettings { eta: f64::NAN, ..EMOJI },
            SamplerSettings { sampler: SamplerKind::EulerMaruyamaSde, grid: Some(Spacing::LogSnr), ..EMOJI },
            SamplerSettings { schedule: Schedule::VpLinear { beta_min: f64::NAN, beta_max: 20.0 }, ..EMOJI },
            // alpha underflows: x_0 cannot be read from the noise.
            SamplerSettings {
                schedule: Schedule::VpLinear { beta_min: 0.1, beta_max: 1e6 },
                prediction: Prediction::Noise,
                ..EMOJI
            },
            // The interpolated schedule has no noise left down there.
            SamplerSettings { schedule: STABLE_DIFFUSION, t_min: 1e-9, ..EMOJI },
        ];
        for settings in wrong {
            assert_eq!(recipe(&settings).unwrap_err().code, Code::InvalidArgument, "{settings:?}");
        }
    }

    /// With a network that knows x_0 and the noise exactly, solvers of the ODE in lambda stay on the straight way
    /// alpha_t x_0 + sigma_t noise, whatever the schedule and the prediction.
    #[test]
    fn perfect_network_leads_to_x0() {
        let (x0, noise) = (0.7, -1.3);
        for (schedule, time_scale) in [(EMOJI.schedule, 999.0), (STABLE_DIFFUSION, 1000.0)] {
            let curve = schedule.curve().unwrap();
            let on_the_way = |t| curve.alpha_t(t) * x0 + curve.sigma_t(t) * noise;
            let deterministic = SamplerKind::ALL.into_iter().filter(|sampler| {
                ![SamplerKind::EulerMaruyamaSde, SamplerKind::EulerMaruyamaOde, SamplerKind::DpmppTwoMSde]
                    .contains(sampler)
            });
            let grids = Spacing::ALL.map(Some).into_iter().chain([None]);
            for (sampler, grid) in deterministic.flat_map(|sampler| grids.clone().map(move |grid| (sampler, grid))) {
                for prediction in [Prediction::Noise, Prediction::X0, Prediction::V] {
                    let settings =
                        SamplerSettings { sampler, grid, steps: 7, schedule, prediction, time_scale, ..EMOJI };
                    let (mut latents, mut model, mut scratch) = (on_the_way(1.0), f64::NAN, [f64::NAN; 4]);
                    for step in &recipe(&settings).unwrap().steps {
                        match step {
                            Step::Eval { network_time, x0: preview } => {
                                let level = curve.level(network_time / time_scale);
                                model = match prediction {
                                    Prediction::Noise => noise,
                                    Prediction::X0 => x0,
                                    Prediction::V => level.alpha_t * noise - level.sigma_t * x0,
                                };
                                assert!((preview[0] * latents + preview[1] * model - x0).abs() < 1e-9);
                            }
                            Step::Combine { out, terms, clip } => {
                                let read = |slot| match slot {
                                    Slot::Latents => latents,
                                    Slot::Model => model,
                                    Slot::Scratch(i) => scratch[i as usize],
                                };
                                let sum: f64 = terms.iter().map(|term| term.coefficient * read(term.slot)).sum();
                                let (low, high) = clip.unwrap_or((f64::MIN, f64::MAX));
                                *match out {
                                    Slot::Latents => &mut latents,
                                    Slot::Model => panic!("the network's output is only read"),
                                    Slot::Scratch(i) => &mut scratch[*i as usize],
                                } = sum.clamp(low, high);
                            }
                            Step::Noise { .. } => panic!("eta is 0"),
                        }
                    }
                    let off = latents - on_the_way(settings.t_min);
                    assert!(off.abs() < 1e-9, "{sampler:?} {prediction:?} {schedule:?} ends {off:e} away");
                }
            }
        }
    }

    #[test]
    fn names_are_stable() {
        for sampler in SamplerKind::ALL {
            assert_eq!(sampler.write(), sampler.as_str());
            assert_eq!(sampler.as_str().parse::<SamplerKind>().unwrap(), sampler);
        }
        assert_eq!("euler".parse::<SamplerKind>().unwrap_err().code, Code::InvalidArgument);
    }
}
