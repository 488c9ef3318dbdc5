//! The devices that cases are judged on. Each is opened once, since compiling a GPU's kernels takes seconds.

use super::{Case, Checks, Report, Stop, read_tensors};
use std::cell::RefCell;
use uvit_web::model::{Batch, Network};
use uvit_web::plan::Compute;
use uvit_web::runtime::{Device, Loading, Weights};
use uvit_web::simd::Threads;
use uvit_web::weights::{Dtype, quantize::quantize};

/// The devices' names in reports.
pub const NAMES: [&str; 3] = ["reference", "cpu", "gpu"];

thread_local! {
    static OPEN: RefCell<Vec<(&'static str, Result<Device, String>)>> = const { RefCell::new(Vec::new()) };
}

/// Calls `body` with a device; without a GPU it is skipped, or fails where `UVIT_GPU=required`.
pub fn with<T>(name: &'static str, body: impl FnOnce(&Device) -> Result<T, Stop>) -> Result<T, Stop> {
    OPEN.with_borrow_mut(|open| {
        if !open.iter().any(|(known, _)| *known == name) {
            let opened = match name {
                "reference" => Ok(Device::reference()),
                "cpu" => Ok(Device::cpu(Threads::all())),
                _ => pollster::block_on(Device::gpu()).map_err(|e| e.to_string()),
            };
            open.push((name, opened));
        }
        let (_, device) = open.iter().find(|(known, _)| *known == name).expect("it was just pushed");
        match device {
            Ok(device) => body(device),
            Err(why) if std::env::var("UVIT_GPU").is_ok_and(|v| v == "required") => Err(Stop::Fail(why.clone())),
            Err(why) => Err(Stop::Skip(why.clone())),
        }
    })
}

/// Closes all devices; they must not outlive the thread that opened them.
pub fn close() {
    OPEN.with_borrow_mut(Vec::clear);
}

/// Judges one body on every device.
pub fn judge_on_each(report: &mut Report, run: &str, mut body: impl FnMut(&Device, &mut Checks) -> Result<(), Stop>) {
    for name in NAMES {
        report.run(run, name, |checks| with(name, |device| body(device, checks)));
    }
}

/// The network of a case: its kind is the architecture, `params` and `version` are its parameters.
pub fn network_of(case: &Case) -> Result<Network, Stop> {
    network_of_kind(case, &case.kind)
}

/// A network of that architecture, whatever the case's kind.
pub fn network_of_kind(case: &Case, kind: &str) -> Result<Network, Stop> {
    let mut params = case.config["params"].clone();
    if let Some(version) = case.config.get("version") {
        params["version"] = version.clone();
    }
    // Of Stable Diffusion 3's pipeline, not of its network.
    if let Ok(context) = case.tensor("context_in") {
        params["context_tokens"] = context.shape[1].into();
    }
    Ok(Network::of(kind, &params)?)
}

/// The weights of a case's network, which are all that there are.
pub fn load_network(device: &Device, case: &Case, network: &Network) -> Result<Weights, Stop> {
    let (weights, left) = load_some(device, case, network, &|name| name.to_owned())?;
    match left.first() {
        Some(name) => Err(Stop::Fail(format!("the network does not use the weight {name}"))),
        None => Ok(weights),
    }
}

/// The weights of a network that is a part of the case's, by the names that they have there; and those that it does not use.
pub fn load_some(
    device: &Device,
    case: &Case,
    network: &Network,
    stored_name: &dyn Fn(&str) -> String,
) -> Result<(Weights, Vec<String>), Stop> {
    load_as(device, case, network, Dtype::F32, stored_name)
}

/// The same, stored as another dtype.
pub fn load_as(
    device: &Device,
    case: &Case,
    network: &Network,
    dtype: Dtype,
    stored_name: &dyn Fn(&str) -> String,
) -> Result<(Weights, Vec<String>), Stop> {
    let plan = network.record(Batch::plain(1))?.plan;
    let stored = read_tensors(&case.folder.join("weights.safetensors"))?;
    let mut left: Vec<String> = stored.keys().cloned().collect();
    let mut loading = Loading::new(device, Compute::F32)?;
    for (id, weight, form) in plan.loads(Compute::F32) {
        let mut values = Vec::new();
        for (name, shape) in weight.sources() {
            let name = stored_name(&name);
            // One that is read in two ways is loaded twice.
            let tensor = stored.get(&name).ok_or_else(|| format!("no weight {name}"))?;
            left.retain(|other| *other != name);
            // A 1x1 convolution is a Linear.
            if tensor.shape != shape && tensor.shape != [shape.as_slice(), &[1, 1]].concat() {
                return Err(Stop::Fail(format!("{name} is {:?}, expected {shape:?}", tensor.shape)));
            }
            values.extend(tensor.values.iter().map(|v| *v as f32));
        }
        let tensor = quantize(&weight.name, &weight.shape, &weight.arranged(values), dtype, 0);
        pollster::block_on(loading.load(id, weight, form, &tensor))?;
    }
    Ok((pollster::block_on(loading.finish())?, left))
}
