//! Classifier-free guidance (arXiv:2207.12598): how the conditional and the unconditional output become one. U-ViT's papers
//! state a scale w with cond + w (cond - uncond) (baofff/U-ViT@ce551708dc9cde9818d2af7d84dfadfeb7bd9034 eval_ldm_discrete.py
//! `cfg_nnet`); everywhere here `guidance_scale` s means uncond + s (cond - uncond), so s = 1 + w.

/// In which convention a scale is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuidanceForm {
    /// U-ViT and UniDiffuser: cond + w (cond - uncond); 0 is off.
    Uvit,
    /// Stable Diffusion and DiT: uncond + s (cond - uncond); 1 is off.
    Cfg,
}

impl GuidanceForm {
    /// The `guidance_scale` s that a number in this convention stands for.
    pub fn guidance_scale(self, scale: f64) -> f64 {
        match self {
            GuidanceForm::Uvit => 1.0 + scale,
            GuidanceForm::Cfg => scale,
        }
    }
}

/// Whether the unconditional output takes part at all; if not, the network runs once a step.
pub fn needs_uncond(guidance_scale: f64) -> bool {
    guidance_scale != 1.0
}

/// A coefficient of [`Slot::Model`](super::Slot::Model) as the coefficients of (cond, uncond): \[c s, c (1 - s)\].
pub fn expand(coefficient: f64, guidance_scale: f64) -> [f64; 2] {
    [coefficient * guidance_scale, coefficient * (1.0 - guidance_scale)]
}

/// The parts of a batch of `images` outputs that are combined alike, of `of_image` elements in `channels` channels each: the first
/// `guided` channels of an image, then its others, which are the conditional output's (DiT guides three, facebookresearch/DiT@
/// ed81ce2229091fd4ecc9a223645f95cf379d582b models.py `forward_with_cfg`). First element, how many, and whether they are guided.
pub fn parts(images: usize, of_image: usize, channels: usize, guided: usize) -> Vec<(usize, usize, bool)> {
    let head = of_image / channels * guided.min(channels);
    let of_one = |i: usize| [(i * of_image, head, true), (i * of_image + head, of_image - head, false)];
    (0..images).flat_map(of_one).filter(|(_, elements, _)| *elements > 0).collect()
}

/// What a guided output of one image is multiplied by, so that it varies about as much as the conditional one: `phi`
/// std(cond) / std(guided) + 1 - `phi` (arXiv:2305.08891, equations 15 and 16; `guidance_rescale` in diffusers).
pub fn rescale_factor(cond: &[f64], guided: &[f64], phi: f64) -> f64 {
    let std = |values: &[f64]| {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()
    };
    phi * std(cond) / std(guided) + 1.0 - phi
}

/// What UniDiffuser draws (thu-ml/unidiffuser@845e14f7939fb28a7f8d879ff18b7c9e09c7434b sample_multi_v1.py).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UniDiffuserMode {
    /// Pictures from a text; unguided is a text of noise (`t2i_nnet` with `true_uncond`).
    TextToImage,
    /// Pictures from a text; unguided is the empty text.
    TextToImageEmpty,
    /// Texts from a picture.
    ImageToText,
    /// Both at once.
    Joint,
    /// Pictures alone.
    Image,
    /// Texts alone.
    Text,
}

/// What one forward of UniDiffuser is given for a modality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modality {
    /// What is being drawn, at the step's time.
    Drawn,
    /// What is known, at time 0.
    Known,
    /// The empty text, at time 0.
    Empty,
    /// Noise, at the last time.
    Noise,
}

/// One forward: image (with its CLIP embedding) and text.
pub type UniDiffuserForward = [Modality; 2];

/// UniDiffuser's guidance as a table: which forwards a step takes, and by which of them, with which coefficients, the image's and
/// the text's outputs become one. An output without terms is not used.
#[derive(Clone, Debug, PartialEq)]
pub struct UniDiffuserGuidance {
    /// In order.
    pub forwards: Vec<UniDiffuserForward>,
    /// (forward, coefficient) of the image and its CLIP embedding.
    pub image: Vec<(usize, f64)>,
    /// (forward, coefficient) of the text.
    pub text: Vec<(usize, f64)>,
}

impl UniDiffuserGuidance {
    /// `guidance_scale` 1 is off, and then one forward does.
    pub fn new(mode: UniDiffuserMode, guidance_scale: f64) -> UniDiffuserGuidance {
        use Modality::{Drawn, Empty, Known, Noise};
        // The guided forward, and those without what guides the image and the text.
        let (first, image, text) = match mode {
            UniDiffuserMode::TextToImage => ([Drawn, Known], Some([Drawn, Noise]), None),
            UniDiffuserMode::TextToImageEmpty => ([Drawn, Known], Some([Drawn, Empty]), None),
            UniDiffuserMode::ImageToText => ([Known, Drawn], None, Some([Noise, Drawn])),
            UniDiffuserMode::Joint => ([Drawn, Drawn], Some([Drawn, Noise]), Some([Noise, Drawn])),
            UniDiffuserMode::Image => ([Drawn, Noise], None, None),
            UniDiffuserMode::Text => ([Noise, Drawn], None, None),
        };
        let mut forwards = vec![first];
        let mut output = |used: bool, unguided: Option<UniDiffuserForward>| match unguided {
            _ if !used => Vec::new(),
            Some(unguided) if needs_uncond(guidance_scale) => {
                forwards.push(unguided);
                vec![(0, guidance_scale), (forwards.len() - 1, 1.0 - guidance_scale)]
            }
            _ => vec![(0, 1.0)],
        };
        let image = output(first[0] == Drawn, image);
        let text = output(first[1] == Drawn, text);
        UniDiffuserGuidance { forwards, image, text }
    }
}

/// uncond + s (cond - uncond), value by value.
pub fn guide(cond: &[f64], uncond: &[f64], guidance_scale: f64) -> Vec<f64> {
    let [c, u] = expand(1.0, guidance_scale);
    cond.iter().zip(uncond).map(|(cond, uncond)| c * cond + u * uncond).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_translate() {
        assert_eq!(GuidanceForm::Uvit.guidance_scale(0.4), 1.4);
        assert_eq!(GuidanceForm::Cfg.guidance_scale(1.4), 1.4);
        assert!(!needs_uncond(GuidanceForm::Uvit.guidance_scale(0.0)));
        assert!(needs_uncond(0.0));
        assert_eq!(expand(2.0, 1.5), [3.0, -1.0]);
    }
}
