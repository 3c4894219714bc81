//! The Messages API of Anthropic, and of the many servers that speak it.
//!
//! Each direction has its file; this page only ties them to the seam. Paths stand under a base URL without `/v1`. Never
//! knows who is on the other side: what it must not forget about a foreign answer it seals into the blocks (`carry`).

mod answer;
mod ask;
mod beside;
mod blocks;
mod calls;
mod carry;
mod cite;
mod decoder;
mod encoder;
mod error;
mod marks;
mod models;
mod params;
mod plain;
mod prompt;
mod schema;
mod sniffer;
mod stop;
#[cfg(test)]
mod tests;
mod thinking;
mod usage;
mod wire;

use super::*;

/// The dialect's name.
const NAME: &str = "anthropic";

/// https://docs.anthropic.com/en/api/messages, `tools.name`.
const TOOL_NAMES: names::Rule = names::Rule { longest: 128, further: "", begins_with_letter: false, empty: "tool" };

pub struct Anthropic;

impl Dialect for Anthropic {
    fn name(&self) -> &'static str {
        NAME
    }

    fn request_id_header(&self) -> Option<&'static str> {
        Some("request-id")
    }

    fn headers(&self) -> &'static [(&'static str, &'static str)] {
        // The version that every feature of the Messages API is written for; newer features come by beta headers.
        &[("anthropic-version", "2023-06-01")]
    }

    fn allowances(&self) -> &'static [[HeaderName; 2]] {
        const fn of(limit: &'static str, left: &'static str) -> [HeaderName; 2] {
            [HeaderName::from_static(limit), HeaderName::from_static(left)]
        }
        static ALLOWANCES: [[HeaderName; 2]; 4] = [
            of("anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining"),
            of("anthropic-ratelimit-tokens-limit", "anthropic-ratelimit-tokens-remaining"),
            of("anthropic-ratelimit-input-tokens-limit", "anthropic-ratelimit-input-tokens-remaining"),
            of("anthropic-ratelimit-output-tokens-limit", "anthropic-ratelimit-output-tokens-remaining"),
        ];
        &ALLOWANCES
    }

    fn forwarded_headers(&self) -> &'static [HeaderName] {
        static FORWARDED: [HeaderName; 2] =
            [HeaderName::from_static("anthropic-version"), HeaderName::from_static("anthropic-beta")];
        &FORWARDED
    }

    /// Claude up to 4.5 does; from 4.6 on a last assistant turn is refused. Names that are not known are taken for new.
    fn prefills(&self, model: &str, _: &Quirks) -> bool {
        const OLD: &[&str] = &["claude-2", "claude-3", "claude-instant"];
        const FOUR: &[&str] = &["-4-0", "-4-1", "-4-5", "-4-2025"];
        let old = OLD.iter().any(|name| model.contains(name));
        old || (model.contains("claude-") && FOUR.iter().any(|version| model.contains(version)))
    }

    fn path(&self, op: Op, _model: &str, _stream: bool) -> Option<String> {
        match op {
            Op::Generate => Some("/v1/messages".to_owned()),
            Op::CountTokens => Some("/v1/messages/count_tokens".to_owned()),
            Op::Complete | Op::Embed | Op::EmbedBatch | Op::Rerank => None,
        }
    }

    /// The model alone: usage comes with every stream unasked.
    fn splice(&self, envelope: &mut Envelope, model: &str, _quirks: &Quirks) {
        envelope.set_str("model", model);
    }

    fn mark_prompt(&self, envelope: &mut Envelope, model: &str) -> bool {
        marks::place(envelope, model)
    }

    fn decode_ask(&self, raw: &RawAsk<'_>) -> Result<Ask, Fault> {
        ask::decode(raw)
    }

    fn encode_ask(&self, ask: &Ask, to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
        let ask = foreign::told(self, ask, to)?;
        params::encode(&ask, to)
    }

    fn tool_names(&self) -> Option<&'static names::Rule> {
        Some(&TOOL_NAMES)
    }

    fn plainly(&self, ask: &Ask, to: &mut Encoding<'_>) -> Result<Option<Ask>, Fault> {
        plain::plainly(ask, to)
    }

    /// Claude Code drops signed thinking of a model by another name. Who asks for none gets the answer byte for byte.
    fn names_model_as_asked(&self, ask: &Envelope) -> bool {
        #[derive(serde::Deserialize)]
        struct Thinking {
            r#type: String,
        }
        ask.get::<Thinking>("thinking").is_some_and(|thinking| thinking.r#type != "disabled")
    }

    fn calling(&self, data: &[u8], model: &str) -> Option<Vec<u8>> {
        answer::calling(data, model)
    }

    fn cannot_show(&self, content: &Content) -> Option<&'static str> {
        match content {
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
        Box::new(decoder::Reader::default())
    }

    fn encoder(&self, asked: &Asked) -> Box<dyn Encoder> {
        Box::new(encoder::Writer::new(asked))
    }

    fn summary(&self, op: Op, body: &[u8]) -> Result<Summary, Fault> {
        answer::summary(op, body)
    }

    fn sniffer(&self, _op: Op) -> Box<dyn Sniffer> {
        Box::new(sniffer::Nose::default())
    }

    fn decode_error(&self, status: u16, body: &Bytes) -> Refusal {
        error::decode(status, body)
    }

    fn encode_error(&self, fault: &Fault, request_id: &str) -> Vec<u8> {
        error::encode(fault, request_id)
    }

    fn encode_stream_error(&self, fault: &Fault, begun: &Begun<'_>, out: &mut Vec<u8>) {
        error::encode_event(fault, begun.request_id, out);
    }

    fn encode_count(&self, ask: &Ask, to: &mut Encoding<'_>) -> Option<Result<Vec<u8>, Fault>> {
        Some(foreign::told(self, ask, to).and_then(|ask| params::encode_count(&ask, to)))
    }

    fn decode_count(&self, body: &[u8]) -> Result<u64, Fault> {
        answer::decode_count(body)
    }

    fn encode_count_answer(&self, tokens: u64) -> Vec<u8> {
        crate::json::written(&serde_json::json!({"input_tokens": tokens}))
    }
}
