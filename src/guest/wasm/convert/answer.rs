//! Answers, events and refusals, from the contract's records into the neutral form.

use std::time::Duration;

use serde_json::Value;

use super::super::bindings::chat as wit;
use super::{reason, usage, value_of};
use crate::chat::{Answer, Block, CacheMark, Choice, Content, Media, Reasoning, ToolCall, ToolResult};
use crate::dialect::adapter::Step;
use crate::dialect::refusal::told;
use crate::embed::EmbedAnswer;
use crate::fault::Refusal;
use crate::rerank::{Ranked, RerankAnswer};

/// The answer of an adapter with this name.
///
/// # Errors
/// What of it cannot be.
pub fn answer(answer: wit::Answer, adapter: &'static str) -> Result<Answer, String> {
    for (at, choice) in answer.choices.iter().enumerate() {
        let logprobs = &choice.logprobs;
        if !logprobs.is_empty() && !serde_json::from_str::<Value>(logprobs).is_ok_and(|value| value.is_object()) {
            return Err(format!("gives choice {at} `logprobs` that are no JSON object"));
        }
    }
    let choices = answer.choices.into_iter().enumerate().map(|(index, choice)| {
        let finish = choice.finish;
        Choice {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            blocks: choice.blocks.into_iter().map(|block| self::block(block, adapter)).collect(),
            finish: finish.as_ref().map(|finish| reason(finish.reason)),
            native_finish: finish.as_ref().and_then(|finish| finish.native.clone()),
            stop_sequence: finish.and_then(|finish| finish.stop_sequence),
            logprobs: value_of(choice.logprobs),
        }
    });
    Ok(Answer {
        id: answer.id,
        model: answer.model,
        choices: choices.collect(),
        usage: answer.usage.map(usage),
        source: adapter,
        ..Answer::default()
    })
}

/// A ranking.
pub fn rerank_answer(answer: wit::RerankAnswer) -> RerankAnswer {
    let ranked = answer.ranked.into_iter().map(|ranked| Ranked { index: ranked.index, score: ranked.score });
    RerankAnswer { model: answer.model, ranked: ranked.collect(), usage: answer.usage.map(usage) }
}

pub fn embed_answer(answer: wit::EmbedAnswer, adapter: &'static str) -> EmbedAnswer {
    EmbedAnswer {
        model: answer.model,
        vectors: answer.vectors,
        usage: answer.usage.map(usage),
        source: adapter,
        ..EmbedAnswer::default()
    }
}

/// The step that an event is; a refusal is the upstream's report that ends the stream.
pub fn step(event: wit::Event, adapter: &'static str) -> Result<Step, Box<Refusal>> {
    Ok(match event {
        wit::Event::Start(start) => Step::Start { id: start.id, model: start.model },
        wit::Event::Choice(index) => Step::Choice(index),
        wit::Event::Text(text) => Step::Text(text),
        wit::Event::Reasoning(text) => Step::Reasoning(text),
        wit::Event::Signature(text) => Step::Signature(text),
        wit::Event::Refusal(text) => Step::Refusal(text),
        wit::Event::ToolCall(call) => Step::Call { key: call.key, id: call.id, name: call.name },
        wit::Event::Arguments(delta) => Step::Arguments { key: delta.key, text: delta.arguments },
        wit::Event::Citation(text) => Step::Citation(value_of(text).unwrap_or(Value::Null)),
        wit::Event::Finish(finish) => self::finish(finish),
        wit::Event::Usage(counts) => Step::Usage(usage(counts)),
        wit::Event::Ping => Step::Ping,
        wit::Event::Fault(said) => return Err(Box::new(refusal(said, adapter))),
    })
}

fn finish(finish: wit::Finish) -> Step {
    Step::Finish { reason: reason(finish.reason), native: finish.native, stop_sequence: finish.stop_sequence }
}

pub fn refusal(said: wit::Refusal, adapter: &'static str) -> Refusal {
    told(Refusal {
        status: said.status,
        message: said.message,
        kind: said.kind,
        code: said.code,
        param: said.param,
        dialect: adapter,
        retry_after: said.retry_after_ms.map(Duration::from_millis),
        ..Refusal::default()
    })
}

fn block(block: wit::Block, adapter: &str) -> Block {
    let cited = match value_of(block.citations) {
        Some(Value::Array(citations)) => citations,
        _ => Vec::new(),
    };
    let cache = block.cache.map(|ttl| CacheMark { ttl: Some(ttl).filter(|ttl| !ttl.is_empty()) });
    let content = match block.content {
        wit::Content::Text(text) => Content::Text { text, citations: cited },
        wit::Content::Image(image) => Content::Image { source: media(image.source), detail: image.detail },
        wit::Content::Audio(audio) => {
            Content::Audio { data: audio.data, format: audio.format, transcript: audio.transcript, id: None }
        }
        wit::Content::File(file) => Content::File { source: media(file.source), name: file.name },
        wit::Content::ToolCall(call) => Content::ToolCall(ToolCall {
            id: call.id,
            name: call.name,
            arguments: call.arguments,
            custom: call.custom,
            item_id: None,
            namespace: None,
            signature: call.signature,
        }),
        wit::Content::ToolResult(result) => Content::ToolResult(ToolResult {
            id: result.id,
            name: result.name,
            content: result.content.into_iter().map(part).collect(),
            is_error: result.is_error,
            custom: false,
        }),
        wit::Content::Reasoning(thought) => Content::Reasoning(Reasoning {
            text: thought.text,
            signature: thought.signature,
            encrypted: thought.encrypted,
            origin: adapter.to_owned(),
            ..Reasoning::default()
        }),
        wit::Content::Refusal(text) => Content::Refusal(text),
        wit::Content::Other(text) => Content::Other(value_of(text).unwrap_or(Value::Null)),
    };
    Block { cache, ..Block::new(content) }
}

fn part(part: wit::ResultPart) -> Block {
    match part {
        wit::ResultPart::Text(text) => Block::text(text),
        wit::ResultPart::Image(image) => {
            Block::new(Content::Image { source: media(image.source), detail: image.detail })
        }
        wit::ResultPart::Other(text) => Block::new(Content::Other(value_of(text).unwrap_or(Value::Null))),
    }
}

fn media(media: wit::Media) -> Media {
    match media {
        wit::Media::Url(url) => Media::Url { url, mime: None },
        wit::Media::Inline(media) => Media::Inline { mime: media.mime, data: media.data },
        wit::Media::Id(id) => Media::Id(id),
        wit::Media::Text(text) => Media::Text(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_an_object_or_nothing() {
        let said = |logprobs: &str| {
            let choice = wit::Choice { blocks: Vec::new(), finish: None, logprobs: logprobs.to_owned() };
            let said = wit::Answer { id: String::new(), model: String::new(), choices: vec![choice], usage: None };
            answer(said, "wasm:test").map(|answer| answer.choices[0].logprobs.clone())
        };
        assert_eq!(said(""), Ok(None));
        assert_eq!(said("{\"content\":[]}"), Ok(Some(serde_json::json!({ "content": [] }))));
        for wrong in ["no JSON", "[]", "1", "{"] {
            assert_eq!(said(wrong), Err("gives choice 0 `logprobs` that are no JSON object".to_owned()), "{wrong}");
        }
    }
}
