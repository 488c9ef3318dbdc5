//! A shard as it lies in memory, in the safetensors format: the length of a header, the header in JSON, the data. Read by
//! hand: the crate's way through serde's derived code is 20 kB more for a page to load.

use crate::json::{self, Fields, Value};

/// The longest header that is read: many times what a shard of our own needs.
const MAX_HEADER_BYTES: usize = 4 << 20;

/// What a header may hold beside tensors; nobody reads it.
const METADATA: &str = "__metadata__";

/// Dtypes and their bytes. Those that no model is stored in are told from nonsense.
#[rustfmt::skip]
const DTYPES: [(&str, usize); 13] = [
    ("F32", 4), ("F16", 2), ("I8", 1), ("U8", 1),
    ("BOOL", 1), ("I16", 2), ("U16", 2), ("BF16", 2), ("I32", 4), ("U32", 4), ("F64", 8), ("I64", 8), ("U64", 8),
];

/// The tensors of a shard, or parts of them, sorted by name.
pub struct Shard<'a>(Vec<(String, Stored<'a>)>);

/// What lies in a shard under one name.
pub struct Stored<'a> {
    /// By the format's name.
    pub dtype: &'static str,
    /// Its axes.
    pub shape: Vec<usize>,
    /// Its bytes.
    pub data: &'a [u8],
}

impl<'a> Shard<'a> {
    /// Reads the header. Every byte of the data then belongs to one tensor, which has as many as its shape takes.
    ///
    /// # Errors
    /// What is wrong.
    pub fn read(bytes: &'a [u8]) -> json::Result<Shard<'a>> {
        let (length, rest) = bytes.split_first_chunk().ok_or_else(|| format!("{} bytes are too few", bytes.len()))?;
        let length = u64::from_le_bytes(*length);
        let at = usize::try_from(length).ok().filter(|&at| at <= rest.len().min(MAX_HEADER_BYTES));
        let at = at.ok_or_else(|| {
            format!("a header of {length} bytes, there are {} and at most {MAX_HEADER_BYTES} are read", rest.len())
        })?;
        let (header, data) = rest.split_at(at);
        let header = std::str::from_utf8(header).map_err(|e| format!("the header is no text ({e})"))?;
        let header = json::parse(header).map_err(|e| format!("the header is no JSON ({e})"))?;
        let fields = Fields::of(&header).map_err(|what| format!("the header {what}"))?;
        let (mut tensors, mut ranges) = (Vec::new(), Vec::new());
        for (name, value) in fields.all().filter(|(name, _)| *name != METADATA) {
            let (stored, range) = Stored::read(value, data).map_err(|what| format!("tensor {name}: {what}"))?;
            tensors.push((name.clone(), stored));
            ranges.push((range, name));
        }
        ranges.sort_unstable();
        let mut next = 0;
        for ([begin, end], name) in ranges {
            if begin != next {
                let what = if begin < next { "overlaps with another that ends" } else { "leaves a gap" };
                return Err(format!("tensor {name}: its data from byte {begin} {what} at byte {next}"));
            }
            next = end;
        }
        match next == data.len() {
            true => Ok(Shard(tensors)),
            false => Err(format!("its tensors end at byte {next} of {} bytes of data", data.len())),
        }
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// What lies under a name.
    pub fn get(&self, name: &str) -> Option<&Stored<'a>> {
        let at = self.0.binary_search_by(|(other, _)| other.as_str().cmp(name)).ok()?;
        Some(&self.0[at].1)
    }
}

impl<'a> Stored<'a> {
    fn read(value: &Value, data: &'a [u8]) -> json::Result<(Stored<'a>, [usize; 2])> {
        let fields = Fields::of(value)?;
        let name: String = fields.required("dtype")?;
        let dtype = DTYPES.into_iter().find(|(known, _)| *known == name);
        let (dtype, size) = dtype.ok_or_else(|| format!("there is no dtype \"{name}\""))?;
        let shape: Vec<usize> = fields.required("shape")?;
        let range @ [begin, end]: [usize; 2] = fields.required("data_offsets")?;
        let bytes = shape.iter().try_fold(size, |bytes, &axis| bytes.checked_mul(axis));
        if bytes.is_none() || bytes != end.checked_sub(begin) {
            return Err(format!("{dtype} {shape:?} does not take the bytes {range:?}"));
        }
        let data = data.get(begin..end).ok_or_else(|| format!("bytes {range:?} of {}", data.len()))?;
        Ok((Stored { dtype, shape, data }, range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::json;

    fn shard(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend((0..data).map(|i| i as u8));
        bytes
    }

    fn sound() -> Value {
        json!({
            "__metadata__": { "by": "hand" },
            "b": { "dtype": "U8", "shape": [4], "data_offsets": [0, 4] },
            "a": { "dtype": "F16", "shape": [2, 3], "data_offsets": [4, 16] },
            "none": { "dtype": "F32", "shape": [0, 7], "data_offsets": [4, 4] },
            "one": { "dtype": "F64", "shape": [], "data_offsets": [16, 24] },
        })
    }

    #[test]
    fn tensors_are_found_by_name() {
        // Padded with spaces, as the format allows.
        let bytes = shard(&format!("{}   ", sound()), 24);
        let shard = Shard::read(&bytes).unwrap();
        assert_eq!(shard.names().collect::<Vec<_>>(), ["a", "b", "none", "one"]);
        let a = shard.get("a").unwrap();
        assert_eq!((a.dtype, a.shape.as_slice(), a.data), ("F16", &[2, 3][..], &bytes[bytes.len() - 20..][..12]));
        assert_eq!(shard.get("b").unwrap().data, [0, 1, 2, 3]);
        assert!(shard.get("none").unwrap().data.is_empty() && shard.get(METADATA).is_none());
        assert!(Shard::read(&self::shard("{}", 0)).unwrap().names().next().is_none());
    }

    #[test]
    fn what_the_crate_writes_is_read_alike() {
        let data: Vec<u8> = (0..24).collect();
        let view = |dtype, shape: &[usize], data| safetensors::tensor::TensorView::new(dtype, shape.to_vec(), data);
        let views = [
            ("z", view(safetensors::Dtype::F32, &[2, 2], &data[..16]).unwrap()),
            ("y", view(safetensors::Dtype::I8, &[8], &data[16..]).unwrap()),
        ];
        let bytes = safetensors::serialize(views, None).unwrap();
        let shard = Shard::read(&bytes).unwrap();
        let z = shard.get("z").unwrap();
        assert_eq!((z.dtype, z.shape.as_slice(), z.data), ("F32", &[2, 2][..], &data[..16]));
        assert_eq!(shard.get("y").unwrap().data, &data[16..]);
    }

    #[test]
    fn broken_headers_are_refused() {
        let wrong = [
            ("/b/dtype", json!("U3"), "tensor b: there is no dtype \"U3\""),
            ("/b/dtype", json!(8), "tensor b: dtype: 8 is no text"),
            ("/b/shape", json!([5]), "tensor b: U8 [5] does not take the bytes [0, 4]"),
            ("/b/shape", json!([usize::MAX, usize::MAX]), "does not take"),
            ("/b/shape", json!([-4]), "tensor b: shape: [0]: -4 is no whole number"),
            ("/b/shape", json!(null), "tensor b: shape is missing"),
            ("/b/data_offsets", json!([4, 0]), "does not take"),
            ("/b/data_offsets", json!([0]), "data_offsets: 1 values, 2 are needed"),
            ("/b/data_offsets", json!([0, 1e300]), "no whole number"),
            ("/b/data_offsets", json!([1, 5]), "tensor b: its data from byte 1 leaves a gap at byte 0"),
            (
                "/a/data_offsets",
                json!([2, 14]),
                "tensor a: its data from byte 2 overlaps with another that ends at byte 4",
            ),
            ("/a/data_offsets", json!([14, 26]), "tensor a: bytes [14, 26] of 24"),
            ("/one", json!({ "dtype": "U8", "shape": [7], "data_offsets": [16, 23] }), "end at byte 23 of 24"),
            ("/one", json!([]), "tensor one: [] is no object"),
        ];
        for (pointer, value, what) in wrong {
            let mut header = sound();
            *header.pointer_mut(pointer).unwrap() = value;
            let found = Shard::read(&shard(&header.to_string(), 24)).err().unwrap();
            assert!(found.contains(what), "{pointer}: {found}");
        }
    }

    #[test]
    fn bytes_that_are_no_shard_are_refused() {
        let mut long = shard("{}", 0);
        long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        let mut short = shard("{}", 0);
        short.pop();
        let endless = shard(&format!("{{}}{}", " ".repeat(MAX_HEADER_BYTES)), 0);
        let mut no_text = shard("{}", 0);
        no_text[8] = 0xff;
        let wrong: [(&[u8], &str); 9] = [
            (&[], "0 bytes are too few"),
            (&[2, 0, 0, 0, 0, 0, 0], "7 bytes are too few"),
            (&long, "a header of 18446744073709551615 bytes, there are 2"),
            (&short, "a header of 2 bytes, there are 1"),
            (&endless, "at most 4194304 are read"),
            (&no_text, "the header is no text"),
            (&shard("<html>", 0), "the header is no JSON"),
            (&shard("[]", 0), "the header [] is no object"),
            (&shard("{}", 1), "end at byte 0 of 1 bytes"),
        ];
        for (bytes, what) in wrong {
            let found = Shard::read(bytes).err().unwrap();
            assert!(found.contains(what), "{found}");
        }
    }
}
