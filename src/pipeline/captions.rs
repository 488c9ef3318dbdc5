//! From text latents to captions: the caption decoder's tokens, found greedily or by beam search, and what they spell. Keys and
//! values stay on the device; what comes back for every token are the logits.

use super::beams::Search;
use super::component::Component;
use super::components::Components;
use crate::model::caption_decoder::Config;
use crate::model::{Network, Recording};
use crate::package::CAPTION_DECODER;
use crate::plan::{TensorId, lower};
use crate::runtime::{Session, State, turn};
use crate::text::{Spelling, Symbols};
use crate::{Code, Error, Result};

/// A caption.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caption {
    /// Its tokens, the one that stops it included.
    pub ids: Vec<u32>,
    /// What they spell.
    pub text: String,
    /// Whether it ends by itself, and not because it is as long as can be.
    pub ended: bool,
}

/// Spells what a caption decoder says.
pub(super) struct Captions {
    symbols: Symbols,
    longest: usize,
    beams: usize,
}

impl Captions {
    /// Of a file of merges, for the model's caption decoder.
    ///
    /// # Errors
    /// `BAD_MANIFEST` for merges that are none, or of another vocabulary.
    pub fn new(merges: &[u8], spelling: Spelling, components: &Components) -> Result<Captions> {
        let bad =
            |cause: String| Error::new(Code::BadManifest, cause, "Convert the model again, with its own merges.txt");
        let text = std::str::from_utf8(merges).map_err(|e| bad(format!("a tokenizer's merges: no text ({e})")))?;
        let symbols = Symbols::new(text, spelling)?;
        let config = config(components.network(CAPTION_DECODER))?;
        let vocabulary = config.gpt2.vocab_size;
        // Beside the symbols there are at most a few special tokens.
        match (symbols.count() as usize..=symbols.count() as usize + 16).contains(&vocabulary) {
            true => Ok(Captions { symbols, longest: config.entry_length, beams: config.beam_size }),
            false => Err(bad(format!(
                "the captions' merges make {} symbols, and component {CAPTION_DECODER} has a vocab_size of {vocabulary}",
                symbols.count()
            ))),
        }
    }

    /// Tokens of the longest caption.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Beams of a search, if nobody says otherwise.
    pub fn beams(&self) -> usize {
        self.beams
    }

    /// The captions of `latents [captions, prefix_length, hidden_dim]`, in so many beams each, one: greedily. `on_texts` is told how
    /// many tokens there are, and what all captions are so far.
    ///
    /// # Errors
    /// Those of [`search`] and of loading the component.
    pub async fn tell(
        &mut self,
        components: &mut Components,
        latents: &[f32],
        beams: usize,
        on_texts: &mut dyn FnMut(usize, &[String]),
        stopped: &dyn Fn() -> bool,
    ) -> Result<Vec<Caption>> {
        let component = components.get(CAPTION_DECODER, stopped).await?;
        let symbols = &self.symbols;
        let mut texts: Vec<String> = Vec::new();
        let mut on_tokens = |first: usize, searches: &[Search]| {
            let tokens = searches.iter().map(|search| search.best().tokens.len()).max().unwrap_or(0);
            texts.truncate(first);
            for search in searches {
                texts.push(symbols.text(&search.best().tokens));
            }
            on_texts(tokens, &texts);
        };
        let found = search(component, latents, beams, &mut on_tokens, stopped).await;
        components.done(CAPTION_DECODER);
        let mut captions = Vec::new();
        for search in found? {
            let best = search.best();
            let text = symbols.text(&best.tokens);
            captions.push(Caption { ids: best.tokens.clone(), text, ended: best.stopped });
        }
        Ok(captions)
    }
}

fn config(network: Option<&Network>) -> Result<&Config> {
    match network {
        Some(Network::CaptionDecoder(config)) => Ok(config),
        _ => Err(Error::internal("there is no caption decoder")),
    }
}

/// Captions that are searched for together, at most: a matrix is read once for all their beams.
const MOST_ITEMS: usize = 32;
/// Bytes of their keys and values, at most.
const MOST_BYTES: usize = 128 << 20;

/// Forwards of so many captions in so many beams.
pub(super) struct Generation {
    captions: usize,
    beams: usize,
    prefill: (Recording, Session),
    decode: (Recording, Session),
}

/// The tensor of a port.
fn port(recording: &Recording, name: &str) -> Result<TensorId> {
    recording.port(name).map(|port| port.tensor).ok_or_else(|| Error::internal(format!("there is no port {name}")))
}

/// Rows of a cache that one caption takes: its prefix, and every token of every beam.
pub fn rows_of(config: &Config, beams: usize) -> usize {
    config.prefix_length + beams * (config.entry_length - 1)
}

fn push_rows(rows: &mut Vec<u32>, first: usize, count: usize) {
    for row in first..first + count {
        rows.push(row as u32);
    }
}

impl Generation {
    async fn new(component: &mut Component, config: &Config, captions: usize, beams: usize) -> Result<Generation> {
        let of_one = rows_of(config, beams);
        let rows = captions * of_one;
        let state = State::new(&component.weights().device(), &config.caches(rows)).await?;
        let mut sessions = Vec::new();
        for recording in [config.prefill(captions, rows)?, config.decode(captions * beams, rows)?] {
            let program = lower(&recording.plan, &component.weights().capabilities(), &[])?;
            let session = component.session(program, Some(&state)).await?;
            sessions.push((recording, session));
        }
        let (Some(decode), Some(mut prefill)) = (sessions.pop(), sessions.pop()) else {
            return Err(Error::internal("two forwards"));
        };
        let mut places = Vec::with_capacity(captions * config.prefix_length);
        for first in 0..captions {
            push_rows(&mut places, first * of_one, config.prefix_length);
        }
        prefill.1.write_indices(port(&prefill.0, "places")?, &places)?;
        Ok(Generation { captions, beams, prefill, decode })
    }

    /// The logits of the first tokens, `[captions, vocabulary]`.
    async fn begin(&mut self, latents: &[f32], stopped: &dyn Fn() -> bool) -> Result<Vec<f32>> {
        let (recording, session) = &mut self.prefill;
        session.write(port(recording, "encoded_prefix")?, latents)?;
        session.forward(stopped).await?;
        session.read(port(recording, "logits")?).await
    }

    /// The logits of the next tokens, `[captions, beams, vocabulary]`, once those of all beams have a row each.
    async fn go_on(
        &mut self,
        config: &Config,
        searches: &mut [Search],
        stopped: &dyn Fn() -> bool,
        given: &mut [Vec<u32>; 4],
    ) -> Result<Vec<f32>> {
        let (prefix, of_one) = (config.prefix_length, rows_of(config, self.beams));
        let [tokens, positions, places, seen] = given;
        for indices in [&mut *tokens, &mut *positions, &mut *places, &mut *seen] {
            indices.clear();
        }
        for (i, search) in searches.iter_mut().enumerate() {
            for (j, beam) in search.beams.iter_mut().enumerate() {
                let position = prefix + beam.rows.len();
                let row = (i * of_one + prefix + beam.rows.len() * self.beams + j) as u32;
                beam.rows.push(row);
                tokens.push(if beam.stopped { 0 } else { beam.tokens.last().copied().unwrap_or(0) });
                positions.push(position as u32);
                places.push(row);
                push_rows(seen, i * of_one, prefix);
                seen.extend(&beam.rows);
                // Those that are not seen.
                seen.resize(tokens.len() * config.tokens(), row);
            }
        }
        let (recording, session) = &mut self.decode;
        for (name, values) in ["tokens", "positions", "places", "seen"].into_iter().zip(&*given) {
            session.write_indices(port(recording, name)?, values)?;
        }
        session.forward(stopped).await?;
        session.read(port(recording, "logits")?).await
    }
}

/// Searches for captions of `latents [captions, prefix_length, hidden_dim]`; gives a search for each, which is over, or as long as can
/// be. `on_tokens` is told after every token: which captions these are, from the first of them on.
///
/// # Errors
/// `INVALID_ARGUMENT` for a number of beams that cannot be, `NOT_FINITE` naming the caption, `ABORTED`, `DEVICE_LOST`,
/// `OUT_OF_MEMORY`, `LIMIT_TOO_SMALL`.
pub async fn search(
    component: &mut Component,
    latents: &[f32],
    beams: usize,
    on_tokens: &mut dyn FnMut(usize, &[Search]),
    stopped: &dyn Fn() -> bool,
) -> Result<Vec<Search>> {
    let config = config(Some(component.network()))?.clone();
    let most = MOST_ITEMS.min(config.gpt2.vocab_size);
    if !(1..=most).contains(&beams) {
        let remedy = format!("Give 1 to {most}; 1 takes the likeliest token every time");
        return Err(Error::new(Code::InvalidArgument, format!("a search of {beams} beams"), remedy));
    }
    let of_one = config.prefix_length * config.hidden_dim;
    let all = latents.len() / of_one;
    if latents.len() != all * of_one {
        return Err(Error::internal(format!("{} values are no text latents", latents.len())));
    }
    if let Some(at) = latents.iter().position(|v| !v.is_finite()) {
        let cause = format!("the text latents of caption {} are not finite", at / of_one + 1);
        return Err(Error::new(Code::NotFinite, cause, "Check what they were computed from, or use compute \"f32\""));
    }
    if all == 0 {
        return Ok(Vec::new());
    }
    let bytes = 8 * config.gpt2.n_embd * config.gpt2.n_layer * rows_of(&config, beams);
    let limit = MOST_BYTES.min(component.weights().capabilities().max_binding);
    let together = (MOST_ITEMS / beams).min(limit / bytes).clamp(1, all);
    let mut found = Vec::with_capacity(all);
    // Kept for the next call, unless something goes wrong.
    let mut generation = match component.generation.take() {
        Some(made) if (made.captions, made.beams) == (together, beams) => made,
        _ => Generation::new(component, &config, together, beams).await?,
    };
    let mut given: [Vec<u32>; 4] = Default::default();
    for group in latents.chunks(together * of_one) {
        let count = group.len() / of_one;
        // A last group may be smaller: its first caption fills it up.
        let mut values = group.to_vec();
        while values.len() < together * of_one {
            values.extend_from_slice(&group[..of_one]);
        }
        let mut searches = vec![Search::new(beams, config.stop_token as u32); together];
        let mut logits = generation.begin(&values, stopped).await?;
        for token in 0..config.entry_length {
            let of_search = logits.len() / together;
            for (i, (search, logits)) in searches.iter_mut().zip(logits.chunks_exact(of_search)).enumerate() {
                if i < count && !logits.iter().all(|v| v.is_finite()) {
                    let cause = format!("the logits of caption {} are not finite", found.len() + i + 1);
                    return Err(Error::new(Code::NotFinite, cause, "Use compute \"f32\""));
                }
                search.step(logits);
            }
            on_tokens(found.len(), &searches[..count]);
            if token + 1 == config.entry_length || searches.iter().all(Search::is_over) {
                break;
            }
            turn().await;
            logits = generation.go_on(&config, &mut searches, stopped, &mut given).await?;
        }
        searches.truncate(count);
        found.append(&mut searches);
    }
    component.generation = Some(generation);
    Ok(found)
}
