//! What a Program costs: multiply-adds and memory traffic, read off its sizes.

use super::{Kernel, Program};

/// Work of one kernel or of a whole Program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Multiply-adds of matrix products and convolutions (1 multiply-add = 2 FLOPs).
    pub multiply_adds: u64,
    /// Bytes read and written at least once, everything in f32.
    pub bytes: u64,
    /// How many kernels.
    pub launches: u64,
}

impl Cost {
    /// All of it as multiply-adds that take about as long: what the budget of a run counts. Rough, since every device has
    /// ratios of its own; but nothing is free, so no chain of cheap kernels becomes one endless run.
    pub fn work(&self) -> u64 {
        self.multiply_adds.saturating_add(4 * self.bytes).saturating_add(self.launches << 17)
    }
}

impl Kernel {
    /// Of this kernel.
    pub fn cost(&self) -> Cost {
        // In u64: on wasm32 a large model's product would overflow usize.
        let product = |factors: &[usize]| factors.iter().map(|&n| n as u64).product::<u64>();
        let (multiply_adds, floats) = match self {
            Kernel::Matmul(m) => {
                let results = if m.residual.is_some() { 2 } else { 1 };
                let k = m.columns();
                let floats = product(&[m.rows, m.k + m.k2]) + product(&[m.n, k]) + product(&[results, m.rows, m.n]);
                (product(&[m.rows, m.n, k]), floats)
            }
            Kernel::Attention(a) => {
                let groups = a.batch * a.groups;
                let products = product(&[2, groups, a.heads, a.queries, a.tokens, a.head_dim]);
                (products, product(&[4, groups, a.heads, a.tokens, a.head_dim]))
            }
            Kernel::CachedAttention(a) => {
                let (tokens, seen) = (a.batch * a.tokens, product(&[2, a.batch, a.most, a.heads, a.head_dim]));
                (a.tokens as u64 * seen, seen + product(&[2, tokens, a.heads, a.head_dim]))
            }
            Kernel::HeadNorm(k) => (0, product(&[6, k.batch, k.tokens, k.heads, k.head_dim])),
            Kernel::WriteCache(k) => (0, product(&[4, k.batch, k.tokens, k.dim])),
            Kernel::PatchEmbed(p) => {
                let image = product(&[p.batch, p.patches.values()]);
                let tokens = product(&[p.batch, p.patches.count(), p.dim]);
                let weights = product(&[p.patches.channels, p.patches.pixels(), p.dim]);
                (image * p.dim as u64, image + weights + 2 * tokens)
            }
            Kernel::Conv2d(c) => {
                let pixels = product(&[c.batch, c.frames, c.height, c.width]);
                let channels = product(&[c.in_channels, c.out_channels]);
                (9 * pixels * channels, pixels * (c.in_channels + c.out_channels) as u64 + 9 * channels)
            }
            Kernel::LayerNorm(k) => {
                let vectors = if k.modulation.is_some() { 2 * (k.rows / k.tokens) } else { 0 };
                (0, product(&[2 * k.rows + vectors, k.dim]))
            }
            Kernel::ImageTokens(k) => (0, product(&[2, k.batch, k.pixels, k.channels])),
            Kernel::GroupMoments(k) => (0, product(&[k.batch, k.tokens, k.dim])),
            Kernel::GroupScales(k) => (0, product(&[2, k.batch, k.tokens.div_ceil(k.slice), k.dim])),
            Kernel::GroupNorm(k) => (0, product(&[2, k.batch, k.tokens, k.dim])),
            Kernel::Elementwise(k) => (0, product(&[if k.b.is_some() { 3 } else { 2 }, k.rows, k.dim])),
            Kernel::Embedding(k) => (0, product(&[3, k.batch, k.count, k.dim])),
            Kernel::CopyTokens(k) => (0, product(&[3, k.batch, k.count, k.dim])),
            Kernel::ResizedPositions(k) => (0, product(&[6, k.batch, k.to[0], k.to[1], k.dim])),
            Kernel::Unpatchify(k) => (0, product(&[2, k.batch, k.patches.values()])),
        };
        Cost { multiply_adds, bytes: 4 * floats, launches: 1 }
    }
}

impl Program {
    /// The sum over all kernels.
    pub fn cost(&self) -> Cost {
        let add = |a: Cost, b: Cost| Cost {
            multiply_adds: a.multiply_adds + b.multiply_adds,
            bytes: a.bytes + b.bytes,
            launches: a.launches + b.launches,
        };
        self.kernels.iter().map(Kernel::cost).fold(Cost::default(), add)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Capabilities, Plan, Role, lower};

    #[test]
    fn cheap_kernels_are_not_free() {
        let mut plan = Plan::default();
        let mut x = plan.tensor("", &[2, 64, 256], Role::Input);
        for i in 0..10 {
            x = plan.layer_norm(&format!("norm {i}"), x, 1e-5);
            x = plan.add("", x, x);
        }
        let program = lower(&plan, &Capabilities::CPU, &[]).unwrap();
        let cost = program.cost();
        // A norm reads and writes; x + x is a copy and an addition.
        assert_eq!((cost.multiply_adds, cost.launches), (0, 30));
        assert_eq!(cost.bytes, 10 * (2 + 2 + 3) * 4 * 2 * 64 * 256);
        assert!(program.kernels.iter().all(|kernel| kernel.cost().work() > 4 * 4 * 2 * 64 * 256));
        let half: u64 = program.kernels.iter().map(|kernel| kernel.of_items(1, 2).cost().bytes).sum();
        assert_eq!(2 * half, cost.bytes);
    }
}
