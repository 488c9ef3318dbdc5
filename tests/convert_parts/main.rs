//! `uvit convert` of models of several networks: descriptions, the folders of other libraries, and what can be wrong with them.
#![cfg(feature = "cli")]

mod clips;
#[allow(dead_code)]
#[path = "../devices/mod.rs"]
mod devices;
mod folders;
mod layouts;
#[path = "../odd_model/mod.rs"]
mod odd_model;
#[path = "../checkpoints/pth.rs"]
#[allow(dead_code)]
mod pth;
mod published;
mod small;
mod transformers;

use odd_model::{fresh, listing};
use serde_json::{Value, json};
use small::*;
use std::process::Command;
use uvit_web::Code;
use uvit_web::model::Network;
use uvit_web::package::{DENOISER, Description, read_asset, read_manifest};
use uvit_web::text::Tokenizer;
use uvit_web::weights::Dtype;

#[test]
fn a_description_becomes_a_model_of_several_networks() {
    let folder = small("described");
    let out = folder.with_file_name("out");
    let words = convert(&folder.join("model.json"), &out, &["--dtype", "q8", "--calibration", "0"]);
    assert!(words.contains("text_encoder: f32 ") && words.contains("denoiser: q8 "), "{words}");
    let (manifest, _) = read_manifest(&out).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.task.as_str()), ("small", "text"));
    assert_eq!(manifest.licences.len(), 1);
    let dtypes = |name: &str| manifest.component(name).unwrap().variants.iter().map(|v| v.dtype).collect::<Vec<_>>();
    assert_eq!((dtypes(DENOISER), dtypes("text_encoder")), (vec![Dtype::Q8], vec![Dtype::F16, Dtype::F32]));
    let merges = read_asset(&out, &manifest, "tokenizer").unwrap();
    assert_eq!(merges, MERGES.as_bytes());
    assert_eq!(Tokenizer::new(&String::from_utf8(merges).unwrap()).unwrap().vocabulary(), 516);
    assert!(listing(&out).iter().any(|name| name.starts_with("tokenizer-") && name.ends_with(".txt")));
    // q, k and v lie below each other, as published.
    let published = random(&Network::of("clip_text", &text_encoder()).unwrap(), 2);
    let layer = "text_model.encoder.layers.0.self_attn";
    let parts = ["q", "k", "v"].map(|part| published[&format!("{layer}.{part}_proj.weight")].1.clone());
    let stored = stored(&out, "text_encoder", Dtype::F32);
    assert_eq!(stored[&format!("{layer}.{{q,k,v}}_proj.weight")], parts.concat());
    // The same again has the same names; another tool's file among them is seen.
    let before = listing(&out);
    convert(&folder.join("model.json"), &out, &["--dtype", "q8", "--calibration", "0", "--force"]);
    assert_eq!(listing(&out), before);
    // What it reads is not overwritten.
    let run = uvit(&[
        folder.join("model.json").to_str().unwrap(),
        "--dtype",
        "f32",
        "--force",
        "--out",
        folder.join("weights").to_str().unwrap(),
    ]);
    assert!(
        run.status.code() == Some(2) && said(&run).contains("uvit.safetensors lies in the folder"),
        "{}",
        said(&run)
    );
    // `uvit inspect` lists all of it.
    let inspected = Command::new(env!("CARGO_BIN_EXE_uvit")).arg("inspect").arg(&out).output().unwrap();
    for words in ["component denoiser: uvit_t2i", "component text_encoder: clip_text", "asset tokenizer: tokenizer-"] {
        assert!(said(&inspected).contains(words), "{}", said(&inspected));
    }
}

#[test]
fn a_dtype_is_asked_for_where_the_description_says_none() {
    let folder = small("dtypes");
    let run = |name: &str| {
        let model = folder.join(name);
        let out = folder.join(format!("{name}-out"));
        uvit(&[model.to_str().unwrap(), "--calibration", "0", "--out", out.to_str().unwrap()])
    };
    let refused = run("model.json");
    assert!(refused.status.code() == Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("nothing says which dtype denoiser is to be stored in"), "{}", said(&refused));
    let mut described = description();
    described["components"]["denoiser"]["dtype"] = json!("q8");
    std::fs::write(folder.join("all.json"), described.to_string()).unwrap();
    let converted = run("all.json");
    assert!(converted.status.success(), "{}", said(&converted));
    assert!(!stored(&folder.join("all.json-out"), "text_encoder", Dtype::F16).is_empty());
}

#[test]
fn what_is_wrong_with_a_description_is_said() {
    let folder = small("wrong");
    let sound = description();
    Description::read(&sound, &folder).unwrap().complete().unwrap();
    let with = |pointer: &str, value: Value| {
        let mut changed = sound.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        changed.pointer_mut(parent).unwrap()[key] = value;
        changed
    };
    let encoder = |field: &str, value: Value| with(&format!("/components/text_encoder/params/{field}"), value);
    let text = &sound["components"]["text_encoder"];
    std::fs::write(folder.join("short.txt"), "#version: 0.2\nc a\n").unwrap();
    std::fs::write(folder.join("nonsense.txt"), "#version: 0.2\nc a\nxyz\n").unwrap();
    std::fs::write(folder.join("binary.txt"), [0xff, 0xfe, 0, 1]).unwrap();
    for (described, code, words) in [
        (with("/task", json!("any")), Code::InvalidArgument, &["task \"any\" needs"][..]),
        (with("/task", json!("dream")), Code::InvalidArgument, &["dream", "this build knows class"]),
        (
            with("/components/vae", text.clone()),
            Code::InvalidArgument,
            &["no component \"vae\"", "text_encoder, text_encoder_2, text_projector, decoder"],
        ),
        (
            with("/components/decoder", text.clone()),
            Code::InvalidArgument,
            &["component decoder: clip_text is none", "autoencoder_kl_decoder"],
        ),
        (
            with("/components/denoiser", text.clone()),
            Code::UnsupportedModel,
            &["component denoiser: clip_text draws no pictures"],
        ),
        (
            with("/components/text_encoder/architecture", json!("t5")),
            Code::UnsupportedModel,
            &["component text_encoder", "\"t5\""],
        ),
        (
            with("/components/text_encoder/dtypes", json!("q8")),
            Code::InvalidArgument,
            &["no field \"dtypes\"", "weights, dtype"],
        ),
        (
            with("/components/text_encoder/dtype", json!(["q8", "q8"])),
            Code::InvalidArgument,
            &["dtype q8 is given twice"],
        ),
        (with("/components/text_encoder/dtype", json!("q5")), Code::InvalidArgument, &["no dtype \"q5\""]),
        (
            with("/components/text_encoder/checkpoint", json!(3)),
            Code::InvalidArgument,
            &["component text_encoder: checkpoint: 3 is no text"],
        ),
        (
            with("/components/text_encoder/params", Value::Null),
            Code::InvalidArgument,
            &["an architecture, but no params"],
        ),
        (
            with("/components/text_encoder", json!({ "checkpoint": "weights" })),
            Code::InvalidArgument,
            &["no config.json"],
        ),
        // Both numbers, and which of the two says which.
        (
            encoder("hidden_size", json!(32)),
            Code::InvalidArgument,
            &["component text_encoder gives [7, 32], and component denoiser takes [7, 24]"],
        ),
        (
            encoder("max_position_embeddings", json!(9)),
            Code::InvalidArgument,
            &["gives [9, 24]", "denoiser takes [7, 24]"],
        ),
        (encoder("vocab_size", json!(520)), Code::InvalidArgument, &["2 merges", "516 ids", "vocab_size 520"]),
        (
            with("/assets/tokenizer", json!("short.txt")),
            Code::InvalidArgument,
            &["1 merges", "515 ids", "vocab_size 516"],
        ),
        (with("/assets/tokenizer", json!("nonsense.txt")), Code::InvalidArgument, &["xyz"]),
        (with("/assets/tokenizer", json!("binary.txt")), Code::InvalidArgument, &["binary.txt: no text"]),
        (with("/assets/tokenizer", json!("nowhere.txt")), Code::InvalidArgument, &["nowhere.txt"]),
        (with("/assets", json!({})), Code::InvalidArgument, &["no asset tokenizer"]),
        (
            with("/assets/vocabulary", json!("merges.txt")),
            Code::InvalidArgument,
            &["no asset \"vocabulary\"", "tokenizer"],
        ),
        (with("/schedule", Value::Null), Code::InvalidArgument, &["schedule is missing"]),
        (with("/labels", json!([{ "index": 0, "name": "a" }])), Code::InvalidArgument, &["0 classes"]),
    ] {
        let error = error(&folder, &described);
        let text = error.to_string();
        assert!(error.code == code && words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
    }
    // A UniDiffuser's text latents are not its encoder's words.
    let mut joint = sound.clone();
    joint["components"]["denoiser"] = json!({
        "architecture": "unidiffuser", "checkpoint": "joint.safetensors",
        "params": { "img_size": 8, "in_chans": 4, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2,
            "qkv_bias": false, "mlp_time_embed": false, "text_dim": 12, "num_text_tokens": 7, "clip_img_dim": 20 }
    });
    let text = error(&folder, &joint).to_string();
    assert!(
        text.contains("text_encoder gives [7, 24], and component denoiser takes [7, 12]")
            && text.contains("text_projector"),
        "{text}"
    );
    let projector = |prefix: usize, hidden: usize| {
        let params = json!({ "prefix_dim": prefix, "hidden_dim": hidden, "tokens": 7 });
        let mut joint = joint.clone();
        joint["components"]["text_projector"] =
            json!({ "architecture": "prefix_encoder", "params": params, "checkpoint": "captions.safetensors" });
        joint
    };
    Description::read(&projector(24, 12), &folder).unwrap().complete().unwrap();
    let text = error(&folder, &projector(20, 12)).to_string();
    assert!(text.contains("text_encoder gives [7, 24], and component text_projector takes [7, 20]"), "{text}");
    let text = error(&folder, &projector(24, 16)).to_string();
    assert!(text.contains("text_projector gives [7, 16], and component denoiser takes [7, 12]"), "{text}");
    // A file that lacks a component's tensors, or has more of them, says whose.
    let out = folder.with_file_name("never");
    let run = |described: &Value| {
        std::fs::write(folder.join("model.json"), described.to_string()).unwrap();
        let run =
            uvit(&[folder.join("model.json").to_str().unwrap(), "--dtype", "f32", "--out", out.to_str().unwrap()]);
        assert!(run.status.code() == Some(3) && !out.exists(), "{}", said(&run));
        said(&run)
    };
    let words = run(&with("/components/text_encoder/checkpoint", json!("weights/uvit.safetensors")));
    assert!(words.contains("TENSOR_MISSING") && words.contains("component text_encoder: "), "{words}");
    let words = run(&encoder("num_hidden_layers", json!(2)));
    assert!(words.contains("TENSOR_MISSING") && words.contains("encoder.layers.1."), "{words}");
    let mut more = random(&Network::of("clip_text", &text_encoder()).unwrap(), 2);
    more.insert("text_model.encoder.layers.1.mlp.fc1.bias".into(), (vec![32], vec![0.0; 32]));
    save(&folder.join("more.safetensors"), &more);
    let words = run(&with("/components/text_encoder/checkpoint", json!("more.safetensors")));
    assert!(words.contains("TENSOR_UNEXPECTED") && words.contains("encoder.layers.1."), "{words}");
    let words = run(&with("/components/text_encoder/checkpoint", json!("nowhere.safetensors")));
    assert!(words.contains("error[IO]") && words.contains("nowhere.safetensors"), "{words}");
}

#[test]
fn every_network_is_calibrated_with_what_it_sees_and_the_report_says_what_it_costs() {
    let folder = fresh("calibrated");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.json"), joint(&folder).to_string()).unwrap();
    std::fs::write(folder.join("prompts.txt"), "cat\n\n  a cat\nact\ncat cat\ntac\n").unwrap();
    let prompts = folder.join("prompts.txt");
    let run = |out: &str, more: &[&str]| {
        let out = folder.with_file_name(out);
        let words = convert(&folder, &out, &[&["--dtype", "q8", "--dtype", "f32"], more].concat());
        let (manifest, _) = read_manifest(&out).unwrap();
        let shard = |name: &str| manifest.component(name).unwrap().variants[0].shards[0].sha256.clone();
        (words, ["text_encoder", "text_projector", DENOISER, "decoder"].map(shard))
    };
    let (words, everyday) = run("everyday", &["--calibration", "6", "--report"]);
    // Every output of every component in every form: what is stored as it is costs nothing, what is rounded a little.
    for (name, output) in [
        ("text_encoder", "last_hidden_state"),
        ("text_projector", "encoded_prefix"),
        (DENOISER, "img_out"),
        (DENOISER, "text_out"),
        ("decoder", "decoded"),
        ("encoder", "moments"),
    ] {
        for (dtype, most) in [("q8", 0.1), ("f32", 1e-5)] {
            let row = |line: &&str| {
                line.starts_with(&format!("| {name} | {dtype} |")) && line.contains(&format!("| {output} |"))
            };
            let line = words.lines().find(row).unwrap_or_else(|| panic!("{name} {dtype} {output}: {words}"));
            let error: f64 = line.split('|').nth(5).unwrap().trim().parse().unwrap();
            assert!(error <= most && (error > 0.0) == (dtype == "q8"), "{line}");
        }
    }
    assert!(words.lines().any(|line| line.starts_with("| decoder |") && line.ends_with(" dB |")), "{words}");
    let (words, plain) = run("plain", &["--calibration", "0"]);
    assert!(!words.contains("| output |"), "{words}");
    let (_, own) = run("own", &["--calibration", "6", "--prompts", prompts.to_str().unwrap()]);
    let differ = |a: &[String; 4], b: &[String; 4]| [0, 1, 2, 3].map(|i| a[i] != b[i]);
    assert_eq!(differ(&everyday, &plain), [true, true, true, false]);
    assert_eq!(differ(&everyday, &own), [true, true, true, false]);
}
