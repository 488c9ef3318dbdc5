//! `uvit forward`: one call of the network with tensors from a file, the way to check a model against PyTorch.

use super::generate::Place;
use super::load::{load, load_denoiser};
use super::output::{self, say};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use uvit_web::model::{Batch, PortKind, Recording};
use uvit_web::package::{DENOISER, read_manifest};
use uvit_web::pipeline::{NamedTensor, Values};
use uvit_web::{Code, Error, Result};

#[derive(clap::Args)]
pub struct Arguments {
    /// The model: a manifest.json or its folder
    model: PathBuf,
    /// A .safetensors file with a tensor for every port that takes one, under its name; `uvit inspect` names the ports
    inputs: PathBuf,
    /// The .safetensors file that is written, f32
    outputs: PathBuf,
    /// Which of the model's networks: one that generating runs, by the name that `uvit inspect` says
    #[arg(long, default_value = DENOISER)]
    component: String,
    #[command(flatten)]
    place: Place,
}

pub fn run(a: &Arguments) -> Result<()> {
    output::check(&a.outputs)?;
    let network = read_manifest(&a.model)?.0.network(&a.component)?;
    let given = read_tensors(&a.inputs, &network.record(Batch::plain(1))?)?;
    let load = if a.component == DENOISER { load_denoiser } else { load };
    let mut pipeline = load(&a.model, a.place.options())?;
    let results = pollster::block_on(pipeline.forward(&a.component, given, &|| false))?;

    let mut stored = BTreeMap::new();
    for NamedTensor { name, shape, values } in &results {
        let Values::Floats(values) = values else { return Err(Error::internal("what comes out is no floats")) };
        stored.insert(name.clone(), (shape.clone().unwrap_or_default(), bytemuck::cast_slice::<f32, u8>(values)));
    }
    let mut views = BTreeMap::new();
    for (name, (shape, bytes)) in &stored {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        views.insert(name.clone(), view.map_err(|e| Error::internal(format!("{name}: {e}")))?);
    }
    let bytes = safetensors::serialize(views, None).map_err(|e| Error::internal(format!("the outputs: {e}")))?;
    output::write(&a.outputs, &bytes)?;
    stored.iter().try_for_each(|(name, (shape, _))| say!("{name} {shape:?}"))?;
    say!("wrote {}", a.outputs.display())
}

/// The tensors of a file, as the ports of their names take them.
pub fn read_tensors(path: &Path, recording: &Recording) -> Result<Vec<NamedTensor>> {
    let bytes = std::fs::read(path).map_err(|e| {
        let cause = format!("{}: {e}", path.display());
        Error::new(Code::Io, cause, "Check that the file exists and can be read")
    })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| {
        let cause = format!("{}: {e}", path.display());
        Error::new(Code::InvalidArgument, cause, "Give a .safetensors file")
    })?;
    let mut given = Vec::new();
    let mut tensors = file.tensors();
    // They come in any order; which of two mistakes is told should not change from run to run.
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, view) in tensors {
        let kind = recording.port(&name).map(|port| port.kind);
        given.push(NamedTensor { shape: Some(view.shape().to_vec()), values: values(&name, &view, kind)?, name });
    }
    Ok(given)
}

/// A stored tensor as its port takes it; floats for ports that do not exist, which are refused later by name.
fn values(name: &str, view: &TensorView<'_>, kind: Option<PortKind>) -> Result<Values> {
    let data = view.data();
    let numbers: Vec<f64> = match view.dtype() {
        Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect(),
        Dtype::F16 => data.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f64()).collect(),
        Dtype::BF16 => data.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f64()).collect(),
        Dtype::I64 => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
        Dtype::I32 => data.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
        other => {
            let cause = format!("tensor {name:?} is {other:?}");
            return Err(Error::new(Code::InvalidArgument, cause, "Store floats, or int64 or int32 for indices"));
        }
    };
    Ok(match kind {
        Some(PortKind::Time) => Values::Times(numbers),
        Some(PortKind::Indices { .. }) => {
            if let Some(odd) = numbers.iter().find(|v| v.fract() != 0.0 || !(0.0..4294967296.0).contains(*v)) {
                let cause = format!("tensor {name:?} holds {odd}, no index");
                return Err(Error::new(Code::InvalidArgument, cause, "Give whole numbers from 0"));
            }
            Values::Indices(numbers.into_iter().map(|v| v as u32).collect())
        }
        _ => Values::Floats(numbers.into_iter().map(|v| v as f32).collect()),
    })
}
