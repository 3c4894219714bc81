//! Neutral events, written as a client's stream of the Responses form.
//!
//! Every event that the form has around a delta is sent, numbered without gaps: typed clients put the response together
//! from them and fail on a part that was not announced. The terminal event waits for `finish`, because usage may come
//! after the reason of the end.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::answer::{Call, Shown, image_item, mark_cut, message_item, own_id, reasoning_item, text_part, with_own};
use super::item::{self, PART, made_id};
use super::response::{self, Echo, Response};
use super::{NAME, failure, usage};
use crate::chat::{Block, Content, Delta, Event, Extra, Finish, Opened, Reasoning, Start, ToolCall, Usage};
use crate::dialect::{Asked, Encoder};
use crate::fault::Fault;
use crate::sse;

pub(super) struct ResponsesEncoder {
    asked: Asked,
    echo: Echo,
    /// `sequence_number` of the next event.
    number: u64,
    start: Option<Start>,
    id: String,
    /// Items by `output_index`; null until they are done.
    output: Vec<Value>,
    /// The message that text goes to, kept open while texts follow each other.
    message: Option<Message>,
    /// What an upstream of this form says of the message that comes next.
    own: Extra,
    blocks: Vec<(u32, Open)>,
    finish: Option<Finish>,
    /// A refusal went by.
    refused: bool,
    usage: Option<Usage>,
    failed: bool,
    /// Who went on where the stream broke off.
    continued: Vec<String>,
}

struct Message {
    at: usize,
    id: String,
    own: Extra,
    parts: Vec<Value>,
}

/// A block that is open.
enum Open {
    Text {
        text: String,
        annotations: Vec<Value>,
        logprobs: Vec<Value>,
        /// Citations of other dialects, which may come before the text that they are of.
        cited: Vec<Value>,
    },
    Refusal(String),
    Reasoning(Box<Thinking>),
    Call {
        call: Call,
        at: usize,
        text: String,
    },
}

struct Thinking {
    at: usize,
    id: String,
    shown: Shown,
    /// Index of the summary part that is open.
    part: Option<usize>,
    /// How many summary parts text took before the first summary came.
    shift: usize,
    held: Reasoning,
}

/// Where an event belongs, between its number and its payload.
#[derive(Serialize)]
struct At<'a, T: Serialize> {
    #[serde(rename = "type")]
    kind: &'static str,
    sequence_number: u64,
    item_id: &'a str,
    output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary_index: Option<usize>,
    #[serde(flatten)]
    payload: T,
}

#[derive(Serialize)]
struct TextDelta<'a> {
    delta: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<&'a [Value]>,
}

#[derive(Serialize)]
struct ItemEvent<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    sequence_number: u64,
    output_index: usize,
    item: &'a Value,
}

#[derive(Serialize)]
struct ResponseEvent<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    sequence_number: u64,
    response: Response<'a>,
}

impl ResponsesEncoder {
    pub fn new(asked: &Asked) -> Self {
        ResponsesEncoder {
            echo: Echo::new(&asked.ask, &Map::new()),
            asked: asked.clone(),
            number: 0,
            start: None,
            id: String::new(),
            output: Vec::new(),
            message: None,
            own: Extra::new(),
            blocks: Vec::new(),
            finish: None,
            refused: false,
            usage: None,
            failed: false,
            continued: Vec::new(),
        }
    }
}

impl Encoder for ResponsesEncoder {
    fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.failed {
            return;
        }
        match event {
            Event::Start(start) => self.begin(start.clone(), out),
            Event::Open { choice: 0, index, block } => {
                self.ensure_begun(out);
                self.open(*index, block, out);
            }
            Event::Delta { choice: 0, index, delta } => self.delta(*index, delta, out),
            Event::Close { choice: 0, index } => self.close(*index, out),
            Event::Finish { choice: 0, reason, .. } => self.finish = Some(*reason),
            Event::Usage(usage) => self.usage.get_or_insert_default().update(usage),
            Event::Tier(tier) => self.start.get_or_insert_default().service_tier = Some(tier.clone()),
            Event::Message(own) if self.source() == NAME => {
                self.close_message(out);
                self.own.clone_from(own);
                self.own.remove("status");
            }
            Event::Extra(own) if self.source() == NAME => self.echo = Echo::new(&self.asked.ask, own),
            Event::Fault(fault) => self.fail(fault, out),
            // The form gives one choice; keep-alives are comments, which are not the dialect's affair.
            _ => {}
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if self.failed {
            return;
        }
        self.ensure_begun(out);
        self.close_all(out);
        let (status, _) = usage::status(self.finish, self.refused);
        let kind = match status {
            "incomplete" => "response.incomplete",
            "failed" => "response.failed",
            _ => "response.completed",
        };
        let error = (status == "failed").then(|| json!({"code": "server_error", "message": "The provider failed."}));
        if !self.continued.is_empty() {
            // Metadata of this form holds texts.
            self.echo.add_metadata("portcullis_continued_by", &self.continued.join(", "));
        }
        self.response(kind, status, error.as_ref(), out);
    }

    fn continued(&mut self, by: &str) {
        self.continued.push(by.to_owned());
    }
}

impl ResponsesEncoder {
    fn begin(&mut self, start: Start, out: &mut Vec<u8>) {
        if self.start.is_some() {
            return;
        }
        self.id = response::id(&start.id, &self.asked);
        self.start = Some(start);
        self.response("response.created", "in_progress", None, out);
        self.response("response.in_progress", "in_progress", None, out);
    }

    fn ensure_begun(&mut self, out: &mut Vec<u8>) {
        if self.start.is_none() {
            self.begin(Start::default(), out);
        }
    }

    fn source(&self) -> &'static str {
        self.start.as_ref().map_or("", |start| start.source)
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number - 1
    }

    fn response(&mut self, kind: &'static str, status: &str, error: Option<&Value>, out: &mut Vec<u8>) {
        let sequence_number = self.next_number();
        let none = Start::default();
        let start = self.start.as_ref().unwrap_or(&none);
        let response = Response {
            id: &self.id,
            created: start.created.unwrap_or(self.asked.now),
            model: if start.model.is_empty() { &self.asked.ask.model } else { &start.model },
            status,
            incomplete: usage::status(self.finish, self.refused).1.filter(|_| status == "incomplete"),
            error,
            output: &self.output,
            usage: self.usage.as_ref().filter(|_| status != "in_progress"),
            service_tier: start
                .service_tier
                .as_deref()
                .filter(|word| start.source == NAME || usage::tier(word).is_some()),
            echo: &self.echo,
        };
        sse::write(out, kind, &ResponseEvent { kind, sequence_number, response });
    }

    fn item_event(&mut self, kind: &'static str, at: usize, item: &Value, out: &mut Vec<u8>) {
        let sequence_number = self.next_number();
        sse::write(out, kind, &ItemEvent { kind, sequence_number, output_index: at, item });
    }

    /// Announces an item; gives its `output_index`.
    fn add(&mut self, item: &Value, out: &mut Vec<u8>) -> usize {
        let at = self.output.len();
        self.output.push(Value::Null);
        self.item_event("response.output_item.added", at, item, out);
        at
    }

    fn done(&mut self, at: usize, item: Value, out: &mut Vec<u8>) {
        self.item_event("response.output_item.done", at, &item, out);
        self.output[at] = item;
    }

    /// An item that has no parts to stream.
    fn whole_item(&mut self, item: Value, out: &mut Vec<u8>) {
        let at = self.add(&item, out);
        self.done(at, item, out);
    }

    fn id_for(&self, prefix: &str) -> String {
        made_id(prefix, &self.asked.id, self.output.len())
    }

    fn open(&mut self, index: u32, block: &Opened, out: &mut Vec<u8>) {
        let open = match block {
            Opened::Text => {
                self.open_part(&text_part("", Vec::new(), Vec::new()), out);
                Open::Text { text: String::new(), annotations: Vec::new(), logprobs: Vec::new(), cited: Vec::new() }
            }
            Opened::Refusal => {
                self.refused = true;
                self.open_part(&json!({"type": "refusal", "refusal": ""}), out);
                Open::Refusal(String::new())
            }
            Opened::Reasoning { id, encrypted } => {
                self.close_message(out);
                let id = own_id(id.as_deref(), "rs_").unwrap_or_else(|| self.id_for("rs"));
                let at = self.add(&reasoning_item(&id, &Shown::default(), None), out);
                let held = Reasoning { encrypted: encrypted.clone(), ..Reasoning::default() };
                let shown = Shown::default();
                Open::Reasoning(Box::new(Thinking { at, id, shown, part: None, shift: 0, held }))
            }
            Opened::ToolCall(call) => {
                self.close_message(out);
                self.open_call(call, out)
            }
            Opened::Whole(block) => return self.whole(block, out),
        };
        self.blocks.push((index, open));
        if let Opened::ToolCall(ToolCall { arguments, .. }) = block
            && !arguments.is_empty()
        {
            self.delta(index, &Delta::Arguments(arguments.clone()), out);
        }
    }

    fn open_call(&mut self, call: &ToolCall, out: &mut Vec<u8>) -> Open {
        if let Some(signature) = &call.signature {
            let item = item::signature_item(&self.id_for("rs"), signature, self.source());
            self.whole_item(item, out);
        }
        let call = Call::of(call, &self.asked, self.output.len(), &Map::new());
        let at = self.add(&call.item("", "in_progress"), out);
        Open::Call { call, at, text: String::new() }
    }

    fn whole(&mut self, block: &Block, out: &mut Vec<u8>) {
        match &block.content {
            Content::Other(item) if self.source() == NAME && !block.extra.contains_key(PART) => {
                self.close_message(out);
                self.whole_item(item.clone(), out);
            }
            Content::Image { source: media, .. } => {
                if let Some(item) = image_item(&self.id_for("ig"), media, self.source()) {
                    self.close_message(out);
                    self.whole_item(with_own(item, block, self.source()), out);
                }
            }
            Content::Text { text, .. } | Content::Audio { transcript: Some(text), .. } => {
                // An index that no stream uses: the block is gone again at once.
                self.open(u32::MAX, &Opened::Text, out);
                self.delta(u32::MAX, &Delta::Text(text.clone()), out);
                self.close(u32::MAX, out);
            }
            // What only another dialect knows, and media that the form has no item for.
            _ => {}
        }
    }

    /// Announces a part of the message, and the message when there is none.
    fn open_part(&mut self, part: &Value, out: &mut Vec<u8>) {
        if self.message.is_none() {
            let own = std::mem::take(&mut self.own);
            let id = own.get("id").and_then(Value::as_str).map(str::to_owned);
            let id = id.unwrap_or_else(|| self.id_for("msg"));
            let at = self.add(&Value::Object(message_item(&id, "in_progress", Vec::new(), Some(&own))), out);
            self.message = Some(Message { at, id, own, parts: Vec::new() });
        }
        self.part_event("response.content_part.added", &json!({ "part": part }), out);
    }

    /// An event of the message's newest part.
    fn part_event(&mut self, kind: &'static str, payload: &impl Serialize, out: &mut Vec<u8>) {
        let sequence_number = self.next_number();
        let Some(Message { at, id, parts, .. }) = &self.message else { return };
        let event = At {
            kind,
            sequence_number,
            item_id: id,
            output_index: *at,
            content_index: Some(parts.len()),
            summary_index: None,
            payload,
        };
        sse::write(out, kind, &event);
    }

    fn delta(&mut self, index: u32, delta: &Delta, out: &mut Vec<u8>) {
        let Some(at) = self.blocks.iter().position(|(known, _)| *known == index) else { return };
        // Taken out while it is written, so that the events can be numbered.
        let (index, mut open) = self.blocks.swap_remove(at);
        match (&mut open, delta) {
            (Open::Text { text, .. }, Delta::Text(more)) => {
                text.push_str(more);
                let payload = TextDelta { delta: more, logprobs: Some(&[]) };
                self.part_event("response.output_text.delta", &payload, out);
            }
            (Open::Text { logprobs, .. }, Delta::Logprobs(entries)) => {
                logprobs.extend(entries.iter().cloned());
                let payload = TextDelta { delta: "", logprobs: Some(entries) };
                self.part_event("response.output_text.delta", &payload, out);
            }
            (Open::Text { cited, .. }, Delta::Citation(citation)) if self.source() != NAME => {
                cited.push(citation.clone());
            }
            (Open::Text { text, annotations, .. }, Delta::Citation(citation)) => {
                self.annotate(citation, text, annotations, out);
            }
            (Open::Refusal(text), Delta::Refusal(more)) => {
                text.push_str(more);
                self.part_event("response.refusal.delta", &TextDelta { delta: more, logprobs: None }, out);
            }
            (Open::Reasoning(thinking), delta) => self.think(thinking, delta, out),
            (Open::Call { call, at, text }, Delta::Arguments(more)) => {
                text.push_str(more);
                // Wrapped text is unwrapped when it is whole.
                if !call.wrapped && !more.is_empty() {
                    self.arguments(call, *at, more, out);
                }
            }
            _ => {}
        }
        self.blocks.push((index, open));
    }

    /// Sends a citation of a text as its next annotation.
    fn annotate(&mut self, citation: &Value, text: &str, annotations: &mut Vec<Value>, out: &mut Vec<u8>) {
        if let Some(annotation) = item::annotation(citation, self.source(), text.chars().count()) {
            let payload = json!({"annotation_index": annotations.len(), "annotation": annotation});
            self.part_event("response.output_text.annotation.added", &payload, out);
            annotations.push(annotation);
        }
    }

    fn arguments(&mut self, call: &Call, at: usize, delta: &str, out: &mut Vec<u8>) {
        let kind = match call.custom {
            true => "response.custom_tool_call_input.delta",
            false => "response.function_call_arguments.delta",
        };
        self.of_item(kind, &call.id, at, None, None, &TextDelta { delta, logprobs: None }, out);
    }

    #[allow(clippy::too_many_arguments)] // one event's fields, in its order
    fn of_item(
        &mut self,
        kind: &'static str,
        item_id: &str,
        output_index: usize,
        content_index: Option<usize>,
        summary_index: Option<usize>,
        payload: &impl Serialize,
        out: &mut Vec<u8>,
    ) {
        let sequence_number = self.next_number();
        sse::write(
            out,
            kind,
            &At { kind, sequence_number, item_id, output_index, content_index, summary_index, payload },
        );
    }

    fn think(&mut self, thinking: &mut Thinking, delta: &Delta, out: &mut Vec<u8>) {
        match delta {
            Delta::Summary { part, text } => {
                let part = *part as usize + thinking.shift;
                self.summarise(thinking, part, text, out);
            }
            // Foreign reasoning stands in the summary, which is what clients of this form show.
            Delta::Reasoning(text) if self.source() != NAME => {
                let part = thinking.part.unwrap_or(0);
                thinking.shift = part + 1;
                self.summarise(thinking, part, text, out);
            }
            Delta::Reasoning(text) => {
                if thinking.shown.content.is_empty() {
                    let part = json!({"part": {"type": "reasoning_text", "text": ""}});
                    let kind = "response.content_part.added";
                    self.of_item(kind, &thinking.id, thinking.at, Some(0), None, &part, out);
                }
                thinking.shown.content.push_str(text);
                let payload = TextDelta { delta: text, logprobs: None };
                self.of_item("response.reasoning_text.delta", &thinking.id, thinking.at, Some(0), None, &payload, out);
            }
            Delta::Signature(more) => thinking.held.signature.get_or_insert_default().push_str(more),
            Delta::Encrypted(data) => thinking.held.encrypted = Some(data.clone()),
            _ => {}
        }
    }

    fn summarise(&mut self, thinking: &mut Thinking, part: usize, text: &str, out: &mut Vec<u8>) {
        // Parts come in order; a step back or a leap goes to the part that is next.
        let part = part.min(thinking.shown.summary.len());
        if thinking.part != Some(part) {
            self.end_summary(thinking, out);
            let part = thinking.shown.summary.len();
            thinking.part = Some(part);
            thinking.shown.summary.push(String::new());
            let payload = json!({"part": {"type": "summary_text", "text": ""}});
            let kind = "response.reasoning_summary_part.added";
            self.of_item(kind, &thinking.id, thinking.at, None, Some(part), &payload, out);
        }
        if let Some(last) = thinking.shown.summary.last_mut() {
            last.push_str(text);
        }
        let payload = TextDelta { delta: text, logprobs: None };
        let kind = "response.reasoning_summary_text.delta";
        self.of_item(kind, &thinking.id, thinking.at, None, thinking.part, &payload, out);
    }

    fn end_summary(&mut self, thinking: &mut Thinking, out: &mut Vec<u8>) {
        let Some(part) = thinking.part.take() else { return };
        let text = thinking.shown.summary.get(part).map(String::as_str).unwrap_or_default();
        let (id, at) = (&thinking.id, thinking.at);
        let payload = json!({ "text": text });
        self.of_item("response.reasoning_summary_text.done", id, at, None, Some(part), &payload, out);
        let payload = json!({"part": {"type": "summary_text", "text": text}});
        self.of_item("response.reasoning_summary_part.done", id, at, None, Some(part), &payload, out);
    }

    fn close(&mut self, index: u32, out: &mut Vec<u8>) {
        let Some(at) = self.blocks.iter().position(|(known, _)| *known == index) else { return };
        match self.blocks.remove(at).1 {
            Open::Text { text, mut annotations, logprobs, cited } => {
                cited.iter().for_each(|citation| self.annotate(citation, &text, &mut annotations, out));
                self.part_event("response.output_text.done", &json!({"text": text, "logprobs": logprobs}), out);
                self.end_part(text_part(&text, annotations, logprobs), out);
            }
            Open::Refusal(text) => {
                self.part_event("response.refusal.done", &json!({ "refusal": text }), out);
                self.end_part(json!({"type": "refusal", "refusal": text}), out);
            }
            Open::Reasoning(mut thinking) => {
                self.end_summary(&mut thinking, out);
                let Thinking { at, id, shown, held, .. } = *thinking;
                if !shown.content.is_empty() {
                    let payload = json!({ "text": shown.content });
                    self.of_item("response.reasoning_text.done", &id, at, Some(0), None, &payload, out);
                    let payload = json!({"part": {"type": "reasoning_text", "text": shown.content}});
                    self.of_item("response.content_part.done", &id, at, Some(0), None, &payload, out);
                }
                let item = reasoning_item(&id, &shown, item::held(&held, self.source()));
                self.done(at, item, out);
            }
            Open::Call { call, at, text } => self.close_call(&call, at, &text, out),
        }
    }

    fn close_call(&mut self, call: &Call, at: usize, written: &str, out: &mut Vec<u8>) {
        let text = call.text(written);
        // Clients add the deltas up, so what was not sent as it was written is sent now.
        if call.wrapped || written.is_empty() && !text.is_empty() {
            self.arguments(call, at, &text, out);
        }
        let (kind, payload) = match call.custom {
            true => ("response.custom_tool_call_input.done", json!({ "input": text })),
            false => ("response.function_call_arguments.done", json!({"name": call.name(), "arguments": text})),
        };
        self.of_item(kind, &call.id, at, None, None, &payload, out);
        self.done(at, call.item(&text, "completed"), out);
    }

    fn end_part(&mut self, part: Value, out: &mut Vec<u8>) {
        self.part_event("response.content_part.done", &json!({ "part": part }), out);
        if let Some(message) = &mut self.message {
            message.parts.push(part);
        }
    }

    fn close_message(&mut self, out: &mut Vec<u8>) {
        if let Some(Message { at, id, own, parts }) = self.message.take() {
            let mut item = Value::Object(message_item(&id, "completed", parts, Some(&own)));
            // What comes last is what was cut; a message closed before something else was whole.
            if at + 1 == self.output.len() {
                mark_cut(&mut item, self.finish);
            }
            self.done(at, item, out);
        }
    }

    fn close_all(&mut self, out: &mut Vec<u8>) {
        while let Some((index, _)) = self.blocks.first() {
            self.close(*index, out);
        }
        self.close_message(out);
    }

    /// Puts the message that is under way into the output, as far as it came.
    fn keep_text(&mut self) {
        let Some(Message { at, .. }) = self.message else { return };
        self.blocks.retain(|(_, open)| matches!(open, Open::Text { .. } | Open::Refusal(_)));
        // Its events would say that it is whole.
        let number = self.number;
        self.close_all(&mut Vec::new());
        self.number = number;
        self.output[at]["status"] = "incomplete".into();
    }

    /// An error after the stream began. The event `error` is what the SDKs raise on; `response.failed` is what agents
    /// (Codex) wait for. Both carry it, in this order, so that either kind of client sees it at once.
    fn fail(&mut self, fault: &Fault, out: &mut Vec<u8>) {
        self.ensure_begun(out);
        failure::write_error(fault, self.next_number(), out);
        self.keep_text();
        // Other items that did not end are no part of the outcome: half a call is nothing to act upon.
        self.output.retain(|item| !item.is_null());
        let error = failure::response_error(fault);
        self.response("response.failed", "failed", Some(&error), out);
        self.failed = true;
    }
}
