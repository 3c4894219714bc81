//! Requests of the Responses form, written from the neutral one.
//!
//! Fields that only this form knows are written for asks that came in it; what it cannot say is noted as dropped.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::ask::ROLE;
use super::item::{self, PART, is_made};
use super::tools::{self, put};
use super::{NAME, usage};
use crate::chat::reasoning::for_target;
use crate::chat::{
    Ask, Block, Content, Effort, MESSAGE, Media, Message, OutputFormat, Reasoning, Role, ToolCall, ToolResult,
};
use crate::dialect::foreign::FAILED;
use crate::dialect::openai_models::{self, Told};
use crate::dialect::{Encoding, openai_call_id, openai_marks, openai_renames_user, openai_shared};
use crate::fault::{Fault, Kind};
use crate::json;

/// Smallest `max_output_tokens` that the form allows.
const MIN_OUTPUT_TOKENS: u64 = 16;

/// Longest `user` that OpenAI takes, in bytes. Claude Code sends about 150.
const MAX_USER_BYTES: usize = 64;

/// Why a part is left out.
const NO_PART: &str = "the Responses form has no such part for this role";

/// Why cache marks are left out.
const CACHES_ITSELF: &str = "the provider caches by itself";

/// Include words.
const ENCRYPTED: &str = "reasoning.encrypted_content";
const LOGPROBS: &str = "message.output_text.logprobs";

/// What counting takes of an ask.
const COUNTED: &[&str] = &[
    "model",
    "input",
    "instructions",
    "conversation",
    "parallel_tool_calls",
    "previous_response_id",
    "reasoning",
    "text",
    "tool_choice",
    "tools",
    "truncation",
];

pub(super) fn encode(ask: &Ask, to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
    Ok(json::written(&body(ask, to)?))
}

pub(super) fn encode_count(ask: &Ask, to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
    let mut body = body(ask, to)?;
    body.retain(|key, _| COUNTED.contains(&key.as_str()));
    Ok(json::written(&body))
}

fn body(ask: &Ask, to: &mut Encoding<'_>) -> Result<Map<String, Value>, Fault> {
    refuse(ask)?;
    note_dropped(ask, to);
    let own = ask.source == NAME;
    let mut body = Map::new();
    body.insert("model".to_owned(), to.model.into());
    let mut items = Items::new(ask, to);
    put(&mut body, "instructions", items.system());
    for message in &ask.messages {
        items.message(message, to);
    }
    body.insert("input".to_owned(), Value::Array(items.out));
    let tools = tools::encode(ask, Some(to));
    // A choice among no tools is refused; a foreign ask can have lost all of its own.
    if own || !tools.is_empty() {
        put(&mut body, "tool_choice", ask.tool_choice.as_ref().map(|choice| tools::encode_choice(choice, &ask.tools)));
        put(&mut body, "parallel_tool_calls", ask.parallel_tools);
    }
    if !tools.is_empty() {
        body.insert("tools".to_owned(), Value::Array(tools));
    }
    put(&mut body, "max_output_tokens", ask.max_tokens.map(|tokens| tokens.max(MIN_OUTPUT_TOKENS)));
    put(&mut body, "temperature", ask.temperature.clone().map(Value::Number));
    put(&mut body, "top_p", ask.top_p.clone().map(Value::Number));
    put(&mut body, "top_logprobs", ask.top_logprobs);
    let effort = effort(ask, to);
    put(&mut body, "reasoning", reasoning(ask, effort, to));
    put(&mut body, "text", text(ask));
    // A caller of another form does not expect the provider to keep the exchange.
    put(&mut body, "store", ask.store.or((!own).then_some(false)));
    put(&mut body, "metadata", ask.metadata.clone().map(Value::Object));
    let renamed = openai_renames_user(ask) && (own || openai_shared(ask, to).next().is_some());
    put(&mut body, "user", user(ask, to).filter(|_| !renamed));
    put(&mut body, "prompt_cache_key", ask.cache_key.as_deref());
    let own = ask.source == NAME;
    let tier = ask.service_tier.as_deref().filter(|word| own || usage::tier(word).is_some());
    to.drop_if(tier.is_none() && ask.service_tier.is_some(), "service_tier", "the Responses form has no such tier");
    put(&mut body, "service_tier", tier);
    put(&mut body, "previous_response_id", ask.previous_response.as_deref());
    if own {
        for (key, value) in &ask.extra {
            body.entry(key.as_str()).or_insert_with(|| value.clone());
        }
    }
    if !own {
        body.extend(openai_shared(ask, to).map(|(key, value)| (key.clone(), value.clone())));
        openai_models::leave_out(effort.map(Effort::as_str), to, &mut body);
    }
    put(&mut body, "include", include(ask, effort, to));
    if ask.stream {
        body.insert("stream".to_owned(), true.into());
    }
    for field in to.quirks.refuses {
        to.drop_if(body.remove(*field).is_some(), field, "the provider refuses it");
    }
    Ok(body)
}

/// The end user, of foreign asks as much of it as fits: it only has to tell users apart.
fn user<'a>(ask: &'a Ask, to: &mut Encoding<'_>) -> Option<&'a str> {
    let user = ask.user.as_deref()?;
    let end = user.floor_char_boundary(MAX_USER_BYTES);
    if ask.source == NAME || end == user.len() {
        return Some(user);
    }
    to.drop_if(true, "user", "cut to the 64 bytes that OpenAI takes");
    Some(&user[..end])
}

/// What would change the meaning of the answer if it were left out.
fn refuse(ask: &Ask) -> Result<(), Fault> {
    if ask.n.is_some_and(|n| n > 1) {
        return Err(
            Fault::new(Kind::UnsupportedFeature, "The Responses form gives one choice, not several.").param("n")
        );
    }
    if ask.wants("audio") {
        let text = "The Responses form gives no spoken answers.";
        return Err(Fault::new(Kind::UnsupportedFeature, text).param("modalities"));
    }
    if ask.wants("image") {
        let text = "The Responses form gives images by a tool of its own, not as the answer.";
        return Err(Fault::new(Kind::UnsupportedFeature, text).param("modalities"));
    }
    // The OpenAI forms share their files.
    if !matches!(ask.source, NAME | "openai_chat") && ask.messages.iter().any(holds_foreign_file) {
        let text = "A file that another provider holds cannot be sent; send its bytes or a URL.";
        return Err(Fault::new(Kind::UnsupportedFeature, text).param("file_id"));
    }
    Ok(())
}

fn holds_foreign_file(message: &Message) -> bool {
    let held = |content: &Content| {
        matches!(content, Content::Image { source: Media::Id(_), .. } | Content::File { source: Media::Id(_), .. })
    };
    message.blocks.iter().any(|block| match &block.content {
        Content::ToolResult(result) => result.content.iter().any(|block| held(&block.content)),
        content => held(content),
    })
}

fn note_dropped(ask: &Ask, to: &mut Encoding<'_>) {
    const WHY: &str = "the Responses form has no such field";
    to.drop_if(ask.top_k.is_some(), "top_k", WHY);
    to.drop_if(ask.min_p.is_some(), "min_p", WHY);
    to.drop_if(ask.frequency_penalty.is_some(), "frequency_penalty", WHY);
    to.drop_if(ask.presence_penalty.is_some(), "presence_penalty", WHY);
    to.drop_if(!ask.stop.is_empty(), "stop", WHY);
    to.drop_if(ask.seed.is_some(), "seed", WHY);
    to.drop_if(ask.logit_bias.is_some(), "logit_bias", WHY);
    to.drop_if(ask.audio.is_some(), "audio", WHY);
    let marked = ask.source != NAME && ask.system.iter().any(|block| block.cache.is_some());
    to.drop_if(marked && !openai_marks::taken(to), "cache_control", CACHES_ITSELF);
    to.drop_if(ask.messages.iter().any(|message| message.name.is_some()), "messages.name", WHY);
    let lost = ask.extra.len() > openai_shared(ask, to).count();
    to.drop_if(ask.source != NAME && lost, "extra fields", "only the caller's dialect knows them");
}

/// What to add to the answer. Encrypted reasoning must be asked for where the provider keeps nothing, or it cannot be
/// carried to the next turn; models without reasoning refuse that word.
fn include(ask: &Ask, effort: Option<Effort>, to: &mut Encoding<'_>) -> Option<Value> {
    let own = ask.source == NAME;
    let mut words: Vec<Value> = match ask.extra.get("include") {
        Some(Value::Array(words)) if own => words.clone(),
        _ => Vec::new(),
    };
    let thinks = effort != Some(Effort::None) && openai_models::reasons(to).unwrap_or(ask.reasoning.is_some());
    let mut want = |word: &str, wanted: bool| {
        if wanted && !words.iter().any(|known| known == word) {
            words.push(word.into());
        }
    };
    want(ENCRYPTED, !own && ask.store != Some(true) && thinks);
    let told = effort.map(Effort::as_str);
    let refused = !own && openai_models::refused(told, to.model).any(|name| name == "logprobs");
    to.drop_if(refused && ask.logprobs == Some(true), "logprobs", "this model refuses it");
    want(LOGPROBS, !refused && ask.logprobs == Some(true));
    (!words.is_empty()).then(|| Value::Array(words))
}

/// The effort in a word that the model takes; its own callers know the words themselves.
fn effort(ask: &Ask, to: &mut Encoding<'_>) -> Option<Effort> {
    let asked = ask.reasoning.as_ref()?.effort_level(ask.max_tokens)?;
    if ask.source == NAME {
        return Some(asked);
    }
    match openai_models::told(asked, to) {
        Told::AsAsked => Some(asked),
        Told::Word(word) => Some(word),
        Told::Nothing => None,
    }
}

fn reasoning(ask: &Ask, effort: Option<Effort>, to: &Encoding<'_>) -> Option<Value> {
    let mut out = Map::new();
    let never = ask.source != NAME && openai_models::reasons(to) == Some(false);
    if let Some(asked) = ask.reasoning.as_ref().filter(|_| !never) {
        put(&mut out, "effort", effort.map(Effort::as_str));
        // Text of the reasoning exists here as summaries only, and only on demand.
        let wanted = (asked.include == Some(true)).then_some("auto");
        put(&mut out, "summary", asked.summary.as_deref().or(wanted));
    }
    merge(ask, "reasoning", out)
}

fn text(ask: &Ask) -> Option<Value> {
    let mut out = Map::new();
    put(&mut out, "format", ask.output.as_ref().map(tools::encode_format));
    put(&mut out, "verbosity", ask.verbosity.as_deref());
    merge(ask, "text", out)
}

/// Adds what only this form knows of an object.
fn merge(ask: &Ask, key: &str, mut out: Map<String, Value>) -> Option<Value> {
    if ask.source == NAME
        && let Some(Value::Object(rest)) = ask.extra.get(key)
    {
        out.extend(rest.clone());
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

/// The input, item by item.
struct Items<'a> {
    ask: &'a Ask,
    own: bool,
    /// The target takes cache marks; its own callers' stand among the unknown fields.
    marks: bool,
    /// Ids of calls of free-text tools: their results have an item type of their own.
    custom: HashSet<&'a str>,
    out: Vec<Value>,
    /// Parts of the message being gathered, with the message's own fields.
    parts: Vec<Value>,
    fields: Map<String, Value>,
}

impl<'a> Items<'a> {
    fn new(ask: &'a Ask, to: &Encoding<'_>) -> Self {
        let blocks = ask.messages.iter().flat_map(|message| &message.blocks);
        let custom = blocks.filter_map(|block| match &block.content {
            Content::ToolCall(call) if call.custom => Some(call.id.as_str()),
            _ => None,
        });
        Items {
            ask,
            own: ask.source == NAME,
            marks: ask.source != NAME && openai_marks::taken(to),
            custom: custom.collect(),
            out: Vec::new(),
            parts: Vec::new(),
            fields: Map::new(),
        }
    }

    /// `instructions`; system blocks that stood in messages become messages again.
    fn system(&mut self) -> Option<String> {
        // A provider that is to answer in JSON looks for that word in the input alone, and refuses an input of nothing.
        let wants_input = self.ask.output == Some(OutputFormat::JsonObject) || self.ask.messages.is_empty();
        // Instructions hold no marks.
        let marked = self.marks && self.ask.system.iter().any(|block| block.cache.is_some());
        let as_message = !self.own && (wants_input || marked);
        let mut instructions: Vec<&str> = Vec::new();
        for block in &self.ask.system {
            let role = block.extra.get(ROLE).and_then(Value::as_str).filter(|_| self.own);
            let role = role.or(as_message.then_some("system"));
            match (&block.content, role) {
                (Content::Text { text, .. }, None) => instructions.push(text),
                (_, role) => {
                    let role = role.unwrap_or("system");
                    let fields = block.extra.get(MESSAGE).and_then(Value::as_object).filter(|_| self.own);
                    if fields.is_some() || self.fields.get("role").is_some_and(|open| open != role) {
                        self.flush();
                    }
                    self.fields.extend(fields.cloned().unwrap_or_default());
                    self.fields.insert("role".to_owned(), role.into());
                    self.parts.extend(self.part(block, false));
                }
            }
        }
        self.flush();
        (!instructions.is_empty()).then(|| instructions.join("\n\n"))
    }

    fn message(&mut self, message: &'a Message, to: &mut Encoding<'_>) {
        let said = message.extra.get(ROLE).and_then(Value::as_str).filter(|_| self.own);
        let role = match message.role {
            Role::System => said.unwrap_or("system"),
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        let fields = if self.own { message.extra.clone() } else { Map::new() };
        self.open(role, &fields);
        for block in &message.blocks {
            self.block(block, role, to);
        }
        self.flush();
    }

    fn block(&mut self, block: &'a Block, role: &str, to: &mut Encoding<'_>) {
        let part_of_input = role != "assistant" && !matches!(block.content, Content::ToolResult(_));
        let lost = block.cache.is_some() && !self.own && !(self.marks && part_of_input);
        to.drop_if(lost, "cache_control", CACHES_ITSELF);
        let item = match &block.content {
            Content::ToolCall(call) => Some(self.call(call, block)),
            Content::ToolResult(result) => Some(self.result(result, block, to)),
            Content::Reasoning(reasoning) => {
                let item = self.reasoning(reasoning, block);
                to.drop_if(item.is_none(), "messages.reasoning", "another provider made it");
                let Some(item) = item else { return };
                Some(item)
            }
            Content::Other(item) if self.own && !block.extra.contains_key(PART) => Some(item.clone()),
            _ => None,
        };
        if let Some(item) = item {
            self.flush();
            self.out.push(item);
            self.open(role, &Map::new());
            return;
        }
        if let Some(fields) = block.extra.get(MESSAGE).and_then(Value::as_object).filter(|_| self.own) {
            self.flush();
            self.open(role, fields);
        }
        let part = self.part(block, role == "assistant");
        to.drop_if(part.is_none(), "messages.content", NO_PART);
        self.parts.extend(part);
    }

    fn open(&mut self, role: &str, fields: &Map<String, Value>) {
        self.fields = fields.clone();
        self.fields.insert("role".to_owned(), role.into());
    }

    /// Ends the message being gathered.
    fn flush(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        let parts = std::mem::take(&mut self.parts);
        if parts.is_empty() {
            return;
        }
        if fields.get("id").and_then(Value::as_str).is_some_and(is_made) {
            fields.remove("id");
        }
        let mut item = Map::new();
        item.insert("type".to_owned(), "message".into());
        item.extend(fields);
        item.insert("content".to_owned(), Value::Array(parts));
        self.out.push(Value::Object(item));
    }

    fn part(&self, block: &Block, assistant: bool) -> Option<Value> {
        let mut part = match &block.content {
            Content::Text { text, citations } if assistant => {
                let annotations: Vec<_> = if self.own { citations.clone() } else { Vec::new() };
                json!({"type": "output_text", "text": text, "annotations": annotations})
            }
            Content::Text { text, .. } => json!({"type": "input_text", "text": text}),
            Content::Refusal(text) if assistant => json!({"type": "refusal", "refusal": text}),
            Content::Refusal(text) => json!({"type": "input_text", "text": text}),
            Content::Other(part) if self.own && block.extra.contains_key(PART) => return Some(part.clone()),
            // What the assistant said aloud is known as text only.
            Content::Audio { transcript: Some(words), .. } if assistant => {
                json!({"type": "output_text", "text": words, "annotations": []})
            }
            _ if assistant => return None,
            Content::Image { source, detail } => image(source, detail.as_deref())?,
            Content::File { source, name } => file(source, name.as_deref()),
            Content::Audio { data, format, .. } => {
                json!({"type": "input_audio", "input_audio": {"data": data, "format": format}})
            }
            _ => return None,
        };
        if let (true, false, Some(part)) = (self.marks && block.cache.is_some(), assistant, part.as_object_mut()) {
            openai_marks::write(part);
        }
        if let (true, Some(part)) = (self.own, part.as_object_mut()) {
            let rest = block.extra.iter().filter(|(key, _)| *key != MESSAGE && *key != ROLE);
            part.extend(rest.map(|(key, value)| (key.clone(), value.clone())));
        }
        Some(part)
    }

    /// A call's id as the form takes it; its own callers' as they are.
    fn id<'i>(&self, id: &'i str) -> Cow<'i, str> {
        if self.own { Cow::Borrowed(id) } else { openai_call_id(id) }
    }

    fn call(&self, call: &ToolCall, block: &Block) -> Value {
        let mut item = Map::new();
        let kind = if call.custom { "custom_tool_call" } else { "function_call" };
        item.insert("type".to_owned(), kind.into());
        let id = call.item_id.as_deref().filter(|id| self.own && !is_made(id));
        put(&mut item, "id", id);
        item.insert("call_id".to_owned(), self.id(&call.id).into());
        let none = Map::new();
        let (name, space) = tools::bare(&self.ask.tools, &call.name, if self.own { &block.extra } else { &none });
        item.insert("name".to_owned(), name.into());
        put(&mut item, "namespace", space);
        match (call.custom, call.arguments.as_str()) {
            (true, input) => item.insert("input".to_owned(), input.into()),
            (false, "") => item.insert("arguments".to_owned(), "{}".into()),
            (false, arguments) => item.insert("arguments".to_owned(), arguments.into()),
        };
        self.finish(item, block)
    }

    fn result(&self, result: &ToolResult, block: &Block, to: &mut Encoding<'_>) -> Value {
        let custom = result.custom || self.custom.contains(result.id.as_str());
        let kind = if custom { "custom_tool_call_output" } else { "function_call_output" };
        let mut item = Map::new();
        item.insert("type".to_owned(), kind.into());
        item.insert("call_id".to_owned(), self.id(&result.id).into());
        let unknown = |block: &Block| matches!(&block.content, Content::Other(_)) && !self.own;
        to.drop_if(result.content.iter().any(unknown), "messages.content", NO_PART);
        let output = match result.is_error {
            Some(true) => self.output(&[&[Block::text(FAILED)], result.content.as_slice()].concat()),
            _ => self.output(&result.content),
        };
        item.insert("output".to_owned(), output);
        self.finish(item, block)
    }

    /// A string where that says it all: not every server of this form takes parts here.
    fn output(&self, content: &[Block]) -> Value {
        let texts: Option<Vec<&str>> = content
            .iter()
            .map(|block| match &block.content {
                Content::Text { text, .. } if !self.own || block.extra.is_empty() => Some(text.as_str()),
                _ => None,
            })
            .collect();
        match texts {
            Some(texts) if texts.len() < 2 || !self.own => texts.join("\n").into(),
            _ => Value::Array(content.iter().filter_map(|block| self.part(block, false)).collect()),
        }
    }

    /// Only what the provider can check itself goes back to it.
    fn reasoning(&self, reasoning: &Reasoning, block: &Block) -> Option<Value> {
        let origin = if reasoning.origin.is_empty() { self.ask.source } else { reasoning.origin.as_str() };
        let opaque = reasoning.encrypted.as_deref().or(reasoning.signature.as_deref());
        let encrypted = opaque.and_then(|opaque| for_target(opaque, origin, NAME));
        let id = reasoning.id.as_deref().filter(|id| self.own && !is_made(id));
        if encrypted.is_none() && origin != NAME {
            return None;
        }
        let mut item = Map::new();
        item.insert("type".to_owned(), "reasoning".into());
        put(&mut item, "id", id);
        let (text, summary) = match (self.own, reasoning.summary.is_empty()) {
            // A client of another form had nothing but text to keep a summary in.
            (false, true) if !reasoning.text.is_empty() => ("", std::slice::from_ref(&reasoning.text)),
            _ => (reasoning.text.as_str(), reasoning.summary.as_slice()),
        };
        let summary: Vec<_> = summary.iter().map(|text| json!({"type": "summary_text", "text": text})).collect();
        item.insert("summary".to_owned(), Value::Array(summary));
        if !text.is_empty() {
            item.insert("content".to_owned(), json!([{"type": "reasoning_text", "text": text}]));
        }
        put(&mut item, "encrypted_content", encrypted);
        Some(self.finish(item, block))
    }

    /// Adds the item's unknown fields.
    fn finish(&self, mut item: Map<String, Value>, block: &Block) -> Value {
        if self.own {
            item.extend(block.extra.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        if item.get("id").and_then(Value::as_str).is_some_and(item::is_made) {
            item.remove("id");
        }
        Value::Object(item)
    }
}

fn image(source: &Media, detail: Option<&str>) -> Option<Value> {
    let mut part = Map::new();
    part.insert("type".to_owned(), "input_image".into());
    match source {
        Media::Id(id) => part.insert("file_id".to_owned(), id.as_str().into()),
        other => part.insert("image_url".to_owned(), other.to_url()?.into()),
    };
    put(&mut part, "detail", detail);
    Some(Value::Object(part))
}

fn file(source: &Media, name: Option<&str>) -> Value {
    let mut part = Map::new();
    part.insert("type".to_owned(), "input_file".into());
    match source {
        Media::Id(id) => put(&mut part, "file_id", Some(id.as_str())),
        Media::Url { url, .. } => {
            put(&mut part, "file_url", Some(url.as_str()));
            put(&mut part, "filename", name);
        }
        Media::Inline { mime, data } => {
            // Inline data without a name is refused.
            put(&mut part, "filename", Some(source.file_name(name)));
            put(&mut part, "file_data", Some(format!("data:{mime};base64,{data}")));
        }
        Media::Text(text) => return json!({"type": "input_text", "text": text}),
    }
    Value::Object(part)
}
