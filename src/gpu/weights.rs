//! One component's tensors on a GPU: in a few large buffers, so that loading a model makes few of them.

use super::backend::{Buffer, Slice};
use super::device::Device;
use super::kernels::WeightLayouts;
use super::pack::{Packed, Storage, pack};
use crate::plan::{Compute, Form, Weight, WeightId};
use crate::{Error, Result, weights};
use std::rc::Rc;

/// What is gathered on the host before a buffer is made; a tensor that is larger has one of its own.
const SLAB_BYTES: usize = 8 << 20;
/// A binding's offset.
const ALIGN: usize = 256;

/// Where some bytes lie.
#[derive(Clone, Copy)]
struct Range {
    slab: usize,
    offset: usize,
    bytes: usize,
}

/// A weight in its place.
struct Placed {
    values: Range,
    scales: Option<Range>,
    form: Form,
    storage: Storage,
    group4: usize,
    groups: usize,
}

/// Weights of one component.
pub struct Weights {
    device: Rc<Device>,
    compute: Compute,
    placed: Vec<Option<Placed>>,
    slabs: Vec<Buffer>,
    /// The next slab's contents.
    gathered: Vec<u8>,
}

impl Weights {
    /// None yet, for this arithmetic.
    pub fn new(device: Rc<Device>, compute: Compute) -> Weights {
        Weights { device, compute, placed: Vec::new(), slabs: Vec::new(), gathered: Vec::new() }
    }

    /// The device that holds them.
    pub fn device(&self) -> &Rc<Device> {
        &self.device
    }

    /// The arithmetic that they are packed for.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Packs a weight for its kernels; it is on the device after [`Weights::flush`] at the latest.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`, `LIMIT_TOO_SMALL` if it is larger than a binding may be.
    pub async fn load(&mut self, id: WeightId, weight: &Weight, form: Form, tensor: &weights::Tensor) -> Result<()> {
        let packed = pack(weight, form, tensor, self.device.backend.max_binding())?;
        let Packed { values, scales, storage, group4, groups } = packed;
        if self.gathered.len() + values.len() + scales.len() > SLAB_BYTES {
            self.flush().await?;
        }
        let values = self.gather(&values);
        let scales = (!scales.is_empty()).then(|| self.gather(&scales));
        if self.placed.len() <= id.index() {
            self.placed.resize_with(id.index() + 1, || None);
        }
        self.placed[id.index()] = Some(Placed { values, scales, form, storage, group4, groups });
        Ok(())
    }

    fn gather(&mut self, contents: &[u8]) -> Range {
        let offset = self.gathered.len();
        self.gathered.extend_from_slice(contents);
        self.gathered.resize(self.gathered.len().next_multiple_of(ALIGN), 0);
        Range { slab: self.slabs.len(), offset, bytes: contents.len() }
    }

    /// Brings what was gathered to the device.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub async fn flush(&mut self) -> Result<()> {
        if !self.gathered.is_empty() {
            let contents = std::mem::take(&mut self.gathered);
            self.slabs.push(self.device.backend.upload("weights", &contents).await?);
        }
        Ok(())
    }

    /// The form in which a weight was loaded, if it was.
    pub fn form(&self, id: WeightId) -> Option<Form> {
        self.placed(id).ok().map(|placed| placed.form)
    }

    fn placed(&self, id: WeightId) -> Result<&Placed> {
        let placed = self.placed.get(id.index()).and_then(Option::as_ref);
        placed.ok_or_else(|| Error::internal(format!("weight {} is not loaded", id.index())))
    }

    fn slice(&self, range: Range) -> Result<Slice<'_>> {
        let buffer = self.slabs.get(range.slab).ok_or_else(|| Error::internal("weights were not flushed"))?;
        Ok(Slice { buffer, offset: range.offset, bytes: range.bytes })
    }

    /// A weight's values.
    pub(super) fn values(&self, id: WeightId) -> Result<Slice<'_>> {
        self.slice(self.placed(id)?.values)
    }

    /// A weight's scales.
    pub(super) fn scales(&self, id: WeightId) -> Result<Slice<'_>> {
        let scales = self.placed(id)?.scales;
        self.slice(scales.ok_or_else(|| Error::internal("a weight has no scales"))?)
    }
}

impl WeightLayouts for Weights {
    fn layout(&self, id: WeightId) -> (Storage, usize, usize) {
        match self.placed(id) {
            Ok(w) => (w.storage, w.group4, w.groups),
            Err(_) => (Storage::F32, 0, 1),
        }
    }
}
