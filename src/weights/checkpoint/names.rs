//! One network's tensors under the names of several libraries. Networks use one of them, for autoencoders diffusers'; a file
//! has another: the code that they were published with first (CompVis/latent-diffusion), and diffusers before 0.17. UniDiffuser's
//! are the other way round: its networks have the names of thu-ml/unidiffuser, and a folder of diffusers its own.

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

/// thu-ml/unidiffuser's U-ViT, and diffusers' UniDiffuserModel (`scripts/convert_unidiffuser_to_diffusers.py`), which keeps queries, keys
/// and values apart and puts the norm behind a skip with the skip. One after the other: what was said already is not said again.
const UNIDIFFUSER: &Names = &[
    ("norm", "transformer.norm_out"),
    ("out_blocks.#.skip_linear", "transformer.transformer_out_blocks.#.skip.skip_linear"),
    ("out_blocks.#.norm1", "transformer.transformer_out_blocks.#.skip.norm"),
    ("out_blocks.#", "transformer.transformer_out_blocks.#.block"),
    ("in_blocks.#", "transformer.transformer_in_blocks.#"),
    ("mid_block", "transformer.transformer_mid_block"),
    ("norm2", "norm1"),
    ("attn.qkv", "attn1.to_{q,k,v}"),
    ("attn.proj", "attn1.to_out.0"),
    ("mlp.fc1", "ff.net.0.proj"),
    ("mlp.fc2", "ff.net.2"),
    ("patch_embed.proj", "vae_img_in.proj"),
    ("clip_img_embed", "clip_img_in"),
    ("text_embed", "text_in"),
    ("pos_embed_token", "data_type_pos_embed_token"),
    ("token_embedding", "data_type_token_embedding"),
    ("time_img_embed.0", "timestep_img_embed.linear_1"),
    ("time_img_embed.2", "timestep_img_embed.linear_2"),
    ("time_text_embed.0", "timestep_text_embed.linear_1"),
    ("time_text_embed.2", "timestep_text_embed.linear_2"),
    ("decoder_pred", "vae_img_out"),
];

/// A copy of the patches' embedding that diffusers stores and does not read.
const UNREAD: &[&str] = &["transformer.pos_embed.proj"];

/// The caption decoder in thu-ml/unidiffuser, and diffusers' UniDiffuserTextDecoder.
const TEXT_DECODER: &Names = &[("gpt.transformer", "transformer.transformer")];

/// What GPT-2 stores beside its weights: the table of words once more, and masks.
const TIED: &[&str] = &["gpt.lm_head", "gpt.transformer.h.#.attn.bias", "gpt.transformer.h.#.attn.masked_bias"];
const TIED_IN_DIFFUSERS: &[&str] =
    &["transformer.lm_head", "transformer.transformer.h.#.attn.bias", "transformer.transformer.h.#.attn.masked_bias"];

/// A spelling of a network's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spelling {
    names: &'static Names,
    levels: usize,
    /// What a file has beside the network's tensors, in this spelling: the beginnings of names.
    beside: &'static [&'static str],
}

impl Spelling {
    /// Those that a network's tensors may have in a file, its own first.
    pub fn of(network: &Network) -> Vec<Spelling> {
        let plain = |names: &'static Names, levels| Spelling { names, levels, beside: &[] };
        let own = plain(&[], 0);
        match network.architecture() {
            "unidiffuser" => vec![own, Spelling { names: UNIDIFFUSER, levels: 0, beside: UNREAD }],
            "caption_decoder" => vec![
                Spelling { beside: TIED, ..own },
                Spelling { names: TEXT_DECODER, levels: 0, beside: TIED_IN_DIFFUSERS },
            ],
            name if name.starts_with("autoencoder_tiny") => vec![own, plain(TAESD, 0)],
            name if name.starts_with("autoencoder_kl") => {
                let levels = network.params()["block_out_channels"].as_array().map_or(0, Vec::len);
                [own.names, OFFICIAL, BEFORE].map(|names| plain(names, levels)).to_vec()
            }
            _ => vec![own],
        }
    }

    /// A network's name in this spelling; with a list in braces, if that is several tensors, one below the other.
    pub fn spell(&self, name: &str) -> String {
        self.names.iter().fold(name.to_owned(), |name, &(ours, theirs)| translate(&name, ours, theirs, self.levels))
    }

    /// Whether a tensor belongs in the network's file without being one of its own.
    pub fn is_beside(&self, name: &str) -> bool {
        let words: Vec<&str> = name.split('.').collect();
        self.beside.iter().any(|pattern| matched(&words, &pattern.split('.').collect::<Vec<_>>()).is_some())
    }
}

/// What an autoencoder of so many levels calls a tensor in CompVis/latent-diffusion, by diffusers' name.
pub fn official_autoencoder_name(diffusers: &str, levels: usize) -> String {
    Spelling { names: OFFICIAL, levels, beside: &[] }.spell(diffusers)
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
        let spelling = Spelling { names: TAESD, levels: 0, beside: &[] };
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
        let spelling = Spelling { names: BEFORE, levels: 3, beside: &[] };
        for (name, before) in [
            ("decoder.mid_block.attentions.0.to_out.0.bias", "decoder.mid_block.attentions.0.proj_attn.bias"),
            ("encoder.mid_block.attentions.0.to_q.weight", "encoder.mid_block.attentions.0.query.weight"),
            ("encoder.mid_block.attentions.0.group_norm.weight", "encoder.mid_block.attentions.0.group_norm.weight"),
            ("decoder.up_blocks.0.resnets.0.conv1.weight", "decoder.up_blocks.0.resnets.0.conv1.weight"),
        ] {
            assert_eq!(spelling.spell(name), before);
        }
    }

    /// As diffusers' script converts them.
    #[test]
    fn unidiffusers_names_are_those_of_diffusers() {
        let spelling = Spelling { names: UNIDIFFUSER, levels: 0, beside: UNREAD };
        for (name, theirs) in [
            ("pos_embed", "pos_embed"),
            ("pos_embed_token", "data_type_pos_embed_token"),
            ("token_embedding.weight", "data_type_token_embedding.weight"),
            ("patch_embed.proj.bias", "vae_img_in.proj.bias"),
            ("text_embed.weight", "text_in.weight"),
            ("clip_img_embed.bias", "clip_img_in.bias"),
            ("clip_img_out.bias", "clip_img_out.bias"),
            ("decoder_pred.weight", "vae_img_out.weight"),
            ("norm.weight", "transformer.norm_out.weight"),
            ("time_img_embed.2.bias", "timestep_img_embed.linear_2.bias"),
            ("in_blocks.3.attn.qkv.weight", "transformer.transformer_in_blocks.3.attn1.to_{q,k,v}.weight"),
            ("in_blocks.3.norm2.weight", "transformer.transformer_in_blocks.3.norm1.weight"),
            ("mid_block.mlp.fc1.weight", "transformer.transformer_mid_block.ff.net.0.proj.weight"),
            ("out_blocks.14.norm1.bias", "transformer.transformer_out_blocks.14.skip.norm.bias"),
            ("out_blocks.14.norm2.bias", "transformer.transformer_out_blocks.14.block.norm1.bias"),
            ("out_blocks.14.norm3.bias", "transformer.transformer_out_blocks.14.block.norm3.bias"),
            ("out_blocks.0.attn.proj.bias", "transformer.transformer_out_blocks.0.block.attn1.to_out.0.bias"),
            ("out_blocks.0.mlp.fc2.bias", "transformer.transformer_out_blocks.0.block.ff.net.2.bias"),
            ("out_blocks.0.skip_linear.weight", "transformer.transformer_out_blocks.0.skip.skip_linear.weight"),
        ] {
            assert_eq!(spelling.spell(name), theirs);
        }
        assert!(spelling.is_beside("transformer.pos_embed.proj.weight"));
        assert!(!spelling.is_beside("transformer.norm_out.weight"));
        let captions = Spelling { names: TEXT_DECODER, levels: 0, beside: TIED_IN_DIFFUSERS };
        assert_eq!(captions.spell("gpt.transformer.h.0.ln_1.bias"), "transformer.transformer.h.0.ln_1.bias");
        assert_eq!(captions.spell("decode_prefix.bias"), "decode_prefix.bias");
        assert!(captions.is_beside("transformer.lm_head.weight"));
        assert!(captions.is_beside("transformer.transformer.h.3.attn.masked_bias"));
        assert!(!captions.is_beside("transformer.transformer.h.3.attn.c_attn.bias"));
    }
}
