//! wasm-bindgen types: convert, forward, nothing else. `web/src/worker.ts` is their one caller; the options and results
//! that cross as JSON are described in `web/src/types.ts`.

use crate::model::Network;
use crate::pipeline::sampling::{Control, StepEvent};
use crate::pipeline::{self, DeviceChoice, Generated, Request, pixels};
use crate::sampler::SamplerKind;
use crate::weights::Manifest;
use crate::{Code, Error};
use js_sys::{Float32Array, Function, Reflect, Uint8Array};
use serde_json::json;
use std::cell::{Cell, RefCell};
use wasm_bindgen::prelude::*;

#[wasm_bindgen(start)]
fn start() {
    console_error_panic_hook::set_once();
}

impl From<Error> for JsValue {
    fn from(error: Error) -> JsValue {
        let object = js_sys::Error::new(&error.to_string());
        for (name, text) in [("code", error.code.as_str()), ("cause", &error.cause), ("remedy", &error.remedy)] {
            let _ = Reflect::set(&object, &name.into(), &text.into());
        }
        object.into()
    }
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, json: &str) -> Result<T, Error> {
    serde_json::from_str(json)
        .map_err(|e| Error::new(Code::InvalidArgument, format!("the {what} options: {e}"), "Check names and types"))
}

/// What this browser can do, as JSON.
#[wasm_bindgen]
pub async fn capabilities() -> String {
    let webgpu = match crate::gpu::Backend::open().await {
        Ok(backend) => json!({
            "available": true,
            "adapter": backend.adapter(),
            "limits": { "maxStorageBufferBindingSize": backend.max_binding() },
        }),
        Err(e) => json!({ "available": false, "code": e.code.as_str(), "reason": e.cause, "remedy": e.remedy }),
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cpu": { "simd128": cfg!(target_feature = "simd128") },
        "webgpu": webgpu,
    })
    .to_string()
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct LoadOptions {
    device: DeviceChoice,
    dtype: Option<crate::weights::manifest::Dtype>,
}

/// A model on its way to a device.
#[wasm_bindgen]
pub struct Loader(pipeline::Loader);

#[wasm_bindgen]
impl Loader {
    /// Checks the manifest and opens a device.
    pub async fn create(manifest: String, options: String) -> Result<Loader, JsValue> {
        let options: LoadOptions = parse("load", &options)?;
        let manifest = Manifest::parse(&manifest)?;
        Ok(Loader(pipeline::Loader::new(manifest, options.device, options.dtype).await?))
    }

    /// The files to bring, as JSON.
    pub fn shards(&self) -> String {
        json!(self.0.shards()).to_string()
    }

    /// Verifies a shard and moves it to the device.
    #[wasm_bindgen(js_name = addShard)]
    pub async fn add_shard(&mut self, index: usize, bytes: Vec<u8>) -> Result<(), JsValue> {
        Ok(self.0.add_shard(index, &bytes).await?)
    }

    /// The model, once all shards were brought.
    pub async fn finish(self) -> Result<WasmPipeline, JsValue> {
        let pipeline = self.0.finish().await?;
        let info = describe(&pipeline);
        Ok(WasmPipeline {
            pipeline: RefCell::new(Some(pipeline)),
            info,
            stop: Cell::new(false),
            disposed: Cell::new(false),
        })
    }
}

fn describe(pipeline: &pipeline::Pipeline) -> String {
    let (manifest, sampling) = (pipeline.manifest(), &pipeline.manifest().sampling);
    let [channels, height, _] = pipeline.network().image_shape();
    let architecture = match pipeline.network() {
        Network::Uvit(_) => "uvit",
    };
    let mut info = json!(pipeline.info());
    let more = json!({
        "architecture": architecture,
        "labels": manifest.labels,
        "licences": manifest.licences,
        "nullClass": manifest.null_class,
        "imageSize": height,
        "channels": channels,
        "samplers": SamplerKind::ALL,
        "defaults": {
            "steps": sampling.steps,
            "guidanceScale": if manifest.null_class.is_some() { sampling.guidance_scale } else { 1.0 },
            "sampler": sampling.sampler,
        },
    });
    if let (Some(info), Some(more)) = (info.as_object_mut(), more.as_object()) {
        info.extend(more.clone());
    }
    info.to_string()
}

/// A loaded model.
#[wasm_bindgen]
pub struct WasmPipeline {
    /// None while it generates and after `dispose`.
    pipeline: RefCell<Option<pipeline::Pipeline>>,
    info: String,
    stop: Cell<bool>,
    disposed: Cell<bool>,
}

#[wasm_bindgen]
impl WasmPipeline {
    /// What it is, as JSON.
    pub fn info(&self) -> String {
        self.info.clone()
    }

    /// Generates pictures; `on_step(json, preview)` is called after every step.
    pub async fn generate(
        &self,
        options: String,
        start: Option<Float32Array>,
        on_step: Function,
    ) -> Result<WasmResult, JsValue> {
        let mut request: Request = parse("generate", &options)?;
        request.start = start.map(|values| values.to_vec());
        let taken = self.pipeline.borrow_mut().take();
        let mut pipeline = taken.ok_or_else(|| {
            Error::new(
                Code::Disposed,
                "the pipeline is disposed of or busy",
                "Wait for the call in flight, or load again",
            )
        })?;
        self.stop.set(false);
        let shape = pipeline.network().image_shape();
        let size = shape.iter().product::<usize>();
        let mut report = |event: StepEvent| {
            let progress = json!({ "step": event.step, "steps": event.steps, "elapsedMs": event.elapsed_ms });
            let preview = event.values.map_or(JsValue::UNDEFINED, |values| {
                let rgba: Vec<u8> = values.chunks(size).flat_map(|image| pixels::to_rgba(image, shape)).collect();
                Uint8Array::from(rgba.as_slice()).into()
            });
            let _ = on_step.call2(&JsValue::NULL, &progress.to_string().into(), &preview);
        };
        let stopped = || self.stop.get();
        let mut control = Control { on_step: &mut report, stopped: &stopped };
        let result = pipeline.generate(&request, &mut control).await;
        if !self.disposed.get() {
            *self.pipeline.borrow_mut() = Some(pipeline);
        }
        Ok(WasmResult(result?))
    }

    /// Stops the running `generate` at its next chance.
    pub fn abort(&self) {
        self.stop.set(true);
    }

    /// Frees the model's memory.
    pub fn dispose(&self) {
        self.stop.set(true);
        self.disposed.set(true);
        self.pipeline.borrow_mut().take();
    }
}

/// Pictures and how they came about.
#[wasm_bindgen]
pub struct WasmResult(Generated);

#[wasm_bindgen]
impl WasmResult {
    /// Settings, timings, device, as JSON.
    pub fn metadata(&self) -> String {
        json!(self.0).to_string()
    }

    /// All images as RGBA, one after the other.
    pub fn rgba(&self) -> Uint8Array {
        let rgba: Vec<u8> = (0..self.0.count).flat_map(|k| self.0.rgba(k)).collect();
        Uint8Array::from(rgba.as_slice())
    }

    /// The values `[count, channels, height, width]`, not clipped.
    pub fn floats(&self) -> Float32Array {
        Float32Array::from(self.0.values.as_slice())
    }
}
