//! In headless Chromium: every kernel against its twin on the browser's WebGPU, and a golden network sampled on both of
//! the browser's devices.
#![cfg(all(target_arch = "wasm32", feature = "gpu"))]

mod golden_sampling;
mod integers;
mod twins;

use uvit_web::gpu::kernels::{Tuning, variants};
use uvit_web::pipeline::Executor;
use uvit_web::plan::Compute;
use uvit_web::simd::Threads;
use wasm_bindgen_test::{wasm_bindgen_test, wasm_bindgen_test_configure};

wasm_bindgen_test_configure!(run_in_browser);

#[wasm_bindgen_test]
async fn every_variant_compiles() {
    let backend = uvit_web::gpu::Backend::open().await.unwrap();
    let tunings: Vec<Tuning> = Tuning::ALL.into_iter().filter(|tuning| tuning.suits(backend.adapter())).collect();
    // A matmul takes the browser a second: a fifth of them, in which every variable takes every value. All are validated
    // natively.
    let all = variants(&tunings, backend.adapter().shader_f16).into_iter().enumerate();
    let some: Vec<_> = all.filter(|(i, v)| !v.kernel.ends_with("matmul") || i % 5 == 0).map(|(_, v)| v).collect();
    // Several at once, as the browser can.
    for some in some.chunks(16) {
        let begun: Vec<_> = some.iter().map(|v| backend.compile(&v.label(), &v.wgsl().unwrap())).collect();
        for compiling in begun {
            backend.compiled(compiling).await.unwrap();
        }
    }
}

#[wasm_bindgen_test]
async fn every_kernel_equals_its_twin() {
    let mut gpu = Executor::gpu(Compute::F32).await.unwrap();
    judge(&mut gpu, &twins::cases(Compute::F32)).await;
    assert_eq!(twins::judge_combine(&mut gpu).await, Ok(6));
}

#[wasm_bindgen_test]
async fn every_kernel_of_8_bits_equals_its_twin() {
    judge(&mut Executor::gpu(Compute::W8A8).await.unwrap(), &twins::cases(Compute::W8A8)).await;
}

async fn judge(gpu: &mut Executor, cases: &[twins::Case]) {
    for tuning in Tuning::ALL {
        if let Executor::Gpu(gpu) = gpu {
            if !tuning.suits(gpu.backend().adapter()) {
                continue;
            }
            gpu.set_tuning(tuning);
        }
        let mut failures = Vec::new();
        for case in cases {
            failures.extend(case.judge(gpu).await.err());
        }
        assert!(failures.is_empty(), "{tuning:?}: {}", failures.join("\n"));
    }
}

#[wasm_bindgen_test]
async fn every_fast_cpu_kernel_equals_its_twin() {
    for compute in [Compute::F32, Compute::Quality, Compute::Fast] {
        let mut executor = Executor::cpu(compute, Threads::default());
        let mut failures = Vec::new();
        for case in twins::cases(compute) {
            failures.extend(case.judge(&mut executor).await.err());
        }
        assert!(failures.is_empty(), "{compute:?}: {}", failures.join("\n"));
    }
}

#[wasm_bindgen_test]
fn integer_matmuls_have_the_bits_of_the_twin_and_so_of_every_other_build() {
    integers::same_bits_as_the_twin();
}

#[wasm_bindgen_test]
async fn four_steps_give_what_the_native_cpu_gives() {
    for mut executor in [Executor::gpu(Compute::F32).await.unwrap(), Executor::cpu(Compute::F32, Threads::default())] {
        let worst = golden_sampling::worst(&golden_sampling::draw(&mut executor).await);
        assert!(worst <= 2.0, "off by {worst} of 255");
    }
}
