//! Values of options that are refused, in the form of all our errors: a code, a cause, a remedy.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::path::PathBuf;
use uvit_web::{Code, Error, Result};

/// Our error for a value that clap could not read; none for what clap explains better itself (unknown options, help).
pub fn of(error: &clap::Error) -> Option<Error> {
    if error.kind() != ErrorKind::ValueValidation {
        return None;
    }
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let option = text(ContextKind::InvalidArg).split(' ').next().unwrap_or_default();
    let source = std::error::Error::source(error);
    if let Some(ours) = source.and_then(|source| source.downcast_ref::<Error>()) {
        // "--seed is -1", "--sampler: there is no sampler of that name".
        let colon = if ours.cause.starts_with("is ") { "" } else { ":" };
        return Some(Error::new(ours.code, format!("{option}{colon} {}", ours.cause), ours.remedy.clone()));
    }
    let number = source.is_some_and(|source| source.is::<std::num::ParseFloatError>());
    let remedy = if number { "Give a number" } else { "See `uvit help` for what it takes" };
    let cause = format!("{option} is {:?}", text(ContextKind::InvalidValue));
    Some(Error::new(Code::InvalidArgument, cause, remedy))
}

/// A whole number from `least` to `most`.
fn whole(text: &str, least: u64, most: u64) -> Result<u64> {
    let value = text.parse::<i128>().ok().filter(|value| (i128::from(least)..=i128::from(most)).contains(value));
    let value = value.and_then(|value| u64::try_from(value).ok());
    value.ok_or_else(|| {
        let remedy = match most {
            u64::MAX => format!("Give a whole number, {least} or more"),
            most => format!("Give a whole number from {least} to {most}"),
        };
        Error::new(Code::InvalidArgument, format!("is {text:?}"), remedy)
    })
}

/// A seed.
pub fn seed(text: &str) -> Result<u32> {
    whole(text, 0, u32::MAX.into()).map(|value| value as u32)
}

/// How many of something, none among them.
pub fn count(text: &str) -> Result<usize> {
    whole(text, 0, u32::MAX.into()).map(|value| value as usize)
}

/// How many of something, one at least.
pub fn some(text: &str) -> Result<usize> {
    whole(text, 1, u32::MAX.into()).map(|value| value as usize)
}

/// Images of one forward. The bound keeps what is counted with them within 64 bits.
pub fn images(text: &str) -> Result<usize> {
    whole(text, 1, 4096).map(|value| value as usize)
}

/// Threads.
pub fn threads(text: &str) -> Result<usize> {
    whole(text, 1, 1024).map(|value| value as usize)
}

/// Where something lies, by its name.
pub fn located(text: &str) -> Result<(String, PathBuf)> {
    match text.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty()) {
        Some((name, path)) => Ok((name.to_owned(), path.into())),
        None => {
            let cause = format!("is {text:?}");
            Err(Error::new(Code::InvalidArgument, cause, "Give a name and a path, such as decoder=autoencoder_kl.pth"))
        }
    }
}
