//! Every mode of a UniDiffuser, from seeds alone, against what PyTorch drew.
#![cfg(all(feature = "cli", feature = "gpu"))]

#[allow(dead_code)]
mod avatar_package;
mod devices;

use avatar_package::pipeline::{draw, error, loaded, scratch};
use avatar_package::reference::{Reference, of};
use serde_json::Value;
use uvit_web::Code;
use uvit_web::pipeline::sampling::{Control, Stage, StepEvent};
use uvit_web::pipeline::{DeviceChoice, Generated, Mode, Picture, Request, Values};

/// The picture that a run starts from: planes of bytes, as rows of pixels.
fn picture(reference: &Reference, run: &Value) -> Option<Picture> {
    let (_, planes) = reference.tensor(&of(run, "input_u8"))?;
    let rgba: Vec<u8> = (0..4096).flat_map(|i| [planes[i], planes[4096 + i], planes[8192 + i], 255]).collect();
    Some(Picture::from_rgba(&rgba, 64, 64).unwrap())
}

fn request(reference: &Reference, run: &Value) -> Request {
    Request {
        mode: Some(run["mode"].as_str().unwrap().parse().unwrap()),
        image: picture(reference, run),
        prompt: run["prompt"].as_str().map(|prompt| prompt.into()),
        negative_prompt: (run["t2i_cfg_mode"] == "empty_token").then(|| "".into()),
        steps: run["steps"].as_u64().map(|steps| steps as usize),
        guidance_scale: run["scale"].as_f64().map(|w| w + 1.0),
        seed: run["seed"].as_u64().unwrap() as u32,
        latents: true,
        ..Request::default()
    }
}

/// How far the largest of the run's tensors is off, relative to its largest value.
fn off(reference: &Reference, run: &Value, drawn: &Generated) -> f32 {
    let mut off = 0f32;
    for (port, name) in [("img", "final_z"), ("clip_img", "final_clip_img"), ("text", "final_text")] {
        let got = drawn.latents.iter().find(|tensor| tensor.name == port).map(|tensor| &tensor.values);
        match (got, reference.tensor(&of(run, name)).map(|_| reference.floats(&of(run, name)))) {
            (Some(Values::Floats(got)), Some(want)) => off = off.max(error(got, &want)),
            (None, None) => {}
            (got, _) => panic!("{}: {port} is there: {}", run["id"], got.is_some()),
        }
    }
    off
}

#[test]
fn every_mode_draws_what_pytorch_draws() {
    let Some(reference) = Reference::read() else { return };
    let out = scratch("modes");
    avatar_package::write(&out, Some(1.0));
    for device in [DeviceChoice::Cpu, DeviceChoice::WebGpu] {
        let Some(mut pipeline) = loaded(&out, device) else { continue };
        assert_eq!(pipeline.modes(), Mode::ALL);
        for run in &reference.runs {
            let id = run["id"].as_str().unwrap();
            let drawn = draw(&mut pipeline, &request(&reference, run)).unwrap();
            let off = off(&reference, run, &drawn);
            let mut most = 0;
            let planes = reference.tensor(&of(run, "picture_u8")).map(|(_, planes)| planes);
            if let Some(planes) = &planes {
                // Planes of bytes against rows of RGBA.
                let rgba = drawn.rgba(0);
                most = (0..planes.len()).map(|i| rgba[i % 4096 * 4 + i / 4096].abs_diff(planes[i])).max().unwrap();
            }
            println!("{device:?} {id}: {off:.1e}, {most} levels, {:?}", drawn.texts);
            assert!(off < 1e-3, "{device:?} {id}: off by {off:.1e}");
            assert!(most <= 2, "{device:?} {id}: {most} levels");
            assert_eq!(drawn.values.is_empty(), planes.is_none(), "{id}");
            match run["beam_caption"].as_str() {
                Some(caption) => {
                    let ids: Vec<u32> =
                        run["beam_tokens_best_first"][0].as_array().unwrap().iter().map(id_of).collect();
                    assert_eq!((drawn.texts[0].text.as_str(), &drawn.texts[0].ids), (caption, &ids), "{device:?} {id}");
                }
                None => assert!(drawn.texts.is_empty()),
            }
        }
    }
}

fn id_of(id: &Value) -> u32 {
    id.as_u64().unwrap() as u32
}

#[test]
fn what_a_mode_has_no_use_for_is_refused_by_name() {
    if avatar_package::found().is_none() {
        return;
    }
    let out = scratch("modes-refused");
    avatar_package::write(&out, Some(1.0));
    let mut pipeline = loaded(&out, DeviceChoice::Cpu).unwrap();
    let image = || Some(Picture::from_rgba(&[255; 4 * 9], 3, 3).unwrap());
    let plain = |mode| Request { mode, steps: Some(1), ..Request::default() };
    for (request, cause, remedy) in [
        (
            Request { prompt: Some("a".into()), image: image(), ..plain(None) },
            "and no mode",
            "a prompt to t2i or t2i2t",
        ),
        (
            Request { prompt: Some("a".into()), ..plain(Some(Mode::Joint)) },
            "mode is \"joint\", which takes no prompt",
            "one of the modes t2i, t2i2t",
        ),
        (
            Request { image: image(), ..plain(Some(Mode::Text)) },
            "mode is \"t\", which takes no image",
            "one of the modes i2t, i2t2i",
        ),
        (
            Request { init_image: Some(vec![0.0; 12288]), ..plain(Some(Mode::Joint)) },
            "which takes no init image",
            "one of the modes t2i, i",
        ),
        (plain(Some(Mode::ImageToText)), "mode is \"i2t\", and no image is given", "Give the image"),
        (plain(Some(Mode::TextVariation)), "no prompt is given", "an empty text will do"),
        (Request { beams: Some(33), ..plain(Some(Mode::Text)) }, "beams is 33", "from 1 to 32"),
        (Request { beams: Some(0), ..plain(Some(Mode::Text)) }, "beams is 0", "from 1 to 32"),
    ] {
        let error = draw(&mut pipeline, &request).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
        assert!(error.cause.contains(cause) && error.remedy.contains(remedy), "{error}");
    }

    // What is given says what is drawn; without anything, both.
    let mode = |pipeline: &mut _, request: &Request| draw(pipeline, request).unwrap().mode;
    assert_eq!(mode(&mut pipeline, &plain(None)), Some(Mode::Joint));
    assert_eq!(mode(&mut pipeline, &Request { image: image(), ..plain(None) }), Some(Mode::ImageToText));
    let told = Request { prompt: Some("a person".into()), ..plain(None) };
    assert_eq!(mode(&mut pipeline, &told), Some(Mode::TextToImage));

    // Images of one call are what they are alone, in every port.
    let two = draw(&mut pipeline, &Request { count: Some(2), steps: Some(3), latents: true, ..plain(None) }).unwrap();
    let second = Request { seed: 1, steps: Some(3), latents: true, ..plain(None) };
    let second = draw(&mut pipeline, &second).unwrap();
    assert_eq!(two.texts[1], second.texts[0]);
    assert!(error(two.image(1), second.image(0)) < 1e-4);

    // Rescaled, guidance varies less.
    let guided = Request { guidance_scale: Some(9.0), steps: Some(3), ..told };
    let plain = draw(&mut pipeline, &guided).unwrap();
    let rescaled = draw(&mut pipeline, &Request { guidance_rescale: 1.0, ..guided }).unwrap();
    assert!(error(&rescaled.values, &plain.values) > 1e-3);

    // A model without what a mode needs has fewer of them.
    let out = scratch("modes-fewer");
    avatar_package::write(&out, None);
    let mut pipeline = loaded(&out, DeviceChoice::Cpu).unwrap();
    assert_eq!(pipeline.modes(), [Mode::TextToImage, Mode::Image]);
    let error = draw(&mut pipeline, &Request { mode: Some(Mode::Joint), ..Request::default() }).unwrap_err();
    assert!(error.cause.contains("the model has no caption_decoder") && error.remedy.contains("t2i, i"), "{error}");
}

#[test]
fn texts_are_told_token_by_token_and_previewed_while_they_are_drawn() {
    if avatar_package::found().is_none() {
        return;
    }
    let out = scratch("modes-told");
    avatar_package::write(&out, Some(1.0));
    let mut pipeline = loaded(&out, DeviceChoice::Cpu).unwrap();
    let mut events = Vec::new();
    let mut on_step = |event: StepEvent| events.push((event.stage, event.step, event.texts, event.values.is_some()));
    let request = Request { mode: Some(Mode::Joint), steps: Some(6), preview: true, ..Request::default() };
    let drawn =
        pollster::block_on(pipeline.generate(&request, &mut Control { on_step: &mut on_step, stopped: &|| false }))
            .unwrap();
    let of = |stage| events.iter().filter(move |event| event.0 == stage).collect::<Vec<_>>();
    let sampled = of(Stage::Sampling);
    assert!(sampled.len() == 6 && sampled.iter().all(|(_, _, texts, shown)| texts.len() == 1 && *shown), "{sampled:?}");
    let told = of(Stage::Captioning);
    assert_eq!((told[0].1, told[0].2.len()), (0, 0));
    assert!(told.len() > 2 && told[1..].windows(2).all(|w| w[0].1 <= w[1].1), "{told:?}");
    assert_eq!(told.last().unwrap().2, [drawn.texts[0].text.clone()]);
    // A stop while it tells ends it, and the next call is as good as any.
    let count = std::cell::Cell::new(0);
    let mut on_step = |event: StepEvent| count.set(count.get() + usize::from(event.stage == Stage::Captioning));
    let stopped = || count.get() > 1;
    let plain = Request { preview: false, ..request };
    let error =
        pollster::block_on(pipeline.generate(&plain, &mut Control { on_step: &mut on_step, stopped: &stopped }))
            .unwrap_err();
    assert_eq!(error.code, Code::Aborted);
    assert_eq!(draw(&mut pipeline, &plain).unwrap().texts, drawn.texts);
}
