//! `uvit convert` with large checkpoints: presets, memory, interrupted runs, full disks, hostile files.
#![cfg(feature = "cli")]

mod odd_model;
#[path = "checkpoints/random.rs"]
#[allow(dead_code)]
mod random_checkpoint;

use odd_model::{fresh, listing, load};
use random_checkpoint::pth::{Py, save};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use uvit_web::model::Batch;
use uvit_web::package::{DENOISER, MANIFEST, Storing, Writer, describe, preset, read_manifest};
use uvit_web::weights::Dtype;
use uvit_web::weights::checkpoint::{Checkpoint, Source};
use uvit_web::{Code, Result};

fn uvit(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_uvit")).arg("convert").args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// How many bytes a preset's largest tensor has in f32.
fn largest_tensor(name: &str) -> u64 {
    let plan = preset(name).unwrap().network().unwrap().record(Batch::plain(1)).unwrap().plan;
    plan.published().map(|w| 4 * w.shape.iter().product::<usize>() as u64).max().unwrap()
}

/// The most memory that a process has had, in bytes, read until it ends.
#[cfg(target_os = "linux")]
fn peak_of(command: &mut Command) -> u64 {
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(1024 * kilobytes.unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success());
    peak
}

#[cfg(target_os = "linux")]
#[test]
fn a_checkpoint_goes_through_in_little_memory_and_is_known_by_its_tensors() {
    let out = fresh("memory");
    let checkpoint = out.with_file_name("nnet_ema.pth");
    random_checkpoint::write("cifar10_uvit_small", &checkpoint);
    let largest = largest_tensor("cifar10_uvit_small");
    let bytes = std::fs::metadata(&checkpoint).unwrap().len();
    let bound = largest + (32 << 20) + 64_000_000;
    assert!(bytes > bound + 50_000_000, "the checkpoint is too small to tell: {bytes} bytes");
    for dtype in ["f32", "q8"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uvit"));
        command.arg("convert").arg(&checkpoint).args(["--dtype", dtype, "--calibration", "0", "--force", "--out"]);
        let peak = peak_of(command.arg(&out));
        assert!(peak > 1_000_000 && peak <= bound, "{dtype}: {peak} bytes, {bound} are allowed");
    }
    let (manifest, _) = read_manifest(&out).unwrap();
    assert_eq!(manifest.name, "cifar10_uvit_small");

    // Said, and the same with its name.
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let base = [&path(&checkpoint), "--dtype", "q8", "--calibration", "0", "--force", "--out", &path(&out)];
    let run = uvit(&base);
    let printed = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(printed.contains("cifar10_uvit_small: taken for a U-ViT of embed_dim 512, depth 12"), "{printed}");
    let inspected = Command::new(env!("CARGO_BIN_EXE_uvit")).args(["inspect", base[0], "--json"]).output().unwrap();
    assert!(String::from_utf8_lossy(&inspected.stdout).contains("\"name\":\"cifar10_uvit_small\""), "{inspected:?}");
    let first = std::fs::read(out.join(MANIFEST)).unwrap();
    let run = uvit(&[&base[..], &["--preset", "cifar10_uvit_small"]].concat());
    assert!(run.status.success() && std::fs::read(out.join(MANIFEST)).unwrap() == first, "{}", said(&run));
    // Another preset does not fit, one that there is not is named with those that there are, and two sources are one too many.
    for (more, words) in [
        (&["--preset", "celeba64_uvit_small"][..], "TENSOR_SHAPE"),
        (&["--preset", "cifar11"], "celeba64_uvit_small"),
        (&["--preset", "cifar10_uvit_small", "--config", "config.json"], "cannot be used with"),
    ] {
        let run = uvit(&[&base[..], more].concat());
        assert!(!run.status.success() && said(&run).contains(words), "{more:?}: {}", said(&run));
        assert_eq!(std::fs::read(out.join(MANIFEST)).unwrap(), first);
    }
    std::fs::remove_dir_all(out.parent().unwrap()).unwrap();
}

#[test]
fn what_is_no_published_u_vit_is_refused_with_what_it_looks_like() {
    let out = fresh("strangers");
    let path = out.with_file_name("weights.pth");
    let run_with = |entries: Vec<(&str, Vec<usize>)>, more: &[&str]| {
        let zeros = |(name, shape): (&str, Vec<usize>)| {
            let count = shape.iter().product();
            (name.to_owned(), Py::Tensor(shape, vec![0.0; count]))
        };
        save(&path, &Py::StateDict(entries.into_iter().map(zeros).collect()), 2);
        let run = uvit(&[&[path.to_str().unwrap(), "--dtype", "q8", "--out", out.to_str().unwrap()], more].concat());
        assert!(!run.status.success() && !out.exists(), "{run:?}");
        said(&run)
    };
    let run = |entries| run_with(entries, &[]);
    let dit = ["x_embedder.proj.weight", "t_embedder.mlp.0.weight", "blocks.0.adaLN_modulation.1.weight"];
    assert!(run(dit.map(|name| (name, vec![4])).to_vec()).contains("looks like a DiT or SiT"));
    let words = run_with(dit.map(|name| (name, vec![4])).to_vec(), &["--preset", "cifar10_uvit_small"]);
    assert!(words.contains("TENSOR_MISSING") && words.contains("looks like a DiT or SiT"), "{words}");
    assert!(run(vec![("conv.weight", vec![4])]).contains("no U-ViT"));
    let words = run(vec![
        ("patch_embed.proj.weight", vec![128, 3, 2, 2]),
        ("pos_embed", vec![1, 18, 128]),
        ("label_emb.weight", vec![10, 128]),
        ("in_blocks.0.attn.qkv.weight", vec![384, 128]),
        ("mid_block.attn.qkv.weight", vec![384, 128]),
        ("mid_block.mlp.fc1.weight", vec![512, 128]),
        ("decoder_pred.weight", vec![12, 128]),
    ]);
    let want =
        "embed_dim 128, depth 2, patch_size 2, in_chans 3, img_size 8, mlp_ratio 4, num_classes 10, qkv_bias false";
    assert!(words.contains(want) && words.contains("--config"), "{words}");
}

/// Counts what is read.
struct Counted(Checkpoint, usize);

impl Source for Counted {
    fn values(&mut self, name: &str) -> Result<Vec<f32>> {
        self.1 += 1;
        Source::values(&mut self.0, name)
    }
}

/// Writes a model up to its manifest, and reads so many tensors for it; `kill` leaves all as a killed run does.
fn write(out: &Path, work: &str, kill: bool) -> usize {
    let config = odd_model::config();
    let mut manifest = describe(&config.to_string(), None, None).unwrap();
    let mut source = Counted(odd_model::checkpoint(&config), 0);
    let mut writer = Writer::resuming(out, &[], false, work).unwrap().with_shard_bytes(4000);
    writer.add(&mut manifest, DENOISER, &Storing::plain(Dtype::Q8), &mut source).unwrap();
    if kill {
        std::mem::forget(writer);
    } else {
        writer.finish(&manifest).unwrap();
    }
    source.1
}

#[test]
fn an_interrupted_run_is_continued_if_it_was_the_same() {
    let out = fresh("resumed");
    let all = write(&out, "one", true);
    assert!(all > 20 && !out.join(MANIFEST).exists());
    assert!(listing(&out).iter().all(|name| name.starts_with(".uvit-partial-")));
    // All shards are there.
    assert_eq!(write(&out, "one", true), 0);
    // A shard that is damaged is written again, alone.
    let shard = listing(&out).into_iter().find(|name| name.contains("q8-00003")).unwrap();
    std::fs::write(out.join(&shard), b"half").unwrap();
    assert!((1..all / 2).contains(&write(&out, "one", true)));
    // Other work takes over nothing.
    assert_eq!(write(&out, "two", true), all);
    // A list that is cut short is none.
    std::fs::write(out.join(".uvit-partial-journal.json"), "{ \"fingerprint\": ").unwrap();
    assert_eq!(write(&out, "two", true), all);
    assert_eq!(write(&out, "two", false), 0);
    assert!(listing(&out).iter().all(|name| !name.starts_with('.')));
    // As if it had never been interrupted.
    let whole = fresh("whole");
    write(&whole, "one", false);
    assert_eq!((listing(&out), load(&out).unwrap()), (listing(&whole), load(&whole).unwrap()));
}

#[test]
fn rounded_matrices_outlive_a_killed_run() {
    let config = odd_model::config();
    let plan = odd_model::network(&config).record(Batch::plain(1)).unwrap().plan;
    let mut source = odd_model::checkpoint(&config);
    for dtype in [Dtype::Q8, Dtype::Q4] {
        let storing = Storing::plain(dtype);
        let out = fresh("rounded");
        let open = |work| Writer::resuming(&out, &[], false, work).unwrap();
        let mut writer = open("one");
        let weight = plan.published().find(|weight| weight.name.ends_with("fc2.weight")).unwrap();
        let tensor = storing.tensor(weight, &storing.form(weight), &mut source).unwrap();
        assert!(writer.rounded(DENOISER, &storing, weight).is_none());
        writer.keep_rounded(DENOISER, &storing, weight, &tensor).unwrap();
        std::mem::forget(writer);
        let writer = open("one");
        assert_eq!((writer.found(), writer.rounded(DENOISER, &storing, weight)), (1, Some(tensor)));
        std::mem::forget(writer);
        assert_eq!(open("two").rounded(DENOISER, &storing, weight), None);
        // The folder is left as it was found: not by this run.
        assert!(listing(&out).is_empty());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_too_small_leaves_nothing() {
    let out = fresh("full");
    let config = out.with_file_name("config.json");
    std::fs::write(&config, odd_model::config().to_string()).unwrap();
    let weights: Vec<(String, Py)> = odd_model::checkpoint(&odd_model::config())
        .into_iter()
        .map(|(name, (shape, values))| (name, Py::Tensor(shape, values)))
        .collect();
    let checkpoint = out.with_file_name("weights.pth");
    save(&checkpoint, &Py::StateDict(weights), 2);
    // No file may become larger than 16 blocks, and the signal that says so is ignored.
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"";
    let run = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_uvit"), "convert"])
        .arg(&checkpoint)
        .arg("--config")
        .arg(&config)
        .args(["--dtype", "f32", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    assert!(run.status.code() == Some(3) && said(&run).contains("error[IO]"), "{run:?}");
    assert!(said(&run).contains("remedy: Allow files") && !out.exists(), "{run:?}");
}

/// A zip of these entries, with a method for each.
fn zipped(name: &str, entries: &[(&str, &[u8])]) -> PathBuf {
    let path = fresh(name).with_file_name("weights.pth");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in entries {
        zip.start_file(*name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    path
}

#[test]
fn hostile_zips_are_refused_before_any_work() {
    let refused = |path: &Path, words: &str| {
        let error = uvit_web::weights::checkpoint::read(path).unwrap_err();
        assert!(error.code == Code::BadCheckpoint && error.cause.contains(words), "{words}: {error}");
    };
    let pickle = b"\x80\x02}.".as_slice();
    for name in ["a/../../etc/x", "/etc/x", "a\\..\\x"] {
        refused(&zipped("traversal", &[("a/data.pkl", pickle), (name, b"x")]), "leads out of the zip");
    }
    for (pickle, words) in [
        (b"\x80\x02cos\nsystem\n\x8c\x04true\x85R.".as_slice(), "asks for os.system"),
        (b"\x80\x02c__builtin__\neval\n\x8c\x011\x85R.", "asks for __builtin__.eval"),
        (b"\x80\x04\x8c\x0asubprocess\x8c\x05Popen\x93\x8c\x04true\x85R.", "asks for subprocess.Popen"),
        (b"(S'true'\nios\nsystem\n.", "asks for os.system"),
        (b"(cos\nsystem\nS'true'\no.", "asks for os.system"),
        // What no list of dangerous functions would have.
        (b"\x80\x02ctraining.setup\ninstall\n)R.", "asks for training.setup.install"),
        (b"\x80\x02ctorch._utils\n_import_dotted_name\n\x8c\x02os\x85R.", "asks for torch._utils._import_dotted_name"),
        // A function that the pickle makes first.
        (b"\x80\x02cfunctools\npartial\ncos\nsystem\n\x85R\x8c\x04true\x85R.", "asks for a call of a value"),
    ] {
        refused(&zipped("pickle", &[("a/data.pkl", pickle)]), words);
    }
    // Sizes that a directory claims: a compressed entry that would be far larger, and stored ones beyond the file.
    let sound = zipped("bomb", &[("a/data.pkl", pickle), ("a/data/0", &[0; 64])]);
    let bytes = std::fs::read(&sound).unwrap();
    // The last entry of the central directory: method at 10, packed size at 20, size at 24.
    let at = bytes.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap();
    for (changes, words) in [
        (&[(10, 8u32), (24, 0x7fff_ffff)][..], "compressed"),
        (&[(24, 0x7fff_ffff)], "compressed"),
        (&[(20, 0x7fff_ffff), (24, 0x7fff_ffff)], "larger than the file"),
    ] {
        let mut spoiled = bytes.clone();
        for &(field, value) in changes {
            let width = if field == 10 { 2 } else { 4 };
            spoiled[at + field..][..width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        std::fs::write(&sound, spoiled).unwrap();
        refused(&sound, words);
    }
}
