//! `uvit convert` and the folder it writes: nobody's files are lost, and nothing half-written is ever seen.
#![cfg(feature = "cli")]

mod odd_model;

use odd_model::{convert, fresh, listing, load};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use uvit_web::package::{DENOISER, MANIFEST, Manifest, Storing, Writer, describe, read_manifest};
use uvit_web::weights::{Dtype, checkpoint};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// The configuration of `weights/tiny.pth`.
fn tiny_config() -> Value {
    let mut golden: Value =
        serde_json::from_slice(&std::fs::read(fixture("goldens/uvit_small_activations/config.json")).unwrap()).unwrap();
    let mut config = odd_model::config();
    config.as_object_mut().unwrap().extend(golden["params"].as_object_mut().unwrap().clone());
    config.as_object_mut().unwrap().remove("null_class");
    config["guidance_scale"] = json!(1.0);
    config
}

/// What a test works on: its folder, with the configuration in it.
struct Case {
    parent: PathBuf,
    checkpoint: PathBuf,
}

impl Case {
    fn new(test: &str) -> Case {
        let parent = fresh(test).parent().unwrap().to_owned();
        std::fs::write(parent.join("config.json"), tiny_config().to_string()).unwrap();
        Case { parent, checkpoint: fixture("weights/tiny.pth") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.parent.join(name)
    }

    /// `uvit convert` in `working`: exit status and what it said.
    fn run_in(&self, working: &Path, out: &str, more: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_uvit"))
            .current_dir(working)
            .arg("convert")
            .arg(&self.checkpoint)
            .arg("--config")
            .arg(self.path("config.json"))
            .args(["--dtype", "f16", "--out", out])
            .args(more)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn run(&self, out: &Path, more: &[&str]) -> (Option<i32>, String) {
        self.run_in(&self.parent, out.to_str().unwrap(), more)
    }
}

/// The names of a model's files, the manifest's with them.
fn files(folder: &Path) -> Vec<String> {
    let (manifest, _) = read_manifest(folder).unwrap();
    let mut names: Vec<String> = manifest.files().map(|stored| stored.file.clone()).collect();
    names.push(MANIFEST.into());
    names.sort();
    names
}

/// A whole model and nothing else.
fn assert_whole(folder: &Path) {
    assert_eq!(listing(folder), files(folder));
    assert!(!load(folder).unwrap().is_empty());
}

#[test]
fn a_model_is_replaced_when_asked_to_and_nothing_else_ever_is() {
    let case = Case::new("force");
    let out = case.path("model");
    assert_eq!(case.run(&out, &[]).0, Some(0));
    assert_whole(&out);
    let shard = files(&out).remove(0);
    assert!(shard.starts_with("denoiser-f16-00001-") && shard.ends_with(".safetensors"), "{shard}");
    assert_eq!(load(&out).unwrap().len(), checkpoint::read(&case.checkpoint).unwrap().len());

    let before = std::fs::read(out.join(MANIFEST)).unwrap();
    let (status, said) = case.run(&out, &[]);
    assert!(status == Some(2) && said.contains("--force"), "{said}");
    assert_eq!(std::fs::read(out.join(MANIFEST)).unwrap(), before);
    assert_eq!(case.run(&out, &["--force", "--dtype", "f32"]).0, Some(0));
    assert_whole(&out);
    assert_eq!(listing(&out).len(), 3);
    // The same model again: the same names.
    assert_eq!(case.run(&out, &["--force"]).0, Some(0));
    assert_eq!(files(&out), [shard.as_str(), MANIFEST]);
    assert_whole(&out);

    // A model of version 1 is a model.
    let (manifest, _) = read_manifest(&out).unwrap();
    let mut old: Value = serde_json::from_str(&manifest.to_json()).unwrap();
    let mut denoiser = old["components"][DENOISER].take();
    denoiser["variants"][0]["shards"][0]["file"] = "f16-00001.safetensors".into();
    old.as_object_mut().unwrap().extend(denoiser.as_object().unwrap().clone());
    old["format_version"] = json!(1);
    std::fs::write(out.join(MANIFEST), old.to_string()).unwrap();
    std::fs::rename(out.join(&shard), out.join("f16-00001.safetensors")).unwrap();
    assert_whole(&out);
    assert_eq!(case.run(&out, &["--force"]).0, Some(0));
    assert_eq!(listing(&out), [shard.as_str(), MANIFEST]);

    // What the manifest does not list is somebody's: a checkpoint, notes, a folder, a file that is hidden.
    for name in
        ["autoencoder.safetensors", "denoiser-f16-00002-00000000.safetensors", "thesis.txt", ".hidden", "notes/"]
    {
        let path = out.join(name);
        match name.strip_suffix('/') {
            Some(folder) => std::fs::create_dir(out.join(folder)).unwrap(),
            None => std::fs::write(&path, "irreplaceable").unwrap(),
        }
        let before = listing(&out);
        let (status, said) = case.run(&out, &["--force"]);
        assert!(status == Some(2) && said.contains(name.trim_end_matches('/')), "{name}: {said}");
        assert_eq!(listing(&out), before, "{name}");
        if path.is_dir() { std::fs::remove_dir(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
    }

    // A manifest.json that is none of ours: a web app's, one of a version to come, one that is broken.
    let newer = json!({ "format_version": 3 }).to_string();
    for text in [r#"{ "name": "My app", "icons": [] }"#, &newer, "{"] {
        let app = case.path("app");
        std::fs::create_dir_all(&app).unwrap();
        std::fs::write(app.join(MANIFEST), text).unwrap();
        let (status, said) = case.run(&app, &["--force"]);
        assert!(status == Some(2) && said.contains("no model's"), "{said}");
        assert_eq!(std::fs::read_to_string(app.join(MANIFEST)).unwrap(), text);
    }
}

#[test]
fn an_input_inside_the_folder_to_be_written_is_refused_before_any_work() {
    let mut case = Case::new("input-inside");
    let out = case.path("model");
    assert_eq!(case.run(&out, &["--dtype", "f32"]).0, Some(0));
    let shard = files(&out).into_iter().find(|name| name.contains("-f32-")).unwrap();
    let before = listing(&out);
    // A model's own shard is a checkpoint, too.
    let given = case.checkpoint.clone();
    for inside in [out.join(&shard), out.join(".").join(&shard), case.path("model/../model").join(&shard)] {
        case.checkpoint = inside;
        let (status, said) = case.run(&out, &["--force"]);
        assert!(status == Some(2) && said.contains("lies in the folder to be written"), "{said}");
        assert_eq!(listing(&out), before);
    }
    // A file instead of a folder, the input itself for one.
    case.checkpoint = case.path("tiny.pth");
    std::fs::copy(given, &case.checkpoint).unwrap();
    let (status, said) = case.run(&case.checkpoint, &["--force"]);
    assert!(status == Some(2) && said.contains("is a file"), "{said}");
    // The working folder, with the inputs in it.
    let (status, said) = case.run_in(&case.parent, ".", &["--force"]);
    assert!(status == Some(2) && said.contains("lies in the folder to be written"), "{said}");
    assert_eq!(listing(&case.parent), ["config.json", "model", "tiny.pth"]);
}

#[test]
fn the_working_folder_an_empty_one_and_a_link_to_one_can_be_written() {
    let case = Case::new("in-place");
    for (name, out) in [("here", "."), ("dotted", "./"), ("up", "../up")] {
        std::fs::create_dir(case.path(name)).unwrap();
        let (status, said) = case.run_in(&case.path(name), out, &[]);
        assert_eq!(status, Some(0), "{name}: {said}");
        assert_whole(&case.path(name));
        assert_eq!(case.run_in(&case.path(name), out, &["--force", "--dtype", "f32"]).0, Some(0), "{name}");
        assert_whole(&case.path(name));
    }
    let deep = case.path("a/b/c");
    assert_eq!(case.run(&deep, &[]).0, Some(0));
    assert_whole(&deep);
    #[cfg(unix)]
    {
        std::fs::create_dir(case.path("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", case.path("link")).unwrap();
        assert_eq!(case.run(&case.path("link"), &[]).0, Some(0));
        assert!(case.path("link").is_symlink());
        assert_whole(&case.path("elsewhere"));
        std::os::unix::fs::symlink("nowhere", case.path("broken")).unwrap();
        let (status, said) = case.run(&case.path("broken"), &[]);
        assert!(status == Some(2) && said.contains("link to nothing"), "{said}");
    }
    // Below a file there are no folders.
    let (status, said) = case.run(&case.path("config.json/model"), &[]);
    assert!(matches!(status, Some(2 | 3)) && said.contains("remedy"), "{said}");
}

#[test]
fn whatever_fails_leaves_what_was_there_and_nothing_beside_it() {
    let case = Case::new("failures");
    let out = case.path("model");
    assert_eq!(case.run(&out, &[]).0, Some(0));
    let before = (listing(&out), std::fs::read(out.join(MANIFEST)).unwrap());
    for (key, value) in [("depth", json!(3)), ("embed_dim", json!(33)), ("steps", json!(0)), ("null_class", json!(9))] {
        let mut spoiled = tiny_config();
        spoiled[key] = value;
        std::fs::write(case.path("config.json"), spoiled.to_string()).unwrap();
        for target in [out.clone(), case.path("a/b"), case.path("new")] {
            let (status, said) = case.run(&target, &["--force"]);
            assert!(matches!(status, Some(2 | 3)) && said.contains("remedy"), "{key}: {status:?} {said}");
        }
        assert_eq!(listing(&case.parent), ["config.json", "model"], "{key}");
        assert_eq!((listing(&out), std::fs::read(out.join(MANIFEST)).unwrap()), before, "{key}");
    }
}

/// A killed run's leftovers at every place where it can be killed: the files that a run makes, up to one of them.
#[test]
fn a_killed_run_leaves_no_manifest_that_lists_what_is_missing_and_the_next_run_cleans_up() {
    let old = fresh("killed-old");
    convert(&old, Dtype::Q8, 0, 4000).unwrap();
    let new = fresh("killed-new");
    convert(&new, Dtype::F16, 0, 4000).unwrap();
    let shards = |folder: &Path| files(folder).into_iter().filter(|name| name != MANIFEST).collect::<Vec<_>>();
    let copy = |from: &Path, name: &str, to: &Path, as_name: &str| {
        assert!(std::fs::copy(from.join(name), to.join(as_name)).is_ok())
    };
    let again = |out: &Path, replace: bool| -> uvit_web::Result<()> {
        let config = odd_model::config();
        let mut manifest = describe(&config.to_string(), None, None)?;
        let storing = Storing::plain(Dtype::F32);
        let mut writer = Writer::new(out, &[], replace)?;
        writer.add(&mut manifest, DENOISER, &storing, &mut odd_model::checkpoint(&config))?;
        writer.finish(&manifest)
    };
    let count = shards(&new).len();
    assert!(count > 3);
    for replaced in [false, true] {
        for killed_at in 0..2 * count + 3 {
            let out = fresh(&format!("killed-{replaced}-{killed_at}"));
            std::fs::create_dir(&out).unwrap();
            if replaced {
                files(&old).iter().for_each(|name| copy(&old, name, &out, name));
            }
            // First all shards get written, the last one perhaps not to its end; then the manifests; then shards their names.
            let renamed = killed_at.saturating_sub(count + 2);
            for (i, name) in shards(&new).iter().enumerate().take(killed_at) {
                copy(&new, name, &out, &if i < renamed { name.clone() } else { format!(".uvit-partial-{name}") });
            }
            if killed_at == 2 {
                std::fs::write(out.join(format!(".uvit-partial-{}", shards(&new)[1])), "half").unwrap();
            }
            if killed_at == count + 1 {
                std::fs::write(out.join(".uvit-partial-next.json"), "{ \"format_version\": 2, \"na").unwrap();
            } else if killed_at > count + 1 {
                copy(&new, MANIFEST, &out, ".uvit-partial-next.json");
                if replaced {
                    copy(&old, MANIFEST, &out, ".uvit-partial-last.json");
                }
            }
            // The old model is whole all the while.
            assert_eq!(out.join(MANIFEST).exists(), replaced);
            if replaced {
                assert_eq!(load(&out).unwrap(), load(&old).unwrap());
                assert!(again(&out, false).unwrap_err().remedy.contains("--force"));
                // A run that fails cleans up, too.
                drop(Writer::new(&out, &[], true).unwrap());
                assert_eq!(listing(&out), listing(&old), "{killed_at}");
                continue;
            }
            again(&out, false).unwrap();
            assert_whole(&out);
        }
    }
    // Killed between the manifest's change and the removal of the last old shard.
    for left in 0..shards(&old).len() {
        let out = fresh(&format!("killed-late-{left}"));
        std::fs::create_dir(&out).unwrap();
        files(&new).iter().for_each(|name| copy(&new, name, &out, name));
        shards(&old).iter().skip(left).for_each(|name| copy(&old, name, &out, name));
        copy(&old, MANIFEST, &out, ".uvit-partial-last.json");
        assert_eq!(load(&out).unwrap(), load(&new).unwrap());
        again(&out, true).unwrap();
        assert_whole(&out);
    }
}

#[test]
fn a_run_that_is_really_killed_can_be_run_again() {
    let out = fresh("really-killed");
    let parent = out.parent().unwrap();
    let emoji = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/emoji");
    // Calibration takes minutes; the folder is taken at once.
    let weights = parent.join("weights.safetensors");
    let config: Value = serde_json::from_slice(&std::fs::read(emoji.join("config.json")).unwrap()).unwrap();
    let random = odd_model::checkpoint(&config);
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = random
        .into_iter()
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let view = |shape: &[usize], bytes| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap()
    };
    let views = bytes.iter().map(|(name, shape, bytes)| (name, view(shape, bytes)));
    std::fs::write(&weights, safetensors::serialize(views, None).unwrap()).unwrap();
    let command = |dtype: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uvit"));
        command.arg("convert").arg(&weights).arg("--config").arg(emoji.join("config.json"));
        command.args(["--dtype", "f16", "--dtype", dtype, "--out"]).arg(&out);
        command
    };
    let mut running = command("q4").spawn().unwrap();
    let partial = |name: &String| name.starts_with(".uvit-partial-denoiser-f16");
    while !(out.exists() && listing(&out).iter().any(partial)) {
        assert!(running.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(!out.join(MANIFEST).exists());
    assert!(command("f32").output().unwrap().status.success());
    assert_whole(&out);
    assert_eq!(Manifest::parse(&std::fs::read_to_string(out.join(MANIFEST)).unwrap()).unwrap().name, "emoji");
}
