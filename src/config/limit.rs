//! Limits and budgets, where their counts are kept, and what several processes share.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::value::{Duration, Portion, Quotas, Secret, Spends, Texts, Zone, optional_secret};

/// Whom a limit or budget is for. Everything that is named must fit; of several values one. `*` in a value stands for any text.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// Names of keys.
    pub key: Texts,
    /// Projects of keys.
    pub project: Texts,
    /// End users, as `user` or `metadata.user_id` of the body names them.
    pub user: Texts,
    /// Models as clients send them.
    pub model: Texts,
    /// Paths as the README lists them.
    pub endpoint: Texts,
    /// Addresses or networks of callers, behind `listen.trusted_proxies` the ones those tell.
    pub ip: Texts,
    /// Names of providers; the limit is then checked for each target, and one without room is passed over.
    pub provider: Texts,
    /// Targets, `provider/model`; checked as `provider` is.
    pub target: Texts,
    /// Values of request headers.
    pub header: BTreeMap<String, Texts>,
    /// Labels of keys.
    pub metadata: BTreeMap<String, Texts>,
}

/// A limit: how much whom may use in which time. Several windows are all held, and all limits that fit an exchange.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limit {
    /// Names its counts, in messages, metrics and across reloads; when not set, made of `match` and `per`.
    pub name: Option<String>,
    /// Whom it is for; everybody when empty.
    #[serde(rename = "match")]
    pub matches: Match,
    /// What is counted apart: `key`, `project`, `user`, `model`, `endpoint`, `ip`, `provider`, `target`, `header.NAME`, `metadata.NAME`; when empty, all together.
    #[serde(alias = "partition_by")]
    pub per: Texts,
    /// Requests for a time.
    pub requests: Quotas,
    /// Input and output tokens together.
    pub tokens: Quotas,
    /// Input tokens, cached ones included.
    pub input_tokens: Quotas,
    /// Output tokens, reasoning included.
    pub output_tokens: Quotas,
    /// Money for a time.
    pub money: Spends,
    /// Requests under way at the same time.
    pub concurrency: Option<u64>,
    /// How windows of a duration move: `sliding`, `fixed`, or `bucket`, which refills evenly.
    pub algorithm: Algorithm,
    /// Where days, weeks and months begin.
    pub zone: Zone,
    /// What happens when nothing is left: `reject`, `{queue: {wait: 5s}}`, or `{route: MODEL}`.
    pub on_exhausted: OnExhausted,
    /// What tells the share of a caller, as `per` names it.
    pub class: Option<String>,
    /// Parts of the limit by value of `class`; `rest` is for all others. What those who have a part do not ask for may be borrowed.
    pub shares: BTreeMap<String, Portion>,
    /// Whether money is refused to models without a known price, or counts nothing for them: `refuse` or `free`.
    pub unpriced: Unpriced,
    /// Part of each window, such as `2%`, that a process takes from Redis in advance while the limit is busy, so that most requests need not ask there. All processes together admit no more for it, but may refuse that much too early for each other one; what is not needed goes back after a second.
    pub lease: Option<Portion>,
}

/// A budget: money for a time, watched by thresholds. Counts like a limit.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MoneyBudget {
    /// Names its counts, in messages, metrics and across reloads; when not set, made of `match` and `per`.
    pub name: Option<String>,
    /// Whom it is for; everybody when empty.
    #[serde(rename = "match")]
    pub matches: Match,
    /// What is counted apart, as in limits; when empty, all together.
    #[serde(alias = "partition_by")]
    pub per: Texts,
    /// The amounts, such as `$500 / month`, `$50 / day` or `$1000 / total`.
    pub money: Spends,
    /// Where days, weeks and months begin.
    pub zone: Zone,
    /// Whether more is refused; a soft budget (`false`) only tells.
    pub hard: bool,
    /// Parts of the amount that are told of, each once a window.
    pub thresholds: Vec<Portion>,
    /// Address that gets a POST when a threshold is reached; when not set, the process's log tells.
    #[serde(deserialize_with = "optional_secret")]
    pub webhook: Option<Secret>,
    /// What happens when nothing is left, as in limits.
    pub on_exhausted: OnExhausted,
    /// What happens to models without a known price, as in limits.
    pub unpriced: Unpriced,
}

impl Match {
    /// Every condition by the name of its part, in a fixed order.
    pub fn conditions(&self) -> Vec<(String, &[String])> {
        let plain = [
            ("key", &self.key),
            ("project", &self.project),
            ("user", &self.user),
            ("model", &self.model),
            ("endpoint", &self.endpoint),
            ("ip", &self.ip),
            ("provider", &self.provider),
            ("target", &self.target),
        ];
        let plain = plain.into_iter().map(|(name, texts)| (name.to_owned(), texts.0.as_slice()));
        let header = self.header.iter().map(|(name, texts)| (format!("header.{name}"), texts.0.as_slice()));
        let metadata = self.metadata.iter().map(|(name, texts)| (format!("metadata.{name}"), texts.0.as_slice()));
        plain.chain(header).chain(metadata).filter(|(_, texts)| !texts.is_empty()).collect()
    }
}

/// The name of a rule that was given none: whom it is for and what is counted apart.
fn made_name(matches: &Match, per: &Texts) -> String {
    let conditions = matches.conditions().into_iter().map(|(part, texts)| format!("{part}={}", texts.join(",")));
    let mut name = conditions.collect::<Vec<_>>().join(" ");
    if name.is_empty() {
        name.push_str("everybody");
    }
    if !per.0.is_empty() {
        name.push_str(" per ");
        name.push_str(&per.0.join(","));
    }
    name.replace(':', "-")
}

impl Limit {
    /// Its name, given or made.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| made_name(&self.matches, &self.per))
    }
}

impl MoneyBudget {
    /// Its name, given or made.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("budget {}", made_name(&self.matches, &self.per)))
    }
}

impl Default for MoneyBudget {
    fn default() -> Self {
        MoneyBudget {
            name: None,
            matches: Match::default(),
            per: Texts::default(),
            money: Spends::default(),
            zone: Zone::default(),
            hard: true,
            thresholds: vec![Portion::of(50), Portion::of(80), Portion::of(100)],
            webhook: None,
            on_exhausted: OnExhausted::default(),
            unpriced: Unpriced::default(),
        }
    }
}

/// How windows of a duration move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    #[default]
    Sliding,
    Fixed,
    Bucket,
}

/// What becomes of models without a known price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unpriced {
    #[default]
    Refuse,
    Free,
}

/// What happens when nothing is left.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExhausted {
    #[default]
    Reject,
    Queue(Queue),
    Route(String),
}

/// Waiting for room.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// Longest wait.
    pub wait: Duration,
    /// How many may wait in one queue.
    pub max: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Queue { wait: Duration::from_secs(10), max: 100 }
    }
}

/// Another way than to refuse; one of these.
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct Way {
    /// Wait for room.
    queue: Option<Queue>,
    /// Go on with this model; the caller need not be allowed to name it.
    route: Option<String>,
}

impl<'de> Deserialize<'de> for OnExhausted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ways;

        impl<'de> Visitor<'de> for Ways {
            type Value = OnExhausted;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("reject, {queue: …} or {route: MODEL}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                match text {
                    "reject" => Ok(OnExhausted::Reject),
                    "queue" => Ok(OnExhausted::Queue(Queue::default())),
                    _ => Err(E::custom("is not known; write reject, {queue: {wait: 5s}} or {route: MODEL}")),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                match Way::deserialize(MapAccessDeserializer::new(map))? {
                    Way { queue: Some(queue), route: None } => Ok(OnExhausted::Queue(queue)),
                    Way { queue: None, route: Some(model) } => Ok(OnExhausted::Route(model)),
                    _ => Err(de::Error::custom("names not exactly one way; write {queue: …} or {route: MODEL}")),
                }
            }
        }

        deserializer.deserialize_any(Ways)
    }
}

impl JsonSchema for OnExhausted {
    fn schema_name() -> Cow<'static, str> {
        "OnExhausted".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let way = generator.subschema_for::<Way>();
        json_schema!({ "anyOf": [{ "type": "string", "enum": ["reject", "queue"] }, way] })
    }
}

/// The file that counts of limits and budgets and the ledger are kept in.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// An SQLite file, made when it is not there; `off` for none. When not set, `portcullis.db` beside the configuration as soon as a limit or budget is for longer than a minute and no Redis keeps it.
    pub path: Option<PathBuf>,
    /// Whether a row is kept for every exchange, with its usage and cost.
    pub ledger: Option<bool>,
}

/// Redis or Valkey: what several processes share.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// `redis://host:6379/0`, with `user:password@` before the host, or `rediss://` for TLS; when not set, nothing is shared.
    #[serde(deserialize_with = "optional_secret")]
    pub url: Option<Secret>,
    /// Longest wait for an answer; one that is slower counts as away.
    pub timeout: Duration,
    /// Begins the name of every key.
    pub prefix: String,
    /// Whether what policies keep in `gw.kv` is kept there, by all processes together. Its functions then wait, and fail while it is away.
    pub kv: bool,
    /// What limits do while it is away: `local` (each process holds its part of them), `open` (nothing is limited) or `closed` (what is limited is refused).
    pub away: Away,
}

impl Default for Redis {
    fn default() -> Self {
        Redis {
            url: None,
            timeout: Duration::from_millis(20),
            prefix: "portcullis".to_owned(),
            kv: false,
            away: Away::default(),
        }
    }
}

/// What limits do while what they share is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Away {
    #[default]
    Local,
    Open,
    Closed,
}
