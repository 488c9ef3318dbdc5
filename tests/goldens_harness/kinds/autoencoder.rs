//! Autoencoders: the two halves, each a network of its own, judged at the modules that the case has and at the end.

use crate::goldens_harness::devices::{judge_on_each, load_some, network_of_kind};
use crate::goldens_harness::{Case, Report, Stop};
use serde_json::Value;
use uvit_web::model::{Batch, Network, PortKind};
use uvit_web::plan::lower;
use uvit_web::runtime::Session;

/// Both halves on every device: as a whole, and a KL autoencoder's in bands too, of a row, and of as many rows as some kilobytes hold.
pub fn judge(case: &Case, report: &mut Report) {
    let kind = case.kind.strip_suffix("_diffusers").unwrap_or(&case.kind).to_owned();
    let tilings: &[Option<usize>] = if kind == "autoencoder_kl" { &[None, Some(1), Some(1 << 12)] } else { &[None] };
    for (half, &tiled) in ["encoder", "decoder"].iter().flat_map(|half| tilings.iter().map(move |tiled| (*half, tiled)))
    {
        let label = tiled.map_or(half.to_owned(), |most| format!("{half}, tiled by {most}"));
        judge_on_each(report, &label, |device, checks| {
            let network = network_of_kind(case, &format!("{kind}_{half}"))?;
            let stored_name = |name: &str| original(case, name).unwrap_or_else(|| name.to_owned());
            let (weights, left) = load_some(device, case, &network, &stored_name)?;
            let own = [half, if half == "encoder" { "quant_conv" } else { "post_quant_conv" }];
            let forgotten = left.iter().find(|name| own.iter().any(|own| name.starts_with(own)));
            checks.that(forgotten.is_none(), || format!("the network does not use {forgotten:?}"));

            let sizes = case.tensor(if half == "encoder" { "image" } else { "z" })?.shape.clone();
            let batch = Batch { size: Some([sizes[2], sizes[3]]), ..Batch::plain(sizes[0]) };
            let recording = network.record(Batch { tiled, ..batch })?;
            let whole = network.record(batch)?.plan;
            checks.that(recording.plan.weights == whole.weights, || "other weights".into());
            checks.that((recording.plan == whole) == tiled.is_none(), || "not tiled".into());
            // Modules by the names that we have for them; of bands only the first could be found.
            let modules: Vec<(&str, String)> = (case.tensor_names())
                .filter(|name| tiled.is_none() && name.starts_with(half))
                .map(|name| Ok((name, module(case, name).ok_or_else(|| format!("no module {name}"))?)))
                .collect::<Result<_, Stop>>()?;
            let kept: Vec<&str> = modules.iter().map(|(_, name)| name.as_str()).collect();
            let program = lower(&recording.plan, &weights.capabilities(), &kept)?;
            let mut session = pollster::block_on(Session::new(&weights, program, None))?;
            let f32s = |name: &str| -> Result<Vec<f32>, Stop> {
                Ok(case.tensor(name)?.values.iter().map(|v| *v as f32).collect())
            };
            for port in recording.ports.iter().filter(|port| port.kind.is_input()) {
                session.write(port.tensor, &f32s(port.name)?)?;
            }
            pollster::block_on(session.forward(&|| false))?;

            let tolerance = case.tolerance("f32")?;
            for (stored, name) in &modules {
                let tensor = case.tensor(stored)?;
                let tokens = pollster::block_on(session.read(session.find(name)?))?;
                checks.close(stored, &as_images(&tokens, &tensor.shape), tensor, tolerance);
            }
            for port in recording.ports.iter().filter(|port| port.kind == PortKind::Output) {
                let got = pollster::block_on(session.read(port.tensor))?;
                let wide: Vec<f64> = got.iter().map(|v| f64::from(*v)).collect();
                checks.close(port.name, &wide, case.tensor(&format!("{}_f64", port.name))?, tolerance);
                if let (Network::AutoencoderKlEncoder(config), Ok(noise)) = (&network, f32s("sample_noise")) {
                    let latents = config.latents(&got, sizes[0], &noise);
                    let latents: Vec<f64> = latents.into_iter().map(f64::from).collect();
                    checks.close("z_sampled", &latents, case.tensor("z_sampled_f64")?, tolerance);
                }
            }
            Ok(())
        });
    }
}

/// What the case calls a tensor of diffusers' names.
fn original(case: &Case, name: &str) -> Option<String> {
    let map = case.config["diffusers_name_map"].as_object()?;
    map.iter().find(|(_, diffusers)| *diffusers == name).map(|(original, _)| original.clone())
}

/// What diffusers calls a module of the case: as its first weights are called.
fn module(case: &Case, name: &str) -> Option<String> {
    let map = case.config["diffusers_name_map"].as_object()?;
    let ends = [".weight", ".norm.weight", ".norm1.weight"];
    let (end, Value::String(diffusers)) = ends.iter().find_map(|end| Some((end, map.get(&format!("{name}{end}"))?)))?
    else {
        return None;
    };
    let parts: Vec<&str> = diffusers.split('.').collect();
    Some(parts[..parts.len() - end.matches('.').count()].join("."))
}

/// Tokens `[items, pixels, channels]` in the order of images `[items, channels, ..]`.
fn as_images(tokens: &[f32], shape: &[usize]) -> Vec<f64> {
    let (channels, pixels) = (shape[1], shape[2] * shape[3]);
    let at = |i: usize| tokens[(i / (channels * pixels) * pixels + i % pixels) * channels + i / pixels % channels];
    (0..tokens.len()).map(|i| f64::from(at(i))).collect()
}
