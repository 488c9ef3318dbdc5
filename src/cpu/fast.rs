//! The fast CPU executor, over the kernels of [`uvit_simd`]: what users run on the CPU.

use super::{Memory, embedding, place_tokens, unpatchify};
use crate::plan::{
    Arithmetic, Attention, Capabilities, Compute, Conv2d, Form, Kernel, PatchEmbed, Program, Weight, WeightId,
    weight_limit,
};
use crate::{Code, Error, Result, weights};
use std::ops::Range;
use uvit_simd::{
    AttentionShape, Conv2dShape, F32Matrix, Finish, Floats, Inputs, IntMatrix, Level, Lines, PatchShape, Quantized,
    Threads, f32_matmul, int_matmul,
};

/// A weight as its kernel reads it.
enum Packed {
    /// Read element by element.
    Floats(Floats),
    /// Of a matmul in f32.
    F32(F32Matrix),
    /// Of a matmul in integers.
    Int(IntMatrix),
}

/// Runs Programs on the CPU, fast.
pub struct FastExecutor {
    level: Level,
    compute: Compute,
    threads: Threads,
    weights: Vec<Packed>,
    memory: Memory,
    scratch: Scratch,
}

/// What kernels fill and read within one launch; it grows in the first run and stays.
#[derive(Default)]
struct Scratch {
    quantized: Quantized,
    pixels: Lines<f32>,
}

impl FastExecutor {
    /// On the best instruction set of this processor.
    pub fn new(compute: Compute, threads: Threads) -> FastExecutor {
        FastExecutor::with_level(Level::detect(), compute, threads)
    }

    /// On a given instruction set, which the processor must have ([`Level::all`]).
    pub fn with_level(level: Level, compute: Compute, threads: Threads) -> FastExecutor {
        let (memory, scratch) = Default::default();
        FastExecutor { level, compute, threads, weights: Vec::new(), memory, scratch }
    }

    /// What Programs for this executor are lowered with.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities { compute: self.compute, ..Capabilities::CPU }
    }

    /// Of Linears.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// How many threads work.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// Takes a weight and packs it for its kernel, in the form that Programs want it in.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` naming the weight and the need.
    pub fn load(&mut self, id: WeightId, weight: &Weight, form: Form, tensor: &weights::Tensor) -> Result<()> {
        if self.weights.len() <= id.index() {
            self.weights.resize_with(id.index() + 1, || Packed::Floats(Floats::new(&[])));
        }
        let (n, k) = (tensor.rows(), tensor.columns());
        // At the worst, floats on the way and packed ones, the last panel filled up.
        room(&weight.name, n.next_multiple_of(self.level.panel()).saturating_mul(8 * k))?;
        self.weights[id.index()] = match form {
            Form::Floats => Packed::Floats(Floats::new(&tensor.to_f32())),
            Form::Matrix(Arithmetic::Int { bits }) => {
                let (values, scales) = tensor.to_i8_rows(weight_limit(bits));
                Packed::Int(IntMatrix::new(self.level, &values, &scales, n, k, bits))
            }
            Form::Matrix(Arithmetic::F32) | Form::PatchKernel => {
                Packed::F32(F32Matrix::new(self.level, &tensor.to_f32(), n, k))
            }
            Form::Matrix(Arithmetic::F16 | Arithmetic::W8A8) => {
                return Err(Error::internal("f16 and w8a8 are arithmetics of GPUs"));
            }
        };
        Ok(())
    }

    /// Makes `program` the one that runs, and allocates its memory, zeroed.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` naming the need.
    pub fn prepare(&mut self, program: Program) -> Result<()> {
        self.memory.prepare(program)
    }

    /// The Program's memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The Program's memory.
    pub fn memory_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Runs kernels of a range for the first `items` items, all if none is given, until `budget` of work is spent or the
    /// range ends; returns the next kernel.
    ///
    /// # Errors
    /// `INTERNAL` if no Program is prepared.
    pub fn run(&mut self, range: Range<usize>, items: Option<usize>, budget: u64) -> Result<usize> {
        let FastExecutor { level, threads, weights, memory, scratch, .. } = self;
        let launcher = Launcher { level: *level, threads, weights };
        threads.enter(|| memory.run(range, items, budget, |memory, kernel| launcher.launch(memory, scratch, kernel)))
    }
}

/// Whether so many bytes are to be had: a vector that does not find them would end the process, or the wasm instance.
fn room(what: &str, bytes: usize) -> Result<()> {
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| {
        Error::new(
            Code::OutOfMemory,
            format!("weight {what} needs {bytes} bytes while it is packed, which could not be allocated"),
            "Load a smaller dtype or model, give fewer threads, or close other pages",
        )
    })
}

struct Launcher<'a> {
    level: Level,
    threads: &'a Threads,
    weights: &'a [Packed],
}

impl Launcher<'_> {
    fn floats(&self, id: WeightId) -> Result<&Floats> {
        match &self.weights[id.index()] {
            Packed::Floats(floats) => Ok(floats),
            _ => Err(Error::internal("a matrix is read as floats")),
        }
    }

    fn launch(&self, memory: &mut Memory, scratch: &mut Scratch, kernel: &Kernel) -> Result<()> {
        let (level, threads) = (self.level, self.threads);
        match kernel {
            Kernel::Matmul(m) => {
                let bias = m.bias.map(|id| self.floats(id)).transpose()?;
                let [out, x, x2, residual] = memory.tensors_or_empty([m.out, m.x], [m.x2, m.residual])?;
                let coarse = m.arithmetic == Arithmetic::Int { bits: 8 };
                let finish =
                    Finish { bias, activation: m.activation, residual: m.residual.map(|_| &*residual), coarse };
                match (&self.weights[m.weight.index()], m.arithmetic) {
                    (Packed::F32(w), Arithmetic::F32) => {
                        f32_matmul(level, threads, (x, m.k), (x2, m.k2), w, finish, out);
                    }
                    (Packed::Int(w), Arithmetic::Int { bits }) => {
                        let (items, tokens) = (m.rows / m.tokens, m.tokens);
                        let inputs = Inputs { x, k: m.k, x2, k2: m.k2, items, tokens };
                        scratch.quantized.fill(level, threads, inputs, bits);
                        int_matmul(level, threads, &scratch.quantized, w, finish, out);
                    }
                    _ => return Err(Error::internal("a matrix was loaded for another arithmetic")),
                }
            }
            Kernel::LayerNorm(k) => {
                let [out, x] = memory.tensors([k.out, k.x])?;
                let (weight, bias) = (self.floats(k.weight)?, self.floats(k.bias)?);
                uvit_simd::layer_norm(level, threads, x, weight, bias, k.eps, out, k.dim);
            }
            Kernel::Attention(k) => {
                let [out, qkv] = memory.tensors([k.out, k.qkv])?;
                let Attention { batch, tokens, heads, head_dim, arithmetic, .. } = *k;
                let shape = AttentionShape { batch, tokens, heads, head_dim };
                match arithmetic {
                    Arithmetic::F32 | Arithmetic::F16 | Arithmetic::W8A8 => {
                        uvit_simd::attention(level, threads, qkv, out, &shape)
                    }
                    Arithmetic::Int { bits } => uvit_simd::int_attention(level, threads, qkv, out, &shape, bits),
                }
            }
            Kernel::Elementwise(k) => {
                let [out, a, b, _] = memory.tensors_or_empty([k.out, k.a], [k.b, None])?;
                uvit_simd::elementwise(level, a, b, k.activation, out);
            }
            Kernel::Conv2d(k) => {
                let [out, x] = memory.tensors([k.out, k.x])?;
                let (weight, bias) = (self.floats(k.weight)?.values(), self.floats(k.bias)?.values());
                let Conv2d { batch, in_channels, out_channels, height, width, .. } = *k;
                let shape = Conv2dShape { batch, in_channels, out_channels, height, width };
                uvit_simd::conv2d(level, threads, x, weight, bias, out, &mut scratch.pixels, &shape);
            }
            Kernel::PatchEmbed(k) => {
                let [out, image] = memory.tensors([k.out, k.image])?;
                let Packed::F32(w) = &self.weights[k.weight.index()] else {
                    return Err(Error::internal("a patch kernel is not packed as a matrix"));
                };
                let (bias, position) = (self.floats(k.bias)?, self.floats(k.position)?.values());
                let PatchEmbed { at, patch, batch, images, channels, height, width, tokens, dim, .. } = *k;
                let shape = PatchShape { at, patch, batch, images, channels, height, width, tokens, dim };
                uvit_simd::patch_embed(level, threads, image, w, bias, position, out, &mut scratch.pixels, &shape);
            }
            // Moves of a few values: the twins are as fast as anything.
            Kernel::Embedding(k) => {
                let [out, index] = memory.tensors([k.out, k.index])?;
                let (table, position) = (self.floats(k.table)?.values(), self.floats(k.position)?.values());
                embedding(table, index, position, out, k.at, k.batch, k.tokens, k.dim);
            }
            Kernel::PlaceTokens(k) => {
                let [out, x] = memory.tensors([k.out, k.x])?;
                let position = self.floats(k.position)?.values();
                place_tokens(x, position, out, k.at, k.count, k.batch, k.tokens, k.dim);
            }
            Kernel::Unpatchify(k) => {
                let [out, x] = memory.tensors([k.out, k.x])?;
                unpatchify(x, out, k);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_cannot_be_had_is_an_error_that_names_the_need() {
        assert!(room("a", 1 << 20).is_ok());
        let error = room("fc1.weight", isize::MAX as usize).unwrap_err();
        assert_eq!(error.code, Code::OutOfMemory);
        assert!(error.cause.contains("fc1.weight needs 9223372036854775807 bytes"), "{error}");
    }
}
