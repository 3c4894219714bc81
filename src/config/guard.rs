//! What protects a provider and those who wait for it: breaker, bounds on concurrency, queue; and its tags.
//!
//! Plain data; `state::health` acts on it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::routing::DataCollection;
use super::value::{Duration, Secret, Share, optional_secret};

/// One key of a provider's pool, given by exactly one of `key`, `env` and `file`. The text alone is short for `{env: TEXT}`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolKey {
    /// The key itself; best written as `${VARIABLE}`.
    #[serde(default, deserialize_with = "optional_secret")]
    pub key: Option<Secret>,
    /// Environment variable that holds the key; the key is left out while it is not set.
    #[serde(default)]
    pub env: Option<String>,
    /// File that holds the key, read at every load; a line end at its end is cut off.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// Name of the key in logs, traces and `GET /admin/targets`; when not set, its place in the list, from 1.
    #[serde(default)]
    pub alias: Option<String>,
    /// Its share of the requests, against the other keys of the same order; 0 takes none.
    #[serde(default = "one")]
    pub weight: u32,
    /// Keys of a higher order are used only when all of a lower one are out.
    #[serde(default)]
    pub order: u32,
    /// Used only when every other key is out, whatever the order.
    #[serde(default)]
    pub last_resort: bool,
}

fn one() -> u32 {
    1
}

/// When a target is given a rest. Every model of the provider, and every key, has a breaker of its own.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Breaker {
    /// Share of failed attempts in the window from which no more are sent.
    pub failure_rate: Share,
    /// Attempts in the window below which the share says nothing.
    pub min_samples: u32,
    /// How far back failures count.
    pub window: Duration,
    /// Failures in a row that are enough by themselves.
    pub consecutive: u32,
    /// First rest; doubled each time that the target is not well after it. What the provider itself asks for counts instead.
    pub cool_down: Duration,
    /// Longest rest.
    pub max_cool_down: Duration,
    /// Attempts let through at a time after a rest, and good ones needed to be back.
    pub probes: u32,
}

impl Default for Breaker {
    // LiteLLM cools a deployment for 5 s at more than half failed of at least 5 a minute; ours asks for more samples,
    // because a provider's bad second is common and retries hide it.
    fn default() -> Self {
        Breaker {
            failure_rate: Share::percent(50),
            min_samples: 20,
            window: Duration::from_secs(30),
            consecutive: 10,
            cool_down: Duration::from_secs(5),
            max_cool_down: Duration::from_secs(120),
            probes: 1,
        }
    }
}

/// A breaker, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum BreakerOrOff {
    On(Breaker),
    Off(Off),
}

/// The word `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Off {
    Off,
}

impl<'de> Deserialize<'de> for BreakerOrOff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = BreakerOrOff;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("off or a mapping")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<BreakerOrOff, E> {
                match text {
                    "off" => Ok(BreakerOrOff::Off(Off::Off)),
                    _ => Err(E::custom("is not known; write off, or {failure_rate: 50%, window: 30s, …}")),
                }
            }

            // Tools that still speak YAML 1.1 write `off` back as `false`.
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<BreakerOrOff, E> {
                self.visit_str(if value { "true" } else { "off" })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<BreakerOrOff, A::Error> {
                Breaker::deserialize(MapAccessDeserializer::new(map)).map(BreakerOrOff::On)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for BreakerOrOff {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "BreakerOrOff".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let breaker = generator.subschema_for::<Breaker>();
        json_schema!({ "anyOf": [breaker, { "enum": ["off", false] }] })
    }
}

/// Bounds of the number of requests under way at each model, which is learnt from its latency.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    /// It is never fewer.
    #[serde(default = "one")]
    pub min: u32,
    /// It is never more.
    pub max: u32,
}

/// Requests that wait for a place at the provider when all are taken.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlaceQueue {
    /// How many may wait; further ones go to the next target, or are refused at once.
    pub size: u32,
    /// How long they wait.
    #[serde(default = "five_seconds")]
    pub wait: Duration,
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

/// Asking a provider now and then whether it is there, beside the requests. One that is not gets no requests until a probe finds it again.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Probe {
    /// What is asked for, by GET: below the base URL (`models`), or with a slash before it from the root of the host (`/health`); when not set, the list of models. Any answer below 500 is a good one.
    pub path: Option<String>,
    /// Time between two probes.
    pub every: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Bad answers in a row after which the provider gets no requests.
    pub failures: u32,
    /// A model that is asked for one token instead, which says more and costs money at every probe; needs `paid: true`. Only that model is then kept from requests, and any answer but a good one is bad.
    pub model: Option<String>,
    /// Whether probes may cost money.
    pub paid: bool,
}

impl Default for Probe {
    fn default() -> Self {
        Probe {
            path: None,
            every: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            failures: 2,
            model: None,
            paid: false,
        }
    }
}

/// What constraints know of a provider.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tags {
    /// Where it runs, for `require.region`.
    pub region: Option<String>,
    /// It keeps nothing of what it is sent (zero data retention).
    pub zdr: Option<bool>,
    /// Whether it may train on or keep what it is sent: `allow` or `deny`; when not set, as good as `allow`.
    pub data_collection: Option<DataCollection>,
    /// Free labels, for `require.labels` and policies.
    pub labels: BTreeMap<String, String>,
}
