//! JSON values in the browser, which reads their text itself. This is the part of serde_json's interface that the library
//! uses; the crate's parser, maps and float formats were 20 kB more for a page to load.

use crate::decimal::decimal;
#[cfg(target_arch = "wasm32")]
use crate::json::Result;
use std::fmt::{Display, Formatter, Result as Formatted, Write as _};
use std::ops::Index;

/// Any value. All numbers are f64, as in JavaScript: whole ones are exact below 2^53, and `4.0` is whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// `null`
    #[default]
    Null,
    /// `true` or `false`
    Bool(bool),
    /// Always finite.
    Number(f64),
    /// A text.
    String(String),
    /// A list.
    Array(Vec<Value>),
    /// Fields.
    Object(Map),
}

/// Fields sorted by name, each name once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map(Vec<(String, Value)>);

impl Map {
    /// No fields.
    pub fn new() -> Map {
        Map::default()
    }

    fn find(&self, name: &str) -> std::result::Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.as_str().cmp(name))
    }

    /// The field of that name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.find(name).ok().map(|at| &self.0[at].1)
    }

    /// Adds a field, or replaces the one of that name.
    pub fn insert(&mut self, name: String, value: Value) {
        match self.find(&name) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (name, value)),
        }
    }

    /// Takes the field of that name out.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        self.find(name).ok().map(|at| self.0.remove(at).1)
    }

    /// Takes the fields of another one over.
    pub fn append(&mut self, other: &mut Map) {
        for (name, value) in std::mem::take(&mut other.0) {
            self.insert(name, value);
        }
    }

    /// How many fields.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All fields, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Value)> + use<'_> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// All names, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &String> + use<'_> {
        self.0.iter().map(|(name, _)| name)
    }
}

/// The largest whole number below which all others are exact.
const EXACT: f64 = 9_007_199_254_740_991.0;

impl Value {
    /// Takes the value and leaves null.
    pub fn take(&mut self) -> Value {
        std::mem::take(self)
    }

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Whether it is a number.
    pub fn is_f64(&self) -> bool {
        matches!(self, Value::Number(_))
    }

    /// The truth value.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The whole number.
    pub fn as_i64(&self) -> Option<i64> {
        self.as_f64().filter(|number| number.trunc() == *number && number.abs() <= EXACT).map(|number| number as i64)
    }

    /// The whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        self.as_i64().and_then(|number| number.try_into().ok())
    }

    /// The text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The list.
    pub fn as_array(&self) -> Option<&Vec<Value>> {
        match self {
            Value::Array(values) => Some(values),
            _ => None,
        }
    }

    /// The fields.
    pub fn as_object(&self) -> Option<&Map> {
        match self {
            Value::Object(fields) => Some(fields),
            _ => None,
        }
    }

    /// The fields, to be changed.
    pub fn as_object_mut(&mut self) -> Option<&mut Map> {
        match self {
            Value::Object(fields) => Some(fields),
            _ => None,
        }
    }

    /// The field of that name, if it is an object that has one.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.as_object().and_then(|fields| fields.get(name))
    }
}

impl Index<&str> for Value {
    type Output = Value;

    /// The field of that name; null if there is none.
    fn index(&self, name: &str) -> &Value {
        self.get(name).unwrap_or(&Value::Null)
    }
}

impl PartialEq<str> for Value {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == Some(other)
    }
}

impl PartialEq<u32> for Value {
    fn eq(&self, other: &u32) -> bool {
        self.as_f64() == Some(f64::from(*other))
    }
}

/// Text without spaces; numbers in plain decimals, as few as read back the same, whole ones without a point.
impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> Formatted {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => Display::fmt(value, f),
            Value::Number(number) => f.write_str(&decimal(*number)),
            Value::String(text) => quote(text, f),
            Value::Array(values) => {
                f.write_char('[')?;
                for (i, value) in values.iter().enumerate() {
                    separate(i, f)?;
                    value.fmt(f)?;
                }
                f.write_char(']')
            }
            Value::Object(fields) => {
                f.write_char('{')?;
                for (i, (name, value)) in fields.0.iter().enumerate() {
                    separate(i, f)?;
                    quote(name, f)?;
                    f.write_char(':')?;
                    value.fmt(f)?;
                }
                f.write_char('}')
            }
        }
    }
}

fn separate(i: usize, f: &mut Formatter<'_>) -> Formatted {
    if i > 0 { f.write_char(',') } else { Ok(()) }
}

fn quote(text: &str, f: &mut Formatter<'_>) -> Formatted {
    f.write_char('"')?;
    for c in text.chars() {
        let short = match c {
            '"' | '\\' => c,
            '\n' => 'n',
            '\r' => 'r',
            '\t' => 't',
            '\u{8}' => 'b',
            '\u{c}' => 'f',
            '\0'..' ' => {
                write!(f, "\\u{:04x}", c as u32)?;
                continue;
            }
            _ => {
                f.write_char(c)?;
                continue;
            }
        };
        f.write_char('\\')?;
        f.write_char(short)?;
    }
    f.write_char('"')
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<f64> for Value {
    /// What is not finite is null.
    fn from(number: f64) -> Value {
        if number.is_finite() { Value::Number(number) } else { Value::Null }
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Number(number as f64)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Value {
        Value::Number(number.into())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Value {
        Value::Number(number as f64)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Number(number as f64)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::String(text)
    }
}

impl From<Map> for Value {
    fn from(fields: Map) -> Value {
        Value::Object(fields)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, T::into)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(values: Vec<T>) -> Value {
        values.into_iter().collect()
    }
}

impl<T: Into<Value>, const N: usize> From<[T; N]> for Value {
    fn from(values: [T; N]) -> Value {
        values.into_iter().collect()
    }
}

impl<T: Into<Value> + Clone> From<&[T]> for Value {
    fn from(values: &[T]) -> Value {
        values.iter().cloned().collect()
    }
}

impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Value {
        Value::Array(values.into_iter().map(T::into).collect())
    }
}

impl FromIterator<(String, Value)> for Map {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(fields: I) -> Map {
        let mut map = Map::new();
        fields.into_iter().for_each(|(name, value)| map.insert(name, value));
        map
    }
}

impl<K: Into<String>> FromIterator<(K, Value)> for Value {
    fn from_iter<I: IntoIterator<Item = (K, Value)>>(fields: I) -> Value {
        Value::Object(fields.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

/// Reads a text.
///
/// # Errors
/// What the browser says is wrong with it, or that it holds what serde_json does not take either.
#[cfg(target_arch = "wasm32")]
pub fn parse(text: &str) -> Result<Value> {
    let parsed = js_sys::JSON::parse(text).map_err(|thrown| crate::Error::from(thrown).cause.clone())?;
    read(&parsed, 127)
}

#[cfg(target_arch = "wasm32")]
fn read(parsed: &wasm_bindgen::JsValue, depth: usize) -> Result<Value> {
    use js_sys::{Array, Object};
    use wasm_bindgen::JsCast;

    if let Some(text) = parsed.as_string() {
        return Ok(Value::String(text));
    }
    if let Some(number) = parsed.as_f64() {
        return if number.is_finite() { Ok(Value::Number(number)) } else { Err("a number is out of range".into()) };
    }
    if let Some(value) = parsed.as_bool() {
        return Ok(Value::Bool(value));
    }
    if parsed.is_null() {
        return Ok(Value::Null);
    }
    let depth = depth.checked_sub(1).ok_or("it is nested too deeply")?;
    if let Some(list) = parsed.dyn_ref::<Array>() {
        return list.iter().map(|value| read(&value, depth)).collect::<Result<_>>().map(Value::Array);
    }
    let mut map = Map::new();
    for field in Object::entries(parsed.unchecked_ref()).iter() {
        let field: Array = field.unchecked_into();
        map.insert(field.get(0).as_string().unwrap_or_default(), read(&field.get(1), depth)?);
    }
    Ok(Value::Object(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Value {
        [
            ("b", Value::from(vec![1.0, -0.5, 1e-7, 20.0])),
            ("a", Value::Null),
            ("c", Some("\u{1}\u{8}\t\n\u{c}\r\"\\/ä𝄞\u{7f}").into()),
            ("b2", [7u32].as_slice().into()),
            ("d", f64::NAN.into()),
            ("e", [("y", true.into()), ("x", 4_294_967_296u64.into())].into_iter().collect()),
            ("f", Map::new().into()),
        ]
        .into_iter()
        .collect()
    }

    #[test]
    fn text_is_what_the_crate_reads_and_the_crate_writes() {
        let own = sample().to_string();
        let read: serde_json::Value = serde_json::from_str(&own).unwrap();
        assert_eq!(read["b"], serde_json::json!([1, -0.5, 1e-7, 20]));
        assert_eq!((&read["e"]["x"], &read["d"]), (&serde_json::json!(1u64 << 32), &serde_json::Value::Null));
        assert!(own.starts_with(r#"{"a":null,"b":[1,-0.5,0.0000001,20],"b2":[7],"#), "{own}");
        assert_eq!(read["c"].to_string(), sample()["c"].to_string());
    }

    #[test]
    fn maps_are_sorted_and_hold_each_name_once() {
        let mut value = sample();
        let fields = value.as_object_mut().unwrap();
        fields.insert("b".into(), "new".into());
        let mut more: Map =
            [("z".to_string(), Value::from(1u32)), ("a".to_string(), Value::from(2u32))].into_iter().collect();
        fields.append(&mut more);
        assert_eq!((more.len(), fields.remove("f"), fields.remove("f")), (0, Some(Map::new().into()), None));
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["a", "b", "b2", "c", "d", "e", "z"]);
        assert!(value["a"] == 2 && &value["b"] == "new" && value["nothing"]["at all"].is_null());
    }

    #[test]
    fn whole_numbers_are_exact() {
        let whole = |number: f64| (Value::from(number).as_i64(), Value::from(number).as_u64());
        assert_eq!(whole(-2.0), (Some(-2), None));
        assert_eq!(whole(EXACT), (Some((1 << 53) - 1), Some((1 << 53) - 1)));
        for number in [0.5, EXACT + 1.0, 1e300] {
            assert_eq!(whole(number), (None, None), "{number}");
        }
    }
}
