//! Answers that are kept: for how long, for whom, and how much of them.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{ByteSize, Duration, DurationOrOff};

/// Answers kept for asks that come again. Off until a part of it is written.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Answers to asks that mean the same word for word, whatever dialect they come in. Off unless written.
    pub exact: Option<ExactCache>,
    /// Answers to asks that mean about the same. Off unless written; needs `exact`.
    pub semantic: Option<SemanticCache>,
    /// Marks for the providers' own prompt caches, where a provider needs them (Anthropic): `auto` sets them after long tools, system prompts and conversations of requests that have none of their own.
    pub prompt: PromptMarks,
}

/// The semantic cache. Exactly one of `model` and `path` says where vectors come from.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SemanticCache {
    /// Whether it serves every model and key that does not say otherwise.
    pub enabled: bool,
    /// An embedding model, as callers name it; it is asked as the caller, who pays for it.
    pub model: Option<String>,
    /// Folder of a static table (model2vec): model.safetensors, tokenizer.json, config.json. `portcullis cache eval` tells how good it is.
    pub path: Option<PathBuf>,
    /// Least likeness of two asks, 0 to 1 (cosine).
    pub threshold: f64,
    /// Messages at the end of the conversation that are compared; those before them must be the same word for word.
    pub messages: usize,
    /// Whether the system prompt must be the same.
    pub system: bool,
    /// Whether the model must be the same.
    pub same_model: bool,
    /// Whether numbers, names and negations must be the same.
    pub guard: bool,
    /// Longest wait for the embedding model; later there is no vector, and the ask is a miss.
    pub timeout: Duration,
}

impl Default for SemanticCache {
    fn default() -> Self {
        SemanticCache {
            enabled: true,
            model: None,
            path: None,
            threshold: 0.95,
            messages: 1,
            system: true,
            same_model: true,
            guard: true,
            timeout: Duration::from_millis(500),
        }
    }
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
    /// Top-level fields of a request that make no difference, in addition to `user`, `metadata`, `stream` and the like; as clients of any dialect write them.
    pub ignore: Vec<String>,
    /// Ends of an answer with which it is kept.
    pub finishes: Vec<CacheFinish>,
    /// Whether identical requests at the same time share one upstream call. A stream that several hear comes to them at most forty times a second.
    pub single_flight: bool,
    /// How answers are given again as streams.
    pub replay: Replay,
    /// Answers that all processes on one Redis (`redis.url`) give again. Off unless written.
    pub shared: Option<SharedCache>,
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
            replay: Replay::default(),
            shared: None,
            client_control: true,
        }
    }
}

/// How an answer that is kept is given as a stream.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Replay {
    /// Pause after each event, at most 1s; `off` gives all of it at once.
    pub pace: DurationOrOff,
    /// Whether a text comes in the pieces that the upstream sent it in (`kept`), or in one (`joined`).
    pub pieces: Pieces,
}

impl Default for Replay {
    fn default() -> Self {
        Replay { pace: DurationOrOff::OFF, pieces: Pieces::default() }
    }
}

/// The pieces of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pieces {
    #[default]
    Kept,
    Joined,
}

/// The tier behind memory, on Redis. Answers lie there in the clear. Read when the process starts; a reload only switches `enabled`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SharedCache {
    /// Whether it is used; so a file can name it and leave it off.
    pub enabled: bool,
    /// Room on Redis for all answers together. Those whose time ends first make room.
    pub max_bytes: ByteSize,
    /// Longest wait for an answer from there; one that is slower is a miss.
    pub timeout: Duration,
}

impl Default for SharedCache {
    fn default() -> Self {
        SharedCache { enabled: true, max_bytes: ByteSize::mib(1024), timeout: Duration::from_millis(20) }
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
    /// Whether answers to asks that mean about the same are given.
    pub semantic: Option<bool>,
}
