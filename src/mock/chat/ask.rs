//! Reads a chat request as strictly as OpenAI does, into a [`Prompt`].

use serde_json::{Value, json};

use crate::mock::answer::Turn;
use crate::mock::openai::{
    format_schema, function_schema, longest, missing, ranges, required, tool_name, unrecognized, unsupported,
    wrong_type,
};
use crate::mock::prompt::{Choice, Format, Prompt, Thinking, Tool};
use crate::mock::refusal::Refusal;
use crate::mock::signature;

/// Scope of the proofs in `reasoning_details`.
pub const SCOPE: &str = "openai-chat";

/// The top-level fields that OpenAI knows.
const FIELDS: &[&str] = &[
    "messages",
    "model",
    "modalities",
    "verbosity",
    "reasoning_effort",
    "max_completion_tokens",
    "frequency_penalty",
    "presence_penalty",
    "web_search_options",
    "top_logprobs",
    "response_format",
    "audio",
    "store",
    "stream",
    "stop",
    "logit_bias",
    "logprobs",
    "max_tokens",
    "n",
    "prediction",
    "seed",
    "stream_options",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "function_call",
    "functions",
    "metadata",
    "temperature",
    "top_p",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "moderation",
    "prompt_cache_retention",
    "service_tier",
];

const ROLES: &[&str] = &["system", "assistant", "user", "function", "tool", "developer"];

/// Longest `tool_calls[].id`.
const MAX_CALL_ID: usize = 40;

pub fn read(turn: &Turn<'_>) -> Result<Prompt, Refusal> {
    let body = turn.body;
    unrecognized(turn, &[FIELDS])?;
    let messages = required(body, "messages")?;
    let Some(messages) = messages.as_array() else {
        return Err(wrong_type("messages", "an array of objects", messages));
    };
    if messages.is_empty() {
        let message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array \
                       instead.";
        return Err(Refusal::openai(message, "messages".to_owned(), Some("empty_array")));
    }
    scalars(body)?;
    let mut prompt = Prompt {
        choices: usize::try_from(body["n"].as_u64().unwrap_or(1)).unwrap_or(1),
        parallel: body["parallel_tool_calls"] != false,
        max_tokens: body["max_completion_tokens"].as_u64().or(body["max_tokens"].as_u64()),
        thinking: thinking(body),
        ..Prompt::default()
    };
    tools(body, &mut prompt)?;
    prompt.choice = choice(body)?;
    Messages { prompt: &mut prompt, open: Vec::new() }.read(messages)?;
    prompt.format = format(body, messages)?;
    prompt.stop = stops(body)?;
    Ok(prompt)
}

fn scalars(body: &Value) -> Result<(), Refusal> {
    ranges(
        body,
        &[
            ("temperature", 0.0, 2.0),
            ("top_p", 0.0, 1.0),
            ("frequency_penalty", -2.0, 2.0),
            ("presence_penalty", -2.0, 2.0),
            ("n", 1.0, 128.0),
            ("max_tokens", 1.0, f64::MAX),
            ("max_completion_tokens", 1.0, f64::MAX),
            ("top_logprobs", 0.0, 20.0),
        ],
    )?;
    if body["max_tokens"].is_u64() && body["max_completion_tokens"].is_u64() {
        let message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.";
        return Err(Refusal::openai(message, "max_tokens".to_owned(), Some("invalid_parameter_combination")));
    }
    if body["stream_options"].is_object() && body["stream"] != true {
        let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        return Err(Refusal::openai(message, "stream_options".to_owned(), None));
    }
    if body["top_logprobs"].is_u64() && body["logprobs"] != true {
        let message = "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.";
        return Err(Refusal::openai(message, "top_logprobs".to_owned(), None));
    }
    match &body["reasoning_effort"] {
        Value::Null => Ok(()),
        Value::String(word) => {
            let known = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
            if known.contains(&word.as_str()) {
                return Ok(());
            }
            Err(unsupported("reasoning_effort".to_owned(), word, &known))
        }
        other => Err(wrong_type("reasoning_effort", "one of 'low', 'medium', or 'high'", other)),
    }
}

/// Every spelling that chat providers know for "think first".
fn thinking(body: &Value) -> Option<Thinking> {
    if let Some(effort) = body["reasoning_effort"].as_str() {
        return Thinking::of_effort(effort);
    }
    let asked = &body["reasoning"];
    if asked["enabled"] == false {
        return None;
    }
    if let Some(effort) = asked["effort"].as_str() {
        return Thinking::of_effort(effort);
    }
    if let Some(budget) = asked["max_tokens"].as_u64() {
        return Thinking::of_budget(budget);
    }
    let on = asked["enabled"] == true
        || body["thinking"]["type"] == "enabled"
        || body["enable_thinking"] == true
        || body["chat_template_kwargs"]["enable_thinking"] == true;
    let budget = body["thinking_budget"].as_u64().or(body["thinking"]["budget_tokens"].as_u64());
    if on { budget.map_or(Thinking::of_effort("medium"), Thinking::of_budget) } else { None }
}

fn tools(body: &Value, prompt: &mut Prompt) -> Result<(), Refusal> {
    let listed = &body["tools"];
    if !listed.is_null() && !listed.is_array() {
        return Err(wrong_type("tools", "an array of objects", listed));
    }
    if listed.as_array().is_some_and(Vec::is_empty) {
        let message =
            "Invalid 'tools': empty array. Expected an array with minimum length 1, but got an empty array instead.";
        return Err(Refusal::openai(message, "tools".to_owned(), Some("empty_array")));
    }
    prompt.measure.json(listed);
    for (i, tool) in listed.as_array().into_iter().flatten().enumerate() {
        let at = format!("tools[{i}]");
        let kind = tool["type"].as_str().ok_or_else(|| missing(&format!("{at}.type")))?;
        if !matches!(kind, "function" | "custom") {
            return Err(unsupported(format!("{at}.type"), kind, &["function", "custom"]));
        }
        let inner = &tool[kind];
        let name = inner["name"].as_str().ok_or_else(|| missing(&format!("{at}.{kind}.name")))?;
        tool_name(&format!("{at}.{kind}.name"), name)?;
        if kind == "function" {
            let param = format!("{at}.function.parameters");
            function_schema(&param, name, &inner["parameters"], inner["strict"] == true)?;
        }
        let schema = inner["parameters"].clone();
        prompt.tools.push(Tool { name: name.to_owned(), schema, custom: kind == "custom" });
    }
    for function in body["functions"].as_array().into_iter().flatten() {
        prompt.measure.json(function);
    }
    Ok(())
}

fn choice(body: &Value) -> Result<Choice, Refusal> {
    let choice = &body["tool_choice"];
    if !choice.is_null() && body["tools"].is_null() {
        let message = "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.";
        return Err(Refusal::openai(message, "tool_choice".to_owned(), None));
    }
    if let Some(word) = choice.as_str() {
        return match word {
            "auto" => Ok(Choice::Auto),
            "none" => Ok(Choice::None),
            "required" => Ok(Choice::Required),
            _ => Err(unsupported("tool_choice".to_owned(), word, &["none", "auto", "required"])),
        };
    }
    let Some(kind) = choice["type"].as_str() else {
        return if choice.is_object() { Err(missing("tool_choice.type")) } else { Ok(Choice::Auto) };
    };
    match kind {
        "function" | "custom" => {
            let name = choice[kind]["name"].as_str().ok_or_else(|| missing(&format!("tool_choice.{kind}.name")))?;
            let declared = body["tools"].as_array().into_iter().flatten().any(|tool| tool[kind]["name"] == name);
            if !declared {
                let message = format!("Invalid value: Tool choice '{name}' not found in 'tools' parameter.");
                return Err(Refusal::openai(message, "tool_choice".to_owned(), None));
            }
            Ok(Choice::Named(name.to_owned()))
        }
        "allowed_tools" if choice["allowed_tools"]["mode"] == "required" => {
            let first = &choice["allowed_tools"]["tools"][0]["function"]["name"];
            Ok(first.as_str().map_or(Choice::Required, |name| Choice::Named(name.to_owned())))
        }
        "allowed_tools" => Ok(Choice::Auto),
        _ => Err(unsupported("tool_choice.type".to_owned(), kind, &["function", "allowed_tools", "custom"])),
    }
}

fn format(body: &Value, messages: &[Value]) -> Result<Option<Format>, Refusal> {
    let format = &body["response_format"];
    match format["type"].as_str() {
        None if format.is_null() => Ok(None),
        None => Err(missing("response_format.type")),
        Some("text") => Ok(None),
        Some("json_object") => {
            let says = messages.iter().any(|message| message["content"].to_string().to_lowercase().contains("json"));
            if !says {
                let message = "'messages' must contain the word 'json' in some form, to use 'response_format' of type \
                               'json_object'.";
                return Err(Refusal::openai(message, "messages".to_owned(), None));
            }
            Ok(Some(Format::JsonObject))
        }
        Some("json_schema") => {
            let inner = &format["json_schema"];
            let name = inner["name"].as_str().ok_or_else(|| missing("response_format.json_schema.name"))?;
            tool_name("response_format.json_schema.name", name)?;
            let schema = &inner["schema"];
            format_schema("response_format", name, schema, inner["strict"] == true)?;
            Ok(Some(Format::Schema(schema.clone())))
        }
        Some(other) => {
            Err(unsupported("response_format.type".to_owned(), other, &["json_object", "json_schema", "text"]))
        }
    }
}

fn stops(body: &Value) -> Result<Vec<String>, Refusal> {
    match &body["stop"] {
        Value::String(stop) => Ok(vec![stop.clone()]),
        Value::Array(stops) if stops.len() > 4 => {
            let message = format!(
                "Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length \
                 {} instead.",
                stops.len()
            );
            Err(Refusal::openai(message, "stop".to_owned(), Some("array_above_max_length")))
        }
        Value::Array(stops) => Ok(stops.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
        _ => Ok(Vec::new()),
    }
}

/// Reads the conversation; `open` are the calls that still wait for their results.
struct Messages<'a> {
    prompt: &'a mut Prompt,
    open: Vec<String>,
}

impl Messages<'_> {
    fn read(&mut self, messages: &[Value]) -> Result<(), Refusal> {
        for (i, message) in messages.iter().enumerate() {
            let at = format!("messages[{i}]");
            if !message.is_object() {
                return Err(wrong_type(&at, "an object", message));
            }
            let role = message["role"].as_str().ok_or_else(|| missing(&format!("{at}.role")))?;
            if !ROLES.contains(&role) {
                return Err(unsupported(format!("{at}.role"), role, ROLES));
            }
            if role != "tool" {
                self.answered(&at)?;
            }
            match role {
                "system" | "developer" => {
                    let text = self.texts(&at, &message["content"], &["text"])?;
                    self.prompt.system(&text);
                    for part in message["content"].as_array().into_iter().flatten() {
                        mark(self.prompt, part);
                    }
                }
                "user" => self.user(&at, &message["content"])?,
                "assistant" => self.assistant(&at, message)?,
                "tool" => self.tool(&at, message)?,
                _ => self.prompt.tool_result(message["content"].as_str().unwrap_or_default().to_owned()),
            }
        }
        self.answered(&format!("messages[{}]", messages.len()))
    }

    /// Refuses to go on while calls have no results.
    fn answered(&self, at: &str) -> Result<(), Refusal> {
        if self.open.is_empty() {
            return Ok(());
        }
        let message = format!(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each \
             'tool_call_id'. The following tool_call_ids did not have response messages: {}",
            self.open.join(", ")
        );
        Err(Refusal::openai(message, format!("{at}.role"), None))
    }

    fn user(&mut self, at: &str, content: &Value) -> Result<(), Refusal> {
        self.prompt.user_turn();
        if let Some(text) = content.as_str() {
            self.prompt.user_text(text);
            return Ok(());
        }
        for (i, part) in parts(at, content)?.iter().enumerate() {
            let at = format!("{at}.content[{i}]");
            let kind = part["type"].as_str().ok_or_else(|| missing(&format!("{at}.type")))?;
            match kind {
                "text" => {
                    let text = part["text"].as_str().ok_or_else(|| missing(&format!("{at}.text")))?;
                    self.prompt.user_text(text);
                }
                "image_url" => {
                    let url =
                        part["image_url"]["url"].as_str().ok_or_else(|| missing(&format!("{at}.image_url.url")))?;
                    image_url(&at, url)?;
                    self.prompt.image(&part["image_url"]["url"]);
                }
                "input_audio" => {
                    let sound = &part["input_audio"];
                    for field in ["data", "format"] {
                        sound[field].as_str().ok_or_else(|| missing(&format!("{at}.input_audio.{field}")))?;
                    }
                    self.prompt.audio(sound);
                }
                "file" => self.prompt.file(&part["file"]),
                _ => {
                    let allowed = ["text", "image_url", "input_audio", "refusal", "audio", "file"];
                    return Err(unsupported(format!("{at}.type"), kind, &allowed));
                }
            }
            mark(self.prompt, part);
        }
        Ok(())
    }

    fn assistant(&mut self, at: &str, message: &Value) -> Result<(), Refusal> {
        self.prompt.answer_turn();
        let calls = &message["tool_calls"];
        let content = &message["content"];
        let silent = content.is_null() && calls.is_null() && message["function_call"].is_null();
        if silent && message["refusal"].is_null() && message["audio"].is_null() {
            let message = "Invalid value for 'content': expected a string, got null.";
            return Err(Refusal::openai(message, format!("{at}.content"), None));
        }
        if !content.is_null() {
            let text = self.texts(at, content, &["text", "refusal"])?;
            self.prompt.measure.text(&text);
        }
        for detail in message["reasoning_details"].as_array().into_iter().flatten() {
            let proof = detail["signature"].as_str();
            if proof.is_some_and(|proof| !signature::is_ours(SCOPE, proof, None)) {
                let message = format!("{at}.reasoning_details: Invalid `signature` in `thinking` block");
                return Err(Refusal::openai(message, format!("{at}.reasoning_details"), None));
            }
        }
        self.prompt.measure.json(calls);
        if calls.as_array().is_some_and(Vec::is_empty) {
            let message = format!(
                "Invalid '{at}.tool_calls': empty array. Expected an array with minimum length 1, but got an empty \
                 array instead."
            );
            return Err(Refusal::openai(message, format!("{at}.tool_calls"), Some("empty_array")));
        }
        for (i, call) in calls.as_array().into_iter().flatten().enumerate() {
            let at = format!("{at}.tool_calls[{i}]");
            let id = call["id"].as_str().ok_or_else(|| missing(&format!("{at}.id")))?;
            longest(&format!("{at}.id"), id, MAX_CALL_ID)?;
            let kind = call["type"].as_str().ok_or_else(|| missing(&format!("{at}.type")))?;
            let (name, input) = if kind == "custom" { ("name", "input") } else { ("name", "arguments") };
            for field in [name, input] {
                call[kind][field].as_str().ok_or_else(|| missing(&format!("{at}.{kind}.{field}")))?;
            }
            self.open.push(id.to_owned());
        }
        Ok(())
    }

    fn tool(&mut self, at: &str, message: &Value) -> Result<(), Refusal> {
        let Some(id) = message["tool_call_id"].as_str() else { return Err(missing(&format!("{at}.tool_call_id"))) };
        let Some(place) = self.open.iter().position(|open| open == id) else {
            let message = "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with \
                           'tool_calls'.";
            return Err(Refusal::openai(message, format!("{at}.role"), None));
        };
        self.open.remove(place);
        let text = self.texts(at, &message["content"], &["text"])?;
        self.prompt.tool_result(text);
        Ok(())
    }

    /// Content that may only be text: a string or parts of the kinds allowed.
    fn texts(&mut self, at: &str, content: &Value, allowed: &[&str]) -> Result<String, Refusal> {
        if let Some(text) = content.as_str() {
            return Ok(text.to_owned());
        }
        let mut text = String::new();
        for (i, part) in parts(at, content)?.iter().enumerate() {
            let kind = part["type"].as_str().ok_or_else(|| missing(&format!("{at}.content[{i}].type")))?;
            if !allowed.contains(&kind) {
                return Err(unsupported(format!("{at}.content[{i}].type"), kind, allowed));
            }
            let words = &part[kind];
            text.push_str(words.as_str().ok_or_else(|| missing(&format!("{at}.content[{i}].{kind}")))?);
        }
        Ok(text)
    }
}

/// A cache breakpoint, in OpenAI's spelling or in that of routers.
fn mark(prompt: &mut Prompt, part: &Value) {
    prompt.measure.mark(&part["prompt_cache_breakpoint"]);
    prompt.measure.mark(&part["cache_control"]);
}

fn parts<'a>(at: &str, content: &'a Value) -> Result<&'a [Value], Refusal> {
    match content {
        Value::Array(parts) => Ok(parts),
        Value::Null => {
            let message = "Invalid value for 'content': expected a string, got null.";
            Err(Refusal::openai(message, format!("{at}.content"), None))
        }
        other => Err(wrong_type(&format!("{at}.content"), "one of a string or array of objects", other)),
    }
}

/// An image is a web address or a base64 `data:` URL.
fn image_url(at: &str, url: &str) -> Result<(), Refusal> {
    let inline = url.strip_prefix("data:").map(|rest| rest.contains(";base64,"));
    if inline == Some(true) || url.starts_with("http://") || url.starts_with("https://") {
        return Ok(());
    }
    let message = match inline {
        Some(_) => "Invalid base64 image_url.".to_owned(),
        None => format!("Invalid image URL: {}. The URL must be http, https or a base64 data URL.", json!(url)),
    };
    Err(Refusal::openai(message, format!("{at}.image_url.url"), Some("invalid_image_url")))
}
