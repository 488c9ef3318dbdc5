//! What goes into a recorded network and what comes out, by name.

use crate::plan::{Plan, TensorId};
use crate::{Error, Result};

/// What a port's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// Goes in: a picture or latent `[images, channels, height, width]`, which all copies of a guided batch share.
    Latents,
    /// Goes in: floats of each item, such as tokens `[items, tokens, dim]` or a vector `[items, dim]`.
    Floats,
    /// Goes in: the network's time of another port `[items]`.
    Time,
    /// Goes in: `[items]` or `[items, tokens]`, which row of a table each takes.
    Indices {
        /// Rows of the table.
        of: usize,
    },
    /// Comes out: `[items, ..]`.
    Output,
}

impl PortKind {
    /// Whether the caller gives its values.
    pub fn is_input(self) -> bool {
        self != PortKind::Output
    }

    /// What one has to do with it: give `floats`, `times` or `indices`, or take the `output`.
    pub fn as_str(self) -> &'static str {
        match self {
            PortKind::Latents | PortKind::Floats => "floats",
            PortKind::Time => "times",
            PortKind::Indices { .. } => "indices",
            PortKind::Output => "output",
        }
    }
}

/// A named tensor of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// As the published code calls the argument or result.
    pub name: &'static str,
    /// What its values are.
    pub kind: PortKind,
    /// The Plan's tensor.
    pub tensor: TensorId,
}

/// A port that a sampler can draw: what goes in, its time, and the network's answer to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// What is sampled.
    pub input: TensorId,
    /// Its network time.
    pub time: TensorId,
    /// The prediction of it.
    pub output: TensorId,
    /// What the network has learned of the variance of a step, of the prediction's shape: -1 is the lower bound, 1 the upper one.
    pub variance: Option<TensorId>,
}

/// A recorded network with its ports.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// What to compute.
    pub plan: Plan,
    /// What goes in and comes out.
    pub ports: Vec<Port>,
    /// What a sampler can draw; the first is the picture.
    pub sampled: Vec<Sampled>,
}

impl Recording {
    /// The port of that name.
    pub fn port(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|port| port.name == name)
    }

    /// The picture, its time and the prediction, for networks that draw one.
    ///
    /// # Errors
    /// `INTERNAL` if nothing is sampled.
    pub fn picture(&self) -> Result<Sampled> {
        self.sampled.first().copied().ok_or_else(|| Error::internal("the network samples nothing"))
    }

    /// The class labels `[items]`, for class-conditional networks.
    pub fn label(&self) -> Option<TensorId> {
        self.port("y").map(|port| port.tensor)
    }
}
