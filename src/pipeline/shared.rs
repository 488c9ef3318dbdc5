//! One evaluation on several workers: what a helper is sent, and how the answers become the network's outputs.

use super::denoiser::Denoiser;
use super::helpers::Helpers;
use super::tensors::{NamedTensor, Values};
use crate::plan::TensorId;
use crate::{Error, Result};
use std::ops::Range;

/// An evaluation of the first items.
pub(super) struct Call<'a> {
    pub time: f64,
    pub items: usize,
    pub helpers: &'a dyn Helpers,
    pub stopped: &'a dyn Fn() -> bool,
}

impl Denoiser {
    /// One forward of the first items on all workers: of every port that is drawn its [`outputs`](super::drawn::Port::outputs), zeros for the
    /// other items.
    pub(super) async fn call(&mut self, call: Call<'_>) -> Result<Vec<Vec<f32>>> {
        let Call { time, items, helpers, stopped } = call;
        let name_of = |id| self.recording.ports.iter().find(|port| port.tensor == id).map_or("", |port| port.name);
        let all = self.items();
        let latents = self.latents().await?;
        let of_image = self.drawn.of_image();
        let needed = |part: &Range<usize>| part.start.min(items)..part.end.min(items);
        let parts: Vec<Range<usize>> = self.parts.iter().map(needed).filter(|items| !items.is_empty()).collect();
        // The latents of some items, port by port.
        let inputs = |items: &Range<usize>| -> Vec<Vec<f32>> {
            let mut begin = 0;
            let mut inputs = Vec::with_capacity(self.drawn.ports.len());
            for (p, port) in self.drawn.ports.iter().enumerate() {
                let images = latents.len() / of_image;
                let item = |i: usize| match self.absent(i / images, p) {
                    Some(absent) => &absent.values[i % images * port.size..][..port.size],
                    None => &latents[i % images * of_image + begin..][..port.size],
                };
                inputs.push(items.clone().flat_map(item).copied().collect());
                begin += port.size;
            }
            inputs
        };
        // Tensor and elements of an item.
        let mut outputs: Vec<(TensorId, usize)> = Vec::with_capacity(self.drawn.ports.len());
        for port in &self.drawn.ports {
            outputs.extend(port.outputs().map(|(id, _)| (id, port.size)));
        }
        let names: Vec<&'static str> = outputs.iter().map(|(id, _)| name_of(*id)).collect();
        let mut pending = Vec::with_capacity(parts.len() - 1);
        for (index, items) in parts[1..].iter().enumerate() {
            let mut tensors: Vec<NamedTensor> = self.given.iter().map(|tensor| rows(tensor, items, all)).collect();
            for (p, (port, values)) in self.drawn.ports.iter().zip(inputs(items)).enumerate() {
                tensors.push(NamedTensor::new(name_of(port.port.input), Values::Floats(values)));
                let time_port = name_of(port.port.time);
                // Several ports may have one time.
                if !tensors.iter().any(|tensor| tensor.name == time_port) {
                    tensors.push(NamedTensor::new(time_port, Values::Times(self.times(p, time, items.clone()))));
                }
            }
            pending.push(helpers.forward(index, tensors, names.clone()));
        }
        for (port, values) in self.drawn.ports.iter().zip(inputs(&self.parts[0])) {
            self.session.write(port.port.input, &values)?;
        }
        self.run(true, parts[0].len(), stopped).await?;
        let mut results = Vec::with_capacity(outputs.len());
        for (id, size) in &outputs {
            let mut values = self.session.read(*id).await?;
            values.truncate(parts[0].len() * size);
            results.push(values);
        }
        for (answer, items) in pending.into_iter().zip(&parts[1..]) {
            for ((result, values), (_, size)) in results.iter_mut().zip(answer.await?).zip(&outputs) {
                if values.len() != items.len() * size {
                    return Err(Error::internal(format!("a helper gave {} values for {items:?}", values.len())));
                }
                result.extend(values);
            }
        }
        for (result, (_, size)) in results.iter_mut().zip(&outputs) {
            result.resize(all * size, 0.0);
        }
        Ok(results)
    }
}

/// The rows of some of all items.
pub(super) fn rows(tensor: &NamedTensor, items: &Range<usize>, all: usize) -> NamedTensor {
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
