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
        let multiply_adds = match self {
            Kernel::Matmul(m) => m.rows * m.n * (m.k + m.k2),
            Kernel::Attention(a) => 2 * a.batch * a.heads * a.tokens * a.tokens * a.head_dim,
            Kernel::PatchEmbed(p) => p.batch * p.channels * p.height * p.width * p.dim,
            Kernel::Conv2d(c) => c.batch * c.in_channels * c.out_channels * 9 * c.height * c.width,
            _ => 0,
        };
        Cost { multiply_adds: multiply_adds as u64 }
    }
}

impl Program {
    /// The sum over all kernels.
    pub fn cost(&self) -> Cost {
        Cost { multiply_adds: self.kernels.iter().map(|k| k.cost().multiply_adds).sum() }
    }
}
