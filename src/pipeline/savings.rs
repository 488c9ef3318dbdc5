//! What a generation may leave out, none of it by default: each saving has a cost in quality that was measured
//! (`docs/savings.md`).

use crate::package::BlockCache;
use crate::sampler::{Recipe, Step};

/// How much of a forward one evaluation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The unconditional items too.
    pub guided: bool,
    /// All blocks; else the outer ones alone, around what the last whole pass has left.
    pub whole: bool,
}

/// One pass an evaluation of `recipe`. Guidance is left out where t, from 0 (the picture) to 1 (noise), lies outside
/// `interval` (Kynkäänniemi et al., "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in
/// Diffusion Models", 2024); inner blocks run where `cache` says so (Ma et al., "DeepCache: Accelerating Diffusion Models
/// for Free", 2024).
pub fn passes(
    recipe: &Recipe,
    [time_scale, time_offset]: [f64; 2],
    guided: bool,
    interval: Option<[f64; 2]>,
    cache: Option<&BlockCache>,
) -> Vec<Pass> {
    let times = recipe.steps.iter().filter_map(|step| match step {
        Step::Eval { network_time, .. } => Some((network_time - time_offset) / time_scale),
        _ => None,
    });
    let refreshed = cache.map(|cache| cache.refreshed(recipe.evaluations));
    let mut last: Option<Pass> = None;
    let mut all = Vec::with_capacity(recipe.evaluations);
    for (i, t) in times.enumerate() {
        let guided = guided && interval.is_none_or(|[low, high]| (low..=high).contains(&t));
        let refreshed = refreshed.as_ref().is_none_or(|refreshed| refreshed[i]);
        // The unconditional half cannot go on from what a pass without it has left.
        let whole = refreshed || last.is_none_or(|last| guided && !last.guided);
        let pass = Pass { guided, whole };
        if whole {
            last = Some(pass);
        }
        all.push(pass);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(times: &[f64]) -> Recipe {
        let steps = times.iter().map(|t| Step::Eval { network_time: 999.0 * t, x0: [1.0, 0.0] }).collect();
        Recipe {
            steps,
            scratch_slots: 0,
            evaluations: times.len(),
            init_noise_sigma: 1.0,
            start: [0.0, 1.0],
            adaptive: None,
        }
    }

    fn letters(passes: &[Pass]) -> String {
        let letter = |pass: &Pass| match (pass.guided, pass.whole) {
            (true, true) => 'G',
            (true, false) => 'g',
            (false, true) => 'C',
            (false, false) => 'c',
        };
        passes.iter().map(letter).collect()
    }

    #[test]
    fn a_schedule_serves_other_numbers_of_steps() {
        let cache = BlockCache { outer: 1, steps: 10, refresh: vec![0, 1, 2, 4, 7] };
        let whole = |steps: usize| {
            let refreshed = cache.refreshed(steps);
            (0..steps).filter(|&i| refreshed[i]).collect::<Vec<_>>()
        };
        assert_eq!(whole(10), [0, 1, 2, 4, 7]);
        assert_eq!(whole(20), [0, 2, 4, 8, 14]);
        assert_eq!(whole(4), [0, 1]);
        assert_eq!(whole(6), [0, 1, 2]);
        assert_eq!(whole(1), [0]);
        // Whatever a stranger's manifest holds.
        let huge = BlockCache { outer: 1, steps: usize::MAX, refresh: vec![0, usize::MAX - 1] };
        assert_eq!(huge.refreshed(10).iter().filter(|&&r| r).count(), 1);
        let long = BlockCache { outer: 1, steps: 1 << 20, refresh: (0..1 << 20).collect() };
        assert!(long.refreshed(1000).iter().all(|&r| r));
    }

    #[test]
    fn every_pass_finds_what_it_goes_on_from() {
        let recipe = recipe(&[1.0, 0.8, 0.6, 0.4, 0.2, 0.1]);
        let cache = BlockCache { outer: 1, steps: 6, refresh: vec![0, 3] };
        let of = |guided, interval, cache| letters(&passes(&recipe, [999.0, 0.0], guided, interval, cache));
        assert_eq!(of(true, None, None), "GGGGGG");
        assert_eq!(of(false, Some([0.3, 0.7]), None), "CCCCCC");
        assert_eq!(of(true, Some([0.3, 0.7]), None), "CCGGCC");
        assert_eq!(of(true, None, Some(&cache)), "GggGgg");
        assert_eq!(of(true, Some([0.3, 0.7]), Some(&cache)), "CcGGcc");
    }
}
