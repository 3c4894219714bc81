//! Whole answers: the `response` object, read and written.
//!
//! Never makes an answer of an error: a failed response is a fault.

use serde_json::{Map, Value, json};

use super::item::{self, PART, Reader, made_id, string};
use super::response::{self, Echo, Response};
use super::tools::{self, put};
use super::{NAME, usage};
use crate::chat::{Answer, Block, Choice, Content, Extra, Finish, MESSAGE, Media, Reasoning, ToolCall, free_text};
use crate::dialect::{Asked, openai_error, refusal};
use crate::fault::{Fault, Kind};
use crate::json;

pub(super) fn decode(body: &[u8]) -> Result<Answer, Fault> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(response)) => read(response),
        Ok(_) => Err(Fault::new(Kind::BadAnswer, "The provider's answer is not a JSON object.")),
        Err(error) => Err(Fault::new(Kind::BadAnswer, "The provider's answer is not JSON.").because(error)),
    }
}

fn read(mut response: Map<String, Value>) -> Result<Answer, Fault> {
    if let Some(fault) = failure(&response) {
        return Err(fault);
    }
    let Some(Value::Array(items)) = response.remove("output") else {
        return Err(Fault::new(Kind::BadAnswer, "The provider's answer has no `output` list."));
    };
    let status = string(&mut response, "status").unwrap_or_else(|| "completed".to_owned());
    let details = response.remove("incomplete_details");
    let incomplete = details.as_ref().and_then(|details| details.get("reason")).and_then(Value::as_str);
    let mut choice = Choice::default();
    let mut reader = Reader::of_answer();
    for item in items {
        add_logprobs(&mut choice, &item);
        choice.blocks.extend(reader.blocks(item));
    }
    (choice.finish, choice.native_finish) = usage::finish(&status, incomplete, has_calls(&choice.blocks));
    Ok(Answer {
        id: string(&mut response, "id").unwrap_or_default(),
        model: string(&mut response, "model").unwrap_or_default(),
        created: response.remove("created_at").as_ref().and_then(seconds),
        choices: vec![choice],
        usage: usage::decode(response.remove("usage").as_ref()),
        service_tier: string(&mut response, "service_tier"),
        system_fingerprint: None,
        source: NAME,
        extra: own(response),
    })
}

/// What of a response the neutral form has no place for: mostly what was asked, as the provider understood it.
pub(super) fn own(mut response: Map<String, Value>) -> Extra {
    const READ: &[&str] = &[
        "object",
        "error",
        "id",
        "model",
        "created_at",
        "status",
        "incomplete_details",
        "output",
        "usage",
        "service_tier",
    ];
    response.retain(|key, _| !READ.contains(&key.as_str()));
    response
}

/// The fault of a response that failed, or of an error that came with a good status.
pub(super) fn failure(response: &Map<String, Value>) -> Option<Fault> {
    let error = response.get("error").filter(|error| !error.is_null());
    let failed = response.get("status").and_then(Value::as_str) == Some("failed");
    if !failed && (error.is_none() || response.contains_key("output")) {
        return None;
    }
    let error = json!({ "error": error });
    Some(refusal::fault(openai_error::of_value(NAME, 200, &error), None))
}

/// `created_at`, which some servers write as a float.
pub(super) fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64))
}

fn has_calls(blocks: &[Block]) -> bool {
    blocks.iter().any(|block| matches!(block.content, Content::ToolCall(_)))
}

/// Log probabilities stand at each text; the neutral form keeps them in one list.
fn add_logprobs(choice: &mut Choice, item: &Value) {
    let parts = item.get("content").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for entries in parts.iter().filter_map(|part| part.get("logprobs")?.as_array()).filter(|list| !list.is_empty()) {
        let whole = choice.logprobs.get_or_insert_with(|| json!({"content": []}));
        if let Some(content) = whole.get_mut("content").and_then(Value::as_array_mut) {
            content.extend(entries.iter().cloned());
        }
    }
}

pub(super) fn encode(answer: &Answer, asked: &Asked) -> Vec<u8> {
    let none = Choice::default();
    let choice = answer.choices.iter().min_by_key(|choice| choice.index).unwrap_or(&none);
    let own = answer.source == NAME;
    let refused = choice.blocks.iter().any(|block| matches!(block.content, Content::Refusal(_)));
    let (mut status, incomplete) = usage::status(choice.finish, refused);
    if let (true, Some(native @ ("queued" | "in_progress" | "cancelled"))) = (own, choice.native_finish.as_deref()) {
        status = native;
    }
    let extra = if own { answer.extra.clone() } else { Map::new() };
    let error = (status == "failed")
        .then(|| json!({"type": "server_error", "code": "server_error", "message": "The provider failed."}));
    let id = response::id(&answer.id, asked);
    let response = Response {
        id: &id,
        created: answer.created.unwrap_or(asked.now),
        model: if answer.model.is_empty() { &asked.ask.model } else { &answer.model },
        status,
        incomplete,
        error: error.as_ref(),
        output: &output(choice, answer.source, asked),
        usage: answer.usage.as_ref(),
        service_tier: answer.service_tier.as_deref().filter(|word| own || usage::tier(word).is_some()),
        echo: &Echo::new(&asked.ask, &extra),
    };
    // Maps with string keys into memory: cannot fail.
    json::written(&response)
}

/// The choice as output items.
fn output(choice: &Choice, source: &str, asked: &Asked) -> Vec<Value> {
    const STATUS: &str = "completed";
    let mut out = Vec::new();
    let mut message: Option<Map<String, Value>> = None;
    let mut logprobs = choice.logprobs.as_ref().and_then(|all| all.get("content")).and_then(Value::as_array).cloned();
    for block in &choice.blocks {
        let part = match &block.content {
            Content::Text { text, citations } => {
                let length = text.chars().count();
                let annotations = citations.iter().filter_map(|c| item::annotation(c, source, length)).collect();
                text_part(text, annotations, logprobs.take().unwrap_or_default())
            }
            Content::Refusal(text) => json!({"type": "refusal", "refusal": text}),
            Content::Audio { transcript: Some(words), .. } => text_part(words, Vec::new(), Vec::new()),
            Content::Other(part) if source == NAME && block.extra.contains_key(PART) => part.clone(),
            _ => {
                out.extend(message.take().map(Value::Object));
                let at = out.len();
                out.extend(items_of(block, source, asked, at));
                continue;
            }
        };
        let fields = block.extra.get(MESSAGE).and_then(Value::as_object).filter(|_| source == NAME);
        if fields.is_some() {
            out.extend(message.take().map(Value::Object));
        }
        let id = made_id("msg", &asked.id, out.len());
        let open = message.get_or_insert_with(|| message_item(&id, STATUS, Vec::new(), fields));
        if let Some(Value::Array(parts)) = open.get_mut("content") {
            parts.push(part);
        }
    }
    out.extend(message.map(Value::Object));
    // An upstream of this form has said so itself.
    if let (Some(last), false) = (out.last_mut(), source == NAME) {
        mark_cut(last, choice.finish);
    }
    out
}

/// What an answer was cut in the middle of is not complete.
pub(super) fn mark_cut(last: &mut Value, finish: Option<Finish>) {
    if let ("incomplete", Some(status)) = (usage::status(finish, true).0, last.get_mut("status")) {
        *status = "incomplete".into();
    }
}

fn items_of(block: &Block, source: &str, asked: &Asked, at: usize) -> Vec<Value> {
    let none = Extra::new();
    let id = |prefix: &str, index: usize| made_id(prefix, &asked.id, index);
    match &block.content {
        Content::Reasoning(reasoning) => {
            let shown = Shown::of(reasoning, source);
            let id = own_id(reasoning.id.as_deref(), "rs_").unwrap_or_else(|| id("rs", at));
            vec![with_own(reasoning_item(&id, &shown, item::held(reasoning, source)), block, source)]
        }
        Content::ToolCall(call) => {
            let signature = call.signature.as_deref();
            let mut items: Vec<_> =
                signature.map(|sig| item::signature_item(&id("rs", at), sig, source)).into_iter().collect();
            let at = at + items.len();
            let head = Call::of(call, asked, at, if source == NAME { &block.extra } else { &none });
            items.push(with_own(head.item(&head.text(&call.arguments), "completed"), block, source));
            items
        }
        Content::Image { source: media, .. } => {
            let item = image_item(&id("ig", at), media, source);
            item.map(|item| with_own(item, block, source)).into_iter().collect()
        }
        Content::Other(item) if source == NAME => vec![item.clone()],
        _ => Vec::new(),
    }
}

/// Fields that an upstream of this form gave the item beyond those that are known.
pub(super) fn with_own(mut item: Value, block: &Block, source: &str) -> Value {
    if let (true, Some(item)) = (source == NAME, item.as_object_mut()) {
        item.extend(block.extra.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    item
}

/// An id that the upstream gave an item of this kind.
pub(super) fn own_id(id: Option<&str>, prefix: &str) -> Option<String> {
    id.filter(|id| id.starts_with(prefix)).map(str::to_owned)
}

pub(super) fn message_item(
    id: &str,
    status: &str,
    content: Vec<Value>,
    fields: Option<&Map<String, Value>>,
) -> Map<String, Value> {
    let mut item = Map::new();
    item.insert("id".to_owned(), id.into());
    item.insert("type".to_owned(), "message".into());
    item.insert("status".to_owned(), status.into());
    item.insert("role".to_owned(), "assistant".into());
    item.insert("content".to_owned(), Value::Array(content));
    item.extend(fields.cloned().unwrap_or_default());
    item
}

pub(super) fn text_part(text: &str, annotations: Vec<Value>, logprobs: Vec<Value>) -> Value {
    json!({"type": "output_text", "annotations": annotations, "logprobs": logprobs, "text": text})
}

/// Images that a model made, in the item that this form has for them. It holds bytes; URLs stand there only at servers
/// that give them so.
pub(super) fn image_item(id: &str, media: &Media, source: &str) -> Option<Value> {
    let result = match media {
        Media::Inline { data, .. } => data,
        Media::Url { url, .. } if source == NAME => url,
        _ => return None,
    };
    Some(json!({"id": id, "type": "image_generation_call", "status": "completed", "result": result}))
}

/// What a reasoning item shows. Foreign reasoning stands in the summary, which is what clients of this form look at.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub summary: Vec<String>,
    pub content: String,
}

impl Shown {
    fn of(reasoning: &Reasoning, source: &str) -> Shown {
        let foreign = source != NAME || !(reasoning.origin.is_empty() || reasoning.origin == NAME);
        match (foreign, reasoning.summary.is_empty()) {
            (true, true) if reasoning.text.is_empty() => Shown::default(),
            (true, true) => Shown { summary: vec![reasoning.text.clone()], content: String::new() },
            _ => Shown { summary: reasoning.summary.clone(), content: reasoning.text.clone() },
        }
    }
}

pub(super) fn reasoning_item(id: &str, shown: &Shown, held: Option<String>) -> Value {
    let summary: Vec<_> = shown.summary.iter().map(|text| json!({"type": "summary_text", "text": text})).collect();
    let mut item = Map::new();
    item.insert("id".to_owned(), id.into());
    item.insert("type".to_owned(), "reasoning".into());
    item.insert("summary".to_owned(), Value::Array(summary));
    if !shown.content.is_empty() {
        item.insert("content".to_owned(), json!([{"type": "reasoning_text", "text": shown.content}]));
    }
    put(&mut item, "encrypted_content", held);
    Value::Object(item)
}

/// A call as the client knows its tool.
#[derive(Debug)]
pub(super) struct Call {
    pub id: String,
    pub call_id: String,
    name: String,
    namespace: Option<String>,
    pub custom: bool,
    /// The target knew the free-text tool as a function with one parameter; its text is inside.
    pub wrapped: bool,
}

impl Call {
    pub fn of(call: &ToolCall, asked: &Asked, at: usize, extra: &Extra) -> Call {
        let exchange = &asked.id;
        let custom = call.custom || tools::is_custom(&asked.ask.tools, &call.name);
        let (prefix, known) = if custom { ("ctc", "ctc_") } else { ("fc", "fc_") };
        let (name, namespace) = match &call.namespace {
            Some(space) => (call.name.as_str(), Some(space.as_str())),
            None => tools::bare(&asked.ask.tools, &call.name, extra),
        };
        let id = own_id(call.item_id.as_deref(), known).unwrap_or_else(|| made_id(prefix, exchange, at));
        Call {
            // Results are matched by this id, so there must be one.
            call_id: if call.id.is_empty() { made_id("call", exchange, at) } else { call.id.clone() },
            id,
            name: name.to_owned(),
            namespace: namespace.map(str::to_owned),
            custom,
            wrapped: custom && !call.custom,
        }
    }

    /// What the item holds, from what the model wrote.
    pub fn text(&self, arguments: &str) -> String {
        match (self.custom, arguments) {
            // Cohere writes null for none.
            (false, "" | "null") => "{}".to_owned(),
            (true, arguments) if self.wrapped => free_text(arguments),
            (_, arguments) => arguments.to_owned(),
        }
    }

    pub fn item(&self, text: &str, status: &str) -> Value {
        let (kind, field) = if self.custom { ("custom_tool_call", "input") } else { ("function_call", "arguments") };
        let mut item = Map::new();
        item.insert("id".to_owned(), self.id.as_str().into());
        item.insert("type".to_owned(), kind.into());
        item.insert("status".to_owned(), status.into());
        item.insert("call_id".to_owned(), self.call_id.as_str().into());
        item.insert("name".to_owned(), self.name.as_str().into());
        put(&mut item, "namespace", self.namespace.as_deref());
        item.insert(field.to_owned(), text.into());
        Value::Object(item)
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}
