//! Cohere's stream: server-sent events that name what they are.

use portcullis_plugin::adapter::{GuestStreamDecoder, Piece};
use portcullis_plugin::chat::{CallDelta, CallStart, Event, Refusal, Start};
use portcullis_plugin::nonsense;
use portcullis_plugin::serde_json::{self, Value};

use crate::{finish, text, usage};

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
        let value: Value =
            serde_json::from_str(&event.data).map_err(|error| nonsense(format!("An event is not JSON: {error}")))?;
        let kind = value["type"].as_str().unwrap_or(&event.name);
        self.event(kind, &value)
    }

    fn finish(&self) -> Result<Vec<Event>, Refusal> {
        Ok(Vec::new())
    }
}

impl Decoder {
    fn event(&self, kind: &str, value: &Value) -> Result<Vec<Event>, Refusal> {
        let message = &value["delta"]["message"];
        let key = value["index"].as_u64().unwrap_or_default();
        Ok(match kind {
            "message-start" => {
                vec![Event::Start(Start { id: text(&value["id"]).unwrap_or_default(), model: String::new() })]
            }
            "content-start" | "content-delta" => {
                let content = &message["content"];
                let thought = text(&content["thinking"]).map(Event::Reasoning);
                let said = text(&content["text"]).map(Event::Text);
                thought.into_iter().chain(said).filter(|event| !is_empty(event)).collect()
            }
            "tool-plan-delta" => text(&message["tool_plan"]).map(Event::Reasoning).into_iter().collect(),
            "tool-call-start" => {
                let call = &message["tool_calls"];
                let begun = Event::ToolCall(CallStart {
                    key,
                    id: text(&call["id"]).unwrap_or_default(),
                    name: text(&call["function"]["name"]).unwrap_or_default(),
                });
                std::iter::once(begun).chain(arguments(key, call)).collect()
            }
            "tool-call-delta" => arguments(key, &message["tool_calls"]).into_iter().collect(),
            "citation-start" => vec![Event::Citation(message["citations"].to_string())],
            "message-end" => {
                let delta = &value["delta"];
                if let Some(error) = text(&delta["error"]) {
                    return Ok(vec![Event::Fault(portcullis_plugin::refusal(200, error))]);
                }
                let counts = usage(&delta["usage"]).map(Event::Usage);
                let ended = delta["finish_reason"].as_str().map(|word| Event::Finish(finish(word)));
                counts.into_iter().chain(ended).collect()
            }
            "content-end" | "tool-call-end" | "citation-end" | "debug" => Vec::new(),
            // An event of a later version of the API: it is not ours to break over it.
            _ => vec![Event::Ping],
        })
    }
}

fn arguments(key: u64, call: &Value) -> Option<Event> {
    let arguments = text(&call["function"]["arguments"]).filter(|text| !text.is_empty())?;
    Some(Event::Arguments(CallDelta { key, arguments }))
}

fn is_empty(event: &Event) -> bool {
    matches!(event, Event::Text(text) | Event::Reasoning(text) if text.is_empty())
}
