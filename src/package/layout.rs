//! The manifest as text: indented, and every object's fields in the order of `docs/format.md`, as people read it.

use super::manifest::Manifest;
use crate::json::{Value, Write};

/// The order of what is in a value.
enum Layout {
    /// By name.
    Sorted,
    /// All that is in a list or under a name: by name, and each of it like this.
    Each(&'static Layout),
    /// These fields first, each of them like this.
    Fields(&'static [(&'static str, Layout)]),
}

use Layout::{Each, Fields, Sorted};

const PART: Layout = Fields(&[("shard", Sorted), ("rows", Sorted)]);
const TENSOR: Layout = Fields(&[("shape", Sorted), ("dtype", Sorted), ("group", Sorted), ("parts", Each(&PART))]);
const FILE: Layout = Fields(&[("file", Sorted), ("bytes", Sorted), ("sha256", Sorted)]);
const VARIANT: Layout = Fields(&[
    ("dtype", Sorted),
    ("group", Sorted),
    ("bytes", Sorted),
    ("shards", Each(&FILE)),
    ("tensors", Each(&TENSOR)),
]);
const COMPONENT: Layout = Fields(&[("architecture", Sorted), ("params", Sorted), ("variants", Each(&VARIANT))]);
const SCHEDULE: Layout = Fields(&[
    ("type", Sorted),
    ("beta_min", Sorted),
    ("beta_max", Sorted),
    ("beta_start", Sorted),
    ("beta_end", Sorted),
    ("train_steps", Sorted),
]);
const CACHE: Layout = Fields(&[("outer", Sorted), ("steps", Sorted), ("refresh", Sorted)]);
const SAMPLING: Layout = Fields(&[
    ("schedule", SCHEDULE),
    ("prediction", Sorted),
    ("time_scale", Sorted),
    ("time_offset", Sorted),
    ("t_min", Sorted),
    ("t_max", Sorted),
    ("sampler", Sorted),
    ("grid", Sorted),
    ("steps", Sorted),
    ("guidance_scale", Sorted),
    ("guided_channels", Sorted),
    ("clip_x0", Sorted),
    ("lower_order_final", Sorted),
    ("cache", CACHE),
]);
const LABEL: Layout = Fields(&[("index", Sorted), ("name", Sorted)]);
const LICENCE: Layout = Fields(&[("name", Sorted), ("spdx", Sorted), ("attribution", Sorted)]);
const MANIFEST: Layout = Fields(&[
    ("format_version", Sorted),
    ("name", Sorted),
    ("task", Sorted),
    ("sampling", SAMPLING),
    ("null_class", Sorted),
    ("labels", Each(&LABEL)),
    ("licences", Each(&LICENCE)),
    ("preview", Sorted),
    ("components", Each(&COMPONENT)),
    ("assets", Each(&FILE)),
]);

impl Manifest {
    /// The manifest as JSON, indented; always of version [`FORMAT_VERSION`](super::FORMAT_VERSION).
    pub fn to_json(&self) -> String {
        let mut text = String::new();
        print(&self.write(), &MANIFEST, 0, &mut text);
        text + "\n"
    }
}

impl Layout {
    /// Where a field stands among the others, and what is in it.
    fn of(&self, name: &str) -> (usize, &Layout) {
        match self {
            Sorted => (0, &Sorted),
            Each(layout) => (0, layout),
            Fields(fields) => {
                let at = fields.iter().position(|(field, _)| *field == name);
                at.map_or((fields.len(), &Sorted), |at| (at, &fields[at].1))
            }
        }
    }
}

fn print(value: &Value, layout: &Layout, depth: usize, text: &mut String) {
    let (ends, values) = match value {
        Value::Object(fields) => {
            // Stable: fields of no place of their own stay sorted by name.
            let mut fields: Vec<_> = fields.iter().map(|(name, value)| (layout.of(name), Some(name), value)).collect();
            fields.sort_by_key(|((place, _), ..)| *place);
            (["{", "}"], fields)
        }
        Value::Array(values) => (["[", "]"], values.iter().map(|value| (layout.of(""), None, value)).collect()),
        plain => return text.push_str(&plain.to_string()),
    };
    text.push_str(ends[0]);
    for (i, ((_, layout), name, value)) in values.iter().enumerate() {
        text.push_str(if i == 0 { "" } else { "," });
        line(depth + 1, text);
        if let Some(name) = name {
            text.push_str(&Value::from(name.as_str()).to_string());
            text.push_str(": ");
        }
        print(value, layout, depth + 1, text);
    }
    if !values.is_empty() {
        line(depth, text);
    }
    text.push_str(ends[1]);
}

fn line(depth: usize, text: &mut String) {
    text.push('\n');
    text.push_str(&"  ".repeat(depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_hash_of_a_manifest_stay_what_they_are() {
        let text = include_str!("layout.json");
        let manifest = Manifest::parse(text).unwrap();
        assert_eq!(manifest.to_json(), text);
        let hash = "1ba1608357b7710f84214a853e42ec5f0d3892df873cb3c2daec544f9160aa2f";
        assert_eq!(manifest.model_hash(None).unwrap(), hash);
        let discrete = r#"{ "type": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "train_steps": 1000 }"#;
        let vp = "{\n      \"type\": \"vp_linear\",\n      \"beta_min\": 0.1,\n      \"beta_max\": 20.0\n    }";
        let other = Manifest::parse(&text.replace(vp, discrete)).unwrap().to_json();
        let order =
            ["scaled_linear", "beta_start", "beta_end", "train_steps", "prediction"].map(|name| other.find(name));
        assert!(order.is_sorted() && order[0].is_some(), "{other}");
    }
}
