//! What callers ask for.

use super::invalid;
use crate::json::{self, Fields, Read, Value};
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
            _ => Err(invalid(format!("there is no preset {name:?}"), "Give \"fast\" or \"draft\"")),
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
    /// How often the network runs, 1 to 1000.
    pub steps: Option<usize>,
    /// `uncond + s (cond - uncond)`; 1 is off.
    pub guidance_scale: Option<f64>,
    /// Image k has seed + k; 0 to 2^32 - 1.
    pub seed: u32,
    /// Images, 1 to [`super::MAX_COUNT`].
    pub count: Option<usize>,
    /// The solver.
    pub sampler: Option<SamplerKind>,
    /// How the times are spread.
    pub grid: Option<Spacing>,
    /// DDIM: 0 is deterministic, 1 draws as much noise as DDPM.
    pub eta: f64,
    /// Fewer steps with a solver that bears them, where these are not given.
    pub preset: Option<Preset>,
    /// Guidance only while t lies between these, from 0 (the picture) to 1 (noise).
    pub guidance_interval: Option<[f64; 2]>,
    /// Whether steps leave out inner blocks, as the manifest's calibrated schedule says.
    pub cache: bool,
    /// Whether every step reads back a preview.
    pub preview: bool,
    /// Start latents `[count, channels, height, width]` instead of noise.
    pub start: Option<Vec<f32>>,
}

/// All but the start.
impl Read for Request {
    fn read(value: &Value) -> json::Result<Request> {
        let fields = Fields::of(value)?;
        Ok(Request {
            label: fields.optional("label")?,
            steps: fields.optional("steps")?,
            guidance_scale: fields.optional("guidanceScale")?,
            seed: fields.or("seed", 0)?,
            count: fields.optional("count")?,
            sampler: fields.named("sampler")?,
            grid: fields.named("grid")?,
            eta: fields.or("eta", 0.0)?,
            preset: fields.named("preset")?,
            guidance_interval: fields.optional("guidanceInterval")?,
            cache: fields.or("cache", false)?,
            preview: fields.or("preview", false)?,
            start: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::json;

    #[test]
    fn options_are_read_and_what_is_wrong_is_named() {
        let all = json!({
            "label": "cat", "steps": 7, "guidanceScale": 2, "seed": u32::MAX, "count": 3, "sampler": "ddim", "grid": "log_snr", "eta": 0.5,
            "preset": "draft", "guidanceInterval": [0, 0.5], "cache": true, "preview": true, "floatPixels": true,
        });
        let read = Request::read(&all).unwrap();
        let want = Request {
            label: Some(LabelChoice::Name("cat".into())),
            steps: Some(7),
            guidance_scale: Some(2.0),
            seed: u32::MAX,
            count: Some(3),
            sampler: Some(SamplerKind::Ddim),
            grid: Some(Spacing::LogSnr),
            eta: 0.5,
            preset: Some(Preset::Draft),
            guidance_interval: Some([0.0, 0.5]),
            cache: true,
            preview: true,
            start: None,
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
            (json!({ "sampler": "euler" }), "sampler: There is no sampler \"euler\""),
            (json!({ "preset": 1 }), "preset: 1 is no text"),
            (json!({ "guidanceInterval": [0] }), "guidanceInterval: 1 values, 2 are needed"),
            (json!({ "cache": "yes" }), "cache: \"yes\" is neither true nor false"),
            (json!(7), "7 is no object"),
        ] {
            let said = Request::read(&wrong).unwrap_err();
            assert!(said.starts_with(what), "{said}");
        }
    }
}
