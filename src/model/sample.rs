//! What a network draws for one item: a picture or latents, or a clip of several, and how a clip's frames lie. People see and give
//! clips frame after frame; networks read them as they were published.

/// The shape of what is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// `[channels, height, width]` of the picture, or of a frame.
    pub picture: [usize; 3],
    /// Of a clip; none: a single picture.
    pub frames: Option<usize>,
    /// Whether a channel's frames lie together, `[channels, frames, height, width]`; else a frame's channels do.
    pub channels_first: bool,
}

impl Sample {
    /// Pictures that it is: 1, or the frames of a clip.
    pub fn pictures(&self) -> usize {
        self.frames.unwrap_or(1)
    }

    /// Elements of a picture.
    pub fn of_picture(&self) -> usize {
        self.picture.iter().product()
    }

    /// Elements of all of it.
    pub fn elements(&self) -> usize {
        self.pictures() * self.of_picture()
    }

    /// As the network's port has it, without the batch.
    pub fn shape(&self) -> Vec<usize> {
        let [channels, height, width] = self.picture;
        match self.frames {
            None => vec![channels, height, width],
            Some(frames) if self.channels_first => vec![channels, frames, height, width],
            Some(frames) => vec![frames, channels, height, width],
        }
    }

    /// Several of them, from the network's order to `[.., frames, channels, height, width]`.
    pub fn to_frames(&self, values: &[f32]) -> Vec<f32> {
        self.turned(values, self.picture[0], self.pictures())
    }

    /// The other way round.
    pub fn from_frames(&self, values: &[f32]) -> Vec<f32> {
        self.turned(values, self.pictures(), self.picture[0])
    }

    /// `[.., rows, columns, height, width]` as `[.., columns, rows, height, width]`, if the orders differ.
    fn turned(&self, values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        if !self.channels_first || rows.min(columns) == 1 {
            return values.to_vec();
        }
        let plane = self.picture[1] * self.picture[2];
        let mut turned = Vec::with_capacity(values.len());
        for one in values.chunks_exact(self.elements()) {
            for column in 0..columns {
                for row in 0..rows {
                    turned.extend_from_slice(&one[(row * columns + column) * plane..][..plane]);
                }
            }
        }
        turned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_out_of_either_order_and_put_back() {
        let picture = Sample { picture: [2, 1, 3], frames: None, channels_first: true };
        let first = Sample { frames: Some(3), ..picture };
        let last = Sample { channels_first: false, ..first };
        assert_eq!((picture.shape(), first.shape(), last.shape()), (vec![2, 1, 3], vec![2, 3, 1, 3], vec![3, 2, 1, 3]));
        // Two clips; a value says which clip, frame, channel and column it is of.
        let value =
            |clip: usize, frame: usize, channel: usize, x: usize| (clip * 1000 + frame * 100 + channel * 10 + x) as f32;
        let (mut frames, mut channels) = (Vec::new(), Vec::new());
        for clip in 0..2 {
            frames.extend((0..18).map(|i| value(clip, i / 6, i / 3 % 2, i % 3)));
            channels.extend((0..18).map(|i| value(clip, i / 3 % 3, i / 9, i % 3)));
        }
        assert_eq!(first.to_frames(&channels), frames);
        assert_eq!(first.from_frames(&frames), channels);
        assert_eq!((last.to_frames(&frames), last.from_frames(&frames)), (frames.clone(), frames.clone()));
        assert_eq!(picture.to_frames(&frames), frames);
    }
}
