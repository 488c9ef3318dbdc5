//! On the browser's own WebGPU objects.

use super::webgpu::{
    GpuAdapter, GpuBindGroup, GpuBuffer, GpuCommandEncoder, GpuComputePass, GpuComputePipeline, GpuDevice, GpuQueue,
    GpuShaderModule, MAP_MODE_READ, clear_interval, get, number, object, set, set_interval, text, usage,
};
use super::{
    Adapter, Events, Limits, Slice, Usage, lost, no_adapter, no_device, out_of_memory, shader_failed, unreadable,
};
use crate::meter::{Meter, Metered};
use crate::{Code, Error, Result};
use js_sys::{Array, Promise, Uint8Array};
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use wasm_bindgen::prelude::Closure;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_time::Instant;

/// What compiles the shaders: the browser and its version.
pub fn platform() -> String {
    let global: JsValue = js_sys::global().into();
    text(&get(&global, "navigator"), "userAgent")
}

/// Device memory.
#[derive(Clone, Debug)]
pub struct Buffer(Rc<OwnedBuffer>);

/// Freed at once when nobody needs it, rather than when JavaScript's collector comes by.
#[derive(Debug)]
struct OwnedBuffer {
    buffer: GpuBuffer,
    _metered: Metered,
}

impl Drop for OwnedBuffer {
    fn drop(&mut self) {
        self.buffer.destroy_buffer();
    }
}

impl Buffer {
    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.gpu().size() as usize
    }

    fn gpu(&self) -> &GpuBuffer {
        &self.0.buffer
    }
}

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct Pipeline {
    pipeline: GpuComputePipeline,
    layout: JsValue,
}

/// A kernel that is being compiled.
pub struct Compiling(Pin<Box<dyn Future<Output = Result<Pipeline>>>>);

/// One kernel launch, ready to be recorded.
#[derive(Clone, Debug)]
pub struct Dispatch {
    pipeline: GpuComputePipeline,
    bindings: GpuBindGroup,
    workgroups: [u32; 3],
}

impl Dispatch {
    /// Changes how many workgroups run.
    pub fn set_workgroups(&mut self, workgroups: [u32; 3]) {
        self.workgroups = workgroups;
    }

    fn record(&self, pass: &GpuComputePass) {
        let [x, y, z] = self.workgroups;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bindings);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// A submission that may still be running.
#[derive(Debug)]
pub struct Ticket {
    promise: Promise,
    ended: Rc<Cell<Option<Instant>>>,
}

impl Ticket {
    /// Of what is submitted by now. When it ends is noted at that moment, not when somebody asks.
    fn of(queue: &GpuQueue) -> Ticket {
        let ended = Rc::new(Cell::new(None));
        let note = ended.clone();
        let on_end = Closure::once_into_js(move || note.set(Some(Instant::now())));
        Ticket { promise: then(&queue.on_submitted_work_done(), &on_end), ended }
    }
}

fn then(promise: &Promise, listener: &JsValue) -> Promise {
    let then = get(promise, "then").unchecked_into::<js_sys::Function>();
    then.call1(promise, listener).map_or_else(|_| promise.clone(), JsCast::unchecked_into)
}

/// Where a browser looks only now and then whether the GPU is done, it looks as well when something is submitted: nothing is,
/// again and again while this lives.
struct Knocking {
    timer: JsValue,
    _knock: Closure<dyn FnMut()>,
}

impl Knocking {
    const EVERY_MS: i32 = 10;

    fn at(queue: &GpuQueue) -> Knocking {
        let queue = queue.clone();
        let knock = Closure::<dyn FnMut()>::new(move || queue.submit(&Array::new()));
        Knocking { timer: set_interval(knock.as_ref(), Knocking::EVERY_MS), _knock: knock }
    }
}

impl Drop for Knocking {
    fn drop(&mut self) {
        clear_interval(&self.timer);
    }
}

/// What goes wrong with objects that are created. Listened to from the start: a rejection that nobody hears ends the worker.
struct Scopes([JsFuture; 3]);

impl Scopes {
    fn around<T>(device: &GpuDevice, work: impl FnOnce() -> T) -> (T, Scopes) {
        ["internal", "validation", "out-of-memory"].iter().for_each(|filter| device.push_error_scope(filter));
        let made = work();
        // The innermost first.
        (made, Scopes([(); 3].map(|_| device.pop_error_scope().into())))
    }

    /// The first error: whether memory ran out, and the message.
    async fn verdict(self) -> std::result::Result<(), (bool, String)> {
        for (i, popped) in self.0.into_iter().enumerate() {
            match popped.await {
                Ok(nothing) if nothing.is_null() => {}
                Ok(error) | Err(error) => return Err((i == 0, text(&error, "message"))),
            }
        }
        Ok(())
    }
}

/// An open device.
pub struct Backend {
    device: GpuDevice,
    queue: GpuQueue,
    adapter: Adapter,
    limits: Limits,
    events: Rc<RefCell<Events>>,
    meter: Meter,
    has_timestamps: bool,
    looks_rarely: Cell<bool>,
    _on_error: Closure<dyn FnMut(JsValue)>,
}

impl Backend {
    /// Opens the best adapter, with all the limits that it offers.
    ///
    /// # Errors
    /// `INSECURE_CONTEXT`, `NO_WEBGPU` if there is none, `LIMIT_TOO_SMALL` if it stays below WebGPU's default limits.
    pub async fn open() -> Result<Backend> {
        let options = object([("powerPreference", "high-performance".into())]);
        let found = JsFuture::from(webgpu()?.request_adapter(&options)).await.unwrap_or(JsValue::NULL);
        if found.is_null() {
            return Err(no_adapter(""));
        }
        let adapter: GpuAdapter = found.unchecked_into();
        let offered = adapter.limits();
        let limit = |name| number(&offered, name) as u64;
        let limits = Limits {
            storage_buffers: limit("maxStorageBuffersPerShaderStage"),
            binding_size: limit("maxStorageBufferBindingSize"),
            buffer_size: limit("maxBufferSize"),
            invocations: limit("maxComputeInvocationsPerWorkgroup"),
            workgroups: limit("maxComputeWorkgroupsPerDimension"),
        };
        limits.check()?;
        let required_limits = object([]);
        for (name, value) in limits.named() {
            set(&required_limits, name, (value as f64).into());
        }
        let features = Array::new();
        let has = |feature: &str| {
            let has = adapter.features().has(&feature.into());
            if has {
                features.push(&feature.into());
            }
            has
        };
        let (has_timestamps, has_subgroups) = (has("timestamp-query"), has("subgroups"));
        let shader_f16 = has("shader-f16");
        let descriptor =
            object([("requiredLimits", required_limits), ("requiredFeatures", JsValue::from(features.clone()))]);
        let device: GpuDevice = JsFuture::from(adapter.request_device(&descriptor))
            .await
            .map_err(|error| no_device(&text(&error, "message")))?
            .unchecked_into();

        let events = Rc::new(RefCell::new(Events::default()));
        let on_lost = events.clone();
        let on_lost = Closure::once_into_js(move |info: JsValue| {
            on_lost.borrow_mut().lost = Some(format!("{}: {}", text(&info, "reason"), text(&info, "message")));
        });
        // Resolved at the latest when the device is destroyed.
        let _ = then(&device.lost(), &on_lost);
        let on_error = events.clone();
        let on_error = Closure::<dyn FnMut(JsValue)>::new(move |event: JsValue| {
            let error = get(&event, "error");
            let memory = text(&get(&error, "constructor"), "name") == "GPUOutOfMemoryError";
            on_error.borrow_mut().note(memory, text(&error, "message"));
        });
        device.set_on_uncaptured_error(on_error.as_ref());

        let info = adapter.info();
        Ok(Backend {
            queue: device.queue(),
            device,
            adapter: Adapter {
                vendor: text(&info, "vendor"),
                architecture: text(&info, "architecture"),
                description: text(&info, "description"),
                // Older browsers say it elsewhere.
                is_fallback_adapter: [&info, &adapter].iter().any(|o| get(o, "isFallbackAdapter").is_truthy()),
                // Some browsers have subgroups and do not say how large.
                subgroup_size: if has_subgroups { number(&info, "subgroupMinSize").max(1.0) as u32 } else { 1 },
                shader_f16,
            },
            limits,
            events,
            meter: Meter::default(),
            has_timestamps,
            looks_rarely: Cell::default(),
            _on_error: on_error,
        })
    }

    /// Who the adapter is.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Device memory, zeroed.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub async fn buffer(&self, label: &str, bytes: usize, usage: Usage) -> Result<Buffer> {
        let usage = match usage {
            Usage::Storage => usage::STORAGE | usage::COPY_SRC,
            Usage::Uniform => usage::UNIFORM,
        } | usage::COPY_DST;
        let (buffer, scopes) = Scopes::around(&self.device, || self.create(label, bytes.max(16), usage));
        scopes.verdict().await.map_err(|(_, error)| out_of_memory(&format!("{label} of {bytes} bytes"), &error))?;
        Ok(buffer)
    }

    fn create(&self, label: &str, bytes: usize, usage: u32) -> Buffer {
        let descriptor = object([("label", label.into()), ("size", (bytes as f64).into()), ("usage", usage.into())]);
        let buffer = self.device.create_buffer(&descriptor);
        Buffer(Rc::new(OwnedBuffer { buffer, _metered: self.meter.count(bytes) }))
    }

    /// Overwrites part of a buffer before all later submissions.
    pub fn write(&self, buffer: &Buffer, offset: usize, contents: &[u8]) {
        self.queue.write_buffer(buffer.gpu(), offset as f64, contents);
    }

    /// Begins to compile a kernel: the browser compiles several at once, and beside what else happens.
    pub fn compile(&self, label: &str, wgsl: &str) -> Compiling {
        // On one line with the first, so that line numbers stay.
        let code = format!("{}{wgsl}", self.adapter.enable(true));
        let ((module, pipeline), scopes) = Scopes::around(&self.device, || {
            let descriptor = object([("label", label.into()), ("code", code.as_str().into())]);
            let module = self.device.create_shader_module(&descriptor);
            let compute = object([("module", module.clone()), ("entryPoint", "main".into())]);
            let descriptor = object([("label", label.into()), ("layout", "auto".into()), ("compute", compute)]);
            (module, JsFuture::from(self.device.create_compute_pipeline_async(&descriptor)))
        });
        let label = label.to_string();
        Compiling(Box::pin(async move {
            match (pipeline.await, scopes.verdict().await) {
                (Ok(pipeline), Ok(())) => {
                    let pipeline: GpuComputePipeline = pipeline.unchecked_into();
                    let layout = pipeline.bind_group_layout(0);
                    Ok(Pipeline { pipeline, layout })
                }
                (_, Err((true, error))) => Err(out_of_memory(&label, &error)),
                (pipeline, verdict) => {
                    let thrown = pipeline.err().map(|error| text(&error, "message"));
                    let error = thrown.or(verdict.err().map(|(_, error)| error)).unwrap_or_default();
                    let messages = compiler_messages(&module, &code).await;
                    Err(shader_failed(&label, messages.as_deref().unwrap_or(&error)))
                }
            }
        }))
    }

    /// The compiled kernel.
    ///
    /// # Errors
    /// `SHADER_FAILED` with the compiler's message and the line.
    pub async fn compiled(&self, compiling: Compiling) -> Result<Pipeline> {
        let pipeline = compiling.0.await;
        self.check()?;
        pipeline
    }

    /// Binds ranges to a kernel.
    pub fn dispatch(&self, pipeline: &Pipeline, bindings: &[(u32, Slice<'_>)], workgroups: [u32; 3]) -> Dispatch {
        let entries: Array = bindings
            .iter()
            .map(|&(binding, slice)| {
                let range = object([
                    ("buffer", slice.buffer.gpu().into()),
                    ("offset", (slice.offset as f64).into()),
                    ("size", (slice.bytes as f64).into()),
                ]);
                object([("binding", binding.into()), ("resource", range)])
            })
            .collect();
        let descriptor = object([("layout", pipeline.layout.clone()), ("entries", entries.into())]);
        let bindings = self.device.create_bind_group(&descriptor);
        Dispatch { pipeline: pipeline.pipeline.clone(), bindings, workgroups }
    }

    /// Submits launches in order, in one compute pass.
    pub fn submit<'a>(&self, dispatches: impl IntoIterator<Item = &'a Dispatch>) -> Ticket {
        let encoder = self.device.create_command_encoder();
        let pass = encoder.begin_compute_pass(&JsValue::UNDEFINED);
        dispatches.into_iter().for_each(|dispatch| dispatch.record(&pass));
        pass.end();
        self.send(&encoder);
        Ticket::of(&self.queue)
    }

    fn send(&self, encoder: &GpuCommandEncoder) {
        self.queue.submit(&Array::of1(&encoder.finish()));
    }

    /// Submits launches, each `repeats` times in a pass of its own; gives the clock's ticks before and after each.
    pub(super) fn submit_timed(&self, work: &[(&Dispatch, u32)]) -> Buffer {
        let count = 2 * work.len() as u32;
        let descriptor = object([("type", "timestamp".into()), ("count", count.into())]);
        let queries = self.device.create_query_set(&descriptor);
        let ticks = self.create("timestamps", 8 * count as usize, usage::QUERY_RESOLVE | usage::COPY_SRC);
        let encoder = self.device.create_command_encoder();
        for (i, &(dispatch, repeats)) in work.iter().enumerate() {
            let first = 2 * i as u32;
            let writes = object([
                ("querySet", (&queries).into()),
                ("beginningOfPassWriteIndex", first.into()),
                ("endOfPassWriteIndex", (first + 1).into()),
            ]);
            let pass = encoder.begin_compute_pass(&object([("timestampWrites", writes)]));
            for _ in 0..repeats {
                dispatch.record(&pass);
            }
            pass.end();
        }
        encoder.resolve_query_set(&queries, 0, count, ticks.gpu(), 0.0);
        self.send(&encoder);
        ticks
    }

    /// Whether there are timestamp queries.
    pub fn has_timestamps(&self) -> bool {
        self.has_timestamps
    }

    /// Nanoseconds of a timestamp's tick.
    pub(super) fn timestamp_period(&self) -> f64 {
        1.0
    }

    /// Takes note that the browser looks only now and then whether the GPU is done.
    pub(super) fn looks_rarely(&self) {
        self.looks_rarely.set(true);
    }

    /// What the queue answers when it is done.
    async fn answer(&self, promise: Promise) -> std::result::Result<JsValue, JsValue> {
        let _knocking = self.looks_rarely.get().then(|| Knocking::at(&self.queue));
        JsFuture::from(promise).await
    }

    /// Waits until a submission is done.
    ///
    /// # Errors
    /// `DEVICE_LOST`, or `INTERNAL` for a validation error of anything submitted.
    pub async fn wait(&self, ticket: &Ticket) -> Result<()> {
        let answer = self.answer(ticket.promise.clone()).await;
        self.check()?;
        answer.map(|_| ()).map_err(|error| lost(&text(&error, "message")))
    }

    /// When a submission ended, once the browser has said so.
    pub fn ended(&self, ticket: &Ticket) -> Option<Instant> {
        ticket.ended.get()
    }

    /// Waits until all submitted work is done.
    ///
    /// # Errors
    /// `DEVICE_LOST`, or `INTERNAL` for a validation error of anything submitted.
    pub async fn finished(&self) -> Result<()> {
        self.wait(&Ticket::of(&self.queue)).await
    }

    /// Reads part of a buffer (offset and length multiples of 4).
    ///
    /// # Errors
    /// `DEVICE_LOST`, `OUT_OF_MEMORY`.
    pub async fn read(&self, slice: Slice<'_>) -> Result<Vec<u8>> {
        let ((staging, mapped), scopes) = Scopes::around(&self.device, || {
            let staging = self.create("readback", slice.bytes, usage::MAP_READ | usage::COPY_DST);
            let encoder = self.device.create_command_encoder();
            let (offset, bytes) = (slice.offset as f64, slice.bytes as f64);
            encoder.copy_buffer_to_buffer(slice.buffer.gpu(), offset, staging.gpu(), 0.0, bytes);
            self.send(&encoder);
            let mapped = staging.gpu().map_async(MAP_MODE_READ);
            (staging, mapped)
        });
        let mapped = self.answer(mapped).await;
        let verdict = scopes.verdict().await;
        self.check()?;
        if let Err((memory, error)) = verdict {
            return Err(unreadable(memory, slice.bytes, &error));
        }
        let view = mapped.and_then(|_| staging.gpu().get_mapped_range());
        let view = view.map_err(|error| {
            // What the browser throws where the page has no room for the bytes.
            let memory = text(&error, "name") == "RangeError";
            unreadable(memory, slice.bytes, &text(&error, "message"))
        })?;
        let mut bytes = Vec::new();
        let room = bytes.try_reserve_exact(slice.bytes);
        room.map_err(|error| unreadable(true, slice.bytes, &error.to_string()))?;
        bytes.resize(slice.bytes, 0);
        Uint8Array::new(&view).copy_to(&mut bytes);
        Ok(bytes)
    }

    /// Whether the device still works.
    ///
    /// # Errors
    /// `DEVICE_LOST`; once, `OUT_OF_MEMORY` or `INTERNAL` for an error that nobody waited for.
    pub fn check(&self) -> Result<()> {
        self.events.borrow_mut().check()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.device.set_on_uncaptured_error(&JsValue::NULL);
        self.device.destroy();
    }
}

/// `navigator.gpu`, or why there is none.
fn webgpu() -> Result<super::webgpu::Gpu> {
    let global: JsValue = js_sys::global().into();
    let gpu = get(&get(&global, "navigator"), "gpu");
    if !gpu.is_undefined() {
        return Ok(gpu.unchecked_into());
    }
    if get(&global, "isSecureContext").is_falsy() {
        return Err(Error::new(
            Code::InsecureContext,
            "this page is no secure context, so the browser hides WebGPU",
            "Serve the page over https, or open it as http://localhost",
        ));
    }
    Err(Error::new(
        Code::NoWebGpu,
        "this browser has no WebGPU",
        "Use Chrome or Edge 113, Safari 26, Firefox 141 or newer, or device \"cpu\"",
    ))
}

/// The compiler's errors, each with its place and the line that it is about.
async fn compiler_messages(module: &GpuShaderModule, code: &str) -> Option<String> {
    let info = JsFuture::from(module.compilation_info()).await.ok()?;
    let messages: Array = get(&info, "messages").dyn_into().ok()?;
    let errors: Vec<String> = messages
        .iter()
        .filter(|message| text(message, "type") == "error")
        .map(|message| {
            let line = number(&message, "lineNum") as usize;
            let source = code.lines().nth(line.wrapping_sub(1)).unwrap_or_default();
            format!("{line}:{} {}\n{source}", number(&message, "linePos") as usize, text(&message, "message"))
        })
        .collect();
    (!errors.is_empty()).then(|| errors.join("\n"))
}
