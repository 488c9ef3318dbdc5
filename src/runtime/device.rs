//! A device: what runs kernels, and what they cost so far.

use super::{Kind, each};
#[cfg(feature = "gpu")]
use crate::gpu;
use crate::meter::Memory;
use crate::plan::{Capabilities, Compute};
#[cfg(feature = "fast-cpu")]
use crate::simd::{Level, Threads};
use crate::{Code, Error, Result, cpu};
use std::rc::Rc;
use std::time::Duration;

/// A device, shared by all that lies on it.
#[derive(Clone)]
pub struct Device(
    #[cfg(feature = "gpu")] pub(super) Kind<Rc<cpu::Device>, Rc<gpu::Device>>,
    #[cfg(not(feature = "gpu"))] pub(super) Kind<Rc<cpu::Device>>,
);

impl Device {
    /// The plain kernels that all others are compared with.
    pub fn reference() -> Device {
        Device(Kind::Host(Rc::new(cpu::Device::plain())))
    }

    /// The CPU, on the best instruction set of this processor.
    #[cfg(feature = "fast-cpu")]
    pub fn cpu(threads: Threads) -> Device {
        Device::cpu_with(Level::detect(), threads)
    }

    /// The CPU, on an instruction set that it must have ([`Level::all`]).
    #[cfg(feature = "fast-cpu")]
    pub fn cpu_with(level: Level, threads: Threads) -> Device {
        Device(Kind::Host(Rc::new(cpu::Device::fast(level, threads))))
    }

    /// The best GPU.
    ///
    /// # Errors
    /// `NO_WEBGPU`, `INSECURE_CONTEXT`, `LIMIT_TOO_SMALL`.
    #[cfg(feature = "gpu")]
    pub async fn gpu() -> Result<Device> {
        Ok(Device(Kind::Gpu(Rc::new(gpu::Device::open().await?))))
    }

    /// The GPU, if it is one.
    #[cfg(feature = "gpu")]
    pub fn as_gpu(&self) -> Option<&gpu::Device> {
        match &self.0 {
            Kind::Gpu(device) => Some(device),
            Kind::Host(_) => None,
        }
    }

    /// "webgpu" or "cpu".
    pub fn name(&self) -> &'static str {
        each!(&self.0, _d => "cpu", _d => "webgpu")
    }

    /// What Programs in this arithmetic are lowered with.
    pub fn capabilities(&self, compute: Compute) -> Capabilities {
        each!(&self.0, device => device.capabilities(compute))
    }

    /// Whether its kernels compute so; the plain ones compute everything.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming what it has.
    pub fn supports(&self, compute: Compute) -> Result<()> {
        match &self.0 {
            Kind::Host(device) => match compute {
                Compute::F16 | Compute::W8A8 if !device.is_plain() => Err(Error::new(
                    Code::InvalidArgument,
                    format!("compute is \"{}\", which only GPUs have", compute.as_str()),
                    "Use \"quality\" or \"fast\", the CPU's own",
                )),
                _ => Ok(()),
            },
            #[cfg(feature = "gpu")]
            Kind::Gpu(device) => device.supports(compute),
        }
    }

    /// How many threads work on a kernel; one on a GPU.
    pub fn threads(&self) -> usize {
        each!(&self.0, device => device.threads(), _d => 1)
    }

    /// What Weights, States and Sessions take.
    pub fn memory(&self) -> Memory {
        each!(&self.0, device => device.meter().memory(), device => device.backend().memory())
    }

    /// Waits until the device has little left to do: one run at most.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn keep_pace(&self) -> Result<()> {
        each!(&self.0, _d => Ok(()), device => device.keep_pace().await)
    }

    /// Waits for all submitted work.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn finished(&self) -> Result<()> {
        each!(&self.0, _d => Ok(()), device => device.finished().await)
    }

    /// Work that one run may spend before the caller gets a turn: a fraction of a second on slow devices.
    pub fn budget(&self) -> u64 {
        match &self.0 {
            Kind::Host(device) if device.is_plain() => 100_000_000,
            // About 10 to 40 ms.
            Kind::Host(device) => 800_000_000 * device.threads() as u64,
            #[cfg(feature = "gpu")]
            Kind::Gpu(device) => device.budget(),
        }
    }

    /// Kernel launches submitted to a GPU so far.
    pub fn dispatches(&self) -> u64 {
        each!(&self.0, _d => 0, device => device.dispatches())
    }

    /// Multiply-adds of the kernels that ran so far.
    pub fn multiply_adds(&self) -> u64 {
        each!(&self.0, device => device.multiply_adds())
    }

    /// Host time that encoding and submitting to a GPU took so far.
    pub fn encode_time(&self) -> Duration {
        each!(&self.0, _d => Duration::ZERO, device => device.encode_time())
    }
}
