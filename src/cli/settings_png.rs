//! Reads pictures that this tool has written. It stands alone, so that `tests/fuzz` can include it.

use std::path::Path;
use uvit_web::json::Value;
use uvit_web::{Code, Error, Result};

/// The keyword of a PNG's text chunk with the settings.
pub const SETTINGS: &str = "Settings";

/// Larger text chunks, and all of a picture's buffers, are refused.
const MAX_PNG_BYTES: usize = 256 << 20;

/// A picture's settings and its pixels, RGBA; of a clip those of all frames.
///
/// # Errors
/// `IO`; `INVALID_ARGUMENT` for anything but a PNG that this tool has written.
pub fn read(path: &Path) -> Result<(Value, Vec<u8>)> {
    let file = std::fs::File::open(path).map_err(|e| {
        Error::new(Code::Io, format!("{}: {e}", path.display()), "Check that the file exists and can be read")
    })?;
    read_from(std::io::BufReader::new(file)).map_err(|what| {
        let cause = format!("{}: {what}", path.display());
        Error::new(Code::InvalidArgument, cause, "Give a PNG that uvit has written")
    })
}

/// [`read`] from anywhere; or what is wrong.
pub fn read_from(source: impl std::io::BufRead + std::io::Seek) -> std::result::Result<(Value, Vec<u8>), String> {
    let limits = png::Limits { bytes: MAX_PNG_BYTES };
    let mut decoder = png::Decoder::new_with_limits(source, limits);
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(|e| e.to_string())?;
    let text = reader.info().utf8_text.iter().find(|chunk| chunk.keyword == SETTINGS);
    let mut text = text.ok_or_else(|| "it holds no settings".to_owned())?.clone();
    // Within a bound; `get_text` alone has none.
    text.decompress_text().map_err(|e| e.to_string())?;
    let text = text.get_text().map_err(|e| e.to_string())?;
    let settings: Value = serde_json::from_str(&text).map_err(|e| format!("its settings are broken ({e})"))?;
    let size = reader.output_buffer_size().filter(|size| *size <= MAX_PNG_BYTES);
    let size = size.ok_or_else(|| "it is too large".to_owned())?;
    let frames = reader.info().animation_control.map_or(1, |animation| animation.num_frames.max(1) as usize);
    let all = frames.checked_mul(size).filter(|all| *all <= MAX_PNG_BYTES);
    let mut pixels = vec![0; all.ok_or_else(|| "it is too large".to_owned())?];
    for frame in pixels.chunks_mut(size.max(1)) {
        reader.next_frame(frame).map_err(|e| e.to_string())?;
    }
    match reader.info().color_type {
        png::ColorType::Rgba => Ok((settings, pixels)),
        other => Err(format!("its colours are {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pixel with such settings, compressed as other programs may do it.
    fn compressed(settings: String) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.set_color(png::ColorType::Rgba);
        let mut writer = encoder.write_header().unwrap();
        let mut chunk = png::text_metadata::ITXtChunk::new(SETTINGS, settings);
        chunk.compressed = true;
        writer.write_text_chunk(&chunk).unwrap();
        writer.write_image_data(&[1, 2, 3, 4]).unwrap();
        writer.finish().unwrap();
        bytes
    }

    #[test]
    fn settings_that_grow_without_bound_are_refused() {
        let read = |settings| read_from(std::io::Cursor::new(compressed(settings)));
        assert_eq!(read(r#"{"seed":7}"#.into()).unwrap(), (uvit_web::json::json!({ "seed": 7 }), vec![1, 2, 3, 4]));
        let bomb = compressed(" ".repeat(64 << 20) + "{}");
        assert!(bomb.len() < 1 << 20);
        assert!(read_from(std::io::Cursor::new(bomb)).is_err());
    }
}
