//! `uvit block-cache`: in which steps a model may leave out its inner blocks.

use super::examples::{classes, walk};
use super::generate::Place;
use super::load::load_denoiser;
use super::output::{self, say};
use super::refusal;
use std::path::PathBuf;
use uvit_web::json::Write;
use uvit_web::model::Batch;
use uvit_web::package::{BlockCache, DENOISER, MANIFEST, read_manifest, write_manifest};
use uvit_web::plan::{Role, lower};
use uvit_web::sampler::TorchGenerator;
use uvit_web::{Code, Error, Result};

#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Arguments {
    /// The model: a manifest.json or its folder
    model: PathBuf,
    /// Blocks at either end that every step runs
    #[arg(long, default_value_t = 1, value_parser = refusal::count)]
    outer: usize,
    /// Steps of the model's default number that run all blocks (half of them if not given)
    #[arg(long, value_parser = refusal::count)]
    refresh: Option<usize>,
    /// Pictures to watch
    #[arg(long, default_value_t = 12, value_parser = refusal::some)]
    pictures: usize,
    #[command(flatten)]
    place: Place,
    /// Write the schedule into the manifest
    #[arg(long)]
    write: bool,
}

/// Pictures of one batch.
const BATCH: usize = 4;

pub fn run(a: &Arguments) -> Result<()> {
    let (mut manifest, folder) = read_manifest(&a.model)?;
    let network = manifest.network(DENOISER)?;
    let invalid = |cause: String, remedy: &str| Error::new(Code::InvalidArgument, cause, remedy);
    let Some([_, last]) = network.inner_blocks(a.outer) else {
        return Err(invalid(format!("--outer is {}", a.outer), "Give 1 or more, and fewer than half of the blocks"));
    };
    let settings = manifest.sampling.settings();
    let refresh = a.refresh.unwrap_or(settings.steps.div_ceil(2));
    if !(1..=settings.steps).contains(&refresh) {
        return Err(invalid(format!("--refresh is {refresh}"), "Give 1 to the model's number of steps"));
    }
    if a.write {
        output::check(&if a.model.is_dir() { folder.join(MANIFEST) } else { a.model.clone() })?;
    }
    let mut component = load_denoiser(&a.model, a.place.options())?.into_component()?;
    let mut recording = network.record(Batch::plain(BATCH))?;
    let feature = recording.plan.find(&last).ok_or_else(|| Error::internal(format!("no tensor is called {last}")))?;
    recording.plan.tensors[feature.index()].role = Role::Output;
    let program = lower(&recording.plan, &component.weights().capabilities(), &[])?;
    let mut session = pollster::block_on(component.session(program, None))?;

    // How far what the inner blocks make at step j lies from what they made at step i.
    let mut distances = vec![vec![0.0; settings.steps]; settings.steps];
    let count = network.classes().max(1);
    let progress = indicatif::ProgressBar::new(a.pictures as u64).with_message("watching");
    for first in (0..a.pictures).step_by(BATCH) {
        let labels = (first..first + BATCH).map(|i| (i * 7 % count) as u32).collect();
        let noise = TorchGenerator::new(700_000 + first as u64);
        let mut seen: Vec<Vec<f32>> = Vec::new();
        walk(&mut session, &recording, &settings, classes(&recording, labels), noise, &mut |session, _| {
            let now = pollster::block_on(session.read(feature))?;
            for (i, before) in seen.iter().enumerate() {
                distances[i][seen.len()] += distance(before, &now);
            }
            seen.push(now);
            Ok(())
        })?;
        progress.inc(BATCH as u64);
    }
    progress.finish_and_clear();
    let cache = BlockCache { outer: a.outer, steps: settings.steps, refresh: schedule(&distances, refresh) };
    if a.write {
        manifest.sampling.cache = Some(cache.clone());
        write_manifest(&a.model, &manifest)?;
    }
    say!("{}", cache.write())
}

/// ||a - b|| over ||b||.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let off: f64 = a.iter().zip(b).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let size: f64 = b.iter().map(|&b| square(b.into())).sum();
    (off / size.max(1e-30)).sqrt()
}

/// The `refreshes` steps, the first among them, from which the others are least far in all.
fn schedule(distances: &[Vec<f64>], refreshes: usize) -> Vec<usize> {
    let steps = distances.len();
    // From a refresh at `from` until the next one at `to`.
    let stale = |from: usize, to: usize| -> f64 { distances[from][from + 1..to].iter().sum() };
    // best[n][from]: what the steps from `from` on cost with n more refreshes, and where the next one is.
    let mut best: Vec<Vec<(f64, usize)>> = vec![(0..steps).map(|from| (stale(from, steps), steps)).collect()];
    for n in 1..refreshes {
        let rest = &best[n - 1];
        let with = |from: usize| {
            let next = (from + 1..steps).map(|to| (stale(from, to) + rest[to].0, to));
            next.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, steps))
        };
        best.push((0..steps).map(with).collect());
    }
    let mut chosen = vec![0];
    for row in best.iter().rev() {
        let next = row[*chosen.last().unwrap_or(&0)].1;
        if next < steps {
            chosen.push(next);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::schedule;

    #[test]
    fn the_best_steps_are_chosen() {
        // The feature moves by 1 a step, but by 10 into step 3.
        let at: [f64; 6] = [0.0, 1.0, 2.0, 12.0, 13.0, 14.0];
        let distances: Vec<Vec<f64>> = at.iter().map(|a| at.iter().map(|b| (a - b).abs()).collect()).collect();
        assert_eq!(schedule(&distances, 1), [0]);
        assert_eq!(schedule(&distances, 2), [0, 3]);
        assert_eq!(schedule(&distances, 6), [0, 1, 2, 3, 4, 5]);
    }
}
