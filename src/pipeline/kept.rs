//! What a step loop keeps: parts of a picture, by a mask, and frames of clips. They are put back after every step with the noise of that
//! step, and in the end exactly.

use super::denoiser::Denoiser;
use super::guidance::Guidance;
use crate::Result;
use crate::runtime::Term;
use crate::sampler::Slot;

/// What inpainting needs, of the first port that is drawn: the picture, its noise, the mask, and the picture as
/// [`Denoiser::remind`] has it.
pub(super) const KEPT: [&str; 4] = ["kept picture", "kept noise", "mask", "reminder"];

impl Denoiser {
    /// Elements of the first port that is drawn: the picture's.
    fn of_pictures(&self) -> usize {
        self.shape().batch.images * self.drawn.of_picture()
    }

    /// Writes what [`Denoiser::keep`] keeps; `noise` is that of all ports.
    ///
    /// # Errors
    /// `INTERNAL` if it was made without a mask, or a length differs.
    pub fn give_kept(&self, picture: &[f32], noise: &[f32], mask: &[f32]) -> Result<()> {
        self.state.write(KEPT[0], picture)?;
        self.state.write(KEPT[2], mask)?;
        self.state.write(KEPT[3], picture)?;
        self.renew_kept(noise)
    }

    /// Other noise for what is kept.
    ///
    /// # Errors
    /// As [`Denoiser::give_kept`].
    pub fn renew_kept(&self, noise: &[f32]) -> Result<()> {
        self.state.write(KEPT[1], &self.drawn.to_ports(noise)[..self.of_pictures()])
    }

    /// Where the mask is 0 the first port's latents become `alpha_t` picture + `sigma_t` noise; where it is 1 they stay. `reminded`:
    /// of the picture as [`Denoiser::remind`] has it.
    ///
    /// # Errors
    /// `INTERNAL` if it was made without a mask.
    pub fn keep(&self, alpha_t: f64, sigma_t: f64, reminded: bool) -> Result<()> {
        let [picture, noise, mask, reminder] = KEPT;
        let term = |tensor, coefficient: f64| Term { tensor, from: 0, coefficient: coefficient as f32 };
        let mixed = [term(if reminded { reminder } else { picture }, alpha_t), term(noise, sigma_t)];
        self.state.blend(&self.drawn.ports[0].latents, mask, self.of_pictures(), &mixed)
    }

    /// Adds to the reminder how far the estimate of x0 is from the picture, `x0` as for [`Denoiser::preview`].
    ///
    /// What is kept and what is not are noised alike, so a network weighs a few known frames no more than the many that it is making up:
    /// mostly it goes on with these, and the known ones are put beside them. Reconstruction guidance (Ho et al., "Video Diffusion
    /// Models", 2022, equation 7) moves the estimate of what is unknown down the gradient of that distance, through the network. The
    /// Jacobian of an estimate E[x0 | x_t] is its covariance times alpha / sigma^2, hence symmetric, so to first order it is the same to
    /// move the input of what is known by the distance, and needs neither gradient nor another call. Summed over the steps it goes on
    /// until the estimate agrees, and then is still (the residual that Bregman iterations add back to the data: Osher et al., 2005).
    ///
    /// # Errors
    /// `INTERNAL` if it was made without a mask.
    pub fn remind(&self, x0: [f64; 2], guidance: &Guidance, guided: bool) -> Result<()> {
        let estimate = self.preview_slot();
        self.combine(estimate, &[(Slot::Latents, x0[0]), (Slot::Model, x0[1])], guidance, guided, None)?;
        let [picture, _, _, reminder] = KEPT;
        let term = |tensor, coefficient| Term { tensor, from: 0, coefficient };
        let estimate = self.scratch(self.shape().scratch_slots)?;
        let terms = [term(reminder, 1.0), term(picture, 1.0), term(estimate, -1.0)];
        self.state.combine_from(reminder, 0, self.of_pictures(), &terms, None)
    }
}
