//! Giving the host a turn: in a worker, messages (an abort, say) are only seen between two tasks.

#[cfg(target_arch = "wasm32")]
pub use browser::turn;

/// Lets pending messages be handled; natively a no-op.
#[cfg(not(target_arch = "wasm32"))]
pub async fn turn() {}

#[cfg(target_arch = "wasm32")]
mod browser {
    use js_sys::{Function, Promise};
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::rc::Rc;
    use wasm_bindgen::prelude::Closure;
    use wasm_bindgen::{JsCast, JsValue};
    use wasm_bindgen_futures::JsFuture;
    use web_sys::MessageChannel;

    /// Lets pending messages be handled. A message to ourselves comes after those that wait already, and at once; timers would
    /// wait at least 4 ms. Any number may wait at a time: the messages wake them in their order.
    pub async fn turn() {
        thread_local! {
            static TURNS: Option<Turns> = Turns::new();
        }
        let promise = Promise::new(&mut |resolve, _| {
            let waits = TURNS.with(|turns| turns.as_ref().is_some_and(|turns| turns.wait(&resolve)));
            if !waits {
                let _ = resolve.call0(&JsValue::NULL);
            }
        });
        let _ = JsFuture::from(promise).await;
    }

    struct Turns {
        channel: MessageChannel,
        waiting: Rc<RefCell<VecDeque<Function>>>,
        _on_message: Closure<dyn FnMut()>,
    }

    impl Turns {
        fn new() -> Option<Turns> {
            let channel = MessageChannel::new().ok()?;
            let waiting = Rc::<RefCell<VecDeque<Function>>>::default();
            let queue = waiting.clone();
            let on_message = Closure::<dyn FnMut()>::new(move || {
                let first = queue.borrow_mut().pop_front();
                if let Some(resolve) = first {
                    let _ = resolve.call0(&JsValue::NULL);
                }
            });
            channel.port1().set_onmessage(Some(on_message.as_ref().unchecked_ref()));
            Some(Turns { channel, waiting, _on_message: on_message })
        }

        /// Whether `resolve` will be called.
        fn wait(&self, resolve: &Function) -> bool {
            let posted = self.channel.port2().post_message(&JsValue::NULL).is_ok();
            if posted {
                self.waiting.borrow_mut().push_back(resolve.clone());
            }
            posted
        }
    }
}
