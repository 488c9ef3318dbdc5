//! `end_to_end_dit`: a DiT under its published samplers and under diffusers' pipeline: every state on the way.

use crate::goldens_harness::devices::{judge_on_each, load_network, network_of_kind};
use crate::goldens_harness::{Case, Checks, Report, Run, Stop};
use uvit_web::model::Batch;
use uvit_web::pipeline::sampling::{Control, Inputs, Readback, StepEvent, sample};
use uvit_web::pipeline::{Component, Denoiser, Guidance, NamedTensor, Noise, Shape, Values};
use uvit_web::runtime::Device;
use uvit_web::sampler::{Prediction, SamplerKind, SamplerSettings, Schedule, Spacing, Step, recipe};
use uvit_web::weights::Dtype;

/// Every run on every device.
pub fn judge(case: &Case, report: &mut Report) {
    for run in case.runs() {
        judge_on_each(report, &format!("run {}", run.id), |device, checks| judge_run(&run, device, checks));
    }
}

fn judge_run(run: &Run, device: &Device, checks: &mut Checks) -> Result<(), Stop> {
    let case = run.case;
    let mut options = run.options();
    let (sampler, grid, channels) = options.choice(
        "sampler",
        &[
            ("ddpm", (SamplerKind::Ddpm, Spacing::Respaced, Some(3))),
            ("ddim", (SamplerKind::Ddim, Spacing::Respaced, Some(3))),
            ("ddim_diffusers", (SamplerKind::Ddim, Spacing::Strided, None)),
        ],
    )?;
    let steps = options.count("steps", 0)?;
    let scale = options.number("cfg_scale", 1.0)?;
    options.finish()?;
    let settings = SamplerSettings {
        sampler,
        grid: Some(grid),
        steps,
        schedule: Schedule::Linear { beta_start: 0.0001, beta_end: 0.02, train_steps: 1000 },
        prediction: Prediction::Noise,
        time_scale: 1000.0,
        time_offset: -1.0,
        clip_x0: false,
        lower_order_final: true,
        t_min: 0.001,
        t_max: 1.0,
        eta: 0.0,
        churn: 0.0,
        skip: 0,
    };
    let recipe = recipe(&settings)?;
    let times = recipe.steps.iter().filter_map(|step| match step {
        Step::Eval { network_time, .. } => Some(*network_time),
        _ => None,
    });
    checks.close("timesteps", &times.collect::<Vec<f64>>(), run.tensor("timesteps")?, 0.0);

    let network = network_of_kind(case, "dit")?;
    let weights = load_network(device, case, &network)?;
    let forms = vec![(Dtype::F32, 0); network.record(Batch::plain(1))?.plan.weights.len()];
    let mut component = Component::new(network, weights, forms, Vec::new());
    let floats = |values: &[f64]| -> Vec<f32> { values.iter().map(|v| *v as f32).collect() };
    let start = floats(&case.tensor("z")?.values);
    let count = case.tensor("z")?.shape[0];
    let labels: Vec<u32> =
        case.config["y"].as_array().into_iter().flatten().filter_map(|v| v.as_u64()).map(|v| v as u32).collect();
    let null_class = case.config["null_class"].as_u64().ok_or_else(|| "no null_class".to_owned())? as u32;
    let given = |labels: Vec<u32>| vec![NamedTensor::new("y", Values::Indices(labels))];
    let null = given(vec![null_class; labels.len()]);
    let guidance = Guidance { channels, ..Guidance::classifier_free(given(labels), null, scale) };
    // The first is drawn for a start that is given here.
    let mut drawn: Vec<Vec<f32>> = case.tensor("noise")?.rows()[..steps].iter().rev().map(|row| floats(row)).collect();
    drawn.push(start.clone());
    let shape = Shape::plain(guidance.batch(count), recipe.scratch_slots);
    let inputs = Inputs {
        guidance,
        start: Some(&start),
        picture: None,
        noise: &mut Noise::Given(drawn),
        readback: Readback::Latents,
        passes: Vec::new(),
    };
    let mut states = case.tensor("z")?.values.clone();
    let mut on_step =
        |event: StepEvent| states.extend(event.values.into_iter().flat_map(|shown| shown.values).map(f64::from));
    let last = pollster::block_on(async {
        let mut denoiser = Denoiser::new(&mut component, shape).await?;
        let mut control = Control { on_step: &mut on_step, stopped: &|| false };
        sample(&mut denoiser, &recipe, inputs, &mut control, None).await
    })?;
    let tolerance = case.tolerance("states")?;
    checks.close("states", &states, run.tensor("states")?, tolerance);
    let last: Vec<f64> = last.into_iter().map(f64::from).collect();
    checks.close("final_f64", &last, run.tensor("final_f64")?, tolerance);
    Ok(())
}
