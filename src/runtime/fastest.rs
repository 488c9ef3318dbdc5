//! Which arithmetic a CPU runs a network fastest in: measured, since processors differ by several times in how they multiply
//! integers, and a browser does not say which one it is.

use super::self_test::{Stored, load_random};
use super::{Device, Session};
use crate::generator::TorchGenerator;
use crate::plan::{Compute, Kernel, Program, isolate, lower};
use crate::{Error, Result};
use web_time::{Duration, Instant};

/// Rows of the matmul that is timed: whole register tiles, and soon done.
const ROWS: usize = 48;
/// Rounds that bring nothing new before the measurement ends with the first one ahead.
const STALE_ROUNDS: usize = 6;
/// When it ends in any case. Another one is ahead only if it still is by then: browsers swap in faster code after a few calls,
/// for one kernel sooner than for another.
const MOST: Duration = Duration::from_millis(150);
/// What part of the first one's time another takes at least before it is preferred: times are noisy.
const CLEARLY: f64 = 0.97;

/// The arithmetic of those that runs the most expensive matmul and the most expensive attention fastest, each with its Program;
/// the first stands unless another is clearly faster.
///
/// # Errors
/// `OUT_OF_MEMORY`, `INTERNAL` without a choice.
pub async fn fastest(device: &Device, choices: &[(Compute, &Program)], stored: Stored<'_>) -> Result<Compute> {
    let mut sessions = Vec::with_capacity(choices.len());
    for &(compute, program) in choices {
        let largest = |is: fn(&Kernel) -> bool| {
            let kernels = program.kernels.iter().filter(|kernel| is(kernel));
            kernels.max_by_key(|kernel| kernel.cost().multiply_adds).map(Kernel::writes)
        };
        let timed = [largest(|k| matches!(k, Kernel::Matmul(_))), largest(|k| matches!(k, Kernel::Attention(_)))];
        let mut program = program.clone();
        for kernel in &mut program.kernels {
            if let Kernel::Matmul(m) = kernel {
                m.tokens = m.tokens.min(ROWS);
                m.rows = m.tokens;
            }
            if let Kernel::Attention(a) = kernel {
                a.batch = 1;
            }
        }
        let mut cases =
            isolate(&program, None, &|kernel| timed.contains(&Some(kernel.writes())), &|a, b| stored(a) == stored(b));
        cases.scratch_outputs();
        let weights = load_random(device, compute, &cases, stored, &mut TorchGenerator::new(0)).await?;
        let program = lower(&cases.plan, &weights.capabilities(), &[])?;
        sessions.push(Session::new(&weights, program, None).await?);
    }
    let began = Instant::now();
    let mut best = vec![Duration::MAX; sessions.len()];
    let mut stale = 0;
    while (stale < STALE_ROUNDS || clearly_faster(&best).is_some()) && began.elapsed() < MOST {
        stale += 1;
        for (session, best) in sessions.iter_mut().zip(&mut best) {
            let before = Instant::now();
            session.run(0..session.program().kernels.len(), None, u64::MAX)?;
            let took = before.elapsed();
            if took.as_secs_f64() < 0.98 * best.as_secs_f64() {
                (*best, stale) = (took, 0);
            }
        }
    }
    let chosen = choices.get(clearly_faster(&best).unwrap_or(0));
    chosen.map(|&(compute, _)| compute).ok_or_else(|| Error::internal("there is nothing to choose from"))
}

/// The fastest of those that beat the first one clearly.
fn clearly_faster(times: &[Duration]) -> Option<usize> {
    let first = times.first()?.as_secs_f64();
    let others = times.iter().enumerate().filter(|(_, time)| time.as_secs_f64() < CLEARLY * first);
    others.min_by_key(|(_, time)| **time).map(|(i, _)| i)
}
