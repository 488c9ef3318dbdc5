//! One network of a model on a device: its weights, and Sessions of the batch that is asked for.

use super::captions::Generation;
use super::fitting::fitting;
use super::sampling::finite;
use super::tensors::{self, NamedTensor, Values};
use crate::model::{Batch, Network, PortKind, Recording};
use crate::plan::{Kind, Program, WeightId, lower};
use crate::runtime::{self, Session, State, Weights};
use crate::weights::{Dtype, Variant};
use crate::{Code, Error, Result};

/// The most items of a forward.
const MAX_ITEMS: usize = 128;

/// A network with its weights on a device.
pub struct Component {
    network: Network,
    weights: Weights,
    stored: Vec<(Dtype, usize)>,
    /// Kinds of kernels that have passed their test on the device.
    tested: Vec<Vec<Kind>>,
    tiled: Option<usize>,
    forward: Option<(Batch, Recording, Session)>,
    /// Of a caption decoder: what writes captions.
    pub(super) generation: Option<Generation>,
}

/// How a network's weights are stored: dtype and columns a scale, by weight.
pub fn stored_forms(network: &Network, variant: &Variant) -> Result<Vec<(Dtype, usize)>> {
    let plan = network.record(Batch::plain(1))?.plan;
    let form = |name: &String| variant.tensors.get(name).map_or((Dtype::F32, 0), |entry| (entry.dtype, entry.group));
    Ok(plan.weights.iter().map(|weight| form(&weight.name)).collect())
}

impl Component {
    /// A network whose weights are loaded, in these stored stored; kinds of kernels that were tested on the device before.
    pub fn new(network: Network, weights: Weights, stored: Vec<(Dtype, usize)>, tested: Vec<Vec<Kind>>) -> Component {
        Component { network, weights, stored, tested, tiled: None, forward: None, generation: None }
    }

    /// The same, with a limit to the images that it keeps: [`Batch::tiled`].
    #[must_use]
    pub fn tiled(self, tiled: Option<usize>) -> Component {
        Component { tiled, ..self }
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Its weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Makes a Session of a Program of this network, once every kind of its kernels is known to compute rightly.
    ///
    /// # Errors
    /// As [`Session::new`], and `WRONG_RESULT`.
    pub async fn session(&mut self, program: Program, state: Option<&State>) -> Result<Session> {
        let (device, compute) = (self.weights.device(), self.weights.compute());
        let stored = |id: WeightId| self.stored[id.index()];
        let kinds = runtime::kinds(&program, &stored).kinds;
        if !self.tested.contains(&kinds) {
            runtime::self_test(&device, compute, &program, &stored).await?;
            self.tested.push(kinds);
        }
        Session::new(&self.weights, program, state).await
    }

    /// Makes plain forwards of so many items ready.
    ///
    /// # Errors
    /// As [`Component::session`].
    pub async fn prepare(&mut self, batch: Batch) -> Result<(&Recording, &mut Session)> {
        if !self.forward.as_ref().is_some_and(|(made, ..)| *made == batch) {
            self.forward = None;
            let (recording, program) = fitting(&self.network, batch, &self.weights.capabilities())?;
            let session = self.session(program, None).await?;
            self.forward = Some((batch, recording, session));
        }
        match &mut self.forward {
            Some((_, recording, session)) => Ok((recording, session)),
            None => Err(Error::internal("nothing is prepared")),
        }
    }

    /// Frees what forwards have made ready.
    pub fn release(&mut self) {
        (self.forward, self.generation) = (None, None);
    }

    /// One forward: a tensor for every port that takes one; gives those that come out.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for tensors that do not fit, `NOT_FINITE` if a result is not finite, `ABORTED`, `DEVICE_LOST`,
    /// `OUT_OF_MEMORY`.
    pub async fn forward(&mut self, given: &[NamedTensor], stopped: &dyn Fn() -> bool) -> Result<Vec<NamedTensor>> {
        let one = self.network.record(Batch::plain(1))?;
        // Pictures of another size than the network's own, where it takes them.
        let size = given.iter().find_map(|tensor| match tensor.shape.as_deref() {
            Some(&[_, _, height, width]) => Some([height, width]),
            _ => None,
        });
        let own = self.network.image_shape();
        let size = size.filter(|size| size[..] != own[1..]);
        let items = match size {
            Some(_) => given.iter().find_map(|tensor| tensor.shape.as_ref()?.first().copied()).unwrap_or(1),
            None => tensors::items_of(&one, given),
        };
        if !(1..=MAX_ITEMS).contains(&items) {
            let cause = format!("the tensors hold {items} items");
            return Err(Error::new(Code::InvalidArgument, cause, format!("Give 1 to {MAX_ITEMS} items")));
        }
        let batch = Batch { size, tiled: self.tiled, ..Batch::plain(items) };
        tensors::check(&self.network.record(batch)?, given)?;
        let (recording, session) = self.prepare(batch).await?;
        write(recording, session, given)?;
        session.forward(stopped).await?;
        let mut results = Vec::new();
        for port in recording.ports.iter().filter(|port| port.kind == PortKind::Output) {
            let values = session.read(port.tensor).await?;
            finite(&values, "Check the tensors that went in")?;
            let shape = Some(recording.plan.shape(port.tensor).to_vec());
            results.push(NamedTensor { name: port.name.into(), shape, values: Values::Floats(values) });
        }
        Ok(results)
    }
}

impl Component {
    /// One forward of so many items, in which the tensors of these names can be read in the end, whatever lies between the ports.
    ///
    /// # Errors
    /// As [`Component::forward`]; `INTERNAL` if there is no tensor of a name.
    pub async fn trace(&mut self, items: usize, given: &[NamedTensor], names: &[&str]) -> Result<Vec<Vec<f32>>> {
        let recording = self.network.record(Batch::plain(items))?;
        tensors::check(&recording, given)?;
        let program = lower(&recording.plan, &self.weights.capabilities(), names)?;
        let mut session = self.session(program, None).await?;
        write(&recording, &mut session, given)?;
        session.forward(&|| false).await?;
        let mut values = Vec::with_capacity(names.len());
        for name in names {
            values.push(session.read(session.find(name)?).await?);
        }
        Ok(values)
    }
}

/// Writes tensors that were checked.
pub(super) fn write(recording: &Recording, session: &mut Session, tensors: &[NamedTensor]) -> Result<()> {
    for NamedTensor { name, values, .. } in tensors {
        let port = recording.port(name).ok_or_else(|| Error::internal(format!("there is no port {name}")))?;
        match values {
            Values::Floats(values) => session.write(port.tensor, values)?,
            Values::Times(times) => session.write_times(port.tensor, times)?,
            Values::Indices(indices) => session.write_indices(port.tensor, indices)?,
        }
    }
    Ok(())
}
