//! The network of a step loop: the ports that are drawn, guidance's copies of the batch, and what passes leave out.

use super::component::{Component, write};
use super::drawn::{Drawn, Port};
use super::guidance::Guidance;
use super::helpers::{Helpers, split};
use super::kept::KEPT;
use super::noise::Noise;
use super::savings::Pass;
use super::shared::{Call, rows};
use super::tensors::{NamedTensor, Values};
use crate::model::{Batch, Recording};
use crate::plan::{Role, lower};
use crate::runtime::{Session, State, Term};
use crate::sampler::{Slot, guidance};
use crate::{Code, Error, Result};
use std::ops::Range;

/// What a denoiser is made for.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Images and copies.
    pub batch: Batch,
    /// Which of the ports that the network can draw ([`Recording::sampled`]) are drawn; the others are given.
    pub drawn: Range<usize>,
    /// The solver's slots.
    pub scratch_slots: usize,
    /// Workers that share the items.
    pub workers: usize,
    /// Blocks at either end that passes run which are not whole.
    pub outer: Option<usize>,
    /// Whether parts of a picture are kept.
    pub masked: bool,
    /// Ports that are drawn, and noise in one copy: [`Guidance::noise`].
    pub absent: Vec<(usize, &'static str)>,
}

impl Shape {
    /// The first port alone, on one worker, with nothing kept or left out.
    pub fn plain(batch: Batch, scratch_slots: usize) -> Shape {
        Shape { batch, drawn: 0..1, scratch_slots, workers: 1, outer: None, masked: false, absent: Vec::new() }
    }
}

/// A port that is drawn, and noise in one copy.
pub(super) struct Absent {
    pub copy: usize,
    /// Of those that are drawn.
    pub port: usize,
    /// The State's tensor that holds it.
    tensor: String,
    /// `[images, ..]`
    pub values: Vec<f32>,
}

/// A network with the tensors of a step loop, ready on a device.
pub struct Denoiser {
    shape: Shape,
    pub(super) recording: Recording,
    pub(super) session: Session,
    pub(super) state: State,
    pub(super) drawn: Drawn,
    /// What does not change from step to step, of all items.
    pub(super) given: Vec<NamedTensor>,
    /// The items of each worker, ours first.
    pub(super) parts: Vec<Range<usize>>,
    /// The kernels that only whole passes run.
    inner: Option<Range<usize>>,
    /// The State's tensors of all ports: the solver's, and the preview.
    scratch: Vec<String>,
    pub(super) absent: Vec<Absent>,
    noise_time: f64,
}

impl Denoiser {
    /// Records, lowers and prepares the network.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`, `LIMIT_TOO_SMALL`, `SHADER_FAILED`; `INVALID_ARGUMENT` if there are not so many blocks.
    pub async fn new(component: &mut Component, shape: Shape) -> Result<Denoiser> {
        let Shape { batch, workers, outer, .. } = shape;
        let parts = split(batch.items(), workers);
        let alone = parts.len() == 1;
        let own = if alone { batch } else { Batch::plain(parts[0].len()) };
        let mut recording = component.network().record(own)?;
        let channels_first = component.network().sample().channels_first;
        let drawn = Drawn::new(&recording, shape.drawn.clone(), batch.images, alone, channels_first)?;
        let plan = &mut recording.plan;
        let (mut tensors, mut total) = (Vec::new(), 0);
        for port in &drawn.ports {
            let latents = [(port.port.input, &port.latents)];
            for (i, (id, name)) in latents.into_iter().chain(port.outputs()).enumerate() {
                let mut shape = plan.shape(id).to_vec();
                shape[0] = if i > 0 || port.copied { batch.items() } else { batch.images };
                tensors.push((name.clone(), shape));
                if alone {
                    // The network reads what the solver writes, and the other way round.
                    plan.tensors[id.index()].role = Role::State;
                }
            }
            total += batch.images * port.size;
        }
        let scratch: Vec<String> = (0..shape.scratch_slots).map(|i| format!("scratch {i}")).collect();
        let scratch: Vec<String> = scratch.into_iter().chain(["preview".to_owned()]).collect();
        tensors.extend(scratch.iter().map(|name| (name.clone(), vec![1, 1, 1, total])));
        let mut absent = Vec::with_capacity(shape.absent.len());
        for &(copy, name) in &shape.absent {
            let port = drawn.ports.iter().position(|port| port.latents == name && (port.copied || !alone));
            let port =
                port.ok_or_else(|| Error::internal(format!("{name} is absent, and not drawn for every copy")))?;
            let (tensor, elements) = (format!("noise {copy} {name}"), batch.images * drawn.ports[port].size);
            tensors.push((tensor.clone(), vec![1, 1, 1, elements]));
            absent.push(Absent { copy, port, tensor, values: vec![0.0; elements] });
        }
        let of_picture = vec![1, 1, 1, batch.images * drawn.of_picture()];
        tensors.extend(KEPT.iter().filter(|_| shape.masked).map(|name| (name.to_string(), of_picture.clone())));
        let inner = match outer {
            Some(outer) => Some(component.network().inner_blocks(outer).ok_or_else(|| too_many_blocks(outer))?),
            None => None,
        };
        if let Some(last) = inner.as_ref().and_then(|[_, to]| plan.find(to)) {
            // What the inner blocks make outlives the pass.
            plan.tensors[last.index()].role = Role::State;
            tensors.push((plan.tensors[last.index()].name.clone(), plan.shape(last).to_vec()));
        }
        let program = lower(plan, &component.weights().capabilities(), &[])?;
        let inner = match (outer, inner) {
            (Some(outer), Some([from, to])) => Some(program.between(&from, &to).ok_or_else(|| too_many_blocks(outer))?),
            _ => None,
        };
        let state = State::new(&component.weights().device(), &tensors).await?;
        let session = component.session(program, alone.then_some(&state).or(inner.as_ref().map(|_| &state))).await?;
        let (given, noise_time) = (Vec::new(), 0.0);
        Ok(Denoiser { shape, recording, session, state, drawn, given, parts, inner, scratch, absent, noise_time })
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

    /// Elements of all that is drawn.
    pub fn elements(&self) -> usize {
        self.shape.batch.images * self.drawn.of_image()
    }

    /// One image's shape in the first port that is drawn.
    pub(super) fn picture_shape(&self) -> &[usize] {
        &self.recording.plan.shape(self.drawn.ports[0].port.input)[1..]
    }

    /// The State's tensor of a slot, and where a port begins in it.
    fn place<'a>(&'a self, slot: Slot, port: &'a Port) -> Result<(&'a str, usize)> {
        match slot {
            Slot::Latents => Ok((&port.latents, 0)),
            Slot::Model => Ok((&port.model, 0)),
            Slot::Scratch(i) => Ok((self.scratch(usize::from(i))?, port.first)),
        }
    }

    pub(super) fn scratch(&self, i: usize) -> Result<&str> {
        let name = self.scratch.get(i);
        name.map(String::as_str).ok_or_else(|| Error::internal("a recipe names a slot too many"))
    }

    /// What estimates are made in.
    pub(super) fn preview_slot(&self) -> Slot {
        Slot::Scratch(self.shape.scratch_slots as u8)
    }

    /// Writes a slot, `Model` aside.
    ///
    /// # Errors
    /// `INTERNAL` if the length differs.
    pub fn write(&self, slot: Slot, values: &[f32]) -> Result<()> {
        if values.len() != self.elements() {
            return Err(Error::internal(format!("{} values for a slot", values.len())));
        }
        let values = self.drawn.to_ports(values);
        match slot {
            Slot::Model => Err(Error::internal("the model's output is the network's to write")),
            Slot::Scratch(i) => self.state.write(self.scratch(usize::from(i))?, &values),
            Slot::Latents => self.drawn.ports.iter().try_for_each(|port| {
                let values = &values[port.first..port.first + self.shape.batch.images * port.size];
                match port.copied {
                    true => self.state.write(&port.latents, &values.repeat(self.shape.batch.copies)),
                    false => self.state.write(&port.latents, values),
                }
            }),
        }
    }

    /// Reads a slot; of `Model` the first copy.
    ///
    /// # Errors
    /// `DEVICE_LOST`, `INTERNAL` if there is none.
    pub async fn read(&self, slot: Slot) -> Result<Vec<f32>> {
        if let Slot::Scratch(i) = slot {
            return Ok(self.drawn.to_images(&self.state.read(self.scratch(usize::from(i))?).await?));
        }
        let mut values = Vec::with_capacity(self.elements());
        for port in &self.drawn.ports {
            let of_port = self.state.read(self.place(slot, port)?.0).await?;
            values.extend(&of_port[..self.shape.batch.images * port.size]);
        }
        Ok(self.drawn.to_images(&values))
    }

    /// Reads the latents.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn latents(&self) -> Result<Vec<f32>> {
        self.read(Slot::Latents).await
    }

    /// Hands the network what does not change from step to step.
    ///
    /// # Errors
    /// `INTERNAL` if something does not fit.
    pub fn give(&mut self, guidance: &Guidance) -> Result<()> {
        self.given = guidance.given()?;
        self.noise_time = guidance.noise_time;
        self.hand_over(None)
    }

    /// Hands our items of what is given to the network, or of one tensor alone.
    fn hand_over(&mut self, only: Option<&str>) -> Result<()> {
        let given = self.given.iter().filter(|tensor| only.is_none_or(|name| tensor.name == name));
        let own: Vec<NamedTensor> = given.map(|tensor| rows(tensor, &self.parts[0], self.items())).collect();
        write(&self.recording, &mut self.session, &own)
    }

    /// Draws anew what is noise at every evaluation, in the first copies, which are the ones that run.
    ///
    /// # Errors
    /// `INTERNAL` for a port that takes no noise.
    pub fn renew(&mut self, guidance: &Guidance, noise: &mut Noise, copies: usize) -> Result<()> {
        let (images, items) = (self.shape.batch.images, self.items());
        for &(copy, name) in guidance.noise.iter().filter(|(copy, _)| *copy < copies) {
            if let Some(absent) = self
                .absent
                .iter_mut()
                .find(|absent| absent.copy == copy && self.drawn.ports[absent.port].latents == name)
            {
                absent.values = noise.draw(images, &[absent.values.len() / images]);
                self.state.write(&absent.tensor, &absent.values)?;
                continue;
            }
            let given = self.given.iter_mut().find(|tensor| tensor.name == name).map(|tensor| &mut tensor.values);
            let Some(Values::Floats(values)) = given else {
                return Err(Error::internal(format!("{name} is given noise, and takes none")));
            };
            let size = values.len() / items;
            values[copy * images * size..][..images * size].copy_from_slice(&noise.draw(images, &[size]));
            self.hand_over(Some(name))?;
        }
        Ok(())
    }

    /// What stands in a copy for a port that is drawn, if that is noise.
    pub(super) fn absent(&self, copy: usize, port: usize) -> Option<&Absent> {
        self.absent.iter().find(|absent| absent.copy == copy && absent.port == port)
    }

    /// The network's time of a port that is drawn, for some items.
    pub(super) fn times(&self, port: usize, time: f64, items: Range<usize>) -> Vec<f64> {
        let images = self.shape.batch.images;
        items.map(|item| if self.absent(item / images, port).is_some() { self.noise_time } else { time }).collect()
    }

    pub(super) fn items(&self) -> usize {
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
        let images = self.shape.batch.images;
        let clip = clip.map(|(low, high)| (low as f32, high as f32));
        for port in &self.drawn.ports {
            let elements = images * port.size;
            let (tensor, begin) = self.place(out, port)?;
            let parts = match guidance.channels.filter(|_| guided && terms.iter().any(|term| term.0 == Slot::Model)) {
                Some(channels) => {
                    guidance::parts(images * port.pictures, port.size / port.pictures, port.channels, channels)
                }
                None => vec![(0, elements, guided)],
            };
            for (first, elements_of_part, guided) in parts {
                let mut sum = Vec::with_capacity(terms.len() + guidance.copies.len());
                for &(slot, coefficient) in terms {
                    let (tensor, begin) = self.place(slot, port)?;
                    if slot == Slot::Model && guided {
                        let of_copies = guidance.coefficients(&port.latents).iter().enumerate();
                        sum.extend(of_copies.filter(|(_, of_copy)| **of_copy != 0.0).map(|(copy, of_copy)| Term {
                            tensor,
                            from: copy * elements + first,
                            coefficient: (coefficient * of_copy) as f32,
                        }));
                    } else {
                        sum.push(Term { tensor, from: begin + first, coefficient: coefficient as f32 });
                    }
                }
                self.state.combine_from(tensor, begin + first, elements_of_part, &sum, clip)?;
            }
        }
        Ok(())
    }

    /// `out += exp(log_std[0] + log_std[1] v) noise`, v being the variance that the first copy says, -1 where the network says none.
    ///
    /// # Errors
    /// `INTERNAL` for a slot that does not exist.
    pub fn spread(&self, out: Slot, noise: Slot, log_std: [f64; 2]) -> Result<()> {
        for port in &self.drawn.ports {
            let elements = self.shape.batch.images * port.size;
            let ((out, begin), (tensor, from)) = (self.place(out, port)?, self.place(noise, port)?);
            let noise = |coefficient: f64| Term { tensor, from, coefficient: coefficient as f32 };
            match &port.variance {
                Some(variance) if begin == 0 => {
                    self.state.spread(out, variance, elements, &[noise(1.0)], log_std.map(|c| c as f32))?;
                }
                Some(_) => return Err(Error::internal("noise of a learned variance goes to the latents alone")),
                None => {
                    let before = Term { tensor: out, from: begin, coefficient: 1.0 };
                    let sum = [before, noise((log_std[0] - log_std[1]).exp())];
                    self.state.combine_from(out, begin, elements, &sum, None)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the guided output the only one, rescaled; what follows is not guided any more.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn rescale(&self, guidance: &Guidance) -> Result<()> {
        self.combine(self.preview_slot(), &[(Slot::Model, 1.0)], guidance, true, None)?;
        let mixed = self.state.read(self.scratch(self.shape.scratch_slots)?).await?;
        for port in &self.drawn.ports {
            let mut model = self.state.read(&port.model).await?;
            let mixed = &mixed[port.first..port.first + self.shape.batch.images * port.size];
            for (of_image, mixed) in model.chunks_mut(port.size).zip(mixed.chunks(port.size)) {
                let f64s = |values: &[f32]| -> Vec<f64> { values.iter().map(|v| f64::from(*v)).collect() };
                let factor = guidance::rescale_factor(&f64s(of_image), &f64s(mixed), guidance.rescale);
                of_image.iter_mut().zip(mixed).for_each(|(to, from)| *to = (factor * f64::from(*from)) as f32);
            }
            self.state.write(&port.model, &model)?;
        }
        Ok(())
    }

    /// The estimate of x0 of all that is drawn, not clipped, as [`Denoiser::latents`] has it: `x0[0]` latents + `x0[1]` prediction.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn preview(&self, x0: [f64; 2], guidance: &Guidance, guided: bool) -> Result<Vec<f32>> {
        let terms = [(Slot::Latents, x0[0]), (Slot::Model, x0[1])];
        self.combine(self.preview_slot(), &terms, guidance, guided, None)?;
        self.read(self.preview_slot()).await
    }

    /// One evaluation: the prediction of the latents at a network time, of those items that the pass needs.
    ///
    /// # Errors
    /// `ABORTED` when stopped, `DEVICE_LOST`, and those of helpers.
    pub async fn evaluate(
        &mut self,
        time: f64,
        pass: Pass,
        helpers: Option<&dyn Helpers>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<()> {
        let Batch { images, copies, .. } = self.shape.batch;
        let copies = if pass.guided { copies } else { 1 };
        for (i, port) in self.drawn.ports.iter().enumerate() {
            self.session.write_times(port.port.time, &self.times(i, time, self.parts[0].clone()))?;
        }
        match helpers.filter(|_| self.workers() > 1) {
            None => {
                for (i, port) in self.drawn.ports.iter().enumerate().filter(|(_, port)| port.copied) {
                    let elements = images * port.size;
                    for copy in 1..copies {
                        let tensor = self.absent(copy, i).map_or(&port.latents, |absent| &absent.tensor);
                        let values = Term { tensor, from: 0, coefficient: 1.0 };
                        self.state.combine_from(&port.latents, copy * elements, elements, &[values], None)?;
                    }
                }
                self.run(pass.whole, images * copies, stopped).await
            }
            Some(helpers) => {
                let outputs = self.call(Call { time, items: images * copies, helpers, stopped }).await?;
                let written = self.drawn.ports.iter().flat_map(Port::outputs).zip(&outputs);
                written.into_iter().try_for_each(|((_, tensor), values)| self.state.write(tensor, values))
            }
        }
    }

    /// One forward of our first items, without what a pass that is not whole leaves out.
    pub(super) async fn run(&mut self, whole: bool, items: usize, stopped: &dyn Fn() -> bool) -> Result<()> {
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
}

fn too_many_blocks(outer: usize) -> Error {
    let cause = format!("the network has no blocks between {outer} at either end");
    Error::new(Code::InvalidArgument, cause, "Correct the manifest's sampling.cache, or switch cache off")
}
