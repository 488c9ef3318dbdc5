//! wasm-bindgen types: convert, forward, nothing else. `web/src/worker.ts` is their one caller; the options and results
//! that cross as JSON are described in `web/src/types.ts`.

use crate::json::{self, Value, Write};
use crate::model::Port;
use crate::package::Manifest;
use crate::pipeline::sampling::{Control, StepEvent};
use crate::pipeline::{
    self, Answer, Generated, Helpers, LoadOptions, NamedTensor, Needed, Picture, Request, Source, StoredFile, Values,
    pixels,
};
use crate::sampler::{SamplerKind, SamplerSettings, Spacing, recipe};
use crate::{Code, Error};
use js_sys::{Array, Float32Array, Float64Array, Function, Object, Promise, Reflect, Uint8Array, Uint32Array};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

#[cfg(feature = "threads")]
#[allow(unused_imports)] // exported to JavaScript
pub use wasm_bindgen_rayon::init_thread_pool;

/// Lets panics reach the console, in a build that has words for them.
#[cfg(feature = "panic_words")]
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

/// What JavaScript threw, if it was ours word for word.
impl From<JsValue> for Error {
    fn from(thrown: JsValue) -> Error {
        let text = |name: &str| Reflect::get(&thrown, &name.into()).ok().and_then(|v| v.as_string());
        match (text("code").and_then(|code| Code::parse(&code)), text("cause"), text("remedy")) {
            (Some(code), Some(cause), Some(remedy)) => Error::new(code, cause, remedy),
            _ => {
                Error::internal(text("message").or(thrown.as_string()).unwrap_or("what was thrown is no error".into()))
            }
        }
    }
}

fn parse<T: json::Read>(what: &str, json: &str) -> Result<T, Error> {
    json::parse(json)
        .and_then(|value| T::read(&value))
        .map_err(|e| Error::new(Code::InvalidArgument, format!("the {what} options: {e}"), "Check names and types"))
}

/// The size of a picture in bytes.
struct Sized {
    image: [usize; 2],
}

impl json::Read for Sized {
    fn read(value: &Value) -> json::Result<Sized> {
        Ok(Sized { image: json::Fields::of(value)?.required("imageSize")? })
    }
}

/// What this browser can do, as JSON; for builds with the GPU device.
#[cfg(feature = "gpu")]
#[wasm_bindgen]
pub async fn capabilities() -> String {
    pipeline::capabilities().await.to_string()
}

/// The files to bring for a manifest and the options of `Loader.create`, as JSON: known before a device is.
#[wasm_bindgen]
pub fn files(manifest: &str, options: &str) -> Result<String, JsValue> {
    let options: LoadOptions = parse("load", options)?;
    let files = pipeline::files(&Manifest::parse(manifest)?, &options)?;
    let files =
        files.iter().map(|Needed { of, stored, .. }| json::with(json::object([("of", (*of).into())]), file(stored)));
    Ok(files.collect::<Value>().to_string())
}

fn file(stored: &StoredFile) -> Value {
    json::object([
        ("file", stored.file.as_str().into()),
        ("bytes", stored.bytes.into()),
        ("sha256", stored.sha256.as_str().into()),
    ])
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
        Ok(Loader(pipeline::Loader::new(manifest, options).await?))
    }

    /// Verifies a file and moves what it holds to the device.
    #[wasm_bindgen(js_name = addFile)]
    pub async fn add_file(&mut self, index: usize, bytes: Vec<u8>) -> Result<(), JsValue> {
        Ok(self.0.add_file(index, &bytes).await?)
    }

    /// The model, once all files were brought. `bring(json)` resolves with the bytes of a file that is needed later, as [`files`]
    /// describes it.
    pub async fn finish(self, bring: Function) -> Result<WasmPipeline, JsValue> {
        let mut pipeline = self.0.finish().await?;
        pipeline.bring_from(Rc::new(Bring(bring)));
        let info = describe(&pipeline);
        Ok(WasmPipeline {
            pipeline: RefCell::new(Some(pipeline)),
            info,
            stop: Cell::new(false),
            disposed: Cell::new(false),
        })
    }
}

/// Files behind a JavaScript function.
struct Bring(Function);

impl Source for Bring {
    fn bring(&self, stored: &StoredFile) -> Answer<Vec<u8>> {
        let answer = self.0.call1(&JsValue::NULL, &file(stored).to_string().into());
        let answer = answer.map(|promise| JsFuture::from(Promise::resolve(&promise)));
        Box::pin(async move { Ok(Uint8Array::from(answer?.await?).to_vec()) })
    }
}

fn describe(pipeline: &pipeline::Pipeline) -> String {
    let (manifest, sampling) = (pipeline.manifest(), &pipeline.manifest().sampling);
    let [channels, height, _] = pipeline.picture_shape();
    let components = manifest.runs().into_iter().map(|name| {
        // All of this was done when the model was loaded.
        let network = manifest.network(name);
        let recording = network.and_then(|network| network.record(manifest.one(name)?)).unwrap_or_default();
        let port = |port: &Port| {
            json::object([
                ("name", port.name.into()),
                ("kind", port.kind.as_str().into()),
                ("shape", recording.plan.shape(port.tensor)[1..].into()),
            ])
        };
        json::object([("name", name.into()), ("ports", recording.ports.iter().map(port).collect())])
    });
    let defaults = json::object([
        ("steps", sampling.steps.into()),
        ("guidanceScale", pipeline.usual_guidance().into()),
        ("sampler", sampling.sampler.as_str().into()),
    ]);
    // What is offered is what compiles with the model's schedule, whatever its usual steps.
    let settings = SamplerSettings { steps: 10, grid: None, ..sampling.settings() };
    let samplers =
        SamplerKind::ALL.into_iter().filter(|&sampler| recipe(&SamplerSettings { sampler, ..settings }).is_ok());
    let on_grid = |spacing| SamplerSettings { sampler: SamplerKind::Euler, grid: Some(spacing), ..settings };
    let grids = Spacing::ALL.into_iter().filter(|&spacing| recipe(&on_grid(spacing)).is_ok());
    let modes = pipeline.modes();
    let sees = modes.iter().any(|mode| mode.takes_image());
    let more = json::object([
        ("architecture", pipeline.network().architecture().into()),
        ("components", components.collect()),
        ("labels", manifest.labels.write()),
        ("licences", manifest.licences.write()),
        ("nullClass", manifest.null_class.into()),
        ("prompts", pipeline.reads_prompts().into()),
        ("modes", modes.iter().map(|mode| mode.as_str()).collect()),
        ("imageShape", if sees { pipeline.start_shape()[..].into() } else { Value::Null }),
        ("frames", pipeline.frames().unwrap_or(0).into()),
        ("frameRate", pipeline.frame_rate().into()),
        ("latentShape", pipeline.network().image_shape()[..].into()),
        ("initImageShape", pipeline.start_shape()[..].into()),
        ("imageSize", height.into()),
        ("channels", channels.into()),
        ("cache", sampling.cache.is_some().into()),
        ("samplers", samplers.map(SamplerKind::as_str).collect()),
        ("grids", grids.map(Spacing::as_str).collect()),
        ("defaults", defaults),
    ]);
    json::with(pipeline.info().write(), more).to_string()
}

/// An object of typed arrays, as named tensors.
fn from_js(tensors: &Object) -> Result<Vec<NamedTensor>, Error> {
    let mut all = Vec::new();
    for entry in Object::entries(tensors).iter() {
        let entry: Array = entry.unchecked_into();
        let (name, array) = (entry.get(0).as_string().unwrap_or_default(), entry.get(1));
        let values = if let Some(floats) = array.dyn_ref::<Float32Array>() {
            Values::Floats(floats.to_vec())
        } else if let Some(times) = array.dyn_ref::<Float64Array>() {
            Values::Times(times.to_vec())
        } else if let Some(indices) = array.dyn_ref::<Uint32Array>() {
            Values::Indices(indices.to_vec())
        } else {
            let remedy = "Give a Float32Array, for times a Float64Array, for indices a Uint32Array";
            return Err(Error::new(Code::InvalidArgument, format!("tensor \"{name}\" is no typed array"), remedy));
        };
        all.push(NamedTensor::new(name, values));
    }
    Ok(all)
}

fn to_js(tensors: &[NamedTensor]) -> Object {
    let object = Object::new();
    for NamedTensor { name, values, .. } in tensors {
        let array: JsValue = match values {
            Values::Floats(values) => Float32Array::from(values.as_slice()).into(),
            Values::Times(values) => Float64Array::from(values.as_slice()).into(),
            Values::Indices(values) => Uint32Array::from(values.as_slice()).into(),
        };
        let _ = Reflect::set(&object, &name.as_str().into(), &array);
    }
    object
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

    /// One forward of a component's network: an object with a typed array for every port that takes one (floats `Float32Array`,
    /// times `Float64Array`, indices `Uint32Array`); gives an object with a `Float32Array` for every port that gives one.
    pub async fn forward(&self, component: String, tensors: Object) -> Result<Object, JsValue> {
        let given = from_js(&tensors)?;
        let mut pipeline = self.take()?;
        let result = pipeline.forward(&component, given, &|| self.stop.get()).await;
        self.put_back(pipeline);
        Ok(to_js(&result?))
    }

    /// Where a forward's time goes on the GPU, as JSON; null on the CPU.
    #[cfg(feature = "gpu")]
    pub async fn profile(&self, items: usize) -> Result<String, JsValue> {
        let mut pipeline = self.take()?;
        let profile = pipeline.profile(items).await;
        self.put_back(pipeline);
        Ok(profile?.write().to_string())
    }

    /// Generates pictures. `arrays` are a `Float32Array` each, whichever are given: `startLatents`, `initImage`, `firstFrames`, `mask`,
    /// `context`, `nullContext`, `image`; or, instead of that, `imageRgba`, a `Uint8Array` of the option `imageSize`, `[width, height]`.
    /// `on_step(json, preview)` is called after every step. `workers` share the items, this one included:
    /// `remote(worker, tensors)` resolves with the prediction of worker 1 .. workers - 1.
    pub async fn generate(
        &self,
        options: String,
        arrays: Object,
        on_step: Function,
        workers: usize,
        remote: Function,
    ) -> Result<WasmResult, JsValue> {
        let mut request: Request = parse("generate", &options)?;
        let rgba = Reflect::get(&arrays, &"imageRgba".into())?;
        if let Some(rgba) = rgba.dyn_ref::<Uint8Array>() {
            let Sized { image: [width, height] } = parse("generate", &options)?;
            request.image = Some(Picture::from_rgba(&rgba.to_vec(), width, height)?);
            Reflect::delete_property(&arrays, &"imageRgba".into())?;
        }
        let mut image = None;
        for NamedTensor { name, values, .. } in from_js(&arrays)? {
            let place = match name.as_str() {
                "startLatents" => &mut request.start,
                "initImage" => &mut request.init_image,
                "firstFrames" => &mut request.first_frames,
                "mask" => &mut request.mask,
                "context" => &mut request.context,
                "nullContext" => &mut request.null_context,
                "image" => &mut image,
                _ => return Err(Error::internal(format!("generate takes no array {name}")).into()),
            };
            let Values::Floats(values) = values else {
                return Err(Error::internal(format!("{name} is no Float32Array")).into());
            };
            *place = Some(values);
        }
        let mut pipeline = self.take()?;
        if let Some(values) = image {
            match Picture::from_signed(&values, pipeline.start_shape()) {
                Ok(picture) => request.image = Some(picture),
                Err(error) => {
                    self.put_back(pipeline);
                    return Err(error.into());
                }
            }
        }
        let mut report = |event: StepEvent| {
            let shape = event.values.as_ref().and_then(|shown| shown.shape.as_slice().try_into().ok());
            let shape @ [_, height, width] = shape.unwrap_or([0usize; 3]);
            let progress = json::object([
                ("stage", event.stage.as_str().into()),
                ("width", width.into()),
                ("height", height.into()),
                ("frames", event.values.as_ref().map_or(0, |shown| shown.frames).into()),
                ("window", event.window.into()),
                ("windows", event.windows.into()),
                ("step", event.step.into()),
                ("steps", event.steps.into()),
                ("elapsedMs", event.elapsed_ms.into()),
                ("texts", event.texts.iter().map(String::as_str).collect()),
            ]);
            let preview = event.values.map_or(JsValue::UNDEFINED, |shown| {
                let images = shown.values.chunks(shape.iter().product::<usize>().max(1));
                let rgba: Vec<u8> = images.flat_map(|image| pixels::to_rgba(image, shape)).collect();
                Uint8Array::from(rgba.as_slice()).into()
            });
            let _ = on_step.call2(&JsValue::NULL, &progress.to_string().into(), &preview);
        };
        let stopped = || self.stop.get();
        let mut control = Control { on_step: &mut report, stopped: &stopped };
        let helpers = Workers { count: workers.saturating_sub(1), remote };
        let result = pipeline.generate_with(&request, &mut control, Some(&helpers)).await;
        self.put_back(pipeline);
        Ok(WasmResult(result?))
    }

    fn take(&self) -> Result<pipeline::Pipeline, Error> {
        let taken = self.pipeline.borrow_mut().take();
        self.stop.set(false);
        taken.ok_or_else(|| {
            Error::new(
                Code::Disposed,
                "the pipeline is disposed of or busy",
                "Wait for the call in flight, or load again",
            )
        })
    }

    fn put_back(&self, pipeline: pipeline::Pipeline) {
        if !self.disposed.get() {
            *self.pipeline.borrow_mut() = Some(pipeline);
        }
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

/// Helpers behind a JavaScript function.
struct Workers {
    count: usize,
    remote: Function,
}

impl Helpers for Workers {
    fn count(&self) -> usize {
        self.count
    }

    fn forward(&self, index: usize, tensors: Vec<NamedTensor>, outputs: Vec<&'static str>) -> Answer<Vec<Vec<f32>>> {
        let arguments = Array::of2(&JsValue::from_f64(index as f64 + 1.0), &to_js(&tensors));
        // Called now, and watched from now on, so that a rejection before the answer is awaited is not lost.
        let answer = self.remote.apply(&JsValue::NULL, &arguments);
        let answer = answer.map(|promise| JsFuture::from(Promise::resolve(&promise)));
        Box::pin(async move {
            let answer = answer?.await?;
            let mut values = Vec::with_capacity(outputs.len());
            for output in outputs {
                values.push(Float32Array::from(Reflect::get(&answer, &output.into())?).to_vec());
            }
            Ok(values)
        })
    }
}

/// Pictures and how they came about.
#[wasm_bindgen]
pub struct WasmResult(Generated);

#[wasm_bindgen]
impl WasmResult {
    /// Settings, timings, device, as JSON.
    pub fn metadata(&self) -> String {
        self.0.write().to_string()
    }

    /// What was drawn, before it was decoded: a `Float32Array` for every port, if asked for.
    pub fn latents(&self) -> Object {
        to_js(&self.0.latents)
    }

    /// All images, or all frames of all clips, as RGBA, one after the other; nothing where none were made.
    pub fn rgba(&self) -> Uint8Array {
        let rgba: Vec<u8> = (0..self.0.pictures()).flat_map(|k| self.0.rgba(k)).collect();
        Uint8Array::from(rgba.as_slice())
    }

    /// The values `[count, frames, channels, height, width]`, not clipped.
    pub fn floats(&self) -> Float32Array {
        Float32Array::from(self.0.values.as_slice())
    }
}
