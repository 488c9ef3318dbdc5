//! What a model's networks are given while it works: the ids of texts, what the text encoder makes of them, what a denoiser sees
//! while it draws. Matrices are calibrated on it, and a report measures with it.

use super::convert::Part;
use std::collections::BTreeMap;
use std::rc::Rc;
use uvit_web::model::{Batch, Network, Recording};
use uvit_web::package::{DENOISER, Sampling, TEXT_ENCODER, TEXT_ENCODER_2, TEXT_PROJECTOR};
use uvit_web::pipeline::{Component, Joined, Joining, NamedTensor, Values};
use uvit_web::plan::Compute;
use uvit_web::runtime::{Device, Loading, Session, Weights};
use uvit_web::sampler::{SamplerSettings, TorchGenerator};
use uvit_web::simd::Threads;
use uvit_web::text::Tokenizer;
use uvit_web::weights::checkpoint::Source;
use uvit_web::weights::{Data, Dtype, Tensor};
use uvit_web::{Error, Result};

/// Texts for models that bring none of their own.
const CAPTIONS: &str = include_str!("captions.txt");

/// Texts of a forward.
const TEXTS: usize = 6;

/// What goes into one forward.
#[derive(Clone)]
pub struct Given {
    /// The same in all steps of a run.
    fixed: Rc<Vec<NamedTensor>>,
    /// Of this step.
    moving: Vec<NamedTensor>,
}

impl Given {
    /// What needs no steps.
    pub fn once(tensor: NamedTensor) -> Given {
        Given { fixed: Rc::default(), moving: vec![tensor] }
    }

    /// Writes it to a Session of the network.
    pub fn write(&self, session: &mut Session, recording: &Recording) -> Result<()> {
        for NamedTensor { name, values, .. } in self.fixed.iter().chain(&self.moving) {
            let port = recording.port(name).ok_or_else(|| Error::internal(format!("there is no port {name}")))?;
            match values {
                Values::Floats(values) => session.write(port.tensor, values)?,
                Values::Times(times) => session.write_times(port.tensor, times)?,
                Values::Indices(indices) => session.write_indices(port.tensor, indices)?,
            }
        }
        Ok(())
    }
}

/// What one component is given.
pub enum Examples<'a> {
    /// So many items a forward.
    Ready(usize, Vec<Given>),
    /// What a denoiser sees in so many sampling runs, unguided; classes and texts in turn.
    Drawn { pictures: usize, sampling: &'a Sampling, texts: Option<&'a Texts> },
}

/// Texts, and what the networks of the first stages make of each, in f32.
#[derive(Default)]
pub struct Texts {
    ids: Vec<Vec<u32>>,
    /// Those of a second text encoder's tokenizer, if there is one.
    ids_2: Vec<Vec<u32>>,
    /// The text encoder's.
    features: Vec<Vec<f32>>,
    /// What the denoiser is given.
    embeddings: Vec<Vec<f32>>,
}

impl Texts {
    /// Of a model's own prompts, or of everyday captions, so many at most; none if it reads no texts.
    pub fn of(
        parts: &mut [Part<'_>],
        merges: Option<&String>,
        prompts: &[String],
        most: usize,
    ) -> Result<Option<Texts>> {
        let Some(merges) = merges else { return Ok(None) };
        let tokenizer = Tokenizer::new(merges)?;
        let everyday: Vec<String> = CAPTIONS.lines().map(str::to_owned).collect();
        let prompts = if prompts.is_empty() { &everyday } else { prompts };
        let prompts = &prompts[..most.min(prompts.len())];
        let mut texts = Texts::default();
        let denoiser = parts.iter().find(|part| part.source.component == DENOISER);
        let denoiser = denoiser.map(|part| part.network.record(Batch::plain(1))).transpose()?;
        let shape = denoiser.as_ref().and_then(Joined::of);
        let mut joining = shape.map(|shape| (shape, Joining::new(shape, prompts.len())));
        for (name, takes, gives) in [
            (TEXT_ENCODER, "input_ids", "last_hidden_state"),
            (TEXT_ENCODER_2, "input_ids", "last_hidden_state"),
            (TEXT_PROJECTOR, "prefix_features", "encoded_prefix"),
        ] {
            let Some(part) = parts.iter_mut().find(|part| part.source.component == name) else { continue };
            let pad = tokenizer.padding(part.network.pad_token());
            let encode = |text: &String| tokenizer.encode(text, part.network.tokens(), &pad).ids;
            let ids: Vec<Vec<u32>> = prompts.iter().map(encode).collect();
            let (weights, mut made) = (exact(&part.network, &mut part.found)?, BTreeMap::<String, Vec<f32>>::new());
            let stored = vec![(Dtype::F32, 0); part.network.record(Batch::plain(1))?.plan.weights.len()];
            let mut component = Component::new(part.network.clone(), weights, stored, Vec::new());
            for at in (0..prompts.len()).step_by(TEXTS) {
                let some = at..(at + TEXTS).min(prompts.len());
                let values = match name {
                    TEXT_PROJECTOR => Values::Floats(texts.features[some].concat()),
                    _ => Values::Indices(ids[some].concat()),
                };
                let given = [NamedTensor::new(takes, values)];
                for result in pollster::block_on(component.forward(&given, &|| false))? {
                    if let Values::Floats(values) = result.values {
                        made.entry(result.name).or_default().extend(values);
                    }
                }
            }
            let floats = |name: &str| {
                let missing = || Error::internal(format!("a network of texts gave no {name}"));
                made.get(name).ok_or_else(missing)
            };
            if let Some((_, joining)) = &mut joining {
                joining.add(&ids.concat(), tokenizer.end(), floats("hidden_state")?, floats("text_embeds")?)?;
            } else {
                let values = floats(gives)?;
                texts.embeddings = values.chunks(values.len() / prompts.len()).map(<[f32]>::to_vec).collect();
            }
            match name {
                TEXT_ENCODER => (texts.ids, texts.features) = (ids, texts.embeddings.clone()),
                TEXT_ENCODER_2 => texts.ids_2 = ids,
                _ => {}
            }
        }
        if let Some((shape, joining)) = joining {
            texts.embeddings = joining.finish().chunks(shape.elements()).map(<[f32]>::to_vec).collect();
        }
        Ok(Some(texts))
    }

    /// Those to calibrate with, or the others, to measure with: every fourth.
    pub fn split(&self, measured: bool) -> Texts {
        fn some<T: Clone>(all: &[T], measured: bool) -> Vec<T> {
            all.iter().enumerate().filter(|(i, _)| (i % 4 == 3) == measured).map(|(_, text)| text.clone()).collect()
        }
        Texts {
            ids: some(&self.ids, measured),
            ids_2: some(&self.ids_2, measured),
            features: some(&self.features, measured),
            embeddings: some(&self.embeddings, measured),
        }
    }

    /// What a component of the first stages is given: [`Examples::Ready`].
    pub fn examples(&self, component: &str) -> Option<Examples<'static>> {
        let tensor = |at: usize| {
            let turn = (at..at + TEXTS).map(|i| i % self.ids.len().max(1));
            match component {
                TEXT_ENCODER | TEXT_ENCODER_2 => {
                    let ids = if component == TEXT_ENCODER { &self.ids } else { &self.ids_2 };
                    NamedTensor::new("input_ids", Values::Indices(turn.flat_map(|i| ids[i].clone()).collect()))
                }
                _ => NamedTensor::new(
                    "prefix_features",
                    Values::Floats(turn.flat_map(|i| self.features[i].clone()).collect()),
                ),
            }
        };
        let known = [TEXT_ENCODER, TEXT_ENCODER_2, TEXT_PROJECTOR].contains(&component) && !self.ids.is_empty();
        let forwards = (0..self.ids.len()).step_by(TEXTS).map(|at| Given::once(tensor(at)));
        known.then(|| Examples::Ready(TEXTS, forwards.collect()))
    }
}

/// A network's weights in f32, on the CPU.
pub fn exact(network: &Network, source: &mut dyn Source) -> Result<Weights> {
    let plan = network.record(Batch::plain(1))?.plan;
    let mut loading = Loading::new(&Device::cpu(Threads::all()), Compute::F32)?;
    for (id, weight, form) in plan.loads(Compute::F32) {
        let data = Data::F32(source.weight(weight)?);
        let tensor = Tensor { name: weight.name.clone(), shape: weight.shape.clone(), data };
        pollster::block_on(loading.load(id, weight, form, &tensor))?;
    }
    pollster::block_on(loading.finish())
}

/// Classes, for networks that have some.
pub fn classes(recording: &Recording, labels: Vec<u32>) -> Vec<NamedTensor> {
    recording.label().map(|_| NamedTensor::new("y", Values::Indices(labels))).into_iter().collect()
}

/// What batch `k` of so many pictures is given: classes and texts in turn. A UniDiffuser also draws with no text, which is noise
/// at the last time, and draws texts: each in every fourth batch, or always where no text is known.
pub fn conditions(
    network: &Network,
    recording: &Recording,
    (k, batch): (usize, usize),
    texts: Option<&Texts>,
    time_scale: f64,
) -> Vec<NamedTensor> {
    let items = k * batch..(k + 1) * batch;
    let count = network.classes().max(1) as u32;
    let mut given = classes(recording, items.clone().map(|i| i as u32 % count).collect());
    given.extend(recording.port("data_type").map(|_| NamedTensor::new("data_type", Values::Indices(vec![1; batch]))));
    let ports = network.text_port().into_iter().chain(["pooled"]).filter_map(|name| recording.port(name));
    let ports: Vec<_> =
        ports.map(|p| (p.name, recording.plan.shape(p.tensor).iter().product::<usize>() / batch)).collect();
    if ports.is_empty() {
        return given;
    }
    let of_text = ports.iter().map(|(_, elements)| elements).sum::<usize>();
    let elements = batch * of_text;
    let known = texts.filter(|texts| !texts.embeddings.is_empty());
    let said = |texts: &Texts| items.flat_map(|i| texts.embeddings[i % texts.embeddings.len()].clone()).collect();
    let (text, time): (Vec<f32>, f64) = match (recording.port("t_text"), known, k % 4) {
        (None, None, _) => (vec![0.0; elements], 0.0),
        (Some(_), None, _) | (Some(_), _, 3) => return given,
        (Some(_), _, 2) => (TorchGenerator::new(800_000 + k as u64).randn_f32(elements), time_scale),
        (_, Some(texts), _) => (said(texts), 0.0),
    };
    let mut first = 0;
    for (name, elements) in ports {
        let of_port = text.chunks(of_text).flat_map(|text| &text[first..first + elements]).copied();
        given.push(NamedTensor::new(name, Values::Floats(of_port.collect())));
        first += elements;
    }
    given.extend(recording.port("t_text").map(|_| NamedTensor::new("t_text", Values::Times(vec![time; batch]))));
    given
}

/// One batch from noise to pictures, unguided; what of the network's ports is not `fixed` is drawn. `look` sees the session after
/// every forward, and what that was given.
pub fn walk(
    session: &mut Session,
    recording: &Recording,
    settings: &SamplerSettings,
    fixed: Vec<NamedTensor>,
    mut noise: TorchGenerator,
    look: &mut dyn FnMut(&mut Session, Given) -> Result<()>,
) -> Result<Vec<f32>> {
    use uvit_web::sampler::{Slot, Step, recipe};
    let recipe = recipe(settings)?;
    let fixed = Rc::new(fixed);
    let name = |id| recording.ports.iter().find(|port| port.tensor == id).map_or("", |port| port.name);
    let drawn = recording.sampled.iter().filter(|port| !fixed.iter().any(|given| given.name == name(port.input)));
    let drawn: Vec<_> = drawn.map(|port| (port, recording.plan.shape(port.input).iter().product::<usize>())).collect();
    let elements = drawn.iter().map(|(_, elements)| elements).sum();
    let mut slots: BTreeMap<u8, Vec<f32>> = BTreeMap::new();
    let mut latents = noise.randn_f32(elements);
    let (mut model, mut variance) = (Vec::new(), Vec::new());
    for step in &recipe.steps {
        match step {
            Step::Eval { network_time, .. } => {
                let (mut moving, mut begin) = (Vec::new(), 0);
                for (port, elements) in &drawn {
                    let values = latents[begin..begin + elements].to_vec();
                    let times = vec![*network_time; recording.plan.shape(port.time)[0]];
                    moving.push(NamedTensor::new(name(port.input), Values::Floats(values)));
                    moving.push(NamedTensor::new(name(port.time), Values::Times(times)));
                    begin += elements;
                }
                let given = Given { fixed: fixed.clone(), moving };
                given.write(session, recording)?;
                pollster::block_on(session.forward(&|| false))?;
                model.clear();
                variance.clear();
                for (port, elements) in &drawn {
                    model.extend(pollster::block_on(session.read(port.output))?);
                    match port.variance {
                        Some(id) => variance.extend(pollster::block_on(session.read(id))?),
                        None => variance.resize(variance.len() + elements, -1.0),
                    }
                }
                look(session, given)?;
            }
            Step::Combine { out, terms, clip } => {
                let mut sum = vec![0f32; elements];
                for term in terms {
                    let values = match term.slot {
                        Slot::Latents => &latents,
                        Slot::Model => &model,
                        Slot::Scratch(i) => slots.get(&i).ok_or_else(|| Error::internal("an empty slot"))?,
                    };
                    sum.iter_mut().zip(values).for_each(|(s, v)| *s += term.coefficient as f32 * v);
                }
                if let Some((low, high)) = clip {
                    sum.iter_mut().for_each(|s| *s = s.clamp(*low as f32, *high as f32));
                }
                match out {
                    Slot::Scratch(i) => drop(slots.insert(*i, sum)),
                    _ => latents = sum,
                }
            }
            Step::Noise { out: Slot::Scratch(i) } => drop(slots.insert(*i, noise.randn_f32(elements))),
            Step::Arrive { .. } => {}
            Step::Noise { .. } => latents = noise.randn_f32(elements),
            Step::Spread { noise: Slot::Scratch(i), log_std, .. } => {
                let drawn = slots.get(i).ok_or_else(|| Error::internal("an empty slot"))?;
                let [constant, slope] = log_std.map(|c| c as f32);
                for ((x, v), z) in latents.iter_mut().zip(&variance).zip(drawn) {
                    *x += (constant + slope * v).exp() * z;
                }
            }
            Step::Spread { .. } => return Err(Error::internal("noise that is no slot's")),
        }
    }
    // The picture is the first that is drawn.
    latents.truncate(drawn.first().map_or(0, |(_, elements)| *elements));
    Ok(latents)
}

/// A component that can be given examples: the denoiser's are made while it draws, those of the first stages are known.
pub fn of<'a>(
    component: &str,
    texts: Option<&'a Texts>,
    pictures: usize,
    sampling: &'a Sampling,
) -> Option<Examples<'a>> {
    match component {
        DENOISER => Some(Examples::Drawn { pictures, sampling, texts }),
        _ => texts.and_then(|texts| texts.examples(component)),
    }
}
