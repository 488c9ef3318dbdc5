//! `.pth`: a zip that is not compressed, with one pickle that describes and one entry a storage that holds the values.
//! The pickle is walked for tensors, wherever they lie in it: dicts, lists, whole modules, objects with attributes.

use super::pickle::{Id, Node, Pickle};
use super::{Dtype, Listed, Place, bad};
use crate::{Error, Result};
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Dicts in dicts, at most.
const DEPTH: usize = 32;
/// Nodes that are visited, at most: a pickle may name one value many times.
const VISITS: usize = 2_000_000;

const AGAIN: &str = "Download or copy it again";

/// An open `.pth` file.
pub struct Archive {
    path: PathBuf,
    zip: zip::ZipArchive<BufReader<File>>,
    file_bytes: u64,
    /// What all entries' names begin with.
    folder: String,
}

/// What a pickle holds.
pub struct Contents {
    /// Its tensors.
    pub tensors: Vec<Listed>,
    /// The keys of the outermost dict.
    pub keys: Vec<String>,
}

/// Opens a zip and lists the tensors of its pickle.
///
/// # Errors
/// `BAD_CHECKPOINT` for what is no PyTorch file, or a broken one.
pub fn open(path: &Path, file: File, file_bytes: u64) -> Result<(Archive, Contents)> {
    let zip = zip::ZipArchive::new(BufReader::new(file)).map_err(|e| {
        bad(path, format!("a zip as torch.save writes it, but cut short or damaged ({e})"), "Download or copy it again")
    })?;
    let names: Vec<String> = zip.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect();
    let pickle = names.iter().find(|name| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let pickle = pickle.ok_or_else(|| stranger(path, &names))?;
    let folder = pickle.trim_end_matches("data.pkl").to_owned();
    let mut archive = Archive { path: path.into(), zip, file_bytes, folder };
    archive.check_entries()?;
    if names.contains(&format!("{}byteorder", archive.folder)) && archive.entry("byteorder")? == b"big" {
        let cause = "its numbers are big-endian";
        return Err(bad(path, cause, "Save it with PyTorch on a little-endian machine (x86, Arm)"));
    }
    let bytes = archive.entry("data.pkl")?;
    let broken = |what: String| bad(path, format!("its pickle is broken: {what}"), "Download or copy it again");
    let pickle = Pickle::parse(&bytes).map_err(broken)?;
    if let Some(function) = pickle.nodes.iter().find_map(|node| foreign(&pickle, node)) {
        let cause = format!("its pickle asks for {function}, which no tensor needs; nothing of it was run");
        let remedy =
            "Do not load it in Python unless you trust it; torch.save(model.state_dict(), FILE) asks for nothing such";
        return Err(bad(path, cause, remedy));
    }
    let mut walk = Walk { pickle: &pickle, tensors: Vec::new(), visits: 0, open: HashSet::new() };
    walk.container(pickle.root, "", 0).map_err(broken)?;
    let tensors = walk.tensors;
    if tensors.is_empty() && names.contains(&format!("{}constants.pkl", archive.folder)) {
        let remedy = "Save the weights alone: torch.save(torch.jit.load(FILE).state_dict(), \"weights.pth\")";
        return Err(bad(path, "a TorchScript program (torch.jit.save), whose tensors are not listed", remedy));
    }
    let keys = match &pickle.nodes[pickle.root] {
        Node::Dict(entries) => entries.iter().filter_map(|&(key, _)| walk_key(&pickle, key)).collect(),
        _ => Vec::new(),
    };
    Ok((archive, Contents { tensors, keys }))
}

/// All that a pickle may call: what makes tensors, containers, numbers, times and paths. Of these `Walk::rebuilt` follows those
/// that make tensors, and nothing is run. An object of a class that is made without a call (NEWOBJ), as a module of the
/// training script's is, is its attributes here and may be of any class.
#[rustfmt::skip]
const CALLED: [(&str, &[&str]); 14] = [
    ("torch._utils", &[
        "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter",
        "_rebuild_parameter_with_state", "_rebuild_sparse_tensor", "_rebuild_qtensor", "_rebuild_meta_tensor_no_storage",
    ]),
    ("torch._tensor", &["_rebuild_from_type_v2"]),
    ("torch", &["Size", "device", "Tensor"]),
    ("torch.serialization", &["_get_layout"]),
    ("builtins", &["set", "frozenset", "list", "dict", "tuple", "bytearray", "complex", "slice", "range", "object"]),
    ("collections", &["OrderedDict", "defaultdict", "Counter", "deque"]),
    ("_codecs", &["encode"]), // bytes in protocols 0 to 2
    ("copyreg", &["_reconstructor"]), // objects in protocols 0 and 1
    ("functools", &["partial"]),
    ("types", &["SimpleNamespace"]),
    ("numpy", &["dtype", "ndarray"]),
    ("numpy.core.multiarray", &["scalar", "_reconstruct", "_frombuffer"]),
    ("datetime", &["datetime", "date", "time", "timedelta", "timezone"]),
    ("pathlib", &["PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"]),
];

/// What a pickle calls beside [`CALLED`].
fn foreign(pickle: &Pickle, node: &Node) -> Option<String> {
    let Node::Object { callable, called: true, .. } = node else { return None };
    let Some(name) = pickle.class(*callable) else { return Some("a call of a value that it makes".into()) };
    let (module, function) = name.rsplit_once('.')?;
    // As Python 2, NumPy 2 and Python 3.13 call them.
    let module = match module {
        "__builtin__" => "builtins",
        "copy_reg" => "copyreg",
        "numpy._core.multiarray" | "numpy._core.numeric" | "numpy.core.numeric" => "numpy.core.multiarray",
        "pathlib._local" => "pathlib",
        module => module,
    };
    let listed = CALLED.iter().any(|(from, functions)| *from == module && functions.contains(&function));
    (!listed).then(|| name.to_owned())
}

/// A zip without a pickle of PyTorch's.
fn stranger(path: &Path, names: &[String]) -> Error {
    let few = names.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
    let ends = |ending: &str| names.iter().any(|name| name.ends_with(ending));
    let (what, remedy) = if ends(".npy") {
        ("NumPy arrays (.npz)", "Save them with safetensors.numpy.save_file")
    } else if ends("model.weights.h5") {
        ("a Keras model", "Convert its weights to safetensors")
    } else if ends(".pth") || ends(".pt") || ends(".ckpt") || ends(".safetensors") || ends(".bin") {
        ("a zip with a checkpoint inside", "Unpack it, and give the file inside")
    } else if ends("archive_format") {
        (
            "an exported program (torch.export)",
            "Save the weights alone: torch.save(program.state_dict, \"weights.pth\")",
        )
    } else {
        ("a zip without a pickle of PyTorch's", "Give a file that torch.save wrote, or a .safetensors file")
    };
    bad(path, format!("{what}: it holds {few}"), remedy)
}

impl Archive {
    /// The bytes of an entry; its checksum is verified.
    fn entry(&mut self, name: &str) -> Result<Vec<u8>> {
        let (path, name) = (&self.path, format!("{}{name}", self.folder));
        let mut entry = self.zip.by_name(&name).map_err(|e| unreadable(path, &name, &e))?;
        let mut bytes = Vec::with_capacity(entry.size() as usize);
        entry.read_to_end(&mut bytes).map_err(|e| damaged(path, &name, &e))?;
        Ok(bytes)
    }

    /// Checks what the zip says of its entries, before anything is allocated by it. PyTorch stores without compression, so the
    /// file bounds what they may claim.
    fn check_entries(&mut self) -> Result<()> {
        let (path, mut sum) = (&self.path, 0u64);
        for i in 0..self.zip.len() {
            let entry = self.zip.by_index_raw(i).map_err(|e| unreadable(path, &format!("number {i}"), &e))?;
            let name = entry.name().map(|name| name.into_owned()).unwrap_or_default();
            let strange = |part: &str| part == ".." || part.contains(['\\', ':', '\0']);
            if name.is_empty() || name.starts_with('/') || name.split('/').any(strange) {
                let cause = format!("its entry {name:?} has a name that leads out of the zip");
                return Err(bad(path, cause, "Do not trust this file: torch.save writes no such names"));
            }
            if entry.compression() != zip::CompressionMethod::Stored || entry.size() != entry.compressed_size() {
                let (size, packed) = (entry.size(), entry.compressed_size());
                let cause = format!("its entry {name} is compressed, {packed} bytes for {size}");
                return Err(bad(path, cause, "Save it with torch.save, which does not compress"));
            }
            sum = sum.saturating_add(entry.size());
            if sum > self.file_bytes {
                return Err(bad(path, format!("its entry {name} claims to be larger than the file"), AGAIN));
            }
        }
        Ok(())
    }

    /// Checks that a tensor is no view, and lies within its storage.
    ///
    /// # Errors
    /// `BAD_CHECKPOINT`.
    pub fn check(&mut self, tensor: &Listed) -> Result<()> {
        let Place::Storage { key, offset, strides } = &tensor.place else {
            return Err(Error::internal("a tensor of another file"));
        };
        let name = tensor.full_name();
        let mut contiguous = 1;
        let in_order = tensor.shape.iter().zip(strides).rev().all(|(&size, &stride)| {
            let right = size <= 1 || stride == contiguous;
            contiguous = contiguous.saturating_mul(size);
            right
        });
        let bytes = tensor.shape.iter().try_fold(tensor.dtype.bytes() as u64, |n, &size| n.checked_mul(size as u64));
        let Some(bytes) = bytes.filter(|&bytes| bytes <= self.file_bytes) else {
            let cause = format!("tensor {name} {:?} is larger than the file", tensor.shape);
            return Err(bad(&self.path, cause, AGAIN));
        };
        if *offset != 0 || !in_order || tensor.shape.len() != strides.len() {
            let remedy = "Save contiguous clones of the tensors: {name: t.clone() for name, t in state_dict.items()}";
            return Err(bad(&self.path, format!("tensor {name} is a view into another"), remedy));
        }
        let storage = format!("{}data/{key}", self.folder);
        let entry = self.zip.by_name(&storage).map_err(|e| unreadable(&self.path, &storage, &e))?;
        if entry.size() < bytes {
            let cause = format!("tensor {name} {:?} is larger than its storage", tensor.shape);
            return Err(bad(&self.path, cause, AGAIN));
        }
        Ok(())
    }

    /// The values of a tensor that was checked; the checksum of its storage is verified.
    ///
    /// # Errors
    /// `BAD_CHECKPOINT` for what is damaged.
    pub fn values(&mut self, tensor: &Listed) -> Result<Vec<f32>> {
        let Place::Storage { key, .. } = &tensor.place else {
            return Err(Error::internal("a tensor of another file"));
        };
        let (path, storage) = (&self.path, format!("{}data/{key}", self.folder));
        let mut entry = self.zip.by_name(&storage).map_err(|e| unreadable(path, &storage, &e))?;
        let values = tensor.dtype.read(&mut entry, tensor.elements()).map_err(|e| damaged(path, &storage, &e))?;
        // The checksum is known at the end, which may lie behind the tensor's.
        std::io::copy(&mut entry, &mut std::io::sink()).map_err(|e| damaged(path, &storage, &e))?;
        Ok(values)
    }
}

fn unreadable(path: &Path, name: &str, error: &zip::result::ZipError) -> Error {
    bad(path, format!("its entry {name} cannot be read ({error})"), AGAIN)
}

fn damaged(path: &Path, name: &str, error: &std::io::Error) -> Error {
    bad(path, format!("its entry {name} is damaged ({error})"), AGAIN)
}

struct Walk<'a> {
    pickle: &'a Pickle,
    tensors: Vec<Listed>,
    visits: usize,
    /// Containers that are being walked: a pickle may hold itself.
    open: HashSet<Id>,
}

fn walk_key(pickle: &Pickle, id: Id) -> Option<String> {
    pickle.text(id).map(str::to_owned).or_else(|| pickle.int(id).map(|number| number.to_string()))
}

fn joined(outer: &str, key: &str) -> String {
    if outer.is_empty() { key.into() } else { format!("{outer}.{key}") }
}

impl Walk<'_> {
    /// The tensors in a dict, list or object that lies under `dict`.
    fn container(&mut self, id: Id, dict: &str, depth: usize) -> std::result::Result<(), String> {
        if depth > DEPTH || !self.open.insert(id) {
            return Ok(());
        }
        match &self.pickle.nodes[id] {
            Node::Dict(entries) => self.entries(entries, dict, depth)?,
            Node::List(elements) => self.elements(elements, dict, depth)?,
            Node::Object { state, entries, elements, .. } => {
                self.entries(entries, dict, depth)?;
                self.elements(elements, dict, depth)?;
                match state.map(|state| &self.pickle.nodes[state]) {
                    Some(Node::Dict(attributes)) if self.attribute(attributes, "_modules").is_some() => {
                        self.module(attributes, dict, "", depth)?;
                    }
                    Some(Node::Dict(attributes)) => self.entries(attributes, dict, depth)?,
                    _ => {}
                }
            }
            _ => {}
        }
        self.open.remove(&id);
        Ok(())
    }

    fn entries(&mut self, entries: &[(Id, Id)], dict: &str, depth: usize) -> std::result::Result<(), String> {
        for &(key, value) in entries {
            if let Some(key) = walk_key(self.pickle, key) {
                self.value(value, dict, &key, depth)?;
            }
        }
        Ok(())
    }

    fn elements(&mut self, elements: &[Id], dict: &str, depth: usize) -> std::result::Result<(), String> {
        for (i, &value) in elements.iter().enumerate() {
            self.value(value, dict, &i.to_string(), depth)?;
        }
        Ok(())
    }

    fn value(&mut self, id: Id, dict: &str, name: &str, depth: usize) -> std::result::Result<(), String> {
        self.visits += 1;
        if self.visits > VISITS {
            return Err(format!("more than {VISITS} values"));
        }
        match self.tensor(id) {
            Some((dtype, shape, place)) => {
                self.tensors.push(Listed { dict: dict.into(), name: name.into(), dtype, shape, place });
                Ok(())
            }
            None if matches!(self.pickle.nodes[id], Node::Dict(_) | Node::List(_) | Node::Object { .. }) => {
                self.container(id, &joined(dict, name), depth + 1)
            }
            None => Ok(()),
        }
    }

    fn attribute(&self, attributes: &[(Id, Id)], name: &str) -> Option<Id> {
        attributes.iter().find(|&&(key, _)| self.pickle.text(key) == Some(name)).map(|&(_, value)| value)
    }

    /// A whole `torch.nn.Module`: the names that its state_dict would have.
    fn module(&mut self, of: &[(Id, Id)], dict: &str, prefix: &str, depth: usize) -> std::result::Result<(), String> {
        if depth > DEPTH {
            return Ok(());
        }
        for kind in ["_parameters", "_buffers"] {
            if let Some(Node::Dict(entries)) = self.attribute(of, kind).map(|id| &self.pickle.nodes[id]) {
                for &(key, value) in entries {
                    if let Some(key) = self.pickle.text(key).filter(|_| self.tensor(value).is_some()) {
                        self.value(value, dict, &format!("{prefix}{key}"), depth)?;
                    }
                }
            }
        }
        let Some(Node::Dict(modules)) = self.attribute(of, "_modules").map(|id| &self.pickle.nodes[id]) else {
            return Ok(());
        };
        for &(key, value) in modules {
            self.visits += 1;
            if self.visits > VISITS {
                return Err(format!("more than {VISITS} values"));
            }
            if let (Some(key), Node::Object { state: Some(state), .. }) =
                (self.pickle.text(key), &self.pickle.nodes[value])
                && let Node::Dict(attributes) = &self.pickle.nodes[*state]
            {
                self.module(attributes, dict, &format!("{prefix}{key}."), depth + 1)?;
            }
        }
        Ok(())
    }

    /// A tensor or parameter, by the function that would build it.
    fn tensor(&self, id: Id) -> Option<(Dtype, Vec<usize>, Place)> {
        let p = self.pickle;
        let mut id = id;
        loop {
            let Node::Object { callable, arguments, .. } = &p.nodes[id] else { return None };
            let (function, arguments) = (p.class(*callable)?, p.list(*arguments)?);
            let version = match function {
                "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
                    // Parameters of parameters would never end.
                    let inner = *arguments.first()?;
                    if inner >= id {
                        return None;
                    }
                    id = inner;
                    continue;
                }
                "torch._tensor._rebuild_from_type_v2" => {
                    let (function, arguments) = (p.class(*arguments.first()?)?, p.list(*arguments.get(2)?)?);
                    return self.rebuilt(function, arguments);
                }
                function => function,
            };
            return self.rebuilt(version, arguments);
        }
    }

    fn rebuilt(&self, function: &str, arguments: &[Id]) -> Option<(Dtype, Vec<usize>, Place)> {
        let p = self.pickle;
        let third = match function {
            "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2" => None,
            "torch._utils._rebuild_tensor_v3" => Some(p.class(*arguments.get(6)?)?),
            _ => return None,
        };
        let numbers =
            |id: Id| -> Option<Vec<usize>> { p.list(id)?.iter().map(|&n| usize::try_from(p.int(n)?).ok()).collect() };
        let [storage, offset, size, stride] = *arguments.first_chunk()?;
        let Node::Persistent(storage) = &p.nodes[storage] else { return None };
        let storage = p.list(*storage)?;
        let kind = p.class(*storage.get(1)?)?;
        let dtype = Dtype::of_torch(third.unwrap_or(kind));
        let place = Place::Storage {
            key: p.text(*storage.get(2)?)?.to_owned(),
            offset: usize::try_from(p.int(offset)?).ok()?,
            strides: numbers(stride)?,
        };
        Some((dtype, numbers(size)?, place))
    }
}
