//! Clips: the files that they are written to and started from, and what a model of them, or of pictures, refuses.

use super::starts::write_png;
use super::{MODEL, clip_model, folder, printed, read_png, uvit};
use serde_json::Value;
use std::path::Path;
use std::process::Output;
use std::sync::OnceLock;

/// A small model of clips: 8 frames of 8 x 8 pixels.
fn model() -> &'static str {
    static MODEL: OnceLock<String> = OnceLock::new();
    MODEL.get_or_init(|| {
        let out = folder("clips-model").join("model");
        clip_model::write(&out, &clip_model::small());
        out.to_str().unwrap().to_owned()
    })
}

fn draw_from(more: &[&str]) -> Output {
    uvit(&[&["generate", model(), "--device", "cpu", "--compute", "f32", "--label", "1"], more].concat())
}

fn draw(more: &[&str]) -> Output {
    draw_from(&[&["--seed", "3"], more].concat())
}

fn done(run: &Output) -> String {
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    printed(run)
}

fn refused(run: &Output, parts: &[&str]) {
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(2), "{said}");
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
}

/// Frames of an APNG, RGBA, the delay between them and its settings.
fn read_apng(path: &Path) -> (Vec<Vec<u8>>, (u16, u16), Value) {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let count = reader.info().animation_control().unwrap().num_frames;
    let mut frames = Vec::new();
    for _ in 0..count {
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        frames.push(pixels);
    }
    let control = reader.info().frame_control().copied().unwrap();
    let text = reader.info().utf8_text.iter().find(|chunk| chunk.keyword == "Settings").unwrap().get_text().unwrap();
    (frames, (control.delay_num, control.delay_den), serde_json::from_str(&text).unwrap())
}

/// Frames of a folder, in order.
fn read_folder(path: &Path, count: usize) -> Vec<Vec<u8>> {
    assert_eq!(std::fs::read_dir(path).unwrap().count(), count);
    (1..=count).map(|k| read_png(&path.join(format!("frame-{k:04}.png"))).2).collect()
}

#[test]
fn a_clip_is_an_apng_a_gif_frames_or_floats_and_the_same_in_each() {
    let folder = folder("clips-written");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let said = done(&draw(&["--out", &path("c.png")]));
    assert!(said.contains("8 frames, seed 3, 4 steps"), "{said}");
    let (frames, delay, settings) = read_apng(&folder.join("c.png"));
    assert_eq!((frames.len(), delay), (8, (1, 6)));
    assert_eq!((settings["frames"].as_u64(), settings["frameRate"].as_f64()), (Some(8), Some(6.0)));
    assert!(frames.windows(2).all(|pair| pair[0] != pair[1]));
    // No picture has more than 64 colours: a GIF holds them all.
    done(&draw(&["--out", &path("c.gif")]));
    let gif = image::codecs::gif::GifDecoder::new(std::io::BufReader::new(std::fs::File::open(path("c.gif")).unwrap()))
        .unwrap();
    let of_gif = image::AnimationDecoder::into_frames(gif).map(|frame| frame.unwrap().into_buffer().into_raw());
    assert_eq!(of_gif.collect::<Vec<_>>(), frames);
    done(&draw(&["--out", &path("frames/")]));
    assert_eq!(read_folder(&folder.join("frames"), 8), frames);
    done(&draw(&["--out", &path("c.npy")]));
    let npy = std::fs::read(path("c.npy")).unwrap();
    assert!(String::from_utf8_lossy(&npy[..128]).contains("'shape': (1, 8, 3, 8, 8)"));
    let floats: Vec<f32> =
        npy[npy.len() - 8 * 192 * 4..].as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    for (k, frame) in frames.iter().enumerate() {
        let value = |at: usize, c: usize| uvit_web::pipeline::pixels::to_u8(floats[k * 192 + c * 64 + at]);
        assert!((0..64).all(|at| (0..3).all(|c| frame[4 * at + c] == value(at, c))), "frame {k}");
    }

    // Several, each in a file or folder of its own.
    let said = done(&draw(&["--count", "2", "--out", &path("two.png")]));
    assert!(said.contains("two-3.png") && said.contains("two-4.png") && !folder.join("two.png").exists(), "{said}");
    done(&draw(&["--count", "2", "--out", &path("many/")]));
    done(&draw_from(&["--seed", "4", "--out", &path("alone.png")]));
    let [second, alone] = ["two-4.png", "alone.png"].map(|name| read_apng(&folder.join(name)));
    let apart = |(a, b): (&u8, &u8)| a.abs_diff(*b);
    assert!(second.0.concat().iter().zip(&alone.0.concat()).map(apart).max() <= Some(1));
    assert_eq!(second.2["seed"], 4);
    assert_eq!(read_folder(&folder.join("many").join("4"), 8), second.0);

    let said = done(&uvit(&["generate", model(), "--from", &path("two-4.png"), "--out", &path("again.png")]));
    assert!(said.contains("the same clip, bit for bit") || said.contains("by up to 1 of 255"), "{said}");
    refused(&draw(&["--out", &path("c.webm")]), &[".webm is not written", ".gif"]);
    refused(&draw(&["--out-npz", &path("c.npz")]), &["--out-npz takes pictures, and this model draws clips"]);
}

#[test]
fn long_clips_begin_with_given_frames_and_clips_start_from_clips() {
    let folder = folder("clips-started");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    for (name, colour) in [("a.png", [250, 10, 20]), ("b.png", [20, 200, 40])] {
        write_png(&path(name), 8, 8, |_, _| colour);
    }
    let first = ["--first-frame", &path("a.png"), "--first-frame", &path("b.png")];
    let said = done(&draw(&[&["--frames", "19", "--overlap", "2", "--out", &path("long.png")], &first[..]].concat()));
    assert!(said.contains("19 frames, seed 3, 12 steps"), "{said}");
    let (long, _, settings) = read_apng(&folder.join("long.png"));
    assert_eq!(long.len(), 19);
    for (frame, colour) in [(0, [250, 10, 20, 255]), (1, [20, 200, 40, 255])] {
        assert!(long[frame].as_chunks::<4>().0.iter().all(|pixel| *pixel == colour), "{frame}");
    }
    assert_eq!(
        (&settings["frames"], &settings["overlap"], &settings["firstFrames"]),
        (&19.into(), &2.into(), &2.into())
    );
    let again = uvit(&["generate", model(), "--from", &path("long.png"), "--out", &path("again.png")]);
    refused(&again, &["drawn with --first-frame, which is not given"]);
    let [one, out] = ["long.png", "again.png"].map(path);
    let again = uvit(&[&["generate", model(), "--from", &one, "--out", &out], &first[..]].concat());
    assert!(done(&again).contains("the same clip, bit for bit"));

    // The same clip from an APNG, a GIF and a folder.
    for out in ["init.png", "init.gif", "init/"] {
        done(&draw_from(&["--seed", "9", "--out", &path(out)]));
    }
    let from = |init: &str, more: &[&str]| {
        draw(
            &[&["--init-clip", &path(init), "--strength", "0.5", "--steps", "6", "--out", &path("started.png")], more]
                .concat(),
        )
    };
    let started = ["init.png", "init.gif", "init/"].map(|init| {
        done(&from(init, &[]));
        read_apng(&folder.join("started.png")).0
    });
    assert!(started[0] == started[1] && started[0] == started[2]);
    assert_ne!(started[0], read_apng(&folder.join("init.png")).0);
    // All of it kept.
    write_png(&path("black.png"), 8, 8, |_, _| [0; 3]);
    done(&from("init.png", &["--mask", &path("black.png")]));
    assert_eq!(read_apng(&folder.join("started.png")).0, read_apng(&folder.join("init.png")).0);

    refused(&from("long.png", &[]), &["long.png: it has 19 frames, and 8 are drawn", "Give 8 frames of 8 x 8 pixels"]);
    refused(&from("a.png", &[]), &["it has 1 frames, and 8 are drawn"]);
    write_png(&path("large.png"), 9, 8, |_, _| [0; 3]);
    refused(&from("large.png", &[]), &["it has 9 x 8 pixels, and the model draws 8 x 8"]);
    std::fs::create_dir(folder.join("empty")).unwrap();
    refused(&from("empty", &[]), &["there are no pictures in this folder"]);
    std::fs::write(folder.join("cut.gif"), &std::fs::read(path("init.gif")).unwrap()[..200]).unwrap();
    refused(&from("cut.gif", &[]), &["cut.gif"]);
    assert_eq!(from("nowhere.gif", &[]).status.code(), Some(3));
    refused(&draw(&["--init-image", &path("a.png")]), &["the clip to start from has 1 frames", "Give 8 frames"]);
    refused(&draw(&["--frames", "5"]), &["frames is 5, and the model draws 8 at a time", "8 to 1024"]);
    refused(&draw(&["--frames", "12", "--overlap", "8"]), &["overlap is 8, and a window has 8 frames"]);
    let frame = path("a.png");
    let eight = ["--first-frame", &frame].repeat(8);
    refused(&draw(&eight), &["what the clips begin with has 8 frames", "Give 1 to 7 frames"]);
    let pictures = |more: &[&str]| uvit(&[&["generate", MODEL, "--device", "cpu", "--label", "3"], more].concat());
    refused(&pictures(&["--frames", "16"]), &["frames is given, and the model draws single pictures"]);
    refused(
        &pictures(&["--first-frame", &path("a.png")]),
        &["firstFrames is given, and the model draws single pictures"],
    );
    refused(&pictures(&["--init-clip", &path("init.gif")]), &["--init-clip is given", "Give --init-image"]);
}
