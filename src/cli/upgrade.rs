//! `uvit upgrade`.

use super::output::say;
use std::path::PathBuf;
use uvit_web::Result;
use uvit_web::package::{FORMAT_VERSION, read_manifest, write_manifest};

#[derive(clap::Args)]
pub struct Arguments {
    /// The model: a manifest.json or its folder
    model: PathBuf,
}

pub fn run(a: &Arguments) -> Result<()> {
    let (manifest, _) = read_manifest(&a.model)?;
    let path = write_manifest(&a.model, &manifest)?;
    say!("wrote {} in version {FORMAT_VERSION}", path.display())
}
