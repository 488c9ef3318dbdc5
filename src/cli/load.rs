//! Loading a model from its folder.

use super::records;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use uvit_web::package::{read_asset, read_manifest};
use uvit_web::pipeline::{Answer, LoadOptions, Loader, Pipeline, Source};
use uvit_web::weights::StoredFile;
use uvit_web::{Code, Error, Result};

/// A model's folder.
struct Folder(PathBuf);

impl Folder {
    fn read(&self, file: &StoredFile) -> Result<Vec<u8>> {
        let path = self.0.join(&file.file);
        std::fs::read(&path).map_err(|e| {
            let cause = format!("{}: {e}", path.display());
            Error::new(Code::Io, cause, "Check that the file exists and can be read")
        })
    }
}

impl Source for Folder {
    fn bring(&self, file: &StoredFile) -> Answer<Vec<u8>> {
        let bytes = self.read(file);
        Box::pin(async move { bytes })
    }
}

/// Loads a model from files.
pub fn load(model: &Path, options: LoadOptions) -> Result<Pipeline> {
    let (manifest, folder) = read_manifest(model)?;
    manifest.assets.iter().try_for_each(|(name, _)| read_asset(&folder, &manifest, name).map(drop))?;
    let folder = Folder(folder);
    pollster::block_on(async {
        let mut loader = Loader::new(manifest, options).await?;
        if let Some(new) = loader.device().tuned.as_ref().and_then(|tuned| tuned.records.as_deref()) {
            records::write(new);
        }
        let bar = ProgressBar::new(loader.files().iter().map(|needed| needed.stored.bytes).sum());
        bar.set_style(style("{msg} {bar:40} {bytes}/{total_bytes}"));
        bar.set_message("loading ");
        for index in 0..loader.files().len() {
            let bytes = folder.read(&loader.files()[index].stored)?;
            loader.add_file(index, &bytes).await?;
            bar.inc(bytes.len() as u64);
        }
        bar.finish_and_clear();
        let mut pipeline = loader.finish().await?;
        pipeline.bring_from(Rc::new(folder));
        Ok(pipeline)
    })
}

/// The network that is sampled, alone: for commands that look at nothing else.
pub fn load_denoiser(model: &Path, options: LoadOptions) -> Result<Pipeline> {
    load(model, LoadOptions { only_denoiser: true, ..options })
}

pub fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
