//! Tensors that outlive runs and Programs, in one buffer, and the samplers' linear combinations of them.

use super::backend::{Buffer, Dispatch, Slice, Usage};
use super::device::Device;
use super::kernels;
use crate::plan::{Mix, Slot, StateLayout};
use crate::{Error, Result};
use std::cell::RefCell;
use std::rc::Rc;
use web_time::Instant;

/// Tensors that outlive runs.
pub struct State {
    device: Rc<Device>,
    layout: Rc<StateLayout>,
    buffer: Buffer,
    params: Buffer,
    combine: RefCell<Dispatch>,
}

impl State {
    /// Zeroed.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`, `SHADER_FAILED`.
    pub async fn new(device: Rc<Device>, layout: Rc<StateLayout>) -> Result<State> {
        let buffer = device.backend.buffer("state", layout.bytes(), Usage::Storage).await?;
        let launch = kernels::combine(0, layout.bytes() / 4, &[], Mix::Replace(None));
        let params = device.backend.buffer("parameters", launch.params.len(), Usage::Uniform).await?;
        device.compile([&launch.variant]).await?;
        let pipeline = device.pipeline(&launch.variant)?;
        let bindings = [(0, params.whole()), (kernels::COMBINED, buffer.whole())];
        let combine = RefCell::new(device.backend.dispatch(&pipeline, &bindings, launch.workgroups));
        Ok(State { device, layout, buffer, params, combine })
    }

    /// Where its tensors lie.
    pub fn layout(&self) -> &StateLayout {
        &self.layout
    }

    /// A tensor's bytes.
    pub(super) fn slice(&self, slot: &Slot) -> Slice<'_> {
        Slice { buffer: &self.buffer, offset: slot.offset, bytes: slot.bytes().next_multiple_of(16) }
    }

    /// Writes a tensor (dense values) before all later runs and combinations, after all earlier ones.
    ///
    /// # Errors
    /// `INTERNAL` if there is none of that name and length.
    pub fn write(&self, name: &str, values: &[f32]) -> Result<()> {
        let slot = self.layout.slot(name)?;
        if slot.elements() != values.len() {
            return Err(Error::internal(format!("wrote {} values into \"{name}\"", values.len())));
        }
        let dim = slot.shape.last().copied().unwrap_or(1);
        write(&self.device, self.slice(slot), slot.row_stride, dim, values);
        Ok(())
    }

    /// Reads a tensor (dense values) after all submitted work.
    ///
    /// # Errors
    /// `DEVICE_LOST`, `INTERNAL` if there is none of that name.
    pub async fn read(&self, name: &str) -> Result<Vec<f32>> {
        let slot = self.layout.slot(name)?;
        let dim = slot.shape.last().copied().unwrap_or(1);
        read(&self.device, self.slice(slot), slot.row_stride, dim, slot.elements() / dim.max(1)).await
    }

    /// What becomes of `sum of coefficient * tensor`, by the first element of each in the State.
    pub fn combine(&self, out: usize, elements: usize, terms: &[(usize, f32)], mix: Mix) {
        let began = Instant::now();
        let launch = kernels::combine(out, elements, terms, mix);
        let mut combine = self.combine.borrow_mut();
        combine.set_workgroups(launch.workgroups);
        self.device.backend.write(&self.params, 0, &launch.params);
        self.device.backend.submit([&*combine]);
        self.device.dispatches.set(self.device.dispatches.get() + 1);
        self.device.encode.set(self.device.encode.get() + began.elapsed());
    }
}

/// Writes dense values into rows with gaps, which hold zeros.
pub(super) fn write(device: &Device, target: Slice<'_>, row_stride: usize, dim: usize, values: &[f32]) {
    if row_stride == dim {
        device.backend.write(target.buffer, target.offset, bytemuck::cast_slice(values));
        return;
    }
    let mut padded = vec![0f32; values.len() / dim * row_stride];
    for (to, from) in padded.chunks_mut(row_stride).zip(values.chunks(dim)) {
        to[..from.len()].copy_from_slice(from);
    }
    device.backend.write(target.buffer, target.offset, bytemuck::cast_slice(&padded));
}

/// Reads rows with gaps.
pub(super) async fn read(
    device: &Device,
    source: Slice<'_>,
    row_stride: usize,
    dim: usize,
    rows: usize,
) -> Result<Vec<f32>> {
    let bytes = device.backend.read(source).await?;
    let values: &[f32] = bytemuck::cast_slice(&bytes);
    Ok(values.chunks(row_stride).take(rows).flat_map(|row| &row[..dim]).copied().collect())
}
