//! An open GPU: what is compiled, how fast it goes, and the scratch that Sessions share.

use super::backend::{Backend, Buffer, Pipeline, Ticket, Usage};
use super::kernels::{Tuning, Variant};
use super::pace::Pace;
use crate::plan::{Capabilities, Compute};
use crate::{Code, Error, Result};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Duration;
use web_time::Instant;

/// A GPU.
pub struct Device {
    pub(super) backend: Backend,
    tuning: Cell<Tuning>,
    pipelines: RefCell<Vec<(Variant, Rc<Pipeline>)>>,
    /// Slabs that Sessions share, for as long as one of them lives.
    slabs: RefCell<Vec<Weak<Slab>>>,
    sessions: Cell<u64>,
    pub(super) dispatches: Cell<u64>,
    pub(super) multiply_adds: Cell<u64>,
    /// Host time that submissions took.
    pub(super) encode: Cell<Duration>,
    /// Runs that may still go on, the oldest first.
    running: RefCell<VecDeque<Run>>,
    pace: RefCell<Pace>,
}

/// Scratch memory.
pub(super) struct Slab {
    pub(super) buffer: Buffer,
    /// The Session whose contents it has.
    pub(super) tenant: Cell<u64>,
}

/// A submission that may still be running.
struct Run {
    ticket: Rc<Ticket>,
    work: u64,
    submitted: Instant,
}

impl Device {
    /// Opens the best adapter.
    ///
    /// # Errors
    /// As [`Backend::open`].
    pub async fn open() -> Result<Device> {
        let backend = Backend::open().await?;
        let pace = Pace::new(backend.latency().await?);
        Ok(Device {
            tuning: Cell::new(Tuning::of(backend.adapter())),
            backend,
            pipelines: RefCell::default(),
            slabs: RefCell::default(),
            sessions: Cell::default(),
            dispatches: Cell::default(),
            multiply_adds: Cell::default(),
            encode: Cell::default(),
            running: RefCell::default(),
            pace: RefCell::new(pace),
        })
    }

    /// The device below.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// What Programs in this arithmetic are lowered with.
    pub fn capabilities(&self, compute: Compute) -> Capabilities {
        let usual = Capabilities::WEBGPU;
        // A real GPU would idle in the gaps between short launches.
        let launch_work = if self.backend.adapter().is_fallback_adapter { usual.launch_work } else { 1 << 32 };
        Capabilities { max_binding: self.backend.max_binding(), compute, launch_work, ..usual }
    }

    /// Which variants new Sessions take.
    pub fn tuning(&self) -> Tuning {
        self.tuning.get()
    }

    /// Chooses which variants new Sessions take.
    pub fn set_tuning(&self, tuning: Tuning) {
        self.tuning.set(tuning);
    }

    /// Kernel launches submitted so far.
    pub fn dispatches(&self) -> u64 {
        self.dispatches.get()
    }

    /// Of the kernels submitted so far.
    pub fn multiply_adds(&self) -> u64 {
        self.multiply_adds.get()
    }

    /// Host time that encoding and submitting took so far.
    pub fn encode_time(&self) -> Duration {
        self.encode.get()
    }

    /// Compiles what is not compiled yet, all at once where the platform can.
    ///
    /// # Errors
    /// `SHADER_FAILED`.
    pub(super) async fn compile<'a>(&self, variants: impl IntoIterator<Item = &'a Variant>) -> Result<()> {
        let mut begun: Vec<(Variant, _)> = Vec::new();
        for variant in variants {
            if self.find(variant).is_none() && !begun.iter().any(|(known, _)| known == variant) {
                begun.push((variant.clone(), self.backend.compile(&variant.label(), &variant.wgsl()?)));
            }
        }
        for (variant, compiling) in begun {
            let pipeline = self.backend.compiled(compiling).await?;
            self.pipelines.borrow_mut().push((variant, Rc::new(pipeline)));
        }
        Ok(())
    }

    fn find(&self, variant: &Variant) -> Option<Rc<Pipeline>> {
        let pipelines = self.pipelines.borrow();
        pipelines.iter().find(|(known, _)| known == variant).map(|(_, pipeline)| pipeline.clone())
    }

    /// A compiled shader.
    pub(super) fn pipeline(&self, variant: &Variant) -> Result<Rc<Pipeline>> {
        let found = self.find(variant);
        found.ok_or_else(|| Error::internal(format!("shader {} was not compiled", variant.label())))
    }

    /// Forgets compiled shaders that no Session holds.
    pub fn forget_unused(&self) {
        self.pipelines.borrow_mut().retain(|(_, pipeline)| Rc::strong_count(pipeline) > 1);
    }

    /// How many shaders are compiled.
    pub fn compiled(&self) -> usize {
        self.pipelines.borrow().len()
    }

    /// A number that no other Session has.
    pub(super) fn next_session(&self) -> u64 {
        self.sessions.set(self.sessions.get() + 1);
        self.sessions.get()
    }

    /// Scratch of at least these sizes, shared with other Sessions where theirs is large enough.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub(super) async fn slabs(&self, sizes: &[usize]) -> Result<Vec<Rc<Slab>>> {
        let mut free: Vec<Rc<Slab>> = self.slabs.borrow().iter().filter_map(Weak::upgrade).collect();
        free.sort_by_key(|slab| slab.buffer.bytes());
        let mut taken = Vec::with_capacity(sizes.len());
        for &bytes in sizes {
            let slab = match free.iter().position(|slab| slab.buffer.bytes() >= bytes) {
                Some(at) => free.remove(at),
                None => {
                    let buffer = self.backend.buffer("arena", bytes, Usage::Storage).await?;
                    Rc::new(Slab { buffer, tenant: Cell::new(0) })
                }
            };
            taken.push(slab);
        }
        let mut slabs = self.slabs.borrow_mut();
        slabs.retain(|slab| slab.strong_count() > 0);
        for slab in &taken {
            if !slabs.iter().any(|known| known.as_ptr() == Rc::as_ptr(slab)) {
                slabs.push(Rc::downgrade(slab));
            }
        }
        Ok(taken)
    }

    /// Work that one run should have, by the pace of the runs so far.
    pub fn budget(&self) -> u64 {
        self.pace.borrow().budget()
    }

    /// Notes a run that was submitted.
    pub(super) fn started(&self, ticket: Ticket, work: u64, submitted: Instant) {
        self.running.borrow_mut().push_back(Run { ticket: Rc::new(ticket), work, submitted });
    }

    /// Waits until the device has little left to do, but something: it shall never wait for us.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn keep_pace(&self) -> Result<()> {
        while let Some(ticket) = self.one_too_many() {
            self.backend.wait(&ticket).await?;
        }
        Ok(())
    }

    /// The oldest run, if more is in flight than the pace allows.
    fn one_too_many(&self) -> Option<Rc<Ticket>> {
        self.take_note();
        let running = self.running.borrow();
        let work = running.iter().map(|run| run.work).sum();
        let oldest = running.front().filter(|_| running.len() > 1 && !self.pace.borrow().allows(work));
        oldest.map(|run| run.ticket.clone())
    }

    /// Tells the pace of the runs that have ended.
    fn take_note(&self) {
        let mut running = self.running.borrow_mut();
        while let Some(ended) = running.front().and_then(|run| self.backend.ended(&run.ticket)) {
            if let Some(Run { work, submitted, .. }) = running.pop_front() {
                self.pace.borrow_mut().completed(work, submitted, ended, running.is_empty());
            }
        }
    }

    /// Waits for all submitted work.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn finished(&self) -> Result<()> {
        self.backend.finished().await?;
        self.take_note();
        Ok(())
    }

    /// Whether kernels can compute so.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for f16 where the adapter does not have it, and for the arithmetics of CPUs.
    pub fn supports(&self, compute: Compute) -> Result<()> {
        let refuse = |cause: String, remedy| Err(Error::new(Code::InvalidArgument, cause, remedy));
        match compute {
            Compute::F16 if !self.backend.adapter().shader_f16 => {
                refuse("compute is \"f16\", and the adapter has no shader-f16".into(), "Use compute \"f32\"")
            }
            Compute::F32 | Compute::F16 | Compute::W8A8 => Ok(()),
            Compute::Quality | Compute::Fast => refuse(
                format!("compute is \"{}\", and WebGPU computes in f32, f16 or w8a8", compute.as_str()),
                "Leave compute out, or use device \"cpu\"",
            ),
        }
    }
}
