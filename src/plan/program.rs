//! The lowered form of a Plan: kernels with all their sizes, and where every tensor lies.

use super::{Compute, Form, Kernel, PACK_GROUP, Role, TensorId, Weight};
use std::ops::Range;

/// What a device can do, as far as lowering cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Rows of tokens start at multiples of this many elements; the gap holds zeros. 4 for `vec4` loads.
    pub row_align: usize,
    /// Tensors start at multiples of this many bytes.
    pub offset_align: usize,
    /// The largest range one binding may have, in bytes.
    pub max_binding: usize,
    /// The arithmetic of Linears.
    pub compute: Compute,
    /// Whether the input of a [`super::Arithmetic::W8A8`] Linear lies quantised, by whoever made it; else the Linear does that.
    pub packs: bool,
    /// Multiply-adds of one launch, where a kernel can be cut: none should hold up whoever waits for the device.
    pub launch_work: u64,
}

impl Capabilities {
    /// Elements from one row of a tensor of floats to the next: rows of tokens are filled up, those of images and clips are not.
    pub fn row_stride(&self, shape: &[usize]) -> usize {
        let dim = *shape.last().unwrap_or(&1);
        if shape.len() >= 4 { dim } else { dim.next_multiple_of(self.row_align) }
    }

    /// The CPU: dense rows, tensors on a cache line's boundary, and what one allocation may have.
    pub const CPU: Capabilities = Capabilities {
        row_align: 1,
        offset_align: 64,
        max_binding: isize::MAX as usize,
        compute: Compute::F32,
        packs: false,
        launch_work: 3 << 27,
    };
    /// Any WebGPU device, at the specification's default limits.
    pub const WEBGPU: Capabilities = Capabilities {
        row_align: 4,
        offset_align: 256,
        max_binding: 128 << 20,
        compute: Compute::F32,
        packs: true,
        launch_work: 3 << 27,
    };
}

/// Where a tensor lies. Offsets are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Fused away or unused.
    Nowhere,
    /// In the buffer of inputs and outputs.
    Io(usize),
    /// In the State that the Program runs with, under the tensor's name.
    State,
    /// In slab `slab` of the arena.
    Arena {
        /// Which slab.
        slab: usize,
        /// Where in it.
        offset: usize,
    },
}

/// A tensor of a Program: its meaning and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// As in the Plan.
    pub name: String,
    /// As in the Plan.
    pub shape: Vec<usize>,
    /// As in the Plan.
    pub role: Role,
    /// Elements from one row (last axis) to the next.
    pub row_stride: usize,
    /// Whether its values are quantised: a row holds `dim / 4` words of four i8 each, then a scale for every [`PACK_GROUP`] of
    /// them, filled up to whole vec4s.
    pub packed: bool,
    /// Where it lies.
    pub place: Place,
}

impl View {
    /// Elements of a row of `dim` quantised values.
    pub fn packed_stride(dim: usize) -> usize {
        dim / 4 + (dim / PACK_GROUP).next_multiple_of(4)
    }

    /// How many rows (all axes but the last).
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }

    /// Elements of one row.
    pub fn dim(&self) -> usize {
        self.shape[self.shape.len() - 1]
    }

    /// Elements without the gaps between rows.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes that it takes, gaps included.
    pub fn bytes(&self) -> usize {
        self.rows() * self.row_stride * 4
    }
}

/// How to compute a Plan: what a device runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// By [`TensorId`].
    pub views: Vec<View>,
    /// By [`super::WeightId`].
    pub weights: Vec<Weight>,
    /// By [`super::WeightId`]: how the kernels expect it.
    pub forms: Vec<Form>,
    /// In order.
    pub kernels: Vec<Kernel>,
    /// `(time [batch], out [batch, 1, dim])`: filled by the host before a run.
    pub time_embeddings: Vec<(TensorId, TensorId)>,
    /// Bytes of the buffer of inputs and outputs.
    pub io_bytes: usize,
    /// Bytes of each slab of the arena.
    pub slab_bytes: Vec<usize>,
    /// The largest sum of scratch bytes alive at one kernel: no arena can be smaller.
    pub peak_live_bytes: u64,
}

impl Program {
    /// A tensor's view.
    pub fn view(&self, id: TensorId) -> &View {
        &self.views[id.0]
    }

    /// The tensor of that name, if it has a place in memory.
    pub fn find(&self, name: &str) -> Option<TensorId> {
        self.views.iter().position(|v| !name.is_empty() && v.name == name && v.place != Place::Nowhere).map(TensorId)
    }

    /// Items of the batch.
    pub fn items(&self) -> usize {
        self.kernels.last().map_or(1, |kernel| self.view(kernel.writes()).shape[0])
    }

    /// The kernels between two tensors: from the one after `from` is written to the one that writes `to`. None if there are
    /// none, or if what they leave in memory, but for `to`, is read by those behind them.
    pub fn between(&self, from: &str, to: &str) -> Option<Range<usize>> {
        let writes = |name: &str| self.kernels.iter().rposition(|kernel| self.view(kernel.writes()).name == name);
        let range = writes(from)? + 1..writes(to)? + 1;
        let behind = |id: TensorId| self.kernels[range.end..].iter().any(|kernel| kernel.reads().contains(&id));
        let mut inside = range.clone().map(|i| self.kernels[i].writes());
        let whole = !range.is_empty() && !inside.any(|id| self.view(id).name != to && behind(id));
        whole.then_some(range)
    }

    /// Bytes of all activations, those of a State aside: arena, inputs and outputs.
    pub fn activation_bytes(&self) -> u64 {
        self.slab_bytes.iter().fold(self.io_bytes as u64, |sum, &bytes| sum + bytes as u64)
    }
}
