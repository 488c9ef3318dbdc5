//! Wrong numbers are worse than slow ones: before a device is trusted with a model, a miniature of the same network (same
//! head dim, patch size and stored dtypes, so the same compiled kernels) runs on it and on the reference, and so does one
//! of the sampler's linear combinations.

use super::{Executor, sampling::forward};
use crate::model::{Batch, Network, uvit};
use crate::plan::{Compute, Plan, WeightUse, lower};
use crate::sampler::TorchGenerator;
use crate::weights::{Dtype, Variant, random};
use crate::{Code, Error, Result};

/// Largest error over largest value. Kernels that are right stay below 1e-5 in floats, and near 2^-11 in f16. In integers, an
/// activation that differs in its last bit may be rounded to the next of 128 values.
fn tolerance(compute: Compute) -> f32 {
    match compute {
        Compute::F32 => 1e-4,
        Compute::F16 => 5e-3,
        Compute::Quality | Compute::Fast | Compute::W8A8 => 2e-2,
    }
}

/// Runs the miniature and a combination on `executor` and on the reference.
///
/// # Errors
/// `WRONG_RESULT` with the error found, `SHADER_FAILED`, `DEVICE_LOST`.
pub async fn self_test(executor: &mut Executor, network: &Network, kinds: &[(Dtype, usize)]) -> Result<()> {
    let miniature = miniature(network);
    let got = run(executor, &miniature, kinds).await?;
    let want = run(&mut Executor::reference(executor.compute()), &miniature, kinds).await?;
    let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst =
        got.iter().zip(&want).fold(0f32, |m, (a, b)| if a.is_finite() { m.max((a - b).abs()) } else { f32::MAX });
    if worst <= tolerance(executor.compute()) * largest {
        return Ok(());
    }
    Err(Error::new(
        Code::WrongResult,
        format!("the device computes wrong numbers: off by {:.1e} of the largest value", worst / largest),
        "Update the browser and the GPU driver, or use the other device",
    ))
}

/// The same kernels at small sizes: odd numbers of tokens, few heads, one block of each kind.
fn miniature(network: &Network) -> Network {
    match network {
        Network::Uvit(config) => {
            let head_dim = config.embed_dim / config.num_heads;
            // Wide enough for whole groups of what is quantised, if the model is.
            let num_heads = if head_dim.is_multiple_of(8) { 2 } else { 4 };
            Network::Uvit(uvit::Config {
                img_size: 3 * config.patch_size,
                embed_dim: num_heads * head_dim,
                num_heads,
                depth: config.depth.min(2),
                num_classes: config.num_classes.min(3),
                ..config.clone()
            })
        }
    }
}

/// Loads random weights in the stored forms `kinds`, which the matrices take in turn.
pub async fn load_random(
    executor: &mut Executor,
    plan: &Plan,
    kinds: &[(Dtype, usize)],
    generator: &mut TorchGenerator,
) -> Result<()> {
    let mut matrices = 0;
    for (id, weight) in plan.weight_ids() {
        let kind = if weight.usage == WeightUse::Matrix {
            matrices += 1;
            kinds.get(matrices % kinds.len().max(1)).copied()
        } else {
            None
        };
        executor.load(id, weight, &random::tensor(&weight.name, &weight.shape, kind, generator)).await?;
    }
    Ok(())
}

async fn run(executor: &mut Executor, network: &Network, kinds: &[(Dtype, usize)]) -> Result<Vec<f32>> {
    let recording = network.record(Batch { images: 1, copies: 2 })?;
    let mut generator = TorchGenerator::new(0);
    load_random(executor, &recording.plan, kinds, &mut generator).await?;
    let program = lower(&recording.plan, &executor.capabilities(), &[])?;
    let [latents, out] = [recording.latents, recording.out];
    let elements = program.view(latents).elements();
    executor.prepare(program).await?;
    executor.write(latents, &generator.randn_f32(elements))?;
    executor.write_times(&[999.0, 1.5])?;
    if let Some(label) = recording.label {
        let last = network.classes() as u32 - 1;
        executor.write_indices(label, &[0, last])?;
    }
    forward(executor, &|| false).await?;
    let mut values = executor.read(out).await?;
    // The second item's prediction, mixed with the latents and clipped.
    let terms = [(latents, 0, 0.75), (out, elements, -1.25)];
    executor.combine(out, elements, &terms, Some((-1.0, 1.0)))?;
    values.extend(executor.read(out).await?);
    Ok(values)
}

/// The distinct (dtype, group) of the variant's matrices.
pub fn matrix_kinds(variant: &Variant) -> Vec<(Dtype, usize)> {
    let mut kinds: Vec<(Dtype, usize)> = Vec::new();
    for entry in variant.tensors.values().filter(|entry| entry.shape.len() == 2) {
        if !kinds.contains(&(entry.dtype, entry.group)) {
            kinds.push((entry.dtype, entry.group));
        }
    }
    kinds
}
