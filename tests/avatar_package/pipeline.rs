//! The package on a device, and what is asked of it.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use uvit_web::package::read_manifest;
use uvit_web::pipeline::sampling::{Control, Stage, StepEvent};
use uvit_web::pipeline::{
    Answer, ComputeChoice, DeviceChoice, Generated, LoadOptions, Loader, Pipeline, Request, Source,
};
use uvit_web::plan::Compute;
use uvit_web::runtime::Tune;
use uvit_web::weights::StoredFile;
use uvit_web::{Code, Error, Result};

struct Folder(PathBuf);

impl Source for Folder {
    fn bring(&self, file: &StoredFile) -> Answer<Vec<u8>> {
        let bytes = std::fs::read(self.0.join(&file.file));
        Box::pin(async move { bytes.map_err(|e| Error::new(Code::Io, format!("it is gone: {e}"), "Look for it")) })
    }
}

/// A folder of the build's for a test's package.
pub fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

pub fn load(folder: &Path, device: DeviceChoice, keep_loaded: bool) -> Result<Pipeline> {
    load_in(folder, device, keep_loaded, Compute::F32)
}

pub fn load_in(folder: &Path, device: DeviceChoice, keep_loaded: bool, compute: Compute) -> Result<Pipeline> {
    let manifest = read_manifest(folder)?.0;
    let compute = ComputeChoice::Fixed(compute);
    let options = LoadOptions { device, compute, tune: Tune::Off, keep_loaded, ..LoadOptions::default() };
    pollster::block_on(async {
        let mut loader = Loader::new(manifest, options).await?;
        for index in 0..loader.files().len() {
            let bytes = std::fs::read(folder.join(&loader.files()[index].stored.file)).unwrap();
            loader.add_file(index, &bytes).await?;
        }
        let mut pipeline = loader.finish().await?;
        pipeline.bring_from(Rc::new(Folder(folder.to_owned())));
        Ok(pipeline)
    })
}

/// On a GPU only where there is one.
pub fn loaded(folder: &Path, device: DeviceChoice) -> Option<Pipeline> {
    let opened = load(folder, device, true);
    if device == DeviceChoice::Cpu { Some(opened.unwrap()) } else { crate::devices::found(opened) }
}

pub fn draw(pipeline: &mut Pipeline, request: &Request) -> Result<Generated> {
    let mut control = Control { on_step: &mut |_| {}, stopped: &|| false };
    pollster::block_on(pipeline.generate(request, &mut control))
}

/// `max |a - b| / max |b|`
pub fn error(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

/// The peak is the range from -1 to 1.
pub fn psnr(a: &[f32], b: &[f32]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    -10.0 * (squares / (4.0 * a.len() as f64)).log10()
}

pub fn request(prompt: &str) -> Request {
    Request { prompt: Some(prompt.into()), steps: Some(3), seed: 5, ..Request::default() }
}

/// What was reported: stage, step and of how many.
pub fn watched(pipeline: &mut Pipeline, request: &Request) -> (Generated, Vec<(Stage, usize, usize)>) {
    let mut events = Vec::new();
    let mut on_step = |event: StepEvent| events.push((event.stage, event.step, event.steps));
    let mut control = Control { on_step: &mut on_step, stopped: &|| false };
    let drawn = pollster::block_on(pipeline.generate(request, &mut control)).unwrap();
    (drawn, events)
}
