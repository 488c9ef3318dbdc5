//! An open GPU: what is compiled, how fast it goes, and the scratch that Sessions share.

use super::backend::{Backend, Buffer, Pipeline, Ticket, Usage};
use super::kernels::{Tuning, Variant};
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
    pace: RefCell<Pace>,
}

/// Scratch memory.
pub(super) struct Slab {
    pub(super) buffer: Buffer,
    /// The Session whose contents it has.
    pub(super) tenant: Cell<u64>,
}

/// Runs that may still go on, and how long they take.
struct Pace {
    /// The oldest first.
    running: VecDeque<Run>,
    /// When the last run is known to have ended.
    ended: Instant,
    /// Work ([`crate::plan::Cost::work`]) of a run that takes about [`RUN`].
    budget: u64,
}

impl Pace {
    /// The oldest run, if two are under way.
    fn one_too_many(&mut self) -> Option<Run> {
        if self.running.len() > 1 { self.running.pop_front() } else { None }
    }

    /// Notes that a run has ended.
    fn ended(&mut self, work: u64, submitted: Instant) {
        let took = submitted.max(self.ended).elapsed();
        self.ended = Instant::now();
        // What ends a Program may be short, and says little.
        if 2 * work >= self.budget {
            let factor = RUN.as_secs_f64() / took.as_secs_f64().max(1e-6);
            self.budget = (self.budget as f64 * factor.clamp(0.5, 2.0)).clamp(1e6, 1e13) as u64;
        }
    }
}

/// A submission that may still be running.
struct Run {
    ticket: Ticket,
    work: u64,
    submitted: Instant,
}

/// How long a run should take. Two are under way at most, and an abort waits for them.
const RUN: Duration = Duration::from_millis(40);
/// Of the first run: right for software adapters, and GPUs soon have more.
const FIRST_BUDGET: u64 = 250_000_000;

impl Device {
    /// Opens the best adapter.
    ///
    /// # Errors
    /// As [`Backend::open`].
    pub async fn open() -> Result<Device> {
        let backend = Backend::open().await?;
        Ok(Device {
            tuning: Cell::new(Tuning::of(backend.adapter())),
            backend,
            pipelines: RefCell::default(),
            slabs: RefCell::default(),
            sessions: Cell::default(),
            dispatches: Cell::default(),
            multiply_adds: Cell::default(),
            encode: Cell::default(),
            pace: RefCell::new(Pace { running: VecDeque::new(), ended: Instant::now(), budget: FIRST_BUDGET }),
        })
    }

    /// The device below.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// What Programs in this arithmetic are lowered with.
    pub fn capabilities(&self, compute: Compute) -> Capabilities {
        Capabilities { max_binding: self.backend.max_binding(), compute, ..Capabilities::WEBGPU }
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
        self.pace.borrow().budget
    }

    /// Notes a run that was submitted.
    pub(super) fn started(&self, ticket: Ticket, work: u64, submitted: Instant) {
        self.pace.borrow_mut().running.push_back(Run { ticket, work, submitted });
    }

    fn one_too_many(&self) -> Option<Run> {
        self.pace.borrow_mut().one_too_many()
    }

    /// Waits until at most one run still goes on: the device always has work, and never much of it.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn keep_pace(&self) -> Result<()> {
        while let Some(Run { ticket, work, submitted }) = self.one_too_many() {
            self.backend.wait(ticket).await?;
            self.pace.borrow_mut().ended(work, submitted);
        }
        Ok(())
    }

    /// Waits for all submitted work.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn finished(&self) -> Result<()> {
        self.pace.borrow_mut().running.clear();
        self.backend.finished().await
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
                format!("compute is {:?}, and WebGPU computes in f32, f16 or w8a8", compute.as_str()),
                "Leave compute out, or use device \"cpu\"",
            ),
        }
    }
}
