//! What a Program costs: multiply-adds and memory traffic, read off its sizes.

use super::{Kernel, Program};

/// Work of one kernel or of a whole Program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Multiply-adds of matrix products and convolutions (1 multiply-add = 2 FLOPs).
    pub multiply_adds: u64,
}

impl Kernel {
    /// Multiply-adds of the kernel's matrix products; 0 for those that have none.
    pub fn cost(&self) -> Cost {
        // In u64: on wasm32 a large model's product would overflow usize.
        let product = |factors: &[usize]| factors.iter().map(|&n| n as u64).product::<u64>();
        let multiply_adds = match self {
            Kernel::Matmul(m) => product(&[m.rows, m.n, m.k + m.k2]),
            Kernel::Attention(a) => product(&[2, a.batch, a.heads, a.tokens, a.tokens, a.head_dim]),
            Kernel::PatchEmbed(p) => product(&[p.batch, p.channels, p.height, p.width, p.dim]),
            Kernel::Conv2d(c) => product(&[9, c.batch, c.in_channels, c.out_channels, c.height, c.width]),
            _ => 0,
        };
        Cost { multiply_adds }
    }
}

impl Program {
    /// The sum over all kernels.
    pub fn cost(&self) -> Cost {
        Cost { multiply_adds: self.kernels.iter().map(|k| k.cost().multiply_adds).sum() }
    }
}
