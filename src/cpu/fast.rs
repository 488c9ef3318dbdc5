//! Programs on the fast kernels of [`uvit_simd`]: what users run on the CPU.

use super::memory::Blocks;
use super::plain::attention_shape;
use super::{
    copy_tokens, elementwise_gated, embedding, group_scales, image_tokens, resized_positions, unpatchify, write_cache,
};
use crate::plan::{
    Arithmetic, Conv2d, Form, HeadNorm, Kernel, Matmul, Part, PatchEmbed, Position, TensorId, Weight, WeightId,
    weight_limit,
};
use crate::{Code, Error, Result, weights};
use uvit_simd::{
    CachedShape, Conv2dShape, F32Matrix, Finish, Floats, HeadNormShape, Inputs, IntMatrix, Level, Lines, PatchShape,
    Pixels, Quantized, Threads, f32_convolution, f32_matmul, int_convolution, int_matmul,
};

/// A weight as its kernel reads it.
pub(super) enum Packed {
    /// Read element by element.
    Floats(Floats),
    /// Of a matmul in f32.
    F32(F32Matrix),
    /// Of a matmul in integers.
    Int(IntMatrix),
}

/// What kernels fill and read within one launch; it grows in the first run and stays.
#[derive(Default)]
pub(super) struct Scratch {
    quantized: Quantized,
    pixels: Lines<f32>,
    positions: Vec<f32>,
    windows: Pixels,
    /// Whose pixels these are.
    windows_of: Option<TensorId>,
}

impl Default for Packed {
    fn default() -> Packed {
        Packed::Floats(Floats::new(&[]))
    }
}

impl Packed {
    /// Packs a weight for its kernel.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` naming the weight and the need.
    pub(super) fn new(level: Level, weight: &Weight, form: Form, tensor: &weights::Tensor) -> Result<Packed> {
        let (n, k) = (tensor.rows(), tensor.columns());
        // At the worst, floats on the way and packed ones, the last panel filled up.
        room(&weight.name, n.next_multiple_of(level.panel()).saturating_mul(8 * k))?;
        Ok(match form {
            Form::Floats => Packed::Floats(Floats::new(&tensor.to_f32())),
            Form::Matrix(Arithmetic::Int { bits }) => {
                let (values, scales) = tensor.to_i8_rows(weight_limit(bits));
                if weight.taps() > 1 {
                    let inputs = k / weight.taps();
                    return Ok(Packed::Int(IntMatrix::of_windows(level, &values, &scales, n, inputs, bits)));
                }
                Packed::Int(IntMatrix::new(level, &values, &scales, n, k, bits))
            }
            Form::Matrix(Arithmetic::F32) | Form::PatchKernel => {
                Packed::F32(F32Matrix::new(level, &tensor.to_f32(), n, k))
            }
            Form::Matrix(Arithmetic::F16 | Arithmetic::W8A8) => {
                return Err(Error::internal("f16 and w8a8 are arithmetics of GPUs"));
            }
        })
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Packed::Floats(floats) => floats.bytes(),
            Packed::F32(matrix) => matrix.bytes(),
            Packed::Int(matrix) => matrix.bytes(),
        }
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

/// What a run launches kernels with.
pub(super) struct Launcher<'a> {
    pub(super) level: Level,
    pub(super) threads: &'a Threads,
    pub(super) weights: &'a [Packed],
}

impl Launcher<'_> {
    fn floats(&self, id: WeightId) -> Result<&Floats> {
        match &self.weights[id.index()] {
            Packed::Floats(floats) => Ok(floats),
            _ => Err(Error::internal("a matrix is read as floats")),
        }
    }

    /// A table of positions.
    fn positions(&self, position: Option<Position>) -> Result<Option<&[f32]>> {
        position.map(|p| Ok(self.floats(p.table)?.values())).transpose()
    }

    pub(super) fn launch(&self, memory: &mut Blocks<'_>, scratch: &mut Scratch, kernel: &Kernel) -> Result<()> {
        let (level, threads) = (self.level, self.threads);
        match kernel {
            Kernel::Matmul(m) => {
                let bias = m.bias.map(|id| self.floats(id)).transpose()?;
                let gates = m.gate.map(|gate| gate.vector);
                let [out, x, x2, residual, gates] = memory.tensors_or_empty([m.out, m.x], [m.x2, m.residual, gates])?;
                let residual = m.residual.map(|_| &*residual);
                let coarse = m.arithmetic == Arithmetic::Int { bits: 8 };
                let finish = Finish { bias, activation: m.activation, gate: None, residual: None, coarse };
                if let Some(window) = &m.window {
                    let own = m.first * m.n..(m.first + m.rows) * m.n;
                    let finish = Finish { residual: residual.map(|residual| &residual[own.clone()]), ..finish };
                    let out = &mut out[own];
                    match (&self.weights[m.weight.index()], m.arithmetic) {
                        (Packed::F32(w), Arithmetic::F32) => {
                            let zeros = &mut scratch.pixels;
                            f32_convolution(level, threads, (x, m.k), window, m.first, w, finish, out, zeros);
                        }
                        (Packed::Int(w), Arithmetic::Int { bits }) => {
                            // Launches of one convolution follow each other.
                            if m.first == 0 || scratch.windows_of != Some(m.x) {
                                let pixels = window.height * window.width;
                                let items = x.len() / (pixels * m.k);
                                scratch.windows.fill(level, threads, x, m.k, items, pixels, bits);
                            }
                            scratch.windows_of = Some(m.x);
                            int_convolution(level, threads, &scratch.windows, window, m.first, w, finish, out);
                        }
                        _ => return Err(Error::internal("a convolution's matrix was loaded for another arithmetic")),
                    }
                    return Ok(());
                }
                let Matmul { k, k2, n, tokens, .. } = *m;
                for Part { item, x: from, out: to, rows } in m.parts() {
                    let own = to * n..(to + rows) * n;
                    let finish = Finish {
                        gate: m.gate.map(|gate| &gates[item * gate.channels + gate.at..][..n]),
                        residual: residual.map(|residual| &residual[own.clone()]),
                        ..finish
                    };
                    let (x, x2, out) = (&x[from * k..], &x2[from * k2..], &mut out[own]);
                    match (&self.weights[m.weight.index()], m.arithmetic) {
                        (Packed::F32(w), Arithmetic::F32) => {
                            f32_matmul(level, threads, (x, k), (x2, k2), w, finish, out);
                        }
                        (Packed::Int(w), Arithmetic::Int { bits }) => {
                            let inputs = Inputs { x, k, x2, k2, items: rows / tokens, tokens };
                            scratch.quantized.fill(level, threads, inputs, bits);
                            int_matmul(level, threads, &scratch.quantized, w, finish, out);
                        }
                        _ => return Err(Error::internal("a matrix was loaded for another arithmetic")),
                    }
                }
            }
            Kernel::LayerNorm(k) => {
                let [out, x, vector, ..] =
                    memory.tensors_or_empty([k.out, k.x], [k.modulation.map(|m| m.vector), None, None])?;
                let affine = match k.affine {
                    Some((weight, bias)) => Some((self.floats(weight)?.values(), self.floats(bias)?.values())),
                    None => None,
                };
                let modulation = k.modulation.map(|m| (&*vector, m.shift, m.scale));
                uvit_simd::layer_norm(level, threads, x, affine, modulation, k.eps, out, k.tokens, k.dim);
            }
            Kernel::Attention(k) => {
                let [out, qkv] = memory.tensors([k.out, k.qkv])?;
                let shape = attention_shape(k);
                match k.arithmetic {
                    Arithmetic::F32 | Arithmetic::F16 | Arithmetic::W8A8 => {
                        uvit_simd::attention(level, threads, qkv, out, &shape)
                    }
                    Arithmetic::Int { bits } => uvit_simd::int_attention(level, threads, qkv, out, &shape, bits),
                }
            }
            Kernel::HeadNorm(k) => {
                let [out, qkv] = memory.tensors([k.out, k.qkv])?;
                let [queries, keys] = k.weights;
                let weights = [self.floats(queries)?.values(), self.floats(keys)?.values()];
                let HeadNorm { tokens, out_tokens, at, heads, head_dim, eps, .. } = *k;
                let shape = HeadNormShape { tokens, out_tokens, at, heads, head_dim, eps };
                uvit_simd::head_norm(level, threads, qkv, weights, out, &shape);
            }
            Kernel::CachedAttention(k) => {
                let [out, qkv, cache, places, positions] =
                    memory.tensors([k.out, k.qkv, k.cache, k.places, k.positions])?;
                let shape = CachedShape {
                    rows: k.batch * k.tokens,
                    tokens: k.tokens,
                    heads: k.heads,
                    head_dim: k.head_dim,
                    most: k.most,
                };
                uvit_simd::cached_attention(level, threads, qkv, cache, places, positions, out, &shape);
            }
            Kernel::WriteCache(k) => {
                let [out, qkv, places] = memory.tensors([k.out, k.qkv, k.places])?;
                write_cache(qkv, places, out, k.dim);
            }
            Kernel::Elementwise(k) => {
                let gates = k.gate.map(|gate| gate.vector);
                let [out, a, b, gates, ..] = memory.tensors_or_empty([k.out, k.a], [k.b, gates, None])?;
                match k.gate {
                    Some(_) => elementwise_gated(a, b, gates, k, out),
                    None => uvit_simd::elementwise(level, a, b, k.activation, k.scale, k.offset, out),
                }
            }
            Kernel::Conv2d(k) => {
                let [out, x] = memory.tensors([k.out, k.x])?;
                let (weight, bias) = (self.floats(k.weight)?.values(), self.floats(k.bias)?.values());
                let Conv2d { batch, in_channels, out_channels, frames, height, width, .. } = *k;
                let shape = Conv2dShape { batch, in_channels, out_channels, frames, height, width };
                uvit_simd::conv2d(level, threads, x, weight, bias, out, &mut scratch.pixels, &shape);
            }
            Kernel::PatchEmbed(k) => {
                let [out, image] = memory.tensors([k.out, k.image])?;
                let Packed::F32(w) = &self.weights[k.weight.index()] else {
                    return Err(Error::internal("a patch kernel is not packed as a matrix"));
                };
                let bias = k.bias.map(|bias| self.floats(bias)).transpose()?;
                // Every item takes the same rows, which may lie anywhere in the table: a matrix of their own.
                scratch.positions.clear();
                if let Some(position) = k.position {
                    let table = self.floats(position.table)?.values();
                    for patch in 0..k.patches.count() {
                        scratch.positions.extend_from_slice(&table[position.row(patch) * k.dim..][..k.dim]);
                    }
                }
                let position = k.position.map(|_| scratch.positions.as_slice());
                let PatchEmbed { patches, at, batch, images, tokens, dim, .. } = *k;
                let shape = PatchShape { patches, at, batch, images, tokens, dim };
                uvit_simd::patch_embed(level, threads, image, w, bias, position, out, &mut scratch.pixels, &shape);
            }
            Kernel::GroupMoments(k) => {
                let [out, x] = memory.tensors([k.out, k.x])?;
                let (batch, tokens, dim) = (k.batch, k.tokens, k.dim);
                uvit_simd::group_moments(level, threads, x, out, batch, tokens, dim, k.slice, k.first, k.slices);
            }
            Kernel::GroupNorm(k) => {
                let [out, x, scales] = memory.tensors([k.out, k.x, k.scales])?;
                let bias = self.floats(k.bias)?.values();
                uvit_simd::group_norm(level, threads, x, scales, bias, k.activation, out, k.tokens, k.dim);
            }
            // Moves of a few values: the twins are as fast as anything.
            Kernel::GroupScales(k) => {
                let [out, moments] = memory.tensors([k.out, k.moments])?;
                group_scales(moments, self.floats(k.weight)?.values(), out, k);
            }
            Kernel::ImageTokens(k) => {
                let [out, image] = memory.tensors([k.out, k.image])?;
                image_tokens(image, out, k);
            }
            Kernel::Embedding(k) => {
                let (out, index) = memory.indexed(k.out, k.index)?;
                let (table, position) = (self.floats(k.table)?.values(), self.positions(k.position)?);
                embedding(&table[k.first * k.dim..][..k.rows * k.dim], index, position, out, k);
            }
            Kernel::CopyTokens(k) => {
                let [out, x] = memory.tensors([k.out, k.x])?;
                copy_tokens(x, self.positions(k.position)?, out, k);
            }
            Kernel::ResizedPositions(k) => {
                let [out] = memory.tensors([k.out])?;
                resized_positions(self.floats(k.position.table)?.values(), out, k);
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
