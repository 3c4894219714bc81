//! Upstream accounts: where they are, how they are paid, what they are sent.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::guard::{BreakerOrOff, Concurrency, PlaceQueue, PoolKey, Probe, Tags};
use super::print::mask_provider;
use super::timeouts::TimeoutOverrides;
use super::value::{Secret, optional_secret};

/// One upstream account. A name from the built-in table needs nothing but a key; any other needs `base_url` and `dialect`.
#[derive(Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Provider {
    /// Row of the built-in table to start from; when not set, the row with this provider's own name.
    pub preset: Option<String>,
    /// Wire form that the upstream speaks: `openai_chat`, `openai_responses`, `anthropic` or `gemini`, or one that an adapter teaches: `lua:NAME` for a script in `hooks_dir`, `wasm:NAME` for a plugin; when not set, the preset's.
    pub dialect: Option<String>,
    /// Further wire forms that the upstream speaks under the same base URL; asks in one of them are relayed as they are, where it has the model in that form.
    pub dialects: Vec<String>,
    /// `https://host/v1`, `http://host:8000/v1` or `unix:///path/to.sock`, with `:/v1` after a socket for a path; when not set, the preset's. `{model}`, `{resource}`, `{account}`, `{project}`, `{region}` and `{api_version}` stand for what is said elsewhere.
    pub base_url: Option<String>,
    /// The account's key. When not written, the variable that the built-in row names. Written but empty: the provider is not live.
    #[serde(deserialize_with = "optional_secret")]
    pub api_key: Option<Secret>,
    /// File with the key, read at every load; a line end at its end is cut off.
    pub api_key_file: Option<PathBuf>,
    /// Several keys, of which each request uses one; instead of `api_key`.
    pub keys: Vec<PoolKey>,
    /// How the key is sent: `bearer`, `x-api-key`, `api-key`, `x-goog-api-key`, `query-key` (`?key=`), `none`, or `{header: NAME, prefix: TEXT}`; when not set, the preset's.
    pub auth: Option<AuthScheme>,
    /// Headers added to every request. Those whose names tell of a credential are masked in print.
    pub headers: BTreeMap<String, String>,
    /// Top-level parameters that every request gets, also over the client's.
    pub set: Map<String, Value>,
    /// Top-level parameters for requests that lack them.
    pub default: Map<String, Value>,
    /// Parameters taken out of every request: top-level names or dotted paths (`metadata.user_id`).
    pub drop: Vec<String>,
    /// The upstream's model name for each name that clients use.
    pub models: BTreeMap<String, String>,
    /// Timeouts that differ from the general ones.
    pub timeouts: TimeoutOverrides,
    /// `http://host:port` or `http://user:password@host:port` of a proxy for this provider, or `off` for none; when not set, HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment.
    pub proxy: Option<String>,
    /// HTTP/2 (`true`) or HTTP/1.1 (`false`) to the upstream; when not set, what TLS negotiates.
    pub http2: Option<bool>,
    /// Version of the upstream's API where it wants one: Azure's `api-version`, `anthropic-version`.
    pub api_version: Option<String>,
    /// Google Cloud project (Vertex).
    pub project: Option<String>,
    /// Cloud region: Vertex's location, such as `europe-west4` or `global`.
    pub region: Option<String>,
    /// Name of the Azure resource, the first label of its host name; host of a Databricks workspace.
    pub resource: Option<String>,
    /// Account at Cloudflare.
    pub account: Option<String>,
    /// Requests under way at a time, all models of the provider together; when not set, any number.
    pub max_inflight: Option<u32>,
    /// A bound on the requests under way at each model, learnt from its latency; when not set, none.
    pub concurrency: Option<Concurrency>,
    /// Requests that wait for a place when all are taken; when not set, none does.
    pub queue: Option<PlaceQueue>,
    /// When a model of the provider, or one of its keys, is given a rest; or `off`. When not set, as below, and requests that have no other target are let through all the same.
    pub breaker: Option<BreakerOrOff>,
    /// Asks the provider now and then whether it is there; when not set, never.
    pub probe: Option<Probe>,
    /// What constraints know of the provider.
    pub tags: Tags,
    /// Where the upstream departs from its dialect; what is not set is as in the preset.
    pub quirks: QuirkOverrides,
}

impl fmt::Debug for Provider {
    /// Masked as in print: headers and the proxy may hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        mask_provider(&mut value);
        write!(f, "Provider{value}")
    }
}

/// How a key is sent upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthScheme {
    /// `authorization: Bearer KEY`.
    Bearer,
    /// `x-api-key: KEY`.
    XApiKey,
    /// `api-key: KEY`.
    ApiKey,
    /// `x-goog-api-key: KEY`.
    XGoogApiKey,
    /// `?key=KEY` after the path.
    QueryKey,
    /// No key is sent.
    None,
    /// A header of another name, with text before the key.
    #[serde(untagged)]
    Header(AuthHeader),
}

/// A header that carries the key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthHeader {
    /// Name of the header.
    pub header: String,
    /// Text before the key, such as `Token ` with its space.
    #[serde(default)]
    pub prefix: String,
}

/// The words of [`AuthScheme`], for reading and for the schema.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum SchemeWord {
    Bearer,
    XApiKey,
    ApiKey,
    XGoogApiKey,
    QueryKey,
    None,
}

impl<'de> Deserialize<'de> for AuthScheme {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrHeader;

        impl<'de> Visitor<'de> for WordOrHeader {
            type Value = AuthScheme;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word such as bearer, or {header: NAME, prefix: TEXT}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(match SchemeWord::deserialize(StrDeserializer::<E>::new(text))? {
                    SchemeWord::Bearer => AuthScheme::Bearer,
                    SchemeWord::XApiKey => AuthScheme::XApiKey,
                    SchemeWord::ApiKey => AuthScheme::ApiKey,
                    SchemeWord::XGoogApiKey => AuthScheme::XGoogApiKey,
                    SchemeWord::QueryKey => AuthScheme::QueryKey,
                    SchemeWord::None => AuthScheme::None,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                AuthHeader::deserialize(MapAccessDeserializer::new(map)).map(AuthScheme::Header)
            }
        }

        deserializer.deserialize_any(WordOrHeader)
    }
}

impl JsonSchema for AuthScheme {
    fn schema_name() -> Cow<'static, str> {
        "AuthScheme".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let word = SchemeWord::json_schema(generator);
        let header = generator.subschema_for::<AuthHeader>();
        json_schema!({ "anyOf": [word, header] })
    }
}

/// Departures of one upstream from its dialect.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QuirkOverrides {
    /// The output bound is spelt `max_completion_tokens`, not `max_tokens`.
    pub max_completion_tokens: Option<bool>,
    /// `verbosity` is accepted.
    pub verbosity: Option<bool>,
    /// `prompt_cache_key` is accepted.
    pub prompt_cache_key: Option<bool>,
    /// `service_tier` is accepted, in OpenAI's words.
    pub service_tier: Option<bool>,
    /// `store` is accepted, and `metadata` with it.
    pub store: Option<bool>,
    /// Spoken answers are given (`modalities`, `audio`).
    pub speech: Option<bool>,
    /// Tools of free text (`type: custom`) and `allowed_tools` are known; without it such a tool becomes a function.
    pub custom_tools: Option<bool>,
    /// Ids of tool calls must be nine letters and digits; others are respelt.
    pub short_call_ids: Option<bool>,
    /// Between results of tools and what the user says stands a turn of the assistant; where there is none, one is put there.
    pub assistant_after_tools: Option<bool>,
    /// `stream_options.include_usage` is accepted.
    pub stream_usage: Option<bool>,
    /// The role `developer` is known.
    pub developer_role: Option<bool>,
    /// How reasoning is asked for.
    pub reasoning: Option<Reasoning>,
    /// `response_format: json_schema` is accepted; without it `json_object` is sent.
    pub json_schema: Option<bool>,
    /// `cache_control` marks are accepted inside OpenAI-like content.
    pub cache_control: Option<bool>,
    /// Content of system and tool messages must be one string.
    pub flat_content: Option<bool>,
    /// How a last turn of the assistant is marked for the model to go on from: `none`, `plain`, `prefix`, `partial` or `continue`.
    pub prefill: Option<Prefill>,
    /// Turns of the assistant may carry `reasoning_content`, `reasoning`, `reasoning_details` and `extra_content`; where they may not, they go without.
    pub thoughts: Option<bool>,
}

/// How an upstream of the `openai_chat` dialect lets a model go on from a last turn of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prefill {
    /// It does not.
    None,
    /// Without a mark.
    Plain,
    /// `prefix: true` in the turn.
    Prefix,
    /// `partial: true` in the turn.
    Partial,
    /// `continue_final_message: true` beside the turns.
    Continue,
}

/// How an upstream of the `openai_chat` dialect is asked for reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reasoning {
    /// `reasoning_effort: low | medium | high`
    Effort,
    /// `reasoning: {effort, max_tokens, exclude}`
    Object,
    /// `thinking: {type: enabled | disabled}`
    Thinking,
    /// `chat_template_kwargs: {enable_thinking}`
    Template,
    /// `enable_thinking` and `thinking_budget`
    Enable,
    /// It cannot be asked for.
    None,
}
