//! Which published model a checkpoint is, by the names and shapes of its tensors. A schedule cannot be seen there: what is
//! no preset is described, and refused.

use super::presets::{Preset, presets};
use crate::model::Batch;
use crate::weights::checkpoint::{self, Shapes};
use crate::{Code, Error, Result};
use std::path::Path;

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
            Some(other) => refuse(format!("no U-ViT; it looks like {other}"), "Give the checkpoint of a U-ViT"),
            None => refuse("no U-ViT".into(), "Give the checkpoint of a U-ViT, or its architecture with --config FILE"),
        };
    };
    let mut fitting: Vec<Preset> = Vec::new();
    for preset in presets()? {
        let plan = preset.network()?.record(Batch::plain(1))?.plan;
        let fits = |set: &Shapes| plan.published().all(|weight| set.get(&weight.name) == Some(&weight.shape));
        // The same number of blocks: a shallow network's names are among a deep one's.
        if seen.iter().any(|(set, _)| plan.published().count() == set.len() && fits(set)) {
            fitting.push(preset);
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

/// The parameters of a U-ViT that its tensors show; none if it is no U-ViT.
fn look(set: &Shapes) -> Option<String> {
    let shape = |name: &str| set.get(name).map(Vec::as_slice);
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
    let depth = 2 * (0..).take_while(|i| has(&format!("in_blocks.{i}.attn.qkv.weight"))).count();
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

#[cfg(test)]
mod tests {
    use super::super::preset;
    use super::*;
    use crate::model::Network;

    #[test]
    fn every_preset_shows_its_parameters() {
        let look_at = |network: &Network| {
            let plan = network.record(Batch::plain(1)).unwrap().plan;
            look(&plan.published().map(|weight| (weight.name.clone(), weight.shape.clone())).collect()).unwrap()
        };
        for (name, words) in [
            ("imagenet512_uvit_huge", "embed_dim 1152, depth 28, patch_size 4, in_chans 4, img_size 64"),
            ("cifar10_uvit_small", "in_chans 3, img_size 32, mlp_ratio 4, num_classes -1, qkv_bias false"),
            ("mscoco_uvit_small", "a U-ViT for text of embed_dim 512, depth 12"),
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
