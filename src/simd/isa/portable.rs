//! Arrays of eight, for every processor: the compiler vectorises them as it can.

use super::Isa;

/// Eight lanes in plain Rust.
#[derive(Clone, Copy)]
pub struct Portable;

#[inline(always)]
fn map<T: Copy, U: Copy + Default>(a: [T; 8], b: [T; 8], f: impl Fn(T, T) -> U) -> [U; 8] {
    let mut out = [U::default(); 8];
    for i in 0..8 {
        out[i] = f(a[i], b[i]);
    }
    out
}

// SAFETY: plain Rust needs no target features; loads and stores are of eight values.
unsafe impl Isa for Portable {
    type F = [f32; 8];
    type I = [u32; 8];
    type Pairs = Portable;
    type Stepwise = Portable;
    const LANES: usize = 8;
    const COLUMNS: usize = 1;
    const BYTES: bool = false;

    #[inline(always)]
    unsafe fn splat(v: f32) -> [f32; 8] {
        [v; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 8] {
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; 8]) {
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        map(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        map(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        map(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        map(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn min(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        map(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        map(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn madd(a: [f32; 8], b: [f32; 8], mut c: [f32; 8]) -> [f32; 8] {
        for i in 0..8 {
            c[i] += a[i] * b[i];
        }
        c
    }
    #[inline(always)]
    unsafe fn zero_i() -> [u32; 8] {
        [0; 8]
    }
    #[inline(always)]
    unsafe fn load_i(p: *const u32) -> [u32; 8] {
        unsafe { p.cast::<[u32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn splat_i(v: u32) -> [u32; 8] {
        [v; 8]
    }
    #[inline(always)]
    unsafe fn bits(v: [f32; 8]) -> [u32; 8] {
        v.map(f32::to_bits)
    }
    #[inline(always)]
    unsafe fn from_bits(v: [u32; 8]) -> [f32; 8] {
        v.map(f32::from_bits)
    }
    #[inline(always)]
    unsafe fn add_i(a: [u32; 8], b: [u32; 8]) -> [u32; 8] {
        map(a, b, u32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn and_i(a: [u32; 8], b: [u32; 8]) -> [u32; 8] {
        map(a, b, |a, b| a & b)
    }
    #[inline(always)]
    unsafe fn shift_right<const BITS: u32>(v: [u32; 8]) -> [u32; 8] {
        v.map(|v| v >> BITS)
    }
    #[inline(always)]
    unsafe fn store_i(p: *mut u32, v: [u32; 8]) {
        unsafe { p.cast::<[u32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn shift_left<const BITS: u32>(v: [u32; 8]) -> [u32; 8] {
        v.map(|v| v << BITS)
    }
    #[inline(always)]
    unsafe fn to_float(v: [u32; 8]) -> [f32; 8] {
        v.map(|v| v as i32 as f32)
    }
    #[inline(always)]
    unsafe fn dot(mut acc: [u32; 8], a: [u32; 8], b: [u32; 8]) -> [u32; 8] {
        for i in 0..8 {
            let low = i32::from(a[i] as i16) * i32::from(b[i] as i16);
            let high = (a[i] as i32 >> 16) * (b[i] as i32 >> 16);
            acc[i] = acc[i].wrapping_add(low as u32).wrapping_add(high as u32);
        }
        acc
    }
    #[inline(always)]
    unsafe fn fold(mut v: [f32; 8], f: impl Fn([f32; 8], [f32; 8]) -> [f32; 8]) -> f32 {
        for apart in [4, 2, 1] {
            let mut other = v;
            other.rotate_left(apart);
            v = f(v, other);
        }
        v[0]
    }
}
