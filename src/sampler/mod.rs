//! Noise schedules, solvers and guidance, in f64 on the host.
//!
//! A solver is compiled, before any device is touched, into a [`Recipe`]: a flat list of [`Step`]s over a few
//! named [`Slot`]s. Devices only know three things of sampling: run the network on the latents, write a linear
//! combination of slots (optionally clipped) into a slot, and add noise as strong as the network says. Nothing here knows networks or devices.
//!
//! [`recipe`] is the way in for users' [`SamplerSettings`]. Each solver also has forms of its own (diffusers'
//! schedulers) in its module: [`dpm_singlestep`], [`dpm_multistep`], [`unipc`], [`ddim`], [`euler_maruyama`]. All share [`schedule`]
//! (alpha_t, sigma_t, lambda_t), [`grid`] (which times) and [`prediction`] (what the network's output means); [`guidance`]
//! stands beside them.

mod builder;
pub mod ddim;
pub mod ddpm;
pub mod deis;
pub mod dpm;
pub mod dpm_adaptive;
pub mod dpm_multistep;
pub mod dpm_singlestep;
pub mod euler;
pub mod euler_maruyama;
pub mod flow_match;
pub mod grid;
pub mod guidance;
pub mod heun;
pub mod lcm;
pub mod pndm;
pub mod prediction;
pub mod schedule;
pub mod settings;
pub mod timesteps;
pub mod training_grid;
pub mod unipc;

pub use crate::generator::TorchGenerator;
pub use dpm_adaptive::Adaptive;
pub use grid::Spacing;
pub use prediction::Prediction;
pub use schedule::Schedule;
pub use settings::{SamplerKind, SamplerSettings, recipe};

/// A buffer of the step loop, each `[count, channels, height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// x_t: what the network reads, and in the end the result.
    Latents,
    /// The network's raw output after guidance; only read. Devices that keep the conditional and unconditional
    /// halves apart expand a coefficient c into c s and c (1 - s), s the guidance scale.
    Model,
    /// Scratch of the solver: history, x0 estimates, noise. Numbered from 0 without gaps.
    Scratch(u8),
}

/// One term of a linear combination.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// What is read.
    pub slot: Slot,
    /// Its factor.
    pub coefficient: f64,
}

/// One instruction of the step loop.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Run the network on `Latents`; its (guided) output becomes `Model`. Begins a step as users count them.
    Eval {
        /// The time as handed to the network (e.g. 999 t).
        network_time: f64,
        /// x0 estimate = `x0[0]` Latents + `x0[1]` Model, for previews, before clipping.
        x0: [f64; 2],
    },
    /// `out = clip(sum of terms)`; at most [`MAX_TERMS`] terms; `out` may be among the terms.
    Combine {
        /// What is written.
        out: Slot,
        /// What is summed.
        terms: Vec<Term>,
        /// Lower and upper bound, if clipped.
        clip: Option<(f64, f64)>,
    },
    /// Fill `out` with fresh standard normal noise, in the order of the steps.
    Noise {
        /// What is written.
        out: Slot,
    },
    /// `out += exp(log_std[0] + log_std[1] v) noise`, value by value: v is what the network says of the variance, which is never guided,
    /// and -1 everywhere if it says nothing.
    Spread {
        /// What is written.
        out: Slot,
        /// Standard normal.
        noise: Slot,
        /// The logarithm of the deviation where v is 0, and what v adds.
        log_std: [f64; 2],
    },
    /// The end of an update: `Latents` are x_t = `alpha_t` x_0 + `sigma_t` noise. Inpainting puts back what it keeps here.
    Arrive {
        /// The part of the picture.
        alpha_t: f64,
        /// The part of the noise.
        sigma_t: f64,
    },
}

/// The most terms a [`Step::Combine`] has (Model counts once).
pub const MAX_TERMS: usize = 6;

/// A solver compiled for one schedule and number of steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// In order.
    pub steps: Vec<Step>,
    /// How many `Scratch` slots are used.
    pub scratch_slots: usize,
    /// How many times the network runs.
    pub evaluations: usize,
    /// The start latents are standard normal noise times this.
    pub init_noise_sigma: f64,
    /// Where it starts: x_t = `start[0]` x_0 + `start[1]` noise, for those who start from a picture.
    pub start: [f64; 2],
    /// What decides on the way which steps follow those above.
    pub adaptive: Option<Adaptive>,
}
