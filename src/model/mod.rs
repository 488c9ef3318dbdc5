//! Networks: configuration, tensor names, and the Plan that each records. One file a network; nothing here knows
//! devices, stored dtypes or time.

pub mod uvit;

use crate::plan::{Plan, TensorId};
use crate::{Code, Error, Result};
use serde_json::{Value, json};

/// How many items one forward holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Batch {
    /// Images that are being sampled.
    pub images: usize,
    /// Network items an image: 2 with guidance (conditional items first, then unconditional ones), else 1.
    pub copies: usize,
}

impl Batch {
    /// `images` items, no guidance.
    pub fn plain(images: usize) -> Batch {
        Batch { images, copies: 1 }
    }

    /// Items of the network.
    pub fn items(self) -> usize {
        self.images * self.copies
    }
}

/// A recorded network with its inputs and output.
#[derive(Clone, Debug)]
pub struct Recording {
    /// What to compute.
    pub plan: Plan,
    /// `[images, channels, height, width]`: x_t.
    pub latents: TensorId,
    /// `[items]`: network times.
    pub time: TensorId,
    /// `[items]`: class labels, for class-conditional networks.
    pub label: Option<TensorId>,
    /// `[items, channels, height, width]`: the prediction.
    pub out: TensorId,
}

/// A network that this build can run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Network {
    /// U-ViT, unconditional or class-conditional.
    Uvit(uvit::Config),
}

/// The networks by name, and what makes one of its parameters.
type Make = fn(Value) -> serde_json::Result<Network>;
const REGISTRY: [(&str, Make); 1] = [("uvit", |params| serde_json::from_value(params).map(Network::Uvit))];

impl Network {
    /// The network of that name with its constructor's arguments; fields that it does not know are ignored.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` naming the networks that there are, `INVALID_ARGUMENT` for a parameter that is missing or of
    /// another type.
    pub fn of(architecture: &str, params: &Value) -> Result<Network> {
        let Some((_, make)) = REGISTRY.iter().find(|(name, _)| *name == architecture) else {
            let known = REGISTRY.map(|(name, _)| name).join(", ");
            return Err(Error::new(
                Code::UnsupportedModel,
                format!("the architecture is {architecture:?}, this build knows {known}"),
                "Use a version of uvit-web that knows this architecture",
            ));
        };
        make(params.clone()).map_err(|e| {
            let cause = format!("the parameters of {architecture}: {e}");
            Error::new(Code::InvalidArgument, cause, "Give the published constructor's arguments under their names")
        })
    }

    /// Its name.
    pub fn architecture(&self) -> &'static str {
        match self {
            Network::Uvit(_) => "uvit",
        }
    }

    /// Its constructor's arguments.
    pub fn params(&self) -> Value {
        match self {
            Network::Uvit(config) => json!(config),
        }
    }

    /// Records the network for a batch.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` for a configuration that contradicts itself.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        match self {
            Network::Uvit(config) => config.record(batch),
        }
    }

    /// `[channels, height, width]` of one image or latent.
    pub fn image_shape(&self) -> [usize; 3] {
        match self {
            Network::Uvit(c) => [c.in_chans, c.img_size, c.img_size],
        }
    }

    /// Tokens of one item.
    pub fn tokens(&self) -> usize {
        match self {
            Network::Uvit(c) => c.tokens(),
        }
    }

    /// What a step leaves out that runs only `outer` blocks at either end: the kernels from the one after the first tensor
    /// to the one that writes the second, by their names. None if there are no blocks between.
    pub fn inner_blocks(&self, outer: usize) -> Option<[String; 2]> {
        match self {
            Network::Uvit(c) => c.inner_blocks(outer),
        }
    }

    /// Number of class labels, the null class included; 0 for unconditional networks.
    pub fn classes(&self) -> usize {
        match self {
            Network::Uvit(c) => c.num_classes.max(0) as usize,
        }
    }
}
