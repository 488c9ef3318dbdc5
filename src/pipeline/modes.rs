//! What a UniDiffuser draws, and out of what (Bao et al., "One Transformer Fits All Distributions in Multi-Modal Diffusion at
//! Scale", 2023; thu-ml/unidiffuser@845e14f7939fb28a7f8d879ff18b7c9e09c7434b sample_multi_v1.py). A picture is its latents and its
//! CLIP embedding; each modality is drawn, known (its time is 0), or absent (noise, at the last time).

use super::conditions::Conditions;
use super::guidance::Guidance;
use super::request::Request;
use super::tensors::{NamedTensor, Values};
use super::{Pipeline, invalid};
use crate::package::{CAPTION_DECODER, DENOISER, ENCODER, IMAGE_ENCODER};
use crate::sampler::guidance::{Modality, UniDiffuserGuidance, UniDiffuserMode};
use crate::{Error, Result};

/// The ports of a modality, and that of its time.
type Side = (&'static [&'static str], &'static str);
/// A picture, and a text: the order of what a network can draw.
const SIDES: [Side; 2] = [(&["img", "clip_img"], "t_img"), (&["text"], "t_text")];

/// Of the kinds of data in version 1, the one that its pictures were taken from.
const DATA_TYPE: u32 = 1;

/// What is drawn, and out of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Pictures of a text.
    TextToImage,
    /// Texts of a picture.
    ImageToText,
    /// Pictures with their texts, of nothing.
    Joint,
    /// Pictures, of nothing.
    Image,
    /// Texts, of nothing.
    Text,
    /// Other pictures with the text of a picture, which stays latents.
    ImageVariation,
    /// Other texts of the picture of a text, likewise.
    TextVariation,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 7] = [
        Mode::TextToImage,
        Mode::ImageToText,
        Mode::Joint,
        Mode::Image,
        Mode::Text,
        Mode::ImageVariation,
        Mode::TextVariation,
    ];

    /// The official name.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::TextToImage => "t2i",
            Mode::ImageToText => "i2t",
            Mode::Joint => "joint",
            Mode::Image => "i",
            Mode::Text => "t",
            Mode::ImageVariation => "i2t2i",
            Mode::TextVariation => "t2i2t",
        }
    }

    /// Whether it starts from a text.
    pub fn takes_prompt(self) -> bool {
        matches!(self, Mode::TextToImage | Mode::TextVariation)
    }

    /// Whether it starts from a picture.
    pub fn takes_image(self) -> bool {
        matches!(self, Mode::ImageToText | Mode::ImageVariation)
    }

    /// Whether it gives pictures; a variation of a text the one that lies between.
    pub fn gives_images(self) -> bool {
        !matches!(self, Mode::ImageToText | Mode::Text)
    }

    /// Whether it gives texts; a variation of a picture the one that lies between, if anything tells it.
    pub fn gives_texts(self) -> bool {
        !matches!(self, Mode::TextToImage | Mode::Image)
    }

    /// Whether there is something that it could be guided by.
    pub fn is_guided(self) -> bool {
        !matches!(self, Mode::Image | Mode::Text)
    }

    /// The step loops that it takes, one after the other.
    pub(super) fn halves(self) -> &'static [UniDiffuserMode] {
        use UniDiffuserMode::{ImageToText, TextToImage};
        match self {
            Mode::TextToImage => &[TextToImage],
            Mode::ImageToText => &[ImageToText],
            Mode::Joint => &[UniDiffuserMode::Joint],
            Mode::Image => &[UniDiffuserMode::Image],
            Mode::Text => &[UniDiffuserMode::Text],
            Mode::ImageVariation => &[ImageToText, TextToImage],
            Mode::TextVariation => &[TextToImage, ImageToText],
        }
    }

    /// Components that it needs besides those of [`crate::package::Task::Any`].
    fn needs(self) -> Vec<&'static str> {
        let mut needs = Vec::new();
        if self.takes_image() {
            needs.extend([ENCODER, IMAGE_ENCODER]);
        }
        if self.gives_texts() && self != Mode::ImageVariation {
            needs.push(CAPTION_DECODER);
        }
        needs
    }
}

impl std::str::FromStr for Mode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Mode> {
        let found = Mode::ALL.into_iter().find(|mode| mode.as_str() == name);
        found.ok_or_else(|| Error::unknown("mode", name, ["Give one of ", &names(&Mode::ALL)].concat()))
    }
}

fn names(modes: &[Mode]) -> String {
    modes.iter().map(|mode| mode.as_str()).collect::<Vec<_>>().join(", ")
}

/// What is known when a step loop begins, `[images, ..]` each.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Latents and CLIP embedding.
    pub picture: Option<[Vec<f32>; 2]>,
    /// Text latents.
    pub text: Option<Vec<f32>>,
    /// Those of the text that guidance leads away from, where there is one; else that is noise.
    pub negative: Option<Vec<f32>>,
}

impl Pipeline {
    /// The modes that the model has all components for; none for other networks than a UniDiffuser's.
    pub fn modes(&self) -> Vec<Mode> {
        if !self.knows_no_text() {
            return Vec::new();
        }
        let there = |mode: &Mode| mode.needs().into_iter().all(|name| self.components.network(name).is_some());
        Mode::ALL.into_iter().filter(there).collect()
    }

    /// The mode of a request: as set, or as what is given suggests; none for networks that have none.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for one that the model cannot do, and for what it has no use for.
    pub(super) fn mode(&self, request: &Request) -> Result<Option<Mode>> {
        let modes = self.modes();
        let (text, picture) = (request.prompt.is_some() || request.context.is_some(), request.image.is_some());
        if modes.is_empty() {
            return match (request.mode, picture) {
                (Some(mode), _) => {
                    let cause = format!("mode is \"{}\", and the model has none", mode.as_str());
                    Err(invalid(cause, "Leave mode out"))
                }
                (None, true) => Err(invalid(
                    "an image is given, and the model reads none",
                    "To start from it, give it as initImage",
                )),
                (None, false) => Ok(None),
            };
        }
        let mode = match (request.mode, text, picture) {
            (Some(mode), ..) => mode,
            (None, true, true) => {
                let remedy =
                    "Give one of them, or a mode that says which: a prompt to t2i or t2i2t, an image to i2t or i2t2i";
                return Err(invalid("a prompt and an image are given, and no mode", remedy));
            }
            (None, true, false) => Mode::TextToImage,
            (None, false, true) => Mode::ImageToText,
            // Where nothing tells texts, pictures alone.
            (None, false, false) if modes.contains(&Mode::Joint) => Mode::Joint,
            (None, false, false) => Mode::Image,
        };
        let name = mode.as_str();
        if !modes.contains(&mode) {
            let lacks: Vec<_> =
                mode.needs().into_iter().filter(|component| self.components.network(component).is_none()).collect();
            let cause = format!("mode is \"{name}\", and the model has no {}", lacks.join(", no "));
            return Err(invalid(cause, format!("Give one of {}, or convert the model with it", names(&modes))));
        }
        let taking = |takes: fn(Mode) -> bool| {
            let all: Vec<Mode> = modes.iter().copied().filter(|mode| takes(*mode)).collect();
            names(&all)
        };
        for (what, given, takes) in [
            ("prompt", text, Mode::takes_prompt as fn(Mode) -> bool),
            ("image", picture, Mode::takes_image),
            ("init image", request.init_image.is_some(), |mode| matches!(mode, Mode::TextToImage | Mode::Image)),
        ] {
            if given && !takes(mode) {
                let cause = format!("mode is \"{name}\", which takes no {what}");
                return Err(invalid(cause, format!("Leave it out, or give one of the modes {}", taking(takes))));
            }
        }
        if mode.takes_image() && !picture {
            return Err(invalid(
                format!("mode is \"{name}\", and no image is given"),
                "Give the image that it starts from",
            ));
        }
        Ok(Some(mode))
    }

    /// What one of its step loops is given and draws, at a guidance scale.
    ///
    /// # Errors
    /// `INTERNAL` if something is not known that must be.
    pub(super) fn half(&self, half: UniDiffuserMode, known: &Known, scale: f64, count: usize) -> Result<Conditions> {
        let half = match half {
            UniDiffuserMode::TextToImage if known.negative.is_some() => UniDiffuserMode::TextToImageEmpty,
            half => half,
        };
        let table = UniDiffuserGuidance::new(half, scale);
        let drawn = table.forwards[0].map(|modality| modality == Modality::Drawn);
        let noise_time = self.manifest.sampling.time_scale;
        let one = self.network.record(self.manifest.one(DENOISER)?)?;
        let zeros = |name: &str| {
            let elements = one.port(name).map_or(0, |port| one.plan.shape(port.tensor).iter().product::<usize>());
            vec![0.0; count * elements]
        };
        let of_picture: Vec<Vec<f32>> = known.picture.iter().flatten().cloned().collect();
        let mut copies = Vec::with_capacity(table.forwards.len());
        let mut noise = [Vec::new(), Vec::new()];
        for (copy, forward) in table.forwards.iter().enumerate() {
            let mut given = Vec::new();
            for (side, (&modality, (ports, time))) in forward.iter().zip(SIDES).enumerate() {
                if modality == Modality::Noise {
                    noise[side].extend(ports.iter().map(|port| (copy, *port)));
                }
                if drawn[side] {
                    continue;
                }
                let values = match modality {
                    Modality::Noise => ports.iter().map(|port| zeros(port)).collect(),
                    Modality::Empty => known.negative.iter().cloned().collect(),
                    _ if side == 0 => of_picture.clone(),
                    _ => known.text.iter().cloned().collect::<Vec<_>>(),
                };
                if values.len() != ports.len() {
                    return Err(Error::internal("what a step loop is given is not known"));
                }
                for (port, values) in ports.iter().zip(values) {
                    given.push(NamedTensor::new(*port, Values::Floats(values)));
                }
                let at = if modality == Modality::Noise { noise_time } else { 0.0 };
                given.push(NamedTensor::new(time, Values::Times(vec![at; count])));
            }
            if one.port("data_type").is_some() {
                given.push(NamedTensor::new("data_type", Values::Indices(vec![DATA_TYPE; count])));
            }
            copies.push(given);
        }
        let mut guidance = Guidance::none(Vec::new());
        for (terms, (ports, _)) in [&table.image, &table.text].into_iter().zip(SIDES) {
            let mut row = vec![0.0; copies.len()];
            terms.iter().for_each(|&(copy, coefficient)| row[copy] = coefficient);
            guidance.of_port.extend(ports.iter().map(|port| (*port, row.clone())));
        }
        // A step draws noise for the picture first, whichever copy it is for.
        (guidance.copies, guidance.noise, guidance.noise_time) = (copies, noise.concat(), noise_time);
        let pictures = SIDES[0].0.len();
        let drawn = if drawn[0] { 0 } else { pictures }..if drawn[1] { one.sampled.len() } else { pictures };
        Ok(Conditions { guidance, drawn })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_has_its_name_and_gives_something() {
        for mode in Mode::ALL {
            assert_eq!(mode.as_str().parse::<Mode>().unwrap(), mode);
            assert!(mode.gives_images() || mode.gives_texts(), "{mode:?}");
            assert!(!(mode.takes_prompt() && mode.takes_image()), "{mode:?}");
        }
        assert_eq!([Mode::Joint, Mode::ImageVariation, Mode::ImageToText].map(Mode::gives_images), [true, true, false]);
        assert!("t2v".parse::<Mode>().unwrap_err().remedy.contains("t2i, i2t, joint, i, t, i2t2i, t2i2t"));
    }
}
