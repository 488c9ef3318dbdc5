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
