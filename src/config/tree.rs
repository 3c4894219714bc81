//! The file as a tree in which every key and value knows its line and column.
//!
//! Scalars stay as they were spelt; `read` gives them a type when it knows which one is wanted. Never forgets a place:
//! what was found wrong is marked as gone, not taken out, so that the rest keeps its numbers.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Spanned, UserMessageFormatter};

use super::path::{KeyPath, Seg};

/// A line and a column, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    pub line: u32,
    pub column: u32,
}

#[derive(Debug)]
pub(super) struct Node {
    pub at: Place,
    pub value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
    Gone(Gone),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    pub at: Place,
    pub value: Node,
}

/// Why something does not count.
#[derive(Debug)]
pub(super) enum Gone {
    /// Its value was wrong.
    Wrong,
    /// Its key was unknown; with the key that was probably meant.
    Unknown(Option<String>),
}

#[derive(Debug)]
pub(super) struct Scalar {
    pub text: String,
    /// Written without quotes, so that it may be a number, a boolean or null.
    pub plain: bool,
    /// The text before variables were put in. Messages quote this one, never a variable's value.
    pub written: Option<String>,
    /// It was one `${…}` and nothing else.
    pub whole: bool,
    /// It is empty because an empty default was written for the variable.
    pub optional: bool,
}

impl Scalar {
    pub fn written(&self) -> &str {
        self.written.as_ref().unwrap_or(&self.text)
    }

    pub fn is_null(&self) -> bool {
        self.plain && self.written.is_none() && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// Nothing was written, or the variable that stands here is empty.
    pub fn is_absent(&self) -> bool {
        self.is_null() || (self.plain && self.whole && self.text.is_empty())
    }
}

/// Why the file is no YAML that can be used.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub at: Place,
    pub message: String,
}

/// Bounds on what a file may make the reader do. `MAX_FILE_BYTES` in `load` bounds its size.
const MAX_NODES: usize = 250_000;
const MAX_DEPTH: usize = 64;
const MAX_ALIASES: usize = 4096;

impl Node {
    /// Reads one YAML document. An empty one is an empty mapping.
    pub fn parse(text: &str) -> Result<Node, Unreadable> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_nodes: MAX_NODES,
                max_events: 2 * MAX_NODES,
                max_depth: MAX_DEPTH,
                max_aliases: MAX_ALIASES,
                max_documents: 1,
            },
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_NODES },
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            strict_booleans: true,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::AsString,
            with_snippet: false,
        };
        let written: Written = serde_saphyr::from_str_with_options(text, options).map_err(unreadable)?;
        Ok(written.node(text))
    }

    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    pub fn is_gone(&self) -> bool {
        matches!(self.value, Value::Gone(_))
    }

    /// Marks what is at the path as gone.
    pub fn remove(&mut self, path: &[Seg], why: Gone) {
        let Some((first, rest)) = path.split_first() else {
            self.value = Value::Gone(why);
            return;
        };
        let child = match (&mut self.value, first) {
            (Value::Map(entries), Seg::Key(key)) => {
                entries.iter_mut().find(|entry| entry.key == *key && !entry.value.is_gone()).map(|it| &mut it.value)
            }
            (Value::List(items), Seg::Index(index)) => items.get_mut(*index),
            _ => None,
        };
        if let Some(child) = child {
            child.remove(rest, why);
        }
    }

    /// The node at a path whose indices count every element, gone or not.
    pub fn find(&self, path: &[Seg]) -> Option<&Node> {
        path.iter().try_fold(self, |node, seg| match (&node.value, seg) {
            (Value::Map(entries), Seg::Key(key)) => {
                entries.iter().find(|entry| entry.key == *key && !entry.value.is_gone()).map(|entry| &entry.value)
            }
            (Value::List(items), Seg::Index(index)) => items.get(*index),
            _ => None,
        })
    }

    /// The place that a message about this path should name: a scalar where it stands, anything larger at its key; the
    /// nearest thing around it when the path is not in the file.
    pub fn place(&self, path: &[Seg]) -> Place {
        self.find_place(path, false)
    }

    /// The place of the key that the path ends with.
    pub fn key_place(&self, path: &[Seg]) -> Place {
        self.find_place(path, true)
    }

    fn find_place(&self, path: &[Seg], of_key: bool) -> Place {
        let Some((first, rest)) = path.split_first() else { return self.at };
        match (&self.value, first) {
            (Value::Map(entries), Seg::Key(key)) => {
                let mut named = entries.iter().filter(|entry| entry.key == *key);
                // Of keys that stand twice the one that still counts.
                let Some(entry) = named.clone().find(|entry| !entry.value.is_gone()).or_else(|| named.next()) else {
                    return self.at;
                };
                let seen = entry.value.scalar().is_some_and(|scalar| !scalar.is_null());
                let inner = entry.value.find_place(rest, of_key);
                // The path may end here, or go on to what is not in the file.
                if (rest.is_empty() && (of_key || !seen)) || (inner == entry.value.at && !seen) {
                    return entry.at;
                }
                inner
            }
            (Value::List(items), Seg::Index(index)) => items.get(*index).map_or(self.at, |item| item.find_place(rest, of_key)),
            _ => self.at,
        }
    }

    /// Marks keys that stand twice in one mapping as gone, all but the first, and says so.
    pub fn refuse_duplicates(&mut self, path: &mut KeyPath, wrong: &mut dyn FnMut(&KeyPath, Place, String)) {
        match &mut self.value {
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    path.push(Seg::Index(index));
                    item.refuse_duplicates(path, wrong);
                    path.pop();
                }
            }
            Value::Map(entries) => {
                let mut first_at: HashMap<String, Place> = HashMap::new();
                for entry in entries {
                    path.push(Seg::Key(entry.key.clone()));
                    match first_at.get(&entry.key) {
                        Some(first) => {
                            let line = first.line;
                            let message = format!("this key stands on line {line} already; keep one of the two");
                            wrong(path, entry.at, message);
                            entry.value.value = Value::Gone(Gone::Unknown(None));
                        }
                        None => {
                            first_at.insert(entry.key.clone(), entry.at);
                            entry.value.refuse_duplicates(path, wrong);
                        }
                    }
                    path.pop();
                }
            }
            Value::Scalar(_) | Value::Gone(_) => {}
        }
    }

    /// Turns a path whose indices count only what is left into one whose indices count every element of the file.
    pub fn original(&self, path: &KeyPath) -> KeyPath {
        let mut node = Some(self);
        let mut original = KeyPath::default();
        for seg in path.segs() {
            let (seg, next) = match (node.map(|node| &node.value), seg) {
                (Some(Value::List(items)), Seg::Index(index)) => {
                    match items.iter().enumerate().filter(|(_, item)| !item.is_gone()).nth(*index) {
                        Some((place, item)) => (Seg::Index(place), Some(item)),
                        None => (seg.clone(), None),
                    }
                }
                (Some(Value::Map(entries)), Seg::Key(key)) => {
                    let live = entries.iter().find(|entry| entry.key == *key && !entry.value.is_gone());
                    (seg.clone(), live.map(|entry| &entry.value))
                }
                _ => (seg.clone(), None),
            };
            original.push(seg);
            node = next;
        }
        original
    }

    /// Whether something in here was found wrong, so that what is said about the rest may be untrue.
    pub fn is_damaged(&self) -> bool {
        match &self.value {
            Value::Gone(Gone::Wrong | Gone::Unknown(Some(_))) => true,
            Value::Gone(Gone::Unknown(None)) | Value::Scalar(_) => false,
            Value::List(items) => items.iter().any(Node::is_damaged),
            Value::Map(entries) => entries.iter().any(|entry| entry.value.is_damaged()),
        }
    }
}

fn unreadable(error: serde_saphyr::Error) -> Unreadable {
    let at = error.location().map(place).unwrap_or_default();
    let message = error.without_snippet().render_with_formatter(&UserMessageFormatter);
    // The location follows the message; it stands before ours already.
    let message = message.split(" at line ").next().unwrap_or_default().trim_end().to_owned();
    Unreadable { at, message }
}

fn place(location: serde_saphyr::Location) -> Place {
    let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Place { line: number(location.line()), column: number(location.column()) }
}

/// What the YAML reader gives: each value with its span, from which its spelling is taken.
struct Written(Spanned<Raw>);

enum Raw {
    /// A string by quotes or by its form.
    Text(String),
    /// Null, a boolean or a number.
    Typed(String),
    List(Vec<Written>),
    Map(Vec<(Spanned<String>, Written)>),
}

impl Written {
    fn node(self, source: &str) -> Node {
        let Written(Spanned { value, defined, .. }) = self;
        let at = place(defined);
        let value = match value {
            Raw::List(items) => Value::List(items.into_iter().map(|item| item.node(source)).collect()),
            Raw::Map(entries) => Value::Map(entries.into_iter().map(|(key, value)| entry(key, value, source)).collect()),
            Raw::Text(text) => {
                // A quote, a block mark or a tag before the text tells that it may be nothing but text.
                let plain = spelling(source, defined).is_some_and(|spelt| !spelt.starts_with(['"', '\'', '|', '>', '!']));
                Value::Scalar(Scalar { plain: plain && resolve(&text).is_none(), ..Scalar::new(text) })
            }
            Raw::Typed(text) => {
                let spelt = spelling(source, defined).map_or(text, str::to_owned);
                Value::Scalar(Scalar { plain: true, ..Scalar::new(spelt) })
            }
        };
        Node { at, value }
    }
}

fn entry(key: Spanned<String>, value: Written, source: &str) -> Entry {
    Entry { at: place(key.defined), key: key.value, value: value.node(source) }
}

impl Scalar {
    fn new(text: String) -> Self {
        Scalar { text, plain: false, written: None, whole: false, optional: false }
    }
}

/// The bytes of the file that a scalar was read from.
fn spelling(source: &str, location: serde_saphyr::Location) -> Option<&str> {
    let span = location.span();
    let from = usize::try_from(span.byte_offset()?).ok()?;
    let length = usize::try_from(span.byte_len()?).ok()?;
    source.get(from..from.checked_add(length)?).map(str::trim_end)
}

/// A plain scalar's value by the core schema of YAML 1.2. None when it is text.
pub(super) fn resolve(text: &str) -> Option<serde_json::Value> {
    use serde_json::Value as Json;
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Some(Json::Null),
        "true" | "True" | "TRUE" => return Some(Json::Bool(true)),
        "false" | "False" | "FALSE" => return Some(Json::Bool(false)),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let leads_with_zero = unsigned.len() > 1 && unsigned.starts_with('0') && unsigned.as_bytes()[1].is_ascii_digit();
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') || leads_with_zero {
        return None;
    }
    if let Ok(number) = text.parse::<i64>() {
        return Some(number.into());
    }
    if let Ok(number) = text.parse::<u64>() {
        return Some(number.into());
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix) {
            let bare = digits.starts_with(|c: char| c.is_ascii_hexdigit());
            return u64::from_str_radix(digits, radix).ok().filter(|_| bare).map(Json::from);
        }
    }
    let number: f64 = text.parse().ok().filter(|_| unsigned.bytes().any(|byte| byte.is_ascii_digit()))?;
    serde_json::Number::from_f64(number).map(Json::Number)
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Written)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Raw, E> {
        Ok(Raw::Text(text))
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Typed(String::new()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}
