//! What `uvit generate` starts from: pictures and floats (.npy, .safetensors).

use super::{animation, decode};
use image::RgbaImage;
use image::imageops::{FilterType, crop_imm, resize};
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};
use uvit_web::{Code, Error, Result};

fn invalid(path: &Path, cause: impl std::fmt::Display, remedy: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, format!("{}: {cause}", path.display()), remedy)
}

fn is_floats(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "npy" || ending == "safetensors")
}

/// A picture to start from, `[channels, height, width]` or several of them, and that shape: floats as they are, of the picture's shape or
/// the latents'; a picture made as large as covers the model's, cropped in the middle, on white, and in \[-1, 1\].
pub fn picture(path: &Path, shape: [usize; 3], latent_shape: [usize; 3]) -> Result<(Vec<f32>, [usize; 3])> {
    let [channels, height, width] = shape;
    if is_floats(path) {
        return match floats(path, "images", &latent_shape) {
            Ok((latents, _)) => Ok((latents, latent_shape)),
            Err(_) => Ok((floats(path, "images", &shape)?.0, shape)),
        };
    }
    if !matches!(channels, 1 | 3) {
        return Err(no_encoder(path, shape));
    }
    Ok((planes(&pixels(path, height, width)?, channels), shape))
}

/// RGBA on white, or opaque, to `[channels, height, width]`.
fn planes(pixels: &[u8], channels: usize) -> Vec<f32> {
    let value = |channel: usize, at: usize| f32::from(pixels[4 * at + channel]) / 127.5 - 1.0;
    let grey = |at: usize| (0..3).map(|channel| value(channel, at)).sum::<f32>() / 3.0;
    let plane = pixels.len() / 4;
    match channels {
        1 => (0..plane).map(grey).collect(),
        _ => (0..3).flat_map(|channel| (0..plane).map(move |at| (channel, at))).map(|(c, at)| value(c, at)).collect(),
    }
}

/// A clip to start from, `[frames, channels, height, width]`, and the shape of a frame: floats of pictures or latents as they are; or
/// the frames of a file or folder, which must be as large as the model's.
pub fn clip(path: &Path, frames: usize, shape: [usize; 3], latent_shape: [usize; 3]) -> Result<(Vec<f32>, [usize; 3])> {
    let [channels, height, width] = shape;
    if is_floats(path) {
        let of = |shape: [usize; 3]| floats(path, "images", &[&[frames], &shape[..]].concat());
        return match of(latent_shape) {
            Ok((latents, _)) => Ok((latents, latent_shape)),
            Err(_) => Ok((of(shape)?.0, shape)),
        };
    }
    if !matches!(channels, 1 | 3) {
        return Err(no_encoder(path, shape));
    }
    let mut values = Vec::with_capacity(frames * channels * height * width);
    for mut frame in animation::read(path, frames, [height, width])? {
        on_white(&mut frame);
        values.extend(planes(frame.as_raw(), channels));
    }
    Ok((values, shape))
}

/// Pictures that clips begin with, `[frames, channels, height, width]`, and the shape of one: each as [`picture`] has it.
pub fn first_frames(paths: &[PathBuf], shape: [usize; 3], latent_shape: [usize; 3]) -> Result<(Vec<f32>, [usize; 3])> {
    let (mut values, mut of_all) = (Vec::new(), None);
    for path in paths {
        let (frame, shape) = picture(path, shape, latent_shape)?;
        if of_all.is_some_and(|of_all| of_all != shape) {
            return Err(invalid(path, "it holds latents beside pictures", "Give all as pictures, or all as latents"));
        }
        of_all = Some(shape);
        values.extend(frame);
    }
    Ok((values, of_all.unwrap_or(shape)))
}

fn no_encoder(path: &Path, [channels, height, width]: [usize; 3]) -> Error {
    let cause = format!(
        "this model draws latents of {channels} x {height} x {width}, a picture is none, and it has no encoder"
    );
    let remedy =
        "Convert the model again with its autoencoder's encoder, or give a .npy or .safetensors file with latents";
    invalid(path, cause, remedy)
}

/// A mask `[height, width]`, for clips also `[frames, height, width]`: floats as they are, or a picture, white where it is to be painted
/// anew and black where it is kept.
pub fn mask(path: &Path, [_, height, width]: [usize; 3], frames: usize) -> Result<Vec<f32>> {
    if is_floats(path) {
        let (values, count) = floats(path, "mask", &[height, width])?;
        return match count {
            1 => Ok(values),
            count if count == frames => Ok(values),
            _ => Err(invalid(path, "it holds several masks", "Give one, for all pictures")),
        };
    }
    let pixels = pixels(path, height, width)?;
    let share = |rgba: &[u8]| rgba[..3].iter().map(|v| f32::from(*v)).sum::<f32>() / (3.0 * 255.0);
    Ok(pixels.as_chunks::<4>().0.iter().map(|rgba| share(rgba)).collect())
}

/// A text's embedding, and that of the empty text where the file has one.
pub fn context(path: &Path) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
    let bytes = read(path)?;
    if path.extension().is_some_and(|ending| ending == "npy") {
        return Ok((of_npy(path, &bytes)?.1, None));
    }
    let context = of_safetensors(path, &bytes, "context")?.1;
    let has_null = SafeTensors::deserialize(&bytes).is_ok_and(|file| file.tensor("null_context").is_ok());
    let null = has_null.then(|| of_safetensors(path, &bytes, "null_context")).transpose()?;
    Ok((context, null.map(|(_, values)| values)))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| {
        Error::new(Code::Io, format!("{}: {e}", path.display()), "Check that the file exists and can be read")
    })
}

fn on_white(picture: &mut RgbaImage) {
    for pixel in picture.pixels_mut() {
        let [r, g, b, a] = pixel.0.map(u32::from);
        let on_white = |v: u32| ((v * a + 255 * (255 - a) + 127) / 255) as u8;
        pixel.0 = [on_white(r), on_white(g), on_white(b), 255];
    }
}

/// Decoded, resized to cover, cropped in the middle, on white.
fn pixels(path: &Path, height: usize, width: usize) -> Result<Vec<u8>> {
    let mut decoded = decode::rgba(path)?;
    on_white(&mut decoded);
    let (from_width, from_height) = decoded.dimensions();
    let (width, height) = (width as u32, height as u32);
    let scale = (f64::from(width) / f64::from(from_width)).max(f64::from(height) / f64::from(from_height));
    let cover = |length: u32, least: u32| ((f64::from(length) * scale).round() as u32).max(least);
    let (covering_width, covering_height) = (cover(from_width, width), cover(from_height, height));
    if (covering_width, covering_height) != (from_width, from_height) {
        decoded = resize(&decoded, covering_width, covering_height, FilterType::CatmullRom);
    }
    let (left, top) = ((covering_width - width) / 2, (covering_height - height) / 2);
    Ok(crop_imm(&decoded, left, top, width, height).to_image().into_raw())
}

/// The floats of a file, `shape` or several of that, and how many there are; `name` is the tensor's in a .safetensors file.
pub fn floats(path: &Path, name: &str, shape: &[usize]) -> Result<(Vec<f32>, usize)> {
    let bytes = read(path)?;
    let is_npy = path.extension().is_some_and(|ending| ending == "npy");
    let (found, values) = if is_npy { of_npy(path, &bytes)? } else { of_safetensors(path, &bytes, name)? };
    let plain = found.as_slice() == shape;
    if !plain && found.get(1..) != Some(shape) {
        return Err(invalid(path, format!("its shape is {found:?}"), format!("Give {shape:?}, or several of that")));
    }
    Ok((values, if plain { 1 } else { found[0] }))
}

fn of_safetensors(path: &Path, bytes: &[u8], name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| invalid(path, e, "Give a .safetensors file"))?;
    let names = || file.names().iter().map(|name| name.to_string()).collect::<Vec<_>>().join(", ");
    let view = match (file.tensor(name), file.len()) {
        (Ok(view), _) => view,
        (Err(_), 1) => file.tensor(file.names()[0]).map_err(|e| invalid(path, e, "Give a .safetensors file"))?,
        _ => return Err(invalid(path, format!("it holds {}", names()), format!("Name one of them {name}"))),
    };
    if view.dtype() != Dtype::F32 {
        return Err(invalid(path, format!("its dtype is {:?}", view.dtype()), "Store float32"));
    }
    Ok((view.shape().to_vec(), view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
}

/// NumPy's formats 1 to 3 of little-endian float32 in C order (numpy.lib.format).
fn of_npy(path: &Path, bytes: &[u8]) -> Result<(Vec<usize>, Vec<f32>)> {
    let wrong = |what: &str| invalid(path, what, "Give a .npy file of float32 in C order, as numpy.save writes it");
    let (header, data) = npy(bytes).ok_or_else(|| wrong("it is no .npy file"))?;
    if header.dtype != "<f4" || header.fortran {
        return Err(wrong(&format!("its dtype is {}", header.dtype)));
    }
    if header.shape.iter().try_fold(4usize, |n, d| n.checked_mul(*d)) != Some(data.len()) {
        return Err(wrong("it is cut off"));
    }
    Ok((header.shape, data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
}

/// What a .npy file says of its data.
pub struct Npy {
    pub dtype: String,
    pub fortran: bool,
    pub shape: Vec<usize>,
    /// Where the data begin.
    pub offset: usize,
}

/// The header and the data of a .npy file, or of its beginning.
pub fn npy(bytes: &[u8]) -> Option<(Npy, &[u8])> {
    let (length, at): (usize, usize) = match bytes.get(..8)? {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _] => {
            (usize::from(u16::from_le_bytes(*bytes.get(8..)?.first_chunk()?)), 10)
        }
        [0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, _] => {
            (usize::try_from(u32::from_le_bytes(*bytes.get(8..)?.first_chunk()?)).ok()?, 12)
        }
        _ => return None,
    };
    let header = std::str::from_utf8(bytes.get(at..at.checked_add(length)?)?).ok()?;
    let after = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start_matches([':', ' ']));
    let dtype = after("'descr'")?.strip_prefix('\'')?.split_once('\'')?.0.to_owned();
    let fortran = after("'fortran_order'")?.starts_with("True");
    let inside = after("'shape'")?.strip_prefix('(')?.split_once(')')?.0;
    let sizes = inside.split(',').map(str::trim).filter(|size| !size.is_empty());
    let shape = sizes.map(|size| size.parse().ok()).collect::<Option<Vec<usize>>>()?;
    let offset = at + length;
    Some((Npy { dtype, fortran, shape, offset }, bytes.get(offset..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_numpy_are_read_and_others_refused() {
        let header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header);
        bytes.extend([0; 24]);
        let (read, data) = npy(&bytes).unwrap();
        assert_eq!((read.dtype.as_str(), read.fortran, read.shape, data.len()), ("<f4", false, vec![2, 3], 24));
        assert_eq!(of_npy(Path::new("x.npy"), &bytes).unwrap().1, [0.0; 6]);
        for cut in [0, 5, 9, 30, 69] {
            assert!(npy(&bytes[..cut]).is_none(), "{cut}");
        }
        assert_eq!(of_npy(Path::new("x.npy"), &bytes[..bytes.len() - 1]).unwrap_err().code, Code::InvalidArgument);
        // A shape of another length than the data.
        let at = bytes.windows(6).position(|w| w == b"(2, 3)").unwrap();
        bytes[at + 1] = b'9';
        assert_eq!(of_npy(Path::new("x.npy"), &bytes).unwrap_err().code, Code::InvalidArgument);
    }
}
