//! The caption decoder: its forward whole and token by token over a cache, and the captions that searches find.

use crate::goldens_harness::devices::{judge_on_each, load_as, network_of};
use crate::goldens_harness::{Case, Checks, Report, Stop};
use serde_json::{Value, json};
use uvit_web::model::caption_decoder::Config;
use uvit_web::model::{Batch, Network, Recording};
use uvit_web::pipeline::{Component, NamedTensor, Values, search};
use uvit_web::plan::lower;
use uvit_web::runtime::{Device, Session, State};
use uvit_web::weights::Dtype;

/// Every run on every device.
pub fn judge(case: &Case, report: &mut Report) {
    for (dtype, tolerance) in [(Dtype::F32, "f32"), (Dtype::F16, "f16_weights")] {
        judge_on_each(report, &format!("forward {}", dtype.as_str()), |device, checks| {
            forward(case, device, dtype, case.tolerance(tolerance)?, checks)
        });
        judge_on_each(report, &format!("cached {}", dtype.as_str()), |device, checks| {
            cached(case, device, dtype, case.tolerance(tolerance)?, checks)
        });
    }
    judge_on_each(report, "greedy", |device, checks| {
        captions(case, device, 1, &|item| json!([case.config["greedy_tokens"][item]]), checks)
    });
    judge_on_each(report, "beams", |device, checks| {
        let beams = case.config["params"]["beam_size"].as_u64().unwrap_or(0) as usize;
        captions(case, device, beams, &|item| case.config["beam_tokens_best_first"][item].clone(), checks)
    });
}

fn floats(case: &Case, name: &str) -> Result<Vec<f32>, String> {
    Ok(case.tensor(name)?.values.iter().map(|v| *v as f32).collect())
}

fn load(case: &Case, device: &Device, dtype: Dtype) -> Result<(Component, Config), Stop> {
    let network = network_of(case)?;
    let Network::CaptionDecoder(config) = network.clone() else { return Err(Stop::Fail("another network".into())) };
    let (weights, left) = load_as(device, case, &network, dtype, &|name| name.to_owned())?;
    if left != ["encode_prefix.bias", "encode_prefix.weight"] {
        return Err(Stop::Fail(format!("the network does not use {left:?}")));
    }
    let stored = network.record(Batch::plain(1))?.plan.weights.iter().map(|_| (Dtype::F32, 0)).collect();
    Ok((Component::new(network, weights, stored, Vec::new()), config))
}

/// The prefix encoded, decoded and, with the tokens behind it, through the language model.
fn forward(case: &Case, device: &Device, dtype: Dtype, tolerance: f64, checks: &mut Checks) -> Result<(), Stop> {
    let (mut decoder, config) = load(case, device, dtype)?;
    let features = case.tensor("prefix_features")?;
    let items = features.shape[0];
    let params =
        json!({ "prefix_dim": features.shape[2], "hidden_dim": config.hidden_dim, "tokens": config.prefix_length });
    let network = Network::of("prefix_encoder", &params)?;
    let (weights, _) = load_as(device, case, &network, dtype, &|name| name.to_owned())?;
    let mut encoder = Component::new(network, weights, vec![(Dtype::F32, 0); 2], Vec::new());
    let given = [NamedTensor::new("prefix_features", Values::Floats(floats(case, "prefix_features")?))];
    let encoded = pollster::block_on(encoder.trace(items, &given, &["encoded_prefix"]))?.remove(0);

    let mut tokens = Vec::new();
    for row in case.tensor("tokens")?.rows() {
        tokens.extend(row.iter().map(|v| *v as u32));
        // Whatever comes behind them.
        tokens.resize(tokens.len().next_multiple_of(config.entry_length), 1);
    }
    let given = [
        NamedTensor::new("encoded_prefix", Values::Floats(encoded.clone())),
        NamedTensor::new("tokens", Values::Indices(tokens)),
    ];
    let mut traced = pollster::block_on(decoder.trace(items, &given, &["decoded_prefix", "logits"]))?;
    let want = case.tensor("logits")?;
    let logits = traced.pop().unwrap_or_default();
    let logits =
        logits.chunks(logits.len() / items).flat_map(|item| item[..want.values.len() / items].to_vec()).collect();
    for (name, got) in [("encoded_prefix", encoded), ("decoded_prefix", traced.remove(0)), ("logits", logits)] {
        let got: Vec<f64> = got.into_iter().map(f64::from).collect();
        let name = format!("{name}_f64");
        checks.close(&name, &got, case.tensor(&name)?, tolerance);
    }
    Ok(())
}

/// The same logits over a cache whose rows lie anyhow.
fn cached(case: &Case, device: &Device, dtype: Dtype, tolerance: f64, checks: &mut Checks) -> Result<(), Stop> {
    let (mut decoder, config) = load(case, device, dtype)?;
    let (encoded, tokens) = (floats(case, "encoded_prefix")?, case.tensor("tokens")?);
    let (items, length, prefix) = (tokens.shape[0], config.tokens(), config.prefix_length);
    // More than are needed, and no multiple of 5, with which they are shuffled.
    let rows = items * length + 3;
    let rows = if rows.is_multiple_of(5) { rows + 1 } else { rows };
    let row = |item: usize, position: usize| ((item * length + position) * 5 % rows) as u32;
    let want = case.tensor("logits_f64")?;
    let vocabulary = config.gpt2.vocab_size;
    let expected = |position: usize| -> Vec<f64> {
        want.rows().into_iter().flat_map(|item| item[position * vocabulary..][..vocabulary].to_vec()).collect()
    };
    pollster::block_on(async {
        let state = State::new(device, &config.caches(rows)).await?;
        let mut make = async |recording: Recording| -> Result<(Recording, Session), Stop> {
            let program = lower(&recording.plan, &decoder.weights().capabilities(), &[])?;
            Ok((recording, decoder.session(program, Some(&state)).await?))
        };
        let (of_prefix, mut prefill) = make(config.prefill(items, rows)?).await?;
        let (of_token, mut decode) = make(config.decode(items, rows)?).await?;
        let tensor = |recording: &Recording, name: &str| recording.port(name).expect("a port").tensor;
        prefill.write(tensor(&of_prefix, "encoded_prefix"), &encoded)?;
        let all = |of: &dyn Fn(usize) -> Vec<u32>| (0..items).flat_map(of).collect::<Vec<u32>>();
        let places = all(&|item| (0..prefix).map(|p| row(item, p)).collect());
        prefill.write_indices(tensor(&of_prefix, "places"), &places)?;
        prefill.forward(&|| false).await?;
        let mut logits = prefill.read(tensor(&of_prefix, "logits")).await?;
        for position in prefix - 1..prefix + tokens.shape[1] {
            if position >= prefix {
                let given = [
                    ("tokens", all(&|item| vec![tokens.rows()[item][position - prefix] as u32])),
                    ("positions", vec![position as u32; items]),
                    ("places", all(&|item| vec![row(item, position)])),
                    ("seen", all(&|item| (0..length).map(|p| row(item, p)).collect())),
                ];
                for (name, values) in given {
                    decode.write_indices(tensor(&of_token, name), &values)?;
                }
                decode.forward(&|| false).await?;
                logits = decode.read(tensor(&of_token, "logits")).await?;
            }
            let want = crate::goldens_harness::Tensor { shape: vec![items, vocabulary], values: expected(position) };
            let got: Vec<f64> = logits.iter().map(|&v| f64::from(v)).collect();
            checks.close(&format!("logits at {position}"), &got, &want, tolerance);
        }
        Ok(())
    })
}

/// The captions of all items at once, and of each alone.
fn captions(
    case: &Case,
    device: &Device,
    beams: usize,
    want: &dyn Fn(usize) -> Value,
    checks: &mut Checks,
) -> Result<(), Stop> {
    let (mut decoder, config) = load(case, device, Dtype::F32)?;
    let latents = floats(case, "encoded_prefix")?;
    let of_one = config.prefix_length * config.hidden_dim;
    for (first, latents) in [(0, &latents[..])].into_iter().chain(latents.chunks(of_one).enumerate()) {
        let mut told = Vec::new();
        let mut on_tokens = |from: usize, searches: &[uvit_web::pipeline::Search]| {
            told.push((from, searches[0].best().tokens.len()));
        };
        let found = pollster::block_on(search(&mut decoder, latents, beams, &mut on_tokens, &|| false))?;
        checks.that(found.len() == latents.len() / of_one, || format!("{} captions", found.len()));
        checks.that(!told.is_empty() && told[0] == (0, 1), || format!("told {told:?}"));
        for (i, search) in found.into_iter().enumerate() {
            let ranked: Vec<Vec<u32>> = search.ranked().into_iter().map(|beam| beam.tokens).collect();
            checks.that(json!(ranked) == want(first + i), || format!("item {}: {ranked:?}", first + i));
        }
    }
    Ok(())
}
