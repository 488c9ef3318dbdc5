//! Writes a random checkpoint of a preset, to measure `uvit convert` with:
//! `cargo run --release --example random-checkpoint -- imagenet512_uvit_huge weights.pth` (or `.safetensors`).

#[path = "pth.rs"]
#[allow(dead_code, missing_docs)]
pub mod pth;

use pth::{Py, save};
use std::path::{Path, PathBuf};
use uvit_web::model::Batch;
use uvit_web::package::preset;
use uvit_web::sampler::TorchGenerator;
use uvit_web::weights::{Data, random};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(path)) = (arguments.next(), arguments.next().map(PathBuf::from)) else {
        panic!("usage: random-checkpoint PRESET FILE.pth|FILE.safetensors");
    };
    write(&name, &path);
}

/// Writes random weights of a preset, the same each time.
pub fn write(name: &str, path: &Path) {
    let plan = preset(name).unwrap().network().unwrap().record(Batch::plain(1)).unwrap().plan;
    let mut generator = TorchGenerator::new(1);
    let tensors = plan.published().map(|weight| {
        let Data::F32(values) = random::tensor(&weight.name, &weight.shape, None, &mut generator).data else {
            panic!("random weights are f32");
        };
        (weight.name.clone(), weight.shape.clone(), values)
    });
    if path.extension().is_some_and(|ending| ending == "pth") {
        let state = tensors.map(|(name, shape, values)| (name, Py::Tensor(shape, values))).collect();
        return save(path, &Py::StateDict(state), 2);
    }
    let tensors: Vec<_> = tensors
        .map(|(name, shape, values)| (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()))
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}
