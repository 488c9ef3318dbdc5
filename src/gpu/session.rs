//! A Program on a GPU: memory and launches over Weights and a State. Everything is allocated, compiled and bound when it
//! is made; running only submits.

use super::backend::{Buffer, Dispatch, Slice, Usage};
use super::device::{Device, Slab};
use super::kernels::{self, Binding, Launch, Tuning};
use super::state::{self, State};
use super::weights::Weights;
use crate::plan::{Kernel, Place, Program, TensorId};
use crate::{Code, Error, Result};
use std::ops::Range;
use std::rc::Rc;
use web_time::Instant;

/// Uniform blocks start at multiples of this.
const UNIFORM_ALIGN: usize = 256;

/// A Program made ready.
pub struct Session {
    weights: Rc<Weights>,
    state: Option<Rc<State>>,
    program: Program,
    tuning: Tuning,
    io: Buffer,
    slabs: Vec<Rc<Slab>>,
    /// Its number among the device's.
    tenant: u64,
    params: Buffer,
    launches: Vec<Dispatch>,
    /// The kernels' shaders, kept compiled.
    pipelines: Vec<Rc<super::backend::Pipeline>>,
    /// The launches of the first so many items.
    part: Option<(usize, Vec<Dispatch>)>,
}

impl Session {
    /// Memory, pipelines, bindings.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`, `SHADER_FAILED`, `LIMIT_TOO_SMALL`; `INTERNAL` if the State lacks a tensor.
    pub async fn new(weights: Rc<Weights>, program: Program, state: Option<Rc<State>>) -> Result<Session> {
        let device = weights.device().clone();
        let io = device.backend.buffer("inputs and outputs", program.io_bytes, Usage::Storage).await?;
        let slabs = device.slabs(&program.slab_bytes).await?;
        // The second half is for a part of the items.
        let blocks = 2 * program.kernels.len();
        let params = device.backend.buffer("parameters", blocks * UNIFORM_ALIGN, Usage::Uniform).await?;
        let (tuning, tenant) = (device.tuning(), device.next_session());
        let (launches, pipelines, part) = Default::default();
        let mut session =
            Session { weights, state, program, tuning, io, slabs, tenant, params, launches, pipelines, part };
        let launch = |kernel| kernels::launch(kernel, &session.program, &*session.weights, &tuning);
        let launches: Vec<Launch> = session.program.kernels.iter().map(launch).collect();
        device.compile(launches.iter().map(|launch| &launch.variant)).await?;
        session.pipelines = launches.iter().map(|launch| device.pipeline(&launch.variant)).collect::<Result<_>>()?;
        session.launches = session.bind_all(0, &launches)?;
        device.backend.check()?;
        Ok(session)
    }

    /// The device that runs it.
    pub fn device(&self) -> &Rc<Device> {
        self.weights.device()
    }

    /// Its Weights.
    pub fn weights(&self) -> &Rc<Weights> {
        &self.weights
    }

    /// The Program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Its launches.
    pub(super) fn launches(&self) -> &[Dispatch] {
        &self.launches
    }

    /// The shaders of its kernels; one that several share is the same one.
    pub(super) fn pipelines(&self) -> &[Rc<super::backend::Pipeline>] {
        &self.pipelines
    }

    /// Bytes that were allocated for activations, scratch that it shares included.
    pub fn activation_bytes(&self) -> usize {
        self.io.bytes() + self.slabs.iter().map(|slab| slab.buffer.bytes()).sum::<usize>()
    }

    /// Binds launches, their parameters from block `first` on.
    fn bind_all(&self, first: usize, launches: &[Launch]) -> Result<Vec<Dispatch>> {
        let mut params = vec![0u8; launches.len() * UNIFORM_ALIGN];
        for (block, launch) in params.chunks_mut(UNIFORM_ALIGN).zip(launches) {
            block[..launch.params.len()].copy_from_slice(&launch.params);
        }
        self.device().backend.write(&self.params, first * UNIFORM_ALIGN, &params);
        launches.iter().enumerate().map(|(i, launch)| self.bind(first + i, launch)).collect()
    }

    fn bind(&self, block: usize, launch: &Launch) -> Result<Dispatch> {
        let most = self.device().backend.max_workgroups();
        if launch.workgroups.iter().any(|&n| n > most) {
            let cause = format!(
                "the kernel {} needs {:?} workgroups; maxComputeWorkgroupsPerDimension is {most}",
                launch.variant.label(),
                launch.workgroups,
            );
            let remedy = "Generate fewer images at once, or use device \"cpu\"";
            return Err(Error::new(Code::LimitTooSmall, cause, remedy));
        }
        let pipeline = self.device().pipeline(&launch.variant)?;
        let params = Slice { buffer: &self.params, offset: block * UNIFORM_ALIGN, bytes: launch.params.len() };
        let mut bindings = vec![(0, params)];
        for &(slot, binding) in &launch.bindings {
            bindings.push((slot, self.slice(binding)?));
        }
        Ok(self.device().backend.dispatch(&pipeline, &bindings, launch.workgroups))
    }

    fn slice(&self, binding: Binding) -> Result<Slice<'_>> {
        match binding {
            Binding::Tensor(id) => self.place(id),
            Binding::Weight(id) => self.weights.values(id),
            Binding::Rows(id, offset, bytes) => {
                let Slice { buffer, offset: begin, .. } = self.weights.values(id)?;
                Ok(Slice { buffer, offset: begin + offset, bytes })
            }
            Binding::Scales(id) => self.weights.scales(id),
        }
    }

    fn place(&self, id: TensorId) -> Result<Slice<'_>> {
        let view = self.program.view(id);
        // A binding's length must hold whole vec4s; the gap belongs to this tensor, since places are 256-byte aligned.
        let bytes = view.bytes().next_multiple_of(16);
        match view.place {
            Place::Io(offset) => Ok(Slice { buffer: &self.io, offset, bytes }),
            Place::Arena { slab, offset } => Ok(Slice { buffer: &self.slabs[slab].buffer, offset, bytes }),
            Place::State => {
                let state = self.state.as_ref().ok_or_else(|| Error::internal("the Program needs a State"))?;
                Ok(state.slice(state.layout().of(view)?))
            }
            Place::Nowhere => Err(Error::internal(format!("tensor \"{}\" has no place", view.name))),
        }
    }

    /// Bytes of all that a kernel binds, parameters aside.
    pub(super) fn bound_bytes(&self, kernel: &Kernel) -> Result<u64> {
        let launch = kernels::launch(kernel, &self.program, &*self.weights, &self.tuning);
        launch.bindings.iter().map(|&(_, binding)| Ok(self.slice(binding)?.bytes as u64)).sum()
    }

    /// Writes a tensor (dense values) before all later runs and combinations, after all earlier ones.
    ///
    /// # Errors
    /// `INTERNAL` if the length differs.
    pub fn write(&self, id: TensorId, values: &[f32]) -> Result<()> {
        let view = self.program.view(id);
        if view.elements() != values.len() {
            return Err(Error::internal(format!("wrote {} values into {:?}", values.len(), view.shape)));
        }
        state::write(self.device(), self.place(id)?, view.row_stride, view.dim(), values);
        Ok(())
    }

    /// Reads a tensor (dense values) after all submitted work.
    ///
    /// # Errors
    /// `DEVICE_LOST`; `INTERNAL` if it is quantised, was fused away, or another Session's run has overwritten it.
    pub async fn read(&self, id: TensorId) -> Result<Vec<f32>> {
        let view = self.program.view(id);
        if view.packed {
            return Err(Error::internal(format!("tensor \"{}\" is quantised", view.name)));
        }
        if matches!(view.place, Place::Arena { .. }) {
            self.check_tenant()?;
        }
        state::read(self.device(), self.place(id)?, view.row_stride, view.dim(), view.rows()).await
    }

    fn check_tenant(&self) -> Result<()> {
        match self.slabs.iter().all(|slab| slab.tenant.get() == self.tenant) {
            true => Ok(()),
            false => Err(Error::internal("another session ran in between")),
        }
    }

    /// Makes the launches of the first `items` items.
    fn prepare_part(&mut self, items: usize) -> Result<()> {
        if self.part.as_ref().is_some_and(|(made, _)| *made == items) {
            return Ok(());
        }
        let program = &self.program;
        let all = program.items();
        let of = |kernel: &Kernel| kernels::launch(&kernel.of_items(items, all), program, &*self.weights, &self.tuning);
        let launches: Vec<Launch> = program.kernels.iter().map(of).collect();
        self.part = Some((items, self.bind_all(program.kernels.len(), &launches)?));
        Ok(())
    }

    /// Submits kernels of a range for the first `items` items, all if none is given, until `budget` of work is spent or
    /// the range ends; returns the next kernel.
    ///
    /// # Errors
    /// `DEVICE_LOST`; `INTERNAL` if another Session's run came between two parts of this one's.
    pub fn run(&mut self, range: Range<usize>, items: Option<usize>, budget: u64) -> Result<usize> {
        self.device().backend.check()?;
        if range.start == 0 {
            self.slabs.iter().for_each(|slab| slab.tenant.set(self.tenant));
        }
        self.check_tenant()?;
        if let Some(items) = items {
            self.prepare_part(items)?;
        }
        let all = self.program.items();
        let (mut spent, mut multiply_adds) = (0, 0);
        let mut next = range.start;
        while next < range.end && (next == range.start || spent < budget) {
            let cost = self.program.kernels[next].of_items(items.unwrap_or(all), all).cost();
            spent += cost.work();
            multiply_adds += cost.multiply_adds;
            next += 1;
        }
        if next == range.start {
            return Ok(next);
        }
        let launches = match &self.part {
            Some((_, launches)) if items.is_some() => launches,
            _ => &self.launches,
        };
        let device = self.device();
        let submitted = Instant::now();
        let ticket = device.backend.submit(&launches[range.start..next]);
        device.dispatches.set(device.dispatches.get() + (next - range.start) as u64);
        device.encode.set(device.encode.get() + submitted.elapsed());
        device.multiply_adds.set(device.multiply_adds.get() + multiply_adds);
        device.started(ticket, spent, submitted);
        Ok(next)
    }
}
