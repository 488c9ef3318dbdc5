//! The plain kernels and their executor: the reference that every other executor is compared with.
//!
//! One function an operation, written to be obviously right rather than fast; f32 arithmetic in index order. What users
//! run on the CPU is [`FastExecutor`].

mod attention;
mod combine;
mod conv2d;
mod elementwise;
mod embedding;
mod fast;
mod int_attention;
mod int_matmul;
mod layer_norm;
mod matmul;
mod memory;
mod patch_embed;
mod place_tokens;
mod timestep_embedding;
mod unpatchify;

pub use attention::attention;
pub use combine::combine;
pub use conv2d::conv2d;
pub use elementwise::{activate, elementwise};
pub use embedding::embedding;
pub use fast::FastExecutor;
pub use int_attention::int_attention;
pub use int_matmul::{int_matmul, w8a8_matmul};
pub use layer_norm::layer_norm;
pub use matmul::{matmul, panels, transpose};
pub use memory::Memory;
pub use patch_embed::patch_embed;
pub use place_tokens::place_tokens;
pub use timestep_embedding::timestep_embedding;
pub use unpatchify::unpatchify;

use crate::plan::{
    Arithmetic, Capabilities, Compute, Form, Kernel, PACK_GROUP, Program, Weight, WeightId, weight_limit,
};
use crate::{Result, weights};
use std::ops::Range;

/// Runs Programs on the CPU, by the plain kernels.
#[derive(Default)]
pub struct Executor {
    compute: Compute,
    weights: Vec<Stored>,
    memory: Memory,
}

/// A weight as the twins read it.
enum Stored {
    /// Floats, transposed floats, or [`panels`].
    Floats(Vec<f32>),
    /// Row-major, and the rows' scales.
    Int(Vec<i8>, Vec<f32>),
    /// Row-major, scales, and the columns of each.
    Groups(Vec<i8>, Vec<f32>, usize),
}

impl Executor {
    /// With matrices in the arithmetic that `compute` gives them.
    pub fn new(compute: Compute) -> Executor {
        Executor { compute, ..Executor::default() }
    }

    /// What Programs for this executor are lowered with.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities { compute: self.compute, ..Capabilities::CPU }
    }

    /// Takes a weight in the form that Programs want it in: matrices are kept as f32 [`panels`], or in i8.
    pub fn load(&mut self, id: WeightId, weight: &Weight, form: Form, tensor: &weights::Tensor) {
        if self.weights.len() <= id.index() {
            self.weights.resize_with(id.index() + 1, || Stored::Floats(Vec::new()));
        }
        self.weights[id.index()] = match form {
            Form::Matrix(Arithmetic::Int { bits }) => {
                let (values, scales) = tensor.to_i8_rows(weight_limit(bits));
                Stored::Int(values, scales)
            }
            Form::Matrix(Arithmetic::W8A8) => {
                let (values, scales, group) = tensor.to_i8_groups(PACK_GROUP);
                Stored::Groups(values, scales, group)
            }
            // f16 is within its own error of f32: there is no twin for it alone.
            Form::Matrix(Arithmetic::F32 | Arithmetic::F16) => {
                Stored::Floats(panels(&tensor.to_f32(), weight.shape[0], weight.shape[1]))
            }
            Form::Floats => Stored::Floats(tensor.to_f32()),
            Form::PatchKernel => {
                let values = tensor.to_f32();
                Stored::Floats(transpose(&values, weight.shape[0], values.len() / weight.shape[0]))
            }
        };
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
    pub fn run(&mut self, range: Range<usize>, items: Option<usize>, budget: u64) -> Result<usize> {
        let weights = &self.weights;
        self.memory.run(range, items, budget, |memory, kernel| launch(memory, weights, kernel))
    }
}

fn launch(memory: &mut Memory, weights: &[Stored], kernel: &Kernel) -> Result<()> {
    let weight = |id: WeightId| match &weights[id.index()] {
        Stored::Floats(values) => values.as_slice(),
        Stored::Int(..) | Stored::Groups(..) => &[],
    };
    match kernel {
        Kernel::Matmul(m) => {
            let bias = m.bias.map(weight);
            let [out, x, x2, residual] = memory.tensors_or_empty([m.out, m.x], [m.x2, m.residual])?;
            let residual = m.residual.map(|_| &*residual);
            match (&weights[m.weight.index()], m.arithmetic) {
                (Stored::Int(w, scales), Arithmetic::Int { bits }) => {
                    int_matmul(
                        x,
                        m.k,
                        x2,
                        m.k2,
                        w,
                        scales,
                        bits,
                        bias,
                        m.activation,
                        residual,
                        out,
                        m.rows,
                        m.tokens,
                        m.n,
                    );
                }
                (Stored::Groups(w, scales, group), Arithmetic::W8A8) => {
                    w8a8_matmul(x, m.k, w, scales, *group, bias, m.activation, residual, out, m.rows, m.n);
                }
                _ => matmul(x, m.k, x2, m.k2, weight(m.weight), bias, m.activation, residual, out, m.rows, m.n),
            }
        }
        Kernel::LayerNorm(k) => {
            let [out, x] = memory.tensors([k.out, k.x])?;
            layer_norm(x, weight(k.weight), weight(k.bias), k.eps, out, k.rows, k.dim);
        }
        Kernel::Attention(k) => {
            let [out, qkv] = memory.tensors([k.out, k.qkv])?;
            match k.arithmetic {
                Arithmetic::F32 | Arithmetic::F16 | Arithmetic::W8A8 => {
                    attention(qkv, out, k.batch, k.tokens, k.heads, k.head_dim)
                }
                Arithmetic::Int { bits } => int_attention(qkv, out, k.batch, k.tokens, k.heads, k.head_dim, bits),
            }
        }
        Kernel::Elementwise(k) => match k.b {
            None => {
                let [out, a] = memory.tensors([k.out, k.a])?;
                elementwise(a, None, k.activation, out);
            }
            Some(b) => {
                let [out, a, b] = memory.tensors([k.out, k.a, b])?;
                elementwise(a, Some(b), k.activation, out);
            }
        },
        Kernel::Embedding(k) => {
            let [out, index] = memory.tensors([k.out, k.index])?;
            embedding(weight(k.table), index, weight(k.position), out, k.at, k.batch, k.tokens, k.dim);
        }
        Kernel::PlaceTokens(k) => {
            let [out, x] = memory.tensors([k.out, k.x])?;
            place_tokens(x, weight(k.position), out, k.at, k.count, k.batch, k.tokens, k.dim);
        }
        Kernel::PatchEmbed(k) => {
            let [out, image] = memory.tensors([k.out, k.image])?;
            patch_embed(image, weight(k.weight), weight(k.bias), weight(k.position), out, k);
        }
        Kernel::Unpatchify(k) => {
            let [out, x] = memory.tensors([k.out, k.x])?;
            unpatchify(x, out, k);
        }
        Kernel::Conv2d(k) => {
            let [out, x] = memory.tensors([k.out, k.x])?;
            conv2d(x, weight(k.weight), weight(k.bias), out, k);
        }
    }
    Ok(())
}
