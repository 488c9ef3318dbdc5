//! The WebGPU executor: runs Programs on any adapter that wgpu reaches (the browser's WebGPU, Vulkan, Metal, DX12).
//!
//! [`Backend`] is the thin layer over the device, [`kernels`] turns each kernel of a Program into a launch of a shader,
//! [`Executor`] owns weights, memory and recorded launches. Nothing here knows networks or samplers.

mod backend;
#[cfg(target_arch = "wasm32")]
mod browser;
mod executor;
pub mod kernels;
mod pack;
mod profile;
mod template;

pub use backend::{Adapter, Backend};
pub use executor::Executor;
pub use profile::{KernelTime, Profile};
