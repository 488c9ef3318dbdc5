//! Values in [-1, 1] to 8-bit pixels.

/// The nearest integer to 127.5 (clamp(v, -1, 1) + 1), halves to even, as torch and numpy round.
pub fn to_u8(value: f32) -> u8 {
    ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round_ties_even() as u8
}

/// One image `[channels, height, width]` to RGBA, row by row. One channel is grey; of more than three the first three
/// are shown.
pub fn to_rgba(values: &[f32], [channels, height, width]: [usize; 3]) -> Vec<u8> {
    let pixels = height * width;
    let mut rgba = Vec::with_capacity(4 * pixels);
    for i in 0..pixels {
        for c in 0..3 {
            let plane = if channels < 3 { 0 } else { c };
            rgba.push(to_u8(values[plane * pixels + i]));
        }
        rgba.push(255);
    }
    rgba
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_as_torch_does() {
        let cases = [(-1.0, 0), (1.0, 255), (0.0, 128), (-2.0, 0), (7.0, 255), (1.0 / 255.0, 128), (f32::NAN, 0)];
        for (value, expected) in cases {
            assert_eq!(to_u8(value), expected, "{value}");
        }
    }
}
