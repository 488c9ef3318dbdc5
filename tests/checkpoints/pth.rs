//! Writes `.pth` files as `torch.save` does: what training scripts keep beside the weights, without PyTorch.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

/// A Python value.
#[derive(Clone, Debug)]
pub enum Py {
    None,
    Int(i32),
    Float(f64),
    Text(String),
    /// float32.
    Tensor(Vec<usize>, Vec<f32>),
    /// The same, whose values come when they are written.
    Unwritten(Vec<usize>),
    /// uint8, as torch.get_rng_state() gives it.
    Bytes(Vec<u8>),
    List(Vec<Py>),
    Dict(Vec<(Py, Py)>),
    /// An OrderedDict with modules' versions, as a state_dict is.
    StateDict(Vec<(String, Py)>),
    /// An object of a class of the training script's, with attributes.
    Object(&'static str, &'static str, Vec<(String, Py)>),
    /// The value that was written first under this name, and from then on that very value.
    Shared(&'static str, Box<Py>),
}

/// A dict with text keys.
pub fn dict<const N: usize>(entries: [(&str, Py); N]) -> Py {
    Py::Dict(entries.into_iter().map(|(key, value)| (Py::Text(key.into()), value)).collect())
}

struct Pickler {
    out: Vec<u8>,
    /// Protocol 2, PyTorch's own choice, or 4.
    protocol: u8,
    storages: Vec<Vec<u8>>,
    memo: u32,
    shared: HashMap<&'static str, u32>,
}

impl Pickler {
    fn text(&mut self, text: &str) {
        match self.protocol {
            4 => self.out.extend([0x8c, text.len() as u8]),
            _ => {
                self.out.push(b'X');
                self.out.extend((text.len() as u32).to_le_bytes());
            }
        }
        self.out.extend(text.bytes());
        self.remember();
    }

    fn remember(&mut self) -> u32 {
        match self.protocol {
            4 => self.out.push(0x94),
            _ => {
                self.out.push(b'r');
                self.out.extend(self.memo.to_le_bytes());
            }
        }
        self.memo += 1;
        self.memo - 1
    }

    fn class(&mut self, module: &str, name: &str) {
        if self.protocol == 4 {
            self.text(module);
            self.text(name);
            self.out.push(0x93);
        } else {
            self.out.extend(format!("c{module}\n{name}\n").bytes());
        }
        self.remember();
    }

    fn int(&mut self, value: i32) {
        self.out.push(b'J');
        self.out.extend(value.to_le_bytes());
    }

    fn ordered(&mut self) {
        self.class("collections", "OrderedDict");
        self.out.extend(b")R");
        self.remember();
    }

    fn tensor(&mut self, kind: &str, shape: &[usize], bytes: Vec<u8>) {
        self.class("torch._utils", "_rebuild_tensor_v2");
        self.out.extend(b"((");
        self.text("storage");
        self.class("torch", kind);
        self.text(&self.storages.len().to_string());
        self.text("cpu");
        self.int(shape.iter().product::<usize>() as i32);
        self.out.extend(b"tQ");
        self.int(0);
        self.out.push(b'(');
        shape.iter().for_each(|&size| self.int(size as i32));
        self.out.extend(b"t(");
        (0..shape.len()).for_each(|i| self.int(shape[i + 1..].iter().product::<usize>() as i32));
        self.out.extend(b"t\x89");
        self.ordered();
        self.out.extend(b"tR");
        self.remember();
        self.storages.push(bytes);
    }

    fn entries<'a>(&mut self, entries: impl Iterator<Item = (Py, &'a Py)>) {
        self.out.push(b'(');
        for (key, value) in entries {
            self.value(&key);
            self.value(value);
        }
        self.out.push(b'u');
    }

    fn value(&mut self, value: &Py) {
        match value {
            Py::None => self.out.push(b'N'),
            Py::Int(value) => self.int(*value),
            Py::Float(value) => {
                self.out.push(b'G');
                self.out.extend(value.to_be_bytes());
            }
            Py::Text(text) => self.text(text),
            Py::Tensor(shape, values) => {
                self.tensor("FloatStorage", shape, values.iter().flat_map(|v| v.to_le_bytes()).collect());
            }
            Py::Unwritten(shape) => self.tensor("FloatStorage", shape, Vec::new()),
            Py::Bytes(bytes) => self.tensor("ByteStorage", &[bytes.len()], bytes.clone()),
            Py::List(elements) => {
                self.out.push(b']');
                self.remember();
                self.out.push(b'(');
                elements.iter().for_each(|element| self.value(element));
                self.out.push(b'e');
            }
            Py::Dict(entries) => {
                self.out.push(b'}');
                self.remember();
                self.entries(entries.iter().map(|(key, value)| (key.clone(), value)));
            }
            Py::StateDict(entries) => {
                self.ordered();
                self.entries(entries.iter().map(|(key, value)| (Py::Text(key.clone()), value)));
                self.out.push(b'}');
                self.text("_metadata");
                self.ordered();
                self.out.extend(b"sb");
            }
            Py::Object(module, name, attributes) => {
                self.class(module, name);
                self.out.extend(b")\x81");
                self.remember();
                self.out.push(b'}');
                self.entries(attributes.iter().map(|(key, value)| (Py::Text(key.clone()), value)));
                self.out.push(b'b');
            }
            Py::Shared(name, value) => match self.shared.get(name) {
                Some(memo) => {
                    self.out.push(b'j');
                    self.out.extend(memo.to_le_bytes());
                }
                None => {
                    self.value(value);
                    let memo = self.remember();
                    self.shared.insert(name, memo);
                }
            },
        }
    }
}

/// Writes a value in a protocol, 2 or 4.
pub fn save(path: &Path, value: &Py, protocol: u8) {
    let mut pickler = pickled(value, protocol);
    let storages = std::mem::take(&mut pickler.storages);
    write(path, &pickler, storages.into_iter());
}

/// A state_dict that is larger than memory is good for: the values of one tensor after the other, by name and shape.
pub fn save_streaming(
    path: &Path,
    tensors: &[(String, Vec<usize>)],
    values: &mut dyn FnMut(&str, &[usize]) -> Vec<f32>,
) {
    let listed = tensors.iter().map(|(name, shape)| (name.clone(), Py::Unwritten(shape.clone()))).collect();
    let pickler = pickled(&Py::StateDict(listed), 2);
    let bytes = |(name, shape): &(String, Vec<usize>)| {
        values(name, shape).iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()
    };
    write(path, &pickler, tensors.iter().map(bytes));
}

fn pickled(value: &Py, protocol: u8) -> Pickler {
    let mut pickler =
        Pickler { out: vec![0x80, protocol], protocol, storages: Vec::new(), memo: 0, shared: HashMap::new() };
    pickler.value(value);
    pickler.out.push(b'.');
    pickler
}

fn write(path: &Path, pickler: &Pickler, storages: impl Iterator<Item = Vec<u8>>) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut entry = |name: String, bytes: &[u8]| {
        zip.start_file(format!("archive/{name}"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    };
    entry("data.pkl".into(), &pickler.out);
    entry("byteorder".into(), b"little");
    for (i, storage) in storages.enumerate() {
        entry(format!("data/{i}"), &storage);
    }
    entry("version".into(), b"3\n");
    zip.finish().unwrap();
}
