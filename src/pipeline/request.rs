//! What callers ask for.

use super::invalid;
use super::modes::Mode;
use super::picture::Picture;
use crate::decimal::decimal;
use crate::json::{self, Fields, Read, Value, Write};
use crate::sampler::{SamplerKind, Spacing};
use crate::{Error, Result};

/// A label as users give it.
#[derive(Clone, Debug, PartialEq)]
pub enum LabelChoice {
    /// Its number.
    Index(u32),
    /// Its name.
    Name(String),
}

impl Read for LabelChoice {
    fn read(value: &Value) -> json::Result<LabelChoice> {
        let index = value.as_u64().and_then(|index| u32::try_from(index).ok());
        match (index, value) {
            (Some(index), _) => Ok(LabelChoice::Index(index)),
            (None, Value::String(name)) => Ok(LabelChoice::Name(name.clone())),
            _ => Err(format!("{} is neither a label's number nor its name", json::shown(value))),
        }
    }
}

/// A text for all images, or one for each.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt(pub Vec<String>);

impl From<&str> for Prompt {
    fn from(text: &str) -> Prompt {
        Prompt(vec![text.to_owned()])
    }
}

impl Read for Prompt {
    fn read(value: &Value) -> json::Result<Prompt> {
        match value {
            Value::Array(_) => Ok(Prompt(Read::read(value)?)),
            value => Ok(Prompt(vec![Read::read(value)?])),
        }
    }
}

impl Write for Prompt {
    fn write(&self) -> Value {
        match self.0.as_slice() {
            [one] => one.as_str().into(),
            several => several.iter().map(String::as_str).collect(),
        }
    }
}

impl Prompt {
    /// For every image its text.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if there are neither one nor so many.
    pub(super) fn of_images(&self, name: &str, count: usize) -> Result<Vec<&str>> {
        match self.0.as_slice() {
            [one] => Ok(vec![one; count]),
            several if several.len() == count => Ok(several.iter().map(String::as_str).collect()),
            several => Err(invalid(
                format!("{name} holds {} texts for {count} images", several.len()),
                "Give one, or one for each image",
            )),
        }
    }
}

/// Few-step settings; `docs/savings.md` says what they cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// DPM-Solver++ (2M) in 12 steps.
    Fast,
    /// DPM-Solver++ (2M) in 6 steps.
    Draft,
}

impl std::str::FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Preset> {
        match name {
            "fast" => Ok(Preset::Fast),
            "draft" => Ok(Preset::Draft),
            _ => Err(Error::unknown("preset", name, "Give \"fast\" or \"draft\"")),
        }
    }
}

impl Preset {
    /// How often the network runs.
    pub fn steps(self) -> usize {
        match self {
            Preset::Fast => 12,
            Preset::Draft => 6,
        }
    }
}

/// What to generate; what is not given comes from the manifest.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// None: the null class.
    pub label: Option<LabelChoice>,
    /// One for each image, instead of one for all.
    pub labels: Option<Vec<LabelChoice>>,
    /// How often the network runs, 1 to 1000.
    pub steps: Option<usize>,
    /// `uncond + s (cond - uncond)`; 1 is off.
    pub guidance_scale: Option<f64>,
    /// Image k has seed + k stride; 0 to 2^32 - 1.
    pub seed: u32,
    /// None: 1.
    pub seed_stride: Option<u32>,
    /// Images, 1 to [`super::MAX_COUNT`].
    pub count: Option<usize>,
    /// For models of clips, frames of each: the network's own to [`super::MAX_FRAMES`]. None: the network's own.
    pub frames: Option<usize>,
    /// Of longer clips, frames that a window is given of the one before, 1 to the network's own - 1. None: a quarter of these.
    pub overlap: Option<usize>,
    /// The solver.
    pub sampler: Option<SamplerKind>,
    /// How the times are spread.
    pub grid: Option<Spacing>,
    /// DDIM: 0 is deterministic, 1 draws as much noise as DDPM.
    pub eta: f64,
    /// Euler: fresh noise over all steps; 0 is none.
    pub churn: f64,
    /// Fewer steps with a solver that bears them, where these are not given.
    pub preset: Option<Preset>,
    /// Guidance only while t lies between these, from 0 (the picture) to 1 (noise).
    pub guidance_interval: Option<[f64; 2]>,
    /// Whether steps leave out inner blocks, as the manifest's calibrated schedule says.
    pub cache: bool,
    /// Whether every step reads back a preview.
    pub preview: bool,
    /// Start latents `[count, channels, height, width]` instead of noise; of clips as the network has them.
    pub start: Option<Vec<f32>>,
    /// A picture to start from, in \[-1, 1\]: [`super::Pipeline::start_shape`] for all images, or one for each. Models that draw
    /// latents take these, too, as the network predicts them (x_0); what could be either is a picture. For models of clips it is a clip,
    /// `[frames, channels, height, width]`.
    pub init_image: Option<Vec<f32>>,
    /// What all clips begin with, fewer frames than the network draws, likewise; kept exactly.
    pub first_frames: Option<Vec<f32>>,
    /// How much of the way from noise to the picture is walked anew, above 0 to 1: of N steps the last min(int(N strength), N); of a
    /// rectified flow all but the first int(N - N strength), as diffusers does it.
    /// None: 0.8, with a mask 1.
    pub strength: Option<f64>,
    /// What is painted anew (1) and what is kept (0) of that picture, or of those latents, `[height, width]`; of a clip also
    /// `[frames, height, width]`.
    pub mask: Option<Vec<f32>>,
    /// With a mask, or frames that are kept: what is kept gets other noise at every step.
    pub fresh_noise: bool,
    /// For models that take one: what the pictures show. May be empty.
    pub prompt: Option<Prompt>,
    /// For models with a second text encoder: what that one reads; none: the prompt.
    pub prompt_2: Option<Prompt>,
    /// What guidance leads away from; none: the empty text, or what the model has learnt to draw without any.
    pub negative_prompt: Option<Prompt>,
    /// Instead of a prompt, for networks that draw a text: its embedding, `[tokens, dim]` for all images, or one for each.
    pub context: Option<Vec<f32>>,
    /// That of the empty text, for guidance.
    pub null_context: Option<Vec<f32>>,
    /// How far the guided output is rescaled to vary as the unguided one, 0 to 1 (`guidance_rescale` in diffusers); it costs a
    /// readback at every step.
    pub guidance_rescale: f64,
    /// For a UniDiffuser: what is drawn, and out of what. None: pictures of a prompt, texts of an image, or both, of nothing.
    pub mode: Option<Mode>,
    /// The picture that a mode starts from: its middle square is taken.
    pub image: Option<Picture>,
    /// Beams of the search that turns text latents into texts, 1 to [`super::MAX_BEAMS`]; 1 takes the likeliest token every time.
    /// None: the caption decoder's own number.
    pub beams: Option<usize>,
    /// Whether the result holds what was drawn, before it was decoded.
    pub latents: bool,
}

/// All but the arrays.
impl Read for Request {
    fn read(value: &Value) -> json::Result<Request> {
        let fields = Fields::of(value)?;
        Ok(Request {
            label: fields.optional("label")?,
            labels: None,
            steps: fields.optional("steps")?,
            guidance_scale: fields.optional("guidanceScale")?,
            seed: fields.or("seed", 0)?,
            seed_stride: None,
            count: fields.optional("count")?,
            frames: fields.optional("frames")?,
            // As results of one window have it.
            overlap: fields.optional("overlap")?.filter(|overlap| *overlap > 0),
            sampler: fields.named("sampler")?,
            grid: fields.named("grid")?,
            eta: fields.or("eta", 0.0)?,
            churn: fields.or("churn", 0.0)?,
            preset: fields.named("preset")?,
            guidance_interval: fields.optional("guidanceInterval")?,
            cache: fields.or("cache", false)?,
            preview: fields.or("preview", false)?,
            strength: fields.optional("strength")?,
            fresh_noise: fields.or("freshNoise", false)?,
            guidance_rescale: fields.or("guidanceRescale", 0.0)?,
            prompt: fields.optional("prompt")?,
            prompt_2: fields.optional("prompt2")?,
            negative_prompt: fields.optional("negativePrompt")?,
            mode: fields.named("mode")?,
            beams: fields.optional("beams")?,
            latents: fields.or("latents", false)?,
            image: None,
            context: None,
            null_context: None,
            start: None,
            init_image: None,
            first_frames: None,
            mask: None,
        })
    }
}

impl Request {
    /// Whether it may be that something is kept.
    fn keeps(&self) -> bool {
        self.mask.is_some() || self.first_frames.is_some() || self.frames.is_some()
    }
}

/// The strength where only a picture is given, as in diffusers.
const STRENGTH: f64 = 0.8;

impl Request {
    /// [`Request::strength`], or what it is if not given; none without a picture.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for one out of range, and for what needs a picture where there is none.
    pub fn strength(&self) -> Result<Option<f64>> {
        let lonely = [
            ("strength", self.strength.is_some()),
            ("mask", self.mask.is_some()),
            ("freshNoise", self.fresh_noise && !self.keeps()),
        ];
        let missing = if self.init_image.is_none() { "a picture to start from" } else { "a mask" };
        for (name, given) in &lonely[if self.init_image.is_none() { 0 } else { 2 }..] {
            if *given {
                return Err(invalid(
                    format!("{name} is given without {missing}"),
                    format!("Give both, or leave {name} out"),
                ));
            }
        }
        if self.init_image.is_none() {
            return Ok(None);
        }
        let strength = self.strength.unwrap_or(if self.mask.is_some() { 1.0 } else { STRENGTH });
        if !(strength > 0.0 && strength <= 1.0) {
            return Err(invalid(format!("strength is {}", decimal(strength)), "Give a number above 0, at most 1"));
        }
        Ok(Some(strength))
    }
}

impl Request {
    /// Refuses settings that no model takes; `adaptive`: the sampler's steps are not known beforehand; of clips in so many `windows`.
    pub(super) fn check(&self, adaptive: bool, sampler: SamplerKind, windows: usize) -> Result<()> {
        let unknown = [
            ("mask", self.mask.is_some()),
            ("firstFrames", self.first_frames.is_some()),
            ("frames", windows > 1),
            ("guidanceInterval", self.guidance_interval.is_some()),
            ("cache", self.cache),
        ];
        if let Some((name, _)) = unknown.iter().find(|(_, given)| adaptive && *given) {
            let cause = format!("{name} needs steps that are known beforehand, which {} has not", sampler.as_str());
            return Err(invalid(cause, format!("Leave {name} out, or take another sampler")));
        }
        if let Some([low, high]) = self.guidance_interval
            && !(0.0 <= low && low <= high && high <= 1.0)
        {
            return Err(invalid(
                format!("guidanceInterval is {} to {}", decimal(low), decimal(high)),
                "Give two numbers from 0 (the picture) to 1 (noise), the smaller first",
            ));
        }
        if !(0.0..=1.0).contains(&self.guidance_rescale) {
            let cause = format!("guidanceRescale is {}", decimal(self.guidance_rescale));
            return Err(invalid(cause, "Give a number from 0 (off) to 1"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::json;

    #[test]
    fn options_are_read_and_what_is_wrong_is_named() {
        let all = json!({
            "label": "cat", "frames": 48, "overlap": 5, "steps": 7, "guidanceScale": 2, "seed": u32::MAX, "count": 3, "sampler": "ddim", "grid": "log_snr", "eta": 0.5, "churn": 2,
            "preset": "draft", "guidanceInterval": [0, 0.5], "cache": true, "preview": true, "floatPixels": true, "strength": 0.25, "freshNoise": true,
            "guidanceRescale": 0.7, "prompt": "a cat", "prompt2": "a dog", "negativePrompt": ["", "dogs", "mice"], "mode": "t2i2t", "beams": 3, "latents": true,
        });
        let read = Request::read(&all).unwrap();
        let want = Request {
            label: Some(LabelChoice::Name("cat".into())),
            labels: None,
            steps: Some(7),
            guidance_scale: Some(2.0),
            seed: u32::MAX,
            seed_stride: None,
            count: Some(3),
            frames: Some(48),
            overlap: Some(5),
            sampler: Some(SamplerKind::Ddim),
            grid: Some(Spacing::LogSnr),
            eta: 0.5,
            churn: 2.0,
            preset: Some(Preset::Draft),
            guidance_interval: Some([0.0, 0.5]),
            cache: true,
            preview: true,
            start: None,
            init_image: None,
            first_frames: None,
            strength: Some(0.25),
            mask: None,
            fresh_noise: true,
            prompt: Some("a cat".into()),
            prompt_2: Some("a dog".into()),
            negative_prompt: Some(Prompt(["", "dogs", "mice"].map(String::from).to_vec())),
            context: None,
            null_context: None,
            guidance_rescale: 0.7,
            mode: Some(Mode::TextVariation),
            image: None,
            beams: Some(3),
            latents: true,
        };
        assert_eq!(format!("{read:?}"), format!("{want:?}"));
        let nothing = Request::read(&json!({ "label": null, "steps": null })).unwrap();
        assert_eq!(format!("{nothing:?}"), format!("{:?}", Request::default()));
        assert_eq!(Request::read(&json!({ "label": 3 })).unwrap().label, Some(LabelChoice::Index(3)));
        for (wrong, what) in [
            (json!({ "label": -1 }), "label: -1 is neither"),
            (json!({ "label": [1] }), "label: [1] is neither"),
            (json!({ "steps": 1.5 }), "steps: 1.5 is no whole number"),
            (json!({ "seed": 1u64 << 32 }), "seed: 4294967296 is no whole number that fits"),
            (json!({ "sampler": "eular" }), "sampler: there is no sampler \"eular\""),
            (json!({ "preset": 1 }), "preset: 1 is no text"),
            (json!({ "guidanceInterval": [0] }), "guidanceInterval: 1 values, 2 are needed"),
            (json!({ "prompt": 7 }), "prompt: 7 is no text"),
            (json!({ "mode": "both" }), "mode: there is no mode \"both\""),
            (json!({ "beams": "many" }), "beams: \"many\" is no whole number"),
            (json!({ "negativePrompt": ["a", {}] }), "negativePrompt: [1]: {} is no text"),
            (json!({ "cache": "yes" }), "cache: \"yes\" is neither true nor false"),
            (json!(7), "7 is no object"),
        ] {
            let said = Request::read(&wrong).unwrap_err();
            assert!(said.starts_with(what), "{said}");
        }
    }

    #[test]
    fn a_strength_needs_a_picture_and_lies_in_its_range() {
        assert_eq!(Request::default().strength().unwrap(), None);
        let picture = Request { init_image: Some(Vec::new()), ..Request::default() };
        assert_eq!(picture.strength().unwrap(), Some(0.8));
        assert_eq!(Request { mask: Some(Vec::new()), ..picture.clone() }.strength().unwrap(), Some(1.0));
        for wrong in [
            Request { strength: Some(0.5), ..Request::default() },
            Request { mask: Some(Vec::new()), ..Request::default() },
            Request { fresh_noise: true, ..Request::default() },
            Request { fresh_noise: true, ..picture.clone() },
            Request { strength: Some(0.0), ..picture.clone() },
            Request { strength: Some(1.01), ..picture.clone() },
            Request { strength: Some(f64::NAN), ..picture },
        ] {
            assert_eq!(wrong.strength().unwrap_err().code, crate::Code::InvalidArgument, "{wrong:?}");
        }
    }
}
