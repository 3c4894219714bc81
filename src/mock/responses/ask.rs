//! Reads a Responses request as strictly as OpenAI does, with the earlier turns it refers to, into a [`Prompt`].

use serde_json::{Value, json};

use crate::mock::answer::Turn;
use crate::mock::openai::{
    format_schema, function_schema, longest, missing, ranges, tool_name, unrecognized, unsupported, wrong_type,
};
use crate::mock::prompt::{Choice, Format, Prompt, Thinking, Tool};
use crate::mock::refusal::Refusal;
use crate::mock::signature;

/// Scope of the proofs in `encrypted_content`.
pub const SCOPE: &str = "openai-responses";

/// Longest `call_id`.
const MAX_CALL_ID: usize = 64;

/// Least `max_output_tokens` that OpenAI takes.
const MIN_OUTPUT_TOKENS: f64 = 16.0;

const FIELDS: &[&str] = &[
    "access_programs",
    "background",
    "background_options",
    "context_management",
    "conversation",
    "image",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "model",
    "moderation",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
];

/// Item kinds with the prefix that their ids must have; an empty prefix is not checked.
const KINDS: &[(&str, &str)] = &[
    ("message", "msg"),
    ("function_call", "fc"),
    ("function_call_output", ""),
    ("custom_tool_call", "ctc"),
    ("custom_tool_call_output", ""),
    ("reasoning", "rs"),
    ("item_reference", ""),
    ("file_search_call", "fs"),
    ("web_search_call", "ws"),
    ("computer_call", "cu"),
    ("computer_call_output", ""),
    ("image_generation_call", "ig"),
    ("code_interpreter_call", "ci"),
    ("local_shell_call", "lsh"),
    ("local_shell_call_output", ""),
    ("shell_call", "sh"),
    ("shell_call_output", ""),
    ("apply_patch_call", "apc"),
    ("apply_patch_call_output", ""),
    ("mcp_list_tools", "mcpl"),
    ("mcp_approval_request", "mcpr"),
    ("mcp_approval_response", ""),
    ("mcp_call", "mcp"),
    ("compaction", "cmp"),
];

/// The conversation as items.
pub struct Items {
    pub all: Vec<Value>,
    /// How many belong to earlier responses.
    pub earlier: usize,
}

/// The input with earlier turns before it and references resolved.
pub fn items(turn: &Turn<'_>) -> Result<Items, Refusal> {
    let body = turn.body;
    let mut all = Vec::new();
    if let Some(id) = body["previous_response_id"].as_str() {
        let Some(stored) = turn.state.response(id) else {
            let message = format!("Previous response with id '{id}' not found.");
            let param = "previous_response_id".to_owned();
            return Err(Refusal::openai(message, param, Some("previous_response_not_found")));
        };
        all = stored.items;
    }
    let earlier = all.len();
    match &body["input"] {
        Value::String(text) => all.push(json!({
            "id": turn.state.id("msg_", 48), "type": "message", "status": "completed", "role": "user",
            "content": [{"type": "input_text", "text": text}],
        })),
        Value::Array(items) => {
            for item in items {
                all.push(resolve(turn, item)?);
            }
        }
        Value::Null if !body["prompt"].is_null() || earlier > 0 => {}
        Value::Null => {
            let message = "One of \"input\" or \"previous_response_id\" or \"prompt\" or \"conversation\" must be \
                           provided.";
            return Err(Refusal::openai(message, None, Some("missing_required_parameter")));
        }
        other => return Err(wrong_type("input", "one of an array of objects or string", other)),
    }
    Ok(Items { all, earlier })
}

/// A reference becomes the item it names; bare items are given the fields they may leave out.
fn resolve(turn: &Turn<'_>, item: &Value) -> Result<Value, Refusal> {
    if item["type"] == "item_reference" {
        let id = item["id"].as_str().unwrap_or_default();
        let found = turn.state.item(id);
        return found.ok_or_else(|| Refusal {
            param: Some("input".to_owned()),
            ..Refusal::new(404, "invalid_request_error", format!("Item with id '{id}' not found."))
        });
    }
    let mut item = item.clone();
    if let Some(fields) = item.as_object_mut()
        && !fields.contains_key("type")
        && fields.contains_key("role")
    {
        fields.insert("type".to_owned(), json!("message"));
    }
    Ok(item)
}

pub fn read(turn: &Turn<'_>, items: &[Value]) -> Result<Prompt, Refusal> {
    let body = turn.body;
    unrecognized(turn, &[FIELDS])?;
    ranges(
        body,
        &[
            ("temperature", 0.0, 2.0),
            ("top_p", 0.0, 1.0),
            ("max_output_tokens", MIN_OUTPUT_TOKENS, f64::MAX),
            ("top_logprobs", 0.0, 20.0),
        ],
    )?;
    let mut prompt = Prompt {
        parallel: body["parallel_tool_calls"] != false,
        max_tokens: body["max_output_tokens"].as_u64(),
        thinking: thinking(&body["reasoning"]),
        ..Prompt::default()
    };
    tools(body, &mut prompt)?;
    prompt.choice = choice(body)?;
    prompt.format = format(&body["text"]["format"])?;
    match &body["instructions"] {
        Value::String(text) => prompt.system(text),
        Value::Null => {}
        other => return Err(wrong_type("instructions", "a string", other)),
    }
    Conversation { prompt: &mut prompt, open: Vec::new() }.read(items)?;
    Ok(prompt)
}

fn thinking(asked: &Value) -> Option<Thinking> {
    if asked.is_null() {
        return None;
    }
    Thinking::of_effort(asked["effort"].as_str().unwrap_or("medium"))
}

fn tools(body: &Value, prompt: &mut Prompt) -> Result<(), Refusal> {
    prompt.measure.json(&body["tools"]);
    for (i, tool) in body["tools"].as_array().into_iter().flatten().enumerate() {
        let at = format!("tools[{i}]");
        let kind = tool["type"].as_str().ok_or_else(|| missing(&format!("{at}.type")))?;
        // Tools that the provider runs are accepted and never called.
        if !matches!(kind, "function" | "custom") {
            continue;
        }
        let name = tool["name"].as_str().ok_or_else(|| missing(&format!("{at}.name")))?;
        tool_name(&format!("{at}.name"), name)?;
        if kind == "function" {
            // `strict` is on unless switched off, but then OpenAI closes the schema by itself.
            function_schema(&format!("{at}.parameters"), name, &tool["parameters"], tool["strict"] == true)?;
        }
        let schema = tool["parameters"].clone();
        prompt.tools.push(Tool { name: name.to_owned(), schema, custom: kind == "custom" });
    }
    Ok(())
}

fn choice(body: &Value) -> Result<Choice, Refusal> {
    let choice = &body["tool_choice"];
    if let Some(word) = choice.as_str() {
        return match word {
            "auto" => Ok(Choice::Auto),
            "none" => Ok(Choice::None),
            "required" => Ok(Choice::Required),
            _ => Err(unsupported("tool_choice".to_owned(), word, &["none", "auto", "required"])),
        };
    }
    match choice["type"].as_str() {
        Some("function" | "custom") => {
            let name = choice["name"].as_str().ok_or_else(|| missing("tool_choice.name"))?;
            let declared = body["tools"].as_array().into_iter().flatten().any(|tool| tool["name"] == name);
            if !declared {
                let message = format!("Tool choice '{name}' not found in 'tools' parameter.");
                return Err(Refusal::openai(message, "tool_choice".to_owned(), None));
            }
            Ok(Choice::Named(name.to_owned()))
        }
        Some("allowed_tools") if choice["mode"] == "required" => {
            Ok(choice["tools"][0]["name"].as_str().map_or(Choice::Required, |name| Choice::Named(name.to_owned())))
        }
        None if choice.is_object() => Err(missing("tool_choice.type")),
        _ => Ok(Choice::Auto),
    }
}

fn format(format: &Value) -> Result<Option<Format>, Refusal> {
    match format["type"].as_str() {
        None if format.is_null() => Ok(None),
        None => Err(missing("text.format.type")),
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Format::JsonObject)),
        Some("json_schema") => {
            let name = format["name"].as_str().ok_or_else(|| missing("text.format.name"))?;
            tool_name("text.format.name", name)?;
            if format["schema"].is_null() {
                return Err(missing("text.format.schema"));
            }
            format_schema("text.format.schema", name, &format["schema"], format["strict"] == true)?;
            Ok(Some(Format::Schema(format["schema"].clone())))
        }
        Some(other) => Err(unsupported("text.format.type".to_owned(), other, &["json_object", "json_schema", "text"])),
    }
}

/// Reads the items; `open` are the calls that still wait for their outputs.
struct Conversation<'a> {
    prompt: &'a mut Prompt,
    open: Vec<String>,
}

impl Conversation<'_> {
    fn read(&mut self, items: &[Value]) -> Result<(), Refusal> {
        for (i, item) in items.iter().enumerate() {
            let at = format!("input[{i}]");
            let kind = item["type"].as_str().ok_or_else(|| missing(&format!("{at}.type")))?;
            let Some((_, prefix)) = KINDS.iter().find(|(known, _)| *known == kind) else {
                let known: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
                return Err(unsupported(at, kind, &known));
            };
            item_id(&at, item, prefix)?;
            match kind {
                "message" => self.message(&at, item)?,
                "function_call" | "custom_tool_call" => self.call(&at, item)?,
                "function_call_output" | "custom_tool_call_output" => self.output(&at, item)?,
                "reasoning" => {
                    self.prompt.answer_turn();
                    reasoning(item)?;
                    let follows = items.get(i + 1).is_some_and(|next| next["role"] != "user");
                    if !follows && item["id"].is_string() {
                        let id = item["id"].as_str().unwrap_or_default();
                        let message = format!(
                            "Item '{id}' of type 'reasoning' was provided without its required following item."
                        );
                        return Err(Refusal::openai(message, "input".to_owned(), None));
                    }
                }
                _ => self.prompt.measure.json(item),
            }
        }
        match self.open.first() {
            Some(id) => {
                let message = format!("No tool output found for function call {id}.");
                Err(Refusal::openai(message, "input".to_owned(), None))
            }
            None => Ok(()),
        }
    }

    fn message(&mut self, at: &str, item: &Value) -> Result<(), Refusal> {
        let role = item["role"].as_str().ok_or_else(|| missing(&format!("{at}.role")))?;
        let allowed: &[&str] = match role {
            "user" | "system" | "developer" => &["input_text", "input_image", "input_file", "input_audio"],
            "assistant" => &["output_text", "refusal"],
            _ => {
                let roles = ["assistant", "system", "developer", "user"];
                return Err(unsupported(format!("{at}.role"), role, &roles));
            }
        };
        match role {
            "user" => self.prompt.user_turn(),
            "assistant" => self.prompt.answer_turn(),
            _ => {}
        }
        let content = &item["content"];
        if let Some(text) = content.as_str() {
            self.text(role, text);
            return Ok(());
        }
        let Some(parts) = content.as_array() else {
            return Err(match content {
                Value::Null => missing(&format!("{at}.content")),
                other => wrong_type(&format!("{at}.content"), "one of an array of objects or string", other),
            });
        };
        for (i, part) in parts.iter().enumerate() {
            let at = format!("{at}.content[{i}]");
            let kind = part["type"].as_str().ok_or_else(|| missing(&format!("{at}.type")))?;
            match kind {
                _ if !allowed.contains(&kind) => return Err(unsupported(at, kind, allowed)),
                "input_image" => {
                    if part["image_url"].is_null() && part["file_id"].is_null() {
                        return Err(missing(&format!("{at}.image_url")));
                    }
                    self.prompt.image(if part["image_url"].is_null() { &part["file_id"] } else { &part["image_url"] });
                }
                "input_file" => self.prompt.file(part),
                "input_audio" => self.prompt.audio(part),
                _ => {
                    let field = if kind == "refusal" { "refusal" } else { "text" };
                    let text = part[field].as_str().ok_or_else(|| missing(&format!("{at}.{field}")))?;
                    self.text(role, text);
                }
            }
            self.prompt.measure.mark(&part["prompt_cache_breakpoint"]);
        }
        Ok(())
    }

    fn text(&mut self, role: &str, text: &str) {
        match role {
            "user" => self.prompt.user_text(text),
            "assistant" => self.prompt.measure.text(text),
            _ => self.prompt.system(text),
        }
    }

    fn call(&mut self, at: &str, item: &Value) -> Result<(), Refusal> {
        self.prompt.answer_turn();
        let input = if item["type"] == "custom_tool_call" { "input" } else { "arguments" };
        for field in ["call_id", "name", input] {
            let text = item[field].as_str().ok_or_else(|| missing(&format!("{at}.{field}")))?;
            self.prompt.measure.text(text);
        }
        let id = item["call_id"].as_str().unwrap_or_default();
        longest(&format!("{at}.call_id"), id, MAX_CALL_ID)?;
        self.open.push(id.to_owned());
        Ok(())
    }

    fn output(&mut self, at: &str, item: &Value) -> Result<(), Refusal> {
        let id = item["call_id"].as_str().ok_or_else(|| missing(&format!("{at}.call_id")))?;
        let Some(place) = self.open.iter().position(|open| open == id) else {
            let message = format!("No tool call found for function call output with call_id {id}.");
            return Err(Refusal::openai(message, "input".to_owned(), None));
        };
        self.open.remove(place);
        match &item["output"] {
            Value::String(text) => self.prompt.tool_result(text.clone()),
            Value::Array(parts) => {
                for part in parts.iter().filter(|part| part["type"] == "input_image") {
                    self.prompt.image(&part["image_url"]);
                }
                let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
                self.prompt.tool_result(texts.join("\n"));
            }
            Value::Null => return Err(missing(&format!("{at}.output"))),
            other => return Err(wrong_type(&format!("{at}.output"), "one of an array or string", other)),
        }
        Ok(())
    }
}

/// Ids are given back as they were made: each kind has its prefix.
fn item_id(at: &str, item: &Value, prefix: &str) -> Result<(), Refusal> {
    let Some(id) = item["id"].as_str() else { return Ok(()) };
    longest(&format!("{at}.id"), id, MAX_CALL_ID)?;
    if prefix.is_empty() || id.starts_with(prefix) {
        return Ok(());
    }
    let message = format!("Invalid '{at}.id': '{id}'. Expected an ID that begins with '{prefix}'.");
    Err(Refusal::openai(message, format!("{at}.id"), Some("invalid_value")))
}

fn reasoning(item: &Value) -> Result<(), Refusal> {
    if !item["summary"].is_array() {
        return Err(missing("input.summary"));
    }
    let Some(sealed) = item["encrypted_content"].as_str() else { return Ok(()) };
    if signature::is_ours(SCOPE, sealed, None) {
        return Ok(());
    }
    let shown: String = sealed.chars().take(4).collect();
    let message = format!(
        "The encrypted content {shown}... could not be verified. Reason: Encrypted content could not be decrypted or \
         parsed."
    );
    Err(Refusal::openai(message, None, Some("invalid_encrypted_content")))
}
