//! Prompt-cache marks where they help and the client has set none: after the tools, after the system prompt, and before
//! the newest turn.
//!
//! Works on the body as it goes out, so that it serves relayed and translated asks alike. Never touches a body that has
//! a mark already.

use bytes::Bytes;
use memchr::memmem;
use serde_json::{Value, json};

use crate::json::Envelope;

/// Tokens below which nothing is cached, by what the model's name holds; from the provider's page on prompt caching.
const SMALLEST: &[(&str, usize)] =
    &[("haiku-4-5", 4096), ("opus-4-5", 4096), ("haiku-3", 2048), ("3-haiku", 2048), ("3-5-haiku", 2048), ("", 1024)];

/// Bytes of JSON that are a token, about. Low, because marks on prompts that turn out too small are not counted.
const BYTES_PER_TOKEN: usize = 3;

/// Sets the marks. True when there are any.
pub(super) fn place(envelope: &mut Envelope, model: &str) -> bool {
    if memmem::find(envelope.body(), b"\"cache_control\"").is_some() {
        return false;
    }
    let smallest = SMALLEST.iter().find(|(part, _)| model.contains(part)).map_or(1024, |(_, tokens)| *tokens);
    let enough = smallest * BYTES_PER_TOKEN;
    let size = |envelope: &Envelope, name: &str| envelope.raw(name).map_or(0, <[u8]>::len);
    // The prefix is tools, then system, then the turns: each mark stands for all that is before it.
    let tools = size(envelope, "tools");
    let system = tools + size(envelope, "system");
    let mut marked = false;
    let mut change = |name: &str, mark: &dyn Fn(Value) -> Option<Value>| {
        let tree = envelope.raw(name).and_then(|raw| serde_json::from_slice(raw).ok());
        if let Some(new) = tree.and_then(mark) {
            envelope.set(name, Bytes::from(new.to_string()));
            marked = true;
        }
    };
    if tools >= enough {
        change("tools", &after_last);
    }
    if system >= enough {
        change("system", &after_system);
    }
    change("messages", &|turns| before_newest(turns, system, enough));
    marked
}

fn set(block: &mut Value) -> Option<()> {
    block.as_object_mut()?.insert("cache_control".into(), json!({"type": "ephemeral"}));
    Some(())
}

fn after_last(mut list: Value) -> Option<Value> {
    set(list.as_array_mut()?.last_mut()?)?;
    Some(list)
}

fn after_system(system: Value) -> Option<Value> {
    match system {
        Value::String(text) if !text.is_empty() => after_last(json!([{"type": "text", "text": text}])),
        Value::Array(_) => after_last(system),
        _ => None,
    }
}

/// A mark at the end of the turn before the newest one, where the next ask of this conversation will begin to differ.
fn before_newest(mut turns: Value, before: usize, enough: usize) -> Option<Value> {
    let list = turns.as_array_mut()?;
    let last = list.len().checked_sub(2)?;
    let size = before + list[..=last].iter().map(|turn| turn.to_string().len()).sum::<usize>();
    if size < enough {
        return None;
    }
    let content = list[last].get_mut("content")?;
    if let Value::String(text) = content {
        if text.is_empty() {
            return None;
        }
        *content = json!([{"type": "text", "text": text}]);
    }
    // Reasoning takes no mark, and neither does empty text.
    let takes = |block: &Value| match block["type"].as_str() {
        Some("text") => block["text"].as_str().is_some_and(|text| !text.is_empty()),
        Some(kind) => matches!(kind, "tool_use" | "tool_result" | "image" | "document"),
        None => false,
    };
    set(content.as_array_mut()?.last_mut().filter(|block| takes(block))?)?;
    Some(turns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(body: Value, model: &str) -> Value {
        let mut envelope = Envelope::read(body.to_string().into()).expect("reads");
        place(&mut envelope, model);
        serde_json::from_slice(&envelope.pieces().concat()).expect("stays JSON")
    }

    fn long(bytes: usize) -> String {
        "x".repeat(bytes)
    }

    #[test]
    fn marks_stand_after_tools_system_and_the_turn_before_the_newest() {
        let mark = json!({"type": "ephemeral"});
        let body = json!({"model": "claude-sonnet-4-5", "system": long(100),
            "tools": [{"name": "a"}, {"name": "b", "description": long(4000)}],
            "messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "3"}]});
        let out = placed(body.clone(), "claude-sonnet-4-5");
        assert_eq!(out["tools"][1]["cache_control"], mark);
        assert!(out["tools"][0].get("cache_control").is_none());
        assert_eq!(out["system"][0], json!({"type": "text", "text": long(100), "cache_control": mark}));
        assert_eq!(out["messages"][1]["content"][0], json!({"type": "text", "text": "2", "cache_control": mark}));
        assert_eq!((&out["messages"][0], &out["messages"][2]), (&body["messages"][0], &body["messages"][2]));
        assert_eq!(out.to_string().matches("cache_control").count(), 3);
    }

    #[test]
    fn what_is_too_small_or_marked_by_the_client_stays_as_it_is() {
        let small = json!({"model": "m", "system": "Be kind.", "messages": [{"role": "user", "content": long(9000)}]});
        assert_eq!(placed(small.clone(), "claude-sonnet-4-5"), small);
        let haiku = json!({"model": "m", "system": long(9000), "messages": [{"role": "user", "content": "1"}]});
        assert_eq!(placed(haiku.clone(), "claude-haiku-4-5"), haiku);
        assert_ne!(placed(haiku.clone(), "claude-sonnet-4-5"), haiku);
        let own = json!({"model": "m", "system": [{"type": "text", "text": long(9000), "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "messages": [{"role": "user", "content": "1"}]});
        assert_eq!(placed(own.clone(), "claude-sonnet-4-5"), own);
        let thinking = json!({"model": "m", "messages": [{"role": "user", "content": long(9000)},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": "s"}]}, {"role": "user", "content": "3"}]});
        assert_eq!(placed(thinking.clone(), "claude-sonnet-4-5"), thinking);
    }
}
