//! The sets of weights in a file. Training scripts save several (the trained ones, their moving average), in dicts of dicts
//! and under prefixes of wrappers: a set is whatever has the network's names in one dict behind one prefix.

use super::choice::Weights;
use super::{File, Listed, Result, bad};
use std::collections::BTreeMap;

/// What compiling and distributing put before every name.
pub const WRAPPERS: [&str; 2] = ["module", "_orig_mod"];
/// What the weights that are meant are usually called.
pub const USUAL: [&str; 14] = [
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "nnet",
    "net",
    "network",
    "unet",
    "params",
    "weights",
    "diffusion_model",
    "denoiser",
    "backbone",
    "generator",
];

/// All of the network's names in one dict, behind one prefix, or some of them.
pub struct Set<'a> {
    pub dict: &'a str,
    pub prefix: &'a str,
    /// Whether its key or prefix says that it is a moving average.
    pub ema: bool,
    /// Position in the file by the network's name.
    pub found: BTreeMap<&'a str, usize>,
}

impl Set<'_> {
    /// What `--weights` calls it.
    pub fn key(&self) -> String {
        let parts = [self.dict, self.prefix.trim_end_matches('.')];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".")
    }

    /// That, for a sentence.
    pub fn called(&self) -> String {
        match self.key().as_str() {
            "" => "the outermost dict".into(),
            key => format!("{key:?}"),
        }
    }

    /// Whether it is called what the weights that are meant usually are.
    pub fn usual(&self) -> bool {
        self.key().split('.').all(|part| part.is_empty() || WRAPPERS.contains(&part) || USUAL.contains(&part))
    }

    /// Whether a user's key means it.
    pub fn matches(&self, key: &str) -> bool {
        let own = self.key();
        own == key || own.starts_with(&format!("{key}.")) || own.ends_with(&format!(".{key}"))
    }
}

/// Whether a key says that what is under it is an average: `ema`, `nnet_ema`, `params_ema`, `ema_model`, `modelEMA`, `shadow`.
pub fn is_ema(key: &str) -> bool {
    let mut ema = false;
    for word in key.split(|c: char| !c.is_ascii_alphanumeric()) {
        let word = word.to_ascii_lowercase();
        let other = matches!(word.as_str(), "email" | "schema" | "cinema");
        ema |= !other && (word.starts_with("ema") || word.ends_with("ema") || word == "shadow" || word == "averaged");
        if word == "online" {
            return false; // the other half of an average that keeps both
        }
    }
    ema
}

/// What a prefix says beside that.
pub fn without_wrappers(prefix: &str) -> String {
    prefix.split('.').filter(|part| !WRAPPERS.contains(part)).collect::<Vec<_>>().join(".")
}

/// All sets of a file, whole or not.
///
/// # Errors
/// `BAD_CHECKPOINT` for two tensors of one name.
pub fn sets<'a>(file: &'a File, expected: &[(&'a str, &[usize])], weights: &Weights) -> Result<Vec<Set<'a>>> {
    let undotted: Vec<String> = expected.iter().map(|(name, _)| name.replace('.', "")).collect();
    let mut sets: BTreeMap<(&str, &str, bool), Set<'a>> = BTreeMap::new();
    let clash = |first: &Listed, second: &Listed, name: &str| {
        let cause = format!("{} and {} would both be {name}", first.full_name(), second.full_name());
        bad(&file.path, cause, "Save the network's state_dict alone")
    };
    for (i, tensor) in file.tensors.iter().enumerate() {
        let mut add = |prefix: &'a str, merged: bool, name: &'a str| {
            let ema = is_ema(&format!("{}.{prefix}", tensor.dict));
            let new = || Set { dict: &tensor.dict, prefix, ema, found: BTreeMap::new() };
            let set = sets.entry((&tensor.dict, prefix, merged)).or_insert_with(new);
            match set.found.insert(name, i) {
                Some(other) => Err(clash(&file.tensors[other], tensor, name)),
                None => Ok(()),
            }
        };
        let merged = is_ema(&tensor.name);
        for (&(name, _), undotted) in expected.iter().zip(&undotted) {
            match tensor.name.strip_suffix(name) {
                Some(prefix) if prefix.is_empty() || prefix.ends_with('.') => add(prefix, false, name)?,
                _ => {}
            }
            // LitEma, of latent diffusion, drops the dots of the names that it averages.
            if merged && let Some(prefix) = tensor.name.strip_suffix(undotted.as_str()) {
                add(prefix, true, name)?;
            }
        }
    }
    let mut sets: Vec<Set> = sets.into_values().collect();
    if *weights != Weights::Model {
        sets.extend(unnamed(file, &sets, expected)?);
    }
    Ok(sets)
}

/// Averages that keep a list of tensors without names (torch_ema, score_sde): in the order of the trained ones.
fn unnamed<'a>(file: &'a File, sets: &[Set<'a>], expected: &[(&'a str, &[usize])]) -> Result<Vec<Set<'a>>> {
    let mut lists: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let numbered = |tensor: &Listed| tensor.name.bytes().all(|b| b.is_ascii_digit());
    for (i, tensor) in file.tensors.iter().enumerate().filter(|(_, t)| numbered(t) && is_ema(&t.dict)) {
        lists.entry(&tensor.dict).or_default().push(i);
    }
    let trained = sets.iter().find(|set| !set.ema && set.found.len() == expected.len());
    let mut found = Vec::new();
    for (dict, list) in lists.into_iter().filter(|(_, list)| 2 * list.len() >= expected.len()) {
        let Some(trained) = trained else { continue };
        let mut order: Vec<(usize, &str)> = trained.found.iter().map(|(&name, &i)| (i, name)).collect();
        order.sort_unstable();
        let pairs = || order.iter().zip(&list);
        if order.len() != list.len() || pairs().any(|(&(i, _), &j)| file.tensors[i].shape != file.tensors[j].shape) {
            let cause = format!(
                "the {} tensors in {dict:?} have no names, and are not those of {}",
                list.len(),
                trained.called()
            );
            return Err(bad(
                &file.path,
                cause,
                "Save the average under its names: copy it into the network, and save its state_dict",
            ));
        }
        let found_by_name = pairs().map(|(&(_, name), &j)| (name, j)).collect();
        found.push(Set { dict, prefix: "", ema: true, found: found_by_name });
    }
    Ok(found)
}
