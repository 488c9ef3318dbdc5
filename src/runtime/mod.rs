//! What runs Programs: a [`Device`], the [`Weights`] of components on it, [`State`]s that outlive runs, and [`Session`]s,
//! each a Program with its memory over Weights and a State. Any number of each live on one device, and share what is compiled
//! and the scratch memory, since no two run at once. Dropping one frees it.
//!
//! One face for the CPU ([`crate::cpu`]) and GPUs ([`crate::gpu`]); nothing here knows networks, samplers or files.

mod device;
#[cfg(feature = "fast-cpu")]
mod fastest;
mod self_test;
mod session;
mod state;
#[cfg(feature = "gpu")]
mod tuning;
mod turn;
mod weights;

pub use device::Device;
#[cfg(feature = "fast-cpu")]
pub use fastest::fastest;
pub use self_test::{Stored, kinds, self_test};
pub use session::Session;
pub use state::{State, Term};
#[cfg(feature = "gpu")]
pub use tuning::{Trial, Tune, Tuned, choose};
pub use turn::turn;
pub use weights::{Loading, Weights};

/// One expression for hosts, one for GPUs.
macro_rules! each {
    ($on:expr, $host:ident => $host_body:expr, $gpu:ident => $gpu_body:expr) => {
        match $on {
            Kind::Host($host) => $host_body,
            #[cfg(feature = "gpu")]
            Kind::Gpu($gpu) => $gpu_body,
        }
    };
    ($on:expr, $one:ident => $body:expr) => {
        each!($on, $one => $body, $one => $body)
    };
}
use each;

/// What lies on the CPU, or on a GPU.
#[cfg(feature = "gpu")]
#[derive(Clone)]
enum Kind<H, G> {
    Host(H),
    Gpu(G),
}

/// What lies on the CPU: this build has no GPU.
#[cfg(not(feature = "gpu"))]
#[derive(Clone)]
enum Kind<H> {
    Host(H),
}
