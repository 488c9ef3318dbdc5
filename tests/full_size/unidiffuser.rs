//! The published UniDiffuser v1 with random weights: files as its publishers leave them, converted to q4, and two requests on the CPU,
//! every component loaded for its stage.

use super::random_checkpoint::pth::save_streaming;
use super::unidiffuser_files as files;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Instant;
use uvit_web::model::Batch;
use uvit_web::package::{DENOISER, Manifest, preset, read_manifest};
use uvit_web::pipeline::sampling::Control;
use uvit_web::pipeline::{
    Answer, ComputeChoice, DeviceChoice, Generated, LoadOptions, Loader, Picture, Pipeline, Request, Source, fitting,
};
use uvit_web::plan::{Capabilities, Compute};
use uvit_web::runtime::Tune;
use uvit_web::weights::StoredFile;

/// WebGPU's default limit of a binding; that of a buffer is twice as much.
const MAX_BINDING: usize = 128 << 20;

/// Every component's Program at the model's size, and its largest matrix in q4.
pub fn fits_a_device_with_default_limits(manifest: &Manifest) {
    for name in manifest.runs() {
        let network = manifest.network(name).unwrap();
        let copies = if name == DENOISER { 2 } else { 1 };
        let batch = Batch { copies, ..manifest.one(name).unwrap() };
        let (_, program) = fitting(&network, batch, &Capabilities::WEBGPU).unwrap();
        let largest = program.slab_bytes.iter().chain([&program.io_bytes]).max().copied().unwrap_or(0);
        let matrix = manifest.variant(name, None).unwrap().tensors.values().map(|entry| entry.bytes()).max().unwrap();
        println!(
            "  {name}: {:.1} G multiply-adds in {} dispatches, activations {:.0} MB in buffers of at most {:.0} MB, the largest \
             tensor {:.0} MB",
            1e-9 * program.cost().multiply_adds as f64,
            program.kernels.len(),
            1e-6 * program.activation_bytes() as f64,
            1e-6 * largest as f64,
            1e-6 * matrix as f64,
        );
        assert!(largest <= MAX_BINDING && matrix <= MAX_BINDING as u64, "{name}");
    }
}

/// The process's memory now, and at most since [`forget_peak`]; where the system says it.
fn resident() -> Option<[u64; 2]> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
    };
    Some([field("VmRSS:")?, field("VmHWM:")?])
}

fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// A folder that notes how much memory the process took between one component's files and the next one's.
pub struct Watched {
    folder: PathBuf,
    seen: RefCell<Vec<(String, u64)>>,
}

impl Watched {
    fn begin(&self, component: &str) {
        self.end();
        self.seen.borrow_mut().push((component.to_owned(), 0));
        forget_peak();
    }

    fn end(&self) {
        if let (Some((_, peak)), Some([_, most])) = (self.seen.borrow_mut().last_mut(), resident()) {
            *peak = most;
        }
    }
}

impl Source for Watched {
    fn bring(&self, file: &StoredFile) -> Answer<Vec<u8>> {
        let component = file.file.split('-').next().unwrap_or_default();
        let last = self.seen.borrow().last().map(|(name, _)| name.clone());
        if last.as_deref() != Some(component) {
            self.begin(component);
        }
        let bytes = std::fs::read(self.folder.join(&file.file)).unwrap();
        Box::pin(async move { Ok(bytes) })
    }
}

pub fn load(folder: &Path) -> (Pipeline, Rc<Watched>) {
    let options = LoadOptions {
        device: DeviceChoice::Cpu,
        compute: ComputeChoice::Fixed(Compute::Quality),
        tune: Tune::Off,
        keep_loaded: false,
        ..LoadOptions::default()
    };
    let (manifest, folder) = read_manifest(folder).unwrap();
    let mut loader = pollster::block_on(Loader::new(manifest, options)).unwrap();
    for index in 0..loader.files().len() {
        let bytes = std::fs::read(folder.join(&loader.files()[index].stored.file)).unwrap();
        pollster::block_on(loader.add_file(index, &bytes)).unwrap();
    }
    let mut pipeline = pollster::block_on(loader.finish()).unwrap();
    let watched = Rc::new(Watched { folder, seen: RefCell::default() });
    pipeline.bring_from(watched.clone());
    (pipeline, watched)
}

pub fn run(pipeline: &mut Pipeline, watched: &Watched, what: &str, request: &Request) -> Generated {
    let begin = Instant::now();
    let before = resident().map_or(0, |[now, _]| now);
    let mut control = Control { on_step: &mut |_| {}, stopped: &|| false };
    let drawn = pollster::block_on(pipeline.generate(request, &mut control)).unwrap();
    watched.end();
    println!("{what}: {:.1} s; {:?}", begin.elapsed().as_secs_f64(), drawn.timings);
    for (component, peak) in watched.seen.borrow_mut().drain(..) {
        println!("  {component}: {:.0} MB above the process's own", 1e-6 * peak.saturating_sub(before) as f64);
    }
    println!("  at most {:.0} MB on the device", 1e-6 * pipeline.device().memory().peak_bytes as f64);
    drawn
}

#[test]
#[ignore = "minutes and gigabytes: scripts/test full"]
fn unidiffuser_v1_is_converted_loaded_stage_by_stage_and_run() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("full-size-unidiffuser");
    let _ = std::fs::remove_dir_all(&folder);
    let (models, out) = (folder.join("models"), folder.join("model"));
    let begin = Instant::now();
    let mut values = files::Values::new();
    for (file, tensors) in files::write_folder(&preset("unidiffuser_v1").unwrap(), &models) {
        save_streaming(&models.join(file), &tensors, &mut |name, shape| values.of(name, shape));
    }
    println!("random weights written in {:.0} s", begin.elapsed().as_secs_f64());

    let begin = Instant::now();
    let mut convert = Command::new(env!("CARGO_BIN_EXE_uvit"));
    convert.arg("convert").arg(&models).args(["--dtype", "q4", "--calibration", "0", "--preview", "0", "--out"]);
    assert!(convert.arg(&out).status().unwrap().success());
    println!("converted to q4 in {:.0} s", begin.elapsed().as_secs_f64());
    std::fs::remove_dir_all(&models).unwrap();

    let manifest = read_manifest(&out).unwrap().0;
    println!("{:.0} MB to download", 1e-6 * manifest.files().map(|file| file.bytes).sum::<u64>() as f64);
    fits_a_device_with_default_limits(&manifest);

    let (mut pipeline, watched) = load(&out);
    let of = Request { steps: Some(1), seed: 1, ..Request::default() };
    let drawn = run(
        &mut pipeline,
        &watched,
        "one guided step from words to a picture",
        &Request { prompt: Some("an elephant under the sea".into()), ..of.clone() },
    );
    assert_eq!((drawn.height, drawn.width, drawn.guidance_scale), (512, 512, 8.0));
    assert!(drawn.values.iter().all(|v| v.is_finite()) && drawn.values.iter().any(|v| *v != drawn.values[0]));
    let rgba: Vec<u8> = (0..600 * 480 * 4u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let told = run(
        &mut pipeline,
        &watched,
        "one guided step from a picture to words",
        &Request { image: Some(Picture::from_rgba(&rgba, 600, 480).unwrap()), ..of },
    );
    assert!(told.values.is_empty());
    println!("  \"{}\"", told.texts[0].text);
    assert!(!told.texts[0].ids.is_empty());
    std::fs::remove_dir_all(&folder).unwrap();
}
