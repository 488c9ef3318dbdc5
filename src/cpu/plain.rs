//! Programs on the plain kernels.

use super::memory::Blocks;
use super::{
    attention, cached_attention, conv2d, copy_tokens, elementwise, elementwise_gated, embedding, group_moments,
    group_norm, group_scales, head_norm, image_tokens, int_attention, int_convolution, int_matmul, layer_norm, matmul,
    panels, patch_embed, resized_positions, unpatchify, w8a8_matmul, windows, write_cache,
};
use crate::plan::{
    Arithmetic, Attention, Form, Kernel, Matmul, PACK_GROUP, Part, Position, Weight, WeightId, weight_limit,
};
use crate::{Result, weights};
use uvit_simd::AttentionShape;

/// A weight as the twins read it.
pub(super) enum Stored {
    /// Floats, transposed floats, or [`panels`].
    Floats(Vec<f32>),
    /// Row-major, and the rows' scales.
    Int(Vec<i8>, Vec<f32>),
    /// Row-major, scales, and the columns of each.
    Groups(Vec<i8>, Vec<f32>, usize),
}

impl Default for Stored {
    fn default() -> Stored {
        Stored::Floats(Vec::new())
    }
}

impl Stored {
    /// Matrices become f32 [`panels`], or i8.
    pub(super) fn new(weight: &Weight, form: Form, tensor: &weights::Tensor) -> Stored {
        match form {
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
            Form::PatchKernel => Stored::Floats(tensor.to_f32_transposed()),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Stored::Floats(values) => 4 * values.len(),
            Stored::Int(values, scales) | Stored::Groups(values, scales, _) => values.len() + 4 * scales.len(),
        }
    }
}

/// As the kernels take it.
pub(super) fn attention_shape(k: &Attention) -> AttentionShape {
    let Attention { batch, tokens, groups, strided, heads, head_dim, causal, first, queries, .. } = *k;
    AttentionShape { batch, tokens, groups, strided, heads, head_dim, causal, first, queries }
}

/// Runs one kernel.
pub(super) fn launch(memory: &mut Blocks<'_>, weights: &[Stored], kernel: &Kernel) -> Result<()> {
    let weight = |id: WeightId| match &weights[id.index()] {
        Stored::Floats(values) => values.as_slice(),
        Stored::Int(..) | Stored::Groups(..) => &[],
    };
    let positions = |position: Option<Position>| position.map(|position| weight(position.table));
    match kernel {
        Kernel::Matmul(m) => {
            let bias = m.bias.map(weight);
            let [out, x, x2, residual, gates] =
                memory.tensors_or_empty([m.out, m.x], [m.x2, m.residual, m.gate.map(|gate| gate.vector)])?;
            let residual = m.residual.map(|_| &*residual);
            if let Some(window) = &m.window {
                let own = m.first * m.n..(m.first + m.rows) * m.n;
                let (out, residual) = (&mut out[own.clone()], residual.map(|residual| &residual[own]));
                if let (Stored::Int(w, scales), Arithmetic::Int { bits }) = (&weights[m.weight.index()], m.arithmetic) {
                    let (k, activation) = (m.k, m.activation);
                    int_convolution(x, k, window, m.first, w, scales, bits, bias, activation, residual, out, m.n);
                    return Ok(());
                }
                let (seen, k) = (windows(x, m.k, window, m.first, m.rows), m.columns());
                matmul(&seen, k, &[], 0, weight(m.weight), bias, m.activation, None, residual, out, m.rows, m.n);
                return Ok(());
            }
            let Matmul { k, k2, n, tokens, activation, .. } = *m;
            for Part { item, x: from, out: to, rows } in m.parts() {
                let own = to * n..(to + rows) * n;
                let (out, residual) = (&mut out[own.clone()], residual.map(|residual| &residual[own]));
                let gate = m.gate.map(|gate| &gates[item * gate.channels + gate.at..][..n]);
                let (x, x2) = (&x[from * k..], &x2[from * k2..]);
                match (&weights[m.weight.index()], m.arithmetic) {
                    (Stored::Int(w, scales), Arithmetic::Int { bits }) => int_matmul(
                        x, k, x2, k2, w, scales, bits, bias, activation, gate, residual, out, rows, tokens, n,
                    ),
                    (Stored::Groups(w, scales, group), Arithmetic::W8A8) => {
                        w8a8_matmul(x, k, w, scales, *group, bias, activation, gate, residual, out, rows, n)
                    }
                    _ => matmul(x, k, x2, k2, weight(m.weight), bias, activation, gate, residual, out, rows, n),
                }
            }
        }
        Kernel::LayerNorm(k) => {
            let [out, x, vector, ..] =
                memory.tensors_or_empty([k.out, k.x], [k.modulation.map(|m| m.vector), None, None])?;
            let affine = k.affine.map(|(gain, bias)| (weight(gain), weight(bias)));
            let modulation = k.modulation.map(|m| (&*vector, m.shift, m.scale));
            layer_norm(x, affine, modulation, k.eps, out, k.tokens, k.dim);
        }
        Kernel::Attention(k) => {
            let [out, qkv] = memory.tensors([k.out, k.qkv])?;
            match k.arithmetic {
                Arithmetic::F32 | Arithmetic::F16 | Arithmetic::W8A8 => attention(qkv, out, &attention_shape(k)),
                Arithmetic::Int { bits } => int_attention(qkv, out, &attention_shape(k), bits),
            }
        }
        Kernel::HeadNorm(k) => {
            let [out, qkv] = memory.tensors([k.out, k.qkv])?;
            head_norm(qkv, k.weights.map(weight), out, k);
        }
        Kernel::WriteCache(k) => {
            let [out, qkv, places] = memory.tensors([k.out, k.qkv, k.places])?;
            write_cache(qkv, places, out, k.dim);
        }
        Kernel::CachedAttention(k) => {
            let [out, qkv, cache, places, positions] =
                memory.tensors([k.out, k.qkv, k.cache, k.places, k.positions])?;
            cached_attention(qkv, cache, places, positions, out, k);
        }
        Kernel::Elementwise(k) => {
            let gates = k.gate.map(|gate| gate.vector);
            let [out, a, b, gates, ..] = memory.tensors_or_empty([k.out, k.a], [k.b, gates, None])?;
            match k.gate {
                Some(_) => elementwise_gated(a, b, gates, k, out),
                None => elementwise(a, k.b.map(|_| &*b), k.activation, (k.scale, k.offset), out),
            }
        }
        Kernel::Embedding(k) => {
            let (out, index) = memory.indexed(k.out, k.index)?;
            let table = &weight(k.table)[k.first * k.dim..][..k.rows * k.dim];
            embedding(table, index, positions(k.position), out, k);
        }
        Kernel::CopyTokens(k) => {
            let [out, x] = memory.tensors([k.out, k.x])?;
            copy_tokens(x, positions(k.position), out, k);
        }
        Kernel::ResizedPositions(k) => {
            let [out] = memory.tensors([k.out])?;
            resized_positions(weight(k.position.table), out, k);
        }
        Kernel::PatchEmbed(k) => {
            let [out, image] = memory.tensors([k.out, k.image])?;
            patch_embed(image, weight(k.weight), k.bias.map(weight), positions(k.position), out, k);
        }
        Kernel::Unpatchify(k) => {
            let [out, x] = memory.tensors([k.out, k.x])?;
            unpatchify(x, out, k);
        }
        Kernel::Conv2d(k) => {
            let [out, x] = memory.tensors([k.out, k.x])?;
            conv2d(x, weight(k.weight), weight(k.bias), out, k);
        }
        Kernel::ImageTokens(k) => {
            let [out, image] = memory.tensors([k.out, k.image])?;
            image_tokens(image, out, k);
        }
        Kernel::GroupMoments(k) => {
            let [out, x] = memory.tensors([k.out, k.x])?;
            group_moments(x, out, k);
        }
        Kernel::GroupScales(k) => {
            let [out, moments] = memory.tensors([k.out, k.moments])?;
            group_scales(moments, weight(k.weight), out, k);
        }
        Kernel::GroupNorm(k) => {
            let [out, x, scales] = memory.tensors([k.out, k.x, k.scales])?;
            group_norm(x, scales, weight(k.bias), out, k);
        }
    }
    Ok(())
}
