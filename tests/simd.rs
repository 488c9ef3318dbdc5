//! Every fast CPU kernel against its twin over odd shapes, on every instruction set of this processor, in every arithmetic
//! and with several threads; and what only integers promise: the same bits everywhere, no overflow, no NaN that goes
//! unseen. `tests/wasm.rs` does the first in a browser.
#![cfg(not(target_arch = "wasm32"))]

mod integers;
mod twins;

use integers::{ints, random_weights};
use uvit_web::plan::{Activation, Compute, INT_CHUNK};
use uvit_web::runtime::Device;
use uvit_web::sampler::TorchGenerator;
use uvit_web::simd::{
    AttentionShape, Conv2dShape, F32Matrix, Finish, Floats, Inputs, IntMatrix, Level, Lines, Quantized, Threads,
    conv2d, f32_matmul, int_attention, int_matmul,
};

#[test]
fn every_kernel_equals_its_twin_on_every_instruction_set() {
    for level in Level::all() {
        for compute in [Compute::F32, Compute::Quality, Compute::Fast] {
            for threads in [1, 3] {
                let cpu = Device::cpu_with(level, Threads::new(threads));
                let mut wrong = Vec::new();
                for case in twins::cases(compute) {
                    if let Err(why) = pollster::block_on(case.judge(&cpu, compute)) {
                        wrong.push(why);
                    }
                }
                assert!(wrong.is_empty(), "{level:?} {compute:?} {threads} threads:\n{}", wrong.join("\n"));
                assert_eq!(pollster::block_on(twins::judge_combine(&cpu)), Ok(8));
            }
        }
    }
}

#[test]
fn integer_matmuls_give_the_same_bits_on_every_instruction_set_and_in_the_twin() {
    integers::same_bits_as_the_twin();
    integers::convolutions_have_the_bits_of_the_twin();
}

#[test]
fn the_largest_sums_do_not_overflow() {
    // Every activation at one end of its range, every weight at its limit, for whole chunks. A second token is the first
    // one's opposite, so that the mean lies between them and in 8 bits they keep their range.
    for k in [INT_CHUNK, INT_CHUNK + 4, 2 * INT_CHUNK] {
        let mut x = vec![1.0; 2 * k];
        x[0] = 0.0;
        x[k..].iter_mut().zip(0..k).for_each(|(v, i)| *v = if i == 0 { 1.0 } else { 0.0 });
        for (bits, limit) in [(8, 63i8), (12, 127)] {
            for weight in [limit, -limit] {
                let w = vec![weight; k];
                for level in Level::all() {
                    // The residuals are x[0] = 0 and x[1] = 1, the bias 1.
                    let got = ints(level, &x, &w, &[1.0], &[1.0], [1, 2], k, bits);
                    for (got, exact) in
                        got.iter().zip([(k - 1) as f64 * f64::from(weight) + 1.0, f64::from(weight) + 2.0])
                    {
                        assert!(
                            (f64::from(*got) - exact).abs() < 16.0,
                            "{level:?}, {bits} bits, k {k}: {got}, exactly {exact}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_nan_or_an_infinity_is_seen_in_every_output() {
    let mut random = TorchGenerator::new(3);
    let (rows, k, n) = (5, 70, 9);
    let w = random_weights(n, k, &mut random);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for place in [0, 17, k - 1] {
            let mut x = random.randn_f32(rows * k);
            x[2 * k + place] = bad;
            for level in Level::all() {
                for bits in [8, 12] {
                    let w: Vec<i8> = w.iter().map(|v| if bits == 8 { v / 2 } else { *v }).collect();
                    let got = ints(level, &x, &w, &vec![0.01; n], &vec![0.0; n], [rows, 1], k, bits);
                    assert!(got[2 * n..3 * n].iter().all(|v| v.is_nan()), "{level:?} {bits} {bad} at {place}");
                    assert!(got[..n].iter().chain(&got[4 * n..]).all(|v| v.is_finite()));
                }
            }
        }
        // Queries, keys and values of one head.
        let shape = AttentionShape {
            batch: 1,
            tokens: 13,
            groups: 1,
            strided: false,
            heads: 1,
            head_dim: 12,
            causal: false,
            first: 0,
            queries: 13,
        };
        for part in 0..3 {
            let mut qkv = random.randn_f32(13 * 36);
            qkv[4 * 36 + 12 * part + 11] = bad;
            for level in Level::all() {
                let mut out = vec![0.0; 13 * 12];
                for bits in [7, 12] {
                    int_attention(level, &Threads::new(1), &qkv, &mut out, &shape, bits);
                    assert!(out.iter().any(|v| !v.is_finite()), "{level:?}, {bits}: {bad} in part {part} went unseen");
                }
            }
        }
    }
}

#[test]
fn operands_that_do_not_fit_each_other_are_refused() {
    let panics = |work: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err();
    let (level, threads) = (Level::detect(), Threads::new(1));
    let (x, w, scales) = (vec![1.0; 3 * 40], vec![1i8; 5 * 40], vec![1.0; 5]);
    let floats: Vec<f32> = w.iter().map(|&v| f32::from(v)).collect();
    let matrix = F32Matrix::new(level, &floats, 5, 40);
    let finish = Finish { bias: None, activation: Activation::None, gate: None, residual: None, coarse: false };
    let f32 = |level: Level, finish: Finish, out: usize| {
        f32_matmul(level, &threads, (&x, 40), (&[], 0), &matrix, finish, &mut vec![0.0; out]);
    };
    assert!(!panics(&|| f32(level, finish, 15)));
    let (short, long) = (Floats::new(&[0.0; 4]), vec![0.0; 14]);
    assert!(panics(&|| f32(level, Finish { bias: Some(&short), ..finish }, 15)));
    assert!(panics(&|| f32(level, Finish { residual: Some(&long), ..finish }, 15)));
    assert!(panics(&|| f32(level, finish, 16)) && panics(&|| f32(level, finish, 20)));
    assert!(panics(&|| drop(F32Matrix::new(level, &floats, 6, 40))));
    for other in Level::all().into_iter().filter(|other| *other != level) {
        assert!(panics(&|| f32(other, finish, 15)), "{other:?}");
    }
    let int = |bits: u32, of: u32, rows: usize| {
        let matrix = IntMatrix::new(level, &w, &scales, 5, 40, bits);
        let mut quantized = Quantized::default();
        quantized.fill(level, &threads, Inputs { x: &x, k: 40, x2: &[], k2: 0, items: 1, tokens: 3 }, of);
        int_matmul(level, &threads, &quantized, &matrix, finish, &mut vec![0.0; 5 * rows]);
    };
    assert!(!panics(&|| int(8, 8, 3)) && !panics(&|| int(12, 12, 3)));
    assert!(panics(&|| int(8, 12, 3)) && panics(&|| int(12, 8, 3)));
    assert!(panics(&|| int(8, 8, 4)) && panics(&|| int(12, 12, 2)));
    let shape = Conv2dShape { batch: 1, in_channels: 2, out_channels: 3, frames: 1, height: 4, width: 5 };
    let conv = |x: usize, out: usize| {
        let (x, weight, mut out) = (vec![0.0; x], vec![0.0; 54], vec![0.0; out]);
        conv2d(level, &threads, &x, &weight, &[0.0; 3], &mut out, &mut Lines::default(), &shape);
    };
    assert!(!panics(&|| conv(40, 60)));
    assert!(panics(&|| conv(40, 59)) && panics(&|| conv(39, 60)));
}

#[test]
fn threads_may_be_entered_from_everywhere() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let threads = Threads::new(3);
    // Loops inside loops, and callers beside each other.
    let count = || {
        let sum = AtomicUsize::new(0);
        threads.enter(|| {
            threads.each(100, |i| {
                threads.each(10, |j| {
                    sum.fetch_add(100 * i + j, Ordering::Relaxed);
                });
            });
            threads.enter(|| {
                threads.each(10, |i| {
                    sum.fetch_add(i, Ordering::Relaxed);
                });
            });
        });
        sum.into_inner()
    };
    let want = (0..100).flat_map(|i| (0..10).map(move |j| 100 * i + j)).sum::<usize>() + 45;
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..50).map(|_| count()).collect::<Vec<_>>())).collect();
        for caller in callers {
            assert!(caller.join().unwrap().iter().all(|&sum| sum == want));
        }
    });
}

/// How fast f32 multiply-adds are here: `cargo test --release --test simd -- --ignored --nocapture`.
#[test]
#[ignore = "measures, asserts nothing about time"]
fn measure_the_f32_matmul() {
    let (rows, k, n) = (264, 512, 1536);
    let mut random = TorchGenerator::new(1);
    let (x, w) = (random.randn_f32(rows * k), random.randn_f32(n * k));
    let mut out = vec![0.0; rows * n];
    let plain = Finish { bias: None, activation: Activation::None, gate: None, residual: None, coarse: false };
    let best = |f: &mut dyn FnMut()| {
        (0..40).fold(f64::INFINITY, |best, _| {
            let began = std::time::Instant::now();
            f();
            best.min(began.elapsed().as_secs_f64())
        })
    };
    for level in Level::all() {
        let steps = 2_000_000;
        let peak = f64::from(level.lanes() as u32) * 2.0 * 12.0 * f64::from(steps)
            / best(&mut || uvit_web::simd::multiply_add_peak(level, steps))
            / 1e9;
        let matrix = F32Matrix::new(level, &w, n, k);
        for threads in [1, std::thread::available_parallelism().map_or(1, |n| n.get())] {
            let pool = Threads::new(threads);
            let seconds = best(&mut || {
                pool.enter(|| f32_matmul(level, &pool, (&x, k), (&[], 0), &matrix, plain, &mut out));
            });
            let rate = 2.0 * (rows * k * n) as f64 / seconds / 1e9;
            println!(
                "{level:?}, {threads} threads: {rate:.0} GFLOP/s, {:.0}% of {threads} x {peak:.0}",
                100.0 * rate / peak / threads as f64
            );
        }
    }
    assert!(out.iter().all(|v| v.is_finite()));
}
