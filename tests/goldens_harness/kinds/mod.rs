//! One file a `kind` of config.json (diffusers' schedulers share one).

pub mod autoencoder;
pub mod caption_decoder;
pub mod clip_tokenizer;
pub mod diffusers;
pub mod dpm_solver;
pub mod end_to_end;
pub mod end_to_end_dit;
pub mod end_to_end_sd3;
pub mod euler_maruyama;
pub mod guidance;
pub mod img2img_inpaint;
pub mod network;
pub mod sd3_prompt;
pub mod torch_randn;
pub mod vp_dpmpp2m;

use super::{Options, Stop};
use uvit_web::sampler::Schedule;

/// The schedule of a continuous sampler's case or run; the linear one if none is named.
fn continuous_schedule(options: &mut Options) -> Result<Schedule, Stop> {
    options.choice("type", &[("vp_linear", ())])?;
    Ok(Schedule::VpLinear { beta_min: options.number("beta_0", 0.1)?, beta_max: options.number("beta_1", 20.0)? })
}
