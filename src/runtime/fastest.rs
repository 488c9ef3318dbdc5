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

/// Kernels that stand for a Program's.
struct Timed {
    session: Session,
    /// Their places, and how much of the Program's work each stands for.
    kernels: Vec<(usize, f64)>,
    /// Seconds of each, the least so far.
    best: Vec<f64>,
}

impl Timed {
    fn seconds(&self) -> f64 {
        self.kernels.iter().zip(&self.best).map(|((_, share), best)| share * best).sum()
    }
}

/// The arithmetic of those that runs the most expensive matmul and the most expensive attention fastest, each with its Program,
/// whose matmuls and attentions they stand for; the first stands unless another is clearly faster.
///
/// # Errors
/// `OUT_OF_MEMORY`, `INTERNAL` without a choice.
pub async fn fastest(device: &Device, choices: &[(Compute, &Program)], stored: Stored<'_>) -> Result<Compute> {
    let kinds: [fn(&Kernel) -> bool; 2] = [|k| matches!(k, Kernel::Matmul(_)), |k| matches!(k, Kernel::Attention(_))];
    let mut all = Vec::with_capacity(choices.len());
    for &(compute, program) in choices {
        let of = |is: fn(&Kernel) -> bool| program.kernels.iter().filter(move |kernel| is(kernel));
        let largest = kinds.map(|is| of(is).max_by_key(|kernel| kernel.cost().multiply_adds).map(Kernel::writes));
        let work = kinds.map(|is| of(is).map(|kernel| kernel.cost().multiply_adds).sum::<u64>());
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
            isolate(&program, None, &|kernel| largest.contains(&Some(kernel.writes())), &|a, b| stored(a) == stored(b));
        cases.scratch_outputs();
        let weights = load_random(device, compute, &cases, stored, &mut TorchGenerator::new(0)).await?;
        let program = lower(&cases.plan, &weights.capabilities(), &[])?;
        let mut kernels = Vec::new();
        for (at, kernel) in program.kernels.iter().enumerate() {
            for (is, work) in kinds.iter().zip(work) {
                if is(kernel) {
                    kernels.push((at, work as f64 / kernel.cost().multiply_adds.max(1) as f64));
                }
            }
        }
        let best = vec![f64::INFINITY; kernels.len()];
        all.push(Timed { session: Session::new(&weights, program, None).await?, kernels, best });
    }
    let began = Instant::now();
    let mut stale = 0;
    while (stale < STALE_ROUNDS || clearly_faster(&all) > 0) && began.elapsed() < MOST {
        stale += 1;
        for Timed { session, kernels, best } in &mut all {
            for ((at, _), best) in kernels.iter().zip(best) {
                let before = Instant::now();
                session.run(*at..at + 1, None, u64::MAX)?;
                let took = before.elapsed().as_secs_f64();
                if took < 0.98 * *best {
                    (*best, stale) = (took, 0);
                }
            }
        }
    }
    let chosen = choices.get(clearly_faster(&all));
    chosen.map(|&(compute, _)| compute).ok_or_else(|| Error::internal("there is nothing to choose from"))
}

/// The fastest, if it beats the first one clearly; else the first.
fn clearly_faster(all: &[Timed]) -> usize {
    let limit = all.first().map_or(0.0, |first| CLEARLY * first.seconds());
    let others = all.iter().enumerate().filter(|(_, timed)| timed.seconds() < limit);
    others.min_by(|(_, a), (_, b)| a.seconds().total_cmp(&b.seconds())).map_or(0, |(i, _)| i)
}
