//! A small model of Stable Diffusion 3's parts through the pipeline: two text encoders, a denoiser of rectified flow, an autoencoder
//! with a shift; against what diffusers drew with the same weights (`tests/goldens/end_to_end_sd3`).
#![cfg(all(feature = "cli", feature = "gpu"))]

#[path = "avatar_package/pipeline.rs"]
#[allow(dead_code)] // another test uses the rest
mod model;

mod devices;

use flate2::read::GzDecoder;
use model::{draw, error, load, loaded, scratch, watched};
use safetensors::{Dtype as Stored, SafeTensors};
use serde_json::{Value, json};
use std::cell::Cell;
use std::io::Read;
use std::path::{Path, PathBuf};
use uvit_web::Code;
use uvit_web::model::Network;
use uvit_web::package::{
    Component, DECODER, DENOISER, ENCODER, Manifest, Storing, TEXT_ENCODER, TEXT_ENCODER_2, TOKENIZER, Task, Writer,
};
use uvit_web::pipeline::sampling::{Control, Stage, StepEvent};
use uvit_web::pipeline::{DeviceChoice, NamedTensor, Prompt, Request, Values};
use uvit_web::weights::Dtype;
use uvit_web::weights::checkpoint::Checkpoint;

const PIXELS: usize = 3 * 16 * 16;
const LATENTS: usize = 16 * 8 * 8;
/// Of a text: 77 tokens of two encoders and 5 of zeros, then one vector.
const EMBEDDING: usize = 82 * 44 + 32;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

/// The case's `config.json`.
fn config() -> Value {
    serde_json::from_slice(&std::fs::read(goldens().join("end_to_end_sd3/config.json")).unwrap()).unwrap()
}

/// All tensors of one of its files, as f32.
fn tensors(file: &str) -> Checkpoint {
    let bytes = std::fs::read(goldens().join("end_to_end_sd3").join(file)).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let read = |view: safetensors::tensor::TensorView<'_>| -> Vec<f32> {
        let data = view.data();
        match view.dtype() {
            Stored::F16 => data.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            Stored::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Stored::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            _ => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect(),
        }
    };
    stored.tensors().into_iter().map(|(name, view)| (name, (view.shape().to_vec(), read(view)))).collect()
}

/// An expected result, or an input.
fn expected(name: &str) -> Vec<f32> {
    tensors("io.safetensors").remove(name).unwrap_or_else(|| panic!("there is no {name}")).1
}

fn network(name: &str) -> Network {
    let params = &config()["params"];
    let number = |name: &str| params[name].as_u64().unwrap();
    let of = |part: &str, architecture: &str, more: Value| {
        let mut own = params[part].clone();
        more.as_object().unwrap().iter().for_each(|(name, value)| own[name] = value.clone());
        Network::of(architecture, &own).unwrap()
    };
    let text = |pad: &str| {
        let length = number("max_position_embeddings");
        json!({
            "vocab_size": number("vocab_size"), "max_position_embeddings": length, "hidden_state": -2, "pad_token": pad,
        })
    };
    match name {
        TEXT_ENCODER => of("text_encoder", "clip_text", text("<|endoftext|>")),
        TEXT_ENCODER_2 => of("text_encoder_2", "clip_text", text("!")),
        DECODER => of("vae", "autoencoder_kl_decoder", json!({})),
        ENCODER => of("vae", "autoencoder_kl_encoder", json!({})),
        _ => {
            let tokens = number("max_position_embeddings") + number("max_sequence_length");
            of("transformer", "mmdit", json!({ "context_tokens": tokens }))
        }
    }
}

/// Writes the package into a new folder, in f32.
fn write(out: &Path) -> Manifest {
    let config = config();
    let (weights, io) = (tensors("weights.safetensors"), tensors("io.safetensors"));
    let denoiser = network(DENOISER);
    let mut about = denoiser.params();
    let sampling = json!({
        "architecture": "mmdit", "name": "cubes", "prediction": "flow", "time_scale": 1000.0, "sampler": "euler", "steps": 5,
        "schedule": { "type": "rectified_flow", "shift": config["params"]["scheduler"]["shift"] }, "guidance_scale": 4.0,
    });
    sampling.as_object().unwrap().iter().for_each(|(name, value)| about[name] = value.clone());
    let mut manifest = uvit_web::package::describe(&about.to_string(), None, None).unwrap();
    manifest.task = Task::Text;
    let mut writer = Writer::new(out, &[], true).unwrap();
    for (name, part) in [
        (DENOISER, "transformer"),
        (TEXT_ENCODER, "text_encoder"),
        (TEXT_ENCODER_2, "text_encoder_2"),
        (DECODER, "vae"),
        (ENCODER, "vae"),
    ] {
        manifest.components.insert(name, Component::new(&network(name)));
        let mut own = Checkpoint::new();
        for (stored, tensor) in &weights {
            if let Some(stored) = stored.strip_prefix(part).and_then(|rest| rest.strip_prefix('.')) {
                own.insert(stored.to_owned(), tensor.clone());
            }
        }
        if let Some((shape, rows)) = own.get_mut("text_model.embeddings.token_embedding.weight") {
            // The table holds only the rows in use.
            let (ids, dim) = (&io[if name == TEXT_ENCODER { "token_ids" } else { "token_ids_2" }].1, shape[1]);
            let mut table = vec![0.0; 49408 * dim];
            for (id, row) in ids.iter().zip(rows.chunks(dim)) {
                table[*id as usize * dim..][..dim].copy_from_slice(row);
            }
            (*shape, *rows) = (vec![49408, dim], table);
        }
        writer.add(&mut manifest, name, &Storing::plain(Dtype::F32), &mut own).unwrap();
    }
    let mut merges = String::new();
    let file = std::fs::File::open(goldens().join("clip_tokenizer/bpe_simple_vocab_16e6.txt.gz")).unwrap();
    GzDecoder::new(file).read_to_string(&mut merges).unwrap();
    let merges: String = merges.split_inclusive('\n').take(1 + 49408 - 512 - 2).collect();
    writer.add_asset(&mut manifest, TOKENIZER, "txt", merges.as_bytes()).unwrap();
    writer.finish(&manifest).unwrap();
    manifest
}

fn texts(of: &Value) -> Option<Prompt> {
    let texts = of.as_array()?.iter().map(|text| text.as_str().unwrap().to_owned());
    Some(Prompt(texts.collect()))
}

fn request(prompt: &str) -> Request {
    Request { prompt: Some(prompt.into()), steps: Some(3), seed: 5, ..Request::default() }
}

/// The latents that were drawn last.
fn latents(pipeline: &uvit_web::pipeline::Pipeline) -> Vec<f32> {
    pollster::block_on(pipeline.denoiser().unwrap().latents()).unwrap()
}

#[test]
fn words_and_pictures_become_the_pictures_of_diffusers() {
    let out = scratch("sd3-pictures");
    write(&out);
    let config = config();
    for device in [DeviceChoice::Cpu, DeviceChoice::WebGpu] {
        let Some(mut pipeline) = loaded(&out, device) else { continue };
        for run in config["runs"].as_array().unwrap() {
            let of = |name: &str| format!("run_{}/{name}", run["id"]);
            let from_picture = run["pipeline"] == "img2img";
            let asked = Request {
                prompt: texts(&config["prompt"]),
                negative_prompt: texts(&config["negative_prompt"]),
                count: Some(2),
                steps: run["steps"].as_u64().map(|steps| steps as usize),
                guidance_scale: run["guidance_scale"].as_f64(),
                strength: run["strength"].as_f64(),
                start: Some(expected(if from_picture { "noise" } else { "latents" })),
                init_image: from_picture.then(|| expected(&of("init_latents"))),
                ..Request::default()
            };
            let (drawn, events) = watched(&mut pipeline, &asked);
            let errors = [(&latents(&pipeline), "final_f64"), (&drawn.values, "decoded_f64")]
                .map(|(values, name)| error(values, &expected(&of(name))));
            println!("{device:?} run {}: {:.1e} {:.1e}", run["id"], errors[0], errors[1]);
            assert!(errors.iter().all(|error| *error < 1e-4), "{device:?} run {}: {errors:?}", run["id"]);
            assert_eq!([drawn.channels, drawn.height, drawn.width], [3, 16, 16]);
            let walked = events.iter().filter(|event| event.0 == Stage::Sampling).count();
            assert_eq!(walked, expected(&of("sigmas")).len() - 1);
            let ignored = run["guidance_scale"] == 1.0;
            assert_eq!(drawn.warnings.len(), usize::from(ignored), "{:?}", drawn.warnings);
        }
    }
}

#[test]
fn a_text_is_read_by_both_encoders_and_only_once() {
    let out = scratch("sd3-texts");
    write(&out);
    let mut pipeline = load(&out, DeviceChoice::Cpu, true).unwrap();
    let red = || request("a red cube on a blue sphere");
    let (first, events) = watched(&mut pipeline, &red());
    assert_eq!(events[..2], [0, 1].map(|step| (Stage::Text, step, 1)));
    let (again, events) = watched(&mut pipeline, &red());
    assert!(again.values == first.values && again.timings.text_ms == 0.0);
    assert!(events.iter().all(|event| event.0 != Stage::Text));
    // The empty text is what guidance leads away from, and what each encoder reads counts.
    let values = |pipeline: &mut _, request: &Request| draw(pipeline, request).unwrap().values;
    let empty = values(&mut pipeline, &Request { negative_prompt: Some("".into()), ..red() });
    assert!(empty == first.values);
    let same = values(&mut pipeline, &Request { prompt_2: Some("a red cube on a blue sphere".into()), ..red() });
    assert!(same == first.values);
    let others = [
        Request { negative_prompt: Some("blurry, low quality".into()), ..red() },
        Request { prompt_2: Some("a fox in the snow!".into()), ..red() },
        Request { guidance_scale: Some(1.0), ..red() },
        request("a fox in the snow!"),
    ];
    for other in others {
        assert!(values(&mut pipeline, &other) != first.values, "{other:?}");
    }
    // A text for each image: each image is what it is alone.
    let all = ["a fox", "", "a red cube"].map(String::from).to_vec();
    let several =
        Request { prompt: Some(Prompt(all.clone())), negative_prompt: Some("low".into()), count: Some(3), ..red() };
    let drawn = draw(&mut pipeline, &several).unwrap();
    for (k, text) in all.iter().enumerate() {
        let alone = Request { negative_prompt: Some("low".into()), seed: 5 + k as u32, ..request(text) };
        assert!(error(drawn.image(k), draw(&mut pipeline, &alone).unwrap().image(0)) < 1e-4, "{k}");
    }
    // Where the second tokenizer cuts an earlier word, that is said, too.
    let long = draw(&mut pipeline, &request(&["cube ".repeat(70), "!!!!!!!! fox".into()].concat())).unwrap();
    assert_eq!(long.warnings.len(), 1, "{:?}", long.warnings);
    assert!(long.warnings[0].contains("is cut before \"!\": a text has 75 tokens"), "{:?}", long.warnings);

    // What the denoiser is given may be given.
    let given = Request {
        prompt: None,
        context: Some([expected("prompt_embeds")[..82 * 44].to_vec(), expected("pooled")[..32].to_vec()].concat()),
        guidance_scale: Some(1.0),
        ..red()
    };
    let read = values(&mut pipeline, &Request { guidance_scale: Some(1.0), ..red() });
    assert!(error(&values(&mut pipeline, &given), &read) < 1e-4);
    let short = draw(&mut pipeline, &Request { context: Some(vec![0.0; 82 * 44]), ..given }).unwrap_err();
    assert!(short.remedy.contains(&format!("Give {EMBEDDING}")), "{short}");

    let ids = vec![NamedTensor::new("input_ids", Values::Indices(vec![0; 77]))];
    let by_name = pollster::block_on(pipeline.forward(TEXT_ENCODER_2, ids, &|| false)).unwrap();
    let shapes: Vec<_> = by_name.iter().map(|t| (t.name.as_str(), t.shape.clone().unwrap())).collect();
    let want = [("hidden_state", 24), ("last_hidden_state", 24), ("text_embeds", 20)];
    assert_eq!(shapes, want.map(|(name, dim)| (name, vec![1, 77, dim])));
}

#[test]
fn a_picture_to_start_from_leaves_out_the_steps_that_it_is_worth() {
    let out = scratch("sd3-start");
    write(&out);
    let picture = expected("image")[..PIXELS].to_vec();
    for device in [DeviceChoice::Cpu, DeviceChoice::WebGpu] {
        let Some(mut pipeline) = loaded(&out, device) else { continue };
        let six = Request { steps: Some(6), ..request("a fox in the snow!") };
        let alone = draw(&mut pipeline, &six).unwrap();
        for (strength, steps) in [(0.2, 2), (0.6, 4), (1.0, 6)] {
            let from = Request { init_image: Some(picture.clone()), strength: Some(strength), ..six.clone() };
            let (drawn, events) = watched(&mut pipeline, &from);
            assert_eq!(events.iter().filter(|event| event.0 == Stage::Sampling).count(), steps, "{strength}");
            assert_eq!(events.iter().filter(|event| event.0 == Stage::Encoding).count(), 2);
            // The first level of a rectified flow is noise alone.
            assert_eq!(drawn.values == alone.values, strength == 1.0);
        }
        // The means that the encoder gives; what is kept altogether is the picture.
        let kept = Request { init_image: Some(picture.clone()), mask: Some(vec![0.0; 16 * 16]), ..six };
        assert!(draw(&mut pipeline, &kept).unwrap().values == picture);
        assert_eq!(latents(&pipeline).len(), LATENTS);
    }
}

#[test]
fn the_text_encoders_take_no_memory_from_what_follows() {
    let out = scratch("sd3-memory");
    let manifest = write(&out);
    let bytes = |name| manifest.variant(name, None).unwrap().bytes as usize;
    for device in [DeviceChoice::Cpu, DeviceChoice::WebGpu] {
        let Some(mut all) = loaded(&out, device) else { continue };
        let whole = draw(&mut all, &request("a fox")).unwrap();
        let of_all = all.device().memory();
        let mut staged = load(&out, device, false).unwrap();
        let before = staged.device().memory();
        let drawn = draw(&mut staged, &request("a fox")).unwrap();
        let after = staged.device().memory();
        assert!(drawn.values == whole.values);
        // What a GPU keeps (what it read back into, parameters) is little.
        assert!(after.bytes <= before.bytes + (64 << 10), "{before:?} {after:?}");
        let [first, second] = [TEXT_ENCODER, TEXT_ENCODER_2].map(bytes);
        println!("{device:?}: {} bytes at most, {} with all loaded", after.peak_bytes, of_all.peak_bytes);
        // Not even both encoders at once.
        assert!(after.peak_bytes > second && after.peak_bytes + first < of_all.peak_bytes + (1 << 20));
        assert!(after.peak_bytes < first + second, "{after:?}");
    }
}

#[test]
fn a_generation_stops_in_every_stage() {
    let out = scratch("sd3-abort");
    write(&out);
    let mut pipeline = load(&out, DeviceChoice::Cpu, true).unwrap();
    let from = Request { init_image: Some(expected("image")[..PIXELS].to_vec()), ..request("a fox") };
    for stage in [Stage::Text, Stage::Encoding, Stage::Sampling, Stage::Decoding] {
        let reached = Cell::new(false);
        let mut on_step = |event: StepEvent| reached.set(reached.get() || event.stage == stage);
        let mut control = Control { on_step: &mut on_step, stopped: &|| reached.get() };
        let error = pollster::block_on(pipeline.generate(&from, &mut control)).unwrap_err();
        assert_eq!(error.code, Code::Aborted, "{stage:?}");
    }
    // Nothing shows latents of 16 channels in colours: they are what a preview is.
    let mut shown = Vec::new();
    let mut on_step = |event: StepEvent| shown.extend(event.values.map(|values| values.shape));
    let mut control = Control { on_step: &mut on_step, stopped: &|| false };
    pollster::block_on(pipeline.generate(&Request { preview: true, ..from }, &mut control)).unwrap();
    assert_eq!(shown, [[16, 8, 8], [16, 8, 8], [16, 8, 8]]);
}

#[test]
fn what_does_not_fit_is_refused_by_name_and_a_third_encoder_is_not_read() {
    let out = scratch("sd3-refused");
    let manifest = write(&out);
    let sound: Value = serde_json::from_str(&manifest.to_json()).unwrap();
    let parse = |change: &dyn Fn(&mut Value)| {
        let mut json = sound.clone();
        change(&mut json["components"]);
        Manifest::parse(&json.to_string())
    };
    for (change, said) in [
        (
            &(|c: &mut Value| c["text_encoder"]["params"]["hidden_state"] = 0.into()) as &dyn Fn(&mut Value),
            "hidden_state",
        ),
        (&|c: &mut Value| c["text_encoder_2"]["params"]["projection_dim"] = 0.into(), "text_encoder_2"),
        (&|c: &mut Value| c["text_encoder_2"]["params"]["projection_dim"] = 24.into(), "36 elements"),
        (&|c: &mut Value| c["denoiser"]["params"]["joint_attention_dim"] = 36.into(), "[82, 36] and 32"),
        (&|c: &mut Value| c["denoiser"]["params"]["context_tokens"] = 76.into(), "77 tokens of 40 channels"),
        (&|c: &mut Value| c["text_encoder_2"]["params"]["max_position_embeddings"] = 76.into(), "another length"),
        (&|c: &mut Value| drop(c.as_object_mut().unwrap().remove("text_encoder_2")), "12 elements"),
    ] {
        let error = parse(change).unwrap_err();
        assert!(error.code == Code::BadManifest && error.cause.contains(said), "{error}");
    }
    let error = parse(&|c| c["text_encoder_2"]["params"]["pad_token"] = "?".into()).unwrap_err();
    assert!(error.cause.contains("pad_token is \"?\""), "{error}");

    // A T5 may lie in the folder: nothing of it is fetched, and the denoiser is given zeros for its tokens.
    let with_t5 = |c: &mut Value| {
        c["text_encoder_3"] = c["text_encoder"].clone();
        c["text_encoder_3"]["architecture"] = "t5_encoder".into();
        let shards = c["text_encoder_3"]["variants"][0]["shards"].as_array_mut().unwrap();
        shards.iter_mut().for_each(|shard| shard["file"] = "t5.safetensors".into());
    };
    let parsed = parse(&with_t5).unwrap();
    assert_eq!(parsed.unused().collect::<Vec<_>>(), ["text_encoder_3"]);
    let plain = draw(&mut load(&out, DeviceChoice::Cpu, true).unwrap(), &request("a fox")).unwrap();
    std::fs::write(out.join("manifest.json"), parsed.to_json()).unwrap();
    let mut pipeline = load(&out, DeviceChoice::Cpu, true).unwrap();
    assert!(draw(&mut pipeline, &request("a fox")).unwrap().values == plain.values);

    for (wrong, cause) in [
        (Request { prompt: None, ..request("") }, "no prompt is given"),
        (Request { prompt: None, prompt_2: Some("a fox".into()), ..request("") }, "prompt2 is given without a prompt"),
        (Request { prompt_2: Some(Prompt(vec![String::new(); 2])), ..request("") }, "prompt2 holds 2 texts for 1"),
    ] {
        let error = draw(&mut pipeline, &wrong).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.cause.contains(cause), "{error}");
    }
}
