//! `uvit convert`.

use super::output::say;
use super::{calibrate, read_text, refusal};
use std::path::{Path, PathBuf};
use uvit_web::model::{Batch, Network};
use uvit_web::package::{DENOISER, MANIFEST, Storing, Writer, describe, store};
use uvit_web::plan::WeightUse;
use uvit_web::weights::Dtype;
use uvit_web::weights::checkpoint::{self, Weights};
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
    #[arg(long)]
    config: PathBuf,
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
    let mut manifest = describe(&read_text(&a.config)?, labels.as_deref(), licences.as_deref())?;
    let network = manifest.network(DENOISER)?;
    check(a, &network)?;
    let inputs = [Some(&a.checkpoint), Some(&a.config), a.labels.as_ref(), a.licences.as_ref()];
    let inputs: Vec<&Path> = inputs.into_iter().flatten().map(PathBuf::as_path).collect();
    let mut writer = Writer::new(&a.out, &inputs, a.force)?;
    let taken = checkpoint::take(&a.checkpoint, &network, &a.weights)?;
    let weights = taken.tensors;
    if let Some(report) = taken.report {
        // Whether somebody reads it or not: the model is yet to be written.
        let _ = say!("{report}");
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
            calibrate::compensate(&manifest, &weights, pictures, &mut storing)?;
        }
        writer.add(&mut manifest, DENOISER, &storing, &store(&network, &weights, &storing)?)?;
    }
    writer.finish(&manifest)?;
    for variant in &manifest.component(DENOISER)?.variants {
        say!("{} {:>12} bytes in {} shards", variant.dtype.as_str(), variant.bytes, variant.shards.len())?;
    }
    say!("wrote {}", a.out.join(MANIFEST).display())
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
