//! The `openai_responses` wire form: OpenAI's Responses API, which agents (Codex) and the newer SDKs speak.
//!
//! Holds no conversation: `previous_response_id` and item references mean something to the provider that made them
//! alone. The files: `ask` reads requests and `compose` writes them; `answer` does both for whole answers; `decoder`
//! and `encoder` are the two ends of a stream, `sniffer` watches one go by; `item`, `tools`, `usage`, `response` and
//! `failure` hold what these share.

mod answer;
mod ask;
mod compose;
mod decoder;
mod encoder;
mod failure;
mod item;
mod parts;
mod plain;
mod recall;
mod response;
mod sniffer;
#[cfg(test)]
mod tests;
mod tools;
mod usage;

use serde::Deserialize;

use super::*;
use crate::chat::{Answer, Ask, Content, Media};
use crate::json;

const NAME: &str = "openai_responses";

pub struct OpenAiResponses;

impl Dialect for OpenAiResponses {
    fn name(&self) -> &'static str {
        NAME
    }

    fn items(&self, body: &[u8]) -> Vec<(String, Value)> {
        recall::items(body)
    }

    fn recall(&self, envelope: &Envelope, find: &dyn Fn(&str) -> Option<Value>) -> Option<Bytes> {
        recall::recall(envelope, find)
    }

    fn answers_are_stored(&self) -> bool {
        true
    }

    fn allowances(&self) -> &'static [[HeaderName; 2]] {
        &super::OPENAI_ALLOWANCES
    }

    fn forwarded_headers(&self) -> &'static [HeaderName] {
        &super::OPENAI_FORWARDED
    }

    fn path(&self, op: Op, _model: &str, _stream: bool) -> Option<String> {
        match op {
            Op::Generate => Some("/responses".to_owned()),
            Op::CountTokens => Some("/responses/input_tokens".to_owned()),
            Op::Complete | Op::Embed | Op::EmbedBatch | Op::Rerank => None,
        }
    }

    /// Streams of this form always end with their usage; the model is all there is to set.
    fn splice(&self, envelope: &mut Envelope, model: &str, _quirks: &Quirks) {
        envelope.set_str("model", model);
    }

    fn decode_ask(&self, raw: &RawAsk<'_>) -> Result<Ask, Fault> {
        ask::decode(raw)
    }

    fn encode_ask(&self, ask: &Ask, to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
        let ask = foreign::saying_json(foreign::told(self, ask, to)?, NAME);
        compose::encode(&ask, to)
    }

    fn tool_names(&self) -> Option<&'static names::Rule> {
        Some(&OPENAI_TOOL_NAMES)
    }

    fn plainly(&self, ask: &Ask, _to: &mut Encoding<'_>) -> Result<Option<Ask>, Fault> {
        plain::plainly(ask)
    }

    /// Codex waits out a rate limit that it hears of in a stream, as OpenAI tells it, and gives up at status 429.
    fn fails_in_streams(&self, kind: Kind) -> bool {
        kind == Kind::RateLimited
    }

    fn cannot_show(&self, content: &Content) -> Option<&'static str> {
        match content {
            Content::Image { source: Media::Inline { .. }, .. } => None,
            Content::Image { .. } => Some("image"),
            Content::File { .. } => Some("file"),
            // Of what was spoken only the words are told.
            Content::Audio { .. } => Some("audio"),
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
        Box::<decoder::ResponsesDecoder>::default()
    }

    fn encoder(&self, asked: &Asked) -> Box<dyn Encoder> {
        Box::new(encoder::ResponsesEncoder::new(asked))
    }

    fn summary(&self, op: Op, body: &[u8]) -> Result<Summary, Fault> {
        match op {
            Op::CountTokens => self.decode_count(body).map(|_| Summary::default()),
            _ => sniffer::summary(body),
        }
    }

    fn sniffer(&self, _op: Op) -> Box<dyn Sniffer> {
        Box::<sniffer::ResponsesSniffer>::default()
    }

    fn decode_error(&self, status: u16, body: &Bytes) -> Refusal {
        openai_error::decode(NAME, status, body)
    }

    fn encode_error(&self, fault: &Fault, _request_id: &str) -> Vec<u8> {
        openai_error::encode(fault)
    }

    fn encode_stream_error(&self, fault: &Fault, begun: &Begun<'_>, out: &mut Vec<u8>) {
        failure::write_stream_error(fault, begun, out);
    }

    fn encode_count(&self, ask: &Ask, to: &mut Encoding<'_>) -> Option<Result<Vec<u8>, Fault>> {
        let ask = foreign::told(self, ask, to).map(|ask| foreign::saying_json(ask, NAME));
        Some(ask.and_then(|ask| compose::encode_count(&ask, to)))
    }

    fn decode_count(&self, body: &[u8]) -> Result<u64, Fault> {
        #[derive(Deserialize)]
        struct Count {
            input_tokens: u64,
        }
        let count: Count = serde_json::from_slice(body)
            .map_err(|error| Fault::new(Kind::BadAnswer, "The provider's count is not a count.").because(error))?;
        Ok(count.input_tokens)
    }

    fn encode_count_answer(&self, tokens: u64) -> Vec<u8> {
        json::written(&serde_json::json!({"object": "response.input_tokens", "input_tokens": tokens}))
    }
}
