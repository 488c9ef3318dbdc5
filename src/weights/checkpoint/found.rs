//! A network's weights in a file: which of its tensors they are, under whichever library's names, and what of these.

use super::choice::{self, Weights};
use super::made::Made;
use super::names::{Part, Spelling, middle};
use super::{File, Listed, Place, Shapes, Source, bad, finite, spellings};
use crate::model::{Batch, Network};
use crate::plan::joined;
use crate::{Code, Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What a network's tensor takes of a file's.
#[derive(Clone, Copy)]
enum Cut {
    Whole,
    /// One of several equal parts, one below the other.
    Rows {
        at: usize,
        of: usize,
    },
    /// Of a square table of positions: its side, and the side that is taken.
    Middle([usize; 2]),
}

/// Of a tensor that a file keeps apart there are several, one below the other.
struct Piece {
    /// Position in the file.
    tensor: usize,
    cut: Cut,
}

/// A network's weights in a file: found, of the right shapes and dtypes, and not yet read.
pub struct Found {
    file: File,
    /// By the network's names.
    pieces: BTreeMap<String, Vec<Piece>>,
    /// What the file leaves out.
    made: BTreeMap<String, Vec<f32>>,
    /// What was taken and what else there was; none if the file holds these weights alone under their own names.
    pub report: Option<String>,
}

impl Cut {
    fn of(self, values: Vec<f32>) -> Vec<f32> {
        match self {
            Cut::Whole => values,
            Cut::Rows { at, of } => {
                let part = values.len() / of;
                values[at * part..(at + 1) * part].to_vec()
            }
            Cut::Middle([side, within]) => {
                let (dim, before) = (values.len() / (side * side), (side - within) / 2);
                let row = |y: usize| ((before + y) * side + before) * dim;
                (0..within).flat_map(|y| &values[row(y)..row(y) + within * dim]).copied().collect()
            }
        }
    }
}

impl Source for Found {
    fn values(&mut self, name: &str) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for name in joined(name) {
            if let Some(made) = self.made.get(&name) {
                all.extend_from_slice(made);
                continue;
            }
            let pieces = self.pieces.get(&name);
            let pieces = pieces.ok_or_else(|| Error::internal(format!("tensor {name} is none of the network's")))?;
            for piece in pieces {
                let values = self.file.values(piece.tensor)?;
                finite(&name, &values)?;
                let values = piece.cut.of(values);
                // Most are one tensor, which may be large.
                all = if all.is_empty() { values } else { [all, values].concat() };
            }
        }
        Ok(all)
    }
}

/// A network's tensor in a spelling.
struct Spelled {
    name: String,
    shape: Vec<usize>,
    /// None if it is made.
    parts: Vec<Part>,
    made: Option<Made>,
}

/// All of a network's tensors.
fn spelled(spelling: &Spelling, sources: &[(String, Vec<usize>)]) -> Vec<Spelled> {
    let of = |(name, shape): &(String, Vec<usize>)| {
        let made = spelling.made.iter().find(|(own, _)| own == name).map(|(_, made)| *made);
        let parts = if made.is_some() { Vec::new() } else { joined(&spelling.spell(name)) };
        let parts = parts.iter().map(|said| Part::read(said)).collect();
        Spelled { name: name.clone(), shape: shape.clone(), parts, made }
    };
    sources.iter().map(of).collect()
}

/// The tensors that a file of that spelling holds, in the network's order.
fn expected(tensors: &[Spelled]) -> Vec<(&str, Vec<usize>)> {
    let (mut all, mut known) = (Vec::new(), BTreeSet::new());
    for tensor in tensors {
        for part in &tensor.parts {
            let mut shape = tensor.shape.clone();
            shape[0] = shape[0] / tensor.parts.len() * part.of;
            if known.insert(part.name.as_str()) {
                all.push((part.name.as_str(), shape));
            }
        }
    }
    all
}

fn sources(network: &Network) -> Result<Vec<(String, Vec<usize>)>> {
    let plan = network.record(Batch::plain(1))?.plan;
    Ok(plan.published().flat_map(|weight| weight.sources()).collect())
}

/// Whether tensors are those of a network, all of them and no others, under whichever library's names.
///
/// # Errors
/// `UNSUPPORTED_MODEL`.
pub fn is_whole(set: &Shapes, network: &Network) -> Result<bool> {
    let sources = sources(network)?;
    Ok(spellings::of(network).iter().any(|spelling| {
        let tensors = spelled(spelling, &sources);
        let expected = expected(&tensors);
        let there =
            |(name, shape): &(&str, Vec<usize>)| set.get(*name).is_some_and(|set| spelling.fits(name, set, shape));
        // What is repeated is one of the network's own in block 0.
        let others = set.keys().filter(|name| spelling.is_beside(name) && !spelling.is_repeated(name)).count();
        expected.iter().all(there) && expected.len() + others == set.len()
    }))
}

/// Finds a network's weights in a file and checks all but the values, which are checked as they are read. The file is one of
/// this network alone.
///
/// # Errors
/// `IO`, `BAD_CHECKPOINT`, `TENSOR_MISSING`, `TENSOR_UNEXPECTED`, `TENSOR_SHAPE`; `INVALID_ARGUMENT` if the file has no such
/// `weights`; `UNSUPPORTED_MODEL` if blocks differ where the network has one tensor for all.
pub fn find(path: &Path, network: &Network, weights: &Weights) -> Result<Found> {
    find_in(path, network, weights, true)
}

/// As [`find`], in a file that may hold other networks beside: half of an autoencoder, the text encoder of a CLIP model.
/// Tensors are strangers only where the network's own are, as `decoder.up.9` is among `decoder.up.0` to `3`.
///
/// # Errors
/// Those of [`find`].
pub fn find_part(path: &Path, network: &Network, weights: &Weights) -> Result<Found> {
    find_in(path, network, weights, false)
}

fn find_in(path: &Path, network: &Network, weights: &Weights, alone: bool) -> Result<Found> {
    let mut file = File::open(path)?;
    let sources = sources(network)?;
    let (spelling, tensors) = spell(&file, network, &sources, weights);
    let parts = expected(&tensors);
    let expected: Vec<(&str, &[usize])> = parts.iter().map(|(name, shape)| (*name, shape.as_slice())).collect();
    let (found, mut report) = choice::choose(&file, &expected, weights, alone, &spelling)?;
    check_repeated(&mut file, &spelling, &found)?;
    let (mut pieces, mut made) = (BTreeMap::new(), BTreeMap::new());
    for Spelled { name, shape, parts, made: of } in &tensors {
        if let Some(of) = of {
            let values = of.values(shape);
            let cause = format!("tensor {name} {shape:?} is not there, and cannot be made");
            made.insert(name.clone(), values.ok_or_else(|| Error::new(Code::TensorMissing, cause, super::GIVE))?);
            let said = format!("{name} is not there, and {}", of.as_str());
            report = Some(report.map_or(said.clone(), |report| format!("{report}; {said}")));
            continue;
        }
        let piece = |part: &Part| {
            let tensor = *found.get(&part.name)?;
            let cut = match middle(&file.tensors[tensor].shape, shape) {
                Some([side, within]) if side != within => Cut::Middle([side, within]),
                _ if part.of == 1 => Cut::Whole,
                _ => Cut::Rows { at: part.at, of: part.of },
            };
            Some(Piece { tensor, cut })
        };
        pieces.insert(name.clone(), parts.iter().filter_map(piece).collect::<Vec<Piece>>());
    }
    let mut taken: Vec<(&Place, &str)> = Vec::new();
    for &i in found.values() {
        if !file.tensors[i].dtype.is_float() {
            return Err(file.no_float(i));
        }
        file.check(i)?;
    }
    for (name, &i) in &found {
        let place = &file.tensors[i].place;
        if let Some((_, other)) = taken.iter().find(|(other, _)| other.overlaps(place)) {
            let cause = format!("tensors {other} and {name} lie in one storage");
            return Err(bad(
                path,
                cause,
                "Save clones of the tensors: {name: t.clone() for name, t in state_dict.items()}",
            ));
        }
        taken.push((place, name.as_str()));
    }
    Ok(Found { file, pieces, made, report })
}

/// What every block has must be the same in all of them.
fn check_repeated(file: &mut File, spelling: &Spelling, found: &BTreeMap<String, usize>) -> Result<()> {
    for (name, &first) in found.iter().filter(|(name, _)| spelling.is_repeated(name)) {
        let mut values = None;
        for block in 1.. {
            let listed = &file.tensors[first];
            let before = listed.name.strip_suffix(name.as_str()).unwrap_or_default();
            let other = format!("{before}{}", name.replacen(".0.", &format!(".{block}."), 1));
            let same = |tensor: &Listed| tensor.dict == listed.dict && tensor.name == other;
            let Some(i) = file.tensors.iter().position(same) else { break };
            let values: &Vec<f32> = match &values {
                Some(values) => values,
                None => values.insert(file.values(first)?),
            };
            if file.values(i)? != *values {
                let cause = format!("tensor {other} is not that of block 0, and the network has one for all blocks");
                let remedy = "Give weights whose blocks embed time and class alike, as the published ones do";
                return Err(Error::new(Code::UnsupportedModel, cause, remedy));
            }
        }
    }
    Ok(())
}

/// The names that a network's tensors have in a file, several of one tensor where the file keeps its parts apart: of its spellings
/// the one that finds the most.
fn spell(
    file: &File,
    network: &Network,
    sources: &[(String, Vec<usize>)],
    weights: &Weights,
) -> (Spelling, Vec<Spelled>) {
    // Another network of the file may have what this one leaves out.
    let meant = |tensor: &Listed| match weights {
        Weights::Key(key) => format!(".{}", tensor.full_name()).contains(&format!(".{key}.")),
        _ => true,
    };
    let there = |part: &Part| {
        let is = |tensor: &Listed| {
            let before = tensor.name.strip_suffix(part.name.as_str());
            before.is_some_and(|before| before.is_empty() || before.ends_with('.')) && meant(tensor)
        };
        file.tensors.iter().any(is)
    };
    let mut best: Option<(usize, Spelling, Vec<Spelled>)> = None;
    for spelling in spellings::of(network) {
        let tensors = spelled(&spelling, sources);
        // A tensor counts once, in however many parts it lies.
        let found = tensors.iter().filter(|tensor| tensor.parts.iter().all(there)).count();
        // The first of those that find as many, which is the network's own.
        if best.as_ref().is_none_or(|(most, ..)| found > *most) {
            best = Some((found, spelling, tensors));
        }
    }
    best.map_or_else(Default::default, |(_, spelling, tensors)| (spelling, tensors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_the_middle_of_a_table_are_cut_out() {
        let values: Vec<f32> = (0..32u8).map(f32::from).collect();
        assert_eq!(Cut::Rows { at: 1, of: 4 }.of(values.clone()), (8..16u8).map(f32::from).collect::<Vec<f32>>());
        // A table of 4 x 4 places of two channels: rows and columns 1 and 2.
        let middle = Cut::Middle([4, 2]).of(values.clone());
        assert_eq!(middle, [10.0, 11.0, 12.0, 13.0, 18.0, 19.0, 20.0, 21.0]);
        assert_eq!(Cut::Whole.of(values.clone()), values);
    }
}
