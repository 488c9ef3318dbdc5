//! The inputs that a model's matrices see while it draws, and rounding with error compensation by them.

use std::collections::BTreeMap;
use uvit_web::model::{Batch, Recording};
use uvit_web::package::{DENOISER, Manifest, Storing};
use uvit_web::plan::{Activation, Compute, Kernel, Op, TensorId, WeightId, lower};
use uvit_web::runtime::{Device, Loading, Session};
use uvit_web::sampler::{SamplerSettings, TorchGenerator};
use uvit_web::simd::{F32Matrix, Finish, Level, Threads, f32_matmul};
use uvit_web::weights::checkpoint::Checkpoint;
use uvit_web::weights::gptq::InputFactor;
use uvit_web::weights::{Data, Tensor};
use uvit_web::{Error, Result};

/// Pictures that are drawn together.
const BATCH: usize = 6;

/// Sums that are held at once: layers beyond it wait for another pass over the same forwards.
const MOST_BYTES: usize = 1 << 30;

/// What a matrix sees.
struct Feed {
    weight: WeightId,
    /// Columns.
    features: usize,
    /// The tensors, side by side, of every Linear that it has.
    uses: Vec<Vec<TensorId>>,
}

/// What the network is given for one forward.
pub struct Given {
    labels: Vec<u32>,
    latents: Vec<f32>,
    time: f64,
}

/// Rounds every matrix that `storing` makes coarse by what it sees in `pictures` sampling runs, labels in turn, unguided. Some
/// layers at a time: the sums of all would take several times the model. Their inputs are kept readable, so this runs on the
/// CPU.
pub fn compensate(manifest: &Manifest, checkpoint: &Checkpoint, pictures: usize, storing: &mut Storing) -> Result<()> {
    within(MOST_BYTES, manifest, checkpoint, pictures, storing)
}

fn within(
    most_bytes: usize,
    manifest: &Manifest,
    checkpoint: &Checkpoint,
    pictures: usize,
    storing: &mut Storing,
) -> Result<()> {
    let network = manifest.network(DENOISER)?;
    let mut recording = network.record(Batch::plain(BATCH))?;
    let feeds = feeds(&mut recording, storing);
    let device = Device::cpu(Threads::all());
    let mut loading = Loading::new(&device, Compute::F32)?;
    for (id, weight, form) in recording.plan.loads(Compute::F32) {
        let (shape, values) = &checkpoint[&weight.name];
        let tensor = Tensor { name: weight.name.clone(), shape: shape.clone(), data: Data::F32(values.clone()) };
        pollster::block_on(loading.load(id, weight, form, &tensor))?;
    }
    let weights = pollster::block_on(loading.finish())?;

    let threads = Threads::all();
    let classes = network.classes().max(1) as u32;
    let mut forwards: Vec<Given> = Vec::new();
    let groups = groups(&feeds, most_bytes);
    let bar = indicatif::ProgressBar::new((groups.len() * pictures.div_ceil(BATCH)) as u64).with_message("calibrating");
    for (nth, group) in groups.iter().enumerate() {
        let inputs = group.iter().flat_map(|feed| feed.uses.iter().flatten());
        let kept: Vec<&str> = inputs.map(|&id| recording.plan.tensors[id.index()].name.as_str()).collect();
        let program = lower(&recording.plan, &weights.capabilities(), &kept)?;
        let end = last_write(&program.kernels, group);
        let mut session = pollster::block_on(Session::new(&weights, program, None))?;
        let mut sums: Vec<Vec<f64>> = group.iter().map(|feed| vec![0.0; feed.features * feed.features]).collect();
        let mut look = |session: &mut Session| {
            for (feed, sum) in group.iter().zip(&mut sums) {
                for inputs in &feed.uses {
                    let mut parts = Vec::new();
                    for &id in inputs {
                        parts.push((session.program().view(id).dim(), pollster::block_on(session.read(id))?));
                    }
                    add(sum, &parts, &threads);
                }
            }
            Ok(())
        };
        if nth == 0 {
            for first in (0..pictures).step_by(BATCH) {
                let labels: Vec<u32> = (first..first + BATCH).map(|i| i as u32 % classes).collect();
                // Seeds apart from those that quality is measured with.
                let noise = TorchGenerator::new(900_000 + first as u64);
                walk(
                    &mut session,
                    &recording,
                    &manifest.sampling.settings(),
                    &labels,
                    noise,
                    &mut |session, given| {
                        forwards.push(given);
                        look(session)
                    },
                )?;
                bar.inc(1);
            }
        } else {
            let a_batch = forwards.len() / pictures.div_ceil(BATCH);
            for (i, given) in forwards.iter().enumerate() {
                give(&mut session, &recording, given)?;
                session.run(0..end, None, u64::MAX)?;
                look(&mut session)?;
                if (i + 1) % a_batch == 0 {
                    bar.inc(1);
                }
            }
        }
        drop(session);
        for (feed, sum) in group.iter().zip(sums) {
            let factor = InputFactor::new(sum, feed.features);
            let weight = &recording.plan.weights[feed.weight.index()];
            storing.compensate(weight, &checkpoint[&weight.name].1, &factor);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Which tensors feed the matrices that are to be rounded; unnamed ones get a name, so that lowering keeps them.
fn feeds(recording: &mut Recording, storing: &Storing) -> Vec<Feed> {
    let plan = &mut recording.plan;
    let mut feeds: Vec<Feed> = Vec::new();
    for op in plan.ops.clone() {
        let Op::Linear { x, skip, weight, .. } = op else { continue };
        if !storing.is_coarse(&plan.weights[weight.index()]) {
            continue;
        }
        let inputs: Vec<TensorId> = [Some(x), skip].into_iter().flatten().collect();
        inputs.iter().for_each(|&id| plan.name(id));
        match feeds.iter_mut().find(|feed| feed.weight == weight) {
            Some(feed) => feed.uses.push(inputs),
            None => {
                let features = inputs.iter().map(|&id| plan.shape(id).last().copied().unwrap_or(1)).sum();
                feeds.push(Feed { weight, features, uses: vec![inputs] });
            }
        }
    }
    feeds
}

/// As many at a time as their sums fit, one at least.
fn groups(feeds: &[Feed], most_bytes: usize) -> Vec<&[Feed]> {
    let mut groups = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (i, feed) in feeds.iter().enumerate() {
        let more = 8 * feed.features * feed.features;
        if i > from && bytes + more > most_bytes {
            groups.push(&feeds[from..i]);
            (from, bytes) = (i, 0);
        }
        bytes += more;
    }
    groups.push(&feeds[from..]);
    groups
}

/// Behind the last kernel that writes what a group looks at.
fn last_write(kernels: &[Kernel], group: &[Feed]) -> usize {
    let read = |id: TensorId| group.iter().any(|feed| feed.uses.iter().flatten().any(|&input| input == id));
    kernels.iter().rposition(|kernel| read(kernel.writes())).map_or(0, |at| at + 1)
}

/// What a forward reads.
fn give(session: &mut Session, recording: &Recording, given: &Given) -> Result<()> {
    let picture = recording.picture()?;
    if let Some(label) = recording.label() {
        session.write_indices(label, &given.labels)?;
    }
    session.write(picture.input, &given.latents)?;
    session.write_times(picture.time, &vec![given.time; given.labels.len()])
}

/// One batch from noise to picture, unguided; `look` sees the session after every forward, and what that was given.
pub fn walk(
    session: &mut Session,
    recording: &Recording,
    settings: &SamplerSettings,
    labels: &[u32],
    mut noise: TorchGenerator,
    look: &mut dyn FnMut(&mut Session, Given) -> Result<()>,
) -> Result<()> {
    use uvit_web::sampler::{Slot, Step, recipe};
    let recipe = recipe(settings)?;
    let picture = recording.picture()?;
    let elements = session.program().view(picture.input).elements();
    let mut slots: BTreeMap<u8, Vec<f32>> = BTreeMap::new();
    let mut latents = noise.randn_f32(elements);
    let mut model = Vec::new();
    for step in &recipe.steps {
        match step {
            Step::Eval { network_time, .. } => {
                let given = Given { labels: labels.to_vec(), latents: latents.clone(), time: *network_time };
                give(session, recording, &given)?;
                pollster::block_on(session.forward(&|| false))?;
                model = pollster::block_on(session.read(picture.output))?;
                look(session, given)?;
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
            Step::Arrive { .. } => {}
            Step::Noise { .. } => latents = noise.randn_f32(elements),
        }
    }
    Ok(())
}

/// `sum += X^T X`, X the rows of the parts side by side. Products in f32, sums in f64.
fn add(sum: &mut [f64], parts: &[(usize, Vec<f32>)], threads: &Threads) {
    let n: usize = parts.iter().map(|(dim, _)| dim).sum();
    let rows = parts[0].1.len() / parts[0].0;
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

#[cfg(test)]
mod tests {
    use super::*;
    use uvit_web::package::{describe, store};
    use uvit_web::weights::{Dtype, random};

    #[test]
    fn passes_over_a_few_layers_give_what_one_over_all_gives() {
        let config = r#"{
            "img_size": 8, "patch_size": 2, "in_chans": 3, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2,
            "qkv_bias": false, "mlp_time_embed": false, "num_classes": 3, "conv": true, "skip": true,
            "schedule": { "type": "vp_linear", "beta_min": 0.1, "beta_max": 20 }, "prediction": "noise",
            "time_scale": 999, "sampler": "ddim", "steps": 3, "guidance_scale": 1
        }"#;
        let manifest = describe(config, None, None).unwrap();
        let network = manifest.network(DENOISER).unwrap();
        let mut generator = TorchGenerator::new(7);
        let plan = network.record(Batch::plain(1)).unwrap().plan;
        let checkpoint: Checkpoint = plan
            .published()
            .map(|weight| {
                let values = random::tensor(&weight.name, &weight.shape, None, &mut generator).to_f32();
                (weight.name.clone(), (weight.shape.clone(), values))
            })
            .collect();
        let tensors = |most_bytes| {
            let mut storing = Storing::plain(Dtype::Q8);
            within(most_bytes, &manifest, &checkpoint, 7, &mut storing).unwrap();
            store(&network, &checkpoint, &storing).unwrap()
        };
        let (all, one) = (tensors(MOST_BYTES), tensors(1));
        assert_eq!(all, one);
        assert_ne!(all, store(&network, &checkpoint, &Storing::plain(Dtype::Q8)).unwrap());
    }
}
