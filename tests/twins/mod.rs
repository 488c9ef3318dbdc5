//! Every kernel against its twin over odd shapes, as one table, for any device: one row a kernel (or a stored dtype of
//! it), each a small Plan that runs on the device and on the CPU.

use half::f16;
use uvit_web::plan::{
    Activation, Arithmetic, Arrangement, Attention, Compute, FrameLayout, Frames, GateOf, Groups, Kernel, Matmul,
    Modulation, Op, Plan, Position, Precision, Role, Rows, TensorId, WeightId, WeightUse, Window, lower,
};
use uvit_web::runtime::{Device, Loading, Session, State, Term};
use uvit_web::sampler::TorchGenerator;
use uvit_web::weights::{Data, Tensor};

/// Largest error over largest value that a device may be off.
fn tolerance(kernels: &[Kernel]) -> f32 {
    let of = |kernel: &Kernel| match kernel {
        // A score that differs in its last bit may round a softmax weight to the next of 128, or of 2048.
        Kernel::Attention(Attention { arithmetic: Arithmetic::Int { bits: 7 }, .. }) => 4e-3,
        Kernel::Attention(Attention { arithmetic: Arithmetic::Int { .. }, .. }) => 3e-4,
        // What 8 bits give, 8 bits read: this GELU is within 2e-4, which is here a part of a value that is larger.
        // The twin computes in f32.
        Kernel::Matmul(Matmul { arithmetic: Arithmetic::F16, .. }) => 3e-3,
        // An activation that differs in its last bit may be rounded to the next of 127.
        Kernel::Matmul(Matmul { arithmetic: Arithmetic::W8A8, .. }) => 4e-3,
        Kernel::Matmul(Matmul { arithmetic: Arithmetic::Int { bits: 8 }, activation: Activation::Gelu, .. }) => 2e-4,
        _ => 1e-5,
    };
    kernels.iter().map(of).fold(1e-5, f32::max)
}

/// Stored dtypes of a matrix: name, and the columns a scale (0: a row).
const STORED: [(&str, usize); 6] = [("f32", 0), ("f16", 0), ("q8", 0), ("q8", 64), ("q4", 32), ("q4", 8)];

/// A Plan under construction with the values of its inputs and weights.
pub struct Case {
    name: String,
    plan: Plan,
    inputs: Vec<(TensorId, Vec<f32>)>,
    indices: Vec<(TensorId, Vec<u32>)>,
    weights: Vec<(WeightId, Tensor)>,
    out: Option<TensorId>,
    random: TorchGenerator,
}

impl Case {
    fn new(name: String) -> Case {
        let seed = name.bytes().map(u64::from).sum();
        Case {
            name,
            plan: Plan::default(),
            inputs: Vec::new(),
            indices: Vec::new(),
            weights: Vec::new(),
            out: None,
            random: TorchGenerator::new(seed),
        }
    }

    fn input(&mut self, shape: &[usize]) -> TensorId {
        let id = self.plan.tensor("", shape, Role::Input);
        let values = self.random.randn_f32(shape.iter().product());
        self.inputs.push((id, values));
        id
    }

    fn output(&mut self, shape: &[usize]) -> TensorId {
        let id = self.plan.tensor("out", shape, Role::Output);
        self.out = Some(id);
        id
    }

    fn floats(&mut self, shape: &[usize], usage: WeightUse) -> WeightId {
        let name = format!("w{}", self.weights.len());
        let id = self.plan.weight(name.clone(), shape, usage);
        let data = Data::F32(self.random.randn_f32(shape.iter().product()));
        self.weights.push((id, Tensor { name, shape: shape.to_vec(), data }));
        id
    }

    /// A matrix `[rows, columns]` with random values in a stored dtype, extremes included.
    fn matrix(&mut self, rows: usize, columns: usize, (dtype, group): (&str, usize)) -> WeightId {
        let name = format!("w{}", self.weights.len());
        let id = self.plan.weight(name.clone(), &[rows, columns], WeightUse::Matrix);
        let groups = if group == 0 { 1 } else { columns.div_ceil(group) };
        let mut randn = |n: usize| self.random.randn_f32(n);
        let data = match dtype {
            "f32" => Data::F32(randn(rows * columns)),
            "f16" => Data::F16(randn(rows * columns).into_iter().map(f16::from_f32).collect()),
            "q8" => Data::Q8 {
                values: randn(rows * columns).iter().map(|v| (v * 60.0).clamp(-127.0, 127.0) as i8).collect(),
                scales: randn(rows * groups).iter().map(|v| v * 0.01).collect(),
                group,
            },
            _ => Data::Q4 {
                values: randn(rows * columns.div_ceil(2)).iter().map(|v| (v * 1e4) as i32 as u8).collect(),
                scales: randn(rows * groups).iter().map(|v| f16::from_f32(v * 0.1)).collect(),
                group,
            },
        };
        self.weights.push((id, Tensor { name, shape: vec![rows, columns], data }));
        id
    }

    /// A Linear whose input may be quantised by the kernel that makes it.
    fn narrow(&mut self, x: TensorId, n: usize, stored: (&str, usize), bias: bool) -> TensorId {
        let mut shape = self.plan.shape(x).to_vec();
        let last = shape.len() - 1;
        let weight = self.matrix(n, shape[last], stored);
        self.plan.weights[weight.index()].precision = Precision::Narrow;
        let bias = bias.then(|| self.floats(&[n], WeightUse::Floats));
        shape[last] = n;
        let out = self.plan.scratch("", &shape);
        self.plan.push(Op::Linear { x, skip: None, weight, bias, rows: None, out });
        out
    }

    async fn run(&self, device: &Device, compute: Compute) -> Result<Vec<f32>, String> {
        let text = |e: uvit_web::Error| format!("{}: {e}", self.name);
        let mut loading = Loading::new(device, compute).map_err(text)?;
        for (id, weight, form) in self.plan.loads(compute) {
            if let Some((_, tensor)) = self.weights.iter().find(|(other, _)| *other == id) {
                loading.load(id, weight, form, tensor).await.map_err(text)?;
            }
        }
        let weights = loading.finish().await.map_err(text)?;
        let program = lower(&self.plan, &weights.capabilities(), &[]).map_err(text)?;
        let mut session = Session::new(&weights, program, None).await.map_err(text)?;
        for (id, values) in &self.inputs {
            session.write(*id, values).map_err(text)?;
        }
        for (id, values) in &self.indices {
            session.write_indices(*id, values).map_err(text)?;
        }
        session.forward(&|| false).await.map_err(text)?;
        session.read(self.out.expect("the case has an output")).await.map_err(text)
    }

    /// What differs between the device and the CPU, if anything does.
    pub async fn judge(&self, device: &Device, compute: Compute) -> Result<(), String> {
        let got = self.run(device, compute).await?;
        let want = self.run(&Device::reference(), compute).await?;
        let program =
            lower(&self.plan, &device.capabilities(compute), &[]).map_err(|e| format!("{}: {e}", self.name))?;
        compare(&self.name, &got, &want, tolerance(&program.kernels))
    }
}

/// Compares a device's values with the twin's.
fn compare(name: &str, got: &[f32], want: &[f32], tolerance: f32) -> Result<(), String> {
    if got.len() != want.len() || want.is_empty() {
        return Err(format!("{name}: {} values, expected {}", got.len(), want.len()));
    }
    let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        let error = (a - b).abs();
        if error.is_nan() || error > tolerance * largest {
            return Err(format!("{name}: value {i} is {a}, expected {b} (largest {largest})"));
        }
    }
    Ok(())
}

/// The cases for a device that computes so.
pub fn cases(compute: Compute) -> Vec<Case> {
    let mut all = Vec::new();
    match compute {
        Compute::W8A8 => {
            quantised(&mut all);
            quantised_copies(&mut all);
            gates_and_rows(&mut all);
            return all;
        }
        Compute::F16 => {
            matmuls(&mut all);
            return all;
        }
        _ => {}
    }
    matmuls(&mut all);
    gates_and_rows(&mut all);
    layer_norms(&mut all);
    attentions(&mut all);
    head_norms(&mut all);
    caches(&mut all);
    elementwise(&mut all);
    tokens(&mut all);
    images(&mut all);
    clips(&mut all);
    convolutions(&mut all);
    group_norms(&mut all);
    all
}

fn matmuls(all: &mut Vec<Case>) {
    // rows, features of x and of the skip, outputs
    let shapes = [
        (1, 4, 0, 1),
        (3, 7, 0, 5),
        (7, 36, 0, 90),
        (66, 64, 0, 96),
        (72, 72, 72, 72),
        (257, 90, 0, 36),
        (9, 36, 36, 33),
        (5, 4097, 0, 8),
    ];
    for stored in STORED {
        for (i, (rows, k, k2, n)) in shapes.into_iter().enumerate() {
            let mut case = Case::new(format!("matmul {stored:?} [{rows}, {k} + {k2}] x {n}"));
            let x = case.input(&[1, rows, k]);
            let skip = (k2 > 0).then(|| case.input(&[1, rows, k2]));
            let weight = case.matrix(n, k + k2, stored);
            case.plan.weights[weight.index()].precision = [Precision::Narrow, Precision::Wide][i % 2];
            let bias = (i % 3 != 0).then(|| case.floats(&[n], WeightUse::Floats));
            let shape = [1, rows, n];
            let mut out = case.plan.scratch("", &shape);
            case.plan.push(Op::Linear { x, skip, weight, bias, rows: None, out });
            if i % 2 == 1 {
                let activated = case.plan.scratch("", &shape);
                let kinds = [Activation::Silu, Activation::Gelu, Activation::QuickGelu, Activation::GeluTanh];
                let activation = kinds[i / 2 % 4];
                let op = Op::Activate { activation, x: out, out: activated };
                case.plan.push(op);
                out = activated;
            }
            let residual = case.input(&shape);
            let sum = case.output(&shape);
            case.plan.push(Op::Add { a: residual, b: out, out: sum });
            all.push(case);
        }
    }
}

/// Gated residuals, joined to a Linear and alone; Linears of some tokens, which fill a tensor together or have all of it.
fn gates_and_rows(all: &mut Vec<Case>) {
    for (i, (batch, tokens, k, n, at)) in
        [(1, 1, 16, 4, 0), (2, 3, 48, 20, 4), (3, 66, 64, 96, 96), (2, 257, 32, 33, 8), (2, 5, 90, 72, 144)]
            .into_iter()
            .enumerate()
    {
        let stored = if k % 16 == 0 { STORED[(i + 2) % STORED.len()] } else { STORED[i % 2] };
        let gates = |case: &mut Case| GateOf { vector: case.input(&[batch, 1, at + n + i]), at };
        let name = |kind: &str| format!("{kind} [{batch}, {tokens}, {k}] x {n}, gates from {at}, {stored:?}");
        let shape = [batch, tokens, n];
        // Once as 8 bits where they may be.
        for precision in [Precision::Narrow, Precision::Wide] {
            let mut case = Case::new(name("gated linear"));
            let x = case.input(&[batch, tokens, k]);
            let y = case.narrow(x, n, stored, i % 2 == 0);
            case.plan.weights[0].precision = precision;
            let (x, gate, out) = (case.input(&shape), gates(&mut case), case.output(&shape));
            case.plan.push(Op::Gate { x, gate, y, out });
            all.push(case);

            // The tokens of two tensors in one, some of either left out.
            let mut case = Case::new(name("linears of some tokens"));
            let (a, b) = (case.input(&[batch, tokens + 2, k]), case.input(&[batch, 3, k]));
            let out = case.output(&[batch, tokens + 2, n]);
            for (x, rows) in
                [(a, Rows { first: 1, count: tokens, at: 0 }), (b, Rows { first: 0, count: 2, at: tokens })]
            {
                let weight = case.matrix(n, k, stored);
                case.plan.weights[weight.index()].precision = precision;
                let bias = (i % 2 == 1).then(|| case.floats(&[n], WeightUse::Floats));
                case.plan.push(Op::Linear { x, skip: None, weight, bias, rows: Some(rows), out });
            }
            all.push(case);

            // One tensor's tokens apart again, with what follows.
            let mut case = Case::new(name("gated linear of some tokens"));
            let a = case.input(&[batch, tokens + 3, k]);
            let weight = case.matrix(n, k, stored);
            case.plan.weights[weight.index()].precision = precision;
            let y = case.plan.scratch("", &shape);
            let rows = Some(Rows { first: 2, count: tokens, at: 0 });
            case.plan.push(Op::Linear { x: a, skip: None, weight, bias: None, rows, out: y });
            let (x, gate) = (case.input(&shape), gates(&mut case));
            let gated = case.plan.gated_add("", x, gate, y);
            let out = case.output(&shape);
            case.plan.push(Op::Activate { activation: Activation::Silu, x: gated, out });
            all.push(case);
        }
        let mut case = Case::new(name("gate"));
        let (x, y, gate, out) = (case.input(&shape), case.input(&shape), gates(&mut case), case.output(&shape));
        case.plan.push(Op::Gate { x, gate, y, out });
        all.push(case);
    }
    // So large that they take several launches, and the rows of an item are cut.
    let mut case = Case::new("gated linear of some tokens in several launches".into());
    let (shape, x) = ([3, 351, 644], case.input(&[3, 360, 644]));
    let weight = case.matrix(644, 644, STORED[2]);
    let y = case.plan.scratch("", &shape);
    let rows = Some(Rows { first: 4, count: 351, at: 0 });
    case.plan.push(Op::Linear { x, skip: None, weight, bias: None, rows, out: y });
    let (x, vector, out) = (case.input(&shape), case.input(&[3, 1, 1288]), case.output(&shape));
    case.plan.push(Op::Gate { x, gate: GateOf { vector, at: 644 }, y, out });
    all.push(case);
}

/// What quantises its result, and what multiplies that.
fn quantised(all: &mut Vec<Case>) {
    // rows, features, hidden features, outputs; and with attention heads x head dim
    for (rows, k, hidden, n) in [(1, 16, 16, 1), (3, 48, 80, 5), (66, 64, 256, 96), (257, 144, 64, 36)] {
        for stored in STORED {
            let mut case = Case::new(format!("w8a8 mlp {stored:?} [{rows}, {k}] x {hidden} x {n}"));
            let x = case.input(&[1, rows, k]);
            let (weight, bias) = (case.floats(&[k], WeightUse::Floats), case.floats(&[k], WeightUse::Floats));
            let normed = case.plan.scratch("", &[1, rows, k]);
            case.plan.push(Op::LayerNorm { x, affine: Some((weight, bias)), modulation: None, eps: 1e-5, out: normed });
            let up = case.narrow(normed, hidden, stored, rows == 66);
            let activated = case.plan.scratch("", &[1, rows, hidden]);
            let gelu = hidden != 80;
            let activation = if gelu { Activation::Gelu } else { Activation::Silu };
            case.plan.push(Op::Activate { activation, x: up, out: activated });
            let down = case.narrow(activated, n, stored, rows != 66);
            let residual = case.input(&[1, rows, n]);
            let out = case.output(&[1, rows, n]);
            case.plan.push(Op::Add { a: residual, b: down, out });
            all.push(case);
        }
    }
    for (items, tokens, dim, n) in [(1, 1, 16, 3), (3, 7, 48, 5), (2, 66, 144, 36)] {
        let mut case = Case::new(format!("w8a8 of a modulated norm [{items}, {tokens}, {dim}] x {n}"));
        let (x, vector) = (case.input(&[items, tokens, dim]), case.input(&[items, 1, 3 * dim]));
        let modulation = Modulation { vector, shift: 2 * dim, scale: dim };
        let normed = case.plan.modulated_norm("", x, modulation, 1e-6);
        let multiplied = case.narrow(normed, n, ("q8", 0), true);
        let out = case.output(&[items, tokens, n]);
        case.plan.push(Op::Activate { activation: Activation::Gelu, x: multiplied, out });
        all.push(case);
    }
    for (batch, tokens, heads, head_dim) in [(1, 1, 1, 16), (2, 7, 3, 32), (1, 66, 2, 64), (2, 5, 1, 128)] {
        let mut case = Case::new(format!("w8a8 attention [{batch}, {tokens}, {heads} x {head_dim}]"));
        let dim = heads * head_dim;
        let qkv = case.input(&[batch, tokens, 3 * dim]);
        let attended = case.plan.scratch("", &[batch, tokens, dim]);
        case.plan.push(Op::Attention { qkv, heads, causal: tokens == 7, groups: Groups::Item, out: attended });
        let projected = case.narrow(attended, dim, ("q8", 0), true);
        let residual = case.input(&[batch, tokens, dim]);
        let out = case.output(&[batch, tokens, dim]);
        case.plan.push(Op::Add { a: residual, b: projected, out });
        all.push(case);
    }
}

/// What a kernel of its own quantises: inputs, activations, sums, what others read too.
fn quantised_copies(all: &mut Vec<Case>) {
    for (shape, n) in [(vec![1, 3, 16], 5), (vec![3, 48], 36), (vec![2, 66, 144], 96)] {
        for kind in ["input", "silu", "add", "norm with two readers"] {
            let mut case = Case::new(format!("w8a8 of {kind} {shape:?} x {n}"));
            let x = case.input(&shape);
            let dim = shape[shape.len() - 1];
            let made = case.plan.scratch("", &shape);
            let from = match kind {
                "input" => x,
                "silu" => {
                    case.plan.push(Op::Activate { activation: Activation::Silu, x, out: made });
                    made
                }
                "add" => {
                    case.plan.push(Op::Add { a: x, b: x, out: made });
                    made
                }
                _ => {
                    let (weight, bias) =
                        (case.floats(&[dim], WeightUse::Floats), case.floats(&[dim], WeightUse::Floats));
                    case.plan.push(Op::LayerNorm {
                        x,
                        affine: Some((weight, bias)),
                        modulation: None,
                        eps: 1e-5,
                        out: made,
                    });
                    made
                }
            };
            let first = case.narrow(from, n, ("q8", 0), true);
            let second = case.narrow(from, n, ("q4", 32), false);
            let out_shape = case.plan.shape(first).to_vec();
            let out = case.output(&out_shape);
            case.plan.push(Op::Add { a: first, b: second, out });
            all.push(case);
        }
    }
    for strided in [false, true] {
        let tokens = if strided { 5 } else { 9 };
        let mut case = Case::new(format!("w8a8 attention of groups, strided {strided}"));
        let qkv = case.input(&[2, 45, 96]);
        let attended = case.plan.scratch("", &[2, 45, 32]);
        let groups = if strided { Groups::Strided { tokens } } else { Groups::Consecutive { tokens } };
        case.plan.push(Op::Attention { qkv, heads: 2, causal: false, groups, out: attended });
        let out = case.narrow(attended, 9, ("q8", 0), true);
        (case.plan.tensors[out.index()].role, case.out) = (Role::Output, Some(out));
        all.push(case);
    }
    // Heads too small for a whole group.
    let mut case = Case::new("w8a8 attention of small heads".into());
    let qkv = case.input(&[2, 7, 96]);
    let attended = case.plan.scratch("", &[2, 7, 32]);
    case.plan.push(Op::Attention { qkv, heads: 4, causal: false, groups: Groups::Item, out: attended });
    let projected = case.narrow(attended, 9, ("q8", 0), true);
    let out = case.output(&[2, 7, 9]);
    case.plan.push(Op::Activate { activation: Activation::Gelu, x: projected, out });
    all.push(case);
}

fn layer_norms(all: &mut Vec<Case>) {
    for (rows, dim) in [(1, 3), (3, 1), (7, 72), (66, 256), (72, 7), (257, 33)] {
        let mut case = Case::new(format!("layer_norm [{rows}, {dim}]"));
        let x = case.input(&[1, rows, dim]);
        let (weight, bias) = (case.floats(&[dim], WeightUse::Floats), case.floats(&[dim], WeightUse::Floats));
        let out = case.output(&[1, rows, dim]);
        case.plan.push(Op::LayerNorm { x, affine: Some((weight, bias)), modulation: None, eps: 1e-5, out });
        all.push(case);
    }
    // Modulated: shift and scale anywhere in vectors that need not hold both alone; with weights and without.
    for (items, tokens, dim, width, shift, scale) in [
        (1, 1, 4, 8, 0, 4),
        (2, 7, 72, 432, 216, 288),
        (3, 66, 256, 517, 256, 0),
        (5, 3, 36, 36, 0, 0),
        (3, 1, 12, 30, 8, 16),
    ] {
        for with_weights in [false, true] {
            let kind = if with_weights { ", affine" } else { "" };
            let mut case = Case::new(format!("modulated layer_norm [{items}, {tokens}, {dim}]{kind}"));
            let x = case.input(&[items, tokens, dim]);
            let vector = case.input(&[items, 1, width]);
            let affine =
                with_weights.then(|| (case.floats(&[dim], WeightUse::Floats), case.floats(&[dim], WeightUse::Floats)));
            let out = case.output(&[items, tokens, dim]);
            let modulation = Some(Modulation { vector, shift, scale });
            case.plan.push(Op::LayerNorm { x, affine, modulation, eps: 1e-6, out });
            all.push(case);
        }
    }
}

fn attentions(all: &mut Vec<Case>) {
    for (batch, tokens, heads, head_dim) in [
        (1, 1, 1, 4),
        (2, 3, 2, 8),
        (1, 7, 3, 12),
        (2, 66, 2, 64),
        (1, 72, 1, 72),
        (1, 257, 2, 72),
        (2, 5, 1, 128),
        (1, 67, 1, 512),
        // Heads that are no whole vec4s.
        (1, 9, 2, 10),
        (2, 33, 4, 5),
        (1, 130, 12, 1),
        (1, 66, 2, 90),
    ] {
        for causal in [false, true] {
            let mask = if causal { "causal " } else { "" };
            let mut case = Case::new(format!("{mask}attention [{batch}, {tokens}, {heads} x {head_dim}]"));
            let dim = heads * head_dim;
            let qkv = case.input(&[batch, tokens, 3 * dim]);
            let out = case.output(&[batch, tokens, dim]);
            case.plan.push(Op::Attention { qkv, heads, causal, groups: Groups::Item, out });
            all.push(case);
        }
    }
    // Within runs of neighbours, and among tokens that lie apart; the last ones are many, of few tokens and of several launches.
    for (batch, groups, tokens, heads, head_dim) in [
        (1, 1, 5, 1, 4),
        (2, 3, 1, 2, 8),
        (1, 5, 7, 3, 12),
        (2, 4, 66, 2, 16),
        (1, 2, 135, 1, 72),
        (2, 257, 16, 2, 4),
        (1, 3, 1200, 1, 64),
        (2, 3, 9, 4, 3),
    ] {
        for strided in [false, true] {
            let causal = tokens == 7;
            let kind = if strided { "strided" } else { "consecutive" };
            let mut case = Case::new(format!("{kind} attention [{batch}, {groups} x {tokens}, {heads} x {head_dim}]"));
            let (all_tokens, dim) = (groups * tokens, heads * head_dim);
            let qkv = case.input(&[batch, all_tokens, 3 * dim]);
            let out = case.output(&[batch, all_tokens, dim]);
            let groups = if strided { Groups::Strided { tokens } } else { Groups::Consecutive { tokens } };
            case.plan.push(Op::Attention { qkv, heads, causal, groups, out });
            all.push(case);
        }
    }
}

/// Two tensors in one, each with weights of its own.
fn head_norms(all: &mut Vec<Case>) {
    for (batch, tokens, heads, head_dim) in [(1, 1, 1, 4), (2, 3, 2, 12), (3, 66, 3, 64), (1, 257, 2, 72)] {
        let mut case = Case::new(format!("head_norm [{batch}, {tokens}, {heads} x {head_dim}]"));
        let width = 3 * heads * head_dim;
        let out = case.output(&[batch, tokens + 2, width]);
        for (tokens, at) in [(2, 0), (tokens, 2)] {
            let qkv = case.input(&[batch, tokens, width]);
            let weights = [0; 2].map(|_| case.floats(&[head_dim], WeightUse::Floats));
            case.plan.push(Op::HeadNorm { qkv, weights, heads, eps: 1e-6, out, at });
        }
        all.push(case);
    }
}

/// Tokens that go to a cache, and attend to what is in it: rows that lie anyhow, and that items share.
fn caches(all: &mut Vec<Case>) {
    for (batch, tokens, heads, head_dim, most) in
        [(1, 1, 1, 4, 1), (2, 1, 3, 12, 9), (5, 1, 4, 32, 64), (3, 2, 1, 128, 7), (2, 3, 2, 36, 18), (7, 1, 2, 72, 145)]
    {
        let dim = heads * head_dim;
        // One row is nobody's.
        let rows = most + batch * tokens + 1;
        let place = |i: usize| ((i * 11 + 3) % rows) as u32;
        let mut case = Case::new(format!("cache [{batch}, {tokens}, {heads} x {head_dim}] of {most}"));
        let (qkv, before) = (case.input(&[batch, tokens, 3 * dim]), case.input(&[1, rows, 2 * dim]));
        let cache = case.plan.scratch("", &[1, rows, 2 * dim]);
        case.plan.push(Op::CopyTokens { x: before, from: 0, count: rows, position: None, out: cache, at: 0 });
        let [places, positions] = [0; 2].map(|_| case.plan.tensor("", &[batch, tokens], Role::Indices));
        let seen = case.plan.tensor("", &[batch, most], Role::Indices);
        assert!(!rows.is_multiple_of(11), "places would not differ");
        let own = |item: usize, token: usize| place(most + item * tokens + token);
        // Items are of several lengths, the first one as long as can be.
        let position = |item: usize, token: usize| (most - tokens + token) * (item + 1) / (2 * item + 1);
        let mut of_items = vec![Vec::new(); 3];
        for item in 0..batch {
            of_items[0].extend((0..tokens).map(|token| own(item, token)));
            of_items[1].extend((0..tokens).map(|token| position(item, token) as u32));
            // The last token's own place is where it says, and what is before it others see too.
            let at = |p: usize| if p == position(item, tokens - 1) { own(item, tokens - 1) } else { place(p) };
            of_items[2].extend((0..most).map(at));
        }
        case.indices.extend([places, positions, seen].into_iter().zip(of_items));
        case.plan.push(Op::WriteCache { qkv, places, out: cache });
        let out = case.output(&[batch, tokens, dim]);
        case.plan.push(Op::CachedAttention { qkv, cache, places: seen, positions, heads, out });
        all.push(case);
    }
}

fn elementwise(all: &mut Vec<Case>) {
    for shape in [[1, 1, 1], [1, 3, 7], [2, 66, 33]] {
        for kind in ["gelu", "silu", "quick_gelu", "gelu_tanh", "relu", "tanh", "scale", "add"] {
            let mut case = Case::new(format!("elementwise {kind} {shape:?}"));
            let x = case.input(&shape);
            case.inputs[0].1.iter_mut().for_each(|v| *v *= 4.0);
            let b = case.input(&shape);
            let out = case.output(&shape);
            case.plan.push(match kind {
                "gelu" => Op::Activate { activation: Activation::Gelu, x, out },
                "silu" => Op::Activate { activation: Activation::Silu, x, out },
                "quick_gelu" => Op::Activate { activation: Activation::QuickGelu, x, out },
                "gelu_tanh" => Op::Activate { activation: Activation::GeluTanh, x, out },
                "relu" => Op::Activate { activation: Activation::Relu, x, out },
                "tanh" => Op::Activate { activation: Activation::Tanh, x, out },
                "scale" => Op::Affine { x, scale: -0.37, offset: 0.0, out },
                _ => Op::Add { a: x, b, out },
            });
            all.push(case);
        }
    }
}

/// Embedding, copy_tokens, patch_embed and resized_positions, which fill one tensor together; with positions and without.
fn tokens(all: &mut Vec<Case>) {
    for (images, copies, channels, side, patch, dim) in
        [(1, 1, 1, 3, 3, 4), (1, 2, 3, 8, 2, 36), (2, 2, 4, 6, 3, 72), (3, 1, 3, 32, 8, 64)]
    {
        let mut case =
            Case::new(format!("tokens of {images} x {copies} images {channels} x {side}^2 / {patch}, {dim} wide"));
        let (batch, patches) = (images * copies, (side / patch) * (side / patch));
        let image = case.input(&[images, channels, side, side]);
        let x = case.input(&[batch, 3, dim]);
        let index = case.plan.tensor("", &[batch], Role::Indices);
        case.indices.push((index, (0..batch as u32).map(|b| b % 3).collect()));
        // Label, two copied tokens, patches; then patches whose positions are of another grid.
        let tokens = 3 + 2 * patches;
        let table = case.floats(&[1, 7 + tokens, dim], WeightUse::Floats);
        let position = |at: usize| (images != 2).then_some(Position::plain(table, at));
        let labels = case.floats(&[3, dim], WeightUse::Floats);
        let weight = case.floats(&[dim, channels, patch, patch], WeightUse::PatchKernel);
        let bias = case.floats(&[dim], WeightUse::Floats);
        let out = case.output(&[batch, tokens, dim]);
        case.plan.push(Op::Embedding { table: labels, index: Some(index), position: position(5), out, at: 0 });
        case.plan.push(Op::CopyTokens { x, from: 1, count: 2, position: position(0), out, at: 1 });
        let frames = Frames::NONE;
        let (bias, position) = (Some(bias), position(7));
        case.plan.push(Op::PatchEmbed { image, weight, bias, position, patch, frames, out, at: 3 });
        let at = 3 + patches;
        case.plan.push(Op::PatchEmbed { image, weight, bias, position: None, patch, frames, out, at });
        let (position, side) = (Position::plain(table, 1), side / patch);
        case.plan.push(Op::ResizedPositions { position, from: [2, 3], to: [side, side], out, at });
        all.push(case);
    }
    // A learnt token and patches without a bias; with positions and without.
    for (batch, channels, side, patch, dim, placed) in
        [(1, 1, 3, 3, 4, false), (2, 3, 10, 5, 36, true), (3, 3, 33, 3, 72, false), (1, 3, 14, 7, 64, true)]
    {
        let mut case =
            Case::new(format!("class and patches of {batch} images {channels} x {side}^2 / {patch}, {dim} wide"));
        let image = case.input(&[batch, channels, side, side]);
        let tokens = 2 + (side / patch) * (side / patch);
        let table = case.floats(&[tokens, dim], WeightUse::Floats);
        let position = |at: usize| placed.then_some(Position::plain(table, at));
        let class = case.floats(&[dim], WeightUse::Floats);
        let weight = case.floats(&[dim, channels, patch, patch], WeightUse::PatchKernel);
        let x = case.input(&[batch, 1, dim]);
        let out = case.output(&[batch, tokens, dim]);
        case.plan.push(Op::CopyTokens { x, from: 0, count: 1, position: None, out, at: 0 });
        case.plan.push(Op::Embedding { table: class, index: None, position: position(1), out, at: 1 });
        let frames = Frames::NONE;
        case.plan.push(Op::PatchEmbed { image, weight, bias: None, position: position(2), patch, frames, out, at: 2 });
        all.push(case);
    }
    // Words of a text, all of an item at once.
    for (batch, count, dim) in [(1, 1, 4), (2, 7, 36), (3, 77, 72)] {
        let mut case = Case::new(format!("words {batch} x {count}, {dim} wide"));
        let index = case.plan.tensor("", &[batch, count], Role::Indices);
        case.indices.push((index, (0..(batch * count) as u32).map(|i| i * 5 % 11).collect()));
        let words = case.floats(&[11, dim], WeightUse::Floats);
        let table = case.floats(&[count + 2, dim], WeightUse::Floats);
        let out = case.output(&[batch, count, dim]);
        case.plan.push(Op::Embedding {
            table: words,
            index: Some(index),
            position: Some(Position::plain(table, 2)),
            out,
            at: 0,
        });
        all.push(case);
    }
}

/// Clips to tokens and back, in both layouts, with every way in which rows of a table follow tokens.
fn clips(all: &mut Vec<Case>) {
    for (clips, copies, channels, [frames, height, width], [depth, patch], dim, layout) in [
        (1, 1, 1, [1, 3, 3], [1, 3], 4, FrameLayout::ChannelsFirst),
        (2, 2, 3, [6, 4, 10], [2, 2], 36, FrameLayout::ChannelsFirst),
        (1, 2, 1, [9, 6, 3], [3, 3], 72, FrameLayout::ChannelsFirst),
        (1, 2, 5, [3, 6, 9], [1, 3], 36, FrameLayout::FramesFirst),
        (2, 1, 4, [6, 5, 10], [2, 5], 20, FrameLayout::FramesFirst),
    ] {
        let name = format!("{clips} x {copies} clips {channels} x [{frames}, {height}, {width}]");
        let mut case = Case::new(format!("patches of {name} / [{depth}, {patch}^2], {dim} wide, {layout:?}"));
        let first = layout == FrameLayout::FramesFirst;
        let of_clip = |channels| if first { [frames, channels] } else { [channels, frames] };
        let shape = |n: usize, channels| [n, of_clip(channels)[0], of_clip(channels)[1], height, width];
        let image = case.input(&shape(clips, channels));
        let (rows, columns) = (height / patch, width / patch);
        let (of_frame, all_frames) = (rows * columns, frames / depth);
        let (batch, patches) = (clips * copies, of_frame * all_frames);
        let tokens = 1 + 5 * patches;
        let table = case.floats(&[3 + (columns + 2) * (rows * all_frames + 2), dim], WeightUse::Floats);
        let kernel = if depth == 1 && first {
            vec![dim, channels, patch, patch]
        } else {
            vec![dim, channels, depth, patch, patch]
        };
        let weight = case.floats(&kernel, WeightUse::PatchKernel);
        let x = case.input(&[batch, patches, dim]);
        let out = case.output(&[batch, tokens, dim]);
        let plain = Position::plain(table, 2);
        // As wide as a row of patches in a wider grid; the same for every frame; one a frame.
        let crop = Position { width: columns, stride: columns + 2, inner: 1, ..plain };
        let same = Position { width: of_frame, stride: 0, inner: 1, ..plain };
        let each = Position { width: of_frame, ..plain };
        let frames = Frames { patch: depth, layout };
        let index = case.plan.tensor("", &[batch, patches], Role::Indices);
        case.indices.push((index, (0..(batch * patches) as u32).map(|i| i * 5 % 3).collect()));
        let words = case.floats(&[3, dim], WeightUse::Floats);
        case.plan.push(Op::CopyTokens { x, from: 0, count: 1, position: None, out, at: 0 });
        for (i, position) in [Some(crop), Some(same), None].into_iter().enumerate() {
            let at = 1 + i * patches;
            case.plan.push(Op::PatchEmbed { image, weight, bias: None, position, patch, frames, out, at });
        }
        let at = 1 + 3 * patches;
        case.plan.push(Op::CopyTokens { x, from: 0, count: patches, position: Some(each), out, at });
        let at = at + patches;
        case.plan.push(Op::Embedding { table: words, index: Some(index), position: Some(crop), out, at });
        // From a grid inside of a larger one.
        let grid = Position { width: 3, stride: 5, inner: 1, ..plain };
        let (from, to) = ([1, 3], [rows, columns]);
        case.plan.push(Op::ResizedPositions { position: grid, from, to, out, at: 1 + 2 * patches });
        all.push(case);

        // Tokens of which a part of the channels is wanted.
        for (all_channels, first_channel) in [(channels, 0), (2 * channels + 1, channels)] {
            let mut case = Case::new(format!("unpatchify {name} / [{depth}, {patch}^2] of {all_channels}, {layout:?}"));
            let x = case.input(&[batch, 2 + patches, depth * patch * patch * all_channels]);
            let out = case.output(&shape(batch, channels));
            case.plan.push(Op::Unpatchify { x, patch, frames, skip_tokens: 2, first_channel, out });
            all.push(case);
        }
    }
    for (batch, from, to, frames, height, width) in [(1, 1, 1, 3, 2, 1), (2, 3, 2, 2, 5, 9), (1, 2, 4, 4, 1, 33)] {
        let mut case = Case::new(format!("conv2d [{batch}, {from} -> {to}, {frames}, {height}, {width}]"));
        let x = case.input(&[batch, from, frames, height, width]);
        let weight = case.floats(&[to, from, 3, 3], WeightUse::Floats);
        let bias = case.floats(&[to], WeightUse::Floats);
        let out = case.output(&[batch, to, frames, height, width]);
        case.plan.push(Op::Conv2d { x, weight, bias, out });
        all.push(case);
    }
}

fn images(all: &mut Vec<Case>) {
    for (batch, channels, side, patch, extras) in [(1, 1, 3, 3, 1), (2, 3, 8, 2, 2), (1, 4, 6, 3, 1), (1, 3, 72, 8, 2)]
    {
        let mut case = Case::new(format!("unpatchify [{batch}, {channels}, {side}^2] / {patch}"));
        let tokens = extras + (side / patch) * (side / patch);
        let x = case.input(&[batch, tokens, patch * patch * channels]);
        let out = case.output(&[batch, channels, side, side]);
        let frames = Frames::NONE;
        case.plan.push(Op::Unpatchify { x, patch, frames, skip_tokens: extras, first_channel: 0, out });
        all.push(case);
    }
    for (batch, from, to, height, width) in [(1, 1, 1, 1, 1), (2, 3, 3, 3, 7), (1, 4, 5, 1, 66), (1, 3, 3, 72, 33)] {
        let mut case = Case::new(format!("conv2d [{batch}, {from} -> {to}, {height}, {width}]"));
        let x = case.input(&[batch, from, height, width]);
        let weight = case.floats(&[to, from, 3, 3], WeightUse::Floats);
        let bias = case.floats(&[to], WeightUse::Floats);
        let out = case.output(&[batch, to, height, width]);
        case.plan.push(Op::Conv2d { x, weight, bias, out });
        all.push(case);
    }
}

/// 3x3 convolutions over tokens: every kind of window, every stored dtype, with all that joins them.
fn convolutions(all: &mut Vec<Case>) {
    type Windows = fn([usize; 2]) -> Window;
    let windows: [(&str, Windows); 4] = [
        ("plain", Window::plain),
        ("upsampled", Window::upsampled),
        ("strided", |size| Window::strided(size, 0)),
        ("strided, padded", |size| Window::strided(size, 1)),
    ];
    for (batch, k, n, size) in [(1, 3, 5, [2, 2]), (2, 4, 3, [3, 7]), (1, 12, 66, [6, 9]), (2, 32, 17, [11, 6])] {
        // Half of them each, since a browser takes a second for a shader.
        for (i, (kind, window)) in windows.into_iter().enumerate().filter(|(i, _)| (i + size[0]) % 2 == 0) {
            let stored = STORED[(i + k / 4) % if k % 4 == 0 { STORED.len() } else { 2 }];
            let name = format!("convolution {kind} [{batch}, {size:?}, {k} -> {n}] {}/{}", stored.0, stored.1);
            let (mut case, window) = (Case::new(name), window(size));
            let x = case.input(&[batch, size[0] * size[1], k]);
            let weight = case.matrix(n, 9 * k, stored);
            case.plan.weights[weight.index()].arrangement = Arrangement::Windows;
            let bias = (i != 1).then(|| case.floats(&[n], WeightUse::Floats));
            let shape = [batch, window.pixels(), n];
            let mut last = case.plan.scratch("", &shape);
            case.plan.push(Op::Convolution { x, window, weight, bias, out: last });
            if i % 2 == 0 {
                last = case.plan.activate("", Activation::Silu, last);
            }
            let residual = case.input(&shape);
            let out = case.output(&shape);
            case.plan.push(Op::Add { a: residual, b: last, out });
            all.push(case);
        }
    }
    // So large that they take several launches, and the rows of an item are cut.
    let mut case = Case::new("linear in several launches".into());
    let (x, other) = (case.input(&[3, 351, 644]), case.input(&[3, 351, 644]));
    let weight = case.matrix(644, 644, STORED[2]);
    let projected = case.plan.scratch("", &[3, 351, 644]);
    case.plan.push(Op::Linear { x, skip: None, weight, bias: None, rows: None, out: projected });
    let out = case.output(&[3, 351, 644]);
    case.plan.push(Op::Add { a: other, b: projected, out });
    all.push(case);
    let mut case = Case::new("convolution in several launches".into());
    let (window, x) = (Window::plain([44, 37]), case.input(&[2, 44 * 37, 320]));
    let weight = case.matrix(130, 9 * 320, STORED[2]);
    case.plan.weights[weight.index()].arrangement = Arrangement::Windows;
    let out = case.output(&[2, window.pixels(), 130]);
    case.plan.push(Op::Convolution { x, window, weight, bias: None, out });
    all.push(case);
}

fn group_norms(all: &mut Vec<Case>) {
    for (batch, tokens, dim, groups) in
        [(1, 1, 4, 2), (2, 9, 12, 4), (1, 77, 32, 32), (2, 1000, 20, 5), (1, 20_000, 8, 1), (1, 66, 257, 1)]
    {
        for silu in [false, true] {
            let mut case = Case::new(format!("group_norm [{batch}, {tokens}, {dim}] / {groups}, silu {silu}"));
            let x = case.input(&[batch, tokens, dim]);
            // Far from zero, as real ones are.
            case.inputs[0].1.iter_mut().enumerate().for_each(|(i, v)| *v += (i % dim) as f32 - 3.0);
            let (weight, bias) = (case.floats(&[dim], WeightUse::Floats), case.floats(&[dim], WeightUse::Floats));
            let normed =
                if silu { case.plan.scratch("", &[batch, tokens, dim]) } else { case.output(&[batch, tokens, dim]) };
            let moments = case.plan.moments(x);
            case.plan.push(Op::GroupNorm { x, moments, groups, weight, bias, eps: 1e-6, out: normed });
            if silu {
                let out = case.output(&[batch, tokens, dim]);
                case.plan.push(Op::Activate { activation: Activation::Silu, x: normed, out });
            }
            all.push(case);
        }
    }
    for (batch, channels, height, width) in [(1, 1, 1, 1), (2, 3, 5, 7), (1, 66, 3, 2)] {
        let mut case = Case::new(format!("image_tokens [{batch}, {channels}, {height}, {width}]"));
        let image = case.input(&[batch, channels, height, width]);
        let out = case.output(&[batch, height * width, channels]);
        case.plan.push(Op::ImageTokens { image, out });
        all.push(case);
    }
}

/// The sampler's linear combination, which is no operation of a Plan.
pub async fn judge_combine(device: &Device) -> Result<usize, String> {
    let mut judged = 0;
    // The last needs more workgroups than one dimension has.
    for (elements, terms, clip) in
        [(1, 1, false), (7, 3, true), (66, 8, false), (257 * 12, 4, true), (4_194_300, 2, true)]
    {
        let name = format!("combine {terms} terms of {elements}, clip {clip}");
        let mut got = Vec::new();
        for device in [device, &Device::reference()] {
            got.push(combine(device, elements, terms, clip).await.map_err(|e| format!("{name}: {e}"))?);
        }
        compare(&name, &got[0], &got[1], tolerance(&[]))?;
        judged += 1;
    }
    for device in [device, &Device::reference()] {
        let sum = clip_a_nan(device).await.map_err(|e| e.to_string())?;
        if !sum[0].is_nan() || sum[1..] != [1.0, -1.0, 0.25] {
            return Err(format!("clipping a NaN, 3, -inf and 0.25 gives {sum:?}"));
        }
    }
    let mut got = Vec::new();
    for device in [device, &Device::reference()] {
        got.push(blend(device).await.map_err(|e| e.to_string())?);
    }
    compare("blend", &got[0], &got[1], tolerance(&[]))?;
    // A mask of 1 keeps, one of 0 replaces, both exactly.
    if got[0][1] != 8.1 || got[0][2] != 0.3 {
        return Err(format!("blending gives {:?}", &got[0][..3]));
    }
    let mut got = Vec::new();
    for device in [device, &Device::reference()] {
        got.push(spread(device).await.map_err(|e| e.to_string())?);
    }
    compare("spread", &got[0], &got[1], tolerance(&[]))?;
    // exp(0.25 - 0.25) is 1: what the noise adds there is the noise.
    if (got[0][1] - 8.6).abs() > 1e-5 || (got[0][2] - 8.5).abs() > 1e-5 {
        return Err(format!("spreading gives {:?}", &got[0][..3]));
    }
    Ok(judged + 3)
}

/// `out + exp(0.25 + 0.5 variance) * sum` over an odd number of values.
async fn spread(device: &Device) -> uvit_web::Result<Vec<f32>> {
    let mut random = TorchGenerator::new(2);
    let elements = 77;
    let tensors: Vec<_> = ["out", "variance", "noise"].map(|name| (name.to_string(), vec![1, 1, 1, elements])).into();
    let state = State::new(device, &tensors).await?;
    let mut values = ["out", "variance", "noise"].map(|_| random.randn_f32(elements));
    (values[0][1], values[1][1], values[2][1]) = (8.1, -0.5, 0.5);
    (values[0][2], values[1][2], values[2][2]) = (8.5, 1.5, 0.0);
    for ((name, _), values) in tensors.iter().zip(&values) {
        state.write(name, values)?;
    }
    let noise = Term { tensor: "noise", from: 0, coefficient: 1.0 };
    state.spread("out", "variance", elements, &[noise], [0.25, 0.5])?;
    state.read("out").await
}

/// `out = mask * out + (1 - mask) * sum` over an odd number of values.
async fn blend(device: &Device) -> uvit_web::Result<Vec<f32>> {
    let mut random = TorchGenerator::new(1);
    let elements = 77;
    let tensors: Vec<_> = ["out", "mask", "x", "y"].map(|name| (name.to_string(), vec![1, 1, 1, elements])).into();
    let state = State::new(device, &tensors).await?;
    let mut values = ["out", "mask", "x", "y"].map(|_| random.randn_f32(elements));
    (values[0][1], values[1][1]) = (8.1, 1.0);
    (values[1][2], values[2][2], values[3][2]) = (0.0, 0.3, 0.0);
    for ((name, _), values) in tensors.iter().zip(&values) {
        state.write(name, values)?;
    }
    let terms = [("x", 1.0), ("y", -0.5)].map(|(tensor, coefficient)| Term { tensor, from: 0, coefficient });
    state.blend("out", "mask", elements, &terms)?;
    state.read("out").await
}

/// `terms` halves of tensors; the result overwrites the first of them.
async fn combine(device: &Device, elements: usize, terms: usize, clip: bool) -> uvit_web::Result<Vec<f32>> {
    let mut random = TorchGenerator::new(terms as u64);
    let tensors: Vec<_> = (0..terms).map(|i| (i.to_string(), vec![2, 1, 1, elements])).collect();
    let state = State::new(device, &tensors).await?;
    let mut sum = Vec::new();
    for (i, (tensor, _)) in tensors.iter().enumerate() {
        state.write(tensor, &random.randn_f32(2 * elements))?;
        sum.push(Term { tensor, from: elements * (i % 2), coefficient: 0.3 * i as f32 - 0.7 });
    }
    state.combine("0", elements, &sum, clip.then_some((-0.5, 0.5)))?;
    state.read("0").await
}

/// A NaN stays one, so that a broken forward is noticed.
async fn clip_a_nan(device: &Device) -> uvit_web::Result<Vec<f32>> {
    let state = State::new(device, &[("x".to_string(), vec![1, 1, 1, 4])]).await?;
    state.write("x", &[f32::NAN, 3.0, f32::NEG_INFINITY, 0.25])?;
    state.combine("x", 4, &[Term { tensor: "x", from: 0, coefficient: 1.0 }], Some((-1.0, 1.0)))?;
    state.read("x").await
}
