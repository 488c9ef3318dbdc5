//! `shaders/peak.wgsl`: what the adapter's arithmetic reaches at most.

use super::Variant;

const WORKGROUP: usize = 64;
/// Shapes of the loop; which is best depends on the compiler.
const SHAPES: [(usize, usize); 2] = [(4, 8), (2, 16)];
/// Invocations of a launch.
pub const INVOCATIONS: usize = 16384;

/// One loop: binding 0 its parameters, 1 a buffer of [`INVOCATIONS`] floats.
pub struct Peak {
    /// The shader.
    pub variant: Variant,
    /// The uniform block.
    pub params: Vec<u8>,
    /// Workgroups in x, y, z.
    pub workgroups: [u32; 3],
    /// Multiply-adds of a launch.
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

/// The loops, each taking so many turns.
pub fn peaks(turns: u32) -> impl Iterator<Item = Peak> {
    SHAPES.into_iter().map(move |(sums, steps)| Peak {
        variant: variant((sums, steps)),
        params: bytemuck::cast_slice(&[turns, 0, 0, 0]).to_vec(),
        workgroups: [(INVOCATIONS / WORKGROUP) as u32, 1, 1],
        multiply_adds: (4 * sums * steps * INVOCATIONS) as u64 * u64::from(turns),
    })
}
