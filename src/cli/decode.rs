//! Picture files as pixels: PNG, JPEG, WebP and GIF, the way up that their EXIF data say.

use image::codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::{AnimationDecoder, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbaImage};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Write};
use std::path::Path;
use uvit_web::pipeline::Picture;
use uvit_web::{Code, Error, Result};

/// Larger pictures are refused before there is memory for them: a side, and all pixels.
const MOST_SIDE: u32 = 16384;
const MOST_PIXELS: u64 = 1 << 26;
/// What a decoder may need besides.
const MOST_BYTES: u64 = 1 << 30;

const REMEDY: &str = "Give a PNG, JPEG, WebP or GIF picture";

fn invalid(path: &Path, cause: impl std::fmt::Display, remedy: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, format!("{}: {cause}", path.display()), remedy)
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        // What decoders say of a file that is cut off.
        ErrorKind::UnexpectedEof | ErrorKind::InvalidData => invalid(path, error, REMEDY),
        _ => {
            let cause = format!("{}: {error}", path.display());
            Error::new(Code::Io, cause, "Check that the file exists and can be read")
        }
    }
}

fn broken(path: &Path, error: ImageError) -> Error {
    match error {
        ImageError::IoError(error) => unreadable(path, error),
        error => invalid(path, error, REMEDY),
    }
}

/// What a picture shows, not premultiplied. Of one that moves it is the first picture, with a warning.
///
/// # Errors
/// `IO`; `INVALID_ARGUMENT` for what is no picture, or a larger one than is read.
pub fn rgba(path: &Path) -> Result<RgbaImage> {
    let open = || File::open(path).map(BufReader::new).map_err(|e| unreadable(path, e));
    let mut reader = ImageReader::new(open()?).with_guessed_format().map_err(|e| unreadable(path, e))?;
    let Some(format) = reader.format() else { return Err(invalid(path, "it is no picture", REMEDY)) };
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(|e| broken(path, e))?;
    let (width, height) = decoder.dimensions();
    if width.max(height) > MOST_SIDE || u64::from(width) * u64::from(height) > MOST_PIXELS {
        let cause = format!("it has {width} x {height} pixels");
        let remedy =
            format!("Give one of at most {MOST_SIDE} pixels a side, {} million in all", MOST_PIXELS / 1_000_000);
        return Err(invalid(path, cause, remedy));
    }
    let orientation = decoder.orientation().map_err(|e| broken(path, e))?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| broken(path, e))?;
    picture.apply_orientation(orientation);
    let moves = match format {
        ImageFormat::Png => PngDecoder::with_limits(open()?, limits).and_then(|png| png.is_apng()),
        ImageFormat::WebP => WebPDecoder::new(open()?).map(|webp| webp.has_animation()),
        ImageFormat::Gif => GifDecoder::new(open()?).map(|gif| gif.into_frames().nth(1).is_some()),
        _ => Ok(false),
    };
    if moves.unwrap_or(false) {
        let _ = writeln!(std::io::stderr(), "warning: {} moves; its first picture is taken", path.display());
    }
    Ok(picture.into_rgba8())
}

/// The same on white, for networks.
///
/// # Errors
/// Those of [`rgba`].
pub fn picture(path: &Path) -> Result<Picture> {
    let decoded = rgba(path)?;
    Picture::from_rgba(decoded.as_raw(), decoded.width() as usize, decoded.height() as usize)
}
