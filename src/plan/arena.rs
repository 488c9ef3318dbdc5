//! Places for tensors whose lifetimes are known: greedy by size, the largest first, each at the lowest free offset
//! (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020, section 5.2), and the same in
//! order of first use; then, while memory is wasted, again with the tensor that stood out placed first (Joslin and
//! Clements, "Squeaky Wheel Optimization", 1999). The smallest result is taken.

/// How often each order is mended.
const ROUNDS: usize = 24;

/// A tensor's life: from the kernel that first writes it to the last that reads it, both included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interval {
    pub tensor: usize,
    pub first: usize,
    pub last: usize,
    pub bytes: u64,
}

impl Interval {
    fn overlaps(&self, other: &Interval) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Where everything went.
#[derive(Clone, Debug, Default)]
pub(super) struct Arena {
    /// (slab, offset in bytes), in the order of the intervals.
    pub places: Vec<(usize, u64)>,
    pub slab_bytes: Vec<u64>,
    pub peak_live_bytes: u64,
}

/// Places every interval; slabs grow to at most `max_slab` bytes, so that any of them can be bound whole.
pub(super) fn place(intervals: &[Interval], max_slab: u64) -> Arena {
    let end = intervals.iter().map(|i| i.last + 1).max().unwrap_or(0);
    let live = |at: usize| intervals.iter().filter(|i| i.first <= at && at <= i.last).map(|i| i.bytes).sum();
    let peak_live_bytes = (0..end).map(live).max().unwrap_or(0);

    let mut by_size: Vec<usize> = (0..intervals.len()).collect();
    by_size.sort_by_key(|&i| (std::cmp::Reverse(intervals[i].bytes), intervals[i].first));
    let by_time: Vec<usize> = (0..intervals.len()).collect();
    let mut best: Option<(u64, Arena)> = None;
    for mut order in [by_size, by_time] {
        for _ in 0..ROUNDS {
            let arena = place_in_order(intervals, &order, max_slab);
            let bytes: u64 = arena.slab_bytes.iter().sum();
            let top = order.iter().position(|&i| {
                let (slab, offset) = arena.places[i];
                offset + intervals[i].bytes == arena.slab_bytes[slab]
            });
            if best.as_ref().is_none_or(|&(least, _)| bytes < least) {
                best = Some((bytes, arena));
            }
            match top {
                // The one that stood out chooses first in the next round.
                Some(top) if bytes > peak_live_bytes => order[..=top].rotate_right(1),
                _ => break,
            }
        }
    }
    Arena { peak_live_bytes, ..best.map(|(_, arena)| arena).unwrap_or_default() }
}

fn place_in_order(intervals: &[Interval], order: &[usize], max_slab: u64) -> Arena {
    let mut arena = Arena { places: vec![(usize::MAX, 0); intervals.len()], ..Arena::default() };
    let mut placed: Vec<usize> = Vec::new();
    for &i in order {
        let wanted = &intervals[i];
        let (slab, offset) = (0..)
            .find_map(|slab| {
                let mut taken: Vec<(u64, u64)> = placed
                    .iter()
                    .filter(|&&j| arena.places[j].0 == slab && intervals[j].overlaps(wanted))
                    .map(|&j| (arena.places[j].1, arena.places[j].1 + intervals[j].bytes))
                    .collect();
                taken.sort_unstable();
                let mut offset = 0;
                for (start, end) in taken {
                    if offset + wanted.bytes <= start {
                        break;
                    }
                    offset = offset.max(end);
                }
                (offset + wanted.bytes <= max_slab || offset == 0).then_some((slab, offset))
            })
            .unwrap_or((0, 0));
        if slab >= arena.slab_bytes.len() {
            arena.slab_bytes.resize(slab + 1, 0);
        }
        arena.slab_bytes[slab] = arena.slab_bytes[slab].max(offset + wanted.bytes);
        arena.places[i] = (slab, offset);
        placed.push(i);
    }
    arena
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn intervals() -> impl Strategy<Value = Vec<Interval>> {
        proptest::collection::vec((0usize..40, 0usize..12, 1u64..20), 1..60).prop_map(|list| {
            list.into_iter()
                .enumerate()
                .map(|(tensor, (first, length, size))| Interval {
                    tensor,
                    first,
                    last: first + length,
                    bytes: size * 256,
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn no_two_live_tensors_share_a_byte(list in intervals(), max_slab in (20u64..60).prop_map(|n| n * 256)) {
            let arena = place(&list, max_slab);
            for i in 0..list.len() {
                let (slab, offset) = arena.places[i];
                prop_assert!(offset + list[i].bytes <= arena.slab_bytes[slab]);
                prop_assert!(arena.slab_bytes[slab] <= max_slab);
                for j in 0..i {
                    let (other_slab, other) = arena.places[j];
                    let apart = slab != other_slab || offset + list[i].bytes <= other || other + list[j].bytes <= offset;
                    prop_assert!(apart || !list[i].overlaps(&list[j]), "{i} and {j} overlap");
                }
            }
        }
    }
}
