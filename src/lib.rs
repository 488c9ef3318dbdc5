//! uvit-web: the diffusion runtime for the browser.
//!
//! A picture's way through the house, one module a room:
//!
//! 1. [`weights`] reads checkpoints, quantises tensors, and reads and writes shards.
//! 2. [`package`] is a model's folder: it reads and writes `manifest.json`, converts checkpoints, checks what is loaded.
//! 3. [`model`] knows each network's configuration and records it as a [`plan::Plan`]: what to compute.
//! 4. [`plan`] lowers a Plan to a [`plan::Program`]: fused operations, memory, cost; still no device.
//! 5. [`cpu`] and [`gpu`] run a Program. The CPU kernels are the reference that every shader is compared with.
//! 6. [`sampler`] turns a noise schedule and a solver into a list of steps with coefficients in f64.
//! 7. [`text`] turns words into the numbers of tokens.
//! 8. [`pipeline`] loads a model, walks the steps, reports progress, can be stopped, and returns pixels.
//! 9. [`js`](https://docs.rs/wasm-bindgen) (wasm only) and the tool `uvit` (`src/cli`) are thin shells around the pipeline.
//!
//! Conventions: tensors are row-major; images and latents `[batch, channels, height, width]`, tokens
//! `[batch, tokens, dim]`; pixel values lie in [-1, 1]; `guidance_scale` s means `uncond + s (cond - uncond)`.

pub mod cpu;
pub mod decimal;
pub mod error;
pub mod generator;
#[cfg(feature = "gpu")]
pub mod gpu;
#[cfg(target_arch = "wasm32")]
mod js;
pub mod json;
#[cfg(any(test, target_arch = "wasm32"))]
#[cfg_attr(not(target_arch = "wasm32"), allow(dead_code))] // its tests try some of it
mod json_value;
pub mod meter;
pub mod model;
pub mod named;
pub mod package;
pub mod pipeline;
pub mod plan;
pub mod runtime;
pub mod sampler;
pub mod text;
pub mod weights;

pub use error::{Code, Error, Report, Result};
pub use uvit_simd as simd;
