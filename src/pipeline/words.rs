//! The first stage of a text to image model: from words to what the denoiser is given for them. Tokens, the text encoder's last
//! hidden states, and where there is a projector what it makes of them.

use super::components::Components;
use super::tensors::{NamedTensor, Values};
use crate::model::{Batch, PortKind};
use crate::package::{TEXT_ENCODER, TEXT_PROJECTOR};
use crate::text::Tokenizer;
use crate::{Code, Error, Result};

/// A tokenizer, and the texts of the last call.
pub(super) struct Words {
    tokenizer: Tokenizer,
    /// Tokens of a text.
    length: usize,
    /// Each once, with its embedding `[tokens, dim]`.
    known: Vec<(String, Vec<f32>)>,
}

/// What [`Words::learn`] did.
pub(super) struct Learnt {
    /// Which texts are cut, and where.
    pub warnings: Vec<String>,
    /// Whether a network ran.
    pub ran: bool,
}

impl Words {
    /// Of CLIP's merges, for the text encoder.
    ///
    /// # Errors
    /// `BAD_MANIFEST` for merges that are none, or of another vocabulary than the encoder's.
    pub fn new(merges: &[u8], components: &Components) -> Result<Words> {
        let bad =
            |cause: String| Error::new(Code::BadManifest, cause, "Convert the model again, with its own merges.txt");
        let text = std::str::from_utf8(merges).map_err(|e| bad(format!("asset tokenizer: it is no text ({e})")))?;
        let tokenizer = Tokenizer::new(text)?;
        let encoder = components.network(TEXT_ENCODER).ok_or_else(|| Error::internal("there is no text encoder"))?;
        let recording = encoder.record(Batch::plain(1))?;
        let ids = recording.port("input_ids").ok_or_else(|| Error::internal("a text encoder takes ids"))?;
        let length = recording.plan.shape(ids.tensor)[1];
        match ids.kind {
            PortKind::Indices { of } if of == tokenizer.vocabulary() => {
                Ok(Words { tokenizer, length, known: Vec::new() })
            }
            PortKind::Indices { of } => Err(bad(format!(
                "asset tokenizer: its merges make {} ids, and component {TEXT_ENCODER} has a vocab_size of {of}",
                tokenizer.vocabulary()
            ))),
            _ => Err(Error::internal("ids are no indices")),
        }
    }

    /// Makes the embeddings of texts known; those of the last call are not computed again. `begun` is called before a network
    /// runs.
    ///
    /// # Errors
    /// `ABORTED`, `DEVICE_LOST`, `OUT_OF_MEMORY`, and those of loading components.
    pub async fn learn(
        &mut self,
        texts: &[&str],
        components: &mut Components,
        begun: &mut dyn FnMut(),
        stopped: &dyn Fn() -> bool,
    ) -> Result<Learnt> {
        let (mut warnings, mut unknown, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        for (i, text) in texts.iter().enumerate().filter(|(i, text)| !texts[..*i].contains(text)) {
            let encoded = self.tokenizer.encode(text, self.length, &self.tokenizer.end().into());
            if let Some(word) = encoded.left_out {
                let fits = self.length - 2;
                warnings
                    .push(format!("\"{}\" is cut before \"{word}\": a text has {fits} tokens at most", begin(text)));
            }
            if !self.known.iter().any(|(known, _)| known == text) {
                unknown.push(texts[i].to_owned());
                ids.extend(encoded.ids);
            }
        }
        self.known.retain(|(known, _)| texts.contains(&known.as_str()));
        if unknown.is_empty() {
            return Ok(Learnt { warnings, ran: false });
        }
        begun();
        let mut values = Values::Indices(ids);
        for (name, takes, gives) in
            [(TEXT_ENCODER, "input_ids", "last_hidden_state"), (TEXT_PROJECTOR, "prefix_features", "encoded_prefix")]
        {
            if components.network(name).is_some() {
                let given = [NamedTensor::new(takes, values)];
                let results = components.get(name, stopped).await?.forward(&given, stopped).await?;
                components.done(name);
                let result = results.into_iter().find(|result| result.name == gives);
                values = result.ok_or_else(|| Error::internal(format!("{name} gave no {gives}")))?.values;
            }
        }
        let Values::Floats(values) = values else { return Err(Error::internal("embeddings are no floats")) };
        let size = values.len() / unknown.len();
        self.known.extend(unknown.into_iter().zip(values.chunks(size).map(<[f32]>::to_vec)));
        Ok(Learnt { warnings, ran: true })
    }

    /// The embeddings of texts, one after the other.
    ///
    /// # Errors
    /// `INTERNAL` for one that was not learnt.
    pub fn of(&self, texts: &[&str]) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        for text in texts {
            let known = self.known.iter().find(|(known, _)| known == text);
            values.extend(&known.ok_or_else(|| Error::internal("a text was not learnt"))?.1);
        }
        Ok(values)
    }
}

/// The beginning of a text, for a message.
fn begin(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
