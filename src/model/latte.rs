//! Latte, "Latte: Latent Diffusion Transformer for Video Generation" (Ma et al., 2024, section 3.2, variant 1): a DiT of clips whose
//! blocks attend in turn to the tokens of a frame and to those of one place in all frames.

use super::adaln::Adaptive;
use super::transformer::{unsupported, within};
use super::{Batch, Recording, dit};
use crate::Result;
use crate::json::{self, Fields, Read, Value, Write};

/// The published constructor's arguments, under its names: a DiT's, and what clips have beside them.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Of the frames.
    pub dit: dit::Config,
    /// Frames of a clip.
    pub num_frames: usize,
    /// 1: time is all there is; 2: classes, too.
    pub extras: usize,
}

impl Read for Config {
    fn read(value: &Value) -> json::Result<Config> {
        let fields = Fields::of(value)?;
        let (num_frames, extras) = (fields.required("num_frames")?, fields.required("extras")?);
        Ok(Config { dit: Read::read(value)?, num_frames, extras })
    }
}

impl Write for Config {
    fn write(&self) -> Value {
        let more = [("num_frames", self.num_frames.into()), ("extras", self.extras.into())];
        json::with(self.dit.write(), json::object(more))
    }
}

impl Config {
    fn sizes(&self) -> Adaptive<'_> {
        Adaptive { config: &self.dit, frames: Some(self.num_frames), labels: self.extras == 2 }
    }

    /// Number of class labels, the null class included; 0 without.
    pub fn classes(&self) -> usize {
        if self.extras == 2 { self.dit.num_classes + 1 } else { 0 }
    }

    /// All tokens of one item.
    pub fn tokens(&self) -> usize {
        self.sizes().tokens()
    }

    /// Records one forward for `batch`: ports `x [images, F, C, S, S]`, `timesteps [items]`, `y [items]` where there are classes,
    /// `out [items, F, C, S, S]` and, with `learn_sigma`, `variance` of the same shape. The published result is, in every frame,
    /// both, one below the other.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` if the parameters contradict each other, the head dim is no multiple of 4 up to 128, or a text is read.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        within("num_frames", self.num_frames, 4096)?;
        if !matches!(self.extras, 1 | 2) {
            let extras = self.extras;
            return Err(unsupported(format!("extras is {extras}: only 1 (no labels) and 2 (classes) are supported")));
        }
        if !self.dit.depth.is_multiple_of(2) {
            return Err(unsupported(format!("depth {} is odd: a temporal block is missing", self.dit.depth)));
        }
        self.sizes().record(batch)
    }
}
