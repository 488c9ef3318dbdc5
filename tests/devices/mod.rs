//! The devices that native tests run on, and what happens where one is missing.

use std::io::Write;
use uvit_web::Error;

/// Whether a missing adapter is a failure (`UVIT_GPU=required`).
fn required() -> bool {
    std::env::var("UVIT_GPU").is_ok_and(|value| value == "required")
}

/// Says loudly that something was not tested; `scripts/test` counts the line. Written past the test harness, which would
/// swallow what a passing test prints.
pub fn skip(what: &str) {
    let _ = writeln!(std::io::stdout(), "\nSKIPPED: {what}\n0 passed, 0 failed, 1 skipped");
}

/// What opening a device gave, or none if there is no adapter and none is required.
///
/// # Panics
/// If an adapter is required.
pub fn found<T>(opened: Result<T, Error>) -> Option<T> {
    match opened {
        Ok(device) => Some(device),
        Err(error) if required() => panic!("{error}"),
        Err(error) => {
            skip(&error.to_string());
            None
        }
    }
}
