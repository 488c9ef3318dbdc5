//! Tensors to shards: which rows go into which, and their bytes. Whoever calls puts them somewhere.

use super::stored::{self, Entry, Part, StoredFile, Variant};
use super::{Data, Tensor};
use crate::named::Named;
use crate::{Error, Result};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of a shard's header for each tensor beside its name (dtype, shape, offsets), and for the whole: rounded up.
const HEADER_BYTES: usize = 160;

/// Makes a file's bytes, if they are needed.
pub type Make<'a> = &'a mut dyn FnMut() -> Result<Vec<u8>>;

/// Some rows of one tensor, under the name that they have in a shard.
struct Slice {
    tensor: usize,
    name: String,
    rows: [usize; 2],
}

/// Which rows lie in which shard. No shard exceeds `shard_bytes` unless one row does.
fn lay_out(forms: &[(String, Entry)], shard_bytes: usize) -> (Vec<Vec<Slice>>, Named<Entry>) {
    let mut shards: Vec<Vec<Slice>> = vec![Vec::new()];
    let mut entries = Named::default();
    let mut filled = HEADER_BYTES;
    for (tensor, (name, form)) in forms.iter().enumerate() {
        let rows = form.shape.first().copied().unwrap_or(1);
        let row_bytes = form.row_bytes() as usize;
        let header = 2 * (HEADER_BYTES + name.len());
        let room = shard_bytes.saturating_sub(HEADER_BYTES + header);
        let rows_a_part = (room / row_bytes.max(1)).clamp(1, rows);
        let parts_count = rows.div_ceil(rows_a_part);
        let mut parts = Vec::new();
        for i in 0..parts_count {
            let range = [i * rows_a_part, ((i + 1) * rows_a_part).min(rows)];
            let bytes = header + (range[1] - range[0]) * row_bytes;
            let empty = shards.last().is_none_or(Vec::is_empty);
            if !empty && filled + bytes > shard_bytes {
                shards.push(Vec::new());
                filled = HEADER_BYTES;
            }
            let stored = if parts_count == 1 { name.clone() } else { format!("{name}#{i}") };
            filled += bytes;
            parts.push(Part { shard: shards.len() - 1, rows: range });
            if let Some(shard) = shards.last_mut() {
                shard.push(Slice { tensor, name: stored, rows: range });
            }
        }
        entries.insert(name, Entry { parts, ..form.clone() });
    }
    (shards, entries)
}

/// Hands every shard's number, from 1, to `save`, with what makes its bytes, and is told what it is called. `forms` says how
/// tensors are stored, but for their parts; `tensor` gives them by their position there, and is asked for none whose shards
/// were saved without their bytes. One tensor and one shard are in memory at a time.
///
/// # Errors
/// Those of `save` and `tensor`.
pub fn write_shards(
    (dtype, group): (stored::Dtype, usize),
    forms: &[(String, Entry)],
    shard_bytes: usize,
    tensor: &mut dyn FnMut(usize) -> Result<Tensor>,
    save: &mut dyn FnMut(usize, Make<'_>) -> Result<StoredFile>,
) -> Result<Variant> {
    let (shards, tensors) = lay_out(forms, shard_bytes);
    let mut variant = Variant { dtype, group, bytes: 0, shards: Vec::new(), tensors };
    // A tensor of which more rows are to come.
    let mut held: Option<(usize, Tensor)> = None;
    for (number, slices) in (1..).zip(&shards) {
        let mut make = || {
            let listed = slices.iter().flat_map(|slice| listed(&forms[slice.tensor].1, slice)).collect();
            let mut shard = Shard::of(listed)?;
            for slice in slices {
                let of = match held.take() {
                    Some((at, of)) if at == slice.tensor => of,
                    _ => tensor(slice.tensor)?,
                };
                for (name, bytes) in pieces(&of, &slice.name, slice.rows) {
                    shard.put(&name, bytes)?;
                }
                if slice.rows[1] < of.rows() {
                    held = Some((slice.tensor, of));
                }
            }
            Ok(shard.bytes)
        };
        let stored = save(number, &mut make)?;
        variant.bytes += stored.bytes;
        variant.shards.push(stored);
    }
    Ok(variant)
}

/// A shard that fills up, in memory once.
struct Shard {
    places: BTreeMap<String, Range<usize>>,
    bytes: Vec<u8>,
}

impl Shard {
    /// With room for these tensors: in the order that the format's own library gives them, which aligns them.
    fn of(mut listed: Vec<(String, Dtype, Vec<usize>)>) -> Result<Shard> {
        listed.sort_by(|(a, of_a, _), (b, of_b, _)| of_b.cmp(of_a).then(a.cmp(b)));
        let broken = |e: &dyn std::fmt::Display| Error::internal(format!("a shard could not be written: {e}"));
        let mut end = 0;
        let infos = listed.into_iter().map(|(name, dtype, shape)| {
            let begin = end;
            end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
            (name, TensorInfo { dtype, shape, data_offsets: (begin, end) })
        });
        let infos: Vec<(String, TensorInfo)> = infos.collect();
        let metadata = Metadata::new(None, infos.clone()).map_err(|e| broken(&e))?;
        let mut header = serde_json::to_vec(&metadata).map_err(|e| broken(&e))?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut bytes = Vec::with_capacity(8 + header.len() + end);
        bytes.extend((header.len() as u64).to_le_bytes());
        bytes.extend(header);
        let first = bytes.len();
        bytes.resize(first + end, 0);
        let place = |info: &TensorInfo| first + info.data_offsets.0..first + info.data_offsets.1;
        let places = infos.iter().map(|(name, info)| (name.clone(), place(info))).collect();
        Ok(Shard { places, bytes })
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let place = self.places.get(name).filter(|place| place.len() == bytes.len());
        let place = place.ok_or_else(|| Error::internal(format!("{name} is not as it was announced")))?;
        self.bytes[place.clone()].copy_from_slice(bytes);
        Ok(())
    }
}

/// What a shard lists for some rows of a tensor: names, dtypes, shapes.
fn listed(form: &Entry, slice: &Slice) -> Vec<(String, Dtype, Vec<usize>)> {
    let rows = slice.rows[1] - slice.rows[0];
    let columns = form.shape.iter().skip(1).product::<usize>();
    let groups = if form.group == 0 { 1 } else { columns.div_ceil(form.group) };
    let mut shape = form.shape.clone();
    shape[0] = rows;
    let (name, scale) = (slice.name.clone(), format!("{}.scale", slice.name));
    match form.dtype {
        stored::Dtype::F32 => vec![(name, Dtype::F32, shape)],
        stored::Dtype::F16 => vec![(name, Dtype::F16, shape)],
        stored::Dtype::Q8 => vec![(name, Dtype::I8, shape), (scale, Dtype::F32, vec![rows, groups])],
        stored::Dtype::Q4 => {
            vec![(name, Dtype::U8, vec![rows, columns.div_ceil(2)]), (scale, Dtype::F16, vec![rows, groups])]
        }
    }
}

/// The bytes of rows `first..end` of a tensor, and of their scales.
fn pieces<'a>(tensor: &'a Tensor, name: &str, [first, end]: [usize; 2]) -> Vec<(String, &'a [u8])> {
    let columns = tensor.columns();
    let rows = |a: usize| first * a..end * a;
    let (name, scale) = (name.to_owned(), format!("{name}.scale"));
    match &tensor.data {
        Data::F32(v) => vec![(name, bytes_of(&v[rows(columns)]))],
        Data::F16(v) => vec![(name, bytes_of(&v[rows(columns)]))],
        Data::Q8 { values, scales, group } => {
            let groups = if *group == 0 { 1 } else { columns.div_ceil(*group) };
            vec![(name, bytes_of(&values[rows(columns)])), (scale, bytes_of(&scales[rows(groups)]))]
        }
        Data::Q4 { values, scales, group } => {
            let (groups, row_bytes) = (columns.div_ceil(*group), columns.div_ceil(2));
            vec![(name, bytes_of(&values[rows(row_bytes)])), (scale, bytes_of(&scales[rows(groups)]))]
        }
    }
}

/// As they lie in memory, little-endian as a shard is.
fn bytes_of<T: bytemuck::Pod>(values: &[T]) -> &[u8] {
    const { assert!(cfg!(target_endian = "little"), "shards are little-endian") };
    bytemuck::cast_slice(values)
}
