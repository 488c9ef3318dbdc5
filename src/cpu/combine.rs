//! `out = clip(sum of coefficient * source)`, or a mix of that and `out`: all that samplers ask of a device; the twin of `shaders/combine.wgsl`.

/// Sources and `out` are positions in `memory`, each `elements` long; `out` may be among the sources. Terms are added
/// in order. With a `mask` the result is `mask * out + (1 - mask) * sum`.
pub fn combine(
    memory: &mut [f32],
    out: usize,
    elements: usize,
    terms: &[(usize, f32)],
    clip: Option<(f32, f32)>,
    mask: Option<usize>,
) {
    for i in 0..elements {
        let mut sum = 0.0;
        for &(source, coefficient) in terms {
            sum += coefficient * memory[source + i];
        }
        let sum = clip.map_or(sum, |(low, high)| sum.clamp(low, high));
        memory[out + i] = match mask.map(|mask| memory[mask + i]) {
            Some(share) => share * memory[out + i] + (1.0 - share) * sum,
            None => sum,
        };
    }
}
