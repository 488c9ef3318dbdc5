//! Activations, and `out = gate activation(scale a + offset) + b`; the twin of `shaders/elementwise.wgsl`.

use crate::plan::{Activation, Elementwise};

/// One value through an activation. GELU is the exact one, `x/2 (1 + erf(x/sqrt 2))`.
pub fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::None => x,
        // NaN stays.
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Activation::Tanh => libm::tanhf(x),
        Activation::Gelu => 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
        Activation::Silu => x / (1.0 + libm::expf(-x)),
        Activation::QuickGelu => x / (1.0 + libm::expf(-1.702 * x)),
        // x/2 (1 + tanh y) is x times the logistic function of 2 y.
        Activation::GeluTanh => x / (1.0 + libm::expf(-1.595_769 * (x + 0.044_715 * x * x * x))),
    }
}

/// `out = activation(scale a + offset) + b`, all of one length.
pub fn elementwise(a: &[f32], b: Option<&[f32]>, activation: Activation, (scale, offset): (f32, f32), out: &mut [f32]) {
    for i in 0..out.len() {
        out[i] = activate(activation, scale * a[i] + offset) + b.map_or(0.0, |b| b[i]);
    }
}

/// The same with gates `[items, 1, channels]`: all tokens of an item have those of its vector from `at` on.
pub fn elementwise_gated(a: &[f32], b: &[f32], gates: &[f32], k: &Elementwise, out: &mut [f32]) {
    let Some(gate) = k.gate else { return };
    for (row, out) in out.chunks_exact_mut(k.dim).enumerate() {
        let gates = &gates[row / k.tokens * gate.channels + gate.at..][..k.dim];
        for (i, out) in out.iter_mut().enumerate() {
            let at = row * k.dim + i;
            *out = activate(k.activation, k.scale * a[at] + k.offset) * gates[i] + b[at];
        }
    }
}
