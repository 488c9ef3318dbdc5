//! From text latents to texts.

use super::components::Components;
use crate::{Error, Result};

/// A text that was told.
#[derive(Clone, Debug, PartialEq)]
pub struct Caption {
    /// Its tokens, the one that ends it included.
    pub ids: Vec<u32>,
    /// What they say.
    pub text: String,
    /// Whether it ended; else it was cut at the longest length.
    pub ended: bool,
}

/// What tells texts.
pub struct Captions {}

impl Captions {
    /// Tokens of the longest text.
    pub fn longest(&self) -> usize {
        0
    }

    /// The published number of beams.
    pub fn beams(&self) -> usize {
        1
    }

    /// Texts of latents.
    pub(super) async fn tell(
        &mut self,
        _components: &mut Components,
        _latents: &[f32],
        _beams: usize,
        _on_texts: &mut dyn FnMut(usize, &[String]),
        _stopped: &dyn Fn() -> bool,
    ) -> Result<Vec<Caption>> {
        Err(Error::internal("nothing tells texts yet"))
    }
}
