//! What the browser says of WebGPU beyond what wgpu passes on: why there is none, and who the adapter is.

use super::backend::Adapter;
use crate::{Code, Error, Result};
use js_sys::Reflect;
use wasm_bindgen::JsValue;

/// Checks that the browser offers WebGPU at all.
///
/// # Errors
/// `INSECURE_CONTEXT`, `NO_WEBGPU`.
pub fn check_webgpu() -> Result<()> {
    let get = |object: &JsValue, name: &str| Reflect::get(object, &name.into()).unwrap_or(JsValue::UNDEFINED);
    let global: JsValue = js_sys::global().into();
    let navigator = get(&global, "navigator");
    if !get(&navigator, "gpu").is_undefined() {
        return Ok(());
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

/// The adapter as the browser names it.
pub fn adapter(device: &wgpu::Device, is_fallback_adapter: bool) -> Adapter {
    let info = device
        .as_webgpu()
        .and_then(|device| Reflect::get(device.as_ref(), &"adapterInfo".into()).ok())
        .unwrap_or(JsValue::UNDEFINED);
    let text =
        |name: &str| Reflect::get(&info, &name.into()).ok().and_then(|value| value.as_string()).unwrap_or_default();
    Adapter {
        vendor: text("vendor"),
        architecture: text("architecture"),
        description: text("description"),
        is_fallback_adapter,
    }
}
