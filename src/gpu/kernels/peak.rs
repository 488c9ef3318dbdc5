//! `shaders/peak.wgsl`: what the adapter's arithmetic reaches at most.

use super::{Binding, Launch, Variant};

const WORKGROUP: usize = 64;
/// Shapes of the loop; which is best depends on the compiler.
const SHAPES: [(usize, usize); 2] = [(4, 8), (2, 16)];
/// Invocations of a launch.
pub const INVOCATIONS: usize = 16384;

/// One loop.
pub struct Peak {
    /// What to run.
    pub launch: Launch,
    /// Multiply-adds of it.
    pub multiply_adds: u64,
}

fn variant((sums, steps): (usize, usize)) -> Variant {
    Variant {
        kernel: "peak",
        variables: vec![("SUMS", sums.to_string()), ("STEPS", steps.to_string()), ("WORKGROUP", WORKGROUP.to_string())],
    }
}

pub(super) fn variants() -> impl Iterator<Item = Variant> {
    SHAPES.into_iter().map(variant)
}

/// The loops, each taking so many turns, on the scratch buffer.
pub fn peaks(turns: u32) -> impl Iterator<Item = Peak> {
    SHAPES.into_iter().map(move |shape| Peak {
        launch: Launch {
            variant: variant(shape),
            params: bytemuck::cast_slice(&[turns, 0, 0, 0]).to_vec(),
            bindings: vec![(1, Binding::Io)],
            workgroups: [(INVOCATIONS / WORKGROUP) as u32, 1, 1],
        },
        multiply_adds: (4 * shape.0 * shape.1 * INVOCATIONS) as u64 * u64::from(turns),
    })
}
