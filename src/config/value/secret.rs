//! A secret: held, handed on by one named method, never shown.
//!
//! Never prints itself: `Debug`, `Display` and `Serialize` all give `***`, so a configuration can be logged and printed.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// What stands for every secret in print.
pub(in super::super) const MASK: &str = "***";

thread_local! {
    /// Secrets are printed with their marks.
    static MARKED: Cell<bool> = const { Cell::new(false) };
}

/// Prints secrets with marks: equal ones have equal marks. Hashes under a key that nobody knows and that ends with the
/// process, so that a mark says nothing of the secret itself.
pub(in super::super) fn marked<T>(print: impl FnOnce() -> T) -> T {
    MARKED.set(true);
    let printed = print();
    MARKED.set(false);
    printed
}

/// Whether secrets are printed with their marks now.
pub(in super::super) fn are_marked() -> bool {
    MARKED.get()
}

/// What may be shown of a text that may be a secret.
pub(in super::super) fn masked(text: &str) -> Cow<'static, str> {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    match text.is_empty() {
        true => "".into(),
        false if are_marked() => format!("{MASK} {:08x}", KEY.hash_one(text) as u32).into(),
        false => MASK.into(),
    }
}

/// A credential or another text that must not be shown.
///
/// Equality is for comparing configurations; it is not constant in time, so callers are never checked with it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Box<str>);

impl Secret {
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Secret(text.into())
    }

    /// The text itself. Every use is a place where the secret can leak: keep them few.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What may be shown: nothing when there is nothing to hide.
    fn shown(&self) -> Cow<'static, str> {
        masked(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.shown())
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        optional(deserializer)?.ok_or_else(|| de::Error::custom("is empty; write the secret"))
    }
}

/// Reads a secret that may be absent, and keeps one that is written but empty apart from one that is not written.
pub(in super::super) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    struct Text;

    impl Visitor<'_> for Text {
        type Value = Option<Secret>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text")
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(Secret::new(text)))
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }

    deserializer.deserialize_str(Text)
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "null"],
            "description": "A secret; best written as ${VARIABLE}. Never printed.",
            "format": "password",
            "writeOnly": true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_itself_in_no_form() {
        let secret = Secret::new("sk-verysecret");
        let shown = [
            format!("{secret}"),
            format!("{secret:?}"),
            format!("{secret:#?}"),
            serde_json::to_string(&secret).expect("serialises"),
            serde_json::to_string(&Some(&secret)).expect("serialises"),
        ];
        for text in shown {
            assert!(!text.contains("very") && text.contains(MASK), "{text}");
        }
        assert_eq!(secret.expose(), "sk-verysecret");
    }
}
