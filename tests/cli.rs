//! The tool `uvit` as its users meet it: files, what it prints, exit statuses. Runs the embedded model on the CPU.
#![cfg(feature = "cli")]

#[allow(dead_code)]
mod avatar_package;
mod clip_model;
#[path = "cli/clips.rs"]
mod clips;
mod devices;
#[path = "cli/forward.rs"]
mod forward;
#[path = "cli/given.rs"]
mod given;
#[path = "cli/modes.rs"]
mod modes;
#[path = "cli/starts.rs"]
mod starts;
#[path = "cli/written.rs"]
mod written;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MODEL: &str = "web/models/emoji";

fn uvit(arguments: &[&str]) -> Output {
    uvit_with_cache("cache", arguments)
}

/// With a cache folder of its own: what the tool remembers on this machine is no business of tests.
fn uvit_with_cache(folder: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_uvit"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder))
        .args(arguments)
        .output()
        .expect("the tool starts")
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A fresh folder for one test, below the build's own temporary folder.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}"));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Width, height, pixels and text chunks of a PNG.
fn read_png(path: &Path) -> (u32, u32, Vec<u8>, Vec<(String, String)>) {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    reader.finish().unwrap();
    let info = reader.info();
    let texts = info.utf8_text.iter().map(|chunk| (chunk.keyword.clone(), chunk.get_text().unwrap())).collect();
    (info.width, info.height, pixels, texts)
}

#[test]
fn generate_writes_each_picture_with_its_settings_and_a_contact_sheet() {
    let folder = folder("generate");
    let out = folder.join("p.png");
    let path = out.to_str().unwrap();
    let fixed = ["generate", MODEL, "--device", "cpu", "--compute", "quality", "--steps", "2"];
    let pair = ["--label", "heart (noto)", "--seed", "9", "--count", "2", "--out", path];
    let run = uvit(&[&fixed[..], &pair].concat());
    assert!(run.status.success(), "{run:?}");

    let (width, height, _, texts) = read_png(&folder.join("p-10.png"));
    assert_eq!((width, height), (64, 64));
    let settings: serde_json::Value =
        serde_json::from_str(&texts.iter().find(|(keyword, _)| keyword == "Settings").unwrap().1).unwrap();
    assert_eq!(settings["seed"], 10);
    assert_eq!(settings["label"], 6);
    assert_eq!(settings["labelName"], "heart (noto)");
    assert_eq!(settings["steps"], 2);
    assert_eq!(settings["guidanceScale"], 1.5);
    assert_eq!(settings["device"], "cpu");
    assert_eq!(settings["dtype"], "q8");
    assert_eq!(settings["modelHash"].as_str().unwrap().len(), 64);
    assert_eq!(settings["dispatches"], 0);

    let (width, _, sheet, _) = read_png(&out);
    assert_eq!(width, 2 * 64 + 3 * 4, "two pictures side by side with margins");
    // The sheet holds the second picture to the right of the first.
    let second = read_png(&folder.join("p-10.png")).2;
    let at = 4 * (4 * width as usize + 4 + 64 + 4);
    assert_eq!(sheet[at..at + 4 * 64], second[..4 * 64]);

    // The settings in the file draw the same picture again, alone.
    let again = folder.join("again.png");
    let one = ["--label", "6", "--seed", "10", "--out", again.to_str().unwrap()];
    assert!(uvit(&[&fixed[..], &one].concat()).status.success());
    let (a, b) = (read_png(&again).2, second);
    let furthest = a.iter().zip(&b).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(furthest <= Some(1), "off by {furthest:?}");
}

#[test]
fn bad_settings_exit_with_2_a_cause_and_a_remedy_and_write_nothing() {
    let folder = folder("bad");
    let out = folder.join("p.png");
    for (arguments, cause) in [
        (["--label", "31"], "label 31 is out of range"),
        (["--label", "unicorn"], "there is no label \"unicorn\""),
        (["--steps", "0"], "steps"),
        (["--steps", "100000"], "steps"),
        (["--guidance-scale", "NaN"], "guidanceScale is NaN"),
        (["--count", "0"], "count is 0"),
        (["--sampler", "magic"], "magic"),
        (["--dtype", "f16"], "not stored as f16"),
    ] {
        let base = ["generate", MODEL, "--device", "cpu", "--out", out.to_str().unwrap()];
        let run = uvit(&[&base[..], &arguments[..]].concat());
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(cause), "{arguments:?}: {said}");
        assert!(!out.exists(), "{arguments:?} left a file");
    }
    // The last seed goes with one picture, not with two.
    let last = ["generate", MODEL, "--device", "cpu", "--seed", "4294967295", "--steps", "1", "--count", "2"];
    assert_eq!(uvit(&last).status.code(), Some(2));
}

#[test]
fn files_that_cannot_be_read_or_written_exit_with_3() {
    let missing = uvit(&["generate", "no/such/model"]);
    assert_eq!(missing.status.code(), Some(3), "{missing:?}");
    let blocked = folder("blocked").join("no").join("p.png");
    let arguments = ["generate", MODEL, "--device", "cpu", "--steps", "1", "--out", blocked.to_str().unwrap()];
    let run = uvit(&arguments);
    assert_eq!(run.status.code(), Some(3), "{run:?}");
}

#[test]
fn inspect_counts_without_a_device() {
    let run = uvit(&["inspect", MODEL, "--json"]);
    let report: serde_json::Value = serde_json::from_str(&printed(&run)).unwrap();
    assert_eq!(report["architecture"], "uvit");
    assert_eq!(report["tensors"], 117);
    // Counted in the model's README: 7.75 million.
    assert_eq!(report["parameters"].as_u64().unwrap() / 10_000, 775);
    assert_eq!(report["variants"][0]["dtype"], "q8");
    assert_eq!(report["variants"][1]["dtype"], "q4");
    assert!(report["variants"][1]["bytes"].as_u64().unwrap() <= 5_100_000);
    let gflops = report["gflops"].as_f64().unwrap();
    assert!((1.0..1.1).contains(&gflops), "{gflops}");

    let run = uvit(&["inspect", "--preset", "imagenet256_uvit_huge", "--guidance", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&printed(&run)).unwrap();
    assert_eq!(report["items"], 2);
    // Published: 501 M parameters.
    assert_eq!(report["parameters"].as_u64().unwrap() / 1_000_000, 500);
    assert!(report["peakActivationBytes"].as_u64().unwrap() < 64_000_000);
    assert_eq!(uvit(&["inspect", "--preset", "h3"]).status.code(), Some(2));
}

#[test]
fn bench_times_every_kernel_of_a_forward_on_a_gpu() {
    if devices::found(pollster::block_on(uvit_web::runtime::Device::gpu())).is_none() {
        return;
    }
    let run = uvit(&["bench", MODEL, "--device", "gpu", "--dtype", "q8", "--repeats", "1", "--json"]);
    assert!(run.status.success(), "{run:?}");
    let row: serde_json::Value = serde_json::from_str(&printed(&run)).unwrap();
    let kernels = row["profile"]["kernels"].as_array().unwrap();
    let inspected: serde_json::Value = serde_json::from_str(&printed(&uvit(&["inspect", MODEL, "--json"]))).unwrap();
    assert_eq!(kernels.len() as u64, inspected["dispatches"].as_u64().unwrap());
    let sum: u64 = kernels.iter().map(|k| k["multiplyAdds"].as_u64().unwrap()).sum();
    assert_eq!(sum, row["multiplyAdds"].as_u64().unwrap());
    for kernel in kernels {
        assert!(kernel["nanoseconds"].as_f64().unwrap() > 0.0 && kernel["bytes"].as_u64().unwrap() > 0, "{kernel}");
    }
    assert!(row["profile"]["peak"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_tuner_measures_once_remembers_and_outlives_a_broken_record() {
    if devices::found(pollster::block_on(uvit_web::runtime::Device::gpu())).is_none() {
        return;
    }
    let folder = format!("tuner-{}", std::process::id());
    let records = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&folder).join("uvit-web/tuning.json");
    let tuned = |more: &[&str]| -> serde_json::Value {
        let arguments = [&["bench", MODEL, "--device", "gpu", "--repeats", "1", "--json"], more].concat();
        let run = uvit_with_cache(&folder, &arguments);
        assert!(run.status.success(), "{run:?}");
        serde_json::from_str::<serde_json::Value>(&printed(&run)).unwrap()["tuned"].take()
    };
    let first = tuned(&[]);
    assert_eq!(first["remembered"], false);
    let trials = first["trials"].as_array().unwrap();
    assert!(trials.iter().all(|t| t["error"].is_null() && t["matmulMs"].as_f64().unwrap() > 0.0), "{first}");
    assert!(trials.iter().any(|t| t["tuning"]["matmul"] == first["tuning"]["matmul"]), "{first}");
    let second = tuned(&[]);
    assert_eq!((&second["remembered"], &second["tuning"]), (&true.into(), &first["tuning"]));
    std::fs::write(&records, "{\"version\":1,\"tunings\":").unwrap();
    let off = tuned(&["--tune", "off"]);
    assert_eq!((off["trials"].as_array().unwrap().len(), &off["remembered"]), (1, &false.into()));
    assert_eq!(tuned(&[])["remembered"], false);
    assert_eq!(tuned(&["--tune", "off"])["remembered"], true);
    std::fs::remove_dir_all(records.parent().unwrap().parent().unwrap()).unwrap();
    assert_eq!(uvit(&["bench", MODEL, "--tune", "never"]).status.code(), Some(2));
}

#[test]
fn bench_draws_a_roofline_of_gpus_only() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("roofline-{}.svg", std::process::id()));
    let arguments =
        |device| ["bench", MODEL, "--repeats", "1", "--roofline", path.to_str().unwrap(), "--device", device];
    assert_eq!(uvit(&arguments("cpu")).status.code(), Some(2));
    assert!(!path.exists());
    if devices::found(pollster::block_on(uvit_web::runtime::Device::gpu())).is_none() {
        return;
    }
    assert!(uvit(&arguments("gpu")).status.success());
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("<svg"));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn bench_times_the_cpu_and_refuses_two_models() {
    let run = uvit(&["bench", MODEL, "--device", "cpu", "--compute", "fast", "--repeats", "1", "--json"]);
    assert!(run.status.success(), "{run:?}");
    let row: serde_json::Value = serde_json::from_str(&printed(&run)).unwrap();
    assert!(row["ms"].as_f64().unwrap() > 0.0 && row["profile"].is_null() && row["compute"] == "fast");
    assert_eq!(uvit(&["bench", MODEL, "--preset", "cifar10_uvit_small"]).status.code(), Some(2));
    assert_eq!(uvit(&["bench", MODEL, "--batch", "0"]).status.code(), Some(2));
    assert_eq!(uvit(&["bench"]).status.code(), Some(2));
}
