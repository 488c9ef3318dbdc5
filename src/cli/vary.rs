//! `uvit vary`: other words for a text, or another picture of what a picture shows, by way of the other.

use super::drawing::{Asked, check_modes, draw, random_seed, tell};
use super::generate::Place;
use super::output::say;
use super::{decode, refusal};
use std::path::PathBuf;
use uvit_web::Result;
use uvit_web::package::read_manifest;
use uvit_web::pipeline::{LoadOptions, Mode, Request};
use uvit_web::weights::sha256;

#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Arguments {
    /// The model: a manifest.json or its folder
    model: PathBuf,
    #[command(flatten)]
    what: What,
    /// Steps of each half, 1 to 1000; the model's own if not given
    #[arg(long, value_parser = refusal::count)]
    steps: Option<usize>,
    /// uncond + s (cond - uncond); 1 is off
    #[arg(long, allow_hyphen_values = true)]
    guidance_scale: Option<f64>,
    /// Variation k has seed + k; random if not given
    #[arg(long, value_parser = refusal::seed)]
    seed: Option<u32>,
    /// How many [default: 1]
    #[arg(long, value_parser = refusal::count)]
    count: Option<usize>,
    /// Beams of the search for each text; 1 takes the likeliest token every time; the model's own number if not given
    #[arg(long, value_parser = refusal::count)]
    beams: Option<usize>,
    #[command(flatten)]
    place: Place,
    /// Load every component when its stage begins, and let it go with it: slower, in the memory of the largest
    #[arg(long)]
    low_memory: bool,
    /// The file or folder to write into, as `uvit generate` does: a picture holds its text, for a text the picture that lies between; or
    /// a .txt file with the texts alone, one a line, or a .json file [default: uvit.png]
    #[arg(long, short)]
    out: Option<PathBuf>,
}

/// What is varied.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// A text: another one of the picture that it makes comes out
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// A picture (PNG, JPEG, WebP, GIF), of which the middle square is taken: another one of the text that it makes comes out
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
}

pub fn run(a: &Arguments) -> Result<()> {
    let manifest = read_manifest(&a.model)?.0;
    check_modes(&manifest)?;
    let mut asked = Asked { request: Request::default(), about: Vec::new() };
    let request = &mut asked.request;
    request.mode = Some(Mode::TextVariation);
    request.prompt = a.what.prompt.as_deref().map(Into::into);
    if let Some(path) = &a.what.image {
        let picture = decode::picture(path)?.square(manifest.start_shape()?[1]);
        asked.about.push(("imageSha256", sha256(picture.rgb())));
        (request.mode, request.image) = (Some(Mode::ImageVariation), Some(picture));
    }
    (request.steps, request.guidance_scale) = (a.steps, a.guidance_scale);
    (request.count, request.beams) = (a.count, a.beams);
    request.seed = a.seed.unwrap_or_else(random_seed);
    let files = asked.files(a.out.as_deref(), &manifest)?;
    let options = LoadOptions { keep_loaded: !a.low_memory, ..a.place.options() };
    let generated = draw(&a.model, options, &asked.request)?;
    let written = files.write(&generated)?;
    tell(&generated)?;
    written.iter().try_for_each(|path| say!("wrote {}", path.display()))
}
