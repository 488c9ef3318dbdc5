//! Every mode of a UniDiffuser, from seeds alone, against what PyTorch drew.
#![cfg(all(feature = "cli", feature = "gpu"))]

#[allow(dead_code)]
mod avatar_package;
mod devices;

use avatar_package::pipeline::{draw, error, loaded, scratch};
use safetensors::SafeTensors;
use serde_json::Value;
use uvit_web::pipeline::{DeviceChoice, Generated, Mode, Picture, Request, Values};

struct Reference {
    runs: Vec<Value>,
    bytes: Vec<u8>,
}

impl Reference {
    fn read() -> Option<Reference> {
        let (folder, _, about) = avatar_package::found()?;
        let runs = about["end_to_end"].as_array().unwrap().clone();
        Some(Reference { runs, bytes: std::fs::read(folder.join("reference.safetensors")).unwrap() })
    }

    fn bytes(&self, run: &Value, name: &str) -> Option<Vec<u8>> {
        let name = format!("{}/{name}", run["id"].as_str().unwrap());
        Some(SafeTensors::deserialize(&self.bytes).unwrap().tensor(&name).ok()?.data().to_vec())
    }

    fn floats(&self, run: &Value, name: &str) -> Option<Vec<f32>> {
        Some(self.bytes(run, name)?.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// The picture that a run starts from: planes of bytes, as rows of pixels.
    fn picture(&self, run: &Value) -> Option<Picture> {
        let planes = self.bytes(run, "input_u8")?;
        let rgba: Vec<u8> = (0..4096).flat_map(|i| [planes[i], planes[4096 + i], planes[8192 + i], 255]).collect();
        Some(Picture::from_rgba(&rgba, 64, 64).unwrap())
    }

    fn request(&self, run: &Value) -> Request {
        Request {
            mode: Some(run["mode"].as_str().unwrap().parse().unwrap()),
            image: self.picture(run),
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
    fn off(&self, run: &Value, drawn: &Generated) -> f32 {
        let mut off = 0f32;
        for (port, name) in [("img", "final_z"), ("clip_img", "final_clip_img"), ("text", "final_text")] {
            let got = drawn.latents.iter().find(|tensor| tensor.name == port).map(|tensor| &tensor.values);
            match (got, self.floats(run, name)) {
                (Some(Values::Floats(got)), Some(want)) => off = off.max(error(got, &want)),
                (None, None) => {}
                (got, _) => panic!("{}: {port} is there: {}", run["id"], got.is_some()),
            }
        }
        off
    }
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
            let drawn = draw(&mut pipeline, &reference.request(run)).unwrap();
            let off = reference.off(run, &drawn);
            let mut most = 0;
            if let Some(planes) = reference.bytes(run, "picture_u8") {
                // Planes of bytes against rows of RGBA.
                let rgba = drawn.rgba(0);
                most = (0..planes.len()).map(|i| rgba[i % 4096 * 4 + i / 4096].abs_diff(planes[i])).max().unwrap();
            }
            println!("{device:?} {id}: {off:.1e}, {most} levels, {:?}", drawn.texts);
            assert!(off < 1e-3, "{device:?} {id}: off by {off:.1e}");
            assert!(most <= 2, "{device:?} {id}: {most} levels");
            assert_eq!(drawn.values.is_empty(), reference.bytes(run, "picture_u8").is_none(), "{id}");
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
