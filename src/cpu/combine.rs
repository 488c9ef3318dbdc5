//! What becomes of `sum of coefficient * source` ([`Mix`]): all that samplers ask of a device; the twin of `shaders/combine.wgsl`.

use crate::plan::Mix;

/// Sources and `out` are positions in `memory`, each `elements` long; `out` may be among the sources. Terms are added
/// in order.
pub fn combine(memory: &mut [f32], out: usize, elements: usize, terms: &[(usize, f32)], mix: Mix) {
    for i in 0..elements {
        let mut sum = 0.0;
        for &(source, coefficient) in terms {
            sum += coefficient * memory[source + i];
        }
        memory[out + i] = match mix {
            Mix::Replace(None) => sum,
            Mix::Replace(Some((low, high))) => sum.clamp(low, high),
            Mix::Blend { mask } => {
                let share = memory[mask + i];
                share * memory[out + i] + (1.0 - share) * sum
            }
            Mix::Spread { variance, log_std } => {
                memory[out + i] + (log_std[0] + log_std[1] * memory[variance + i]).exp() * sum
            }
        };
    }
}
