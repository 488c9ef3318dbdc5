//! Which published model a checkpoint is, by the names and shapes of its tensors. A schedule cannot be seen there: what is
//! no preset is described, and refused.

use super::presets::{Preset, presets};
use crate::weights::checkpoint::{self, Shapes};
use crate::{Code, Error, Result};
use std::path::Path;

/// What this build has networks for, in a remedy.
const GIVE: &str = "Give the checkpoint of a U-ViT, a UniDiffuser, a DiT, a Latte or Stable Diffusion 3";

/// The preset whose tensors a checkpoint holds, and what was seen.
///
/// # Errors
/// `UNSUPPORTED_MODEL` saying what it looks like if none fits or several do; `IO`, `BAD_CHECKPOINT`.
pub fn recognise(path: &Path) -> Result<(Preset, String)> {
    let refuse = |what: String, remedy: &str| {
        let cause = format!("{}: {what}", path.display());
        Err(Error::new(Code::UnsupportedModel, cause, remedy))
    };
    let sets = checkpoint::shapes(path)?;
    let seen: Vec<(&Shapes, String)> = sets.iter().filter_map(|set| Some((set, look(set)?))).collect();
    let Some((_, first)) = seen.first() else {
        return match sets.iter().find_map(|set| checkpoint::looks_like(set.keys().map(String::as_str))) {
            Some(other) => refuse(format!("it looks like {other}, which is not supported"), GIVE),
            None => refuse(
                "no U-ViT, nor anything else that is known".into(),
                "Give the checkpoint of a U-ViT, or its architecture with --config FILE",
            ),
        };
    };
    let mut fitting: Vec<Preset> = Vec::new();
    for preset in presets()? {
        let network = preset.network()?;
        for (set, _) in &seen {
            // The same number of blocks: a shallow network's names are among a deep one's.
            if checkpoint::is_whole(set, &network)? {
                fitting.push(preset);
                break;
            }
        }
    }
    let names = fitting.iter().map(|preset| preset.name.as_str()).collect::<Vec<_>>().join(" and ");
    match fitting.len() {
        0 => refuse(
            format!("it looks like {first}: no preset fits"),
            "Give --config FILE with these parameters, num_heads (often embed_dim / 64), of clips img_size and num_frames, and the schedule (docs/format.md)",
        ),
        1 => Ok((fitting.remove(0), first.clone())),
        _ => refuse(
            format!("it looks like {first}: fits {names}"),
            "Say which with --preset NAME, or give --config FILE",
        ),
    }
}

/// What a set of tensors is of, with the parameters that it shows; none if it is of no network that is drawn with.
fn look(set: &Shapes) -> Option<String> {
    uvit(set).or_else(|| dit(set)).or_else(|| mmdit(set))
}

fn shape<'a>(set: &'a Shapes, name: &str) -> Option<&'a [usize]> {
    set.get(name).map(Vec::as_slice)
}

/// Blocks of a name with `#` in it.
fn blocks(set: &Shapes, name: &str) -> usize {
    (0..).take_while(|i| set.contains_key(&name.replace('#', &i.to_string()))).count()
}

/// The parameters of a U-ViT.
fn uvit(set: &Shapes) -> Option<String> {
    let shape = |name: &str| shape(set, name);
    let has = |name: &str| set.contains_key(name);
    let (dim, channels, patch, frames) = match *shape("patch_embed.proj.weight")? {
        [dim, channels, patch, _] => (dim, channels, patch, None),
        [dim, channels, frames, patch, _] => (dim, channels, patch, Some(frames)),
        _ => return None,
    };
    let &[1, tokens, _] = shape("pos_embed")? else { return None };
    if !has("mid_block.attn.qkv.weight") || !has("decoder_pred.weight") {
        return None;
    }
    let depth = 2 * blocks(set, "in_blocks.#.attn.qkv.weight");
    let classes = shape("label_emb.weight").map(|shape| shape[0]);
    let text = shape("context_embed.weight").and_then(|shape| shape.get(1));
    // Tokens in front of the patches: time and label, or time and text; CLIP's texts have 77.
    let extras = if text.is_some() { 78 } else { 1 + usize::from(classes.is_some()) };
    let side = tokens.saturating_sub(extras).isqrt();
    let what = if has("token_embedding.weight") || has("clip_img_embed.weight") {
        "a UniDiffuser"
    } else if text.is_some() {
        "a U-ViT for text"
    } else if frames.is_some() {
        "a U-ViT of clips"
    } else {
        "a U-ViT"
    };
    let mut said = format!("{what} of embed_dim {dim}, depth {depth}, patch_size {patch}, in_chans {channels}");
    // Of how many frames the patches of clips are cannot be seen.
    said += &frames.map_or(String::new(), |frames| format!(", t_patch_size {frames}"));
    match frames.is_none() && side * side + extras == tokens {
        true => said += &format!(", img_size {}", side * patch),
        false => said += &format!(", {tokens} tokens"),
    }
    if let Some(hidden) = shape("mid_block.mlp.fc1.weight").and_then(|shape| shape.first()) {
        said += &format!(", mlp_ratio {}", *hidden as f64 / dim.max(1) as f64);
    }
    match (classes, text) {
        (Some(classes), _) => said += &format!(", num_classes {classes}"),
        (None, Some(wide)) => said += &format!(", clip_dim {wide}"),
        (None, None) => said += ", num_classes -1",
    }
    for (name, tensor) in [
        ("qkv_bias", "mid_block.attn.qkv.bias"),
        ("mlp_time_embed", "time_embed.0.weight"),
        ("conv", "final_layer.weight"),
        ("skip", "out_blocks.0.skip_linear.weight"),
    ] {
        said += &format!(", {name} {}", has(tensor));
    }
    Some(said)
}

/// Those of a DiT, under its own names or diffusers', or of a Latte. Others have these names, too, and one more.
fn dit(set: &Shapes) -> Option<String> {
    let either = |names: [&str; 2]| names.into_iter().find_map(|name| shape(set, name));
    let &[dim, channels, patch, _] = either(["x_embedder.proj.weight", "pos_embed.proj.weight"])? else { return None };
    let depth = blocks(set, "blocks.#.adaLN_modulation.1.weight");
    let of_diffusers = blocks(set, "transformer_blocks.#.norm1.emb.class_embedder.embedding_table.weight");
    let frames = shape(set, "temp_embed").and_then(|shape| shape.get(1));
    let &[wide, _] = either(["final_layer.linear.weight", "proj_out_2.weight"])? else { return None };
    if depth + of_diffusers == 0 || set.keys().any(|name| name.contains("cross_attn")) {
        return None;
    }
    let what = if frames.is_some() { "a Latte" } else { "a DiT" };
    let depth = depth + of_diffusers;
    let mut said = format!("{what} of hidden_size {dim}, depth {depth}, patch_size {patch}, in_channels {channels}");
    if let Some(&[1, tokens, _]) = shape(set, "pos_embed") {
        said += &format!(", input_size {}", tokens.isqrt() * patch);
    }
    if let Some(frames) = frames {
        said += &format!(", num_frames {frames}");
    }
    let classes =
        ["y_embedder.embedding_table.weight", "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"];
    // The null class is none of them.
    match either(classes).and_then(|shape| shape.first()) {
        Some(classes) => said += &format!(", num_classes {}", classes.saturating_sub(1)),
        None => said += ", no classes",
    }
    said += &format!(", learn_sigma {}", wide == 2 * channels * patch * patch);
    // Of pictures with learned variance, which SiT's code has, too.
    let other = if frames.is_none() { " (a SiT has the same tensors, and another schedule)" } else { "" };
    Some(said + other)
}

/// Those of Stable Diffusion 3's transformer, under its own names or diffusers'.
fn mmdit(set: &Shapes) -> Option<String> {
    let either = |names: [&str; 2]| names.into_iter().find_map(|name| shape(set, name));
    let &[dim, channels, patch, _] = either(["x_embedder.proj.weight", "pos_embed.proj.weight"])? else { return None };
    let &[1, places, _] = either(["pos_embed.pos_embed", "pos_embed"])? else { return None };
    let ours = [
        blocks(set, "joint_blocks.#.x_block.adaLN_modulation.1.weight"),
        blocks(set, "transformer_blocks.#.attn.add_q_proj.weight"),
    ];
    let depth = ours[0] + ours[1];
    let normed = either(["joint_blocks.0.x_block.attn.ln_q.weight", "transformer_blocks.0.attn.norm_q.weight"]);
    let dual = blocks(set, "joint_blocks.#.x_block.attn2.proj.weight")
        + blocks(set, "transformer_blocks.#.attn2.to_out.0.weight");
    let wide = shape(set, "context_embedder.weight")?.get(1)?;
    let norm = if normed.is_some() { "rms_norm" } else { "none" };
    (depth > 0).then(|| {
        format!(
            "a Stable Diffusion 3 of {dim} channels, num_layers {depth}, patch_size {patch}, in_channels {channels}, \
             joint_attention_dim {wide}, pos_embed_max_size {}, qk_norm {norm}, {dual} dual_attention_layers",
            places.isqrt()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::preset;
    use super::*;
    use crate::model::{Batch, Network};

    #[test]
    fn every_preset_shows_its_parameters() {
        let look_at = |network: &Network| {
            let plan = network.record(Batch::plain(1)).unwrap().plan;
            look(&plan.published().flat_map(|weight| weight.sources()).collect()).unwrap()
        };
        for (name, words) in [
            ("imagenet512_uvit_huge", "embed_dim 1152, depth 28, patch_size 4, in_chans 4, img_size 64"),
            ("cifar10_uvit_small", "in_chans 3, img_size 32, mlp_ratio 4, num_classes -1, qkv_bias false"),
            ("mscoco_uvit_small", "a U-ViT for text of embed_dim 512, depth 12"),
            (
                "dit-xl-4-512",
                "a DiT of hidden_size 1152, depth 28, patch_size 4, in_channels 4, input_size 64, num_classes 1000",
            ),
            ("latte-xl-2", "patch_size 2, in_channels 4, input_size 32, num_frames 16, no classes, learn_sigma true"),
            ("sd3-medium", "of 1536 channels, num_layers 24, patch_size 2, in_channels 16, joint_attention_dim 4096"),
            ("sd3.5-medium", "qk_norm rms_norm, 13 dual_attention_layers"),
        ] {
            let said = look_at(&preset(name).unwrap().network().unwrap());
            assert!(said.contains(words), "{name}: {said}");
        }
        let mut params = preset("cifar10_uvit_small").unwrap().network().unwrap().params();
        (params["num_frames"], params["t_patch_size"]) = (16.into(), 4.into());
        let said = look_at(&Network::of("uvit_video", &params).unwrap());
        let words =
            "a U-ViT of clips of embed_dim 512, depth 12, patch_size 2, in_chans 3, t_patch_size 4, 1025 tokens";
        assert!(said.contains(words), "{said}");
    }
}
