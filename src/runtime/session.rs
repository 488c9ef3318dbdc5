//! A Program made ready on a device: its memory and its launches, over Weights and a State.

use super::{Device, Kind, State, Weights, each, turn};
#[cfg(feature = "gpu")]
use crate::gpu;
use crate::plan::{Program, TensorId};
use crate::{Code, Error, Result, cpu};
use std::ops::Range;

/// A Program with its memory over Weights and a State.
pub struct Session(
    #[cfg(feature = "gpu")] Kind<cpu::Session, gpu::Session>,
    #[cfg(not(feature = "gpu"))] Kind<cpu::Session>,
);

impl Session {
    /// Allocates, compiles and binds.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`, `SHADER_FAILED`, `LIMIT_TOO_SMALL`; `INTERNAL` if the State lies on another device or lacks a tensor.
    pub async fn new(weights: &Weights, program: Program, state: Option<&State>) -> Result<Session> {
        weights.check(&program)?;
        Ok(Session(match (&weights.0, state.map(|state| &state.0)) {
            (Kind::Host(weights), None) => Kind::Host(cpu::Session::new(weights.clone(), program, None)?),
            (Kind::Host(weights), Some(Kind::Host(state))) => {
                Kind::Host(cpu::Session::new(weights.clone(), program, Some(state.clone()))?)
            }
            #[cfg(feature = "gpu")]
            (Kind::Gpu(weights), None) => Kind::Gpu(gpu::Session::new(weights.clone(), program, None).await?),
            #[cfg(feature = "gpu")]
            (Kind::Gpu(weights), Some(Kind::Gpu(state))) => {
                Kind::Gpu(gpu::Session::new(weights.clone(), program, Some(state.clone())).await?)
            }
            #[cfg(feature = "gpu")]
            _ => return Err(Error::internal("a State of another device")),
        }))
    }

    /// Where it runs.
    pub fn device(&self) -> Device {
        Device(match &self.0 {
            Kind::Host(session) => Kind::Host(session.weights().device().clone()),
            #[cfg(feature = "gpu")]
            Kind::Gpu(session) => Kind::Gpu(session.device().clone()),
        })
    }

    /// The Session on the GPU, if it is on one.
    #[cfg(feature = "gpu")]
    pub fn as_gpu(&self) -> Option<&gpu::Session> {
        match &self.0 {
            Kind::Gpu(session) => Some(session),
            Kind::Host(_) => None,
        }
    }

    /// The Program.
    pub fn program(&self) -> &Program {
        each!(&self.0, session => session.program())
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// `INTERNAL` if the Program has none, or none in memory.
    pub fn find(&self, name: &str) -> Result<TensorId> {
        self.program().find(name).ok_or_else(|| Error::internal(format!("the Program has no tensor \"{name}\"")))
    }

    /// Bytes of activations; scratch that it shares with others is counted whole.
    pub fn activation_bytes(&self) -> usize {
        each!(&self.0, session => session.program().activation_bytes() as usize, session => session.activation_bytes())
    }

    /// Writes a tensor (dense values) before all later runs, after all earlier ones.
    ///
    /// # Errors
    /// `INTERNAL` if the length differs.
    pub fn write(&mut self, id: TensorId, values: &[f32]) -> Result<()> {
        each!(&mut self.0, session => session.memory().write(id, values), session => session.write(id, values))
    }

    /// Writes a tensor of indices before all later runs.
    ///
    /// # Errors
    /// `INTERNAL` if the length differs.
    pub fn write_indices(&mut self, id: TensorId, values: &[u32]) -> Result<()> {
        // The same bits, whatever they mean.
        let bits: Vec<f32> = values.iter().map(|&v| f32::from_bits(v)).collect();
        self.write(id, &bits)
    }

    /// Writes the network's times `[items]`: fills the time embeddings that are made of them.
    ///
    /// # Errors
    /// `INTERNAL` if the length differs.
    pub fn write_times(&mut self, time: TensorId, times: &[f64]) -> Result<()> {
        let embeddings = self.program().time_embeddings.iter().filter(|&&(of, _)| of == time);
        let mut rows = Vec::new();
        for &(_, out) in embeddings {
            let dim = self.program().view(out).dim();
            rows.push((out, times.iter().flat_map(|&t| cpu::timestep_embedding(t, dim)).collect::<Vec<f32>>()));
        }
        rows.into_iter().try_for_each(|(out, values)| self.write(out, &values))
    }

    /// Runs kernels of a range for the first `items` items of the batch, all if none is given, until `budget` of work
    /// ([`crate::plan::Cost::work`]) is spent or the range ends; returns the next kernel.
    ///
    /// # Errors
    /// `DEVICE_LOST`; `INTERNAL` if another Session's run came between two parts of this one's.
    pub fn run(&mut self, range: Range<usize>, items: Option<usize>, budget: u64) -> Result<usize> {
        each!(&mut self.0, session => session.run(range, items, budget))
    }

    /// Runs all kernels of a range in chunks, with a turn for the host between them. A GPU may still work on the last one.
    ///
    /// # Errors
    /// `ABORTED` once `stopped` says so, and as [`Session::run`].
    pub async fn run_in_turns(
        &mut self,
        mut range: Range<usize>,
        items: Option<usize>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<()> {
        let device = self.device();
        while !range.is_empty() {
            range.start = self.run(range.clone(), items, device.budget())?;
            device.keep_pace().await?;
            if !range.is_empty() {
                turn().await;
            }
            if stopped() {
                return Err(Error::new(Code::Aborted, "the generation was stopped", "Call generate again"));
            }
        }
        Ok(())
    }

    /// Runs the whole Program.
    ///
    /// # Errors
    /// As [`Session::run_in_turns`].
    pub async fn forward(&mut self, stopped: &dyn Fn() -> bool) -> Result<()> {
        self.run_in_turns(0..self.program().kernels.len(), None, stopped).await
    }

    /// Reads a tensor (dense values) after all submitted work.
    ///
    /// # Errors
    /// `DEVICE_LOST`; `INTERNAL` if it was fused away, or another Session's run has overwritten it.
    pub async fn read(&mut self, id: TensorId) -> Result<Vec<f32>> {
        each!(&mut self.0, session => session.memory().read(id), session => session.read(id).await)
    }
}
