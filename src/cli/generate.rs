//! `uvit generate`.

use super::output::say;
use super::pictures::Files;
use super::{records, refusal};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use uvit_web::package::{DENOISER, read_asset, read_manifest};
use uvit_web::pipeline::sampling::{Control, StepEvent};
use uvit_web::pipeline::{
    ComputeChoice, DeviceChoice, DeviceInfo, LabelChoice, LoadOptions, Loader, Pipeline, Preset, Request,
};
use uvit_web::runtime::Tune;
use uvit_web::sampler::{SamplerKind, Spacing};
use uvit_web::weights::Dtype;
use uvit_web::{Code, Error, Result};

#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Arguments {
    /// The model: a manifest.json or its folder
    model: PathBuf,
    /// Label, by number or name
    #[arg(long)]
    label: Option<String>,
    /// How often the network runs, 1 to 1000
    #[arg(long, value_parser = refusal::count)]
    steps: Option<usize>,
    /// uncond + s (cond - uncond); 1 is off
    #[arg(long, allow_hyphen_values = true)]
    guidance_scale: Option<f64>,
    /// Image k has seed + k; 0 to 4294967295; random if not given
    #[arg(long, value_parser = refusal::seed)]
    seed: Option<u32>,
    /// How many pictures
    #[arg(long, default_value_t = 1, value_parser = refusal::count)]
    count: usize,
    /// dpmpp_2m, dpmpp_3m, dpmpp_2m_sde, unipc, deis, dpmpp_3s, dpm_solver, euler, euler_ancestral, heun, ddim, ddpm, plms, pndm,
    /// lcm, euler_maruyama_sde or euler_maruyama_ode; the model's own if not given
    #[arg(long)]
    sampler: Option<SamplerKind>,
    /// How the sampler's times are spread: time_uniform, log_snr, quadratic, karras, or, where the schedule is one of training
    /// steps, linspace, leading or trailing; the sampler's own if not given
    #[arg(long)]
    grid: Option<Spacing>,
    /// ddim: 0 is deterministic, 1 draws as much noise as DDPM
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true)]
    eta: f64,
    /// euler: fresh noise over all steps (S_churn); 0 is none
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true)]
    churn: f64,
    /// Fewer steps with a solver that bears them: fast (12) or draft (6)
    #[arg(long)]
    preset: Option<Preset>,
    /// Guidance only while t lies between these two, from 0 (the picture) to 1 (noise)
    #[arg(long, num_args = 2, allow_hyphen_values = true, value_names = ["LOW", "HIGH"])]
    guidance_interval: Vec<f64>,
    /// Leave out inner blocks in some steps, as the manifest's calibrated schedule says
    #[arg(long)]
    cache: bool,
    #[command(flatten)]
    place: Place,
    /// The file or folder to write into; with --count N, NAME-SEED.png each and a contact sheet NAME.png. A name that ends in
    /// .npy or .safetensors takes the floats [count, channels, height, width] of all, as latents need
    #[arg(long, short, default_value = "uvit.png")]
    out: PathBuf,
}

/// Where and how a model runs.
#[derive(clap::Args)]
pub struct Place {
    /// cpu, gpu or auto
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Which stored dtype
    #[arg(long)]
    dtype: Option<Dtype>,
    /// Arithmetic: on the CPU quality, fast or f32, on a GPU f32, f16 or w8a8; auto is f32 on a GPU, and on the CPU the faster
    /// of quality and f32, which look the same
    #[arg(long, default_value = "auto")]
    compute: ComputeChoice,
    /// Whether to measure which kernels are fastest on the GPU: auto (once, then remembered), off or again
    #[arg(long, default_value = "auto")]
    tune: Tune,
    /// Threads on the CPU (all cores if not given)
    #[arg(long, value_parser = refusal::threads)]
    threads: Option<usize>,
}

impl Place {
    pub fn options(&self) -> LoadOptions {
        let Place { device, dtype, compute, threads, tune } = *self;
        LoadOptions { device, dtype, compute, threads, tune, records: records::read(), ..LoadOptions::default() }
    }
}

/// Loads a model from files.
pub fn load(model: &Path, options: LoadOptions) -> Result<Pipeline> {
    let (manifest, folder) = read_manifest(model)?;
    manifest.assets.iter().try_for_each(|(name, _)| read_asset(&folder, &manifest, name).map(drop))?;
    pollster::block_on(async {
        let mut loader = Loader::new(manifest, options).await?;
        if let Some(new) = loader.device().tuned.as_ref().and_then(|tuned| tuned.records.as_deref()) {
            records::write(new);
        }
        let bar = ProgressBar::new(loader.shards().iter().map(|s| s.bytes).sum());
        bar.set_style(style("{msg} {bar:40} {bytes}/{total_bytes}"));
        bar.set_message("loading ");
        for index in 0..loader.shards().len() {
            let path = folder.join(&loader.shards()[index].file);
            let bytes = std::fs::read(&path).map_err(|e| {
                let cause = format!("{}: {e}", path.display());
                Error::new(Code::Io, cause, "Check that the file exists and can be read")
            })?;
            loader.add_shard(index, &bytes).await?;
            bar.inc(bytes.len() as u64);
        }
        bar.finish_and_clear();
        loader.finish().await
    })
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A seed that differs from call to call.
fn random_seed() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() as u32
}

pub fn run(a: &Arguments) -> Result<()> {
    let seed = a.seed.unwrap_or_else(random_seed);
    // Known before minutes of drawing, not after.
    let shape = read_manifest(&a.model)?.0.network(DENOISER)?.image_shape();
    let files = Files::plan(&a.out, shape, seed, a.count)?;
    let mut pipeline = load(&a.model, a.place.options())?;
    let info = pipeline.info().clone();
    let adapter = info.device.adapter.as_ref().map_or(String::new(), |a| format!(" ({})", a.vendor));
    let arithmetic = match info.device.device {
        "cpu" => format!(", {} threads, compute {}", info.threads, info.compute.as_str()),
        _ => String::new(),
    };
    let DeviceInfo { device, device_reason, .. } = &info.device;
    // Whoever reads this may go away: the picture is drawn all the same.
    let _ = say!("{} {} on {device}{adapter}{arithmetic}: {device_reason}", info.name, info.dtype.as_str());
    let request = Request {
        label: a.label.clone().map(|text| text.parse().map_or(LabelChoice::Name(text), LabelChoice::Index)),
        steps: a.steps,
        guidance_scale: a.guidance_scale,
        seed,
        count: Some(a.count),
        sampler: a.sampler,
        grid: a.grid,
        eta: a.eta,
        churn: a.churn,
        preset: a.preset,
        guidance_interval: a.guidance_interval.as_chunks().0.first().copied(),
        cache: a.cache,
        preview: false,
        start: None,
        init_image: None,
        strength: None,
        mask: None,
        fresh_noise: false,
    };
    let bar = ProgressBar::new(0);
    bar.set_style(style("sampling {bar:40} {pos}/{len} steps, {elapsed}"));
    let mut on_step = |event: StepEvent| {
        bar.set_length(event.steps as u64);
        bar.set_position(event.step as u64);
    };
    let mut control = Control { on_step: &mut on_step, stopped: &|| false };
    let pictures = pollster::block_on(pipeline.generate(&request, &mut control))?;
    bar.finish_and_clear();

    let steps = &pictures.timings.step_ms;
    let mean = steps.iter().sum::<f64>() / steps.len().max(1) as f64;
    let written = files.write(&pictures)?;
    say!(
        "label {}, seed {}, {} steps of {mean:.0} ms, {:.2} s in all",
        pictures.label_name.as_deref().unwrap_or("none"),
        pictures.seed,
        pictures.steps,
        pictures.timings.total_ms / 1e3
    )?;
    written.iter().try_for_each(|path| say!("wrote {}", path.display()))
}
