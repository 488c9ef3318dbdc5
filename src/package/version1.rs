//! Version 1 of the manifest knew one network: its architecture, params and variants stood at the top.

use super::manifest::{DENOISER, FORMAT_VERSION};
use crate::json::{self, Map, Value};

/// A manifest of version 1 as one of version 2. What is missing stays missing.
pub fn upgrade(mut manifest: Value) -> Value {
    if let Some(fields) = manifest.as_object_mut() {
        let mut component = Map::new();
        for name in ["architecture", "params", "variants"] {
            if let Some(value) = fields.remove(name) {
                component.insert(name.into(), value);
            }
        }
        fields.insert("format_version".into(), FORMAT_VERSION.into());
        fields.insert("task".into(), "class".into());
        fields.insert("components".into(), json::object([(DENOISER, component.into())]));
        fields.remove("assets");
    }
    manifest
}
