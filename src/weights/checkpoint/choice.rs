//! Which of a file's sets of weights a network gets, and what is said about it.

use super::names::Spelling;
use super::sets::{Set, USUAL, WRAPPERS, is_ema, sets, without_wrappers};
use super::{Checkpoint, Code, Error, File, Listed, Result, bad};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Which set of weights to take from a file that holds several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// The moving average (EMA) if there is one, else the trained ones.
    #[default]
    Auto,
    /// The moving average.
    Ema,
    /// Those that were trained, not their average.
    Model,
    /// Those under this key.
    Key(String),
}

impl std::str::FromStr for Weights {
    type Err = Error;

    fn from_str(text: &str) -> Result<Weights> {
        Ok(match text {
            "auto" => Weights::Auto,
            "ema" => Weights::Ema,
            "model" => Weights::Model,
            "" => return Err(Error::new(Code::InvalidArgument, "the key of the weights is empty", CHOICES)),
            key => Weights::Key(key.replace('/', ".").trim_matches('.').into()),
        })
    }
}

/// A network's weights, and where they came from.
pub struct Taken {
    /// Under the network's names.
    pub tensors: Checkpoint,
    /// What was taken and what else there was; none if the file holds these weights alone under their own names.
    pub report: Option<String>,
}

const CHOICES: &str = "Give ema, model or a key of the checkpoint";
const CHECK: &str = "Check that the architecture's parameters are those of the weights";
/// What averages keep beside the weights.
const BOOKKEEPING: [&str; 6] = ["decay", "num_updates", "n_averaged", "initted", "step", "steps"];

/// The first few of some names.
pub fn few<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.take(6).collect();
    if names.len() == 6 {
        names[5] = "...";
    }
    names.join(", ")
}

/// A file's tensors by the names that they have there, and what to say about them. `alone`: the file is this network's and no
/// other's.
pub fn choose(
    file: &File,
    expected: &[(&str, &[usize])],
    weights: &Weights,
    alone: bool,
    spelling: &Spelling,
) -> Result<(BTreeMap<String, usize>, Option<String>)> {
    let all = sets(file, expected, weights)?;
    let (pool, average) = pool(file, &all, weights, expected)?;
    let mut fitting: Vec<&Set> = pool.iter().copied().filter(|set| set.found.len() == expected.len()).collect();
    if fitting.is_empty() {
        let best = pool.iter().copied().max_by_key(|set| set.found.len());
        return Err(missing(file, expected, best, average));
    }
    let misshapen = |set: &Set| {
        expected.iter().find(|(name, shape)| !spelling.fits(name, &file.tensors[set.found[name]].shape, shape)).map(
            |&(name, shape)| {
                let tensor = &file.tensors[set.found[name]];
                let cause = format!("tensor {} is {:?}, the network needs {shape:?}", tensor.full_name(), tensor.shape);
                Error::new(Code::TensorShape, cause, remedy(average))
            },
        )
    };
    if let Some(error) = fitting.iter().map(|set| misshapen(set)).collect::<Option<Vec<_>>>() {
        return error.into_iter().next().map_or_else(|| Err(Error::internal("no set fits")), Err);
    }
    fitting.retain(|set| misshapen(set).is_none());
    if fitting.iter().any(|set| set.usual()) {
        fitting.retain(|set| set.usual());
    }
    let chosen = fitting[0];
    clash(file, chosen, &all, weights, expected.len())?;
    // One dict under two keys is no choice.
    let same = |set: &Set| {
        let place = |set: &Set, name: &str| file.tensors[set.found[name]].place.clone();
        set.dict != chosen.dict && expected.iter().all(|(name, _)| place(set, name) == place(chosen, name))
    };
    let rivals: Vec<String> = fitting[1..].iter().filter(|set| !same(set)).map(|set| set.called()).collect();
    if !rivals.is_empty() {
        let cause = format!("it holds several sets of weights: {}, {}", chosen.called(), rivals.join(", "));
        return Err(bad(&file.path, cause, "Choose one of them with --weights KEY"));
    }
    strangers(file, chosen, &all, expected, alone, spelling)?;
    let names = chosen.found.iter().map(|(&name, &i)| (name.to_owned(), i)).collect();
    Ok((names, report(file, chosen, &all, expected.len())))
}

/// The sets that the wish leaves, and whether they are averages that nobody asked for by name.
fn pool<'a, 'b>(
    file: &File,
    all: &'b [Set<'a>],
    weights: &Weights,
    expected: &[(&str, &[usize])],
) -> Result<(Vec<&'b Set<'a>>, bool)> {
    let most = |set: &&Set| 2 * set.found.len() >= expected.len();
    let mut pool: Vec<&Set> = match weights {
        Weights::Auto => all.iter().filter(|set| set.ema).filter(most).collect(),
        Weights::Ema => all.iter().filter(|set| set.ema).collect(),
        Weights::Model => all.iter().filter(|set| !set.ema).collect(),
        Weights::Key(key) => all.iter().filter(|set| set.matches(key)).collect(),
    };
    if let Weights::Key(key) = weights {
        // Under a key that leads to several sets, the average counts too.
        let exact = pool.iter().any(|set| set.key() == *key);
        let average = pool.iter().any(|set| set.ema && most(set));
        pool.retain(|set| if exact { set.key() == *key } else { set.ema || !average });
    }
    // A broken average is told, not passed over.
    let average = *weights == Weights::Auto && !pool.is_empty();
    if *weights == Weights::Auto && pool.is_empty() {
        pool = all.iter().collect();
    }
    if pool.is_empty() && *weights != Weights::Model {
        let what = match weights {
            Weights::Key(key) => format!("no weights of the network are under {key:?}"),
            Weights::Ema => "no EMA weights of the network are in it".into(),
            Weights::Auto | Weights::Model => return Err(missing(file, expected, None, false)),
        };
        let cause = format!("{}: {what}; {}", file.path.display(), holds(file, all, expected.len()));
        return Err(Error::new(Code::InvalidArgument, cause, CHOICES));
    }
    Ok((pool, average))
}

/// Two tensors of one dict that would get one name.
fn clash(file: &File, chosen: &Set, all: &[Set], weights: &Weights, size: usize) -> Result<()> {
    let tensor = |set: &Set, name: &str| &file.tensors[set.found[name]];
    for other in all.iter().filter(|set| set.dict == chosen.dict && set.prefix != chosen.prefix) {
        let wrapped = without_wrappers(other.prefix) == without_wrappers(chosen.prefix);
        // Dropping the prefix makes names that are there already.
        let there = !chosen.ema && other.prefix.is_empty()
            || chosen.prefix.is_empty() && other.found.len() == size && other.ema == chosen.ema && other.usual();
        let clash = wrapped || there && !matches!(weights, Weights::Key(_));
        if let (true, Some(&name)) = (clash, other.found.keys().next()) {
            let (a, b) = (tensor(chosen, name).full_name(), tensor(other, name).full_name());
            let remedy = "Save the network's state_dict alone, or choose with --weights KEY";
            return Err(bad(&file.path, format!("{a} and {b} would both be {name}"), remedy));
        }
    }
    Ok(())
}

fn remedy(average: bool) -> &'static str {
    if average { "Give --weights model to take the weights that are no average, or mend the checkpoint" } else { CHECK }
}

/// Tensors where only the network's should be: in a file that it shares, those whose names begin as some of its own do.
fn strangers(
    file: &File,
    chosen: &Set,
    all: &[Set],
    expected: &[(&str, &[usize])],
    alone: bool,
    spelling: &Spelling,
) -> Result<()> {
    let first = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let own: BTreeSet<String> = expected.iter().map(|(name, _)| first(name)).collect();
    let others: Vec<&Set> = all
        .iter()
        .filter(|set| set.dict == chosen.dict && set.prefix != chosen.prefix && set.found.len() == expected.len())
        .collect();
    for (i, tensor) in file.tensors.iter().enumerate().filter(|(_, tensor)| tensor.dict == chosen.dict) {
        let Some(name) = tensor.name.strip_prefix(chosen.prefix) else { continue };
        let known = chosen.found.values().any(|&known| known == i)
            || !tensor.dtype.is_float()
            || !alone && !own.contains(&first(name))
            || BOOKKEEPING.contains(&name)
            || spelling.is_beside(name)
            || others.iter().any(|set| set.prefix.len() > chosen.prefix.len() && tensor.name.starts_with(set.prefix));
        if !known {
            let cause = format!("tensor {} {:?} is none of the network's", tensor.full_name(), tensor.shape);
            return Err(Error::new(Code::TensorUnexpected, cause, CHECK));
        }
    }
    Ok(())
}

fn missing(file: &File, expected: &[(&str, &[usize])], best: Option<&Set>, average: bool) -> Error {
    let found = best.map_or(0, |set| set.found.len());
    let lost = expected.iter().find(|(name, _)| best.is_none_or(|set| !set.found.contains_key(name)));
    let (name, shape) = lost.copied().unwrap_or(("of the network", &[]));
    let where_ = match best {
        Some(set) if !set.key().is_empty() => format!(" in {} (which has {found} of {})", set.called(), expected.len()),
        Some(_) if found > 0 => format!(" ({found} of {} are there)", expected.len()),
        _ => String::new(),
    };
    let other = super::looks_like(file.tensors.iter().map(|tensor| tensor.name.as_str()));
    // A network's own half is no other model.
    let other = other.filter(|_| 2 * found < expected.len()).map(|what| format!("it looks like {what}; "));
    let cause = format!(
        "{}: {}tensor {name} {shape:?} is missing{where_}; {}",
        file.path.display(),
        other.unwrap_or_default(),
        groups(file)
    );
    Error::new(Code::TensorMissing, cause, remedy(average))
}

/// The sets of weights in a file, for who asked for one that is not there.
fn holds(file: &File, all: &[Set], size: usize) -> String {
    let keys: Vec<String> = all.iter().filter(|set| 2 * set.found.len() >= size).map(Set::called).collect();
    if keys.is_empty() { groups(file) } else { format!("there are {}", keys.join(", ")) }
}

/// What a file holds, by the outermost keys.
fn groups(file: &File) -> String {
    let mut groups: BTreeMap<&str, Vec<&Listed>> = BTreeMap::new();
    for tensor in &file.tensors {
        groups.entry(tensor.dict.split('.').next().unwrap_or_default()).or_default().push(tensor);
    }
    let describe = |(key, tensors): (&&str, &Vec<&Listed>)| {
        let names: Vec<String> =
            tensors.iter().take(7).map(|tensor| format!("{} {:?}", tensor.full_name(), tensor.shape)).collect();
        let names = few(names.iter().map(String::as_str));
        match *key {
            "" => format!("{} tensors ({names})", tensors.len()),
            key => format!("{key:?} with {} tensors ({names})", tensors.len()),
        }
    };
    let described: Vec<String> = groups.iter().map(describe).collect();
    format!("it holds {}", described.join(", "))
}

fn report(file: &File, chosen: &Set, all: &[Set], size: usize) -> Option<String> {
    let others: Vec<String> = all
        .iter()
        .filter(|set| 2 * set.found.len() >= size && (set.dict, set.prefix) != (chosen.dict, chosen.prefix))
        .map(|set| format!("{} ({})", set.called(), if set.ema { "EMA" } else { "no EMA" }))
        .collect();
    let mut rest: BTreeMap<&str, usize> = BTreeMap::new();
    for tensor in &file.tensors {
        let in_a_set = all
            .iter()
            .any(|set| 2 * set.found.len() >= size && set.dict == tensor.dict && tensor.name.starts_with(set.prefix));
        if !in_a_set {
            let key = if tensor.dict.is_empty() {
                tensor.name.as_str()
            } else {
                tensor.dict.split('.').next().unwrap_or_default()
            };
            *rest.entry(key).or_default() += 1;
        }
    }
    let beside = if chosen.ema { None } else { average_beside(&file.path) };
    if chosen.key().is_empty() && others.is_empty() && rest.is_empty() && beside.is_none() {
        return None;
    }
    let mut said = format!("took {}{}", chosen.called(), if chosen.ema { " (EMA)" } else { "" });
    if !chosen.prefix.is_empty() {
        said += &format!(", names without {:?}", chosen.prefix);
    }
    if !others.is_empty() {
        said += &format!("; not taken: {} (choose with --weights)", others.join(", "));
    }
    if !rest.is_empty() {
        let rest: Vec<String> = rest.iter().map(|(key, count)| format!("{key} ({count})")).collect();
        said += &format!("; no weights of this network: {}", few(rest.iter().map(String::as_str)));
    }
    if let Some(name) = beside {
        said += &format!("; {name} lies beside it");
    }
    Some(said)
}

/// A file whose name says that it holds the average of this one's weights, as `nnet_ema.pth` beside `nnet.pth`.
fn average_beside(path: &Path) -> Option<String> {
    let stem = path.file_stem()?.to_string_lossy().into_owned();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    let average =
        |name: &String| is_ema(name) && name.contains(&stem) && Path::new(name).extension() == path.extension();
    if is_ema(&stem) { None } else { names.filter(average).min() }
}

/// Names and positions of a file's weights when no network says which they are: the dict of an average, else the largest.
pub fn without_network(file: &File) -> Result<BTreeMap<String, usize>> {
    let mut dicts: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, tensor) in file.tensors.iter().enumerate() {
        dicts.entry(&tensor.dict).or_default().push(i);
    }
    let largest = dicts.into_iter().max_by_key(|(dict, tensors)| (is_ema(dict), tensors.len()));
    let (_, tensors) = largest.ok_or_else(|| Error::internal("a file without tensors"))?;
    let mut names: Vec<&str> = tensors.iter().map(|&i| file.tensors[i].name.as_str()).collect();
    let before = |name: &str| name.split_once('.').map(|(first, _)| first.to_owned());
    while let Some(first) = names.first().and_then(|name| before(name))
        && (WRAPPERS.contains(&first.as_str()) || USUAL.contains(&first.as_str()) || is_ema(&first))
        && names.iter().all(|name| before(name).as_ref() == Some(&first))
    {
        names.iter_mut().for_each(|name| *name = &name[first.len() + 1..]);
    }
    let mut named = BTreeMap::new();
    for (name, &i) in names.iter().zip(&tensors) {
        if let Some(other) = named.insert((*name).to_owned(), i) {
            let (a, b) = (file.tensors[other].full_name(), file.tensors[i].full_name());
            return Err(bad(&file.path, format!("{a} and {b} would both be {name}"), "Save the state_dict alone"));
        }
    }
    Ok(named)
}
