//! The OpenAI chat wire form: `/chat/completions`, the legacy `/completions`, `/embeddings`, and `/rerank` beside them.
//!
//! The lingua franca: most providers speak it, each a little differently. Reads what they all send, writes what OpenAI
//! itself would; deviations of a target are `Quirks`, never provider names. Paths are under a base URL that ends in /v1.

mod answer;
mod ask;
mod call_id;
mod calls;
mod citations;
mod complete;
mod decoder;
mod embed;
mod encode;
mod encoder;
mod fields;
mod finish;
mod history;
mod order;
mod plain;
mod reasoning;
mod rerank;
mod sniffer;
#[cfg(test)]
mod tests;
mod tools;
mod turns;
mod usage;

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memmem;
use serde_json::{Map, Value};

use super::*;
use crate::chat::{Block, Content};
use crate::json;

pub struct OpenAiChat;

/// The name of this dialect: the source of its asks, the origin of its signatures.
const NAME: &str = "openai_chat";

impl Dialect for OpenAiChat {
    fn name(&self) -> &'static str {
        NAME
    }

    fn allowances(&self) -> &'static [[HeaderName; 2]] {
        &super::OPENAI_ALLOWANCES
    }

    fn forwarded_headers(&self) -> &'static [HeaderName] {
        &super::OPENAI_FORWARDED
    }

    fn prefills(&self, _model: &str, quirks: &Quirks) -> bool {
        quirks.prefill != Prefill::None
    }

    /// OpenAI's own endpoints do not have every model here, and refuse tools to others while they reason.
    fn lacks(&self, model: &str, quirks: &Quirks) -> bool {
        quirks.custom_tools && openai_models::is_not_in_chat(model)
    }

    fn yields(&self, model: &str, quirks: &Quirks) -> bool {
        quirks.custom_tools && openai_models::wants_responses(model)
    }

    fn path(&self, op: Op, _model: &str, _stream: bool) -> Option<String> {
        let path = match op {
            Op::Generate => "/chat/completions",
            Op::Complete => "/completions",
            Op::Embed | Op::EmbedBatch => "/embeddings",
            Op::Rerank => "/rerank",
            Op::CountTokens => return None,
        };
        Some(path.to_owned())
    }

    fn holds_foreign(&self, envelope: &Envelope, quirks: &Quirks) -> bool {
        envelope.holds_sealed() || envelope.holds_thoughts(quirks.refuses_thoughts)
    }

    fn splice(&self, envelope: &mut Envelope, model: &str, quirks: &Quirks) {
        envelope.set_str("model", model);
        let generates = envelope.raw("messages").is_some() || envelope.raw("prompt").is_some();
        if generates && quirks.stream_usage && envelope.bool("stream") == Some(true) {
            include_usage(envelope);
        }
        fit_history(envelope, quirks);
    }

    fn decode_ask(&self, raw: &RawAsk<'_>) -> Result<Ask, Fault> {
        ask::decode(raw)
    }

    fn encode_ask(&self, ask: &Ask, to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
        let ask = foreign::saying_json(foreign::told(self, ask, to)?, NAME);
        encode::encode(&ask, to)
    }

    fn tool_names(&self) -> Option<&'static names::Rule> {
        Some(&OPENAI_TOOL_NAMES)
    }

    fn cannot_show(&self, content: &Content) -> Option<&'static str> {
        match content {
            Content::Image { source, .. } => answer::image(source).is_none().then_some("image"),
            Content::File { .. } => Some("file"),
            _ => None,
        }
    }

    fn decode_answer(&self, body: &[u8]) -> Result<Answer, Fault> {
        answer::decode(body)
    }

    fn encode_answer(&self, answer: &Answer, asked: &Asked) -> Vec<u8> {
        answer::encode(answer, asked)
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(decoder::Decoder::default())
    }

    fn encoder(&self, asked: &Asked) -> Box<dyn Encoder> {
        Box::new(encoder::Encoder::new(asked))
    }

    fn summary(&self, op: Op, body: &[u8]) -> Result<Summary, Fault> {
        let writes = matches!(op, Op::Generate | Op::Complete);
        let summary = answer::summary(body)?;
        Ok(Summary { usage: summary.usage.and_then(|usage| usage.parted(writes)), ..summary })
    }

    fn sniffer(&self, _op: Op) -> Box<dyn Sniffer> {
        Box::new(sniffer::Sniffer::new())
    }

    fn decode_error(&self, status: u16, body: &Bytes) -> Refusal {
        openai_error::decode(NAME, status, body)
    }

    fn encode_error(&self, fault: &Fault, _request_id: &str) -> Vec<u8> {
        openai_error::encode(fault)
    }

    /// The SDKs raise on a frame with a top-level `error` and read no further, so no `[DONE]` follows.
    fn encode_stream_error(&self, fault: &Fault, _: &Begun<'_>, out: &mut Vec<u8>) {
        crate::sse::write(out, "", &serde_json::json!({ "error": openai_error::object(fault) }));
    }

    fn decode_embed(&self, raw: &RawAsk<'_>) -> Result<EmbedAsk, Fault> {
        embed::decode(raw)
    }

    fn encode_embed(&self, ask: &EmbedAsk, to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
        embed::encode(ask, to)
    }

    fn decode_embed_answer(&self, body: &[u8]) -> Result<EmbedAnswer, Fault> {
        embed::decode_answer(body)
    }

    fn encode_embed_answer(&self, answer: &EmbedAnswer, ask: &EmbedAsk, _op: Op) -> Vec<u8> {
        embed::encode_answer(answer, ask)
    }

    fn decode_rerank(&self, raw: &RawAsk<'_>) -> Result<RerankAsk, Fault> {
        rerank::decode(raw)
    }

    fn encode_rerank_answer(&self, answer: &RerankAnswer, ask: &RerankAsk, id: &str) -> Vec<u8> {
        rerank::encode(answer, ask, id)
    }
}

/// What a strict server refuses in the history of a relayed body, in the way it takes it.
fn fit_history(envelope: &mut Envelope, quirks: &Quirks) {
    if !quirks.short_call_ids && !quirks.assistant_after_tools {
        return;
    }
    let Some(messages) = envelope.raw("messages").filter(|raw| memmem::find(raw, b"tool_call").is_some()) else {
        return;
    };
    let respelt = if quirks.short_call_ids { call_id::respelt(messages) } else { None };
    let filled = match quirks.assistant_after_tools {
        true => order::filled(respelt.as_deref().unwrap_or(messages)),
        false => None,
    };
    if let Some(messages) = filled.or(respelt) {
        envelope.set("messages", messages);
    }
}

/// Makes `stream_options.include_usage` true and leaves the other options as they stand.
fn include_usage(envelope: &mut Envelope) {
    const KEY: &str = "include_usage";
    let given = envelope.raw("stream_options").map(Bytes::copy_from_slice).unwrap_or_default();
    let Ok(mut options) = Envelope::read(given.clone()) else {
        // Not an object, or one that could be read in two ways.
        let mut options: Map<String, Value> = serde_json::from_slice(&given).unwrap_or_default();
        options.insert(KEY.to_owned(), true.into());
        envelope.set("stream_options", json::written(&options));
        return;
    };
    if options.bool(KEY) != Some(true) {
        options.set(KEY, Bytes::from_static(b"true"));
        envelope.set("stream_options", options.pieces().concat());
    }
}

/// The id of an answer whose upstream gave none.
fn answer_id(asked: &Asked) -> String {
    let prefix = if asked.op == Op::Complete { "cmpl" } else { "chatcmpl" };
    format!("{prefix}-{}", asked.id)
}

/// Whether the client declared `functions`: it reads `function_call` and knows no `tool_calls`.
fn wants_function_call(ask: &Ask) -> bool {
    ask.source == NAME && ask.extra.contains_key("functions")
}

/// The text of a block, where it is text.
fn history_text(block: &Block) -> Option<&str> {
    match &block.content {
        Content::Text { text, .. } => Some(text),
        _ => None,
    }
}

/// The data of a frame without white space around it. Old llama.cpp reports errors in a field of their own.
fn data_of<'a>(frame: &Frame<'a>) -> Cow<'a, [u8]> {
    match frame.data() {
        Cow::Borrowed(data) => Cow::Borrowed(match frame.0.strip_prefix(b"error:") {
            Some(error) if data.is_empty() => error.trim_ascii(),
            _ => data.trim_ascii(),
        }),
        Cow::Owned(data) => Cow::Owned(data.trim_ascii().to_vec()),
    }
}
