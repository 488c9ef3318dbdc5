//! Plans from lists of small numbers, as a property test draws them, and what they mean, operation by operation.

#[path = "clips.rs"]
mod clips;

use std::collections::HashMap;
use uvit_web::cpu;
use uvit_web::plan::{
    Activation, Embedding, GateOf, Groups, Modulation, Op, Plan, Position, Precision, Role, Rows, TensorId, Weight,
    WeightId, WeightUse,
};
use uvit_web::sampler::TorchGenerator;
use uvit_web::simd::AttentionShape;
use uvit_web::weights::Dtype;
use uvit_web::weights::{Tensor, random};

/// What is recorded next: an operation, and which of the tensors so far it takes.
pub type Step = (u8, usize, usize);

/// Widths that tensors have: with whole groups of 16, and without.
const WIDTHS: [usize; 5] = [16, 48, 12, 32, 20];

/// A Plan of a batch with everything that is written before a run.
pub struct Recorded {
    pub plan: Plan,
    /// Inputs and their values.
    pub inputs: Vec<(TensorId, Vec<f32>)>,
    /// Indices and their values.
    pub indices: Vec<(TensorId, Vec<u32>)>,
    /// By weight.
    pub tensors: Vec<Tensor>,
    /// What is read after a run.
    pub outputs: Vec<TensorId>,
}

/// Records the steps for the items `items` of an endless batch: the same item always has the same values.
pub fn record(steps: &[Step], items: std::ops::Range<usize>) -> Recorded {
    let mut plan = Plan::default();
    let batch = items.len();
    let mut pool = Vec::new();
    let (mut inputs, mut indices) = (Vec::new(), Vec::new());
    for (i, shape) in [vec![batch, 3, 16], vec![batch, 32], vec![batch, 3, 16], vec![batch, 1, 48]].iter().enumerate() {
        let id = plan.tensor(format!("in {i}"), shape, Role::Input);
        let size = shape[1..].iter().product();
        let of = |item: usize| TorchGenerator::new((16 * item + i) as u64).randn_f32(size);
        inputs.push((id, items.clone().flat_map(of).collect()));
        pool.push(id);
    }
    for (at, &(kind, first, second)) in steps.iter().enumerate() {
        let x = pool[pool.len() - 1 - first % pool.len()];
        let shape = plan.shape(x).to_vec();
        let dim = shape[shape.len() - 1];
        let like: Vec<TensorId> = pool.iter().copied().filter(|&id| plan.shape(id) == shape).collect();
        let beside: Vec<TensorId> = pool
            .iter()
            .copied()
            .filter(|&id| plan.shape(id).split_last().unwrap().1 == &shape[..shape.len() - 1])
            .collect();
        let n = WIDTHS[second % WIDTHS.len()];
        let out = match kind % 14 {
            0 => plan.linear(&format!("linear {at}"), x, None, n, second % 2 == 0),
            1 => plan.linear(&format!("linear {at}"), x, Some(beside[second % beside.len()]), n, second % 2 == 0),
            // One matrix for several Linears.
            2 => plan.linear(&format!("shared {dim} {n}"), x, None, n, true),
            3 => activate(&mut plan, x, [Activation::Gelu, Activation::QuickGelu][second % 2]),
            4 => activate(&mut plan, x, [Activation::Silu, Activation::GeluTanh][second % 2]),
            5 | 6 => plan.add("", x, like[second % like.len()]),
            10 if shape.len() == 3 => {
                // Small: what follows should not grow.
                let vector = plan.affine(inputs[3].0, 0.25, 0.0);
                let gate = GateOf { vector, at: second % ((48 - dim) / 4 + 1) * 4 };
                plan.gated_add("", x, gate, like[second % like.len()])
            }
            12 if shape.len() == 3 && dim == 48 => {
                let out = plan.scratch("", &shape);
                plan.head_norm(
                    ["queries", "keys"].map(|of| format!("{of} {at}")).each_ref().map(String::as_str),
                    x,
                    [1, 2, 4][second % 3],
                    1e-6,
                    out,
                    0,
                );
                out
            }
            13 if shape.len() == 3 && dim % 8 == 0 => clips::through_a_clip(&mut plan, at, x, n, second),
            11 if shape.len() == 3 => some_tokens(&mut plan, at, x, n, second),
            7 if second.is_multiple_of(2) => plan.layer_norm(&format!("norm {at}"), x, 1e-5),
            7 => modulated(&mut plan, x, &pool, at, second),
            8 if shape.len() == 3 => {
                let qkv = plan.linear(&format!("qkv {at}"), x, None, 48, false);
                cached(&mut plan, qkv, at, &[shape[0], shape[1], 16], second, &mut indices)
            }
            _ => match (shape.len(), dim) {
                (3, 48) => attention(&mut plan, x, &[shape[0], shape[1], 16], second),
                (3, _) => {
                    let qkv = plan.linear(&format!("qkv {at}"), x, None, 48, false);
                    attention(&mut plan, qkv, &[shape[0], shape[1], 16], second)
                }
                _ => plan.layer_norm(&format!("norm {at}"), x, 1e-5),
            },
        };
        if kind >= 128 {
            plan.tensors[out.index()].role = [Role::Output, Role::State][second % 2];
            plan.tensors[out.index()].name = format!("result {}", out.index());
        }
        pool.push(out);
    }
    let read = |&id: &TensorId| plan.ops.iter().any(|op| op.reads().contains(&id));
    for id in pool.iter().filter(|id| !read(id)) {
        if plan.tensors[id.index()].role == Role::Scratch {
            plan.tensors[id.index()].role = Role::Output;
        }
    }
    let written = |id: &TensorId| plan.ops.iter().any(|op| op.writes() == *id);
    let outputs =
        pool.iter().copied().filter(|id| plan.tensors[id.index()].role != Role::Scratch && written(id)).collect();
    for (i, weight) in plan.weights.iter_mut().enumerate().filter(|(_, weight)| weight.usage == WeightUse::Matrix) {
        weight.precision = [Precision::Narrow, Precision::Narrow, Precision::Wide, Precision::Float][i % 4];
    }
    let tensors = tensors(&plan);
    Recorded { plan, inputs, indices, tensors, outputs }
}

/// A token of an item from a table and one that is learnt, through a norm, and their products with every row of the same table.
pub fn tied(precision: Precision, items: std::ops::Range<usize>) -> Recorded {
    let mut plan = Plan::default();
    let (batch, classes, dim) = (items.len(), 10, 32);
    let index = plan.tensor("index", &[batch], Role::Indices);
    let table = plan.weight("wte.weight", &[classes, dim], WeightUse::Floats);
    let position = plan.weight("wpe.weight", &[1, dim], WeightUse::Floats);
    let learnt = plan.weight("class", &[dim], WeightUse::Floats);
    let tokens = plan.scratch("", &[batch, 2, dim]);
    let position = Some(Position::plain(position, 0));
    plan.push(Op::Embedding { table, index: Some(index), position, out: tokens, at: 0 });
    plan.push(Op::Embedding { table: learnt, index: None, position, out: tokens, at: 1 });
    let normed = plan.layer_norm("norm", tokens, 1e-5);
    let out = plan.linear("wte", normed, None, classes, false);
    plan.allow("wte", precision);
    plan.tensors[out.index()].role = Role::Output;
    let tensors = tensors(&plan);
    let indices = vec![(index, items.map(|item| [3, 0, 9][item % 3]).collect())];
    Recorded { plan, inputs: Vec::new(), indices, tensors, outputs: vec![out] }
}

/// Random values for every weight, matrices in several stored forms.
pub fn tensors(plan: &Plan) -> Vec<Tensor> {
    const KINDS: [(Dtype, usize); 5] =
        [(Dtype::F32, 0), (Dtype::Q8, 0), (Dtype::Q4, 32), (Dtype::F16, 0), (Dtype::Q8, 16)];
    let published: Vec<&Weight> = plan.published().collect();
    let of = |weight: &Weight| {
        let i = published.iter().position(|other| other.name == weight.name).unwrap();
        let kind = (published[i].usage == WeightUse::Matrix).then(|| KINDS[i % KINDS.len()]);
        random::tensor(&weight.name, &weight.shape, kind, &mut TorchGenerator::new(i as u64))
    };
    plan.weights.iter().map(of).collect()
}

/// Some of the tokens of x: both ends of it in one tensor, which may have some twice, or its end alone.
fn some_tokens(plan: &mut Plan, at: usize, x: TensorId, n: usize, second: usize) -> TensorId {
    let (batch, tokens) = (plan.shape(x)[0], plan.shape(x)[1]);
    let (count, both) = (tokens.div_ceil(2), second.is_multiple_of(2));
    let out = plan.scratch("", &[batch, if both { 2 * count } else { count }, n]);
    plan.linear_rows(&format!("end {at}"), x, tokens - count, count, out, 0, second.is_multiple_of(3));
    if both {
        plan.linear_rows(&format!("begin {at}"), x, 0, count, out, count, !second.is_multiple_of(3));
    }
    out
}

fn activate(plan: &mut Plan, x: TensorId, activation: Activation) -> TensorId {
    let shape = plan.shape(x).to_vec();
    let out = plan.scratch("", &shape);
    plan.push(Op::Activate { activation, x, out });
    out
}

/// A norm that is modulated by what there is of vectors, perhaps by what it normalises.
fn modulated(plan: &mut Plan, x: TensorId, pool: &[TensorId], at: usize, second: usize) -> TensorId {
    let shape = plan.shape(x).to_vec();
    let dim = shape[shape.len() - 1];
    let is_vector = |id: &TensorId| matches!(plan.shape(*id), [_, 1, n] if *n >= dim);
    let vectors: Vec<TensorId> = pool.iter().copied().filter(is_vector).collect();
    let vector = vectors[second % vectors.len()];
    let gap = (plan.shape(vector)[2] - dim) / 4 * 4;
    let modulation = Modulation { vector, shift: [0, gap][second / 2 % 2], scale: [gap, 0][second / 2 % 2] };
    if second.is_multiple_of(3) {
        return plan.modulated_norm("", x, modulation, 1e-5);
    }
    let out = plan.layer_norm(&format!("norm {at}"), x, 1e-5);
    if let Some(Op::LayerNorm { modulation: of, .. }) = plan.ops.last_mut() {
        *of = Some(modulation);
    }
    out
}

fn attention(plan: &mut Plan, qkv: TensorId, shape: &[usize], second: usize) -> TensorId {
    let out = plan.scratch("", shape);
    // Items of the inputs have three tokens or one.
    let tokens = if (second / 8).is_multiple_of(2) { 1 } else { shape[1] };
    let groups =
        [Groups::Item, Groups::Consecutive { tokens }, Groups::Strided { tokens }, Groups::Item][second / 2 % 4];
    // The last has heads that are no whole vec4s.
    plan.push(Op::Attention { qkv, heads: [1, 2, 4, 8][second % 4], causal: second % 2 == 1, groups, out });
    out
}

/// Attention that goes through a cache whose rows lie anyhow.
fn cached(
    plan: &mut Plan,
    qkv: TensorId,
    at: usize,
    shape: &[usize; 3],
    second: usize,
    indices: &mut Vec<(TensorId, Vec<u32>)>,
) -> TensorId {
    let [batch, tokens, dim] = *shape;
    let cache = plan.tensor(format!("cache {at}"), &[1, batch * tokens + 2, 2 * dim], Role::State);
    let [places, positions] = [0; 2].map(|_| plan.tensor("", &[batch, tokens], Role::Indices));
    let backwards = (1..=(batch * tokens) as u32).rev().collect();
    let in_order = (0..batch * tokens).map(|i| (i % tokens) as u32).collect();
    indices.extend([(places, backwards), (positions, in_order)]);
    plan.push(Op::WriteCache { qkv, places, out: cache });
    let out = plan.scratch("", shape);
    plan.push(Op::CachedAttention { qkv, cache, places, positions, heads: [1, 2, 4][second % 3], out });
    out
}

fn attention_shape(shape: &[usize], heads: usize, causal: bool, groups: Groups) -> AttentionShape {
    let (tokens, strided) = match groups {
        Groups::Item => (shape[1], false),
        Groups::Consecutive { tokens } => (tokens, false),
        Groups::Strided { tokens } => (tokens, true),
    };
    AttentionShape {
        batch: shape[0],
        tokens,
        groups: shape[1] / tokens,
        strided,
        heads,
        head_dim: shape[2] / heads,
        causal,
        first: 0,
        queries: tokens,
    }
}

/// What every operation writes, in f32, one after the other and each into memory of its own.
pub fn meaning(recorded: &Recorded) -> HashMap<TensorId, Vec<f32>> {
    let Recorded { plan, inputs, indices, tensors, .. } = recorded;
    let mut values: HashMap<TensorId, Vec<f32>> = inputs.iter().cloned().collect();
    for (id, indices) in indices {
        values.insert(*id, indices.iter().map(|&i| f32::from_bits(i)).collect());
    }
    let weight = |id: WeightId| tensors[id.index()].to_f32();
    for op in &plan.ops {
        let shape = plan.shape(op.writes());
        // What several operations fill is there already.
        let mut result = values.remove(&op.writes()).unwrap_or_else(|| vec![0.0; shape.iter().product()]);
        let dim = |id: TensorId| plan.shape(id)[plan.shape(id).len() - 1];
        match *op {
            Op::Linear { x, skip, weight: w, bias, rows, out } => {
                let (w, bias) = (weight(w), bias.map(weight));
                let (k, k2, n) = (dim(x), skip.map_or(0, dim), dim(out));
                let (of_x, of_out) = rows.map_or((1, 1), |_| (plan.shape(x)[1], shape[1]));
                for (r, row) in result.chunks_mut(n).enumerate() {
                    let Rows { first, count, at } = rows.unwrap_or(Rows { first: 0, count: 1, at: 0 });
                    let Some(token) = (r % of_out).checked_sub(at).filter(|&token| token < count) else { continue };
                    let r = r / of_out * of_x + first + token;
                    let second = skip.map_or(&[][..], |skip| &values[&skip][r * k2..][..k2]);
                    let input = [&values[&x][r * k..][..k], second].concat();
                    for (c, value) in row.iter_mut().enumerate() {
                        let products = input.iter().zip(&w[c * (k + k2)..]).map(|(a, b)| a * b);
                        *value = products.sum::<f32>() + bias.as_ref().map_or(0.0, |bias| bias[c]);
                    }
                }
            }
            Op::Activate { activation, x, .. } => {
                cpu::elementwise(&values[&x], None, activation, (1.0, 0.0), &mut result)
            }
            Op::Affine { x, scale, offset, .. } => {
                cpu::elementwise(&values[&x], None, Activation::None, (scale, offset), &mut result)
            }
            Op::Add { a, b, .. } => {
                cpu::elementwise(&values[&a], Some(&values[&b]), Activation::None, (1.0, 0.0), &mut result);
            }
            Op::Gate { x, gate, y, .. } => {
                let (dim, of_item) = (dim(x), shape[1..].iter().product::<usize>());
                let vector = &values[&gate.vector];
                for (i, value) in result.iter_mut().enumerate() {
                    let of_vector = vector.len() / shape[0];
                    let gate = vector[i / of_item * of_vector + gate.at + i % dim];
                    *value = values[&x][i] + gate * values[&y][i];
                }
            }
            Op::HeadNorm { qkv, weights, heads, .. } => {
                let head_dim = dim(qkv) / 3 / heads;
                for (i, (x, out)) in values[&qkv].chunks(head_dim).zip(result.chunks_mut(head_dim)).enumerate() {
                    let mean = x.iter().map(|v| v * v).sum::<f32>() / head_dim as f32;
                    let weight = weights.get(i / heads % 3).map(|&w| weight(w));
                    for (c, (v, out)) in x.iter().zip(out).enumerate() {
                        *out = weight.as_ref().map_or(*v, |weight| v / (mean + 1e-6).sqrt() * weight[c]);
                    }
                }
            }
            Op::LayerNorm { x, affine, modulation, eps, .. } => {
                let affine = affine.map(|(w, bias)| (weight(w), weight(bias)));
                let affine = affine.as_ref().map(|(w, bias)| (w.as_slice(), bias.as_slice()));
                let modulation = modulation.map(|m| (values[&m.vector].as_slice(), m.shift, m.scale));
                let tokens = shape[1..shape.len() - 1].iter().product();
                cpu::layer_norm(&values[&x], affine, modulation, eps, &mut result, tokens, dim(x));
            }
            // Read alone by cached attention, which is causal attention to what is written.
            Op::WriteCache { .. } => continue,
            Op::CachedAttention { qkv, heads, .. } => {
                cpu::attention(&values[&qkv], &mut result, &attention_shape(shape, heads, true, Groups::Item));
            }
            Op::Attention { qkv, heads, causal, groups, .. } => {
                cpu::attention(&values[&qkv], &mut result, &attention_shape(shape, heads, causal, groups));
            }
            Op::Embedding { table, index, position, at, .. } => {
                let count = index.and_then(|index| plan.shape(index).get(1)).copied().unwrap_or(1);
                let [batch, tokens, dim] = *shape else { panic!("tokens") };
                let (rows, positions) = (weight(table), position.map(|p| weight(p.table)));
                let (first, out) = (0, op.writes());
                let of_table = rows.len() / dim;
                let kernel =
                    Embedding { table, first, rows: of_table, index, position, out, at, count, batch, tokens, dim };
                let index = index.map(|index| values[&index].as_slice());
                cpu::embedding(&rows, index, positions.as_deref(), &mut result, &kernel);
            }
            ref other => clips::meaning(plan, other, &values, &weight, &mut result).expect("another operation"),
        }
        values.insert(op.writes(), result);
    }
    values
}
