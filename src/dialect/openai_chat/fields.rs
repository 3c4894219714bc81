//! A JSON object whose fields are taken out one by one, so that what nobody took is left as `extra`.
//!
//! Every error names the field by its path. Null counts as absent in the fields that are taken; never judges values.

use serde_json::{Map, Number, Value};

use crate::fault::{Fault, Kind};
use crate::json;

/// An object on its way into the neutral form.
pub(super) struct Fields {
    map: Map<String, Value>,
    /// Path of the object, empty for the body itself.
    at: String,
}

/// Parses a body as one JSON object.
pub(super) fn body(bytes: &[u8]) -> Result<Fields, Fault> {
    let map = serde_json::from_slice(bytes)
        .map_err(|error| Fault::new(Kind::InvalidJson, format!("The body is not a JSON object: {error}.")))?;
    Ok(Fields { map, at: String::new() })
}

/// A fault about one field.
pub(super) fn invalid(path: &str, what: &str) -> Fault {
    Fault::new(Kind::InvalidRequest, format!("`{path}` {what}.")).param(path)
}

impl Fields {
    /// # Errors
    /// When the value is no object.
    pub fn of(value: Value, at: &str) -> Result<Fields, Fault> {
        match value {
            Value::Object(map) => Ok(Fields { map, at: at.to_owned() }),
            _ => Err(invalid(at, "must be an object")),
        }
    }

    /// The path of a field of this object.
    pub fn path(&self, key: &str) -> String {
        if self.at.is_empty() { key.to_owned() } else { format!("{}.{key}", self.at) }
    }

    pub fn wrong(&self, key: &str, what: &str) -> Fault {
        invalid(&self.path(key), what)
    }

    pub fn peek(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub fn take(&mut self, key: &str) -> Option<Value> {
        json::take(&mut self.map, key)
    }

    /// Puts back what turned out to be none of ours, so that it ends up in [`Fields::rest`].
    pub fn put(&mut self, key: &str, value: Value) {
        self.map.insert(key.to_owned(), value);
    }

    pub fn string(&mut self, key: &str) -> Result<Option<String>, Fault> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "must be a string")),
        }
    }

    pub fn needed_string(&mut self, key: &str) -> Result<String, Fault> {
        self.string(key)?.ok_or_else(|| self.wrong(key, "is missing"))
    }

    pub fn bool(&mut self, key: &str) -> Result<Option<bool>, Fault> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(self.wrong(key, "must be true or false")),
        }
    }

    pub fn number(&mut self, key: &str) -> Result<Option<Number>, Fault> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(Some(number)),
            Some(_) => Err(self.wrong(key, "must be a number")),
        }
    }

    pub fn uint(&mut self, key: &str) -> Result<Option<u64>, Fault> {
        match self.number(key)? {
            None => Ok(None),
            Some(number) => match (number.as_u64(), number.as_f64()) {
                (Some(whole), _) => Ok(Some(whole)),
                // Some languages write every number with a fraction.
                (None, Some(float)) if float >= 0.0 && float.fract() == 0.0 && float < 1e15 => Ok(Some(float as u64)),
                _ => Err(self.wrong(key, "must be a whole number of 0 or more")),
            },
        }
    }

    pub fn array(&mut self, key: &str) -> Result<Option<Vec<Value>>, Fault> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(_) => Err(self.wrong(key, "must be an array")),
        }
    }

    pub fn object(&mut self, key: &str) -> Result<Option<Fields>, Fault> {
        let path = self.path(key);
        self.take(key).map(|value| Fields::of(value, &path)).transpose()
    }

    /// One string or several.
    pub fn strings(&mut self, key: &str) -> Result<Vec<String>, Fault> {
        let list = match self.take(key) {
            None => return Ok(Vec::new()),
            Some(Value::String(one)) => return Ok(vec![one]),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(self.wrong(key, "must be a string or an array of strings")),
        };
        list.into_iter()
            .map(|entry| match entry {
                Value::String(text) => Ok(text),
                _ => Err(self.wrong(key, "must be a string or an array of strings")),
            })
            .collect()
    }

    /// What nobody took, in its order.
    pub fn rest(self) -> Map<String, Value> {
        self.map
    }
}
