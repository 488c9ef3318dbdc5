//! `out = clip(sum of coefficient * source)`: all that samplers ask of a device; the twin of `shaders/combine.wgsl`.

/// Sources and `out` are positions in `memory`, each `elements` long; `out` may be among the sources. Terms are added
/// in order.
pub fn combine(memory: &mut [f32], out: usize, elements: usize, terms: &[(usize, f32)], clip: Option<(f32, f32)>) {
    for i in 0..elements {
        let mut sum = 0.0;
        for &(source, coefficient) in terms {
            sum += coefficient * memory[source + i];
        }
        memory[out + i] = clip.map_or(sum, |(low, high)| sum.clamp(low, high));
    }
}
