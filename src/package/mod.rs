//! A model as a folder: the manifest, conversion, loading. Knows networks by name, and what [`crate::weights`] stores; no
//! network's maths and no device. `docs/format.md` specifies all of it.

#[cfg(not(target_arch = "wasm32"))]
mod configurations;
#[cfg(not(target_arch = "wasm32"))]
mod convert;
#[cfg(not(target_arch = "wasm32"))]
mod description;
mod fields;
mod fit;
#[cfg(not(target_arch = "wasm32"))]
mod given;
mod hash;
#[cfg(not(target_arch = "wasm32"))]
mod journal;
#[cfg(not(target_arch = "wasm32"))]
mod layout;
mod load;
mod manifest;
#[cfg(not(target_arch = "wasm32"))]
mod official;
#[cfg(not(target_arch = "wasm32"))]
mod pipelines;
#[cfg(not(target_arch = "wasm32"))]
mod positions;
#[cfg(not(target_arch = "wasm32"))]
mod presets;
mod preview;
#[cfg(not(target_arch = "wasm32"))]
mod published;
#[cfg(not(target_arch = "wasm32"))]
mod recognise;
mod task;
#[cfg(not(target_arch = "wasm32"))]
mod unidiffuser;
mod version1;
#[cfg(not(target_arch = "wasm32"))]
mod writer;

#[cfg(not(target_arch = "wasm32"))]
pub use convert::{Storing, describe, labels, licences, store};
#[cfg(not(target_arch = "wasm32"))]
pub use description::{Description, PartSource};
pub use load::reader;
#[cfg(not(target_arch = "wasm32"))]
pub use load::{read_asset, read_manifest, read_shards};
pub use manifest::{BlockCache, Component, DENOISER, FORMAT_VERSION, Label, Licence, MANIFEST, Manifest, Sampling};
#[cfg(not(target_arch = "wasm32"))]
pub use official::{Located, official};
#[cfg(not(target_arch = "wasm32"))]
pub use presets::{Preset, preset, presets};
pub use preview::LatentRgb;
#[cfg(not(target_arch = "wasm32"))]
pub use recognise::recognise;
pub use task::{
    CAPTION_DECODER, CAPTION_TOKENIZER, DECODER, ENCODER, IMAGE_ENCODER, PREVIEW_DECODER, TEXT_ENCODER, TEXT_ENCODER_2,
    TEXT_PROJECTOR, TOKENIZER, Task,
};
#[cfg(not(target_arch = "wasm32"))]
pub use writer::{Writer, write_manifest};
