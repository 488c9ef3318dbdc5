//! Items of a batch (images, and with guidance each of them twice) on several workers with weights of their own.

use crate::Result;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

/// The items that one worker computes in one step.
pub struct Part {
    /// `[items, channels, height, width]`.
    pub latents: Vec<f32>,
    /// The network's time of each item.
    pub times: Vec<f64>,
    /// One an item; empty for networks without labels.
    pub labels: Vec<u32>,
}

/// Other workers that hold the same model.
pub trait Helpers {
    /// How many there are.
    fn count(&self) -> usize;

    /// Starts the forward of a part on helper `index`; resolves with `[items, channels, height, width]`.
    fn forward(&self, index: usize, part: Part) -> Pin<Box<dyn Future<Output = Result<Vec<f32>>>>>;
}

/// `items` in as many ranges as there are workers, none empty; the first, ours, is never smaller than another.
pub fn split(items: usize, workers: usize) -> Vec<Range<usize>> {
    let parts = workers.clamp(1, items.max(1));
    let mut ranges = Vec::with_capacity(parts);
    let mut from = 0;
    for part in 0..parts {
        let to = from + (items - from).div_ceil(parts - part);
        ranges.push(from..to);
        from = to;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_split_without_gaps_and_ours_is_the_largest() {
        for items in 1..20 {
            for workers in 1..9 {
                let ranges = split(items, workers);
                assert_eq!(ranges.len(), workers.min(items));
                assert_eq!((ranges[0].start, ranges[ranges.len() - 1].end), (0, items));
                assert!(ranges.windows(2).all(|w| w[0].end == w[1].start && w[0].len() >= w[1].len()));
                assert!(ranges.iter().all(|range| !range.is_empty()));
            }
        }
    }
}
