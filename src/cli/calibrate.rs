//! The inputs that a model's matrices see while it draws: `X^T X` of each, for rounding with error compensation.

use std::collections::BTreeMap;
use uvit_web::model::Batch;
use uvit_web::package::{DENOISER, Manifest};
use uvit_web::plan::{Activation, Compute, Op, TensorId, lower};
use uvit_web::runtime::{Device, Loading, Session};
use uvit_web::sampler::{SamplerSettings, TorchGenerator};
use uvit_web::simd::{F32Matrix, Finish, Level, Threads, f32_matmul};
use uvit_web::weights::checkpoint::Checkpoint;
use uvit_web::weights::{Data, Tensor};
use uvit_web::{Error, Result};

/// `X^T X` by weight name over `pictures` sampling runs of a few steps, labels in turn, unguided. Every linear layer's
/// input is kept readable, so this runs on the CPU.
pub fn hessians(manifest: &Manifest, weights: &Checkpoint, pictures: usize) -> Result<BTreeMap<String, Vec<f64>>> {
    const BATCH: usize = 6;
    let network = manifest.network(DENOISER)?;
    let mut recording = network.record(Batch::plain(BATCH))?;
    // Which tensors feed which matrix; unnamed ones get a name, so that lowering keeps them.
    let mut feeds: Vec<(String, Vec<TensorId>)> = Vec::new();
    for op in recording.plan.ops.clone() {
        if let Op::Linear { x, skip, weight, .. } = op {
            let inputs: Vec<TensorId> = [Some(x), skip].into_iter().flatten().collect();
            for &id in &inputs {
                recording.plan.name(id);
            }
            feeds.push((recording.plan.weights[weight.index()].name.clone(), inputs));
        }
    }
    let names: Vec<String> = recording.plan.tensors.iter().map(|t| t.name.clone()).collect();
    let keep: Vec<&str> = names.iter().map(String::as_str).filter(|n| !n.is_empty()).collect();

    let mut loading = Loading::new(&Device::cpu(Threads::all()), Compute::F32)?;
    for (id, weight, form) in recording.plan.loads(Compute::F32) {
        let (shape, values) = &weights[&weight.name];
        let tensor = Tensor { name: weight.name.clone(), shape: shape.clone(), data: Data::F32(values.clone()) };
        pollster::block_on(loading.load(id, weight, form, &tensor))?;
    }
    let weights = pollster::block_on(loading.finish())?;
    let program = lower(&recording.plan, &weights.capabilities(), &keep)?;
    let mut session = pollster::block_on(Session::new(&weights, program, None))?;

    let settings = manifest.sampling.settings();
    let threads = Threads::all();
    let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let classes = network.classes().max(1) as u32;
    let progress = indicatif::ProgressBar::new(pictures as u64).with_message("calibrating");
    for first in (0..pictures).step_by(BATCH) {
        let labels: Vec<u32> = (first..first + BATCH).map(|i| i as u32 % classes).collect();
        // Seeds apart from those that quality is measured with.
        let noise = TorchGenerator::new(900_000 + first as u64);
        walk(&mut session, &recording, &settings, &labels, noise, &mut |session| {
            for (name, inputs) in &feeds {
                let parts = inputs
                    .iter()
                    .map(|&id| Ok((session.program().view(id).dim(), pollster::block_on(session.read(id))?)))
                    .collect::<Result<Vec<_>>>()?;
                add(sums.entry(name.clone()).or_default(), &parts, &threads);
            }
            Ok(())
        })?;
        progress.inc(BATCH as u64);
    }
    progress.finish_and_clear();
    Ok(sums)
}

/// One batch from noise to picture, unguided; `look` sees the session after every forward.
pub fn walk(
    session: &mut Session,
    recording: &uvit_web::model::Recording,
    settings: &SamplerSettings,
    labels: &[u32],
    mut noise: TorchGenerator,
    look: &mut dyn FnMut(&mut Session) -> Result<()>,
) -> Result<()> {
    use uvit_web::sampler::{Slot, Step, recipe};
    let recipe = recipe(settings)?;
    let picture = recording.picture()?;
    let elements = session.program().view(picture.input).elements();
    let mut slots: BTreeMap<u8, Vec<f32>> = BTreeMap::new();
    let mut latents = noise.randn_f32(elements);
    let mut model = Vec::new();
    if let Some(label) = recording.label() {
        session.write_indices(label, labels)?;
    }
    for step in &recipe.steps {
        match step {
            Step::Eval { network_time, .. } => {
                session.write(picture.input, &latents)?;
                session.write_times(picture.time, &vec![*network_time; labels.len()])?;
                pollster::block_on(session.forward(&|| false))?;
                model = pollster::block_on(session.read(picture.output))?;
                look(session)?;
            }
            Step::Combine { out, terms, clip } => {
                let mut sum = vec![0f32; elements];
                for term in terms {
                    let values = match term.slot {
                        Slot::Latents => &latents,
                        Slot::Model => &model,
                        Slot::Scratch(i) => slots.get(&i).ok_or_else(|| Error::internal("an empty slot"))?,
                    };
                    sum.iter_mut().zip(values).for_each(|(s, v)| *s += term.coefficient as f32 * v);
                }
                if let Some((low, high)) = clip {
                    sum.iter_mut().for_each(|s| *s = s.clamp(*low as f32, *high as f32));
                }
                match out {
                    Slot::Scratch(i) => drop(slots.insert(*i, sum)),
                    _ => latents = sum,
                }
            }
            Step::Noise { out: Slot::Scratch(i) } => drop(slots.insert(*i, noise.randn_f32(elements))),
            Step::Noise { .. } => latents = noise.randn_f32(elements),
        }
    }
    Ok(())
}

/// `sum += X^T X`, X the rows of the parts side by side. Products in f32, sums in f64.
fn add(sum: &mut Vec<f64>, parts: &[(usize, Vec<f32>)], threads: &Threads) {
    let n: usize = parts.iter().map(|(dim, _)| dim).sum();
    let rows = parts[0].1.len() / parts[0].0;
    sum.resize(n * n, 0.0);
    let mut transposed = Vec::with_capacity(n * rows);
    for (dim, values) in parts {
        for column in 0..*dim {
            transposed.extend((0..rows).map(|r| values[r * dim + column]));
        }
    }
    let level = Level::detect();
    let matrix = F32Matrix::new(level, &transposed, n, rows);
    let plain = Finish { bias: None, activation: Activation::None, residual: None, coarse: false };
    let mut products = vec![0f32; n * n];
    threads.enter(|| f32_matmul(level, threads, (&transposed, rows), (&[], 0), &matrix, plain, &mut products));
    sum.iter_mut().zip(&products).for_each(|(sum, v)| *sum += f64::from(*v));
}
