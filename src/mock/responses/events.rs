//! The stream of a Responses answer, made from the finished object: every event in the order OpenAI sends it.

use serde_json::{Value, json};

use super::unfinished;
use crate::mock::answer::{Frame, Part, Turn};
use crate::mock::openai::{logprobs, obfuscation};
use crate::mock::reply;

/// Bytes of tool arguments in one event.
const ARGUMENT_BYTES: usize = 8;

/// How many pieces of content the items are streamed in.
pub fn count(output: &[Value], chunks: Option<usize>) -> usize {
    output.iter().flat_map(|item| texts(item, chunks)).count()
}

/// The pieces of an item's content.
fn texts(item: &Value, chunks: Option<usize>) -> Vec<&str> {
    let text = |value: &'_ Value| value.as_str().map(str::len).unwrap_or_default().div_ceil(ARGUMENT_BYTES);
    match item["type"].as_str().unwrap_or_default() {
        "reasoning" => reply::pieces(item["summary"][0]["text"].as_str().unwrap_or_default(), chunks),
        "message" => reply::pieces(item["content"][0]["text"].as_str().unwrap_or_default(), chunks),
        "function_call" => {
            let arguments = &item["arguments"];
            reply::pieces(arguments.as_str().unwrap_or_default(), Some(text(arguments).max(1)))
        }
        "custom_tool_call" => {
            let input = &item["input"];
            reply::pieces(input.as_str().unwrap_or_default(), Some(text(input).max(1)))
        }
        _ => Vec::new(),
    }
}

pub fn frames(object: &Value, turn: &Turn<'_>) -> Vec<Frame> {
    let mut events = Events { turn, frames: Vec::new() };
    let begun = unfinished(object, "in_progress");
    events.add(Part::Prelude, "response.created", json!({"response": begun}));
    events.add(Part::Prelude, "response.in_progress", json!({"response": begun}));
    for (index, item) in object["output"].as_array().into_iter().flatten().enumerate() {
        match item["type"].as_str().unwrap_or_default() {
            "reasoning" => events.reasoning(index, item),
            "message" => events.message(index, item),
            _ => events.call(index, item),
        }
    }
    let last = match object["status"].as_str() {
        Some("incomplete") => "response.incomplete",
        Some("failed") => "response.failed",
        _ => "response.completed",
    };
    events.add(Part::Finish, last, json!({"response": object}));
    events.frames
}

struct Events<'a> {
    turn: &'a Turn<'a>,
    frames: Vec<Frame>,
}

impl Events<'_> {
    fn add(&mut self, part: Part, kind: &'static str, fields: Value) {
        // What comes before the first content is prelude, what comes between two contents goes with the next.
        let seen = self.frames.iter().any(|frame| frame.part == Part::Content);
        let part = if part == Part::Finish || part == Part::Content || !seen { part } else { Part::Finish };
        let mut data = json!({"type": kind, "sequence_number": self.frames.len()});
        if let (Some(data), Value::Object(fields)) = (data.as_object_mut(), fields) {
            data.extend(fields);
        }
        self.frames.push(Frame::new(part, kind, data));
    }

    fn opened(&mut self, index: usize, item: &Value, emptied: &[(&str, Value)]) {
        let mut item = item.clone();
        for (field, value) in emptied {
            item[*field] = value.clone();
        }
        if item.get("status").is_some() {
            item["status"] = json!("in_progress");
        }
        self.add(Part::Prelude, "response.output_item.added", json!({"output_index": index, "item": item}));
    }

    fn closed(&mut self, index: usize, item: &Value) {
        self.add(Part::Finish, "response.output_item.done", json!({"output_index": index, "item": item}));
    }

    fn reasoning(&mut self, index: usize, item: &Value) {
        self.opened(index, item, &[("summary", json!([]))]);
        let id = &item["id"];
        for (part, summary) in item["summary"].as_array().into_iter().flatten().enumerate() {
            let at = |more: Value| {
                let mut fields = json!({"item_id": id, "output_index": index, "summary_index": part});
                if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
                    fields.extend(more);
                }
                fields
            };
            let text = summary["text"].as_str().unwrap_or_default();
            let empty = json!({"part": {"type": "summary_text", "text": ""}});
            self.add(Part::Prelude, "response.reasoning_summary_part.added", at(empty));
            for piece in reply::pieces(text, self.turn.knobs.chunks) {
                let mut fields = at(json!({"delta": piece}));
                obfuscation(self.turn.body, &mut fields, piece.len());
                self.add(Part::Content, "response.reasoning_summary_text.delta", fields);
            }
            self.add(Part::Finish, "response.reasoning_summary_text.done", at(json!({"text": text})));
            self.add(Part::Finish, "response.reasoning_summary_part.done", at(json!({"part": summary})));
        }
        self.closed(index, item);
    }

    fn message(&mut self, index: usize, item: &Value) {
        self.opened(index, item, &[("content", json!([]))]);
        let id = &item["id"];
        let content = &item["content"][0];
        let mut empty = content.clone();
        empty["text"] = json!("");
        empty["logprobs"] = json!([]);
        let at = json!({"item_id": id, "output_index": index, "content_index": 0});
        let with = |field: &str, value: Value| {
            let mut fields = at.clone();
            fields[field] = value;
            fields
        };
        self.add(Part::Prelude, "response.content_part.added", with("part", empty));
        let wants = content["logprobs"].as_array().is_some_and(|list| !list.is_empty());
        let top = self.turn.body["top_logprobs"].as_u64().unwrap_or(0);
        for piece in texts(item, self.turn.knobs.chunks) {
            let mut fields = with("delta", json!(piece));
            fields["logprobs"] = if wants { logprobs(piece, top)["content"].clone() } else { json!([]) };
            obfuscation(self.turn.body, &mut fields, piece.len());
            self.add(Part::Content, "response.output_text.delta", fields);
        }
        let mut done = with("text", content["text"].clone());
        done["logprobs"] = content["logprobs"].clone();
        self.add(Part::Finish, "response.output_text.done", done);
        self.add(Part::Finish, "response.content_part.done", with("part", content.clone()));
        self.closed(index, item);
    }

    fn call(&mut self, index: usize, item: &Value) {
        let (input, delta, done) = match item["type"].as_str() {
            Some("custom_tool_call") => {
                ("input", "response.custom_tool_call_input.delta", "response.custom_tool_call_input.done")
            }
            _ => ("arguments", "response.function_call_arguments.delta", "response.function_call_arguments.done"),
        };
        self.opened(index, item, &[(input, json!(""))]);
        let id = &item["id"];
        for piece in texts(item, None) {
            let mut fields = json!({"item_id": id, "output_index": index, "delta": piece});
            obfuscation(self.turn.body, &mut fields, piece.len());
            self.add(Part::Content, delta, fields);
        }
        self.add(Part::Finish, done, json!({"item_id": id, "output_index": index, input: item[input]}));
        self.closed(index, item);
    }
}
