//! How models are tried and what requests may say about it: the general rules, and those of one model.
//!
//! Plain data; what is not set for a model is as in `routing`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{After, Duration, Share, Source, Usd};

/// How plans are made and tried where a model says nothing else.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Routing {
    /// Bounds on trying again.
    pub retry: Retry,
    /// Start the next target when the first is slow; when not set, never.
    pub hedge: Option<Hedge>,
    /// Let the next target go on from the text so far when a stream breaks off.
    pub continue_on_cut: bool,
    /// Keep a conversation at the target that it began with; when not set, it is not kept.
    pub affinity: Option<Affinity>,
    /// What every target must offer.
    pub require: Require,
    /// What requests may say about their own routing.
    pub request_policy: RequestPolicy,
}

/// Bounds on trying again.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Attempts of one exchange, all targets together.
    pub attempts: u32,
    /// Attempts at one target; when not set, 2 where a request has several targets and 1 where it has one alone: clients try again by themselves, and a second try here would double each of theirs.
    pub per_target: Option<u32>,
    /// All waits of one exchange together; a wait that does not fit is not begun.
    pub wait: Duration,
    /// First wait before the same target is asked again; doubled each time, with jitter.
    pub backoff: Duration,
    /// Longest single wait of the backoff.
    pub max_backoff: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            attempts: 5,
            per_target: None,
            wait: Duration::from_secs(10),
            backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(5),
        }
    }
}

/// Bounds on trying again that differ from those of `routing.retry`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryOverrides {
    /// Attempts of one exchange, all targets together.
    pub attempts: Option<u32>,
    /// Attempts at one target.
    pub per_target: Option<u32>,
    /// All waits of one exchange together.
    pub wait: Option<Duration>,
    /// First wait before the same target is asked again.
    pub backoff: Option<Duration>,
    /// Longest single wait of the backoff.
    pub max_backoff: Option<Duration>,
}

impl RetryOverrides {
    /// These, and where they are silent, the others.
    pub fn over(self, others: &Retry) -> Retry {
        Retry {
            attempts: self.attempts.unwrap_or(others.attempts),
            per_target: self.per_target.or(others.per_target),
            wait: self.wait.unwrap_or(others.wait),
            backoff: self.backoff.unwrap_or(others.backoff),
            max_backoff: self.max_backoff.unwrap_or(others.max_backoff),
        }
    }
}

/// When a second target is started beside the first.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hedge {
    /// `800ms`, or a quantile of the target's own time to the first content: `p50`, `p75`, `p90`, `p95`, `p99`.
    pub after: After,
    /// Share of exchanges that may be hedged.
    #[serde(default = "five_percent")]
    pub budget: Share,
}

fn five_percent() -> Share {
    Share::percent(5)
}

/// What keeps a conversation at one target.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Affinity {
    /// What tells conversations apart; the first that a request has counts: `session`, `header.NAME`, `param.FIELD`, `metadata.NAME`, `prompt_cache_key`, `messages`.
    pub by: Vec<Source>,
    /// How long after its last request a conversation is remembered.
    pub ttl: Duration,
}

impl Default for Affinity {
    fn default() -> Self {
        // As OpenRouter's: the order, and an hour so that one-hour prompt caches are met.
        Affinity { by: vec![Source::Session, Source::PromptCacheKey, Source::Messages], ttl: Duration::from_secs(3600) }
    }
}

/// Copies of requests to a target whose answers are dropped.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// `provider/model`.
    pub target: String,
    /// Share of requests that are copied.
    pub share: Share,
}

/// What a target must offer to be in a plan; never violated, by no fallback either.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Require {
    /// Regions, one of which a target's `tags.region` must be.
    pub region: Vec<String>,
    /// `deny`: only targets whose `tags.data_collection` is `deny`.
    pub data_collection: Option<DataCollection>,
    /// Only targets with `tags.zdr: true` (zero data retention).
    pub zdr: Option<bool>,
    /// Highest prices; a target whose price is not known is left out.
    pub max_price: MaxPrice,
    /// Abilities that the catalogue must state of a target: `tools`, `vision`, `audio`, `pdf`, `json_schema`, `reasoning`.
    pub abilities: Vec<Ability>,
    /// Labels that a target's `tags.labels` must have.
    pub labels: BTreeMap<String, String>,
}

/// What a provider does with what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataCollection {
    Allow,
    Deny,
}

/// US dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MaxPrice {
    /// Of input.
    pub input: Option<Usd>,
    /// Of output.
    pub output: Option<Usd>,
}

/// Something a model can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ability {
    Tools,
    Vision,
    Audio,
    Pdf,
    JsonSchema,
    Reasoning,
}

/// What of a request's own words on its routing counts: `allow`, `ignore` (taken out, without effect) or `refuse` (400).
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RequestPolicy {
    /// `models` and `fallbacks` of the body, `x-portcullis-models`: further models to try.
    pub models: Lock,
    /// `provider.order`.
    pub order: Lock,
    /// `provider.only`.
    pub only: Lock,
    /// `provider.ignore`.
    pub ignore: Lock,
    /// `provider.sort`, and the suffixes `:floor` and `:nitro` of a model's name.
    pub sort: Lock,
    /// `provider.allow_fallbacks` and `disable_fallbacks`.
    pub fallbacks: Lock,
    /// `provider.require_parameters`.
    pub require_parameters: Lock,
    /// `provider.data_collection` and `provider.zdr`; they can only tighten what `require` says.
    pub data_policy: Lock,
    /// `provider.max_price`; it can only tighten what `require` says.
    pub max_price: Lock,
    /// `provider.preferred_min_throughput` and `provider.preferred_max_latency`.
    pub performance: Lock,
    /// `session_id` of the body, `x-portcullis-session`, `x-session-id`.
    pub session: Lock,
    /// `x-portcullis-timeout-ms`; it can only shorten.
    pub timeout: Lock,
}

/// Whether a part of a request's policy counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lock {
    #[default]
    Allow,
    Ignore,
    Refuse,
}
