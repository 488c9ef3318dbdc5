//! One network's tensors under the names of several libraries. Networks use one of them, for autoencoders diffusers'; a file
//! has another: the code that they were published with first (CompVis/latent-diffusion), and diffusers before 0.17.

use crate::model::Network;

/// A library's name for a part of a network, and another's. `#` is a number; `^` one that counts levels from the other end, `+` the
/// next one.
type Names = [(&'static str, &'static str)];

/// diffusers' AutoencoderKL, and CompVis/latent-diffusion's (`ldm/modules/diffusionmodules/model.py`).
const OFFICIAL: &Names = &[
    ("down_blocks.#.resnets.#", "down.#.block.#"),
    ("down_blocks.#.downsamplers.0", "down.#.downsample"),
    ("up_blocks.^.resnets.#", "up.^.block.#"),
    ("up_blocks.^.upsamplers.0", "up.^.upsample"),
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
    ("mid_block.attentions.0.to_q", "mid.attn_1.q"),
    ("mid_block.attentions.0.to_k", "mid.attn_1.k"),
    ("mid_block.attentions.0.to_v", "mid.attn_1.v"),
    ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("conv_norm_out", "norm_out"),
];

/// diffusers' AutoencoderKL now, and before 0.17.
const BEFORE: &Names = &[
    ("mid_block.attentions.0.to_q", "mid_block.attentions.0.query"),
    ("mid_block.attentions.0.to_k", "mid_block.attentions.0.key"),
    ("mid_block.attentions.0.to_v", "mid_block.attentions.0.value"),
    ("mid_block.attentions.0.to_out.0", "mid_block.attentions.0.proj_attn"),
];

/// diffusers' AutoencoderTiny, and TAESD's halves in files of their own (madebyollin/taesd, `taesd.py`), whose decoder begins with a
/// layer that has no weights.
const TAESD: &Names = &[("decoder.layers.#", "+"), ("encoder.layers.#", "#")];

/// A spelling of a network's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spelling {
    names: &'static Names,
    levels: usize,
}

impl Spelling {
    /// Those that a network's tensors may have in a file, its own first.
    pub fn of(network: &Network) -> Vec<Spelling> {
        let own = Spelling { names: &[], levels: 0 };
        if network.architecture().starts_with("autoencoder_tiny") {
            return vec![own, Spelling { names: TAESD, levels: 0 }];
        }
        if !network.architecture().starts_with("autoencoder_kl") {
            return vec![own];
        }
        let levels = network.params()["block_out_channels"].as_array().map_or(0, Vec::len);
        [own.names, OFFICIAL, BEFORE].map(|names| Spelling { names, levels }).to_vec()
    }

    /// A network's name in this spelling.
    pub fn spell(&self, name: &str) -> String {
        self.names.iter().fold(name.to_owned(), |name, &(ours, theirs)| translate(&name, ours, theirs, self.levels))
    }
}

/// What an autoencoder of so many levels calls a tensor in CompVis/latent-diffusion, by diffusers' name.
pub fn official_autoencoder_name(diffusers: &str, levels: usize) -> String {
    Spelling { names: OFFICIAL, levels }.spell(diffusers)
}

/// What diffusers calls a tensor of an autoencoder of so many levels, by the name that CompVis/latent-diffusion gave it.
pub fn diffusers_autoencoder_name(official: &str, levels: usize) -> String {
    let back = |name: String, &(ours, theirs): &(&str, &str)| translate(&name, theirs, ours, levels);
    OFFICIAL.iter().fold(official.to_owned(), back)
}

/// A name with a part of it, between dots, said in another way; as it was if it has no such part.
fn translate(name: &str, from: &str, to: &str, levels: usize) -> String {
    let words: Vec<&str> = name.split('.').collect();
    let pattern: Vec<&str> = from.split('.').collect();
    let Some((at, numbers)) = (0..words.len()).find_map(|at| Some((at, matched(words.get(at..)?, &pattern)?))) else {
        return name.to_owned();
    };
    let mut numbers = numbers.into_iter();
    let mut said: Vec<String> = words[..at].iter().map(ToString::to_string).collect();
    said.extend(to.split('.').map(|word| match word {
        "#" => numbers.next().unwrap_or(0).to_string(),
        "+" => (numbers.next().unwrap_or(0) + 1).to_string(),
        "^" => (levels.saturating_sub(1)).saturating_sub(numbers.next().unwrap_or(0)).to_string(),
        word => word.to_owned(),
    }));
    said.extend(words[at + pattern.len()..].iter().map(ToString::to_string));
    said.join(".")
}

/// The numbers in words that begin as the pattern says.
fn matched(words: &[&str], pattern: &[&str]) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for (i, part) in pattern.iter().enumerate() {
        match (words.get(i)?, *part) {
            (word, "#" | "^") => numbers.push(word.parse().ok()?),
            (word, part) if *word == part => {}
            _ => return None,
        }
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Official names by diffusers' ones, as diffusers converts them: three levels, and a shortcut in some.
    fn map() -> BTreeMap<String, String> {
        serde_json::from_str(include_str!("autoencoder_names.json")).unwrap()
    }

    #[test]
    fn an_autoencoders_names_are_those_of_both_libraries() {
        assert!(map().len() > 100);
        for (official, diffusers) in map() {
            assert_eq!(official_autoencoder_name(&diffusers, 3), official);
            assert_eq!(diffusers_autoencoder_name(&official, 3), diffusers);
            let behind = format!("first_stage_model.{official}");
            assert_eq!(official_autoencoder_name(&format!("first_stage_model.{diffusers}"), 3), behind);
        }
        // Four levels, as the published ones have.
        let (first, last) = ("decoder.up.3.block.0.conv1.weight", "decoder.up_blocks.0.resnets.0.conv1.weight");
        assert_eq!(
            (official_autoencoder_name(last, 4).as_str(), diffusers_autoencoder_name(first, 4)),
            (first, last.into())
        );
    }

    #[test]
    fn taesds_decoder_counts_from_one_more() {
        let spelling = Spelling { names: TAESD, levels: 0 };
        for (name, theirs) in [
            ("decoder.layers.0.weight", "1.weight"),
            ("decoder.layers.18.bias", "19.bias"),
            ("decoder.layers.2.conv.0.weight", "3.conv.0.weight"),
            ("encoder.layers.1.conv.4.bias", "1.conv.4.bias"),
        ] {
            assert_eq!(spelling.spell(name), theirs);
        }
    }

    #[test]
    fn older_names_of_diffusers_are_those_of_the_attention() {
        let spelling = Spelling { names: BEFORE, levels: 3 };
        for (name, before) in [
            ("decoder.mid_block.attentions.0.to_out.0.bias", "decoder.mid_block.attentions.0.proj_attn.bias"),
            ("encoder.mid_block.attentions.0.to_q.weight", "encoder.mid_block.attentions.0.query.weight"),
            ("encoder.mid_block.attentions.0.group_norm.weight", "encoder.mid_block.attentions.0.group_norm.weight"),
            ("decoder.up_blocks.0.resnets.0.conv1.weight", "decoder.up_blocks.0.resnets.0.conv1.weight"),
        ] {
            assert_eq!(spelling.spell(name), before);
        }
    }
}
