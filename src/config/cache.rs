//! Answers that are kept: for how long, for whom, and how much of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{ByteSize, Duration};

/// Answers kept for asks that come again. Off until a part of it is written.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Answers to asks that mean the same word for word, whatever dialect they come in. Off unless written.
    pub exact: Option<ExactCache>,
    /// Marks for the providers' own prompt caches, where a provider needs them (Anthropic): `auto` sets them after long tools, system prompts and conversations of requests that have none of their own.
    pub prompt: PromptMarks,
}

/// Who sets prompt-cache marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PromptMarks {
    Auto,
    // Tools that still speak YAML 1.1 write `off` back as `false`.
    #[default]
    #[serde(alias = "false")]
    Off,
}

/// The exact cache.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExactCache {
    /// Whether it serves every model and key that does not say otherwise.
    pub enabled: bool,
    /// How long an answer is given again.
    pub ttl: Duration,
    /// The longest time that a request may ask for.
    pub max_ttl: Duration,
    /// Memory for all answers together. The least recently used go first.
    pub max_bytes: ByteSize,
    /// The longest answer that is kept, as the upstream sent it.
    pub max_entry_bytes: ByteSize,
    /// Who shares answers: each `key` its own, all keys of a `project`, or everybody (`global`). A key without a project is a project of its own.
    pub partition: Partition,
    /// Whether the order of keys inside JSON objects (tool schemas, metadata) makes no difference.
    pub order_insensitive: bool,
    /// Top-level fields of a request that make no difference, in addition to `user`, `metadata`, `stream` and the like.
    pub ignore: Vec<String>,
    /// Ends of an answer with which it is kept.
    pub finishes: Vec<CacheFinish>,
    /// Whether identical requests at the same time share one upstream call.
    pub single_flight: bool,
    /// Whether requests may steer the cache (`x-portcullis-cache`, `cache` in the body). When not, what they say is taken out and not obeyed.
    pub client_control: bool,
}

impl Default for ExactCache {
    fn default() -> Self {
        ExactCache {
            enabled: true,
            ttl: Duration::from_secs(600),
            max_ttl: Duration::from_secs(24 * 3600),
            max_bytes: ByteSize::mib(256),
            max_entry_bytes: ByteSize::mib(1),
            partition: Partition::Key,
            order_insensitive: false,
            ignore: Vec::new(),
            finishes: vec![CacheFinish::Stop, CacheFinish::Length, CacheFinish::ToolCalls],
            single_flight: true,
            client_control: true,
        }
    }
}

/// Who shares answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Partition {
    #[default]
    Key,
    Project,
    Global,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheFinish {
    /// The model was done, or hit one of the caller's stop sequences.
    Stop,
    /// The bound on tokens was reached.
    Length,
    ToolCalls,
}

/// What differs for one model or key; what is not set is as in `cache`. Where both speak, the key's word counts.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CacheOverrides {
    /// Whether answers are kept and given again.
    pub enabled: Option<bool>,
    /// How long an answer is given again.
    pub ttl: Option<Duration>,
    /// Who shares answers.
    pub partition: Option<Partition>,
    /// Whether prompt-cache marks are set.
    pub prompt: Option<PromptMarks>,
}
