//! A picture that is read.

/// Pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Row by row, three bytes a pixel.
    pub rgb: Vec<u8>,
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Picture {
    /// Of RGBA.
    ///
    /// # Errors
    /// None.
    pub fn from_rgba(rgba: &[u8], width: usize, height: usize) -> crate::Result<Picture> {
        Ok(Picture { rgb: rgba.chunks(4).flat_map(|p| [p[0], p[1], p[2]]).collect(), width, height })
    }
    /// Of floats.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`.
    pub fn from_signed(values: &[f32], [_, height, width]: [usize; 3]) -> crate::Result<Picture> {
        let rgba = super::pixels::to_rgba(values, [3, height, width]);
        Picture::from_rgba(&rgba, width, height)
    }

    pub(super) fn square(&self, _size: usize) -> Picture {
        self.clone()
    }
    pub(super) fn signed(&self) -> Vec<f32> {
        let pixels = self.width * self.height;
        (0..3 * pixels).map(|i| f32::from(self.rgb[i % pixels * 3 + i / pixels]) / 127.5 - 1.0).collect()
    }
    pub(super) fn for_clip(&self, _size: usize) -> Vec<f32> {
        let (mean, std) = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]);
        let pixels = self.width * self.height;
        let value = |i: usize| f64::from(self.rgb[i % pixels * 3 + i / pixels]) / 255.0;
        (0..3 * pixels).map(|i| ((value(i) - mean[i / pixels]) / std[i / pixels]) as f32).collect()
    }
}
