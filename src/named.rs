//! A handful of things by name. A `BTreeMap` of each kind would be 6 kB more for a page to load.

use crate::json::{self, Fields, Read, Value, Write};

/// Sorted by name, each name once.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<T>(Vec<(String, T)>);

impl<T> Default for Named<T> {
    fn default() -> Named<T> {
        Named(Vec::new())
    }
}

impl<T> Named<T> {
    /// One thing.
    pub fn of(name: &str, value: T) -> Named<T> {
        Named(vec![(name.into(), value)])
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.as_str().cmp(name))
    }

    /// The thing of that name.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.find(name).ok().map(|at| &self.0[at].1)
    }

    /// The thing of that name, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        self.find(name).ok().map(|at| &mut self.0[at].1)
    }

    /// Adds a thing, or replaces the one of that name.
    pub fn insert(&mut self, name: &str, value: T) {
        match self.find(name) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (name.into(), value)),
        }
    }

    /// The things, sorted by name.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }

    /// All of them, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl<T: Write> Write for Named<T> {
    fn write(&self) -> Value {
        self.iter().map(|(name, value)| (name.to_owned(), value.write())).collect()
    }
}

impl<T: Read> Read for Named<T> {
    fn read(value: &Value) -> json::Result<Named<T>> {
        let mut named = Named::default();
        for (name, value) in Fields::of(value)?.all() {
            named.insert(name, T::read(value).map_err(|what| format!("{name}: {what}"))?);
        }
        Ok(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::json;

    #[test]
    fn names_are_sorted_and_read_and_written() {
        let mut named = Named::of("x", 1u32);
        named.insert("a", 2);
        named.insert("x", 3);
        assert_eq!(named.iter().collect::<Vec<_>>(), [("a", &2), ("x", &3)]);
        assert_eq!((named.get("a"), named.get("b"), named.values().sum::<u32>()), (Some(&2), None, 5));
        assert_eq!(Read::read(&json!({ "x": 3, "a": 2 })), Ok(named));
        assert_eq!(Named::<u32>::read(&json!({ "x": 1, "y": [] })), Err("y: [] is no whole number that fits".into()));
    }
}
