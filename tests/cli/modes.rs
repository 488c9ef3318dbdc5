//! Models that read and write both pictures and words: `uvit caption`, `uvit vary` and `uvit generate --mode`, on the avatars model
//! (`UVIT_MODELS`) with the pictures and texts that PyTorch gives for their seeds.

use super::given::said;
use super::{MODEL, avatar_package, folder, printed, read_png, uvit};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;

/// The converted model, its sources' folder, and PyTorch's runs.
struct Avatars {
    model: String,
    sources: PathBuf,
    runs: Vec<Value>,
}

impl Avatars {
    /// Converted once for all tests.
    fn found() -> Option<&'static Avatars> {
        static AVATARS: OnceLock<Option<Avatars>> = OnceLock::new();
        AVATARS.get_or_init(Avatars::convert).as_ref()
    }

    fn convert() -> Option<Avatars> {
        let (sources, _, reference) = avatar_package::found()?;
        let model = folder("modes-model").join("avatars").to_str().unwrap().to_owned();
        let plain = ["--dtype", "f32", "--calibration", "0", "--preview", "0", "--out", &model];
        done(&uvit(&[&["convert", sources.to_str().unwrap()], &plain[..]].concat()));
        Some(Avatars { model, sources, runs: reference["end_to_end"].as_array().unwrap().clone() })
    }

    fn run(&self, id: &str) -> &Value {
        self.runs.iter().find(|run| run["id"] == id).unwrap()
    }

    fn caption(&self, id: &str) -> &str {
        self.run(id)["beam_caption"].as_str().unwrap()
    }

    fn seed(&self, id: &str) -> String {
        self.run(id)["seed"].to_string()
    }

    /// One of the pictures beside the model.
    fn picture(&self, number: usize) -> String {
        self.sources.join(format!("pictures/{number}.png")).to_str().unwrap().to_owned()
    }
}

const CPU: [&str; 4] = ["--device", "cpu", "--compute", "f32"];

fn done(run: &Output) -> String {
    assert!(run.status.success(), "{}", said(run));
    printed(run)
}

fn refused(arguments: &[&str], words: &[&str]) {
    let run = uvit(arguments);
    let said = said(&run);
    assert_eq!(run.status.code(), Some(2), "{arguments:?}: {said}");
    assert!(said.starts_with("error[INVALID_ARGUMENT]: ") || said.contains("\nerror[INVALID_ARGUMENT]: "), "{said}");
    assert!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
}

/// A picture turned a quarter, which its EXIF data turn back, with an alpha channel.
fn turned(from: &str, to: &Path) {
    let (width, height, pixels, _) = read_png(from.as_ref());
    let channels = pixels.len() / (width * height) as usize;
    let mut rgba = Vec::new();
    // Its columns, bottom up, as rows: orientation 8 asks for a quarter against the clock.
    for x in 0..width {
        for y in (0..height).rev() {
            let at = channels * (y * width + x) as usize;
            rgba.extend_from_slice(&pixels[at..at + 3]);
            rgba.push(255);
        }
    }
    let mut info = png::Info::with_size(height, width);
    (info.color_type, info.bit_depth) = (png::ColorType::Rgba, png::BitDepth::Eight);
    let exif = [&b"II*\0\x08\0\0\0\x01\0"[..], &[0x12, 0x01, 3, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]].concat();
    info.exif_metadata = Some(exif.into());
    let encoder = png::Encoder::with_info(std::fs::File::create(to).unwrap(), info).unwrap();
    encoder.write_header().unwrap().write_image_data(&rgba).unwrap();
}

#[test]
fn caption_says_what_pytorch_says_of_each_picture() {
    let Some(avatars) = Avatars::found() else { return };
    let other = folder("caption").join("turned.png");
    turned(&avatars.picture(0), &other);
    let (first, other) = (avatars.picture(0), other.to_str().unwrap());
    let seed = avatars.seed("i2t_0");
    let fixed = [&["caption", &avatars.model, "--seed", &seed], &CPU[..]].concat();
    let want = avatars.caption("i2t_0");
    assert_eq!(done(&uvit(&[&fixed[..], &[&first]].concat())), format!("{want}\n"));
    // The same picture, another way up.
    let both = done(&uvit(&[&fixed[..], &[&first, other]].concat()));
    assert_eq!(both, format!("{first}: {want}\n{other}: {want}\n"));
    let told = done(&uvit(&[&fixed[..], &[&first, "--json", "--beams", "1"]].concat()));
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told.as_array().unwrap().len(), 1);
    let run = avatars.run("i2t_0");
    assert_eq!((&told[0]["text"], &told[0]["ids"]), (&run["greedy_caption"], &run["greedy_tokens"]));
    assert_eq!((&told[0]["seed"], &told[0]["ended"], &told[0]["picture"]), (&run["seed"], &true.into(), &first.into()));
}

#[test]
fn joint_pictures_hold_their_texts_and_texts_alone_have_a_file() {
    let Some(avatars) = Avatars::found() else { return };
    let folder = folder("joint");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let draw = |more: &[&str]| uvit(&[&["generate", &avatars.model], &CPU[..], more].concat());
    let printed = done(&draw(&["--mode", "joint", "--seed", "31", "--count", "2", "--out", &path("pair.png")]));
    for (id, name) in [("joint_0", "pair-31.png"), ("joint_1", "pair-32.png")] {
        let texts = read_png(&folder.join(name)).3;
        let chunk = |keyword: &str| texts.iter().find(|(known, _)| known == keyword).unwrap().1.clone();
        assert_eq!(chunk("Description"), avatars.caption(id));
        let settings: Value = serde_json::from_str(&chunk("Settings")).unwrap();
        assert_eq!((&settings["mode"], &settings["seed"]), (&"joint".into(), &avatars.run(id)["seed"]));
        assert_eq!(settings["texts"], serde_json::json!([avatars.caption(id)]));
        assert!(printed.lines().any(|line| line == avatars.caption(id)), "{printed}");
    }
    // Drawn again from what it holds.
    let again = done(&draw(&["--from", &path("pair-31.png"), "--out", &path("again.png")]));
    assert!(again.contains("the same picture, bit for bit"), "{again}");

    done(&draw(&["--mode", "t", "--seed", &avatars.seed("t_0"), "--out", &path("words.txt")]));
    assert_eq!(std::fs::read_to_string(path("words.txt")).unwrap(), format!("{}\n", avatars.caption("t_0")));
    done(&draw(&["--image", &avatars.picture(0), "--seed", "21", "--out", &path("words.json")]));
    let settings: Value = serde_json::from_slice(&std::fs::read(path("words.json")).unwrap()).unwrap();
    assert_eq!(settings["texts"], serde_json::json!([avatars.caption("i2t_0")]));
    assert_eq!((&settings["mode"], settings["imageSha256"].as_str().map(str::len)), (&"i2t".into(), Some(64)));
}

#[test]
fn vary_draws_another_picture_and_finds_other_words() {
    let Some(avatars) = Avatars::found() else { return };
    let folder = folder("vary");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let vary = |more: &[&str]| uvit(&[&["vary", &avatars.model], &CPU[..], more].concat());
    let run = avatars.run("t2i2t_0");
    let (prompt, seed) = (run["prompt"].as_str().unwrap(), avatars.seed("t2i2t_0"));
    let printed = done(&vary(&["--prompt", prompt, "--seed", &seed, "--out", folder.to_str().unwrap()]));
    assert!(printed.lines().any(|line| line == avatars.caption("t2i2t_0")), "{printed}");
    // The picture that lies between holds them.
    let texts = read_png(&folder.join("uvit.png")).3;
    assert!(texts.contains(&("Description".into(), avatars.caption("t2i2t_0").into())), "{texts:?}");
    done(&vary(&["--prompt", prompt, "--seed", &seed, "--steps", "2", "--count", "2", "--out", &path("words.txt")]));
    assert_eq!(std::fs::read_to_string(path("words.txt")).unwrap().lines().count(), 2);
    assert!(!folder.join("words-71.png").exists());

    done(&vary(&["--image", &avatars.picture(0), "--seed", "3", "--steps", "20", "--out", &path("other.png")]));
    let (width, _, other, texts) = read_png(&folder.join("other.png"));
    assert!(width == 64 && texts.iter().any(|(name, text)| name == "Settings" && text.contains("\"mode\":\"i2t2i\"")));
    // It is a picture like the one that it began with, and another.
    let (_, _, given, _) = read_png(avatars.picture(0).as_ref());
    let channels = given.len() / (64 * 64);
    let apart = |i: usize| f64::from(given[i / 3 * channels + i % 3].abs_diff(other[i / 3 * 4 + i % 3]));
    let mean = (0..3 * 64 * 64).map(apart).sum::<f64>() / (3.0 * 64.0 * 64.0);
    assert!((0.5..50.0).contains(&mean), "{mean}");
}

#[test]
fn what_a_mode_has_no_use_for_is_refused() {
    let folder = folder("refused");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let out = path("p.png");
    std::fs::write(path("words.png"), "a thousand words").unwrap();
    // Before anything is loaded.
    refused(&["caption", MODEL, "web/models/emoji/manifest.json"], &["task of emoji", "\"any\""]);
    refused(&["vary", MODEL, "--prompt", "a hat"], &["task of emoji"]);
    let any = "web/models/avatars";
    refused(&["caption", any, &path("words.png")], &["words.png: it is no picture", "PNG, JPEG, WebP or GIF"]);
    assert_eq!(uvit(&["caption", any, &path("none.png")]).status.code(), Some(3));
    refused(&["vary", any, "--image", &path("words.png")], &["it is no picture"]);
    refused(&["generate", any, "--mode", "t2v", "--out", &out], &["there is no mode \"t2v\"", "t2i2t"]);
    refused(&["generate", any, "--mode", "t", "--out", &out], &["only texts come out", ".txt or .json"]);
    refused(&["generate", any, "--mode", "i", "--out", &path("p.txt")], &["no texts come out", ".png"]);
    refused(&["generate", any, "--mode", "t", "--out", &path("p.jpg")], &[".jpg is not written", ".txt"]);
    refused(
        &["generate", any, "--mode", "t", "--seed", "1", "--out-npz", &path("p.npz")],
        &["--out-npz takes pictures"],
    );
    for arguments in [&["vary", any][..], &["vary", any, "--prompt", "a", "--image", "b"], &["caption", any]] {
        assert_eq!(uvit(arguments).status.code(), Some(2), "{arguments:?}");
    }
    // By the model itself.
    let cpu = ["generate", any, "--device", "cpu", "--steps", "1", "--out", &out];
    for (more, words) in [
        (&["--mode", "i", "--prompt", "a hat"][..], &["mode is \"i\", which takes no prompt", "t2i"][..]),
        (&["--mode", "i2t2i"], &["i2t2i"]),
        (&["--mode", "t2i", "--prompt", "a hat", "--beams", "0"], &["beams is 0"]),
    ] {
        refused(&[&cpu[..], more].concat(), words);
    }
    assert!(std::fs::read_dir(&folder).unwrap().count() == 1);
}

/// A model that lacks what a mode needs.
#[test]
fn a_mode_whose_component_is_not_there_is_refused_with_its_name() {
    let model = folder("blind");
    for entry in std::fs::read_dir("web/models/avatars").unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let manifest = model.join("manifest.json");
    let mut about: Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    for name in ["image_encoder", "caption_decoder"] {
        about["components"].as_object_mut().unwrap().remove(name);
    }
    std::fs::write(&manifest, about.to_string()).unwrap();
    let picture = model.join("dot.png");
    super::starts::write_png(picture.to_str().unwrap(), 1, 1, |_, _| [200, 40, 90]);
    let (model, picture) = (model.to_str().unwrap(), picture.to_str().unwrap());
    refused(&["caption", model, picture, "--device", "cpu"], &["no image_encoder"]);
    refused(&["vary", model, "--image", picture, "--device", "cpu"], &["no image_encoder"]);
    refused(&["vary", model, "--prompt", "a hat", "--device", "cpu"], &["no caption_decoder"]);
}
