//! `shaders/combine.wgsl`; twin: `src/cpu/combine.rs`.

use super::{Launch, Variant, folded};

const WORKGROUP: usize = 64;

/// The most terms one launch adds.
pub const MAX_COMBINE_TERMS: usize = 8;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    elements: u32,
    out: u32,
    terms: u32,
    clip: u32,
    low: f32,
    high: f32,
    masked: u32,
    mask: u32,
    sources: [u32; MAX_COMBINE_TERMS],
    coefficients: [f32; MAX_COMBINE_TERMS],
}

pub(super) fn variant() -> Variant {
    Variant { kernel: "combine", variables: vec![("WORKGROUP", WORKGROUP.to_string())] }
}

/// Where that buffer is bound.
pub const COMBINED: u32 = 1;

/// `out = clip(sum of coefficient * source)` on ranges of one buffer, given by their first element; with a mask,
/// `mask * out + (1 - mask) * sum`.
pub fn combine(
    out: usize,
    elements: usize,
    terms: &[(usize, f32)],
    clip: Option<(f32, f32)>,
    mask: Option<usize>,
) -> Launch {
    assert!(terms.len() <= MAX_COMBINE_TERMS, "a combination of {} terms", terms.len());
    let (low, high) = clip.unwrap_or_default();
    let mut params = Params {
        elements: elements as u32,
        out: out as u32,
        terms: terms.len() as u32,
        clip: u32::from(clip.is_some()),
        low,
        high,
        masked: u32::from(mask.is_some()),
        mask: mask.unwrap_or_default() as u32,
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
