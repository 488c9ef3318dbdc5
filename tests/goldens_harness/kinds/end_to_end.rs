//! `end_to_end`: a network of another case, noise from a seed, a sampler: every state on the way.

use crate::goldens_harness::devices::{judge_on_each, load_network, network_of};
use crate::goldens_harness::recipes::ends;
use crate::goldens_harness::{Case, Options, Report, Stop};
use uvit_web::model::Batch;
use uvit_web::pipeline::sampling::{Control, Inputs, Readback, sample};
use uvit_web::pipeline::{Component, Denoiser, Guidance, NamedTensor, Noise, Shape, Values};
use uvit_web::sampler::dpm_singlestep::{Method, orders};
use uvit_web::sampler::guidance::GuidanceForm;
use uvit_web::sampler::{Prediction, SamplerKind, SamplerSettings, Schedule, TorchGenerator, recipe};
use uvit_web::weights::Dtype;

/// The whole run on every device.
pub fn judge(case: &Case, report: &mut Report) {
    judge_on_each(report, "sampling", |device, checks| {
        let mut options = Options::of("", &case.config);
        for about in ["kind", "tolerance", "measured", "source", "rng", "guidance_note"] {
            options.take(about);
        }
        let named = options.take("network_case").as_str().ok_or_else(|| "no network_case".to_owned())?.to_owned();
        let is_discrete =
            options.choice("schedule", &[("vp_linear", false), ("discrete (SD scaled_linear, 1000)", true)])?;
        // U-ViT's own call of dpm_solver_pp.py, which is the sampler dpmpp_3s.
        options.choice("method", &[("fast", ())])?;
        options.choice("skip_type", &[("time_uniform", ())])?;
        options.choice("solver_type", &[("dpm_solver", ())])?;
        if options.count("order", 3)? != 3 || !options.flag("predict_x0", true)? {
            return Err(Stop::Skip("another form of dpm_solver_pp".into()));
        }
        let settings = SamplerSettings {
            sampler: options.choice(
                "sampler",
                &[
                    ("vp_dpmpp2m", SamplerKind::DpmppTwoM),
                    ("dpm_solver_pp", SamplerKind::DpmppThreeS),
                    ("euler_maruyama_sde", SamplerKind::EulerMaruyamaSde),
                    ("euler_maruyama_ode", SamplerKind::EulerMaruyamaOde),
                ],
            )?,
            steps: options.count("steps", 0)?,
            schedule: match is_discrete {
                true => Schedule::ScaledLinear { beta_start: 0.00085, beta_end: 0.012, train_steps: 1000 },
                false => Schedule::VpLinear {
                    beta_min: options.number("beta_0", 0.1)?,
                    beta_max: options.number("beta_1", 20.0)?,
                },
            },
            prediction: options
                .choice("prediction", &[("noise", Prediction::Noise), ("x0", Prediction::X0), ("v", Prediction::V)])?,
            time_scale: options.number("time_scale", 999.0)?,
            clip_x0: options.flag("clip_x0", false)?,
            lower_order_final: options.flag("lower_order_final", true)?,
            t_min: options.number("t_end", options_eps(case))?,
            t_max: options.number("t_start", 1.0)?,
            grid: None,
            eta: 0.0,
            churn: 0.0,
            time_offset: 0.0,
            skip: 0,
        };
        options.number("eps", 0.001)?;
        if options.number("T", 1.0)? != 1.0 {
            return Err(Stop::Skip("option T other than 1 is not built yet".into()));
        }
        let form = options.choice("guidance_form", &[("cfg", GuidanceForm::Cfg), ("uvit", GuidanceForm::Uvit)])?;
        let scale = options.number("scale", form_off(form))?;
        let scale = options.number("guidance_scale", scale)?;
        let labels: Vec<u32> =
            options.take("y").as_array().into_iter().flatten().filter_map(|v| v.as_u64()).map(|v| v as u32).collect();
        let null_class = options.take("null_class").as_u64().map(|v| v as u32);
        let seed = options.count("torch_seed", 0)? as u64;
        options.finish()?;

        let network_folder = case.folder.with_file_name(named);
        let of_network = Case::read(&network_folder)?;
        let network = network_of(&of_network)?;
        let weights = load_network(device, &of_network, &network)?;
        let forms = vec![(Dtype::F32, 0); network.record(Batch::plain(1))?.plan.weights.len()];
        let mut component = Component::new(network, weights, forms, Vec::new());
        let recipe = recipe(&settings)?;
        let start = case.tensor("x_init").or_else(|_| case.tensor("z_init"))?;
        let count = start.shape[0];
        let given = |labels: &[u32]| -> Vec<NamedTensor> {
            let tensor = || NamedTensor::new("y", Values::Indices(labels.to_vec()));
            if labels.is_empty() { Vec::new() } else { vec![tensor()] }
        };
        let unconditional = given(&vec![null_class.unwrap_or(0); labels.len()]);
        let guidance = Guidance::classifier_free(given(&labels), unconditional, form.guidance_scale(scale));
        let shape = Shape::plain(guidance.batch(count), recipe.scratch_slots);
        let inputs = Inputs {
            guidance,
            start: None,
            picture: None,
            noise: &mut Noise::Batch(Box::new(TorchGenerator::new(seed))),
            readback: Readback::Latents,
            passes: Vec::new(),
        };
        let drawn = TorchGenerator::new(seed).randn_f32(start.values.len());
        checks.that(drawn.iter().zip(&start.values).all(|(a, b)| f64::from(*a) == *b), || {
            "the start noise is not PyTorch's".to_owned()
        });

        let mut states: Vec<f64> = drawn.iter().map(|v| f64::from(*v)).collect();
        let mut on_step = |event: uvit_web::pipeline::sampling::StepEvent| {
            states.extend(event.values.into_iter().flat_map(|shown| shown.values).map(f64::from));
        };
        let last = pollster::block_on(async {
            let mut denoiser = Denoiser::new(&mut component, shape).await?;
            let mut control = Control { on_step: &mut on_step, stopped: &|| false };
            sample(&mut denoiser, &recipe, inputs, &mut control, None).await
        })?;
        if settings.sampler == SamplerKind::DpmppThreeS {
            // The reference kept the states after updates only.
            let updates = orders(Method::Fast, settings.steps, 3)?;
            let values = start.values.len();
            states = ends(&updates).flat_map(|at| states[at * values..(at + 1) * values].to_vec()).collect();
        }
        let last: Vec<f64> = last.into_iter().map(f64::from).collect();
        let tolerance = case.tolerance("states")?;
        checks.close("states", &states, case.tensor("states")?, tolerance);
        checks.close("final_f64", &last, case.tensor("final_f64")?, tolerance);
        Ok(())
    });
}

/// Where sampling ends if only `eps` says so.
fn options_eps(case: &Case) -> f64 {
    case.config["eps"].as_f64().unwrap_or(0.001)
}

/// The scale at which a form does nothing.
fn form_off(form: GuidanceForm) -> f64 {
    match form {
        GuidanceForm::Uvit => 0.0,
        GuidanceForm::Cfg => 1.0,
    }
}
