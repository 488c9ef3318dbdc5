//! exp, erf and the activations on vectors.

use super::isa::{Isa, kernels, unroll};
use crate::Activation;

/// 1.5 x 2^23: what is added to it is rounded to a whole number, which lies in the lowest bits.
const ROUND: f32 = 12_582_912.0;

/// A polynomial, the highest coefficient first.
#[inline(always)]
unsafe fn horner<I: Isa>(x: I::F, coefficients: &[f32]) -> I::F {
    unsafe {
        let mut sum = I::splat(coefficients[0]);
        for &c in &coefficients[1..] {
            sum = I::madd(sum, x, I::splat(c));
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
    unsafe {
        // The bound comes first: where an operand is NaN, `min` and `max` give the second.
        let x = I::max(I::splat(-87.0), I::min(I::splat(88.0), x));
        let shifted = I::madd(x, I::splat(std::f32::consts::LOG2_E), I::splat(ROUND));
        let n = I::sub(shifted, I::splat(ROUND));
        let r = I::madd(n, I::splat(-0.693_359_4), x);
        let r = I::madd(n, I::splat(2.121_944_4e-4), r);
        let e = horner::<I>(r, &[1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0]);
        I::mul(e, power_of_two::<I>(shifted))
    }
}

/// `2^x` within 4e-6 of it, for -126 < x < 127 and what is rounded to a few bits afterwards.
///
/// `x = n + r`; `2^r` is the polynomial of degree 4 with the least relative error on |r| <= 1/2 (2.6e-6).
#[inline(always)]
pub unsafe fn exp2<I: Isa>(x: I::F) -> I::F {
    unsafe {
        let shifted = I::add(x, I::splat(ROUND));
        let r = I::sub(x, I::sub(shifted, I::splat(ROUND)));
        let e = horner::<I>(r, &[0.009_570_1, 0.055_917_86, 0.240_247_45, 0.693_121_8, 0.999_999_3]);
        // n, in the lowest bits, goes to the exponent.
        I::from_bits(I::add_i(I::bits(e), I::shift_left::<23>(I::bits(shifted))))
    }
}

/// 2^n, n lying in the lowest bits of `shifted`.
#[inline(always)]
unsafe fn power_of_two<I: Isa>(shifted: I::F) -> I::F {
    unsafe { I::from_bits(I::add_i(I::shift_left::<23>(I::bits(shifted)), I::splat_i(127 << 23))) }
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

/// `1 + tanh(y)` is twice the logistic function of `2 y`: `2 sqrt(2/pi)`, and that times 0.044715.
const TANH_SLOPE: f32 = 1.595_769;
const TANH_CUBE: f32 = 0.071_354_814;

/// `x` times the logistic function of `by`.
#[inline(always)]
unsafe fn gated<I: Isa>(x: I::F, by: I::F) -> I::F {
    unsafe { I::div(x, I::add(I::splat(1.0), exp::<I>(I::sub(I::splat(0.0), by)))) }
}

/// One vector through an activation.
#[inline(always)]
pub unsafe fn activate<I: Isa>(activation: Activation, x: I::F) -> I::F {
    unsafe {
        match activation {
            Activation::None => x,
            // The second where either is NaN.
            Activation::Relu => I::max(I::splat(0.0), x),
            Activation::Tanh => {
                let halves = I::div(I::splat(2.0), I::add(I::splat(1.0), exp::<I>(I::mul(x, I::splat(2.0)))));
                I::sub(I::splat(1.0), halves)
            }
            Activation::Gelu => {
                let half = I::mul(x, I::splat(0.5));
                I::madd(half, erf::<I>(I::mul(x, I::splat(std::f32::consts::FRAC_1_SQRT_2))), half)
            }
            Activation::Silu => gated::<I>(x, x),
            Activation::QuickGelu => gated::<I>(x, I::mul(x, I::splat(1.702))),
            Activation::GeluTanh => {
                let cube = I::madd(I::mul(x, x), I::splat(TANH_CUBE), I::splat(TANH_SLOPE));
                gated::<I>(x, I::mul(x, cube))
            }
        }
    }
}

/// [`activate`], in a page as a function of its own: where memory is what takes the time, nobody notices the call.
#[cfg_attr(target_arch = "wasm32", inline(never))]
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub unsafe fn activate_called<I: Isa>(activation: Activation, x: I::F) -> I::F {
    unsafe { activate::<I>(activation, x) }
}

/// GELU within 2e-4, for values that are rounded to 8 bits afterwards.
///
/// `x F(x)`, F being the normal distribution: the odd polynomial of degree 13 with the least error of `x F(x)` on [-4, 4]
/// (1.9e-4), which leaves 0..1 beyond 4 and is cut off there.
#[inline(always)]
pub unsafe fn coarse_gelu<I: Isa>(x: I::F) -> I::F {
    const P: [f32; 7] =
        [2.278_150_8e-8, -1.598_605_8e-6, 4.795_558_6e-5, -8.140_161e-4, 8.772_392e-3, -6.457_312e-2, 3.978_833_6e-1];
    unsafe {
        let share = I::madd(x, horner::<I>(I::mul(x, x), &P), I::splat(0.5));
        I::mul(x, I::max(I::splat(0.0), I::min(I::splat(1.0), share)))
    }
}

kernels! {
    /// `steps` rounds of twelve independent multiply-adds on vectors: the rate that no kernel can exceed, for measurements.
    pub fn multiply_add_peak(steps: u32) = multiply_add_peak_with;
}

#[inline(always)]
unsafe fn multiply_add_peak_with<I: Isa>(steps: u32) {
    unsafe {
        let (a, b) = (I::splat(std::hint::black_box(0.999)), I::splat(std::hint::black_box(0.001)));
        let mut sums = [[I::splat(1.0); 6]; 2];
        for _ in 0..steps {
            unroll!(i < 2, {
                unroll!(j < 6, { sums[i][j] = I::madd(sums[i][j], a, b) });
            });
        }
        let mut total = I::splat(0.0);
        unroll!(i < 2, {
            unroll!(j < 6, { total = I::add(total, sums[i][j]) });
        });
        std::hint::black_box(I::sum(total));
    }
}
