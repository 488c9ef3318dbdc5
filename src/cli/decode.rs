//! Picture files as pixels: PNG, JPEG, WebP and GIF, the way up that their EXIF data say.

use image::codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::{
    AnimationDecoder, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, ImageResult, Limits, RgbaImage,
};
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
    // Some decoders end their messages with a line break.
    Error::new(Code::InvalidArgument, format!("{}: {cause}", path.display()).trim_end(), remedy)
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

/// What a decoder may take.
pub fn limits() -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MOST_BYTES);
    limits
}

/// What a picture shows, not premultiplied. Of one that moves it is the first picture, with a warning.
///
/// # Errors
/// `IO`; `INVALID_ARGUMENT` for what is no picture, or a larger one than is read.
pub fn rgba(path: &Path) -> Result<RgbaImage> {
    let file = File::open(path).map(BufReader::new).map_err(|e| unreadable(path, e))?;
    let mut reader = ImageReader::new(file).with_guessed_format().map_err(|e| unreadable(path, e))?;
    let Some(format) = reader.format() else { return Err(invalid(path, "it is no picture", REMEDY)) };
    let limits = limits();
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
    if moves(path, format, limits).unwrap_or(false) {
        let _ = writeln!(std::io::stderr(), "warning: {} moves; its first picture is taken", path.display());
    }
    Ok(picture.into_rgba8())
}

/// Whether a file holds several pictures.
fn moves(path: &Path, format: ImageFormat, limits: Limits) -> ImageResult<bool> {
    let file = BufReader::new(File::open(path)?);
    match format {
        ImageFormat::Png => PngDecoder::with_limits(file, limits)?.is_apng(),
        ImageFormat::WebP => Ok(WebPDecoder::new(file)?.has_animation()),
        ImageFormat::Gif => {
            let mut gif = GifDecoder::new(file)?;
            gif.set_limits(limits)?;
            Ok(gif.into_frames().nth(1).is_some())
        }
        _ => Ok(false),
    }
}

/// The same on white, for networks.
///
/// # Errors
/// Those of [`rgba`].
pub fn picture(path: &Path) -> Result<Picture> {
    let decoded = rgba(path)?;
    Picture::from_rgba(decoded.as_raw(), decoded.width() as usize, decoded.height() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::{gif::GifEncoder, jpeg::JpegEncoder, png::PngEncoder};
    use image::{ExtendedColorType, Frame, ImageEncoder, Rgba};

    /// What such a file shows.
    fn decoded(name: &str, bytes: &[u8]) -> Result<RgbaImage> {
        with_file(name, bytes, rgba)
    }

    fn with_file<T>(name: &str, bytes: &[u8], read: impl Fn(&Path) -> T) -> T {
        let folder = std::env::temp_dir().join(format!("uvit-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
        let read = read(&folder.join(name));
        std::fs::remove_dir_all(folder).unwrap();
        read
    }

    /// EXIF data that say nothing but an orientation.
    fn exif(orientation: u8) -> Vec<u8> {
        let mut bytes = b"II*\0\x08\0\0\0\x01\0".to_vec();
        bytes.extend([0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    /// 16 x 8 pixels, red on the left, blue on the right.
    fn wide() -> Vec<u8> {
        (0..8).flat_map(|_| (0..16).flat_map(|x| if x < 8 { [255, 0, 0] } else { [0, 0, 255] })).collect()
    }

    fn is_red(pixel: &Rgba<u8>) -> bool {
        pixel.0[0] > 200 && pixel.0[2] < 60
    }

    #[test]
    fn pictures_stand_the_way_up_that_their_exif_data_say() {
        // 6: it was turned a quarter against the clock, so that the left edge goes on top. 3: it stood on its head.
        for (orientation, size, red) in
            [(1, (16, 8), (0, 0)), (3, (16, 8), (15, 7)), (6, (8, 16), (7, 0)), (8, (8, 16), (0, 15))]
        {
            let (mut png, mut jpeg) = (Vec::new(), Vec::new());
            let mut encoder = PngEncoder::new(&mut png);
            encoder.set_exif_metadata(exif(orientation)).unwrap();
            encoder.write_image(&wide(), 16, 8, ExtendedColorType::Rgb8).unwrap();
            let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, 95);
            encoder.set_exif_metadata(exif(orientation)).unwrap();
            encoder.write_image(&wide(), 16, 8, ExtendedColorType::Rgb8).unwrap();
            for (name, bytes) in [("turned.png", png), ("turned.jpg", jpeg)] {
                let decoded = decoded(name, &bytes).unwrap();
                assert_eq!(decoded.dimensions(), size, "{name} {orientation}");
                assert!(is_red(decoded.get_pixel(red.0, red.1)), "{name} {orientation}");
                let opposite = (size.0 - 1 - red.0, size.1 - 1 - red.1);
                assert!(!is_red(decoded.get_pixel(opposite.0, opposite.1)), "{name} {orientation}");
            }
        }
    }

    #[test]
    fn a_picture_that_moves_stands_still_at_its_first() {
        let mut bytes = Vec::new();
        let mut encoder = GifEncoder::new(&mut bytes);
        for colour in [[255, 0, 0, 255], [0, 0, 255, 255]] {
            encoder.encode_frame(Frame::new(RgbaImage::from_pixel(3, 2, Rgba(colour)))).unwrap();
        }
        drop(encoder);
        let mut apng = Vec::new();
        let mut encoder = png::Encoder::new(&mut apng, 3, 2);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_animated(2, 0).unwrap();
        let mut writer = encoder.write_header().unwrap();
        for colour in [[255, 0, 0], [0, 0, 255]] {
            writer.write_image_data(&colour.repeat(6)).unwrap();
        }
        writer.finish().unwrap();
        for (name, format, bytes) in [("moves.gif", ImageFormat::Gif, bytes), ("moves.png", ImageFormat::Png, apng)] {
            let decoded = decoded(name, &bytes).unwrap();
            assert!(decoded.dimensions() == (3, 2) && decoded.pixels().all(is_red), "{name}");
            assert!(with_file(name, &bytes, |path| moves(path, format, Limits::no_limits()).unwrap()), "{name}");
        }
    }

    #[test]
    fn one_pixel_is_a_picture_and_what_shows_through_it_is_white() {
        let mut bytes = Vec::new();
        PngEncoder::new(&mut bytes).write_image(&[200, 0, 100, 51], 1, 1, ExtendedColorType::Rgba8).unwrap();
        let dot = with_file("dot.png", &bytes, picture).unwrap();
        // A fifth of it, and four of white.
        assert_eq!((dot.width(), dot.height(), dot.rgb()), (1, 1, &[244, 204, 224][..]));
    }

    #[test]
    fn what_is_no_picture_or_too_large_a_one_is_refused() {
        let mut bytes = Vec::new();
        PngEncoder::new(&mut bytes).write_image(&wide(), 16, 8, ExtendedColorType::Rgb8).unwrap();
        let cut = &bytes[..bytes.len() - 30];
        for (name, bytes, cause) in [
            ("words.txt", &b"no picture at all"[..], "it is no picture"),
            ("empty.png", &[], "it is no picture"),
            ("named.png", b"BM is a picture, and none that is read", ""),
            ("cut.png", cut, ""),
            ("cut.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF", ""),
        ] {
            let error = decoded(name, bytes).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{error}");
            assert!(
                error.cause.contains(name) && error.cause.contains(cause) && !error.cause.ends_with('\n'),
                "{error}"
            );
        }
        assert_eq!(rgba(Path::new("no/such.png")).unwrap_err().code, Code::Io);
        for (width, height) in [(30_000u32, 2u32), (2, 16_385), (16_000, 16_000)] {
            // The header alone says so: its data are no more than those of 16 x 8 pixels.
            let mut header = b"IHDR".to_vec();
            header.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
            header.extend([8, 2, 0, 0, 0]);
            let mut huge = bytes[..12].to_vec();
            huge.extend(&header);
            huge.extend(crc32(&header).to_be_bytes());
            huge.extend(&bytes[33..]);
            let error = decoded("huge.png", &huge).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument);
            assert!(error.cause.contains(&format!("huge.png: it has {width} x {height} pixels")), "{error}");
        }
    }

    /// A PNG chunk's checksum.
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
        })
    }
}
