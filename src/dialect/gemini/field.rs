//! Reading Google's JSON: every field in camelCase or snake_case, 64-bit numbers as strings, one value where a list is
//! meant, null for absent. Knows no field by name and never touches the caller's own objects (arguments, schemas).

use serde_json::{Map, Number, Value};

use crate::fault::{Fault, Kind};
use crate::json;

pub type Object = Map<String, Value>;

/// Takes a field out, by its camelCase name or the snake_case one. Null counts as absent.
pub fn take(object: &mut Object, camel: &str) -> Option<Value> {
    let first = json::take(object, camel);
    let second =
        if camel.bytes().any(|byte| byte.is_ascii_uppercase()) { json::take(object, &snake(camel)) } else { None };
    first.or(second)
}

pub fn take_object(object: &mut Object, camel: &str) -> Option<Object> {
    match take(object, camel) {
        Some(Value::Object(inner)) => Some(inner),
        _ => None,
    }
}

pub fn take_string(object: &mut Object, camel: &str) -> Option<String> {
    match take(object, camel) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

pub fn take_uint(object: &mut Object, camel: &str) -> Option<u64> {
    take(object, camel).as_ref().and_then(uint)
}

pub fn take_number(object: &mut Object, camel: &str) -> Option<Number> {
    match take(object, camel)? {
        Value::Number(number) => Some(number),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

pub fn take_bool(object: &mut Object, camel: &str) -> Option<bool> {
    take(object, camel).and_then(|value| value.as_bool())
}

/// Takes a repeated field; one bare value counts as a list of one, as Google's own examples have it.
pub fn take_list(object: &mut Object, camel: &str) -> Vec<Value> {
    match take(object, camel) {
        Some(Value::Array(values)) => values,
        Some(one) => vec![one],
        None => Vec::new(),
    }
}

/// A whole number, also as a string or with a zero fraction.
pub fn uint(value: &Value) -> Option<u64> {
    int(value).and_then(|number| u64::try_from(number).ok())
}

pub fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            let float = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 9e15)?;
            Some(float as i64)
        }),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// The snake_case spelling of a camelCase name.
pub fn snake(camel: &str) -> String {
    let mut name = String::with_capacity(camel.len() + 4);
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// Sets a field unless there is no value.
pub fn put(object: &mut Object, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object.insert(name.to_owned(), value.into());
    }
}

/// One field as an object.
pub fn object(name: &str, value: impl Into<Value>) -> Object {
    let mut object = Object::new();
    object.insert(name.to_owned(), value.into());
    object
}

/// The caller sent another type than the field has.
pub fn wrong(at: &str, expected: &str) -> Fault {
    Fault::new(Kind::InvalidRequest, format!("`{at}` must be {expected}.")).param(at)
}

/// Unix seconds of an RFC 3339 time (`2025-11-03T10:15:30.123Z`), as `createTime` has it. Other offsets than UTC do
/// not occur.
pub fn unix_seconds(time: &str) -> Option<u64> {
    let digits = |from: usize, to: usize| time.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    if !(1..=12).contains(&month) || !time.ends_with('Z') {
        return None;
    }
    // Days since the epoch with years that begin in March, so that leap days come last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era_day = (year % 400) * 365 + (year % 400) / 4 - (year % 400) / 100 + (153 * month + 2) / 5 + day - 1;
    let days = (year / 400) * 146_097 + era_day - 719_468;
    u64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second).ok()
}

/// The RFC 3339 form of Unix seconds.
pub fn rfc3339(unix: u64) -> String {
    let (days, seconds) = (unix / 86_400 + 719_468, unix % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_casings_and_strings_for_numbers_are_read() {
        let mut object: Object =
            serde_json::from_str(r#"{"top_k":"40","maxOutputTokens":7.0,"seed":null,"stop_sequences":"x"}"#)
                .expect("an object");
        assert_eq!(take_uint(&mut object, "topK"), Some(40));
        assert_eq!(take_uint(&mut object, "maxOutputTokens"), Some(7));
        assert_eq!(take(&mut object, "seed"), None);
        assert_eq!(take_list(&mut object, "stopSequences"), ["x"]);
        assert!(object.is_empty());
    }

    #[test]
    fn times_come_back_to_themselves() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_762_164_930, "2025-11-03T10:15:30Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(unix), text);
            assert_eq!(unix_seconds(text), Some(unix), "{text}");
        }
        assert_eq!(unix_seconds("2025-11-03T10:15:30.123456Z"), Some(1_762_164_930));
        assert_eq!(unix_seconds("yesterday"), None);
    }
}
