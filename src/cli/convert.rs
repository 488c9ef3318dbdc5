//! `uvit convert`.

use super::{calibrate, read_text};
use std::path::{Path, PathBuf};
use uvit_web::package::{DENOISER, MANIFEST, Storing, Writer, describe, store};
use uvit_web::weights::{Dtype, checkpoint};
use uvit_web::{Error, Result};

#[derive(clap::Args)]
pub struct Arguments {
    /// The checkpoint: .safetensors or .pth
    checkpoint: PathBuf,
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
    #[arg(long, default_value_t = 0)]
    group: usize,
    /// q4: keep matrices whose name contains this in q8
    #[arg(long)]
    keep_q8: Vec<String>,
    /// q8, q4: round with error compensation (GPTQ), calibrated on this many generated pictures; 0: plain rounding [default:
    /// 60 for q4, for q8 fewer the more tokens a picture has, 48 for 66]
    #[arg(long)]
    calibration: Option<usize>,
    /// Replace the model in the folder; never anything else
    #[arg(long)]
    force: bool,
}

pub fn run(a: &Arguments) -> Result<()> {
    let labels = a.labels.as_deref().map(read_text).transpose()?;
    let licences = a.licences.as_deref().map(read_text).transpose()?;
    let mut manifest = describe(&read_text(&a.config)?, labels.as_deref(), licences.as_deref())?;
    let inputs = [Some(&a.checkpoint), Some(&a.config), a.labels.as_ref(), a.licences.as_ref()];
    let inputs: Vec<&Path> = inputs.into_iter().flatten().map(PathBuf::as_path).collect();
    let mut writer = Writer::new(&a.out, &inputs, a.force)?;
    let weights = checkpoint::read(&a.checkpoint)?;
    let network = manifest.network(DENOISER)?;
    checkpoint::check(&weights, &network)?;
    for &dtype in &a.dtype {
        let mut storing = Storing::plain(dtype);
        match dtype {
            Dtype::Q8 if !a.group.is_multiple_of(4) => {
                let cause = format!("group is {}", a.group);
                return Err(Error::new(
                    uvit_web::Code::InvalidArgument,
                    cause,
                    "Give 0 or a multiple of 4, such as 64",
                ));
            }
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
            storing.hessians = calibrate::hessians(&manifest, &weights, pictures)?;
        }
        writer.add(&mut manifest, DENOISER, &storing, &store(&network, &weights, &storing)?)?;
    }
    writer.finish(&manifest)?;
    for variant in &manifest.component(DENOISER)?.variants {
        println!("{} {:>12} bytes in {} shards", variant.dtype.as_str(), variant.bytes, variant.shards.len());
    }
    println!("wrote {}", a.out.join(MANIFEST).display());
    Ok(())
}
