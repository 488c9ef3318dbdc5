//! Networks: one forward through all ports, judged at every block and at the end.

use crate::goldens_harness::devices::{judge_on_each, load_as, network_of};
use crate::goldens_harness::{Case, Report, Stop};
use uvit_web::model::{Batch, PortKind};
use uvit_web::plan::lower;
use uvit_web::runtime::Session;
use uvit_web::weights::Dtype;

/// What stands at the first token of every text that ends it.
fn pooled(case: &Case, hidden: &[f64]) -> Result<Vec<f64>, Stop> {
    let ids = case.tensor("input_ids")?;
    let width = hidden.len() / ids.values.len();
    let end = case.config["params"]["eos_token_id"].as_f64().ok_or_else(|| "no eos_token_id".to_owned())?;
    let of_text = |(text, hidden): (&[f64], &[f64])| {
        let at = text.iter().position(|&id| id == end).unwrap_or(0);
        hidden[at * width..][..width].to_vec()
    };
    let texts = ids.values.len() / ids.shape[1];
    Ok(ids.rows().into_iter().zip(hidden.chunks(hidden.len() / texts)).flat_map(of_text).collect())
}

/// The forward on every device; with weights in f16 too, where the case says how far that may be off.
pub fn judge(case: &Case, report: &mut Report) {
    judge_in(case, report, "forward", Dtype::F32);
    if case.tolerance("outputs_f16_weights").is_ok() {
        judge_in(case, report, "forward f16", Dtype::F16);
    }
}

fn judge_in(case: &Case, report: &mut Report, run: &str, dtype: Dtype) {
    judge_on_each(report, run, |device, checks| {
        let names = |key: &str| -> Vec<&str> {
            case.config[key].as_array().into_iter().flatten().filter_map(|v| v.as_str()).collect()
        };
        let (inputs, outputs) = (names("inputs"), names("outputs"));
        let network = network_of(case)?;
        let (weights, left) = load_as(device, case, &network, dtype, &|name| name.to_owned())?;
        if let Some(name) = left.first() {
            return Err(Stop::Fail(format!("the network does not use the weight {name}")));
        }
        // Of another size than the network's own, where the case says so.
        let size = case.config["image_hw"].as_array().map(|hw| [0, 1].map(|i| hw[i].as_u64().unwrap_or(0) as usize));
        let items = case.tensor(inputs.first().ok_or_else(|| "no inputs".to_owned())?)?.shape[0];
        let recording = network.record(Batch { size, ..Batch::plain(items) })?;
        let expected: Vec<&str> = case.tensor_names().filter(|name| !inputs.contains(name)).collect();
        // Between the blocks, f16 has no bounds of its own.
        let is_output = |name: &&str| outputs.contains(&name.strip_suffix("_f64").unwrap_or(name));
        let expected: Vec<&str> = expected.into_iter().filter(|name| dtype == Dtype::F32 || is_output(name)).collect();
        let program = lower(&recording.plan, &weights.capabilities(), &expected)?;
        let mut session = pollster::block_on(Session::new(&weights, program, None))?;

        for port in &recording.ports {
            if port.kind == PortKind::Output {
                // What is published as one tensor with the noise.
                let known = outputs.contains(&port.name) || port.name == "variance";
                checks.that(known, || format!("the network gives {}", port.name));
                continue;
            }
            let tensor = case.tensor(port.name)?;
            if tensor.shape != recording.plan.shape(port.tensor) {
                return Err(Stop::Fail(format!("{} is {:?}", port.name, tensor.shape)));
            }
            match port.kind {
                PortKind::Time => session.write_times(port.tensor, &tensor.values)?,
                PortKind::Indices { .. } => {
                    let indices: Vec<u32> = tensor.values.iter().map(|v| *v as u32).collect();
                    session.write_indices(port.tensor, &indices)?;
                }
                _ => {
                    let values: Vec<f32> = tensor.values.iter().map(|v| *v as f32).collect();
                    session.write(port.tensor, &values)?;
                }
            }
        }
        pollster::block_on(session.forward(&|| false))?;

        let last_layer = format!("hidden_states.{}", case.config["params"]["num_hidden_layers"]);
        for stored in expected {
            let name = stored.strip_suffix("_f64").unwrap_or(stored);
            if name == stored && case.tensor(&format!("{name}_f64")).is_ok() {
                continue; // the f64 run is the better judge
            }
            let tolerance = case.tolerance(match name {
                _ if dtype == Dtype::F16 => "outputs_f16_weights",
                _ if outputs.contains(&name) => "outputs_f32",
                _ if name.starts_with("time_") && name.ends_with("embed") => "time_embed_f32",
                _ => "intermediates_f32",
            });
            let tolerance = tolerance.or_else(|_| case.tolerance("f32"))?;
            let mut read = |name: &str| -> Result<Vec<f64>, Stop> {
                let id = session.find(name)?;
                Ok(pollster::block_on(session.read(id))?.into_iter().map(f64::from).collect())
            };
            let got = match name {
                // No norm follows: what the last layer gives has two names.
                _ if case.kind == "clip_vision" && name == last_layer => read("last_hidden_state")?,
                "pooled" => pooled(case, &read("last_hidden_state")?)?,
                // Of every picture or frame, one below the other.
                "out" if recording.port("variance").is_some() => {
                    let parts = [read("out")?, read("variance")?];
                    let of_picture: usize = network.image_shape().iter().product();
                    let [noise, variance] = parts.each_ref().map(|part| part.chunks(of_picture));
                    noise.zip(variance).flat_map(|(noise, variance)| [noise, variance].concat()).collect()
                }
                name => read(name)?,
            };
            checks.close(stored, &got, case.tensor(stored)?, tolerance);
        }
        Ok(())
    });
}
