//! exp, erf and the activations on vectors.

use super::isa::Isa;
use crate::plan::Activation;

/// `a b + c` in two roundings everywhere, so that every instruction set gives the same bits.
#[inline(always)]
unsafe fn mul_add<I: Isa>(a: I::F, b: I::F, c: I::F) -> I::F {
    unsafe { I::add(I::mul(a, b), c) }
}

/// A polynomial, the highest coefficient first.
#[inline(always)]
unsafe fn horner<I: Isa>(x: I::F, coefficients: &[f32]) -> I::F {
    unsafe {
        let mut sum = I::splat(coefficients[0]);
        for &c in &coefficients[1..] {
            sum = mul_add::<I>(sum, x, I::splat(c));
        }
        sum
    }
}

/// `e^x`, within 2 units in the last place; below -87 it is `e^-87`, above 88 `e^88`, and NaN stays.
///
/// `x = n ln 2 + r`, with ln 2 in two parts (Cody and Waite, Software Manual for the Elementary Functions, 1980);
/// `e^r` is a Taylor polynomial, whose error on |r| <= ln 2 / 2 is below 3e-8.
#[inline(always)]
pub unsafe fn exp<I: Isa>(x: I::F) -> I::F {
    const ROUND: f32 = 12_582_912.0; // 1.5 x 2^23: what is added to it is rounded to a whole number
    unsafe {
        // The bound comes first: where an operand is NaN, `min` and `max` give the second.
        let x = I::max(I::splat(-87.0), I::min(I::splat(88.0), x));
        let shifted = mul_add::<I>(x, I::splat(std::f32::consts::LOG2_E), I::splat(ROUND));
        let n = I::sub(shifted, I::splat(ROUND));
        let r = mul_add::<I>(n, I::splat(-0.693_359_4), x);
        let r = mul_add::<I>(n, I::splat(2.121_944_4e-4), r);
        let e = horner::<I>(r, &[1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0]);
        // 2^n: n lies in the lowest bits of `shifted`.
        let power = I::add_i(I::shift_left::<23>(I::bits(shifted)), I::splat_i(127 << 23));
        I::mul(e, I::from_bits(power))
    }
}

/// The error function, within 5e-7.
///
/// A rational function of degree 13 / 8 on [-4, 4], beyond which it is +-1 in f32: the coefficients are those of Eigen
/// (unsupported/Eigen/src/SpecialFunctions, `erf_float`, MPL-2.0).
#[inline(always)]
pub unsafe fn erf<I: Isa>(x: I::F) -> I::F {
    const P: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_5e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const Q: [f32; 5] = [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_474e-2];
    unsafe {
        let x = I::max(I::splat(-4.0), I::min(I::splat(4.0), x));
        let square = I::mul(x, x);
        I::div(I::mul(x, horner::<I>(square, &P)), horner::<I>(square, &Q))
    }
}

/// One vector through an activation.
#[inline(always)]
pub unsafe fn activate<I: Isa>(activation: Activation, x: I::F) -> I::F {
    unsafe {
        match activation {
            Activation::None => x,
            Activation::Gelu => {
                let half = I::mul(x, I::splat(0.5));
                mul_add::<I>(half, erf::<I>(I::mul(x, I::splat(std::f32::consts::FRAC_1_SQRT_2))), half)
            }
            Activation::Silu => {
                let e = exp::<I>(I::sub(I::splat(0.0), x));
                I::div(x, I::add(I::splat(1.0), e))
            }
        }
    }
}
