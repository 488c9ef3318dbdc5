//! `sampler_vp_dpmpp2m`: DPM-Solver++ (2M) on the linear VP schedule, as users call it.

use super::continuous_schedule;
use crate::goldens_harness::recipes::judge_recipe;
use crate::goldens_harness::{Case, Options, Report, Run, Stop};
use uvit_web::sampler::{Prediction, SamplerKind, SamplerSettings, Spacing, recipe};

/// Every run.
pub fn judge(case: &Case, report: &mut Report) {
    for run in case.runs() {
        let parsed = settings(&run);
        let chosen = parsed.as_ref().ok().map(|(_, settings)| *settings);
        judge_recipe(
            &run,
            report,
            || {
                let (a, settings) = parsed?;
                Ok((a, recipe(&settings)?))
            },
            |trace, network, tolerance, checks| {
                let Some(settings) = chosen else { return Ok(()) };
                let bound = if settings.clip_x0 { 1.0 } else { f64::INFINITY };
                let clip = |values: &[f64]| values.iter().map(|x| x.clamp(-bound, bound)).collect::<Vec<f64>>();
                checks.close("x0", &clip(&trace.x0.concat()), run.tensor("x0")?, tolerance);

                let curve = settings.schedule.curve()?;
                let end = curve.level(settings.t_min);
                let form = settings.prediction.x0(end.alpha_t, end.sigma_t);
                let latents = trace.states.last().expect("the start is a state");
                let output = network.call(latents, settings.time_scale * settings.t_min);
                let at_end: Vec<f64> = latents.iter().zip(output).map(|(x, o)| form[0] * x + form[1] * o).collect();
                checks.close("x0_at_end", &clip(&at_end), run.tensor("x0_at_end")?, tolerance);

                let times = Spacing::TimeUniform.times(&curve, settings.t_max, settings.t_min, settings.steps);
                let lambdas: Vec<f64> = times.iter().map(|t| curve.lambda_t(*t)).collect();
                checks.close("t", &times, run.tensor("t")?, 1e-12);
                checks.close("lambda", &lambdas, run.tensor("lambda")?, tolerance);
                Ok(())
            },
        );
    }
}

fn settings(run: &Run) -> Result<(f64, SamplerSettings), Stop> {
    let mut schedule = Options::of("schedule.", &run.case.config["schedule"]);
    let mut options = run.options();
    let a = options.number("a", 0.0)?;
    let settings = SamplerSettings {
        sampler: SamplerKind::DpmppTwoM,
        steps: options.count("steps", 0)?,
        schedule: continuous_schedule(&mut schedule)?,
        prediction: options
            .choice("prediction", &[("noise", Prediction::Noise), ("x0", Prediction::X0), ("v", Prediction::V)])?,
        time_scale: options.number("time_scale", 999.0)?,
        clip_x0: options.flag("clip_x0", false)?,
        lower_order_final: options.flag("lower_order_final", true)?,
        t_min: options.number("t_end", 0.001)?,
        t_max: options.number("t_start", 1.0)?,
        grid: None,
        eta: 0.0,
        churn: 0.0,
        time_offset: 0.0,
        skip: 0,
    };
    schedule.finish()?;
    options.finish()?;
    Ok((a, settings))
}
