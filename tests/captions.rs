//! Captions: those of the avatars model against PyTorch's, and searches over a cache against one without, which is written as the
//! published one reads.
#![cfg(all(feature = "cli", feature = "gpu"))]

#[allow(dead_code)]
mod avatar_package;
mod devices;
#[allow(dead_code)] // only one network is needed here
mod networks;

use avatar_package::pipeline::error;
use avatar_package::reference::{Reference, of};
use serde_json::{Value, json};
use std::path::Path;
use uvit_web::Code;
use uvit_web::model::caption_decoder::Config;
use uvit_web::model::{Batch, Network};
use uvit_web::pipeline::{Component, NamedTensor, Search, Values, search};
use uvit_web::plan::{Compute, WeightUse};
use uvit_web::runtime::{Device, Loading};
use uvit_web::sampler::TorchGenerator;
use uvit_web::simd::Threads;
use uvit_web::text::{Spelling, Symbols};
use uvit_web::weights::Dtype;
use uvit_web::weights::checkpoint::{self, Source, Weights};
use uvit_web::weights::quantize::quantize;

fn all_devices() -> Vec<Device> {
    let gpu = devices::found(pollster::block_on(Device::gpu()));
    [Some(Device::reference()), Some(Device::cpu(Threads::all())), gpu].into_iter().flatten().collect()
}

/// A caption decoder whose weights a checkpoint has.
fn load(device: &Device, path: &Path, params: &Value, dtype: Dtype, compute: Compute) -> Component {
    let network = Network::of("caption_decoder", params).unwrap();
    let mut found = checkpoint::find_part(path, &network, &Weights::Auto).unwrap();
    let plan = network.record(Batch::plain(1)).unwrap().plan;
    let mut loading = Loading::new(device, compute).unwrap();
    let mut stored = Vec::new();
    for (id, weight, form) in plan.loads(compute) {
        let dtype = if weight.usage == WeightUse::Matrix { dtype } else { Dtype::F32 };
        stored.push((dtype, 0));
        let tensor = quantize(&weight.name, &weight.shape, &found.weight(weight).unwrap(), dtype, 0);
        pollster::block_on(loading.load(id, weight, form, &tensor)).unwrap();
    }
    Component::new(network, pollster::block_on(loading.finish()).unwrap(), stored, Vec::new())
}

fn config(component: &Component) -> Config {
    let Network::CaptionDecoder(config) = component.network() else { panic!("another network") };
    config.clone()
}

fn found(component: &mut Component, latents: &[f32], beams: usize) -> Vec<Search> {
    pollster::block_on(search(component, latents, beams, &mut |_, _| {}, &|| false)).unwrap()
}

fn ranked(search: Search) -> Vec<Vec<u32>> {
    search.ranked().into_iter().map(|beam| beam.tokens).collect()
}

/// The reference's captions: text latents, and what the json says of them.
fn runs(reference: &Reference) -> Vec<(String, Vec<f32>, Value)> {
    let all = reference.runs.iter().filter(|run| run["beam_caption"].is_string());
    all.map(|run| (run["id"].as_str().unwrap().to_owned(), reference.floats(&of(run, "final_text")), run.clone()))
        .collect()
}

#[test]
fn latents_become_the_captions_of_pytorch() {
    let Some((folder, about, reference)) = avatar_package::found() else { return };
    let computed = Reference::read().unwrap();
    let part = &about["parts"]["caption_decoder"];
    let path = folder.join(part["file"].as_str().unwrap());
    let symbols = Symbols::new(&std::fs::read_to_string(folder.join("merges.txt")).unwrap(), Spelling::Clip).unwrap();
    let floats = |name: &str| computed.floats(&format!("caption_decoder/{name}"));
    let given = computed.words("caption_decoder/tokens").into_iter().map(u32::from_le_bytes).collect::<Vec<_>>();
    let runs = runs(&computed);
    assert!(runs.len() > 9);
    for device in all_devices() {
        let mut decoder = load(&device, &path, &part["params"], Dtype::F32, Compute::F32);
        let (config, told) = (config(&decoder), &reference["caption_decoder"]);
        let mut tokens = Vec::new();
        for six in given.chunks(6) {
            tokens.extend(six);
            tokens.resize(tokens.len().next_multiple_of(config.entry_length), 0);
        }
        let inputs = [
            NamedTensor::new("encoded_prefix", Values::Floats(floats("encoded_prefix"))),
            NamedTensor::new("tokens", Values::Indices(tokens)),
        ];
        let names = ["decoded_prefix", "h.0", "h.1", "h.2", "logits"];
        let traced = pollster::block_on(decoder.trace(2, &inputs, &names)).unwrap();
        for (name, got) in names.iter().zip(traced) {
            let want = floats(name);
            let got: Vec<f32> = got.chunks(got.len() / 2).flat_map(|item| &item[..want.len() / 2]).copied().collect();
            let error = error(&got, &want);
            // Six of them are exactly what the first item's tokens are like.
            assert!(error < 2e-5, "{}: {name} is off by {error:.1e}", device.name());
        }
        // Both texts together, and all runs together.
        let greedy = found(&mut decoder, &floats("encoded_prefix"), 1);
        for (i, search) in greedy.into_iter().enumerate() {
            assert_eq!(symbols.text(&search.best().tokens), told["greedy_captions"][i].as_str().unwrap());
            assert_eq!(json!(search.best().tokens), told["greedy_tokens"][i]);
        }
        for (i, search) in found(&mut decoder, &floats("encoded_prefix"), 5).into_iter().enumerate() {
            assert_eq!(json!(ranked(search)), told["beam_tokens_best_first"][i]);
        }
        let latents: Vec<f32> = runs.iter().flat_map(|(_, latents, _)| latents.clone()).collect();
        for (beams, tokens, caption) in
            [(1, "greedy_tokens", "greedy_caption"), (5, "beam_tokens_best_first", "beam_caption")]
        {
            let all = found(&mut decoder, &latents, beams);
            for (search, (id, latents, run)) in all.into_iter().zip(&runs) {
                let what = format!("{}: {id} in {beams} beams", device.name());
                let alone = found(&mut decoder, latents, beams).remove(0);
                assert_eq!(ranked(search.clone()), ranked(alone), "{what}, alone");
                assert!(search.best().stopped, "{what}");
                assert_eq!(symbols.text(&search.best().tokens), run[caption].as_str().unwrap(), "{what}");
                let got = ranked(search);
                assert_eq!(if beams == 1 { json!(got[0]) } else { json!(got) }, run[tokens], "{what}");
            }
        }
    }
}

#[test]
fn coarser_decoders_tell_the_same() {
    let Some((folder, about, _)) = avatar_package::found() else { return };
    let computed = Reference::read().unwrap();
    let part = &about["parts"]["caption_decoder"];
    let path = folder.join(part["file"].as_str().unwrap());
    let runs = runs(&computed);
    let cpu = Device::cpu(Threads::all());
    for (dtype, compute, least) in [
        (Dtype::F16, Compute::F32, 0.95),
        (Dtype::Q8, Compute::F32, 0.95),
        (Dtype::Q8, Compute::Quality, 0.95),
        (Dtype::Q8, Compute::Fast, 0.95),
    ] {
        let mut decoder = load(&cpu, &path, &part["params"], dtype, compute);
        let (mut same, mut all) = (0, 0);
        for (beams, tokens) in [(1, "greedy_tokens"), (5, "beam_tokens_best_first")] {
            for (_, latents, run) in &runs {
                let best = found(&mut decoder, latents, beams)[0].best().tokens.clone();
                let want = if beams == 1 { &run[tokens] } else { &run[tokens][0] };
                (same, all) = (same + usize::from(json!(best) == *want), all + 1);
            }
        }
        println!("{} in {}: {same} of {all} captions are the same", dtype.as_str(), compute.as_str());
        assert!(f64::from(same as u32) >= least * f64::from(all), "{dtype:?} in {compute:?}: {same} of {all}");
    }
}

/// The published search, word for word, over forwards without a cache.
fn plain_search(component: &mut Component, latents: &[f32], width: usize) -> Vec<Vec<u32>> {
    let config = config(component);
    let (prefix, entry, vocabulary) = (config.prefix_length, config.entry_length, config.gpt2.vocab_size);
    let mut log_softmax = |tokens: &[u32]| -> Vec<f64> {
        let mut padded = tokens.to_vec();
        padded.resize(entry, 0);
        let given = [
            NamedTensor::new("encoded_prefix", Values::Floats(latents.to_vec())),
            NamedTensor::new("tokens", Values::Indices(padded)),
        ];
        let Values::Floats(logits) = pollster::block_on(component.forward(&given, &|| false)).unwrap().remove(0).values
        else {
            panic!("floats come out")
        };
        let row = &logits[(prefix + tokens.len() - 1) * vocabulary..][..vocabulary];
        let sum: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
        row.iter().map(|&v| f64::from(v) - sum.ln()).collect()
    };
    let mut beams: Vec<(Vec<u32>, f64, f64, bool)> = vec![(Vec::new(), 0.0, 0.0, false)];
    for _ in 0..entry {
        if beams.iter().all(|beam| beam.3) {
            break;
        }
        let mut averages = Vec::new();
        for (tokens, score, length, stopped) in &mut beams {
            let mut logs = if *stopped { vec![f64::NEG_INFINITY; vocabulary] } else { log_softmax(tokens) };
            match stopped {
                true => logs[0] = 0.0,
                false => *length += 1.0,
            }
            averages.extend(logs.into_iter().map(|log| (*score + log) / *length));
        }
        let mut order: Vec<usize> = (0..averages.len()).collect();
        order.sort_by(|&a, &b| averages[b].total_cmp(&averages[a]));
        let next = |&i: &usize| {
            let (tokens, _, length, stopped) = &beams[i / vocabulary];
            let token = (i % vocabulary) as u32;
            let tokens = [tokens.as_slice(), &[token]].concat();
            (tokens, averages[i] * length, *length, *stopped || token as usize == config.stop_token)
        };
        beams = order[..width].iter().map(next).collect();
    }
    beams.sort_by(|a, b| (b.1 / b.2).total_cmp(&(a.1 / a.2)));
    beams.into_iter().map(|(tokens, _, length, _)| tokens[..length as usize].to_vec()).collect()
}

#[test]
fn searches_over_a_cache_find_what_those_without_find() {
    let mut ended = [0, 0];
    for (prefix_length, entry_length, stop_token, captions) in [(7, 11, 15, 2), (1, 9, 36, 3), (4, 1, 15, 1)] {
        let network =
            Network::CaptionDecoder(Config { prefix_length, entry_length, stop_token, ..networks::captions_config() });
        for device in all_devices() {
            let mut component = pollster::block_on(networks::load(&device, Compute::F32, network.clone())).unwrap();
            let of_one = prefix_length * 12;
            let latents: Vec<f32> = TorchGenerator::new(7).randn_f32(captions * of_one);
            for beams in [1, 2, 7] {
                let all = found(&mut component, &latents, beams);
                assert_eq!(all.len(), captions);
                for (search, latents) in all.into_iter().zip(latents.chunks(of_one)) {
                    let want = plain_search(&mut component, latents, beams);
                    search.beams.iter().for_each(|beam| ended[usize::from(beam.stopped)] += 1);
                    assert!(search.beams.iter().all(|beam| beam.stopped || beam.tokens.len() == entry_length));
                    assert_eq!(ranked(search), want, "{}: {prefix_length} in {beams} beams", device.name());
                }
            }
        }
    }
    assert!(ended[0] > 9 && ended[1] > 9, "{ended:?}");
}

#[test]
fn more_captions_than_are_told_at_once_come_in_groups() {
    let device = Device::cpu(Threads::all());
    let mut component =
        pollster::block_on(networks::load(&device, Compute::F32, networks::captions_network())).unwrap();
    let latents = TorchGenerator::new(3).randn_f32(13 * 84);
    let mut told = Vec::new();
    let mut on_tokens = |first: usize, searches: &[Search]| told.push((first, searches.len()));
    let all = pollster::block_on(search(&mut component, &latents, 7, &mut on_tokens, &|| false)).unwrap();
    told.dedup();
    assert_eq!(told, [(0, 4), (4, 4), (8, 4), (12, 1)]);
    for (search, latents) in all.iter().zip(latents.chunks(84)) {
        let alone = found(&mut component, latents, 7).remove(0);
        assert_eq!(ranked(alone), ranked(search.clone()));
    }
    // What is kept between calls is for one number of captions and beams, and goes with the component.
    let made = device.memory().bytes;
    found(&mut component, &latents[..84], 7);
    assert_eq!(device.memory().bytes, made);
    component.release();
    assert!(device.memory().bytes < made);
    drop(component);
    assert_eq!(device.memory().bytes, 0);
}

#[test]
fn what_cannot_be_told_is_refused_by_its_reason() {
    let device = Device::cpu(Threads::all());
    let mut component =
        pollster::block_on(networks::load(&device, Compute::F32, networks::captions_network())).unwrap();
    let mut latents = TorchGenerator::new(3).randn_f32(2 * 84);
    let mut tell = |latents: &[f32], beams: usize, stopped: &dyn Fn() -> bool| {
        let found = pollster::block_on(search(&mut component, latents, beams, &mut |_, _| {}, stopped));
        found.map_err(|e| (e.code, e.cause.clone()))
    };
    for beams in [0, 33, usize::MAX] {
        assert_eq!(
            tell(&latents, beams, &|| false),
            Err((Code::InvalidArgument, format!("a search of {beams} beams")))
        );
    }
    let asked = std::cell::Cell::new(0);
    let third = || {
        asked.set(asked.get() + 1);
        asked.get() == 3
    };
    assert_eq!(tell(&latents, 2, &third).map_err(|e| e.0), Err(Code::Aborted));
    assert_eq!(asked.get(), 3);
    let whole = tell(&latents, 2, &|| false).unwrap();
    for bad in [f32::NAN, f32::INFINITY] {
        latents[100] = bad;
        let cause = "the text latents of caption 2 are not finite".to_owned();
        assert_eq!(tell(&latents, 2, &|| false), Err((Code::NotFinite, cause)));
    }
    // So large that the logits overflow.
    latents[100] = f32::MAX;
    let (code, cause) = tell(&latents, 2, &|| false).unwrap_err();
    assert!(code == Code::NotFinite && cause.contains("caption 2"), "{cause}");
    latents[100] = 0.0;
    let again = tell(&latents, 2, &|| false).unwrap();
    assert_eq!(ranked(again[0].clone()), ranked(whole[0].clone()));
    assert_eq!(tell(&[], 2, &|| false), Ok(Vec::new()));
}
