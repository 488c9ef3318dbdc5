//! UniDiffuser's caption decoder: GPT-2 (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019) that continues a
//! prefix, the text latents through a Linear. Follows `libs/caption_decoder.py` of thu-ml/unidiffuser at
//! 845e14f7939fb28a7f8d879ff18b7c9e09c7434b on `GPT2LMHeadModel` of huggingface/transformers 5.23.0, tensor names included;
//! `encode_prefix` is a network of its own ([`super::prefix_encoder`]).
//!
//! Besides the whole forward there are two that share keys and values in a State: one over the prefixes, and one over the next token
//! of every caption. Which rows of the cache belong to which caption is data: captions that begin alike share what they have in
//! common, and one that becomes the continuation of another takes over its rows' numbers.

use super::clip::Act;
use super::transformer::{unsupported, within};
use super::{Batch, Port, PortKind, Recording};
use crate::Result;
use crate::decimal::decimal;
use crate::json::{self, Write};
use crate::plan::{Activation, Groups, Op, Plan, Position, Precision, Role, TensorId, WeightUse};

/// The published configuration, under its names, and how captions are searched for.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The language model.
    pub gpt2: Gpt2,
    /// Tokens of the latents.
    pub prefix_length: usize,
    /// Width of a token of the latents.
    pub hidden_dim: usize,
    /// The token that ends a caption.
    pub stop_token: usize,
    /// Beams of a search, if nobody says otherwise.
    pub beam_size: usize,
    /// Tokens of a caption, at most.
    pub entry_length: usize,
}

json::fields!(Config { gpt2, prefix_length, hidden_dim, stop_token, beam_size = 5, entry_length = 67 });

/// `GPT2Config`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gpt2 {
    /// Tokens that there are.
    pub vocab_size: usize,
    /// Tokens of the longest text, the prefix included.
    pub n_positions: usize,
    /// Width of a token.
    pub n_embd: usize,
    /// Layers.
    pub n_layer: usize,
    /// Attention heads.
    pub n_head: usize,
    /// `gelu_new`, `gelu` or `quick_gelu`.
    pub activation_function: Act,
    /// Of every LayerNorm.
    pub layer_norm_epsilon: f64,
}

json::fields!(Gpt2 {
    vocab_size = 50257,
    n_positions = 1024,
    n_embd = 768,
    n_layer = 12,
    n_head = 12,
    activation_function = Act(Activation::GeluTanh),
    layer_norm_epsilon = 1e-5,
});

impl From<Gpt2> for json::Value {
    fn from(config: Gpt2) -> json::Value {
        config.write()
    }
}

const TRANSFORMER: &str = "gpt.transformer";

/// What the attention of a layer reads, beside its queries.
enum Seen {
    /// The tokens at hand; they go into a cache, if there are places for them.
    Tokens(Option<Cache>),
    /// What is in the cache at the places of positions.
    Cached { cache: Cache, seen: TensorId, positions: TensorId },
}

/// Where the keys and values of new tokens go.
#[derive(Clone, Copy)]
struct Cache {
    /// Of all layers.
    rows: usize,
    /// `[items, tokens]`.
    places: TensorId,
}

impl Config {
    /// Tokens of the longest caption with its prefix.
    pub fn tokens(&self) -> usize {
        self.prefix_length + self.entry_length
    }

    fn validate(&self) -> Result<()> {
        let Gpt2 { vocab_size, n_positions, n_embd, n_layer, n_head, layer_norm_epsilon: eps, .. } = self.gpt2;
        within("vocab_size", vocab_size, 1 << 20)?;
        within("n_positions", n_positions, 1 << 16)?;
        within("n_embd", n_embd, 4096)?;
        within("n_layer", n_layer, 64)?;
        within("n_head", n_head, 1024)?;
        within("prefix_length", self.prefix_length, 4096)?;
        within("hidden_dim", self.hidden_dim, 8192)?;
        within("beam_size", self.beam_size, vocab_size.min(64))?;
        within("entry_length", self.entry_length, 4096)?;
        if !n_embd.is_multiple_of(4 * n_head) || n_embd / n_head > 128 {
            return Err(unsupported(format!("{n_embd} channels in {n_head} heads are not 4 to 128 each, by fours")));
        }
        if self.tokens() > n_positions {
            let Config { prefix_length, entry_length, .. } = self;
            let cause = format!("a prefix of {prefix_length} and {entry_length} tokens exceed {n_positions} positions");
            return Err(unsupported(cause));
        }
        if self.stop_token >= vocab_size {
            return Err(unsupported(format!("stop_token is {}, of {vocab_size} tokens", self.stop_token)));
        }
        if !(eps > 0.0 && eps < 1.0) {
            return Err(unsupported(format!("layer_norm_epsilon is {}", decimal(eps))));
        }
        Ok(())
    }

    /// Records one forward for `batch`, without a cache: ports `encoded_prefix [items, prefix_length, hidden_dim]`, `tokens [items,
    /// entry_length]` and `logits [items, prefix_length + entry_length, vocab_size]`. A token sees itself and what is before it, so
    /// whatever stands for those that there are not yet changes nothing.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` if the parameters contradict each other.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        let (items, prefix, entry) = (batch.items(), self.prefix_length, self.entry_length);
        let (mut recording, decoded) = self.begin(items)?;
        let plan = &mut recording.plan;
        let index = plan.tensor("tokens", &[items, entry], Role::Indices);
        let x = plan.scratch("", &[items, prefix + entry, self.gpt2.n_embd]);
        let [table, positions] = self.tables(plan);
        let position = |at: usize| Some(Position::plain(positions, at));
        plan.push(Op::CopyTokens { x: decoded, from: 0, count: prefix, position: position(0), out: x, at: 0 });
        plan.push(Op::Embedding { table, index: Some(index), position: position(prefix), out: x, at: prefix });
        self.port(&mut recording, "tokens", index, self.gpt2.vocab_size);
        let x = self.layers(&mut recording.plan, x, &Seen::Tokens(None));
        self.finish(recording, x)
    }

    /// Records the forward of `items` prefixes, whose keys and values go to the rows `places [items, prefix_length]` of caches of
    /// `rows`: ports `encoded_prefix`, `places` and `logits [items, 1, vocab_size]`, of the first token of each caption.
    ///
    /// # Errors
    /// As [`Config::record`].
    pub fn prefill(&self, items: usize, rows: usize) -> Result<Recording> {
        let (dim, prefix) = (self.gpt2.n_embd, self.prefix_length);
        let (mut recording, decoded) = self.begin(items)?;
        let plan = &mut recording.plan;
        let places = plan.tensor("places", &[items, prefix], Role::Indices);
        let x = plan.scratch("", &[items, prefix, dim]);
        let [_, table] = self.tables(plan);
        let position = Some(Position::plain(table, 0));
        plan.push(Op::CopyTokens { x: decoded, from: 0, count: prefix, position, out: x, at: 0 });
        let x = self.layers(plan, x, &Seen::Tokens(Some(Cache { rows, places })));
        let last = plan.scratch("", &[items, 1, dim]);
        plan.push(Op::CopyTokens { x, from: prefix - 1, count: 1, position: None, out: last, at: 0 });
        self.port(&mut recording, "places", places, rows);
        self.finish(recording, last)
    }

    /// Records the forward of one more token of each of `items` captions: ports `tokens`, `positions` and `places [items, 1]`, where
    /// the token's keys and values go, `seen [items, prefix_length + entry_length]`, where those of its positions lie, its own
    /// among them, and `logits [items, 1, vocab_size]`.
    ///
    /// # Errors
    /// As [`Config::record`].
    pub fn decode(&self, items: usize, rows: usize) -> Result<Recording> {
        self.validate()?;
        let mut recording = Recording::default();
        let plan = &mut recording.plan;
        self.declare(plan);
        let [tokens, positions, places] =
            ["tokens", "positions", "places"].map(|name| plan.tensor(name, &[items, 1], Role::Indices));
        let seen = plan.tensor("seen", &[items, self.tokens()], Role::Indices);
        let shape = [items, 1, self.gpt2.n_embd];
        let [of_tokens, of_positions] = self.tables(plan);
        let [token, position] = [(of_tokens, tokens), (of_positions, positions)].map(|(table, index)| {
            let out = plan.scratch("", &shape);
            plan.push(Op::Embedding { table, index: Some(index), position: None, out, at: 0 });
            out
        });
        let x = plan.add("", token, position);
        let x = self.layers(plan, x, &Seen::Cached { cache: Cache { rows, places }, seen, positions });
        self.port(&mut recording, "tokens", tokens, self.gpt2.vocab_size);
        self.port(&mut recording, "positions", positions, self.tokens());
        self.port(&mut recording, "places", places, rows);
        self.port(&mut recording, "seen", seen, rows);
        self.finish(recording, x)
    }

    /// The tensors of a State with so many rows a layer: names and shapes.
    pub fn caches(&self, rows: usize) -> Vec<(String, Vec<usize>)> {
        (0..self.gpt2.n_layer).map(|layer| (cache_name(layer), vec![1, rows, 2 * self.gpt2.n_embd])).collect()
    }

    /// The weights that not all forwards read, for all have the same ids.
    fn declare(&self, plan: &mut Plan) {
        let dim = self.gpt2.n_embd;
        plan.weight("decode_prefix.weight", &[dim, self.hidden_dim], WeightUse::Matrix);
        plan.weight("decode_prefix.bias", &[dim], WeightUse::Floats);
        self.tables(plan);
    }

    /// Of tokens and of positions.
    fn tables(&self, plan: &mut Plan) -> [crate::plan::WeightId; 2] {
        let Gpt2 { vocab_size, n_positions, n_embd, .. } = self.gpt2;
        [("wte", vocab_size), ("wpe", n_positions)]
            .map(|(name, rows)| plan.weight(format!("{TRANSFORMER}.{name}.weight"), &[rows, n_embd], WeightUse::Floats))
    }

    /// The prefix, as wide as the language model.
    fn begin(&self, items: usize) -> Result<(Recording, TensorId)> {
        self.validate()?;
        let mut recording = Recording::default();
        let plan = &mut recording.plan;
        self.declare(plan);
        let encoded = plan.tensor("encoded_prefix", &[items, self.prefix_length, self.hidden_dim], Role::Input);
        let decoded = plan.linear("decode_prefix", encoded, None, self.gpt2.n_embd, true);
        plan.tensors[decoded.index()].name = "decoded_prefix".into();
        recording.ports.push(Port { name: "encoded_prefix", kind: PortKind::Floats, tensor: encoded });
        Ok((recording, decoded))
    }

    fn port(&self, recording: &mut Recording, name: &'static str, tensor: TensorId, of: usize) {
        recording.ports.push(Port { name, kind: PortKind::Indices { of }, tensor });
    }

    /// The last norm, and products with every row of the tokens' table.
    fn finish(&self, mut recording: Recording, x: TensorId) -> Result<Recording> {
        let plan = &mut recording.plan;
        let normed = plan.layer_norm(&format!("{TRANSFORMER}.ln_f"), x, self.gpt2.layer_norm_epsilon as f32);
        let table = format!("{TRANSFORMER}.wte");
        let logits = plan.linear(&table, normed, None, self.gpt2.vocab_size, false);
        plan.allow(&table, Precision::Wide);
        let tensor = &mut plan.tensors[logits.index()];
        (tensor.name, tensor.role) = ("logits".into(), Role::Output);
        recording.ports.push(Port { name: "logits", kind: PortKind::Output, tensor: logits });
        Ok(recording)
    }

    fn layers(&self, plan: &mut Plan, mut x: TensorId, seen: &Seen) -> TensorId {
        for layer in 0..self.gpt2.n_layer {
            x = self.layer(plan, layer, x, seen);
            plan.tensors[x.index()].name = format!("h.{layer}");
        }
        x
    }

    fn layer(&self, plan: &mut Plan, layer: usize, mut x: TensorId, seen: &Seen) -> TensorId {
        let (name, dim, heads) = (format!("{TRANSFORMER}.h.{layer}"), self.gpt2.n_embd, self.gpt2.n_head);
        let (eps, shape) = (self.gpt2.layer_norm_epsilon as f32, plan.shape(x).to_vec());
        let normed = plan.layer_norm(&format!("{name}.ln_1"), x, eps);
        let qkv = plan.linear_of_columns(&format!("{name}.attn.c_attn"), normed, 3 * dim);
        let attended = plan.scratch("", &shape);
        let store = |plan: &mut Plan, Cache { rows, places }: Cache| {
            let cache = plan.tensor(cache_name(layer), &[1, rows, 2 * dim], Role::State);
            plan.push(Op::WriteCache { qkv, places, out: cache });
            cache
        };
        match *seen {
            Seen::Tokens(cache) => {
                cache.map(|cache| store(plan, cache));
                plan.push(Op::Attention { qkv, heads, causal: true, groups: Groups::Item, out: attended });
            }
            Seen::Cached { cache, seen: places, positions } => {
                let cache = store(plan, cache);
                plan.push(Op::CachedAttention { qkv, cache, places, positions, heads, out: attended });
            }
        }
        let projected = plan.linear_of_columns(&format!("{name}.attn.c_proj"), attended, dim);
        x = plan.add("", x, projected);
        let normed = plan.layer_norm(&format!("{name}.ln_2"), x, eps);
        let up = plan.linear_of_columns(&format!("{name}.mlp.c_fc"), normed, 4 * dim);
        let activated = plan.activate("", self.gpt2.activation_function.0, up);
        let down = plan.linear_of_columns(&format!("{name}.mlp.c_proj"), activated, dim);
        // A token that is another changes all behind it; and with a row an item, reading the matrices is what takes the time.
        for linear in ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"] {
            plan.allow(&format!("{name}.{linear}"), Precision::Wide);
        }
        plan.add("", x, down)
    }
}

/// A layer's keys and values in a State.
fn cache_name(layer: usize) -> String {
    format!("cache.{layer}")
}
