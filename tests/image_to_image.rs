//! Pictures that start from a picture, through the encoder of a package that draws latents.
#![cfg(all(feature = "cli", feature = "gpu"))]

mod avatar_package;
mod devices;

use avatar_package::pipeline::{draw, error, load, loaded, psnr, request, scratch, watched};
use avatar_package::reference::Reference;
use std::path::{Path, PathBuf};
use uvit_web::Code;
use uvit_web::package::{ENCODER, Manifest};
use uvit_web::pipeline::sampling::{Control, Stage, StepEvent};
use uvit_web::pipeline::{DeviceChoice, Pipeline, Request};

const PIXELS: usize = 3 * 64 * 64;
const LATENTS: usize = 4 * 16 * 16;

/// The package in a folder of its own, if the model is here.
fn package(name: &str) -> Option<PathBuf> {
    avatar_package::found()?;
    let out = scratch(name);
    avatar_package::write(&out, Some(1.0));
    Some(out)
}

/// What PyTorch made of two pictures.
fn reference(name: &str) -> Vec<f32> {
    Reference::read().unwrap().floats(&format!("autoencoder_kl/{name}"))
}

/// The latents that were drawn last; beside them a CLIP embedding was.
fn latents(pipeline: &Pipeline) -> Vec<f32> {
    let all = pollster::block_on(pipeline.denoiser().unwrap().latents()).unwrap();
    all.chunks(LATENTS + 64).flat_map(|image| image[..LATENTS].to_vec()).collect()
}

/// Of the first of PyTorch's pictures.
fn from_picture() -> Request {
    let init_image = Some(reference("image")[..PIXELS].to_vec());
    Request { init_image, ..request("a sad person with green hair") }
}

#[test]
fn pictures_become_the_latents_of_pytorch_and_come_back() {
    let Some(out) = package("image-latents") else { return };
    let (pictures, moments) = (reference("image"), reference("moments"));
    let scale = avatar_package::found().unwrap().1["parts"]["autoencoder"]["params"]["scale_factor"].as_f64().unwrap();
    let means: Vec<f32> = moments
        .chunks(2 * LATENTS)
        .flat_map(|moments| moments[..LATENTS].iter().map(|mean| (f64::from(*mean) * scale) as f32))
        .collect();
    for device in [DeviceChoice::Cpu, DeviceChoice::WebGpu] {
        let Some(mut pipeline) = loaded(&out, device) else { continue };
        // Of what is kept altogether, nothing is left of the noise.
        let kept = Request { count: Some(2), mask: Some(vec![0.0; 64 * 64]), ..request("a person") };
        let drawn = draw(&mut pipeline, &Request { init_image: Some(pictures.clone()), ..kept.clone() }).unwrap();
        assert!(drawn.values == pictures, "{device:?}: what is kept comes out as it went in");
        let error = error(&latents(&pipeline), &means);
        assert!(error < 2e-5, "{device:?}: {error:.1e}");

        // Latents are taken as they are, and so is a mask of their size.
        let of_latents = Request { init_image: Some(means.clone()), mask: Some(vec![0.0; 16 * 16]), ..kept };
        let (drawn, events) = watched(&mut pipeline, &of_latents);
        assert!(latents(&pipeline) == means && events.iter().all(|event| event.0 != Stage::Encoding));
        let psnr = psnr(&drawn.values, &pictures);
        println!("{device:?}: encoded and decoded {psnr:.1} dB");
        assert!(psnr > 30.0, "{device:?}: {psnr:.1} dB");
    }
}

#[test]
fn the_weaker_the_nearer_and_the_noise_is_that_of_a_start_without_a_picture() {
    let Some(out) = package("image-strength") else { return };
    for device in [DeviceChoice::Cpu, DeviceChoice::WebGpu] {
        let Some(mut pipeline) = loaded(&out, device) else { continue };
        let picture = from_picture().init_image.unwrap();
        let ten = Request { steps: Some(10), ..from_picture() };
        let near = [0.2, 0.5, 1.0].map(|strength| {
            let (drawn, events) = watched(&mut pipeline, &Request { strength: Some(strength), ..ten.clone() });
            let walked = events.iter().filter(|event| event.0 == Stage::Sampling).count();
            assert_eq!((drawn.strength, walked), (Some(strength), (10.0 * strength) as usize));
            psnr(&drawn.values, &picture)
        });
        println!("{device:?}: {near:.1?} dB");
        assert!(near[0] > 25.0 && near.is_sorted_by(|a, b| a > b), "{device:?}: {near:?}");

        // Where all is painted anew a picture is drawn as if there were none.
        let anew = draw(&mut pipeline, &Request { mask: Some(vec![1.0; 64 * 64]), ..ten.clone() }).unwrap();
        let alone = draw(&mut pipeline, &Request { init_image: None, ..ten }).unwrap();
        assert!(anew.values == alone.values, "{device:?}: {:.1e}", error(&anew.values, &alone.values));
    }
}

#[test]
fn a_mask_keeps_pixels_and_lets_the_thinnest_stroke_change() {
    let Some(out) = package("image-mask") else { return };
    for device in [DeviceChoice::Cpu, DeviceChoice::WebGpu] {
        let Some(mut pipeline) = loaded(&out, device) else { continue };
        let picture = from_picture().init_image.unwrap();
        // Painted anew: the column x = 29, half of x = 41.
        let of_column = |x| {
            if x == 29 {
                1.0
            } else if x == 41 {
                0.5
            } else {
                0.0
            }
        };
        let mask: Vec<f32> = (0..64 * 64).map(|i| of_column(i % 64)).collect();
        let request = Request { mask: Some(mask), ..from_picture() };
        let drawn = draw(&mut pipeline, &request).unwrap();
        assert!(drawn.masked && drawn.strength == Some(1.0));
        let changed = |x: usize| (0..PIXELS).filter(|i| i % 64 == x && drawn.values[*i] != picture[*i]).count();
        for x in 0..64 {
            match x {
                29 | 41 => assert!(changed(x) > 3 * 48, "{device:?} {x}: {}", changed(x)),
                _ => assert_eq!(changed(x), 0, "{device:?} {x}"),
            }
        }
        // The latents of columns 7 and 10 changed, the first altogether; those between were kept.
        let decoded = latents(&pipeline);
        let all = Request { mask: Some(vec![0.0; 64 * 64]), ..request };
        draw(&mut pipeline, &all).unwrap();
        let kept = latents(&pipeline);
        let differ = |x: usize| (0..LATENTS).filter(|i| i % 16 == x && decoded[*i] != kept[*i]).count();
        assert_eq!([6, 7, 8, 9, 10, 11].map(|x| differ(x) > 32), [false, true, false, false, true, false]);
        assert_eq!([6, 8, 9, 11].map(differ), [0; 4], "{device:?}");
    }
}

#[test]
fn images_start_from_one_picture_or_each_from_its_own() {
    let Some(out) = package("image-count") else { return };
    let mut pipeline = load(&out, DeviceChoice::Cpu, true).unwrap();
    let pictures = reference("image");
    let both = Request { init_image: Some(pictures.clone()), count: Some(2), ..from_picture() };
    let own = draw(&mut pipeline, &both).unwrap();
    let same = draw(&mut pipeline, &Request { count: Some(2), ..from_picture() }).unwrap();
    for k in 0..2 {
        let alone = |of: usize| Request {
            init_image: Some(pictures[of * PIXELS..][..PIXELS].to_vec()),
            seed: 5 + k as u32,
            ..from_picture()
        };
        assert!(error(own.image(k), &draw(&mut pipeline, &alone(k)).unwrap().values) < 1e-4, "{k}");
        assert!(error(same.image(k), &draw(&mut pipeline, &alone(0)).unwrap().values) < 1e-4, "{k}");
    }
    assert!(error(own.image(1), same.image(1)) > 0.1);
}

#[test]
fn encoding_is_a_stage_that_is_told_stopped_and_goes() {
    let Some(out) = package("image-stages") else { return };
    let manifest = uvit_web::package::read_manifest(&out).unwrap().0;
    let bytes = |component| manifest.variant(component, None).unwrap().bytes;
    let (of_encoder, stages) = (bytes(ENCODER), manifest.stages().into_iter().map(bytes).sum::<u64>());
    assert!(manifest.on_demand().contains(&ENCODER));
    let mut pipeline = load(&out, DeviceChoice::Cpu, true).unwrap();
    assert_eq!(pipeline.info().bytes, stages, "the encoder is not loaded before it is needed");
    let before = pipeline.device().memory().bytes;
    let (drawn, events) = watched(&mut pipeline, &Request { count: Some(2), ..from_picture() });
    let told: Vec<_> = events.iter().filter(|event| event.0 == Stage::Encoding).map(|event| event.1).collect();
    // One picture for both.
    assert_eq!(told, [0, 1]);
    let first = |stage| events.iter().position(|event| event.0 == stage);
    assert!(first(Stage::Text) < first(Stage::Encoding) && first(Stage::Encoding) < first(Stage::Sampling));
    assert!(drawn.timings.encoding_ms > 0.0 && drawn.warnings.is_empty());
    assert!(pipeline.device().memory().bytes as u64 > before as u64 + of_encoder, "it stays as others do");

    let reached = std::cell::Cell::new(false);
    let mut on_step = |event: StepEvent| reached.set(reached.get() || event.stage == Stage::Encoding);
    let mut control = Control { on_step: &mut on_step, stopped: &|| reached.get() };
    let error = pollster::block_on(pipeline.generate(&from_picture(), &mut control)).unwrap_err();
    assert_eq!(error.code, Code::Aborted);
    let again = draw(&mut pipeline, &Request { count: Some(2), ..from_picture() }).unwrap();
    assert!(again.values == drawn.values);

    for device in [DeviceChoice::Cpu, DeviceChoice::WebGpu] {
        let Some(mut all) = loaded(&out, device) else { continue };
        let whole = draw(&mut all, &from_picture()).unwrap();
        let mut staged = load(&out, device, false).unwrap();
        let plain = draw(&mut staged, &Request { init_image: None, ..from_picture() }).unwrap();
        let peak = staged.device().memory().peak_bytes;
        let before = staged.device().memory().bytes;
        let drawn = draw(&mut staged, &from_picture()).unwrap();
        let after = staged.device().memory();
        assert!(drawn.values == whole.values && plain.timings.encoding_ms == 0.0);
        println!("{device:?}: {peak} bytes at most without a picture, {} with one", after.peak_bytes);
        // What a GPU keeps is little.
        assert!(after.bytes <= before + (64 << 10), "{device:?}: {before} {after:?}");
        assert!(after.peak_bytes <= peak + (64 << 10), "{device:?}: the encoder is not the largest stage");
    }
}

/// The package once more, with another manifest.
fn changed(out: &Path, change: impl Fn(&mut serde_json::Value)) -> String {
    let text = std::fs::read_to_string(out.join("manifest.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    change(&mut json);
    json.to_string()
}

#[test]
fn what_cannot_be_started_from_is_refused_by_name() {
    let Some(out) = package("image-refused") else { return };
    let mut pipeline = load(&out, DeviceChoice::Cpu, true).unwrap();
    let refused = |pipeline: &mut Pipeline, request: Request, cause: &str, remedy: &str| {
        let error = draw(pipeline, &request).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
        assert!(error.cause.contains(cause) && error.remedy.contains(remedy), "{error}");
    };
    let of = |values: Vec<f32>| Request { init_image: Some(values), ..from_picture() };
    let sizes = "Give [3, 64, 64] for all images, or one for each, or latents [4, 16, 16]";
    refused(&mut pipeline, of(vec![0.0; 7]), "has 7 values", sizes);
    refused(&mut pipeline, of(vec![0.0; 2 * PIXELS]), "has 24576 values", sizes);
    refused(&mut pipeline, of(vec![f32::NAN; PIXELS]), "NaN or infinite", "finite");
    let masked = |mask: Vec<f32>| Request { mask: Some(mask), ..from_picture() };
    refused(&mut pipeline, masked(vec![0.0; 16 * 16]), "the mask has 256 values", "[64, 64]");
    refused(&mut pipeline, masked(vec![1.5; 64 * 64]), "outside 0 to 1", "painted anew");
    let latents = Request { init_image: Some(vec![0.0; LATENTS]), ..masked(vec![0.0; 64 * 64]) };
    refused(&mut pipeline, latents, "the mask has 4096 values", "[16, 16]");

    // Halves that do not fit.
    let parse = |change: &dyn Fn(&mut serde_json::Value)| Manifest::parse(&changed(&out, change)).unwrap_err();
    let error = parse(&|json| json["components"]["encoder"]["params"]["latent_channels"] = 3.into());
    let said = "component encoder gives [3, 16, 16], and component denoiser takes [4, 16, 16]";
    assert!(error.code == Code::BadManifest && error.cause.contains(said), "{error}");
    let error = parse(&|json| {
        json["components"]["encoder"]["params"]["block_out_channels"] = serde_json::json!([64, 64]);
    });
    let said = "component decoder gives [3, 64, 64], and component encoder takes [3, 32, 32]";
    assert!(error.code == Code::BadManifest && error.cause.contains(said), "{error}");

    // A model without an encoder takes latents alone.
    let without = changed(&out, |json| drop(json["components"].as_object_mut().unwrap().remove("encoder")));
    std::fs::write(out.join("manifest.json"), without).unwrap();
    let mut pipeline = load(&out, DeviceChoice::Cpu, true).unwrap();
    refused(&mut pipeline, from_picture(), "the model has no encoder", "Give latents");
    assert_eq!(draw(&mut pipeline, &of(vec![0.0; LATENTS])).unwrap().timings.encoding_ms, 0.0);
}

#[test]
fn the_tool_starts_from_a_picture_and_says_where_it_cannot() {
    let Some(out) = package("image-tool") else { return };
    let [first, second, mask] = ["first", "second", "mask"].map(|name| out.join(name).with_extension("png"));
    let uvit = |to: &Path, more: &[&str]| {
        let run = std::process::Command::new(env!("CARGO_BIN_EXE_uvit"))
            .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
            .args(["generate", out.to_str().unwrap(), "--device", "cpu", "--compute", "f32", "--steps", "4", "--out"])
            .arg(to)
            .args(["--prompt", "a sad person", "--seed", "5"])
            .args(more)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (run.status.success(), text(&run.stdout), text(&run.stderr))
    };
    assert!(uvit(&first, &[]).0);
    let start = ["--init-image", first.to_str().unwrap()];
    let (done, told, warned) = uvit(&second, &[&start[..], &["--strength", "0.5"]].concat());
    assert!(done && told.contains(" 2 steps of "), "{told}{warned}");
    let again = ["--from", second.to_str().unwrap(), "--low-memory"];
    let (done, told, warned) = uvit(&second, &[&start[..], &again].concat());
    assert!(done && told.contains("the same picture, bit for bit"), "{told}{warned}");

    // A mask that keeps all gives the picture back, bit for bit.
    let file = std::fs::File::create(&mask).unwrap();
    let encoder = png::Encoder::new(file, 64, 64);
    encoder.write_header().unwrap().write_image_data(&[0; 64 * 64]).unwrap();
    assert!(uvit(&second, &[&start[..], &["--mask", mask.to_str().unwrap()]].concat()).0);
    let pixels = |path: &Path| {
        let mut reader =
            png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap())).read_info().unwrap();
        let mut pixels = vec![0; 4 * 64 * 64];
        reader.next_frame(&mut pixels).unwrap();
        pixels
    };
    assert!(pixels(&first) == pixels(&second));

    let without = changed(&out, |json| drop(json["components"].as_object_mut().unwrap().remove("encoder")));
    std::fs::write(out.join("manifest.json"), without).unwrap();
    let (done, _, warned) = uvit(&second, &start);
    assert!(!done && warned.contains("it has no encoder"), "{warned}");
}
