//! `uvit presets`.

use super::output::say;
use uvit_web::model::{Batch, Network};
use uvit_web::package::{DENOISER, Preset, Storing, presets};
use uvit_web::plan::{Capabilities, lower};
use uvit_web::weights::Dtype;
use uvit_web::{Result, json::Write};

#[derive(clap::Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a model is and costs.
struct Cost {
    parameters: usize,
    multiply_adds: u64,
    /// Of the tensors, by stored dtype.
    bytes: Vec<(Dtype, u64)>,
}

fn cost(network: &Network) -> Result<Cost> {
    let plan = network.record(Batch::plain(1))?.plan;
    let bytes = |dtype| plan.published().map(|weight| Storing::plain(dtype).form(weight).bytes()).sum();
    Ok(Cost {
        parameters: plan.published().map(|weight| weight.shape.iter().product::<usize>()).sum(),
        multiply_adds: lower(&plan, &Capabilities::WEBGPU, &[])?.cost().multiply_adds,
        bytes: [Dtype::F32, Dtype::F16, Dtype::Q8, Dtype::Q4].map(|dtype| (dtype, bytes(dtype))).to_vec(),
    })
}

fn in_json(preset: &Preset) -> Result<serde_json::Value> {
    let manifest = preset.manifest()?;
    let network = manifest.network(DENOISER)?;
    let cost = cost(&network)?;
    let bytes: serde_json::Map<_, _> =
        cost.bytes.iter().map(|(dtype, bytes)| (dtype.as_str().to_owned(), (*bytes).into())).collect();
    Ok(serde_json::json!({
        "name": preset.name,
        "source": preset.source,
        "architecture": network.architecture(),
        "params": network.params(),
        "sampling": manifest.sampling.write(),
        "nullClass": manifest.null_class,
        "latentScale": preset.latent_scale,
        "parameters": cost.parameters,
        "tokens": network.tokens(),
        "multiplyAdds": cost.multiply_adds,
        "gflops": 2e-9 * cost.multiply_adds as f64,
        "bytes": bytes,
    }))
}

pub fn run(a: &Arguments) -> Result<()> {
    let all = presets()?;
    if a.json {
        let all = all.iter().map(in_json).collect::<Result<Vec<_>>>()?;
        return say!("{}", serde_json::Value::Array(all));
    }
    say!(
        "{:24} {:>8} {:>6} {:>10} {:>8} {:>8} {:>8}  {:18} {:>5} {:>8}",
        "name",
        "params",
        "tokens",
        "GFLOP",
        "f16",
        "q8",
        "q4",
        "sampler",
        "steps",
        "guidance"
    )?;
    for preset in &all {
        let manifest = preset.manifest()?;
        let network = manifest.network(DENOISER)?;
        let cost = cost(&network)?;
        let megabytes = |wanted| {
            let bytes = cost.bytes.iter().find(|(dtype, _)| *dtype == wanted).map_or(0, |(_, bytes)| *bytes);
            format!("{:.0} MB", bytes as f64 / 1e6)
        };
        say!(
            "{:24} {:>6.0} M {:>6} {:>10.1} {:>8} {:>8} {:>8}  {:18} {:>5} {:>8}",
            preset.name,
            cost.parameters as f64 / 1e6,
            network.tokens(),
            2e-9 * cost.multiply_adds as f64,
            megabytes(Dtype::F16),
            megabytes(Dtype::Q8),
            megabytes(Dtype::Q4),
            manifest.sampling.sampler.as_str(),
            manifest.sampling.steps,
            manifest.sampling.guidance_scale,
        )?;
    }
    Ok(())
}
