//! Clips longer than the network draws: seams that are not seen, known frames that are kept bit by bit, and a long clip that is what one
//! gets by going on by hand.
#![cfg(all(feature = "cli", feature = "gpu"))]

mod blobs;
mod clip_model;
mod devices;
#[allow(dead_code)]
#[path = "avatar_package/pipeline.rs"]
mod pipeline;

use blobs::Blobs;
use pipeline::{draw, load, loaded, scratch};
use serde_json::json;
use std::cell::RefCell;
use uvit_web::Code;
use uvit_web::pipeline::sampling::{Control, Stage, StepEvent};
use uvit_web::pipeline::{DeviceChoice, Generated, LabelChoice, Pipeline, Request, Values};
use uvit_web::sampler::{SamplerKind, TorchGenerator};

const FRAME: usize = 3 * 8 * 8;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn request(seed: u32) -> Request {
    Request { label: Some(LabelChoice::Index(1)), seed, ..Request::default() }
}

/// The clip and what was told about it.
fn watched(pipeline: &mut Pipeline, request: &Request) -> (Generated, Vec<StepEvent>) {
    let events = RefCell::new(Vec::new());
    let mut on_step = |event| events.borrow_mut().push(event);
    let mut control = Control { on_step: &mut on_step, stopped: &|| false };
    let generated = pollster::block_on(pipeline.generate(request, &mut control)).unwrap();
    (generated, events.into_inner())
}

/// Differences of neighbouring frames, root mean square.
fn changes(frames: &[f32], of_frame: usize) -> Vec<f64> {
    let pairs = frames.chunks(of_frame).zip(frames.chunks(of_frame).skip(1));
    let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
    pairs.map(|(a, b)| (a.iter().zip(b).map(square).sum::<f64>() / of_frame as f64).sqrt()).collect()
}

#[test]
fn seams_are_not_seen_where_the_denoiser_is_exact() {
    let blobs = Blobs::new(12, 16);
    let mut config = clip_model::small();
    for (name, value) in [
        ("img_size", json!(12)),
        ("in_chans", json!(1)),
        ("num_frames", json!(16)),
        ("steps", json!(25)),
        ("t_patch_size", json!(4)),
    ] {
        config[name] = value;
    }
    let out = scratch("windows-blobs");
    clip_model::write(&out, &config);
    let mut pipeline = load(&out, DeviceChoice::Cpu, true).unwrap();
    // At scale 0 the clip is the unconditional copy's alone, and that is the helper's part of the batch: what users run, but for the
    // network.
    for (frames, overlap, seams) in
        [(48, Some(4), &[16, 28, 40][..]), (48, None, &[16, 28, 40]), (40, Some(6), &[16, 26, 36])]
    {
        for seed in 0..4 {
            let asked = Request { frames: Some(frames), overlap, guidance_scale: Some(0.0), ..request(seed) };
            let mut control = Control { on_step: &mut |_| {}, stopped: &|| false };
            let clip = pollster::block_on(pipeline.generate_with(&asked, &mut control, Some(&blobs))).unwrap();
            assert_eq!((clip.frames, clip.workers, clip.values.len()), (frames, 2, frames * 144));
            let changes = changes(&clip.values, 144);
            let mut sorted = changes.clone();
            sorted.sort_by(f64::total_cmp);
            let median = sorted[sorted.len() / 2];
            let worst = seams.iter().map(|seam| changes[seam - 1] / median).fold(0.0, f64::max);
            println!("{frames} frames, overlap {overlap:?}, seed {seed}: at most {worst:.2} of the median at a seam");
            assert!(median > 0.1, "nothing moves: {median}");
            assert!(worst <= 1.5, "{frames} frames, overlap {overlap:?}, seed {seed}: {worst:.2}");
        }
    }
}

#[test]
fn a_long_clip_is_what_one_gets_by_going_on_by_hand() {
    let out = scratch("windows-by-hand");
    clip_model::write(&out, &clip_model::small());
    for device in [DeviceChoice::Cpu, DeviceChoice::WebGpu] {
        let Some(mut pipeline) = loaded(&out, device) else { continue };
        let long = Request { frames: Some(18), overlap: Some(3), ..request(7) };
        let (clip, events) = watched(&mut pipeline, &long);
        assert_eq!((clip.frames, clip.overlap, clip.values.len()), (18, 3, 18 * FRAME));
        // Windows of frames 0 .. 8, 5 .. 13, 10 .. 18, of four steps each.
        let told: Vec<_> = events.iter().map(|e| (e.stage, e.step, e.steps, e.window, e.windows)).collect();
        let want: Vec<_> = (1..=12).map(|step| (Stage::Sampling, step, 12, 1 + (step - 1) / 4, 3)).collect();
        assert_eq!(told, want);
        assert!(events.windows(2).all(|pair| pair[0].elapsed_ms <= pair[1].elapsed_ms));
        assert_eq!(clip.timings.step_ms.len(), 12);

        let mut generator = TorchGenerator::new(7);
        let mut frames = Vec::new();
        for first in [0, 5, 10] {
            let known = if first == 0 { 0 } else { 3 };
            let first_frames = (known > 0).then(|| frames[first * FRAME..(first + known) * FRAME].to_vec());
            let start = Some(generator.randn_f32(8 * FRAME));
            let window = draw(&mut pipeline, &Request { first_frames, start, ..request(99) }).unwrap();
            assert_eq!((window.frames, window.first_frames, window.overlap), (8, known, 0));
            // Kept bit by bit, though three frames are no whole patches.
            assert_eq!(bits(&window.values[..known * FRAME]), bits(&frames[first * FRAME..][..known * FRAME]));
            frames.extend_from_slice(&window.values[known * FRAME..]);
        }
        assert!(bits(&frames) == bits(&clip.values), "{device:?}");
        assert!(changes(&frames, FRAME).iter().all(|change| *change > 0.01));

        // The same again, and each of two clips is what it is alone.
        let two = draw(&mut pipeline, &Request { count: Some(2), seed: 6, ..long.clone() }).unwrap();
        let second = &two.values[18 * FRAME..];
        let apart = second.iter().zip(&clip.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-4, "{device:?}: {apart}");
        assert_eq!(bits(&draw(&mut pipeline, &long).unwrap().values), bits(&clip.values));
        // Noise that is drawn between steps, and other noise for what is kept, are reproducible, too.
        let noisy = Request { sampler: Some(SamplerKind::EulerAncestral), fresh_noise: true, ..long };
        let [a, b] = [0, 1].map(|_| draw(&mut pipeline, &noisy).unwrap().values);
        assert!(bits(&a) == bits(&b) && bits(&a) != bits(&clip.values));
    }
}

#[test]
fn frames_come_out_one_after_the_other_and_are_kept_where_they_are_given() {
    let out = scratch("windows-kept");
    clip_model::write(&out, &clip_model::small());
    let mut pipeline = load(&out, DeviceChoice::Cpu, true).unwrap();
    assert_eq!((pipeline.frames(), pipeline.frame_rate(), pipeline.picture_shape()), (Some(8), 6.0, [3, 8, 8]));
    let clip = draw(&mut pipeline, &Request { latents: true, ..request(3) }).unwrap();
    assert_eq!((clip.frames, clip.frame_rate, clip.pictures()), (8, 6.0, 8));
    let Values::Floats(drawn) = &clip.latents[0].values else { panic!() };
    assert_eq!(clip.latents[0].shape.as_deref(), Some(&[1, 3, 8, 8, 8][..]));
    let turned = |i: usize| drawn[i / 64 % 3 * 8 * 64 + i / FRAME * 64 + i % 64];
    assert!((0..8 * FRAME).all(|i| clip.values[i] == turned(i)));
    assert_eq!(clip.rgba(5)[0], uvit_web::pipeline::pixels::to_u8(clip.values[5 * FRAME]));

    // A clip to start from: near to it, and nearer the weaker the start is walked anew.
    let init: Vec<f32> = TorchGenerator::new(5).randn_f32(8 * FRAME).iter().map(|v| v.clamp(-1.0, 1.0)).collect();
    let from = |strength: f64| Request {
        init_image: Some(init.clone()),
        strength: Some(strength),
        steps: Some(10),
        ..request(3)
    };
    let far = |clip: &Generated| changes(&[&clip.values[..], &init].concat(), 8 * FRAME)[0];
    let [weak, strong] = [0.2, 0.8].map(|strength| far(&draw(&mut pipeline, &from(strength)).unwrap()));
    assert!(weak < strong, "{weak} {strong}");
    // Parts of every frame, parts of some, and the first frames over all of that.
    let half: Vec<f32> = (0..64).map(|i| if i % 8 < 4 { 0.0 } else { 1.0 }).collect();
    let some: Vec<f32> = (0..8 * 64).map(|i| if i / 64 == 6 || i % 64 < 8 { 0.0 } else { 1.0 }).collect();
    for mask in [half, some] {
        let first = TorchGenerator::new(6).randn_f32(3 * FRAME);
        let asked = Request { mask: Some(mask.clone()), first_frames: Some(first.clone()), ..from(0.9) };
        let kept = draw(&mut pipeline, &asked).unwrap();
        for (i, value) in kept.values.iter().enumerate() {
            let (frame, pixel) = (i / FRAME, i % 64);
            let share = mask[(frame * 64 + pixel) % mask.len()];
            let want = if frame < 3 { Some(first[i]) } else { (share == 0.0).then(|| init[i]) };
            assert!(want.is_none_or(|want| want == *value), "frame {frame}, pixel {pixel}");
        }
        assert_ne!(kept.values[4 * FRAME + 63], init[4 * FRAME + 63]);
    }
    // A long clip starts from as long a one.
    let long = Request { init_image: Some(init.repeat(2)), frames: Some(16), overlap: Some(2), ..from(0.3) };
    let (clip, events) = watched(&mut pipeline, &long);
    assert_eq!((clip.frames, events.last().map(|e| (e.step, e.steps))), (16, Some((9, 9))));
    assert!(changes(&[&clip.values[..], &init.repeat(2)].concat(), 16 * FRAME)[0] < strong);
}

#[test]
fn latents_of_clips_are_decoded_frame_by_frame() {
    let out = scratch("windows-latents");
    clip_model::write(&out, &clip_model::of_latents());
    for device in [DeviceChoice::Cpu, DeviceChoice::WebGpu] {
        let Some(mut pipeline) = loaded(&out, device) else { continue };
        let first: Vec<f32> = TorchGenerator::new(8).randn_f32(2 * FRAME).iter().map(|v| v.clamp(-1.0, 1.0)).collect();
        let asked = Request {
            frames: Some(12),
            overlap: Some(4),
            first_frames: Some(first.clone()),
            latents: true,
            preview: true,
            ..request(2)
        };
        let (clip, events) = watched(&mut pipeline, &asked);
        assert_eq!((clip.frames, clip.channels, clip.height, clip.values.len()), (12, 3, 8, 12 * FRAME));
        assert_eq!(clip.latents[0].shape.as_deref(), Some(&[1, 4, 12, 4, 4][..]));
        let Values::Floats(latents) = clip.latents[0].values.clone() else { panic!() };
        for frame in 0..12 {
            let z: Vec<f32> = (0..4).flat_map(|c| latents[(c * 12 + frame) * 16..][..16].to_vec()).collect();
            let z = uvit_web::pipeline::NamedTensor::new("z", Values::Floats(z));
            let decoded = pollster::block_on(pipeline.forward("decoder", vec![z], &|| false)).unwrap();
            let Values::Floats(decoded) = &decoded[0].values else { panic!() };
            let of_frame = &clip.values[frame * FRAME..][..FRAME];
            if frame < 2 {
                // Given as pixels: put back as they were.
                assert_eq!(bits(of_frame), bits(&first[frame * FRAME..][..FRAME]));
                continue;
            }
            let apart = of_frame.iter().zip(decoded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-4, "{device:?}, frame {frame}: {apart}");
        }
        let stage = |stage: Stage| events.iter().filter(move |event| event.stage == stage);
        assert_eq!(stage(Stage::Encoding).map(|e| (e.step, e.steps)).collect::<Vec<_>>(), [(0, 2), (1, 2), (2, 2)]);
        assert_eq!(stage(Stage::Decoding).next_back().map(|e| (e.step, e.steps)), Some((12, 12)));
        for event in stage(Stage::Sampling) {
            let shown = event.values.as_ref().unwrap();
            assert_eq!((shown.frames, shown.shape.as_slice(), shown.values.len()), (8, &[3, 8, 8][..], 8 * FRAME));
        }
        // Latents are taken as they are: two frames of them, since three would be as many values as a picture.
        let kept = Request { first_frames: Some(vec![0.25; 2 * 64]), ..asked };
        let kept = draw(&mut pipeline, &kept).unwrap();
        let Values::Floats(latents) = &kept.latents[0].values else { panic!() };
        assert!((0..4).all(|c| latents[c * 12 * 16..][..32].iter().all(|v| *v == 0.25)));
        assert!(latents[32..48].iter().all(|v| *v != 0.25));
    }
}

#[test]
fn what_a_model_of_clips_cannot_do_is_refused_with_what_it_can() {
    let out = scratch("windows-refused");
    clip_model::write(&out, &clip_model::small());
    let mut pipeline = load(&out, DeviceChoice::Cpu, true).unwrap();
    let mut refused = |request: Request, cause: &str, remedy: &str| {
        let error = draw(&mut pipeline, &request).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
        assert!(error.cause.contains(cause) && error.remedy.contains(remedy), "{error}");
    };
    let with = |frames: usize| Request { frames: Some(frames), ..request(1) };
    refused(with(7), "frames is 7, and the model draws 8 at a time", "from 8 to 1024");
    refused(with(0), "frames is 0", "from 8 to 1024");
    refused(with(1025), "frames is 1025", "from 8 to 1024");
    for overlap in [0, 8, 100] {
        let cause = format!("overlap is {overlap}, and a window has 8 frames");
        refused(Request { overlap: Some(overlap), ..with(16) }, &cause, "from 1 to 7");
    }
    refused(
        Request { start: Some(vec![0.0; 8 * FRAME]), ..with(9) },
        "start latents are given, and 9 frames take 2",
        "draw 8",
    );
    let init = |frames: usize| Some(vec![0.0; frames * FRAME]);
    let clip = Request { init_image: init(7), ..request(1) };
    refused(clip.clone(), "the clip to start from has 7 frames", "Give 8 frames of [3, 8, 8] for all clips");
    refused(Request { init_image: init(8), ..with(12) }, "has 8 frames", "Give 12 frames");
    refused(Request { init_image: Some(vec![0.0; 8 * FRAME + 1]), ..clip }, "has 1537 values", "Give 8 frames");
    for frames in [8, 0] {
        let first = Request { first_frames: init(frames), ..request(1) };
        refused(first, &format!("what the clips begin with has {frames} frames"), "Give 1 to 7 frames of [3, 8, 8]");
    }
    let mut broken = vec![0.0; FRAME];
    broken[5] = f32::NAN;
    refused(Request { first_frames: Some(broken), ..request(1) }, "NaN or infinite", "finite");
    let mask = Request { init_image: init(8), mask: Some(vec![0.0; 3 * 64]), ..request(1) };
    refused(mask, "the mask has 192 values", "[8, 8] or [8, 8, 8]");
    let adaptive = |request| Request { sampler: Some(SamplerKind::DpmAdaptive), ..request };
    refused(adaptive(with(9)), "frames needs steps that are known", "another sampler");
    refused(adaptive(Request { first_frames: init(1), ..request(1) }), "firstFrames needs steps", "another sampler");

    let mut pictures = load("web/models/emoji".as_ref(), DeviceChoice::Cpu, true).unwrap();
    for (name, request) in [
        ("frames", with(16)),
        ("overlap", Request { overlap: Some(2), ..request(1) }),
        ("firstFrames", Request { first_frames: init(1), ..request(1) }),
    ] {
        let error = draw(&mut pictures, &request).unwrap_err();
        assert!(error.cause == format!("{name} is given, and the model draws single pictures"), "{error}");
    }
}
