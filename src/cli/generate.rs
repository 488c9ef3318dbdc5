//! `uvit generate`.

use super::drawing::{Asked, draw, random_seed, tell};
use super::many::{self, Shard};
use super::output::say;
use super::{decode, records, refusal, settings_png, start};
use std::path::PathBuf;
use uvit_web::json::{Read, Value, Write};
use uvit_web::package::{DENOISER, Manifest, read_manifest};
use uvit_web::pipeline::{ComputeChoice, DeviceChoice, Generated, LabelChoice, LoadOptions, Mode, Preset, Request};
use uvit_web::runtime::Tune;
use uvit_web::sampler::{SamplerKind, Spacing};
use uvit_web::weights::{Dtype, sha256};
use uvit_web::{Code, Error, Result};

#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Arguments {
    /// The model: a manifest.json or its folder
    pub model: PathBuf,
    /// Label, by number or name
    #[arg(long)]
    pub label: Option<String>,
    /// What the picture shows, for models that read it; may be empty. What is too long is cut, with a warning
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// What the second text encoder reads, of models that have two; without it that is the prompt
    #[arg(long = "prompt-2", value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt_2: Option<String>,
    /// What guidance leads away from
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub negative_prompt: Option<String>,
    /// Instead of --prompt, a text's embedding, for networks that take one: .npy [tokens, dim], or .safetensors with `context` and, for guidance,
    /// `null_context`, that of the empty text
    #[arg(long, value_name = "FILE")]
    context: Option<PathBuf>,
    /// For models that draw pictures and texts: t2i (a picture of --prompt), i2t (a text of --image), joint (both, of nothing), i or t
    /// (one, of nothing), i2t2i (another picture of what --image shows) or t2i2t (another text of what --prompt says); what is
    /// given tells if this does not
    #[arg(long)]
    mode: Option<Mode>,
    /// The picture that --mode i2t and i2t2i start from (PNG, JPEG, WebP, GIF): its middle square
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Beams of the search for each text; 1 takes the likeliest token every time; the model's own number if not given
    #[arg(long, value_parser = refusal::count)]
    beams: Option<usize>,
    /// Steps, 1 to 1000; most samplers call the network once a step
    #[arg(long, value_parser = refusal::count)]
    steps: Option<usize>,
    /// uncond + s (cond - uncond); 1 is off
    #[arg(long, allow_hyphen_values = true)]
    guidance_scale: Option<f64>,
    /// Make the guided output vary as the unguided one does, 0 (off) to 1
    #[arg(long, allow_hyphen_values = true)]
    guidance_rescale: Option<f64>,
    /// Image k has seed + k; 0 to 4294967295; random if not given
    #[arg(long, value_parser = refusal::seed)]
    pub seed: Option<u32>,
    /// How many pictures; at most 64 but for --out-npz [default: 1]
    #[arg(long, value_parser = refusal::count)]
    pub count: Option<usize>,
    /// dpmpp_2m, dpmpp_3m, dpmpp_2m_sde, unipc, deis, dpmpp_3s, dpm_solver, dpm_adaptive, euler, euler_ancestral, heun, ddim,
    /// ddpm, plms, pndm, lcm, euler_maruyama_sde or euler_maruyama_ode; the model's own if not given
    #[arg(long)]
    sampler: Option<SamplerKind>,
    /// How the sampler's times are spread: time_uniform, log_snr, quadratic, karras, or, where the schedule is one of training
    /// steps, linspace, leading, trailing, respaced or strided; the model's or the sampler's own if not given
    #[arg(long)]
    grid: Option<Spacing>,
    /// ddim: 0 is deterministic, 1 draws as much noise as DDPM [default: 0]
    #[arg(long, allow_hyphen_values = true)]
    eta: Option<f64>,
    /// euler: fresh noise over all steps (S_churn); 0 is none [default: 0]
    #[arg(long, allow_hyphen_values = true)]
    churn: Option<f64>,
    /// Fewer steps with a solver that bears them: fast (12) or draft (6)
    #[arg(long)]
    preset: Option<Preset>,
    /// Guidance only while t lies between these two, from 0 (the picture) to 1 (noise)
    #[arg(long, num_args = 2, allow_hyphen_values = true, value_names = ["LOW", "HIGH"])]
    guidance_interval: Vec<f64>,
    /// Leave out inner blocks in some steps, as the manifest's calibrated schedule says
    #[arg(long)]
    cache: bool,
    /// A picture to start from (PNG, JPEG, WebP, GIF: made to cover the model's size, and cropped; or floats in [-1, 1], .npy or
    /// .safetensors), which the model's encoder makes latents of if it draws those; or latents (.npy, .safetensors)
    #[arg(long, value_name = "FILE")]
    init_image: Option<PathBuf>,
    /// For models of clips: frames of each; of more than the model draws at a time, windows that overlap [default: the model's]
    #[arg(long, value_parser = refusal::count)]
    frames: Option<usize>,
    /// Frames that each window of a long clip is given of the one before [default: a quarter of the model's]
    #[arg(long, value_parser = refusal::count)]
    overlap: Option<usize>,
    /// A frame that clips begin with, kept as it is; may be repeated. As --init-image
    #[arg(long, value_name = "FILE")]
    first_frame: Vec<PathBuf>,
    /// A clip to start from, of as many frames as are drawn, and of their size: APNG, GIF, WebP, a folder of pictures, or floats as
    /// --init-image, [frames, channels, height, width]
    #[arg(long, value_name = "FILE", conflicts_with = "init_image")]
    init_clip: Option<PathBuf>,
    /// How much of the way from noise to the picture, or clip, is walked anew: above 0, at most 1 [default: 0.8, with a mask 1]
    #[arg(long, allow_hyphen_values = true)]
    strength: Option<f64>,
    /// Paint only a part of the picture, or of every frame, anew: white there, black where it is kept, or .npy [height, width] of 1 and
    /// 0, for clips also [frames, height, width]
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// With a mask, or frames that are kept: what is kept gets other noise at every step
    #[arg(long)]
    fresh_noise: bool,
    /// Draw this picture of `uvit generate` again, with its settings where no others are given
    #[arg(long, value_name = "PNG", conflicts_with_all = ["out_npz", "count", "preset"])]
    from: Option<PathBuf>,
    #[command(flatten)]
    pub place: Place,
    /// Load every component when its stage begins, and let it go with it: slower, in the memory of the largest
    #[arg(long)]
    pub low_memory: bool,
    /// Encode and decode large pictures in bands, even where the device does not ask for it: the same pictures in less memory
    #[arg(long)]
    pub tiling: bool,
    /// The file or folder to write into; with --count N, NAME-SEED.png each and a contact sheet NAME.png. A name that ends in
    /// .npy or .safetensors takes the floats [count, channels, height, width] of all, as latents need. Clips are an APNG, a GIF where the
    /// name ends in .gif, or PNG frames in a folder, whose name ends in /; their floats are [count, frames, channels, height, width]. Texts lie in their
    /// pictures; alone they take a .txt file, one a line, or a .json file [default: uvit.png; uvit.txt where only texts come out]
    #[arg(long, short)]
    out: Option<PathBuf>,
    /// Instead of pictures the array that FID tools read: arr_0, uint8 [count, height, width, 3]. Image k is of label k modulo
    /// the number of labels, unless --label is given. An interrupted run goes on where it was
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    pub out_npz: Option<PathBuf>,
    /// With --out-npz: pictures that are drawn at once
    #[arg(long, default_value_t = 16, value_parser = refusal::count, requires = "out_npz")]
    pub batch: usize,
    /// With --out-npz: only pictures I, I + N, I + 2 N, ..; `uvit merge` makes one file of all N
    #[arg(long, value_name = "I/N", requires = "out_npz")]
    pub shard: Option<Shard>,
}

/// Where and how a model runs.
#[derive(Clone, clap::Args)]
pub struct Place {
    /// cpu, gpu or auto [default: auto]
    #[arg(long)]
    device: Option<DeviceChoice>,
    /// Which stored dtype
    #[arg(long)]
    dtype: Option<Dtype>,
    /// Arithmetic: on the CPU quality, fast or f32, on a GPU f32, f16 or w8a8; auto is f32 on a GPU, and on the CPU the faster
    /// of quality and f32, which look the same [default: auto]
    #[arg(long)]
    compute: Option<ComputeChoice>,
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
        let (device, compute) = (device.unwrap_or_default(), compute.unwrap_or_default());
        LoadOptions { device, dtype, compute, threads, tune, records: records::read(), ..LoadOptions::default() }
    }
}

impl Place {
    /// Where nothing else is asked for, what drew an earlier picture.
    fn as_before(&mut self, settings: &Value) {
        let named = |name: &str| settings[name].as_str().unwrap_or_default().to_owned();
        self.device = self.device.or_else(|| named("device").parse().ok());
        self.dtype = self.dtype.or_else(|| named("dtype").parse().ok());
        self.compute = self.compute.or_else(|| named("compute").parse().ok());
    }
}

/// The request, the arrays read from files, for a model.
pub fn request(a: &Arguments, earlier: Option<&Value>, manifest: &Manifest) -> Result<Asked> {
    let broken = |what: String| Error::new(Code::InvalidArgument, what, "Give a PNG that uvit has written");
    let mut request = match earlier {
        Some(settings) => Request::read(settings).map_err(broken)?,
        None => Request { seed: random_seed(), ..Request::default() },
    };
    if let Some(text) = a.label.clone() {
        request.label = Some(text.parse().map_or(LabelChoice::Name(text), LabelChoice::Index));
    }
    if a.prompt.is_some() || a.context.is_some() {
        request.prompt = a.prompt.as_deref().map(Into::into);
        (request.prompt_2, request.negative_prompt) = (None, None);
    }
    request.prompt_2 = a.prompt_2.as_deref().map(Into::into).or(request.prompt_2);
    request.negative_prompt = a.negative_prompt.as_deref().map(Into::into).or(request.negative_prompt);
    request.seed = a.seed.unwrap_or(request.seed);
    request.count = Some(a.count.unwrap_or(1));
    request.steps = a.steps.or(request.steps);
    request.guidance_scale = a.guidance_scale.or(request.guidance_scale);
    request.guidance_rescale = a.guidance_rescale.unwrap_or(request.guidance_rescale);
    request.guidance_interval = a.guidance_interval.as_chunks().0.first().copied().or(request.guidance_interval);
    request.sampler = a.sampler.or(request.sampler);
    request.grid = a.grid.or(request.grid);
    request.eta = a.eta.unwrap_or(request.eta);
    request.churn = a.churn.unwrap_or(request.churn);
    request.preset = a.preset;
    request.cache |= a.cache;
    request.strength = a.strength.or(request.strength);
    request.fresh_noise |= a.fresh_noise;
    request.frames = a.frames.or(request.frames);
    request.overlap = a.overlap.or(request.overlap);

    request.mode = a.mode.or(request.mode);
    request.beams = a.beams.or(request.beams);

    let mut about = Vec::new();
    if let Some(path) = &a.image {
        let picture = decode::picture(path)?.square(manifest.start_shape()?[1]);
        about.push(("imageSha256", sha256(picture.rgb())));
        request.image = Some(picture);
    }
    let mut note = |name: &'static str, values: &[f32]| about.push((name, sha256(bytemuck::cast_slice(values))));
    let mut shape = manifest.start_shape()?;
    if let Some(path) = &a.init_image {
        let values;
        (values, shape) = start::picture(path, shape, manifest.network(DENOISER)?.image_shape())?;
        note("initImageSha256", &values);
        request.init_image = Some(values);
    }
    let network = manifest.network(DENOISER)?;
    let frames = network.frames().map_or(1, |own| request.frames.unwrap_or(own));
    if let Some(path) = &a.init_clip {
        if network.frames().is_none() {
            let cause = "--init-clip is given, and the model draws single pictures";
            return Err(Error::new(Code::InvalidArgument, cause, "Give --init-image"));
        }
        let values;
        (values, shape) = start::clip(path, frames, shape, network.image_shape())?;
        note("initImageSha256", &values);
        request.init_image = Some(values);
    }
    if !a.first_frame.is_empty() {
        let (values, of_first) = start::first_frames(&a.first_frame, manifest.start_shape()?, network.image_shape())?;
        note("firstFramesSha256", &values);
        request.first_frames = Some(values);
        if request.init_image.is_none() {
            shape = of_first;
        }
    }
    if let Some(path) = &a.mask {
        let values = start::mask(path, shape, frames)?;
        note("maskSha256", &values);
        request.mask = Some(values);
    }
    if let Some(path) = &a.context {
        let (context, null) = start::context(path)?;
        note("contextSha256", &context);
        request.context = Some(context);
        request.null_context = null;
    }
    if let Some(settings) = earlier {
        for (name, option) in [
            ("imageSha256", "image"),
            ("initImageSha256", if network.frames().is_some() { "init-clip" } else { "init-image" }),
            ("firstFramesSha256", "first-frame"),
            ("maskSha256", "mask"),
            ("contextSha256", "context"),
        ] {
            let wanted = settings[name].as_str();
            let given = about.iter().find(|(known, _)| *known == name).map(|(_, hash)| hash.as_str());
            if wanted.is_some() && given.is_none() {
                let cause = format!("the picture was drawn with --{option}, which is not given");
                return Err(Error::new(Code::InvalidArgument, cause, format!("Give the same --{option} again")));
            }
        }
    }
    request.strength()?;
    Ok(Asked { request, about })
}

pub fn run(a: &Arguments) -> Result<()> {
    if a.out_npz.is_some() {
        return many::run(a);
    }
    // Known before minutes of drawing, not after.
    let manifest = read_manifest(&a.model)?.0;
    let earlier = a.from.as_deref().map(settings_png::read).transpose()?;
    let settings = earlier.as_ref().map(|(settings, _)| settings);
    let asked = request(a, settings, &manifest)?;
    let files = asked.files(a.out.as_deref(), &manifest)?;
    let mut place = a.place.clone();
    if let Some(settings) = settings {
        place.as_before(settings);
    }
    let options = LoadOptions { keep_loaded: !a.low_memory, tiling: a.tiling, ..place.options() };
    let generated = draw(&a.model, options, &asked.request)?;
    let written = files.write(&generated)?;
    tell(&generated)?;
    if let Some((settings, pixels)) = &earlier {
        compare(settings, pixels, &generated)?;
    }
    written.iter().try_for_each(|path| say!("wrote {}", path.display()))
}

/// Says whether a picture came out as it was, and if not, what was different.
fn compare(settings: &Value, pixels: &[u8], now: &Generated) -> Result<()> {
    let drawn: Vec<u8> = (0..now.frames).flat_map(|k| now.rgba(k)).collect();
    let what = if now.frames > 1 { "clip" } else { "picture" };
    if drawn == pixels {
        return say!("the same {what}, bit for bit");
    }
    let new = now.write();
    let fields = [
        "modelHash",
        "device",
        "adapter",
        "dtype",
        "compute",
        "seed",
        "label",
        "mode",
        "prompt",
        "prompt2",
        "negativePrompt",
        "steps",
        "sampler",
        "grid",
        "eta",
        "churn",
        "guidanceScale",
        "guidanceRescale",
        "guidanceInterval",
        "frames",
        "overlap",
        "firstFrames",
        "strength",
        "masked",
        "cache",
        "width",
        "height",
    ];
    // Pictures of earlier versions lack what was not there to choose.
    let differs = |name: &&&str| !settings[**name].is_null() && settings[**name] != new[**name];
    let other: Vec<&str> = fields.iter().filter(differs).copied().collect();
    let what = match other.as_slice() {
        [] => "with the same settings".to_owned(),
        names => format!("other {}", names.join(", ")),
    };
    match drawn.len() == pixels.len() {
        false => say!("another picture, of another size: {what}"),
        true => {
            let apart = |(a, b): (&u8, &u8)| a.abs_diff(*b);
            let most = drawn.iter().zip(pixels).map(apart).max().unwrap_or(0);
            let many = drawn.iter().zip(pixels).filter(|(a, b)| a != b).count();
            say!("not the same picture: {many} of {} values differ, by up to {most} of 255: {what}", drawn.len())
        }
    }
}
