//! What a user chooses, and the one way from it to a [`Recipe`]: a grid of points, then a solver over them. Samplers run in
//! continuous time on \[t_min, t_max\], on a discrete schedule through its interpolation, and hand the network `time_scale` t; on
//! grids of training steps they visit those.

use super::dpm::{Algorithm, SolverType, Update};
use super::dpm_adaptive::{DpmAdaptive, Tolerances};
use super::dpm_singlestep::{DpmSinglestep, Inner, Method};
use super::euler::{self, Churn};
use super::euler_maruyama::{self, Equation};
use super::flow_match::{FlowMatchEuler, Shift};
use super::grid::{ContinuousGrid, Point};
use super::timesteps::TimestepSpacing;
use super::training_grid::{FinalSigma, TrainingGrid};
use super::unipc::{self, BhType};
use super::{Prediction, Recipe, Schedule, Spacing, Step, ddim, ddpm, deis, dpm_multistep, heun, lcm, pndm};
use crate::decimal::decimal;
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
    /// DEIS, order 3.
    Deis,
    /// DPM-Solver++, singlestep, order 3, "fast": U-ViT's own for latents of discrete schedules.
    DpmppThreeS,
    /// DPM-Solver, singlestep, order 3, "fast", even in lambda: U-ViT's own for continuous schedules.
    DpmSolver,
    /// DPM-Solver, orders 2 and 3, with as many steps as it needs.
    DpmAdaptive,
    /// Euler; along the flow, where the schedule is one.
    Euler,
    /// Euler ancestral.
    EulerAncestral,
    /// Heun.
    Heun,
    /// DDIM.
    Ddim,
    /// DDPM: with the variance that the network has learned, or the small fixed one.
    Ddpm,
    /// PNDM, begun as Stable Diffusion does.
    Plms,
    /// PNDM, begun with Runge-Kutta steps.
    Pndm,
    /// Consistency sampling, for models distilled for it.
    Lcm,
    /// Euler-Maruyama on the reverse SDE: U-ViT's own for small pictures.
    EulerMaruyamaSde,
    /// Euler on the probability-flow ODE.
    EulerMaruyamaOde,
}

/// All of them, in the order to offer them, with their stable names.
const NAMES: [(SamplerKind, &str); 18] = [
    (SamplerKind::DpmppTwoM, "dpmpp_2m"),
    (SamplerKind::DpmppThreeM, "dpmpp_3m"),
    (SamplerKind::DpmppTwoMSde, "dpmpp_2m_sde"),
    (SamplerKind::UniPc, "unipc"),
    (SamplerKind::Deis, "deis"),
    (SamplerKind::DpmppThreeS, "dpmpp_3s"),
    (SamplerKind::DpmSolver, "dpm_solver"),
    (SamplerKind::DpmAdaptive, "dpm_adaptive"),
    (SamplerKind::Euler, "euler"),
    (SamplerKind::EulerAncestral, "euler_ancestral"),
    (SamplerKind::Heun, "heun"),
    (SamplerKind::Ddim, "ddim"),
    (SamplerKind::Ddpm, "ddpm"),
    (SamplerKind::Plms, "plms"),
    (SamplerKind::Pndm, "pndm"),
    (SamplerKind::Lcm, "lcm"),
    (SamplerKind::EulerMaruyamaSde, "euler_maruyama_sde"),
    (SamplerKind::EulerMaruyamaOde, "euler_maruyama_ode"),
];

impl SamplerKind {
    /// All of them, in the order to offer them.
    pub const ALL: [SamplerKind; NAMES.len()] = {
        let mut all = [SamplerKind::DpmppTwoM; NAMES.len()];
        let mut i = 0;
        while i < NAMES.len() {
            all[i] = NAMES[i].0;
            i += 1;
        }
        all
    };

    /// The stable name, as in JSON.
    pub fn as_str(self) -> &'static str {
        NAMES.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    /// Whether [`SamplerSettings::eta`] means something to it.
    pub fn takes_eta(self) -> bool {
        self == SamplerKind::Ddim
    }

    /// Whether [`SamplerSettings::churn`] means something to it.
    pub fn takes_churn(self) -> bool {
        self == SamplerKind::Euler
    }

    /// The grid that it walks if none is asked for; none for those that have but one.
    pub fn grid(self) -> Option<Spacing> {
        match self {
            SamplerKind::EulerMaruyamaSde | SamplerKind::EulerMaruyamaOde | SamplerKind::DpmAdaptive => None,
            SamplerKind::DpmSolver => Some(Spacing::LogSnr),
            _ => Some(Spacing::TimeUniform),
        }
    }

    /// How often the network runs in so many steps; 0: as often as it needs, whatever the steps.
    pub fn calls(self, steps: usize) -> usize {
        match self {
            SamplerKind::DpmAdaptive => 0,
            SamplerKind::Heun => 2 * steps - 1,
            SamplerKind::Plms => steps + usize::from(steps > 1),
            SamplerKind::Pndm => steps + 9,
            _ => steps,
        }
    }
}

impl std::str::FromStr for SamplerKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<SamplerKind> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind).ok_or_else(|| {
            let known = NAMES.map(|(_, name)| name).join(", ");
            Error::unknown("sampler", name, format!("Give one of {known}"))
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
    /// Steps, 1 to 1000; [`SamplerKind::calls`] says how often the network runs.
    pub steps: usize,
    /// The model's noise schedule.
    pub schedule: Schedule,
    /// What the model predicts.
    pub prediction: Prediction,
    /// The network is handed this times t: 999 for continuous schedules, 1000 for discrete ones.
    pub time_scale: f64,
    /// Added to that: -1 for networks that count training steps from 0, as DiT does.
    pub time_offset: f64,
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
    /// euler alone: S_churn of arXiv:2206.00364, fresh noise over all steps; 0 is none.
    pub churn: f64,
    /// So many of the first steps are left out: what starts there is a picture with noise of that level.
    pub skip: usize,
}

impl SamplerSettings {
    /// The grid that is walked; none where the sampler has but one.
    pub fn walked(&self) -> Option<Spacing> {
        self.sampler.grid().map(|usual| self.grid.unwrap_or(usual))
    }

    /// How many of the first steps a picture to start from leaves out, by its strength from 0 to 1. What is cut to a whole number is
    /// the steps that are walked (`get_timesteps` of diffusers' StableDiffusionImg2ImgPipeline), of a rectified flow those that
    /// are not (StableDiffusion3Img2ImgPipeline).
    pub fn skipped(&self, strength: f64) -> usize {
        let steps = self.steps as f64;
        let walked = (steps * strength).min(steps);
        match self.schedule {
            Schedule::RectifiedFlow { .. } => (steps - walked) as usize,
            _ => self.steps - walked as usize,
        }
    }

    fn continuous(&self, spacing: Spacing) -> ContinuousGrid {
        let SamplerSettings { schedule, steps, t_max, t_min, time_scale, .. } = *self;
        ContinuousGrid { schedule, steps, spacing, t_max, t_min, time_scale }
    }

    /// Where the network is called, and the end.
    fn points(&self, spacing: Spacing) -> Result<Vec<Point>> {
        let mut points = match (self.schedule, spacing.of_training_steps()) {
            (Schedule::RectifiedFlow { shift }, _) => self.flow(spacing, shift)?,
            (_, None) => self.continuous(spacing).points()?,
            (_, Some(steps)) => self.training_points(spacing, steps)?,
        };
        points.drain(..self.skip);
        Ok(points)
    }

    fn flow(&self, spacing: Spacing, shift: f64) -> Result<Vec<Point>> {
        if !matches!(spacing, Spacing::TimeUniform | Spacing::Karras) {
            let cause = format!("the grid {} is not defined for rectified flow", spacing.as_str());
            return Err(Error::new(Code::InvalidArgument, cause, "Give time_uniform or karras"));
        }
        let flow = FlowMatchEuler::new(self.steps, Shift::Fixed(shift));
        let use_karras_sigmas = spacing == Spacing::Karras;
        FlowMatchEuler { use_karras_sigmas, time_scale: self.time_scale, ..flow }.points()
    }

    /// As diffusers does it with Stable Diffusion's settings, but the network counts training steps from 1, and [`Spacing::ends_without_noise`].
    fn training_points(&self, spacing: Spacing, timestep_spacing: TimestepSpacing) -> Result<Vec<Point>> {
        let mut grid = TrainingGrid::new(self.schedule, self.steps);
        grid.timestep_spacing = timestep_spacing;
        grid.steps_offset = usize::from(spacing == Spacing::Leading);
        let mut points = match self.sampler {
            // It has no limit without noise.
            SamplerKind::Deis => TrainingGrid { final_sigmas_type: FinalSigma::SigmaMin, ..grid }.points(),
            _ if spacing.ends_without_noise() => grid.ddim_points(),
            SamplerKind::Ddim | SamplerKind::Plms | SamplerKind::Pndm => {
                TrainingGrid { final_sigmas_type: FinalSigma::SigmaMin, ..grid }.ddim_points()
            }
            SamplerKind::Euler | SamplerKind::EulerAncestral | SamplerKind::Heun => grid.fine_points(),
            SamplerKind::Ddpm | SamplerKind::Lcm => grid.ddim_points(),
            _ => grid.points(),
        }?;
        let unit = self.time_scale / self.schedule.train_steps() as f64;
        points.iter_mut().for_each(|point| point.network_time = unit * (point.network_time + 1.0));
        Ok(points)
    }

    /// For each of `points` but the last, what lies half way to the next in time.
    fn halves(&self, points: &[Point]) -> Result<Vec<Point>> {
        let curve = self.schedule.curve()?;
        let half = |pair: &[Point]| {
            let network_time = (pair[0].network_time + pair[1].network_time) / 2.0;
            Point { network_time, level: curve.level(network_time / self.time_scale) }
        };
        Ok(points.windows(2).map(half).collect())
    }
}

/// The most steps that are accepted.
pub const MAX_STEPS: usize = 1000;

/// Compiles settings into the steps to execute, or says which setting is wrong.
pub fn recipe(settings: &SamplerSettings) -> Result<Recipe> {
    let offset = settings.time_offset;
    if !offset.is_finite() {
        let cause = format!("time_offset is {}", decimal(offset));
        return Err(Error::new(Code::InvalidArgument, cause, "Give a finite number"));
    }
    let mut recipe = compile(settings)?;
    later(&mut recipe.steps, offset);
    if let Some(adaptive) = &mut recipe.adaptive {
        adaptive.time_offset = offset;
    }
    Ok(recipe)
}

/// Hands the network later times.
pub(super) fn later(steps: &mut [Step], by: f64) {
    for step in steps {
        if let Step::Eval { network_time, .. } = step {
            *network_time += by;
        }
    }
}

/// With times from 0.
fn compile(settings: &SamplerSettings) -> Result<Recipe> {
    let SamplerSettings { sampler, steps, skip, schedule, prediction, .. } = *settings;
    let SamplerSettings { time_scale, clip_x0, t_min, t_max, eta, churn, .. } = *settings;
    let refuse = |cause: String, remedy: &str| Err(Error::new(Code::InvalidArgument, cause, remedy));
    if !(1..=MAX_STEPS).contains(&steps) {
        return refuse(format!("steps is {steps}"), "Give a whole number from 1 to 1000");
    }
    if skip >= steps {
        return refuse(format!("all {steps} steps are left out"), "Give a larger strength, or more steps");
    }
    schedule.validate()?;
    if !(time_scale.is_finite() && time_scale > 0.0) {
        return refuse(format!("time_scale is {}", decimal(time_scale)), "Give a finite number above 0");
    }
    if !(0.0 < t_min && t_min < t_max && t_max <= 1.0) {
        return refuse(
            format!("t_min is {} and t_max is {}", decimal(t_min), decimal(t_max)),
            "Give 0 < t_min < t_max <= 1",
        );
    }
    if !(0.0..=1.0).contains(&eta) {
        return refuse(format!("eta is {}", decimal(eta)), "Give a number from 0 to 1");
    }
    type Takes = fn(SamplerKind) -> bool;
    let taken = [("eta", eta, SamplerKind::takes_eta as Takes), ("churn", churn, SamplerKind::takes_churn)];
    for (name, value, takes) in taken {
        if value != 0.0 && !takes(sampler) {
            let takers = SamplerKind::ALL.into_iter().filter(|sampler| takes(*sampler)).map(SamplerKind::as_str);
            let takers = takers.collect::<Vec<_>>().join(", ");
            let cause = format!("{name} is {}, and the sampler {} takes none", decimal(value), sampler.as_str());
            return refuse(cause, &format!("Leave {name} out, or give a sampler that takes it: {takers}"));
        }
    }
    let clip = clip_x0.then_some((-1.0, 1.0));
    let Some(spacing) = settings.walked() else {
        if let Some(grid) = settings.grid {
            let cause = format!("grid is \"{}\", and the sampler {} has its own", grid.as_str(), sampler.as_str());
            return refuse(cause, "Leave the grid out, or give another sampler");
        }
        if sampler == SamplerKind::DpmAdaptive {
            if skip > 0 {
                let remedy = "Take another sampler for pictures to start from";
                return refuse("dpm_adaptive has no steps to leave out".into(), remedy);
            }
            let (order, algorithm, solver_type) = (3, Algorithm::DpmSolver, SolverType::Midpoint);
            let tolerances = Tolerances::default();
            return DpmAdaptive {
                schedule,
                prediction,
                order,
                algorithm,
                solver_type,
                t_max,
                t_min,
                time_scale,
                clip_x0,
                tolerances,
            }
            .recipe();
        }
        let equation = match sampler {
            SamplerKind::EulerMaruyamaSde => Equation::Sde,
            _ => Equation::Ode,
        };
        let times = euler_maruyama::times(steps, t_max, t_min);
        return euler_maruyama::over(&schedule, prediction, equation, &times[skip..], time_scale, clip_x0);
    };
    let singlestep = |algorithm, inner| -> Result<Recipe> {
        let mut grid = settings.continuous(spacing);
        if spacing.of_training_steps().is_some() || matches!(schedule, Schedule::RectifiedFlow { .. }) {
            let cause = format!("the sampler {} needs times between its steps", sampler.as_str());
            return refuse(cause, "Take the grid time_uniform, log_snr, quadratic or karras, or another sampler");
        }
        (grid.t_max, grid.steps) = (spacing.times(&schedule.curve()?, t_max, t_min, steps)[skip], steps - skip);
        let (order, method, solver_type) = (3, Method::Fast, SolverType::Midpoint);
        DpmSinglestep { grid, prediction, order, method, algorithm, solver_type, inner, clip_x0, denoise: false }
            .recipe()
    };
    let points = settings.points(spacing)?;
    let update = |algorithm| Update { prediction, algorithm, solver_type: SolverType::Midpoint, clip };
    let x0 = update(Algorithm::DpmSolverPlusPlus);
    let lower = settings.lower_order_final;
    let bound = clip_x0.then_some(1.0);
    match sampler {
        SamplerKind::DpmppThreeS => singlestep(Algorithm::DpmSolverPlusPlus, Inner::GridPoints),
        SamplerKind::DpmSolver => singlestep(Algorithm::DpmSolver, Inner::Ratios),
        SamplerKind::DpmppTwoM => dpm_multistep::over(&points, &x0, 2, lower),
        SamplerKind::DpmppThreeM => dpm_multistep::over(&points, &x0, 3, lower),
        SamplerKind::DpmppTwoMSde => dpm_multistep::over(&points, &update(Algorithm::SdeDpmSolverPlusPlus), 2, lower),
        SamplerKind::UniPc => unipc::compile(&points, &x0, 2, BhType::Bh2, lower),
        SamplerKind::Deis => deis::compile(&points, prediction, clip, 3, lower),
        SamplerKind::Euler => euler::compile(&points, prediction, bound, Churn::new(churn), 1.0),
        SamplerKind::EulerAncestral => ddim::over(&points, prediction, bound, 1.0, 1.0),
        SamplerKind::Ddpm => ddpm::compile(&points, prediction, clip),
        SamplerKind::Heun => heun::compile(&points, &update(Algorithm::DpmSolver), 1.0),
        SamplerKind::Ddim => ddim::over(&points, prediction, bound, eta, 1.0),
        SamplerKind::Plms => pndm::compile(&points, &[], prediction),
        SamplerKind::Pndm => pndm::compile(&points, &settings.halves(&points)?, prediction),
        SamplerKind::Lcm => {
            let train_steps = schedule.train_steps() as f64;
            let boundary = |point: &Point| Some(LCM_SCALING * train_steps * point.network_time / time_scale);
            lcm::compile(&points, prediction, clip, boundary, false)
        }
        SamplerKind::EulerMaruyamaSde | SamplerKind::EulerMaruyamaOde | SamplerKind::DpmAdaptive => {
            Err(Error::internal("no grid"))
        }
    }
}

/// timestep_scaling of the published models.
const LCM_SCALING: f64 = 10.0;

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
        time_offset: 0.0,
        clip_x0: true,
        lower_order_final: true,
        t_min: 0.001,
        t_max: 1.0,
        eta: 0.0,
        churn: 0.0,
        skip: 0,
    };

    const STABLE_DIFFUSION: Schedule =
        Schedule::ScaledLinear { beta_start: 0.00085, beta_end: 0.012, train_steps: 1000 };

    #[test]
    fn every_sampler_compiles_at_every_length() {
        for sampler in SamplerKind::ALL {
            for steps in [1, 2, 3, 4, 25, 1000] {
                for prediction in [Prediction::Noise, Prediction::X0, Prediction::V] {
                    for clip_x0 in [false, true] {
                        let eta = if sampler.takes_eta() { 0.3 } else { 0.0 };
                        let settings = SamplerSettings { sampler, steps, prediction, clip_x0, eta, ..EMOJI };
                        if sampler == SamplerKind::Pndm && steps < 4 {
                            assert_eq!(recipe(&settings).unwrap_err().code, Code::InvalidArgument);
                            continue;
                        }
                        let recipe = recipe(&settings).unwrap();
                        assert_eq!(recipe.evaluations, sampler.calls(steps), "{sampler:?}");
                        assert_eq!(recipe.init_noise_sigma, 1.0);
                    }
                }
            }
        }
    }

    /// A refusal that says so, or a recipe.
    fn compiles(settings: &SamplerSettings) -> bool {
        match recipe(settings) {
            Ok(recipe) => {
                let calls = settings.sampler.calls(settings.steps - settings.skip);
                assert_eq!(recipe.evaluations, calls, "{settings:?}");
                true
            }
            Err(error) => {
                let known = [Code::UnsupportedModel, Code::InvalidArgument].contains(&error.code);
                assert!(known && !error.cause.contains("finite"), "{settings:?}: {error}");
                false
            }
        }
    }

    #[test]
    fn discrete_schedules_run_where_they_have_a_meaning() {
        let dit = Schedule::Linear { beta_start: 0.0001, beta_end: 0.02, train_steps: 1000 };
        for schedule in [STABLE_DIFFUSION, dit] {
            for sampler in SamplerKind::ALL {
                for grid in Spacing::ALL.map(Some).into_iter().chain([None]) {
                    let settings = SamplerSettings { sampler, grid, schedule, time_scale: 1000.0, ..EMOJI };
                    let between = [SamplerKind::DpmppThreeS, SamplerKind::DpmSolver].contains(&sampler);
                    let trained = grid.is_some_and(|grid| grid.of_training_steps().is_some());
                    let adaptive = sampler == SamplerKind::DpmAdaptive && grid.is_none();
                    let wanted = adaptive || sampler.grid().is_some() && !(between && trained);
                    assert_eq!(compiles(&settings), wanted, "{settings:?}");
                }
            }
        }
        let settings = SamplerSettings { grid: Some(Spacing::Leading), ..EMOJI };
        assert_eq!(recipe(&settings).unwrap_err().code, Code::UnsupportedModel, "no training steps");
    }

    #[test]
    fn networks_that_count_training_steps_from_0_are_handed_those() {
        let schedule = Schedule::Linear { beta_start: 0.0001, beta_end: 0.02, train_steps: 1000 };
        let dit = SamplerSettings { steps: 4, schedule, time_scale: 1000.0, time_offset: -1.0, ..EMOJI };
        let times = |steps: &[Step]| -> Vec<f64> {
            let times = steps.iter().filter_map(|step| match step {
                Step::Eval { network_time, .. } => Some(*network_time),
                _ => None,
            });
            times.collect()
        };
        for sampler in [SamplerKind::Ddpm, SamplerKind::Ddim, SamplerKind::DpmppTwoM, SamplerKind::Plms] {
            for (grid, wanted) in
                [(Spacing::Respaced, [999.0, 666.0, 333.0, 0.0]), (Spacing::Strided, [750.0, 500.0, 250.0, 0.0])]
            {
                let recipe = recipe(&SamplerSettings { sampler, grid: Some(grid), ..dit }).unwrap();
                let mut visited = times(&recipe.steps);
                visited.dedup();
                assert_eq!(visited, wanted, "{sampler:?}");
                let last = recipe.steps.last();
                assert_eq!(last, Some(&Step::Arrive { alpha_t: 1.0, sigma_t: 0.0 }), "{sampler:?} ends at the picture");
            }
        }
        let evenly = times(&recipe(&SamplerSettings { sampler: SamplerKind::Ddim, ..dit }).unwrap().steps);
        assert!((evenly[0] - 999.0).abs() < 1e-9 && (evenly[1] - 749.25).abs() < 1e-9, "{evenly:?}");
        let adaptive = recipe(&SamplerSettings { sampler: SamplerKind::DpmAdaptive, ..dit }).unwrap().adaptive.unwrap();
        assert_eq!(times(&adaptive.attempt().unwrap())[0], 999.0);
    }

    #[test]
    fn rectified_flow_runs_where_it_has_a_meaning() {
        let schedule = Schedule::RectifiedFlow { shift: 3.0 };
        let flow = SamplerSettings { schedule, prediction: Prediction::Flow, time_scale: 1000.0, ..EMOJI };
        for sampler in [SamplerKind::Euler, SamplerKind::DpmppTwoM, SamplerKind::Lcm, SamplerKind::EulerAncestral] {
            for grid in [None, Some(Spacing::Karras)] {
                assert!(compiles(&SamplerSettings { sampler, grid, clip_x0: false, ..flow }), "{sampler:?}");
            }
        }
        for settings in [
            SamplerSettings { grid: Some(Spacing::LogSnr), ..flow },
            SamplerSettings { sampler: SamplerKind::DpmSolver, ..flow },
            SamplerSettings { sampler: SamplerKind::EulerMaruyamaSde, ..flow },
        ] {
            assert!(!compiles(&settings), "{settings:?}");
        }
    }

    #[test]
    fn a_strength_is_so_many_steps() {
        let skipped = |schedule| {
            let settings = SamplerSettings { steps: 6, schedule, ..EMOJI };
            [0.6, 1.0, 0.1, 0.0].map(|strength| settings.skipped(strength))
        };
        assert_eq!(skipped(STABLE_DIFFUSION), [3, 0, 6, 6]);
        assert_eq!(skipped(Schedule::RectifiedFlow { shift: 3.0 }), [2, 0, 5, 6]);
    }

    #[test]
    fn a_start_on_the_way_takes_what_is_left_of_the_steps() {
        for sampler in SamplerKind::ALL {
            let settings = SamplerSettings { sampler, steps: 20, skip: 8, ..EMOJI };
            if sampler == SamplerKind::DpmAdaptive {
                assert_eq!(recipe(&settings).unwrap_err().code, Code::InvalidArgument);
                continue;
            }
            let started = recipe(&settings).unwrap();
            assert_eq!(started.evaluations, sampler.calls(12), "{sampler:?}");
            let whole = recipe(&SamplerSettings { skip: 0, ..settings }).unwrap();
            assert!(started.start[0] > whole.start[0] && started.start[1] < whole.start[1], "{sampler:?}");
            let arrivals = started.steps.iter().filter_map(|step| match step {
                Step::Arrive { alpha_t, sigma_t } => Some([*alpha_t, *sigma_t]),
                _ => None,
            });
            let levels: Vec<[f64; 2]> = [started.start].into_iter().chain(arrivals).collect();
            assert!(levels.len() > 4 && levels.is_sorted_by(|a, b| a[1] > b[1]), "{sampler:?}: {levels:?}");
        }
        let all = SamplerSettings { skip: 25, ..EMOJI };
        assert_eq!(recipe(&all).unwrap_err().code, Code::InvalidArgument);
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
            SamplerSettings { time_offset: f64::NAN, ..EMOJI },
            SamplerSettings { eta: 0.5, ..EMOJI },
            SamplerSettings { sampler: SamplerKind::Ddim, eta: -0.1, ..EMOJI },
            SamplerSettings { eta: f64::NAN, ..EMOJI },
            SamplerSettings { churn: 1.0, ..EMOJI },
            SamplerSettings { sampler: SamplerKind::Euler, churn: -1.0, ..EMOJI },
            SamplerSettings { sampler: SamplerKind::Euler, churn: f64::INFINITY, ..EMOJI },
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
                let other = [SamplerKind::DpmAdaptive, SamplerKind::EulerMaruyamaSde, SamplerKind::EulerMaruyamaOde];
                let stochastic =
                    [SamplerKind::DpmppTwoMSde, SamplerKind::EulerAncestral, SamplerKind::Ddpm, SamplerKind::Lcm];
                !other.contains(sampler) && !stochastic.contains(sampler)
            });
            let continuous = Spacing::ALL.into_iter().filter(|grid| grid.of_training_steps().is_none()).map(Some);
            let grids = continuous.chain([None]);
            for (sampler, grid) in deterministic.flat_map(|sampler| grids.clone().map(move |grid| (sampler, grid))) {
                for prediction in [Prediction::Noise, Prediction::X0, Prediction::V] {
                    // They extrapolate the network's output, and v is another one at every time.
                    if prediction == Prediction::V && [SamplerKind::Plms, SamplerKind::Pndm].contains(&sampler) {
                        continue;
                    }
                    let settings =
                        SamplerSettings { sampler, grid, steps: 7, schedule, prediction, time_scale, ..EMOJI };
                    let (mut latents, mut model, mut scratch) = (on_the_way(1.0), f64::NAN, [f64::NAN; 8]);
                    for step in &recipe(&settings).unwrap().steps {
                        match step {
                            Step::Eval { network_time, x0: preview } => {
                                let level = curve.level(network_time / time_scale);
                                model = match prediction {
                                    Prediction::Noise => noise,
                                    Prediction::X0 => x0,
                                    Prediction::V => level.alpha_t * noise - level.sigma_t * x0,
                                    Prediction::Flow => noise - x0,
                                };
                                let off = preview[0] * latents + preview[1] * model - x0;
                                assert!(off.abs() < 1e-9, "{sampler:?} {grid:?} {prediction:?} {schedule:?}: {off:e}");
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
                            Step::Arrive { .. } => {}
                            Step::Noise { .. } | Step::Spread { .. } => panic!("eta is 0"),
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
        assert_eq!("eular".parse::<SamplerKind>().unwrap_err().code, Code::InvalidArgument);
    }
}
