//! Wire forms: one file a dialect, both directions, never pairs.
//!
//! A dialect decodes to and encodes from the neutral forms of `chat` and `embed`. Pure: bytes and values in, bytes and
//! values out; no clock, no network, no runtime. Equal dialects on both sides do not come here for bodies: `stream` and
//! `attempt` relay the bytes and only ask a [`Sniffer`] what went by.

pub mod adapter;
pub mod anthropic;
pub mod foreign;
pub mod gemini;
pub mod names;
pub mod openai_chat;
pub(crate) mod openai_error;
pub(crate) mod openai_marks;
pub(crate) mod openai_models;
pub mod openai_responses;
pub(crate) mod openai_strict;
pub mod refusal;
pub mod relayed;
pub mod told;

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::chat::event::Collector;
use crate::chat::{Answer, Ask, Content, Effort, Event, Finish, Usage};
use crate::embed::{EmbedAnswer, EmbedAsk};
use crate::fault::{Fault, Kind, Refusal};
use crate::json::Envelope;
use crate::rerank::{RerankAnswer, RerankAsk};
use crate::sse::{Frame, Scanner};
use told::Told;

/// Every wire form. The order is that of the documentation.
pub const DIALECTS: &[&dyn Dialect] =
    &[&openai_chat::OpenAiChat, &openai_responses::OpenAiResponses, &anthropic::Anthropic, &gemini::Gemini];

/// The dialect with this name.
pub fn find(name: &str) -> Option<&'static dyn Dialect> {
    DIALECTS.iter().copied().find(|dialect| dialect.name() == name)
}

/// FNV-1a over some texts, for ids that are made up: stable over versions of the gateway, unlike the standard library's
/// hasher.
pub(crate) fn stable_hash(texts: &[&str]) -> u64 {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What tells an answer from all others, for ids that are made up where the upstream gave none to go by.
pub(crate) fn fresh_seed() -> String {
    // Each of them hashes differently.
    format!("{:016x}", RandomState::new().hash_one("answer"))
}

/// What a request wants done. Together with the dialect it names a wire form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// A conversation turn: chat, messages, responses, generateContent.
    Generate,
    /// OpenAI's legacy text completion.
    Complete,
    Embed,
    /// Gemini's `batchEmbedContents`; elsewhere the same as `Embed`.
    EmbedBatch,
    CountTokens,
    /// Documents in the order of their fitness: Cohere's `rerank`, which others serve beside OpenAI's paths.
    Rerank,
}

impl Op {
    /// `gen_ai.operation.name` of the OpenTelemetry conventions; also the label in metrics and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Op::Generate => "chat",
            Op::Complete => "text_completion",
            Op::Embed | Op::EmbedBatch => "embeddings",
            Op::CountTokens => "count_tokens",
            Op::Rerank => "rerank",
        }
    }
}

/// A request body as it came, with what its dialect keeps outside the body.
#[derive(Debug, Clone, Copy)]
pub struct RawAsk<'a> {
    pub op: Op,
    pub body: &'a [u8],
    /// The model where the path names it (Gemini).
    pub model: Option<&'a str>,
    /// Streaming where the path says so (Gemini).
    pub stream: bool,
}

/// Deviations of one provider from its dialect. Rows of `provider` set them; encoders obey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirks {
    /// OpenAI chat: spells the output bound `max_completion_tokens`; the rest of the field knows only `max_tokens`.
    pub max_completion_tokens: bool,
    /// OpenAI chat: takes `verbosity`.
    pub verbosity: bool,
    /// OpenAI chat: takes `prompt_cache_key`.
    pub prompt_cache_key: bool,
    /// OpenAI chat: takes `service_tier` in OpenAI's words.
    pub service_tier: bool,
    /// OpenAI chat: keeps answers (`store`), with labels (`metadata`).
    pub store: bool,
    /// OpenAI chat: gives spoken answers (`modalities`, `audio`).
    pub speech: bool,
    /// OpenAI chat: knows tools of free text (`type: custom`) and the choice of some tools (`allowed_tools`).
    pub custom_tools: bool,
    /// OpenAI chat: takes ids of tool calls of nine letters and digits only; others are respelt, in relayed bodies too.
    pub short_call_ids: bool,
    /// OpenAI chat: wants a turn of the assistant between results of tools and what the user says; in relayed bodies too.
    pub assistant_after_tools: bool,
    /// OpenAI chat: accepts `stream_options.include_usage`.
    pub stream_usage: bool,
    /// OpenAI chat: knows the role `developer`.
    pub developer_role: bool,
    /// How reasoning is asked for.
    pub reasoning: ReasoningStyle,
    /// OpenAI forms: words of effort of models that the provider serves otherwise than their makers: what a name holds, in
    /// small letters, and the words from least to most. The first that fits counts.
    pub efforts: &'static [(&'static str, &'static [Effort])],
    /// OpenAI chat: takes `response_format: json_schema`; others get `json_object`.
    pub json_schema: bool,
    /// Accepts `cache_control` marks inside OpenAI chat content (OpenRouter, DashScope).
    pub cache_control: bool,
    /// Content of system and tool messages must be one string, not parts.
    pub flat_content: bool,
    /// OpenAI chat: how a last turn of the assistant is marked for the model to go on from.
    pub prefill: Prefill,
    /// Top-level parameters that the provider refuses; dropped when translating.
    pub refuses: &'static [&'static str],
    /// OpenAI chat: those of [`THOUGHTS`](crate::json::THOUGHTS) that the provider refuses in the assistant's turns. A history that holds
    /// one is translated also from its own dialect, and goes without reasoning.
    pub refuses_thoughts: &'static [&'static str],
}

impl Quirks {
    /// A plain, compatible server that follows its dialect.
    pub const NONE: Quirks = Quirks {
        max_completion_tokens: false,
        verbosity: false,
        prompt_cache_key: false,
        service_tier: false,
        store: false,
        speech: false,
        custom_tools: false,
        short_call_ids: false,
        assistant_after_tools: false,
        stream_usage: true,
        developer_role: false,
        reasoning: ReasoningStyle::Effort,
        efforts: &[],
        json_schema: true,
        cache_control: false,
        flat_content: false,
        prefill: Prefill::None,
        refuses: &[],
        refuses_thoughts: &[],
    };
}

/// How an OpenAI-chat-like provider lets a model go on from a last turn of its own (prefill).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefill {
    /// It does not, or nobody knows: the model would begin a new turn.
    None,
    /// Without a mark (OpenRouter, llama.cpp).
    Plain,
    /// `prefix: true` in the turn (Mistral; DeepSeek at its address for beta features).
    Prefix,
    /// `partial: true` in the turn (Moonshot, DashScope).
    Partial,
    /// `continue_final_message: true` beside the turns (vLLM, SGLang).
    Continue,
}

/// How an OpenAI-chat-like provider wants to be asked for reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasoningStyle {
    /// `reasoning_effort: low | medium | high`.
    Effort,
    /// `reasoning: {effort, max_tokens, exclude}` (OpenRouter, Vercel).
    Object,
    /// `thinking: {type: enabled | disabled}` (Zhipu, Moonshot, DeepSeek).
    Thinking,
    /// `chat_template_kwargs: {enable_thinking}` (vLLM, SGLang).
    Template,
    /// `enable_thinking` and `thinking_budget` (DashScope, SiliconFlow).
    Enable,
    /// It cannot be asked for.
    None,
}

/// What an encoder is told about the target, and where it notes what it had to leave out.
#[derive(Debug)]
pub struct Encoding<'a> {
    /// The upstream's name of the model.
    pub model: &'a str,
    pub quirks: &'a Quirks,
    /// Fields that the target cannot express, for the decision trace: (field, why).
    pub dropped: Vec<(&'static str, &'static str)>,
    /// Headers that the body calls for (beta features).
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl<'a> Encoding<'a> {
    pub fn new(model: &'a str, quirks: &'a Quirks) -> Self {
        Encoding { model, quirks, dropped: Vec::new(), headers: Vec::new() }
    }

    /// Notes that `field` was left out, unless it was absent.
    pub fn drop_if(&mut self, present: bool, field: &'static str, why: &'static str) {
        if present {
            self.dropped.push((field, why));
        }
    }
}

/// What encoders of answers need to know of the exchange.
#[derive(Debug, Clone)]
pub struct Asked {
    pub op: Op,
    pub ask: Arc<Ask>,
    /// The model as the caller named it, whatever a policy has made of it.
    pub model: String,
    /// The gateway's id of the exchange, for dialects whose answers must have one when the upstream gave none.
    pub id: String,
    /// Unix seconds, for `created` when the upstream gave none.
    pub now: u64,
}

/// Turns an upstream's frames into neutral events.
pub trait Decoder: Send {
    /// Reads one frame. A fault means the frame is not in the dialect; an error that the upstream *reports* is an
    /// [`Event::Fault`].
    fn frame(&mut self, frame: &Frame<'_>, out: &mut Vec<Event>) -> Result<(), Fault>;

    /// As [`Decoder::frame`]; says also how much of the frame its events tell.
    fn told(&mut self, frame: &Frame<'_>, out: &mut Vec<Event>) -> Result<Told, Fault> {
        self.frame(frame, out).map(|()| Told::Partly)
    }

    /// Whether the dialect's own end mark has gone by. Nothing after it counts, however long the upstream stays.
    fn is_over(&self) -> bool {
        false
    }

    /// Whether the stream may be over: it is if nothing follows soon.
    fn may_be_over(&self) -> bool {
        self.is_over()
    }

    /// The upstream closed the stream: closes what is open and says whether the stream was complete.
    fn finish(&mut self, out: &mut Vec<Event>) -> Result<(), Fault>;
}

/// Turns neutral events into a client's frames. Appends whole SSE frames only.
pub trait Encoder: Send {
    /// Writes nothing of a fault where the dialect's frame for it tells nothing of the stream before.
    fn event(&mut self, event: &Event, out: &mut Vec<u8>);

    /// The stream is complete: whatever the dialect ends with.
    fn finish(&mut self, out: &mut Vec<u8>);

    /// The client gets this event in the upstream's own frame, so that nothing is written but what comes before that
    /// frame: what the frames before owe the client.
    fn given(&mut self, event: &Event, _before: &mut Vec<u8>) {
        self.event(event, &mut Vec::new());
    }

    /// The client was told the role of a choice in the upstream's own frame.
    fn introduced(&mut self, _choice: u32) {}

    /// Another target (`provider/model`) goes on from here, because the one before broke off; told where the answer's end
    /// is, in the dialect's own place for such things.
    fn continued(&mut self, by: &str);
}

/// Watches a stream that is relayed byte for byte.
pub trait Sniffer: Send {
    fn frame(&mut self, frame: &Frame<'_>) -> Sighting;

    /// Whether the stream may end here: its final marker or a finish reason has gone by.
    fn complete(&self) -> bool;
}

/// What a [`Sniffer`] saw in one frame.
#[derive(Debug, Clone, Default)]
pub struct Sighting {
    /// Content that a client can show: the stream is committed. Only looked for until it was seen once.
    pub content: bool,
    pub usage: Option<Usage>,
    pub finish: Option<Finish>,
    /// The upstream reports an error.
    pub fault: Option<Fault>,
    /// The frame is there only because we asked for usage; a client that did not ask must not see it.
    pub only_usage: bool,
    /// The model as the upstream names it; only from early frames.
    pub model: Option<String>,
    /// The answer's id; only from early frames.
    pub id: Option<String>,
    /// When the answer was begun, in Unix seconds; only with the id, in forms that say it again at the end.
    pub created: Option<u64>,
}

/// What a client was told of a stream that breaks off, as far as it goes by in the upstream's own bytes.
#[derive(Debug, Default)]
pub struct Begun<'a> {
    pub request_id: &'a str,
    pub id: Option<&'a str>,
    pub model: Option<&'a str>,
    /// In Unix seconds.
    pub created: Option<u64>,
    /// How many frames it was sent.
    pub frames: u64,
}

/// What a whole answer says of itself, read without decoding it.
#[derive(Debug, Default)]
pub struct Summary {
    pub id: Option<String>,
    pub model: Option<String>,
    pub usage: Option<Usage>,
    pub finish: Option<Finish>,
}

/// One wire form, both directions.
pub trait Dialect: Send + Sync {
    /// The name in configuration, metrics and logs.
    fn name(&self) -> &'static str;

    /// The header, besides `x-request-id`, in which this dialect's SDKs look for the request id.
    fn request_id_header(&self) -> Option<&'static str> {
        None
    }

    /// Headers that every request of this wire form must have; the operator's and the client's own come over them.
    fn headers(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Headers of a client that belong to the wire form and go along to an upstream of the same dialect.
    fn forwarded_headers(&self) -> &'static [HeaderName] {
        &[]
    }

    /// The headers in which upstreams say how far their caller is from its limits: each limit, and what is left of it.
    fn allowances(&self) -> &'static [[HeaderName; 2]] {
        &[]
    }

    /// What a block of an answer holds that clients of this form cannot be given: an `image`, a `file`, `audio`.
    fn cannot_show(&self, _content: &Content) -> Option<&'static str> {
        None
    }

    /// Whether upstreams keep answers that later requests name by id; such requests must reach the same target.
    fn answers_are_stored(&self) -> bool {
        false
    }

    /// The items of an answer, or of the last event of a stream, that later asks may name by id instead of repeating.
    fn items(&self, _body: &[u8]) -> Vec<(String, Value)> {
        Vec::new()
    }

    /// An ask with the items put back that it names by id; None when it names none that `find` knows.
    fn recall(&self, _envelope: &Envelope, _find: &dyn Fn(&str) -> Option<Value>) -> Option<Bytes> {
        None
    }

    /// Whether a client's body holds what a provider of this dialect with these quirks would refuse: opaque values that
    /// another one made and we sealed, or fields that only others know. It must not be relayed as it stands. A false alarm
    /// only costs a translation.
    fn holds_foreign(&self, envelope: &Envelope, _quirks: &Quirks) -> bool {
        envelope.holds_sealed()
    }

    /// Whether this model goes on from a last turn of its own instead of beginning a new one.
    fn prefills(&self, _model: &str, _quirks: &Quirks) -> bool {
        false
    }

    /// Whether the provider is known not to have this model in this wire form, so that no ask should go out in it that can
    /// go out in another.
    fn lacks(&self, _model: &str, _quirks: &Quirks) -> bool {
        false
    }

    /// Whether an ask of another dialect for this model is better sent in another wire form of the same provider.
    fn yields(&self, _model: &str, _quirks: &Quirks) -> bool {
        false
    }

    /// What may be written between two frames to keep a waiting connection open.
    fn keep_alive(&self) -> &'static [u8] {
        b": keep-alive\n\n"
    }

    /// The upstream path under the provider's base URL, query included. None when the dialect has no such operation.
    fn path(&self, op: Op, model: &str, stream: bool) -> Option<String>;

    /// Replaces in the envelope what a relayed body must not carry as the client sent it: the model, and what the
    /// gateway needs in streams. Dialects that name the model in the path leave the body alone.
    fn splice(&self, envelope: &mut Envelope, model: &str, quirks: &Quirks);

    /// Sets prompt-cache marks in a body that goes out, where this dialect's providers need them and there are none. True
    /// when there are any.
    fn mark_prompt(&self, _envelope: &mut Envelope, _model: &str) -> bool {
        false
    }

    /// Errors: the body does not fit the dialect; the message names the field.
    fn decode_ask(&self, raw: &RawAsk<'_>) -> Result<Ask, Fault>;

    /// Errors: [`Kind::UnsupportedFeature`] for what the target cannot do and must not ignore.
    fn encode_ask(&self, ask: &Ask, to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault>;

    /// What the dialect's providers take for the name of a tool; None where nothing is known of it.
    fn tool_names(&self) -> Option<&'static names::Rule> {
        None
    }

    /// An ask of this dialect for providers of others: what only its own know said in forms that every dialect has. None
    /// where that is the ask as it stands. See [`foreign::told`].
    ///
    /// Errors: [`Kind::UnsupportedFeature`] for what has a meaning and cannot be said so.
    fn plainly(&self, _ask: &Ask, _to: &mut Encoding<'_>) -> Result<Option<Ask>, Fault> {
        Ok(None)
    }

    /// Whether the client that sent this ask holds the model that an answer names against the one it asked for, so that it
    /// must be called so, in a relayed answer too.
    fn names_model_as_asked(&self, _ask: &Envelope) -> bool {
        false
    }

    /// A whole answer, or the data of an event that begins a stream, with the model called so and all else byte for byte.
    /// None where it is, or where no model is named.
    fn calling(&self, _data: &[u8], _model: &str) -> Option<Vec<u8>> {
        None
    }

    /// Whether clients make more of this failure as an event of a stream, which their own provider would have sent, than
    /// of its status.
    fn fails_in_streams(&self, _kind: Kind) -> bool {
        false
    }

    /// Errors: [`Kind::BadAnswer`] when the body is not in the dialect.
    fn decode_answer(&self, body: &[u8]) -> Result<Answer, Fault>;

    fn encode_answer(&self, answer: &Answer, asked: &Asked) -> Vec<u8>;

    fn decoder(&self) -> Box<dyn Decoder>;

    fn encoder(&self, asked: &Asked) -> Box<dyn Encoder>;

    /// Errors: [`Kind::BadAnswer`] when the body is not one JSON object.
    fn summary(&self, op: Op, body: &[u8]) -> Result<Summary, Fault>;

    fn sniffer(&self, op: Op) -> Box<dyn Sniffer>;

    /// Reads the body of an error answer. Never fails: what is not in the dialect becomes a message as it stands.
    fn decode_error(&self, status: u16, body: &Bytes) -> Refusal;

    /// The error body for a client, HTTP status apart.
    fn encode_error(&self, fault: &Fault, request_id: &str) -> Vec<u8>;

    /// The error as the last frames of a stream that has already begun. An [`Encoder`] that writes faults itself knows more
    /// of the stream.
    fn encode_stream_error(&self, fault: &Fault, begun: &Begun<'_>, out: &mut Vec<u8>);

    /// Token counting: the ask in this dialect's own counting form. None when the dialect cannot count.
    fn encode_count(&self, _ask: &Ask, _to: &mut Encoding<'_>) -> Option<Result<Vec<u8>, Fault>> {
        None
    }

    /// Reads the number of input tokens out of a counting answer.
    fn decode_count(&self, _body: &[u8]) -> Result<u64, Fault> {
        Err(Fault::new(Kind::BadAnswer, format!("{} has no token counting.", self.name())))
    }

    fn encode_count_answer(&self, _tokens: u64) -> Vec<u8> {
        Vec::new()
    }

    fn decode_embed(&self, _raw: &RawAsk<'_>) -> Result<EmbedAsk, Fault> {
        Err(no_embeddings(self.name()))
    }

    fn encode_embed(&self, _ask: &EmbedAsk, _to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
        Err(no_embeddings(self.name()))
    }

    fn decode_embed_answer(&self, _body: &[u8]) -> Result<EmbedAnswer, Fault> {
        Err(no_embeddings(self.name()))
    }

    fn encode_embed_answer(&self, _answer: &EmbedAnswer, _ask: &EmbedAsk, _op: Op) -> Vec<u8> {
        Vec::new()
    }

    fn decode_rerank(&self, _raw: &RawAsk<'_>) -> Result<RerankAsk, Fault> {
        Err(Fault::new(Kind::UnsupportedFeature, format!("{} has no ranking.", self.name())))
    }

    fn encode_rerank_answer(&self, _answer: &RerankAnswer, _ask: &RerankAsk, _id: &str) -> Vec<u8> {
        Vec::new()
    }
}

/// What the end of an answer says of the targets that went on with it, in forms that let one add a field.
fn continued_by(targets: &[String]) -> Value {
    serde_json::json!({ "continued_by": targets })
}

/// The headers of the OpenAI forms for [`Dialect::allowances`]; most of the field sends the same.
static OPENAI_ALLOWANCES: [[HeaderName; 2]; 2] = [
    [HeaderName::from_static("x-ratelimit-limit-requests"), HeaderName::from_static("x-ratelimit-remaining-requests")],
    [HeaderName::from_static("x-ratelimit-limit-tokens"), HeaderName::from_static("x-ratelimit-remaining-tokens")],
];

/// The headers of the OpenAI forms for [`Dialect::forwarded_headers`].
static OPENAI_FORWARDED: [HeaderName; 2] =
    [HeaderName::from_static("openai-beta"), HeaderName::from_static("idempotency-key")];

/// Fields that both OpenAI forms have beyond the neutral one.
const OPENAI_SHARED: &[&str] = &["prompt_cache_options", "prompt_cache_retention", "safety_identifier"];

/// Those of an ask of the other OpenAI form that a target of OpenAI's takes.
fn openai_shared<'a>(ask: &'a Ask, to: &Encoding<'_>) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let shared = ask.source.starts_with("openai_") && to.quirks.prompt_cache_key;
    ask.extra.iter().filter(move |(key, _)| shared && OPENAI_SHARED.contains(&key.as_str()))
}

/// Whether the end user of an ask of an OpenAI form is the `safety_identifier` among its own fields, the successor of
/// `user`: with it, the older name need not be said.
fn openai_renames_user(ask: &Ask) -> bool {
    let renamed = ask.extra.get("safety_identifier").and_then(Value::as_str);
    renamed.is_some() && renamed == ask.user.as_deref()
}

/// What the OpenAI forms take for the name of a function: https://platform.openai.com/docs/api-reference/chat/create.
static OPENAI_TOOL_NAMES: names::Rule =
    names::Rule { longest: 64, further: "", begins_with_letter: false, empty: "tool" };

/// Longest id of a call that the OpenAI forms take, in bytes.
const MAX_CALL_ID: usize = 64;

/// The id of a call as the OpenAI forms take it. A longer one is respelt from itself alone, so that a call and its result,
/// and the next turn, agree.
fn openai_call_id(id: &str) -> Cow<'_, str> {
    match id.len() {
        ..=MAX_CALL_ID => Cow::Borrowed(id),
        _ => Cow::Owned(format!("call_{:016x}", stable_hash(&[id]))),
    }
}

/// The share of its own limits that an upstream says is left, 0 to 1, the scarcest of them; None when it says nothing.
pub fn allowance(dialect: &dyn Dialect, headers: &HeaderMap) -> Option<f64> {
    // Answers have few headers, and these names are long: looking through all takes less than the hash of one.
    let value = |name: &HeaderName| headers.iter().find_map(|(key, value)| (key == name).then_some(value));
    let number = |name: &HeaderName| value(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let shares = dialect.allowances().iter().filter_map(|[limit, left]| {
        let left = number(left)?;
        number(limit).filter(|limit| *limit > 0.0).map(|limit| (left / limit).clamp(0.0, 1.0))
    });
    shares.min_by(f64::total_cmp)
}

/// A stream that is there as a whole, put together to the answer it is.
///
/// # Errors
/// It is not in the dialect, broke off, or reports an error.
pub fn collect(dialect: &dyn Dialect, stream: Bytes) -> Result<Answer, Fault> {
    let (mut decoder, mut collector) = (dialect.decoder(), Collector::default());
    let (mut scanner, mut events) = (Scanner::new(), Vec::new());
    scanner.push(stream);
    while scanner.scan()? {
        decoder.frame(&Frame(scanner.last()), &mut events)?;
    }
    scanner.take();
    if let Some(rest) = scanner.rest() {
        decoder.frame(&Frame(&rest), &mut events)?;
    }
    decoder.finish(&mut events)?;
    events.into_iter().try_for_each(|event| collector.event(event))?;
    Ok(collector.finish())
}

fn no_embeddings(dialect: &str) -> Fault {
    Fault::new(Kind::UnsupportedFeature, format!("The dialect {dialect} has no embeddings."))
}

impl std::fmt::Debug for dyn Dialect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl PartialEq for dyn Dialect {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcest_of_an_upstreams_limits_is_what_is_left() {
        let left = |dialect: &str, pairs: &[(&'static str, &'static str)]| {
            let pairs =
                pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            allowance(find(dialect).expect("a dialect"), &pairs.collect())
        };
        let requests = ("x-ratelimit-limit-requests", "1000");
        let half = ("x-ratelimit-remaining-requests", "500");
        let tokens = [("x-ratelimit-limit-tokens", "2000"), ("x-ratelimit-remaining-tokens", "200")];
        for openai in ["openai_chat", "openai_responses"] {
            assert_eq!(left(openai, &[requests, half]), Some(0.5));
            assert_eq!(left(openai, &[requests, half, tokens[0], tokens[1]]), Some(0.1));
            assert_eq!(left(openai, &[half]), None, "a share of an unknown limit");
            assert_eq!(left(openai, &[("x-ratelimit-limit-requests", "0"), half]), None);
            assert_eq!(left(openai, &[requests, ("x-ratelimit-remaining-requests", "many")]), None);
        }
        let claude = [
            ("anthropic-ratelimit-output-tokens-limit", "100"),
            ("anthropic-ratelimit-output-tokens-remaining", "25"),
            ("anthropic-ratelimit-requests-limit", "100"),
            ("anthropic-ratelimit-requests-remaining", "90"),
        ];
        assert_eq!(left("anthropic", &claude), Some(0.25));
        assert_eq!(left("gemini", &claude), None);
    }

    #[test]
    fn names_are_unique_and_found() {
        for dialect in DIALECTS {
            assert_eq!(find(dialect.name()).map(Dialect::name), Some(dialect.name()));
            assert_eq!(DIALECTS.iter().filter(|other| other.name() == dialect.name()).count(), 1);
        }
    }
}
