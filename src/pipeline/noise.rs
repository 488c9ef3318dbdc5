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

    /// The next `[count, elements]` values.
    pub fn draw(&mut self, count: usize, elements: usize) -> Vec<f32> {
        match self {
            Noise::PerImage(generators) => generators.iter_mut().flat_map(|g| g.randn_f32(elements)).collect(),
            Noise::Batch(generator) => generator.randn_f32(count * elements),
            Noise::Given(left) => left.pop().unwrap_or_else(|| vec![0.0; count * elements]),
        }
    }
}
