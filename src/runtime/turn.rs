//! Giving the host a turn: in a worker, messages (an abort, say) are only seen between two tasks.

/// Lets pending messages be handled; natively a no-op.
#[cfg(not(target_arch = "wasm32"))]
pub async fn turn() {}

/// Lets pending messages be handled. A message to ourselves comes after those that wait already, and at once; timers would
/// wait at least 4 ms.
#[cfg(target_arch = "wasm32")]
pub async fn turn() {
    use web_sys::MessageChannel;
    thread_local! {
        static CHANNEL: Option<MessageChannel> = MessageChannel::new().ok();
    }
    let promise = js_sys::Promise::new(&mut |resolve, _| {
        let posted = CHANNEL.with(|channel| {
            let channel = channel.as_ref()?;
            channel.port1().set_onmessage(Some(&resolve));
            channel.port2().post_message(&wasm_bindgen::JsValue::NULL).ok()
        });
        if posted.is_none() {
            let _ = resolve.call0(&wasm_bindgen::JsValue::NULL);
        }
    });
    let _ = wasm_bindgen_futures::JsFuture::from(promise).await;
}
