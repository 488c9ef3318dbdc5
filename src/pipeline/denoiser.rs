//! The network of a step loop: guidance's copies of the batch, what passes leave out, and items on several workers.

use super::component::{Component, write};
use super::helpers::{Helpers, split};
use super::savings::Pass;
use super::tensors::{NamedTensor, Values};
use crate::model::{Batch, Recording};
use crate::plan::{Role, lower};
use crate::runtime::{Session, State, Term};
use crate::sampler::{Slot, guidance};
use crate::{Code, Error, Result};
use std::ops::Range;

/// Guidance as a table: copies of every image in the batch, what each is given, and how their outputs become one.
#[derive(Clone, Debug, PartialEq)]
pub struct Guidance {
    /// For every copy, tensors for the ports that are given, `[images, ..]`. The first is the conditional one.
    pub copies: Vec<Vec<NamedTensor>>,
    /// For every copy, the coefficient of its output.
    pub coefficients: Vec<f64>,
    /// So many of the output's first channels are guided, the others are the first copy's; none: all.
    pub channels: Option<usize>,
    /// How far the guided output is rescaled to vary as the first copy's, 0 (not at all) to 1; costs a readback at every call.
    pub rescale: f64,
}

impl Guidance {
    /// Only the conditional copy.
    pub fn none(given: Vec<NamedTensor>) -> Guidance {
        Guidance { copies: vec![given], coefficients: vec![1.0], channels: None, rescale: 0.0 }
    }

    /// `uncond + s (cond - uncond)`; s = 1 needs no unconditional copy.
    pub fn classifier_free(cond: Vec<NamedTensor>, uncond: Vec<NamedTensor>, scale: f64) -> Guidance {
        if !guidance::needs_uncond(scale) {
            return Guidance::none(cond);
        }
        let coefficients = guidance::expand(1.0, scale).to_vec();
        Guidance { copies: vec![cond, uncond], coefficients, channels: None, rescale: 0.0 }
    }

    /// The batch of so many images.
    pub fn batch(&self, images: usize) -> Batch {
        Batch::copied(images, self.copies.len())
    }

    /// What all items are given, copy after copy.
    fn given(&self) -> Result<Vec<NamedTensor>> {
        let mut all = self.copies.first().cloned().unwrap_or_default();
        for copy in self.copies.iter().skip(1) {
            for (tensor, more) in all.iter_mut().zip(copy) {
                match (&mut tensor.values, &more.values) {
                    (Values::Floats(values), Values::Floats(more)) => values.extend(more),
                    (Values::Times(values), Values::Times(more)) => values.extend(more),
                    (Values::Indices(values), Values::Indices(more)) => values.extend(more),
                    _ => return Err(Error::internal("copies are given different kinds of values")),
                }
            }
        }
        Ok(all)
    }
}

/// What a denoiser is made for.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Images and copies.
    pub batch: Batch,
    /// The solver's slots.
    pub scratch_slots: usize,
    /// Workers that share the items.
    pub workers: usize,
    /// Blocks at either end that passes run which are not whole.
    pub outer: Option<usize>,
    /// Whether parts of a picture are kept.
    pub masked: bool,
}

/// A network with the tensors of a step loop, ready on a device.
pub struct Denoiser {
    shape: Shape,
    recording: Recording,
    session: Session,
    state: State,
    /// The items of each worker, ours first.
    parts: Vec<Range<usize>>,
    /// The kernels that only whole passes run.
    inner: Option<Range<usize>>,
    names: Names,
    /// Of the network's output.
    channels: usize,
}

/// What inpainting needs: the picture, its noise, and the mask.
const KEPT: [&str; 3] = ["kept picture", "kept noise", "mask"];

/// The names of the State's tensors.
struct Names {
    latents: String,
    model: String,
    scratch: Vec<String>,
    preview: String,
}

impl Denoiser {
    /// Records, lowers and prepares the network.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`, `LIMIT_TOO_SMALL`, `SHADER_FAILED`; `INVALID_ARGUMENT` if there are not so many blocks.
    pub async fn new(component: &mut Component, shape: Shape) -> Result<Denoiser> {
        let Shape { batch, scratch_slots, workers, outer, masked } = shape;
        let parts = split(batch.items(), workers);
        let alone = parts.len() == 1;
        let own = if alone { batch } else { Batch::plain(parts[0].len()) };
        let mut recording = component.network().record(own)?;
        let picture = recording.picture()?;
        let plan = &mut recording.plan;
        let name = |plan: &crate::plan::Plan, id: crate::plan::TensorId| plan.tensors[id.index()].name.clone();
        let names = Names {
            latents: name(plan, picture.input),
            model: name(plan, picture.output),
            scratch: (0..scratch_slots).map(|i| format!("scratch {i}")).collect(),
            preview: "preview".into(),
        };
        let mut of_images = plan.shape(picture.input).to_vec();
        of_images[0] = batch.images;
        let mut of_items = plan.shape(picture.output).to_vec();
        of_items[0] = batch.items();
        let mut tensors = vec![
            (names.latents.clone(), of_images.clone()),
            (names.model.clone(), of_items),
            (names.preview.clone(), of_images.clone()),
        ];
        if masked {
            tensors.extend(KEPT.map(|name| (name.to_string(), of_images.clone())));
        }
        tensors.extend(names.scratch.iter().map(|name| (name.clone(), of_images.clone())));
        if alone {
            // The network reads what the solver writes, and the other way round.
            plan.tensors[picture.input.index()].role = Role::State;
            plan.tensors[picture.output.index()].role = Role::State;
        }
        let inner = match outer {
            Some(outer) => Some(component.network().inner_blocks(outer).ok_or_else(|| too_many_blocks(outer))?),
            None => None,
        };
        if let Some(last) = inner.as_ref().and_then(|[_, to]| plan.find(to)) {
            // What the inner blocks make outlives the pass.
            plan.tensors[last.index()].role = Role::State;
            tensors.push((name(plan, last), plan.shape(last).to_vec()));
        }
        let program = lower(plan, &component.weights().capabilities(), &[])?;
        let inner = match (outer, inner) {
            (Some(outer), Some([from, to])) => Some(program.between(&from, &to).ok_or_else(|| too_many_blocks(outer))?),
            _ => None,
        };
        let state = State::new(&component.weights().device(), &tensors).await?;
        let session = component.session(program, alone.then_some(&state).or(inner.as_ref().map(|_| &state))).await?;
        let channels = of_images[1];
        Ok(Denoiser { shape, recording, session, state, parts, inner, names, channels })
    }

    /// What it was made for.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// How many workers share the items.
    pub fn workers(&self) -> usize {
        self.parts.len()
    }

    /// The network's Program and its memory.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Bytes of the solver's tensors.
    pub fn state_bytes(&self) -> usize {
        self.state.bytes()
    }

    /// Elements of all latents.
    ///
    /// # Errors
    /// `INTERNAL`.
    pub fn elements(&self) -> Result<usize> {
        self.state.elements(&self.names.latents)
    }

    fn slot(&self, slot: Slot) -> Result<&str> {
        match slot {
            Slot::Latents => Ok(&self.names.latents),
            Slot::Model => Ok(&self.names.model),
            Slot::Scratch(i) => {
                let name = self.names.scratch.get(usize::from(i));
                name.map(String::as_str).ok_or_else(|| Error::internal("a recipe names a slot too many"))
            }
        }
    }

    /// Writes a slot.
    ///
    /// # Errors
    /// `INTERNAL` if the length differs.
    pub fn write(&self, slot: Slot, values: &[f32]) -> Result<()> {
        self.state.write(self.slot(slot)?, values)
    }

    /// Reads a slot.
    ///
    /// # Errors
    /// `DEVICE_LOST`, `INTERNAL` if there is none.
    pub async fn read(&self, slot: Slot) -> Result<Vec<f32>> {
        self.state.read(self.slot(slot)?).await
    }

    /// Reads the latents.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn latents(&self) -> Result<Vec<f32>> {
        self.state.read(&self.names.latents).await
    }

    /// Hands the network what does not change from step to step.
    ///
    /// # Errors
    /// `INTERNAL` if something does not fit.
    pub fn give(&mut self, guidance: &Guidance) -> Result<Vec<NamedTensor>> {
        let given = guidance.given()?;
        let own: Vec<NamedTensor> = given.iter().map(|tensor| rows(tensor, &self.parts[0], self.items())).collect();
        write(&self.recording, &mut self.session, &own)?;
        Ok(given)
    }

    fn items(&self) -> usize {
        self.shape.batch.items()
    }

    /// `out = clip(sum of terms)`; the network's outputs count by the guidance's coefficients, the first alone where the pass
    /// was not guided.
    ///
    /// # Errors
    /// `INTERNAL` for a slot that does not exist.
    pub fn combine(
        &self,
        out: Slot,
        terms: &[(Slot, f64)],
        guidance: &Guidance,
        guided: bool,
        clip: Option<(f64, f64)>,
    ) -> Result<()> {
        self.combine_into(self.slot(out)?, terms, guidance, guided, clip)
    }

    fn combine_into(
        &self,
        out: &str,
        terms: &[(Slot, f64)],
        guidance: &Guidance,
        guided: bool,
        clip: Option<(f64, f64)>,
    ) -> Result<()> {
        let elements = self.elements()?;
        let images = self.shape.batch.images;
        let clip = clip.map(|(low, high)| (low as f32, high as f32));
        let parts = match guidance.channels.filter(|_| guided && terms.iter().any(|(slot, _)| *slot == Slot::Model)) {
            Some(channels) => guidance::parts(images, elements / images, self.channels, channels),
            None => vec![(0, elements, guided)],
        };
        for (first, elements_of_part, guided) in parts {
            let mut sum = Vec::with_capacity(terms.len() + guidance.copies.len());
            for &(slot, coefficient) in terms {
                let tensor = self.slot(slot)?;
                if slot == Slot::Model && guided {
                    sum.extend(guidance.coefficients.iter().enumerate().map(|(copy, of_copy)| Term {
                        tensor,
                        from: copy * elements + first,
                        coefficient: (coefficient * of_copy) as f32,
                    }));
                } else {
                    sum.push(Term { tensor, from: first, coefficient: coefficient as f32 });
                }
            }
            self.state.combine_from(out, first, elements_of_part, &sum, clip)?;
        }
        Ok(())
    }

    /// Makes the guided output the only one, rescaled; what follows is not guided any more.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn rescale(&self, guidance: &Guidance) -> Result<()> {
        let elements = self.elements()?;
        let of_image = elements / self.shape.batch.images;
        let mut model = self.state.read(&self.names.model).await?;
        self.combine_into(&self.names.preview, &[(Slot::Model, 1.0)], guidance, true, None)?;
        let mixed = self.state.read(&self.names.preview).await?;
        for (i, mixed) in mixed.chunks(of_image).enumerate() {
            let place = i * of_image..(i + 1) * of_image;
            let f64s = |values: &[f32]| -> Vec<f64> { values.iter().map(|v| f64::from(*v)).collect() };
            let factor = guidance::rescale_factor(&f64s(&model[place.clone()]), &f64s(mixed), guidance.rescale);
            model[place].iter_mut().zip(mixed).for_each(|(to, from)| *to = (factor * f64::from(*from)) as f32);
        }
        self.write(Slot::Model, &model)
    }

    /// Writes what [`Denoiser::keep`] keeps.
    ///
    /// # Errors
    /// `INTERNAL` if it was made without a mask, or a length differs.
    pub fn give_kept(&self, picture: &[f32], noise: &[f32], mask: &[f32]) -> Result<()> {
        let [of_picture, of_noise, of_mask] = KEPT;
        self.state.write(of_picture, picture)?;
        self.state.write(of_noise, noise)?;
        self.state.write(of_mask, mask)
    }

    /// Other noise for what is kept.
    ///
    /// # Errors
    /// As [`Denoiser::give_kept`].
    pub fn renew_kept(&self, noise: &[f32]) -> Result<()> {
        self.state.write(KEPT[1], noise)
    }

    /// Where the mask is 0 the latents become `alpha_t` picture + `sigma_t` noise; where it is 1 they stay.
    ///
    /// # Errors
    /// `INTERNAL` if it was made without a mask.
    pub fn keep(&self, alpha_t: f64, sigma_t: f64) -> Result<()> {
        let [picture, noise, mask] = KEPT;
        let term = |tensor, coefficient: f64| Term { tensor, from: 0, coefficient: coefficient as f32 };
        self.state.blend(&self.names.latents, mask, self.elements()?, &[term(picture, alpha_t), term(noise, sigma_t)])
    }

    /// The estimate of x0, clipped to [-1, 1]: `x0[0]` latents + `x0[1]` prediction.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn preview(&self, x0: [f64; 2], guidance: &Guidance, guided: bool) -> Result<Vec<f32>> {
        let terms = [(Slot::Latents, x0[0]), (Slot::Model, x0[1])];
        self.combine_into(&self.names.preview, &terms, guidance, guided, Some((-1.0, 1.0)))?;
        self.state.read(&self.names.preview).await
    }

    /// One evaluation: the prediction of the latents at a network time, of those items that the pass needs. `given` is what
    /// [`Denoiser::give`] returned.
    ///
    /// # Errors
    /// `ABORTED` when stopped, `DEVICE_LOST`, and those of helpers.
    pub async fn evaluate(
        &mut self,
        time: f64,
        pass: Pass,
        given: &[NamedTensor],
        helpers: Option<&dyn Helpers>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<()> {
        let Batch { images, copies, .. } = self.shape.batch;
        let items = if pass.guided || copies == 1 { images * copies } else { images };
        let port = self.recording.picture()?.time;
        self.session.write_times(port, &vec![time; self.parts[0].len()])?;
        match helpers.filter(|_| self.workers() > 1) {
            None => self.run(pass.whole, items, stopped).await,
            Some(helpers) => self.run_shared(time, items, given, helpers, stopped).await,
        }
    }

    /// One forward of our first items, without what a pass that is not whole leaves out.
    async fn run(&mut self, whole: bool, items: usize, stopped: &dyn Fn() -> bool) -> Result<()> {
        let end = self.session.program().kernels.len();
        let items = Some(items).filter(|&items| items < self.parts[0].len());
        match &self.inner {
            Some(inner) if !whole => {
                self.session.run_in_turns(0..inner.start, items, stopped).await?;
                self.session.run_in_turns(inner.end..end, items, stopped).await
            }
            _ => self.session.run_in_turns(0..end, items, stopped).await,
        }
    }

    /// One forward of the first `items` items, on all workers.
    async fn run_shared(
        &mut self,
        time: f64,
        items: usize,
        given: &[NamedTensor],
        helpers: &dyn Helpers,
        stopped: &dyn Fn() -> bool,
    ) -> Result<()> {
        let picture = self.recording.picture()?;
        let name_of = |id| self.recording.ports.iter().find(|port| port.tensor == id).map_or("", |port| port.name);
        let (images, all) = (self.shape.batch.images, self.items());
        let latents = self.latents().await?;
        let size = latents.len() / images;
        let of_items = |items: &Range<usize>| -> Vec<f32> {
            items.clone().flat_map(|i| &latents[i % images * size..][..size]).copied().collect()
        };
        let needed = |part: &Range<usize>| part.start.min(items)..part.end.min(items);
        let parts: Vec<Range<usize>> = self.parts.iter().map(needed).filter(|items| !items.is_empty()).collect();
        let mut pending = Vec::with_capacity(parts.len() - 1);
        for (index, items) in parts[1..].iter().enumerate() {
            let mut tensors: Vec<NamedTensor> = given.iter().map(|tensor| rows(tensor, items, all)).collect();
            tensors.push(NamedTensor::new(name_of(picture.input), Values::Floats(of_items(items))));
            tensors.push(NamedTensor::new(name_of(picture.time), Values::Times(vec![time; items.len()])));
            pending.push(helpers.forward(index, tensors, name_of(picture.output)));
        }
        self.session.write(picture.input, &of_items(&self.parts[0]))?;
        self.run(true, parts[0].len(), stopped).await?;
        let mut model = self.session.read(picture.output).await?;
        model.truncate(parts[0].len() * size);
        for (answer, items) in pending.into_iter().zip(&parts[1..]) {
            let values = answer.await?;
            if values.len() != items.len() * size {
                return Err(Error::internal(format!("a helper gave {} values for {items:?}", values.len())));
            }
            model.extend(values);
        }
        model.resize(all * size, 0.0);
        self.write(Slot::Model, &model)
    }
}

/// The rows of some of all items.
fn rows(tensor: &NamedTensor, items: &Range<usize>, all: usize) -> NamedTensor {
    fn of<T: Clone>(values: &[T], items: &Range<usize>, all: usize) -> Vec<T> {
        let size = values.len() / all;
        values[items.start * size..items.end * size].to_vec()
    }
    let values = match &tensor.values {
        Values::Floats(values) => Values::Floats(of(values, items, all)),
        Values::Times(values) => Values::Times(of(values, items, all)),
        Values::Indices(values) => Values::Indices(of(values, items, all)),
    };
    NamedTensor::new(tensor.name.clone(), values)
}

fn too_many_blocks(outer: usize) -> Error {
    let cause = format!("the network has no blocks between {outer} at either end");
    Error::new(Code::InvalidArgument, cause, "Correct the manifest's sampling.cache, or switch cache off")
}
