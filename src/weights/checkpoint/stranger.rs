//! Other models, by the names that their tensors have.

/// What a model is, and what each of its names says that is listed: all of them must be in one. What several have in common
/// stands below what one has alone.
const MODELS: [(&str, &[&str]); 26] = [
    ("SDXL's refiner (a UNet)", &["model.diffusion_model.input_blocks.", "conditioner.embedders.0.model.transformer."]),
    ("Stable Diffusion XL (a UNet)", &["model.diffusion_model.input_blocks.", "conditioner.embedders."]),
    ("Stable Diffusion 2 (a UNet)", &["model.diffusion_model.input_blocks.", "cond_stage_model.model."]),
    ("Stable Diffusion 1 (a UNet)", &["model.diffusion_model.input_blocks.", "cond_stage_model.transformer."]),
    ("a whole Stable Diffusion checkpoint (UNet, autoencoder, text encoder)", &["model.diffusion_model.input_blocks."]),
    ("Flux", &["double_blocks.0.img_attn", "single_blocks.0."]),
    ("Flux, of diffusers", &["single_transformer_blocks.0.", "x_embedder."]),
    ("Stable Diffusion 3", &["joint_blocks.0.x_block.", "context_embedder."]),
    ("Stable Diffusion 3, of diffusers", &["transformer_blocks.0.attn.add_q_proj", "time_text_embed."]),
    ("PixArt", &["t_block.1", "blocks.0.cross_attn.q_linear"]),
    ("PixArt, of diffusers", &["adaln_single.", "transformer_blocks.0.attn2"]),
    ("Latte for text", &["temporal_transformer_blocks.0."]),
    ("Latte", &["temp_embed", "x_embedder.proj", "adaLN_modulation"]),
    ("a DiT or SiT", &["adaLN_modulation", "x_embedder.proj", "t_embedder."]),
    ("a DiT of diffusers", &["transformer_blocks.0.norm1.emb.class_embedder", "pos_embed.proj"]),
    ("a transformer of diffusers", &["transformer_blocks.0.attn1", "pos_embed.proj"]),
    ("a Stable Diffusion UNet", &["down_blocks.0.", "up_blocks.0.", "time_embedding.linear_1", "attn2.to_k"]),
    ("a UNet of diffusers", &["down_blocks.0.", "up_blocks.0.", "time_embedding.linear_1"]),
    ("a UNet (guided diffusion)", &["input_blocks.0.0", "output_blocks.0.0", "time_embed.0"]),
    ("an autoencoder (VAE)", &["quant_conv", "decoder.", "encoder."]),
    ("a CLIP text model", &["text_model.encoder.layers.0.", "text_model.embeddings.token_embedding"]),
    ("a CLIP model", &["visual.", "transformer.resblocks.0."]),
    ("a T5 text encoder", &["encoder.block.0.layer.0.SelfAttention"]),
    ("a language model", &["layers.0.self_attn.q_proj"]),
    ("a vision transformer (ViT)", &["cls_token", "blocks.0.attn.qkv"]),
    ("a ResNet", &["layer1.0.conv1", "layer2.0.conv1"]),
];

/// What some names look like, if it is known.
pub fn looks_like<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    let names: Vec<&str> = names.collect();
    let there = |part: &&str| names.iter().any(|name| name.contains(part));
    let model = MODELS.iter().find(|(_, parts)| parts.iter().all(there));
    model.map(|&(what, _)| what)
}

#[cfg(test)]
mod tests {
    use super::looks_like;

    #[test]
    fn models_are_told_by_their_names() {
        let dit = ["x_embedder.proj.weight", "t_embedder.mlp.0.weight", "blocks.0.adaLN_modulation.1.weight"];
        assert_eq!(looks_like(dit.into_iter()), Some("a DiT or SiT"));
        let unet = ["down_blocks.0.attentions.0.attn2.to_k.weight", "up_blocks.0.x", "time_embedding.linear_1.bias"];
        assert_eq!(looks_like(unet.into_iter()), Some("a Stable Diffusion UNet"));
        assert_eq!(looks_like(unet[1..].iter().copied()), None);
        assert_eq!(looks_like(["conv.weight"].into_iter()), None);
        let unet = "model.diffusion_model.input_blocks.0.0.weight";
        for (other, what) in [
            ("cond_stage_model.transformer.text_model.embeddings.position_ids", "Stable Diffusion 1 (a UNet)"),
            ("cond_stage_model.model.transformer.resblocks.0.ln_1.bias", "Stable Diffusion 2 (a UNet)"),
            ("conditioner.embedders.1.model.positional_embedding", "Stable Diffusion XL (a UNet)"),
            ("conditioner.embedders.0.model.transformer.resblocks.0.ln_1.bias", "SDXL's refiner (a UNet)"),
        ] {
            assert_eq!(looks_like([unet, other].into_iter()), Some(what));
        }
    }
}
