//! AVX2 and AVX-512, detected at run time.

use super::Isa;
use std::arch::x86_64::*;

/// Eight lanes; BYTES: whether dot products take bytes.
#[derive(Clone, Copy)]
pub struct Lanes8<const BYTES: bool>;

/// AVX2 and FMA.
pub type Avx2 = Lanes8<true>;

/// Sixteen lanes; BYTES: whether dot products take bytes.
#[derive(Clone, Copy)]
pub struct Lanes16<const BYTES: bool>;

/// AVX-512 with VNNI.
pub type Avx512 = Lanes16<true>;

// SAFETY: called from functions with these target features; loads and stores are unaligned ones of eight values.
unsafe impl<const BYTES: bool> Isa for Lanes8<BYTES> {
    type F = __m256;
    type I = __m256i;
    type Pairs = Lanes8<false>;
    type Stepwise = Self;
    const LANES: usize = 8;
    const COLUMNS: usize = 2;
    const BYTES: bool = BYTES;

    #[inline(always)]
    unsafe fn splat(v: f32) -> __m256 {
        unsafe { _mm256_set1_ps(v) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn madd(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn zero_i() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn load_i(p: *const u32) -> __m256i {
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat_i(v: u32) -> __m256i {
        unsafe { _mm256_set1_epi32(v as i32) }
    }
    #[inline(always)]
    unsafe fn bits(v: __m256) -> __m256i {
        unsafe { _mm256_castps_si256(v) }
    }
    #[inline(always)]
    unsafe fn from_bits(v: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(v) }
    }
    #[inline(always)]
    unsafe fn add_i(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn and_i(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn shift_right<const BITS: u32>(v: __m256i) -> __m256i {
        unsafe { _mm256_srl_epi32(v, _mm_cvtsi32_si128(BITS as i32)) }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn store_i(p: *mut u32, v: __m256i) {
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn shift_left<const BITS: u32>(v: __m256i) -> __m256i {
        unsafe { _mm256_sll_epi32(v, _mm_cvtsi32_si128(BITS as i32)) }
    }
    #[inline(always)]
    unsafe fn to_float(v: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(v) }
    }
    #[inline(always)]
    unsafe fn fold(v: __m256, f: impl Fn(__m256, __m256) -> __m256) -> f32 {
        unsafe {
            let v = f(v, _mm256_permute2f128_ps::<1>(v, v));
            let v = f(v, _mm256_shuffle_ps::<0b01_00_11_10>(v, v));
            _mm256_cvtss_f32(f(v, _mm256_shuffle_ps::<0b10_11_00_01>(v, v)))
        }
    }
    /// Pairs stay within 2 x 127 x 128, so the saturating step in between never saturates.
    #[inline(always)]
    unsafe fn dot(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        unsafe {
            if !BYTES {
                return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
            }
            let pairs = _mm256_maddubs_epi16(b, a);
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
}

// SAFETY: as above, with sixteen values.
unsafe impl<const BYTES: bool> Isa for Lanes16<BYTES> {
    type F = __m512;
    type I = __m512i;
    type Pairs = Lanes16<false>;
    type Stepwise = Self;
    const LANES: usize = 16;
    const COLUMNS: usize = 4;
    const BYTES: bool = BYTES;

    #[inline(always)]
    unsafe fn splat(v: f32) -> __m512 {
        unsafe { _mm512_set1_ps(v) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn madd(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn zero_i() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn load_i(p: *const u32) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat_i(v: u32) -> __m512i {
        unsafe { _mm512_set1_epi32(v as i32) }
    }
    #[inline(always)]
    unsafe fn bits(v: __m512) -> __m512i {
        unsafe { _mm512_castps_si512(v) }
    }
    #[inline(always)]
    unsafe fn from_bits(v: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(v) }
    }
    #[inline(always)]
    unsafe fn add_i(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn and_i(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn shift_right<const BITS: u32>(v: __m512i) -> __m512i {
        unsafe { _mm512_srli_epi32(v, BITS) }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn store_i(p: *mut u32, v: __m512i) {
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn shift_left<const BITS: u32>(v: __m512i) -> __m512i {
        unsafe { _mm512_slli_epi32(v, BITS) }
    }
    #[inline(always)]
    unsafe fn to_float(v: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(v) }
    }
    #[inline(always)]
    unsafe fn fold(v: __m512, f: impl Fn(__m512, __m512) -> __m512) -> f32 {
        unsafe {
            let v = f(v, _mm512_shuffle_f32x4::<0b01_00_11_10>(v, v));
            let v = f(v, _mm512_shuffle_f32x4::<0b10_11_00_01>(v, v));
            let v = f(v, _mm512_shuffle_ps::<0b01_00_11_10>(v, v));
            _mm512_cvtss_f32(f(v, _mm512_shuffle_ps::<0b10_11_00_01>(v, v)))
        }
    }
    #[inline(always)]
    unsafe fn dot(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unsafe { if BYTES { _mm512_dpbusd_epi32(acc, b, a) } else { _mm512_dpwssd_epi32(acc, a, b) } }
    }
}
