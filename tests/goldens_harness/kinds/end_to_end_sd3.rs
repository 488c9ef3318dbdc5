//! `end_to_end_sd3`: Stable Diffusion 3 from texts to pictures, and from a picture: the text encoders, every state on the way, pixels.

use super::sd3_prompt::Prompts;
use crate::goldens_harness::devices::{judge_on_each, load_some};
use crate::goldens_harness::{Case, Checks, Report, Run, Stop};
use serde_json::Value;
use uvit_web::model::{Batch, Network};
use uvit_web::pipeline::sampling::{Control, Inputs, Picture, Readback, StepEvent, sample};
use uvit_web::pipeline::{Component, Denoiser, Guidance, NamedTensor, Noise, Shape, Values};
use uvit_web::runtime::Device;
use uvit_web::sampler::{Prediction, SamplerKind, SamplerSettings, Schedule, Step, recipe};
use uvit_web::weights::Dtype;

/// Every run on every device.
pub fn judge(case: &Case, report: &mut Report) {
    for run in case.runs() {
        judge_on_each(report, &format!("run {}", run.id), |device, checks| judge_run(&run, device, checks));
    }
}

/// A part of the case's weights on a device.
fn component(case: &Case, device: &Device, kind: &str, part: &str, params: &Value) -> Result<Component, Stop> {
    let network = Network::of(kind, params)?;
    let (weights, left) = load_some(device, case, &network, &|name| format!("{part}.{name}"))?;
    // An autoencoder's halves share theirs.
    let forgotten = left.iter().find(|name| part != "vae" && name.starts_with(&format!("{part}.")));
    if let Some(name) = forgotten {
        return Err(Stop::Fail(format!("the network does not use the weight {name}")));
    }
    let stored = vec![(Dtype::F32, 0); network.record(Batch::plain(1))?.plan.weights.len()];
    Ok(Component::new(network, weights, stored, Vec::new()))
}

/// One half of the autoencoder over pictures.
fn half(
    case: &Case,
    device: &Device,
    kind: &str,
    port: &str,
    (shape, values): (&[usize], &[f32]),
) -> Result<Half, Stop> {
    let mut component = component(case, device, kind, "vae", &case.config["params"]["vae"])?;
    let given = NamedTensor { name: port.into(), shape: Some(shape.to_vec()), values: Values::Floats(values.to_vec()) };
    let results = pollster::block_on(component.forward(&[given], &|| false))?;
    match results.into_iter().next().map(|result| result.values) {
        Some(Values::Floats(values)) => Ok((component.network().clone(), values)),
        _ => Err(Stop::Fail(format!("{kind} gave nothing"))),
    }
}

type Half = (Network, Vec<f32>);

fn f32s(values: &[f64]) -> Vec<f32> {
    values.iter().map(|v| *v as f32).collect()
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

fn judge_run(run: &Run, device: &Device, checks: &mut Checks) -> Result<(), Stop> {
    let case = run.case;
    let mut options = run.options();
    let from_picture = options.choice("pipeline", &[("txt2img", false), ("img2img", true)])?;
    let strength = options.number("strength", 1.0)?;
    let guidance_scale = options.number("guidance_scale", 1.0)?;
    let steps = options.count("steps", 0)?;
    options.finish()?;
    let params = &case.config["params"];
    let number = |value: &Value| value.as_u64().unwrap_or(0) as usize;
    let mut settings = SamplerSettings {
        sampler: SamplerKind::Euler,
        grid: None,
        steps,
        schedule: Schedule::RectifiedFlow { shift: params["scheduler"]["shift"].as_f64().unwrap_or(1.0) },
        prediction: Prediction::Flow,
        time_scale: number(&params["scheduler"]["num_train_timesteps"]) as f64,
        clip_x0: false,
        lower_order_final: true,
        t_min: 0.001,
        t_max: 1.0,
        eta: 0.0,
        churn: 0.0,
        skip: 0,
        time_offset: 0.0,
    };
    if from_picture {
        settings.skip = settings.skipped(strength);
    }
    let recipe = recipe(&settings)?;
    let tolerance = case.tolerance("states")?;
    let times = recipe.steps.iter().filter_map(|step| match step {
        Step::Eval { network_time, .. } => Some(network_time / settings.time_scale),
        _ => None,
    });
    checks.close("sigmas", &times.chain([0.0]).collect::<Vec<_>>(), run.tensor("sigmas")?, 1e-12);

    let prompts = Prompts::read(case, device, &case.config, "", checks)?;
    for (name, got) in prompts.named() {
        checks.close(name, &f64s(got), case.tensor(name)?, tolerance);
    }
    let given = |[context, pooled]: &[Vec<f32>; 2]| {
        let of = |name: &str, values: &[f32]| NamedTensor::new(name, Values::Floats(values.to_vec()));
        vec![of("context_in", context), of("pooled", pooled)]
    };
    let [prompt, negative] = &prompts.of;
    let guidance = Guidance::classifier_free(given(prompt), given(negative), guidance_scale);

    let latents = case.tensor("latents")?;
    let (count, size) = (latents.shape[0], [latents.shape[2], latents.shape[3]]);
    let mut start = f32s(&latents.values);
    let mut picture = None;
    if from_picture {
        let image = case.tensor("image")?;
        let values = f32s(&image.values);
        let (encoder, moments) = half(case, device, "autoencoder_kl_encoder", "image", (&image.shape, &values))?;
        let Network::AutoencoderKlEncoder(config) = encoder else { return Err(Stop::Fail("no encoder".into())) };
        let init = config.latents(&moments, count, &f32s(&case.tensor("vae_noise")?.values));
        checks.close("init_latents", &f64s(&init), run.tensor("init_latents")?, tolerance);
        (start, picture) = (f32s(&case.tensor("noise")?.values), Some(init));
    }
    let mut transformer = params["transformer"].clone();
    transformer["context_tokens"] =
        (number(&params["max_position_embeddings"]) + number(&params["max_sequence_length"])).into();
    let own = number(&transformer["sample_size"]);
    let mut component = component(case, device, "mmdit", "transformer", &transformer)?;
    let shape =
        Shape::plain(Batch { size: (size != [own; 2]).then_some(size), ..guidance.batch(count) }, recipe.scratch_slots);
    let inputs = Inputs {
        guidance,
        start: Some(&start),
        picture: picture.as_deref().map(|values| Picture { values, mask: None }),
        noise: &mut Noise::Given(vec![start.clone()]),
        readback: Readback::Latents,
        passes: Vec::new(),
    };
    let mut states = f64s(&start);
    if let Some(picture) = &picture {
        let [alpha_t, sigma_t] = recipe.start;
        let mixed = states.iter().zip(picture).map(|(noise, x0)| sigma_t * noise + alpha_t * f64::from(*x0));
        states = mixed.collect();
    }
    let mut on_step =
        |event: StepEvent| states.extend(event.values.into_iter().flat_map(|shown| shown.values).map(f64::from));
    let last = pollster::block_on(async {
        let mut denoiser = Denoiser::new(&mut component, shape).await?;
        let mut control = Control { on_step: &mut on_step, stopped: &|| false };
        sample(&mut denoiser, &recipe, inputs, &mut control, None).await
    })?;
    checks.close("states", &states, run.tensor("states")?, tolerance);
    checks.close("final_f64", &f64s(&last), run.tensor("final_f64")?, tolerance);
    let (_, decoded) = half(case, device, "autoencoder_kl_decoder", "z", (&latents.shape, &last))?;
    checks.close("decoded_f64", &f64s(&decoded), run.tensor("decoded_f64")?, case.tolerance("decoded")?);
    Ok(())
}
