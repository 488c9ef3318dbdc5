//! What a conversion is given beside the weights, checked before the hours of work that it may start.

use super::manifest::{Component, DENOISER, Manifest};
use super::task::{DECODER, ENCODER};
use crate::text::Tokenizer;
use crate::{Code, Error, Result};
use std::collections::BTreeMap;

fn invalid(cause: String, remedy: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, cause, remedy)
}

/// Labels, the null class and the settings of sampling, against each other and the network.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the file and what is wrong in it.
pub(super) fn check(manifest: &Manifest) -> Result<()> {
    let classes = manifest.network(DENOISER)?.classes();
    let range = match classes {
        0 => "Leave it out: the network has no classes (num_classes)".to_owned(),
        _ => format!("Give numbers from 0 to {}, or check num_classes in the configuration", classes - 1),
    };
    if let Some(label) = manifest.labels.iter().find(|label| label.index as usize >= classes) {
        let cause =
            format!("the labels: {:?} has index {}, the network has {classes} classes", label.name, label.index);
        return Err(invalid(cause, range));
    }
    if let Some(null) = manifest.null_class.filter(|&null| null as usize >= classes) {
        return Err(invalid(
            format!("the configuration: null_class is {null}, the network has {classes} classes"),
            range,
        ));
    }
    let mut by_name: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    let mut by_index: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for label in &manifest.labels {
        by_name.entry(&label.name).or_default().push(label.index);
        by_index.entry(label.index).or_default().push(&label.name);
    }
    if let Some((index, names)) = by_index.iter().find(|(_, names)| names.len() > 1) {
        return Err(invalid(format!("the labels: index {index} has several names, {names:?}"), "Keep one of them"));
    }
    let twice: Vec<(&str, Vec<u32>)> = by_name.into_iter().filter(|(_, indices)| indices.len() > 1).collect();
    if let Some((name, indices)) = twice.first() {
        let list = |indices: &[u32]| indices.iter().map(u32::to_string).collect::<Vec<_>>().join(" and ");
        let all: Vec<String> =
            twice.iter().take(5).map(|(name, indices)| format!("{} are both called {name:?}", list(indices))).collect();
        // ImageNet's bird (134) and machine (517), the first that everybody meets.
        let better = match (*name, indices.as_slice()) {
            ("crane", [134, 517]) => ["crane (bird)".to_owned(), "crane (machine)".to_owned()],
            _ => [format!("{name} ({})", indices[0]), format!("{name} ({})", indices[1])],
        };
        let remedy = format!("Names are unique: change them in the list, say to {:?} and {:?}", better[0], better[1]);
        return Err(invalid(format!("the labels: {}", all.join(", ")), remedy));
    }
    manifest.sampling.check().map_err(|what| invalid(format!("the configuration: {what}"), "See docs/format.md"))
}

/// Whether what one component makes is what the next one takes, and an autoencoder's halves are of one.
///
/// # Errors
/// `INVALID_ARGUMENT` with what either says.
pub(super) fn check_fit(manifest: &Manifest) -> Result<()> {
    const REMEDY: &str = "Give components of one model, and their own parameters; between a text encoder and a UniDiffuser lies a \
        text_projector";
    manifest.check_fit().map_err(|e| if e.code == Code::BadManifest { invalid(e.cause.clone(), REMEDY) } else { e })?;
    if let [Some(decoder), Some(encoder)] = [DECODER, ENCODER].map(|name| manifest.components.get(name)) {
        for field in ["latent_channels", "scaling_factor", "shift_factor"] {
            let [a, b] = [decoder, encoder].map(|half| &half.params[field]);
            if a != b {
                let cause = format!("component decoder has {field} {a}, and component encoder {b}");
                return Err(invalid(cause, REMEDY));
            }
        }
    }
    Ok(())
}

/// Whether a tokenizer makes as many ids as the text encoder has words.
///
/// # Errors
/// `INVALID_ARGUMENT` with both numbers, or naming a merge that is none.
pub(super) fn check_tokenizer(merges: &str, encoder: &Component) -> Result<()> {
    const REMEDY: &str = "Give the text encoder's own merges.txt, the line on top of it included";
    let tokenizer = Tokenizer::new(merges).map_err(|e| invalid(e.cause.clone(), REMEDY))?;
    let (ids, words) = (tokenizer.vocabulary(), encoder.params["vocab_size"].as_u64().unwrap_or(0));
    if ids as u64 == words {
        return Ok(());
    }
    let merges = ids - 2 * 256 - 2;
    let cause = format!(
        "the tokenizer has {merges} merges, which makes {ids} ids (2 x 256 bytes, the merges, start and end); the text \
         encoder has vocab_size {words}"
    );
    Err(invalid(cause, REMEDY))
}

/// Whether the ids that a caption decoder tells have a text: GPT-2's bytes, merges, end of text and the stop token, or the words of
/// the text encoder's own tokenizer.
///
/// # Errors
/// `INVALID_ARGUMENT` with both numbers.
pub(super) fn check_captions(merges: Option<&str>, words: Option<&str>, decoder: &Component) -> Result<()> {
    let wanted = decoder.params["gpt2"]["vocab_size"].as_u64().unwrap_or(0);
    let (ids, whose) = match merges {
        // A line on top, and empty ones at the end.
        Some(merges) => {
            let lines = merges.lines().skip(1).filter(|line| !line.trim().is_empty()).count();
            (256 + lines as u64 + 2, format!("the caption tokenizer has {lines} merges, which makes"))
        }
        None => {
            let ids = words.map(Tokenizer::new).transpose()?.map_or(0, |tokenizer| tokenizer.vocabulary());
            (ids as u64, "there is no asset caption_tokenizer, and the tokenizer has".to_owned())
        }
    };
    if ids == wanted {
        return Ok(());
    }
    let cause = format!("{whose} {ids} ids; the caption decoder has vocab_size {wanted}");
    Err(invalid(
        cause,
        "Give the merges.txt of the caption decoder's own tokenizer (GPT-2's) as the asset caption_tokenizer",
    ))
}
