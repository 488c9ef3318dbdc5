//! What the network is given for a request: a class, a text or nothing, and what guidance leads away from.

use super::guidance::Guidance;
use super::modes::Mode;
use super::request::{LabelChoice, Request};
use super::tensors::{NamedTensor, Values};
use super::words::Read;
use super::{Pipeline, invalid};
use crate::decimal::decimal;
use crate::model::{Batch, Recording};
use crate::package::TEXT_ENCODER_2;
use crate::{Error, Result};
use std::ops::Range;

/// The texts of a request, one for each image.
pub(super) struct Texts<'a> {
    pub prompt: Vec<Read<'a>>,
    /// None: the network draws without any.
    pub negative: Option<Vec<Read<'a>>>,
}

impl<'a> Texts<'a> {
    /// All of them.
    pub fn all(&self) -> Vec<Read<'a>> {
        self.prompt.iter().chain(self.negative.iter().flatten()).copied().collect()
    }
}

/// What the network is given and draws.
#[derive(Clone)]
pub(super) struct Conditions {
    pub guidance: Guidance,
    /// Of the ports that it can draw.
    pub drawn: Range<usize>,
}

impl Pipeline {
    /// Whether the network can draw without a text, at a time of its own for it: UniDiffuser takes noise in its place.
    pub(super) fn knows_no_text(&self) -> bool {
        self.network().record(Batch::plain(1)).is_ok_and(|recording| recording.port("t_text").is_some())
    }

    /// Guidance's scale: the model's own, if there is something that stands for no condition.
    pub(super) fn guidance_scale(&self, request: &Request, mode: Option<Mode>) -> Result<f64> {
        let can_say_nothing = self.words.is_some() && request.context.is_none();
        let can_guide = self.manifest.null_class.is_some()
            || request.null_context.is_some()
            || can_say_nothing
            || self.knows_no_text();
        let usual = if can_guide { self.manifest.sampling.guidance_scale } else { 1.0 };
        let scale = request.guidance_scale.unwrap_or(usual);
        if !scale.is_finite() || scale.abs() > 1000.0 {
            return Err(invalid(format!("guidanceScale is {}", decimal(scale)), "Give a number from -1000 to 1000"));
        }
        if scale != 1.0 && !can_guide {
            let (lacks, remedy) = match self.network().text_port() {
                None => ("the model has no null class", "Give guidanceScale 1 or leave it out"),
                Some(_) => ("the empty text's embedding is missing", "Give it, or guidanceScale 1"),
            };
            return Err(invalid(format!("guidanceScale is {}, and {lacks}", decimal(scale)), remedy));
        }
        // What is drawn of nothing has no condition to be guided by.
        Ok(if mode.is_some_and(|mode| !mode.is_guided()) { 1.0 } else { scale })
    }

    /// The texts that are to be encoded, if the request has any.
    pub(super) fn texts<'a>(
        &self,
        request: &'a Request,
        mode: Option<Mode>,
        count: usize,
        guided: bool,
    ) -> Result<Option<Texts<'a>>> {
        let Some(prompt) = &request.prompt else {
            return match (request.negative_prompt.as_ref().or(request.prompt_2.as_ref()), &self.words, &request.context)
            {
                (Some(_), ..) if request.negative_prompt.is_none() => {
                    Err(invalid("prompt2 is given without a prompt", "Give both, or the prompt alone"))
                }
                (Some(_), ..) => Err(invalid("a negative prompt is given without a prompt", "Give both, or neither")),
                (None, Some(_), None) if mode.is_none_or(Mode::takes_prompt) => {
                    Err(invalid("no prompt is given", "Give what the picture is to show; an empty text will do"))
                }
                _ => Ok(None),
            };
        };
        if request.context.is_some() || request.null_context.is_some() {
            return Err(invalid("a prompt is given, and a text's embedding, too", "Give one of them"));
        }
        if self.words.is_none() {
            let remedy = match self.network().text_port() {
                Some(_) => "Give the text's embedding as context",
                None if self.network().classes() > 0 => "Leave the prompt out, and give a label",
                None => "Leave the prompt out",
            };
            return Err(invalid("a prompt is given, and the model reads none", remedy));
        }
        let negative = match &request.negative_prompt {
            Some(negative) => Some(negative.of_images("negativePrompt", count)?),
            None if self.knows_no_text() => None,
            None => Some(vec![""; count]),
        };
        let prompt = prompt.of_images("prompt", count)?;
        let second = match &request.prompt_2 {
            None => prompt.clone(),
            Some(_) if self.components.network(TEXT_ENCODER_2).is_none() => {
                return Err(invalid("prompt2 is given, and the model has one text encoder", "Leave prompt2 out"));
            }
            Some(second) => second.of_images("prompt2", count)?,
        };
        let mut both = Vec::with_capacity(count);
        for (first, second) in prompt.into_iter().zip(second) {
            both.push([first, second]);
        }
        let negative = negative.filter(|_| guided);
        Ok(Some(Texts { prompt: both, negative: negative.map(|texts| texts.into_iter().map(|t| [t; 2]).collect()) }))
    }

    /// Every image's label.
    pub(super) fn labels(&self, request: &Request, count: usize) -> Result<Option<Vec<u32>>> {
        match &request.labels {
            None => Ok(self.label(request.label.as_ref())?.map(|label| vec![label; count])),
            Some(labels) if labels.len() == count => {
                labels.iter().map(|label| self.label(Some(label))).collect::<Result<_>>()
            }
            Some(labels) => {
                Err(invalid(format!("{} labels for {count} images", labels.len()), "Give one for each image"))
            }
        }
    }

    /// The embeddings of a request's texts, one for each image: what guidance leads to, and what it leads away from.
    pub(super) fn embeddings(
        &self,
        request: &Request,
        texts: Option<&Texts<'_>>,
        count: usize,
        guided: bool,
    ) -> Result<[Option<Vec<f32>>; 2]> {
        let null = &request.null_context;
        Ok(match (texts, &self.words) {
            (Some(texts), Some(words)) => {
                let negative = texts.negative.as_ref().filter(|_| guided);
                [Some(words.of(&texts.prompt)?), negative.map(|texts| words.of(texts)).transpose()?]
            }
            _ => {
                let negative = guided && (null.is_some() || !self.knows_no_text());
                let null = if negative { self.context(null.as_ref(), count)? } else { None };
                [self.context(request.context.as_ref(), count)?, null]
            }
        })
    }

    /// What a network of labels or texts is given for every image: all that it can draw, it draws.
    pub(super) fn conditions(
        &self,
        labels: Option<Vec<u32>>,
        [text, null]: [Option<Vec<f32>>; 2],
        scale: f64,
        count: usize,
    ) -> Result<Conditions> {
        let recording = self.network().record(Batch::plain(1))?;
        let null_label = self.manifest.null_class.map(|null| vec![null; count]);
        let ports = self.text_ports(&recording);
        let of_text: usize = ports.iter().map(|(_, elements)| elements).sum();
        let given = |labels: Option<Vec<u32>>, text: Option<Vec<f32>>| {
            let mut given = Vec::new();
            if let Some(labels) = labels.filter(|_| recording.port("y").is_some()) {
                given.push(NamedTensor::new("y", Values::Indices(labels)));
            }
            let (text, mut first) = (text.unwrap_or_default(), 0);
            for &(name, elements) in ports.iter().filter(|_| !text.is_empty()) {
                let mut values = Vec::with_capacity(count * elements);
                text.chunks(of_text).for_each(|text| values.extend(&text[first..first + elements]));
                given.push(NamedTensor::new(name, Values::Floats(values)));
                first += elements;
            }
            given
        };
        let guidance = Guidance::classifier_free(given(labels, text), given(null_label, null), scale);
        Ok(Conditions { guidance, drawn: 0..recording.sampled.len() })
    }

    /// What a text's embedding consists of: the ports that take it, with the elements of each.
    fn text_ports(&self, recording: &Recording) -> Vec<(&'static str, usize)> {
        let mut ports = Vec::new();
        for name in self.network().text_port().into_iter().chain(["pooled"]) {
            if let Some(port) = recording.port(name) {
                ports.push((name, recording.plan.shape(port.tensor).iter().product()));
            }
        }
        ports
    }

    /// Elements of a text's embedding, if the network takes one.
    fn context_elements(&self) -> Result<Option<usize>> {
        let ports = self.text_ports(&self.network().record(Batch::plain(1))?);
        Ok((!ports.is_empty()).then(|| ports.iter().map(|(_, elements)| elements).sum()))
    }

    /// A text's embedding for every image.
    fn context(&self, given: Option<&Vec<f32>>, count: usize) -> Result<Option<Vec<f32>>> {
        let (elements, values) = match (self.context_elements()?, given) {
            (None, None) => return Ok(None),
            (None, Some(_)) => {
                return Err(invalid("a context is given, and the network takes none", "Leave the context out"));
            }
            (Some(elements), None) => {
                let remedy = format!("Give the text's embedding, {elements} values, as context");
                return Err(invalid("the network draws a text, and none is given", remedy));
            }
            (Some(elements), Some(values)) => (elements, values),
        };
        if !values.iter().all(|v| v.is_finite()) {
            return Err(invalid("the context holds a value that is NaN or infinite", "Give finite values"));
        }
        match values.len() {
            n if n == elements => Ok(Some(values.repeat(count))),
            n if n == count * elements => Ok(Some(values.clone())),
            n => Err(invalid(
                format!("the context has {n} values"),
                format!("Give {elements}, or so many for each image"),
            )),
        }
    }

    /// The label's number: as given, by name, or the null class.
    fn label(&self, label: Option<&LabelChoice>) -> Result<Option<u32>> {
        let classes = self.network().classes();
        match label {
            None if classes == 0 => Ok(None),
            None => match self.manifest.null_class {
                Some(null) => Ok(Some(null)),
                None => Err(invalid("no label is given", format!("Give a label from 0 to {}", classes - 1))),
            },
            Some(_) if classes == 0 => {
                let remedy =
                    if self.words.is_some() { "Leave the label out, and give a prompt" } else { "Leave the label out" };
                Err(invalid("a label is given, and the model has none", remedy))
            }
            Some(LabelChoice::Index(index)) if (*index as usize) < classes => Ok(Some(*index)),
            Some(LabelChoice::Index(index)) => Err(invalid(
                format!("label {index} is out of range"),
                format!("Give a label from 0 to {}", classes - 1),
            )),
            Some(LabelChoice::Name(name)) => {
                let found = self.manifest.labels.iter().find(|label| label.name == *name);
                let known =
                    || self.manifest.labels.iter().take(3).map(|l| format!("\"{}\"", l.name)).collect::<Vec<_>>();
                found.map(|label| Some(label.index)).ok_or_else(|| {
                    let remedy = format!("Give one of the model's labels, such as {}", known().join(", "));
                    Error::unknown("label", name, remedy)
                })
            }
        }
    }
}
