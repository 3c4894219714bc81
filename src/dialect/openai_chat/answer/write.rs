//! Whole answers for clients, borrowed from the neutral ones and written without a tree.
//!
//! What only few answers have (calls, images, citations) stays in trees of its own.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::super::reasoning::{self, To};
use super::super::{NAME, answer_id, citations, complete, finish, tools, usage, wants_function_call};
use super::{audio, audio_id, image, is_detail, joined_base64, write_call};
use crate::chat::{Answer, Ask, Block, Choice, Content, Extra, ToolCall, free_text};
use crate::dialect::{Asked, Op};
use crate::json;

pub fn encode(answer: &Answer, asked: &Asked) -> Vec<u8> {
    match asked.op {
        Op::Complete => json::written(&whole(answer, asked, "text_completion", complete::choices(answer))),
        _ => json::written(&whole(answer, asked, "chat.completion", choices(answer, asked))),
    }
}

#[derive(Serialize)]
struct Whole<'a, C> {
    id: Cow<'a, str>,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<C>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<usage::Written>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_fingerprint: Option<&'a str>,
    #[serde(flatten)]
    rest: Rest<'a>,
}

/// Fields of an OpenAI answer that nobody here knows.
struct Rest<'a>(Option<&'a Extra>);

impl Serialize for Rest<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let known = |key: &str| key == "usage" || key == "choices";
        serializer.collect_map(self.0.into_iter().flatten().filter(|(key, _)| !known(key)))
    }
}

fn whole<'a, C>(answer: &'a Answer, asked: &'a Asked, object: &'static str, choices: Vec<C>) -> Whole<'a, C> {
    Whole {
        id: if answer.id.is_empty() { answer_id(asked).into() } else { answer.id.as_str().into() },
        object,
        created: answer.created.unwrap_or(asked.now),
        model: if answer.model.is_empty() { &asked.ask.model } else { &answer.model },
        choices,
        usage: answer.usage.as_ref().map(usage::Written::of),
        service_tier: answer.service_tier.as_deref(),
        system_fingerprint: answer.system_fingerprint.as_deref(),
        rest: Rest((answer.source == NAME).then_some(&answer.extra)),
    }
}

#[derive(Serialize)]
struct Said<'a> {
    index: u32,
    message: Message<'a>,
    logprobs: Option<&'a Value>,
    finish_reason: Option<String>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<Cow<'a, str>>,
    refusal: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning_content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasoning_details: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    annotations: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    images: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audio: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
}

fn choices<'a>(answer: &'a Answer, asked: &Asked) -> Vec<Said<'a>> {
    let legacy = wants_function_call(&asked.ask);
    let mut choices: Vec<&Choice> = answer.choices.iter().collect();
    // A stream may have begun with any of them.
    choices.sort_by_key(|choice| choice.index);
    let said = |choice: &'a Choice| Said {
        index: choice.index,
        message: message(choice, answer, asked, legacy),
        // Text completions have another shape.
        logprobs: choice.logprobs.as_ref().filter(|logprobs| logprobs.get("tokens").is_none()),
        finish_reason: finish::word(choice, answer.source, legacy),
    };
    choices.into_iter().map(said).collect()
}

fn message<'a>(choice: &'a Choice, answer: &Answer, asked: &Asked, legacy: bool) -> Message<'a> {
    let mut message = Message {
        role: "assistant",
        content: None,
        refusal: None,
        reasoning_content: String::new(),
        reasoning_details: Vec::new(),
        annotations: Vec::new(),
        images: Vec::new(),
        audio: None,
        function_call: None,
        tool_calls: Vec::new(),
    };
    for block in &choice.blocks {
        gather(&mut message, block, &asked.ask, answer.source);
    }
    if let Some(audio) = message.audio.as_mut().filter(|_| answer.source != NAME) {
        audio["id"] = audio_id(&asked.id, choice.index).into();
        // It is kept nowhere, so nobody can refer to it from the beginning.
        audio["expires_at"] = answer.created.unwrap_or(asked.now).into();
    }
    if legacy && let Some(call) = message.tool_calls.first() {
        message.function_call = Some(call["function"].clone());
        message.tool_calls.clear();
    }
    message
}

fn gather<'a>(of: &mut Message<'a>, block: &'a Block, ask: &Ask, source: &str) {
    match &block.content {
        Content::Text { text, citations: cited } => {
            let from = if cited.is_empty() { 0 } else { of.content.as_ref().map_or(0, |text| text.chars().count()) };
            let whole = joined(&mut of.content, text);
            if !cited.is_empty() {
                let to = whole.chars().count();
                of.annotations.extend(cited.iter().filter_map(|citation| citations::write(citation, source, from, to)));
            }
        }
        Content::Refusal(text) => drop(joined(&mut of.refusal, text)),
        Content::Reasoning(thought) => {
            let text = reasoning::plain(thought);
            if !text.is_empty() && !of.reasoning_content.is_empty() {
                of.reasoning_content.push_str("\n\n");
            }
            of.reasoning_content.push_str(&text);
            let items = reasoning::details(thought, source, To::Client, of.reasoning_details.len());
            of.reasoning_details.extend(items);
        }
        Content::ToolCall(call) if tools::was_disguised(ask, call) => {
            let known = ToolCall { custom: true, arguments: free_text(&call.arguments), ..call.clone() };
            of.tool_calls.push(write_call(&known, source));
        }
        Content::ToolCall(call) => of.tool_calls.push(write_call(call, source)),
        Content::Image { source: media, .. } => of.images.extend(image(media)),
        Content::Audio { .. } if source == NAME => of.audio = Some(audio(block)),
        Content::Audio { data, transcript, .. } => {
            let so_far = |key: &str| of.audio.as_ref().and_then(|audio| audio[key].as_str()).unwrap_or_default();
            let data = joined_base64(so_far("data"), data);
            let transcript = so_far("transcript").to_owned() + transcript.as_deref().unwrap_or_default();
            of.audio = Some(json!({ "id": null, "data": data, "transcript": transcript }));
        }
        Content::Other(value) if source == NAME => {
            of.reasoning_details.extend(Some(value.clone()).filter(is_detail));
        }
        Content::Other(_) | Content::File { .. } | Content::ToolResult(_) => {}
    }
}

/// Adds to a text; the first is not copied.
fn joined<'t, 'a>(whole: &'t mut Option<Cow<'a, str>>, text: &'a str) -> &'t str {
    match whole {
        Some(whole) => whole.to_mut().push_str(text),
        None => *whole = Some(Cow::Borrowed(text)),
    }
    whole.as_deref().unwrap_or_default()
}
