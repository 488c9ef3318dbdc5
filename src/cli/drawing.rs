//! One generation as people follow it: what runs, a bar, warnings, what came out, and the files that it was written to.

use super::load::{load, style};
use super::output::say;
use super::pictures::Files;
use indicatif::ProgressBar;
use std::io::Write as _;
use std::path::Path;
use uvit_web::package::{DENOISER, Manifest, Task};
use uvit_web::pipeline::sampling::{Control, Stage, StepEvent};
use uvit_web::pipeline::{DeviceInfo, Generated, LoadOptions, Pipeline, Request};
use uvit_web::{Code, Error, Result};

/// What was asked for, and what its arrays were, for the settings that are written.
pub struct Asked {
    pub request: Request,
    pub about: Vec<(&'static str, String)>,
}

impl Asked {
    /// Whether pictures come out, and not texts alone; an image without a mode asks for texts.
    pub fn gives_pictures(&self, manifest: &Manifest) -> bool {
        let Request { mode, prompt, context, image, .. } = &self.request;
        match mode {
            Some(mode) => mode.gives_images(),
            None => manifest.task != Task::Any || image.is_none() || prompt.is_some() || context.is_some(),
        }
    }

    /// Whether texts come out, beside pictures or alone.
    fn gives_texts(&self, manifest: &Manifest) -> bool {
        let Request { mode, prompt, context, .. } = &self.request;
        match mode {
            Some(mode) => mode.gives_texts(),
            None => manifest.task == Task::Any && prompt.is_none() && context.is_none(),
        }
    }

    /// The files that it will be written to, as `out` says.
    ///
    /// # Errors
    /// Those of [`Files::plan`].
    pub fn files(&self, out: Option<&Path>, manifest: &Manifest) -> Result<Files> {
        let Request { seed, count, .. } = self.request;
        let shape = if self.gives_pictures(manifest) { Some(manifest.picture_shape()?) } else { None };
        let moves = manifest.network(DENOISER)?.frames().is_some();
        let mut files = Files::plan(out, shape, self.gives_texts(manifest), moves, seed, count.unwrap_or(1))?;
        self.about.iter().for_each(|(name, value)| files.note(name, value.clone()));
        Ok(files)
    }
}

/// A seed that differs from call to call.
pub fn random_seed() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() as u32
}

/// Checks that a model can do more than one thing, before it is loaded.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn check_modes(manifest: &Manifest) -> Result<()> {
    if manifest.task == Task::Any {
        return Ok(());
    }
    let cause = format!("the task of {} is \"{}\": it reads no pictures", manifest.name, manifest.task.as_str());
    Err(Error::new(Code::InvalidArgument, cause, "Give a model whose task is \"any\", a UniDiffuser"))
}

/// Loads a model and runs a request on it; says what runs, and with how much left to do.
///
/// # Errors
/// Those of loading and of [`Pipeline::generate`].
pub fn draw(model: &Path, options: LoadOptions, request: &Request) -> Result<Generated> {
    let mut pipeline = load(model, options)?;
    // Whoever reads this may go away: the picture is drawn all the same.
    let _ = say!("{}", about(&pipeline));
    generate(&mut pipeline, request)
}

/// Runs a request; warnings go to standard error.
///
/// # Errors
/// Those of [`Pipeline::generate`].
pub fn generate(pipeline: &mut Pipeline, request: &Request) -> Result<Generated> {
    let bar = ProgressBar::new(0);
    bar.set_style(style("{msg} {bar:40} {pos}/{len}, {elapsed}"));
    let mut on_step = |event: StepEvent| {
        let stage = match event.stage {
            Stage::Text => "reading ",
            Stage::Encoding => "encoding",
            Stage::Sampling => "sampling",
            Stage::Decoding => "decoding",
            Stage::Captioning => "telling ",
        };
        match event.windows {
            1 => bar.set_message(stage),
            windows => bar.set_message(format!("{stage} window {} of {windows}", event.window)),
        }
        bar.set_length(event.steps as u64);
        bar.set_position(event.step as u64);
    };
    let mut control = Control { on_step: &mut on_step, stopped: &|| false };
    let generated = pollster::block_on(pipeline.generate(request, &mut control));
    bar.finish_and_clear();
    let generated = generated?;
    for warning in &generated.warnings {
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    Ok(generated)
}

/// Says what came out: of what, in how long, and the texts.
///
/// # Errors
/// Those of writing to standard output.
pub fn tell(generated: &Generated) -> Result<()> {
    let steps = &generated.timings.step_ms;
    let mean = steps.iter().sum::<f64>() / steps.len().max(1) as f64;
    let mode = generated.mode.map_or(String::new(), |mode| format!("mode {}, ", mode.as_str()));
    let what = match (&generated.prompt, generated.mode) {
        (Some(prompt), _) => format!("prompt {:?}, ", prompt.0.join(", ")),
        (None, None) => {
            // A model may have no names for its labels.
            let number = generated.label.map(|label| label.to_string());
            format!("label {}, ", generated.label_name.clone().or(number).as_deref().unwrap_or("none"))
        }
        (None, Some(_)) => String::new(),
    };
    let Generated { seed, timings, .. } = generated;
    let what = match generated.frame_rate > 0.0 {
        true => format!("{what}{} frames, ", generated.frames),
        false => what,
    };
    say!("{mode}{what}seed {seed}, {} steps of {mean:.0} ms, {:.2} s in all", steps.len(), timings.total_ms / 1e3)?;
    generated.texts.iter().try_for_each(|caption| say!("{}", caption.text))
}

/// What runs, and where.
pub fn about(pipeline: &Pipeline) -> String {
    let info = pipeline.info();
    let adapter = info.device.adapter.as_ref().map_or(String::new(), |a| format!(" ({})", a.vendor));
    let arithmetic = match info.device.device {
        "cpu" => format!(", {} threads, compute {}", info.threads, info.compute.as_str()),
        _ => String::new(),
    };
    let DeviceInfo { device, device_reason, .. } = &info.device;
    format!("{} {} on {device}{adapter}{arithmetic}: {device_reason}", info.name, info.dtype.as_str())
}
