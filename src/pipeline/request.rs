//! What callers ask for.

use super::invalid;
use crate::sampler::SamplerKind;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// A label as users give it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "serde_json::Value")]
pub enum LabelChoice {
    /// Its number.
    Index(u32),
    /// Its name.
    Name(String),
}

impl TryFrom<serde_json::Value> for LabelChoice {
    type Error = &'static str;

    fn try_from(value: serde_json::Value) -> std::result::Result<LabelChoice, &'static str> {
        let index = value.as_u64().and_then(|index| u32::try_from(index).ok());
        match (index, value) {
            (Some(index), _) => Ok(LabelChoice::Index(index)),
            (None, serde_json::Value::String(name)) => Ok(LabelChoice::Name(name)),
            _ => Err("a label is a number or a name"),
        }
    }
}

/// Few-step settings; `docs/savings.md` says what they cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
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
    #[serde(skip)]
    pub start: Option<Vec<f32>>,
}
