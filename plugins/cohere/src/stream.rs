//! Cohere's stream: server-sent events that name what they are.

use portcullis_plugin::adapter::{GuestStreamDecoder, Piece};
use portcullis_plugin::chat::{CallDelta, CallStart, Event, Refusal, Start};
use portcullis_plugin::serde_json;
use portcullis_plugin::{self as sdk, nonsense};
use serde::Deserialize;

use crate::wire::{Call, Called, Cited, Content, Delta, Ended, Kind, Planned, Spoken, Started};
use crate::{finish, usage};

pub struct Decoder;

impl GuestStreamDecoder for Decoder {
    fn new() -> Self {
        Decoder
    }

    fn push(&self, next: Piece) -> Result<Vec<Event>, Refusal> {
        let Piece::Event(event) = next else { return Err(nonsense("An event was expected.")) };
        if event.data.is_empty() || event.data == "[DONE]" {
            return Ok(Vec::new());
        }
        if let Some(text) = usual(&event.data) {
            return Ok(if text.is_empty() { Vec::new() } else { vec![Event::Text(text)] });
        }
        // The field `event` says what the data says again.
        if event.name.is_empty() {
            let kind = read::<Kind>(&event.data)?.kind;
            return events(&kind, &event.data);
        }
        events(&event.name, &event.data)
    }

    fn finish(&self) -> Result<Vec<Event>, Refusal> {
        Ok(Vec::new())
    }
}

/// The text of an event that is written as almost all are, in which no name needs to be looked for.
fn usual(data: &str) -> Option<String> {
    let rest = data.strip_prefix(r#"{"type":"content-delta","index":"#)?;
    let rest = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let quoted = rest.strip_prefix(r#","delta":{"message":{"content":{"text":"#)?.strip_suffix("}}}}")?;
    // It is one string to its end, or something else.
    serde_json::from_str(quoted).ok()
}

fn read<'a, T: Deserialize<'a>>(data: &'a str) -> Result<T, Refusal> {
    sdk::read(data, "An event")
}

fn message<'a, M: Deserialize<'a>>(data: &'a str) -> Result<(u64, M), Refusal> {
    let Delta { index, delta } = read(data)?;
    Ok((index.unwrap_or_default(), delta.message))
}

fn events(kind: &str, data: &str) -> Result<Vec<Event>, Refusal> {
    Ok(match kind {
        "content-delta" | "content-start" => {
            let (_, Spoken { content: Content { text, thinking } }) = message(data)?;
            let thought = thinking.filter(|text| !text.is_empty()).map(Event::Reasoning);
            let said = text.filter(|text| !text.is_empty()).map(Event::Text);
            thought.into_iter().chain(said).collect()
        }
        "message-start" => {
            vec![Event::Start(Start { id: read::<Started>(data)?.id.unwrap_or_default(), model: String::new() })]
        }
        "tool-plan-delta" => {
            let (_, Planned { tool_plan }) = message(data)?;
            tool_plan.map(Event::Reasoning).into_iter().collect()
        }
        "tool-call-start" => {
            let (key, Called { tool_calls: call }) = message(data)?;
            let Call { id, function } = call;
            let begun = CallStart { key, id: id.unwrap_or_default(), name: function.name.unwrap_or_default() };
            std::iter::once(Event::ToolCall(begun)).chain(arguments(key, function.arguments)).collect()
        }
        "tool-call-delta" => {
            let (key, Called { tool_calls: call }) = message(data)?;
            arguments(key, call.function.arguments).into_iter().collect()
        }
        "citation-start" => {
            let (_, Cited { citations }) = message(data)?;
            vec![Event::Citation(citations.get().to_owned())]
        }
        "message-end" => {
            let delta = read::<Ended>(data)?.delta;
            if let Some(error) = delta.error {
                return Ok(vec![Event::Fault(sdk::refusal(200, error))]);
            }
            let counts = delta.usage.as_ref().and_then(usage).map(Event::Usage);
            let ended = delta.finish_reason.as_deref().map(|word| Event::Finish(finish(word)));
            counts.into_iter().chain(ended).collect()
        }
        _ => {
            // One that is torn shows here too.
            read::<Kind>(data)?;
            match kind {
                "content-end" | "tool-call-end" | "citation-end" | "debug" => Vec::new(),
                // An event of a later version of the API: it is not ours to break over it.
                _ => vec![Event::Ping],
            }
        }
    })
}

fn arguments(key: u64, text: Option<String>) -> Option<Event> {
    let arguments = text.filter(|text| !text.is_empty())?;
    Some(Event::Arguments(CallDelta { key, arguments }))
}
