//! `uvit`: one forward, judged at every block and at the end.

use crate::goldens_harness::executors::{judge_on_each, load_network};
use crate::goldens_harness::{Case, Report, Stop};
use uvit_web::model::Batch;
use uvit_web::plan::lower;

/// The forward on every executor.
pub fn judge(case: &Case, report: &mut Report) {
    judge_on_each(report, "forward", |executor, checks| {
        let network = load_network(executor, case)?;
        let x = case.tensor("x")?;
        let recording = network.record(Batch::plain(x.shape[0]))?;
        let expected: Vec<&str> = case.tensor_names().filter(|name| !["x", "timesteps", "y"].contains(name)).collect();
        let outputs: Vec<&str> =
            case.config["outputs"].as_array().into_iter().flatten().filter_map(|v| v.as_str()).collect();
        let program = lower(&recording.plan, &executor.capabilities(), &expected)?;
        pollster::block_on(executor.prepare(program))?;

        let f32s = |name: &str| -> Result<Vec<f32>, Stop> {
            Ok(case.tensor(name)?.values.iter().map(|v| *v as f32).collect())
        };
        executor.write(recording.latents, &f32s("x")?)?;
        executor.write_times(&case.tensor("timesteps")?.values)?;
        if let Some(label) = recording.label {
            let labels: Vec<u32> = case.tensor("y")?.values.iter().map(|v| *v as u32).collect();
            executor.write_indices(label, &labels)?;
        }
        executor.run(0..executor.program()?.kernels.len(), None, u64::MAX)?;

        for stored in expected {
            let name = stored.strip_suffix("_f64").unwrap_or(stored);
            if name == stored && case.tensor(&format!("{name}_f64")).is_ok() {
                continue; // the f64 run is the better judge
            }
            let tolerance = case.tolerance(match name {
                _ if outputs.contains(&name) => "outputs_f32",
                "time_embed" => "time_embed_f32",
                _ => "intermediates_f32",
            })?;
            let id = executor.program()?.find(name).ok_or_else(|| format!("the Program has no tensor {name}"))?;
            let got: Vec<f64> = pollster::block_on(executor.read(id))?.into_iter().map(f64::from).collect();
            checks.close(stored, &got, case.tensor(stored)?, tolerance);
        }
        Ok(())
    });
}
