//! `out = activation(scale a + offset) + b`: what could not be fused.

use super::functions::activate_called;
use super::isa::{Isa, kernels};
use crate::Activation;

kernels! {
    /// All of one length; `b` may be empty, which adds nothing.
    pub fn elementwise(a: &[f32], b: &[f32], activation: Activation, scale: f32, offset: f32, out: &mut [f32])
        = elementwise_with;
}

#[inline(always)]
unsafe fn elementwise_with<I: Isa>(
    a: &[f32],
    b: &[f32],
    activation: Activation,
    scale: f32,
    offset: f32,
    out: &mut [f32],
) {
    assert!(a.len() == out.len() && (b.is_empty() || b.len() == out.len()));
    let mut line = [0f32; 16];
    for (i, out) in out.chunks_mut(I::LANES).enumerate() {
        let at = i * I::LANES;
        line[..out.len()].copy_from_slice(&a[at..at + out.len()]);
        // SAFETY: a line holds a vector; the caller's target features are those of I.
        unsafe {
            let v = I::madd(I::load(line.as_ptr()), I::splat(scale), I::splat(offset));
            let v = activate_called::<I>(activation, v);
            I::store(line.as_mut_ptr(), v);
        }
        for (j, out) in out.iter_mut().enumerate() {
            *out = line[j] + if b.is_empty() { 0.0 } else { b[at + j] };
        }
    }
}
