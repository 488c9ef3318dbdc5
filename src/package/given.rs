//! What a conversion is given beside the weights, checked before the hours of work that it may start.

use super::manifest::{DENOISER, Manifest};
use crate::{Code, Error, Result};
use std::collections::BTreeMap;

fn invalid(cause: String, remedy: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, cause, remedy)
}

/// Labels, the null class and the settings of sampling, against each other and the network.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the file and what is wrong in it.
pub(super) fn check(manifest: &Manifest) -> Result<()> {
    let classes = manifest.network(DENOISER)?.classes();
    let range = match classes {
        0 => "Leave it out: the network has no classes (num_classes)".to_owned(),
        _ => format!("Give numbers from 0 to {}, or check num_classes in the configuration", classes - 1),
    };
    if let Some(label) = manifest.labels.iter().find(|label| label.index as usize >= classes) {
        let cause =
            format!("the labels: {:?} has index {}, the network has {classes} classes", label.name, label.index);
        return Err(invalid(cause, range));
    }
    if let Some(null) = manifest.null_class.filter(|&null| null as usize >= classes) {
        return Err(invalid(
            format!("the configuration: null_class is {null}, the network has {classes} classes"),
            range,
        ));
    }
    let mut by_name: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    let mut by_index: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for label in &manifest.labels {
        by_name.entry(&label.name).or_default().push(label.index);
        by_index.entry(label.index).or_default().push(&label.name);
    }
    if let Some((index, names)) = by_index.iter().find(|(_, names)| names.len() > 1) {
        return Err(invalid(format!("the labels: index {index} has several names, {names:?}"), "Keep one of them"));
    }
    let twice: Vec<(&str, Vec<u32>)> = by_name.into_iter().filter(|(_, indices)| indices.len() > 1).collect();
    if let Some((name, indices)) = twice.first() {
        let list = |indices: &[u32]| indices.iter().map(u32::to_string).collect::<Vec<_>>().join(" and ");
        let all: Vec<String> =
            twice.iter().take(5).map(|(name, indices)| format!("{} are both called {name:?}", list(indices))).collect();
        // ImageNet's bird (134) and machine (517), the first that everybody meets.
        let better = match (*name, indices.as_slice()) {
            ("crane", [134, 517]) => ["crane (bird)".to_owned(), "crane (machine)".to_owned()],
            _ => [format!("{name} ({})", indices[0]), format!("{name} ({})", indices[1])],
        };
        let remedy = format!("Names are unique: change them in the list, say to {:?} and {:?}", better[0], better[1]);
        return Err(invalid(format!("the labels: {}", all.join(", ")), remedy));
    }
    manifest.sampling.check().map_err(|what| invalid(format!("the configuration: {what}"), "See docs/format.md"))
}
