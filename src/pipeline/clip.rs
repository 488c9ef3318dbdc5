//! Clips of more frames than the network draws: windows, one step loop each, of which each is given the last frames of the one before
//! and keeps them, as inpainting keeps parts of a picture. A picture is a clip of one frame, in one window.

use super::conditions::Conditions;
use super::encoding::Start;
use super::generation::{Drawn, Progress, Settled};
use super::helpers::Helpers;
use super::request::Request;
use super::sampling::Control;
use super::tensors::{NamedTensor, Values, floats};
use super::{Pipeline, invalid};
use crate::model::Sample;
use crate::{Error, Result};

/// The most frames of a clip.
pub const MAX_FRAMES: usize = 1024;

/// A run of the step loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Its first frame, of the clip's.
    pub first: usize,
    /// So many of its frames are the last ones of the window before.
    pub known: usize,
}

/// What is drawn for one image.
pub(super) struct Clip {
    /// 1 for a picture.
    pub frames: usize,
    /// Frames that windows but the first are given; 0 where there is but one.
    pub overlap: usize,
    pub windows: Vec<Window>,
}

/// The windows of a clip, for a network of `own` frames. The last one ends with the clip: it reaches back as far as that takes.
fn windows(frames: usize, own: usize, overlap: usize) -> Vec<Window> {
    let mut all = vec![Window { first: 0, known: 0 }];
    let mut end = own;
    while end < frames {
        let first = (end - overlap).min(frames - own);
        all.push(Window { first, known: end - first });
        end = first + own;
    }
    all
}

/// What a step loop starts from and keeps, as the network has it.
pub(super) struct Kept {
    /// x_0 of all images; 0 where nothing is known.
    pub values: Vec<f32>,
    /// 1: painted anew, 0: kept; of the same shape.
    pub mask: Option<Vec<f32>>,
    /// Whether frames are kept: [`super::sampling::Mask::insist`].
    pub insist: bool,
}

impl Pipeline {
    /// Frames and windows of a request.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for frames that the network does not draw, naming those that it can.
    pub(super) fn clip(&self, request: &Request) -> Result<Clip> {
        let own = self.network.frames().unwrap_or(1);
        let given = [
            ("frames", request.frames.is_some_and(|frames| frames != own)),
            ("overlap", request.overlap.is_some()),
            ("firstFrames", request.first_frames.is_some()),
        ];
        if let Some((name, _)) = given.iter().find(|(_, given)| own == 1 && *given) {
            let cause = format!("{name} is given, and the model draws single pictures");
            return Err(invalid(cause, format!("Leave {name} out, or take a model of clips")));
        }
        let (frames, most) = (request.frames.unwrap_or(own), MAX_FRAMES.max(own));
        if !(own..=most).contains(&frames) {
            let cause = format!("frames is {frames}, and the model draws {own} at a time");
            return Err(invalid(cause, format!("Give a whole number from {own} to {most}")));
        }
        let overlap = request.overlap.unwrap_or((own / 4).max(1));
        if own > 1 && !(1..own).contains(&overlap) {
            let cause = format!("overlap is {overlap}, and a window has {own} frames");
            return Err(invalid(cause, format!("Give a whole number from 1 to {}", own - 1)));
        }
        let windows = windows(frames, own, overlap);
        if windows.len() > 1 && request.start.is_some() {
            let cause = format!("start latents are given, and {frames} frames take {} windows", windows.len());
            return Err(invalid(cause, format!("Leave them out, or draw {own} frames")));
        }
        Ok(Clip { frames, overlap: if windows.len() > 1 { overlap } else { 0 }, windows })
    }

    /// The shape of a whole clip: as the network would draw it, were it a network of so many frames.
    pub(super) fn whole(&self, frames: usize) -> Sample {
        let sample = self.network.sample();
        Sample { frames: sample.frames.map(|_| frames), ..sample }
    }

    /// The step loops of all windows, one after the other: what they have drawn, all frames of it.
    pub(super) async fn draw_clip(
        &mut self,
        settled: &Settled<'_>,
        conditions: Conditions,
        start: Option<&Start>,
        control: &mut Control<'_>,
        progress: &mut Progress,
        helpers: Option<&dyn Helpers>,
    ) -> Result<Drawn> {
        let (sample, clip, count) = (self.network.sample(), &settled.clip, settled.count);
        let (of_frame, of_clip) = (sample.of_picture(), clip.frames * sample.of_picture());
        let mut frames = Vec::new();
        for (at, window) in clip.windows.iter().enumerate() {
            progress.window = at;
            let kept = kept(window, start, &frames, &sample, [count, of_clip]);
            let drawn = self.draw(settled, conditions.clone(), kept.as_ref(), control, progress, helpers).await?;
            if clip.windows.len() == 1 {
                return Ok(drawn);
            }
            let name = drawn.first().map(|tensor| tensor.name.clone()).unwrap_or_default();
            let of_window = sample.to_frames(floats(&drawn, &name)?);
            frames.resize(count * of_clip, 0.0);
            let known = window.known * of_frame;
            for (clip, drawn) in frames.chunks_exact_mut(of_clip).zip(of_window.chunks_exact(sample.elements())) {
                let place = &mut clip[window.first * of_frame..][..drawn.len()];
                place[known..].copy_from_slice(&drawn[known..]);
            }
            if at + 1 == clip.windows.len() {
                let whole = self.whole(clip.frames);
                let shape = Some([&[count], whole.shape().as_slice()].concat());
                return Ok(vec![NamedTensor { name, shape, values: Values::Floats(whole.from_frames(&frames)) }]);
            }
        }
        Err(Error::internal("a clip has no windows"))
    }
}

/// What a window starts from: the request's frames in its place, over which come those that are drawn already.
fn kept(
    window: &Window,
    start: Option<&Start>,
    drawn: &[f32],
    sample: &Sample,
    [count, of_clip]: [usize; 2],
) -> Option<Kept> {
    if start.is_none() && window.known == 0 {
        return None;
    }
    let (of_frame, len) = (sample.of_picture(), sample.elements());
    let (first, known) = (window.first * of_frame, window.known * of_frame);
    let mut values = vec![0.0; count * len];
    for (k, of_image) in values.chunks_exact_mut(len).enumerate() {
        let at = k * of_clip + first;
        if let Some(start) = start {
            of_image.copy_from_slice(&start.values[at..at + len]);
        }
        if known > 0 {
            of_image[..known].copy_from_slice(&drawn[at..at + known]);
        }
    }
    let given = start.and_then(|start| start.mask.as_ref());
    let mut mask = given.map(|mask| mask[first..first + len].to_vec());
    if known > 0 {
        mask.get_or_insert_with(|| vec![1.0; len])[..known].fill(0.0);
    }
    let mask = mask.map(|mask| sample.from_frames(&mask.repeat(count)));
    let insist = known > 0 || start.is_some_and(|start| start.first > 0);
    Some(Kept { values: sample.from_frames(&values), mask, insist })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_overlap_and_the_last_ends_with_the_clip() {
        let of = |frames, own, overlap| {
            let all = windows(frames, own, overlap);
            all.iter().map(|window| (window.first, window.known)).collect::<Vec<_>>()
        };
        assert_eq!(of(16, 16, 4), [(0, 0)]);
        assert_eq!(of(17, 16, 4), [(0, 0), (1, 15)]);
        assert_eq!(of(28, 16, 4), [(0, 0), (12, 4)]);
        assert_eq!(of(48, 16, 4), [(0, 0), (12, 4), (24, 4), (32, 8)]);
        assert_eq!(of(4, 2, 1), [(0, 0), (1, 1), (2, 1)]);
        for frames in 5..40 {
            for overlap in 1..5 {
                let all = windows(frames, 5, overlap);
                let ends = all.windows(2).all(|w| w[0].first + 5 == w[1].first + w[1].known && w[1].known >= overlap);
                assert!(ends && all[all.len() - 1].first + 5 == frames && all.iter().all(|window| window.known < 5));
            }
        }
    }

    #[test]
    fn a_window_is_given_what_is_drawn_over_what_is_asked_for() {
        let sample = Sample { picture: [2, 1, 1], frames: Some(3), channels_first: true };
        // Two clips of five frames of two channels: 100 a clip, 10 a frame.
        let clip = |add: f32| -> Vec<f32> {
            let value = |i: usize| (i / 10 * 100 + i / 2 % 5 * 10 + i % 2) as f32 + add;
            (0..20).map(value).collect()
        };
        let (drawn, window) = (clip(0.5), Window { first: 2, known: 1 });
        let plain = kept(&window, None, &drawn, &sample, [2, 10]).unwrap();
        assert_eq!(plain.values, [20.5, 0.0, 0.0, 21.5, 0.0, 0.0, 120.5, 0.0, 0.0, 121.5, 0.0, 0.0]);
        assert_eq!(plain.mask.unwrap(), [0.0, 1.0, 1.0].repeat(4));
        let mask = [[1.0; 6], [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]].concat()[..10].to_vec();
        let start = Start { values: clip(0.0), mask: Some(mask), first: 0 };
        let both = kept(&window, Some(&start), &drawn, &sample, [2, 10]).unwrap();
        assert_eq!(both.values[..6], [20.5, 30.0, 40.0, 21.5, 31.0, 41.0]);
        assert_eq!(both.mask.unwrap()[..6], [0.0, 1.0, 0.5, 0.0, 1.0, 0.5]);
        assert!(
            both.insist && !kept(&Window { first: 0, known: 0 }, Some(&start), &[], &sample, [2, 10]).unwrap().insist
        );
        assert!(kept(&Window { first: 0, known: 0 }, None, &[], &sample, [2, 10]).is_none());
    }
}
