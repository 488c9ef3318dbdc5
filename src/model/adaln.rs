//! What the diffusion transformers with adaptive layer norms share: time and label become one vector an item, from which every block
//! reads the shifts, scales and gates of its norms (Peebles and Xie, "Scalable Diffusion Models with Transformers", 2023, section
//! 3.2, adaLN-Zero). Follows `models.py` of facebookresearch/DiT at 00d70acc18e08f7c131d2c9bc94158dfa189d95b, tensor names included.
//! Clips, of which a frame is patched like a picture, are those of `models/latte.py` of Vchitect/Latte at
//! 5e6a6b1101a5c88a35dcf3066f8840156a9e9ee0.

use super::transformer::{Blocks, Pictures, within};
use super::{Batch, Port, PortKind, Recording, Sampled, dit};
use crate::Result;
use crate::plan::{
    Activation, FrameLayout, Frames, GateOf, Groups, Modulation, Op, Plan, Position, Precision, Role, TensorId,
    WeightUse,
};

/// Of every norm.
const EPS: f32 = 1e-6;
/// Sines and cosines of the time.
const FREQUENCIES: usize = 256;

/// The sizes of one such network.
pub(super) struct Adaptive<'a> {
    pub config: &'a dit::Config,
    /// Of clips `[frames, channels, height, width]`; none of pictures.
    pub frames: Option<usize>,
    /// Whether there are labels.
    pub labels: bool,
}

impl Adaptive<'_> {
    fn pictures(&self) -> Pictures {
        let dit::Config { input_size: img_size, patch_size, in_channels: in_chans, .. } = *self.config;
        Pictures { img_size, patch_size, in_chans, frames: self.frames.map(|frames| [frames, 1]) }
    }

    /// Tokens of a picture, or of a frame.
    fn places(&self) -> usize {
        self.pictures().side().pow(2)
    }

    /// All tokens of one item.
    pub fn tokens(&self) -> usize {
        self.pictures().count()
    }

    fn validate(&self) -> Result<()> {
        let dit::Config { hidden_size: dim, depth, num_heads, mlp_ratio, num_classes, .. } = *self.config;
        self.pictures().validate_as("input_size", "in_channels")?;
        within("depth", depth, 128)?;
        if self.labels {
            within("num_classes", num_classes, 1 << 16)?;
        }
        // Four of attention, six of the vector.
        let blocks = Blocks { width: "hidden_size", dim, depth, num_heads, mlp_ratio, squares: 10.0 };
        blocks.validate(self.tokens(), self.places().max(self.frames.unwrap_or(1)))
    }

    /// The shape of so many pictures or clips of so many channels.
    fn shape(&self, items: usize, channels: usize) -> Vec<usize> {
        let size = self.config.input_size;
        match self.frames {
            None => vec![items, channels, size, size],
            Some(frames) => vec![items, frames, channels, size, size],
        }
    }

    fn cut(&self) -> Frames {
        self.frames.map_or(Frames::NONE, |_| Frames { patch: 1, layout: FrameLayout::FramesFirst })
    }

    /// Records one forward.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` if the parameters contradict each other or the head dim is no multiple of 4 up to 128.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        self.validate()?;
        let config = self.config;
        let (items, dim, channels) = (batch.items(), config.hidden_size, config.in_channels);
        let mut plan = Plan::default();
        let x = plan.tensor("x", &self.shape(batch.images, channels), Role::Input);
        let time = plan.tensor("timesteps", &[items], Role::Input);
        let label = self.labels.then(|| plan.tensor("y", &[items], Role::Indices));

        let vector = self.condition(&mut plan, time, label);
        let mut tokens = self.embed(&mut plan, x, items);
        for i in 0..config.depth {
            let groups = match self.frames {
                None => Groups::Item,
                Some(_) if i % 2 == 0 => Groups::Consecutive { tokens: self.places() },
                Some(frames) => Groups::Strided { tokens: frames },
            };
            tokens = self.block(&mut plan, &format!("blocks.{i}"), tokens, vector, groups);
            if let (0, Some(frames)) = (i, self.frames) {
                tokens = self.place_in_time(&mut plan, tokens, frames);
            }
        }

        let modulation = plan.linear("final_layer.adaLN_modulation.1", vector, None, 2 * dim, true);
        let modulation = Modulation { vector: modulation, shift: 0, scale: dim };
        let normed = plan.modulated_norm("", tokens, modulation, EPS);
        let (patch, frames) = (config.patch_size, self.cut());
        let kinds = if config.learn_sigma { 2 } else { 1 };
        let predicted = plan.linear("final_layer.linear", normed, None, patch * patch * kinds * channels, true);
        plan.tensors[predicted.index()].name = "final_layer".into();
        let mut image = |name: &'static str, first_channel: usize| {
            let out = plan.tensor(name, &self.shape(items, channels), Role::Output);
            plan.push(Op::Unpatchify { x: predicted, patch, frames, skip_tokens: 0, first_channel, out });
            Port { name, kind: PortKind::Output, tensor: out }
        };
        let out = image("out", 0);
        let variance = config.learn_sigma.then(|| image("variance", channels));

        let sampled =
            Sampled { input: x, time, output: out.tensor, variance: variance.as_ref().map(|port| port.tensor) };
        let mut ports = vec![
            Port { name: "x", kind: PortKind::Latents, tensor: x },
            Port { name: "timesteps", kind: PortKind::Time, tensor: time },
        ];
        let indices = PortKind::Indices { of: config.num_classes + 1 };
        ports.extend(label.map(|tensor| Port { name: "y", kind: indices, tensor }));
        ports.push(out);
        ports.extend(variance);
        Ok(Recording { plan, ports, sampled: vec![sampled] })
    }

    /// `SiLU(c)`, `c` being the embedded time, plus the label's row of a table where there are labels: `[items, 1, dim]`.
    fn condition(&self, plan: &mut Plan, time: TensorId, label: Option<TensorId>) -> TensorId {
        let (items, dim) = (plan.shape(time)[0], self.config.hidden_size);
        let embedding = plan.scratch("", &[items, 1, FREQUENCIES]);
        plan.push(Op::TimestepEmbedding { time, out: embedding });
        let hidden = plan.linear("t_embedder.mlp.0", embedding, None, dim, true);
        let activated = plan.activate("", Activation::Silu, hidden);
        let row = label.map(|index| {
            let rows = self.config.num_classes + 1;
            let table = plan.weight("y_embedder.embedding_table.weight", &[rows, dim], WeightUse::Floats);
            let out = plan.scratch("", &[items, 1, dim]);
            plan.push(Op::Embedding { table, index: Some(index), position: None, out, at: 0 });
            out
        });
        let mut c = plan.linear("t_embedder.mlp.2", activated, None, dim, true);
        if let Some(row) = row {
            c = plan.add("", c, row);
        }
        plan.tensors[c.index()].name = "c".into();
        plan.activate("", Activation::Silu, c)
    }

    /// Patches as tokens `[items, tokens, dim]`, with the positions of a picture, the same for all frames of a clip.
    fn embed(&self, plan: &mut Plan, image: TensorId, items: usize) -> TensorId {
        let (dim, places, patch) = (self.config.hidden_size, self.places(), self.config.patch_size);
        let kernel = [dim, self.config.in_channels, patch, patch];
        let weight = plan.weight("x_embedder.proj.weight", &kernel, WeightUse::PatchKernel);
        let bias = Some(plan.weight("x_embedder.proj.bias", &[dim], WeightUse::Floats));
        let table = plan.weight("pos_embed", &[1, places, dim], WeightUse::Floats);
        let position = Some(Position { width: places, stride: 0, inner: 1, ..Position::plain(table, 0) });
        let out = plan.scratch("tokens", &[items, self.tokens(), dim]);
        plan.push(Op::PatchEmbed { image, weight, bias, position, patch, frames: self.cut(), out, at: 0 });
        out
    }

    /// Adds a row of `temp_embed` a frame.
    fn place_in_time(&self, plan: &mut Plan, x: TensorId, frames: usize) -> TensorId {
        let (shape, places) = (plan.shape(x).to_vec(), self.places());
        let table = plan.weight("temp_embed", &[1, frames, shape[2]], WeightUse::Floats);
        let position = Some(Position { width: places, stride: 1, inner: 0, ..Position::plain(table, 0) });
        let out = plan.scratch("", &shape);
        plan.push(Op::CopyTokens { x, from: 0, count: shape[1], position, out, at: 0 });
        out
    }

    /// `x += gate attn(norm(x)); x += gate mlp(norm(x))`, the norms modulated.
    fn block(&self, plan: &mut Plan, name: &str, x: TensorId, vector: TensorId, groups: Groups) -> TensorId {
        let dit::Config { hidden_size: dim, num_heads: heads, mlp_ratio, .. } = *self.config;
        let vector = plan.linear(&format!("{name}.adaLN_modulation.1"), vector, None, 6 * dim, true);
        let shape = plan.shape(x).to_vec();
        let normed = plan.modulated_norm("", x, Modulation { vector, shift: 0, scale: dim }, EPS);
        let qkv = plan.linear(&format!("{name}.attn.qkv"), normed, None, 3 * dim, true);
        let attended = plan.scratch("", &shape);
        plan.push(Op::Attention { qkv, heads, causal: false, groups, out: attended });
        let projected = plan.linear(&format!("{name}.attn.proj"), attended, None, dim, true);
        let x = plan.gated_add("", x, GateOf { vector, at: 2 * dim }, projected);
        let normed = plan.modulated_norm("", x, Modulation { vector, shift: 3 * dim, scale: 4 * dim }, EPS);
        let hidden = (dim as f64 * mlp_ratio) as usize;
        let up = plan.linear(&format!("{name}.mlp.fc1"), normed, None, hidden, true);
        let activated = plan.activate("", Activation::GeluTanh, up);
        let down = plan.linear(&format!("{name}.mlp.fc2"), activated, None, dim, true);
        // docs/arithmetic.md has the measurements.
        for layer in ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"] {
            plan.allow(&format!("{name}.{layer}"), Precision::Narrow);
        }
        plan.gated_add(name, x, GateOf { vector, at: 5 * dim }, down)
    }
}
