//! Where the step loop's noise comes from.

use crate::generator::TorchGenerator;

/// Standard normal noise for a batch of images.
pub enum Noise {
    /// One generator an image: image k of a call draws the same noise whatever the number of images.
    PerImage(Vec<TorchGenerator>),
    /// One generator for whole batches, as reference scripts that draw `[count, ..]` at once.
    Batch(Box<TorchGenerator>),
    /// What was drawn elsewhere, the next at the end; zeros after that.
    Given(Vec<Vec<f32>>),
}

impl Noise {
    /// Generators seeded with `seed`, `seed + stride`, ..
    pub fn per_image(seed: u32, stride: u32, count: usize) -> Noise {
        let seed_of = |k: u64| u64::from(seed) + k * u64::from(stride);
        Noise::PerImage((0..count as u64).map(|k| TorchGenerator::new(seed_of(k))).collect())
    }

    /// The next values, for each image tensors of these sizes one after the other: each a draw of its own.
    pub fn draw(&mut self, count: usize, sizes: &[usize]) -> Vec<f32> {
        let of_image: usize = sizes.iter().sum();
        let mut values = Vec::with_capacity(count * of_image);
        match self {
            Noise::PerImage(generators) => {
                for generator in generators {
                    for &size in sizes {
                        values.extend(generator.randn_f32(size));
                    }
                }
            }
            Noise::Batch(generator) => {
                let drawn: Vec<Vec<f32>> = sizes.iter().map(|size| generator.randn_f32(count * size)).collect();
                for k in 0..count {
                    for (drawn, size) in drawn.iter().zip(sizes) {
                        values.extend(&drawn[k * size..(k + 1) * size]);
                    }
                }
            }
            Noise::Given(left) => values = left.pop().unwrap_or_else(|| vec![0.0; count * of_image]),
        }
        values
    }
}
