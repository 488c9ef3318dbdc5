//! `uvit caption`: what pictures show, one line each.

use super::drawing::{about, check_modes, generate, random_seed};
use super::generate::Place;
use super::load::load;
use super::output::say;
use super::{decode, refusal};
use std::io::Write as _;
use std::path::PathBuf;
use uvit_web::Result;
use uvit_web::json::{Value, json};
use uvit_web::package::read_manifest;
use uvit_web::pipeline::{LoadOptions, Mode, Picture, Request};

#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Arguments {
    /// The model: a manifest.json or its folder
    model: PathBuf,
    /// Pictures (PNG, JPEG, WebP, GIF), of each its middle square
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
    /// Beams of the search for each text; 1 takes the likeliest token every time; the model's own number if not given
    #[arg(long, value_parser = refusal::count)]
    beams: Option<usize>,
    /// How many texts of each picture [default: 1]
    #[arg(long, value_parser = refusal::count)]
    count: Option<usize>,
    /// Text k has seed + k, the same for every picture; random if not given
    #[arg(long, value_parser = refusal::seed)]
    seed: Option<u32>,
    /// Steps, 1 to 1000; the model's own if not given
    #[arg(long, value_parser = refusal::count)]
    steps: Option<usize>,
    /// uncond + s (cond - uncond); 1 is off
    #[arg(long, allow_hyphen_values = true)]
    guidance_scale: Option<f64>,
    #[command(flatten)]
    place: Place,
    /// Load every component when its stage begins, and let it go with it: slower, in the memory of the largest
    #[arg(long)]
    low_memory: bool,
    /// Print an array of objects: the picture, its text, its seed, the tokens' ids, and whether the text came to its end
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Arguments) -> Result<()> {
    let manifest = read_manifest(&a.model)?.0;
    check_modes(&manifest)?;
    let size = manifest.start_shape()?[1];
    // Known before the model is loaded, and small: the square that the model sees.
    let read = |path: &PathBuf| decode::picture(path).map(|picture| picture.square(size));
    let pictures = a.pictures.iter().map(read).collect::<Result<Vec<Picture>>>()?;
    let mut pipeline = load(&a.model, LoadOptions { keep_loaded: !a.low_memory, ..a.place.options() })?;
    // What is printed is texts alone.
    let _ = writeln!(std::io::stderr(), "{}", about(&pipeline));
    let seed = a.seed.unwrap_or_else(random_seed);
    let mut told = Vec::new();
    for (path, picture) in a.pictures.iter().zip(pictures) {
        let request = Request {
            mode: Some(Mode::ImageToText),
            image: Some(picture),
            beams: a.beams,
            count: a.count,
            seed,
            steps: a.steps,
            guidance_scale: a.guidance_scale,
            ..Request::default()
        };
        for (k, caption) in generate(&mut pipeline, &request)?.texts.into_iter().enumerate() {
            let picture = path.display().to_string();
            match (a.json, a.pictures.len()) {
                (true, _) => told.push(json!({
                    "picture": picture, "text": caption.text, "seed": u64::from(seed) + k as u64, "ids": caption.ids,
                    "ended": caption.ended,
                })),
                (false, 1) => say!("{}", caption.text)?,
                (false, _) => say!("{picture}: {}", caption.text)?,
            }
        }
    }
    if a.json { say!("{}", Value::from(told)) } else { Ok(()) }
}
