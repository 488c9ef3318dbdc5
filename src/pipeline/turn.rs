//! Giving the host a turn: in a worker, messages (an abort, say) are only seen between two tasks.

/// Lets pending messages be handled; natively a no-op.
#[cfg(not(target_arch = "wasm32"))]
pub async fn turn() {}

/// Lets pending messages be handled.
#[cfg(target_arch = "wasm32")]
pub async fn turn() {
    use wasm_bindgen::prelude::*;
    #[wasm_bindgen]
    extern "C" {
        #[wasm_bindgen(js_name = setTimeout)]
        fn set_timeout(callback: &js_sys::Function, milliseconds: i32) -> JsValue;
    }
    let promise = js_sys::Promise::new(&mut |resolve, _| {
        set_timeout(&resolve, 0);
    });
    let _ = wasm_bindgen_futures::JsFuture::from(promise).await;
}
