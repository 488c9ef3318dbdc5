//! One vector type a processor, behind one trait, so that every kernel is written once.
//!
//! A kernel is a generic function over [`Isa`], inlined into one function an instruction set whose target features are
//! switched on ([`kernels!`]); natively [`Level::detect`] picks at run time, a wasm module has the one it was built for.

#[cfg(not(target_arch = "wasm32"))]
mod portable;
#[cfg(target_arch = "wasm32")]
mod wasm;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(not(target_arch = "wasm32"))]
pub use portable::Portable;
#[cfg(target_arch = "wasm32")]
pub use wasm::Wasm;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

/// Rows of a register tile in f32: 66 and 258 tokens are multiples, and with two vectors of columns a tile and its
/// operands fit 16 registers.
pub const ROWS: usize = 6;

/// Rows of a register tile in integers. Six spill in Chromium's compiler, whose dot product wants its sums in place.
pub const INT_ROWS: usize = 4;

/// Vectors of `LANES` f32 or i32.
///
/// # Safety
/// Every function needs the target features of its instruction set; loads and stores read and write `LANES` values.
#[allow(missing_docs)] // what the name says
pub unsafe trait Isa: Copy {
    /// `LANES` f32.
    type F: Copy;
    /// `LANES` words of 32 bits.
    type I: Copy;
    /// The same with dot products of 16-bit numbers.
    type Pairs: Isa<F = Self::F, I = Self::I>;
    /// The same with a dot product of bytes in several instructions, where the engine would make more of one.
    type Stepwise: Isa<F = Self::F, I = Self::I>;
    /// Values of a vector.
    const LANES: usize;
    /// Vectors of columns in a register tile.
    const COLUMNS: usize;
    /// Whether [`Isa::dot`] takes four bytes a word, else two 16-bit numbers.
    const BYTES: bool;

    unsafe fn splat(v: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, v: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b`: b where either is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// `a > b ? a : b`: b where either is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `a b + c`, rounded once or twice as the processor likes it best.
    unsafe fn madd(a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    unsafe fn zero_i() -> Self::I;
    unsafe fn load_i(p: *const u32) -> Self::I;
    unsafe fn splat_i(v: u32) -> Self::I;
    unsafe fn bits(v: Self::F) -> Self::I;
    unsafe fn from_bits(v: Self::I) -> Self::F;
    unsafe fn add_i(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn and_i(a: Self::I, b: Self::I) -> Self::I;
    /// `v << BITS`.
    unsafe fn shift_left<const BITS: u32>(v: Self::I) -> Self::I;
    /// `v >> BITS`, zeros coming in.
    unsafe fn shift_right<const BITS: u32>(v: Self::I) -> Self::I;
    unsafe fn store_i(p: *mut u32, v: Self::I);
    /// As signed integers to the nearest f32.
    unsafe fn to_float(v: Self::I) -> Self::F;
    /// Each word: `acc + sum of a b`, exactly. With [`Isa::BYTES`], a are four i8 and b four u8 below 128; else both are
    /// two i16.
    unsafe fn dot(acc: Self::I, a: Self::I, b: Self::I) -> Self::I;

    /// Asks for memory that will be read; any address will do.
    #[inline(always)]
    unsafe fn prefetch(_p: *const u32) {}

    /// Combines lanes half a vector apart, then those half of that apart, and so on.
    unsafe fn fold(v: Self::F, f: impl Fn(Self::F, Self::F) -> Self::F) -> f32;

    /// The sum of the lanes, in pairs.
    #[inline(always)]
    unsafe fn sum(v: Self::F) -> f32 {
        unsafe { Self::fold(v, |a, b| Self::add(a, b)) }
    }

    /// The smallest lane.
    #[inline(always)]
    unsafe fn least(v: Self::F) -> f32 {
        unsafe { Self::fold(v, |a, b| Self::min(a, b)) }
    }

    /// The largest lane.
    #[inline(always)]
    unsafe fn largest(v: Self::F) -> f32 {
        unsafe { Self::fold(v, |a, b| Self::max(a, b)) }
    }
}

/// An instruction set that this processor has, for each of which kernels are compiled, and how it multiplies numbers of 12
/// bits. Only [`Level::all`] and [`Level::detect`] make one: with it kernels need not ask again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Level {
    pub(crate) set: Set,
    /// As two bytes each, where there is a dot product of bytes in one instruction; else as 16-bit numbers.
    wide_bytes: bool,
}

impl std::fmt::Debug for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}{}", self.set, if self.has_bytes() && !self.wide_bytes { " in pairs" } else { "" })
    }
}

/// The instruction sets that a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    /// Arrays that the compiler vectorises as it can: NEON on Arm, SSE2 on old x86.
    #[cfg(not(target_arch = "wasm32"))]
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// simd128, with relaxed SIMD if the module was built for it.
    #[cfg(target_arch = "wasm32")]
    Wasm,
}

impl Level {
    /// All that this processor has; never empty.
    pub fn all() -> Vec<Level> {
        let mut levels = Vec::new();
        for set in Set::all() {
            let in_bytes = Level { set, wide_bytes: true };
            levels.push(Level { set, wide_bytes: false });
            if in_bytes.has_bytes() {
                levels.push(in_bytes);
            }
        }
        levels
    }

    /// The best that this processor has.
    pub fn detect() -> Level {
        #[cfg(target_arch = "wasm32")]
        return Level { set: Set::Wasm, wide_bytes: Wasm::BYTES && !wasm::emulates_bytes() };
        #[cfg(not(target_arch = "wasm32"))]
        {
            let all = Level::all();
            all[all.len() - 1]
        }
    }

    /// Columns of a panel of packed weights.
    pub fn panel(self) -> usize {
        match self.set {
            #[cfg(not(target_arch = "wasm32"))]
            Set::Portable => Portable::LANES * Portable::COLUMNS,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => Avx2::LANES * Avx2::COLUMNS,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => Avx512::LANES * Avx512::COLUMNS,
            #[cfg(target_arch = "wasm32")]
            Set::Wasm => Wasm::LANES * Wasm::COLUMNS,
        }
    }

    /// Values of a vector.
    pub fn lanes(self) -> usize {
        match self.set {
            #[cfg(not(target_arch = "wasm32"))]
            Set::Portable => Portable::LANES,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => Avx512::LANES,
            #[cfg(target_arch = "wasm32")]
            Set::Wasm => Wasm::LANES,
        }
    }

    /// Whether the dot product takes bytes.
    fn has_bytes(self) -> bool {
        match self.set {
            #[cfg(not(target_arch = "wasm32"))]
            Set::Portable => Portable::BYTES,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => Avx2::BYTES,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => Avx512::BYTES,
            #[cfg(target_arch = "wasm32")]
            Set::Wasm => Wasm::BYTES,
        }
    }

    /// Whether the engine makes the dot product of bytes from several instructions.
    pub(crate) fn emulates_bytes(self) -> bool {
        self.has_bytes() && !self.wide_bytes
    }

    /// Whether activations of so many bits and their weights are packed as bytes, else as 16-bit numbers.
    pub fn bytes(self, bits: u32) -> bool {
        self.has_bytes() && (bits == 8 || self.wide_bytes)
    }
}

impl Set {
    /// All that this processor has, the best last.
    fn all() -> Vec<Set> {
        #[cfg(target_arch = "wasm32")]
        return vec![Set::Wasm];
        #[cfg(not(target_arch = "wasm32"))]
        {
            #[allow(unused_mut)]
            let mut sets = vec![Set::Portable];
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    sets.push(Set::Avx2);
                }
                let needed = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni");
                if needed {
                    sets.push(Set::Avx512);
                }
            }
            sets
        }
    }
}

/// Compiles a function that is generic over [`Isa`] once an instruction set, and dispatches over [`Level`].
macro_rules! kernels {
    ($($(#[$meta:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) = $generic:ident;)*) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        #[inline(never)] // Chromium's compiler allots registers best in a function that has no other loops.
        $visibility fn $name(level: $crate::isa::Level, $($argument: $type),*) {
            use $crate::isa::Set;
            // SAFETY: a Level is only made where its instruction set was detected, or compiled for.
            match level.set {
                #[cfg(not(target_arch = "wasm32"))]
                Set::Portable => unsafe { $generic::<$crate::isa::Portable>($($argument),*) },
                #[cfg(target_arch = "x86_64")]
                Set::Avx2 => {
                    #[target_feature(enable = "avx2,fma")]
                    unsafe fn avx2($($argument: $type),*) {
                        unsafe { $generic::<$crate::isa::Avx2>($($argument),*) }
                    }
                    unsafe { avx2($($argument),*) }
                }
                #[cfg(target_arch = "x86_64")]
                Set::Avx512 => {
                    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
                    unsafe fn avx512($($argument: $type),*) {
                        unsafe { $generic::<$crate::isa::Avx512>($($argument),*) }
                    }
                    unsafe { avx512($($argument),*) }
                }
                #[cfg(target_arch = "wasm32")]
                Set::Wasm => unsafe { $generic::<$crate::isa::Wasm>($($argument),*) },
            }
        }
    )*};
}
pub(crate) use kernels;

/// `body` once for each `i` below `n`, a constant of at most 8, with `i` a constant: register tiles must never become
/// loops over memory, and a module that is optimised for size keeps its loops.
macro_rules! unroll {
    ($i:ident < $n:expr, $body:block) => {
        $crate::isa::unroll!(@ $i, $n, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident, $n:expr, $body:block, $($k:literal)*) => {{
        const { assert!($n <= 8) };
        $(if $k < $n {
            #[allow(non_upper_case_globals)]
            const $i: usize = $k;
            $body
        })*
    }};
}
pub(crate) use unroll;

/// An array of `n` values by index, [`unroll!`]ed.
macro_rules! array {
    ($i:ident < $n:expr, $zero:expr, $body:expr) => {{
        let mut array = [$zero; $n];
        $crate::isa::unroll!($i < $n, { array[$i] = $body });
        array
    }};
}
pub(crate) use array;
