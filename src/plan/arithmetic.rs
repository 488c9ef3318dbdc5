//! In which arithmetic a Linear is computed: the caller's choice for the model, the network's word for each layer.

pub use uvit_simd::{INT_CHUNK, LOW_BITS};

use std::str::FromStr;

/// The arithmetic of a model. On the CPU integers are several times faster than floats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// Everything in f32.
    #[default]
    F32,
    /// Weights of 8 bits times activations of 12: what is lost lies far below what 8-bit weights lose.
    Quality,
    /// Weights of 8 bits times activations of 7, of 12 where a layer needs them.
    Fast,
}

impl Compute {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Compute::F32 => "f32",
            Compute::Quality => "quality",
            Compute::Fast => "fast",
        }
    }
}

impl FromStr for Compute {
    type Err = crate::Error;

    fn from_str(name: &str) -> crate::Result<Compute> {
        [Compute::F32, Compute::Quality, Compute::Fast].into_iter().find(|c| c.as_str() == name).ok_or_else(|| {
            crate::Error::new(
                crate::Code::InvalidArgument,
                format!("there is no compute {name:?}"),
                "Give \"f32\", \"quality\" or \"fast\"",
            )
        })
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
    /// 7 bits.
    Narrow,
}

/// The arithmetic of one Linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// f32 throughout.
    F32,
    /// Weights in i8, one scale a row; activations in unsigned integers of so many bits (7 or 12), one scale and smallest
    /// value a token.
    Int {
        /// Of an activation.
        bits: u32,
    },
}

impl Precision {
    /// What a layer is computed in.
    pub fn arithmetic(self, compute: Compute) -> Arithmetic {
        match (compute, self) {
            (Compute::F32, _) | (_, Precision::Float) => Arithmetic::F32,
            (Compute::Quality, _) | (Compute::Fast, Precision::Wide) => Arithmetic::Int { bits: 12 },
            (Compute::Fast, Precision::Narrow) => Arithmetic::Int { bits: 7 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_accumulator_can_overflow_at_the_worst_case() {
        for bits in [7, 12] {
            let worst = INT_CHUNK as i64 * 127 * ((1 << bits) - 1);
            assert!(worst <= i64::from(i32::MAX), "{bits} bits: {worst}");
            // The upper parts alone are added up in an i32 of their own.
            let high = INT_CHUNK as i64 * 127 * (((1 << bits) - 1) >> LOW_BITS);
            assert!(high <= i64::from(i32::MAX));
        }
        // Twice the chunk would overflow: the bound is not wasteful by much.
        assert!(2 * INT_CHUNK as i64 * 127 * 4095 > i64::from(i32::MAX));
    }
}
