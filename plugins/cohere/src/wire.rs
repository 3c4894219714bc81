//! What Cohere sends and is sent, as it stands on the wire.
//!
//! Types instead of trees, because a stream is read event by event: what is not asked for is passed over unread. What may
//! be missing is optional; what stays in Cohere's own shape is kept as its text.

use std::borrow::Cow;

use portcullis_plugin::serde_json::value::RawValue;
use serde::{Deserialize, Serialize};

/// The word that tells events apart.
#[derive(Deserialize)]
pub struct Kind<'a> {
    #[serde(borrow, rename = "type", default)]
    pub kind: Cow<'a, str>,
}

/// The first event of a stream.
#[derive(Deserialize)]
pub struct Started {
    #[serde(default)]
    pub id: Option<String>,
}

/// An event whose message holds `M`.
#[derive(Deserialize)]
pub struct Delta<M> {
    #[serde(default)]
    pub index: Option<u64>,
    pub delta: Says<M>,
}

#[derive(Deserialize)]
pub struct Says<M> {
    pub message: M,
}

#[derive(Deserialize)]
pub struct Spoken {
    pub content: Content,
}

#[derive(Deserialize)]
pub struct Content {
    #[serde(default)]
    pub text: Option<String>,
    #[serde(default)]
    pub thinking: Option<String>,
}

#[derive(Deserialize)]
pub struct Planned {
    #[serde(default)]
    pub tool_plan: Option<String>,
}

#[derive(Deserialize)]
pub struct Called {
    pub tool_calls: Call,
}

#[derive(Deserialize)]
pub struct Cited<'a> {
    #[serde(borrow)]
    pub citations: &'a RawValue,
}

#[derive(Deserialize)]
pub struct Call {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub function: Function,
}

#[derive(Deserialize, Default)]
pub struct Function {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub arguments: Option<String>,
}

/// The last event of a stream.
#[derive(Deserialize)]
pub struct Ended<'a> {
    #[serde(borrow)]
    pub delta: End<'a>,
}

#[derive(Deserialize)]
pub struct End<'a> {
    #[serde(default)]
    pub error: Option<String>,
    #[serde(borrow, default)]
    pub finish_reason: Option<Cow<'a, str>>,
    #[serde(default)]
    pub usage: Option<Usage>,
}

/// A whole answer of the chat.
#[derive(Deserialize)]
pub struct Answer<'a> {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(borrow, default)]
    pub finish_reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub message: Option<Message<'a>>,
    #[serde(default)]
    pub usage: Option<Usage>,
}

#[derive(Deserialize)]
pub struct Message<'a> {
    #[serde(default)]
    pub tool_plan: Option<String>,
    #[serde(borrow, default)]
    pub content: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    pub citations: Option<&'a RawValue>,
    #[serde(default)]
    pub tool_calls: Option<Vec<Call>>,
}

/// A piece of the content. Of an unknown type its text is all there is.
#[derive(Deserialize)]
pub struct Piece<'a> {
    #[serde(borrow, rename = "type", default)]
    pub kind: Cow<'a, str>,
    #[serde(default)]
    pub text: Option<String>,
    #[serde(default)]
    pub thinking: Option<String>,
}

#[derive(Deserialize)]
pub struct Usage {
    #[serde(default)]
    pub billed_units: Option<Counts>,
    #[serde(default)]
    pub tokens: Option<Counts>,
    #[serde(default)]
    pub cached_tokens: Option<f64>,
}

/// Cohere counts in fractions.
#[derive(Deserialize)]
pub struct Counts {
    #[serde(default)]
    pub input_tokens: Option<f64>,
    #[serde(default)]
    pub output_tokens: Option<f64>,
}

#[derive(Deserialize)]
pub struct Embedded {
    #[serde(default)]
    pub embeddings: Option<Vectors>,
    #[serde(default)]
    pub meta: Option<Usage>,
}

#[derive(Deserialize)]
pub struct Vectors {
    #[serde(default)]
    pub float: Option<Vec<Vec<f32>>>,
}

#[derive(Deserialize)]
pub struct Ranking {
    #[serde(default)]
    pub results: Option<Vec<Place>>,
}

#[derive(Deserialize)]
pub struct Place {
    pub index: u64,
    pub relevance_score: f64,
}

/// A request for a chat.
#[derive(Serialize)]
pub struct Ask<'a> {
    pub model: &'a str,
    pub messages: Vec<Turn<'a>>,
    pub stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub stop_sequences: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict_tools: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<Format<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<Thinking>,
}

#[derive(Serialize, Default)]
pub struct Turn<'a> {
    pub role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Said<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_plan: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Calling<'a>>,
}

/// Plain text stays a string; with anything else it becomes a list.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Said<'a> {
    Plain(Cow<'a, str>),
    Parts(Vec<Part<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part<'a> {
    Text { text: &'a str },
    Thinking { thinking: &'a str },
    ImageUrl { image_url: Image<'a> },
}

#[derive(Serialize)]
pub struct Image<'a> {
    pub url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
}

#[derive(Serialize)]
pub struct Calling<'a> {
    pub id: &'a str,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub function: Named<'a>,
}

#[derive(Serialize)]
pub struct Named<'a> {
    pub name: &'a str,
    pub arguments: &'a str,
}

#[derive(Serialize)]
pub struct Tool<'a> {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub function: Described<'a>,
}

#[derive(Serialize)]
pub struct Described<'a> {
    pub name: &'a str,
    pub parameters: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<&'a str>,
}

#[derive(Serialize)]
pub struct Format<'a> {
    #[serde(rename = "type")]
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json_schema: Option<&'a RawValue>,
}

#[derive(Serialize)]
pub struct Thinking {
    #[serde(rename = "type")]
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_budget: Option<u64>,
}
