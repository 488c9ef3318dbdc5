//! Kernels taken out of a Program, each kind once, as a Plan of their own: what a device is tested and tuned with. Lowered
//! with the same capabilities it has the very variants of the Program.

use super::lower::INT_ATTENTION_TOKENS;
use super::{
    Activation, Arithmetic, FrameLayout, Frames, Gate, GateOf, Groups, Kernel, Matmul, Modulation, Op, Patches, Plan,
    Position, Program, Role, Rows, SizeClass, Span, TensorId, WeightId, WeightUse, Window,
};

/// A kernel whatever its tensors and weights, and whether what it reads first and what it writes is quantised.
pub type Kind = (Kernel, [bool; 2]);

/// Kernels of a Program side by side.
#[derive(Clone, Debug, Default)]
pub struct Isolated {
    /// Which they are.
    pub kinds: Vec<Kind>,
    /// What they compute.
    pub plan: Plan,
    /// By weight of the Plan: the Program's weight that it stands for, and is stored like.
    pub originals: Vec<WeightId>,
    /// Floats to be written.
    pub inputs: Vec<TensorId>,
    /// Indices to be written, and what they must stay below.
    pub indices: Vec<(TensorId, usize)>,
    /// A result, the Program's kernel that it is of, and how many kernels are like it.
    pub outputs: Vec<(TensorId, usize, usize)>,
    /// Whether kernels read the same inputs, where only times matter.
    shares: bool,
    /// What the kernel that is being added reads already.
    taken: Vec<TensorId>,
}

/// The kernels that `wanted` wants, alike ones once: `alike` says whether two weights are stored in the same form. Shrunk,
/// where `widest` says how wide rows may be, so that little is computed: rows of floats that are wider lose all but that and what
/// they have beyond a multiple of 16.
pub fn isolate(
    program: &Program,
    widest: Option<usize>,
    wanted: &dyn Fn(&Kernel) -> bool,
    alike: &dyn Fn(WeightId, WeightId) -> bool,
) -> Isolated {
    let mut all = Isolated { shares: widest.is_none(), ..Isolated::default() };
    // By kind.
    let mut matrices: Vec<Option<WeightId>> = Vec::new();
    for (index, kernel) in program.kernels.iter().enumerate().filter(|(_, kernel)| wanted(kernel)) {
        // The last part brings those before it.
        if matches!(kernel, Kernel::GroupMoments(_) | Kernel::GroupScales(_)) {
            continue;
        }
        let kernel = widest.map_or_else(|| of_launch(kernel), |widest| shrunk(kernel, widest));
        let weight = kernel.matrix();
        let packed = [kernel.reads().first().copied(), Some(kernel.writes())]
            .map(|id| id.is_some_and(|id| program.view(id).packed));
        let kind = (anonymous(&kernel), packed);
        let same = |at: &usize| {
            let weights = match (weight, matrices[*at]) {
                (Some(a), Some(b)) => alike(a, b),
                (a, b) => a.is_none() && b.is_none(),
            };
            weights && all.kinds[*at] == kind
        };
        if let Some(at) = (0..matrices.len()).find(same) {
            all.outputs[at].2 += 1;
            continue;
        }
        all.kinds.push(kind);
        matrices.push(weight);
        all.taken.clear();
        let out = all.add(program, &kernel, packed);
        all.outputs.push((out, index, 1));
    }
    all
}

/// At most `widest` and the rest beyond a multiple of 16.
fn width(dim: usize, widest: usize) -> usize {
    if dim <= widest { dim } else { widest + dim % 16 }
}

/// Rows and tokens that tell what more of them would.
const MOST_ROWS: usize = 2048;
const MOST_TOKENS: usize = 1024;

/// The same kernel at its own size, or of the first rows or tokens where there are many.
fn of_launch(kernel: &Kernel) -> Kernel {
    let mut kernel = kernel.clone();
    match &mut kernel {
        Kernel::Matmul(Matmul { window: Some(w), rows, tokens, first, .. }) => {
            if w.pixels() > MOST_ROWS {
                w.height = ((MOST_ROWS / w.out_width).max(2) * w.stride / w.upsample).max(2);
                w.out_height = w.height * w.upsample / w.stride;
                w.skip = 0;
            }
            (*rows, *tokens, *first) = (w.pixels(), w.pixels(), 0);
        }
        Kernel::Matmul(m) => {
            if m.rows > MOST_ROWS || m.rows < m.tokens {
                (m.rows, m.tokens) = (m.rows.min(MOST_ROWS), m.rows.min(MOST_ROWS));
            }
            m.first = 0;
            m.span = m.span.map(|_| some_tokens(m));
        }
        Kernel::Attention(k) => {
            k.tokens = k.tokens.min(MOST_TOKENS);
            k.groups = k.groups.min(MOST_TOKENS.div_ceil(k.tokens));
            (k.first, k.queries) = (0, k.tokens);
        }
        _ => {}
    }
    kernel
}

/// A matmul's own tokens among others: of out, where nothing joins it that needs all of them.
fn some_tokens(m: &Matmul) -> Span {
    let others = usize::from(m.residual.is_none());
    Span { x_at: 1, x_tokens: m.tokens + 2, out_at: others, out_tokens: m.tokens + others }
}

/// Channels of a vector that has others in front.
fn gate_behind_others(gate: Option<Gate>, dim: usize) -> Option<Gate> {
    gate.map(|gate| Gate { at: 4, channels: 4 + dim, ..gate })
}

/// The same windows over a small image, odd where it can be, of that class of sizes; and how many images.
fn shrunk_window(window: &Window, size: SizeClass) -> (Window, usize) {
    let (out, batch) = match size {
        SizeClass::One => ([1, 2], 1),
        SizeClass::Few => ([3, 4], 2),
        SizeClass::Many => ([7, 9], 2),
    };
    let window = match (window.stride, window.upsample) {
        (2, _) => Window::strided(out.map(|n| 2 * n + 1 - window.padding), window.padding),
        (_, 2) => Window::upsampled(out.map(|n: usize| n.div_ceil(2))),
        _ => Window::plain(out),
    };
    (window, batch)
}

/// The same kernel on little data, whatever the batch: what a shader or function is specialised for stays.
fn shrunk(kernel: &Kernel, widest: usize) -> Kernel {
    let mut kernel = kernel.clone();
    let width = |dim: usize| width(dim, widest);
    // A grid of patches, not square and odd where it can be.
    let few = |patches: &mut Patches| {
        let [frames, rows, columns] = patches.grid();
        patches.frames = frames.min(2) * patches.depth;
        (patches.height, patches.width) = (rows.min(2) * patches.size, columns.min(3) * patches.size);
        patches.count()
    };
    match &mut kernel {
        Kernel::Matmul(m) if m.window.is_some() => {
            let (window, batch) = m.window.map_or((Window::plain([1, 1]), 1), |w| shrunk_window(&w, m.size));
            (m.window, m.first) = (Some(window), 0);
            (m.tokens, m.rows) = (window.pixels(), batch * window.pixels());
            (m.k, m.n) = (width(m.k), width(m.n));
        }
        Kernel::Matmul(m) => {
            let (tokens, least) = match m.size {
                SizeClass::One => (2, 2),
                SizeClass::Few => (7, 9),
                SizeClass::Many => (18, 33),
            };
            m.tokens = m.tokens.min(tokens);
            (m.first, m.rows) = (0, m.tokens * usize::div_ceil(least, m.tokens).max(2));
            (m.k, m.k2, m.n) = (width(m.k), width(m.k2), width(m.n));
            m.gate = gate_behind_others(m.gate, m.n);
            m.span = m.span.map(|_| some_tokens(m));
        }
        Kernel::LayerNorm(k) => {
            (k.rows, k.tokens, k.dim) = (15, 5, width(k.dim));
            if let Some(m) = &mut k.modulation {
                (m.shift, m.scale) = (2 * k.dim, k.dim);
            }
        }
        Kernel::Attention(k) => {
            // So few that no other arithmetic is chosen.
            let most = if k.arithmetic == (Arithmetic::Int { bits: 7 }) { INT_ATTENTION_TOKENS + 1 } else { 13 };
            (k.batch, k.tokens, k.heads) = (2, k.tokens.min(most), k.heads.min(2));
            k.groups = k.groups.min(3);
            (k.first, k.queries) = (0, k.tokens);
        }
        Kernel::HeadNorm(k) => {
            (k.batch, k.tokens, k.heads) = (2, k.tokens.min(3), k.heads.min(2));
            (k.at, k.out_tokens) = (1, k.tokens + 1);
        }
        Kernel::WriteCache(k) => {
            (k.batch, k.tokens, k.dim) = (2, k.tokens.min(3), width(k.dim).next_multiple_of(4));
            k.rows = 2 * k.tokens + 1;
        }
        Kernel::CachedAttention(k) => {
            (k.batch, k.tokens, k.heads) = (2, k.tokens.min(3), k.heads.min(2));
            (k.most, k.rows) = (13, 27);
        }
        Kernel::Elementwise(k) => {
            (k.rows, k.tokens, k.dim) = (6, 3, width(k.dim));
            k.gate = gate_behind_others(k.gate, k.dim);
        }
        Kernel::Embedding(k) => {
            k.count = k.count.min(3);
            (k.batch, k.tokens, k.at, k.dim) = (2, k.count + 1, 1, width(k.dim));
            (k.first, k.rows) = (0, k.rows.min(3));
        }
        Kernel::CopyTokens(k) => {
            k.count = k.count.min(3);
            (k.x_tokens, k.x_at, k.out_tokens, k.out_at) = (k.count + 1, 1, k.count + 1, 1);
            (k.batch, k.dim) = (2, width(k.dim));
        }
        Kernel::ResizedPositions(k) => {
            (k.from, k.to) = ([2, 3], [3, 4]);
            (k.batch, k.tokens, k.at, k.dim) = (2, 13, 1, width(k.dim));
        }
        Kernel::PatchEmbed(k) => {
            (k.images, k.batch, k.dim) = (1, 2, width(k.dim));
            (k.at, k.tokens) = (1, 1 + few(&mut k.patches));
        }
        Kernel::Unpatchify(k) => {
            (k.batch, k.skip_tokens) = (2, k.skip_tokens.min(1));
            k.tokens = k.skip_tokens + few(&mut k.patches);
        }
        Kernel::Conv2d(k) => {
            (k.batch, k.frames, k.height, k.width) = (2, k.frames.min(3), k.height.min(5), k.width.min(7));
            (k.in_channels, k.out_channels) = (width(k.in_channels), width(k.out_channels));
        }
        Kernel::ImageTokens(k) => (k.batch, k.channels, k.pixels) = (2, width(k.channels), k.pixels.min(11)),
        Kernel::GroupMoments(_) | Kernel::GroupScales(_) => {}
        Kernel::GroupNorm(k) => {
            (k.batch, k.tokens, k.dim) = (2, k.tokens.min(75), width(k.dim));
            if !k.dim.is_multiple_of(k.groups) {
                k.groups = 1;
            }
        }
    }
    kernel
}

/// The same kernel whatever its tensors and weights: what there is of them stays.
fn anonymous(kernel: &Kernel) -> Kernel {
    let mut kernel = kernel.clone();
    let (t, w) = (TensorId(0), WeightId(0));
    let position = |p: Option<Position>| p.map(|p| Position { table: w, at: 0, ..p });
    match &mut kernel {
        Kernel::Matmul(m) => {
            (m.x, m.out, m.weight) = (t, t, w);
            (m.x2, m.residual, m.bias) = (m.x2.map(|_| t), m.residual.map(|_| t), m.bias.map(|_| w));
            m.gate = m.gate.map(|gate| Gate { vector: t, ..gate });
        }
        Kernel::LayerNorm(k) => {
            (k.x, k.out, k.affine) = (t, t, k.affine.map(|_| (w, w)));
            k.modulation = k.modulation.map(|_| Modulation { vector: t, shift: 0, scale: 0 });
        }
        Kernel::Attention(k) => (k.qkv, k.out, k.first, k.queries) = (t, t, 0, k.tokens),
        Kernel::HeadNorm(k) => (k.qkv, k.weights, k.out) = (t, [w, w], t),
        Kernel::WriteCache(k) => (k.qkv, k.places, k.out) = (t, t, t),
        Kernel::CachedAttention(k) => (k.qkv, k.cache, k.places, k.positions, k.out) = (t, t, t, t, t),
        Kernel::Elementwise(k) => {
            (k.a, k.b, k.out, k.gate) = (t, k.b.map(|_| t), t, k.gate.map(|gate| Gate { vector: t, ..gate }));
        }
        Kernel::Embedding(k) => {
            (k.table, k.index, k.position, k.out) = (w, k.index.map(|_| t), position(k.position), t);
            (k.first, k.rows) = (0, 1);
        }
        Kernel::CopyTokens(k) => (k.x, k.position, k.out) = (t, position(k.position), t),
        Kernel::ResizedPositions(k) => (k.position, k.out) = (Position { table: w, at: 0, ..k.position }, t),
        Kernel::PatchEmbed(k) => {
            (k.image, k.weight, k.bias, k.position, k.out) = (t, w, k.bias.map(|_| w), position(k.position), t);
        }
        Kernel::Unpatchify(k) => (k.x, k.out) = (t, t),
        Kernel::Conv2d(k) => (k.x, k.weight, k.bias, k.out) = (t, w, w, t),
        Kernel::ImageTokens(k) => (k.image, k.out) = (t, t),
        Kernel::GroupMoments(k) => (k.x, k.out) = (t, t),
        Kernel::GroupScales(k) => (k.moments, k.weight, k.out) = (t, w, t),
        Kernel::GroupNorm(k) => (k.x, k.scales, k.weight, k.bias, k.out) = (t, t, w, w, t),
    }
    kernel
}

/// Clips as they lie, an image as a clip of one frame: how, and the shape of so many.
fn as_clip(p: &Patches, clips: usize) -> (Frames, [usize; 5]) {
    let layout = if p.frames_first { FrameLayout::FramesFirst } else { FrameLayout::ChannelsFirst };
    let [outer, inner] = if p.frames_first { [p.frames, p.channels] } else { [p.channels, p.frames] };
    (Frames { patch: p.depth, layout }, [clips, outer, inner, p.height, p.width])
}

impl Kernel {
    /// The weight that is a matrix.
    pub fn matrix(&self) -> Option<WeightId> {
        match self {
            Kernel::Matmul(m) => Some(m.weight),
            _ => None,
        }
    }
}

impl Isolated {
    /// Lets results be overwritten once they are computed, where only times matter.
    pub fn scratch_outputs(&mut self) {
        for &(out, ..) in &self.outputs {
            self.plan.tensors[out.0].role = Role::Scratch;
        }
    }

    fn input(&mut self, shape: &[usize]) -> TensorId {
        let free = |id: &&TensorId| self.plan.shape(**id) == shape && !self.taken.contains(*id);
        let shared = if self.shares { self.inputs.iter().find(free).copied() } else { None };
        let id = shared.unwrap_or_else(|| {
            let id = self.plan.tensor("", shape, Role::Input);
            self.inputs.push(id);
            id
        });
        self.taken.push(id);
        id
    }

    /// Tokens of which the first is written: the others are a kernel's.
    fn first_token(&mut self, batch: usize, tokens: usize, dim: usize) -> TensorId {
        let x = self.input(&[batch, 1, dim]);
        let out = self.plan.scratch("", &[batch, tokens, dim]);
        self.plan.push(Op::CopyTokens { x, from: 0, count: 1, position: None, out, at: 0 });
        out
    }

    fn indices(&mut self, shape: &[usize], below: usize) -> TensorId {
        let id = self.plan.tensor("", shape, Role::Indices);
        self.indices.push((id, below));
        id
    }

    /// A weight in the form of one of the Program's.
    fn weight(&mut self, shape: &[usize], usage: WeightUse, form: WeightId) -> WeightId {
        self.originals.push(form);
        self.plan.weight(format!("w{}", self.plan.weights.len()), shape, usage)
    }

    fn position(&mut self, position: Option<Position>, tokens: usize, dim: usize) -> Option<Position> {
        position.map(|p| {
            let p = Position { at: 1, ..p };
            Position { table: self.weight(&[p.rows(tokens), dim], WeightUse::Floats, p.table), ..p }
        })
    }

    /// Gates of so many items.
    fn gate(&mut self, gate: Gate, items: usize) -> GateOf {
        GateOf { vector: self.input(&[items, 1, gate.channels]), at: gate.at }
    }

    /// `x W^T + b` as one of the Program's.
    fn linear(&mut self, program: &Program, m: &Matmul, x: TensorId, skip: Option<TensorId>) -> TensorId {
        let name = format!("w{}", self.plan.weights.len());
        self.originals.push(m.weight);
        self.originals.extend(m.bias);
        let out = match m.window {
            Some(window) => self.plan.convolution(&name, x, window, m.n, m.bias.is_some()),
            None => self.plan.linear(&name, x, skip, m.n, m.bias.is_some()),
        };
        self.plan.allow(&name, program.weights[m.weight.0].precision);
        out
    }

    /// The same of some tokens.
    fn linear_rows(&mut self, program: &Program, m: &Matmul, x: TensorId, out: TensorId, rows: Rows) {
        let name = format!("w{}", self.plan.weights.len());
        self.originals.push(m.weight);
        self.originals.extend(m.bias);
        self.plan.linear_rows(&name, x, rows.first, rows.count, out, rows.at, m.bias.is_some());
        self.plan.allow(&name, program.weights[m.weight.0].precision);
    }

    /// Records a kernel; its result is quantised by whoever makes it, and read by one of its readers, where it is so in the
    /// Program.
    fn add(&mut self, program: &Program, kernel: &Kernel, packed: [bool; 2]) -> TensorId {
        let out = match *kernel {
            Kernel::Matmul(ref m) => self.matmul(program, m, packed),
            Kernel::LayerNorm(ref k) => {
                let items = k.rows / k.tokens;
                let x = self.input(&[items, k.tokens, k.dim]);
                let affine = k.affine.map(|of| {
                    let mut like = |of| self.weight(&[k.dim], WeightUse::Floats, of);
                    (like(of.0), like(of.1))
                });
                let modulation = k.modulation.map(|m| {
                    let vector = self.input(&[items, 1, m.shift.max(m.scale) + k.dim]);
                    Modulation { vector, ..m }
                });
                let out = self.plan.scratch("", &[items, k.tokens, k.dim]);
                self.plan.push(Op::LayerNorm { x, affine, modulation, eps: k.eps, out });
                out
            }
            Kernel::Attention(ref k) => {
                let dim = k.heads * k.head_dim;
                let (tokens, all) = (k.tokens, k.groups * k.tokens);
                let qkv = self.input(&[k.batch, all, 3 * dim]);
                let out = self.plan.scratch("", &[k.batch, all, dim]);
                let groups = if k.strided { Groups::Strided { tokens } } else { Groups::Consecutive { tokens } };
                self.plan.push(Op::Attention { qkv, heads: k.heads, causal: k.causal, groups, out });
                out
            }
            Kernel::HeadNorm(ref k) => {
                let dim = k.heads * k.head_dim;
                let qkv = self.input(&[k.batch, k.tokens, 3 * dim]);
                let weights = k.weights.map(|of| self.weight(&[k.head_dim], WeightUse::Floats, of));
                let out = self.first_token(k.batch, k.tokens + 1, 3 * dim);
                self.plan.push(Op::HeadNorm { qkv, weights, heads: k.heads, eps: k.eps, out, at: 1 });
                out
            }
            Kernel::WriteCache(ref k) => {
                let (qkv, before) = (self.input(&[k.batch, k.tokens, 3 * k.dim]), self.input(&[1, k.rows, 2 * k.dim]));
                let places = self.indices(&[k.batch, k.tokens], k.rows);
                let out = self.plan.scratch("", &[1, k.rows, 2 * k.dim]);
                self.plan.push(Op::CopyTokens { x: before, from: 0, count: k.rows, position: None, out, at: 0 });
                self.plan.push(Op::WriteCache { qkv, places, out });
                out
            }
            Kernel::CachedAttention(ref k) => {
                let dim = k.heads * k.head_dim;
                let (qkv, cache) = (self.input(&[k.batch, k.tokens, 3 * dim]), self.input(&[1, k.rows, 2 * dim]));
                let places = self.indices(&[k.batch, k.most], k.rows);
                let positions = self.indices(&[k.batch, k.tokens], k.most);
                let out = self.plan.scratch("", &[k.batch, k.tokens, dim]);
                self.plan.push(Op::CachedAttention { qkv, cache, places, positions, heads: k.heads, out });
                out
            }
            Kernel::Elementwise(ref k) => {
                // An offset is for images too, whose rows nothing fills up.
                let image = k.offset != 0.0 && !k.dim.is_multiple_of(4);
                let shape = if image { vec![1, 1, k.rows, k.dim] } else { vec![1, k.rows, k.dim] };
                if let Some(gate) = k.gate {
                    let shape = [k.rows / k.tokens, k.tokens, k.dim];
                    let (y, x) = (self.input(&shape), self.input(&shape));
                    let gate = self.gate(gate, shape[0]);
                    self.plan.gated_add("", x, gate, y)
                } else if (k.scale, k.offset) != (1.0, 0.0) {
                    let x = self.input(&shape);
                    self.plan.affine(x, k.scale, k.offset)
                } else if k.activation == Activation::None && k.b.is_none() {
                    // A copy, which lowering makes where an operand is quantised for its reader alone, or read twice.
                    let x = self.input(&shape);
                    if packed[1] { x } else { self.plan.add("", x, x) }
                } else {
                    let x = self.input(&shape);
                    let out = self.plan.scratch("", &shape);
                    let b = k.b.map(|_| self.input(&shape));
                    self.plan.push(match (k.activation, b) {
                        (Activation::None, b) => Op::Add { a: x, b: b.unwrap_or(x), out },
                        (activation, _) => Op::Activate { activation, x, out },
                    });
                    out
                }
            }
            Kernel::Embedding(ref k) => {
                let index = k.index.map(|_| self.indices(&[k.batch, k.count], k.rows));
                let table = self.weight(&[k.rows, k.dim], WeightUse::Floats, k.table);
                let position = self.position(k.position, k.count, k.dim);
                let out = self.first_token(k.batch, k.tokens, k.dim);
                self.plan.push(Op::Embedding { table, index, position, out, at: k.at });
                out
            }
            Kernel::CopyTokens(ref k) => {
                let x = self.input(&[k.batch, k.x_tokens, k.dim]);
                let position = self.position(k.position, k.count, k.dim);
                let out = self.first_token(k.batch, k.out_tokens, k.dim);
                self.plan.push(Op::CopyTokens { x, from: k.x_at, count: k.count, position, out, at: k.out_at });
                out
            }
            Kernel::ResizedPositions(ref k) => {
                // They are added to what is there.
                let x = self.input(&[k.batch, k.tokens, k.dim]);
                let out = self.plan.scratch("", &[k.batch, k.tokens, k.dim]);
                self.plan.push(Op::CopyTokens { x, from: 0, count: k.tokens, position: None, out, at: 0 });
                let position = Some(k.position);
                if let Some(position) = self.position(position, k.from[0] * k.from[1], k.dim) {
                    self.plan.push(Op::ResizedPositions { position, from: k.from, to: k.to, out, at: k.at });
                }
                out
            }
            Kernel::PatchEmbed(ref k) => {
                let (frames, shape) = as_clip(&k.patches, k.images);
                let image = self.input(&shape);
                let (patch, shape) = (k.patches.size, [k.dim, k.patches.channels, frames.patch]);
                let shape = [shape[0], shape[1], shape[2], patch, patch];
                let weight = self.weight(&shape, WeightUse::PatchKernel, k.weight);
                let bias = k.bias.map(|bias| self.weight(&[k.dim], WeightUse::Floats, bias));
                let position = self.position(k.position, k.tokens - k.at, k.dim);
                let out = self.first_token(k.batch, k.tokens, k.dim);
                self.plan.push(Op::PatchEmbed { image, weight, bias, position, patch, frames, out, at: k.at });
                out
            }
            Kernel::Unpatchify(ref k) => {
                let x = self.input(&[k.batch, k.tokens, k.patches.pixels() * k.channels]);
                let (frames, shape) = as_clip(&k.patches, k.batch);
                let out = self.plan.scratch("", &shape);
                let (patch, skip_tokens, first_channel) = (k.patches.size, k.skip_tokens, k.first_channel);
                self.plan.push(Op::Unpatchify { x, patch, frames, skip_tokens, first_channel, out });
                out
            }
            Kernel::Conv2d(ref k) => {
                let x = self.input(&[k.batch, k.in_channels, k.frames, k.height, k.width]);
                let weight = self.weight(&[k.out_channels, k.in_channels, 3, 3], WeightUse::Floats, k.weight);
                let bias = self.weight(&[k.out_channels], WeightUse::Floats, k.bias);
                let out = self.plan.scratch("", &[k.batch, k.out_channels, k.frames, k.height, k.width]);
                self.plan.push(Op::Conv2d { x, weight, bias, out });
                out
            }
            Kernel::ImageTokens(ref k) => {
                let image = self.input(&[k.batch, k.channels, 1, k.pixels]);
                let out = self.plan.scratch("", &[k.batch, k.pixels, k.channels]);
                self.plan.push(Op::ImageTokens { image, out });
                out
            }
            Kernel::GroupMoments(_) | Kernel::GroupScales(_) => self.input(&[1, 1, 4]),
            Kernel::GroupNorm(ref k) => {
                let shape = [k.batch, k.tokens, k.dim];
                let x = self.input(&shape);
                let weight = self.weight(&[k.dim], WeightUse::Floats, k.weight);
                let bias = self.weight(&[k.dim], WeightUse::Floats, k.bias);
                let out = self.plan.scratch("", &shape);
                let moments = self.plan.moments(x);
                self.plan.push(Op::GroupNorm { x, moments, groups: k.groups, weight, bias, eps: k.eps, out });
                if k.activation == Activation::None { out } else { self.plan.activate("", k.activation, out) }
            }
        };
        let reader = program.kernels.iter().find_map(|reader| match reader {
            Kernel::Matmul(m) if packed[1] && m.x == kernel.writes() => Some(m),
            _ => None,
        });
        let out = match reader {
            Some(reader) => self.linear(program, &Matmul { n: 16, bias: None, ..reader.clone() }, out, None),
            None => out,
        };
        self.plan.tensors[out.0].role = Role::Output;
        out
    }

    fn matmul(&mut self, program: &Program, m: &Matmul, packed: [bool; 2]) -> TensorId {
        let items = m.rows / m.tokens;
        let tokens = m.window.map_or(m.tokens, |w| w.height * w.width);
        let mut x = self.input(&[items, m.span.map_or(tokens, |span| span.x_tokens), m.k]);
        if packed[0] {
            let [weight, bias] = [0; 2].map(|_| self.weight(&[m.k], WeightUse::Floats, m.weight));
            let shape = self.plan.shape(x).to_vec();
            let normed = self.plan.scratch("", &shape);
            self.plan.push(Op::LayerNorm { x, affine: Some((weight, bias)), modulation: None, eps: 1e-5, out: normed });
            x = normed;
        }
        let skip = m.x2.map(|_| self.input(&[items, m.tokens, m.k2]));
        let mut out = match m.span {
            // Its maker alone quantises a result.
            Some(span) if span.out_at == 0 || packed[1] => {
                let out = self.plan.scratch("", &[items, m.tokens, m.n]);
                self.linear_rows(program, m, x, out, Rows { first: span.x_at, count: m.tokens, at: 0 });
                out
            }
            Some(span) => {
                let out = self.first_token(items, span.out_tokens, m.n);
                self.linear_rows(program, m, x, out, Rows { first: span.x_at, count: m.tokens, at: 1 });
                out
            }
            None => self.linear(program, m, x, skip),
        };
        if m.activation != Activation::None {
            let next = self.plan.scratch("", &[items, m.tokens, m.n]);
            self.plan.push(Op::Activate { activation: m.activation, x: out, out: next });
            out = next;
        }
        match m.residual {
            Some(_) => {
                let residual = self.input(&[items, m.tokens, m.n]);
                match m.gate {
                    Some(gate) => {
                        let gate = self.gate(gate, items);
                        self.plan.gated_add("", residual, gate, out)
                    }
                    None => self.plan.add("", residual, out),
                }
            }
            None => out,
        }
    }
}
