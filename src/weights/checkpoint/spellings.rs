//! What the tensors of networks are called in files of several libraries, beside the names that the networks have themselves: the
//! tables that [`super::names`] reads.

use super::made::Made;
use super::names::{Names, Spelling, translate};
use crate::model::Network;

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

/// DiT (facebookresearch/DiT, `models.py`), and diffusers' DiTTransformer2DModel (`scripts/convert_dit_to_diffusers.py` of
/// huggingface/diffusers@58eb52c0803ea9af3abec60841c2a093bdf1f951): queries, keys and values apart, and in every block another copy of
/// what embeds time and class.
const DIT: &Names = &[
    ("x_embedder.proj", "pos_embed.proj"),
    ("t_embedder.mlp.0", "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1"),
    ("t_embedder.mlp.2", "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2"),
    ("y_embedder.embedding_table", "transformer_blocks.0.norm1.emb.class_embedder.embedding_table"),
    ("blocks.#.adaLN_modulation.1", "transformer_blocks.#.norm1.linear"),
    ("blocks.#.attn.qkv", "transformer_blocks.#.attn1.to_{q,k,v}"),
    ("blocks.#.attn.proj", "transformer_blocks.#.attn1.to_out.0"),
    ("blocks.#.mlp.fc1", "transformer_blocks.#.ff.net.0.proj"),
    ("blocks.#.mlp.fc2", "transformer_blocks.#.ff.net.2"),
    ("final_layer.adaLN_modulation.1", "proj_out_1"),
    ("final_layer.linear", "proj_out_2"),
];

const DIT_REPEATED: &[&str] = &["transformer_blocks.#.norm1.emb"];
/// diffusers computes it.
const DIT_MADE: &[(&str, Made)] = &[("pos_embed", Made::Positions)];

/// diffusers' SD3Transformer2DModel, and Stable Diffusion 3's own names (Stability-AI/sd3.5, `mmditx.py`), as
/// `scripts/convert_sd3_to_diffusers.py` of huggingface/diffusers@58eb52c0803ea9af3abec60841c2a093bdf1f951 converts them: queries, keys
/// and values are one tensor there, and where a norm is the last of its tokens, its shift comes before its scale.
const MMDIT: &Names = &[
    ("pos_embed.proj", "x_embedder.proj"),
    ("pos_embed.pos_embed", "pos_embed"),
    ("time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0"),
    ("time_text_embed.timestep_embedder.linear_2", "t_embedder.mlp.2"),
    ("time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"),
    ("time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
    ("transformer_blocks.$.norm1_context.linear", "joint_blocks.$.context_block.adaLN_modulation.1@{1/2,0/2}"),
    ("transformer_blocks.#.norm1_context.linear", "joint_blocks.#.context_block.adaLN_modulation.1"),
    ("transformer_blocks.#.norm1.linear", "joint_blocks.#.x_block.adaLN_modulation.1"),
    ("transformer_blocks.#.attn.to_q", "joint_blocks.#.x_block.attn.qkv@0/3"),
    ("transformer_blocks.#.attn.to_k", "joint_blocks.#.x_block.attn.qkv@1/3"),
    ("transformer_blocks.#.attn.to_v", "joint_blocks.#.x_block.attn.qkv@2/3"),
    ("transformer_blocks.#.attn.add_q_proj", "joint_blocks.#.context_block.attn.qkv@0/3"),
    ("transformer_blocks.#.attn.add_k_proj", "joint_blocks.#.context_block.attn.qkv@1/3"),
    ("transformer_blocks.#.attn.add_v_proj", "joint_blocks.#.context_block.attn.qkv@2/3"),
    ("transformer_blocks.#.attn2.to_q", "joint_blocks.#.x_block.attn2.qkv@0/3"),
    ("transformer_blocks.#.attn2.to_k", "joint_blocks.#.x_block.attn2.qkv@1/3"),
    ("transformer_blocks.#.attn2.to_v", "joint_blocks.#.x_block.attn2.qkv@2/3"),
    ("transformer_blocks.#.attn.norm_q", "joint_blocks.#.x_block.attn.ln_q"),
    ("transformer_blocks.#.attn.norm_k", "joint_blocks.#.x_block.attn.ln_k"),
    ("transformer_blocks.#.attn.norm_added_q", "joint_blocks.#.context_block.attn.ln_q"),
    ("transformer_blocks.#.attn.norm_added_k", "joint_blocks.#.context_block.attn.ln_k"),
    ("transformer_blocks.#.attn2.norm_q", "joint_blocks.#.x_block.attn2.ln_q"),
    ("transformer_blocks.#.attn2.norm_k", "joint_blocks.#.x_block.attn2.ln_k"),
    ("transformer_blocks.#.attn.to_out.0", "joint_blocks.#.x_block.attn.proj"),
    ("transformer_blocks.#.attn.to_add_out", "joint_blocks.#.context_block.attn.proj"),
    ("transformer_blocks.#.attn2.to_out.0", "joint_blocks.#.x_block.attn2.proj"),
    ("transformer_blocks.#.ff.net.0.proj", "joint_blocks.#.x_block.mlp.fc1"),
    ("transformer_blocks.#.ff.net.2", "joint_blocks.#.x_block.mlp.fc2"),
    ("transformer_blocks.#.ff_context.net.0.proj", "joint_blocks.#.context_block.mlp.fc1"),
    ("transformer_blocks.#.ff_context.net.2", "joint_blocks.#.context_block.mlp.fc2"),
    ("norm_out.linear", "final_layer.adaLN_modulation.1@{1/2,0/2}"),
    ("proj_out", "final_layer.linear"),
];

/// Stable Diffusion 3's `clip_l.safetensors` has none: what CLIP-L says of a text is not projected there (`sd3_infer.py` of
/// Stability-AI/sd3.5@fbf8f483f992d8d6ad4eaaeb23b1dc5f523c3b3a, `return_projected_pooled=False`), for which diffusers puts the identity.
const CLIP_MADE: &[(&str, Made)] = &[("text_projection.weight", Made::Identity)];

/// Those that a network's tensors may have in a file, its own first.
pub fn of(network: &Network) -> Vec<Spelling> {
    let own = Spelling::default();
    let params = network.params();
    match network.architecture() {
        "unidiffuser" => vec![own, Spelling { names: UNIDIFFUSER, beside: UNREAD, ..own }],
        "caption_decoder" => {
            vec![Spelling { beside: TIED, ..own }, Spelling { names: TEXT_DECODER, beside: TIED_IN_DIFFUSERS, ..own }]
        }
        "dit" => vec![own, Spelling { names: DIT, repeated: DIT_REPEATED, made: DIT_MADE, ..own }],
        "mmdit" => {
            let levels = params["num_layers"].as_u64().unwrap_or(0) as usize;
            let official = Spelling { names: MMDIT, levels, cropped: "pos_embed", ..own };
            vec![Spelling { cropped: "pos_embed.pos_embed", ..own }, official]
        }
        "clip_text" if params["projection_dim"] == params["hidden_size"] => {
            vec![own, Spelling { made: CLIP_MADE, ..own }]
        }
        name if name.starts_with("autoencoder_tiny") => vec![own, Spelling { names: TAESD, ..own }],
        name if name.starts_with("autoencoder_kl") => {
            let levels = params["block_out_channels"].as_array().map_or(0, Vec::len);
            [own.names, OFFICIAL, BEFORE].map(|names| Spelling { names, levels, ..own }).to_vec()
        }
        _ => vec![own],
    }
}

/// What an autoencoder of so many levels calls a tensor in CompVis/latent-diffusion, by diffusers' name.
pub fn official_autoencoder_name(diffusers: &str, levels: usize) -> String {
    Spelling { names: OFFICIAL, levels, ..Spelling::default() }.spell(diffusers)
}

/// What diffusers calls a tensor of an autoencoder of so many levels, by the name that CompVis/latent-diffusion gave it.
pub fn diffusers_autoencoder_name(official: &str, levels: usize) -> String {
    let back = |name: String, &(ours, theirs): &(&str, &str)| translate(&name, theirs, ours, levels);
    OFFICIAL.iter().fold(official.to_owned(), back)
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
        let spelling = Spelling { names: TAESD, ..Spelling::default() };
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
        let spelling = Spelling { names: BEFORE, levels: 3, ..Spelling::default() };
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
        let spelling = Spelling { names: UNIDIFFUSER, beside: UNREAD, ..Spelling::default() };
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
        let captions = Spelling { names: TEXT_DECODER, beside: TIED_IN_DIFFUSERS, ..Spelling::default() };
        assert_eq!(captions.spell("gpt.transformer.h.0.ln_1.bias"), "transformer.transformer.h.0.ln_1.bias");
        assert_eq!(captions.spell("decode_prefix.bias"), "decode_prefix.bias");
        assert!(captions.is_beside("transformer.lm_head.weight"));
        assert!(captions.is_beside("transformer.transformer.h.3.attn.masked_bias"));
        assert!(!captions.is_beside("transformer.transformer.h.3.attn.c_attn.bias"));
    }

    /// As diffusers' script converts them.
    #[test]
    fn dits_names_are_those_of_diffusers() {
        let spelling = Spelling { names: DIT, repeated: DIT_REPEATED, made: DIT_MADE, ..Spelling::default() };
        for (name, theirs) in [
            ("x_embedder.proj.weight", "pos_embed.proj.weight"),
            ("t_embedder.mlp.2.bias", "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2.bias"),
            (
                "y_embedder.embedding_table.weight",
                "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight",
            ),
            ("blocks.27.adaLN_modulation.1.weight", "transformer_blocks.27.norm1.linear.weight"),
            ("blocks.3.attn.qkv.bias", "transformer_blocks.3.attn1.to_{q,k,v}.bias"),
            ("blocks.3.attn.proj.bias", "transformer_blocks.3.attn1.to_out.0.bias"),
            ("blocks.3.mlp.fc1.weight", "transformer_blocks.3.ff.net.0.proj.weight"),
            ("blocks.3.mlp.fc2.weight", "transformer_blocks.3.ff.net.2.weight"),
            ("final_layer.adaLN_modulation.1.weight", "proj_out_1.weight"),
            ("final_layer.linear.bias", "proj_out_2.bias"),
        ] {
            assert_eq!(spelling.spell(name), theirs);
        }
        assert!(spelling.is_beside("transformer_blocks.9.norm1.emb.class_embedder.embedding_table.weight"));
        assert!(!spelling.is_beside("transformer_blocks.9.norm1.linear.weight"));
        assert!(spelling.is_repeated("transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.bias"));
        assert!(!spelling.is_repeated("transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"));
    }

    /// As diffusers' script converts them.
    #[test]
    fn stable_diffusion_3s_names_are_those_of_diffusers() {
        let spelling = Spelling { names: MMDIT, levels: 24, cropped: "pos_embed", ..Spelling::default() };
        let (x, context) = ("joint_blocks.23.x_block", "joint_blocks.23.context_block");
        for (name, theirs) in [
            ("pos_embed.pos_embed", "pos_embed".to_owned()),
            ("pos_embed.proj.bias", "x_embedder.proj.bias".into()),
            ("context_embedder.bias", "context_embedder.bias".into()),
            ("time_text_embed.timestep_embedder.linear_1.weight", "t_embedder.mlp.0.weight".into()),
            ("time_text_embed.text_embedder.linear_2.bias", "y_embedder.mlp.2.bias".into()),
            ("transformer_blocks.23.attn.to_k.weight", format!("{x}.attn.qkv@1/3.weight")),
            ("transformer_blocks.23.attn.add_v_proj.bias", format!("{context}.attn.qkv@2/3.bias")),
            ("transformer_blocks.23.attn.norm_added_q.weight", format!("{context}.attn.ln_q.weight")),
            ("transformer_blocks.23.attn2.norm_k.weight", format!("{x}.attn2.ln_k.weight")),
            ("transformer_blocks.23.attn2.to_out.0.bias", format!("{x}.attn2.proj.bias")),
            ("transformer_blocks.23.attn.to_out.0.bias", format!("{x}.attn.proj.bias")),
            ("transformer_blocks.22.attn.to_add_out.bias", "joint_blocks.22.context_block.attn.proj.bias".into()),
            ("transformer_blocks.23.norm1.linear.bias", format!("{x}.adaLN_modulation.1.bias")),
            (
                "transformer_blocks.22.norm1_context.linear.bias",
                "joint_blocks.22.context_block.adaLN_modulation.1.bias".into(),
            ),
            (
                "transformer_blocks.23.norm1_context.linear.bias",
                format!("{context}.adaLN_modulation.1@{{1/2,0/2}}.bias"),
            ),
            ("transformer_blocks.23.ff.net.0.proj.bias", format!("{x}.mlp.fc1.bias")),
            ("transformer_blocks.22.ff_context.net.2.bias", "joint_blocks.22.context_block.mlp.fc2.bias".into()),
            ("norm_out.linear.weight", "final_layer.adaLN_modulation.1@{1/2,0/2}.weight".into()),
            ("proj_out.weight", "final_layer.linear.weight".into()),
        ] {
            assert_eq!(spelling.spell(name), theirs);
        }
    }
}
