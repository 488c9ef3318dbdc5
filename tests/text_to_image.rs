//! Pictures of a text, drawn by a package of several components, against what PyTorch drew from the same seeds and words.
#![cfg(all(feature = "cli", feature = "gpu"))]

mod avatar_package;
mod devices;

use avatar_package::pipeline::{draw, error, load, load_in, loaded, request, scratch, watched};
use avatar_package::reference::{Reference, of};
use std::path::Path;
use uvit_web::Code;
use uvit_web::package::read_manifest;
use uvit_web::pipeline::sampling::{Control, Stage, StepEvent};
use uvit_web::pipeline::{DeviceChoice, LoadOptions, Loader, Mode, NamedTensor, Prompt, Request, Values};
use uvit_web::plan::Compute;
use uvit_web::weights::StoredFile;

fn request_of(run: &serde_json::Value) -> Request {
    Request {
        prompt: Some(run["prompt"].as_str().unwrap().into()),
        negative_prompt: (run["t2i_cfg_mode"] == "empty_token").then(|| "".into()),
        steps: run["steps"].as_u64().map(|steps| steps as usize),
        guidance_scale: run["scale"].as_f64().map(|w| w + 1.0),
        seed: run["seed"].as_u64().unwrap() as u32,
        ..Request::default()
    }
}

#[test]
fn words_become_the_pictures_of_pytorch() {
    let Some(reference) = Reference::read() else { return };
    let out = scratch("avatars-pictures");
    avatar_package::write(&out, Some(1.0));
    for device in [DeviceChoice::Cpu, DeviceChoice::WebGpu] {
        let Some(mut pipeline) = loaded(&out, device) else { continue };
        for run in reference.runs.iter().filter(|run| run["mode"] == "t2i") {
            let id = run["id"].as_str().unwrap();
            let drawn = draw(&mut pipeline, &request_of(run)).unwrap();
            let latents = pollster::block_on(pipeline.denoiser().unwrap().latents()).unwrap();
            let (z, clip_img) = latents.split_at(latents.len() - 64);
            let errors = [(z, "final_z"), (clip_img, "final_clip_img"), (&drawn.values, "decoded")]
                .map(|(values, name)| error(values, &reference.floats(&of(run, name))));
            println!("{device:?} {id}: {:.1e} {:.1e} {:.1e}", errors[0], errors[1], errors[2]);
            assert!(errors.iter().all(|error| *error < 1e-4), "{device:?} {id}: {errors:?}");
            assert_eq!([drawn.channels, drawn.height, drawn.width], [3, 64, 64]);
            // Planes of bytes against rows of RGBA.
            let (rgba, planes) = (drawn.rgba(0), reference.tensor(&of(run, "picture_u8")).unwrap().1);
            let apart = |i: usize| rgba[i % 4096 * 4 + i / 4096].abs_diff(planes[i]);
            let most = (0..planes.len()).map(apart).max();
            assert!(most <= Some(1), "{device:?} {id}: {most:?}");
        }
    }
}

#[test]
fn stages_are_told_and_a_text_is_encoded_once() {
    if avatar_package::found().is_none() {
        return;
    }
    let out = scratch("avatars-stages");
    avatar_package::write(&out, Some(1.0));
    let mut pipeline = load(&out, DeviceChoice::Cpu, true).unwrap();
    let mut steps = [1, 2, 3].map(|step| (Stage::Sampling, step, 3)).to_vec();
    steps.extend([0, 1].map(|step| (Stage::Decoding, step, 1)));
    let text = [0, 1].map(|step| (Stage::Text, step, 1));
    let (first, events) = watched(&mut pipeline, &request("a sad person with a black top hat"));
    assert_eq!(events, [&text[..], &steps].concat());
    assert!(first.timings.text_ms > 0.0 && first.timings.decode_ms > 0.0 && first.warnings.is_empty());
    assert_eq!(first.timings.step_ms.len(), 3);
    let (again, events) = watched(&mut pipeline, &request("a sad person with a black top hat"));
    assert_eq!((again.values == first.values, again.timings.text_ms, events), (true, 0.0, steps.clone()));
    let (other, events) = watched(&mut pipeline, &request("a smiling person"));
    assert_eq!((other.values == first.values, events.len()), (false, 7));

    // A text for each image, with a negative one for all: each image is what it is alone.
    let texts = ["a sad person", "", "a sad person"].map(String::from).to_vec();
    let several = Request {
        prompt: Some(Prompt(texts.clone())),
        negative_prompt: Some("glasses".into()),
        count: Some(3),
        ..request("")
    };
    let drawn = draw(&mut pipeline, &several).unwrap();
    for (k, text) in texts.iter().enumerate() {
        let alone = Request { negative_prompt: Some("glasses".into()), seed: 5 + k as u32, ..request(text) };
        let alone = draw(&mut pipeline, &alone).unwrap();
        assert!(error(drawn.image(k), alone.image(0)) < 1e-4, "{k}");
    }
    let long = draw(&mut pipeline, &request(&"a person with a hat and ".repeat(9))).unwrap();
    assert_eq!(long.warnings.len(), 1);
    assert!(long.warnings[0].contains("is cut before \"a\": a text has 30 tokens"), "{:?}", long.warnings);
}

#[test]
fn a_component_that_does_not_stay_takes_no_memory_from_the_next() {
    if avatar_package::found().is_none() {
        return;
    }
    let out = scratch("avatars-memory");
    let manifest = avatar_package::write(&out, Some(1.0));
    let bytes = |name| manifest.variant(name, None).unwrap().bytes as usize;
    for device in [DeviceChoice::Cpu, DeviceChoice::WebGpu] {
        let Some(mut all) = loaded(&out, device) else { continue };
        let whole = draw(&mut all, &request("a sad person")).unwrap();
        let of_all = all.device().memory();
        let mut staged = load(&out, device, false).unwrap();
        let before = staged.device().memory();
        let drawn = draw(&mut staged, &request("a sad person")).unwrap();
        let after = staged.device().memory();
        assert!(drawn.values == whole.values);
        // What a GPU keeps (what it read back into, parameters) is little.
        assert!(after.bytes <= before.bytes + (64 << 10), "{before:?} {after:?}");
        let [text, denoiser, decoder] = ["text_encoder", "denoiser", "decoder"].map(bytes);
        println!("{device:?}: {} bytes at most, {} with all loaded", after.peak_bytes, of_all.peak_bytes);
        assert!(after.peak_bytes + text + decoder < of_all.peak_bytes + (1 << 20), "{after:?} {of_all:?}");
        assert!(after.peak_bytes > denoiser);
        // A generation that is stopped leaves nothing behind, either.
        let asked = std::cell::Cell::new(0);
        let stopped = || {
            asked.set(asked.get() + 1);
            asked.get() > 3
        };
        let mut control = Control { on_step: &mut |_| {}, stopped: &stopped };
        let error = pollster::block_on(staged.generate(&request("another"), &mut control)).unwrap_err();
        assert_eq!(error.code, Code::Aborted);
        assert!(staged.device().memory().bytes <= after.bytes);
    }
}

#[test]
fn a_component_is_called_by_its_name() {
    if avatar_package::found().is_none() {
        return;
    }
    let (latents, pictures) = (scratch("by_name_latents"), scratch("by_name_pictures"));
    avatar_package::write(&latents, None);
    avatar_package::write(&pictures, Some(1.0));
    let mut without = load(&latents, DeviceChoice::Cpu, true).unwrap();
    let mut pipeline = load(&pictures, DeviceChoice::Cpu, true).unwrap();
    let asked = request("a frog");
    let z = NamedTensor::new("z", Values::Floats(draw(&mut without, &asked).unwrap().values));
    let decoded = pollster::block_on(pipeline.forward("decoder", vec![z.clone()], &|| false)).unwrap();
    assert_eq!((decoded[0].name.as_str(), decoded[0].shape.as_deref()), ("decoded", Some(&[1, 3, 64, 64][..])));
    assert!(decoded[0].values == Values::Floats(draw(&mut pipeline, &asked).unwrap().values));
    // One that is brought when it is first asked for.
    let image = vec![NamedTensor::new("image", decoded[0].values.clone())];
    let encoded = pollster::block_on(pipeline.forward("encoder", image, &|| false)).unwrap();
    assert_eq!((encoded[0].name.as_str(), encoded[0].shape.as_deref()), ("moments", Some(&[1, 8, 16, 16][..])));
    let error = pollster::block_on(pipeline.forward("eyes", vec![z], &|| false)).unwrap_err();
    let known = "text_encoder, text_projector, denoiser, decoder, encoder, image_encoder, caption_decoder";
    assert!(error.code == Code::InvalidArgument && error.remedy.contains(known), "{error}");
}

#[test]
fn a_generation_stops_in_every_stage() {
    if avatar_package::found().is_none() {
        return;
    }
    let out = scratch("avatars-abort");
    avatar_package::write(&out, Some(1.0));
    let mut pipeline = load(&out, DeviceChoice::Cpu, true).unwrap();
    for stage in [Stage::Text, Stage::Sampling, Stage::Decoding] {
        let reached = std::cell::Cell::new(false);
        let mut on_step = |event: StepEvent| reached.set(reached.get() || event.stage == stage);
        let mut control = Control { on_step: &mut on_step, stopped: &|| reached.get() };
        let error = pollster::block_on(pipeline.generate(&request("a person"), &mut control)).unwrap_err();
        assert_eq!(error.code, Code::Aborted, "{stage:?}");
    }
    draw(&mut pipeline, &request("a person")).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    if avatar_package::found().is_none() {
        return;
    }
    let out = scratch("avatars-refused");
    let manifest = avatar_package::write(&out, None);
    let mut pipeline = load(&out, DeviceChoice::Cpu, true).unwrap();
    let plain = || request("a person");
    let labelled = |index| Some(uvit_web::pipeline::LabelChoice::Index(index));
    for (wrong, cause, remedy) in [
        (
            Request { prompt: None, mode: Some(Mode::TextToImage), ..plain() },
            "no prompt is given",
            "an empty text will do",
        ),
        (Request { prompt: None, negative_prompt: Some("".into()), ..plain() }, "without a prompt", "Give both"),
        (Request { label: labelled(1), ..plain() }, "a label is given, and the model has none", "give a prompt"),
        (Request { context: Some(vec![0.0; 1024]), ..plain() }, "a prompt is given, and a text's embedding", "one"),
        (Request { prompt: Some(Prompt(vec![String::new(); 2])), ..plain() }, "prompt holds 2 texts for 1", "each"),
        (
            Request { init_image: Some(vec![0.0; 12288]), ..plain() },
            "has 12288 values",
            "Give [4, 16, 16] for all images",
        ),
    ] {
        let error = draw(&mut pipeline, &wrong).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
        assert!(error.cause.contains(cause) && error.remedy.contains(remedy), "{error}");
    }

    let labelled = pollster::block_on(async {
        let (manifest, folder) = read_manifest(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/web/models/emoji")))?;
        let mut loader =
            Loader::new(manifest, LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() }).await?;
        for index in 0..loader.files().len() {
            let bytes = std::fs::read(folder.join(&loader.files()[index].stored.file)).unwrap();
            loader.add_file(index, &bytes).await?;
        }
        loader.finish().await?.generate(&plain(), &mut Control { on_step: &mut |_| {}, stopped: &|| false }).await
    });
    let error = labelled.unwrap_err();
    assert!(error.cause.contains("the model reads none") && error.remedy.contains("give a label"), "{error}");

    // What the manifest says of parts that do not fit, before any file of theirs is read.
    let parse = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut json: serde_json::Value = serde_json::from_str(&manifest.to_json()).unwrap();
        change(&mut json);
        uvit_web::package::Manifest::parse(&json.to_string()).unwrap_err()
    };
    let error = parse(&|json| json["components"]["text_projector"]["params"]["prefix_dim"] = 96.into());
    assert!(error.code == Code::BadManifest, "{error}");
    assert!(
        error.cause.contains("text_encoder gives [32, 128], and component text_projector takes [32, 96]"),
        "{error}"
    );
    let error = parse(&|json| json["components"]["denoiser"]["params"]["text_dim"] = 64.into());
    assert!(error.cause.contains("text_projector gives [32, 32], and component denoiser takes [32, 64]"), "{error}");
    let error = parse(&|json| json["assets"] = serde_json::json!({}));
    assert!(error.cause.contains("lacks the asset that task \"any\" needs: tokenizer"), "{error}");

    // A tokenizer of another length.
    let mut loader = pollster::block_on(Loader::new(
        {
            let mut manifest = manifest.clone();
            let short = std::fs::read_to_string(out.join(&manifest.asset("tokenizer").unwrap().file)).unwrap();
            let short = short.lines().take(100).collect::<Vec<_>>().join("\n");
            std::fs::write(out.join("short.txt"), &short).unwrap();
            let stored = StoredFile {
                file: "short.txt".into(),
                bytes: short.len() as u64,
                sha256: uvit_web::weights::sha256(short.as_bytes()),
            };
            manifest.assets.insert("tokenizer", stored);
            manifest
        },
        LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() },
    ))
    .unwrap();
    let error = pollster::block_on(loader.add_file(0, &std::fs::read(out.join("short.txt")).unwrap())).unwrap_err();
    assert_eq!(error.code, Code::BadManifest);
    assert!(error.cause.contains("613 ids") && error.cause.contains("vocab_size of 656"), "{error}");
}

/// f16 ends at 65504, where f32 does not.
#[test]
fn what_is_too_large_for_an_arithmetic_is_decoded_again_in_f32() {
    if avatar_package::found().is_none() {
        return;
    }
    let out = scratch("avatars-large");
    avatar_package::write(&out, Some(1e6));
    let Some(mut pipeline) = devices::found(load_in(&out, DeviceChoice::WebGpu, true, Compute::F16)) else { return };
    let drawn = draw(&mut pipeline, &Request { count: Some(2), ..request("a sad person") }).unwrap();
    // Nothing is to be said where the decoder's layers stay in floats.
    let said = ["decoding in f16 gave numbers that are not finite: it was repeated in f32"];
    assert!(drawn.warnings.is_empty() || drawn.warnings == said, "{:?}", drawn.warnings);
    assert!(drawn.values.iter().all(|v| v.is_finite()) && drawn.values.len() == 2 * 3 * 64 * 64);
}

#[test]
fn the_tool_draws_what_it_is_told() {
    if avatar_package::found().is_none() {
        return;
    }
    let out = scratch("avatars-tool");
    avatar_package::write(&out, Some(1.0));
    let picture = out.with_extension("png");
    let uvit = |more: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_uvit"))
            .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
            .args(["generate", out.to_str().unwrap(), "--device", "cpu", "--compute", "f32", "--steps", "3", "--out"])
            .arg(&picture)
            .args(more)
            .output()
            .unwrap()
    };
    let told = |output: &std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let warned = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let drawn = uvit(&["--prompt", "a sad person", "--negative-prompt", "a hat", "--seed", "5"]);
    assert!(drawn.status.success(), "{}", warned(&drawn));
    assert!(told(&drawn).contains("prompt \"a sad person\", seed 5, 3 steps"), "{}", told(&drawn));
    // The settings in the picture draw it again, with less memory.
    let again = uvit(&["--from", picture.to_str().unwrap(), "--low-memory"]);
    assert!(told(&again).contains("the same picture, bit for bit"), "{}{}", told(&again), warned(&again));
    let long = uvit(&["--prompt", &"a person with a hat and ".repeat(9)]);
    assert!(long.status.success() && warned(&long).contains("warning: \"a person with a hat"), "{}", warned(&long));
    assert!(uvit(&["--prompt", ""]).status.success());
    let refused = uvit(&["--label", "3"]);
    let what = "Leave the label out, and give a prompt";
    assert!(!refused.status.success() && warned(&refused).contains(what), "{}", warned(&refused));
}
