//! Pictures to start from, masks, repeats, divided runs, and checks against given outputs.

use super::{MODEL, folder, printed, read_png, uvit};
use std::path::Path;

const CPU: [&str; 6] = ["--device", "cpu", "--compute", "quality", "--label", "3"];

fn draw(more: &[&str]) -> std::process::Output {
    uvit(&[&["generate", MODEL], &CPU[..], more].concat())
}

fn done(run: &std::process::Output) -> String {
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    printed(run)
}

fn refused(run: &std::process::Output, parts: &[&str]) {
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(2), "{said}");
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

/// A picture of one colour, and a mask whose left half is white.
pub fn write_png(to: &str, width: u32, height: u32, colour: impl Fn(u32, u32) -> [u8; 3]) {
    let file = std::fs::File::create(to).unwrap();
    let mut encoder = png::Encoder::new(file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let pixels: Vec<u8> =
        (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).flat_map(|(x, y)| colour(x, y)).collect();
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
}

#[test]
fn a_mask_keeps_what_it_says_and_strength_leaves_out_steps() {
    let folder = folder("inpaint");
    let [init, mask, out, weak] = ["init.png", "mask.png", "out.png", "weak.png"].map(|name| path(&folder, name));
    // Twice as large as the model's pictures, and not square: resized and cropped in the middle.
    write_png(&init, 160, 128, |_, _| [200, 40, 90]);
    write_png(&mask, 64, 64, |x, _| if x < 32 { [255; 3] } else { [0; 3] });
    done(&draw(&["--seed", "5", "--steps", "4", "--init-image", &init, "--mask", &mask, "--out", &out]));
    let (width, _, pixels, texts) = read_png(out.as_ref());
    let kept = |x: u32, y: u32| pixels[(4 * (y * width + x)) as usize..][..3] == [200, 40, 90];
    assert!((0..64).all(|y| (32..64).all(|x| kept(x, y))));
    assert!((0..64).any(|y| (0..32).any(|x| !kept(x, y))));
    let settings = texts.iter().find(|(name, _)| name == "Settings").unwrap();
    let settings: serde_json::Value = serde_json::from_str(&settings.1).unwrap();
    assert_eq!((settings["strength"].as_f64(), settings["masked"].as_bool()), (Some(1.0), Some(true)));
    assert_eq!(settings["initImageSha256"].as_str().map(str::len), Some(64));

    let said =
        done(&draw(&["--seed", "5", "--steps", "10", "--init-image", &init, "--strength", "0.31", "--out", &weak]));
    assert!(said.contains(" 3 steps of "), "{said}");
    let (_, _, pixels, _) = read_png(weak.as_ref());
    let mean = pixels.chunks(4).map(|rgba| i32::from(rgba[0]) - i32::from(rgba[1])).sum::<i32>() / (64 * 64);
    assert!(mean > 60, "the colour of the start is left: {mean}");
}

#[test]
fn what_cannot_be_started_from_is_refused_before_any_work() {
    let folder = folder("starts");
    let [init, mask, broken, out] = ["init.png", "mask.npy", "broken.png", "out.png"].map(|name| path(&folder, name));
    write_png(&init, 64, 64, |_, _| [1, 2, 3]);
    std::fs::write(&mask, "no array").unwrap();
    std::fs::write(&broken, &std::fs::read(&init).unwrap()[..40]).unwrap();
    let with = |more: &[&str]| draw(&[&["--out", &out], more].concat());
    refused(&with(&["--strength", "0.5"]), &["strength is given without"]);
    refused(&with(&["--mask", &init]), &["mask is given without"]);
    for strength in ["0", "-1", "1.5", "nan"] {
        refused(&with(&["--init-image", &init, "--strength", strength]), &["strength is"]);
    }
    refused(&with(&["--init-image", &init, "--mask", &mask]), &["mask.npy", "no .npy file"]);
    refused(&with(&["--init-image", &broken]), &["broken.png"]);
    refused(&with(&["--init-image", &init, "--steps", "3", "--strength", "0.1"]), &["all 3 steps"]);
    refused(&with(&["--init-image", &init, "--sampler", "dpm_adaptive"]), &["dpm_adaptive"]);
    let adaptive = ["--sampler", "dpm_adaptive"];
    refused(
        &with(&[&adaptive[..], &["--init-image", &init, "--mask", &init, "--strength", "1"]].concat()),
        &["mask needs"],
    );
    refused(&with(&[&adaptive[..], &["--guidance-interval", "0", "0.5"]].concat()), &["guidanceInterval needs"]);
    refused(&with(&[&adaptive[..], &["--cache"]].concat()), &["cache needs"]);
    refused(&with(&["--context", &mask]), &["mask.npy"]);
    let files = [with(&["--grid", "leading"]), with(&["--init-image", "nowhere.png"])];
    assert_eq!(files.map(|run| run.status.code()), [Some(3); 2]);
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_picture_is_repeated_from_its_own_settings_or_the_difference_is_told() {
    let folder = folder("repeat");
    let [first, again, init, other] =
        ["first.png", "again.png", "init.png", "other.png"].map(|name| path(&folder, name));
    write_png(&init, 64, 64, |x, y| [x as u8, y as u8, 90]);
    let own = ["--seed", "9", "--steps", "6", "--sampler", "euler", "--churn", "1", "--grid", "karras"];
    done(&draw(&[&own[..], &["--init-image", &init, "--strength", "0.7", "--out", &first]].concat()));
    let from = |more: &[&str]| uvit(&[&["generate", MODEL, "--from", &first], more].concat());
    assert!(done(&from(&["--init-image", &init, "--out", &again])).contains("the same picture, bit for bit"));
    assert_eq!(read_png(first.as_ref()).2, read_png(again.as_ref()).2);
    let said = done(&from(&["--init-image", &init, "--seed", "10", "--steps", "5", "--out", &other]));
    assert!(said.contains("not the same picture") && said.contains("seed") && said.contains("steps"), "{said}");
    refused(&from(&["--out", &other]), &["drawn with --init-image"]);
    refused(&uvit(&["generate", MODEL, "--from", &init, "--out", &other]), &["no settings"]);
}

#[test]
fn parts_of_a_divided_run_are_the_whole_and_an_interrupted_one_goes_on() {
    let folder = folder("many");
    let whole = path(&folder, "whole.npz");
    let run = |out: &str, more: &[&str]| {
        let fixed = ["generate", MODEL, "--device", "cpu", "--compute", "quality", "--steps", "1", "--seed", "2"];
        uvit(&[&fixed[..], &["--count", "7", "--batch", "2", "--out-npz", out], more].concat())
    };
    done(&run(&whole, &[]));
    let parts: Vec<String> = (0..3).map(|i| path(&folder, &format!("part-{i}.npz"))).collect();
    for (i, part) in parts.iter().enumerate() {
        done(&run(part, &["--shard", &format!("{i}/3")]));
    }
    let merged = path(&folder, "merged.npz");
    refused(&uvit(&["merge", &merged, &parts[0], &parts[1]]), &["one of 3 parts"]);
    refused(&uvit(&["merge", &merged, &parts[0], &parts[1], &parts[1]]), &["part 2"]);
    done(&uvit(&["merge", &merged, &parts[2], &parts[0], &parts[1]]));
    let bytes = |path: &str| std::fs::read(path).unwrap();
    assert_eq!(bytes(&merged), bytes(&whole));

    // As if it had been killed while it drew its second batch.
    let resumed = path(&folder, "resumed.npz");
    let array = bytes(&whole);
    let header = array.windows(7).position(|w| w == b"\x93NUMPY\x01").unwrap();
    let first = header + (array[header..].iter().position(|b| *b == b'\n').unwrap() + 1);
    let begun = path(&folder, "resumed.npz.partial");
    std::fs::write(&begun, &array[first..first + 3 * 64 * 64 * 3 + 100]).unwrap();
    refused(&run(&resumed, &[]), &["was begun with other settings"]);
    // With its settings beside it, it goes on.
    let about = zip::ZipArchive::new(std::io::Cursor::new(&array)).unwrap().by_name("settings.json").map(|mut file| {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut text).unwrap();
        text
    });
    std::fs::write(path(&folder, "resumed.npz.partial.json"), about.unwrap()).unwrap();
    let said = done(&run(&resumed, &[]));
    assert!(said.contains("has 2 of 7 pictures: going on"), "{said}");
    assert_eq!(bytes(&resumed), array);
    assert!(!Path::new(&begun).exists());
    for (more, said) in [
        (&["--shard", "3/3"][..], "--shard is \"3/3\""),
        (&["--batch", "0"][..], "batch"),
        (&["--count", "0"][..], "count"),
    ] {
        let fixed = ["generate", MODEL, "--seed", "1", "--out-npz", "never.npz"];
        let run = uvit(&[&fixed[..], more].concat());
        assert_eq!(run.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&run.stderr).contains(said), "{more:?}");
    }
}

#[test]
fn verify_passes_the_networks_own_numbers_and_names_what_is_off() {
    let folder = folder("verify");
    let [given, out, io, wrong] =
        ["in", "out", "io", "wrong"].map(|name| path(&folder, &format!("{name}.safetensors")));
    super::forward::write_inputs(given.as_ref());
    done(&uvit(&["forward", MODEL, &given, &out, "--device", "cpu", "--compute", "f32"]));
    let join = |to: &str, scale: f32| {
        let (a, b) = (std::fs::read(&given).unwrap(), std::fs::read(&out).unwrap());
        let (a, b) =
            (safetensors::SafeTensors::deserialize(&a).unwrap(), safetensors::SafeTensors::deserialize(&b).unwrap());
        let (name, view) = b.tensors().remove(0);
        let scaled: Vec<u8> =
            view.data().as_chunks().0.iter().flat_map(|v| (scale * f32::from_le_bytes(*v)).to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new(view.dtype(), view.shape().to_vec(), &scaled).unwrap();
        let all = a.tensors().into_iter().chain([(name, view)]);
        std::fs::write(to, safetensors::serialize(all, None).unwrap()).unwrap();
    };
    join(&io, 1.0);
    let said = done(&uvit(&["verify", MODEL, &io]));
    assert!(said.lines().any(|line| line.starts_with("q8     cpu     f32") && line.ends_with("none")), "{said}");
    join(&wrong, 1.5);
    let run = uvit(&["verify", MODEL, &wrong, "--dtype", "q8"]);
    assert_eq!(run.status.code(), Some(uvit_web::Code::WrongResult.exit_status().into()));
    assert!(printed(&run).contains("out: 3.3e-1"), "{}", printed(&run));
    refused(&uvit(&["verify", MODEL, &given]), &["holds no output"]);
}
