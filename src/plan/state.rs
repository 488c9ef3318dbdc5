//! What outlives runs and Programs: named tensors in one buffer, still without a device.

use super::{Capabilities, View};
use crate::{Code, Error, Result};

/// A tensor of a State.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// Programs find it by this name.
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    /// Elements from one row (last axis) to the next.
    pub row_stride: usize,
    /// First byte.
    pub offset: usize,
}

impl Slot {
    /// Bytes that it takes, gaps included.
    pub fn bytes(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product::<usize>() * self.row_stride * 4
    }

    /// Elements without the gaps between rows.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// How a combination's sum and what it is written to become one; tensors are places in the State.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mix {
    /// The sum replaces it, clipped to bounds if there are any.
    Replace(Option<(f32, f32)>),
    /// `mask * out + (1 - mask) * sum`.
    Blend {
        /// The mask.
        mask: usize,
    },
    /// `out + exp(log_std[0] + log_std[1] variance) * sum`.
    Spread {
        /// The variance.
        variance: usize,
        /// A constant, and a factor of the variance.
        log_std: [f32; 2],
    },
}

/// Where the tensors of a State lie.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateLayout {
    slots: Vec<Slot>,
    bytes: usize,
}

impl StateLayout {
    /// One after the other: names with shapes.
    ///
    /// # Errors
    /// `LIMIT_TOO_SMALL` if they do not fit into one binding, which combinations of them need.
    pub fn new(tensors: &[(String, Vec<usize>)], capabilities: &Capabilities) -> Result<StateLayout> {
        let mut slots = Vec::with_capacity(tensors.len());
        let mut needed = 0u64;
        for (name, shape) in tensors {
            let row_stride = capabilities.row_stride(shape);
            // In u64: a large batch would overflow the usize of wasm32.
            let bytes = shape.iter().rev().skip(1).fold(4 * row_stride as u64, |n, &d| n.saturating_mul(d as u64));
            slots.push(Slot { name: name.clone(), shape: shape.clone(), row_stride, offset: needed as usize });
            needed = needed.saturating_add(bytes).next_multiple_of(capabilities.offset_align as u64);
            if needed > capabilities.max_binding as u64 {
                return Err(Error::new(
                    Code::LimitTooSmall,
                    format!(
                        "the sampler's tensors need {needed} bytes in one binding; \
                         maxStorageBufferBindingSize is {}",
                        capabilities.max_binding
                    ),
                    "Generate fewer images at once, or use a device with larger limits",
                ));
            }
        }
        Ok(StateLayout { slots, bytes: needed as usize })
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// `INTERNAL` if there is none.
    pub fn slot(&self, name: &str) -> Result<&Slot> {
        let found = self.slots.iter().find(|slot| slot.name == name);
        found.ok_or_else(|| Error::internal(format!("the state has no tensor \"{name}\"")))
    }

    /// The tensor that a Program means by a view.
    ///
    /// # Errors
    /// `INTERNAL` if there is none of its name and shape.
    pub fn of(&self, view: &View) -> Result<&Slot> {
        let slot = self.slot(&view.name)?;
        if slot.shape != view.shape || slot.row_stride != view.row_stride {
            let cause = format!("\"{}\" is {:?} in the state, {:?} in the Program", view.name, slot.shape, view.shape);
            return Err(Error::internal(cause));
        }
        Ok(slot)
    }

    /// Bytes of the buffer.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
