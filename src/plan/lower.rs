//! Plan to Program: which operations one kernel computes together, and where tensors lie.

use super::arena::{Interval, place};
use super::program::*;
use super::{Arithmetic, Compute, Op, Plan, Role, TensorId};
use crate::{Code, Error, Result};

/// Lowers a Plan. Tensors named in `keep` stay readable after the run, which costs fusion and memory: for tests.
///
/// # Errors
/// `INTERNAL` for an inconsistent Plan, `LIMIT_TOO_SMALL` if a tensor exceeds the largest binding.
pub fn lower(plan: &Plan, capabilities: &Capabilities, keep: &[&str]) -> Result<Program> {
    plan.validate()?;
    let kept = |id: TensorId| {
        let t = &plan.tensors[id.0];
        t.role != Role::Scratch || keep.contains(&t.name.as_str())
    };
    let (kernels, time_embeddings) = fuse(plan, &kept, capabilities.compute);

    let mut views: Vec<View> = plan
        .tensors
        .iter()
        .map(|t| {
            let dim = *t.shape.last().unwrap_or(&1);
            let row_stride = if t.role == Role::Indices { dim } else { capabilities.row_stride(&t.shape) };
            let (name, shape) = (t.name.clone(), t.shape.clone());
            View { name, shape, role: t.role, row_stride, packed: false, place: Place::Nowhere }
        })
        .collect();
    for id in quantised(&kernels, &kept)? {
        let view = &mut views[id.0];
        if capabilities.packs {
            (view.packed, view.row_stride) = (true, View::packed_stride(view.dim()));
        }
    }

    let mut program_io = 0;
    let mut intervals = Vec::new();
    for (i, view) in views.iter_mut().enumerate() {
        let id = TensorId(i);
        let uses = |k: &Kernel| k.writes() == id || k.reads().contains(&id);
        let host_written = time_embeddings.iter().any(|&(_, out)| out == id);
        // In u64: a large batch would overflow the usize of wasm32.
        let needed = view.shape.iter().rev().skip(1).fold(4 * view.row_stride as u64, |n, &d| n * d as u64);
        if needed > capabilities.max_binding as u64 {
            return Err(Error::new(
                Code::LimitTooSmall,
                format!(
                    "tensor {:?} {:?} needs {needed} bytes in one binding; maxStorageBufferBindingSize is {}",
                    view.name, view.shape, capabilities.max_binding
                ),
                "Generate fewer images at once, or use a device with larger limits",
            ));
        }
        let bytes = view.bytes().next_multiple_of(capabilities.offset_align);
        if view.role == Role::State {
            view.place = Place::State;
        } else if view.role != Role::Scratch || host_written {
            view.place = Place::Io(program_io);
            program_io = program_io.saturating_add(bytes);
        } else if let Some(first) = kernels.iter().position(uses) {
            let last = if kept(id) { kernels.len() } else { kernels.iter().rposition(uses).unwrap_or(first) };
            intervals.push(Interval { tensor: i, first, last, bytes });
        }
    }
    if program_io > capabilities.max_binding {
        return Err(Error::new(
            Code::LimitTooSmall,
            format!(
                "inputs and outputs need {program_io} bytes in one binding; \
                 maxStorageBufferBindingSize is {}",
                capabilities.max_binding
            ),
            "Generate fewer images at once, or use a device with larger limits",
        ));
    }
    let arena = place(&intervals, capabilities.max_binding);
    for (interval, &(slab, offset)) in intervals.iter().zip(&arena.places) {
        views[interval.tensor].place = Place::Arena { slab, offset };
    }
    Ok(Program {
        views,
        weights: plan.weights.clone(),
        kernels,
        time_embeddings,
        io_bytes: program_io,
        slab_bytes: arena.slab_bytes,
        peak_live_bytes: arena.peak_live_bytes,
    })
}

/// Walks the operations; an activation or addition that alone consumes a Linear's result joins its kernel.
fn fuse(plan: &Plan, kept: &dyn Fn(TensorId) -> bool, compute: Compute) -> (Vec<Kernel>, Vec<(TensorId, TensorId)>) {
    let mut kernels = Vec::new();
    let mut time_embeddings = Vec::new();
    let mut done = vec![false; plan.ops.len()];
    let sole_reader = |id: TensorId| {
        let mut readers = plan.ops.iter().enumerate().filter(|(_, op)| op.reads().contains(&id));
        let first = readers.next()?;
        (readers.next().is_none() && !kept(id)).then_some(first)
    };
    let written_before = |id: TensorId, i: usize| !plan.ops[i..].iter().any(|op| op.writes() == id);
    for i in 0..plan.ops.len() {
        if done[i] {
            continue;
        }
        match plan.ops[i] {
            Op::TimestepEmbedding { time, out } => time_embeddings.push((time, out)),
            Op::Linear { x, skip, weight, bias, mut out } => {
                let mut activation = Activation::None;
                let mut residual = None;
                if let Some((j, &Op::Gelu { out: next, .. })) = sole_reader(out) {
                    (activation, out, done[j]) = (Activation::Gelu, next, true);
                } else if let Some((j, &Op::Silu { out: next, .. })) = sole_reader(out) {
                    (activation, out, done[j]) = (Activation::Silu, next, true);
                }
                if let Some((j, &Op::Add { a, b, out: next })) = sole_reader(out) {
                    let other = if a == out { b } else { a };
                    if other != out && written_before(other, i) {
                        (residual, out, done[j]) = (Some(other), next, true);
                    }
                }
                let shape = plan.shape(x);
                let rows = shape[..shape.len() - 1].iter().product();
                kernels.push(Kernel::Matmul(Matmul {
                    x,
                    x2: skip,
                    weight,
                    bias,
                    activation,
                    residual,
                    out,
                    rows,
                    tokens: shape[shape.len() - 2],
                    k: shape[shape.len() - 1],
                    k2: skip.map_or(0, |s| plan.shape(s)[plan.shape(s).len() - 1]),
                    n: plan.weights[weight.0].shape[0],
                    arithmetic: plan.weights[weight.0].arithmetic(compute),
                    size: SizeClass::of(rows),
                }));
            }
            ref op => kernels.push(single(plan, op, compute)),
        }
    }
    (kernels, time_embeddings)
}

/// The tensors that [`Arithmetic::W8A8`] multiplies: read by nobody else, and made by a kernel that can quantise them.
fn quantised(kernels: &[Kernel], kept: &dyn Fn(TensorId) -> bool) -> Result<Vec<TensorId>> {
    let mut all = Vec::new();
    for kernel in kernels {
        let Kernel::Matmul(Matmul { x, arithmetic: Arithmetic::W8A8, .. }) = *kernel else { continue };
        let makes = |kernel: &&Kernel| match kernel {
            Kernel::Matmul(m) => m.arithmetic == Arithmetic::W8A8 && m.residual.is_none(),
            kernel => matches!(kernel, Kernel::LayerNorm(_) | Kernel::Attention(_)),
        };
        let readers = kernels.iter().filter(|kernel| kernel.reads().contains(&x)).count();
        if kept(x) || readers != 1 || !kernels.iter().filter(|k| k.writes() == x).all(|k| makes(&k)) {
            return Err(Error::internal(format!("tensor {} cannot be quantised by the kernel that makes it", x.0)));
        }
        all.push(x);
    }
    Ok(all)
}

/// From so many tokens on, attention is worth integers where coarse ones are allowed.
pub(super) const INT_ATTENTION_TOKENS: usize = 128;

/// The kernel of an operation on its own.
fn single(plan: &Plan, op: &Op, compute: Compute) -> Kernel {
    match *op {
        Op::TimestepEmbedding { .. } | Op::Linear { .. } => unreachable!("handled by fuse"),
        Op::Gelu { x, out } => Kernel::Elementwise(Elementwise { a: x, b: None, activation: Activation::Gelu, out }),
        Op::Silu { x, out } => Kernel::Elementwise(Elementwise { a: x, b: None, activation: Activation::Silu, out }),
        Op::Add { a, b, out } => Kernel::Elementwise(Elementwise { a, b: Some(b), activation: Activation::None, out }),
        Op::LayerNorm { x, weight, bias, eps, out } => {
            let s = plan.shape(x);
            let dim = s[s.len() - 1];
            Kernel::LayerNorm(LayerNorm { x, weight, bias, eps, out, rows: s.iter().product::<usize>() / dim, dim })
        }
        Op::Attention { qkv, heads, out } => {
            let s = plan.shape(out);
            let head_dim = s[2] / heads;
            // docs/arithmetic.md: with few tokens attention is a small part of the work, and floats cost little.
            let arithmetic = match compute {
                Compute::Fast if s[1] >= INT_ATTENTION_TOKENS => Arithmetic::Int { bits: 7 },
                Compute::F32 | Compute::F16 | Compute::W8A8 => Arithmetic::F32,
                _ => Arithmetic::Int { bits: 12 },
            };
            Kernel::Attention(Attention { qkv, out, batch: s[0], tokens: s[1], heads, head_dim, arithmetic })
        }
        Op::Embedding { table, index, position, out, at } => {
            let s = plan.shape(out);
            Kernel::Embedding(Embedding { table, index, position, out, at, batch: s[0], tokens: s[1], dim: s[2] })
        }
        Op::CopyTokens { x, from, count, position, out, at } => {
            let s = plan.shape(out);
            Kernel::CopyTokens(CopyTokens {
                x,
                x_tokens: plan.shape(x)[1],
                x_at: from,
                position,
                out,
                out_tokens: s[1],
                out_at: at,
                count,
                batch: s[0],
                dim: s[2],
            })
        }
        Op::ResizedPositions { position, from, to, out, at } => {
            let s = plan.shape(out);
            let (batch, tokens, dim) = (s[0], s[1], s[2]);
            Kernel::ResizedPositions(ResizedPositions { position, from, to, out, at, batch, tokens, dim })
        }
        Op::PatchEmbed { image, weight, bias, position, patch, out, at } => {
            let (s, image_shape) = (plan.shape(out), plan.shape(image));
            Kernel::PatchEmbed(PatchEmbed {
                image,
                weight,
                bias,
                position,
                out,
                at,
                patch,
                batch: s[0],
                images: image_shape[0],
                channels: image_shape[1],
                height: image_shape[2],
                width: image_shape[3],
                tokens: s[1],
                dim: s[2],
            })
        }
        Op::Unpatchify { x, patch, skip_tokens, out } => {
            let s = plan.shape(out);
            Kernel::Unpatchify(Unpatchify {
                x,
                out,
                patch,
                skip_tokens,
                batch: s[0],
                channels: s[1],
                height: s[2],
                width: s[3],
                tokens: plan.shape(x)[1],
            })
        }
        Op::Conv2d { x, weight, bias, out } => {
            let (s, o) = (plan.shape(x), plan.shape(out));
            Kernel::Conv2d(Conv2d {
                x,
                weight,
                bias,
                out,
                batch: s[0],
                in_channels: s[1],
                out_channels: o[1],
                height: s[2],
                width: s[3],
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Batch, Network, uvit};

    fn s2() -> Plan {
        Network::Uvit(uvit::preset("cifar10-s2").unwrap()).record(Batch::plain(1)).unwrap().plan
    }

    #[test]
    fn a_tensor_beyond_the_binding_limit_is_named_with_what_is_needed_and_found() {
        let capabilities = Capabilities { max_binding: 1 << 20, ..Capabilities::WEBGPU };
        let error = lower(&s2(), &capabilities, &[]).unwrap_err();
        assert_eq!(error.code, Code::LimitTooSmall);
        // qkv of 257 tokens.
        assert!(error.cause.contains("[1, 257, 1536] needs 1579008 bytes"), "{error}");
        assert!(error.cause.contains("maxStorageBufferBindingSize is 1048576"), "{error}");
    }

    #[test]
    fn activations_and_residuals_join_the_matmul_that_feeds_them() {
        let program = lower(&s2(), &Capabilities::WEBGPU, &[]).unwrap();
        assert!(!program.kernels.iter().any(|k| matches!(k, Kernel::Elementwise(_))));
        // norm1, qkv, attention, proj, norm2, fc1, fc2 in 13 blocks, 6 skips; time, patches, norm, decoder_pred,
        // unpatchify, convolution.
        assert_eq!(program.kernels.len(), 13 * 7 + 6 + 6);
        // What is kept cannot be fused away, and stays readable.
        let kept = lower(&s2(), &Capabilities::WEBGPU, &["mid_block.mlp.fc1"]).unwrap();
        assert_eq!(kept.kernels.len(), program.kernels.len() + 1);
        assert!(kept.find("mid_block.mlp.fc1").is_some() && program.find("mid_block.mlp.fc1").is_none());
    }
}
