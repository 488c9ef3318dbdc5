//! The first stage of a text to image model: from words to what the denoiser is given for them. Tokens, the text encoder's last
//! hidden states, and where there is a projector what it makes of them; or what two text encoders make, side by side.

use super::components::Components;
use super::joining::{Joined, Joining};
use super::tensors::{NamedTensor, Values, floats};
use crate::model::{Batch, PortKind};
use crate::package::{DENOISER, TEXT_ENCODER, TEXT_ENCODER_2, TEXT_PROJECTOR};
use crate::text::{Padding, Tokenizer};
use crate::{Code, Error, Result};

/// A text as the first text encoder reads it, and as the second one does, if there is one.
pub(super) type Read<'a> = [&'a str; 2];

/// A tokenizer, and the texts of the last call.
pub(super) struct Words {
    tokenizer: Tokenizer,
    /// Tokens of a text.
    length: usize,
    /// The encoders that there are, and what fills up the texts of each.
    encoders: Vec<(&'static str, Padding)>,
    /// Where the denoiser takes what the encoders make side by side.
    joined: Option<Joined>,
    /// Each once, with its embedding: `[tokens, dim]`, or as [`Joining`] makes it.
    known: Vec<([String; 2], Vec<f32>)>,
}

/// What [`Words::learn`] did.
pub(super) struct Learnt {
    /// Which texts are cut, and where.
    pub warnings: Vec<String>,
    /// Whether a network ran.
    pub ran: bool,
}

impl Words {
    /// Of CLIP's merges, for the text encoders.
    ///
    /// # Errors
    /// `BAD_MANIFEST` for merges that are none, or of another vocabulary than an encoder's.
    pub fn new(merges: &[u8], components: &Components) -> Result<Words> {
        let bad =
            |cause: String| Error::new(Code::BadManifest, cause, "Convert the model again, with its own merges.txt");
        let text = std::str::from_utf8(merges).map_err(|e| bad(format!("asset tokenizer: it is no text ({e})")))?;
        let tokenizer = Tokenizer::new(text)?;
        let (mut encoders, mut length) = (Vec::new(), 0);
        for name in [TEXT_ENCODER, TEXT_ENCODER_2] {
            let Some(encoder) = components.network(name) else { continue };
            length = encoder.tokens();
            let recording = encoder.record(Batch::plain(1))?;
            match recording.port("input_ids").map(|ids| ids.kind) {
                Some(PortKind::Indices { of }) if of == tokenizer.vocabulary() => {
                    encoders.push((name, tokenizer.padding(encoder.pad_token())));
                }
                Some(PortKind::Indices { of }) => {
                    return Err(bad(format!(
                        "asset tokenizer: its merges make {} ids, and component {name} has a vocab_size of {of}",
                        tokenizer.vocabulary()
                    )));
                }
                _ => return Err(Error::internal("a text encoder takes ids")),
            }
        }
        let denoiser = components.network(DENOISER).ok_or_else(|| Error::internal("there is no denoiser"))?;
        let joined = Joined::of(&denoiser.record(Batch::plain(1))?);
        Ok(Words { tokenizer, length, encoders, joined, known: Vec::new() })
    }

    /// Makes the embeddings of texts known; those of the last call are not computed again. `begun` is called before a network
    /// runs.
    ///
    /// # Errors
    /// `ABORTED`, `DEVICE_LOST`, `OUT_OF_MEMORY`, and those of loading components.
    pub async fn learn(
        &mut self,
        texts: &[Read<'_>],
        components: &mut Components,
        begun: &mut dyn FnMut(),
        stopped: &dyn Fn() -> bool,
    ) -> Result<Learnt> {
        let (mut warnings, mut unknown) = (Vec::new(), Vec::new());
        let mut ids: Vec<Vec<u32>> = vec![Vec::new(); self.encoders.len()];
        for (i, text) in texts.iter().enumerate().filter(|(i, text)| !texts[..*i].contains(text)) {
            let new = !self.known.iter().any(|(known, _)| known == text);
            for (k, (_, pad)) in self.encoders.iter().enumerate() {
                let encoded = self.tokenizer.encode(text[k], self.length, pad);
                if let Some(word) = encoded.left_out {
                    let (begun, fits) = (begin(text[k]), self.length - 2);
                    let warning = format!("\"{begun}\" is cut before \"{word}\": a text has {fits} tokens at most");
                    if !warnings.contains(&warning) {
                        warnings.push(warning);
                    }
                }
                if new {
                    ids[k].extend(encoded.ids);
                }
            }
            if new {
                unknown.push(texts[i].map(str::to_owned));
            }
        }
        self.known.retain(|(known, _)| texts.iter().any(|text| known == text));
        if unknown.is_empty() {
            return Ok(Learnt { warnings, ran: false });
        }
        begun();
        let values = match self.joined {
            Some(shape) => {
                let mut joining = Joining::new(shape, unknown.len());
                for ((name, _), ids) in self.encoders.iter().zip(ids) {
                    let given = Values::Indices(ids.clone());
                    let results = run(components, name, ("input_ids", given), stopped).await?;
                    let (hidden, projected) = (floats(&results, "hidden_state")?, floats(&results, "text_embeds")?);
                    joining.add(&ids, self.tokenizer.end(), hidden, projected)?;
                }
                joining.finish()
            }
            None => {
                let given = Values::Indices(ids.into_iter().next().unwrap_or_default());
                let results = run(components, TEXT_ENCODER, ("input_ids", given), stopped).await?;
                let mut values = floats(&results, "last_hidden_state")?.to_vec();
                if components.network(TEXT_PROJECTOR).is_some() {
                    let given = ("prefix_features", Values::Floats(values));
                    let results = run(components, TEXT_PROJECTOR, given, stopped).await?;
                    values = floats(&results, "encoded_prefix")?.to_vec();
                }
                values
            }
        };
        let size = values.len() / unknown.len();
        self.known.extend(unknown.into_iter().zip(values.chunks(size).map(<[f32]>::to_vec)));
        Ok(Learnt { warnings, ran: true })
    }

    /// The embeddings of texts, one after the other.
    ///
    /// # Errors
    /// `INTERNAL` for one that was not learnt.
    pub fn of(&self, texts: &[Read<'_>]) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        for text in texts {
            let known = self.known.iter().find(|(known, _)| known == text);
            values.extend(&known.ok_or_else(|| Error::internal("a text was not learnt"))?.1);
        }
        Ok(values)
    }
}

/// The stage of one network, for all texts.
async fn run(
    components: &mut Components,
    name: &str,
    (port, values): (&str, Values),
    stopped: &dyn Fn() -> bool,
) -> Result<Vec<NamedTensor>> {
    let given = [NamedTensor::new(port, values)];
    let results = components.get(name, stopped).await?.forward(&given, stopped).await?;
    components.done(name);
    Ok(results)
}

/// The beginning of a text, for a message.
fn begin(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
