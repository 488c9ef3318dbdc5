//! `sampler_euler_maruyama`: the reverse SDE and the probability-flow ODE, as users call them.

use super::continuous_schedule;
use crate::goldens_harness::recipes::judge_recipe;
use crate::goldens_harness::{Case, Options, Report, Run, Stop};
use uvit_web::sampler::{Prediction, Recipe, SamplerKind, SamplerSettings, Schedule, recipe};

/// Every run.
pub fn judge(case: &Case, report: &mut Report) {
    for run in case.runs() {
        judge_recipe(&run, report, || compile(&run), |_, _, _, _| Ok(()));
    }
}

fn compile(run: &Run) -> Result<(f64, Recipe), Stop> {
    let mut schedule = Options::of("schedule.", &run.case.config["schedule"]);
    let mut options = run.options();
    let a = options.number("a", 0.0)?;
    let settings = SamplerSettings {
        sampler: options
            .choice("equation", &[("sde", SamplerKind::EulerMaruyamaSde), ("ode", SamplerKind::EulerMaruyamaOde)])?,
        steps: options.count("steps", 0)?,
        schedule: match options.choice("sde", &[("vpsde", false), ("vpsde_cosine", true)])? {
            false => continuous_schedule(&mut schedule)?,
            true => Schedule::VpCosine,
        },
        prediction: options.choice(
            "prediction",
            &[("noise_pred", Prediction::Noise), ("x0_pred", Prediction::X0), ("v_pred", Prediction::V)],
        )?,
        time_scale: options.number("time_scale", 999.0)?,
        clip_x0: options.flag("clip_x0", false)?,
        lower_order_final: false,
        t_min: options.number("eps", 0.001)?,
        t_max: options.number("T", 1.0)?,
        grid: None,
        eta: 0.0,
        churn: 0.0,
        time_offset: 0.0,
        skip: 0,
    };
    schedule.finish()?;
    options.finish()?;
    Ok((a, recipe(&settings)?))
}
