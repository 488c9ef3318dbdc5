//! Pictures, and how they came about.

use super::captions::Caption;
use super::modes::Mode;
use super::tensors::NamedTensor;
use super::{DeviceInfo, Prompt, pixels};
use crate::json::{self, Value, Write};
use crate::plan::Compute;
use crate::sampler::{SamplerKind, Spacing};
use crate::weights::Dtype;

/// What a loaded model is and runs on.
#[derive(Clone, Debug)]
pub struct Info {
    /// The model's name.
    pub name: String,
    /// The stored dtype that was loaded.
    pub dtype: Dtype,
    /// The arithmetic.
    pub compute: Compute,
    /// Threads that work on a kernel.
    pub threads: usize,
    /// Bytes of the shards.
    pub bytes: u64,
    /// Numbers of the model.
    pub parameters: u64,
    /// SHA-256 over the shards' hashes.
    pub model_hash: String,
    /// From opening the device to the last shard.
    pub load_ms: f64,
    /// Where it runs.
    pub device: DeviceInfo,
}

/// Pictures, texts or both, and how they came about.
#[derive(Clone, Debug)]
pub struct Generated {
    /// `[count, frames, channels, height, width]`, about [-1, 1], not clipped; empty for a mode that gives no pictures.
    pub values: Vec<f32>,
    /// One for each image; empty for models and modes that give no texts.
    pub texts: Vec<Caption>,
    /// What was drawn, by the network's ports, `[count, ..]` each, if asked for.
    pub latents: Vec<NamedTensor>,
    /// For models that have several.
    pub mode: Option<Mode>,
    /// Images, or clips.
    pub count: usize,
    /// Of each clip; 1 where they are pictures.
    pub frames: usize,
    /// Frames a second at which clips are meant to be played; 0 for pictures.
    pub frame_rate: f64,
    /// Frames that windows of a long clip were given of the one before; 0 where there was one window.
    pub overlap: usize,
    /// How many frames were given that the clips begin with.
    pub first_frames: usize,
    /// Of each image.
    pub channels: usize,
    /// Of each image.
    pub height: usize,
    /// Of each image.
    pub width: usize,
    /// The label's number, if the model has labels.
    pub label: Option<u32>,
    /// The label's name, if it has one.
    pub label_name: Option<String>,
    /// As given.
    pub prompt: Option<Prompt>,
    /// As given.
    pub prompt_2: Option<Prompt>,
    /// As given.
    pub negative_prompt: Option<Prompt>,
    /// As used.
    pub steps: usize,
    /// As used.
    pub guidance_scale: f64,
    /// As used; image k has seed + k.
    pub seed: u32,
    /// As used.
    pub sampler: SamplerKind,
    /// As used; none where the sampler has but one.
    pub grid: Option<Spacing>,
    /// As used.
    pub eta: f64,
    /// Euler's.
    pub churn: f64,
    /// Where it began with a picture.
    pub strength: Option<f64>,
    /// Whether parts of that were kept.
    pub masked: bool,
    /// As used.
    pub guidance_rescale: f64,
    /// As used.
    pub guidance_interval: Option<[f64; 2]>,
    /// As used.
    pub cache: bool,
    /// Workers that shared the items.
    pub workers: usize,
    /// What the caller should know, for people.
    pub warnings: Vec<String>,
    /// Times.
    pub timings: Timings,
    /// Kernel launches on the GPU, 0 on the CPU.
    pub dispatches: u64,
    /// Multiply-adds of the network, those of helpers aside.
    pub multiply_adds: u64,
    /// The model and its device.
    pub info: Info,
}

/// Milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Timings {
    /// The whole call.
    pub total_ms: f64,
    /// Each step, first to last.
    pub step_ms: Vec<f64>,
    /// Encoding texts, 0 where none was new.
    pub text_ms: f64,
    /// Encoding pictures to start from, 0 where there are none, or nothing that encodes.
    pub encoding_ms: f64,
    /// Decoding latents, 0 where there are none.
    pub decode_ms: f64,
    /// Telling texts, 0 where there are none.
    pub caption_ms: f64,
    /// What encoding and submitting to a GPU took of all that, 0 on the CPU.
    pub encode_ms: f64,
}

/// The device's fields among its own.
impl Write for Info {
    fn write(&self) -> Value {
        let own = json::object([
            ("name", self.name.as_str().into()),
            ("dtype", self.dtype.as_str().into()),
            ("compute", self.compute.as_str().into()),
            ("threads", self.threads.into()),
            ("bytes", self.bytes.into()),
            ("parameters", self.parameters.into()),
            ("modelHash", self.model_hash.as_str().into()),
            ("loadMs", self.load_ms.into()),
        ]);
        json::with(own, self.device.write())
    }
}

/// All but the values; the model's fields among its own.
impl Write for Generated {
    fn write(&self) -> Value {
        let own = json::object([
            ("count", self.count.into()),
            ("frames", self.frames.into()),
            ("frameRate", self.frame_rate.into()),
            ("overlap", self.overlap.into()),
            ("firstFrames", self.first_frames.into()),
            ("channels", self.channels.into()),
            ("height", self.height.into()),
            ("width", self.width.into()),
            ("label", self.label.into()),
            ("labelName", self.label_name.as_deref().into()),
            ("prompt", self.prompt.write()),
            ("negativePrompt", self.negative_prompt.write()),
            ("mode", self.mode.map(Mode::as_str).into()),
            ("texts", self.texts.iter().map(|caption| caption.text.as_str()).collect()),
            ("steps", self.steps.into()),
            ("guidanceScale", self.guidance_scale.into()),
            ("seed", self.seed.into()),
            ("sampler", self.sampler.as_str().into()),
            ("grid", self.grid.map(Spacing::as_str).into()),
            ("eta", self.eta.into()),
            ("churn", self.churn.into()),
            ("strength", self.strength.map_or(Value::Null, Value::from)),
            ("masked", self.masked.into()),
            ("guidanceRescale", self.guidance_rescale.into()),
            ("guidanceInterval", self.guidance_interval.into()),
            ("cache", self.cache.into()),
            ("workers", self.workers.into()),
            ("warnings", self.warnings.iter().map(String::as_str).collect()),
            ("timings", self.timings.write()),
            ("dispatches", self.dispatches.into()),
            ("multiplyAdds", self.multiply_adds.into()),
        ]);
        json::with(json::with_some(own, "prompt2", self.prompt_2.write()), self.info.write())
    }
}

impl Write for Timings {
    fn write(&self) -> Value {
        json::object([
            ("totalMs", self.total_ms.into()),
            ("stepMs", self.step_ms.as_slice().into()),
            ("textMs", self.text_ms.into()),
            ("encodingMs", self.encoding_ms.into()),
            ("decodeMs", self.decode_ms.into()),
            ("captionMs", self.caption_ms.into()),
            ("encodeMs", self.encode_ms.into()),
        ])
    }
}

impl Generated {
    /// Pictures in all: images, or the frames of all clips; none where none were made.
    pub fn pictures(&self) -> usize {
        if self.values.is_empty() { 0 } else { self.count * self.frames }
    }

    /// Image `k`'s values `[channels, height, width]`; of clips, those of frame `k` of all.
    pub fn image(&self, k: usize) -> &[f32] {
        let size = self.channels * self.height * self.width;
        &self.values[k * size..(k + 1) * size]
    }

    /// Image `k` as RGBA.
    pub fn rgba(&self, k: usize) -> Vec<u8> {
        pixels::to_rgba(self.image(k), [self.channels, self.height, self.width])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_written_with_the_model_and_its_device_among_their_own_fields() {
        let device = DeviceInfo {
            device: "cpu",
            device_reason: "asked for".into(),
            #[cfg(feature = "gpu")]
            adapter: None,
            #[cfg(feature = "gpu")]
            tuned: None,
        };
        let info = Info {
            name: "cats".into(),
            dtype: Dtype::Q8,
            compute: Compute::Quality,
            threads: 2,
            bytes: 3,
            parameters: 4,
            model_hash: "ab".into(),
            load_ms: 1.5,
            device,
        };
        let generated = Generated {
            values: vec![0.0; 3],
            texts: vec![Caption { ids: vec![7], text: "a hat".into(), ended: true }],
            latents: Vec::new(),
            mode: Some(Mode::Joint),
            count: 1,
            frames: 1,
            frame_rate: 0.0,
            overlap: 0,
            first_frames: 0,
            channels: 3,
            height: 1,
            width: 1,
            label: Some(5),
            label_name: None,
            prompt: Some("a cat".into()),
            prompt_2: None,
            negative_prompt: None,
            steps: 2,
            guidance_scale: 1.0,
            seed: u32::MAX,
            sampler: SamplerKind::Ddim,
            grid: Some(Spacing::TimeUniform),
            eta: 0.5,
            churn: 0.0,
            strength: Some(0.5),
            masked: false,
            guidance_rescale: 0.0,
            guidance_interval: Some([0.0, 0.5]),
            cache: false,
            workers: 1,
            warnings: vec!["beware".into()],
            timings: Timings {
                total_ms: 3.0,
                step_ms: vec![1.0, 2.0],
                text_ms: 0.5,
                encoding_ms: 0.0,
                decode_ms: 0.0,
                caption_ms: 0.25,
                encode_ms: 0.0,
            },
            dispatches: 0,
            multiply_adds: 1 << 40,
            info,
        };
        let mut want = json::json!({
            "count": 1, "frames": 1, "frameRate": 0.0, "overlap": 0, "firstFrames": 0, "channels": 3, "height": 1, "width": 1, "label": 5, "labelName": null, "steps": 2,
            "prompt": "a cat", "negativePrompt": null, "warnings": ["beware"],
            "mode": "joint", "texts": ["a hat"],
            "guidanceScale": 1.0, "seed": u32::MAX, "sampler": "ddim", "grid": "time_uniform", "eta": 0.5, "churn": 0.0, "strength": 0.5, "masked": false, "guidanceRescale": 0.0,
            "guidanceInterval": [0.0, 0.5], "cache": false, "workers": 1, "timings": { "totalMs": 3.0, "stepMs": [1.0, 2.0], "textMs": 0.5, "encodingMs": 0.0, "decodeMs": 0.0, "captionMs": 0.25, "encodeMs": 0.0 },
            "dispatches": 0, "multiplyAdds": 1u64 << 40, "name": "cats", "dtype": "q8", "compute": "quality",
            "threads": 2, "bytes": 3, "parameters": 4, "modelHash": "ab", "loadMs": 1.5, "device": "cpu",
            "deviceReason": "asked for",
        });
        want = json::with(want, json::object([("adapter", Value::Null)]));
        if cfg!(feature = "gpu") {
            want = json::with(want, json::object([("tuned", Value::Null)]));
        }
        assert_eq!(generated.write(), want);
    }
}
