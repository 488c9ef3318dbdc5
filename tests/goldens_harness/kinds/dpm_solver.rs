//! `sampler_dpm_solver` and `sampler_dpm_solver_pp`: U-ViT's two files of DPM solvers, as its evaluation calls them and beyond.

use crate::goldens_harness::recipes::{Compiled, Updates, judge_compiled};
use crate::goldens_harness::{Case, Report, Run, Stop};
use uvit_web::sampler::dpm::{Algorithm, SolverType};
use uvit_web::sampler::dpm_adaptive::{DpmAdaptive, Tolerances};
use uvit_web::sampler::dpm_multistep::Continuous;
use uvit_web::sampler::dpm_singlestep::{DpmSinglestep, Inner, Method, orders};
use uvit_web::sampler::grid::ContinuousGrid;
use uvit_web::sampler::{Prediction, Schedule, Spacing};

/// Every run.
pub fn judge(case: &Case, report: &mut Report) {
    for run in case.runs() {
        judge_compiled(&run, report, || compile(&run), |_, _, _, _| Ok(()));
    }
}

#[derive(Clone, Copy)]
enum Walked {
    Singlestep(Method),
    Multistep,
    Adaptive,
}

fn compile(run: &Run) -> Result<Compiled, Stop> {
    let is_pp = run.case.kind == "sampler_dpm_solver_pp";
    let mut options = run.options();
    let a = options.number("a", 0.0)?;
    let calls = options.count("nfe", 0)?;
    let schedule = options.choice(
        "schedule",
        &[
            ("linear", Schedule::VpLinear { beta_min: 0.1, beta_max: 20.0 }),
            ("cosine", Schedule::VpCosine),
            ("discrete", Schedule::ScaledLinear { beta_start: 0.00085, beta_end: 0.012, train_steps: 1000 }),
        ],
    )?;
    let prediction = options.choice("prediction", &[("noise_pred", Prediction::Noise), ("x0_pred", Prediction::X0)])?;
    let steps = options.count("steps", 0)?;
    let order = options.count("order", 3)?;
    let is_quadratic = ["t2", "time_quadratic"].contains(&options.take("skip_type").as_str().unwrap_or_default());
    let spacing = options.choice(
        "skip_type",
        &[
            ("time_uniform", Spacing::TimeUniform),
            ("logSNR", Spacing::LogSnr),
            ("t2", Spacing::Quadratic),
            ("time_quadratic", Spacing::Quadratic),
        ],
    )?;
    let method = options.choice(
        "method",
        &[
            ("fast", Walked::Singlestep(Method::Fast)),
            ("singlestep", Walked::Singlestep(Method::Singlestep)),
            ("multistep", Walked::Multistep),
            ("adaptive", Walked::Adaptive),
        ],
    )?;
    let predict_x0 = options.flag("predict_x0", false)?;
    let algorithm = if predict_x0 { Algorithm::DpmSolverPlusPlus } else { Algorithm::DpmSolver };
    let solver_type =
        options.choice("solver_type", &[("dpm_solver", SolverType::Midpoint), ("taylor", SolverType::Heun)])?;
    let t_max = options.number("T", if schedule == Schedule::VpCosine { 0.9946 } else { 1.0 })?;
    let t_min = options.number("eps", 0.001)?;
    let time_scale = options.number("time_scale", 999.0)?;
    let denoise = options.flag("denoise", false)?;
    options.finish()?;

    let grid = ContinuousGrid { schedule, steps, spacing, t_max, t_min, time_scale };
    let (recipe, updates) = match method {
        Walked::Singlestep(method) => {
            let inner = if is_pp { Inner::GridPoints } else { Inner::Ratios };
            let solver = DpmSinglestep {
                grid,
                prediction,
                order,
                method,
                algorithm,
                solver_type,
                inner,
                clip_x0: false,
                denoise,
            };
            let mut updates = orders(method, steps, order)?;
            updates.extend(denoise.then_some(1));
            (solver.recipe()?, Updates::Of(updates))
        }
        Walked::Multistep => {
            let solver = Continuous { grid, prediction, order, algorithm, solver_type };
            (solver.recipe()?, Updates::One)
        }
        Walked::Adaptive => {
            let tolerances = Tolerances::default();
            let solver = DpmAdaptive {
                schedule,
                prediction,
                order,
                algorithm,
                solver_type,
                t_max,
                t_min,
                time_scale,
                clip_x0: false,
                tolerances,
            };
            (solver.recipe()?, Updates::Adaptive { calls })
        }
    };
    // The published quadratic grids are rounded to 1e-7.
    let (tolerance, times) = match method {
        Walked::Adaptive => ("states_adaptive", 1e-6),
        _ if is_quadratic => ("states_time_quadratic", 1e-4),
        _ => ("states", 1e-9),
    };
    Ok(Compiled { a, recipe, updates, scales: None, tolerance, times })
}
