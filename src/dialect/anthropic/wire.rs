//! Small readers of JSON objects: take a field out, or say where a bad one stands.
//!
//! Never decides what a field means; a null counts as absent everywhere.

use serde_json::{Map, Number, Value};

use crate::fault::{Fault, Kind};
use crate::json::take;

pub type Object = Map<String, Value>;

/// Takes a field of a known type out. Errors name the field by its path.
pub fn read<T>(object: &mut Object, at: &str, key: &str, kind: &Shape<T>) -> Result<Option<T>, Fault> {
    match take(object, key) {
        None => Ok(None),
        Some(value) => match (kind.read)(value) {
            Some(value) => Ok(Some(value)),
            None => Err(wrong(&path(at, key), kind.name)),
        },
    }
}

/// As [`read`], for a field that must be there.
pub fn require<T>(object: &mut Object, at: &str, key: &str, kind: &Shape<T>) -> Result<T, Fault> {
    read(object, at, key, kind)?.ok_or_else(|| missing(&path(at, key)))
}

/// A JSON type with the words that errors name it by.
pub struct Shape<T> {
    name: &'static str,
    read: fn(Value) -> Option<T>,
}

pub const STRING: Shape<String> = Shape {
    name: "a string",
    read: |value| match value {
        Value::String(text) => Some(text),
        _ => None,
    },
};

pub const ARRAY: Shape<Vec<Value>> = Shape {
    name: "a list",
    read: |value| match value {
        Value::Array(items) => Some(items),
        _ => None,
    },
};

pub const OBJECT: Shape<Object> = Shape {
    name: "an object",
    read: |value| match value {
        Value::Object(fields) => Some(fields),
        _ => None,
    },
};

pub const BOOL: Shape<bool> = Shape { name: "true or false", read: |value| value.as_bool() };

pub const NUMBER: Shape<Number> = Shape {
    name: "a number",
    read: |value| match value {
        Value::Number(number) => Some(number),
        _ => None,
    },
};

pub const COUNT: Shape<u64> = Shape { name: "a whole number of at least 0", read: |value| count(&value) };

/// A whole number, also where it is written as a float (`4096.0`).
pub fn count(value: &Value) -> Option<u64> {
    let whole = |number: f64| (number >= 0.0 && number.fract() == 0.0 && number < 9e15).then_some(number as u64);
    value.as_u64().or_else(|| value.as_f64().and_then(whole))
}

/// `at.key`, or `key` at the top.
pub fn path(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}

pub fn missing(path: &str) -> Fault {
    Fault::new(Kind::InvalidRequest, format!("{path}: Field required")).param(path)
}

pub fn wrong(path: &str, wanted: &str) -> Fault {
    Fault::new(Kind::InvalidRequest, format!("{path}: Input should be {wanted}")).param(path)
}

/// A string field of an object that is only looked at.
pub fn str_of<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}
