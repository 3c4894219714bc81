//! The top level of a JSON object as spans, and edits spliced into it without touching the rest.
//!
//! Never builds a tree: values stay as the bytes the client sent, so number spelling, key order and unknown fields
//! survive. Refuses what two parsers could read in two ways.

pub mod exact;
pub mod scan;

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};
use smallvec::SmallVec;

use crate::fault::{Fault, Kind};
pub use scan::THOUGHTS;
use scan::{Files, Noticed};

/// Top-level keys that decide what is authorised, sent and charged. They may stand in exactly this spelling only.
const GUARDED: &[&str] = &["model", "models", "stream", "stream_options", "previous_response_id"];

/// Room for a body that is written: most need no more, and none grows from nothing.
const BODY_BYTES: usize = 512;

/// A text without the mark that some writers of UTF-8 begin it with, as SDKs read it.
pub fn without_mark(text: Bytes) -> Bytes {
    if text.starts_with(b"\xef\xbb\xbf") { text.slice(3..) } else { text }
}

/// A JSON object with its top-level fields found and a list of edits to make.
#[derive(Debug, Clone)]
pub struct Envelope {
    body: Bytes,
    // Shared: each attempt makes its own edits to a copy.
    fields: Arc<Vec<Field>>,
    /// Position just after the opening brace.
    open: usize,
    noticed: Noticed,
    edits: SmallVec<[Edit; 4]>,
}

#[derive(Debug, Clone)]
struct Field {
    key: Key,
    /// From the key's opening quote to the end of the value.
    whole: Range<usize>,
    value: Range<usize>,
}

/// A key; where it stands, or what it means when it is written with escapes.
#[derive(Debug, Clone)]
enum Key {
    Plain(Range<usize>),
    Escaped(String),
}

#[derive(Debug, Clone)]
struct Edit {
    at: Range<usize>,
    with: Bytes,
}

/// A body in pieces: untouched slices of the original with the edits between them.
pub type Pieces = SmallVec<[Bytes; 5]>;

/// Most letters of a client's key that an error shows.
const MAX_SHOWN_CHARS: usize = 64;

/// Keys that are compared one with another; more are put into a set.
const FEW_KEYS: usize = 32;

/// A key without its case, as parsers fold it that know none: Go's takes two letters beyond ASCII for `s` and `k`.
fn folded(key: &[u8]) -> Cow<'_, [u8]> {
    if key.is_ascii() && !key.iter().any(u8::is_ascii_uppercase) {
        return Cow::Borrowed(key);
    }
    let text = String::from_utf8_lossy(key).replace('\u{17f}', "s").replace('\u{212a}', "k");
    Cow::Owned(text.to_ascii_lowercase().into_bytes())
}

/// A key that stands twice, in whatever casing: one parser takes the first, another the last, and a third knows no case.
fn repeated<'a>(keys: impl Iterator<Item = &'a [u8]> + Clone) -> Option<&'a [u8]> {
    if keys.clone().nth(FEW_KEYS).is_some() || !keys.clone().all(<[u8]>::is_ascii) {
        let mut seen = HashSet::new();
        return keys.into_iter().find(|key| !seen.insert(folded(key)));
    }
    let before = keys.clone();
    let is_there = |(at, key): &(usize, &[u8])| before.clone().take(*at).any(|known| known.eq_ignore_ascii_case(key));
    keys.enumerate().find(is_there).map(|(_, key)| key)
}

impl Envelope {
    /// Finds the top-level fields.
    ///
    /// # Errors
    /// [`Kind::InvalidJson`] when the body is not one JSON object, [`Kind::AmbiguousRequest`] when a key stands twice,
    /// or a guarded one in another casing.
    pub fn read(body: Bytes) -> Result<Envelope, Fault> {
        let mut fields = Vec::with_capacity(12);
        let read = scan::object(&body, |scan, key| {
            let value = scan.skip()?;
            fields.push(Field { whole: key.start - 1..value.end, key: Key::Plain(key), value });
            Ok(())
        });
        let noticed = read.map_err(|_| invalid(&body))?;
        let open = body.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
        for field in &mut fields {
            field.key.unescape(&body)?;
        }
        let keys = || fields.iter().map(|field| field.key.bytes(&body));
        let odd = |key: &&[u8]| {
            let is_of = |guarded: &[u8]| match key.is_ascii() {
                true => key.eq_ignore_ascii_case(guarded),
                false => *folded(key) == *guarded,
            };
            GUARDED.iter().any(|guarded| is_of(guarded.as_bytes()) && *key != guarded.as_bytes())
        };
        if let Some(key) = keys().find(odd).or_else(|| repeated(keys())) {
            let name: String = String::from_utf8_lossy(key).chars().take(MAX_SHOWN_CHARS).collect();
            let text = format!("The field `{name}` stands more than once or in an odd spelling.");
            return Err(Fault::new(Kind::AmbiguousRequest, text).param(name));
        }
        Ok(Envelope { body, fields: Arc::new(fields), open, noticed, edits: SmallVec::new() })
    }

    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Whether a string anywhere in the body begins like those that this gateway seals.
    pub fn holds_sealed(&self) -> bool {
        self.noticed.sealed
    }

    /// Whether a message of a chat has a field of one of these names, which are of [`THOUGHTS`].
    pub fn holds_thoughts(&self, names: &[&str]) -> bool {
        let messages = if self.noticed.thoughts && !names.is_empty() { self.raw("messages") } else { None };
        messages.is_some_and(|messages| names.iter().any(|name| scan::has_key(messages, name)))
    }

    /// Values that stand within the top-level fields.
    pub fn values(&self) -> u64 {
        self.noticed.values
    }

    /// Files that stand in the body as base64, which is no text: its length says little of its tokens.
    pub fn files(&self) -> Files {
        self.noticed.files
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

    /// The names of the top-level fields as they are written, in order.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.fields.iter().map(|field| field.key.bytes(&self.body))
    }

    /// Sets a top-level field to a JSON value, in place or as the first field.
    pub fn set(&mut self, key: &str, value: impl Into<Bytes>) {
        let value = value.into();
        if let Some(field) = self.field(key) {
            let at = field.value.clone();
            // What stands there already needs no edit, unless it is to undo one. The body then goes out in one piece.
            if self.body[at.clone()] != value || !self.edits.is_empty() {
                self.edit(at, value);
            }
            return;
        }
        let mut text = written(key);
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
        // Mostly one that needs no escapes: written without room to spare, it is shared without another allocation.
        let text = match scan::is_plain(value) {
            true => ["\"", value, "\""].concat().into_bytes(),
            false => written(value),
        };
        self.set(key, text);
    }

    /// Removes a top-level field with the comma that belongs to it.
    pub fn remove(&mut self, key: &str) {
        let Some(index) = self.position(key) else { return };
        let whole = self.fields[index].whole.clone();
        let at = match (index.checked_sub(1), self.fields.get(index + 1)) {
            (_, Some(next)) => whole.start..next.whole.start,
            // The last one takes the comma before it along, up to where the one before it ends or was cut.
            (Some(before), None) => self.fields[before].value.end..whole.end,
            (None, None) => whole,
        };
        self.edit(at, Bytes::new());
        Arc::make_mut(&mut self.fields).remove(index);
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
        self.position(key).map(|at| &self.fields[at])
    }

    fn position(&self, key: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.key.bytes(&self.body) == key.as_bytes())
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

impl Key {
    fn bytes<'a>(&'a self, body: &'a [u8]) -> &'a [u8] {
        match self {
            Key::Plain(at) => &body[at.clone()],
            Key::Escaped(key) => key.as_bytes(),
        }
    }

    /// Reads a key that is written with escapes, so that it is known by what it means.
    fn unescape(&mut self, body: &[u8]) -> Result<(), Fault> {
        if let Key::Plain(at) = self
            && body[at.clone()].contains(&b'\\')
        {
            let quoted = &body[at.start - 1..at.end + 1];
            *self = Key::Escaped(serde_json::from_slice(quoted).map_err(|_| invalid(body))?);
        }
        Ok(())
    }
}

/// A value as JSON, without white space. Through a writer: `Value`'s own `Display` goes by the formatter, at twice the price.
/// What has keys that are no strings is written as nothing; nothing that this gateway writes has.
pub fn written(value: &(impl Serialize + ?Sized)) -> Vec<u8> {
    let mut out = Vec::with_capacity(BODY_BYTES);
    match serde_json::to_writer(&mut out, value) {
        Ok(()) => out,
        Err(_) => Vec::new(),
    }
}

/// Takes a field out and keeps the order of the others; None when it is null. Most of the fields that a dialect knows are
/// absent from an object of few, and comparing its keys costs less than hashing one.
pub fn take(object: &mut Map<String, Value>, key: &str) -> Option<Value> {
    const FEW: usize = 16;
    if object.len() <= FEW && !object.keys().any(|there| there == key) {
        return None;
    }
    object.shift_remove(key).filter(|value| !value.is_null())
}

/// What is wrong with a body. Only now is it parsed by something that can say where.
fn invalid(body: &[u8]) -> Fault {
    let text = if body.iter().all(u8::is_ascii_whitespace) {
        "The body is empty.".to_owned()
    } else {
        match serde_json::from_slice::<Map<String, Value>>(body) {
            Err(error) => format!("The body is not a JSON object: {error}."),
            Ok(_) => "The body is not a JSON object.".to_owned(),
        }
    };
    Fault::new(Kind::InvalidJson, text)
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
            r#"{"model":"a","messages":[],"messages":[1]}"#,
            r#"{"messages":[],"Messages":[1]}"#,
            // What Go's parser takes for `messages` and `stream`.
            "{\"messages\":[],\"me\u{17f}\u{17f}ages\":[1]}",
            "{\"\u{17f}tream\":true}",
        ] {
            let fault = Envelope::read(Bytes::from_static(text.as_bytes())).expect_err(text);
            assert_eq!(fault.kind, Kind::AmbiguousRequest, "{text}");
        }
    }

    #[test]
    fn of_many_keys_each_stands_once_too() {
        let keys = (0..100).map(|number| format!("\"key{number}\":0")).collect::<Vec<_>>().join(",");
        assert_eq!(Envelope::read(format!("{{{keys}}}").into()).map(|all| all.keys().count()).ok(), Some(100));
        let fault = Envelope::read(format!("{{{keys},\"Key7\":1}}").into()).expect_err("twice");
        assert_eq!((fault.kind, fault.param.as_deref()), (Kind::AmbiguousRequest, Some("Key7")));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "  ", "[]", "\"x\"", "{", "{\"a\":1}x", "{\"a\":}", "nul"] {
            let fault = Envelope::read(Bytes::from_static(text.as_bytes())).expect_err(text);
            assert_eq!(fault.kind, Kind::InvalidJson, "{text}");
        }
    }
}
