//! DiT-XL/2 and Stable Diffusion 3 medium with random weights: files as they are published, converted to q4, loaded stage by stage, and
//! one guided step on the CPU.

use super::unidiffuser::{fits_a_device_with_default_limits, load, run};
use super::unidiffuser_files::{Values, clip_merges};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use uvit_web::json::Write as _;
use uvit_web::model::{Batch, Network};
use uvit_web::package::{DENOISER, Manifest, preset, read_manifest};
use uvit_web::pipeline::{Generated, LabelChoice, Request};
use uvit_web::plan::{Capabilities, lower};
use uvit_web::weights::checkpoint::official_autoencoder_name;

type Listed = Vec<(String, Vec<usize>)>;

/// A network's tensors as its checkpoint has them.
fn tensors(architecture: &str, params: &Value) -> Listed {
    let plan = Network::of(architecture, params).unwrap().record(Batch::plain(1)).unwrap().plan;
    plan.published().flat_map(|weight| weight.sources()).collect()
}

/// Random values in f16, written one tensor after the other.
fn save(path: &Path, tensors: &Listed, values: &mut Values) {
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let end = at + 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({ "dtype": "F16", "shape": shape, "data_offsets": [at, end] }));
        at = end;
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    let header = Value::Object(header).to_string();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    for (name, shape) in tensors {
        for value in values.of(name, shape) {
            file.write_all(&half::f16::from_f32(value).to_le_bytes()).unwrap();
        }
    }
    file.flush().unwrap();
}

/// A folder of one test's own, empty.
fn fresh(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("full-size-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Billions of multiply-adds of one forward of a preset's denoiser for one picture.
fn billions(name: &str) -> f64 {
    let plan = preset(name).unwrap().network().unwrap().record(Batch::plain(1)).unwrap().plan;
    let roomy = Capabilities { max_binding: 2 << 30, ..Capabilities::WEBGPU };
    1e-9 * lower(&plan, &roomy, &[]).unwrap().cost().multiply_adds as f64
}

/// Converts to q4, removes what was converted, and draws in one step, every component loaded for its stage.
fn convert_and_draw(folder: &Path, input: &Path, more: &[&str], request: &Request) -> (Manifest, Generated) {
    let (out, begin) = (folder.join("model"), Instant::now());
    let mut convert = Command::new(env!("CARGO_BIN_EXE_uvit"));
    convert.arg("convert").arg(input).args(["--dtype", "q4", "--calibration", "0", "--preview", "0", "--out"]);
    assert!(convert.arg(&out).args(more).status().unwrap().success());
    println!("converted to q4 in {:.0} s", begin.elapsed().as_secs_f64());
    std::fs::remove_dir_all(folder.join("published")).unwrap();
    let manifest = read_manifest(&out).unwrap().0;
    println!("{:.0} MB to download", 1e-6 * manifest.files().map(|file| file.bytes).sum::<u64>() as f64);
    let (mut pipeline, watched) = load(&out);
    let drawn = run(&mut pipeline, &watched, "one step", request);
    assert!(drawn.values.iter().all(|v| v.is_finite()) && drawn.values.iter().any(|v| *v != drawn.values[0]));
    (manifest, drawn)
}

/// 118.6 at 256 x 256, counted as multiply-adds: table 4 of Peebles and Xie, "Scalable Diffusion Models with Transformers".
#[test]
#[ignore = "minutes and gigabytes: scripts/test full"]
fn dit_xl_2_is_converted_loaded_stage_by_stage_and_run() {
    let billions = billions("dit-xl-2-256");
    println!("dit-xl-2-256: {billions:.2} billion multiply-adds a forward, published: 118.6");
    assert!((billions / 118.6 - 1.0).abs() < 0.02);
    let folder = fresh("dit");
    let (published, mut values) = (folder.join("published"), Values::new());
    let file = published.join("DiT-XL-2-256x256.safetensors");
    save(&file, &tensors("dit", &preset("dit-xl-2-256").unwrap().config), &mut values);
    let halves = ["autoencoder_kl_decoder", "autoencoder_kl_encoder"];
    let params = json!({ "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2 });
    let autoencoder = halves.iter().flat_map(|half| tensors(half, &params));
    let autoencoder: Listed = autoencoder.map(|(name, shape)| (official_autoencoder_name(&name, 4), shape)).collect();
    let kl = published.join("kl.safetensors");
    save(&kl, &autoencoder, &mut values);
    let request = Request { steps: Some(1), seed: 1, label: Some(LabelChoice::Index(207)), ..Request::default() };
    let (manifest, drawn) = convert_and_draw(&folder, &file, &["--autoencoder", kl.to_str().unwrap()], &request);
    fits_a_device_with_default_limits(&manifest);
    assert_eq!((manifest.name.as_str(), manifest.stages()), ("dit-xl-2-256", vec![DENOISER, "decoder"]));
    assert_eq!((drawn.height, drawn.width, drawn.guidance_scale), (256, 256, 4.0));
    std::fs::remove_dir_all(&folder).unwrap();
}

/// As a folder of diffusers: 6 GB, and 2 GB of what is made of it.
#[test]
#[ignore = "an hour and gigabytes: scripts/test full"]
fn stable_diffusion_3_medium_is_converted_loaded_stage_by_stage_and_run() {
    println!("sd3-medium: {:.2} billion multiply-adds a forward", billions("sd3-medium"));
    let folder = fresh("sd3");
    let (hub, mut values) = (folder.join("published"), Values::new());
    let manifest = preset("sd3-medium").unwrap().manifest().unwrap();
    let part = |component: &str| manifest.component(component).unwrap();
    let write = |folder: &Path, config: Value| {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    };
    let with = |mut config: Value, more: Value| {
        more.as_object().unwrap().iter().for_each(|(name, value)| config[name] = value.clone());
        config
    };
    let weights = "diffusion_pytorch_model.safetensors";
    // The whole table of positions, of which the middle is kept.
    let transformer = with(part(DENOISER).params.clone(), json!({ "pos_embed_max_size": 192 }));
    save(&hub.join("transformer").join(weights), &tensors("mmdit", &transformer), &mut values);
    write(&hub.join("transformer"), with(transformer, json!({ "_class_name": "SD3Transformer2DModel" })));
    let vae = part("decoder").params.clone();
    let halves = ["autoencoder_kl_decoder", "autoencoder_kl_encoder"];
    let both: Listed = halves.iter().flat_map(|half| tensors(half, &vae)).collect();
    save(&hub.join("vae").join(weights), &both, &mut values);
    write(&hub.join("vae"), with(vae, json!({ "_class_name": "AutoencoderKL" })));
    for name in ["text_encoder", "text_encoder_2"] {
        let params = part(name).params.clone();
        save(&hub.join(name).join("model.safetensors"), &tensors("clip_text", &params), &mut values);
        let class = json!({ "model_type": "clip_text_model", "architectures": ["CLIPTextModelWithProjection"] });
        write(&hub.join(name), with(params, class));
    }
    std::fs::create_dir_all(hub.join("tokenizer")).unwrap();
    std::fs::write(hub.join("tokenizer/merges.txt"), clip_merges()).unwrap();
    let index =
        json!({ "_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "SD3Transformer2DModel"] });
    std::fs::write(hub.join("model_index.json"), index.to_string()).unwrap();
    // Without guidance: a guided step is two such forwards.
    let prompt = Some("a red cube on a blue sphere".into());
    let request = Request { steps: Some(1), seed: 1, prompt, guidance_scale: Some(1.0), ..Request::default() };
    let (manifest, drawn) = convert_and_draw(&folder, &hub, &[], &request);
    println!("{}", manifest.sampling.write());
    let sampling = (manifest.sampling.steps, manifest.sampling.guidance_scale);
    assert_eq!((manifest.name.as_str(), sampling), ("sd3-medium", (28, 7.0)));
    assert_eq!(manifest.stages(), ["text_encoder", "text_encoder_2", DENOISER, "decoder"]);
    assert_eq!((drawn.height, drawn.width, drawn.guidance_scale), (1024, 1024, 1.0));
    std::fs::remove_dir_all(&folder).unwrap();
}
