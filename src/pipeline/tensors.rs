//! Named tensors that go into a network's ports and come out of them.

use crate::model::{Port, PortKind, Recording};
use crate::{Code, Error, Result};

/// Values of one kind of port.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Latents and other floats.
    Floats(Vec<f32>),
    /// Network times.
    Times(Vec<f64>),
    /// Indices.
    Indices(Vec<u32>),
}

impl Values {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Values::Floats(values) => values.len(),
            Values::Times(values) => values.len(),
            Values::Indices(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn all_finite(&self) -> bool {
        match self {
            Values::Floats(values) => values.iter().all(|v| v.is_finite()),
            Values::Times(values) => values.iter().all(|v| v.is_finite()),
            Values::Indices(_) => true,
        }
    }
}

/// A tensor for a port, or from one.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// The port.
    pub name: String,
    /// Its shape; none: the port's own.
    pub shape: Option<Vec<usize>>,
    /// Row-major.
    pub values: Values,
}

impl NamedTensor {
    /// In the port's own shape.
    pub fn new(name: impl Into<String>, values: Values) -> NamedTensor {
        NamedTensor { name: name.into(), shape: None, values }
    }
}

/// The floats of a tensor that must be there.
///
/// # Errors
/// `INTERNAL` if it is not.
pub(super) fn floats<'a>(tensors: &'a [NamedTensor], name: &str) -> Result<&'a Vec<f32>> {
    match tensors.iter().find(|tensor| tensor.name == name).map(|tensor| &tensor.values) {
        Some(Values::Floats(values)) => Ok(values),
        _ => Err(Error::internal(format!("there is no {name}"))),
    }
}

fn refuse(cause: String, recording: &Recording) -> Error {
    let expected = |port: &Port| format!("{} {:?}", port.name, recording.plan.shape(port.tensor));
    let ports: Vec<String> = recording.ports.iter().filter(|port| port.kind.is_input()).map(expected).collect();
    Error::new(Code::InvalidArgument, cause, format!("Give {}", ports.join(", ")))
}

/// How many items tensors are meant for, by the network recorded for one item: what the one for its first port says.
pub(super) fn items_of(one: &Recording, tensors: &[NamedTensor]) -> usize {
    let given = |port: &Port| tensors.iter().find(|tensor| tensor.name == port.name);
    let known = one.ports.iter().find_map(|port| Some((given(port)?, port)));
    known.map_or(1, |(tensor, port)| {
        let own = one.plan.shape(port.tensor).iter().product::<usize>();
        (tensor.values.len() / own.max(1)).max(1)
    })
}

/// Checks that every port gets a tensor that fits, and no other.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the port, and what ports there are.
pub(super) fn check(recording: &Recording, tensors: &[NamedTensor]) -> Result<()> {
    for (i, tensor) in tensors.iter().enumerate() {
        let name = &tensor.name;
        let Some(port) = recording.port(name).filter(|port| port.kind.is_input()) else {
            return Err(refuse(format!("the network takes no tensor \"{name}\""), recording));
        };
        if tensors[..i].iter().any(|other| other.name == *name) {
            return Err(refuse(format!("tensor \"{name}\" is given twice"), recording));
        }
        let shape = recording.plan.shape(port.tensor);
        let len = tensor.values.len();
        if tensor.shape.as_deref().is_some_and(|given| given != shape) || len != shape.iter().product::<usize>() {
            let given = tensor.shape.as_ref().map_or_else(|| format!("has {len} values"), |s| format!("is {s:?}"));
            return Err(refuse(format!("tensor \"{name}\" {given}, and {shape:?} is needed"), recording));
        }
        let fits = match (port.kind, &tensor.values) {
            (PortKind::Latents | PortKind::Floats, Values::Floats(_)) | (PortKind::Time, Values::Times(_)) => true,
            (PortKind::Indices { of }, Values::Indices(indices)) => {
                if let Some(index) = indices.iter().find(|&&index| index as usize >= of) {
                    let cause = format!("{name} {index} is out of range");
                    return Err(Error::new(Code::InvalidArgument, cause, format!("Give numbers from 0 to {}", of - 1)));
                }
                true
            }
            _ => false,
        };
        if !fits {
            return Err(refuse(format!("the values of tensor \"{name}\" are of the wrong type"), recording));
        }
        if !tensor.values.all_finite() {
            return Err(refuse(format!("tensor \"{name}\" holds a value that is NaN or infinite"), recording));
        }
    }
    let missing = |port: &&Port| port.kind.is_input() && !tensors.iter().any(|tensor| tensor.name == port.name);
    match recording.ports.iter().find(missing) {
        Some(port) => Err(refuse(format!("no tensor \"{}\" is given", port.name), recording)),
        None => Ok(()),
    }
}
