//! WebAssembly simd128, with the relaxed multiply-add and dot product where the module is built for them.

use super::Isa;
use std::arch::wasm32::*;

/// Four lanes.
#[derive(Clone, Copy)]
pub struct Wasm;

// SAFETY: the module is compiled with these features as a whole; loads and stores are unaligned ones of four values.
unsafe impl Isa for Wasm {
    type F = v128;
    type I = v128;
    const LANES: usize = 4;
    const COLUMNS: usize = 2;
    const BYTES: bool = cfg!(target_feature = "relaxed-simd");

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
    unsafe fn shift_left<const BITS: u32>(v: v128) -> v128 {
        i32x4_shl(v, BITS)
    }
    #[inline(always)]
    unsafe fn to_float(v: v128) -> v128 {
        f32x4_convert_i32x4(v)
    }
    /// The relaxed dot product is exact while its second operand stays below 128, whatever the engine makes of it.
    #[inline(always)]
    unsafe fn dot(acc: v128, w: v128, x: v128) -> v128 {
        #[cfg(target_feature = "relaxed-simd")]
        return i32x4_relaxed_dot_i8x16_i7x16_add(w, x, acc);
        #[cfg(not(target_feature = "relaxed-simd"))]
        return i32x4_add(acc, i32x4_dot_i16x8(w, x));
    }
}
