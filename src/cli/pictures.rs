//! The files of `uvit generate`: where they go, known before anything is drawn, and what they hold. Pictures are PNG files
//! with their settings inside, their texts among them; floats, which latents must be, are .npy or .safetensors files; texts alone are
//! .txt or .json files.

use super::animation::{self, Shown};
use super::output;
use super::settings_png::SETTINGS;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use uvit_web::json::Write;
use uvit_web::pipeline::{Generated, MAX_COUNT};
use uvit_web::{Code, Error, Result};

/// What a file is called that goes into a folder, without its ending.
const NAME: &str = "uvit";

/// The keyword of a PNG's text chunk with what the picture shows, as PNG's specification names it.
const DESCRIPTION: &str = "Description";

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Png,
    /// A clip, in an APNG.
    Apng,
    Gif,
    /// A clip, as PNGs in a folder.
    Frames,
    Npy,
    Safetensors,
    /// One text a line.
    Txt,
    /// The settings, with the texts.
    Json,
}

/// Endings of files that people may expect, and nobody writes.
const OTHERS: [&str; 15] =
    ["jpg", "jpeg", "webp", "avif", "gif", "bmp", "tif", "tiff", "svg", "npz", "pt", "pth", "md", "mp4", "webm"];

/// Where a call's pictures go.
pub struct Files {
    form: Form,
    /// The only picture or clip, the contact sheet of several pictures, or all floats; of clips as frames the folder.
    main: PathBuf,
    /// One a picture or clip, if there are several.
    each: Vec<PathBuf>,
    /// What the settings hold beside the pipeline's.
    about: Vec<(&'static str, String)>,
}

fn invalid(cause: String, remedy: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, cause, remedy)
}

impl Files {
    /// The files for so many images of `[channels, height, width]`, with texts or without, or for texts alone, or for clips (`moves`); all
    /// of them can be written.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if they cannot be shown as the ending says, `IO`.
    pub fn plan(
        out: Option<&Path>,
        shape: Option<[usize; 3]>,
        texts: bool,
        moves: bool,
        seed: u32,
        count: usize,
    ) -> Result<Files> {
        if !(1..=MAX_COUNT).contains(&count) {
            return Err(invalid(format!("count is {count}"), format!("Give a whole number from 1 to {MAX_COUNT}")));
        }
        let usual = format!("{NAME}.{}", if shape.is_some() { "png" } else { "txt" });
        let folder = |out: &Path| out.is_dir() || out.to_string_lossy().ends_with(['/', std::path::MAIN_SEPARATOR]);
        let main = match out {
            Some(out) if moves && folder(out) => out.to_owned(),
            Some(out) if out.is_dir() => out.join(usual),
            Some(out) => out.to_owned(),
            None => usual.into(),
        };
        let ending = main.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        let form = match (ending.as_str(), shape.is_some()) {
            _ if moves && folder(&main) => Form::Frames,
            ("gif", true) if moves => Form::Gif,
            ("npy", true) => Form::Npy,
            ("safetensors", true) => Form::Safetensors,
            ("txt", _) if texts => Form::Txt,
            ("json", _) if texts => Form::Json,
            ("png" | "npy" | "safetensors", false) => {
                let cause = format!("--out is {}, and only texts come out", main.display());
                return Err(invalid(cause, "Give a name that ends in .txt or .json"));
            }
            ("txt" | "json", true) => {
                let cause = format!("--out is {}, and no texts come out", main.display());
                return Err(invalid(cause, "Give a name that ends in .png, or for floats in .npy or .safetensors"));
            }
            (ending, is_picture) if OTHERS.contains(&ending) => {
                let cause = format!("--out is {}, and .{ending} is not written", main.display());
                let remedy = match is_picture {
                    true if moves => {
                        "Give a name that ends in .png (APNG) or .gif, a folder, or for floats .npy or .safetensors"
                    }
                    true => "Give a name that ends in .png, or for floats in .npy or .safetensors",
                    false => "Give a name that ends in .txt or .json",
                };
                return Err(invalid(cause, remedy));
            }
            (_, true) if moves => Form::Apng,
            (_, true) => Form::Png,
            (_, false) => Form::Txt,
        };
        let shown = !matches!(form, Form::Npy | Form::Safetensors | Form::Txt | Form::Json);
        if let Some([channels, height, width]) = shape.filter(|shape| shown && !matches!(shape[0], 1 | 3)) {
            let cause = format!("this model draws latents of {channels} x {height} x {width}, which are no picture");
            let remedy = "Give --out FILE.npy or FILE.safetensors for the floats, and decode them with the autoencoder that the model was trained with";
            return Err(invalid(cause, remedy));
        }
        let mut each = Vec::new();
        if shown && count > 1 {
            let stem = main.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let ending = if form == Form::Gif { "gif" } else { "png" };
            each.extend((0..count as u64).map(|k| match (form, u64::from(seed) + k) {
                (Form::Frames, seed) => main.join(seed.to_string()),
                (_, seed) => main.with_file_name(format!("{stem}-{seed}.{ending}")),
            }));
        }
        let files = Files { form, main, each, about: Vec::new() };
        match form {
            // They are made here; what is in them already stays, if it is called otherwise.
            Form::Frames => files.all().try_for_each(|path| output::folder(path))?,
            _ => files.all().try_for_each(|path| output::check(path))?,
        }
        Ok(files)
    }

    /// Adds something to the settings that are written.
    pub fn note(&mut self, name: &'static str, value: String) {
        self.about.push((name, value));
    }

    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        // Of several clips there is no sheet.
        let main = self.each.is_empty() || !matches!(self.form, Form::Apng | Form::Gif | Form::Frames);
        self.each.iter().chain(main.then_some(&self.main))
    }

    /// Writes them; returns their names.
    ///
    /// # Errors
    /// `IO`.
    pub fn write(&self, pictures: &Generated) -> Result<Vec<&PathBuf>> {
        let (width, height) = (pictures.width, pictures.height);
        let texts: Vec<&str> = pictures.texts.iter().map(|caption| caption.text.as_str()).collect();
        let all = self.settings(pictures, 0..pictures.count);
        match self.form {
            Form::Npy => output::write(&self.main, &npy(pictures))?,
            Form::Safetensors => output::write(&self.main, &safetensors(pictures, all)?)?,
            Form::Txt => output::write(&self.main, (texts.join("\n") + "\n").as_bytes())?,
            Form::Json => output::write(&self.main, (all + "\n").as_bytes())?,
            Form::Apng | Form::Gif | Form::Frames => {
                for (k, path) in self.all().enumerate() {
                    self.write_clip(pictures, k, path)?;
                }
            }
            Form::Png => {
                for (k, path) in self.each.iter().enumerate() {
                    let settings = self.settings(pictures, k..k + 1);
                    let text = texts.get(k).copied();
                    output::write(path, &png(&pictures.rgba(k), width, height, text, settings)?)?;
                }
                let first = self.settings(pictures, 0..1);
                let bytes = if self.each.is_empty() {
                    png(&pictures.rgba(0), width, height, texts.first().copied(), first)?
                } else {
                    let (sheet, width, height) = sheet(pictures);
                    png(&sheet, width, height, None, first)?
                };
                output::write(&self.main, &bytes)?;
            }
        }
        Ok(self.all().collect())
    }

    fn write_clip(&self, clips: &Generated, k: usize, path: &Path) -> Result<()> {
        let Generated { frames, width, height, frame_rate: rate, .. } = *clips;
        let shown = Shown { width, height, rate };
        let pictures: Vec<Vec<u8>> = (k * frames..(k + 1) * frames).map(|frame| clips.rgba(frame)).collect();
        let settings = self.settings(clips, k..k + 1);
        match self.form {
            Form::Gif => output::write(path, &animation::gif(&pictures, shown)?),
            Form::Frames => {
                for (at, frame) in pictures.iter().enumerate() {
                    let name = format!("frame-{:04}.png", at + 1);
                    output::write(&path.join(name), &png(frame, width, height, None, settings.clone())?)?;
                }
                Ok(())
            }
            _ => output::write(path, &animation::apng(&pictures, shown, settings)?),
        }
    }

    /// What drew some of the pictures, as JSON.
    fn settings(&self, pictures: &Generated, which: Range<usize>) -> String {
        let mut settings = pictures.write();
        settings["seed"] = (u64::from(pictures.seed) + which.start as u64).into();
        settings["count"] = which.len().into();
        let texts = pictures.texts.get(which).unwrap_or_default();
        settings["texts"] = texts.iter().map(|caption| caption.text.as_str()).collect();
        for (name, value) in &self.about {
            settings[*name] = value.as_str().into();
        }
        settings.to_string()
    }
}

/// All pictures side by side, on white: pixels, width, height.
fn sheet(pictures: &Generated) -> (Vec<u8>, usize, usize) {
    let (width, height) = (pictures.width, pictures.height);
    let columns = (pictures.count as f64).sqrt().ceil() as usize;
    let rows = pictures.count.div_ceil(columns);
    let gap = 4;
    let (sheet_width, sheet_height) = (columns * (width + gap) + gap, rows * (height + gap) + gap);
    let mut sheet = vec![255u8; 4 * sheet_width * sheet_height];
    for k in 0..pictures.count {
        let (left, top) = (gap + k % columns * (width + gap), gap + k / columns * (height + gap));
        for (y, line) in pictures.rgba(k).chunks(4 * width).enumerate() {
            let at = 4 * ((top + y) * sheet_width + left);
            sheet[at..at + line.len()].copy_from_slice(line);
        }
    }
    (sheet, sheet_width, sheet_height)
}

fn png(rgba: &[u8], width: usize, height: usize, text: Option<&str>, settings: String) -> Result<Vec<u8>> {
    let encode = |bytes: &mut Vec<u8>| -> std::result::Result<(), png::EncodingError> {
        let mut encoder = png::Encoder::new(bytes, width as u32, height as u32);
        encoder.set_color(png::ColorType::Rgba);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.add_itxt_chunk("Software".into(), format!("uvit-web {}", env!("CARGO_PKG_VERSION")))?;
        encoder.add_itxt_chunk(SETTINGS.into(), settings)?;
        if let Some(text) = text {
            encoder.add_itxt_chunk(DESCRIPTION.into(), text.to_owned())?;
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(rgba)?;
        writer.finish()
    };
    let mut bytes = Vec::new();
    encode(&mut bytes).map_err(|e| Error::internal(format!("a PNG was not encoded: {e}")))?;
    Ok(bytes)
}

/// Of all floats; of clips with their frames.
fn shape(pictures: &Generated) -> Vec<usize> {
    let Generated { count, frames, channels, height, width, .. } = *pictures;
    match pictures.frame_rate > 0.0 {
        true => vec![count, frames, channels, height, width],
        false => vec![count, channels, height, width],
    }
}

fn floats(pictures: &Generated) -> Vec<u8> {
    pictures.values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// NumPy's format 1.0: a header that fills whole lines of 64 bytes, then the values.
fn npy(pictures: &Generated) -> Vec<u8> {
    let shape: Vec<String> = shape(pictures).iter().map(usize::to_string).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", shape.join(", "));
    let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend(format!("{header:<width$}\n", width = length - 1).bytes());
    bytes.extend(floats(pictures));
    bytes
}

fn safetensors(pictures: &Generated, settings: String) -> Result<Vec<u8>> {
    let broken = |e: safetensors::SafeTensorError| Error::internal(format!("a tensor was not encoded: {e}"));
    let bytes = floats(pictures);
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape(pictures), &bytes);
    let about = HashMap::from([("settings".to_owned(), settings)]);
    safetensors::serialize([("images", view.map_err(broken)?)], Some(about)).map_err(broken)
}
