//! YAML text to the tree, with bounds on what a file may make the reader do.
//!
//! Never takes a scalar for more than its spelling: what it means is decided where its type is known.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Spanned, UserMessageFormatter};

use super::super::expand::closing;
use super::{Entry, Node, Place, Scalar, Value};

const MAX_NODES: usize = 250_000;
const MAX_DEPTH: usize = 64;
const MAX_ALIASES: usize = 4096;

/// Why the text is no YAML that can be used.
#[derive(Debug)]
pub(in super::super) struct Unreadable {
    pub at: Place,
    pub message: String,
}

/// Reads one YAML document. An empty one has no value.
pub(in super::super) fn parse(text: &str) -> Result<Node, Unreadable> {
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
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    };
    let source = shield(text);
    let written: Written = serde_saphyr::from_str_with_options(&source, options).map_err(|error| unreadable(&error))?;
    Ok(written.node(&Source { text: &source, shielded: matches!(source, Cow::Owned(_)) }))
}

/// The text that was parsed.
struct Source<'a> {
    text: &'a str,
    shielded: bool,
}

fn unreadable(error: &serde_saphyr::Error) -> Unreadable {
    use serde_saphyr::Error as Yaml;
    let at = error.location().map(place).unwrap_or_default();
    let message = match error.without_snippet() {
        Yaml::UnknownAnchor { .. } => "this `*name` has no `&name` before it; define it, or quote the text".to_owned(),
        Yaml::Budget { breach: BudgetBreach::Documents { .. }, .. } | Yaml::MultipleDocuments { .. } => {
            "a second document begins here; keep one, without `---`".to_owned()
        }
        Yaml::Budget { .. }
        | Yaml::AliasReplayLimitExceeded { .. }
        | Yaml::AliasReplayStackDepthExceeded { .. }
        | Yaml::AliasReplayCounterOverflow { .. } => {
            "the file holds too much, or its aliases multiply too far; write less".to_owned()
        }
        other => {
            let text = other.render_with_formatter(&UserMessageFormatter);
            // The location follows the message; it stands before ours already.
            let text = text.split(" at line ").next().unwrap_or_default().trim_end();
            let tab =
                if text.contains("tab") { "indent with spaces" } else { "check quotes, brackets and indentation" };
            format!("is not YAML: {text}; {tab}")
        }
    };
    Unreadable { at, message }
}

/// Characters that mean something to YAML inside `${…}` between braces, and what stands for each while it is parsed.
const SHIELDED: &[(char, char)] = &[
    ('{', '\u{e000}'),
    ('}', '\u{e001}'),
    ('[', '\u{e002}'),
    (']', '\u{e003}'),
    (',', '\u{e004}'),
    (':', '\u{e005}'),
    ('#', '\u{e006}'),
];

/// Lets `${VARIABLE}` stand without quotes between braces, as in `{ api_key: ${KEY} }`, where YAML would see a mapping.
/// Columns stay what they are: each character is replaced by one other.
fn shield(text: &str) -> Cow<'_, str> {
    if !text.contains("${") || text.contains(|c| SHIELDED.iter().any(|(_, stand_in)| *stand_in == c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at + 1);
        out.push_str(before);
        let line = from[1..].split(['\n', '"', '\'']).next().unwrap_or_default();
        // Without its end on the same line it is no variable, or one that `expand` will speak about.
        let length = closing(line).map_or(1, |end| end + 2);
        let variable = from[..length].chars();
        out.extend(variable.map(|c| match SHIELDED.iter().find(|(real, _)| *real == c && length > 1) {
            Some((_, stand_in)) => *stand_in,
            None => c,
        }));
        rest = &from[length..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Undoes [`shield`].
fn unshield(text: String, shielded: bool) -> String {
    let is_stand_in = |c| SHIELDED.iter().any(|(_, stand_in)| *stand_in == c);
    if !shielded || !text.contains(is_stand_in) {
        return text;
    }
    let real = |c| SHIELDED.iter().find(|(_, stand_in)| *stand_in == c).map_or(c, |(real, _)| *real);
    text.chars().map(real).collect()
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
    fn node(self, source: &Source<'_>) -> Node {
        let Written(Spanned { value, defined, .. }) = self;
        let at = place(defined);
        let value = match value {
            Raw::List(items) => Value::List(items.into_iter().map(|item| item.node(source)).collect()),
            Raw::Map(entries) => {
                Value::Map(entries.into_iter().map(|(key, value)| entry(key, value, source)).collect())
            }
            Raw::Text(text) => {
                // A quote, a block mark or a tag before the text tells that it may be nothing but text.
                let plain =
                    spelling(source, defined).is_some_and(|spelt| !spelt.starts_with(['"', '\'', '|', '>', '!']));
                let text = unshield(text, source.shielded);
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

fn entry(key: Spanned<String>, value: Written, source: &Source<'_>) -> Entry {
    Entry { at: place(key.defined), key: unshield(key.value, source.shielded), value: value.node(source) }
}

impl Scalar {
    fn new(text: String) -> Self {
        Scalar { text, plain: false, written: None, whole: false, optional: false }
    }
}

/// The bytes of the file that a scalar was read from.
fn spelling<'a>(source: &Source<'a>, location: serde_saphyr::Location) -> Option<&'a str> {
    let span = location.span();
    let from = usize::try_from(span.byte_offset()?).ok()?;
    let length = usize::try_from(span.byte_len()?).ok()?;
    source.text.get(from..from.checked_add(length)?).map(str::trim_end)
}

/// A plain scalar's value by the core schema of YAML 1.2. None when it is text.
pub(in super::super) fn resolve(text: &str) -> Option<serde_json::Value> {
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
