//! Integer matmuls by the fast kernels, natively and in a browser.

use uvit_web::cpu;
use uvit_web::plan::{Activation, Window};
use uvit_web::sampler::TorchGenerator;
use uvit_web::simd::{
    Finish, Floats, Inputs, IntMatrix, Level, Pixels, Quantized, Threads, int_convolution, int_matmul,
};

/// A matmul in integers by the kernels of one instruction set.
pub fn ints(
    level: Level,
    x: &[f32],
    w: &[i8],
    scales: &[f32],
    bias: &[f32],
    [items, tokens]: [usize; 2],
    k: usize,
    bits: u32,
) -> Vec<f32> {
    let rows = items * tokens;
    let (n, threads) = (scales.len(), Threads::new(1));
    let matrix = IntMatrix::new(level, w, scales, n, k, bits);
    let mut quantized = Quantized::default();
    quantized.fill(level, &threads, Inputs { x, k, x2: &[], k2: 0, items, tokens }, bits);
    let bias = Floats::new(bias);
    let finish = Finish {
        bias: Some(&bias),
        activation: Activation::None,
        gate: None,
        residual: Some(&x[..rows * n]),
        coarse: false,
    };
    let mut out = vec![0.0; rows * n];
    int_matmul(level, &threads, &quantized, &matrix, finish, &mut out);
    out
}

/// Random weights, extremes included.
pub fn random_weights(n: usize, k: usize, random: &mut TorchGenerator) -> Vec<i8> {
    random.randn_f32(n * k).iter().map(|v| (v * 50.0).clamp(-127.0, 127.0) as i8).collect()
}

/// Convolutions at odd shapes on every instruction set of this processor, bit for bit as the twin's: every kind of window, several
/// images, channels that fill no vector and so many that no one sum holds them.
pub fn convolutions_have_the_bits_of_the_twin() {
    let mut random = TorchGenerator::new(8);
    let windows: [fn([usize; 2]) -> Window; 3] = [Window::plain, Window::upsampled, |size| Window::strided(size, 0)];
    for (i, (items, size, k, n)) in
        [(1, [2, 2], 3, 1), (2, [5, 3], 64, 33), (1, [4, 7], 36, 72), (1, [3, 4], 512, 5)].into_iter().enumerate()
    {
        let window = windows[i % 3](size);
        let x = random.randn_f32(items * size[0] * size[1] * k);
        let w = random_weights(n, 9 * k, &mut random);
        let scales: Vec<f32> = random.randn_f32(n).iter().map(|v| 0.001 + 0.01 * v.abs()).collect();
        let (bias, threads) = (random.randn_f32(n), Threads::new(1));
        // Not from the first row on.
        let (first, rows) = (1, items * window.pixels() - 1);
        let residual = random.randn_f32(rows * n);
        for bits in [8, 12] {
            let w: Vec<i8> = if bits == 8 { w.iter().map(|v| v / 2).collect() } else { w.clone() };
            let mut want = vec![0.0; rows * n];
            let (none, given) = (Activation::None, Some(&residual[..]));
            cpu::int_convolution(&x, k, &window, first, &w, &scales, bits, Some(&bias), none, given, &mut want, n);
            for level in Level::all() {
                let matrix = IntMatrix::of_windows(level, &w, &scales, n, k, bits);
                let mut pixels = Pixels::default();
                pixels.fill(level, &threads, &x, k, items, window.height * window.width, bits);
                let floats = Floats::new(&bias);
                let finish =
                    Finish { bias: Some(&floats), activation: none, gate: None, residual: given, coarse: false };
                let mut got = vec![0.0; rows * n];
                int_convolution(level, &threads, &pixels, &window, first, &matrix, finish, &mut got);
                let off = got.iter().zip(&want).position(|(a, b)| a.to_bits() != b.to_bits());
                assert!(off.is_none(), "{level:?}, {bits} bits, {window:?}, {k} -> {n}: {off:?}");
            }
        }
    }
}

/// Matmuls at odd shapes on every instruction set of this processor, bit for bit as the twin's. In a browser the build has
/// one: builds that all equal the twin equal each other.
pub fn same_bits_as_the_twin() {
    let mut random = TorchGenerator::new(7);
    for (items, tokens, k, n) in
        [(1, 1, 3, 1), (1, 3, 7, 5), (1, 66, 256, 72), (3, 24, 257, 66), (2, 2, 72, 3), (1, 7, 4100, 33)]
    {
        let rows = items * tokens;
        let x: Vec<f32> = random.randn_f32(rows * k.max(n));
        let w = random_weights(n, k, &mut random);
        let scales: Vec<f32> = random.randn_f32(n).iter().map(|v| 0.001 + 0.01 * v.abs()).collect();
        let bias = random.randn_f32(n);
        for bits in [8, 12] {
            let w: Vec<i8> = if bits == 8 { w.iter().map(|v| v / 2).collect() } else { w.clone() };
            let mut want = vec![0.0; rows * n];
            let residual = Some(&x[..rows * n]);
            let none = Activation::None;
            cpu::int_matmul(
                &x,
                k,
                &[],
                0,
                &w,
                &scales,
                bits,
                Some(&bias),
                none,
                None,
                residual,
                &mut want,
                rows,
                tokens,
                n,
            );
            for level in Level::all() {
                let got = ints(level, &x, &w, &scales, &bias, [items, tokens], k, bits);
                let same = got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{level:?}, {bits} bits, [{items}, {tokens}, {k}] x {n}");
            }
        }
    }
}
