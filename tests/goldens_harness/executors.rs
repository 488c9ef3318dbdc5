//! The executors that cases are judged on. Each is opened once, since compiling a GPU's kernels takes seconds.

use super::{Case, Checks, Report, Stop, read_tensors};
use std::cell::RefCell;
use uvit_web::model::{Network, uvit};
use uvit_web::pipeline::Executor;
use uvit_web::plan::{Compute, Plan};
use uvit_web::simd::Threads;
use uvit_web::weights;

/// The executors' names in reports.
pub const NAMES: [&str; 3] = ["reference", "cpu", "gpu"];

thread_local! {
    static OPEN: RefCell<Vec<(&'static str, Result<Executor, String>)>> = const { RefCell::new(Vec::new()) };
}

/// Calls `body` with an executor; without a GPU it is skipped, or fails where `UVIT_GPU=required`.
pub fn with<T>(name: &'static str, body: impl FnOnce(&mut Executor) -> Result<T, Stop>) -> Result<T, Stop> {
    OPEN.with_borrow_mut(|open| {
        if !open.iter().any(|(known, _)| *known == name) {
            let opened = match name {
                "reference" => Ok(Executor::reference(Compute::F32)),
                "cpu" => Ok(Executor::cpu(Compute::F32, Threads::all())),
                _ => pollster::block_on(Executor::gpu(Compute::F32)).map_err(|e| e.to_string()),
            };
            open.push((name, opened));
        }
        let (_, executor) = open.iter_mut().find(|(known, _)| *known == name).expect("it was just pushed");
        match executor {
            Ok(executor) => body(executor),
            Err(why) if std::env::var("UVIT_GPU").is_ok_and(|v| v == "required") => Err(Stop::Fail(why.clone())),
            Err(why) => Err(Stop::Skip(why.clone())),
        }
    })
}

/// Closes all devices; they must not outlive the thread that opened them.
pub fn close() {
    OPEN.with_borrow_mut(Vec::clear);
}

/// Judges one body on every executor.
pub fn judge_on_each(
    report: &mut Report,
    run: &str,
    mut body: impl FnMut(&mut Executor, &mut Checks) -> Result<(), Stop>,
) {
    for name in NAMES {
        report.run(run, name, |checks| with(name, |executor| body(executor, checks)));
    }
}

/// The network of a case of kind `uvit`, its weights loaded.
pub fn load_network(executor: &mut Executor, case: &Case) -> Result<Network, Stop> {
    let params: uvit::Config =
        serde_json::from_value(case.config["params"].clone()).map_err(|e| Stop::Fail(format!("params: {e}")))?;
    let network = Network::Uvit(params);
    let plan: Plan = network.record(uvit_web::model::Batch::plain(1))?.plan;
    let mut stored = read_tensors(&case.folder.join("weights.safetensors"))?;
    for (id, weight, form) in plan.loads(executor.compute()) {
        let tensor = stored.remove(&weight.name).ok_or_else(|| format!("no weight {}", weight.name))?;
        if tensor.shape != weight.shape {
            return Err(Stop::Fail(format!("{} is {:?}, expected {:?}", weight.name, tensor.shape, weight.shape)));
        }
        let values = tensor.values.iter().map(|v| *v as f32).collect();
        let data = weights::Data::F32(values);
        let tensor = weights::Tensor { name: weight.name.clone(), shape: tensor.shape, data };
        pollster::block_on(executor.load(id, weight, form, &tensor))?;
    }
    match stored.keys().next() {
        Some(name) => Err(Stop::Fail(format!("the network does not use the weight {name}"))),
        None => Ok(network),
    }
}
