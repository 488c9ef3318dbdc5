//! The tensors of a Program in host memory: inputs and outputs, scratch that Sessions share, and a State.

use super::device::{Block, State};
use crate::plan::{Kernel, Place, Program, TensorId};
use crate::{Error, Result};
use std::ops::Range;
use std::rc::Rc;

/// A Program and its memory.
pub struct Memory {
    program: Program,
    io: Rc<Block>,
    scratch: Rc<Block>,
    state: Option<Rc<State>>,
    /// By tensor: in which of the three, and where, in elements. None: fused away.
    places: Vec<Option<(usize, Range<usize>)>>,
    /// The Session's number.
    tenant: u64,
}

const SCRATCH: usize = 1;

impl Memory {
    /// Finds a place for every tensor.
    ///
    /// # Errors
    /// `INTERNAL` if the State lacks one.
    pub(super) fn new(
        program: Program,
        io: Rc<Block>,
        scratch: Rc<Block>,
        state: Option<Rc<State>>,
        tenant: u64,
    ) -> Result<Memory> {
        let mut places = Vec::with_capacity(program.views.len());
        for view in &program.views {
            let (block, start) = match view.place {
                Place::Io(offset) => (0, offset),
                Place::Arena { slab, offset } => (SCRATCH, program.slab_bytes[..slab].iter().sum::<usize>() + offset),
                Place::State => {
                    let state = state.as_ref().ok_or_else(|| Error::internal("the Program needs a State"))?;
                    (2, state.layout().of(view)?.offset)
                }
                Place::Nowhere => {
                    places.push(None);
                    continue;
                }
            };
            places.push(Some((block, start / 4..(start + view.bytes()) / 4)));
        }
        Ok(Memory { program, io, scratch, state, places, tenant })
    }

    /// The Program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    fn place(&self, id: TensorId) -> Result<(&Block, Range<usize>)> {
        let Some((block, range)) = &self.places[id.index()] else {
            return Err(Error::internal(format!("tensor \"{}\" has no place", self.program.view(id).name)));
        };
        let block: &Block = match (block, &self.state) {
            (0, _) => &self.io,
            (2, Some(state)) => &state.block,
            _ => &self.scratch,
        };
        Ok((block, range.clone()))
    }

    /// Writes a tensor (dense values).
    ///
    /// # Errors
    /// `INTERNAL` if the length differs.
    pub fn write(&mut self, id: TensorId, values: &[f32]) -> Result<()> {
        let (block, range) = self.place(id)?;
        if range.len() != values.len() {
            return Err(Error::internal(format!("wrote {} values into {}", values.len(), range.len())));
        }
        block.values.borrow_mut()[range].copy_from_slice(values);
        Ok(())
    }

    /// Reads a tensor (dense values).
    ///
    /// # Errors
    /// `INTERNAL` if it was fused away, or another Session's run has overwritten it.
    pub fn read(&self, id: TensorId) -> Result<Vec<f32>> {
        let (block, range) = self.place(id)?;
        if std::ptr::eq(block, &*self.scratch) {
            self.check_tenant()?;
        }
        Ok(block.values.borrow()[range].to_vec())
    }

    fn check_tenant(&self) -> Result<()> {
        match self.scratch.tenant.get() == self.tenant {
            true => Ok(()),
            false => Err(Error::internal("another session ran in between")),
        }
    }

    /// Walks kernels of a range for the first `items` items, all if none is given, until `budget` of [`crate::plan::Cost::work`] is spent or
    /// the range ends. `walk` may go to another thread, which the memory itself may not.
    ///
    /// # Errors
    /// Those of `walk`; `INTERNAL` if another Session's run came between two parts of this one's.
    pub fn run<T>(
        &mut self,
        range: Range<usize>,
        items: Option<usize>,
        budget: u64,
        walk: impl FnOnce(Walk<'_>) -> Result<T>,
    ) -> Result<T> {
        if range.start == 0 {
            self.scratch.tenant.set(self.tenant);
        }
        self.check_tenant()?;
        let all = self.program.items();
        let mut none = [];
        let (mut io, mut scratch) = (self.io.values.borrow_mut(), self.scratch.values.borrow_mut());
        let mut state = self.state.as_ref().map(|state| state.block.values.borrow_mut());
        let blocks = Blocks {
            program: &self.program,
            places: &self.places,
            values: [&mut io, &mut scratch, state.as_deref_mut().map_or(&mut none, |values| values)],
            part: items.map(|items| (items, all)),
        };
        walk(Walk { blocks, range, budget })
    }
}

/// A run that is about to begin.
pub struct Walk<'a> {
    blocks: Blocks<'a>,
    range: Range<usize>,
    budget: u64,
}

impl Walk<'_> {
    /// Launches one kernel after the other; returns the next kernel, and the multiply-adds of those that ran.
    ///
    /// # Errors
    /// Those of `launch`.
    pub fn each(mut self, mut launch: impl FnMut(&mut Blocks<'_>, &Kernel) -> Result<()>) -> Result<(usize, u64)> {
        let program = self.blocks.program;
        let (mut spent, mut multiply_adds) = (0, 0);
        let mut next = self.range.start;
        while next < self.range.end && (next == self.range.start || spent < self.budget) {
            let kernel = &program.kernels[next];
            let part = self.blocks.part.map(|(items, all)| kernel.of_items(items, all));
            let kernel = part.as_ref().unwrap_or(kernel);
            let cost = kernel.cost();
            spent += cost.work();
            multiply_adds += cost.multiply_adds;
            if !kernel.is_empty() {
                launch(&mut self.blocks, kernel)?;
            }
            next += 1;
        }
        Ok((next, multiply_adds))
    }
}

/// The most tensors of one kernel.
const MOST: usize = 5;

/// A Program's memory while it runs.
pub struct Blocks<'a> {
    program: &'a Program,
    places: &'a [Option<(usize, Range<usize>)>],
    values: [&'a mut [f32]; 3],
    /// While only some items of the batch are computed: how many, of how many.
    part: Option<(usize, usize)>,
}

impl Blocks<'_> {
    /// Borrows a kernel's tensors: the one it writes, then those it reads.
    ///
    /// # Errors
    /// `INTERNAL` if they overlap.
    pub fn tensors<const N: usize>(&mut self, ids: [TensorId; N]) -> Result<[&mut [f32]; N]> {
        const { assert!(N <= MOST) };
        let mut tensors = self.up_to_most(&ids)?;
        Ok(std::array::from_fn(|i| std::mem::take(&mut tensors[i])))
    }

    // Compiled once, for all numbers of tensors; those beyond are empty.
    fn up_to_most(&mut self, ids: &[TensorId]) -> Result<[&mut [f32]; MOST]> {
        let mut block_of = [0; MOST];
        let mut ranges = [const { [const { 0..0 }; MOST] }; 3];
        for (i, &id) in ids.iter().enumerate() {
            let view = self.program.view(id);
            let Some((block, mut range)) = self.places[id.index()].clone() else {
                return Err(Error::internal(format!("tensor \"{}\" has no place", view.name)));
            };
            if let Some((items, all)) = self.part
                && view.shape[0] == all
            {
                range.end = range.start + range.len() / all * items;
            }
            (block_of[i], ranges[block][i]) = (block, range);
        }
        let overlap = |e| Error::internal(format!("tensors of one kernel overlap: {e}"));
        let [io, scratch, state] = &mut self.values;
        let [in_io, in_scratch, in_state] = ranges;
        let mut all = [
            io.get_disjoint_mut(in_io).map_err(overlap)?,
            scratch.get_disjoint_mut(in_scratch).map_err(overlap)?,
            state.get_disjoint_mut(in_state).map_err(overlap)?,
        ];
        Ok(std::array::from_fn(|i| std::mem::take(&mut all[block_of[i]][i])))
    }

    /// A result, and the indices of the rows that it takes, if it takes any.
    pub fn indexed(&mut self, out: TensorId, index: Option<TensorId>) -> Result<(&mut [f32], Option<&[f32]>)> {
        Ok(match index {
            Some(index) => {
                let [out, index] = self.tensors([out, index])?;
                (out, Some(index))
            }
            None => {
                let [out] = self.tensors([out])?;
                (out, None)
            }
        })
    }

    /// [`Blocks::tensors`] where the last three may be absent, and then are empty.
    ///
    /// # Errors
    /// As [`Blocks::tensors`].
    pub fn tensors_or_empty(
        &mut self,
        [out, x]: [TensorId; 2],
        more: [Option<TensorId>; MOST - 2],
    ) -> Result<[&mut [f32]; MOST]> {
        let (mut ids, mut count) = ([out, x, x, x, x], 2);
        for id in more.into_iter().flatten() {
            ids[count] = id;
            count += 1;
        }
        let mut given = self.up_to_most(&ids[..count])?.into_iter();
        let mut next = |there: bool| if there { given.next().unwrap_or_default() } else { &mut [] };
        Ok([next(true), next(true), next(more[0].is_some()), next(more[1].is_some()), next(more[2].is_some())])
    }
}
