//! The step loop: walks a sampler's recipe on an executor. Latents, model outputs and the solver's history stay on the
//! device; what crosses is the noise, the times, and a preview where one is asked for.

use super::helpers::{Helpers, Part, split};
use super::noise::Noise;
use super::savings::Pass;
use super::turn::turn;
use super::{Executor, noise};
use crate::model::{Batch, Network, Recording};
use crate::plan::{Role, TensorId, lower};
use crate::sampler::{Recipe, Slot, Step, guidance};
use crate::{Code, Error, Result};
use std::ops::Range;
use web_time::Instant;

/// What is read back at every step. Each costs a wait for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readback {
    /// Nothing.
    None,
    /// The estimate of x0, clipped to [-1, 1].
    Preview,
    /// x_t after the step.
    Latents,
}

/// One step is done; on a GPU its last chunk may still run, unless something is read back.
#[derive(Clone, Debug)]
pub struct StepEvent {
    /// Counted from 1.
    pub step: usize,
    /// How many there will be.
    pub steps: usize,
    /// Since the loop began.
    pub elapsed_ms: f64,
    /// What [`Readback`] asked for, `[count, channels, height, width]`.
    pub values: Option<Vec<f32>>,
}

/// How the caller watches and stops the loop.
pub struct Control<'a> {
    /// Called after every step.
    pub on_step: &'a mut dyn FnMut(StepEvent),
    /// Asked between kernels: true ends the loop with `ABORTED`.
    pub stopped: &'a dyn Fn() -> bool,
}

/// What is sampled.
pub struct Inputs<'a> {
    /// Images.
    pub count: usize,
    /// One label an image; empty for unconditional networks.
    pub labels: &'a [u32],
    /// The label of the unconditional half, needed for guidance.
    pub null_class: Option<u32>,
    /// `uncond + s (cond - uncond)`; 1 is off.
    pub guidance_scale: f64,
    /// `[count, channels, height, width]`, or none: drawn from `noise`.
    pub start: Option<&'a [f32]>,
    /// Where noise comes from.
    pub noise: Noise,
    /// What to read back at every step.
    pub readback: Readback,
    /// What each evaluation runs; empty: all of them everything.
    pub passes: Vec<Pass>,
}

/// A network's Program with the sampler's buffers, ready on an executor.
pub struct Prepared {
    batch: Batch,
    scratch_slots: usize,
    /// What the network reads: the latents themselves, or the first items' copy of them.
    input: TensorId,
    latents: TensorId,
    label: Option<TensorId>,
    /// What the network writes.
    output: TensorId,
    /// The prediction of all items: the output itself, or what all workers gave.
    model: TensorId,
    scratch: Vec<TensorId>,
    preview: TensorId,
    /// The items of each worker, ours first.
    parts: Vec<Range<usize>>,
    /// How many outer blocks every step runs, and the kernels that only whole passes run.
    cached: Option<(usize, Range<usize>)>,
}

impl Prepared {
    /// Records, lowers and prepares the network for `batch`, shared by `workers`, with `scratch_slots` buffers for the
    /// solver; with `outer`, passes that are not whole run so many blocks at either end.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`, `LIMIT_TOO_SMALL`, `SHADER_FAILED`; `INVALID_ARGUMENT` if there are not so many blocks.
    pub async fn new(
        executor: &mut Executor,
        network: &Network,
        batch: Batch,
        scratch_slots: usize,
        workers: usize,
        outer: Option<usize>,
    ) -> Result<Prepared> {
        let parts = split(batch.items(), workers);
        let alone = parts.len() == 1;
        let own = if alone { batch } else { Batch::plain(parts[0].len()) };
        let Recording { mut plan, latents: input, label, out: output, .. } = network.record(own)?;
        let mut shape = plan.shape(input).to_vec();
        let mut persistent = |items: usize| {
            shape[0] = items;
            plan.tensor("", &shape, Role::Persistent)
        };
        let latents = if alone { input } else { persistent(batch.images) };
        let model = if alone { output } else { persistent(batch.items()) };
        let scratch = (0..scratch_slots).map(|_| persistent(batch.images)).collect();
        let preview = persistent(batch.images);
        let inner = outer.map(|outer| network.inner_blocks(outer).ok_or_else(|| too_many_blocks(outer))).transpose()?;
        if let Some(last) = inner.as_ref().and_then(|[_, to]| plan.find(to)) {
            // What the inner blocks make outlives the pass.
            plan.tensors[last.index()].role = Role::Persistent;
        }
        let program = lower(&plan, &executor.capabilities(), &[])?;
        let cached = match (outer, inner) {
            (Some(outer), Some([from, to])) => {
                Some((outer, program.between(&from, &to).ok_or_else(|| too_many_blocks(outer))?))
            }
            _ => None,
        };
        executor.prepare(program).await?;
        Ok(Prepared { batch, scratch_slots, input, latents, label, output, model, scratch, preview, parts, cached })
    }

    /// Whether it serves this batch and recipe with so many workers.
    pub fn fits(&self, batch: Batch, recipe: &Recipe, workers: usize, outer: Option<usize>) -> bool {
        self.batch == batch
            && self.cached.as_ref().map(|(outer, _)| *outer) == outer
            && self.scratch_slots == recipe.scratch_slots
            && self.parts.len() == workers.min(batch.items())
    }

    /// How many workers share the items.
    pub fn workers(&self) -> usize {
        self.parts.len()
    }

    /// Whether [`Prepared::forward`] serves this batch.
    pub fn serves_forward(&self, batch: Batch) -> bool {
        self.batch == batch && self.parts.len() == 1
    }

    /// One forward of given items, checked by the caller.
    ///
    /// # Errors
    /// `ABORTED`, `DEVICE_LOST`.
    pub async fn forward(&self, executor: &mut Executor, part: &Part, stopped: &dyn Fn() -> bool) -> Result<Vec<f32>> {
        executor.write(self.input, &part.latents)?;
        executor.write_times(&part.times)?;
        if let Some(label) = self.label {
            executor.write_indices(label, &part.labels)?;
        }
        forward(executor, stopped).await?;
        executor.read(self.output).await
    }

    /// One forward of our first items, without what a pass that is not whole leaves out.
    async fn run(&self, executor: &mut Executor, whole: bool, items: usize, stopped: &dyn Fn() -> bool) -> Result<()> {
        let end = executor.program()?.kernels.len();
        let items = Some(items).filter(|&items| items < self.parts[0].len());
        match &self.cached {
            Some((_, inner)) if !whole => {
                run(executor, 0..inner.start, items, stopped).await?;
                run(executor, inner.end..end, items, stopped).await
            }
            _ => run(executor, 0..end, items, stopped).await,
        }
    }

    fn slot(&self, slot: Slot) -> Result<TensorId> {
        match slot {
            Slot::Latents => Ok(self.latents),
            Slot::Model => Ok(self.model),
            Slot::Scratch(i) => self
                .scratch
                .get(usize::from(i))
                .copied()
                .ok_or_else(|| Error::internal("a recipe names a slot too many")),
        }
    }
}

/// The batch that inputs need: guidance runs every image twice, unless it is off.
pub fn batch(inputs: &Inputs<'_>) -> Batch {
    Batch { images: inputs.count, copies: if guidance::needs_uncond(inputs.guidance_scale) { 2 } else { 1 } }
}

/// Walks `recipe`; returns the final latents `[count, channels, height, width]`. `helpers` are those that `prepared` was
/// made for.
///
/// # Errors
/// `ABORTED` when stopped, `DEVICE_LOST`, `NOT_FINITE` if the result is not finite.
pub async fn sample(
    executor: &mut Executor,
    prepared: &Prepared,
    recipe: &Recipe,
    mut inputs: Inputs<'_>,
    control: &mut Control<'_>,
    helpers: Option<&dyn Helpers>,
) -> Result<Vec<f32>> {
    let began = Instant::now();
    let view = executor.program()?.view(prepared.latents);
    let (elements, count) = (view.elements(), inputs.count);
    let guided = prepared.batch.copies == 2;

    let mut start = match inputs.start {
        Some(values) if values.len() == elements && values.iter().all(|v| v.is_finite()) => values.to_vec(),
        Some(values) if values.len() == elements => {
            let cause = "the start latents hold a value that is NaN or infinite";
            return Err(Error::new(Code::InvalidArgument, cause, "Give finite values"));
        }
        Some(values) => {
            return Err(Error::new(
                Code::InvalidArgument,
                format!("the start latents hold {} values, {elements} are needed", values.len()),
                "Give [count, channels, height, width] values",
            ));
        }
        None => inputs.noise.draw(count, elements / count),
    };
    start.iter_mut().for_each(|v| *v *= recipe.init_noise_sigma as f32);
    executor.write(prepared.latents, &start)?;
    let mut labels_of_items = Vec::new();
    if let Some(label) = prepared.label {
        let mut labels = inputs.labels.to_vec();
        if guided {
            let null_class = inputs.null_class.ok_or_else(|| Error::internal("guidance without a null class"))?;
            labels.resize(2 * count, null_class);
        }
        labels_of_items = labels;
        executor.write_indices(label, &labels_of_items[prepared.parts[0].clone()])?;
    }

    let terms = |terms: &[(Slot, f64)], guided: bool| -> Result<Vec<(TensorId, usize, f32)>> {
        let mut out = Vec::with_capacity(terms.len() + 1);
        for &(slot, coefficient) in terms {
            let id = prepared.slot(slot)?;
            if slot == Slot::Model && guided {
                let [cond, uncond] = guidance::expand(coefficient, inputs.guidance_scale);
                out.push((id, 0, cond as f32));
                out.push((id, elements, uncond as f32));
            } else {
                out.push((id, 0, coefficient as f32));
            }
        }
        Ok(out)
    };

    let everything = Pass { guided, whole: true };
    let mut pass = everything;
    let mut step = 0;
    let mut preview = None;
    let mut steps = recipe.steps.iter().peekable();
    while let Some(instruction) = steps.next() {
        match instruction {
            Step::Eval { network_time, x0 } => {
                pass = inputs.passes.get(step).copied().unwrap_or(everything);
                let items = if pass.guided == guided { prepared.batch.items() } else { count };
                executor.write_times(&vec![*network_time; prepared.parts[0].len()])?;
                match helpers.filter(|_| prepared.workers() > 1) {
                    None => prepared.run(executor, pass.whole, items, control.stopped).await?,
                    Some(helpers) => {
                        let all = Shared { prepared, labels: &labels_of_items, time: *network_time, items };
                        all.forward(executor, helpers, control.stopped).await?;
                    }
                }
                turn().await;
                if (control.stopped)() {
                    return Err(aborted());
                }
                if inputs.readback == Readback::Preview {
                    let x0 = terms(&[(Slot::Latents, x0[0]), (Slot::Model, x0[1])], pass.guided)?;
                    executor.combine(prepared.preview, elements, &x0, Some((-1.0, 1.0)))?;
                    preview = Some(executor.read(prepared.preview).await?);
                }
                step += 1;
            }
            Step::Combine { out, terms: sum, clip } => {
                let sum: Vec<(Slot, f64)> = sum.iter().map(|t| (t.slot, t.coefficient)).collect();
                let clip = clip.map(|(low, high)| (low as f32, high as f32));
                executor.combine(prepared.slot(*out)?, elements, &terms(&sum, pass.guided)?, clip)?;
            }
            Step::Noise { out } => {
                let values = inputs.noise.draw(count, elements / count);
                executor.write(prepared.slot(*out)?, &values)?;
            }
        }
        if matches!(steps.peek(), None | Some(Step::Eval { .. })) {
            let values = match inputs.readback {
                Readback::None => None,
                Readback::Preview => preview.take(),
                Readback::Latents => Some(executor.read(prepared.latents).await?),
            };
            let elapsed_ms = began.elapsed().as_secs_f64() * 1e3;
            (control.on_step)(StepEvent { step, steps: recipe.evaluations, elapsed_ms, values });
        }
    }
    let result = executor.read(prepared.latents).await?;
    finite(&result, "Lower the guidance scale, or raise the number of steps")?;
    Ok(result)
}

/// Whether a result is finite.
///
/// # Errors
/// `NOT_FINITE` naming the first value that is not.
pub fn finite(values: &[f32], remedy: &str) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(i) => Err(Error::new(Code::NotFinite, format!("value {i} of the result is {}", values[i]), remedy)),
    }
}

/// One forward of all items, on all workers.
struct Shared<'a> {
    prepared: &'a Prepared,
    /// Of all items; empty for networks without labels.
    labels: &'a [u32],
    time: f64,
    /// The first of them, which alone are needed.
    items: usize,
}

impl Shared<'_> {
    async fn forward(&self, executor: &mut Executor, helpers: &dyn Helpers, stopped: &dyn Fn() -> bool) -> Result<()> {
        let Prepared { batch, parts, .. } = self.prepared;
        let latents = executor.read(self.prepared.latents).await?;
        let size = latents.len() / batch.images;
        let of_items = |items: &Range<usize>| -> Vec<f32> {
            items.clone().flat_map(|i| &latents[i % batch.images * size..][..size]).copied().collect()
        };
        let needed = |items: &Range<usize>| items.start.min(self.items)..items.end.min(self.items);
        let parts: Vec<Range<usize>> = parts.iter().map(needed).filter(|items| !items.is_empty()).collect();
        let mut pending = Vec::with_capacity(parts.len() - 1);
        for (index, items) in parts[1..].iter().enumerate() {
            let labels = self.labels.get(items.clone()).unwrap_or_default().to_vec();
            let part = Part { latents: of_items(items), times: vec![self.time; items.len()], labels };
            pending.push(helpers.forward(index, part));
        }
        executor.write(self.prepared.input, &of_items(&self.prepared.parts[0]))?;
        self.prepared.run(executor, true, parts[0].len(), stopped).await?;
        let mut all = executor.read(self.prepared.output).await?;
        all.truncate(parts[0].len() * size);
        for (answer, items) in pending.into_iter().zip(&parts[1..]) {
            let values = answer.await?;
            if values.len() != items.len() * size {
                return Err(Error::internal(format!("a helper gave {} values for {items:?}", values.len())));
            }
            all.extend(values);
        }
        all.resize(batch.items() * size, 0.0);
        if stopped() {
            return Err(aborted());
        }
        executor.write(self.prepared.model, &all)
    }
}

fn too_many_blocks(outer: usize) -> Error {
    let cause = format!("the network has no blocks between {outer} at either end");
    Error::new(Code::InvalidArgument, cause, "Correct the manifest's sampling.cache, or switch cache off")
}

fn aborted() -> Error {
    Error::new(Code::Aborted, "the generation was stopped", "Call generate again")
}

/// One run of the whole Program, in chunks, with a turn for the host between them. A GPU may still work on the last one.
pub async fn forward(executor: &mut Executor, stopped: &dyn Fn() -> bool) -> Result<()> {
    let kernels = 0..executor.program()?.kernels.len();
    run(executor, kernels, None, stopped).await
}

async fn run(
    executor: &mut Executor,
    mut kernels: Range<usize>,
    items: Option<usize>,
    stopped: &dyn Fn() -> bool,
) -> Result<()> {
    while !kernels.is_empty() {
        kernels.start = executor.run(kernels.clone(), items, executor.budget())?;
        executor.keep_pace().await?;
        if !kernels.is_empty() {
            turn().await;
        }
        if stopped() {
            return Err(aborted());
        }
    }
    Ok(())
}

/// Noise of `generate()`: image k of a call has seed + k.
///
/// # Errors
/// `INVALID_ARGUMENT` if seed + count - 1 exceeds 2^32 - 1.
pub fn noise_for(seed: u32, count: usize) -> Result<noise::Noise> {
    if u64::from(seed) + count as u64 > 1 << 32 {
        return Err(Error::new(
            Code::InvalidArgument,
            format!("seed {seed} with {count} images goes beyond 4294967295"),
            "Give a smaller seed or count",
        ));
    }
    Ok(Noise::per_image(seed, count))
}
