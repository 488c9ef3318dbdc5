//! In which arithmetic a Linear is computed: the caller's choice for the model, the network's word for each layer.

pub use uvit_simd::{INT_CHUNK, LOW_BITS};

use super::{Op, Plan, Weight, WeightId, WeightUse};
use std::str::FromStr;

/// The arithmetic of a model. On the CPU integers are several times faster than floats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compute {
    /// Everything in f32.
    #[default]
    F32,
    /// Weights of 8 bits times activations of 12: what is lost lies far below what 8-bit weights lose.
    Quality,
    /// Weights of 7 bits times activations of 8; of 8 and 12 where a layer needs them.
    Fast,
    /// On a GPU with `shader-f16`: products in f16, sums in f32.
    F16,
    /// On a GPU: weights of 8 bits, or of 4 where they are stored so, times activations of 8, and f32 where a layer needs it.
    W8A8,
}

impl Compute {
    /// All of them.
    pub const ALL: [Compute; 5] = [Compute::F32, Compute::Quality, Compute::Fast, Compute::F16, Compute::W8A8];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Compute::F32 => "f32",
            Compute::Quality => "quality",
            Compute::Fast => "fast",
            Compute::F16 => "f16",
            Compute::W8A8 => "w8a8",
        }
    }
}

impl FromStr for Compute {
    type Err = crate::Error;

    fn from_str(name: &str) -> crate::Result<Compute> {
        let found = Compute::ALL.into_iter().find(|c| c.as_str() == name);
        let remedy = "Give \"f32\", \"quality\", \"fast\", \"f16\" or \"w8a8\"";
        found.ok_or_else(|| crate::Error::unknown("compute", name, remedy))
    }
}

/// How coarse the input of a layer may become; networks say so where they record it, by the measurements in
/// `docs/arithmetic.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Only floats: few operations, or every error is seen in the picture.
    Float,
    /// 12 bits.
    Wide,
    /// 8 bits, beside weights of 7.
    Narrow,
}

/// The arithmetic of one Linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// f32 throughout.
    F32,
    /// Of a Linear: weights in i8, one scale a row; activations in integers of so many bits (8, with weights of 7, or 12),
    /// one scale and smallest value a token. Of attention: queries of so many bits (7 or 12).
    Int {
        /// Of an activation.
        bits: u32,
    },
    /// Of a Linear: both operands and the sums of four products in f16, all other sums in f32.
    F16,
    /// Of a Linear: weights and activations in i8, a scale for every [`PACK_GROUP`] of a token's activations.
    W8A8,
}

/// Activations that share a scale in [`Arithmetic::W8A8`]: few enough that one invocation of a kernel holds them all, so that
/// whoever computes them quantises them too.
pub const PACK_GROUP: usize = 16;

/// The largest magnitude of the weights beside activations of so many bits.
pub fn weight_limit(bits: u32) -> i8 {
    if bits == 8 { 63 } else { 127 }
}

/// How a weight lies on a device: what the kernels that read it need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Read element by element.
    Floats,
    /// Of a patch embedding.
    PatchKernel,
    /// Of Linears in this arithmetic.
    Matrix(Arithmetic),
}

impl Plan {
    /// The form of every weight, by its id. All that decides is precisions, the weights' shapes and which operations there are:
    /// Plans of one network agree, whatever their batches, and what was loaded for one serves all.
    pub fn forms(&self, compute: Compute) -> Vec<Form> {
        let form = |weight: &Weight| match weight.usage {
            WeightUse::Floats => Form::Floats,
            WeightUse::PatchKernel => Form::PatchKernel,
            WeightUse::Matrix => Form::Matrix(match (compute, weight.precision) {
                (Compute::W8A8, Precision::Narrow)
                    if weight.shape.last().is_some_and(|k| k.is_multiple_of(PACK_GROUP)) =>
                {
                    Arithmetic::W8A8
                }
                _ => weight.precision.arithmetic(compute),
            }),
        };
        let mut forms: Vec<Form> = self.weights.iter().map(form).collect();
        // The kernel has one input, and no windows.
        for op in &self.ops {
            if let Op::Linear { skip: Some(_), weight, .. } | Op::Convolution { weight, .. } = *op
                && let Some(form) = forms.get_mut(weight.0)
                && *form == Form::Matrix(Arithmetic::W8A8)
            {
                *form = Form::Matrix(Arithmetic::F32);
            }
        }
        forms
    }
}

impl Plan {
    /// Every weight with its id and its form: what a device loads.
    pub fn loads(&self, compute: Compute) -> impl Iterator<Item = (WeightId, &Weight, Form)> {
        self.weight_ids().zip(self.forms(compute)).map(|((id, weight), form)| (id, weight, form))
    }
}

impl Precision {
    /// What a layer is computed in, where its operands allow it.
    fn arithmetic(self, compute: Compute) -> Arithmetic {
        match (compute, self) {
            (Compute::F32 | Compute::W8A8, _) | (_, Precision::Float) => Arithmetic::F32,
            (Compute::F16, _) => Arithmetic::F16,
            (Compute::Quality, _) | (Compute::Fast, Precision::Wide) => Arithmetic::Int { bits: 12 },
            (Compute::Fast, Precision::Narrow) => Arithmetic::Int { bits: 8 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_accumulator_can_overflow_at_the_worst_case() {
        let worst = INT_CHUNK as i64 * 127 * 4095;
        assert!(worst <= i64::from(i32::MAX), "{worst}");
        // The upper parts alone are added up in an i32 of their own.
        assert!(INT_CHUNK as i64 * 127 * (4095 >> LOW_BITS) <= i64::from(i32::MAX));
        // 8 bits: q - 128 times w + 64, from -64 times the sum of q - 128.
        assert!(INT_CHUNK as i64 * 128 * (127 + 64) <= i64::from(i32::MAX));
        // Twice the chunk would overflow: the bound is not wasteful by much.
        assert!(2 * INT_CHUNK as i64 * 127 * 4095 > i64::from(i32::MAX));
    }
}
