//! The top level of a JSON object as spans, and edits spliced into it without touching the rest.
//!
//! Never builds a tree: values stay as the bytes the client sent, so number spelling, key order and unknown fields
//! survive. Refuses what two parsers could read in two ways.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use crate::fault::{Fault, Kind};

/// Top-level keys that decide what is authorised, sent and charged. Each may stand once, in exactly this spelling.
const GUARDED: &[&str] = &["model", "models", "stream", "stream_options", "previous_response_id"];

/// A JSON object with its top-level fields found and a list of edits to make.
#[derive(Debug, Clone)]
pub struct Envelope {
    body: Bytes,
    fields: Vec<Field>,
    /// Position just after the opening brace.
    open: usize,
    edits: SmallVec<[Edit; 4]>,
}

#[derive(Debug, Clone)]
struct Field {
    key: Cow<'static, str>,
    /// From the key's opening quote to the end of the value.
    whole: Range<usize>,
    value: Range<usize>,
}

#[derive(Debug, Clone)]
struct Edit {
    at: Range<usize>,
    with: Bytes,
}

/// A body in pieces: untouched slices of the original with the edits between them.
pub type Pieces = SmallVec<[Bytes; 5]>;

impl Envelope {
    /// Finds the top-level fields.
    ///
    /// # Errors
    /// [`Kind::InvalidJson`] when the body is not one JSON object, [`Kind::AmbiguousRequest`] when a guarded key stands
    /// twice or in another casing.
    pub fn read(body: Bytes) -> Result<Envelope, Fault> {
        let start = body.as_ptr() as usize;
        let mut fields = Vec::with_capacity(12);
        let mut json = serde_json::Deserializer::from_slice(&body);
        let scan = Scan { start, fields: &mut fields };
        json.deserialize_map(scan).and_then(|()| json.end()).map_err(|error| invalid(&body, &error))?;
        let open = body.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
        // The key's own span is found backwards from the value: a colon and the key lie between it and what came before.
        let mut floor = open;
        for field in &mut fields {
            let from =
                body[floor..field.value.start].iter().position(|byte| *byte == b'"').map_or(floor, |at| floor + at);
            field.whole = from..field.value.end;
            floor = field.value.end;
        }
        for guarded in GUARDED {
            let mut matching = fields.iter().filter(|field| field.key.eq_ignore_ascii_case(guarded));
            let first = matching.next();
            if matching.next().is_some() || first.is_some_and(|field| field.key != *guarded) {
                let text = format!("The field `{guarded}` stands more than once or in an odd spelling.");
                return Err(Fault::new(Kind::AmbiguousRequest, text).param(*guarded));
            }
        }
        Ok(Envelope { body, fields, open, edits: SmallVec::new() })
    }

    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The value of a top-level field, as the client wrote it.
    pub fn raw(&self, key: &str) -> Option<&[u8]> {
        self.field(key).map(|field| &self.body[field.value.clone()])
    }

    /// A top-level field read as `T`; None when it is absent, null or of another type.
    pub fn get<'a, T: serde::Deserialize<'a>>(&'a self, key: &str) -> Option<T> {
        self.raw(key).and_then(|raw| serde_json::from_slice(raw).ok())
    }

    /// A top-level string.
    pub fn str(&self, key: &str) -> Option<Cow<'_, str>> {
        let raw = self.raw(key)?;
        match raw.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) {
            Some(plain) if !plain.contains(&b'\\') => std::str::from_utf8(plain).ok().map(Cow::Borrowed),
            _ => serde_json::from_slice::<String>(raw).ok().map(Cow::Owned),
        }
    }

    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.raw(key)? {
            b"true" => Some(true),
            b"false" => Some(false),
            _ => None,
        }
    }

    /// The names of the top-level fields, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|field| field.key.as_ref())
    }

    /// Sets a top-level field to a JSON value, in place or as the first field.
    pub fn set(&mut self, key: &str, value: impl Into<Bytes>) {
        let value = value.into();
        if let Some(field) = self.field(key) {
            let at = field.value.clone();
            self.edit(at, value);
            return;
        }
        let mut text = serde_json::to_vec(key).unwrap_or_default();
        text.push(b':');
        text.extend_from_slice(&value);
        if !self.fields.is_empty() {
            text.push(b',');
        }
        let at = self.open..self.open;
        self.edit(at, text.into());
    }

    /// Sets a top-level field to a string.
    pub fn set_str(&mut self, key: &str, value: &str) {
        self.set(key, serde_json::to_vec(value).unwrap_or_default());
    }

    /// Removes a top-level field with the comma that belongs to it.
    pub fn remove(&mut self, key: &str) {
        let Some(index) = self.fields.iter().position(|field| field.key == key) else { return };
        let whole = self.fields[index].whole.clone();
        let at = match (index.checked_sub(1), self.fields.get(index + 1)) {
            (_, Some(next)) => whole.start..next.whole.start,
            // The last one takes the comma before it along, up to where the one before it ends or was cut.
            (Some(before), None) => self.fields[before].value.end..whole.end,
            (None, None) => whole,
        };
        self.edit(at, Bytes::new());
        self.fields.remove(index);
    }

    /// The body with every edit made; untouched parts are slices of the original.
    pub fn pieces(&self) -> Pieces {
        let mut pieces = Pieces::new();
        let mut from = 0;
        for edit in &self.edits {
            if from < edit.at.start {
                pieces.push(self.body.slice(from..edit.at.start));
            }
            if !edit.with.is_empty() {
                pieces.push(edit.with.clone());
            }
            from = from.max(edit.at.end);
        }
        if from < self.body.len() {
            pieces.push(self.body.slice(from..));
        }
        pieces
    }

    fn field(&self, key: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.key == key)
    }

    /// Keeps edits in the order of the body; a later edit of the same place replaces the earlier one.
    fn edit(&mut self, at: Range<usize>, with: Bytes) {
        if !at.is_empty()
            && let Some(same) = self.edits.iter_mut().find(|edit| edit.at == at)
        {
            same.with = with;
            return;
        }
        let position = self.edits.iter().position(|edit| edit.at.start > at.start).unwrap_or(self.edits.len());
        self.edits.insert(position, Edit { at, with });
    }
}

fn invalid(body: &[u8], error: &serde_json::Error) -> Fault {
    let text = if body.iter().all(u8::is_ascii_whitespace) {
        "The body is empty.".to_owned()
    } else {
        format!("The body is not a JSON object: {error}.")
    };
    Fault::new(Kind::InvalidJson, text)
}

/// Collects the fields of the outermost object.
struct Scan<'a> {
    start: usize,
    fields: &'a mut Vec<Field>,
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            let value: &RawValue = map.next_value()?;
            let from = value.get().as_ptr() as usize - self.start;
            let value = from..from + value.get().len();
            self.fields.push(Field { key, whole: value.clone(), value });
        }
        Ok(())
    }
}

/// A key, without an allocation for the names everybody sends.
struct Key(Cow<'static, str>);

/// Field names of the four dialects that occur in nearly every ask.
const USUAL: &[&str] = &[
    "model",
    "messages",
    "stream",
    "stream_options",
    "temperature",
    "max_tokens",
    "top_p",
    "tools",
    "tool_choice",
    "system",
    "input",
    "instructions",
    "contents",
    "generationConfig",
    "user",
    "metadata",
    "store",
    "reasoning",
    "max_completion_tokens",
    "parallel_tool_calls",
    "response_format",
    "thinking",
    "n",
    "stop",
    "seed",
    "usage",
];

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Key;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a field name")
            }
            fn visit_str<E>(self, text: &str) -> Result<Key, E> {
                Ok(Key(match USUAL.iter().find(|usual| **usual == text) {
                    Some(usual) => Cow::Borrowed(*usual),
                    None => Cow::Owned(text.to_owned()),
                }))
            }
        }
        deserializer.deserialize_str(V)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(text: &str) -> Envelope {
        Envelope::read(Bytes::copy_from_slice(text.as_bytes())).expect("reads")
    }

    fn joined(envelope: &Envelope) -> String {
        String::from_utf8(envelope.pieces().concat()).expect("stays UTF-8")
    }

    #[test]
    fn the_model_is_spliced_and_the_rest_stays_byte_for_byte() {
        let mut e = envelope(
            "{ \"zeta\" : 1.50e+2, \"model\" :\t\"a\\u002fb\" ,\"ünï\":[1 , 2], \"big\":12345678901234567890123}",
        );
        assert_eq!(e.str("model").as_deref(), Some("a/b"));
        e.set_str("model", "x\"y");
        assert_eq!(
            joined(&e),
            "{ \"zeta\" : 1.50e+2, \"model\" :\t\"x\\\"y\" ,\"ünï\":[1 , 2], \"big\":12345678901234567890123}"
        );
    }

    #[test]
    fn absent_fields_are_added_and_present_ones_removed() {
        let mut e = envelope(r#"{"a":1,"b":{"c":2},"d":3}"#);
        e.set("x", Bytes::from_static(b"true"));
        e.remove("b");
        assert_eq!(joined(&e), r#"{"x":true,"a":1,"d":3}"#);
        e.remove("d");
        let left: serde_json::Value = serde_json::from_str(&joined(&e)).expect("valid JSON");
        assert_eq!(left, serde_json::json!({"x": true, "a": 1}));
        let mut empty = envelope("{}");
        empty.set("x", Bytes::from_static(b"1"));
        assert_eq!(joined(&empty), r#"{"x":1}"#);
    }

    #[test]
    fn removing_every_field_leaves_valid_json() {
        for order in [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"], ["a", "c", "b"], ["c", "a", "b"]] {
            let mut e = envelope(r#"{"a":1, "b":2 ,"c":3}"#);
            for (gone, key) in order.iter().enumerate() {
                e.remove(key);
                let left: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&joined(&e))
                    .unwrap_or_else(|error| panic!("{order:?} {}: {error}", joined(&e)));
                assert_eq!(left.len(), 2 - gone);
            }
        }
    }

    #[test]
    fn guarded_keys_may_not_be_ambiguous() {
        for text in [
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","Model":"b"}"#,
            r#"{"MODEL":"a"}"#,
            r#"{"model":"a","mod\u0065l":"b"}"#,
            r#"{"stream":true,"stream":false}"#,
        ] {
            let fault = Envelope::read(Bytes::from_static(text.as_bytes())).expect_err(text);
            assert_eq!(fault.kind, Kind::AmbiguousRequest, "{text}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "  ", "[]", "\"x\"", "{", "{\"a\":1}x", "{\"a\":}", "nul"] {
            let fault = Envelope::read(Bytes::from_static(text.as_bytes())).expect_err(text);
            assert_eq!(fault.kind, Kind::InvalidJson, "{text}");
        }
    }
}
