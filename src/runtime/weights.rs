//! One component's tensors on a device, in the layouts of its kernels.

use super::{Device, Kind, each};
#[cfg(feature = "gpu")]
use crate::gpu;
use crate::plan::{Capabilities, Compute, Form, Program, Weight, WeightId};
use crate::{Error, Result, cpu, weights};
use std::rc::Rc;

/// Weights on their way to a device.
pub struct Loading(
    #[cfg(feature = "gpu")] Kind<cpu::Weights, gpu::Weights>,
    #[cfg(not(feature = "gpu"))] Kind<cpu::Weights>,
);

/// One component's weights on a device; freed with the last Session over them.
#[derive(Clone)]
pub struct Weights(
    #[cfg(feature = "gpu")] pub(super) Kind<Rc<cpu::Weights>, Rc<gpu::Weights>>,
    #[cfg(not(feature = "gpu"))] pub(super) Kind<Rc<cpu::Weights>>,
);

impl Loading {
    /// None yet, for kernels that compute so.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the device has no such kernels.
    pub fn new(device: &Device, compute: Compute) -> Result<Loading> {
        device.supports(compute)?;
        Ok(Loading(match &device.0 {
            Kind::Host(device) => Kind::Host(cpu::Weights::new(device.clone(), compute)),
            #[cfg(feature = "gpu")]
            Kind::Gpu(device) => Kind::Gpu(gpu::Weights::new(device.clone(), compute)),
        }))
    }

    /// Takes a weight in the form of [`crate::plan::Plan::forms`].
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` naming the need, `LIMIT_TOO_SMALL`.
    pub async fn load(&mut self, id: WeightId, weight: &Weight, form: Form, tensor: &weights::Tensor) -> Result<()> {
        each!(&mut self.0, all => all.load(id, weight, form, tensor), all => all.load(id, weight, form, tensor).await)
    }

    /// All of them, on the device.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub async fn finish(self) -> Result<Weights> {
        Ok(Weights(match self.0 {
            Kind::Host(all) => Kind::Host(Rc::new(all)),
            #[cfg(feature = "gpu")]
            Kind::Gpu(mut all) => {
                all.flush().await?;
                Kind::Gpu(Rc::new(all))
            }
        }))
    }
}

impl Weights {
    /// The device that holds them.
    pub fn device(&self) -> Device {
        Device(match &self.0 {
            Kind::Host(weights) => Kind::Host(weights.device().clone()),
            #[cfg(feature = "gpu")]
            Kind::Gpu(weights) => Kind::Gpu(weights.device().clone()),
        })
    }

    /// The arithmetic that they are packed for.
    pub fn compute(&self) -> Compute {
        each!(&self.0, weights => weights.compute())
    }

    /// Whether a Program finds its weights as it expects them: a matrix that was packed for another arithmetic would silently
    /// give wrong numbers.
    pub(super) fn check(&self, program: &Program) -> Result<()> {
        for (i, (weight, &form)) in program.weights.iter().zip(&program.forms).enumerate() {
            let found = each!(&self.0, weights => weights.form(WeightId(i)));
            if found != Some(form) {
                let name = &weight.name;
                let cause = match found {
                    None => format!("weight {name} was not loaded"),
                    Some(_) => format!(
                        "weight {name} was loaded for {}, the Program is for other arithmetic",
                        self.compute().as_str()
                    ),
                };
                return Err(Error::internal(cause));
            }
        }
        Ok(())
    }

    /// What Programs over them are lowered with.
    pub fn capabilities(&self) -> Capabilities {
        self.device().capabilities(self.compute())
    }
}
