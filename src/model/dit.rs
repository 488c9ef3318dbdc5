//! DiT, "Scalable Diffusion Models with Transformers" (Peebles and Xie, ICCV 2023): patches of a latent are tokens, time and label
//! reach them through the norms alone.

use super::adaln::Adaptive;
use super::{Batch, Recording};
use crate::Result;
use crate::json;

/// The published constructor's arguments, under its names.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Height and width of the latent.
    pub input_size: usize,
    /// Height and width of a patch.
    pub patch_size: usize,
    /// Channels of the latent.
    pub in_channels: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads; the head dim is `hidden_size / num_heads`.
    pub num_heads: usize,
    /// Hidden width of the MLP over `hidden_size`.
    pub mlp_ratio: f64,
    /// Classes; the table has one more row, for none of them.
    pub num_classes: usize,
    /// Whether the variance of a step is predicted too.
    pub learn_sigma: bool,
}

json::fields!(Config {
    input_size,
    patch_size,
    in_channels,
    hidden_size,
    depth,
    num_heads,
    mlp_ratio,
    num_classes,
    learn_sigma,
});

impl Config {
    fn sizes(&self) -> Adaptive<'_> {
        Adaptive { config: self, frames: None, labels: true }
    }

    /// All tokens of one item.
    pub fn tokens(&self) -> usize {
        self.sizes().tokens()
    }

    /// Records one forward for `batch`: ports `x [images, C, S, S]`, `timesteps [items]`, `y [items]`, `out [items, C, S, S]` and,
    /// with `learn_sigma`, `variance` of the same shape. The published result is both, one below the other.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` if the parameters contradict each other or the head dim is no multiple of 4 up to 128.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        self.sizes().record(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Capabilities, Kernel, lower};

    /// DiT-XL/2 at 256 x 256.
    fn extra_large() -> Config {
        Config {
            input_size: 32,
            patch_size: 2,
            in_channels: 4,
            hidden_size: 1152,
            depth: 28,
            num_heads: 16,
            mlp_ratio: 4.0,
            num_classes: 1000,
            learn_sigma: true,
        }
    }

    #[test]
    fn multiply_adds_are_the_published_ones() {
        let plan = extra_large().record(Batch::plain(1)).unwrap().plan;
        let found = lower(&plan, &Capabilities::CPU, &[]).unwrap().cost().multiply_adds as f64;
        // Peebles and Xie, table 4: 118.6 Gflops, which are multiply-adds.
        assert!((found / 118.6e9 - 1.0).abs() < 0.02, "{found}");
    }

    #[test]
    fn what_an_item_has_once_is_computed_once() {
        let plan = extra_large().record(Batch::copied(1, 2)).unwrap().plan;
        // No launch is cut.
        let capabilities = Capabilities { launch_work: u64::MAX, ..Capabilities::WEBGPU };
        let program = lower(&plan, &capabilities, &[]).unwrap();
        let mut of_vectors = 0;
        for kernel in &program.kernels {
            match kernel {
                // From the time or the label to a vector, and from that to 29 modulations: a row for each of two items.
                Kernel::Matmul(m) if m.tokens == 1 => {
                    assert_eq!(m.rows, 2);
                    of_vectors += 1;
                }
                // SiLU, once for all of them.
                Kernel::Elementwise(k) => assert_eq!((k.rows, k.dim), (2, 1152)),
                _ => {}
            }
        }
        let elementwise = program.kernels.iter().filter(|kernel| matches!(kernel, Kernel::Elementwise(_))).count();
        assert_eq!((of_vectors, elementwise), (2 + 28 + 1, 1));
        // Modulations, qkv, attention, proj, fc1, fc2 and two norms a block; gates and residuals are in them. Beside these: three
        // for the vector, its SiLU, patches, the last three, noise and variance.
        assert_eq!(program.kernels.len(), 28 * 8 + 10);
    }

    #[test]
    fn what_contradicts_itself_is_refused_by_the_published_names() {
        let refused = |change: &dyn Fn(&mut Config)| {
            let mut config = extra_large();
            change(&mut config);
            config.record(Batch::plain(1)).unwrap_err().cause.clone()
        };
        assert_eq!(refused(&|c| c.input_size = 33), "input_size 33 is no multiple of patch_size 2");
        assert_eq!(refused(&|c| c.num_heads = 17), "hidden_size 1152 is no multiple of num_heads 17");
        assert_eq!(refused(&|c| c.in_channels = 0), "in_channels is 0, not in 1..=64");
        assert_eq!(refused(&|c| c.depth = 129), "depth is 129, not in 1..=128");
        assert_eq!(refused(&|c| c.num_classes = 0), "num_classes is 0, not in 1..=65536");
    }
}
