//! `uvit generate --out-npz` and `uvit merge`: thousands of pictures as the array that FID tools read. What is drawn goes to
//! FILE.partial batch by batch, so that an interrupted run goes on; FILE appears when it is whole.

use super::drawing::{Asked, about};
use super::generate::{Arguments, request};
use super::load::{load, style};
use super::output::{self, say};
use super::start::npy;
use indicatif::ProgressBar;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use uvit_web::json::{Value, Write};
use uvit_web::package::{DENOISER, read_manifest};
use uvit_web::pipeline::sampling::Control;
use uvit_web::pipeline::{Generated, LabelChoice, LoadOptions, MAX_COUNT};
use uvit_web::{Code, Error, Result};
use zip::write::SimpleFileOptions;

/// A part of a run: pictures index, index + of, index + 2 of, ..
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    of: usize,
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Shard, String> {
        let parts = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((index, of)) if index < of && of <= 1_000_000 => Ok(Shard { index, of }),
            _ => Err("give I/N with I from 0 to N - 1, such as 0/4".into()),
        }
    }
}

/// What stands in the archive beside the array, under this name: how it was drawn.
const ABOUT: &str = "settings.json";
const ARRAY: &str = "arr_0.npy";

fn invalid(cause: String, remedy: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, cause, remedy)
}

fn io(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::new(Code::Io, format!("{}: {error}", path.display()), "Check that the folder can be written to and has room")
}

pub fn run(a: &Arguments) -> Result<()> {
    let out = a.out_npz.as_deref().ok_or_else(|| Error::internal("no --out-npz"))?;
    let count = a.count.unwrap_or(1);
    if count == 0 {
        return Err(invalid("count is 0".into(), "Give a whole number from 1"));
    }
    if !(1..=MAX_COUNT).contains(&a.batch) {
        return Err(invalid(format!("--batch is {}", a.batch), format!("Give a whole number from 1 to {MAX_COUNT}")));
    }
    let Some(seed) = a.seed else {
        return Err(invalid(
            "--out-npz needs a --seed".into(),
            "Give one: a run that is interrupted goes on with the same",
        ));
    };
    output::check(out)?;
    let manifest = read_manifest(&a.model)?.0;
    let network = manifest.network(DENOISER)?;
    let [channels, height, width] = manifest.picture_shape()?;
    if !matches!(channels, 1 | 3) {
        let cause = format!("this model draws latents of {channels} x {height} x {width}, which are no picture");
        return Err(invalid(cause, "Give --out FILE.npy or FILE.safetensors for the floats"));
    }
    if network.frames().is_some() {
        let cause = "--out-npz takes pictures, and this model draws clips".into();
        return Err(invalid(cause, "Give --out FILE.npy, FILE.safetensors, an APNG, a GIF or a folder"));
    }
    let asked = request(a, None, &manifest)?;
    if !asked.gives_pictures(&manifest) {
        return Err(invalid("--out-npz takes pictures, and only texts come out".into(), "Give --out FILE.txt"));
    }
    let Asked { request, about } = asked;
    let shard = a.shard.unwrap_or(Shard { index: 0, of: 1 });
    // Never the class that stands for none.
    let classes = (0..network.classes() as u32).filter(|class| Some(*class) != manifest.null_class);
    let classes: Vec<u32> = classes.collect();
    let own = (shard.index..count).step_by(shard.of).count();
    let options = LoadOptions { keep_loaded: !a.low_memory, tiling: a.tiling, ..a.place.options() };
    let mut pipeline = load(&a.model, options)?;
    let _ = say!("{}", self::about(&pipeline));

    let mut settings = pipeline.info().write();
    for (name, value) in [("count", count), ("shard", shard.index), ("shards", shard.of), ("batch", a.batch)] {
        settings[name] = value.into();
    }
    let resolved = pipeline.settings(&request);
    settings["seed"] = seed.into();
    settings["label"] = a.label.as_deref().into();
    settings["prompt"] = a.prompt.as_deref().into();
    settings["prompt2"] = a.prompt_2.as_deref().into();
    settings["negativePrompt"] = a.negative_prompt.as_deref().into();
    settings["sampling"] = format!("{resolved:?}").into();
    settings["guidanceScale"] = format!("{:?}", request.guidance_scale).into();
    let others =
        (request.guidance_rescale, request.guidance_interval, request.cache, request.strength, request.fresh_noise);
    settings["others"] = format!("{others:?}").into();
    for (name, value) in &about {
        settings[*name] = value.as_str().into();
    }
    // Of two runs of one kind they differ.
    for name in ["loadMs", "tuned", "deviceReason", "threads"] {
        settings.as_object_mut().map(|fields| fields.remove(name));
    }

    let size = height * width * 3;
    let mut partial = Partial::open(out, &settings, size)?;
    let bar = ProgressBar::new(own as u64);
    bar.set_style(style("drawing {bar:40} {pos}/{len} pictures, {elapsed}, {eta} left"));
    // A batch that was cut off is drawn again: what a picture is must not depend on how many are drawn with it.
    let mut done = partial.pictures / a.batch * a.batch;
    if done > 0 && done < own {
        let _ = say!("{} has {done} of {own} pictures: going on", partial.path.display());
    }
    partial.cut(done)?;
    let mut told = std::time::Instant::now();
    while done < own {
        // The last batch is filled up, so that all are of one size.
        let indices: Vec<u64> = (0..a.batch).map(|i| (shard.index + (done + i) * shard.of) as u64).collect();
        let mut request = request.clone();
        request.count = Some(a.batch);
        request.seed = u32::try_from(u64::from(seed) + indices[0]).map_err(|_| {
            invalid(format!("seed {seed} with {count} pictures goes beyond 4294967295"), "Give a smaller seed")
        })?;
        request.seed_stride = Some(shard.of as u32);
        if a.label.is_none() && !classes.is_empty() {
            let class = |index: &u64| LabelChoice::Index(classes[(index % classes.len() as u64) as usize]);
            request.labels = Some(indices.iter().map(class).collect());
        }
        let mut control = Control { on_step: &mut |_| {}, stopped: &|| false };
        let pictures = pollster::block_on(pipeline.generate(&request, &mut control))?;
        let new = a.batch.min(own - done);
        partial.append(&rgb(&pictures, new))?;
        done += new;
        bar.set_position(done as u64);
        if bar.is_hidden() && told.elapsed().as_secs() >= 10 {
            told = std::time::Instant::now();
            let _ = say!("{done} of {own} pictures");
        }
    }
    bar.finish_and_clear();
    partial.finish(out, [own, height, width], &settings)?;
    say!("{own} pictures of {height} x {width}")?;
    say!("wrote {}", out.display())
}

/// The first pictures as RGB, `[count, height, width, 3]`.
fn rgb(pictures: &Generated, count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|k| pictures.rgba(k))
        .collect::<Vec<u8>>()
        .chunks(4)
        .flat_map(|rgba| [rgba[0], rgba[1], rgba[2]])
        .collect()
}

/// A run's pictures so far, and how they are drawn.
struct Partial {
    path: PathBuf,
    about: PathBuf,
    file: File,
    pictures: usize,
    size: usize,
}

impl Partial {
    fn open(out: &Path, settings: &Value, size: usize) -> Result<Partial> {
        let beside = |ending: &str| {
            let mut name = out.file_name().unwrap_or_default().to_owned();
            name.push(ending);
            out.with_file_name(name)
        };
        let (path, about) = (beside(".partial"), beside(".partial.json"));
        if path.exists() || about.exists() {
            let known = std::fs::read_to_string(&about).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
            let known = known.unwrap_or_default();
            if known != *settings {
                let fields = settings.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
                let other: Vec<&str> = fields.filter(|name| known[*name] != settings[*name]).collect();
                let cause = format!("{} was begun with other settings: {}", path.display(), other.join(", "));
                return Err(invalid(cause, "Give them again, or another --out-npz, or delete that file"));
            }
        } else {
            output::write(&about, settings.to_string().as_bytes())?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|e| io(&path, e))?;
        let pictures = file.metadata().map_err(|e| io(&path, e))?.len() as usize / size;
        Ok(Partial { path, about, file, pictures, size })
    }

    fn cut(&mut self, pictures: usize) -> Result<()> {
        let length = (pictures * self.size) as u64;
        self.file
            .set_len(length)
            .and_then(|()| self.file.seek(SeekFrom::Start(length)))
            .map_err(|e| io(&self.path, e))?;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).and_then(|()| self.file.sync_data()).map_err(|e| io(&self.path, e))
    }

    fn finish(mut self, out: &Path, [count, height, width]: [usize; 3], settings: &Value) -> Result<()> {
        self.file.seek(SeekFrom::Start(0)).map_err(|e| io(&self.path, e))?;
        write_npz(out, [count, height, width], settings, |sink| std::io::copy(&mut self.file, sink).map(drop))?;
        std::fs::remove_file(&self.path).and_then(|()| std::fs::remove_file(&self.about)).map_err(|e| io(&self.path, e))
    }
}

/// An archive with the array, whose values `fill` writes, and the settings; it appears whole or not at all.
fn write_npz(
    out: &Path,
    [count, height, width]: [usize; 3],
    settings: &Value,
    fill: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>,
) -> Result<()> {
    let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, {height}, {width}, 3), }}");
    let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let new = out.with_extension(format!("npz.{}.partial", std::process::id()));
    let written = (|| -> std::io::Result<()> {
        let mut archive = zip::ZipWriter::new(std::io::BufWriter::new(File::create(&new)?));
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored).large_file(true);
        archive.start_file(ARRAY, options)?;
        archive.write_all(b"\x93NUMPY\x01\x00")?;
        archive.write_all(&(length as u16).to_le_bytes())?;
        writeln!(archive, "{header:<width$}", width = length - 1)?;
        fill(&mut archive)?;
        archive.start_file(ABOUT, options)?;
        archive.write_all(settings.to_string().as_bytes())?;
        archive.finish()?.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        std::fs::rename(&new, out)
    })();
    written.map_err(|e| {
        let _ = std::fs::remove_file(&new);
        io(out, e)
    })
}

#[derive(clap::Args)]
pub struct Merge {
    /// The file to write
    out: PathBuf,
    /// What `uvit generate --out-npz --shard I/N` has written, for every I
    #[arg(required = true)]
    parts: Vec<PathBuf>,
}

/// One part, open at its first picture.
struct Part {
    shape: Vec<usize>,
    settings: Value,
    pictures: Box<dyn std::io::Read>,
}

pub fn merge(a: &Merge) -> Result<()> {
    output::check(&a.out)?;
    let mut parts: Vec<(usize, Part)> = Vec::new();
    for path in &a.parts {
        let part = open(path)?;
        let number = |name: &str| part.settings[name].as_u64().unwrap_or(0) as usize;
        if number("shards") != a.parts.len() {
            let cause =
                format!("{} is one of {} parts, and {} are given", path.display(), number("shards"), a.parts.len());
            return Err(invalid(cause, "Give every part once"));
        }
        parts.push((number("shard"), part));
    }
    parts.sort_by_key(|(shard, _)| *shard);
    let plain = |part: &Part| {
        let mut settings = part.settings.clone();
        (settings["shard"], settings["shards"]) = (0.into(), 1.into());
        settings
    };
    let settings = plain(&parts[0].1);
    let count = settings["count"].as_u64().unwrap_or(0) as usize;
    for (i, (shard, part)) in parts.iter().enumerate() {
        if *shard != i {
            return Err(invalid(format!("part {i} is missing, or another is given twice"), "Give every part once"));
        }
        let own = (i..count).step_by(parts.len()).count();
        if plain(part) != settings
            || part.shape.len() != 4
            || part.shape[0] != own
            || part.shape[1..] != parts[0].1.shape[1..]
        {
            return Err(invalid(format!("part {i} is of another run"), "Give the parts of one run"));
        }
    }
    let [height, width] = [parts[0].1.shape[1], parts[0].1.shape[2]];
    let mut picture = vec![0; height * width * 3];
    let of = parts.len();
    write_npz(&a.out, [count, height, width], &settings, |sink| {
        (0..count).try_for_each(|k| {
            parts[k % of].1.pictures.read_exact(&mut picture)?;
            sink.write_all(&picture)
        })
    })?;
    say!("{count} pictures of {of} parts")?;
    say!("wrote {}", a.out.display())
}

fn open(path: &Path) -> Result<Part> {
    let broken =
        |what: &str| invalid(format!("{}: {what}", path.display()), "Give files of `uvit generate --out-npz --shard`");
    let file = File::open(path).map_err(|e| io(path, e))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| broken(&e.to_string()))?;
    let mut settings = String::new();
    let about = archive.by_name(ABOUT).map_err(|_| broken("it holds no settings"))?;
    about.take(1 << 20).read_to_string(&mut settings).map_err(|e| broken(&e.to_string()))?;
    let settings = serde_json::from_str(&settings).map_err(|e| broken(&e.to_string()))?;
    let array = archive.by_name(ARRAY).map_err(|_| broken("it holds no arr_0"))?;
    if array.compression() != zip::CompressionMethod::Stored {
        return Err(broken("its array is compressed"));
    }
    let (begin, length) = (array.data_start().unwrap_or_default(), array.size());
    drop(array);
    let mut file = File::open(path).map_err(|e| io(path, e))?;
    let mut head = vec![0; length.min(4096) as usize];
    let read = file.seek(SeekFrom::Start(begin)).and_then(|_| file.read_exact(&mut head));
    read.map_err(|e| io(path, e))?;
    let (array, _) = npy(&head).ok_or_else(|| broken("its arr_0 is no array"))?;
    let bytes = array.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64));
    if array.dtype != "|u1" || array.fortran || bytes.map(|n| n + array.offset as u64) != Some(length) {
        return Err(broken("its arr_0 is no array of bytes, or is cut off"));
    }
    file.seek(SeekFrom::Start(begin + array.offset as u64)).map_err(|e| io(path, e))?;
    Ok(Part { shape: array.shape, settings, pictures: Box::new(std::io::BufReader::new(file)) })
}
