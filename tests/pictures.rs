//! Pictures as networks take them, against Pillow's (`tests/fixtures/pillow`, made by the script beside it).

use safetensors::{Dtype, SafeTensors};
use uvit_web::Code;
use uvit_web::pipeline::{Filter, Picture};

/// The picture of that size that `make.py` makes too: no pixel is like its neighbours.
fn picture(width: usize, height: usize) -> Picture {
    let mut rgba = Vec::new();
    for (y, x) in (0..height as u64).flat_map(|y| (0..width as u64).map(move |x| (y, x))) {
        let seed = |c: u64| x * x * 7 + y * 31 + x * y * 3 + c * 53 + 1;
        rgba.extend([0, 1, 2].map(|c| ((seed(c).wrapping_mul(2_654_435_761) % (1 << 32)) >> 24) as u8));
        rgba.push(255);
    }
    Picture::from_rgba(&rgba, width, height).unwrap()
}

#[test]
fn pictures_are_resized_as_pillow_does() {
    let bytes = std::fs::read("tests/fixtures/pillow/resized.safetensors").unwrap();
    let (mut compared, mut off) = (0, 0);
    for (name, want) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
        let (what, size) = name.split_once(' ').unwrap();
        let (width, height) = size.split_once('x').unwrap();
        let given = picture(width.parse().unwrap(), height.parse().unwrap());
        let shape = want.shape();
        if what == "clip" {
            assert_eq!((want.dtype(), shape[0]), (Dtype::F32, 3));
            let got = given.for_clip(shape[1]);
            assert_eq!(got.len(), want.data().len() / 4, "{name}");
            // A byte is 1/255, over the smallest deviation.
            for (got, want) in got.iter().zip(want.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))) {
                assert!((got - want).abs() <= 1.0 / 255.0 / 0.2613 + 1e-5, "{name}: {got}, not {want}");
                off += usize::from((got - want).abs() > 1e-5);
            }
            compared += got.len();
            continue;
        }
        let got = match what {
            "bicubic" => given.resized(shape[1], shape[0], Filter::Bicubic),
            "lanczos" => given.resized(shape[1], shape[0], Filter::Lanczos),
            "square" => given.square(shape[0]),
            other => panic!("{other}"),
        };
        assert_eq!([got.height(), got.width(), 3], *shape, "{name}");
        for (got, want) in got.rgb().iter().zip(want.data()) {
            assert!(got.abs_diff(*want) <= 1, "{name}: {got}, not {want}");
            off += usize::from(got != want);
        }
        compared += got.rgb().len();
    }
    println!("{compared} values, {off} of them off");
    // Only sines may differ, and few weights are that close to a half.
    assert!(compared > 7000 && off * 1000 <= compared, "{off} of {compared}");
}

#[test]
fn what_is_transparent_is_white() {
    let rgba = [[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 255, 128], [0, 0, 0, 1]].concat();
    let picture = Picture::from_rgba(&rgba, 2, 2).unwrap();
    assert_eq!(picture.rgb(), [10, 20, 30, 255, 255, 255, 127, 177, 255, 254, 254, 254]);
    assert_eq!((picture.width(), picture.height()), (2, 2));
    // [3, height, width].
    let signed = Picture::from_rgba(&[0, 255, 51, 255, 255, 0, 0, 255], 2, 1).unwrap().signed();
    assert_eq!(signed, [-1.0, 1.0, 1.0, -1.0, (51.0 / 127.5 - 1.0) as f32, -1.0]);
}

#[test]
fn bytes_that_are_no_picture_are_refused() {
    for (bytes, width, height) in [(0, 0, 0), (0, 0, 5), (16, 3, 2), (12, 2, 2), (16, usize::MAX, 2), (4, 1, 0)] {
        let error = Picture::from_rgba(&vec![0; bytes], width, height).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        assert!(error.cause.contains(&format!("{width} x {height} pixels has {bytes} bytes")), "{error}");
    }
    assert_eq!(
        Picture::from_signed(&[-1.0, 0.0, 1.0, 2.0], [1, 2, 2]).unwrap().rgb()[3..9],
        [128, 128, 128, 255, 255, 255]
    );
    for (values, cause) in [(vec![0.0; 11], "3 x 2 x 2 has 11 values"), (vec![f32::NAN; 12], "not finite")] {
        let error = Picture::from_signed(&values, [3, 2, 2]).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.cause.contains(cause), "{error}");
    }
}

/// What is cut off is not computed: the long side would be larger than any memory.
#[test]
fn a_line_of_pixels_is_a_picture() {
    let line = picture(20_000, 1);
    let clip = line.for_clip(224);
    assert!(clip.len() == 3 * 224 * 224 && clip.iter().all(|value| value.is_finite()));
    // One pixel, and every value is its colour's.
    let dot = picture(1, 1).square(64).for_clip(32);
    assert!(dot.chunks_exact(32 * 32).all(|plane| plane.iter().all(|value| *value == plane[0])));
}
