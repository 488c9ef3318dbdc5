//! The inputs that a network's matrices see, and rounding with error compensation by them.

use super::convert::Part;
use super::examples::{Examples, conditions, exact, walk};
use super::progress::Progress;
use uvit_web::Result;
use uvit_web::model::{Batch, Network, Recording};
use uvit_web::package::{Storing, Writer};
use uvit_web::plan::{Activation, Kernel, Op, Rows, TensorId, WeightId, lower};
use uvit_web::runtime::Session;
use uvit_web::sampler::{SamplerSettings, TorchGenerator};
use uvit_web::simd::{F32Matrix, Finish, Level, Threads, f32_matmul};
use uvit_web::weights::checkpoint::Source;
use uvit_web::weights::gptq::InputFactor;

/// Pictures that are drawn together, at most.
const BATCH: usize = 6;

/// Fewer where their widest tensor would take more: every layer that is looked at keeps a few like it.
const BATCH_BYTES: usize = 1 << 24;

/// Sums that are held at once: layers beyond it wait for another pass over the same forwards.
const MOST_BYTES: usize = 1 << 30;

/// Multiply-adds of one pass over the forwards: pictures are drawn in fewer steps where they would take more.
const MOST_WORK: u64 = 20_000_000_000_000;

/// What a matrix sees.
struct Feed {
    weight: WeightId,
    /// Columns.
    features: usize,
    /// The tensors, side by side, of every Linear that it has, and which of their tokens.
    uses: Vec<(Vec<TensorId>, Option<Rows>)>,
}

/// Rounds every matrix of a component that `storing` makes coarse by what it sees in `examples`. Some layers at a time: the sums
/// of all would take several times the model. Their inputs are kept readable, so this runs on the CPU. The network's f32 weights
/// are in memory once. What is rounded is kept in `writer`, and what an interrupted run kept there is not rounded again.
pub fn compensate(
    part: &mut Part<'_>,
    examples: Examples<'_>,
    storing: &mut Storing,
    writer: &mut Writer,
) -> Result<()> {
    let Part { source, network, found } = part;
    within(MOST_BYTES, (&source.component, network), found, examples, storing, Some(writer))
}

fn within(
    most_bytes: usize,
    (name, network): (&str, &Network),
    source: &mut dyn Source,
    examples: Examples<'_>,
    storing: &mut Storing,
    mut writer: Option<&mut Writer>,
) -> Result<()> {
    let batch = match &examples {
        Examples::Ready(batch, _) => *batch,
        Examples::Drawn { .. } => batch(network)?,
    };
    let mut recording = network.record(Batch::plain(batch))?;
    let mut feeds = feeds(&mut recording, storing);
    if let Some(writer) = &writer {
        feeds.retain(|feed| match writer.rounded(name, storing, &recording.plan.weights[feed.weight.index()]) {
            Some(tensor) => {
                storing.keep(tensor);
                false
            }
            None => true,
        });
    }
    if feeds.is_empty() {
        return Ok(());
    }
    let weights = exact(network, source)?;
    let cost = lower(&recording.plan, &weights.capabilities(), &[])?.cost().multiply_adds;
    let threads = Threads::all();
    let groups = groups(&feeds, most_bytes);
    let (mut forwards, drawing) = match examples {
        Examples::Ready(_, forwards) => (forwards, None),
        Examples::Drawn { pictures, sampling, texts } => {
            let batches = pictures.div_ceil(batch);
            let settings = steps_within(MOST_WORK, cost, batches, sampling.settings());
            (Vec::new(), Some((batches, settings, texts, sampling.time_scale)))
        }
    };
    let pass = drawing.as_ref().map_or(forwards.len(), |(batches, settings, ..)| batches * settings.steps);
    let what = format!("calibrating {name} {}", storing.dtype.as_str());
    let mut progress = Progress::new(what, (groups.len() * pass + feeds.len()) as u64);
    for (nth, group) in groups.iter().enumerate() {
        let inputs = group.iter().flat_map(|feed| feed.uses.iter().flat_map(|(inputs, _)| inputs));
        let kept: Vec<&str> = inputs.map(|&id| recording.plan.tensors[id.index()].name.as_str()).collect();
        let program = lower(&recording.plan, &weights.capabilities(), &kept)?;
        let end = last_write(&program.kernels, group);
        let mut session = pollster::block_on(Session::new(&weights, program, None))?;
        let mut sums: Vec<Products> = group.iter().map(|feed| Products::new(feed.features)).collect();
        let mut look = |session: &mut Session| {
            for (feed, sum) in group.iter().zip(&mut sums) {
                for (inputs, rows) in &feed.uses {
                    let mut parts = Vec::new();
                    for &id in inputs {
                        let mut values = pollster::block_on(session.read(id))?;
                        let view = session.program().view(id);
                        let (dim, of_item) = (view.dim(), view.shape[1..].iter().product());
                        if let Some(rows) = rows {
                            let some = rows.first * dim..(rows.first + rows.count) * dim;
                            values = values.chunks(of_item).flat_map(|item| &item[some.clone()]).copied().collect();
                        }
                        parts.push((dim, values));
                    }
                    sum.add(&parts, &threads);
                }
            }
            progress.step();
            Ok(())
        };
        match &drawing {
            Some((batches, settings, texts, time_scale)) if nth == 0 => {
                for k in 0..*batches {
                    let given = conditions(network, &recording, (k, batch), *texts, *time_scale);
                    // Seeds apart from those that quality is measured with.
                    let noise = TorchGenerator::new(900_000 + (k * batch) as u64);
                    walk(&mut session, &recording, settings, given, noise, &mut |session, given| {
                        forwards.push(given);
                        look(session)
                    })?;
                }
            }
            _ => {
                for given in &forwards {
                    given.write(&mut session, &recording)?;
                    session.run(0..end, None, u64::MAX)?;
                    look(&mut session)?;
                }
            }
        }
        drop(session);
        for (feed, sum) in group.iter().zip(sums) {
            let factor = InputFactor::new(sum.whole(), feed.features);
            let weight = &recording.plan.weights[feed.weight.index()];
            let tensor = storing.compensate(weight, &source.weight(weight)?, &factor);
            if let Some(writer) = &mut writer {
                writer.keep_rounded(name, storing, weight, &tensor)?;
            }
            storing.keep(tensor);
            progress.step();
        }
    }
    Ok(())
}

/// How many pictures are drawn together.
pub fn batch(network: &Network) -> Result<usize> {
    let plan = network.record(Batch::plain(1))?.plan;
    let a_picture = plan.tensors.iter().map(|tensor| 4 * tensor.shape.iter().product::<usize>()).max();
    Ok((BATCH_BYTES / a_picture.unwrap_or(1).max(1)).clamp(1, BATCH))
}

/// As many steps as so much work allows, four at least: every forward costs about as much as another.
pub fn steps_within(most: u64, a_forward: u64, batches: usize, settings: SamplerSettings) -> SamplerSettings {
    let allowed = most / (a_forward.max(1) * batches.max(1) as u64);
    SamplerSettings { steps: settings.steps.min((allowed as usize).max(4)), ..settings }
}

/// Which tensors feed the matrices that are to be rounded; unnamed ones get a name, so that lowering keeps them.
fn feeds(recording: &mut Recording, storing: &Storing) -> Vec<Feed> {
    let plan = &mut recording.plan;
    let mut feeds: Vec<Feed> = Vec::new();
    for op in plan.ops.clone() {
        let Op::Linear { x, skip, weight, rows, .. } = op else { continue };
        if !storing.is_coarse(&plan.weights[weight.index()]) {
            continue;
        }
        let inputs: Vec<TensorId> = [Some(x), skip].into_iter().flatten().collect();
        inputs.iter().for_each(|&id| plan.name(id));
        match feeds.iter_mut().find(|feed| feed.weight == weight) {
            Some(feed) => feed.uses.push((inputs, rows)),
            None => {
                let features = inputs.iter().map(|&id| plan.shape(id).last().copied().unwrap_or(1)).sum();
                feeds.push(Feed { weight, features, uses: vec![(inputs, rows)] });
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
        let more = 4 * feed.features * (feed.features + 1);
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
    let read = |id: TensorId| group.iter().any(|feed| feed.uses.iter().any(|(inputs, _)| inputs.contains(&id)));
    kernels.iter().rposition(|kernel| read(kernel.writes())).map_or(0, |at| at + 1)
}

/// The sum of all `X^T X` `[n, n]`: its upper triangle, row after row. Products in f32, sums in f64.
struct Products {
    n: usize,
    sums: Vec<f64>,
}

/// Rows of the triangle that are multiplied at once.
const ROWS: usize = 256;

impl Products {
    fn new(n: usize) -> Products {
        Products { n, sums: vec![0.0; n * (n + 1) / 2] }
    }

    /// X is the rows of the parts side by side.
    fn add(&mut self, parts: &[(usize, Vec<f32>)], threads: &Threads) {
        let n = self.n;
        let rows = parts[0].1.len() / parts[0].0;
        let mut transposed = Vec::with_capacity(n * rows);
        for (dim, values) in parts {
            for column in 0..*dim {
                transposed.extend((0..rows).map(|r| values[r * dim + column]));
            }
        }
        let level = Level::detect();
        let plain = Finish { bias: None, activation: Activation::None, gate: None, residual: None, coarse: false };
        let mut sums = self.sums.as_mut_slice();
        for first in (0..n).step_by(ROWS) {
            let (count, wide) = (ROWS.min(n - first), n - first);
            let x = &transposed[first * rows..];
            let matrix = F32Matrix::new(level, x, wide, rows);
            let mut products = vec![0f32; count * wide];
            let x = &x[..count * rows];
            threads.enter(|| f32_matmul(level, threads, (x, rows), (&[], 0), &matrix, plain, &mut products));
            for (i, row) in products.chunks(wide).enumerate() {
                let (own, rest) = sums.split_at_mut(wide - i);
                own.iter_mut().zip(&row[i..]).for_each(|(sum, v)| *sum += f64::from(*v));
                sums = rest;
            }
        }
    }

    /// Both triangles.
    fn whole(self) -> Vec<f64> {
        let n = self.n;
        let mut whole = vec![0.0; n * n];
        let mut sums = self.sums.iter();
        for r in 0..n {
            for (c, &sum) in (r..n).zip(&mut sums) {
                (whole[r * n + c], whole[c * n + r]) = (sum, sum);
            }
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uvit_web::package::{DENOISER, describe, store};
    use uvit_web::weights::checkpoint::Checkpoint;
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
        let mut checkpoint: Checkpoint = plan
            .published()
            .map(|weight| {
                let values = random::tensor(&weight.name, &weight.shape, None, &mut generator).to_f32();
                (weight.name.clone(), (weight.shape.clone(), values))
            })
            .collect();
        let mut tensors = |most_bytes| {
            let mut storing = Storing::plain(Dtype::Q8);
            let examples = Examples::Drawn { pictures: 7, sampling: &manifest.sampling, texts: None };
            within(most_bytes, (DENOISER, &network), &mut checkpoint, examples, &mut storing, None).unwrap();
            store(&network, &mut checkpoint, &storing).unwrap()
        };
        let (all, one) = (tensors(MOST_BYTES), tensors(1));
        assert_eq!(all, one);
        assert_ne!(all, store(&network, &mut checkpoint, &Storing::plain(Dtype::Q8)).unwrap());
    }

    #[test]
    fn the_sum_of_products_is_what_it_is() {
        let (n, rows) = (2 * ROWS + 7, 5);
        let x = TorchGenerator::new(3).randn_f32(n * rows);
        let (left, right): (Vec<f32>, Vec<f32>) = (
            x.chunks(n).flat_map(|row| &row[..100]).copied().collect(),
            x.chunks(n).flat_map(|row| &row[100..]).copied().collect(),
        );
        let mut sum = Products::new(n);
        sum.add(&[(100, left), (n - 100, right)], &Threads::all());
        let whole = sum.whole();
        for (r, c) in [(0, 0), (3, 400), (400, 3), (ROWS, ROWS - 1), (n - 1, n - 1), (n - 1, 0)] {
            let want: f64 = x.chunks(n).map(|row| f64::from(row[r]) * f64::from(row[c])).sum();
            assert!((whole[r * n + c] - want).abs() < 1e-5, "{r}, {c}");
        }
    }

    #[test]
    fn large_networks_draw_in_fewer_steps() {
        let manifest = uvit_web::package::preset("cifar10_uvit_small").unwrap().manifest().unwrap();
        let settings = |steps| SamplerSettings { steps, ..manifest.sampling.settings() };
        assert_eq!(steps_within(1000, 10, 2, settings(50)).steps, 50);
        assert_eq!(steps_within(1000, 50, 2, settings(50)).steps, 10);
        assert_eq!(steps_within(1000, 500, 2, settings(50)).steps, 4);
        assert_eq!(steps_within(1000, 500, 2, settings(3)).steps, 3);
    }
}
