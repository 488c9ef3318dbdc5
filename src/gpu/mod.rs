//! The GPU executor: runs Programs on the browser's WebGPU, and natively on what wgpu reaches (Vulkan, Metal, DX12).
//!
//! [`Backend`] is the thin layer over the device, [`kernels`] turns each kernel of a Program into a launch of a shader,
//! [`Executor`] owns weights, memory and recorded launches. Nothing here knows networks or samplers.

mod backend;
mod executor;
pub mod kernels;
mod pace;
mod pack;
mod profile;
mod roofline;
mod template;

pub use backend::{Adapter, Backend, platform};
pub use executor::{Executor, Weights};
pub use profile::{KernelTime, Profile, Row};
pub use roofline::svg as roofline;
