//! PNG files with their settings inside.

use std::path::Path;
use uvit_web::{Code, Error, Result};

/// Writes RGBA pixels; each text is a chunk `keyword`, `text`.
///
/// # Errors
/// `IO`.
pub fn write(path: &Path, rgba: &[u8], width: usize, height: usize, texts: &[(&str, String)]) -> Result<()> {
    let fail = |e: &dyn std::fmt::Display| {
        Error::new(Code::Io, format!("{}: {e}", path.display()), "Check that the folder exists and can be written")
    };
    let file = std::fs::File::create(path).map_err(|e| fail(&e))?;
    let mut encoder = png::Encoder::new(std::io::BufWriter::new(file), width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, text) in texts {
        encoder.add_itxt_chunk((*keyword).to_owned(), text.clone()).map_err(|e| fail(&e))?;
    }
    let mut writer = encoder.write_header().map_err(|e| fail(&e))?;
    writer.write_image_data(rgba).map_err(|e| fail(&e))?;
    writer.finish().map_err(|e| fail(&e))
}
