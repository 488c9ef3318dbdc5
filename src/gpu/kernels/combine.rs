//! `shaders/combine.wgsl`; twin: `src/cpu/combine.rs`.

use super::{Launch, Variant, folded};
use crate::plan::Mix;

const WORKGROUP: usize = 64;

/// The most terms one launch adds.
pub const MAX_COMBINE_TERMS: usize = 8;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    elements: u32,
    out: u32,
    terms: u32,
    mix: u32,
    numbers: [f32; 2],
    beside: u32,
    unused: u32,
    sources: [u32; MAX_COMBINE_TERMS],
    coefficients: [f32; MAX_COMBINE_TERMS],
}

pub(super) fn variant() -> Variant {
    Variant { kernel: "combine", variables: vec![("WORKGROUP", WORKGROUP.to_string())] }
}

/// Where that buffer is bound.
pub const COMBINED: u32 = 1;

/// What becomes of `sum of coefficient * source`, on ranges of one buffer, given by their first element.
pub fn combine(out: usize, elements: usize, terms: &[(usize, f32)], mix: Mix) -> Launch {
    assert!(terms.len() <= MAX_COMBINE_TERMS, "a combination of {} terms", terms.len());
    // As the shader numbers them.
    let (mix, numbers, beside) = match mix {
        Mix::Replace(None) => (0, [0.0; 2], 0),
        Mix::Replace(Some((low, high))) => (1, [low, high], 0),
        Mix::Blend { mask } => (2, [0.0; 2], mask),
        Mix::Spread { variance, log_std } => (3, log_std, variance),
    };
    let mut params = Params {
        elements: elements as u32,
        out: out as u32,
        terms: terms.len() as u32,
        mix,
        numbers,
        beside: beside as u32,
        unused: 0,
        sources: [0; MAX_COMBINE_TERMS],
        coefficients: [0.0; MAX_COMBINE_TERMS],
    };
    for (i, &(source, coefficient)) in terms.iter().enumerate() {
        params.sources[i] = source as u32;
        params.coefficients[i] = coefficient;
    }
    Launch {
        variant: variant(),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: Vec::new(),
        workgroups: folded(elements, WORKGROUP),
    }
}
