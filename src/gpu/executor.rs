//! Owns the weights and one Program's memory and launches on a device. Everything is allocated, compiled and bound in
//! [`Executor::prepare`]; running only writes parameters and submits.

use super::backend::{Backend, Buffer, Dispatch, Pipeline, Slice, Ticket, Usage};
use super::kernels::{self, Binding, Launch, Tuning, Variant, WeightLayouts};
use super::pace::Pace;
use super::pack::{Storage, pack};
use crate::plan::{Capabilities, Compute, Kernel, Place, Program, TensorId, Weight, WeightId};
use crate::{Code, Error, Result, weights};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;
use web_time::Instant;

/// Combinations that one submission can hold; each has its own parameters.
const COMBINES: usize = 8;
/// Uniform blocks start at multiples of this.
const UNIFORM_ALIGN: usize = 256;

struct DeviceWeight {
    values: Buffer,
    scales: Option<Buffer>,
    storage: Storage,
    group4: usize,
    groups: usize,
}

/// A Program made ready: its memory and its launches.
pub(super) struct Prepared {
    pub(super) program: Program,
    io: Buffer,
    slabs: Vec<Buffer>,
    uniforms: Buffer,
    pub(super) launches: Vec<Dispatch>,
    combines: Vec<Dispatch>,
    /// The launches of the first so many items.
    part: Option<(usize, Vec<Dispatch>)>,
}

/// Runs Programs on a GPU.
pub struct Executor {
    pub(super) backend: Backend,
    compute: Compute,
    weights: Weights,
    tuning: Tuning,
    pipelines: Vec<(Variant, Pipeline)>,
    prepared: Option<Prepared>,
    /// (tensors touched, workgroups) of combinations that are not submitted yet.
    pending_combines: Vec<(Vec<TensorId>, [u32; 3])>,
    dispatches: u64,
    multiply_adds: u64,
    /// Host time that submissions took.
    encode: Duration,
    /// Runs that may still go on, the oldest first.
    running: VecDeque<Run>,
    pace: Pace,
}

/// A submission that may still be running.
struct Run {
    ticket: Ticket,
    multiply_adds: u64,
    submitted: Instant,
}

/// Weights on a device, by their ids.
#[derive(Default)]
pub struct Weights(Vec<Option<DeviceWeight>>);

impl Weights {
    /// Whether none is loaded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl WeightLayouts for Weights {
    fn layout(&self, id: WeightId) -> (Storage, usize, usize) {
        match &self.0[id.index()] {
            Some(w) => (w.storage, w.group4, w.groups),
            None => (Storage::F32, 0, 1),
        }
    }
}

impl Executor {
    /// Opens the device, for [`Compute::F32`], [`Compute::F16`] or [`Compute::W8A8`].
    ///
    /// # Errors
    /// As [`Backend::open`], and `INVALID_ARGUMENT` for f16 where the adapter does not have it.
    pub async fn open(compute: Compute) -> Result<Executor> {
        let backend = Backend::open().await?;
        if compute == Compute::F16 && !backend.adapter().shader_f16 {
            let cause = "compute is \"f16\", and the adapter has no shader-f16";
            return Err(Error::new(Code::InvalidArgument, cause, "Use compute \"f32\""));
        }
        let pace = Pace::new(backend.latency().await?);
        Ok(Executor {
            tuning: Tuning::of(backend.adapter()),
            backend,
            compute,
            weights: Weights::default(),
            pipelines: Vec::new(),
            prepared: None,
            pending_combines: Vec::new(),
            dispatches: 0,
            multiply_adds: 0,
            encode: Duration::ZERO,
            running: VecDeque::new(),
            pace,
        })
    }

    /// The device.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// What Programs for this executor are lowered with.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities { max_binding: self.backend.max_binding(), compute: self.compute, ..Capabilities::WEBGPU }
    }

    /// Which variants the next [`Executor::prepare`] takes.
    pub fn set_tuning(&mut self, tuning: Tuning) {
        self.tuning = tuning;
    }

    /// Kernel launches submitted so far.
    pub fn dispatches(&self) -> u64 {
        self.dispatches
    }

    /// Of the kernels submitted so far.
    pub fn multiply_adds(&self) -> u64 {
        self.multiply_adds
    }

    /// Host time that encoding and submitting took so far.
    pub fn encode_time(&self) -> Duration {
        self.encode
    }

    /// Multiply-adds that one run should have, by the pace of the runs so far.
    pub fn budget(&self) -> u64 {
        self.pace.budget()
    }

    /// Takes a weight: packs it and uploads it.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub async fn load(&mut self, id: WeightId, weight: &Weight, tensor: &weights::Tensor) -> Result<()> {
        let packed = pack(weight, tensor, self.compute);
        let values = self.backend.upload(&weight.name, &packed.values).await?;
        let scales = match packed.scales.is_empty() {
            true => None,
            false => Some(self.backend.upload(&format!("{}.scale", weight.name), &packed.scales).await?),
        };
        let weights = &mut self.weights.0;
        if weights.len() <= id.index() {
            weights.resize_with(id.index() + 1, || None);
        }
        let (storage, group4, groups) = (packed.storage, packed.group4, packed.groups);
        weights[id.index()] = Some(DeviceWeight { values, scales, storage, group4, groups });
        Ok(())
    }

    /// Works with other weights from the next [`Executor::prepare`] on; gives back those that were loaded.
    pub fn exchange_weights(&mut self, others: Weights) -> Weights {
        self.prepared = None;
        std::mem::replace(&mut self.weights, others)
    }

    /// Makes `program` the one that runs: memory, pipelines, bindings.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`, `SHADER_FAILED`.
    pub async fn prepare(&mut self, program: Program) -> Result<()> {
        self.prepared = None;
        let io = self.backend.buffer("inputs and outputs", program.io_bytes, Usage::Storage).await?;
        let mut slabs = Vec::with_capacity(program.slab_bytes.len());
        for &bytes in &program.slab_bytes {
            slabs.push(self.backend.buffer("arena", bytes, Usage::Storage).await?);
        }
        // The last are for a part of the items.
        let blocks = 2 * program.kernels.len() + COMBINES;
        let uniforms = self.backend.buffer("parameters", blocks * UNIFORM_ALIGN, Usage::Uniform).await?;
        let mut prepared =
            Prepared { program, io, slabs, uniforms, launches: Vec::new(), combines: Vec::new(), part: None };
        let program = &prepared.program;
        let launch = |kernel| kernels::launch(kernel, program, &self.weights, &self.tuning);
        let launches: Vec<Launch> = program.kernels.iter().map(launch).collect();
        let combine = kernels::combine(0, program.io_bytes / 4, &[], None);
        self.compile(launches.iter().chain([&combine]).map(|launch| &launch.variant)).await?;
        prepared.launches = self.bind_all(&prepared, 0, &launches)?;
        for i in 0..COMBINES {
            prepared.combines.push(self.bind(&prepared, launches.len() + i, &combine)?);
        }
        self.prepared = Some(prepared);
        self.backend.check()
    }

    /// Binds launches, their parameters from block `first` on.
    fn bind_all(&self, prepared: &Prepared, first: usize, launches: &[Launch]) -> Result<Vec<Dispatch>> {
        let mut params = vec![0u8; launches.len() * UNIFORM_ALIGN];
        for (block, launch) in params.chunks_mut(UNIFORM_ALIGN).zip(launches) {
            block[..launch.params.len()].copy_from_slice(&launch.params);
        }
        self.backend.write(&prepared.uniforms, first * UNIFORM_ALIGN, &params);
        launches.iter().enumerate().map(|(i, launch)| self.bind(prepared, first + i, launch)).collect()
    }

    /// Makes the launches of the first `items` items.
    fn prepare_part(&mut self, items: usize) -> Result<()> {
        let prepared = self.prepared()?;
        if prepared.part.as_ref().is_some_and(|(made, _)| *made == items) {
            return Ok(());
        }
        let program = &prepared.program;
        let all = program.items();
        let of = |kernel: &Kernel| kernels::launch(&kernel.of_items(items, all), program, &self.weights, &self.tuning);
        let launches: Vec<Launch> = program.kernels.iter().map(of).collect();
        let part = self.bind_all(prepared, program.kernels.len() + COMBINES, &launches)?;
        if let Some(prepared) = &mut self.prepared {
            prepared.part = Some((items, part));
        }
        Ok(())
    }

    fn bind(&self, prepared: &Prepared, block: usize, launch: &Launch) -> Result<Dispatch> {
        if launch.workgroups.iter().any(|&n| n > self.backend.max_workgroups()) {
            return Err(Error::new(
                Code::LimitTooSmall,
                format!(
                    "the kernel {} needs {:?} workgroups; maxComputeWorkgroupsPerDimension is {}",
                    launch.variant.label(),
                    launch.workgroups,
                    self.backend.max_workgroups()
                ),
                "Generate fewer images at once, or use device \"cpu\"",
            ));
        }
        let pipeline = self.pipeline(&launch.variant)?;
        let params = Slice { buffer: &prepared.uniforms, offset: block * UNIFORM_ALIGN, bytes: launch.params.len() };
        let mut bindings = vec![(0, params)];
        for &(slot, binding) in &launch.bindings {
            bindings.push((slot, self.slice(prepared, binding)?));
        }
        Ok(self.backend.dispatch(pipeline, &bindings, launch.workgroups))
    }

    /// Compiles what is not compiled yet, all at once where the platform can.
    ///
    /// # Errors
    /// `SHADER_FAILED`.
    pub(super) async fn compile<'a>(&mut self, variants: impl IntoIterator<Item = &'a Variant>) -> Result<()> {
        let mut begun = Vec::new();
        for variant in variants {
            let mut known = self.pipelines.iter().map(|(known, _)| known).chain(begun.iter().map(|(known, _)| known));
            if !known.any(|known| known == variant) {
                begun.push((variant.clone(), self.backend.compile(&variant.label(), &variant.wgsl()?)));
            }
        }
        for (variant, compiling) in begun {
            self.pipelines.push((variant, self.backend.compiled(compiling).await?));
        }
        Ok(())
    }

    /// A compiled shader.
    pub(super) fn pipeline(&self, variant: &Variant) -> Result<&Pipeline> {
        let found = self.pipelines.iter().find(|(known, _)| known == variant).map(|(_, pipeline)| pipeline);
        found.ok_or_else(|| Error::internal(format!("shader {} was not compiled", variant.label())))
    }

    /// Bytes of all that a kernel binds, parameters aside.
    pub(super) fn bound_bytes(&self, prepared: &Prepared, kernel: &Kernel) -> Result<u64> {
        let launch = kernels::launch(kernel, &prepared.program, &self.weights, &self.tuning);
        launch.bindings.iter().map(|&(_, binding)| Ok(self.slice(prepared, binding)?.bytes as u64)).sum()
    }

    fn slice<'a>(&'a self, prepared: &'a Prepared, binding: Binding) -> Result<Slice<'a>> {
        let weight = |id: WeightId| {
            self.weights.0.get(id.index()).and_then(Option::as_ref).ok_or_else(|| {
                Error::internal(format!("weight {:?} is not loaded", prepared.program.weights[id.index()].name))
            })
        };
        Ok(match binding {
            Binding::Tensor(id) => place(prepared, id)?,
            Binding::Weight(id) => weight(id)?.values.whole(),
            Binding::Scales(id) => {
                weight(id)?.scales.as_ref().ok_or_else(|| Error::internal("a weight has no scales"))?.whole()
            }
            Binding::Io => prepared.io.whole(),
        })
    }

    pub(super) fn prepared(&self) -> Result<&Prepared> {
        self.prepared.as_ref().ok_or_else(|| Error::internal("no program is prepared"))
    }

    /// The Program that runs.
    pub fn program(&self) -> Result<&Program> {
        Ok(&self.prepared()?.program)
    }

    /// Bytes that were allocated for activations.
    pub fn activation_bytes(&self) -> usize {
        self.prepared.as_ref().map_or(0, |p| p.io.bytes() + p.slabs.iter().map(Buffer::bytes).sum::<usize>())
    }

    /// Writes a tensor (dense values) before all later runs and combinations, after all earlier ones.
    pub fn write(&mut self, id: TensorId, values: &[f32]) -> Result<()> {
        // A write overtakes what is queued but not submitted.
        if self.pending_combines.iter().any(|(touched, _)| touched.contains(&id)) {
            self.flush()?;
        }
        let prepared = self.prepared()?;
        let view = prepared.program.view(id);
        if view.elements() != values.len() {
            return Err(Error::internal(format!("wrote {} values into {:?}", values.len(), view.shape)));
        }
        let target = place(prepared, id)?;
        if view.row_stride == view.dim() {
            self.backend.write(target.buffer, target.offset, bytemuck::cast_slice(values));
        } else {
            let mut padded = vec![0f32; view.rows() * view.row_stride];
            for (to, from) in padded.chunks_mut(view.row_stride).zip(values.chunks(view.dim())) {
                to[..from.len()].copy_from_slice(from);
            }
            self.backend.write(target.buffer, target.offset, bytemuck::cast_slice(&padded));
        }
        Ok(())
    }

    /// Writes a tensor of indices before all later runs.
    pub fn write_indices(&mut self, id: TensorId, values: &[u32]) -> Result<()> {
        let target = place(self.prepared()?, id)?;
        self.backend.write(target.buffer, target.offset, bytemuck::cast_slice(values));
        Ok(())
    }

    /// Reads a tensor (dense values) after all submitted work.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn read(&mut self, id: TensorId) -> Result<Vec<f32>> {
        self.flush()?;
        let prepared = self.prepared()?;
        let view = prepared.program.view(id);
        if view.packed {
            return Err(Error::internal(format!("tensor {:?} is quantised", view.name)));
        }
        let bytes = self.backend.read(place(prepared, id)?).await?;
        let values: &[f32] = bytemuck::cast_slice(&bytes);
        Ok(values.chunks(view.row_stride).take(view.rows()).flat_map(|row| &row[..view.dim()]).copied().collect())
    }

    /// Queues `out = clip(sum of coefficient * tensor)` over the first `elements` of tensors in the io buffer; `terms`
    /// are (tensor, first element, coefficient). Runs before the next `run` or `read`.
    pub fn combine(
        &mut self,
        out: TensorId,
        elements: usize,
        terms: &[(TensorId, usize, f32)],
        clip: Option<(f32, f32)>,
    ) -> Result<()> {
        if self.pending_combines.len() == COMBINES {
            self.flush()?;
        }
        let prepared = self.prepared()?;
        let first = |id: TensorId| match prepared.program.view(id).place {
            Place::Io(offset) => Ok(offset / 4),
            _ => Err(Error::internal("samplers combine inputs, outputs and persistent tensors only")),
        };
        let mut sources = Vec::with_capacity(terms.len());
        for &(id, at, coefficient) in terms {
            sources.push((first(id)? + at, coefficient));
        }
        let launch = kernels::combine(first(out)?, elements, &sources, clip);
        let block = prepared.program.kernels.len() + self.pending_combines.len();
        self.backend.write(&prepared.uniforms, block * UNIFORM_ALIGN, &launch.params);
        let touched = terms.iter().map(|&(id, ..)| id).chain([out]).collect();
        self.pending_combines.push((touched, launch.workgroups));
        Ok(())
    }

    /// Submits queued combinations.
    fn flush(&mut self) -> Result<()> {
        self.submit(0..0, false).map(|_| ())
    }

    /// Submits queued combinations and some of the Program's launches, or of its part's.
    fn submit(&mut self, range: Range<usize>, part: bool) -> Result<Option<Ticket>> {
        let began = Instant::now();
        let combines = std::mem::take(&mut self.pending_combines);
        if combines.is_empty() && range.is_empty() {
            return Ok(None);
        }
        let prepared = self.prepared.as_mut().ok_or_else(|| Error::internal("no program is prepared"))?;
        for (dispatch, &(_, workgroups)) in prepared.combines.iter_mut().zip(&combines) {
            dispatch.set_workgroups(workgroups);
        }
        let launches = match &prepared.part {
            Some((_, launches)) if part => launches,
            _ => &prepared.launches,
        };
        self.dispatches += (combines.len() + range.len()) as u64;
        let ticket = self.backend.submit(prepared.combines[..combines.len()].iter().chain(&launches[range]));
        self.encode += began.elapsed();
        Ok(Some(ticket))
    }

    /// Submits kernels of a range for the first `items` items, all if none is given, until `budget` multiply-adds are spent or
    /// the range ends; returns the next kernel.
    pub fn run(&mut self, range: Range<usize>, items: Option<usize>, budget: u64) -> Result<usize> {
        self.backend.check()?;
        if let Some(items) = items {
            self.prepare_part(items)?;
        }
        let program = &self.prepared()?.program;
        let all = program.items();
        let mut spent = 0;
        let mut next = range.start;
        while next < range.end && (next == range.start || spent < budget) {
            spent += program.kernels[next].of_items(items.unwrap_or(all), all).cost().multiply_adds;
            next += 1;
        }
        self.multiply_adds += spent;
        let submitted = Instant::now();
        let ticket = self.submit(range.start..next, items.is_some())?;
        self.running.extend(ticket.map(|ticket| Run { ticket, multiply_adds: spent, submitted }));
        Ok(next)
    }

    /// Waits until the device has little left to do, but something: it shall never wait for us.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn keep_pace(&mut self) -> Result<()> {
        self.take_note();
        while self.running.len() > 1 && !self.pace.allows(self.running.iter().map(|run| run.multiply_adds).sum()) {
            self.backend.wait(&self.running[0].ticket).await?;
            self.take_note();
        }
        Ok(())
    }

    /// Tells the pace of the runs that have ended.
    fn take_note(&mut self) {
        while let Some(ended) = self.running.front().and_then(|run| self.backend.ended(&run.ticket)) {
            if let Some(Run { multiply_adds, submitted, .. }) = self.running.pop_front() {
                self.pace.completed(multiply_adds, submitted, ended, self.running.is_empty());
            }
        }
    }

    /// Waits for all submitted work.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn finished(&mut self) -> Result<()> {
        self.flush()?;
        self.backend.finished().await?;
        self.take_note();
        Ok(())
    }
}

fn place(prepared: &Prepared, id: TensorId) -> Result<Slice<'_>> {
    let view = prepared.program.view(id);
    // A binding's length must hold whole vec4s; the gap belongs to this tensor, since places are 256-byte aligned.
    let bytes = view.bytes().next_multiple_of(16);
    match view.place {
        Place::Io(offset) => Ok(Slice { buffer: &prepared.io, offset, bytes }),
        Place::Arena { slab, offset } => Ok(Slice { buffer: &prepared.slabs[slab], offset, bytes }),
        Place::Nowhere => Err(Error::internal(format!("tensor {:?} has no place", view.name))),
    }
}
