//! The CPU executor and its plain kernels: the reference that every other executor is compared with.
//!
//! One function an operation, written to be obviously right rather than fast; f32 arithmetic in index order. The
//! executor walks a [`Program`] over one block of memory, `[inputs, outputs, persistent | slab 0 | slab 1 ..]`.

mod attention;
mod combine;
mod conv2d;
mod elementwise;
mod embedding;
mod layer_norm;
mod matmul;
mod patch_embed;
mod place_tokens;
mod timestep_embedding;
mod unpatchify;

pub use attention::attention;
pub use combine::combine;
pub use conv2d::conv2d;
pub use elementwise::{activate, elementwise};
pub use embedding::embedding;
pub use layer_norm::layer_norm;
pub use matmul::{matmul, panels, transpose};
pub use patch_embed::patch_embed;
pub use place_tokens::place_tokens;
pub use timestep_embedding::timestep_embedding;
pub use unpatchify::unpatchify;

use crate::plan::{Capabilities, Kernel, Place, Program, TensorId, Weight, WeightId, WeightUse};
use crate::{Code, Error, Result, weights};
use std::ops::Range;

/// Runs Programs on the CPU.
#[derive(Default)]
pub struct Executor {
    weights: Vec<Vec<f32>>,
    program: Option<Program>,
    memory: Vec<f32>,
}

impl Executor {
    /// What Programs for this executor are lowered with.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities::CPU
    }

    /// Takes a weight: matrices are kept as f32 [`panels`].
    pub fn load(&mut self, id: WeightId, weight: &Weight, tensor: &weights::Tensor) {
        if self.weights.len() <= id.index() {
            self.weights.resize(id.index() + 1, Vec::new());
        }
        let values = tensor.to_f32();
        self.weights[id.index()] = match weight.usage {
            WeightUse::Floats => values,
            WeightUse::Matrix => panels(&values, weight.shape[0], weight.shape[1]),
            WeightUse::PatchKernel => transpose(&values, weight.shape[0], values.len() / weight.shape[0]),
        };
    }

    /// Makes `program` the one that runs, and allocates its memory, zeroed.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` naming the need.
    pub fn prepare(&mut self, program: Program) -> Result<()> {
        let bytes = program.activation_bytes();
        self.memory = Vec::new();
        self.memory.try_reserve_exact(bytes / 4).map_err(|_| {
            Error::new(
                Code::OutOfMemory,
                format!("the activations need {bytes} bytes, which could not be allocated"),
                "Generate fewer images at once, or close other pages",
            )
        })?;
        self.memory.resize(bytes / 4, 0.0);
        self.program = Some(program);
        Ok(())
    }

    /// The Program that runs.
    pub fn program(&self) -> Result<&Program> {
        self.program.as_ref().ok_or_else(|| Error::internal("no program is prepared"))
    }

    /// Bytes that were allocated for activations.
    pub fn activation_bytes(&self) -> usize {
        self.memory.len() * 4
    }

    /// Where a tensor lies in `memory`, in elements.
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
    pub fn write(&mut self, id: TensorId, values: &[f32]) -> Result<()> {
        let range = Self::range(self.program()?, id)?;
        let expected = range.len();
        let target = &mut self.memory[range];
        if target.len() != values.len() {
            return Err(Error::internal(format!("wrote {} values into {expected}", values.len())));
        }
        target.copy_from_slice(values);
        Ok(())
    }

    /// Writes a tensor of indices.
    pub fn write_indices(&mut self, id: TensorId, values: &[u32]) -> Result<()> {
        let bits: Vec<f32> = values.iter().map(|&v| f32::from_bits(v)).collect();
        self.write(id, &bits)
    }

    /// Reads a tensor (dense values).
    pub fn read(&self, id: TensorId) -> Result<Vec<f32>> {
        Ok(self.memory[Self::range(self.program()?, id)?].to_vec())
    }

    /// `out = clip(sum of coefficient * tensor)` over tensors of equal size; `parts` are (tensor, first element).
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
        combine(&mut self.memory, out, elements, &sources, clip);
        Ok(())
    }

    /// Runs kernels from `from` until `budget` multiply-adds are spent or the Program ends; returns the next kernel.
    pub fn run(&mut self, from: usize, budget: u64) -> Result<usize> {
        let program = self.program.take().ok_or_else(|| Error::internal("no program is prepared"))?;
        let mut spent = 0;
        let mut next = from;
        let mut result = Ok(());
        while next < program.kernels.len() && (next == from || spent < budget) {
            result = self.launch(&program, &program.kernels[next]);
            if result.is_err() {
                break;
            }
            spent += program.kernels[next].cost().multiply_adds;
            next += 1;
        }
        self.program = Some(program);
        result.map(|()| next)
    }

    /// Borrows the kernel's tensors: the one it writes, then those it reads.
    fn tensors<'a, const N: usize>(
        memory: &'a mut [f32],
        program: &Program,
        ids: [TensorId; N],
    ) -> Result<[&'a mut [f32]; N]> {
        let mut ranges = [const { 0..0 }; N];
        for (range, id) in ranges.iter_mut().zip(ids) {
            *range = Self::range(program, id)?;
        }
        memory.get_disjoint_mut(ranges).map_err(|e| Error::internal(format!("tensors of one kernel overlap: {e}")))
    }

    fn launch(&mut self, program: &Program, kernel: &Kernel) -> Result<()> {
        let memory = &mut self.memory;
        let weights = &self.weights;
        let weight = |id: WeightId| weights[id.index()].as_slice();
        match kernel {
            Kernel::Matmul(m) => {
                let bias = m.bias.map(weight);
                let w = weight(m.weight);
                match (m.x2, m.residual) {
                    (None, None) => {
                        let [out, x] = Self::tensors(memory, program, [m.out, m.x])?;
                        matmul(x, m.k, &[], 0, w, bias, m.activation, None, out, m.rows, m.n);
                    }
                    (None, Some(r)) => {
                        let [out, x, r] = Self::tensors(memory, program, [m.out, m.x, r])?;
                        matmul(x, m.k, &[], 0, w, bias, m.activation, Some(r), out, m.rows, m.n);
                    }
                    (Some(x2), None) => {
                        let [out, x, x2] = Self::tensors(memory, program, [m.out, m.x, x2])?;
                        matmul(x, m.k, x2, m.k2, w, bias, m.activation, None, out, m.rows, m.n);
                    }
                    (Some(x2), Some(r)) => {
                        let [out, x, x2, r] = Self::tensors(memory, program, [m.out, m.x, x2, r])?;
                        matmul(x, m.k, x2, m.k2, w, bias, m.activation, Some(r), out, m.rows, m.n);
                    }
                }
            }
            Kernel::LayerNorm(k) => {
                let [out, x] = Self::tensors(memory, program, [k.out, k.x])?;
                layer_norm(x, weight(k.weight), weight(k.bias), k.eps, out, k.rows, k.dim);
            }
            Kernel::Attention(k) => {
                let [out, qkv] = Self::tensors(memory, program, [k.out, k.qkv])?;
                attention(qkv, out, k.batch, k.tokens, k.heads, k.head_dim);
            }
            Kernel::Elementwise(k) => match k.b {
                None => {
                    let [out, a] = Self::tensors(memory, program, [k.out, k.a])?;
                    elementwise(a, None, k.activation, out);
                }
                Some(b) => {
                    let [out, a, b] = Self::tensors(memory, program, [k.out, k.a, b])?;
                    elementwise(a, Some(b), k.activation, out);
                }
            },
            Kernel::Embedding(k) => {
                let [out, index] = Self::tensors(memory, program, [k.out, k.index])?;
                embedding(weight(k.table), index, weight(k.position), out, k.at, k.batch, k.tokens, k.dim);
            }
            Kernel::PlaceTokens(k) => {
                let [out, x] = Self::tensors(memory, program, [k.out, k.x])?;
                place_tokens(x, weight(k.position), out, k.at, k.count, k.batch, k.tokens, k.dim);
            }
            Kernel::PatchEmbed(k) => {
                let [out, image] = Self::tensors(memory, program, [k.out, k.image])?;
                patch_embed(image, weight(k.weight), weight(k.bias), weight(k.position), out, k);
            }
            Kernel::Unpatchify(k) => {
                let [out, x] = Self::tensors(memory, program, [k.out, k.x])?;
                unpatchify(x, out, k);
            }
            Kernel::Conv2d(k) => {
                let [out, x] = Self::tensors(memory, program, [k.out, k.x])?;
                conv2d(x, weight(k.weight), weight(k.bias), out, k);
            }
        }
        Ok(())
    }
}
