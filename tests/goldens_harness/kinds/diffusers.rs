//! `sampler_diffusers`: the schedulers of diffusers by their class names; one function a class turns arguments into a recipe.

use crate::goldens_harness::recipes::{Compiled, Updates, judge_compiled};
use crate::goldens_harness::{Case, Options, Report, Run, Stop};
use uvit_web::sampler::ddim::DiffusersDdim;
use uvit_web::sampler::deis::Deis;
use uvit_web::sampler::dpm::{Algorithm, SolverType};
use uvit_web::sampler::dpm_multistep::DpmMultistep;
use uvit_web::sampler::euler::{Churn, DiffusersEuler, Method};
use uvit_web::sampler::flow_match::{FlowMatchEuler, Shift};
use uvit_web::sampler::lcm::Lcm;
use uvit_web::sampler::pndm::Pndm;
use uvit_web::sampler::timesteps::TimestepSpacing;
use uvit_web::sampler::training_grid::{FinalSigma, Sigmas, TrainingGrid};
use uvit_web::sampler::unipc::{BhType, UniPc};
use uvit_web::sampler::{Prediction, Recipe, Schedule};

/// A scheduler's recipe, and by what its states are larger than ours, update by update.
type Scheduled = (Recipe, Option<Vec<f64>>);
type Compile = fn(&mut Options, &mut Options, usize) -> Result<Scheduled, Stop>;

/// (`config`, `step_kwargs`, steps) to a recipe, by `scheduler`.
const SCHEDULERS: &[(&str, Compile)] = &[
    ("DDIMScheduler", |config, kwargs, steps| Ok((ddim(config, kwargs, steps)?, None))),
    ("DEISMultistepScheduler", |config, _, steps| Ok((deis(config, steps)?, None))),
    ("DPMSolverMultistepScheduler", |config, _, steps| Ok((dpm_solver_multistep(config, steps)?, None))),
    ("EulerDiscreteScheduler", euler),
    ("EulerAncestralDiscreteScheduler", |config, _, steps| scaled(config, steps, Method::Ancestral)),
    ("FlowMatchEulerDiscreteScheduler", |config, kwargs, steps| Ok((flow_match(config, kwargs, steps)?, None))),
    ("HeunDiscreteScheduler", |config, _, steps| scaled(config, steps, Method::Heun)),
    ("LCMScheduler", |config, _, steps| Ok((lcm(config, steps)?, None))),
    ("PNDMScheduler", |config, _, steps| Ok((pndm(config, steps)?, None))),
    ("UniPCMultistepScheduler", |config, _, steps| Ok((unipc(config, steps)?, None))),
];

/// Every run.
pub fn judge(case: &Case, report: &mut Report) {
    for run in case.runs() {
        judge_compiled(&run, report, || compile(&run), |_, _, _, _| Ok(()));
    }
}

fn compile(run: &Run) -> Result<Compiled, Stop> {
    let scheduler = run.case.config["scheduler"].as_str().unwrap_or("none");
    let Some((_, compile)) = SCHEDULERS.iter().find(|(name, _)| *name == scheduler) else {
        return Err(Stop::Skip(format!("the scheduler {scheduler} is not built yet")));
    };
    let mut options = run.options();
    let a = options.number("a", 0.0)?;
    let steps = options.count("steps", 0)?;
    let mut config = Options::of("config.", options.take("config"));
    // Never both.
    let mut kwargs = match options.take("set_timesteps_kwargs") {
        serde_json::Value::Null => Options::of("step_kwargs.", options.take("step_kwargs")),
        kwargs => Options::of("set_timesteps_kwargs.", kwargs),
    };
    let init_noise_sigma = options.number("init_noise_sigma", 1.0)?;
    // `prediction` repeats config.prediction_type; the other is a measurement.
    options.take("prediction");
    options.take("f32_vs_f64_final");
    options.finish()?;

    let (recipe, scales) = compile(&mut config, &mut kwargs, steps)?;
    config.finish()?;
    kwargs.finish()?;
    let first = scales.as_ref().map_or(1.0, |scales| scales[0]);
    let sigma = first * recipe.init_noise_sigma;
    if (sigma / init_noise_sigma - 1.0).abs() > 1e-12 {
        return Err(Stop::Fail(format!("init_noise_sigma is {sigma}, not {init_noise_sigma}")));
    }
    Ok(Compiled { a, recipe, updates: Updates::One, scales, tolerance: "states", times: 1e-9 })
}

fn schedule(config: &mut Options) -> Result<Schedule, Stop> {
    let linear = config.choice("beta_schedule", &[("scaled_linear", false), ("linear", true)])?;
    config.must_be_off(&["trained_betas"])?;
    let beta_start = config.number("beta_start", 0.00085)?;
    let beta_end = config.number("beta_end", 0.012)?;
    let train_steps = config.count("num_train_timesteps", 1000)?;
    Ok(match linear {
        false => Schedule::ScaledLinear { beta_start, beta_end, train_steps },
        true => Schedule::Linear { beta_start, beta_end, train_steps },
    })
}

fn prediction(config: &mut Options) -> Result<Prediction, Stop> {
    config.choice(
        "prediction_type",
        &[
            ("epsilon", Prediction::Noise),
            ("sample", Prediction::X0),
            ("v_prediction", Prediction::V),
            ("flow_prediction", Prediction::Flow),
        ],
    )
}

/// The first is what is meant by absence.
const LINSPACE_FIRST: &[(&str, TimestepSpacing)] = &[
    ("linspace", TimestepSpacing::Linspace),
    ("leading", TimestepSpacing::Leading),
    ("trailing", TimestepSpacing::Trailing),
];
const LEADING_FIRST: &[(&str, TimestepSpacing)] = &[LINSPACE_FIRST[1], LINSPACE_FIRST[0], LINSPACE_FIRST[2]];

fn ddim(config: &mut Options, step_kwargs: &mut Options, steps: usize) -> Result<Recipe, Stop> {
    config.must_be_off(&["thresholding"])?;
    for unused in ["dynamic_thresholding_ratio", "sample_max_value"] {
        config.take(unused);
    }
    let mut ddim = DiffusersDdim::new(schedule(config)?, prediction(config)?, steps);
    ddim.timestep_spacing = config.choice("timestep_spacing", LEADING_FIRST)?;
    ddim.steps_offset = config.count("steps_offset", 0)?;
    let range = config.number("clip_sample_range", 1.0)?;
    ddim.clip_sample = config.flag("clip_sample", true)?.then_some(range);
    ddim.set_alpha_to_one = config.flag("set_alpha_to_one", true)?;
    ddim.rescale_betas_zero_snr = config.flag("rescale_betas_zero_snr", false)?;
    ddim.eta = step_kwargs.number("eta", 0.0)?;
    ddim.use_clipped_model_output = step_kwargs.flag("use_clipped_model_output", false)?;
    Ok(ddim.recipe()?)
}

/// What the schedulers share; `unipc` is one that shapes flow sigmas in its own way.
fn training_grid(config: &mut Options, steps: usize, unipc: bool) -> Result<TrainingGrid, Stop> {
    config.must_be_off(&["thresholding", "use_exponential_sigmas", "use_beta_sigmas"])?;
    for unused in ["dynamic_thresholding_ratio", "sample_max_value"] {
        config.take(unused);
    }
    let mut grid = TrainingGrid::new(schedule(config)?, steps);
    let (karras, lu) = (config.flag("use_karras_sigmas", false)?, config.flag("use_lu_lambdas", false)?);
    let shift = config.number("flow_shift", 1.0)?;
    grid.sigmas = match (karras, lu, config.flag("use_flow_sigmas", false)?) {
        (true, _, _) => Sigmas::Karras,
        (_, true, _) => Sigmas::Lu,
        (_, _, true) => Sigmas::Flow { shift, unipc },
        _ => Sigmas::Trained,
    };
    grid.final_sigmas_type =
        config.choice("final_sigmas_type", &[("zero", FinalSigma::Zero), ("sigma_min", FinalSigma::SigmaMin)])?;
    grid.timestep_spacing = config.choice("timestep_spacing", LINSPACE_FIRST)?;
    grid.steps_offset = config.count("steps_offset", 0)?;
    grid.rescale_betas_zero_snr = config.flag("rescale_betas_zero_snr", false)?;
    Ok(grid)
}

fn dpm_solver_multistep(config: &mut Options, steps: usize) -> Result<Recipe, Stop> {
    config.must_be_off(&["variance_type"])?;
    let mut dpm = DpmMultistep::new(training_grid(config, steps, false)?, prediction(config)?);
    dpm.solver_order = config.count("solver_order", 2)?;
    dpm.algorithm_type = config.choice(
        "algorithm_type",
        &[
            ("dpmsolver++", Algorithm::DpmSolverPlusPlus),
            ("dpmsolver", Algorithm::DpmSolver),
            ("sde-dpmsolver++", Algorithm::SdeDpmSolverPlusPlus),
        ],
    )?;
    dpm.solver_type =
        config.choice("solver_type", &[("midpoint", SolverType::Midpoint), ("heun", SolverType::Heun)])?;
    dpm.lower_order_final = config.flag("lower_order_final", true)?;
    dpm.euler_at_final = config.flag("euler_at_final", false)?;
    Ok(dpm.recipe()?)
}

fn unipc(config: &mut Options, steps: usize) -> Result<Recipe, Stop> {
    let mut unipc = UniPc::new(training_grid(config, steps, true)?, prediction(config)?);
    unipc.solver_order = config.count("solver_order", 2)?;
    unipc.predict_x0 = config.flag("predict_x0", true)?;
    unipc.solver_type = config.choice("solver_type", &[("bh2", BhType::Bh2), ("bh1", BhType::Bh1)])?;
    unipc.lower_order_final = config.flag("lower_order_final", true)?;
    Ok(unipc.recipe()?)
}

fn deis(config: &mut Options, steps: usize) -> Result<Recipe, Stop> {
    let mut grid = training_grid(config, steps, false)?;
    grid.final_sigmas_type = FinalSigma::SigmaMin;
    let prediction = prediction(config)?;
    let solver_order = config.count("solver_order", 2)?;
    let lower_order_final = config.flag("lower_order_final", true)?;
    Ok(Deis { grid, prediction, solver_order, lower_order_final }.recipe()?)
}

fn euler(config: &mut Options, step_kwargs: &mut Options, steps: usize) -> Result<Scheduled, Stop> {
    let churn = Churn {
        s_churn: step_kwargs.number("s_churn", 0.0)?,
        s_tmin: step_kwargs.number("s_tmin", 0.0)?,
        s_tmax: step_kwargs.number("s_tmax", f64::INFINITY)?,
        s_noise: step_kwargs.number("s_noise", 1.0)?,
    };
    scaled(config, steps, Method::Euler(churn))
}

/// Those whose states are x_t / alpha_t.
fn scaled(config: &mut Options, steps: usize, method: Method) -> Result<Scheduled, Stop> {
    let scheduler =
        DiffusersEuler { grid: training_grid(config, steps, false)?, prediction: prediction(config)?, method };
    Ok((scheduler.recipe()?, Some(scheduler.scales()?)))
}

fn flow_match(config: &mut Options, kwargs: &mut Options, steps: usize) -> Result<Recipe, Stop> {
    config.must_be_off(&["use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas"])?;
    config.count("num_train_timesteps", 1000)?;
    for unused in ["base_shift", "max_shift"] {
        config.take(unused);
    }
    let shift = match config.flag("use_dynamic_shifting", false)? {
        true => Shift::Dynamic { mu: kwargs.number("mu", 0.0)? },
        false => Shift::Fixed(config.number("shift", 1.0)?),
    };
    let mut flow = FlowMatchEuler::new(steps, shift);
    flow.shift_terminal = Some(config.number("shift_terminal", 0.0)?).filter(|terminal| *terminal > 0.0);
    flow.use_karras_sigmas = config.flag("use_karras_sigmas", false)?;
    flow.stochastic_sampling = config.flag("stochastic_sampling", false)?;
    Ok(flow.recipe()?)
}

fn lcm(config: &mut Options, steps: usize) -> Result<Recipe, Stop> {
    config.must_be_off(&["clip_sample"])?;
    let grid = training_grid(config, steps, false)?;
    config.flag("set_alpha_to_one", true)?;
    let prediction = prediction(config)?;
    let original_inference_steps = config.count("original_inference_steps", 50)?;
    let timestep_scaling = config.number("timestep_scaling", 10.0)?;
    Ok(Lcm { grid, prediction, original_inference_steps, timestep_scaling }.recipe()?)
}

fn pndm(config: &mut Options, steps: usize) -> Result<Recipe, Stop> {
    config.must_be_off(&["set_alpha_to_one"])?;
    let mut grid = training_grid(config, steps, false)?;
    grid.final_sigmas_type = FinalSigma::SigmaMin;
    let prediction = prediction(config)?;
    let skip_prk_steps = config.flag("skip_prk_steps", false)?;
    Ok(Pndm { grid, prediction, skip_prk_steps }.recipe()?)
}
