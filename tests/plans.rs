//! Whatever Plan validates, runs: on every executor, in every arithmetic, with the values that its operations have one by
//! one; and an item's values are the same bits whatever else is in its batch.
#![cfg(not(target_arch = "wasm32"))]

#[cfg(feature = "gpu")]
mod devices;
#[path = "plans/recipe.rs"]
mod recipe;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestRng, TestRunner};
use recipe::{Recorded, Step, meaning, record};
use uvit_web::model::Batch;
use uvit_web::plan::{Compute, Plan, Precision, Role, lower};
use uvit_web::runtime::{Device, Loading, Session, State};
use uvit_web::sampler::TorchGenerator;
use uvit_web::simd::Threads;
use uvit_web::weights::{Tensor, random};

/// A device in one arithmetic.
struct On {
    name: String,
    device: Device,
    compute: Compute,
}

/// The outputs of a Plan on a device.
async fn run(on: &On, recorded: &Recorded) -> uvit_web::Result<Vec<Vec<f32>>> {
    let Recorded { plan, inputs, indices, tensors, outputs } = recorded;
    let mut session = session(on, plan, tensors).await?;
    for (id, values) in inputs {
        session.write(*id, values)?;
    }
    for (id, values) in indices {
        session.write_indices(*id, values)?;
    }
    session.forward(&|| false).await?;
    let mut values = Vec::new();
    for &id in outputs {
        values.push(session.read(id).await?);
    }
    Ok(values)
}

async fn session(on: &On, plan: &Plan, tensors: &[Tensor]) -> uvit_web::Result<Session> {
    let mut loading = Loading::new(&on.device, on.compute)?;
    for ((id, weight, form), tensor) in plan.loads(on.compute).zip(tensors) {
        loading.load(id, weight, form, tensor).await?;
    }
    let weights = loading.finish().await?;
    let program = lower(plan, &weights.capabilities(), &[])?;
    let outlives = program.views.iter().filter(|view| view.role == Role::State);
    let tensors: Vec<_> = outlives.map(|view| (view.name.clone(), view.shape.clone())).collect();
    let state = if tensors.is_empty() { None } else { Some(State::new(&on.device, &tensors).await?) };
    Session::new(&weights, program, state.as_ref()).await
}

/// Largest error over largest value, or why there is none.
fn error(got: &[Vec<f32>], want: &[Vec<f32>]) -> f32 {
    let mut worst = 0f32;
    for (got, want) in got.iter().zip(want) {
        assert_eq!(got.len(), want.len());
        let largest = want.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
        let off = got.iter().zip(want).map(|(a, b)| (a - b).abs());
        worst = worst.max(off.fold(0.0, |m, v| if v.is_nan() { f32::MAX } else { m.max(v) }) / largest);
    }
    worst
}

/// Every device that is here.
fn devices() -> Vec<On> {
    let mut all: Vec<On> = Vec::new();
    for compute in Compute::ALL {
        all.push(On { name: format!("reference {compute:?}"), device: Device::reference(), compute });
    }
    for compute in [Compute::F32, Compute::Quality, Compute::Fast] {
        for threads in [1, 3] {
            let name = format!("cpu {compute:?}, {threads} threads");
            all.push(On { name, device: Device::cpu(Threads::new(threads)), compute });
        }
    }
    #[cfg(feature = "gpu")]
    if let Some(device) = devices::found(pollster::block_on(Device::gpu())) {
        for compute in [Compute::F32, Compute::F16, Compute::W8A8] {
            match device.supports(compute) {
                Err(error) => devices::skip(&error.to_string()),
                Ok(()) => all.push(On { name: format!("gpu {compute:?}"), device: device.clone(), compute }),
            }
        }
    }
    all
}

/// Largest error over largest value that may remain of a few layers in this arithmetic.
fn tolerance(compute: Compute) -> f32 {
    match compute {
        Compute::F32 => 1e-4,
        Compute::F16 | Compute::Quality => 2e-2,
        Compute::Fast | Compute::W8A8 => 2e-1,
    }
}

/// Fails unless a Plan runs everywhere and each of its items stands for itself.
fn judge(record: &dyn Fn(std::ops::Range<usize>) -> Recorded, devices: &[On]) -> Result<(), String> {
    let whole = record(0..3);
    let text = |name: &str, e: uvit_web::Error| format!("{name}: {e}\n{:#?}", whole.plan.ops);
    whole.plan.validate().map_err(|e| text("validate", e))?;
    let values = meaning(&whole);
    let whole_plan = &whole.plan.ops;
    let want: Vec<Vec<f32>> = whole.outputs.iter().map(|id| values[id].clone()).collect();
    for on in devices {
        let name = &on.name;
        let got = pollster::block_on(run(on, &whole)).map_err(|e| text(name, e))?;
        let off = error(&got, &want);
        if off > tolerance(on.compute) {
            return Err(format!("{name} is off by {off:.1e}\n{:#?}", whole.plan.ops));
        }
        for item in 0..3 {
            let alone = pollster::block_on(run(on, &record(item..item + 1))).map_err(|e| text(name, e))?;
            for (whole, alone) in got.iter().zip(&alone) {
                let part = &whole[item * alone.len()..][..alone.len()];
                if part.iter().zip(alone).any(|(a, b)| a.to_bits() != b.to_bits()) {
                    return Err(format!("{name}: item {item} alone has other bits\n{:#?}", whole_plan));
                }
            }
        }
    }
    Ok(())
}

fn judge_all(cases: &[(&str, &[Step])]) {
    let devices = devices();
    let judge = |steps: &[Step]| judge(&|items| record(steps, items), &devices).err();
    let wrong: Vec<String> =
        cases.iter().filter_map(|(name, steps)| Some(format!("{name}: {}", judge(steps)?))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Positions count from the newest tensor; inputs are tokens of 16, a vector of 32, tokens of 16, a token of 48.
const LINEAR: u8 = 0;
const JOINED: u8 = 1;
const SILU: u8 = 4;
const ADD: u8 = 5;
const NORM: u8 = 7;
const ATTENTION: u8 = 8;

#[test]
fn one_tensor_may_be_read_twice_by_one_operation() {
    judge_all(&[
        ("y = linear(x); y + x", &[(LINEAR, 1, 0), (ADD, 0, 1)]),
        ("linear(x); x + y", &[(LINEAR, 1, 0), (ADD, 2, 2)]),
        ("x + x", &[(ADD, 1, 1)]),
        ("y = linear(x); y + y", &[(LINEAR, 1, 0), (ADD, 0, 2)]),
        ("linear(x, skip = x)", &[(JOINED, 1, 1)]),
        ("linear(x, skip = x) + x", &[(JOINED, 1, 5), (ADD, 2, 2)]),
    ]);
}

#[test]
fn three_linears_may_share_a_norm_and_other_makers_feed_linears() {
    judge_all(&[
        ("q, k and v over one norm", &[(NORM, 1, 0), (LINEAR, 0, 0), (LINEAR, 1, 0), (LINEAR, 2, 0)]),
        (
            "attention over what q, k and v, three Linears over one norm, add up to",
            &[
                (NORM, 1, 0),
                (LINEAR, 0, 1),
                (LINEAR, 1, 1),
                (LINEAR, 2, 1),
                (ADD, 0, 0),
                (ADD, 0, 1),
                (ATTENTION, 0, 1),
            ],
        ),
        ("a norm read by a Linear and an addition", &[(NORM, 1, 0), (LINEAR, 0, 0), (ADD, 1, 3)]),
        ("linear(linear(x))", &[(LINEAR, 1, 0), (LINEAR, 0, 0), (LINEAR, 0, 0)]),
        ("linear(silu(x))", &[(SILU, 1, 0), (LINEAR, 0, 0)]),
        ("small heads", &[(ATTENTION, 0, 2), (LINEAR, 0, 0)]),
    ]);
}

#[test]
fn a_vector_an_item_does_not_look_at_other_items() {
    judge_all(&[
        ("linear(silu(linear(vector)))", &[(LINEAR, 2, 3), (SILU, 0, 0), (LINEAR, 0, 0)]),
        ("linear(silu(vector))", &[(SILU, 2, 0), (LINEAR, 0, 1)]),
        ("norm of a vector", &[(NORM, 2, 0), (LINEAR, 0, 0), (ADD, 0, 0)]),
    ]);
}

#[test]
fn one_weight_may_be_a_table_and_a_matrix() {
    let devices = devices();
    for precision in [Precision::Float, Precision::Narrow] {
        judge(&|items| recipe::tied(precision, items), &devices).unwrap_or_else(|e| panic!("{precision:?}: {e}"));
    }
}

#[test]
fn a_long_chain_of_cheap_kernels_is_several_runs() {
    let mut plan = Plan::default();
    let mut x = plan.tensor("", &[1, 64, 256], Role::Input);
    for _ in 0..2000 {
        x = plan.layer_norm("norm", x, 1e-5);
    }
    let tensors: Vec<Tensor> =
        (plan.weights.iter()).map(|w| random::tensor(&w.name, &w.shape, None, &mut TorchGenerator::new(0))).collect();
    for on in devices().into_iter().filter(|on| on.device.threads() == 1) {
        let mut session = pollster::block_on(session(&on, &plan, &tensors)).unwrap();
        let kernels = 0..session.program().kernels.len();
        let next = session.run(kernels.clone(), None, on.device.budget()).unwrap();
        pollster::block_on(on.device.finished()).unwrap();
        let name = on.name;
        assert!(next < kernels.end, "{name}: {next} kernels are one run");
    }
}

#[test]
fn what_was_loaded_for_one_batch_serves_all() {
    for compute in Compute::ALL {
        let steps = [(NORM, 1, 0), (LINEAR, 0, 0), (JOINED, 0, 1), (ATTENTION, 0, 0), (LINEAR, 0, 2), (SILU, 0, 0)];
        let forms = |batch: usize| record(&steps, 0..batch).plan.forms(compute);
        assert!((2..40).all(|batch| forms(batch) == forms(1)));
        let uvit = uvit_web::package::preset("imagenet64_uvit_mid").unwrap().network().unwrap();
        let forms = |batch: Batch| uvit.record(batch).unwrap().plan.forms(compute);
        assert_eq!(forms(Batch::plain(1)), forms(Batch::copied(7, 2)));
    }
}

#[test]
fn any_plan_that_validates_runs_everywhere() {
    let devices = devices();
    let steps = proptest::collection::vec((any::<u8>(), 0usize..6, 0usize..30), 1..9);
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let judge = |steps: Vec<Step>| judge(&|items| record(&steps, items), &devices).map_err(TestCaseError::fail);
    runner.run(&steps, judge).unwrap_or_else(|e| panic!("{e}"));
}
