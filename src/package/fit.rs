//! Whether a model's components fit each other: by their ports, known before there are any weights.

use super::manifest::{DENOISER, Manifest, bad};
use super::task::{
    CAPTION_DECODER, DECODER, ENCODER, IMAGE_ENCODER, PREVIEW_DECODER, TEXT_ENCODER, TEXT_ENCODER_2, TEXT_PROJECTOR,
    Task,
};
use crate::model::{Batch, Recording};
use crate::{Code, Error, Result};

/// The ports that a component is used by: what goes in, and what comes out.
const PORTS: [(&str, &str, &[&str]); 8] = [
    (TEXT_ENCODER, "input_ids", &["last_hidden_state"]),
    (TEXT_ENCODER_2, "input_ids", &["last_hidden_state"]),
    (TEXT_PROJECTOR, "prefix_features", &["encoded_prefix"]),
    (DECODER, "z", &["decoded"]),
    (PREVIEW_DECODER, "z", &["decoded"]),
    (ENCODER, "image", &[MOMENTS, "latents"]),
    (IMAGE_ENCODER, "pixel_values", &["image_embeds"]),
    (CAPTION_DECODER, "encoded_prefix", &["logits"]),
];

/// Means, then logarithms of variances: of latents, of which there are half as many.
const MOMENTS: &str = "moments";

/// Shapes of a component's ports, of one item, none if there is no such component; of moments, that of the latents.
#[derive(Default)]
struct Ends {
    takes: Option<Vec<usize>>,
    gives: Option<Vec<usize>>,
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

    /// The ports of a component that the task uses, if it is there.
    fn ends(&self, component: &str) -> Result<Ends> {
        let known = PORTS.iter().find(|(name, ..)| *name == component);
        let there = self.task.uses(component) && self.components.get(component).is_some();
        let Some((name, takes, gives)) = known.filter(|_| there) else { return Ok(Ends::default()) };
        let network = self.network(name)?;
        let recording = network.record(self.one(name)?)?;
        let found = gives.iter().find_map(|gives| Some((*gives, port(&recording, gives)?)));
        match (port(&recording, takes), found) {
            (Some(takes), Some((name, mut gives))) => {
                if name == MOMENTS {
                    gives[0] /= 2;
                }
                Ok(Ends { takes: Some(takes), gives: Some(gives) })
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
        self.image_or_drawn(self.ends(DECODER)?.gives)
    }

    /// `[channels, height, width]` of a picture that drawing can start from: what the encoder takes; where there is none, what the
    /// denoiser draws, pixels or latents.
    ///
    /// # Errors
    /// Those of [`Manifest::network`].
    pub fn start_shape(&self) -> Result<[usize; 3]> {
        self.image_or_drawn(self.ends(ENCODER)?.takes)
    }

    fn image_or_drawn(&self, shape: Option<Vec<usize>>) -> Result<[usize; 3]> {
        match shape.as_deref() {
            Some(&[channels, height, width]) => Ok([channels, height, width]),
            _ => Ok(self.network(DENOISER)?.image_shape()),
        }
    }

    /// Whether what the text encoders make, side by side, has room in what the denoiser takes: a context `[tokens, width]`, which
    /// zeros fill up, and a vector, of which nothing is left.
    fn check_joined(&self, context: &[usize], pooled: usize) -> Result<()> {
        // What there is to be placed: tokens, their channels, elements of the vector.
        let (mut tokens, mut channels, mut elements) = (None, 0, 0);
        for name in [TEXT_ENCODER, TEXT_ENCODER_2].into_iter().filter(|name| self.has(name)) {
            let recording = self.network(name)?.record(Batch::plain(1))?;
            let ends = (port(&recording, "hidden_state"), port(&recording, "text_embeds"));
            let (Some(hidden), Some(projected)) = ends else {
                let cause =
                    format!("component {name} has no hidden_state or no projection_dim: the denoiser takes both");
                return Err(bad(cause));
            };
            if *tokens.get_or_insert(hidden[0]) != hidden[0] {
                return Err(bad(format!("component {name} has texts of another length than {TEXT_ENCODER}")));
            }
            (channels, elements) = (channels + hidden[1], elements + projected[1]);
        }
        let tokens = tokens.unwrap_or(0);
        if tokens <= context[0] && channels <= context[1] && elements == pooled {
            return Ok(());
        }
        Err(bad(format!(
            "the text encoders give {tokens} tokens of {channels} channels and {elements} elements, and component {DENOISER} takes \
             {context:?} and {pooled}"
        )))
    }

    /// Whether what one component gives is what the next one takes.
    pub(super) fn check_fit(&self) -> Result<()> {
        let (text, projector) = (self.ends(TEXT_ENCODER)?, self.ends(TEXT_PROJECTOR)?);
        let (decoder, preview, encoder) = (self.ends(DECODER)?, self.ends(PREVIEW_DECODER)?, self.ends(ENCODER)?);
        let (image, captions) = (self.ends(IMAGE_ENCODER)?, self.ends(CAPTION_DECODER)?);
        let denoiser = self.network(DENOISER)?;
        let drawn = Some(denoiser.image_shape().to_vec());
        let (mut read, mut seen) = (None, None);
        let mut written =
            if projector.gives.is_some() { (TEXT_PROJECTOR, &projector.gives) } else { (TEXT_ENCODER, &text.gives) };
        if [Task::Text, Task::Any].contains(&self.task) {
            let recording = denoiser.record(Batch::plain(1))?;
            read = denoiser.text_port().and_then(|name| port(&recording, name));
            seen = port(&recording, "clip_img");
            if read.is_none() {
                let cause = format!("component {DENOISER}: {} takes no text", denoiser.architecture());
                let remedy = "Give the network that is sampled for this task";
                return Err(Error::new(Code::UnsupportedModel, cause, remedy));
            }
            match (&read, port(&recording, "pooled"), &projector.gives) {
                (Some(context), Some(pooled), None) => {
                    self.check_joined(context, pooled.iter().product())?;
                    written.1 = &None;
                }
                _ if self.has(TEXT_ENCODER_2) => {
                    let cause =
                        format!("component {TEXT_ENCODER_2}: {} reads one text encoder", denoiser.architecture());
                    return Err(bad(cause));
                }
                _ => {}
            }
        }
        let joints = [
            ((TEXT_ENCODER, &text.gives), (TEXT_PROJECTOR, &projector.takes)),
            (written, (DENOISER, &read)),
            ((DENOISER, &drawn), (DECODER, &decoder.takes)),
            ((DENOISER, &drawn), (PREVIEW_DECODER, &preview.takes)),
            ((ENCODER, &encoder.gives), (DENOISER, &drawn)),
            ((IMAGE_ENCODER, &image.gives), (DENOISER, &seen)),
            ((DENOISER, &read), (CAPTION_DECODER, &captions.takes)),
            ((DECODER, &decoder.gives), (ENCODER, &encoder.takes)),
        ];
        for ((one, gives), (other, takes)) in joints {
            if let (Some(gives), Some(takes)) = (gives, takes)
                && gives != takes
            {
                return Err(bad(format!("component {one} gives {gives:?}, and component {other} takes {takes:?}")));
            }
        }
        Ok(())
    }
}
