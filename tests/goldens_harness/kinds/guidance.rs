//! `guidance`: how the conditional and the unconditional output are combined.

use crate::goldens_harness::recipes::backends;
use crate::goldens_harness::{Case, Report, Stop};
use uvit_web::sampler::guidance::{GuidanceForm, expand, guide};

/// Every run of a form that is built.
pub fn judge(case: &Case, report: &mut Report) {
    for (run, mut backend) in
        case.runs().into_iter().flat_map(|run| backends().into_iter().map(move |b| (run.clone(), b)))
    {
        let (label, executor) = (format!("run {}", run.id), backend.name());
        report.run(&label, executor, |checks| {
            let mut options = run.options();
            let form = options.choice("form", &[("uvit", GuidanceForm::Uvit), ("cfg", GuidanceForm::Cfg)])?;
            let name = match form {
                GuidanceForm::Uvit => "scale",
                GuidanceForm::Cfg => "guidance_scale",
            };
            let scale = options.take(name).as_f64().ok_or_else(|| Stop::Fail(format!("no {name}")))?;
            options.finish()?;
            let (cond, uncond) = (case.tensor("cond")?, case.tensor("uncond")?);
            let guidance_scale = form.guidance_scale(scale);
            let tolerance = backend.tolerance(case.tolerance("forms_f64")?);
            let [c, u] = expand(1.0, guidance_scale);
            let expanded = backend.combine(&[(c, &cond.values), (u, &uncond.values)], None)?;
            checks.close("out, expanded", &expanded, run.tensor("out")?, tolerance);
            let out = guide(&cond.values, &uncond.values, guidance_scale);
            checks.close("out", &out, run.tensor("out")?, tolerance);
            Ok(())
        });
    }
}
