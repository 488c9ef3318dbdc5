//! Items of a batch (images, and with guidance each of them twice) on several workers with weights of their own.

use super::tensors::NamedTensor;
use crate::Result;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

/// What somebody else computes or brings meanwhile.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T>>>>;

/// Other workers that hold the same model.
pub trait Helpers {
    /// How many there are.
    fn count(&self) -> usize;

    /// Starts a forward on helper `index`, with a tensor for every port of its items; resolves with what the ports `outputs`
    /// give, in their order.
    fn forward(&self, index: usize, tensors: Vec<NamedTensor>, outputs: Vec<&'static str>) -> Answer<Vec<Vec<f32>>>;
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
