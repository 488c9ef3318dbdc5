//! WebAssembly simd128, with the relaxed multiply-add and dot product where the module is built for them.

use super::Isa;
use std::arch::wasm32::*;

/// Four lanes; DOT: what dot products take.
#[derive(Clone, Copy)]
pub struct Lanes4<const DOT: u8>;

/// Pairs of 16-bit numbers.
const PAIRS: u8 = 0;
/// Bytes, in one instruction.
const BYTES: u8 = 1;
/// Bytes, in three. Without VNNI Chromium makes five of the one: it does not keep the vector of ones.
const STEPWISE: u8 = 2;

/// As the module was built.
pub type Wasm = Lanes4<{ if cfg!(target_feature = "relaxed-simd") { BYTES } else { PAIRS } }>;

/// Whether the engine makes the relaxed dot product of bytes from several instructions, as on x86 without VNNI: what it
/// does with an operand that is out of range tells. There two products together end at 2^15 - 1; a single instruction adds
/// up four, exactly or with a sign.
#[cfg(target_feature = "relaxed-simd")]
pub fn emulates_bytes() -> bool {
    let [a, b] = std::hint::black_box([i8x16_splat(127), u8x16_splat(255)]);
    i32x4_extract_lane::<0>(i32x4_relaxed_dot_i8x16_i7x16_add(a, b, i32x4_splat(0))) == 2 * 32767
}

/// There is none.
#[cfg(not(target_feature = "relaxed-simd"))]
pub fn emulates_bytes() -> bool {
    false
}

// SAFETY: the module is compiled with these features as a whole; loads and stores are unaligned ones of four values.
unsafe impl<const DOT: u8> Isa for Lanes4<DOT> {
    type F = v128;
    type I = v128;
    type Pairs = Lanes4<PAIRS>;
    type Stepwise = Lanes4<STEPWISE>;
    const LANES: usize = 4;
    const COLUMNS: usize = 2;
    const BYTES: bool = DOT != PAIRS;

    #[inline(always)]
    unsafe fn splat(v: f32) -> v128 {
        f32x4_splat(v)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> v128 {
        unsafe { v128_load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: v128) {
        unsafe { v128_store(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn add(a: v128, b: v128) -> v128 {
        f32x4_add(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: v128, b: v128) -> v128 {
        f32x4_sub(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: v128, b: v128) -> v128 {
        f32x4_mul(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: v128, b: v128) -> v128 {
        f32x4_div(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: v128, b: v128) -> v128 {
        f32x4_pmin(b, a)
    }
    #[inline(always)]
    unsafe fn max(a: v128, b: v128) -> v128 {
        f32x4_pmax(b, a)
    }
    #[inline(always)]
    unsafe fn madd(a: v128, b: v128, c: v128) -> v128 {
        #[cfg(target_feature = "relaxed-simd")]
        return f32x4_relaxed_madd(a, b, c);
        #[cfg(not(target_feature = "relaxed-simd"))]
        return f32x4_add(f32x4_mul(a, b), c);
    }
    #[inline(always)]
    unsafe fn zero_i() -> v128 {
        i32x4_splat(0)
    }
    #[inline(always)]
    unsafe fn load_i(p: *const u32) -> v128 {
        unsafe { v128_load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat_i(v: u32) -> v128 {
        u32x4_splat(v)
    }
    #[inline(always)]
    unsafe fn bits(v: v128) -> v128 {
        v
    }
    #[inline(always)]
    unsafe fn from_bits(v: v128) -> v128 {
        v
    }
    #[inline(always)]
    unsafe fn add_i(a: v128, b: v128) -> v128 {
        i32x4_add(a, b)
    }
    #[inline(always)]
    unsafe fn and_i(a: v128, b: v128) -> v128 {
        v128_and(a, b)
    }
    #[inline(always)]
    unsafe fn shift_right<const BITS: u32>(v: v128) -> v128 {
        u32x4_shr(v, BITS)
    }
    #[inline(always)]
    unsafe fn store_i(p: *mut u32, v: v128) {
        unsafe { v128_store(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn shift_left<const BITS: u32>(v: v128) -> v128 {
        i32x4_shl(v, BITS)
    }
    #[inline(always)]
    unsafe fn to_float(v: v128) -> v128 {
        f32x4_convert_i32x4(v)
    }
    /// The relaxed dot product is exact while its second operand stays below 128, whatever the engine makes of it.
    #[inline(always)]
    unsafe fn dot(acc: v128, a: v128, b: v128) -> v128 {
        #[cfg(target_feature = "relaxed-simd")]
        match DOT {
            BYTES => return i32x4_relaxed_dot_i8x16_i7x16_add(a, b, acc),
            // Two products together are at most 2 x 128 x 127, which is in range.
            STEPWISE => {
                let pairs = i16x8_relaxed_dot_i8x16_i7x16(a, b);
                return i32x4_add(acc, i32x4_dot_i16x8(pairs, i16x8_splat(1)));
            }
            _ => {}
        }
        i32x4_add(acc, i32x4_dot_i16x8(a, b))
    }
    #[inline(always)]
    unsafe fn fold(v: v128, f: impl Fn(v128, v128) -> v128) -> f32 {
        let v = f(v, i32x4_shuffle::<2, 3, 0, 1>(v, v));
        f32x4_extract_lane::<0>(f(v, i32x4_shuffle::<1, 0, 3, 2>(v, v)))
    }
}
