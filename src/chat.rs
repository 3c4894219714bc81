//! The neutral form of a conversation: what every dialect decodes to and encodes from.
//!
//! Block-based and ordered, so that reasoning, tool and cache-marked blocks survive a round trip between any two
//! dialects. Absent fields stay absent; fields that only the source dialect knows ride in `extra` and are encoded again
//! only for that dialect. Holds values, never does IO.

pub mod event;
pub mod reasoning;
pub mod usage;

use serde_json::{Map, Number, Value};

pub use event::{Delta, Event, Opened, Start};
pub use reasoning::{Effort, ReasoningAsk};
pub use usage::Usage;

/// Unknown fields of the source dialect, in their order.
pub type Extra = Map<String, Value>;

/// One request for a generation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ask {
    pub model: String,
    /// System and developer instructions that stand before the conversation.
    pub system: Vec<Block>,
    /// Turns in order. Adjacent turns of one role are allowed; encoders merge them where the target must have them merged.
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    pub tool_choice: Option<ToolChoice>,
    /// Whether several tools may be called in one turn.
    pub parallel_tools: Option<bool>,
    /// Upper bound of generated tokens, reasoning included.
    pub max_tokens: Option<u64>,
    pub temperature: Option<Number>,
    pub top_p: Option<Number>,
    pub top_k: Option<Number>,
    pub min_p: Option<Number>,
    pub frequency_penalty: Option<Number>,
    pub presence_penalty: Option<Number>,
    pub stop: Vec<String>,
    pub seed: Option<Number>,
    /// Number of choices.
    pub n: Option<u64>,
    pub logprobs: Option<bool>,
    pub top_logprobs: Option<u64>,
    /// Token id → bias, as OpenAI spells it.
    pub logit_bias: Option<Value>,
    pub output: Option<OutputFormat>,
    /// `low | medium | high`: how long an answer should be (`verbosity`).
    pub verbosity: Option<String>,
    pub reasoning: Option<ReasoningAsk>,
    /// Output kinds besides text: `text`, `audio`, `image`.
    pub modalities: Vec<String>,
    /// Voice and format of spoken answers, in OpenAI's shape.
    pub audio: Option<Value>,
    pub stream: bool,
    /// Whether the client asked for a usage event in an OpenAI chat stream.
    pub include_usage: bool,
    /// End-user id, for abuse tracking at the provider.
    pub user: Option<String>,
    pub metadata: Option<Map<String, Value>>,
    /// `auto | default | flex | priority …`, in OpenAI's words.
    pub service_tier: Option<String>,
    /// Whether the provider may store the exchange.
    pub store: Option<bool>,
    /// Key under which the provider keeps its prompt cache (`prompt_cache_key`).
    pub cache_key: Option<String>,
    /// An earlier response to go on from; only its own target knows it.
    pub previous_response: Option<String>,
    /// The field by which the ask leans on something else that only the source dialect's providers keep: a stored
    /// conversation or prompt, an item or a cache. Without that the ask is not whole.
    pub leans_on: Option<&'static str>,
    /// Name of the dialect this came from: `extra` and unsealed signatures belong to it.
    pub source: &'static str,
    pub extra: Extra,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// An instruction in the middle of a conversation; those before it are in [`Ask::system`].
    System,
    User,
    Assistant,
}

impl Ask {
    /// The field that names what another provider does not have, where there is one.
    pub fn kept_elsewhere(&self) -> Option<&'static str> {
        self.previous_response.as_ref().map(|_| "previous_response_id").or(self.leans_on)
    }

    /// Whether the answer is to be in this kind too.
    pub fn wants(&self, kind: &str) -> bool {
        self.modalities.iter().any(|wanted| wanted == kind)
    }
}

/// One turn. Tool results are blocks of user turns, as Anthropic has them; encoders that need them apart split them out.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub role: Role,
    pub blocks: Vec<Block>,
    /// Name of the participant (`name` of OpenAI chat).
    pub name: Option<String>,
    pub extra: Extra,
}

impl Message {
    pub fn new(role: Role, blocks: Vec<Block>) -> Self {
        Message { role, blocks, name: None, extra: Extra::new() }
    }
}

/// One piece of content.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    pub content: Content,
    /// A prompt-cache breakpoint after this block.
    pub cache: Option<CacheMark>,
    pub extra: Extra,
}

impl Block {
    pub fn new(content: Content) -> Self {
        Block { content, cache: None, extra: Extra::new() }
    }

    pub fn text(text: impl Into<String>) -> Self {
        Block::new(Content::Text { text: text.into(), citations: Vec::new() })
    }
}

/// A prompt-cache breakpoint, `ttl` as Anthropic spells it (`5m`, `1h`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CacheMark {
    pub ttl: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    Text {
        text: String,
        /// Citations and annotations in the source dialect's own shape.
        citations: Vec<Value>,
    },
    Image {
        source: Media,
        /// `low | high | auto`, OpenAI's resolution hint.
        detail: Option<String>,
    },
    /// Inline sound. `format` is OpenAI's word: `wav`, `mp3`, …
    Audio {
        data: String,
        format: String,
        /// Spoken words, in answers.
        transcript: Option<String>,
        /// Id under which the provider keeps spoken answers.
        id: Option<String>,
    },
    File {
        source: Media,
        name: Option<String>,
    },
    ToolCall(ToolCall),
    ToolResult(ToolResult),
    Reasoning(Reasoning),
    Refusal(String),
    /// A block that only the source dialect knows (server tools, searches, …), as it came.
    Other(Value),
}

/// Where bytes of an image or file come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Media {
    /// `mime` only when the dialect states it beside the URL.
    Url { url: String, mime: Option<String> },
    /// Base64 without the `data:` prefix.
    Inline { mime: String, data: String },
    /// A file that the provider holds.
    Id(String),
    /// Plain text given as a document.
    Text(String),
}

/// Set in a citation whose places are counted over all texts of the answer, not over that of its block.
pub const OVER_ANSWER: &str = "over_answer";

/// Key in the `extra` of a file: the whole that its text was taken from, as the source dialect wrote it.
pub const KEPT_SOURCE: &str = "kept_source";

/// Key in the `extra` of the first block of a message of the Responses form: the message's own fields (id, phase, …).
pub const MESSAGE: &str = "message";

/// Whether inline bytes of this type and name are words: text and what is written as such.
pub fn is_textual(mime: &str, name: Option<&str>) -> bool {
    let mime = mime.trim().to_ascii_lowercase();
    let unnamed = mime.is_empty() || mime == "application/octet-stream";
    mime.starts_with("text/")
        || matches!(mime.split(';').next(), Some("application/json" | "application/xml"))
        || (unnamed && name.is_some_and(|name| name.to_ascii_lowercase().ends_with(".txt")))
}

/// The type of inline bytes as providers take it: `image/jpg` is no type, but what many callers write.
pub fn known_mime(mime: &str) -> &str {
    if mime.eq_ignore_ascii_case("image/jpg") { "image/jpeg" } else { mime }
}

impl Media {
    /// Reads a URL or a `data:` URL.
    pub fn from_url(url: &str) -> Media {
        match url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
            Some((mime, data)) => Media::Inline { mime: mime.to_owned(), data: data.to_owned() },
            None => Media::Url { url: url.to_owned(), mime: None },
        }
    }

    /// A file name with an ending that says what these bytes are: providers go by it. `name` as it is where it has one.
    pub fn file_name(&self, name: Option<&str>) -> String {
        let name = name.filter(|name| !name.is_empty()).unwrap_or("file");
        let ending = match self {
            Media::Inline { mime, .. } => ending_of(mime),
            _ => None,
        };
        let short = |ending: &str| (1..=5).contains(&ending.len()) && ending.bytes().all(|b| b.is_ascii_alphanumeric());
        let has_one = name.rsplit_once('.').is_some_and(|(stem, ending)| !stem.is_empty() && short(ending));
        match ending.filter(|_| !has_one) {
            Some(ending) => format!("{name}.{ending}"),
            None => name.to_owned(),
        }
    }

    /// As a URL, inline bytes as a `data:` URL. None for files a provider holds and plain text.
    pub fn to_url(&self) -> Option<String> {
        match self {
            Media::Url { url, .. } => Some(url.clone()),
            Media::Inline { mime, data } => Some(format!("data:{mime};base64,{data}")),
            Media::Id(_) | Media::Text(_) => None,
        }
    }
}

/// How names of files of a type end.
fn ending_of(mime: &str) -> Option<&str> {
    let kind = mime.split(';').next().unwrap_or(mime).trim();
    Some(match kind {
        "text/plain" => "txt",
        "text/markdown" => "md",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document" => "docx",
        "application/vnd.openxmlformats-officedocument.presentationml.presentation" => "pptx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet" => "xlsx",
        "application/msword" => "doc",
        "application/octet-stream" => return None,
        // `csv`, `html`, `json`, `pdf`, `png` and most others are called after their type.
        kind => {
            let (_, name) = kind.rsplit_once('/')?;
            Some(name).filter(|name| name.len() <= 5 && name.bytes().all(|byte| byte.is_ascii_alphanumeric()))?
        }
    })
}

/// A document in words, for those who take no documents: what it is called and what is said of it before its text.
pub fn document(name: Option<&str>, context: Option<&str>, text: &str) -> String {
    let name = name.filter(|name| !name.is_empty()).map(|name| format!("{name}:"));
    let context = context.filter(|context| !context.is_empty());
    let parts = [name.as_deref(), context, Some(text)];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// JSON text exactly as the model wrote it (free text for custom tools). Empty counts as `{}`.
    pub arguments: String,
    /// A custom (free-text) tool of the OpenAI forms.
    pub custom: bool,
    /// The item's own id in the Responses form, which differs from the call id.
    pub item_id: Option<String>,
    /// The namespace of the tool, in answers of the Responses form; the name is then the one within it.
    pub namespace: Option<String>,
    /// Gemini's `thoughtSignature` on a call, sealed (see [`reasoning::seal`]) when it comes from elsewhere.
    pub signature: Option<String>,
}

/// A custom tool for targets that know functions alone: its description, with the grammar that nobody else holds the model
/// to, and the schema of the one parameter that [`free_text`] reads.
pub fn as_function(description: Option<&str>, format: Option<&Value>) -> (Option<String>, Value) {
    let format = format.filter(|format| format.get("type").is_some_and(|kind| kind == "grammar"));
    let grammar = format.map(|format| format!("The input must follow this grammar: {format}"));
    let said: Vec<&str> = description.into_iter().chain(grammar.as_deref()).filter(|text| !text.is_empty()).collect();
    let parameters = serde_json::json!({
        "type": "object",
        "properties": { "input": { "type": "string", "description": "The whole input of the tool, as free text." } },
        "required": ["input"],
    });
    ((!said.is_empty()).then(|| said.join("\n")), parameters)
}

/// The free text of a custom tool's call whose target knew the tool as a function with one parameter:
/// `{"input": "…"}`. A model that did not keep to that gets its own words through.
pub fn free_text(arguments: &str) -> String {
    match serde_json::from_str::<Map<String, Value>>(arguments) {
        Ok(mut object) => match object.shift_remove("input") {
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
            None => arguments.to_owned(),
        },
        Err(_) => arguments.to_owned(),
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct ToolResult {
    /// Id of the call answered.
    pub id: String,
    /// Name of the tool, where the dialect repeats it (Gemini).
    pub name: Option<String>,
    pub content: Vec<Block>,
    pub is_error: Option<bool>,
    /// Answers a custom tool's call.
    pub custom: bool,
}

/// A stretch of reasoning. `signature` and `encrypted` are opaque: they must come back unchanged on the next turn.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reasoning {
    pub text: String,
    /// Summaries apart from the text (Responses).
    pub summary: Vec<String>,
    /// Anthropic's `signature`, Gemini's `thoughtSignature`.
    pub signature: Option<String>,
    /// Anthropic's `redacted_thinking.data`, Responses' `encrypted_content`.
    pub encrypted: Option<String>,
    /// The item's id in the Responses form.
    pub id: Option<String>,
    /// Dialect that `signature` and `encrypted` are valid for; empty means the source dialect of the whole.
    pub origin: String,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Tool {
    Function {
        name: String,
        description: Option<String>,
        /// JSON Schema of the arguments.
        parameters: Option<Value>,
        strict: Option<bool>,
        cache: Option<CacheMark>,
        extra: Extra,
    },
    /// A tool that takes free text, optionally under a grammar (`custom` of the OpenAI forms); `format` is OpenAI's.
    Custom { name: String, description: Option<String>, format: Option<Value> },
    /// A tool that the provider itself runs, in the source dialect's own shape.
    Hosted(Value),
}

impl Tool {
    /// What it is called by; None for tools that the provider itself runs.
    pub fn name(&self) -> Option<&str> {
        match self {
            Tool::Function { name, .. } | Tool::Custom { name, .. } => Some(name),
            Tool::Hosted(_) => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum ToolChoice {
    Auto,
    None,
    /// At least one tool must be called.
    Required,
    /// This one must be called.
    Named(String),
    /// Only these may be called; `required` says whether one must.
    Allowed {
        names: Vec<String>,
        required: bool,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum OutputFormat {
    /// Plain text, said explicitly.
    Text,
    JsonObject,
    JsonSchema {
        name: String,
        description: Option<String>,
        schema: Value,
        strict: Option<bool>,
    },
}

/// A whole generation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    pub id: String,
    pub model: String,
    /// Unix seconds.
    pub created: Option<u64>,
    pub choices: Vec<Choice>,
    pub usage: Option<Usage>,
    pub service_tier: Option<String>,
    pub system_fingerprint: Option<String>,
    /// Name of the dialect this came from.
    pub source: &'static str,
    pub extra: Extra,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Choice {
    pub index: u32,
    pub blocks: Vec<Block>,
    pub finish: Option<Finish>,
    /// The provider's own word for why it stopped.
    pub native_finish: Option<String>,
    /// The stop sequence that was hit, where the provider says which.
    pub stop_sequence: Option<String>,
    /// OpenAI's `logprobs` object.
    pub logprobs: Option<Value>,
}

/// Why a generation stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The model was done.
    Stop,
    /// One of the caller's stop sequences was hit.
    StopSequence,
    /// The token limit was reached.
    Length,
    ToolCalls,
    ContentFilter,
    /// The model declined.
    Refusal,
    /// The provider paused a long turn; send it back to go on (Anthropic `pause_turn`).
    Pause,
    /// The context window was full.
    ContextFull,
    /// Something else went wrong at the provider.
    Error,
}

impl Finish {
    pub const ALL: [Finish; 9] = [
        Finish::Stop,
        Finish::StopSequence,
        Finish::Length,
        Finish::ToolCalls,
        Finish::ContentFilter,
        Finish::Refusal,
        Finish::Pause,
        Finish::ContextFull,
        Finish::Error,
    ];

    /// The one that [`Finish::as_str`] names so.
    pub fn named(name: &str) -> Option<Finish> {
        Finish::ALL.into_iter().find(|finish| finish.as_str() == name)
    }

    /// The word in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::StopSequence => "stop_sequence",
            Finish::Length => "length",
            Finish::ToolCalls => "tool_calls",
            Finish::ContentFilter => "content_filter",
            Finish::Refusal => "refusal",
            Finish::Pause => "pause",
            Finish::ContextFull => "context_full",
            Finish::Error => "error",
        }
    }
}

impl Answer {
    /// Length of all that the model wrote, in bytes: texts, reasoning, refusals and arguments of every choice.
    pub fn written_bytes(&self) -> u64 {
        let blocks = self.choices.iter().flat_map(|choice| &choice.blocks);
        let written = blocks.map(|block| match &block.content {
            Content::Text { text, .. } | Content::Refusal(text) => text.len(),
            Content::Reasoning(reasoning) => {
                reasoning.text.len() + reasoning.summary.iter().map(String::len).sum::<usize>()
            }
            Content::ToolCall(call) => call.name.len() + call.arguments.len(),
            Content::Audio { transcript, .. } => transcript.as_deref().map_or(0, str::len),
            Content::Image { .. } | Content::File { .. } | Content::ToolResult(_) | Content::Other(_) => 0,
        });
        written.sum::<usize>() as u64
    }

    /// Whether there is nothing in it that a client can show.
    pub fn is_mute(&self) -> bool {
        let mut blocks = self.choices.iter().flat_map(|choice| &choice.blocks);
        blocks.all(|block| matches!(&block.content, Content::Text { text, .. } if text.is_empty()))
    }

    /// The first choice's plain text, for logs, tests and legacy completions.
    pub fn text(&self) -> String {
        let blocks = self.choices.first().map(|choice| choice.blocks.as_slice()).unwrap_or_default();
        blocks
            .iter()
            .filter_map(|block| match &block.content {
                Content::Text { text, .. } => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_say_what_they_are() {
        let named = |mime: &str, name: Option<&str>| {
            Media::Inline { mime: mime.to_owned(), data: String::new() }.file_name(name)
        };
        assert_eq!(named("application/pdf", Some("T")), "T.pdf");
        assert_eq!(named("application/pdf", Some("a.b.pdf")), "a.b.pdf");
        assert_eq!(named("text/plain; charset=utf-8", None), "file.txt");
        assert_eq!(named("text/csv", Some("Vol. 2 of all")), "Vol. 2 of all.csv");
        assert_eq!(named("application/octet-stream", None), "file");
    }
}
