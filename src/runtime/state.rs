//! Named tensors that outlive runs and Programs: the samplers' slots, a block's cache, and combinations of them.

use super::{Device, Kind, each};
#[cfg(feature = "gpu")]
use crate::gpu;
use crate::plan::{Capabilities, Mix, StateLayout};
use crate::{Error, Result, cpu};
use std::rc::Rc;

/// A part of a linear combination.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term<'a> {
    /// Which tensor.
    pub tensor: &'a str,
    /// Its first element that counts.
    pub from: usize,
    /// What it is multiplied by.
    pub coefficient: f32,
}

/// Tensors in one buffer of a device; freed with the last Session over it.
#[derive(Clone)]
pub struct State(
    #[cfg(feature = "gpu")] pub(super) Kind<Rc<cpu::State>, Rc<gpu::State>>,
    #[cfg(not(feature = "gpu"))] pub(super) Kind<Rc<cpu::State>>,
);

impl State {
    /// Zeroed tensors of these names and shapes.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`, `LIMIT_TOO_SMALL` if they do not fit into one binding.
    pub async fn new(device: &Device, tensors: &[(String, Vec<usize>)]) -> Result<State> {
        // Combinations are in f32, and rows lie alike whatever the arithmetic.
        let capabilities: Capabilities = device.capabilities(Default::default());
        let layout = Rc::new(StateLayout::new(tensors, &capabilities)?);
        Ok(State(match &device.0 {
            Kind::Host(device) => Kind::Host(Rc::new(cpu::State::new(device, layout)?)),
            #[cfg(feature = "gpu")]
            Kind::Gpu(device) => Kind::Gpu(Rc::new(gpu::State::new(device.clone(), layout).await?)),
        }))
    }

    fn layout(&self) -> &StateLayout {
        each!(&self.0, state => state.layout())
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> usize {
        self.layout().bytes()
    }

    /// Elements of a tensor.
    ///
    /// # Errors
    /// `INTERNAL` if there is none of that name.
    pub fn elements(&self, name: &str) -> Result<usize> {
        Ok(self.layout().slot(name)?.elements())
    }

    /// Writes a tensor (dense values) before all later runs and combinations, after all earlier ones.
    ///
    /// # Errors
    /// `INTERNAL` if there is none of that name and length.
    pub fn write(&self, name: &str, values: &[f32]) -> Result<()> {
        each!(&self.0, state => state.write(name, values))
    }

    /// Reads a tensor (dense values) after all submitted work.
    ///
    /// # Errors
    /// `DEVICE_LOST`, `INTERNAL` if there is none of that name.
    pub async fn read(&self, name: &str) -> Result<Vec<f32>> {
        each!(&self.0, state => state.read(name), state => state.read(name).await)
    }

    /// `out = clip(sum of coefficient * tensor)` over the first `elements` of `out`; `out` may be among the terms.
    ///
    /// # Errors
    /// `INTERNAL` if a tensor does not exist, is shorter, or has gaps between its rows.
    pub fn combine(&self, out: &str, elements: usize, terms: &[Term<'_>], clip: Option<(f32, f32)>) -> Result<()> {
        self.mix((out, 0), elements, terms, |_| Ok(Mix::Replace(clip)))
    }

    /// [`State::combine`] from an element `first` of `out` on.
    ///
    /// # Errors
    /// As [`State::combine`].
    pub fn combine_from(
        &self,
        out: &str,
        first: usize,
        elements: usize,
        terms: &[Term<'_>],
        clip: Option<(f32, f32)>,
    ) -> Result<()> {
        self.mix((out, first), elements, terms, |_| Ok(Mix::Replace(clip)))
    }

    /// `out = mask * out + (1 - mask) * sum of coefficient * tensor` over the first `elements` of `out` and of `mask`.
    ///
    /// # Errors
    /// As [`State::combine`].
    pub fn blend(&self, out: &str, mask: &str, elements: usize, terms: &[Term<'_>]) -> Result<()> {
        self.mix((out, 0), elements, terms, |place| Ok(Mix::Blend { mask: place(mask, 0)? }))
    }

    /// `out += exp(log_std[0] + log_std[1] variance) * sum of coefficient * tensor` over the first `elements` of `out` and of `variance`.
    ///
    /// # Errors
    /// As [`State::combine`].
    pub fn spread(
        &self,
        out: &str,
        variance: &str,
        elements: usize,
        terms: &[Term<'_>],
        log_std: [f32; 2],
    ) -> Result<()> {
        self.mix((out, 0), elements, terms, |place| Ok(Mix::Spread { variance: place(variance, 0)?, log_std }))
    }

    fn mix(
        &self,
        out: (&str, usize),
        elements: usize,
        terms: &[Term<'_>],
        how: impl FnOnce(&dyn Fn(&str, usize) -> Result<usize>) -> Result<Mix>,
    ) -> Result<()> {
        let first = |name: &str, from: usize| {
            let slot = self.layout().slot(name)?;
            let dense = slot.shape.last() == Some(&slot.row_stride);
            match dense && from + elements <= slot.elements() {
                true => Ok(slot.offset / 4 + from),
                false => Err(Error::internal(format!("{elements} elements of \"{name}\" from {from} are combined"))),
            }
        };
        let mut sources = Vec::with_capacity(terms.len());
        for term in terms {
            sources.push((first(term.tensor, term.from)?, term.coefficient));
        }
        let out = first(out.0, out.1)?;
        let mix = how(&first)?;
        each!(&self.0, state => state.combine(out, elements, &sources, mix));
        Ok(())
    }
}
