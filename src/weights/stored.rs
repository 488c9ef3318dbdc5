//! What a manifest says of files and tensors: which shards there are, and which rows of which tensor lie where.

use crate::json::{self, Fields, Value};
use crate::named::Named;
use crate::{Code, Error, Result};
use sha2::{Digest, Sha256};

/// The longest shard or asset, in bytes.
pub const MAX_FILE_BYTES: u64 = 32 << 20;

/// Stored dtypes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// int8 with scales.
    Q8,
    /// int4 with scales.
    Q4,
}

impl Dtype {
    /// All of them.
    pub const ALL: [Dtype; 4] = [Dtype::F32, Dtype::F16, Dtype::Q8, Dtype::Q4];

    /// The name in manifests, options and file names.
    pub fn as_str(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Q8 => "q8",
            Dtype::Q4 => "q4",
        }
    }
}

impl std::str::FromStr for Dtype {
    type Err = Error;

    fn from_str(name: &str) -> Result<Dtype> {
        let found = Dtype::ALL.into_iter().find(|d| d.as_str() == name);
        found.ok_or_else(|| Error::unknown("dtype", name, "Give one of f32, f16, q8, q4"))
    }
}

impl json::Read for Dtype {
    fn read(value: &Value) -> json::Result<Dtype> {
        json::named(value)
    }
}

impl json::Write for Dtype {
    fn write(&self) -> Value {
        self.as_str().into()
    }
}

/// A file beside the manifest: a shard, or an asset.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredFile {
    /// A plain file name.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

impl json::Read for StoredFile {
    fn read(value: &Value) -> json::Result<StoredFile> {
        let fields = Fields::of(value)?;
        Ok(StoredFile {
            file: fields.required("file")?,
            bytes: fields.required("bytes")?,
            sha256: fields.required("sha256")?,
        })
    }
}

impl json::Write for StoredFile {
    fn write(&self) -> Value {
        json::object([
            ("file", self.file.as_str().into()),
            ("bytes", self.bytes.into()),
            ("sha256", self.sha256.as_str().into()),
        ])
    }
}

impl StoredFile {
    /// Checks that these are the bytes that the manifest means.
    ///
    /// # Errors
    /// `SHARD_CORRUPT` if length or hash differ.
    pub fn verify(&self, bytes: &[u8]) -> Result<()> {
        let StoredFile { file, bytes: length, sha256: hash } = self;
        let found = (bytes.len() as u64 == *length).then(|| sha256(bytes));
        let cause = match &found {
            None => format!("{file} has {} bytes, the manifest says {length}", bytes.len()),
            Some(found) if found.eq_ignore_ascii_case(hash) => return Ok(()),
            Some(found) => format!("{file} has SHA-256 {found}, the manifest says {hash}"),
        };
        let remedy = "Reload the page without the cache, or copy the model's files again";
        Err(Error::new(Code::ShardCorrupt, cause, remedy))
    }

    /// What is wrong with name, length or hash.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        let StoredFile { file, bytes, sha256 } = self;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if file.is_empty() || file.len() > 255 || file.starts_with('.') || !file.chars().all(plain) {
            return Err(format!("\"{file}\" is no plain file name"));
        }
        if *bytes > MAX_FILE_BYTES {
            return Err(format!("{file} has {bytes} bytes, at most {MAX_FILE_BYTES} are allowed"));
        }
        if sha256.len() != 64 || !sha256.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(format!("the SHA-256 of {file} is no hexadecimal number of 64 digits"));
        }
        Ok(())
    }
}

/// SHA-256 in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// One stored form of all tensors of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// The dtype of its matrices.
    pub dtype: Dtype,
    /// Columns a scale of its matrices; 0: the whole row.
    pub group: usize,
    /// Sum of the shards' bytes.
    pub bytes: u64,
    /// The files, in the safetensors format.
    pub shards: Vec<StoredFile>,
    /// All tensors of the network by name.
    pub tensors: Named<Entry>,
}

impl json::Read for Variant {
    fn read(value: &Value) -> json::Result<Variant> {
        let fields = Fields::of(value)?;
        Ok(Variant {
            dtype: fields.required("dtype")?,
            group: fields.or("group", 0)?,
            bytes: fields.required("bytes")?,
            shards: fields.required("shards")?,
            tensors: fields.required("tensors")?,
        })
    }
}

impl json::Write for Variant {
    fn write(&self) -> Value {
        json::object([
            ("dtype", self.dtype.write()),
            ("group", self.group.into()),
            ("bytes", self.bytes.into()),
            ("shards", self.shards.write()),
            ("tensors", self.tensors.write()),
        ])
    }
}

impl Variant {
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        self.shards.iter().try_for_each(StoredFile::check)?;
        let sum: u64 = self.shards.iter().map(|shard| shard.bytes).sum();
        if sum != self.bytes {
            return Err(format!("its shards have {sum} bytes in all, it says {}", self.bytes));
        }
        let mut stored = 0u64;
        for (name, entry) in self.tensors.iter() {
            entry.check(self.shards.len()).map_err(|what| format!("tensor {name}: {what}"))?;
            stored = stored.saturating_add(entry.bytes());
        }
        // So that no few lines of JSON make anybody allocate for a network that is nowhere.
        if stored > sum {
            return Err(format!("its tensors take {stored} bytes, its shards have {sum}"));
        }
        Ok(())
    }
}

/// How a tensor is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The published shape.
    pub shape: Vec<usize>,
    /// Stored dtype.
    pub dtype: Dtype,
    /// q8 and q4: columns a scale; 0: the whole row.
    pub group: usize,
    /// Where its rows lie, in order and without gaps. In a shard, part i of a tensor in several parts is named `name#i`.
    pub parts: Vec<Part>,
}

/// Some rows of a tensor in one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Position in [`Variant::shards`].
    pub shard: usize,
    /// First row and one past the last.
    pub rows: [usize; 2],
}

impl json::Read for Part {
    fn read(value: &Value) -> json::Result<Part> {
        let fields = Fields::of(value)?;
        Ok(Part { shard: fields.required("shard")?, rows: fields.required("rows")? })
    }
}

impl json::Write for Part {
    fn write(&self) -> Value {
        json::object([("shard", self.shard.into()), ("rows", self.rows.into())])
    }
}

impl json::Read for Entry {
    fn read(value: &Value) -> json::Result<Entry> {
        let fields = Fields::of(value)?;
        Ok(Entry {
            shape: fields.required("shape")?,
            dtype: fields.required("dtype")?,
            group: fields.or("group", 0)?,
            parts: fields.required("parts")?,
        })
    }
}

impl json::Write for Entry {
    fn write(&self) -> Value {
        let written = json::object([
            ("shape", self.shape.as_slice().into()),
            ("dtype", self.dtype.write()),
            ("parts", self.parts.write()),
        ]);
        match self.group {
            0 => written,
            group => json::with(written, json::object([("group", group.into())])),
        }
    }
}

impl Entry {
    /// What part `i` of the tensor is called in its shard.
    pub fn stored_name(&self, name: &str, i: usize) -> String {
        if self.parts.len() == 1 { name.into() } else { format!("{name}#{i}") }
    }

    /// Bytes of one row as stored, its scales included.
    pub fn row_bytes(&self) -> u64 {
        let columns = self.shape.iter().skip(1).map(|&d| d as u64).product::<u64>();
        let groups = if self.group == 0 { 1 } else { columns.div_ceil(self.group as u64) };
        match self.dtype {
            Dtype::F32 => 4 * columns,
            Dtype::F16 => 2 * columns,
            Dtype::Q8 => columns + 4 * groups,
            Dtype::Q4 => columns.div_ceil(2) + 2 * groups,
        }
    }

    /// Bytes as stored, scales included.
    pub fn bytes(&self) -> u64 {
        self.row_bytes() * self.shape.first().map_or(1, |&rows| rows as u64)
    }

    fn check(&self, shards: usize) -> std::result::Result<(), String> {
        let elements = self.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        if self.shape.is_empty() || elements.is_none_or(|n| n == 0 || n > 1 << 30) {
            return Err(format!("the shape {:?} is empty or too large", self.shape));
        }
        let matrix = matches!(self.dtype, Dtype::Q8 | Dtype::Q4);
        if matrix && self.shape.len() != 2 {
            return Err(format!("a quantised tensor has two axes, not {:?}", self.shape));
        }
        if !self.group.is_multiple_of(4) || (self.dtype == Dtype::Q4 && self.group == 0) || (!matrix && self.group != 0)
        {
            return Err(format!("group {} does not fit {}", self.group, self.dtype.as_str()));
        }
        let mut next = 0;
        for part in &self.parts {
            if part.shard >= shards {
                return Err(format!("there is no shard {}", part.shard));
            }
            if part.rows[0] != next || part.rows[1] <= part.rows[0] {
                return Err(format!("rows {:?} do not continue at {next}", part.rows));
            }
            next = part.rows[1];
        }
        if next != self.shape[0] {
            return Err(format!("its parts hold {next} rows of {}", self.shape[0]));
        }
        Ok(())
    }
}
