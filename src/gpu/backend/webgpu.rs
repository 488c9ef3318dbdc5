//! The browser's WebGPU objects, as far as [`super::browser`] needs them (W3C WebGPU, "Interfaces"). web-sys has them too,
//! but only behind a compiler flag, since they are unstable there.

use js_sys::{Array, ArrayBuffer, Object, Promise, Reflect};
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setInterval)]
    pub fn set_interval(listener: &JsValue, milliseconds: i32) -> JsValue;
    #[wasm_bindgen(js_name = clearInterval)]
    pub fn clear_interval(timer: &JsValue);

    /// `navigator.gpu`
    pub type Gpu;
    #[wasm_bindgen(method, js_name = requestAdapter)]
    pub fn request_adapter(this: &Gpu, options: &JsValue) -> Promise;

    pub type GpuAdapter;
    #[wasm_bindgen(method, getter)]
    pub fn features(this: &GpuAdapter) -> js_sys::Set;
    #[wasm_bindgen(method, getter)]
    pub fn limits(this: &GpuAdapter) -> JsValue;
    #[wasm_bindgen(method, getter)]
    pub fn info(this: &GpuAdapter) -> JsValue;
    #[wasm_bindgen(method, js_name = requestDevice)]
    pub fn request_device(this: &GpuAdapter, descriptor: &JsValue) -> Promise;

    #[derive(Clone)]
    pub type GpuDevice;
    #[wasm_bindgen(method, getter)]
    pub fn queue(this: &GpuDevice) -> GpuQueue;
    #[wasm_bindgen(method, getter)]
    pub fn lost(this: &GpuDevice) -> Promise;
    #[wasm_bindgen(method, setter, js_name = onuncapturederror)]
    pub fn set_on_uncaptured_error(this: &GpuDevice, listener: &JsValue);
    #[wasm_bindgen(method, js_name = pushErrorScope)]
    pub fn push_error_scope(this: &GpuDevice, filter: &str);
    #[wasm_bindgen(method, js_name = popErrorScope)]
    pub fn pop_error_scope(this: &GpuDevice) -> Promise;
    #[wasm_bindgen(method, js_name = createBuffer)]
    pub fn create_buffer(this: &GpuDevice, descriptor: &JsValue) -> GpuBuffer;
    #[wasm_bindgen(method, js_name = createShaderModule)]
    pub fn create_shader_module(this: &GpuDevice, descriptor: &JsValue) -> GpuShaderModule;
    #[wasm_bindgen(method, js_name = createComputePipelineAsync)]
    pub fn create_compute_pipeline_async(this: &GpuDevice, descriptor: &JsValue) -> Promise;
    #[wasm_bindgen(method, js_name = createBindGroup)]
    pub fn create_bind_group(this: &GpuDevice, descriptor: &JsValue) -> GpuBindGroup;
    #[wasm_bindgen(method, js_name = createCommandEncoder)]
    pub fn create_command_encoder(this: &GpuDevice) -> GpuCommandEncoder;
    #[wasm_bindgen(method, js_name = createQuerySet)]
    pub fn create_query_set(this: &GpuDevice, descriptor: &JsValue) -> GpuQuerySet;
    #[wasm_bindgen(method)]
    pub fn destroy(this: &GpuDevice);

    #[derive(Clone)]
    pub type GpuQueue;
    #[wasm_bindgen(method)]
    pub fn submit(this: &GpuQueue, commands: &Array);
    #[wasm_bindgen(method, js_name = onSubmittedWorkDone)]
    pub fn on_submitted_work_done(this: &GpuQueue) -> Promise;
    #[wasm_bindgen(method, js_name = writeBuffer)]
    pub fn write_buffer(this: &GpuQueue, buffer: &GpuBuffer, offset: f64, contents: &[u8]);

    #[derive(Clone, Debug)]
    pub type GpuBuffer;
    #[wasm_bindgen(method, getter)]
    pub fn size(this: &GpuBuffer) -> f64;
    #[wasm_bindgen(method, js_name = mapAsync)]
    pub fn map_async(this: &GpuBuffer, mode: u32) -> Promise;
    #[wasm_bindgen(method, catch, js_name = getMappedRange)]
    pub fn get_mapped_range(this: &GpuBuffer) -> Result<ArrayBuffer, JsValue>;
    #[wasm_bindgen(method, js_name = destroy)]
    pub fn destroy_buffer(this: &GpuBuffer);

    pub type GpuShaderModule;
    #[wasm_bindgen(method, js_name = getCompilationInfo)]
    pub fn compilation_info(this: &GpuShaderModule) -> Promise;

    #[derive(Clone, Debug)]
    pub type GpuComputePipeline;
    #[wasm_bindgen(method, js_name = getBindGroupLayout)]
    pub fn bind_group_layout(this: &GpuComputePipeline, index: u32) -> JsValue;

    #[derive(Clone, Debug)]
    pub type GpuBindGroup;

    pub type GpuQuerySet;

    pub type GpuCommandEncoder;
    #[wasm_bindgen(method, js_name = beginComputePass)]
    pub fn begin_compute_pass(this: &GpuCommandEncoder, descriptor: &JsValue) -> GpuComputePass;
    #[wasm_bindgen(method, js_name = copyBufferToBuffer)]
    pub fn copy_buffer_to_buffer(
        this: &GpuCommandEncoder,
        from: &GpuBuffer,
        from_offset: f64,
        to: &GpuBuffer,
        to_offset: f64,
        bytes: f64,
    );
    #[wasm_bindgen(method, js_name = resolveQuerySet)]
    pub fn resolve_query_set(
        this: &GpuCommandEncoder,
        queries: &GpuQuerySet,
        first: u32,
        count: u32,
        to: &GpuBuffer,
        offset: f64,
    );
    #[wasm_bindgen(method)]
    pub fn finish(this: &GpuCommandEncoder) -> JsValue;

    pub type GpuComputePass;
    #[wasm_bindgen(method, js_name = setPipeline)]
    pub fn set_pipeline(this: &GpuComputePass, pipeline: &GpuComputePipeline);
    #[wasm_bindgen(method, js_name = setBindGroup)]
    pub fn set_bind_group(this: &GpuComputePass, index: u32, bindings: &GpuBindGroup);
    #[wasm_bindgen(method, js_name = dispatchWorkgroups)]
    pub fn dispatch_workgroups(this: &GpuComputePass, x: u32, y: u32, z: u32);
    #[wasm_bindgen(method)]
    pub fn end(this: &GpuComputePass);
}

/// `GPUBufferUsage`
pub mod usage {
    pub const MAP_READ: u32 = 1;
    pub const COPY_SRC: u32 = 4;
    pub const COPY_DST: u32 = 8;
    pub const UNIFORM: u32 = 64;
    pub const STORAGE: u32 = 128;
    pub const QUERY_RESOLVE: u32 = 512;
}

/// `GPUMapMode.READ`
pub const MAP_MODE_READ: u32 = 1;

/// A descriptor.
pub fn object<const N: usize>(fields: [(&str, JsValue); N]) -> JsValue {
    let object: JsValue = Object::new().into();
    for (name, value) in fields {
        set(&object, name, value);
    }
    object
}

/// Sets a descriptor's field.
pub fn set(object: &JsValue, name: &str, value: JsValue) {
    // A plain object refuses nothing.
    let _ = Reflect::set(object, &name.into(), &value);
}

/// A field, `undefined` where there is none.
pub fn get(object: &JsValue, name: &str) -> JsValue {
    Reflect::get(object, &name.into()).unwrap_or(JsValue::UNDEFINED)
}

/// A field's text, empty where there is none.
pub fn text(object: &JsValue, name: &str) -> String {
    get(object, name).as_string().unwrap_or_default()
}

/// A field's number, 0 where there is none.
pub fn number(object: &JsValue, name: &str) -> f64 {
    get(object, name).as_f64().unwrap_or_default()
}
