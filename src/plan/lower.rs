//! Plan to Program: which operations one kernel computes together, and where tensors lie.

use super::arena::{Interval, place};
use super::kernel::*;
use super::program::*;
use super::{Arithmetic, Compute, Form, GateOf, Groups, Op, PACK_GROUP, Plan, Role, Tensor, TensorId};
use crate::{Code, Error, Result};

/// Lowers a Plan. Tensors named in `keep` stay readable after the run, which costs fusion and memory: for tests.
///
/// # Errors
/// `INTERNAL` for an inconsistent Plan (not in release builds for browsers), `LIMIT_TOO_SMALL` if a tensor exceeds the largest binding.
pub fn lower(plan: &Plan, capabilities: &Capabilities, keep: &[&str]) -> Result<Program> {
    // Networks check their parameters themselves, so that only a bug of ours is found here: tests find it, and for a page it
    // would be 5 kB.
    #[cfg(any(not(target_arch = "wasm32"), debug_assertions))]
    plan.validate()?;
    let mut views: Vec<View> = plan.tensors.iter().map(|t| view(t, capabilities)).collect();
    views.iter().try_for_each(|view| check_size(view, capabilities))?;
    let kept = |id: TensorId| {
        plan.tensors.get(id.0).is_some_and(|t| t.role != Role::Scratch || keep.contains(&t.name.as_str()))
    };
    let forms = plan.forms(capabilities.compute);
    let (kernels, time_embeddings) = fuse(plan, &kept, &forms, capabilities, &mut views);
    let kernels = cut(kernels, capabilities);
    let kernels = if capabilities.packs { pack(kernels, &mut views, &kept) } else { kernels };
    let kernels = unalias(kernels, &mut views);

    // By tensor: the first and the last kernel that uses it.
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; views.len()];
    for (k, kernel) in kernels.iter().enumerate() {
        for id in kernel.reads().into_iter().chain([kernel.writes()]) {
            let life = &mut lives[id.0];
            *life = Some(life.map_or((k, k), |(first, _)| (first, k)));
        }
    }
    let mut program_io = 0u64;
    let mut intervals = Vec::new();
    for (i, view) in views.iter_mut().enumerate() {
        let id = TensorId(i);
        let host_written = time_embeddings.iter().any(|&(_, out)| out == id);
        let bytes = (view.bytes() as u64).next_multiple_of(capabilities.offset_align as u64);
        if view.role == Role::State {
            view.place = Place::State;
        } else if view.role != Role::Scratch || host_written {
            view.place = Place::Io(usize::try_from(program_io).unwrap_or(usize::MAX));
            program_io += bytes;
        } else if let Some((first, last)) = lives[i] {
            let last = if kept(id) { kernels.len() } else { last };
            intervals.push(Interval { tensor: i, first, last, bytes });
        }
    }
    if program_io > capabilities.max_binding as u64 {
        return Err(too_large("inputs and outputs need", program_io, capabilities));
    }
    let arena = place(&intervals, capabilities.max_binding as u64);
    // A slab, and so what lies in it, is no larger than a binding.
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    for (interval, &(slab, offset)) in intervals.iter().zip(&arena.places) {
        views[interval.tensor].place = Place::Arena { slab, offset: size(offset) };
    }
    Ok(Program {
        views,
        weights: plan.weights.clone(),
        forms,
        kernels,
        time_embeddings,
        io_bytes: size(program_io),
        slab_bytes: arena.slab_bytes.into_iter().map(size).collect(),
        peak_live_bytes: arena.peak_live_bytes,
    })
}

/// A tensor's view, placed nowhere so far.
fn view(tensor: &Tensor, capabilities: &Capabilities) -> View {
    let dim = *tensor.shape.last().unwrap_or(&1);
    let row_stride = if tensor.role == Role::Indices { dim } else { capabilities.row_stride(&tensor.shape) };
    let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
    View { name, shape, role: tensor.role, row_stride, packed: false, place: Place::Nowhere }
}

/// Whether one binding can hold a tensor; then usize holds its size.
fn check_size(view: &View, capabilities: &Capabilities) -> Result<()> {
    let rows = view.shape.iter().rev().skip(1);
    let needed = rows.fold((view.row_stride as u64).saturating_mul(4), |n, &d| n.saturating_mul(d as u64));
    if needed > capabilities.max_binding as u64 {
        let what = format!("tensor \"{}\" {:?} needs", view.name, view.shape);
        return Err(too_large(&what, needed, capabilities));
    }
    Ok(())
}

fn too_large(what: &str, bytes: u64, capabilities: &Capabilities) -> Error {
    Error::new(
        Code::LimitTooSmall,
        format!("{what} {bytes} bytes in one binding; maxStorageBufferBindingSize is {}", capabilities.max_binding),
        "Generate fewer images at once, or use a device with larger limits",
    )
}

/// Walks the operations; an activation or addition that alone consumes a Linear's or convolution's result joins its kernel,
/// a gated one a Linear's, an activation a GroupNorm's.
fn fuse(
    plan: &Plan,
    kept: &dyn Fn(TensorId) -> bool,
    forms: &[Form],
    capabilities: &Capabilities,
    views: &mut Vec<View>,
) -> (Vec<Kernel>, Vec<(TensorId, TensorId)>) {
    let compute = capabilities.compute;
    let mut kernels = Vec::new();
    let mut time_embeddings = Vec::new();
    let mut done = vec![false; plan.ops.len()];
    // By tensor: the first operation that reads it, and whether it is the only one.
    let mut readers: Vec<Option<(usize, bool)>> = vec![None; plan.tensors.len()];
    for (j, op) in plan.ops.iter().enumerate() {
        for id in op.reads() {
            let reader = &mut readers[id.0];
            *reader = Some(reader.map_or((j, true), |(first, _)| (first, first == j)));
        }
    }
    let sole_reader = |id: TensorId| match readers[id.0] {
        Some((j, true)) if !kept(id) => Some((j, &plan.ops[j])),
        _ => None,
    };
    // Whether operation j, which also reads `other`, may as well take place at i: nobody between them notices.
    let moves = |i: usize, j: usize, other: Option<TensorId>| {
        let next = plan.ops[j].writes();
        plan.ops[i..j].iter().all(|op| !op.reads().contains(&next) && Some(op.writes()) != other)
    };
    for i in 0..plan.ops.len() {
        if done[i] {
            continue;
        }
        match plan.ops[i] {
            Op::TimestepEmbedding { time, out } => time_embeddings.push((time, out)),
            Op::Linear { .. } | Op::Convolution { .. } => {
                let (x, skip, window, weight, bias, some, mut out) = match plan.ops[i] {
                    Op::Linear { x, skip, weight, bias, rows, out } => (x, skip, None, weight, bias, rows, out),
                    Op::Convolution { x, window, weight, bias, out } => {
                        (x, None, Some(window), weight, bias, None, out)
                    }
                    _ => continue,
                };
                let (mut activation, mut gate, mut residual) = (Activation::None, None, None);
                // What follows a tensor that several fill is not theirs.
                let whole = some.is_none_or(|some| some.count == plan.shape(out)[1]);
                match sole_reader(out) {
                    Some((j, &Op::Activate { activation: kind, out: next, .. })) if whole && moves(i, j, None) => {
                        (activation, out, done[j]) = (kind, next, true);
                    }
                    _ => {}
                }
                match sole_reader(out) {
                    Some((j, &Op::Add { a, b, out: next })) if whole => {
                        let other = if a == out { b } else { a };
                        if other != out && moves(i, j, Some(other)) {
                            (residual, out, done[j]) = (Some(other), next, true);
                        }
                    }
                    Some((j, &Op::Gate { x: other, gate: of, y, out: next })) if whole && window.is_none() => {
                        let reads = [other, of.vector];
                        if y == out && reads.iter().all(|&read| read != out && moves(i, j, Some(read))) {
                            (gate, residual, out, done[j]) = (Some(gate_of(plan, of)), Some(other), next, true);
                        }
                    }
                    _ => {}
                }
                let (shape, of_out) = (plan.shape(x), plan.shape(out));
                let tokens = some.map_or_else(|| of_out[1..of_out.len() - 1].iter().product(), |some| some.count);
                let rows = of_out[0] * tokens;
                let span = some.map(|some| Span {
                    x_at: some.first,
                    x_tokens: shape[1],
                    out_at: some.at,
                    out_tokens: of_out[1],
                });
                let arithmetic = match forms[weight.0] {
                    Form::Matrix(arithmetic) => arithmetic,
                    Form::Floats | Form::PatchKernel => Arithmetic::F32,
                };
                kernels.push(Kernel::Matmul(Matmul {
                    x,
                    x2: skip,
                    weight,
                    bias,
                    activation,
                    gate,
                    residual,
                    out,
                    rows,
                    tokens,
                    k: shape[shape.len() - 1],
                    k2: skip.map_or(0, |s| plan.shape(s)[plan.shape(s).len() - 1]),
                    n: plan.weights[weight.0].shape[0],
                    arithmetic,
                    size: SizeClass::of(rows),
                    window,
                    span,
                    first: 0,
                }));
            }
            Op::GroupNorm { x, moments, groups, weight, bias, eps, mut out } => {
                let mut activation = Activation::None;
                if let Some((j, &Op::Activate { activation: kind, out: next, .. })) = sole_reader(out)
                    && moves(i, j, None)
                {
                    (activation, out, done[j]) = (kind, next, true);
                }
                let s = plan.shape(x);
                let (batch, tokens, dim) = (s[0], s[1], s[2]);
                let tensor = Tensor { name: String::new(), shape: vec![batch, 2, dim], role: Role::Scratch };
                views.push(view(&tensor, capabilities));
                let scales = TensorId(views.len() - 1);
                kernels.push(Kernel::GroupScales(GroupScales {
                    moments: moments.tensor,
                    weight,
                    out: scales,
                    batch,
                    tokens: moments.tokens,
                    dim,
                    slice: moments.slice,
                    groups,
                    eps,
                }));
                kernels.push(Kernel::GroupNorm(GroupNorm {
                    x,
                    scales,
                    weight,
                    bias,
                    activation,
                    out,
                    batch,
                    tokens,
                    dim,
                    groups,
                    eps,
                }));
            }
            Op::Embedding { table, index, position, out, at } => {
                let (s, count) = (plan.shape(out), plan.indexed(index));
                let (batch, tokens, dim) = (s[0], s[1], s[2]);
                let rows = if index.is_some() { plan.weights[table.0].shape[0] } else { 1 };
                let most = rows_of_binding(rows, dim, capabilities);
                kernels.extend((0..rows).step_by(most).map(|first| {
                    let rows = most.min(rows - first);
                    Kernel::Embedding(Embedding {
                        table,
                        first,
                        rows,
                        index,
                        position,
                        out,
                        at,
                        count,
                        batch,
                        tokens,
                        dim,
                    })
                }));
            }
            ref op => kernels.push(single(plan, op, compute)),
        }
    }
    (kernels, time_embeddings)
}

/// Convolutions of large images and Linears over many tokens become several launches, of some rows each, and attention, of some
/// queries. In integers a Linear has scales by item, and stays whole.
fn cut(kernels: Vec<Kernel>, capabilities: &Capabilities) -> Vec<Kernel> {
    let mut all = Vec::with_capacity(kernels.len());
    for kernel in kernels {
        match kernel {
            Kernel::Matmul(m) if m.window.is_some() || matches!(m.arithmetic, Arithmetic::F32 | Arithmetic::F16) => {
                let of_row = (m.columns() as u64 * m.n as u64).max(1);
                // Whole tiles of any device.
                let most = usize::try_from(capabilities.launch_work / of_row).unwrap_or(usize::MAX).max(ROWS_OF_TILES);
                // In about equal parts.
                let parts = m.rows.div_ceil(most - most % ROWS_OF_TILES);
                let most = m.rows.div_ceil(parts).next_multiple_of(ROWS_OF_TILES);
                all.extend(
                    (0..m.rows)
                        .step_by(most)
                        .map(|first| Kernel::Matmul(Matmul { first, rows: most.min(m.rows - first), ..m.clone() })),
                );
            }
            Kernel::Attention(a) if a.arithmetic == Arithmetic::F32 => {
                let of_query = (Kernel::Attention(a.clone()).cost().multiply_adds / a.tokens as u64).max(1);
                let most = usize::try_from(capabilities.launch_work / of_query).unwrap_or(usize::MAX);
                let most = most.min(a.tokens).next_multiple_of(QUERIES_OF_TILES);
                all.extend((0..a.tokens).step_by(most).map(|first| {
                    Kernel::Attention(Attention { first, queries: most.min(a.tokens - first), ..a.clone() })
                }));
            }
            other => all.push(other),
        }
    }
    all
}

/// As [`ROWS_OF_TILES`], of queries.
const QUERIES_OF_TILES: usize = 36;

/// A multiple of what devices compute together.
const ROWS_OF_TILES: usize = 48;

/// What [`Arithmetic::W8A8`] multiplies lies quantised: where nobody else reads a tensor and the kernel that makes it can
/// quantise it, nothing more is needed; else a kernel of its own makes a quantised copy.
fn pack(kernels: Vec<Kernel>, views: &mut Vec<View>, kept: &dyn Fn(TensorId) -> bool) -> Vec<Kernel> {
    let wants = |kernel: &Kernel| match *kernel {
        Kernel::Matmul(Matmul { x, arithmetic: Arithmetic::W8A8, .. }) => Some(x),
        _ => None,
    };
    let at_once = |x: TensorId| {
        let mut makers = kernels.iter().filter(|kernel| kernel.writes() == x).peekable();
        let only =
            kernels.iter().all(|k| k.reads().iter().filter(|&&id| id == x).count() == usize::from(wants(k) == Some(x)));
        !kept(x) && only && makers.peek().is_some() && makers.all(packs)
    };
    let mut wanted: Vec<TensorId> = kernels.iter().filter_map(wants).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let packed = |view: &View| View { packed: true, row_stride: View::packed_stride(view.dim()), ..view.clone() };
    wanted.retain(|&x| {
        let whole = at_once(x);
        if whole {
            views[x.0] = packed(&views[x.0]);
        }
        !whole
    });

    let mut all = Vec::with_capacity(kernels.len());
    // Copies that are still right: Linears over one tensor follow each other.
    let mut copies: Vec<(TensorId, TensorId)> = Vec::new();
    for mut kernel in kernels {
        match &mut kernel {
            Kernel::Matmul(m) if m.arithmetic == Arithmetic::W8A8 && wanted.contains(&m.x) => {
                let found = copies.iter().find(|(from, _)| *from == m.x).map(|&(_, copy)| copy);
                m.x = found.unwrap_or_else(|| {
                    let view = packed(&views[m.x.0]);
                    let (to, kernel) = copy(m.x, view, views);
                    copies.push((m.x, to));
                    all.push(kernel);
                    to
                });
                copies.retain(|(from, _)| *from != m.out);
            }
            _ => copies.clear(),
        }
        all.push(kernel);
    }
    all
}

/// Whether one invocation of the kernel has a whole [`PACK_GROUP`] of its result at hand.
fn packs(kernel: &Kernel) -> bool {
    match kernel {
        Kernel::Matmul(m) => m.arithmetic == Arithmetic::W8A8 && m.residual.is_none(),
        Kernel::Attention(a) => a.head_dim.is_multiple_of(PACK_GROUP),
        Kernel::LayerNorm(_) | Kernel::Elementwise(_) => true,
        _ => false,
    }
}

/// A kernel binds a tensor once: where it reads it twice, the second is a copy.
fn unalias(kernels: Vec<Kernel>, views: &mut Vec<View>) -> Vec<Kernel> {
    let mut all = Vec::with_capacity(kernels.len());
    for mut kernel in kernels {
        let mut seen: Vec<TensorId> = Vec::new();
        let operands = match &mut kernel {
            Kernel::Matmul(m) => {
                [Some(&mut m.x), m.x2.as_mut(), m.residual.as_mut(), m.gate.as_mut().map(|g| &mut g.vector)]
            }
            Kernel::Elementwise(k) => [Some(&mut k.a), k.b.as_mut(), k.gate.as_mut().map(|g| &mut g.vector), None],
            Kernel::LayerNorm(k) => [Some(&mut k.x), k.modulation.as_mut().map(|m| &mut m.vector), None, None],
            _ => [None, None, None, None],
        };
        for operand in operands.into_iter().flatten() {
            if seen.contains(operand) {
                let view = views[operand.0].clone();
                let (to, kernel) = copy(*operand, view, views);
                all.push(kernel);
                *operand = to;
            }
            seen.push(*operand);
        }
        all.push(kernel);
    }
    all
}

/// A new tensor with the values of another, in the layout of `view`, and the kernel that makes it.
fn copy(from: TensorId, view: View, views: &mut Vec<View>) -> (TensorId, Kernel) {
    let (rows, dim, out) = (view.rows(), view.dim(), TensorId(views.len()));
    views.push(View { name: String::new(), role: Role::Scratch, ..view });
    (out, elementwise_of(from, None, Activation::None, (1.0, 0.0), out, (rows, dim)))
}

/// From so many tokens on, attention is worth integers where coarse ones are allowed.
pub(super) const INT_ATTENTION_TOKENS: usize = 128;

/// The widest head that integers are made for: an autoencoder's is wider, and one of many layers.
const MOST_INT_HEAD_DIM: usize = 128;

/// How many of a table's rows one binding holds: all of them, or so many that the next begins where a binding may.
fn rows_of_binding(rows: usize, dim: usize, capabilities: &Capabilities) -> usize {
    let most = capabilities.max_binding / (4 * dim);
    if rows <= most { rows } else { (most - most % capabilities.offset_align).max(1) }
}

/// The kernel of an operation on its own.
fn single(plan: &Plan, op: &Op, compute: Compute) -> Kernel {
    match *op {
        Op::TimestepEmbedding { .. }
        | Op::Linear { .. }
        | Op::Convolution { .. }
        | Op::GroupNorm { .. }
        | Op::Embedding { .. } => unreachable!("handled by fuse"),
        Op::Activate { activation, x, out } => elementwise(plan, x, None, activation, (1.0, 0.0), out),
        Op::Affine { x, scale, offset, out } => elementwise(plan, x, None, Activation::None, (scale, offset), out),
        Op::Add { a, b, out } => elementwise(plan, a, Some(b), Activation::None, (1.0, 0.0), out),
        Op::Gate { x, gate, y, out } => {
            let mut kernel = elementwise(plan, y, Some(x), Activation::None, (1.0, 0.0), out);
            if let Kernel::Elementwise(k) = &mut kernel {
                (k.gate, k.tokens) = (Some(gate_of(plan, gate)), plan.shape(x)[1]);
            }
            kernel
        }
        Op::GroupMoments { x, slice, first, out } => {
            let (s, o) = (plan.shape(x), plan.shape(out));
            let (batch, tokens, dim) = (s[0], s[1], s[2]);
            Kernel::GroupMoments(GroupMoments { x, out, batch, tokens, dim, slice, first, slices: o[1] / 2 })
        }
        Op::ImageTokens { image, out } => {
            let s = plan.shape(image);
            let (batch, channels, pixels) = (s[0], s[1], s[2] * s[3]);
            Kernel::ImageTokens(ImageTokens { image, out, batch, channels, pixels })
        }
        Op::LayerNorm { x, affine, modulation, eps, out } => {
            let (rows, dim) = rows_of(plan, x);
            let tokens = rows / plan.shape(x)[0];
            Kernel::LayerNorm(LayerNorm { x, affine, modulation, eps, out, rows, tokens, dim })
        }
        Op::Attention { qkv, heads, causal, groups, out } => {
            let s = plan.shape(out);
            let (batch, head_dim) = (s[0], s[2] / heads);
            let (tokens, strided) = match groups {
                Groups::Item => (s[1], false),
                Groups::Consecutive { tokens } => (tokens, false),
                Groups::Strided { tokens } => (tokens, true),
            };
            // docs/arithmetic.md: with few tokens attention is a small part of the work, and floats cost little.
            let integers = head_dim <= MOST_INT_HEAD_DIM && head_dim.is_multiple_of(4);
            let arithmetic = match compute {
                Compute::Fast if tokens >= INT_ATTENTION_TOKENS && integers => Arithmetic::Int { bits: 7 },
                Compute::Quality | Compute::Fast if integers => Arithmetic::Int { bits: 12 },
                _ => Arithmetic::F32,
            };
            let (first, queries) = (0, tokens);
            Kernel::Attention(Attention {
                qkv,
                out,
                batch,
                tokens,
                groups: s[1] / tokens,
                strided,
                heads,
                head_dim,
                causal,
                arithmetic,
                first,
                queries,
            })
        }
        Op::HeadNorm { qkv, weights, heads, eps, out, at } => {
            let (s, out_tokens) = (plan.shape(qkv), plan.shape(out)[1]);
            let (batch, tokens, head_dim) = (s[0], s[1], s[2] / 3 / heads);
            Kernel::HeadNorm(HeadNorm { qkv, weights, eps, out, at, batch, tokens, out_tokens, heads, head_dim })
        }
        Op::WriteCache { qkv, places, out } => {
            let (s, o) = (plan.shape(qkv), plan.shape(out));
            let (batch, tokens, dim) = (s[0], s[1], s[2] / 3);
            Kernel::WriteCache(WriteCache { qkv, places, out, batch, tokens, dim, rows: o[1] })
        }
        Op::CachedAttention { qkv, cache, places, positions, heads, out } => {
            let s = plan.shape(out);
            let (most, rows) = (plan.shape(places)[1], plan.shape(cache)[1]);
            let (batch, tokens, head_dim) = (s[0], s[1], s[2] / heads);
            Kernel::CachedAttention(CachedAttention {
                qkv,
                cache,
                places,
                positions,
                out,
                batch,
                tokens,
                heads,
                head_dim,
                most,
                rows,
            })
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
        Op::PatchEmbed { image, weight, bias, position, patch, frames, out, at } => {
            let (s, image_shape) = (plan.shape(out), plan.shape(image));
            let patches = frames.patches(image_shape, patch).unwrap_or(NO_PATCHES);
            let (batch, images, tokens, dim) = (s[0], image_shape[0], s[1], s[2]);
            Kernel::PatchEmbed(PatchEmbed {
                image,
                weight,
                bias,
                position,
                out,
                at,
                patches,
                batch,
                images,
                tokens,
                dim,
            })
        }
        Op::Unpatchify { x, patch, frames, skip_tokens, first_channel, out } => {
            let (s, o) = (plan.shape(x), plan.shape(out));
            let patches = frames.patches(o, patch).unwrap_or(NO_PATCHES);
            let (batch, tokens, channels) = (s[0], s[1], s[2] / patches.pixels());
            Kernel::Unpatchify(Unpatchify { x, out, patches, skip_tokens, channels, first_channel, batch, tokens })
        }
        Op::Conv2d { x, weight, bias, out } => {
            let (s, o) = (plan.shape(x), plan.shape(out));
            let (batch, in_channels, out_channels) = (s[0], s[1], o[1]);
            let (height, width) = (s[s.len() - 2], s[s.len() - 1]);
            let frames = s[2..s.len() - 2].iter().product();
            Kernel::Conv2d(Conv2d { x, weight, bias, out, batch, in_channels, out_channels, frames, height, width })
        }
    }
}

/// What a Plan that was not checked may be cut into.
const NO_PATCHES: Patches =
    Patches { channels: 0, frames: 1, height: 1, width: 1, size: 1, depth: 1, frames_first: false };

fn elementwise(
    plan: &Plan,
    a: TensorId,
    b: Option<TensorId>,
    activation: Activation,
    affine: (f32, f32),
    out: TensorId,
) -> Kernel {
    elementwise_of(a, b, activation, affine, out, rows_of(plan, out))
}

fn elementwise_of(
    a: TensorId,
    b: Option<TensorId>,
    activation: Activation,
    (scale, offset): (f32, f32),
    out: TensorId,
    (rows, dim): (usize, usize),
) -> Kernel {
    let (gate, tokens) = (None, rows);
    Kernel::Elementwise(Elementwise { a, b, activation, scale, offset, gate, out, rows, tokens, dim })
}

fn gate_of(plan: &Plan, GateOf { vector, at }: GateOf) -> Gate {
    Gate { vector, at, channels: plan.shape(vector)[2] }
}

/// Rows of a tensor and what each holds.
fn rows_of(plan: &Plan, id: TensorId) -> (usize, usize) {
    let (dim, rows) = plan.shape(id).split_last().unwrap_or((&1, &[]));
    (rows.iter().product(), *dim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::json;
    use crate::model::{Batch, Network};

    /// The published U-ViT-S/2 for CIFAR-10.
    fn s2() -> Plan {
        let params = json!({
            "img_size": 32, "patch_size": 2, "in_chans": 3, "embed_dim": 512, "depth": 12, "num_heads": 8, "mlp_ratio": 4,
            "qkv_bias": false, "mlp_time_embed": false, "num_classes": -1, "conv": true, "skip": true,
        });
        Network::of("uvit", &params).unwrap().record(Batch::plain(1)).unwrap().plan
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
    fn a_linear_over_many_tokens_is_cut_into_launches_and_each_runs_what_it_has_of_some_items() {
        let (mut plan, shape) = (Plan::default(), [3, 100, 64]);
        let x = plan.tensor("x", &shape, Role::Input);
        let out = plan.linear("linear", x, None, 64, false);
        plan.tensors[out.0].role = Role::Output;
        let capabilities = Capabilities { launch_work: 64 * 64 * 110, ..Capabilities::WEBGPU };
        let program = lower(&plan, &capabilities, &[]).unwrap();
        let rows = |items: usize| -> Vec<(usize, usize)> {
            let launches = program.kernels.iter().map(|kernel| match kernel.of_items(items, 3) {
                Kernel::Matmul(m) => (m.first, m.rows),
                _ => panic!("a matmul"),
            });
            launches.collect()
        };
        assert_eq!(rows(3), [(0, 96), (96, 96), (192, 96), (288, 12)]);
        assert_eq!(rows(2), [(0, 96), (96, 96), (192, 8), (288, 0)]);
        assert_eq!(rows(1), [(0, 96), (96, 4), (192, 0), (288, 0)]);
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
