//! `uvit convert`.

use super::output::say;
use super::progress::Progress;
use super::{calibrate, read_text, refusal};
use std::path::{Path, PathBuf};
use uvit_web::model::{Batch, Network};
use uvit_web::package::{DENOISER, MANIFEST, Manifest, Storing, Writer, describe, preset, recognise};
use uvit_web::plan::WeightUse;
use uvit_web::weights::Dtype;
use uvit_web::weights::checkpoint::{self, Source, Weights};
use uvit_web::{Code, Error, Result};

#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Arguments {
    /// The checkpoint: .safetensors or .pth
    checkpoint: PathBuf,
    /// Which weights of a checkpoint that holds several: auto (EMA if there are some), ema, model or a key, e.g. state_dict
    #[arg(long, default_value = "auto", value_name = "auto|ema|model|KEY")]
    weights: Weights,
    /// Architecture, schedule and sampling defaults (JSON; docs/format.md)
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    config: Option<PathBuf>,
    /// A published model's (`uvit presets`). Without this and --config: the one whose tensors the checkpoint has
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// What the labels mean (JSON)
    #[arg(long)]
    labels: Option<PathBuf>,
    /// Licences of the weights and of what they learned from (JSON)
    #[arg(long)]
    licences: Option<PathBuf>,
    /// The folder to write: new or empty
    #[arg(long)]
    out: PathBuf,
    /// Stored dtypes, the default one first: f32, f16, q8, q4
    #[arg(long, required = true)]
    dtype: Vec<Dtype>,
    /// q8: columns a scale, 0 or 64
    #[arg(long, default_value_t = 0, value_parser = refusal::count)]
    group: usize,
    /// q4: keep matrices whose name contains this in q8
    #[arg(long)]
    keep_q8: Vec<String>,
    /// q8, q4: round with error compensation (GPTQ), calibrated on this many generated pictures; 0: plain rounding [default:
    /// 60 for q4, for q8 fewer the more tokens a picture has, 48 for 66]
    #[arg(long, value_parser = refusal::count)]
    calibration: Option<usize>,
    /// Replace the model in the folder; never anything else
    #[arg(long)]
    force: bool,
}

pub fn run(a: &Arguments) -> Result<()> {
    let labels = a.labels.as_deref().map(read_text).transpose()?;
    let licences = a.licences.as_deref().map(read_text).transpose()?;
    let config = match (&a.preset, &a.config) {
        (Some(name), _) => preset(name)?.config.to_string(),
        (None, Some(file)) => read_text(file)?,
        (None, None) => {
            let (preset, seen) = recognise(&a.checkpoint)?;
            let _ = say!("{}: taken for {seen}", preset.name);
            preset.config.to_string()
        }
    };
    let mut manifest = describe(&config, labels.as_deref(), licences.as_deref())?;
    let network = manifest.network(DENOISER)?;
    check(a, &network)?;
    let inputs = [Some(&a.checkpoint), a.config.as_ref(), a.labels.as_ref(), a.licences.as_ref()];
    let inputs: Vec<&Path> = inputs.into_iter().flatten().map(PathBuf::as_path).collect();
    let mut found = checkpoint::find(&a.checkpoint, &network, &a.weights)?;
    let mut writer = Writer::resuming(&a.out, &inputs, a.force, &work(a, &manifest)?)?;
    if let Some(report) = &found.report {
        // Whether somebody reads it or not: the model is yet to be written.
        let _ = say!("{report}");
    }
    if writer.found() > 0 {
        let _ = say!("goes on where a run was interrupted: {} files are there", writer.found());
    }
    for &dtype in &a.dtype {
        let mut storing = Storing::plain(dtype);
        match dtype {
            Dtype::Q8 => storing.group = a.group,
            Dtype::Q4 => storing.keep_q8.clone_from(&a.keep_q8),
            _ => {}
        }
        let pictures = match dtype {
            // So many that the inputs of the widest layers are seen a few thousand times at every step.
            Dtype::Q8 => a.calibration.unwrap_or_else(|| (3168 / network.tokens()).clamp(6, 48)),
            Dtype::Q4 => a.calibration.unwrap_or(60),
            _ => 0,
        };
        if pictures > 0 {
            calibrate::compensate(&manifest, &mut found, pictures, &mut storing, &mut writer)?;
        }
        let tensors = storing.forms(&network)?.len() as u64;
        let progress = Progress::new(format!("writing {}", dtype.as_str()), tensors);
        writer.add(&mut manifest, DENOISER, &storing, &mut Counted { source: &mut found, progress })?;
    }
    writer.finish(&manifest)?;
    for variant in &manifest.component(DENOISER)?.variants {
        say!("{} {:>12} bytes in {} shards", variant.dtype.as_str(), variant.bytes, variant.shards.len())?;
    }
    say!("wrote {}", a.out.join(MANIFEST).display())
}

/// All that decides what the files will hold, for a run that goes on where another was interrupted.
fn work(a: &Arguments, manifest: &Manifest) -> Result<String> {
    let about = std::fs::metadata(&a.checkpoint).and_then(|about| Ok((about.len(), about.modified()?)));
    let about = about.map_err(|e| {
        let cause = format!("{}: {e}", a.checkpoint.display());
        Error::new(Code::Io, cause, "Check that the file exists and can be read")
    })?;
    let options = (&a.weights, &a.dtype, a.group, &a.keep_q8, a.calibration);
    Ok(format!("{about:?} {options:?} {}", manifest.to_json()))
}

/// Counts the tensors that are read.
struct Counted<'a> {
    source: &'a mut dyn Source,
    progress: Progress,
}

impl Source for Counted<'_> {
    fn values(&mut self, name: &str) -> Result<Vec<f32>> {
        let values = self.source.values(name);
        self.progress.step();
        values
    }
}

/// Options that contradict each other, or would do nothing.
fn check(a: &Arguments, network: &Network) -> Result<()> {
    let refuse = |cause: String, remedy: &str| Err(Error::new(Code::InvalidArgument, cause, remedy));
    let given = |dtype: Dtype| a.dtype.contains(&dtype);
    if let Some((_, dtype)) = a.dtype.iter().enumerate().find(|(i, dtype)| a.dtype[..*i].contains(dtype)) {
        return refuse(format!("--dtype {} is given twice", dtype.as_str()), "Give each dtype once");
    }
    if !a.group.is_multiple_of(4) {
        return refuse(format!("--group is {}", a.group), "Give 0 or a multiple of 4, such as 64");
    }
    if a.group != 0 && !given(Dtype::Q8) {
        return refuse("--group is for q8, which --dtype does not ask for".into(), "Leave it out, or add --dtype q8");
    }
    if !a.keep_q8.is_empty() && !given(Dtype::Q4) {
        return refuse("--keep-q8 is for q4, which --dtype does not ask for".into(), "Leave it out, or add --dtype q4");
    }
    if a.calibration.is_some_and(|pictures| pictures > 0) && !given(Dtype::Q8) && !given(Dtype::Q4) {
        let cause = "--calibration is for q8 and q4, which --dtype does not ask for";
        return refuse(cause.into(), "Leave it out, or add --dtype q8 or q4");
    }
    let plan = network.record(Batch::plain(1))?.plan;
    let matrices = || plan.weights.iter().filter(|weight| weight.usage == WeightUse::Matrix);
    match a.keep_q8.iter().find(|&part| !matrices().any(|weight| weight.name.contains(part.as_str()))) {
        Some(part) => {
            let some = matrices().take(3).map(|weight| weight.name.as_str()).collect::<Vec<_>>().join(", ");
            refuse(format!("--keep-q8 {part:?} is in no matrix's name"), &format!("Give a part of one, such as {some}"))
        }
        None => Ok(()),
    }
}
