//! `guidance`: how the conditional and the unconditional output are combined.

use crate::goldens_harness::devices::{judge_on_each, load_network, network_of};
use crate::goldens_harness::recipes::{Backend, backends};
use crate::goldens_harness::{Case, Checks, Options, Report, Run, Stop};
use uvit_web::model::{Batch, PortKind};
use uvit_web::plan::lower;
use uvit_web::runtime::{Device, Session};
use uvit_web::sampler::guidance::{
    GuidanceForm, Modality, UniDiffuserGuidance, UniDiffuserMode, expand, guide, parts, rescale_factor,
};

/// The last time of the reference.
const LAST_TIME: f64 = 1000.0;

/// Every run.
pub fn judge(case: &Case, report: &mut Report) {
    for run in case.runs() {
        let label = format!("run {}", run.id);
        if run.options["form"] == "unidiffuser" {
            judge_on_each(report, &label, |device, checks| judge_unidiffuser(&run, device, checks));
            continue;
        }
        for mut backend in backends() {
            report.run(&label, backend.name(), |checks| judge_form(&run, backend.as_mut(), checks));
        }
    }
}

/// The forms beside the plain ones.
#[derive(Clone, Copy, PartialEq)]
enum Extra {
    None,
    Rescale,
    FirstChannels(usize),
}

fn judge_form(run: &Run, backend: &mut dyn Backend, checks: &mut Checks) -> Result<(), Stop> {
    let mut options = run.options();
    let (form, extra) = options.choice(
        "form",
        &[
            ("uvit", (GuidanceForm::Uvit, Extra::None)),
            ("cfg", (GuidanceForm::Cfg, Extra::None)),
            ("cfg_rescale", (GuidanceForm::Cfg, Extra::Rescale)),
            ("dit_first3", (GuidanceForm::Cfg, Extra::FirstChannels(3))),
        ],
    )?;
    let name = match form {
        GuidanceForm::Uvit => "scale",
        GuidanceForm::Cfg => "guidance_scale",
    };
    let scale = options.take(name).as_f64().ok_or_else(|| Stop::Fail(format!("no {name}")))?;
    let phi = options.number("guidance_rescale", 0.0)?;
    options.finish()?;
    let case = run.case;
    let (cond, uncond) = (case.tensor("cond")?, case.tensor("uncond")?);
    let guidance_scale = form.guidance_scale(scale);
    let tolerance = backend.tolerance(case.tolerance("forms_f64")?);
    let [images, channels] = [cond.shape[0], cond.shape[1]];
    let of_image = cond.values.len() / images;
    let guided = if let Extra::FirstChannels(guided) = extra { guided } else { channels };
    let mut out = Vec::new();
    for (first, elements, guided) in parts(images, of_image, channels, guided) {
        let place = first..first + elements;
        let [c, u] = expand(1.0, if guided { guidance_scale } else { 1.0 });
        out.extend(backend.combine(&[(c, &cond.values[place.clone()]), (u, &uncond.values[place])], None)?);
    }
    if extra == Extra::Rescale {
        for (i, image) in out.chunks_mut(of_image).enumerate() {
            let factor = rescale_factor(&cond.values[i * of_image..(i + 1) * of_image], image, phi);
            image.copy_from_slice(&backend.combine(&[(factor, &*image)], None)?);
        }
    }
    checks.close("out", &out, run.tensor("out")?, tolerance);
    if extra == Extra::None {
        let out = guide(&cond.values, &uncond.values, guidance_scale);
        checks.close("out, guided at once", &out, run.tensor("out")?, tolerance);
    }
    Ok(())
}

fn judge_unidiffuser(run: &Run, device: &Device, checks: &mut Checks) -> Result<(), Stop> {
    let case = run.case;
    let mut options: Options = run.options();
    options.choice("form", &[("unidiffuser", ())])?;
    let mode = options.choice(
        "mode",
        &[
            ("t2i_true_uncond", UniDiffuserMode::TextToImage),
            ("t2i_empty_token", UniDiffuserMode::TextToImageEmpty),
            ("i2t", UniDiffuserMode::ImageToText),
            ("joint", UniDiffuserMode::Joint),
            ("i", UniDiffuserMode::Image),
            ("t", UniDiffuserMode::Text),
        ],
    )?;
    let scale = options.number("scale", 0.0)?;
    options.finish()?;
    let guidance = UniDiffuserGuidance::new(mode, GuidanceForm::Uvit.guidance_scale(scale));
    // Each output that is guided costs one forward more.
    let guided = if scale == 0.0 || [UniDiffuserMode::Image, UniDiffuserMode::Text].contains(&mode) { 0 } else { 1 };
    let wanted = 1 + guided * if mode == UniDiffuserMode::Joint { 2 } else { 1 };
    checks.that(guidance.forwards.len() == wanted, || format!("{} forwards, not {wanted}", guidance.forwards.len()));

    let named = case.config["network_case"].as_str().ok_or_else(|| "no network_case".to_owned())?;
    let of_network = Case::read(&case.folder.with_file_name(named))?;
    let network = network_of(&of_network)?;
    let weights = load_network(device, &of_network, &network)?;
    let times = &case.tensor("t")?.values;
    let recording = network.record(Batch::plain(times.len()))?;
    let program = lower(&recording.plan, &weights.capabilities(), &[])?;
    let mut session = pollster::block_on(Session::new(&weights, program, None))?;
    let outputs = ["img_out", "clip_img_out", "text_out"];
    let mut results: Vec<Vec<Vec<f64>>> = Vec::new();
    for [image, text] in &guidance.forwards {
        for port in &recording.ports {
            let modality = if port.name.contains("text") { text } else { image };
            let time = |known: f64| match modality {
                Modality::Drawn => known,
                Modality::Known | Modality::Empty => 0.0,
                Modality::Noise => LAST_TIME,
            };
            match port.kind {
                PortKind::Output => {}
                PortKind::Time => {
                    session.write_times(port.tensor, &times.iter().map(|t| time(*t)).collect::<Vec<f64>>())?;
                }
                PortKind::Indices { .. } => {
                    let data_type = case.config["data_type"].as_u64().unwrap_or(0) as u32;
                    session.write_indices(port.tensor, &vec![data_type; times.len()])?;
                }
                _ => {
                    let plain = if port.name == "img" { "z" } else { port.name };
                    let name = match modality {
                        Modality::Noise => format!("{plain}_noise"),
                        Modality::Empty => format!("empty_{plain}"),
                        Modality::Drawn | Modality::Known => plain.to_owned(),
                    };
                    let values: Vec<f32> = case.tensor(&name)?.values.iter().map(|v| *v as f32).collect();
                    session.write(port.tensor, &values)?;
                }
            }
        }
        pollster::block_on(session.forward(&|| false))?;
        let mut result = Vec::new();
        for name in outputs {
            let values = pollster::block_on(session.read(session.find(name)?))?;
            result.push(values.into_iter().map(f64::from).collect());
        }
        results.push(result);
    }
    let tolerance = case.tolerance("unidiffuser_f32")?;
    for (i, name) in outputs.into_iter().enumerate() {
        let terms = if name == "text_out" { &guidance.text } else { &guidance.image };
        checks.that(terms.is_empty() == run.tensor(name).is_err(), || format!("{name} is not what is drawn"));
        if !terms.is_empty() {
            let sum = |at: usize| terms.iter().map(|(forward, c)| c * results[*forward][i][at]).sum::<f64>();
            let got: Vec<f64> = (0..results[0][i].len()).map(sum).collect();
            checks.close(name, &got, run.tensor(name)?, tolerance);
        }
    }
    Ok(())
}
