//! The tool `uvit`: convert checkpoints, look inside models, generate pictures, measure quality.

mod animation;
mod bench;
mod block_cache;
mod calibrate;
mod caption;
mod convert;
mod decode;
mod drawing;
mod examples;
mod forward;
mod generate;
mod inspect;
mod load;
mod many;
mod output;
mod pictures;
mod presets;
mod preview;
mod progress;
mod quality;
mod rates;
mod records;
mod refusal;
mod report;
mod samplers;
mod sensitivity;
mod settings_png;
mod sizes;
mod start;
mod tokens;
mod upgrade;
mod vary;
mod verify;

use clap::{Parser, Subcommand};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use uvit_web::{Code, Error, Result};

/// Diffusion with U-ViT models: convert, inspect, generate.
#[derive(Parser)]
#[command(name = "uvit", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Convert a published checkpoint (.safetensors, .pth) to a manifest and shards
    Convert(convert::Arguments),
    /// Print what is inside a model: tensors, bytes, cost of a forward; no device needed
    Inspect(inspect::Arguments),
    /// List the published models: their size, cost and sampling
    Presets(presets::Arguments),
    /// Generate pictures as PNG files, and texts
    Generate(Box<generate::Arguments>),
    /// Say what pictures show, with a model that reads and writes both
    Caption(caption::Arguments),
    /// Write another text of what a text says, or draw another picture of what a picture shows, with such a model
    Vary(vary::Arguments),
    /// Put the parts of a divided `generate --out-npz` together
    Merge(many::Merge),
    /// Call the network once, with tensors from a file
    Forward(forward::Arguments),
    /// Compare the network with inputs and outputs from PyTorch, however it can be computed
    Verify(verify::Arguments),
    /// Time a forward, and on a GPU each of its kernels
    Bench(bench::Arguments),
    /// Measure what quantisation costs, against the same model in f32
    Quality(quality::Arguments),
    /// Measure how near samplers come to the exact solution with few steps
    Samplers(samplers::Arguments),
    /// Find out in which steps a model may leave out its inner blocks
    BlockCache(block_cache::Arguments),
    /// Measure which layers bear coarse activations
    Sensitivity(sensitivity::Arguments),
    /// Write a model's manifest anew in the current version of the format; the shards stay as they are
    Upgrade(upgrade::Arguments),
}

fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => match refusal::of(&error) {
            Some(ours) => return report(&ours),
            None => error.exit(),
        },
    };
    let result = match command {
        Command::Convert(arguments) => convert::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Presets(arguments) => presets::run(&arguments),
        Command::Generate(arguments) => generate::run(&arguments),
        Command::Caption(arguments) => caption::run(&arguments),
        Command::Vary(arguments) => vary::run(&arguments),
        Command::Merge(arguments) => many::merge(&arguments),
        Command::Forward(arguments) => forward::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Quality(arguments) => quality::run(&arguments),
        Command::Samplers(arguments) => samplers::run(&arguments),
        Command::BlockCache(arguments) => block_cache::run(&arguments),
        Command::Sensitivity(arguments) => sensitivity::run(&arguments),
        Command::Upgrade(arguments) => upgrade::run(&arguments),
    };
    match result {
        Err(error) if !output::closed(&error) => report(&error),
        _ => ExitCode::SUCCESS,
    }
}

fn report(error: &Error) -> ExitCode {
    // A closed standard error is no reason to panic.
    let _ = writeln!(std::io::stderr(), "error[{}]: {}\n  remedy: {}", error.code, error.cause, error.remedy);
    ExitCode::from(error.code.exit_status())
}

/// Reads a text file.
fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| {
        let cause = format!("{}: {e}", path.display());
        Error::new(Code::Io, cause, "Check that the file exists and can be read")
    })
}
