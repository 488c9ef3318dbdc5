//! JSON, read and written field by field. Derived code is written out anew for every type and every format: for the two dozen
//! types of this library that was a fifth of what a page loads. Text becomes a [`Value`], by serde_json or by the browser;
//! from there, types read themselves.

#[cfg(target_arch = "wasm32")]
pub use crate::json_value::{Map, Value, parse};
#[cfg(not(target_arch = "wasm32"))]
pub use serde_json::{Value, json};

/// The fields of an object.
#[cfg(not(target_arch = "wasm32"))]
pub type Map = serde_json::Map<String, Value>;

/// Reads a text.
///
/// # Errors
/// What is wrong with it.
#[cfg(not(target_arch = "wasm32"))]
pub fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}

/// What is wrong with a value, for people; the caller says of what.
pub type Result<T> = std::result::Result<T, String>;

/// A type that reads itself from JSON.
pub trait Read: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, such as `-1 is no whole number`.
    fn read(value: &Value) -> Result<Self>;
}

/// A type that writes itself as JSON.
pub trait Write {
    /// As a value.
    fn write(&self) -> Value;
}

impl<T: Write> Write for Option<T> {
    fn write(&self) -> Value {
        self.as_ref().map_or(Value::Null, Write::write)
    }
}

impl<T: Write> Write for Vec<T> {
    fn write(&self) -> Value {
        self.iter().map(Write::write).collect()
    }
}

/// An object of these fields.
pub fn object<const N: usize>(mut fields: [(&str, Value); N]) -> Value {
    // Compiled once, whatever N is.
    fn object(fields: &mut [(&str, Value)]) -> Value {
        fields.iter_mut().map(|(name, value)| (*name, value.take())).collect()
    }
    object(&mut fields)
}

/// An object with the fields of another one beside its own.
#[must_use]
pub fn with(mut object: Value, more: Value) -> Value {
    if let (Value::Object(fields), Value::Object(mut more)) = (&mut object, more) {
        fields.append(&mut more);
    }
    object
}

/// An object with one more field, unless that is null.
#[must_use]
pub fn with_some(written: Value, name: &str, value: Value) -> Value {
    if value.is_null() { written } else { with(written, object([(name, value)])) }
}

/// An object whose fields are read one by one; those that nobody reads are ignored.
pub struct Fields<'a>(&'a Map);

impl<'a> Fields<'a> {
    /// Of a value that must be an object.
    ///
    /// # Errors
    /// If it is none.
    pub fn of(value: &'a Value) -> Result<Fields<'a>> {
        value.as_object().map(Fields).ok_or_else(|| no(value, "object"))
    }

    /// A field as it stands there; null is none.
    pub fn value(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn there(&self, name: &str) -> Result<&'a Value> {
        self.value(name).ok_or_else(|| format!("{name} is missing"))
    }

    /// All fields, sorted by name.
    pub fn all(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.0.iter()
    }

    /// A field that may be absent or null.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn optional<T: Read>(&self, name: &str) -> Result<Option<T>> {
        match self.value(name) {
            Some(value) => of(name, T::read(value)).map(Some),
            None => Ok(None),
        }
    }

    /// A field that may be absent or null: one of a few names, see [`named`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn named<T: std::str::FromStr<Err = crate::Error>>(&self, name: &str) -> Result<Option<T>> {
        match self.value(name) {
            Some(value) => of(name, named(value)).map(Some),
            None => Ok(None),
        }
    }

    /// A field that must be there.
    ///
    /// # Errors
    /// That it is missing, or what is wrong with it.
    pub fn required<T: Read>(&self, name: &str) -> Result<T> {
        of(name, T::read(self.there(name)?))
    }

    /// A field, or what it is if it is absent.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn or<T: Read>(&self, name: &str, default: T) -> Result<T> {
        match self.value(name) {
            Some(value) => of(name, T::read(value)),
            None => Ok(default),
        }
    }
}

/// What was read in the field of that name.
fn of<T>(name: &str, read: Result<T>) -> Result<T> {
    read.map_err(|what| within(name, &what))
}

// Apart from the generic functions, which are compiled for every type.
fn within(name: &str, what: &str) -> String {
    format!("{name}: {what}")
}

fn list(value: &Value) -> Result<&[Value]> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| no(value, "list"))
}

fn at(i: usize, what: &str) -> String {
    format!("[{i}]: {what}")
}

/// A field of a struct whose fields are read and written in a loop: written out for every type, that is 150 bytes a field.
pub struct Slot<'a> {
    /// Its name, in the struct and in the object.
    pub name: &'static str,
    /// What lies there.
    pub value: &'a mut dyn Plain,
    /// What happens where it is absent.
    pub absent: Absent,
}

/// What happens where a field is absent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// It is an error.
    Missing,
    /// It is as usual.
    Usual,
    /// Likewise, and what is as usual is not written, so that what was written before there was such a field stays as it is,
    /// and so does its hash.
    Unwritten,
}

/// A value of any type that reads and writes itself.
pub trait Plain {
    /// Becomes what is read.
    ///
    /// # Errors
    /// What is wrong with it.
    fn take(&mut self, value: &Value) -> Result<()>;

    /// As a value.
    fn give(&self) -> Value;
}

impl<T: Read + Clone + Into<Value>> Plain for T {
    fn take(&mut self, value: &Value) -> Result<()> {
        *self = T::read(value)?;
        Ok(())
    }

    fn give(&self) -> Value {
        self.clone().into()
    }
}

/// Reads the fields of a struct that is as usual.
///
/// # Errors
/// What is missing, or wrong with a field.
pub fn fill(slots: &mut [Slot<'_>], value: &Value) -> Result<()> {
    let fields = Fields::of(value)?;
    for slot in slots {
        match (fields.value(slot.name), slot.absent) {
            (None, Absent::Missing) => fields.there(slot.name).map(|_| ())?,
            (None, _) => {}
            (Some(value), _) => of(slot.name, slot.value.take(value))?,
        }
    }
    Ok(())
}

/// An object of the fields of a struct; `usual` are those of one that is as usual.
pub fn written(slots: &[Slot<'_>], usual: &[Slot<'_>]) -> Value {
    let mut fields = Map::new();
    for (slot, usual) in slots.iter().zip(usual) {
        let (value, as_usual) = (slot.value.give(), usual.value.give());
        let [text, usual] = [&value, &as_usual].map(Value::to_string);
        if slot.absent != Absent::Unwritten || text != usual {
            fields.insert(slot.name.into(), value);
        }
    }
    Value::Object(fields)
}

/// [`Read`] and [`Write`] for a struct of plain values, whose fields lie in an object under their own names: each is required,
/// or has a default. Those behind `beside` are written only where they are not the default.
macro_rules! fields {
    ($type:ident { $($field:ident $(= $default:expr)?),+ $(,)? } $(beside { $($late:ident = $usual:expr),+ $(,)? })?) => {
        impl $type {
            fn usual() -> $type {
                $type {
                    $($field: $crate::json::fields!(@usual $($default)?),)+
                    $($($late: $usual,)+)?
                }
            }

            fn slots(&mut self) -> Vec<$crate::json::Slot<'_>> {
                vec![
                    $($crate::json::Slot {
                        name: stringify!($field),
                        value: &mut self.$field,
                        absent: $crate::json::fields!(@absent $($default)?),
                    },)+
                    $($($crate::json::Slot {
                        name: stringify!($late),
                        value: &mut self.$late,
                        absent: $crate::json::Absent::Unwritten,
                    },)+)?
                ]
            }
        }

        impl $crate::json::Read for $type {
            fn read(value: &$crate::json::Value) -> $crate::json::Result<$type> {
                let mut read = $type::usual();
                $crate::json::fill(&mut read.slots(), value)?;
                Ok(read)
            }
        }

        impl $crate::json::Write for $type {
            fn write(&self) -> $crate::json::Value {
                $crate::json::written(&self.clone().slots(), &$type::usual().slots())
            }
        }
    };
    (@usual) => { Default::default() };
    (@usual $default:expr) => { $default };
    (@absent) => { $crate::json::Absent::Missing };
    (@absent $default:expr) => { $crate::json::Absent::Usual };
}
pub(crate) use fields;

/// A value in a message: its beginning, if it is long.
pub fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// One of a few names, by the type's own parser.
///
/// # Errors
/// What is wrong, for people.
pub fn named<T: std::str::FromStr<Err = crate::Error>>(value: &Value) -> Result<T> {
    text(value)?.parse().map_err(|error: crate::Error| said(&error))
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().ok_or_else(|| no(value, "text"))
}

fn said(error: &crate::Error) -> String {
    format!("{}. {}", error.cause, error.remedy)
}

fn whole<T: TryFrom<i64> + TryFrom<u64>>(value: &Value) -> Result<T> {
    let number = match value.as_u64() {
        Some(number) => T::try_from(number).ok(),
        None => value.as_i64().and_then(|number| T::try_from(number).ok()),
    };
    number.ok_or_else(|| no(value, "whole number that fits"))
}

fn no(value: &Value, what: &str) -> String {
    format!("{} is no {what}", shown(value))
}

impl Read for usize {
    fn read(value: &Value) -> Result<usize> {
        whole(value)
    }
}

impl Read for u32 {
    fn read(value: &Value) -> Result<u32> {
        whole(value)
    }
}

impl Read for u64 {
    fn read(value: &Value) -> Result<u64> {
        whole(value)
    }
}

impl Read for i64 {
    fn read(value: &Value) -> Result<i64> {
        whole(value)
    }
}

impl Read for f64 {
    fn read(value: &Value) -> Result<f64> {
        value.as_f64().ok_or_else(|| no(value, "number"))
    }
}

impl Read for bool {
    fn read(value: &Value) -> Result<bool> {
        value.as_bool().ok_or_else(|| format!("{} is neither true nor false", shown(value)))
    }
}

impl Read for String {
    fn read(value: &Value) -> Result<String> {
        text(value).map(str::to_owned)
    }
}

impl Read for Value {
    fn read(value: &Value) -> Result<Value> {
        Ok(value.clone())
    }
}

impl<T: Read> Read for Vec<T> {
    fn read(value: &Value) -> Result<Vec<T>> {
        let list = list(value)?;
        let mut all = Vec::with_capacity(list.len());
        for value in list {
            match T::read(value) {
                Ok(one) => all.push(one),
                Err(what) => return Err(at(all.len(), &what)),
            }
        }
        Ok(all)
    }
}

impl<T: Read, const N: usize> Read for [T; N] {
    fn read(value: &Value) -> Result<[T; N]> {
        let list = Vec::<T>::read(value)?;
        list.try_into().map_err(|list: Vec<T>| format!("{} values, {N} are needed", list.len()))
    }
}

impl<T: Write> Write for [T] {
    fn write(&self) -> Value {
        self.iter().map(T::write).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_say_what_is_wrong_with_them() {
        let value = json!({ "a": 1, "b": null, "c": [1, -2], "d": 1.5, "e": "x", "f": true });
        let fields = Fields::of(&value).unwrap();
        assert_eq!(fields.required::<u32>("a"), Ok(1));
        assert_eq!(fields.required::<f64>("a"), Ok(1.0));
        assert_eq!(fields.optional::<u32>("b"), Ok(None));
        assert_eq!(fields.or("b", 7u32), Ok(7));
        assert_eq!(fields.required::<Vec<i64>>("c"), Ok(vec![1, -2]));
        assert_eq!(fields.required::<[i64; 2]>("c"), Ok([1, -2]));
        assert_eq!(fields.required::<Vec<u32>>("c"), Err("c: [1]: -2 is no whole number that fits".into()));
        assert_eq!(fields.required::<[i64; 3]>("c"), Err("c: 2 values, 3 are needed".into()));
        assert_eq!(fields.required::<usize>("d"), Err("d: 1.5 is no whole number that fits".into()));
        assert_eq!(fields.required::<usize>("e"), Err("e: \"x\" is no whole number that fits".into()));
        assert_eq!(fields.required::<bool>("g"), Err("g is missing".into()));
        assert_eq!(fields.required::<String>("f"), Err("f: true is no text".into()));
        assert_eq!(fields.named::<crate::weights::Dtype>("b"), Ok(None));
        assert_eq!(
            fields.named::<crate::weights::Dtype>("e"),
            Err("e: there is no dtype \"x\". Give one of f32, f16, q8, q4".into())
        );
        assert_eq!(fields.named::<crate::weights::Dtype>("a"), Err("a: 1 is no text".into()));
        assert!(Fields::of(&json!([])).is_err_and(|what| what == "[] is no object"));
    }

    #[test]
    fn objects_are_written_field_by_field() {
        let all = with(object([("a", 1.into()), ("b", Value::Null)]), object([("b", "x".into()), ("c", true.into())]));
        assert_eq!(all, json!({ "a": 1, "b": "x", "c": true }));
    }
}
