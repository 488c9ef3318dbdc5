//! A U-ViT of clips: a patch is a few frames of a square, and all patches of a clip are tokens of one transformer. The blocks, the
//! tokens in front of the patches and the tensor names are those of `libs/uvit.py` of baofff/U-ViT at
//! ce551708dc9cde9818d2af7d84dfadfeb7bd9034; with one frame it is that network, bit for bit.

use super::transformer::Pictures;
use super::{Batch, Recording, uvit};
use crate::Result;
use crate::json::{self, Fields, Read, Value, Write};

/// The constructor's arguments: a U-ViT's, and what clips have beside them.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Of the frames.
    pub uvit: uvit::Config,
    /// Frames of a clip.
    pub num_frames: usize,
    /// Frames of a patch: as many times a whole number are those of a clip.
    pub t_patch_size: usize,
}

impl Read for Config {
    fn read(value: &Value) -> json::Result<Config> {
        let fields = Fields::of(value)?;
        let (num_frames, t_patch_size) = (fields.required("num_frames")?, fields.required("t_patch_size")?);
        Ok(Config { uvit: Read::read(value)?, num_frames, t_patch_size })
    }
}

impl Write for Config {
    fn write(&self) -> Value {
        let more = [("num_frames", self.num_frames.into()), ("t_patch_size", self.t_patch_size.into())];
        json::with(self.uvit.write(), json::object(more))
    }
}

impl Config {
    fn clips(&self) -> Pictures {
        self.uvit.pictures(Some([self.num_frames, self.t_patch_size]))
    }

    /// All tokens of one item.
    pub fn tokens(&self) -> usize {
        self.uvit.tokens_of(&self.clips())
    }

    /// Records one forward for `batch`: ports `x [images, C, F, H, W]`, `timesteps [items]`, `y [items]` for networks with
    /// classes, and `out [items, C, F, H, W]`. The last convolution sees every frame by itself.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` if the parameters contradict each other or the head dim is no multiple of 4 up to 128.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        self.uvit.record_of(&self.clips(), batch)
    }

    /// See [`super::Network::inner_blocks`].
    pub fn inner_blocks(&self, outer: usize) -> Option<[String; 2]> {
        self.uvit.inner_blocks(outer)
    }
}
