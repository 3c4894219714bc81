//! From the tree to the typed configuration, with every error at once.
//!
//! Serde stops at its first error, so what was wrong is marked as gone and the rest is read again, until nothing is
//! wrong any more. Types decide how a scalar is read: `1_000` is text where text is wanted and an error where a number
//! is. Never puts the value of a variable into a message.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};

use super::error::{hint, nearest};
use super::path::{KeyPath, Seg};
use super::tree::{Entry, Gone, Node, Place, Scalar, Value, resolve};

/// More errors than this are not shown: by then the file is something else.
const MAX_ERRORS: usize = 100;

/// Structs for which one scalar may stand: the field that it is then the value of. The types' schemas say the same.
const SHORTHANDS: &[(&str, &str)] = &[("Model", "target"), ("Node", "target"), ("PoolKey", "env")];

/// Reads the tree as `T` and says everything that is wrong. None when what is left is not enough for a `T`.
pub(super) fn read<T: DeserializeOwned>(tree: &mut Node, wrong: &mut dyn FnMut(&KeyPath, Place, String)) -> Option<T> {
    for _ in 0..MAX_ERRORS {
        let error = match T::deserialize(De(tree)) {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let mut path = KeyPath::from_inside(error.path);
        // What cannot be read because its variable is empty counts as not written.
        if matches!(error.what, What::Other(_)) && tree.unset(path.segs()) {
            continue;
        }
        let (gone, place) = match &error.what {
            What::UnknownKey { meant, .. } => (Gone::Unknown(meant.clone()), tree.key_place(path.segs())),
            What::Missing(_) | What::Other(_) => (Gone::Wrong, tree.place(path.segs())),
        };
        if !is_follow_up(tree.find(path.segs()), &error.what) {
            wrong(&path, place, error.what.message());
        }
        if path.is_empty() {
            return None;
        }
        // What is gone already and still in the way takes what holds it along.
        while tree.find(path.segs()).is_none_or(Node::is_gone) && path.pop().is_some() {}
        tree.remove(path.segs(), gone);
    }
    None
}

/// Whether a field is missing only because it was found wrong, or misspelt, before.
fn is_follow_up(holder: Option<&Node>, what: &What) -> bool {
    let (Some(Node { value: Value::Map(entries), .. }), What::Missing(field)) = (holder, what) else { return false };
    entries.iter().any(|entry| match &entry.value.value {
        Value::Gone(Gone::Wrong) => entry.key == *field,
        Value::Gone(Gone::Unknown(meant)) => meant.as_deref() == Some(*field),
        _ => false,
    })
}

/// What went wrong, and the way to it from the inside out.
#[derive(Debug)]
struct Error {
    path: Vec<Seg>,
    what: What,
}

#[derive(Debug)]
enum What {
    UnknownKey { meant: Option<String>, message: String },
    Missing(&'static str),
    Other(String),
}

impl What {
    fn message(&self) -> String {
        match self {
            What::UnknownKey { message, .. } | What::Other(message) => message.clone(),
            What::Missing(field) => format!("`{field}` is missing; add it"),
        }
    }
}

impl Error {
    fn new(what: What) -> Self {
        Error { path: Vec::new(), what }
    }

    fn other(message: impl Into<String>) -> Self {
        Error::new(What::Other(message.into()))
    }

    fn inside(mut self, seg: Seg) -> Self {
        self.path.push(seg);
        self
    }

    /// Puts before the message what was written, unless the message is about a part of it.
    fn quoting(self, scalar: &Scalar) -> Self {
        match self.what {
            What::Other(message) if self.path.is_empty() => Error::other(format!("{} {message}", quoted(scalar))),
            what => Error { path: self.path, what },
        }
    }
}

/// What was written, cut short.
fn quoted(scalar: &Scalar) -> String {
    const SHOWN: usize = 60;
    let written = scalar.written();
    if written.is_empty() {
        return "the empty text".to_owned();
    }
    match written.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("`{}…`", &written[..end]),
        None => format!("`{written}`"),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what.message())
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Error::other(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match unexpected {
            Unexpected::Map => "a mapping",
            Unexpected::Seq => "a list",
            Unexpected::Unit | Unexpected::Option => "nothing",
            Unexpected::Bool(_) => "true or false",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
            _ => "text",
        };
        let expected = expected.to_string();
        let expected = plain_words(&expected);
        Error::other(format!("{found} stands where {expected} is expected; write {expected} instead"))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let meant = nearest(field, expected.iter().copied()).map(str::to_owned);
        let message = format!("unknown key; {}", hint(field, expected.iter().copied(), "known ones are"));
        Error::new(What::UnknownKey { meant, message })
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        // `false` is understood for `off`, but not what one should write.
        let words = expected.iter().copied().filter(|word| *word != "false");
        Error::other(format!("is not known; {}", hint(variant, words, "write one of")))
    }

    fn missing_field(field: &'static str) -> Self {
        Error::new(What::Missing(field))
    }
}

/// Serde's words for what it wants, in the words of the file.
fn plain_words(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" | "i64" => "a whole number",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "path string" | "string or map" => "text",
        "a sequence" => "a list",
        "a map" => "a mapping",
        expected if expected.starts_with("struct ") => "a mapping",
        expected if expected.starts_with("enum ") => "a word",
        expected => expected,
    }
}

/// A node of the tree, to be read.
#[derive(Clone, Copy)]
struct De<'a>(&'a Node);

impl<'a> De<'a> {
    fn scalar(self, expected: &str) -> Result<&'a Scalar, Error> {
        match &self.0.value {
            Value::Scalar(scalar) => Ok(scalar),
            Value::List(_) => {
                Err(Error::other(format!("a list stands where {expected} is expected; write {expected} instead")))
            }
            Value::Map(_) => {
                Err(Error::other(format!("a mapping stands where {expected} is expected; write {expected} instead")))
            }
            Value::Gone(_) => Err(Error::other("is not usable")),
        }
    }

    /// The scalar as a number of Rust's spelling, checked against YAML 1.1's habits.
    fn number<T: std::str::FromStr>(self, expected: &str) -> Result<T, Error> {
        let scalar = self.scalar(expected)?;
        let text = scalar.text.as_str();
        if scalar.is_absent() {
            return Err(Error::other(format!("nothing stands where {expected} is expected; write {expected}")));
        }
        if !scalar.may_be_typed() {
            return Err(Error::other(format!("is text; write {expected} without quotes")).quoting(scalar));
        }
        let digits = text.trim_start_matches(['-', '+']);
        let is_number = |text: &str| text.parse::<i128>().is_ok();
        let message = if text.contains('_') && is_number(&text.replace('_', "")) {
            "is text in YAML 1.2; write the number without `_`".to_owned()
        } else if digits.len() > 1 && digits.starts_with('0') && is_number(digits) {
            "begins with 0, which some readers take for octal; write it without".to_owned()
        } else if let Ok(number) = text.parse() {
            return Ok(number);
        } else if text.starts_with('-') && is_number(text) {
            "is negative; write 0 or more".to_owned()
        } else if is_number(text) {
            "is too large; write less".to_owned()
        } else {
            format!("is not {expected}; write one")
        };
        Err(Error::other(message).quoting(scalar))
    }
}

/// Reads a number through `De::number` and hands it on.
macro_rules! numbers {
    ($($method:ident $type:ty, $visit:ident, $expected:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit(self.number::<$type>($expected)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for De<'_> {
    type Error = Error;

    numbers! {
        deserialize_u8 u8, visit_u8, "a whole number";
        deserialize_u16 u16, visit_u16, "a whole number";
        deserialize_u32 u32, visit_u32, "a whole number";
        deserialize_u64 u64, visit_u64, "a whole number";
        deserialize_i8 i8, visit_i8, "a whole number";
        deserialize_i16 i16, visit_i16, "a whole number";
        deserialize_i32 i32, visit_i32, "a whole number";
        deserialize_i64 i64, visit_i64, "a whole number";
        deserialize_f32 f32, visit_f32, "a number";
        deserialize_f64 f64, visit_f64, "a number";
    }

    /// Where any type will do (parameters in `set` and `default`): what YAML 1.2 takes a plain scalar for.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.0.value {
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
            Value::Gone(_) => Err(Error::other("is not usable")),
            Value::Scalar(scalar) => {
                // A number in the middle of a text with variables stays text; so does everything in quotes.
                let typed = scalar.plain && (scalar.written.is_none() || scalar.whole);
                let read = match resolve(&scalar.text).filter(|_| typed) {
                    Some(serde_json::Value::Null) => visitor.visit_unit(),
                    Some(serde_json::Value::Bool(value)) => visitor.visit_bool(value),
                    Some(serde_json::Value::Number(number)) => match (number.as_u64(), number.as_i64()) {
                        (Some(value), _) => visitor.visit_u64(value),
                        (None, Some(value)) => visitor.visit_i64(value),
                        (None, None) => visitor.visit_f64(number.as_f64().unwrap_or_default()),
                    },
                    _ => visitor.visit_str(&scalar.text),
                };
                read.map_err(|error: Error| error.quoting(scalar))
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let scalar = self.scalar("true or false")?;
        let habit = match scalar.text.as_str() {
            "true" | "True" | "TRUE" if scalar.may_be_typed() => return visitor.visit_bool(true),
            "false" | "False" | "FALSE" if scalar.may_be_typed() => return visitor.visit_bool(false),
            "yes" | "Yes" | "YES" | "y" | "on" | "On" | "ON" => Some("true"),
            "no" | "No" | "NO" | "n" | "off" | "Off" | "OFF" => Some("false"),
            _ => None,
        };
        let message = match (habit, scalar.written.is_some()) {
            (Some(meant), false) if scalar.plain => format!("is text in YAML 1.2; write {meant}"),
            _ if scalar.is_absent() => {
                return Err(Error::other("nothing stands where true or false is expected; write one of them"));
            }
            _ if !scalar.may_be_typed() => "is text; write true or false without quotes".to_owned(),
            _ => "is not true or false; write one of them".to_owned(),
        };
        Err(Error::other(message).quoting(scalar))
    }

    /// Where text is wanted every scalar is text, as it was spelt: `no`, `1.10` and `0755` stay what they are.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let scalar = self.scalar("text")?;
        if scalar.is_null() {
            return visitor.visit_unit();
        }
        visitor.visit_str(&scalar.text).map_err(|error: Error| error.quoting(scalar))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0.scalar() {
            Some(scalar) if scalar.is_absent() => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.0.value {
            Value::List(items) => visitor.visit_seq(Items { items, next: 0 }),
            Value::Scalar(scalar) if scalar.is_null() => visitor.visit_seq(Items { items: &[], next: 0 }),
            Value::Scalar(scalar) => Err(Error::other("is not a list; write it in brackets: […]").quoting(scalar)),
            _ => Err(Error::other("a mapping stands where a list is expected; write `- ` before each item")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_struct("", &[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.0.value {
            Value::Map(entries) => visitor.visit_map(Entries { entries, fields, value: None }),
            Value::Scalar(scalar) if scalar.is_null() => {
                visitor.visit_map(Entries { entries: &[], fields, value: None })
            }
            Value::Scalar(scalar) => {
                match SHORTHANDS.iter().find(|(of, _)| *of == name) {
                    Some((_, field)) => visitor.visit_map(Short { field: Some(field), value: self }),
                    None => Err(Error::other("is not a mapping; write `key: value` lines below, or {key: value}")
                        .quoting(scalar)),
                }
            }
            _ => Err(Error::other("a list stands where a mapping is expected; write `key: value` lines")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let scalar = self.scalar("a word")?;
        visitor.visit_enum(Word(&scalar.text)).map_err(|error: Error| error.quoting(scalar))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! { i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct }
}

struct Items<'a> {
    items: &'a [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        while let Some(item) = self.items.get(self.next) {
            let index = self.next;
            self.next += 1;
            if !item.is_gone() {
                return seed.deserialize(De(item)).map(Some).map_err(|error| error.inside(Seg::Index(index)));
            }
        }
        Ok(None)
    }
}

struct Entries<'a> {
    entries: &'a [Entry],
    /// The fields of the struct that is read; empty for a mapping with free keys.
    fields: &'static [&'static str],
    value: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        while let Some((entry, rest)) = self.entries.split_first() {
            self.entries = rest;
            // A known key with nothing after it, as when all below it is commented out, is as good as absent.
            let unset = self.fields.contains(&entry.key.as_str()) && entry.value.scalar().is_some_and(Scalar::is_null);
            if !entry.value.is_gone() && !unset {
                self.value = Some(entry);
                let key = StrDeserializer::new(&entry.key);
                return seed
                    .deserialize(key)
                    .map(Some)
                    .map_err(|error: Error| error.inside(Seg::Key(entry.key.clone())));
            }
        }
        Ok(None)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let entry = self.value.take().ok_or_else(|| Error::other("a value was asked for before its key"))?;
        seed.deserialize(De(&entry.value)).map_err(|error| error.inside(Seg::Key(entry.key.clone())))
    }
}

/// A mapping of one key, written as its value alone.
struct Short<'a> {
    field: Option<&'static str>,
    value: De<'a>,
}

impl<'de> MapAccess<'de> for Short<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.field.take().map(|field| seed.deserialize(StrDeserializer::new(field))).transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.value)
    }
}

/// A word that names a variant.
struct Word<'a>(&'a str);

impl<'de, 'a> EnumAccess<'de> for Word<'a> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        seed.deserialize(StrDeserializer::<Error>::new(self.0)).map(|variant| (variant, self))
    }
}

impl<'de> VariantAccess<'de> for Word<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Error> {
        Err(Error::other("is not a word of its own; write a mapping"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        Err(Error::other("is not a word of its own; write a list"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Error> {
        Err(Error::other("is not a word of its own; write a mapping"))
    }
}
