//! What several text encoders make of a text, side by side: what the denoiser of Stable Diffusion 3 (arXiv:2403.03206, section 4 and
//! appendix B) is given. Follows `encode_prompt` of diffusers 0.42.1
//! (`pipelines/stable_diffusion_3/pipeline_stable_diffusion_3.py`) without its third encoder, a T5, whose tokens are zeros.

use crate::model::Recording;
use crate::{Error, Result};

/// Sizes of what a denoiser takes of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Tokens of the context.
    pub tokens: usize,
    /// Width of each.
    pub width: usize,
    /// Elements of the text's one vector.
    pub pooled: usize,
}

impl Joined {
    /// What a recorded denoiser takes of several encoders, if it does.
    pub fn of(denoiser: &Recording) -> Option<Joined> {
        let shape = |name: &str| Some(denoiser.plan.shape(denoiser.port(name)?.tensor));
        let (context, pooled) = (shape("context_in")?, shape("pooled")?);
        Some(Joined { tokens: context[1], width: context[2], pooled: pooled[1..].iter().product() })
    }

    /// Elements of a text: its context, `[tokens, width]`, then its vector.
    pub fn elements(&self) -> usize {
        self.tokens * self.width + self.pooled
    }
}

/// Texts of which some encoders have been asked already.
pub struct Joining {
    shape: Joined,
    /// `[texts, elements]`
    values: Vec<f32>,
    /// Channels of the context, and elements of the vector, that are filled.
    filled: [usize; 2],
}

impl Joining {
    /// Nothing but zeros.
    pub fn new(shape: Joined, texts: usize) -> Joining {
        Joining { shape, values: vec![0.0; texts * shape.elements()], filled: [0; 2] }
    }

    /// The next encoder: the texts' ids `[texts, length]`, its hidden state `[texts, length, ..]`, which takes the next channels
    /// of the first tokens, and its projection of every token `[texts, length, ..]`, of which that of the first `end` goes on with the
    /// vector.
    ///
    /// # Errors
    /// `INTERNAL` if there is no room for it.
    pub fn add(&mut self, ids: &[u32], end: u32, hidden: &[f32], projected: &[f32]) -> Result<()> {
        let Joined { tokens, width, pooled } = self.shape;
        let texts = self.values.len() / self.shape.elements();
        let (length, wide, long) = (ids.len() / texts, hidden.len() / ids.len(), projected.len() / ids.len());
        let [column, at] = self.filled;
        if length > tokens || column + wide > width || at + long > pooled {
            return Err(Error::internal("the encoders' features have no room in what the denoiser takes"));
        }
        for (k, of_text) in self.values.chunks_mut(self.shape.elements()).enumerate() {
            let ids = &ids[k * length..][..length];
            for i in 0..length {
                of_text[i * width + column..][..wide].copy_from_slice(&hidden[(k * length + i) * wide..][..wide]);
            }
            let last = k * length + ids.iter().position(|&id| id == end).unwrap_or(0);
            of_text[tokens * width + at..][..long].copy_from_slice(&projected[last * long..][..long]);
        }
        self.filled = [column + wide, at + long];
        Ok(())
    }

    /// What all of them have made, `[texts, elements]`.
    pub fn finish(self) -> Vec<f32> {
        self.values
    }
}
