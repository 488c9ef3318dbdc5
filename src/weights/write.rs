//! Tensors to shards: which rows go into which, and their bytes. Whoever calls puts them somewhere.

use super::stored::{Dtype, Entry, Part, StoredFile, Variant};
use super::{Data, Tensor};
use crate::named::Named;
use crate::{Error, Result};
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;

/// Bytes of a shard's header for each tensor beside its name (dtype, shape, offsets), and for the whole: rounded up.
const HEADER_BYTES: usize = 160;

/// Some rows of one tensor, as bytes for a shard: name, dtype, shape, bytes.
type Piece = Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)>;

/// Hands every shard's number, from 1, and bytes to `save`, which says what it is called. No shard exceeds `shard_bytes`
/// unless one row does.
///
/// # Errors
/// Those of `save`.
pub fn write_shards(
    (dtype, group): (Dtype, usize),
    tensors: &[Tensor],
    shard_bytes: usize,
    mut save: impl FnMut(usize, &[u8]) -> Result<StoredFile>,
) -> Result<Variant> {
    let mut variant = Variant { dtype, group, bytes: 0, shards: Vec::new(), tensors: Named::default() };
    let mut shard: Piece = Vec::new();
    let mut filled = HEADER_BYTES;
    for tensor in tensors {
        let rows = tensor.rows();
        let row_bytes = tensor.bytes().div_ceil(rows);
        let header = 2 * (HEADER_BYTES + tensor.name.len());
        let room = shard_bytes.saturating_sub(HEADER_BYTES + header);
        let rows_a_part = (room / row_bytes.max(1)).clamp(1, rows);
        let parts_count = rows.div_ceil(rows_a_part);
        let mut parts = Vec::new();
        for i in 0..parts_count {
            let range = [i * rows_a_part, ((i + 1) * rows_a_part).min(rows)];
            let bytes = header + (range[1] - range[0]) * row_bytes;
            if !shard.is_empty() && filled + bytes > shard_bytes {
                flush(&mut variant, std::mem::take(&mut shard), &mut save)?;
                filled = HEADER_BYTES;
            }
            let stored = if parts_count == 1 { tensor.name.clone() } else { format!("{}#{i}", tensor.name) };
            shard.extend(piece(tensor, stored, range));
            filled += bytes;
            parts.push(Part { shard: variant.shards.len(), rows: range });
        }
        let (dtype, group) = match &tensor.data {
            Data::F32(_) => (Dtype::F32, 0),
            Data::F16(_) => (Dtype::F16, 0),
            Data::Q8 { group, .. } => (Dtype::Q8, *group),
            Data::Q4 { group, .. } => (Dtype::Q4, *group),
        };
        variant.tensors.insert(&tensor.name, Entry { shape: tensor.shape.clone(), dtype, group, parts });
    }
    flush(&mut variant, shard, &mut save)?;
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

fn flush(variant: &mut Variant, shard: Piece, save: &mut impl FnMut(usize, &[u8]) -> Result<StoredFile>) -> Result<()> {
    let broken = |e: safetensors::SafeTensorError| Error::internal(format!("a shard could not be written: {e}"));
    let mut views = BTreeMap::new();
    for (name, dtype, shape, bytes) in &shard {
        views.insert(name.clone(), TensorView::new(*dtype, shape.clone(), bytes).map_err(broken)?);
    }
    let bytes = safetensors::serialize(views, None).map_err(broken)?;
    let stored = save(variant.shards.len() + 1, &bytes)?;
    variant.bytes += stored.bytes;
    variant.shards.push(stored);
    Ok(())
}
