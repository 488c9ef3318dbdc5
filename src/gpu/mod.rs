//! Programs on the browser's WebGPU, and natively on what wgpu reaches (Vulkan, Metal, DX12).
//!
//! [`Backend`] is the thin layer over the device, [`kernels`] turns each kernel of a Program into a launch of a shader,
//! [`Session`] owns memory and recorded launches over [`Weights`] and a [`State`]. Nothing here knows networks or samplers.

mod backend;
mod device;
pub mod kernels;
mod pace;
mod pack;
mod profile;
#[cfg(not(target_arch = "wasm32"))]
mod roofline;
mod session;
mod state;
mod template;
mod weights;

pub use backend::{Adapter, Backend, platform};
pub use device::Device;
pub use pack::Storage;
pub use profile::{KernelTime, KnownTimes, Profile, Row};
#[cfg(not(target_arch = "wasm32"))]
pub use roofline::svg as roofline;
pub use session::Session;
pub use state::State;
pub use weights::Weights;
