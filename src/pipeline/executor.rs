//! One face for all executors.

#[cfg(feature = "gpu")]
use crate::gpu;
use crate::plan::{Capabilities, Compute, Form, Program, TensorId, Weight, WeightId};
use crate::simd::Threads;
use crate::{Result, cpu, weights};
use std::ops::Range;
use std::time::Duration;

/// A device that runs Programs.
pub enum Executor {
    /// The plain kernels that all others are compared with.
    Reference(Box<cpu::Executor>),
    /// The CPU.
    Cpu(Box<cpu::FastExecutor>),
    /// A GPU.
    #[cfg(feature = "gpu")]
    Gpu(Box<gpu::Executor>),
}

/// One expression for all executors, and one for those whose tensors lie in host memory.
macro_rules! each {
    ($self:ident, $executor:ident => $body:expr) => {
        each!($self, $executor => $body, $executor => $body)
    };
    ($self:ident, $host:ident => $host_body:expr, $gpu:ident => $gpu_body:expr) => {
        match $self {
            Executor::Reference($host) => $host_body,
            Executor::Cpu($host) => $host_body,
            #[cfg(feature = "gpu")]
            Executor::Gpu($gpu) => $gpu_body,
        }
    };
}

impl Executor {
    /// The plain kernels.
    pub fn reference(compute: Compute) -> Executor {
        Executor::Reference(Box::new(cpu::Executor::new(compute)))
    }

    /// The CPU.
    pub fn cpu(compute: Compute, threads: Threads) -> Executor {
        Executor::Cpu(Box::new(cpu::FastExecutor::new(compute, threads)))
    }

    /// The best GPU, for [`Compute::F32`], [`Compute::F16`] or [`Compute::W8A8`].
    ///
    /// # Errors
    /// `NO_WEBGPU`, `LIMIT_TOO_SMALL`, `INVALID_ARGUMENT` for f16 where the adapter does not have it.
    #[cfg(feature = "gpu")]
    pub async fn gpu(compute: Compute) -> Result<Executor> {
        Ok(Executor::Gpu(Box::new(gpu::Executor::open(compute).await?)))
    }

    /// What Programs for this executor are lowered with.
    pub fn capabilities(&self) -> Capabilities {
        each!(self, e => e.capabilities())
    }

    /// Takes a weight in the form of [`crate::plan::Plan::forms`].
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub async fn load(&mut self, id: WeightId, weight: &Weight, form: Form, tensor: &weights::Tensor) -> Result<()> {
        match self {
            Executor::Reference(e) => e.load(id, weight, form, tensor),
            Executor::Cpu(e) => e.load(id, weight, form, tensor)?,
            #[cfg(feature = "gpu")]
            Executor::Gpu(e) => e.load(id, weight, form, tensor).await?,
        }
        Ok(())
    }

    /// Makes `program` the one that runs; allocates its memory.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`, `SHADER_FAILED`.
    pub async fn prepare(&mut self, program: Program) -> Result<()> {
        each!(self, e => e.prepare(program), e => e.prepare(program).await)
    }

    /// The Program that runs.
    ///
    /// # Errors
    /// `INTERNAL` if none was prepared.
    pub fn program(&self) -> Result<&Program> {
        each!(self, e => e.memory().program(), e => e.program())
    }

    /// Bytes that were allocated for activations.
    pub fn activation_bytes(&self) -> usize {
        each!(self, e => e.memory().bytes(), e => e.activation_bytes())
    }

    /// Writes a tensor (dense values) before all later runs.
    ///
    /// # Errors
    /// `INTERNAL` if the length differs.
    pub fn write(&mut self, id: TensorId, values: &[f32]) -> Result<()> {
        each!(self, e => e.memory_mut().write(id, values), e => e.write(id, values))
    }

    /// Writes a tensor of indices before all later runs.
    ///
    /// # Errors
    /// `INTERNAL` if the length differs.
    pub fn write_indices(&mut self, id: TensorId, values: &[u32]) -> Result<()> {
        let bits = || values.iter().map(|&v| f32::from_bits(v)).collect::<Vec<f32>>();
        each!(self, e => e.memory_mut().write(id, &bits()), e => e.write_indices(id, values))
    }

    /// Fills the time embeddings of all items for one network time.
    ///
    /// # Errors
    /// `INTERNAL` if no program was prepared.
    pub fn write_times(&mut self, times: &[f64]) -> Result<()> {
        let program = self.program()?;
        let mut rows = Vec::new();
        for &(_, out) in &program.time_embeddings {
            let dim = program.view(out).dim();
            rows.push((out, times.iter().flat_map(|&t| cpu::timestep_embedding(t, dim)).collect::<Vec<f32>>()));
        }
        rows.into_iter().try_for_each(|(out, values)| self.write(out, &values))
    }

    /// `out = clip(sum of coefficient * tensor)` over the first `elements`; `terms` are (tensor, first element,
    /// coefficient), all of them inputs, outputs or persistent.
    ///
    /// # Errors
    /// `INTERNAL` for scratch tensors.
    pub fn combine(
        &mut self,
        out: TensorId,
        elements: usize,
        terms: &[(TensorId, usize, f32)],
        clip: Option<(f32, f32)>,
    ) -> Result<()> {
        each!(self, e => e.memory_mut().combine(out, elements, terms, clip), e => e.combine(out, elements, terms, clip))
    }

    /// Runs kernels of a range for the first `items` items of the batch, all if none is given, until `budget` of work
    /// ([`crate::plan::Cost::work`]) is spent or the range ends; returns the next kernel.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub fn run(&mut self, range: Range<usize>, items: Option<usize>, budget: u64) -> Result<usize> {
        each!(self, e => e.run(range, items, budget))
    }

    /// Waits until the device has little left to do: one run at most.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn keep_pace(&mut self) -> Result<()> {
        each!(self, _e => Ok(()), e => e.keep_pace().await)
    }

    /// Waits for all submitted work.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn finished(&mut self) -> Result<()> {
        each!(self, _e => Ok(()), e => e.finished().await)
    }

    /// Reads a tensor (dense values).
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn read(&mut self, id: TensorId) -> Result<Vec<f32>> {
        each!(self, e => e.memory().read(id), e => e.read(id).await)
    }

    /// Work that one run may spend before the caller gets a turn: a fraction of a second on slow devices.
    pub fn budget(&self) -> u64 {
        match self {
            Executor::Reference(_) => 100_000_000,
            // About 10 to 40 ms.
            Executor::Cpu(e) => 800_000_000 * e.threads() as u64,
            #[cfg(feature = "gpu")]
            Executor::Gpu(e) => e.budget(),
        }
    }

    /// The arithmetic of Linears.
    pub fn compute(&self) -> Compute {
        self.capabilities().compute
    }

    /// How many threads work on a kernel; one on a GPU.
    pub fn threads(&self) -> usize {
        match self {
            Executor::Cpu(e) => e.threads(),
            _ => 1,
        }
    }

    /// Kernel launches submitted to a GPU so far.
    pub fn dispatches(&self) -> u64 {
        each!(self, _e => 0, e => e.dispatches())
    }

    /// Multiply-adds of the kernels that ran so far.
    pub fn multiply_adds(&self) -> u64 {
        each!(self, e => e.memory().multiply_adds(), e => e.multiply_adds())
    }

    /// Host time that encoding and submitting to a GPU took so far.
    pub fn encode_time(&self) -> Duration {
        each!(self, _e => Duration::ZERO, e => e.encode_time())
    }
}
