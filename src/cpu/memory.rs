//! The tensors of a Program in host memory: one block, `[inputs, outputs, persistent | slab 0 | slab 1 ..]`.

use super::combine;
use crate::plan::{Kernel, Place, Program, TensorId};
use crate::{Code, Error, Result};
use std::ops::Range;
use uvit_simd::Lines;

/// A Program and its memory, for executors that run on the CPU.
#[derive(Default)]
pub struct Memory {
    program: Option<Program>,
    values: Lines<f32>,
    /// While only some items of the batch are computed: how many, of how many.
    part: Option<(usize, usize)>,
    multiply_adds: u64,
}

impl Memory {
    /// Makes `program` the one that runs, and allocates its memory, zeroed.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` naming the need.
    pub fn prepare(&mut self, program: Program) -> Result<()> {
        let bytes = program.activation_bytes();
        self.program = None;
        self.values = Lines::default();
        let elements = usize::try_from(bytes / 4).unwrap_or(usize::MAX);
        self.values = Lines::try_zeroed(elements).map_err(|_| {
            Error::new(
                Code::OutOfMemory,
                format!("the activations need {bytes} bytes, which could not be allocated"),
                "Generate fewer images at once, or close other pages",
            )
        })?;
        self.program = Some(program);
        Ok(())
    }

    /// The Program that runs.
    ///
    /// # Errors
    /// `INTERNAL` if none was prepared.
    pub fn program(&self) -> Result<&Program> {
        self.program.as_ref().ok_or_else(|| Error::internal("no program is prepared"))
    }

    /// Of the kernels that ran so far.
    pub fn multiply_adds(&self) -> u64 {
        self.multiply_adds
    }

    /// Bytes that were allocated.
    pub fn bytes(&self) -> usize {
        self.values.len() * 4
    }

    /// Where a tensor lies, in elements.
    fn range(program: &Program, id: TensorId) -> Result<Range<usize>> {
        let view = program.view(id);
        let start = match view.place {
            Place::Io(offset) => offset,
            Place::Arena { slab, offset } => {
                program.io_bytes + program.slab_bytes[..slab].iter().sum::<usize>() + offset
            }
            Place::Nowhere => return Err(Error::internal(format!("tensor {:?} has no place", view.name))),
        };
        Ok(start / 4..(start + view.bytes()) / 4)
    }

    /// Writes a tensor (dense values).
    ///
    /// # Errors
    /// `INTERNAL` if the length differs.
    pub fn write(&mut self, id: TensorId, values: &[f32]) -> Result<()> {
        let range = Self::range(self.program()?, id)?;
        let expected = range.len();
        let target = &mut self.values[range];
        if target.len() != values.len() {
            return Err(Error::internal(format!("wrote {} values into {expected}", values.len())));
        }
        target.copy_from_slice(values);
        Ok(())
    }

    /// Reads a tensor (dense values).
    ///
    /// # Errors
    /// `INTERNAL` if it was fused away.
    pub fn read(&self, id: TensorId) -> Result<Vec<f32>> {
        Ok(self.values[Self::range(self.program()?, id)?].to_vec())
    }

    /// `out = clip(sum of coefficient * tensor)` over tensors of equal size; `terms` are (tensor, first element,
    /// coefficient).
    ///
    /// # Errors
    /// As [`Memory::read`].
    pub fn combine(
        &mut self,
        out: TensorId,
        elements: usize,
        terms: &[(TensorId, usize, f32)],
        clip: Option<(f32, f32)>,
    ) -> Result<()> {
        let program = self.program()?;
        let out = Self::range(program, out)?.start;
        let mut sources = Vec::with_capacity(terms.len());
        for &(id, first, coefficient) in terms {
            sources.push((Self::range(program, id)?.start + first, coefficient));
        }
        combine(&mut self.values, out, elements, &sources, clip);
        Ok(())
    }

    /// Launches kernels of a range for the first `items` items, all if none is given, until `budget` of
    /// [`crate::plan::Cost::work`] is spent or the range ends; returns the next kernel.
    ///
    /// # Errors
    /// Those of `launch`.
    pub fn run(
        &mut self,
        range: Range<usize>,
        items: Option<usize>,
        budget: u64,
        mut launch: impl FnMut(&mut Memory, &Kernel) -> Result<()>,
    ) -> Result<usize> {
        let mut spent = 0;
        let mut next = range.start;
        let all = self.program()?.items();
        self.part = items.map(|items| (items, all));
        while next < range.end && (next == range.start || spent < budget) {
            let kernel = &self.program()?.kernels[next];
            let kernel = items.map_or_else(|| kernel.clone(), |items| kernel.of_items(items, all));
            let cost = kernel.cost();
            spent += cost.work();
            self.multiply_adds += cost.multiply_adds;
            launch(self, &kernel)?;
            next += 1;
        }
        self.part = None;
        Ok(next)
    }

    /// Borrows a kernel's tensors: the one it writes, then those it reads.
    ///
    /// # Errors
    /// `INTERNAL` if they overlap.
    pub fn tensors<const N: usize>(&mut self, ids: [TensorId; N]) -> Result<[&mut [f32]; N]> {
        let program = self.program.as_ref().ok_or_else(|| Error::internal("no program is prepared"))?;
        let mut ranges = [const { 0..0 }; N];
        for (range, id) in ranges.iter_mut().zip(ids) {
            *range = Self::range(program, id)?;
            if let Some((items, all)) = self.part
                && program.view(id).shape[0] == all
            {
                range.end = range.start + range.len() / all * items;
            }
        }
        self.values.get_disjoint_mut(ranges).map_err(|e| Error::internal(format!("tensors of one kernel overlap: {e}")))
    }

    /// [`Memory::tensors`] where the last two may be absent, and then are empty.
    ///
    /// # Errors
    /// As [`Memory::tensors`].
    pub fn tensors_or_empty(
        &mut self,
        [out, x]: [TensorId; 2],
        more: [Option<TensorId>; 2],
    ) -> Result<[&mut [f32]; 4]> {
        Ok(match more {
            [None, None] => {
                let [out, x] = self.tensors([out, x])?;
                [out, x, &mut [], &mut []]
            }
            [Some(a), None] => {
                let [out, x, a] = self.tensors([out, x, a])?;
                [out, x, a, &mut []]
            }
            [None, Some(b)] => {
                let [out, x, b] = self.tensors([out, x, b])?;
                [out, x, &mut [], b]
            }
            [Some(a), Some(b)] => self.tensors([out, x, a, b])?,
        })
    }
}
