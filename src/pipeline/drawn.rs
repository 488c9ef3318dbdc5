//! What a step loop draws: one or several ports of the network, and how their values lie. On the device port after port, `[images,
//! ..]` each; on the host image after image, the ports of one after the other, as generators draw them.

use super::noise::Noise;
use super::tensors::{NamedTensor, Values};
use crate::model::{Recording, Sampled};
use crate::plan::{Plan, TensorId};
use crate::{Error, Result};
use std::ops::Range;

/// A port that is drawn.
pub(super) struct Port {
    pub port: Sampled,
    /// The names of the State's tensors: what goes in, of which the first copy's are the latents, and what comes out.
    pub latents: String,
    pub model: String,
    /// That of the variance, if the network has learned one.
    pub variance: Option<String>,
    /// Elements of an image.
    pub size: usize,
    /// Of an image.
    pub shape: Vec<usize>,
    /// Of the output: pictures in an image (frames, where each has its channels), and channels of one.
    pub pictures: usize,
    /// See `pictures`.
    pub channels: usize,
    /// Where it begins in tensors that hold all ports.
    pub first: usize,
    /// Whether the State holds an input for every copy; else copies share one.
    pub copied: bool,
}

/// The ports that are drawn.
pub(super) struct Drawn {
    pub ports: Vec<Port>,
    images: usize,
    /// Elements of an image, of every port that the network can draw.
    sizes: Vec<usize>,
    /// Which of them are drawn.
    range: Range<usize>,
}

fn of_image(plan: &Plan, id: TensorId) -> usize {
    plan.shape(id)[1..].iter().product()
}

impl Port {
    /// What the network says of it: the prediction, then the variance if there is one.
    pub fn outputs(&self) -> impl Iterator<Item = (TensorId, &String)> {
        let variance = self.port.variance.into_iter().zip(&self.variance);
        [(self.port.output, &self.model)].into_iter().chain(variance)
    }
}

impl Drawn {
    /// Some of the ports that a recorded network can draw, for so many images. `alone`: the network reads the State's tensors;
    /// `channels_first`: of clips, as [`Sample`](crate::model::Sample) has it.
    pub fn new(
        recording: &Recording,
        range: Range<usize>,
        images: usize,
        alone: bool,
        channels_first: bool,
    ) -> Result<Drawn> {
        let plan = &recording.plan;
        let sizes: Vec<usize> = recording.sampled.iter().map(|port| of_image(plan, port.input)).collect();
        let sampled = recording.sampled.get(range.clone()).unwrap_or_default();
        let (mut ports, mut first) = (Vec::with_capacity(sampled.len()), 0);
        for &port in sampled {
            let name = |id: TensorId| plan.tensors[id.index()].name.clone();
            let (latents, model, variance) = (name(port.input), name(port.output), port.variance.map(name));
            let size = of_image(plan, port.input);
            let (pictures, channels) = match *plan.shape(port.output) {
                [_, frames, channels, _, _] if !channels_first => (frames, channels),
                ref shape => (1, shape[1]),
            };
            let copied = alone && plan.shape(port.input)[0] != images;
            let shape = plan.shape(port.input)[1..].to_vec();
            ports.push(Port { port, latents, model, variance, size, shape, pictures, channels, first, copied });
            first += images * size;
        }
        match ports.is_empty() {
            true => Err(Error::internal("the network samples nothing")),
            false => Ok(Drawn { ports, images, sizes, range }),
        }
    }

    /// Elements of one image.
    pub fn of_image(&self) -> usize {
        self.sizes[self.range.clone()].iter().sum()
    }

    /// Elements of one image of the first port.
    pub fn of_picture(&self) -> usize {
        self.sizes[self.range.start]
    }

    /// Noise for all of it.
    pub fn noise(&self, noise: &mut Noise) -> Vec<f32> {
        noise.draw(self.images, &self.sizes[self.range.clone()])
    }

    /// The same for the start: what the network could draw is drawn, used or not, as UniDiffuser's code does.
    pub fn start(&self, noise: &mut Noise) -> Vec<f32> {
        let all = noise.draw(self.images, &self.sizes);
        let (every, before) = (self.sizes.iter().sum(), self.sizes[..self.range.start].iter().sum::<usize>());
        let mut values = Vec::with_capacity(self.images * self.of_image());
        for image in all.chunks(every) {
            values.extend(&image[before..before + self.of_image()]);
        }
        values
    }

    /// From image after image to port after port.
    pub fn to_ports(&self, values: &[f32]) -> Vec<f32> {
        self.reordered(values, |of_image, of_port| (of_image, of_port))
    }

    /// The other way round.
    pub fn to_images(&self, values: &[f32]) -> Vec<f32> {
        self.reordered(values, |of_image, of_port| (of_port, of_image))
    }

    /// Where a port's values lie in those of an image.
    pub fn within(&self, name: &str) -> Option<Range<usize>> {
        let before: usize = self.ports.iter().take_while(|port| port.latents != name).map(|port| port.size).sum();
        self.ports.iter().find(|port| port.latents == name).map(|port| before..before + port.size)
    }

    /// Values of all images as a tensor for each port.
    pub fn named(&self, values: &[f32]) -> Vec<NamedTensor> {
        let values = self.to_ports(values);
        let of_port = |port: &Port| NamedTensor {
            name: port.latents.clone(),
            shape: Some([&[self.images], port.shape.as_slice()].concat()),
            values: Values::Floats(values[port.first..port.first + self.images * port.size].to_vec()),
        };
        self.ports.iter().map(of_port).collect()
    }

    fn reordered(&self, values: &[f32], way: fn(usize, usize) -> (usize, usize)) -> Vec<f32> {
        let mut reordered = vec![0.0; values.len()];
        let mut within = 0;
        for port in &self.ports {
            for k in 0..self.images {
                let (from, to) = way(k * self.of_image() + within, port.first + k * port.size);
                reordered[to..to + port.size].copy_from_slice(&values[from..from + port.size]);
            }
            within += port.size;
        }
        reordered
    }
}
