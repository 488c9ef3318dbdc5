//! PyTorch's CPU random numbers, bit for bit, so that a seed draws the same picture everywhere. Equals
//! `torch.Generator().manual_seed(seed)` of torch 2.8.0 on x86-64 with AVX2: core/MT19937RNGEngine.h (Matsumoto and
//! Nishimura's mt19937), core/DistributionsHelper.h, native/cpu/DistributionTemplates.h `normal_fill_AVX2`, avx_mathfun.h.

use std::f64::consts::PI;

const STATE: usize = 624;
const SHIFT: usize = 397;

/// `torch.Generator().manual_seed(seed)` on the CPU.
#[derive(Clone)]
pub struct TorchGenerator {
    state: [u32; STATE],
    next: usize,
    /// The second value of the last Box-Muller pair of a short draw; PyTorch keeps it for the next short draw.
    kept_normal: Option<f64>,
}

impl TorchGenerator {
    /// `torch.Generator().manual_seed(seed)`; only the low 32 bits of the seed count, as in PyTorch.
    pub fn new(seed: u64) -> TorchGenerator {
        let mut state = [0u32; STATE];
        state[0] = seed as u32;
        for j in 1..STATE {
            let previous = state[j - 1];
            state[j] = 1_812_433_253u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(j as u32);
        }
        TorchGenerator { state, next: STATE, kept_normal: None }
    }

    /// The next raw output of mt19937.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == STATE {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..STATE {
            let mixed = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % STATE] & 0x7fff_ffff);
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT) % STATE] ^ (mixed >> 1) ^ odd;
        }
        self.next = 0;
    }

    fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() & ((1 << 24) - 1)) as f32 / (1u32 << 24) as f32
    }

    fn uniform_f64(&mut self) -> f64 {
        let (high, low) = (u64::from(self.next_u32()), u64::from(self.next_u32()));
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    /// `torch.rand(n, dtype=torch.float32, generator=self)`: uniform in [0, 1).
    pub fn rand_f32(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.uniform_f32()).collect()
    }

    /// `torch.rand(n, dtype=torch.float64, generator=self)`: uniform in [0, 1).
    pub fn rand_f64(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.uniform_f64()).collect()
    }

    /// `torch.randn(n, dtype=torch.float32, generator=self)`: standard normal. The shape does not matter, only the
    /// number of values, and a draw of n is not the beginning of a longer one.
    pub fn randn_f32(&mut self, n: usize) -> Vec<f32> {
        if n < BLOCK {
            return (0..n).map(|_| self.short_normal() as f32).collect();
        }
        let mut values = self.rand_f32(n);
        for_blocks(&mut values, || self.uniform_f32(), box_muller_f32);
        values
    }

    /// `torch.randn(n, dtype=torch.float64, generator=self)`: standard normal, to an ulp of the C library's functions.
    pub fn randn_f64(&mut self, n: usize) -> Vec<f64> {
        if n < BLOCK {
            return (0..n).map(|_| self.short_normal()).collect();
        }
        let mut values = self.rand_f64(n);
        for_blocks(&mut values, || self.uniform_f64(), box_muller_f64);
        values
    }

    /// One value of a draw of fewer than 16: half a Box-Muller pair in f64, the other half kept for the next.
    fn short_normal(&mut self) -> f64 {
        if let Some(kept) = self.kept_normal.take() {
            return kept;
        }
        let (u1, u2) = (self.uniform_f64(), self.uniform_f64());
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let theta = 2.0 * PI * u1;
        self.kept_normal = Some(radius * theta.sin());
        radius * theta.cos()
    }
}

const BLOCK: usize = 16;

/// Turns uniforms into normals, 16 at a time; what is left over at the end is drawn anew, as the last 16 values.
fn for_blocks<T: Copy>(values: &mut [T], mut uniform: impl FnMut() -> T, box_muller: impl Fn(T, T) -> (T, T)) {
    let mut transform = |block: &mut [T]| {
        let (first, second) = block.split_at_mut(BLOCK / 2);
        for (a, b) in first.iter_mut().zip(second) {
            (*a, *b) = box_muller(*a, *b);
        }
    };
    values.chunks_exact_mut(BLOCK).for_each(&mut transform);
    if !values.len().is_multiple_of(BLOCK) {
        let start = values.len() - BLOCK;
        let last = &mut values[start..];
        last.fill_with(&mut uniform);
        transform(last);
    }
}

fn box_muller_f64(a: f64, b: f64) -> (f64, f64) {
    let radius = (-2.0 * (1.0 - a).ln()).sqrt();
    let (sin, cos) = (2.0 * PI * b).sin_cos();
    (radius * cos, radius * sin)
}

fn box_muller_f32(a: f32, b: f32) -> (f32, f32) {
    let radius = (-2.0 * avx_ln(1.0 - a)).sqrt();
    let (sin, cos) = avx_sincos(std::f32::consts::TAU * b);
    (radius * cos, radius * sin)
}

/// a b + c, rounded once, on every target.
fn fma(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

/// avx_mathfun.h `log256_ps` (Cephes' polynomial) for x in (0, 1], with fused operations where the AVX2 build has them.
#[allow(clippy::excessive_precision)] // the digits of the source
fn avx_ln(x: f32) -> f32 {
    const P: [f32; 9] = [
        7.037_683_629_2e-2,
        -1.151_461_031_0e-1,
        1.167_699_874_0e-1,
        -1.242_014_084_6e-1,
        1.424_932_278_7e-1,
        -1.666_805_766_5e-1,
        2.000_071_476_5e-1,
        -2.499_999_399_3e-1,
        3.333_333_117_4e-1,
    ];
    // x = m 2^e, m in [0.5, 1); x is never subnormal here.
    let bits = x.to_bits();
    let mut e = ((bits >> 23) as i32 - 126) as f32;
    let m = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    let x = if m < std::f32::consts::FRAC_1_SQRT_2 {
        e -= 1.0;
        (m - 1.0) + m
    } else {
        m - 1.0
    };
    let z = x * x;
    let mut y = P[0];
    for p in &P[1..] {
        y = fma(y, x, *p);
    }
    y *= x;
    y = fma(y, z, e * -2.121_944_40e-4);
    y = fma(-z, 0.5, y);
    fma(e, 0.693_359_375, x + y)
}

/// avx_mathfun.h `sincos256_ps` (Cephes' polynomials) for x >= 0, as [`avx_ln`].
#[allow(clippy::excessive_precision)] // the digits of the source
fn avx_sincos(x: f32) -> (f32, f32) {
    // Octant, made even: 4 / pi times x.
    let j = ((x * 1.273_239_544_735_16) as i32 + 1) & !1;
    let y = j as f32;
    let x = fma(y, -0.785_156_25, x);
    let x = fma(y, -2.418_756_484_985_351_562_5e-4, x);
    let x = fma(y, -3.774_894_977_445_941_08e-8, x);
    let z = x * x;

    let c = fma(fma(2.443_315_711_809_948e-5, z, -1.388_731_625_493_765e-3), z, 4.166_664_568_298_827e-2) * z;
    let c = fma(c, z, -(z * 0.5)) + 1.0;
    let s = fma(fma(-1.951_529_589_1e-4, z, 8.332_160_873_6e-3), z, -1.666_665_461_1e-1) * z;
    let s = fma(s, x, x);

    let (sin, cos) = if j & 2 != 0 { (c, s) } else { (s, c) };
    (if j & 4 != 0 { -sin } else { sin }, if (j - 2) & 4 == 0 { -cos } else { cos })
}
