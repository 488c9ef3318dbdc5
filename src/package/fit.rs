//! Whether a model's components fit each other: by their ports, known before there are any weights.

use super::manifest::{DENOISER, Manifest, bad};
use super::task::{DECODER, ENCODER, PREVIEW_DECODER, TEXT_ENCODER, TEXT_PROJECTOR, Task};
use crate::model::{Batch, Recording};
use crate::{Code, Error, Result};

/// The ports that a component is used by: what goes in, and what comes out.
const PORTS: [(&str, &str, &[&str]); 5] = [
    (TEXT_ENCODER, "input_ids", &["last_hidden_state"]),
    (TEXT_PROJECTOR, "prefix_features", &["encoded_prefix"]),
    (DECODER, "z", &["decoded"]),
    (PREVIEW_DECODER, "z", &["decoded"]),
    (ENCODER, "image", &[MOMENTS, "latents"]),
];

/// Means, then logarithms of variances: of latents, of which there are half as many.
const MOMENTS: &str = "moments";

/// Shapes of a component's ports, of one item; of moments, that of the latents.
struct Ends {
    takes: Vec<usize>,
    gives: Vec<usize>,
}

fn port(recording: &Recording, name: &str) -> Option<Vec<usize>> {
    recording.port(name).map(|port| recording.plan.shape(port.tensor)[1..].to_vec())
}

impl Manifest {
    /// A batch of one item for a component: what is encoded and decoded is of the denoiser's size.
    ///
    /// # Errors
    /// Those of [`Manifest::network`].
    pub fn one(&self, component: &str) -> Result<Batch> {
        let [_, height, width] = self.network(DENOISER)?.image_shape();
        let by = match component {
            DECODER | PREVIEW_DECODER => 1,
            ENCODER => self.network(component)?.downsampling(),
            _ => return Ok(Batch::plain(1)),
        };
        let size = [height, width].map(|n| n.saturating_mul(by));
        Ok(Batch { size: Some(size), ..Batch::plain(1) })
    }

    /// A component's ports, if there is such a component.
    fn ends(&self, component: &str) -> Result<Option<Ends>> {
        let known = PORTS.iter().find(|(name, ..)| *name == component);
        let Some((name, takes, gives)) = known.filter(|_| self.components.get(component).is_some()) else {
            return Ok(None);
        };
        let network = self.network(name)?;
        let recording = network.record(self.one(name)?)?;
        let found = gives.iter().find_map(|gives| Some((*gives, port(&recording, gives)?)));
        match (port(&recording, takes), found) {
            (Some(takes), Some((name, mut gives))) => {
                if name == MOMENTS {
                    gives[0] /= 2;
                }
                Ok(Some(Ends { takes, gives }))
            }
            _ => {
                let cause =
                    format!("component {name}: {} has no ports {takes} and {}", network.architecture(), gives[0]);
                Err(Error::new(Code::UnsupportedModel, cause, "Give the network that does this"))
            }
        }
    }

    /// `[channels, height, width]` of what is drawn: a picture, or latents where there is nothing that decodes them.
    ///
    /// # Errors
    /// Those of [`Manifest::network`].
    pub fn picture_shape(&self) -> Result<[usize; 3]> {
        let decoded = self.ends(DECODER)?.filter(|_| self.task.uses(DECODER)).map(|decoder| decoder.gives);
        match decoded.as_deref() {
            Some(&[channels, height, width]) => Ok([channels, height, width]),
            _ => Ok(self.network(DENOISER)?.image_shape()),
        }
    }

    /// `[channels, height, width]` of a picture that drawing can start from: what the encoder takes; where there is none, what the
    /// denoiser draws, pixels or latents.
    ///
    /// # Errors
    /// Those of [`Manifest::network`].
    pub fn start_shape(&self) -> Result<[usize; 3]> {
        let encoded = self.ends(ENCODER)?.filter(|_| self.encodes()).map(|encoder| encoder.takes);
        match encoded.as_deref() {
            Some(&[channels, height, width]) => Ok([channels, height, width]),
            _ => Ok(self.network(DENOISER)?.image_shape()),
        }
    }

    /// Whether what one component gives is what the next one takes.
    pub(super) fn check_fit(&self) -> Result<()> {
        for (name, ..) in PORTS.iter().filter(|(name, ..)| self.task.uses(name)) {
            self.ends(name)?;
        }
        let denoiser = self.network(DENOISER)?;
        let apart = |one: &str, gives: &[usize], other: &str, takes: &[usize]| {
            bad(format!("component {one} gives {gives:?}, and component {other} takes {takes:?}"))
        };
        if [Task::Text, Task::Any].contains(&self.task) {
            let recording = denoiser.record(Batch::plain(1))?;
            let Some(takes) = denoiser.text_port().and_then(|name| port(&recording, name)) else {
                let cause = format!("component {DENOISER}: {} takes no text", denoiser.architecture());
                return Err(Error::new(
                    Code::UnsupportedModel,
                    cause,
                    "Give the network that is sampled for this task",
                ));
            };
            let mut last = (TEXT_ENCODER, self.ends(TEXT_ENCODER)?.map(|ends| ends.gives).unwrap_or_default());
            if let Some(projector) = self.ends(TEXT_PROJECTOR)? {
                if last.1 != projector.takes {
                    return Err(apart(last.0, &last.1, TEXT_PROJECTOR, &projector.takes));
                }
                last = (TEXT_PROJECTOR, projector.gives);
            }
            if last.1 != takes {
                return Err(apart(last.0, &last.1, DENOISER, &takes));
            }
        }
        for name in [DECODER, PREVIEW_DECODER].into_iter().filter(|name| self.task.uses(name)) {
            match self.ends(name)? {
                Some(ends) if ends.takes != denoiser.image_shape() => {
                    return Err(apart(DENOISER, &denoiser.image_shape(), name, &ends.takes));
                }
                _ => {}
            }
        }
        if let Some(encoder) = self.ends(ENCODER)?.filter(|_| self.encodes()) {
            if encoder.gives != denoiser.image_shape() {
                return Err(apart(ENCODER, &encoder.gives, DENOISER, &denoiser.image_shape()));
            }
            let decoder = self.ends(DECODER)?.filter(|_| self.task.uses(DECODER));
            if let Some(decoder) = decoder.filter(|decoder| decoder.gives != encoder.takes) {
                return Err(apart(DECODER, &decoder.gives, ENCODER, &encoder.takes));
            }
        }
        Ok(())
    }
}
