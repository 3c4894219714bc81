//! Conditions of the strategy tree: what a request must look like for a branch to be taken.
//!
//! Plain data; `route` decides. Several tests in one mapping must all hold.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use super::value::Source;

/// Tests by what they look at, and `all`, `any` and `not` around further ones.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct When(pub Vec<Clause>);

/// One entry of a condition.
#[derive(Debug, Clone, PartialEq)]
pub enum Clause {
    All(Vec<When>),
    Any(Vec<When>),
    Not(When),
    Test(Source, Tests),
}

/// What a value is compared with; all that are written must hold. A value alone stands for `eq`.
#[derive(Debug, Clone, PartialEq, Default, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tests {
    /// It is this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eq: Option<Value>,
    /// It is not this; an absent value is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ne: Option<Value>,
    /// It is a number above this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gt: Option<f64>,
    /// It is a number, this or above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gte: Option<f64>,
    /// It is a number below this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lt: Option<f64>,
    /// It is a number, this or below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lte: Option<f64>,
    /// It is one of these.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Vec<Value>>,
    /// It is none of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_in: Option<Vec<Value>>,
    /// It is text that matches this pattern anywhere (RE2 syntax).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// It is there (`true`), or it is not (`false`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
}

impl Serialize for When {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for clause in &self.0 {
            match clause {
                Clause::All(inner) => map.serialize_entry("all", inner)?,
                Clause::Any(inner) => map.serialize_entry("any", inner)?,
                Clause::Not(inner) => map.serialize_entry("not", inner)?,
                Clause::Test(source, tests) => map.serialize_entry(&source.to_string(), tests)?,
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Clauses;

        impl<'de> Visitor<'de> for Clauses {
            type Value = When;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<When, A::Error> {
                let mut clauses = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    clauses.push(match key.as_str() {
                        "all" => Clause::All(map.next_value()?),
                        "any" => Clause::Any(map.next_value()?),
                        "not" => Clause::Not(map.next_value()?),
                        name => {
                            let source = name
                                .parse()
                                .map_err(|error| de::Error::custom(format!("`{name}` {error}, or all, any, not")))?;
                            let ValueOrTests(tests) = map.next_value()?;
                            Clause::Test(source, tests)
                        }
                    });
                }
                Ok(When(clauses))
            }
        }

        deserializer.deserialize_map(Clauses)
    }
}

/// A value, which is to be equal, or a mapping of tests.
struct ValueOrTests(Tests);

impl<'de> Deserialize<'de> for ValueOrTests {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        fn equal<E>(value: impl Into<Value>) -> Result<ValueOrTests, E> {
            Ok(ValueOrTests(Tests { eq: Some(value.into()), ..Tests::default() }))
        }

        impl<'de> Visitor<'de> for Either {
            type Value = ValueOrTests;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value, or tests such as {in: [a, b]}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ValueOrTests, E> {
                equal(text)
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<ValueOrTests, E> {
                equal(value)
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<ValueOrTests, E> {
                equal(value)
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<ValueOrTests, E> {
                equal(value)
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<ValueOrTests, E> {
                equal(value)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ValueOrTests, A::Error> {
                Tests::deserialize(MapAccessDeserializer::new(map)).map(ValueOrTests)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for When {
    fn schema_name() -> Cow<'static, str> {
        "When".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let tests = generator.subschema_for::<Tests>();
        let when = generator.subschema_for::<When>();
        json_schema!({
            "type": "object",
            "description": "Tests by what they look at (header.NAME, param.FIELD, metadata.NAME, principal.key, principal.project, model, session, tokens); all must hold. `all`, `any` and `not` hold further ones.",
            "properties": {
                "all": { "type": "array", "items": when, "description": "Conditions that must all hold." },
                "any": { "type": "array", "items": when, "description": "Conditions of which one must hold." },
                "not": { "anyOf": [when], "description": "A condition that must not hold." },
            },
            "additionalProperties": { "anyOf": [{ "type": ["string", "number", "boolean"] }, tests] },
        })
    }
}
