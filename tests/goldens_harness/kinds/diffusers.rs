//! `sampler_diffusers`: the schedulers of diffusers by their class names; one function a class turns arguments into a recipe.

use crate::goldens_harness::recipes::judge_recipe;
use crate::goldens_harness::{Case, Options, Report, Run, Stop};
use uvit_web::sampler::ddim::DiffusersDdim;
use uvit_web::sampler::dpm::{Algorithm, SolverType};
use uvit_web::sampler::dpm_multistep::DpmMultistep;
use uvit_web::sampler::timesteps::TimestepSpacing;
use uvit_web::sampler::training_grid::{FinalSigma, Sigmas, TrainingGrid};
use uvit_web::sampler::unipc::{BhType, UniPc};
use uvit_web::sampler::{Prediction, Recipe, Schedule};

type Compile = fn(&mut Options, &mut Options, usize) -> Result<Recipe, Stop>;

/// (`config`, `step_kwargs`, steps) to a recipe, by `scheduler`.
const SCHEDULERS: &[(&str, Compile)] = &[
    ("DDIMScheduler", ddim),
    ("DPMSolverMultistepScheduler", dpm_solver_multistep),
    ("UniPCMultistepScheduler", unipc),
];

/// Every run.
pub fn judge(case: &Case, report: &mut Report) {
    for run in case.runs() {
        judge_recipe(&run, report, || compile(&run), |_, _, _, _| Ok(()));
    }
}

fn compile(run: &Run) -> Result<(f64, Recipe), Stop> {
    let scheduler = run.case.config["scheduler"].as_str().unwrap_or("none");
    let Some((_, compile)) = SCHEDULERS.iter().find(|(name, _)| *name == scheduler) else {
        return Err(Stop::Skip(format!("the scheduler {scheduler} is not built yet")));
    };
    let mut options = run.options();
    let a = options.number("a", 0.0)?;
    let steps = options.count("steps", 0)?;
    let mut config = Options::of("config.", options.take("config"));
    let mut step_kwargs = Options::of("step_kwargs.", options.take("step_kwargs"));
    let init_noise_sigma = options.number("init_noise_sigma", 1.0)?;
    // `prediction` repeats config.prediction_type; the other is a measurement.
    options.take("prediction");
    options.take("f32_vs_f64_final");
    options.finish()?;

    let recipe = compile(&mut config, &mut step_kwargs, steps)?;
    config.finish()?;
    step_kwargs.finish()?;
    if (recipe.init_noise_sigma - init_noise_sigma).abs() > 1e-12 {
        return Err(Stop::Fail(format!("init_noise_sigma is {}, not {init_noise_sigma}", recipe.init_noise_sigma)));
    }
    Ok((a, recipe))
}

fn schedule(config: &mut Options) -> Result<Schedule, Stop> {
    config.choice("beta_schedule", &[("scaled_linear", ())])?;
    config.must_be_off(&["trained_betas"])?;
    Ok(Schedule::ScaledLinear {
        beta_start: config.number("beta_start", 0.00085)?,
        beta_end: config.number("beta_end", 0.012)?,
        train_steps: config.count("num_train_timesteps", 1000)?,
    })
}

fn prediction(config: &mut Options) -> Result<Prediction, Stop> {
    config.choice(
        "prediction_type",
        &[("epsilon", Prediction::Noise), ("sample", Prediction::X0), ("v_prediction", Prediction::V)],
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

/// What the multistep schedulers share.
fn training_grid(config: &mut Options, steps: usize) -> Result<TrainingGrid, Stop> {
    config.must_be_off(&["thresholding", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas"])?;
    for unused in ["dynamic_thresholding_ratio", "sample_max_value", "flow_shift"] {
        config.take(unused);
    }
    let mut grid = TrainingGrid::new(schedule(config)?, steps);
    let (karras, lu) = (config.flag("use_karras_sigmas", false)?, config.flag("use_lu_lambdas", false)?);
    grid.sigmas = match (karras, lu) {
        (true, _) => Sigmas::Karras,
        (_, true) => Sigmas::Lu,
        _ => Sigmas::Trained,
    };
    grid.final_sigmas_type =
        config.choice("final_sigmas_type", &[("zero", FinalSigma::Zero), ("sigma_min", FinalSigma::SigmaMin)])?;
    grid.timestep_spacing = config.choice("timestep_spacing", LINSPACE_FIRST)?;
    grid.steps_offset = config.count("steps_offset", 0)?;
    grid.rescale_betas_zero_snr = config.flag("rescale_betas_zero_snr", false)?;
    Ok(grid)
}

fn dpm_solver_multistep(config: &mut Options, _: &mut Options, steps: usize) -> Result<Recipe, Stop> {
    config.must_be_off(&["variance_type"])?;
    let mut dpm = DpmMultistep::new(training_grid(config, steps)?, prediction(config)?);
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

fn unipc(config: &mut Options, _: &mut Options, steps: usize) -> Result<Recipe, Stop> {
    let mut unipc = UniPc::new(training_grid(config, steps)?, prediction(config)?);
    unipc.solver_order = config.count("solver_order", 2)?;
    unipc.predict_x0 = config.flag("predict_x0", true)?;
    unipc.solver_type = config.choice("solver_type", &[("bh2", BhType::Bh2), ("bh1", BhType::Bh1)])?;
    unipc.lower_order_final = config.flag("lower_order_final", true)?;
    Ok(unipc.recipe()?)
}
