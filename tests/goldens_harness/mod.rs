//! The parts that all kinds of goldens share: reading a case, measuring errors, counting what passed.

pub mod devices;
pub mod kinds;
pub mod recipes;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A folder with `config.json` and `io.safetensors`.
pub struct Case {
    /// Where it lies; other files of the case are read from here, and the cases it names lie beside it.
    pub folder: PathBuf,
    /// `kind` of config.json.
    pub kind: String,
    /// config.json.
    pub config: Value,
    /// io.safetensors; empty if there is none.
    tensors: BTreeMap<String, Tensor>,
}

/// An expected result (or an input), widened to f64; exact for every stored dtype.
#[derive(Clone)]
pub struct Tensor {
    /// Row-major.
    pub shape: Vec<usize>,
    /// All values.
    pub values: Vec<f64>,
}

impl Tensor {
    /// Its parts along the first axis.
    pub fn rows(&self) -> Vec<&[f64]> {
        let rows = self.shape.first().copied().unwrap_or(1);
        self.values.chunks(self.values.len() / rows.max(1)).collect()
    }
}

impl Case {
    /// The name and path of every case in a folder, by name.
    pub fn find_all(folder: &Path) -> Result<Vec<(String, PathBuf)>, String> {
        let entries = std::fs::read_dir(folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
        let mut found: Vec<(String, PathBuf)> = entries
            .filter_map(|entry| entry.ok())
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
            .filter(|(_, path)| path.join("config.json").is_file())
            .collect();
        found.sort();
        Ok(found)
    }

    /// Reads config.json and io.safetensors.
    pub fn read(path: &Path) -> Result<Case, String> {
        let text = std::fs::read_to_string(path.join("config.json")).map_err(|e| format!("config.json: {e}"))?;
        let config: Value = serde_json::from_str(&text).map_err(|e| format!("config.json: {e}"))?;
        let kind = config["kind"].as_str().ok_or("config.json has no kind")?.to_owned();
        let io = path.join("io.safetensors");
        let tensors = if io.is_file() { read_tensors(&io)? } else { BTreeMap::new() };
        Ok(Case { folder: path.to_owned(), kind, config, tensors })
    }

    /// A tensor of io.safetensors.
    pub fn tensor(&self, name: &str) -> Result<&Tensor, String> {
        self.tensors.get(name).ok_or_else(|| format!("{} has no {name}", self.folder.join("io.safetensors").display()))
    }

    /// The names of all tensors.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A number in `tolerance`.
    pub fn tolerance(&self, name: &str) -> Result<f64, String> {
        self.config["tolerance"][name].as_f64().ok_or_else(|| format!("config.json has no tolerance.{name}"))
    }

    /// `runs` with the id of each.
    pub fn runs(&self) -> Vec<Run<'_>> {
        let runs = self.config["runs"].as_array().map_or(&[][..], Vec::as_slice);
        runs.iter().map(|options| Run { case: self, id: options["id"].to_string(), options }).collect()
    }
}

/// One entry of `runs`.
#[derive(Clone)]
pub struct Run<'a> {
    /// Where it stands.
    pub case: &'a Case,
    /// Its number.
    pub id: String,
    options: &'a Value,
}

/// Why a run was not judged as passed.
pub enum Stop {
    /// An option that is not built yet.
    Skip(String),
    /// What went wrong.
    Fail(String),
}

impl From<String> for Stop {
    fn from(why: String) -> Stop {
        Stop::Fail(why)
    }
}

impl From<uvit_web::Error> for Stop {
    fn from(error: uvit_web::Error) -> Stop {
        Stop::Fail(error.to_string())
    }
}

impl<'a> Run<'a> {
    /// The run's own tensor `run_<id>/<name>`.
    pub fn tensor(&self, name: &str) -> Result<&'a Tensor, String> {
        self.case.tensor(&format!("run_{}/{name}", self.id))
    }

    /// The options, each to be taken once; what is left untaken skips the run.
    pub fn options(&self) -> Options<'a> {
        let mut options = Options::of("", self.options);
        options.left.remove("id");
        options
    }
}

/// Options that are taken one by one, so that one nobody knows is noticed.
pub struct Options<'a> {
    prefix: &'static str,
    values: &'a Value,
    left: BTreeSet<&'a str>,
}

impl<'a> Options<'a> {
    /// Of a JSON object (of nothing, if it is none); `prefix` stands before the names in messages.
    pub fn of(prefix: &'static str, values: &'a Value) -> Options<'a> {
        let left = values.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        Options { prefix, values, left }
    }

    /// The value of an option, null if it is absent.
    pub fn take(&mut self, name: &str) -> &'a Value {
        self.left.remove(name);
        &self.values[name]
    }

    /// A number, `default` if absent.
    pub fn number(&mut self, name: &str, default: f64) -> Result<f64, Stop> {
        match self.take(name) {
            Value::Null => Ok(default),
            value => value.as_f64().ok_or_else(|| self.unknown(name, value)),
        }
    }

    /// A whole number, `default` if absent.
    pub fn count(&mut self, name: &str, default: usize) -> Result<usize, Stop> {
        match self.take(name) {
            Value::Null => Ok(default),
            value => value.as_u64().map(|n| n as usize).ok_or_else(|| self.unknown(name, value)),
        }
    }

    /// True or false, `default` if absent.
    pub fn flag(&mut self, name: &str, default: bool) -> Result<bool, Stop> {
        match self.take(name) {
            Value::Null => Ok(default),
            value => value.as_bool().ok_or_else(|| self.unknown(name, value)),
        }
    }

    /// One of some names, the first if absent.
    pub fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Result<T, Stop> {
        let value = self.take(name);
        if value.is_null() {
            return Ok(choices[0].1);
        }
        let known = choices.iter().find(|(text, _)| value.as_str() == Some(text));
        known.map(|(_, choice)| *choice).ok_or_else(|| self.unknown(name, value))
    }

    /// Options that must be off (absent, null, false) because they are not built yet.
    pub fn must_be_off(&mut self, names: &[&str]) -> Result<(), Stop> {
        for name in names {
            let value = self.take(name);
            if !value.is_null() && value != &Value::Bool(false) {
                return Err(self.unknown(name, value));
            }
        }
        Ok(())
    }

    /// Skips if an option was not taken.
    pub fn finish(self) -> Result<(), Stop> {
        match self.left.first() {
            Some(name) => Err(self.unknown(name, &self.values[*name])),
            None => Ok(()),
        }
    }

    fn unknown(&self, name: &str, value: &Value) -> Stop {
        Stop::Skip(format!("option {}{name} = {value} is not built yet", self.prefix))
    }
}

/// What passed, failed and was skipped.
pub struct Report {
    filter: String,
    case: String,
    in_case: [usize; 3],
    total: [usize; 3],
}

impl Report {
    /// Nothing yet.
    pub fn new(filter: String) -> Report {
        Report { filter, case: String::new(), in_case: [0; 3], total: [0; 3] }
    }

    /// Names what the next runs belong to.
    pub fn begin_case(&mut self, name: &str) {
        self.case = name.to_owned();
        self.in_case = [0; 3];
    }

    /// Whether the filter lets this through.
    fn wants(&self, run: &str) -> bool {
        format!("{}/{run}", self.case).contains(&self.filter)
    }

    /// Judges one run on one executor, unless the filter leaves it out. The body collects its comparisons in [`Checks`].
    pub fn run(&mut self, run: &str, executor: &str, body: impl FnOnce(&mut Checks) -> Result<(), Stop>) {
        let label = format!("{run} [{executor}]");
        if !self.wants(&label) {
            return;
        }
        let mut checks = Checks::default();
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&mut checks))) {
            Ok(Ok(())) if checks.failures.is_empty() && checks.compared == 0 => self.fail(&label, "compared nothing"),
            Ok(Ok(())) if checks.failures.is_empty() => self.in_case[0] += 1,
            Ok(Ok(())) => self.fail(&label, &checks.failures.join("; ")),
            Ok(Err(Stop::Skip(why))) => self.skip(&label, &why),
            Ok(Err(Stop::Fail(why))) => self.fail(&label, &why),
            Err(_) => self.fail(&label, "panicked"),
        }
    }

    /// Counts and prints a failure.
    pub fn fail(&mut self, run: &str, why: &str) {
        self.in_case[1] += 1;
        println!("FAILED  {} {run}: {why}", self.case);
    }

    /// Counts and prints something that is not judged, unless the filter leaves it out.
    pub fn skip(&mut self, run: &str, why: &str) {
        if !self.wants(run) {
            return;
        }
        self.in_case[2] += 1;
        println!("skipped {} {run}: {why}", self.case);
    }

    /// Prints the case's counts.
    pub fn end_case(&mut self) {
        let [passed, failed, skipped] = self.in_case;
        if passed + failed + skipped == 0 {
            return;
        }
        println!("{}: {passed} passed, {failed} failed, {skipped} skipped", self.case);
        self.settle();
    }

    fn settle(&mut self) {
        for (total, count) in self.total.iter_mut().zip(std::mem::take(&mut self.in_case)) {
            *total += count;
        }
    }

    /// Prints the last line.
    pub fn finish(mut self) -> ExitCode {
        self.settle();
        let [passed, failed, skipped] = self.total;
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        if failed > 0 || passed == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// The comparisons of one run.
#[derive(Default)]
pub struct Checks {
    compared: usize,
    failures: Vec<String>,
}

impl Checks {
    /// Compares values with an expected tensor: max |a - b| / max |b| must not exceed the tolerance.
    pub fn close(&mut self, name: &str, got: &[f64], want: &Tensor, tolerance: f64) {
        self.compared += 1;
        if got.len() != want.values.len() {
            self.failures.push(format!("{name} has {} values, expected {}", got.len(), want.values.len()));
            return;
        }
        let error = relative_error(got, &want.values);
        if error.is_nan() || error > tolerance {
            let place = worst_index(got, want);
            self.failures.push(format!("{name} is off by {error:.3e}, most at {place:?}, tolerance {tolerance:.0e}"));
        }
    }

    /// Any other condition.
    pub fn that(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        self.compared += 1;
        if !holds {
            self.failures.push(otherwise());
        }
    }
}

/// max |a - b| / max |b| (only max |a - b| if b is all 0); infinite if either is not finite anywhere.
pub fn relative_error(got: &[f64], want: &[f64]) -> f64 {
    if got.iter().chain(want).any(|value| !value.is_finite()) {
        return f64::INFINITY;
    }
    let largest = want.iter().fold(0.0, |m: f64, b| m.max(b.abs()));
    let difference = got.iter().zip(want).fold(0.0, |m: f64, (a, b)| m.max((a - b).abs()));
    if largest > 0.0 { difference / largest } else { difference }
}

/// Where the values differ most (or first are not finite), as an index into the tensor's shape.
fn worst_index(got: &[f64], want: &Tensor) -> Vec<usize> {
    let difference = |i: usize| {
        let off = (got[i] - want.values[i]).abs();
        if off.is_nan() { f64::INFINITY } else { off }
    };
    let worst = (0..got.len()).fold(0, |worst, i| if difference(i) > difference(worst) { i } else { worst });
    let mut rest = worst;
    let mut index: Vec<usize> = Vec::with_capacity(want.shape.len());
    for extent in want.shape.iter().rev() {
        index.insert(0, rest % extent);
        rest /= extent;
    }
    index
}

/// All tensors of a safetensors file that hold numbers used here.
pub fn read_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let data = view.data();
        let values: Vec<f64> = match view.dtype() {
            Dtype::F64 => data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
            Dtype::F16 => {
                data.chunks_exact(2).map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).into()).collect()
            }
            Dtype::BF16 => {
                data.chunks_exact(2).map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).into()).collect()
            }
            Dtype::I64 => data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
            Dtype::I32 => data.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
            other => return Err(format!("{}: {name} is {other:?}, which is not read here", path.display())),
        };
        tensors.insert(name.clone(), Tensor { shape: view.shape().to_vec(), values });
    }
    Ok(tensors)
}
