//! What the tool writes: known to be possible before the work, saved whatever becomes of the screen, and never by halves.

use super::given::said;
use super::{MODEL, folder, printed, read_png, uvit};
use serde_json::Value;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

/// Names of everything in a folder.
fn listing(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uvit"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments);
    command
}

const DRAW: [&str; 7] = ["generate", MODEL, "--device", "cpu", "--steps", "1", "--out"];

#[test]
fn a_picture_is_saved_though_nobody_reads_what_is_printed() {
    let folder = folder("pipe");
    let out = folder.join("p.png");
    let draw = [&DRAW[..], &[out.to_str().unwrap()]].concat();
    // The reader is gone before the first line, and after it.
    for lines in [0, 1] {
        let mut child = tool(&draw).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdout.take().unwrap();
        if lines > 0 {
            pipe.read_exact(&mut [0; 8]).unwrap();
        }
        drop(pipe);
        let run = child.wait_with_output().unwrap();
        assert!(run.status.success() && !said(&run).contains("panicked"), "{run:?}");
        assert_eq!(read_png(&out).0, 64);
        std::fs::remove_file(&out).unwrap();
    }
    for arguments in [&["inspect", MODEL, "--tensors"][..], &["inspect", MODEL, "--json"]] {
        let mut child = tool(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let run = child.wait_with_output().unwrap();
        assert!(run.status.success() && said(&run).is_empty(), "{run:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_the_output_is_an_error_after_the_picture_was_saved() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let out = folder("full").join("p.png");
    let run = tool(&[&DRAW[..], &[out.to_str().unwrap()]].concat()).stdout(full()).output().unwrap();
    assert!(run.status.code() == Some(3) && said(&run).contains("error[IO]: the output"), "{run:?}");
    assert_eq!(read_png(&out).0, 64);
    let run = tool(&["inspect", MODEL]).stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(run.code(), Some(3));
    // A device is written to, and stays one.
    assert!(uvit(&[&DRAW[..], &["/dev/null"]].concat()).status.success());
    assert!(std::fs::File::options().write(true).open("/dev/null").is_ok() && !Path::new("/dev/null").is_file());
}

#[test]
fn outputs_are_looked_at_before_the_work() {
    let folder = folder("outputs");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    for name in ["taken.png", "q-8.png", "r.png"] {
        std::fs::create_dir(folder.join(name)).unwrap();
    }
    std::fs::write(folder.join("locked.png"), b"mine").unwrap();
    std::fs::set_permissions(folder.join("locked.png"), {
        let mut permissions = std::fs::metadata(folder.join("locked.png")).unwrap().permissions();
        permissions.set_readonly(true);
        permissions
    })
    .unwrap();
    let before = listing(&folder);
    for (out, more, status, words) in [
        ("no/p.png", &[][..], 3, "does not exist"),
        ("locked.png/p.png", &[], 3, "does not exist"),
        ("locked.png", &[], 3, "read-only"),
        ("q.png", &["--seed", "7", "--count", "2"], 3, "q-8.png is a folder"),
        ("p.jpg", &[], 2, ".png"),
        ("p.WEBP", &[], 2, ".png"),
    ] {
        // A model that cannot be loaded: the output is refused before that is found out.
        let broken = super::folder("outputs-model");
        std::fs::copy(Path::new(MODEL).join("manifest.json"), broken.join("manifest.json")).unwrap();
        let run =
            uvit(&[&["generate", broken.to_str().unwrap(), "--device", "cpu", "--out", &path(out)], more].concat());
        assert_eq!(run.status.code(), Some(status), "{out}: {run:?}");
        assert!(said(&run).contains(words), "{out}: {}", said(&run));
        assert_eq!(listing(&folder), before, "{out}");
    }
    assert_eq!(std::fs::read(folder.join("locked.png")).unwrap(), b"mine");

    // A folder means: into it.
    let inside = folder.join("inside");
    std::fs::create_dir(&inside).unwrap();
    let run = uvit(&[&DRAW[..], &[inside.to_str().unwrap(), "--seed", "7", "--count", "2"]].concat());
    assert!(run.status.success(), "{run:?}");
    assert_eq!(listing(&inside), ["uvit-7.png", "uvit-8.png", "uvit.png"]);
    assert!(printed(&run).contains(inside.join("uvit-8.png").to_str().unwrap()), "{run:?}");

    let roofline = ["bench", MODEL, "--device", "cpu", "--repeats", "1", "--roofline"];
    assert_eq!(uvit(&[&roofline[..], &[&path("no/r.svg")]].concat()).status.code(), Some(3));
    assert_eq!(uvit(&[&roofline[..], &[&path("r.png")]].concat()).status.code(), Some(3));
}

#[test]
fn latents_are_no_pictures_and_come_as_floats() {
    let folder = folder("latents");
    let read = |path: &str| serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap();
    let mut config = read("tests/fixtures/emoji/config.json");
    let golden = read("tests/goldens/uvit_small_activations/config.json");
    config.as_object_mut().unwrap().extend(golden["params"].as_object().unwrap().clone());
    config["null_class"] = Value::Null;
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let checkpoint = ["convert", "tests/weights/tiny.pth", "--config", &path("config.json"), "--dtype", "f32"];
    assert!(uvit(&[&checkpoint[..], &["--out", &path("model")]].concat()).status.success());
    let draw = |out: &str, more: &[&str]| {
        let fixed = ["generate", &path("model"), "--device", "cpu", "--compute", "f32", "--steps", "2", "--seed", "5"];
        uvit(&[&fixed[..], &["--out", &path(out)], more].concat())
    };
    std::fs::create_dir(folder.join("folder")).unwrap();
    for out in ["l.png", "l", "folder"] {
        let run = draw(out, &[]);
        assert_eq!(run.status.code(), Some(2), "{run:?}");
        for word in ["latents of 4 x 8 x 8", ".npy", "autoencoder"] {
            assert!(said(&run).contains(word), "{run:?}");
        }
    }
    assert!(!folder.join("l.png").exists());

    assert!(draw("l.npy", &["--count", "2"]).status.success());
    let npy = std::fs::read(folder.join("l.npy")).unwrap();
    let header = 10 + usize::from(u16::from_le_bytes([npy[8], npy[9]]));
    assert!(npy.starts_with(b"\x93NUMPY\x01\x00") && header % 64 == 0 && npy[header - 1] == b'\n');
    let text = std::str::from_utf8(&npy[10..header]).unwrap();
    assert!(text.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4, 8, 8), }"), "{text}");
    assert_eq!(npy.len(), header + 4 * 2 * 4 * 8 * 8);

    assert!(draw("l.safetensors", &["--count", "2"]).status.success());
    let bytes = std::fs::read(folder.join("l.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let images = file.tensor("images").unwrap();
    assert_eq!((images.shape(), images.data()), (&[2, 4, 8, 8][..], &npy[header..]));
    let (_, about) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let settings: Value = serde_json::from_str(&about.metadata().as_ref().unwrap()["settings"]).unwrap();
    assert_eq!((&settings["seed"], &settings["count"], &settings["steps"]), (&5.into(), &2.into(), &2.into()));
    assert_eq!(listing(&folder), ["config.json", "folder", "l.npy", "l.safetensors", "model"]);
}

#[test]
fn a_manifest_is_rewritten_whole() {
    let model = folder("rewritten");
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let before = listing(&model);
    let manifest = model.join("manifest.json");
    // Whoever has the old file open still reads the old file.
    let mut open = std::fs::File::open(&manifest).unwrap();
    let old = std::fs::read(&manifest).unwrap();
    let arguments =
        ["block-cache", model.to_str().unwrap(), "--device", "cpu", "--pictures", "1", "--refresh", "5", "--write"];
    let run = uvit(&arguments);
    assert!(run.status.success(), "{run:?}");
    let mut read = Vec::new();
    open.read_to_end(&mut read).unwrap();
    assert!(read == old && std::fs::read(&manifest).unwrap() != old);
    assert_eq!(listing(&model), before);
    assert_eq!(printed(&run).trim(), {
        let manifest: Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
        manifest["sampling"]["cache"].to_string()
    });
    // Known before the work.
    let mut permissions = std::fs::metadata(&manifest).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&manifest, permissions).unwrap();
    let run = uvit(&arguments);
    assert!(run.status.code() == Some(3) && said(&run).contains("read-only") && printed(&run).is_empty(), "{run:?}");
}
