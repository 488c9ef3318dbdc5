//! `uvit verify`: a user's own inputs and outputs of a network, computed by PyTorch, against everything that this model can be
//! computed with: every stored dtype, device and arithmetic.

use super::forward::read_tensors;
use super::load::load_denoiser;
use super::output::say;
use std::path::PathBuf;
use uvit_web::model::{Batch, PortKind};
use uvit_web::package::{DENOISER, read_manifest};
use uvit_web::pipeline::{ComputeChoice, DeviceChoice, LoadOptions, NamedTensor, Values};
use uvit_web::plan::{Compute, Plan};
use uvit_web::runtime::Tune;
use uvit_web::weights::Dtype;
use uvit_web::{Code, Error, Result};

#[derive(clap::Args)]
pub struct Arguments {
    /// The model: a manifest.json or its folder
    model: PathBuf,
    /// A .safetensors file with the network's inputs and outputs by the names of its ports, and, to find what goes wrong, any of the
    /// tensors between them (docs/verify.md)
    io: PathBuf,
    /// The largest error that passes, of a tensor's largest value [default: f32 0.001, f16 0.01, q8 0.1, q4 0.4]
    #[arg(long)]
    tolerance: Option<f64>,
    /// Only these stored dtypes
    #[arg(long)]
    dtype: Vec<Dtype>,
}

/// What is tried.
const EXECUTORS: [(DeviceChoice, Compute); 6] = [
    (DeviceChoice::Cpu, Compute::F32),
    (DeviceChoice::Cpu, Compute::Quality),
    (DeviceChoice::Cpu, Compute::Fast),
    (DeviceChoice::WebGpu, Compute::F32),
    (DeviceChoice::WebGpu, Compute::F16),
    (DeviceChoice::WebGpu, Compute::W8A8),
];

/// How far a network of these weights may be off.
fn usual(dtype: Dtype, compute: Compute) -> f64 {
    match (dtype, compute) {
        (Dtype::F32, Compute::F32) => 1e-3,
        (Dtype::F32 | Dtype::F16, Compute::F32 | Compute::F16) => 1e-2,
        (Dtype::Q4, _) => 0.4,
        _ => 0.1,
    }
}

pub fn run(a: &Arguments) -> Result<()> {
    let (manifest, _) = read_manifest(&a.model)?;
    let network = manifest.network(DENOISER)?;
    let one = network.record(Batch::plain(1))?;
    let tensors = read_tensors(&a.io, &one)?;
    let is_input = |name: &str| one.port(name).is_some_and(|port| port.kind != PortKind::Output);
    let (given, wanted): (Vec<NamedTensor>, Vec<NamedTensor>) =
        tensors.into_iter().partition(|tensor| is_input(&tensor.name));
    let outputs: Vec<&str> =
        one.ports.iter().filter(|port| port.kind == PortKind::Output).map(|port| port.name).collect();
    if !wanted.iter().any(|tensor| outputs.contains(&tensor.name.as_str())) {
        let cause = format!("{} holds no output of the network", a.io.display());
        return Err(Error::new(Code::InvalidArgument, cause, format!("Store one as {}", outputs.join(" or "))));
    }
    let items = given.first().and_then(|tensor| tensor.shape.as_ref()?.first().copied()).unwrap_or(1);
    let recording = network.record(Batch::plain(items))?;
    let places: Vec<(usize, &NamedTensor)> = places(&recording.plan, &wanted)?;

    say!("{:<6} {:<7} {:<8} {:>12}  first tensor that is off", "dtype", "device", "compute", "output error")?;
    let mut wrong = 0;
    let variants = &manifest.component(DENOISER)?.variants;
    for dtype in
        variants.iter().map(|variant| variant.dtype).filter(|dtype| a.dtype.is_empty() || a.dtype.contains(dtype))
    {
        for (device, compute) in EXECUTORS {
            let tolerance = a.tolerance.unwrap_or_else(|| usual(dtype, compute));
            let options = LoadOptions {
                device,
                dtype: Some(dtype),
                compute: ComputeChoice::Fixed(compute),
                tune: Tune::Off,
                ..LoadOptions::default()
            };
            let name = if device == DeviceChoice::Cpu { "cpu" } else { "gpu" };
            let row = format!("{:<6} {name:<7} {:<8}", dtype.as_str(), compute.as_str());
            let errors = match errors(a, options, items, &given, &places) {
                Ok(errors) => errors,
                Err(e) if [Code::NoWebGpu, Code::InvalidArgument, Code::UnsupportedModel].contains(&e.code) => {
                    say!("{row} {:>12}  {}", "-", e.cause)?;
                    continue;
                }
                Err(e) => return Err(e),
            };
            // A NaN is off, too.
            let off = |error: f64| error > tolerance || error.is_nan();
            let first = errors.iter().find(|(_, error)| off(*error));
            let output = errors.iter().filter(|(name, _)| outputs.contains(name)).map(|(_, error)| *error);
            let output = output.fold(0.0, |most, error| if error > most || error.is_nan() { error } else { most });
            let what = first.map_or("none".to_owned(), |(name, error)| format!("{name}: {error:.1e}"));
            say!("{row} {output:>12.1e}  {what}")?;
            wrong += usize::from(first.is_some());
        }
    }
    match wrong {
        0 => Ok(()),
        n => Err(Error::new(
            Code::WrongResult,
            format!("{n} ways to compute the network are further off than they may be"),
            "The first tensor that is off says where to look: the conversion's settings, the inputs, or a bug of ours",
        )),
    }
}

/// The tensors that are compared, in the order in which the network computes them.
fn places<'a>(plan: &Plan, wanted: &'a [NamedTensor]) -> Result<Vec<(usize, &'a NamedTensor)>> {
    let mut places = Vec::with_capacity(wanted.len());
    for tensor in wanted {
        let found = plan.tensors.iter().position(|known| known.name == tensor.name);
        let place = found.ok_or_else(|| {
            let some = plan.tensors.iter().map(|known| known.name.as_str()).collect::<Vec<_>>().join(", ");
            let remedy = format!("Name tensors as the network does: {some}");
            Error::new(Code::InvalidArgument, format!("the network has no tensor {:?}", tensor.name), remedy)
        })?;
        let shape = &plan.tensors[place].shape;
        if tensor.shape.as_ref() != Some(shape) {
            let cause = format!("{} is {:?}", tensor.name, tensor.shape.as_deref().unwrap_or_default());
            return Err(Error::new(Code::InvalidArgument, cause, format!("The network's is {shape:?}")));
        }
        places.push((place, tensor));
    }
    places.sort_by_key(|(place, _)| *place);
    Ok(places)
}

/// How far each tensor is off: the largest difference, of the largest value.
fn errors<'a>(
    a: &Arguments,
    options: LoadOptions,
    items: usize,
    given: &[NamedTensor],
    places: &[(usize, &'a NamedTensor)],
) -> Result<Vec<(&'a str, f64)>> {
    let mut pipeline = load_denoiser(&a.model, options)?;
    let names: Vec<&str> = places.iter().map(|(_, tensor)| tensor.name.as_str()).collect();
    let traced = pollster::block_on(pipeline.component()?.trace(items, given, &names))?;
    let mut errors = Vec::with_capacity(places.len());
    for ((_, wanted), got) in places.iter().zip(traced) {
        let Values::Floats(values) = &wanted.values else {
            return Err(Error::internal("what comes out is no floats"));
        };
        let largest = values.iter().fold(0f32, |most, v| most.max(v.abs()));
        let apart = got.iter().zip(values).map(|(a, b)| (a - b).abs());
        let apart = apart.fold(0f32, |most, d| if d > most || d.is_nan() { d } else { most });
        errors.push((wanted.name.as_str(), f64::from(apart / largest.max(f32::MIN_POSITIVE))));
    }
    Ok(errors)
}
