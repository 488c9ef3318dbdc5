//! Stable Diffusion 3's transformer (Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024,
//! section 4): a picture's tokens and a text's are two streams with weights of their own, which attend to each other. Follows
//! `SD3Transformer2DModel` of huggingface/diffusers@38b0c9e679b0894d0483df9da80bc103aa1bff52
//! (`src/diffusers/models/transformers/transformer_sd3.py`, `models/attention.py`, `models/normalization.py`), tensor names included.

use super::transformer::{unsupported, within};
use super::{Batch, Port, PortKind, Recording, Sampled};
use crate::json;
use crate::plan::{
    Activation, Frames, GateOf, Groups, Modulation, Op, Plan, Position, Precision, Role, TensorId, WeightUse,
};
use crate::{Code, Error, Result};

/// The published constructor's arguments, under its names.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Height and width of latents, where nothing else is said.
    pub sample_size: usize,
    /// Height and width of a patch.
    pub patch_size: usize,
    /// Channels of a latent.
    pub in_channels: usize,
    /// Channels of the prediction: as many.
    pub out_channels: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Width of a head; a token is `num_attention_heads attention_head_dim` wide.
    pub attention_head_dim: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Width of a text's token.
    pub joint_attention_dim: usize,
    /// Width of a text's token inside: that of every other.
    pub caption_projection_dim: usize,
    /// Width of what a text says as a whole.
    pub pooled_projection_dim: usize,
    /// Rows and columns of the table of positions, whose middle latents take.
    pub pos_embed_max_size: usize,
    /// `rms_norm`: queries and keys are normalised (3.5); empty: they are not.
    pub qk_norm: String,
    /// Blocks in which pictures also attend to themselves alone (3.5 medium).
    pub dual_attention_layers: Vec<usize>,
    /// Tokens of a text: 77 of CLIP, then 256 of T5. Not the constructor's, but its pipeline's.
    pub context_tokens: usize,
}

json::fields!(Config {
    sample_size = 128,
    patch_size = 2,
    in_channels = 16,
    out_channels = 16,
    num_layers = 18,
    attention_head_dim = 64,
    num_attention_heads = 18,
    joint_attention_dim = 4096,
    caption_projection_dim = 1152,
    pooled_projection_dim = 2048,
    pos_embed_max_size = 96,
} beside {
    qk_norm = String::new(),
    dual_attention_layers = Vec::<usize>::new(),
    context_tokens = 333,
});

/// Of every norm, of tokens and of heads.
const EPS: f32 = 1e-6;

/// Width of the time's sines and cosines.
const FREQUENCIES: usize = 256;

/// What of a vector of modulation is which, in widths of a token.
#[derive(Clone, Copy)]
struct Chunks {
    shift: usize,
    scale: usize,
    gate: usize,
}

const ATTENTION: Chunks = Chunks { shift: 0, scale: 1, gate: 2 };
const MLP: Chunks = Chunks { shift: 3, scale: 4, gate: 5 };
/// Of the attention of pictures to themselves.
const SECOND: Chunks = Chunks { shift: 6, scale: 7, gate: 8 };
/// Of a stream's last norm; the vector has no more.
const LAST: Chunks = Chunks { shift: 1, scale: 0, gate: 0 };

impl Config {
    fn dim(&self) -> usize {
        self.num_attention_heads.saturating_mul(self.attention_head_dim)
    }

    /// Tokens of one item of the usual size.
    pub fn tokens(&self) -> usize {
        (self.sample_size / self.patch_size.max(1)).pow(2) + self.context_tokens
    }

    /// Far beyond any published model; what fits can neither overflow 32-bit sizes nor take long to record or to test.
    fn validate(&self) -> Result<()> {
        for (name, value, most) in [
            ("sample_size", self.sample_size, 4096),
            ("patch_size", self.patch_size, 64),
            ("in_channels", self.in_channels, 64),
            ("num_layers", self.num_layers, 64),
            ("attention_head_dim", self.attention_head_dim, 128),
            ("num_attention_heads", self.num_attention_heads, 256),
            ("the width of a token", self.dim(), 4096),
            ("joint_attention_dim", self.joint_attention_dim, 16384),
            ("pooled_projection_dim", self.pooled_projection_dim, 16384),
            ("pos_embed_max_size", self.pos_embed_max_size, 512),
            ("context_tokens", self.context_tokens, 4096),
        ] {
            within(name, value, most)?;
        }
        let fits = |holds: bool, what: &str| if holds { Ok(()) } else { Err(unsupported(what.into())) };
        fits(self.attention_head_dim.is_multiple_of(4), "attention_head_dim is no multiple of 4")?;
        fits(self.caption_projection_dim == self.dim(), "caption_projection_dim is not heads times head dim")?;
        fits(self.out_channels == self.in_channels, "out_channels is not in_channels")?;
        fits(self.in_channels * self.patch_size.pow(2) <= 1 << 14, "a patch has more than 16384 values")?;
        match self.qk_norm.as_str() {
            "" | "rms_norm" => Ok(()),
            other => Err(unsupported(format!("qk_norm is \"{other}\", not \"rms_norm\""))),
        }
    }

    /// Rows and columns of patches.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the sizes that there are.
    fn grid(&self, [height, width]: [usize; 2]) -> Result<[usize; 2]> {
        let (patch, most) = (self.patch_size, self.pos_embed_max_size);
        let fits = |n: usize| n > 0 && n.is_multiple_of(patch) && n / patch <= most;
        if fits(height) && fits(width) {
            return Ok([height / patch, width / patch]);
        }
        Err(Error::new(
            Code::InvalidArgument,
            format!("latents have {height} rows and {width} columns"),
            format!("Give multiples of {patch} up to {}", patch * most),
        ))
    }

    /// Records one forward for `batch`: ports `x [images, C, H, W]`, `timesteps [items]` (0 to 1000), `context_in [items, context_tokens,
    /// joint_attention_dim]`, `pooled [items, pooled_projection_dim]` and `out [items, C, H, W]`.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` if the parameters contradict each other, `INVALID_ARGUMENT` for a size that there is not.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        self.validate()?;
        let [height, width] = batch.size.unwrap_or([self.sample_size; 2]);
        let [rows, columns] = self.grid([height, width])?;
        let (items, dim, patch, channels) = (batch.items(), self.dim(), self.patch_size, self.in_channels);
        let mut plan = Plan::default();
        let x = plan.tensor("x", &[batch.images, channels, height, width], Role::Input);
        let time = plan.tensor("timesteps", &[items], Role::Input);
        let text = plan.tensor("context_in", &[items, self.context_tokens, self.joint_attention_dim], Role::Input);
        let pooled = plan.tensor("pooled", &[items, self.pooled_projection_dim], Role::Input);

        let frequencies = plan.scratch("", &[items, 1, FREQUENCIES]);
        plan.push(Op::TimestepEmbedding { time, out: frequencies });
        let of_time = embed(&mut plan, "time_text_embed.timestep_embedder", frequencies, dim);
        let of_text = embed(&mut plan, "time_text_embed.text_embedder", pooled, dim);
        let sum = plan.add("temb", of_time, of_text);
        // Every block's norms read it.
        let condition = plan.activate("", Activation::Silu, sum);

        let side = self.pos_embed_max_size;
        let table = plan.weight("pos_embed.pos_embed", &[1, side * side, dim], WeightUse::Floats);
        let at = (side - rows) / 2 * side + (side - columns) / 2;
        let position = Some(Position { table, at, width: columns, stride: side, inner: 1 });
        let weight = plan.weight("pos_embed.proj.weight", &[dim, channels, patch, patch], WeightUse::PatchKernel);
        let bias = Some(plan.weight("pos_embed.proj.bias", &[dim], WeightUse::Floats));
        let mut tokens = plan.scratch("tokens", &[items, rows * columns, dim]);
        let frames = Frames::NONE;
        plan.push(Op::PatchEmbed { image: x, weight, bias, position, patch, frames, out: tokens, at: 0 });
        let mut context = plan.linear("context_embedder", text, None, dim, true);
        plan.tensors[context.index()].name = "context".into();
        for i in 0..self.num_layers {
            [tokens, context] = self.block(&mut plan, i, [tokens, context], condition);
        }

        let vector = modulation(&mut plan, "norm_out", condition, 2);
        let normed = norm(&mut plan, tokens, vector, LAST);
        let predicted = plan.linear("proj_out", normed, None, patch * patch * channels, true);
        let out = plan.tensor("out", &[items, channels, height, width], Role::Output);
        plan.push(Op::Unpatchify { x: predicted, patch, frames, skip_tokens: 0, first_channel: 0, out });
        let ports = vec![
            Port { name: "x", kind: PortKind::Latents, tensor: x },
            Port { name: "timesteps", kind: PortKind::Time, tensor: time },
            Port { name: "context_in", kind: PortKind::Floats, tensor: text },
            Port { name: "pooled", kind: PortKind::Floats, tensor: pooled },
            Port { name: "out", kind: PortKind::Output, tensor: out },
        ];
        Ok(Recording { plan, ports, sampled: vec![Sampled { input: x, time, output: out, variance: None }] })
    }

    /// Joint attention and an MLP for each stream; the text's ends within the last block, and then is what it was.
    fn block(&self, plan: &mut Plan, i: usize, [x, context]: [TensorId; 2], condition: TensorId) -> [TensorId; 2] {
        let name = format!("transformer_blocks.{i}");
        let named = |part: &str| format!("{name}.{part}");
        let (last, dual) = (i + 1 == self.num_layers, self.dual_attention_layers.contains(&i));
        let of_x = modulation(plan, &named("norm1"), condition, if dual { 9 } else { 6 });
        let of_text = modulation(plan, &named("norm1_context"), condition, if last { 2 } else { 6 });
        let (items, tokens, texts) = (plan.shape(x)[0], plan.shape(x)[1], plan.shape(context)[1]);

        let joint = plan.scratch("", &[items, tokens + texts, 3 * self.dim()]);
        let normed = norm(plan, x, of_x, ATTENTION);
        self.qkv(plan, &named("attn.to_{q,k,v}"), [named("attn.norm_q"), named("attn.norm_k")], normed, joint, 0);
        let normed = norm(plan, context, of_text, if last { LAST } else { ATTENTION });
        let norms = [named("attn.norm_added_q"), named("attn.norm_added_k")];
        self.qkv(plan, &named("attn.add_{q,k,v}_proj"), norms, normed, joint, tokens);
        let attended = self.attend(plan, joint);

        let own = project(plan, &named("attn.to_out.0"), attended, 0, tokens);
        let mut after = gated(plan, x, of_x, ATTENTION, own);
        if dual {
            let normed = norm(plan, x, of_x, SECOND);
            let alone = plan.scratch("", &[items, tokens, 3 * self.dim()]);
            let norms = [named("attn2.norm_q"), named("attn2.norm_k")];
            self.qkv(plan, &named("attn2.to_{q,k,v}"), norms, normed, alone, 0);
            let attended = self.attend(plan, alone);
            let own = project(plan, &named("attn2.to_out.0"), attended, 0, tokens);
            after = gated(plan, after, of_x, SECOND, own);
        }
        let x = mlp(plan, &named("ff"), after, of_x);
        plan.tensors[x.index()].name = named("x");
        if last {
            return [x, context];
        }
        let own = project(plan, &named("attn.to_add_out"), attended, tokens, texts);
        let after = gated(plan, context, of_text, ATTENTION, own);
        let context = mlp(plan, &named("ff_context"), after, of_text);
        plan.tensors[context.index()].name = named("context");
        [x, context]
    }

    /// Queries, keys and values of a stream, which become tokens `at ..` of `out`.
    fn qkv(&self, plan: &mut Plan, name: &str, norms: [String; 2], x: TensorId, out: TensorId, at: usize) {
        if self.qk_norm.is_empty() {
            let tokens = plan.shape(x)[1];
            plan.linear_rows(name, x, 0, tokens, out, at, true);
        } else {
            let qkv = plan.linear(name, x, None, 3 * self.dim(), true);
            plan.head_norm([&norms[0], &norms[1]], qkv, self.num_attention_heads, EPS, out, at);
        }
        plan.allow(name, Precision::Narrow);
    }

    fn attend(&self, plan: &mut Plan, qkv: TensorId) -> TensorId {
        let s = plan.shape(qkv).to_vec();
        let out = plan.scratch("", &[s[0], s[1], self.dim()]);
        plan.push(Op::Attention { qkv, heads: self.num_attention_heads, causal: false, groups: Groups::Item, out });
        out
    }
}

/// `linear_2(silu(linear_1(x)))`, a token an item; x may be a vector.
fn embed(plan: &mut Plan, name: &str, x: TensorId, dim: usize) -> TensorId {
    let (items, k) = (plan.shape(x)[0], plan.shape(x).last().copied().unwrap_or(0));
    let weight = plan.weight(format!("{name}.linear_1.weight"), &[dim, k], WeightUse::Matrix);
    let bias = Some(plan.weight(format!("{name}.linear_1.bias"), &[dim], WeightUse::Floats));
    let hidden = plan.scratch("", &[items, 1, dim]);
    plan.push(Op::Linear { x, skip: None, weight, bias, rows: None, out: hidden });
    let hidden = plan.activate("", Activation::Silu, hidden);
    plan.linear(&format!("{name}.linear_2"), hidden, None, dim, true)
}

/// A norm's vectors of shifts, scales and gates.
fn modulation(plan: &mut Plan, norm: &str, condition: TensorId, chunks: usize) -> TensorId {
    let (name, dim) = (format!("{norm}.linear"), plan.shape(condition)[2]);
    let vector = plan.linear(&name, condition, None, chunks * dim, true);
    // A fifth of all weights, for one token.
    plan.allow(&name, Precision::Wide);
    vector
}

fn norm(plan: &mut Plan, x: TensorId, vector: TensorId, chunks: Chunks) -> TensorId {
    let dim = plan.shape(x)[2];
    plan.modulated_norm("", x, Modulation { vector, shift: chunks.shift * dim, scale: chunks.scale * dim }, EPS)
}

fn gated(plan: &mut Plan, x: TensorId, vector: TensorId, chunks: Chunks, y: TensorId) -> TensorId {
    let at = chunks.gate * plan.shape(x)[2];
    plan.gated_add("", x, GateOf { vector, at }, y)
}

/// A Linear of some tokens, as wide as they are.
fn project(plan: &mut Plan, name: &str, x: TensorId, first: usize, count: usize) -> TensorId {
    let s = plan.shape(x).to_vec();
    let out = plan.scratch(name, &[s[0], count, s[2]]);
    plan.linear_rows(name, x, first, count, out, 0, true);
    plan.allow(name, Precision::Narrow);
    out
}

fn mlp(plan: &mut Plan, name: &str, x: TensorId, vector: TensorId) -> TensorId {
    let (up, down, dim) = (format!("{name}.net.0.proj"), format!("{name}.net.2"), plan.shape(x)[2]);
    let normed = norm(plan, x, vector, MLP);
    let hidden = plan.linear(&up, normed, None, 4 * dim, true);
    let hidden = plan.activate("", Activation::GeluTanh, hidden);
    let y = plan.linear(&down, hidden, None, dim, true);
    for name in [up, down] {
        plan.allow(&name, Precision::Narrow);
    }
    gated(plan, x, vector, MLP, y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Read, json};
    use crate::plan::{Capabilities, lower};

    fn parameters(config: &Config) -> usize {
        let plan = config.record(Batch::plain(1)).unwrap().plan;
        // Positions are no parameters.
        let weights = plan.published().filter(|weight| weight.name != "pos_embed.pos_embed");
        weights.map(|weight| weight.shape.iter().product::<usize>()).sum()
    }

    /// Parameters of the models on Hugging Face, as diffusers counts them.
    #[test]
    fn the_published_models_have_their_parameters() {
        let params = json!({ "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536 });
        let medium = Config { pos_embed_max_size: 192, ..Config::read(&params).unwrap() };
        let newer = Config {
            pos_embed_max_size: 384,
            qk_norm: "rms_norm".into(),
            dual_attention_layers: (0..13).collect(),
            ..medium.clone()
        };
        assert_eq!(parameters(&medium), 2_028_328_000);
        assert_eq!(parameters(&newer), 2_243_171_520);
        let large = json!({
            "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm",
            "pos_embed_max_size": 192,
        });
        assert_eq!(parameters(&Config::read(&large).unwrap()), 8_056_627_520);
    }

    #[test]
    fn nothing_but_one_norm_an_image_is_a_kernel_of_its_own() {
        let params = json!({
            "sample_size": 8, "num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 16,
            "caption_projection_dim": 32, "joint_attention_dim": 24, "pooled_projection_dim": 20, "context_tokens": 5,
        });
        let plan = Config::read(&params).unwrap().record(Batch::copied(2, 2)).unwrap().plan;
        for capabilities in [Capabilities::CPU, Capabilities::WEBGPU] {
            let program = lower(&plan, &capabilities, &[]).unwrap();
            let count = |name| program.kernels.iter().filter(|kernel| kernel.name() == name).count();
            // The sum's activation; gates and residuals join Linears, tokens are written where they are read.
            assert_eq!((count("elementwise"), count("copy_tokens"), count("attention")), (1, 0, 3));
            // Five Linears a stream and block, but two of the text's in the last one; time, pooled text and words; the end.
            assert_eq!(count("matmul"), 2 * 10 + 7 + 5 + 2);
            assert_eq!(count("layer_norm"), 2 * 4 + 3 + 1);
        }
    }
}
