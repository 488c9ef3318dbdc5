//! Models that PyTorch computed with, and the files of what it computed: forwards, blocks, pictures or clips from their seeds.

use safetensors::{Dtype as Stored, SafeTensors, tensor::TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use uvit_web::model::Batch;
use uvit_web::package::{DENOISER, Storing, Writer, describe, read_manifest};
use uvit_web::pipeline::sampling::Control;
use uvit_web::pipeline::{ComputeChoice, DeviceChoice, Generated, LabelChoice, LoadOptions, Loader, Pipeline, Request};
use uvit_web::plan::{Compute, lower};
use uvit_web::weights::Dtype;
use uvit_web::weights::checkpoint;

pub const DEVICES: [DeviceChoice; 2] = [DeviceChoice::Cpu, DeviceChoice::WebGpu];

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A model folder on a device, in f32; none if there is no such device here.
pub fn load(folder: &Path, device: DeviceChoice, dtype: Dtype) -> Option<Pipeline> {
    load_in(Compute::F32, folder, device, dtype)
}

pub fn load_in(compute: Compute, folder: &Path, device: DeviceChoice, dtype: Dtype) -> Option<Pipeline> {
    let (manifest, folder) = read_manifest(folder).unwrap();
    let options =
        LoadOptions { device, dtype: Some(dtype), compute: ComputeChoice::Fixed(compute), ..LoadOptions::default() };
    let mut loader = super::devices::found(pollster::block_on(Loader::new(manifest, options)))?;
    for index in 0..loader.files().len() {
        let bytes = std::fs::read(folder.join(&loader.files()[index].stored.file)).unwrap();
        pollster::block_on(loader.add_file(index, &bytes)).unwrap();
    }
    Some(pollster::block_on(loader.finish()).unwrap())
}

/// A checkpoint, `NAME.safetensors` beside its `config.json`, as a model folder with the one variant f32, for the test `test`.
pub fn converted(folder: &Path, name: &str, test: &str) -> PathBuf {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("reference-{test}"));
    let _ = std::fs::remove_dir_all(&out);
    let mut manifest = describe(&std::fs::read_to_string(folder.join("config.json")).unwrap(), None, None).unwrap();
    let mut weights = checkpoint::read(&folder.join(format!("{name}.safetensors"))).unwrap();
    let storing = Storing::plain(Dtype::F32);
    let mut writer = Writer::new(&out, &[], false).unwrap();
    writer.add(&mut manifest, DENOISER, &storing, &mut weights).unwrap();
    writer.finish(&manifest).unwrap();
    out
}

/// A file of recorded tensors; integers and bytes widened to f32, which holds them exactly.
pub struct Recorded(pub BTreeMap<String, Vec<f32>>);

impl Recorded {
    pub fn read(path: &Path) -> Recorded {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let widen = |view: TensorView<'_>| -> Vec<f32> {
            match view.dtype() {
                Stored::F32 => view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                Stored::F16 => {
                    view.data().as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect()
                }
                Stored::F64 => view.data().as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
                Stored::I32 => view.data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as f32).collect(),
                Stored::U8 => view.data().iter().map(|&b| f32::from(b)).collect(),
                other => panic!("{other:?} is not read here"),
            }
        };
        Recorded(file.tensors().into_iter().map(|(name, view)| (name, widen(view))).collect())
    }

    pub fn tensor(&self, name: &str) -> &[f32] {
        &self.0[name]
    }
}

/// Fails if the largest error exceeds 1e-4 of the largest value.
pub fn assert_close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst =
        got.iter().zip(want).fold(0f32, |m, (a, b)| if a.is_finite() { m.max((a - b).abs()) } else { f32::MAX });
    assert!(worst <= 1e-4 * largest, "{what}: off by {:.1e} of the largest value", worst / largest);
}

/// One forward of one item; returns the tensors of those names.
pub fn run(pipeline: &mut Pipeline, x: &[f32], network_time: f64, label: u32, names: &[&str]) -> Vec<Vec<f32>> {
    let recording = pipeline.network().record(Batch::plain(1)).unwrap();
    let network = recording.picture().unwrap();
    let component = pipeline.component().unwrap();
    let program = lower(&recording.plan, &component.weights().capabilities(), names).unwrap();
    let mut session = pollster::block_on(component.session(program, None)).unwrap();
    session.write(network.input, x).unwrap();
    session.write_times(network.time, &[network_time]).unwrap();
    session.write_indices(recording.label().unwrap(), &[label]).unwrap();
    pollster::block_on(session.forward(&|| false)).unwrap();
    let mut read = |name: &&str| {
        let id = session.find(name).unwrap();
        pollster::block_on(session.read(id)).unwrap()
    };
    names.iter().map(&mut read).collect()
}

/// Four forwards, and what lies between the blocks of the second, on every device.
pub fn forwards_equal(reference: &Recorded, model: &Path, blocks: usize) {
    let names: Vec<&str> = reference.0.keys().filter_map(|name| name.strip_prefix("blocks.")).collect();
    assert_eq!(names.len(), blocks);
    // What the checkpoints' READMEs call `final` is the network's output.
    let ours: Vec<&str> = names.iter().map(|&name| if name == "final" { "out" } else { name }).collect();
    let size = reference.tensor("forward.x").len() / 4;
    for device in DEVICES {
        let Some(mut pipeline) = load(model, device, Dtype::F32) else { continue };
        let item = |name: &str, k: usize| reference.tensor(name)[k * size..(k + 1) * size].to_vec();
        let (times, labels) = (reference.tensor("forward.t"), reference.tensor("forward.y"));
        for k in 0..4 {
            let out = run(&mut pipeline, &item("forward.x", k), times[k].into(), labels[k] as u32, &["out"]);
            assert_close(&format!("{device:?}: forward {k}"), &out[0], &item("forward.out", k));
        }
        let got = run(&mut pipeline, &item("forward.x", 1), times[1].into(), labels[1] as u32, &ours);
        for (block, got) in names.iter().zip(got) {
            assert_close(&format!("{device:?}: {block}"), &got, reference.tensor(&format!("blocks.{block}")));
        }
    }
}

/// A picture or a clip.
pub fn draw(pipeline: &mut Pipeline, label: f32, seed: f32, guidance_scale: f64) -> Generated {
    let label = Some(LabelChoice::Index(label as u32));
    let request = Request { label, seed: seed as u32, guidance_scale: Some(guidance_scale), ..Request::default() };
    let mut control = Control { on_step: &mut |_| {}, stopped: &|| false };
    pollster::block_on(pipeline.generate(&request, &mut control)).unwrap()
}
