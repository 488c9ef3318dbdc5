//! `img2img_inpaint`: from a picture with noise, and with parts of it kept: every state on the way.

use crate::goldens_harness::devices::{judge_on_each, load_network, network_of_kind};
use crate::goldens_harness::{Case, Checks, Report, Run, Stop};
use uvit_web::model::Batch;
use uvit_web::pipeline::sampling::{Control, Inputs, Mask, Picture, Readback, StepEvent, sample};
use uvit_web::pipeline::{Component, Denoiser, Guidance, NamedTensor, Noise, Shape, Values};
use uvit_web::runtime::Device;
use uvit_web::sampler::guidance::GuidanceForm;
use uvit_web::sampler::{Prediction, SamplerKind, SamplerSettings, Schedule, Spacing, recipe};
use uvit_web::weights::Dtype;

/// Every run on every device.
pub fn judge(case: &Case, report: &mut Report) {
    for run in case.runs() {
        judge_on_each(report, &format!("run {}", run.id), |device, checks| judge_run(&run, device, checks));
    }
}

fn judge_run(run: &Run, device: &Device, checks: &mut Checks) -> Result<(), Stop> {
    let case = run.case;
    let about = |key: &str| case.config[key].as_f64().unwrap_or(0.0);
    let mut options = run.options();
    let inpaint = options.choice("mode", &[("sdedit", false), ("inpaint", true)])?;
    let fresh_noise = options.flag("fresh_noise", false)?;
    let strength = options.number("strength", 1.0)?;
    let discrete = case.config["schedule"] == "discrete";
    let schedule = match discrete {
        true => Schedule::ScaledLinear { beta_start: 0.00085, beta_end: 0.012, train_steps: 1000 },
        false => options.choice(
            "schedule",
            &[("linear", Schedule::VpLinear { beta_min: 0.1, beta_max: 20.0 }), ("cosine", Schedule::VpCosine)],
        )?,
    };
    let steps = options.count("steps", 0)?;
    let settings = SamplerSettings {
        sampler: options.choice(
            "sampler",
            &[
                ("ddim", SamplerKind::Ddim),
                ("dpmsolver_multistep", SamplerKind::DpmppTwoM),
                ("vp_dpmpp2m", SamplerKind::DpmppTwoM),
            ],
        )?,
        grid: discrete.then_some(Spacing::Leading),
        steps,
        schedule,
        prediction: options.choice("prediction", &[("noise", Prediction::Noise), ("v", Prediction::V)])?,
        time_scale: if discrete { 1000.0 } else { about("time_scale") },
        clip_x0: options.flag("clip_x0", false)?,
        lower_order_final: true,
        t_min: 0.001,
        t_max: if schedule == Schedule::VpCosine { 0.9946 } else { 1.0 },
        eta: 0.0,
        churn: 0.0,
        time_offset: 0.0,
        skip: steps - ((steps as f64 * strength) as usize).min(steps),
    };
    options.finish()?;
    let recipe = recipe(&settings)?;

    let floats =
        |name: &str| -> Result<Vec<f32>, String> { Ok(case.tensor(name)?.values.iter().map(|v| *v as f32).collect()) };
    let network = network_of_kind(case, "uvit")?;
    let weights = load_network(device, case, &network)?;
    let forms = vec![(Dtype::F32, 0); network.record(Batch::plain(1))?.plan.weights.len()];
    let mut component = Component::new(network, weights, forms, Vec::new());
    let (picture, start, mask) = (floats("z0")?, floats("noise")?, floats("mask")?);
    let shape = &case.tensor("z0")?.shape;
    let (count, channels, of_channel) = (shape[0], shape[1], shape[2] * shape[3]);
    let mask: Vec<f32> = mask.chunks(of_channel).flat_map(|of_image| of_image.repeat(channels)).collect();
    let labels: Vec<u32> =
        case.config["y"].as_array().into_iter().flatten().filter_map(|v| v.as_u64()).map(|v| v as u32).collect();
    let given = |labels: Vec<u32>| vec![NamedTensor::new("y", Values::Indices(labels))];
    let null = vec![about("null_class") as u32; labels.len()];
    let guidance =
        Guidance::classifier_free(given(labels), given(null), GuidanceForm::Uvit.guidance_scale(about("scale")));
    // The first is drawn for a start that is given here.
    let mut drawn: Vec<Vec<f32>> = Vec::new();
    if fresh_noise {
        let rows = case.tensor("fresh_noise")?.rows();
        drawn.extend(rows.iter().rev().map(|row| row.iter().map(|v| *v as f32).collect()));
    }
    drawn.push(start.clone());
    let shape = Shape { masked: inpaint, ..Shape::plain(guidance.batch(count), recipe.scratch_slots) };
    let inputs = Inputs {
        guidance,
        start: Some(&start),
        picture: Some(Picture {
            values: &picture,
            mask: inpaint.then_some(Mask { values: &mask, fresh_noise, from_noise: settings.skip == 0, insist: false }),
        }),
        noise: &mut Noise::Given(drawn),
        readback: Readback::Latents,
        passes: Vec::new(),
    };
    let [alpha_t, sigma_t] = if inpaint && settings.skip == 0 { [0.0, 1.0] } else { recipe.start };
    let mixed = picture.iter().zip(&start).map(|(x0, noise)| alpha_t * f64::from(*x0) + sigma_t * f64::from(*noise));
    let mut states: Vec<f64> = mixed.collect();
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
    if inpaint {
        let kept = |values: &[f64]| -> Vec<f64> {
            values.iter().zip(&mask).filter(|(_, m)| **m == 0.0).map(|(v, _)| *v).collect()
        };
        checks.that(kept(&last) == kept(&case.tensor("z0")?.values), || "what is kept is not the picture's".to_owned());
    }
    Ok(())
}
