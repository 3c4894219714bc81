//! The four dialects as their clients speak them: asks by hand, answers read by hand.
//!
//! Never uses the crate's own `dialect` module, which is under test.

use serde_json::{Value, json};

use super::wire::Reply;

/// A wire form; also the name of the account at the mock that speaks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Chat,
    Responses,
    Anthropic,
    Gemini,
}

pub use Dialect::{Anthropic, Chat, Gemini, Responses};

pub const ALL: [Dialect; 4] = [Chat, Responses, Anthropic, Gemini];

/// What the conversation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// A question.
    Text,
    /// A question that a tool answers.
    Tool,
    /// The tool's result after its call.
    Result,
}

/// What an answer comes to.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Said {
    pub id: String,
    pub text: String,
    pub calls: Vec<Call>,
    pub finish: String,
    /// Input and output tokens.
    pub usage: Option<(u64, u64)>,
    /// The error event of a stream.
    pub error: Option<Value>,
    /// The stream has its own end mark.
    pub done: bool,
}

#[derive(Debug, Default, Clone, PartialEq)]
pub struct Call {
    pub id: String,
    pub name: String,
    pub arguments: String,
}

impl Call {
    pub fn arguments(&self) -> Value {
        serde_json::from_str(&self.arguments).unwrap_or_else(|error| panic!("{error}: {:?}", self.arguments))
    }
}

impl Dialect {
    /// The account at the mock.
    pub fn account(self) -> &'static str {
        match self {
            Chat => "chat",
            Responses => "responses",
            Anthropic => "anthropic",
            Gemini => "gemini",
        }
    }

    /// The name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Chat => "openai_chat",
            Responses => "openai_responses",
            Anthropic => "anthropic",
            Gemini => "gemini",
        }
    }

    pub fn path(self, model: &str, stream: bool) -> String {
        match self {
            Chat => "/v1/chat/completions".to_owned(),
            Responses => "/v1/responses".to_owned(),
            Anthropic => "/v1/messages".to_owned(),
            Gemini if stream => format!("/v1beta/models/{model}:streamGenerateContent?alt=sse"),
            Gemini => format!("/v1beta/models/{model}:generateContent"),
        }
    }

    /// An ask with a system prompt, a tool where one is needed, and `say` as the question.
    pub fn ask(self, model: &str, stream: bool, turn: Turn, say: &str) -> Vec<u8> {
        let mut body = match self {
            Chat => chat(turn, say),
            Responses => responses(turn, say),
            Anthropic => anthropic(turn, say),
            Gemini => gemini(turn, say),
        };
        if self != Gemini {
            body["model"] = json!(model);
            body["stream"] = json!(stream);
        }
        if self == Chat && stream {
            body["stream_options"] = json!({"include_usage": true});
        }
        serde_json::to_vec(&body).expect("JSON")
    }

    /// Reads a whole answer or the stream of one.
    pub fn read(self, reply: &Reply) -> Said {
        let stream = reply.head.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        if stream { self.read_stream(&reply.text()) } else { self.read_answer(&reply.json()) }
    }

    pub fn read_answer(self, body: &Value) -> Said {
        let mut said = Said { done: true, ..Said::default() };
        match self {
            Chat => {
                let choice = &body["choices"][0];
                said.id = word(&body["id"]);
                said.text = word(&choice["message"]["content"]);
                said.calls = list(&choice["message"]["tool_calls"])
                    .iter()
                    .map(|call| Call {
                        id: word(&call["id"]),
                        name: word(&call["function"]["name"]),
                        arguments: word(&call["function"]["arguments"]),
                    })
                    .collect();
                said.finish = word(&choice["finish_reason"]);
                said.usage = counts(&body["usage"], "prompt_tokens", "completion_tokens");
            }
            Responses => response(&mut said, body),
            Anthropic => {
                said.id = word(&body["id"]);
                for block in list(&body["content"]) {
                    match block["type"].as_str() {
                        Some("text") => said.text.push_str(&word(&block["text"])),
                        Some("tool_use") => said.calls.push(Call {
                            id: word(&block["id"]),
                            name: word(&block["name"]),
                            arguments: block["input"].to_string(),
                        }),
                        _ => {}
                    }
                }
                said.finish = word(&body["stop_reason"]);
                said.usage = counts(&body["usage"], "input_tokens", "output_tokens");
            }
            Gemini => candidate(&mut said, body),
        }
        said
    }

    pub fn read_stream(self, text: &str) -> Said {
        let mut said = Said::default();
        for (event, data) in frames(text) {
            if data == "[DONE]" {
                assert_eq!(self, Chat, "[DONE] is OpenAI chat's");
                said.done = true;
                continue;
            }
            let data: Value = serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error}: {data}"));
            match self {
                Chat => chat_chunk(&mut said, &data),
                Responses => {
                    assert_eq!(data["type"], event.as_str(), "event and type differ");
                    response_event(&mut said, &data);
                }
                Anthropic => {
                    assert_eq!(data["type"], event.as_str(), "event and type differ");
                    anthropic_event(&mut said, &data);
                }
                Gemini => {
                    candidate(&mut said, &data);
                    said.done |= !said.finish.is_empty();
                }
            }
        }
        said
    }

    /// The words for a plain end and for a call.
    pub fn finishes(self) -> (&'static str, &'static str) {
        match self {
            Chat => ("stop", "tool_calls"),
            Responses => ("completed", "completed"),
            Anthropic => ("end_turn", "tool_use"),
            Gemini => ("STOP", "STOP"),
        }
    }

    /// Checks that an error body has the dialect's shape; gives its message.
    pub fn error(self, body: &Value) -> String {
        let error = &body["error"];
        match self {
            Chat | Responses => {
                assert!(error["type"].is_string(), "error.type: {body}");
                assert!(error.get("param").is_some() && error.get("code").is_some(), "param and code: {body}");
            }
            Anthropic => {
                assert_eq!(body["type"], "error", "{body}");
                assert!(error["type"].is_string() && body["request_id"].is_string(), "{body}");
            }
            Gemini => assert!(error["code"].is_u64() && error["status"].is_string(), "{body}"),
        }
        let message = word(&error["message"]);
        assert!(!message.is_empty(), "error.message: {body}");
        message
    }

    /// The same for the error event of a stream.
    pub fn error_event(self, event: &Value) -> String {
        match self {
            Responses => {
                let error = if event["type"] == "response.failed" { &event["response"]["error"] } else { event };
                let message = word(&error["message"]);
                assert!(!message.is_empty() && error.get("code").is_some(), "{event}");
                message
            }
            Anthropic => {
                assert!(event["type"] == "error" && event["error"]["type"].is_string(), "{event}");
                word(&event["error"]["message"])
            }
            Chat => {
                assert!(event["error"]["type"].is_string(), "{event}");
                word(&event["error"]["message"])
            }
            Gemini => self.error(event),
        }
    }
}

/// The frames of a stream: event and data. Comments have neither and are left out.
pub fn frames(text: &str) -> Vec<(String, String)> {
    let text = text.replace("\r\n", "\n");
    let frames = text.split("\n\n").map(|frame| {
        let field = |name: &str| {
            let values = frame.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            values.map(|value| value.strip_prefix(' ').unwrap_or(value)).collect::<Vec<_>>().join("\n")
        };
        (field("event"), field("data"))
    });
    frames.filter(|(_, data)| !data.is_empty()).collect()
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn counts(usage: &Value, input: &str, output: &str) -> Option<(u64, u64)> {
    Some((usage[input].as_u64()?, usage[output].as_u64()?))
}

const SYSTEM: &str = "Answer in one line.";

fn schema() -> Value {
    json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
}

fn chat(turn: Turn, say: &str) -> Value {
    let mut messages = vec![json!({"role": "system", "content": SYSTEM}), json!({"role": "user", "content": say})];
    if turn == Turn::Result {
        messages.push(json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_one", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\":\"Ulm\"}"}},
        ]}));
        messages.push(json!({"role": "tool", "tool_call_id": "call_one", "content": "21 degrees"}));
    }
    let mut body = json!({"messages": messages});
    if turn != Turn::Text {
        body["tools"] = json!([{"type": "function", "function": {"name": "get_weather", "parameters": schema()}}]);
    }
    body
}

fn responses(turn: Turn, say: &str) -> Value {
    let mut input = vec![json!({"role": "user", "content": say})];
    if turn == Turn::Result {
        input.push(json!({"type": "function_call", "call_id": "call_one", "name": "get_weather", "arguments": "{\"city\":\"Ulm\"}"}));
        input.push(json!({"type": "function_call_output", "call_id": "call_one", "output": "21 degrees"}));
    }
    let mut body = json!({"instructions": SYSTEM, "input": input});
    if turn != Turn::Text {
        body["tools"] = json!([{"type": "function", "name": "get_weather", "parameters": schema()}]);
    }
    body
}

fn anthropic(turn: Turn, say: &str) -> Value {
    let mut messages = vec![json!({"role": "user", "content": say})];
    if turn == Turn::Result {
        messages.push(json!({"role": "assistant", "content": [
            {"type": "tool_use", "id": "call_one", "name": "get_weather", "input": {"city": "Ulm"}},
        ]}));
        messages.push(json!({"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "call_one", "content": "21 degrees"},
        ]}));
    }
    let mut body = json!({"max_tokens": 1024, "system": SYSTEM, "messages": messages});
    if turn != Turn::Text {
        body["tools"] = json!([{"name": "get_weather", "input_schema": schema()}]);
    }
    body
}

fn gemini(turn: Turn, say: &str) -> Value {
    let mut contents = vec![json!({"role": "user", "parts": [{"text": say}]})];
    if turn == Turn::Result {
        contents.push(
            json!({"role": "model", "parts": [{"functionCall": {"name": "get_weather", "args": {"city": "Ulm"}}}]}),
        );
        contents.push(json!({"role": "user", "parts": [
            {"functionResponse": {"name": "get_weather", "response": {"result": "21 degrees"}}},
        ]}));
    }
    let mut body = json!({"systemInstruction": {"parts": [{"text": SYSTEM}]}, "contents": contents});
    if turn != Turn::Text {
        body["tools"] = json!([{"functionDeclarations": [{"name": "get_weather", "parameters": schema()}]}]);
    }
    body
}

fn chat_chunk(said: &mut Said, data: &Value) {
    if data.get("error").is_some_and(|error| !error.is_null()) {
        said.error = Some(data.clone());
        return;
    }
    said.id = word(&data["id"]);
    if let Some(usage) = counts(&data["usage"], "prompt_tokens", "completion_tokens") {
        said.usage = Some(usage);
    }
    let choice = &data["choices"][0];
    said.text.push_str(&word(&choice["delta"]["content"]));
    for part in list(&choice["delta"]["tool_calls"]) {
        let index = part["index"].as_u64().expect("an index") as usize;
        if said.calls.len() <= index {
            said.calls.resize(index + 1, Call::default());
        }
        let call = &mut said.calls[index];
        call.id.push_str(&word(&part["id"]));
        call.name.push_str(&word(&part["function"]["name"]));
        call.arguments.push_str(&word(&part["function"]["arguments"]));
    }
    if let Some(finish) = choice["finish_reason"].as_str() {
        said.finish = finish.to_owned();
    }
}

fn response(said: &mut Said, body: &Value) {
    said.id = word(&body["id"]);
    said.finish = word(&body["status"]);
    said.usage = counts(&body["usage"], "input_tokens", "output_tokens");
    for item in list(&body["output"]) {
        match item["type"].as_str() {
            Some("message") => {
                list(&item["content"]).iter().for_each(|part| said.text.push_str(&word(&part["text"])));
            }
            Some("function_call") => said.calls.push(Call {
                id: word(&item["call_id"]),
                name: word(&item["name"]),
                arguments: word(&item["arguments"]),
            }),
            _ => {}
        }
    }
}

/// Deltas are gathered, and must agree with the response that ends the stream.
fn response_event(said: &mut Said, data: &Value) {
    match data["type"].as_str().unwrap_or_default() {
        "response.output_text.delta" => said.text.push_str(&word(&data["delta"])),
        "response.output_item.done" if data["item"]["type"] == "function_call" => said.calls.push(Call {
            id: word(&data["item"]["call_id"]),
            name: word(&data["item"]["name"]),
            arguments: word(&data["item"]["arguments"]),
        }),
        "response.completed" | "response.incomplete" => {
            let mut whole = Said::default();
            response(&mut whole, &data["response"]);
            assert_eq!((&whole.text, &whole.calls), (&said.text, &said.calls), "deltas and whole differ");
            (said.id, said.finish, said.usage, said.done) = (whole.id, whole.finish, whole.usage, true);
        }
        "error" | "response.failed" => said.error = Some(data.clone()),
        _ => {}
    }
}

fn anthropic_event(said: &mut Said, data: &Value) {
    match data["type"].as_str().unwrap_or_default() {
        "message_start" => {
            said.id = word(&data["message"]["id"]);
            let input = data["message"]["usage"]["input_tokens"].as_u64().unwrap_or(0);
            said.usage = Some((input, 0));
        }
        "content_block_start" if data["content_block"]["type"] == "tool_use" => said.calls.push(Call {
            id: word(&data["content_block"]["id"]),
            name: word(&data["content_block"]["name"]),
            arguments: String::new(),
        }),
        "content_block_delta" => {
            said.text.push_str(&word(&data["delta"]["text"]));
            if let (Some(part), Some(call)) = (data["delta"]["partial_json"].as_str(), said.calls.last_mut()) {
                call.arguments.push_str(part);
            }
        }
        "message_delta" => {
            said.finish = word(&data["delta"]["stop_reason"]);
            let before = said.usage.unwrap_or_default();
            let count = |key: &str| data["usage"][key].as_u64();
            said.usage = Some((count("input_tokens").unwrap_or(before.0), count("output_tokens").unwrap_or(before.1)));
        }
        "message_stop" => said.done = true,
        "error" => said.error = Some(data.clone()),
        _ => {}
    }
}

fn candidate(said: &mut Said, body: &Value) {
    if body.get("error").is_some() {
        said.error = Some(body.clone());
        return;
    }
    said.id = word(&body["responseId"]);
    let candidate = &body["candidates"][0];
    for part in list(&candidate["content"]["parts"]).iter().filter(|part| part["thought"] != true) {
        said.text.push_str(&word(&part["text"]));
        let call = &part["functionCall"];
        if call.is_object() {
            let arguments = if call["args"].is_object() { call["args"].to_string() } else { "{}".to_owned() };
            said.calls.push(Call { id: word(&call["id"]), name: word(&call["name"]), arguments });
        }
    }
    if let Some(finish) = candidate["finishReason"].as_str() {
        said.finish = finish.to_owned();
    }
    let usage = &body["usageMetadata"];
    if let Some(input) = usage["promptTokenCount"].as_u64() {
        let thought = usage["thoughtsTokenCount"].as_u64().unwrap_or(0);
        said.usage = Some((input, usage["candidatesTokenCount"].as_u64().unwrap_or(0) + thought));
    }
}
