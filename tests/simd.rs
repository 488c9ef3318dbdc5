//! Every fast CPU kernel against its twin over odd shapes, on every instruction set of this processor, in every arithmetic
//! and with several threads. `tests/wasm.rs` does the same in a browser.
#![cfg(not(target_arch = "wasm32"))]

mod twins;

use uvit_web::cpu::FastExecutor;
use uvit_web::pipeline::Executor;
use uvit_web::plan::Compute;
use uvit_web::simd::{Level, Threads};

fn executor(level: Level, compute: Compute, threads: usize) -> Executor {
    Executor::Cpu(Box::new(FastExecutor::with_level(level, compute, Threads::new(threads))))
}

#[test]
fn every_kernel_equals_its_twin_on_every_instruction_set() {
    for level in Level::all() {
        for compute in [Compute::F32, Compute::Quality, Compute::Fast] {
            for threads in [1, 3] {
                let mut executor = executor(level, compute, threads);
                let mut wrong = Vec::new();
                for case in twins::cases() {
                    if let Err(why) = pollster::block_on(case.judge(&mut executor)) {
                        wrong.push(why);
                    }
                }
                assert!(wrong.is_empty(), "{level:?} {compute:?} {threads} threads:\n{}", wrong.join("\n"));
            }
        }
    }
}
