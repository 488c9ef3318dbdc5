//! `uvit bench --captions`: GPT-2 as UniDiffuser's caption decoder, with random weights, a token at a time, beside the time that it takes
//! to read its weights. One row a matrix has nothing to do but to read it.

use super::output::say;
use std::time::Instant;
use uvit_web::Result;
use uvit_web::model::Network;
use uvit_web::pipeline::{Component, search};
use uvit_web::plan::WeightUse;
use uvit_web::sampler::TorchGenerator;
use uvit_web::weights::Dtype;

/// The published one's sizes; the others are the defaults.
pub fn network() -> Result<Network> {
    let params = serde_json::json!({ "gpt2": {}, "prefix_length": 77, "hidden_dim": 64, "stop_token": 50256 });
    Network::of("caption_decoder", &params)
}

/// Bytes that are read to measure the bandwidth: far more than any cache holds.
const STREAMED: usize = 512 << 20;

/// Prints a row a number of beams.
pub fn run(component: &mut Component, dtype: Dtype, repeats: usize) -> Result<()> {
    let (device, compute) = (component.weights().device(), component.weights().compute());
    let plan = component.network().record(uvit_web::model::Batch::plain(1))?.plan;
    let matrices = plan.weights.iter().filter(|weight| weight.usage == WeightUse::Matrix);
    let read = matrices.filter(|weight| !weight.name.starts_with("decode_prefix"));
    let bytes: f64 = read.map(|weight| stored_bytes(dtype, weight.shape[0], weight.shape[1])).sum();
    say!("{}, {}, {}, {} threads", device.name(), dtype.as_str(), compute.as_str(), device.threads())?;
    let streamed: Vec<u64> = (0..STREAMED as u64 / 8).collect();
    let mut sum = 0u64;
    let mut bandwidth = || {
        let began = Instant::now();
        sum = sum.wrapping_add(std::hint::black_box(&streamed).iter().fold(0, |sum, v| sum ^ v));
        STREAMED as f64 / began.elapsed().as_secs_f64()
    };
    let latents = TorchGenerator::new(0).randn_f32(77 * 64);
    say!(
        "{:.1} MB of weights a token\n| beams | GB/s | reading, ms | a token, ms | ratio |\n|---|---|---|---|---|",
        bytes * 1e-6
    )?;
    for beams in [1, 5] {
        let mut rows = Vec::new();
        // In turn: what slows the machine down slows both. The first one makes everything ready.
        for repeat in 0..=repeats {
            let rate = bandwidth();
            let mut times = Vec::new();
            let mut last = Instant::now();
            let mut on_tokens = |_: usize, _: &[uvit_web::pipeline::Search]| {
                times.push(last.elapsed().as_secs_f64() * 1e3);
                last = Instant::now();
            };
            pollster::block_on(search(component, &latents, beams, &mut on_tokens, &|| false))?;
            // The first one is the prefix's.
            let token = median(times.split_off(1));
            if repeat > 0 {
                rows.push([rate * 1e-9, bytes * 1e3 / rate, token]);
            }
        }
        let of = |i: usize| median(rows.iter().map(|row| row[i]).collect());
        let ratio = median(rows.iter().map(|row| row[2] / row[1]).collect());
        say!("| {beams} | {:.1} | {:.2} | {:.2} | {ratio:.2} |", of(0), of(1), of(2))?;
    }
    std::hint::black_box(sum);
    Ok(())
}

/// Of a matrix: values, and scales where there are some.
fn stored_bytes(dtype: Dtype, rows: usize, columns: usize) -> f64 {
    let (values, scales) = match dtype {
        Dtype::F32 => (4.0, 0.0),
        Dtype::F16 => (2.0, 0.0),
        Dtype::Q8 => (1.0, 4.0),
        Dtype::Q4 => (0.5, columns as f64 / 32.0 * 2.0),
    };
    rows as f64 * (values * columns as f64 + scales)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
