//! The model hash: one number for everything that decides a picture, whatever the files are called and whichever version
//! the manifest has. `docs/format.md` says what is hashed.

use super::manifest::{Component, Manifest};
use crate::Result;
use crate::decimal::decimal;
use crate::json::{self, Map, Value, Write};
use crate::weights::{Dtype, Variant, sha256};

impl Manifest {
    /// SHA-256 of the task, sampling, null class, assets, and of every component's network and the variant that
    /// [`Manifest::variant`] takes for `dtype`.
    ///
    /// # Errors
    /// Those of [`Manifest::variant`].
    pub fn model_hash(&self, dtype: Option<Dtype>) -> Result<String> {
        let mut components = Map::new();
        for (name, component) in self.components.iter() {
            components.insert(name.into(), describe(component, self.variant(name, dtype)?));
        }
        let mut assets = Map::new();
        for (name, asset) in self.assets.iter() {
            assets.insert(name.into(), asset.sha256.to_ascii_lowercase().into());
        }
        let model = json::object([
            ("task", self.task.write()),
            ("sampling", self.sampling.write()),
            ("null_class", self.null_class.into()),
            ("components", components.into()),
            ("assets", assets.into()),
        ]);
        let mut text = String::new();
        canonical(&model, &mut text);
        Ok(sha256(text.as_bytes()))
    }
}

fn describe(component: &Component, variant: &Variant) -> Value {
    // As the network reads them: without fields that it ignores.
    let params = component.network().map_or_else(|_| component.params.clone(), |network| network.params());
    let shards: Vec<String> = variant.shards.iter().map(|shard| shard.sha256.to_ascii_lowercase()).collect();
    json::object([
        ("architecture", component.architecture.as_str().into()),
        ("params", params),
        ("shards", shards.into()),
        ("tensors", variant.tensors.write()),
    ])
}

/// JSON without spaces; keys sorted; numbers in plain decimals, as few as read back the same, whole ones without a point.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            text.push('{');
            for (i, (name, value)) in fields.into_iter().enumerate() {
                separate(i, text);
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                canonical(value, text);
            }
            text.push('}');
        }
        Value::Array(values) => {
            text.push('[');
            for (i, value) in values.iter().enumerate() {
                separate(i, text);
                canonical(value, text);
            }
            text.push(']');
        }
        number if number.is_f64() => {
            // Adding 0 takes the sign from -0.
            let number = number.as_f64().unwrap_or_default() + 0.0;
            text.push_str(&decimal(number));
        }
        other => text.push_str(&other.to_string()),
    }
}

fn separate(i: usize, text: &mut String) {
    if i > 0 {
        text.push(',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_json_has_one_form() {
        let text = |json: &str| {
            let mut text = String::new();
            canonical(&serde_json::from_str(json).unwrap(), &mut text);
            text
        };
        let want =
            r#"{"a":[],"b":{"c":4,"d":-0.5},"e":[true,null,"ä\"\n"],"f":0.00001,"g":0,"h":18446744073709551615}"#;
        let same = r#" { "h": 18446744073709551615, "g": -0.0, "f": 1e-5, "e": [true, null, "\u00e4\"\n"],
                        "b": {"d": -5e-1, "c": 4.0}, "a": [ ] } "#;
        assert_eq!(text(want), want);
        assert_eq!(text(same), want);
    }
}
