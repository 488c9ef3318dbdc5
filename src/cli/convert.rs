//! `uvit convert`.

use super::examples::{self, Texts};
use super::output::say;
use super::progress::Progress;
use super::{calibrate, preview, read_text, refusal, report};
use std::path::{Path, PathBuf};
use uvit_web::model::{Batch, Network};
use uvit_web::package::{
    self, DECODER, DENOISER, Description, ENCODER, Located, MANIFEST, PartSource, Preset, Storing, TEXT_ENCODER,
    TOKENIZER, Writer, official, preset, recognise,
};
use uvit_web::plan::WeightUse;
use uvit_web::weights::Dtype;
use uvit_web::weights::checkpoint::{self, Found, Source, Weights};
use uvit_web::{Code, Error, Result};

#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Arguments {
    /// A checkpoint (.safetensors, .pth, the index of several files, a folder with one of them); or a model of several
    /// networks: a description (JSON; docs/format.md), the folder of a UniDiffuser, as it is published or of diffusers, a DiT's
    /// of diffusers, or Stable Diffusion 3's folder or file
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
    /// Where a component or a tokenizer of a published UniDiffuser or Stable Diffusion 3 lies, if not beside its denoiser under its
    /// published name
    #[arg(long, value_name = "NAME=PATH", value_parser = refusal::located)]
    component: Vec<Located>,
    /// The autoencoder of a U-ViT in latent space: Stable Diffusion's as U-ViT publishes it, or a folder of diffusers
    #[arg(long, value_name = "PATH")]
    autoencoder: Option<PathBuf>,
    /// A smaller decoder for previews: TAESD's as it was published, or a folder of diffusers
    #[arg(long, value_name = "PATH")]
    preview_decoder: Option<PathBuf>,
    /// The text encoder of a U-ViT for text, with its tokenizer: a folder of transformers, or of a diffusers pipeline
    #[arg(long, value_name = "FOLDER")]
    text_encoder: Option<PathBuf>,
    /// What the labels mean (JSON)
    #[arg(long)]
    labels: Option<PathBuf>,
    /// Licences of the weights and of what they learned from (JSON)
    #[arg(long)]
    licences: Option<PathBuf>,
    /// The folder to write: new or empty
    #[arg(long)]
    out: PathBuf,
    /// Stored dtypes, the default one first: f32, f16, q8, q4; of components for which a description says none
    #[arg(long)]
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
    /// q8, q4: calibrate the text encoder, and a denoiser of texts, with these, one a line, instead of everyday captions
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Fit a linear preview of the latents to this many pictures that the model draws and decodes; 0: none [default: 12, of large
    /// models fewer]
    #[arg(long, value_parser = refusal::count)]
    preview: Option<usize>,
    /// Print what each stored form of each component costs, against f32
    #[arg(long)]
    report: bool,
    /// Replace the model in the folder; never anything else
    #[arg(long)]
    force: bool,
}

/// A component that is converted: its network and the weights that were found for it.
pub struct Part<'a> {
    pub source: &'a PartSource,
    pub network: Network,
    pub found: Found,
}

pub fn run(a: &Arguments) -> Result<()> {
    let mut described = describe(a)?;
    if let Some(file) = &a.prompts {
        let text = read_text(file)?;
        described.prompts = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    }
    let Description { sources, assets, mut manifest, .. } = described.clone();
    let networks =
        sources.iter().map(|source| manifest.network(&source.component)).collect::<Result<Vec<Network>>>()?;
    check(a, &sources, &networks)?;
    let mut parts: Vec<Part<'_>> = Vec::new();
    for (source, network) in sources.iter().zip(networks) {
        // The denoiser's file is its own; others hold an autoencoder's other half, or CLIP's.
        let find = if source.component == DENOISER { checkpoint::find } else { checkpoint::find_part };
        let found = find(&source.checkpoint, &network, &source.weights).map_err(|e| of_part(&sources, source, e))?;
        parts.push(Part { source, network, found });
    }
    let (inputs, work) = work(a, &described)?;
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    let mut writer = Writer::resuming(&a.out, &inputs, a.force, &work)?;
    // Whether somebody reads it or not: the model is yet to be written.
    for what in &described.left_out {
        let _ = say!("left out: {what}");
    }
    for Part { source, found, .. } in &parts {
        if let Some(report) = &found.report {
            let _ = say!("{}{report}", label(&sources, source));
        }
    }
    if writer.found() > 0 {
        let _ = say!("goes on where a run was interrupted: {} files are there", writer.found());
    }
    for (name, text) in assets.iter() {
        writer.add_asset(&mut manifest, name, "txt", text.as_bytes())?;
    }
    let coarse = |part: &Part<'_>| dtypes(a, part.source).iter().any(|dtype| matches!(dtype, Dtype::Q8 | Dtype::Q4));
    let calibrated = a.calibration != Some(0) && parts.iter().any(coarse);
    let previewed = a.preview != Some(0) && manifest.components.get(DECODER).is_some();
    let many = calibrated || a.report;
    let texts = match many || previewed {
        true => {
            let most = if many { usize::MAX } else { preview::TEXTS };
            Texts::of(&mut parts, assets.get(TOKENIZER), &described.prompts, most)?
        }
        false => None,
    };
    let learnt = texts.as_ref().map(|texts| texts.split(false));
    for part in &mut parts {
        for &dtype in dtypes(a, part.source) {
            let mut storing = Storing::plain(dtype);
            match dtype {
                Dtype::Q8 => storing.group = a.group,
                Dtype::Q4 => storing.keep_q8.clone_from(&a.keep_q8),
                _ => {}
            }
            let pictures = match dtype {
                // So many that the inputs of the widest layers are seen a few thousand times at every step.
                Dtype::Q8 => a.calibration.unwrap_or_else(|| (3168 / part.network.tokens().max(1)).clamp(6, 48)),
                Dtype::Q4 => a.calibration.unwrap_or(60),
                _ => 0,
            };
            let sampling = manifest.sampling.clone();
            let examples = examples::of(&part.source.component, learnt.as_ref(), pictures, &sampling);
            if let Some(examples) = examples.filter(|_| pictures > 0) {
                calibrate::compensate(part, examples, &mut storing, &mut writer)?;
            }
            let Part { source, network, found } = &mut *part;
            let tensors = storing.forms(network)?.len() as u64;
            let progress = Progress::new(format!("{}writing {}", label(&sources, source), dtype.as_str()), tensors);
            writer.add(&mut manifest, &source.component, &storing, &mut Counted { source: found, progress })?;
        }
    }
    if previewed {
        // A model without it is a model.
        match preview::fit(&mut parts, &manifest, learnt.as_ref(), a.preview) {
            Ok(fitted) => {
                let _ = say!("{fitted}");
                manifest.preview = Some(fitted.preview);
            }
            Err(error) => drop(say!("preview: no linear map of the latents: {}", error.cause)),
        }
    }
    writer.finish(&manifest)?;
    for source in &sources {
        for variant in &manifest.component(&source.component)?.variants {
            let (label, dtype, shards) = (label(&sources, source), variant.dtype.as_str(), variant.shards.len());
            say!("{label}{dtype} {:>12} bytes in {shards} shards", variant.bytes)?;
        }
    }
    if a.report {
        report::print(&a.out, &manifest, &mut parts, texts.map(|texts| texts.split(true)).as_ref())?;
    }
    say!("wrote {}", a.out.join(MANIFEST).display())
}

/// What is to be made, from whatever was given.
fn describe(a: &Arguments) -> Result<Description> {
    let labels = a.labels.as_deref().map(read_text).transpose()?;
    let licences = a.licences.as_deref().map(read_text).transpose()?;
    let mut preset = a.preset.as_deref().map(preset).transpose()?;
    if preset.is_none() && a.config.is_none() {
        preset = official(&a.checkpoint)?;
        if let Some(preset) = &preset {
            let _ = say!("{}: taken for the published one", preset.name);
        } else if let Some(mut described) = Description::find(&a.checkpoint)? {
            let parts = [&a.autoencoder, &a.preview_decoder, &a.text_encoder];
            if parts.iter().any(|part| part.is_some()) || !a.component.is_empty() || a.weights != Weights::Auto {
                let cause = "--component, --autoencoder, --preview-decoder, --text-encoder and --weights are for one \
                    checkpoint; this is a model of several";
                let remedy = "Say it in the description, component by component";
                return Err(Error::new(Code::InvalidArgument, cause, remedy));
            }
            if let Some(text) = labels {
                described.manifest.labels = package::labels(&text)?;
            }
            if let Some(text) = licences {
                described.manifest.licences = package::licences(&text)?;
            }
            return described.complete();
        } else {
            let (found, seen) = recognise(&a.checkpoint)?;
            let _ = say!("{}: taken for {seen}", found.name);
            preset = Some(found);
        }
    }
    if let Some(whole) = preset.as_ref().filter(|preset| preset.parts.is_some()) {
        let mut described = describe_whole(a, whole)?;
        if let Some(text) = licences {
            described.manifest.licences = package::licences(&text)?;
        }
        return described.complete();
    }
    if let Some((name, _)) = a.component.first() {
        let cause = format!("--component {name} is for a published model of several networks, which this one is not");
        let remedy = "Give --autoencoder, --text-encoder or --preview-decoder, or write a description (docs/format.md)";
        return Err(Error::new(Code::InvalidArgument, cause, remedy));
    }
    let (config, scale) = match (&preset, &a.config) {
        (Some(preset), _) => (preset.config.to_string(), preset.latent_scale),
        (None, Some(file)) => (read_text(file)?, None),
        (None, None) => return Err(Error::internal("neither a preset nor a configuration")),
    };
    let manifest = package::describe(&config, labels.as_deref(), licences.as_deref())?;
    let mut described = Description::of_denoiser(manifest, a.checkpoint.clone(), a.weights.clone());
    if let Some(path) = &a.autoencoder {
        described.add_autoencoder(path, scale)?;
    }
    if let Some(path) = &a.preview_decoder {
        described.add_preview_decoder(path, scale)?;
    }
    if let Some(folder) = &a.text_encoder {
        described.add_text_encoder(folder)?;
    }
    described.complete()
}

/// A published model with all its networks. The options for U-ViTs that bring one are short for components.
fn describe_whole(a: &Arguments, preset: &Preset) -> Result<Description> {
    if a.labels.is_some() {
        let cause = format!("--labels are for models of classes, and {} has none", preset.name);
        return Err(Error::new(Code::InvalidArgument, cause, "Leave it out"));
    }
    let mut located = a.component.clone();
    for (path, names) in [(&a.autoencoder, [DECODER, ENCODER].as_slice()), (&a.text_encoder, &[TEXT_ENCODER])] {
        if let Some(path) = path {
            located.extend(names.iter().map(|name| ((*name).to_owned(), path.clone())));
        }
    }
    let mut described = Description::of_official(preset, &a.checkpoint, &a.weights, &located)?;
    if let Some(path) = &a.preview_decoder {
        described.add_preview_decoder(path, preset.latent_scale)?;
    }
    Ok(described)
}

/// A component's name in front of a line, where there are several.
fn label(sources: &[PartSource], source: &PartSource) -> String {
    if sources.len() == 1 { String::new() } else { format!("{}: ", source.component) }
}

fn of_part(sources: &[PartSource], source: &PartSource, error: Error) -> Error {
    if sources.len() == 1 { error } else { error.of(&format!("component {}", source.component)) }
}

/// How a component is stored: as its description says, or as all are.
fn dtypes<'a>(a: &'a Arguments, source: &'a PartSource) -> &'a [Dtype] {
    if source.dtypes.is_empty() { &a.dtype } else { &source.dtypes }
}

/// The files that are read, and all that decides what will be written, for a run that goes on where another was interrupted.
fn work(a: &Arguments, described: &Description) -> Result<(Vec<PathBuf>, String)> {
    let mut files: Vec<PathBuf> = Vec::new();
    for source in &described.sources {
        files.extend(checkpoint::files(&source.checkpoint)?);
    }
    let abouts = files.iter().map(|file| {
        let about = std::fs::metadata(file).and_then(|about| Ok((about.len(), about.modified()?)));
        about.map_err(|e| {
            let cause = format!("{}: {e}", file.display());
            Error::new(Code::Io, cause, "Check that the file exists and can be read")
        })
    });
    let abouts = abouts.collect::<Result<Vec<_>>>()?;
    let options = (&a.dtype, a.group, &a.keep_q8, a.calibration);
    let Description { sources, assets, prompts, manifest, .. } = described;
    let work = format!("{abouts:?} {sources:?} {options:?} {assets:?} {prompts:?} {}", manifest.to_json());
    let beside = [
        &described.file,
        &described.tokenizer,
        &described.caption_tokenizer,
        &a.config,
        &a.labels,
        &a.licences,
        &a.prompts,
    ];
    files.extend(beside.into_iter().flatten().cloned());
    Ok((files, work))
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
fn check(a: &Arguments, sources: &[PartSource], networks: &[Network]) -> Result<()> {
    let refuse = |cause: String, remedy: &str| Err(Error::new(Code::InvalidArgument, cause, remedy));
    let given = |dtype: Dtype| sources.iter().any(|source| dtypes(a, source).contains(&dtype));
    if let Some((_, dtype)) = a.dtype.iter().enumerate().find(|(i, dtype)| a.dtype[..*i].contains(dtype)) {
        return refuse(format!("--dtype {} is given twice", dtype.as_str()), "Give each dtype once");
    }
    if let Some(source) = sources.iter().find(|source| dtypes(a, source).is_empty()) {
        let cause = format!("nothing says which dtype {} is to be stored in", source.component);
        return refuse(cause, "Add --dtype q8, for instance");
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
    if a.preview.is_some_and(|pictures| pictures > 0) && !sources.iter().any(|source| source.component == DECODER) {
        let cause = "--preview is for a model with a decoder, which this one has not";
        return refuse(cause.into(), "Leave it out, or add --autoencoder");
    }
    let mut matrices = Vec::new();
    for network in networks {
        let weights = network.record(Batch::plain(1))?.plan.weights;
        matrices
            .extend(weights.into_iter().filter(|weight| weight.usage == WeightUse::Matrix).map(|weight| weight.name));
    }
    match a.keep_q8.iter().find(|&part| !matrices.iter().any(|name| name.contains(part.as_str()))) {
        Some(part) => {
            let some = matrices.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
            refuse(format!("--keep-q8 {part:?} is in no matrix's name"), &format!("Give a part of one, such as {some}"))
        }
        None => Ok(()),
    }
}
