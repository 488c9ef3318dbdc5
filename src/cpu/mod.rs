//! The plain kernels and their sessions: the reference that every device is compared with.
//!
//! One function an operation, written to be obviously right rather than fast; f32 arithmetic in index order. What users
//! run on the CPU is `fast`, over the kernels of [`uvit_simd`], in builds that have it (the feature `fast-cpu`).

mod attention;
mod cached_attention;
mod combine;
mod conv2d;
mod copy_tokens;
mod device;
mod elementwise;
mod embedding;
#[cfg(feature = "fast-cpu")]
mod fast;
mod group_moments;
mod group_norm;
mod group_scales;
mod head_norm;
mod image_tokens;
mod int_attention;
mod int_matmul;
mod layer_norm;
mod matmul;
mod memory;
mod patch_embed;
mod plain;
mod resized_positions;
mod timestep_embedding;
mod unpatchify;
mod windows;
mod write_cache;

pub use attention::attention;
pub use cached_attention::cached_attention;
pub use combine::combine;
pub use conv2d::conv2d;
pub use copy_tokens::copy_tokens;
pub use device::{Device, Session, State, Weights};
pub use elementwise::{activate, elementwise, elementwise_gated};
pub use embedding::embedding;
pub use group_moments::group_moments;
pub use group_norm::group_norm;
pub use group_scales::group_scales;
pub use head_norm::head_norm;
pub use image_tokens::image_tokens;
pub use int_attention::int_attention;
pub use int_matmul::{int_convolution, int_matmul, w8a8_matmul};
pub use layer_norm::layer_norm;
pub use matmul::{matmul, panels};
pub use memory::Memory;
pub use patch_embed::patch_embed;
pub use resized_positions::resized_positions;
pub use timestep_embedding::timestep_embedding;
pub use unpatchify::unpatchify;
pub use windows::windows;
pub use write_cache::write_cache;
