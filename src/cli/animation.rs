//! Clips as files: APNG and GIF are written, and read as what a clip starts from, as WebP files that move and folders of pictures are.

use super::decode;
use super::settings_png::SETTINGS;
use image::codecs::gif::{GifDecoder, GifEncoder, Repeat};
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, Delay, Frame, Frames, ImageDecoder, ImageFormat, ImageReader, ImageResult, RgbaImage};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use uvit_web::pipeline::MAX_FRAMES;
use uvit_web::{Code, Error, Result};

const REMEDY: &str =
    "Give an APNG, a GIF or a WebP that moves, or a folder of pictures, one a frame, in the order of their names";

/// Endings of pictures in a folder of frames.
const PICTURES: [&str; 5] = ["png", "jpg", "jpeg", "webp", "gif"];

/// How a clip is shown.
#[derive(Clone, Copy)]
pub struct Shown {
    pub width: usize,
    pub height: usize,
    /// Frames a second.
    pub rate: f64,
}

/// An APNG that is played again and again, with the settings that drew it.
///
/// # Errors
/// `INTERNAL`.
pub fn apng(frames: &[Vec<u8>], shown: Shown, settings: String) -> Result<Vec<u8>> {
    let Shown { width, height, rate } = shown;
    let whole = rate.fract() == 0.0 && rate <= f64::from(u16::MAX);
    let (numerator, denominator) = if whole { (1, rate as u16) } else { ((1000.0 / rate).round() as u16, 1000) };
    let encode = |bytes: &mut Vec<u8>| -> std::result::Result<(), png::EncodingError> {
        let mut encoder = png::Encoder::new(bytes, width as u32, height as u32);
        encoder.set_color(png::ColorType::Rgba);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_animated(frames.len() as u32, 0)?;
        encoder.set_frame_delay(numerator, denominator)?;
        encoder.add_itxt_chunk("Software".into(), format!("uvit-web {}", env!("CARGO_PKG_VERSION")))?;
        encoder.add_itxt_chunk(SETTINGS.into(), settings)?;
        let mut writer = encoder.write_header()?;
        frames.iter().try_for_each(|frame| writer.write_image_data(frame))?;
        writer.finish()
    };
    let mut bytes = Vec::new();
    encode(&mut bytes).map_err(|e| Error::internal(format!("an APNG was not encoded: {e}")))?;
    Ok(bytes)
}

/// A GIF that is played again and again, of at most 256 colours a frame. It counts hundredths of a second: frames take such turns that
/// the rate is kept.
///
/// # Errors
/// `INTERNAL`.
pub fn gif(frames: &[Vec<u8>], shown: Shown) -> Result<Vec<u8>> {
    let Shown { width, height, rate } = shown;
    let at = |frame: usize| (100.0 * frame as f64 / rate).round() as u32;
    let encode = |bytes: &mut Vec<u8>| -> ImageResult<()> {
        // The slowest of its speeds: the others look at fewer pixels for a palette.
        let mut encoder = GifEncoder::new_with_speed(bytes, 1);
        encoder.set_repeat(Repeat::Infinite)?;
        for (k, frame) in frames.iter().enumerate() {
            let picture = RgbaImage::from_raw(width as u32, height as u32, frame.clone()).unwrap_or_default();
            let delay = Delay::from_numer_denom_ms(10 * (at(k + 1) - at(k)), 1);
            encoder.encode_frame(Frame::from_parts(picture, 0, 0, delay))?;
        }
        Ok(())
    };
    let mut bytes = Vec::new();
    encode(&mut bytes).map_err(|e| Error::internal(format!("a GIF was not encoded: {e}")))?;
    Ok(bytes)
}

fn invalid(path: &Path, cause: impl std::fmt::Display, remedy: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, format!("{}: {cause}", path.display()).trim_end(), remedy)
}

/// The frames of a clip, which must be so many of that size, not premultiplied.
///
/// # Errors
/// `IO`; `INVALID_ARGUMENT` for what is no clip, or one of another size or length.
pub fn read(path: &Path, count: usize, [height, width]: [usize; 2]) -> Result<Vec<RgbaImage>> {
    let frames = if path.is_dir() { of_folder(path, [height, width])? } else { of_file(path, [height, width])? };
    let remedy = format!("Give {count} frames of {width} x {height} pixels, or another --frames");
    if frames.len() != count {
        let many = if frames.len() > MAX_FRAMES { format!("more than {MAX_FRAMES}") } else { frames.len().to_string() };
        return Err(invalid(path, format!("it has {many} frames, and {count} are drawn"), remedy));
    }
    Ok(frames)
}

fn check_size(path: &Path, found: (u32, u32), [height, width]: [usize; 2]) -> Result<()> {
    if found == (width as u32, height as u32) {
        return Ok(());
    }
    let cause = format!("it has {} x {} pixels, and the model draws {width} x {height}", found.0, found.1);
    Err(invalid(path, cause, format!("Give a clip of {width} x {height} pixels")))
}

fn of_folder(path: &Path, size: [usize; 2]) -> Result<Vec<RgbaImage>> {
    let unreadable = |e: std::io::Error| {
        let cause = format!("{}: {e}", path.display());
        Error::new(Code::Io, cause, "Check that the folder exists and can be read")
    };
    let entries = std::fs::read_dir(path).map_err(unreadable)?;
    let mut pictures: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let file = entry.map_err(unreadable)?.path();
        let ending = file.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        if PICTURES.contains(&ending.as_str()) {
            pictures.push(file);
        }
    }
    if pictures.is_empty() {
        return Err(invalid(path, "there are no pictures in this folder", REMEDY));
    }
    pictures.sort();
    let mut frames = Vec::new();
    for file in pictures.iter().take(MAX_FRAMES + 1) {
        let frame = decode::rgba(file)?;
        check_size(file, frame.dimensions(), size)?;
        frames.push(frame);
    }
    Ok(frames)
}

fn of_file(path: &Path, size: [usize; 2]) -> Result<Vec<RgbaImage>> {
    let broken = |e: &dyn std::fmt::Display| invalid(path, e, REMEDY);
    let open = || {
        File::open(path).map(BufReader::new).map_err(|e| {
            Error::new(Code::Io, format!("{}: {e}", path.display()), "Check that the file exists and can be read")
        })
    };
    let reader = ImageReader::new(open()?).with_guessed_format().map_err(|e| broken(&e))?;
    let Some(format) = reader.format() else { return Err(invalid(path, "it is no clip", REMEDY)) };
    let limits = decode::limits();
    // Known before there is memory for any frame.
    let frames: Frames<'_> = match format {
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(open()?, limits).map_err(|e| broken(&e))?;
            check_size(path, decoder.dimensions(), size)?;
            if !decoder.is_apng().map_err(|e| broken(&e))? {
                return Ok(vec![decode::rgba(path)?]);
            }
            decoder.apng().map_err(|e| broken(&e))?.into_frames()
        }
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(open()?).map_err(|e| broken(&e))?;
            check_size(path, decoder.dimensions(), size)?;
            decoder.set_limits(limits).map_err(|e| broken(&e))?;
            decoder.into_frames()
        }
        ImageFormat::WebP => {
            let decoder = WebPDecoder::new(open()?).map_err(|e| broken(&e))?;
            check_size(path, decoder.dimensions(), size)?;
            if !decoder.has_animation() {
                return Ok(vec![decode::rgba(path)?]);
            }
            decoder.into_frames()
        }
        _ => {
            let picture = decode::rgba(path)?;
            check_size(path, picture.dimensions(), size)?;
            return Ok(vec![picture]);
        }
    };
    let mut all = Vec::new();
    for frame in frames.take(MAX_FRAMES + 1) {
        all.push(frame.map_err(|e| broken(&e))?.into_buffer());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five frames of 4 x 3 pixels: a red dot that moves on blue.
    fn clip() -> Vec<Vec<u8>> {
        let pixel = |at: usize, dot: usize| if at == dot { [255, 0, 0, 255] } else { [0, 0, 255, 255] };
        (0..5).map(|k| (0..12).flat_map(|at| pixel(at, 2 * k)).collect()).collect()
    }

    const SHOWN: Shown = Shown { width: 4, height: 3, rate: 8.0 };

    fn with_file<T>(name: &str, bytes: &[u8], read: impl Fn(&Path) -> T) -> T {
        let folder = std::env::temp_dir().join(format!("uvit-clip-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
        let read = read(&folder.join(name));
        std::fs::remove_dir_all(folder).unwrap();
        read
    }

    #[test]
    fn what_is_written_is_read_frame_by_frame() {
        let frames = clip();
        let pixels = |frames: Vec<RgbaImage>| frames.into_iter().map(RgbaImage::into_raw).collect::<Vec<_>>();
        for (name, bytes) in
            [("c.png", apng(&frames, SHOWN, "{}".into()).unwrap()), ("c.gif", gif(&frames, SHOWN).unwrap())]
        {
            let back = with_file(name, &bytes, |path| read(path, 5, [3, 4]).unwrap());
            assert_eq!(pixels(back), frames, "{name}");
            let short = with_file(name, &bytes, |path| read(path, 6, [3, 4]).unwrap_err());
            assert!(short.cause.contains("it has 5 frames, and 6 are drawn"), "{short}");
            let small = with_file(name, &bytes, |path| read(path, 5, [4, 4]).unwrap_err());
            assert!(small.cause.contains("it has 4 x 3 pixels, and the model draws 4 x 4"), "{small}");
            let cut = with_file(name, &bytes[..bytes.len() / 2], |path| read(path, 5, [3, 4]).unwrap_err());
            assert_eq!(cut.code, Code::InvalidArgument, "{cut}");
        }
        // Eight frames take a second, though a GIF counts hundredths.
        let bytes = gif(&[&frames[..], &frames[..3]].concat(), SHOWN).unwrap();
        let decoder = GifDecoder::new(std::io::Cursor::new(bytes)).unwrap();
        let ms = decoder.into_frames().map(|frame| frame.unwrap().delay().numer_denom_ms().0).sum::<u32>();
        assert_eq!(ms, 1000);
        let none = with_file("words.txt", b"no clip", |path| read(path, 5, [3, 4]).unwrap_err());
        assert!(none.cause.contains("it is no clip"), "{none}");
        assert_eq!(read(Path::new("no/such.gif"), 5, [3, 4]).unwrap_err().code, Code::Io);
    }
}
