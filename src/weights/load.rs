//! Reads shards, whoever brings the bytes: verifies each by its hash, parses it, joins tensors that were split, and says
//! what is missing. At no time is more than one shard and one tensor of it in memory, beside tensors whose other parts lie in
//! shards to come.

use super::shard::Shard;
use super::stored::{Dtype, Entry, StoredFile, Variant};
use super::{Data, Tensor};
use crate::plan::Weight;
use crate::{Code, Error, Result};
use half::f16;

/// A shard that was verified.
pub struct OpenShard<'a> {
    index: usize,
    file: Shard<'a>,
    /// Name and part of what was not taken yet.
    parts: std::vec::IntoIter<(String, usize)>,
}

/// Reads the shards of one variant.
pub struct ShardReader {
    variant: Variant,
    /// Parts of tensors that are not complete, by name and part.
    waiting: Vec<(String, Vec<Option<Data>>)>,
    seen: Vec<bool>,
}

impl ShardReader {
    /// Checks that the variant holds the network's tensors, all of them, no others, in their shapes.
    ///
    /// # Errors
    /// `TENSOR_MISSING`, `TENSOR_UNEXPECTED`, `TENSOR_SHAPE`.
    pub fn new<'a>(variant: Variant, weights: impl Iterator<Item = &'a Weight>) -> Result<ShardReader> {
        let expected = weights.map(|w| (w.name.as_str(), w.shape.as_slice()));
        let found = variant.tensors.iter().map(|(name, entry)| (name, entry.shape.as_slice()));
        check_names(expected, found)?;
        let seen = vec![false; variant.shards.len()];
        Ok(ShardReader { variant, waiting: Vec::new(), seen })
    }

    /// The files to bring, in order.
    pub fn shards(&self) -> &[StoredFile] {
        &self.variant.shards
    }

    /// The variant that is read.
    pub fn variant(&self) -> &Variant {
        &self.variant
    }

    /// Verifies the bytes of shard `index`; [`ShardReader::next_tensor`] takes its tensors from it.
    ///
    /// # Errors
    /// `SHARD_CORRUPT` if length or hash differ, `TENSOR_UNEXPECTED`.
    pub fn open<'a>(&self, index: usize, bytes: &'a [u8]) -> Result<OpenShard<'a>> {
        let shard = self.variant.shards.get(index).ok_or_else(|| Error::internal(format!("no shard {index}")))?;
        shard.verify(bytes)?;
        let file = Shard::read(bytes).map_err(|what| corrupt(shard, &what))?;
        let mut strangers: Vec<&str> = file.names().collect();
        let mut parts = Vec::new();
        for (name, entry) in self.variant.tensors.iter() {
            for (i, _) in entry.parts.iter().enumerate().filter(|(_, part)| part.shard == index) {
                let stored = entry.stored_name(name, i);
                let scale = format!("{stored}.scale");
                strangers.retain(|name| *name != stored && *name != scale);
                parts.push((name.to_owned(), i));
            }
        }
        if let Some(stranger) = strangers.first() {
            return Err(Error::new(
                Code::TensorUnexpected,
                format!("shard {}: the manifest does not list tensor {stranger}", shard.file),
                "Convert the model again with `uvit convert`",
            ));
        }
        Ok(OpenShard { index, file, parts: parts.into_iter() })
    }

    /// The next tensor that is complete with a shard; none once all were taken. One by one, so that there is never a
    /// second copy of a shard.
    ///
    /// # Errors
    /// `TENSOR_MISSING`, `TENSOR_SHAPE`, `NOT_FINITE`, `SHARD_CORRUPT`.
    pub fn next_tensor(&mut self, open: &mut OpenShard<'_>) -> Result<Option<Tensor>> {
        for (name, i) in open.parts.by_ref() {
            let entry = self.variant.tensors.get(&name).ok_or_else(|| Error::internal("a tensor of another model"))?;
            let rows = entry.parts[i].rows[1] - entry.parts[i].rows[0];
            let data = read_part(&open.file, &entry.stored_name(&name, i), entry, rows)?;
            let at = self.waiting.iter().position(|(other, _)| *other == name).unwrap_or_else(|| {
                self.waiting.push((name.clone(), vec![None; entry.parts.len()]));
                self.waiting.len() - 1
            });
            self.waiting[at].1[i] = Some(data);
            if !self.waiting[at].1.iter().all(Option::is_some) {
                continue;
            }
            let (_, parts) = self.waiting.swap_remove(at);
            let data =
                parts.into_iter().flatten().reduce(join).ok_or_else(|| Error::internal("a tensor without parts"))?;
            let tensor = Tensor { name, shape: entry.shape.clone(), data };
            if matches!(&tensor.data, Data::Q8 { values, .. } if values.contains(&i8::MIN)) {
                let what = format!("tensor {} holds -128, which q8 does not use", tensor.name);
                return Err(corrupt(&self.variant.shards[open.index], &what));
            }
            if let Some(i) = tensor.first_not_finite() {
                return Err(Error::new(
                    Code::NotFinite,
                    format!("tensor {}: value {i} is NaN or infinite", tensor.name),
                    "Convert the model again from a sound checkpoint",
                ));
            }
            return Ok(Some(tensor));
        }
        self.seen[open.index] = true;
        Ok(None)
    }

    /// Checks that nothing is missing.
    ///
    /// # Errors
    /// `TENSOR_MISSING` naming a shard that was not brought.
    pub fn finish(&self) -> Result<()> {
        match self.seen.iter().position(|seen| !seen) {
            None => Ok(()),
            Some(i) => Err(Error::new(
                Code::TensorMissing,
                format!("shard {} was not loaded", self.variant.shards[i].file),
                "Load every shard of the manifest",
            )),
        }
    }
}

/// Compares the tensors of a network with those that were found, by name and shape.
///
/// # Errors
/// `TENSOR_MISSING`, `TENSOR_UNEXPECTED`, `TENSOR_SHAPE`.
pub(super) fn check_names<'a>(
    expected: impl Iterator<Item = (&'a str, &'a [usize])>,
    found: impl Iterator<Item = (&'a str, &'a [usize])>,
) -> Result<()> {
    const REMEDY: &str = "Check that the architecture's parameters are those of the weights";
    let mut found: Vec<(&str, &[usize])> = found.collect();
    found.sort_unstable();
    let mut taken = vec![false; found.len()];
    for (name, shape) in expected {
        let Ok(at) = found.binary_search_by(|(other, _)| (*other).cmp(name)) else {
            return Err(Error::new(Code::TensorMissing, format!("tensor {name} {shape:?} is missing"), REMEDY));
        };
        if found[at].1 != shape {
            let cause = format!("tensor {name} is {:?}, the network needs {shape:?}", found[at].1);
            return Err(Error::new(Code::TensorShape, cause, REMEDY));
        }
        taken[at] = true;
    }
    match taken.iter().position(|taken| !taken).map(|at| found[at]) {
        None => Ok(()),
        Some((name, shape)) => {
            Err(Error::new(Code::TensorUnexpected, format!("tensor {name} {shape:?} is none of the network's"), REMEDY))
        }
    }
}

fn corrupt(shard: &StoredFile, what: &str) -> Error {
    Error::new(
        Code::ShardCorrupt,
        format!("shard {}: {what}", shard.file),
        "Convert the model again with `uvit convert`",
    )
}

/// `rows` rows of a tensor under the name `stored` in a shard.
fn read_part(file: &Shard<'_>, stored: &str, entry: &Entry, rows: usize) -> Result<Data> {
    let columns = entry.shape[1..].iter().product::<usize>();
    let read = |name: &str, dtype: &str, shape: &[usize]| {
        let stored = file.get(name).ok_or_else(|| {
            Error::new(
                Code::TensorMissing,
                format!("tensor {name} is not in its shard"),
                "Convert the model again with `uvit convert`",
            )
        })?;
        if stored.dtype != dtype || stored.shape != shape {
            return Err(Error::new(
                Code::TensorShape,
                format!(
                    "tensor {name} is {} {:?} in the shard, expected {dtype} {shape:?}",
                    stored.dtype, stored.shape
                ),
                "Convert the model again with `uvit convert`",
            ));
        }
        Ok(stored.data)
    };
    let mut shape = entry.shape.clone();
    shape[0] = rows;
    let scale = format!("{stored}.scale");
    let groups = if entry.group == 0 { 1 } else { columns.div_ceil(entry.group) };
    Ok(match entry.dtype {
        Dtype::F32 => Data::F32(f32s(read(stored, "F32", &shape)?)),
        Dtype::F16 => Data::F16(f16s(read(stored, "F16", &shape)?)),
        Dtype::Q8 => Data::Q8 {
            values: read(stored, "I8", &shape)?.iter().map(|&b| b as i8).collect(),
            scales: f32s(read(&scale, "F32", &[rows, groups])?),
            group: entry.group,
        },
        Dtype::Q4 => Data::Q4 {
            values: read(stored, "U8", &[rows, columns.div_ceil(2)])?.to_vec(),
            scales: f16s(read(&scale, "F16", &[rows, groups])?),
            group: entry.group,
        },
    })
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn f16s(bytes: &[u8]) -> Vec<f16> {
    bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b)).collect()
}

/// Rows of `a`, then rows of `b`; both came from one entry, so their dtypes agree.
fn join(a: Data, b: Data) -> Data {
    fn chain<T>(mut a: Vec<T>, b: Vec<T>) -> Vec<T> {
        a.extend(b);
        a
    }
    match (a, b) {
        (Data::F32(a), Data::F32(b)) => Data::F32(chain(a, b)),
        (Data::F16(a), Data::F16(b)) => Data::F16(chain(a, b)),
        (Data::Q8 { values, scales, group }, Data::Q8 { values: v, scales: s, .. }) => {
            Data::Q8 { values: chain(values, v), scales: chain(scales, s), group }
        }
        (Data::Q4 { values, scales, group }, Data::Q4 { values: v, scales: s, .. }) => {
            Data::Q4 { values: chain(values, v), scales: chain(scales, s), group }
        }
        (a, _) => a,
    }
}
