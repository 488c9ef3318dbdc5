//! Tensors to shards: which rows go into which, and their bytes. Whoever calls puts them somewhere.

use super::stored::{Dtype, Entry, Part, StoredFile, Variant};
use super::{Data, Tensor};
use crate::named::Named;
use crate::{Error, Result};
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;

/// Bytes of a shard's header for each tensor beside its name (dtype, shape, offsets), and for the whole: rounded up.
const HEADER_BYTES: usize = 160;

/// Makes a file's bytes, if they are needed.
pub type Make<'a> = &'a mut dyn FnMut() -> Result<Vec<u8>>;

/// Some rows of one tensor, as bytes for a shard: name, dtype, shape, bytes.
type Piece = Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)>;

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
    (dtype, group): (Dtype, usize),
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
            let mut shard: Piece = Vec::new();
            for slice in slices {
                let of = match held.take() {
                    Some((at, of)) if at == slice.tensor => of,
                    _ => tensor(slice.tensor)?,
                };
                shard.extend(piece(&of, slice.name.clone(), slice.rows));
                if slice.rows[1] < of.rows() {
                    held = Some((slice.tensor, of));
                }
            }
            serialize(shard)
        };
        let stored = save(number, &mut make)?;
        variant.bytes += stored.bytes;
        variant.shards.push(stored);
    }
    Ok(variant)
}

/// Rows `first..end` of a tensor and its scales.
fn piece(tensor: &Tensor, name: String, [first, end]: [usize; 2]) -> Piece {
    use safetensors::Dtype::{F16, F32, I8, U8};
    let columns = tensor.columns();
    let mut shape = tensor.shape.clone();
    shape[0] = end - first;
    let rows = |a: usize| first * a..end * a;
    let scale = format!("{name}.scale");
    match &tensor.data {
        Data::F32(v) => vec![(name, F32, shape, v[rows(columns)].iter().flat_map(|v| v.to_le_bytes()).collect())],
        Data::F16(v) => vec![(name, F16, shape, v[rows(columns)].iter().flat_map(|v| v.to_le_bytes()).collect())],
        Data::Q8 { values, scales, group } => {
            let groups = if *group == 0 { 1 } else { columns.div_ceil(*group) };
            let scales = scales[rows(groups)].iter().flat_map(|v| v.to_le_bytes()).collect();
            vec![
                (name, I8, shape, values[rows(columns)].iter().map(|&v| v as u8).collect()),
                (scale, F32, vec![end - first, groups], scales),
            ]
        }
        Data::Q4 { values, scales, group } => {
            let (groups, row_bytes) = (columns.div_ceil(*group), columns.div_ceil(2));
            let scales = scales[rows(groups)].iter().flat_map(|v| v.to_le_bytes()).collect();
            vec![
                (name, U8, vec![end - first, row_bytes], values[rows(row_bytes)].to_vec()),
                (scale, F16, vec![end - first, groups], scales),
            ]
        }
    }
}

fn serialize(shard: Piece) -> Result<Vec<u8>> {
    let broken = |e: safetensors::SafeTensorError| Error::internal(format!("a shard could not be written: {e}"));
    let mut views = BTreeMap::new();
    for (name, dtype, shape, bytes) in &shard {
        views.insert(name.clone(), TensorView::new(*dtype, shape.clone(), bytes).map_err(broken)?);
    }
    safetensors::serialize(views, None).map_err(broken)
}
