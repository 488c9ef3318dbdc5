//! Guidance as a table: copies of every image in the batch, what each is given, and how their outputs become one.

use super::tensors::{NamedTensor, Values};
use crate::model::Batch;
use crate::sampler::guidance;
use crate::{Error, Result};

/// Copies of every image, and how their outputs become one.
#[derive(Clone, Debug, PartialEq)]
pub struct Guidance {
    /// For every copy, tensors for the ports that are given, `[images, ..]`. The first is the conditional one.
    pub copies: Vec<Vec<NamedTensor>>,
    /// For every copy, the coefficient of its output.
    pub coefficients: Vec<f64>,
    /// Ports whose outputs have coefficients of their own.
    pub of_port: Vec<(&'static str, Vec<f64>)>,
    /// What is noise that is drawn anew at every evaluation, in the order of the draws: a copy, and its port. The port is given, or one
    /// of those that are drawn: then it is absent from that copy, which has noise in its place.
    pub noise: Vec<(usize, &'static str)>,
    /// The network's time of a port that is absent.
    pub noise_time: f64,
    /// So many of the output's first channels are guided, the others are the first copy's; none: all.
    pub channels: Option<usize>,
    /// How far the guided output is rescaled to vary as the first copy's, 0 (not at all) to 1; costs a readback at every call.
    pub rescale: f64,
}

impl Guidance {
    /// Only the conditional copy.
    pub fn none(given: Vec<NamedTensor>) -> Guidance {
        Guidance {
            copies: vec![given],
            coefficients: vec![1.0],
            of_port: Vec::new(),
            noise: Vec::new(),
            noise_time: 0.0,
            channels: None,
            rescale: 0.0,
        }
    }

    /// `uncond + s (cond - uncond)`; s = 1 needs no unconditional copy.
    pub fn classifier_free(cond: Vec<NamedTensor>, uncond: Vec<NamedTensor>, scale: f64) -> Guidance {
        let mut guidance = Guidance::none(cond);
        if guidance::needs_uncond(scale) {
            guidance.copies.push(uncond);
            guidance.coefficients = guidance::expand(1.0, scale).to_vec();
        }
        guidance
    }

    /// The coefficients of a port's outputs.
    pub(super) fn coefficients(&self, port: &str) -> &[f64] {
        let own = self.of_port.iter().find(|(name, _)| *name == port);
        own.map_or(&self.coefficients, |(_, coefficients)| coefficients)
    }

    /// The ports that are drawn and absent from a copy: what is noise and not given.
    pub(super) fn absent(&self) -> Vec<(usize, &'static str)> {
        let given = |copy: usize, port: &str| self.copies[copy].iter().any(|tensor| tensor.name == port);
        self.noise.iter().copied().filter(|&(copy, port)| !given(copy, port)).collect()
    }

    /// The batch of so many images.
    pub fn batch(&self, images: usize) -> Batch {
        Batch::copied(images, self.copies.len())
    }

    /// What all items are given, copy after copy.
    pub(super) fn given(&self) -> Result<Vec<NamedTensor>> {
        let mut all = self.copies.first().cloned().unwrap_or_default();
        for copy in self.copies.iter().skip(1) {
            for (tensor, more) in all.iter_mut().zip(copy) {
                match (&mut tensor.values, &more.values) {
                    (Values::Floats(values), Values::Floats(more)) => values.extend(more),
                    (Values::Times(values), Values::Times(more)) => values.extend(more),
                    (Values::Indices(values), Values::Indices(more)) => values.extend(more),
                    _ => return Err(Error::internal("copies are given different kinds of values")),
                }
            }
        }
        Ok(all)
    }
}
