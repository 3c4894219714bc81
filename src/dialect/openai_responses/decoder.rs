//! An upstream's stream of the Responses form, read into neutral events.
//!
//! Never trusts a server to send every event of an item: what the deltas left out is taken from the `done` events, and
//! what those left out from the final response.

use serde_json::{Map, Value};

use super::item::{self, Reader};
use super::parts::Item;
use super::{NAME, answer, usage};
use crate::chat::{Content, Delta, Event, Opened, Start, ToolCall};
use crate::dialect::{Decoder, openai_error, refusal};
use crate::fault::{Fault, Kind};
use crate::sse::Frame;

#[derive(Debug, Default)]
pub(super) struct ResponsesDecoder {
    started: bool,
    /// The service tier that was told.
    tier: Option<String>,
    /// A terminal event or an error has gone by.
    ended: bool,
    calls: bool,
    /// Whether any item was told of.
    items_seen: bool,
    /// Index of the next block.
    next: u32,
    items: Vec<Item>,
    /// Events of other items that came while a call was open: only calls may be open side by side.
    waiting: Vec<(String, Map<String, Value>)>,
    /// Signature that the last reasoning item carried for the next call.
    reader: Reader,
}

impl Decoder for ResponsesDecoder {
    fn frame(&mut self, frame: &Frame<'_>, out: &mut Vec<Event>) -> Result<(), Fault> {
        let data = frame.data();
        if self.ended || data.iter().all(u8::is_ascii_whitespace) || data.as_ref() == b"[DONE]" {
            return Ok(());
        }
        let event: Map<String, Value> = serde_json::from_slice(&data).map_err(|error| {
            Fault::new(Kind::BadAnswer, "The provider sent an event that is not JSON.").because(error)
        })?;
        let kind = match event.get("type").and_then(Value::as_str) {
            Some(kind) => kind.to_owned(),
            None => frame.event().to_owned(),
        };
        self.event(&kind, event, out);
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.ended
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<(), Fault> {
        self.release(true, out);
        self.close_all(out);
        match self.ended {
            true => Ok(()),
            false => Err(Fault::new(Kind::StreamBroken, "The provider's stream ended before the response did.")),
        }
    }
}

impl ResponsesDecoder {
    fn event(&mut self, kind: &str, mut event: Map<String, Value>, out: &mut Vec<Event>) {
        let reports_error = kind == "error" || event.get("error").is_some_and(|error| !error.is_null());
        if reports_error && !kind.starts_with("response.") {
            return self.fail(refusal::fault(openai_error::of_value(NAME, 200, &Value::Object(event)), None), out);
        }
        match kind {
            "response.created" | "response.queued" | "response.in_progress" => {
                self.start(event.get("response"), out);
            }
            "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled" => {
                self.start(event.get("response"), out);
                if let Some(Value::Object(response)) = event.remove("response") {
                    self.end(kind, response, out);
                }
            }
            _ if kind.starts_with("response.") => {
                self.start(None, out);
                if self.must_wait(kind, &event) {
                    self.waiting.push((kind.to_owned(), event));
                } else {
                    self.within(kind, event, out);
                    self.release(false, out);
                }
            }
            _ => {}
        }
    }

    /// An event of one item.
    fn within(&mut self, kind: &str, mut event: Map<String, Value>, out: &mut Vec<Event>) {
        match kind {
            "response.output_item.added" | "response.output_item.done" => {
                if let Some(item) = event.remove("item").filter(Value::is_object) {
                    self.items_seen = true;
                    let at = self.position(&event, Some(&item));
                    self.item(at, item, kind.ends_with("done"), out);
                }
            }
            _ => self.part(kind, &event, out),
        }
    }

    fn must_wait(&self, kind: &str, event: &Map<String, Value>) -> bool {
        let call = match event.get("item").and_then(Value::as_object) {
            Some(item) => item::is_call(item),
            None => kind.contains("function_call_arguments") || kind.contains("custom_tool_call_input"),
        };
        !call && self.items.iter().any(Item::call_open)
    }

    /// Lets what waited come, when no call is open any more or nothing else will come.
    fn release(&mut self, last: bool, out: &mut Vec<Event>) {
        if self.waiting.is_empty() || !last && self.items.iter().any(Item::call_open) {
            return;
        }
        for (kind, event) in std::mem::take(&mut self.waiting) {
            self.within(&kind, event, out);
        }
    }

    fn start(&mut self, response: Option<&Value>, out: &mut Vec<Event>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let field = |key: &str| response.and_then(|response| response.get(key));
        let text = |key: &str| field(key).and_then(Value::as_str).map(str::to_owned);
        self.tier = response.and_then(tier);
        out.push(Event::Start(Start {
            id: text("id").unwrap_or_default(),
            model: text("model").unwrap_or_default(),
            created: field("created_at").and_then(answer::seconds),
            service_tier: self.tier.clone(),
            system_fingerprint: None,
            source: NAME,
        }));
    }

    fn fail(&mut self, fault: Fault, out: &mut Vec<Event>) {
        self.ended = true;
        self.start(None, out);
        self.release(true, out);
        self.close_all(out);
        out.push(Event::Fault(fault));
    }

    fn end(&mut self, kind: &str, mut response: Map<String, Value>, out: &mut Vec<Event>) {
        let counted = usage::decode(response.get("usage"));
        let served = response.get("service_tier").and_then(Value::as_str).map(str::to_owned);
        if served.is_some() && served != self.tier {
            out.extend(served.map(Event::Tier));
        }
        if kind == "response.failed" || response.get("status").and_then(Value::as_str) == Some("failed") {
            response.insert("status".to_owned(), "failed".into());
            out.extend(counted.map(Event::Usage));
            if let Some(fault) = answer::failure(&response) {
                self.fail(fault, out);
            }
            return;
        }
        self.release(true, out);
        // Some servers send no items but these. Where some were sent, these are the same once more.
        if let (false, Some(Value::Array(items))) = (self.items_seen, response.remove("output")) {
            for (at, item) in items.into_iter().enumerate() {
                self.item(at as u64, item, true, out);
            }
        }
        self.close_all(out);
        let status = kind.trim_start_matches("response.");
        let details = response.get("incomplete_details");
        let incomplete = details.and_then(|details| details.get("reason")).and_then(Value::as_str);
        let (reason, native) = usage::finish(status, incomplete, self.calls);
        if let Some(reason) = reason {
            out.push(Event::Finish { choice: 0, reason, native, stop_sequence: None });
        }
        out.push(Event::Extra(answer::own(response)));
        out.extend(counted.map(Event::Usage));
        self.ended = true;
    }

    /// Which item an event speaks of: its index, or that of the item with its id, or the last one.
    fn position(&self, event: &Map<String, Value>, item: Option<&Value>) -> u64 {
        if let Some(at) = event.get("output_index").and_then(Value::as_u64) {
            return at;
        }
        let id = item.map_or(event.get("item_id"), |item| item.get("id")).and_then(Value::as_str);
        let known = id.and_then(|id| self.items.iter().find(|known| known.id == id));
        match (known, self.items.last()) {
            (Some(known), _) => known.at,
            (None, Some(last)) if item.is_none() => last.at,
            (None, last) => last.map_or(0, |last| last.at + 1),
        }
    }

    /// An item as it begins or as it ends.
    fn item(&mut self, at: u64, item: Value, done: bool, out: &mut Vec<Event>) {
        let Some(object) = item.as_object() else { return };
        let kind = item::kind(object).to_owned();
        let id = object.get("id").and_then(Value::as_str).unwrap_or_default();
        let known = match self.items.iter().rposition(|known| known.at == at) {
            // Some servers give every item the same index, some give one item two ids: a beginning is a new item
            // unless it repeats itself, an end belongs to what has begun.
            Some(index) if self.items[index].id == id || (done && !self.items[index].done) => index,
            _ => {
                self.items.push(Item::new(at, id));
                self.items.len() - 1
            }
        };
        if self.items[known].done {
            return;
        }
        match kind.as_str() {
            "message" => {
                self.items[known].own = item::own(object);
                if done {
                    self.message_done(known, object, out);
                }
            }
            "reasoning" => self.reasoning(known, item, done, out),
            _ if item::is_call(object) => self.call(known, item, done, out),
            _ if done => {
                let Value::Object(item) = item else { return };
                self.open(known, 0, Opened::Whole(Box::new(item::alone(item))), out);
                self.close(known, out);
            }
            _ => {}
        }
        self.items[known].done |= done;
    }

    fn message_done(&mut self, known: usize, item: &Map<String, Value>, out: &mut Vec<Event>) {
        let parts = item.get("content").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for (index, part) in parts.iter().enumerate() {
            self.part_done(known, index as u64, part, out);
        }
        if let Some(Value::String(text)) = item.get("content") {
            self.part_done(known, 0, &super::answer::text_part(text, Vec::new(), Vec::new()), out);
        }
        self.close(known, out);
    }

    /// A part as a whole: whatever of it was not sent yet.
    fn part_done(&mut self, known: usize, part: u64, whole: &Value, out: &mut Vec<Event>) {
        let text = |key: &str| whole.get(key).and_then(Value::as_str).unwrap_or_default();
        let kind = whole.get("type").and_then(Value::as_str).unwrap_or("output_text");
        match kind {
            "refusal" => self.complete(known, part, Opened::Refusal, text("refusal"), out),
            "output_text" | "text" => {
                self.complete(known, part, Opened::Text, text("text"), out);
                let list = |key: &str| whole.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
                let sent = self.items[known].part(part).annotations;
                for annotation in list("annotations").into_iter().skip(sent) {
                    self.send(known, part, Opened::Text, Delta::Citation(annotation), out);
                }
                let logprobs = list("logprobs");
                if !self.items[known].part(part).logprobs && !logprobs.is_empty() {
                    self.send(known, part, Opened::Text, Delta::Logprobs(logprobs), out);
                }
            }
            "reasoning_text" => {}
            _ if !self.items[known].part(part).opened => {
                let block = item::part(whole.clone());
                self.open(known, part, Opened::Whole(Box::new(block)), out);
                self.close(known, out);
            }
            _ => {}
        }
    }

    fn reasoning(&mut self, known: usize, item: Value, done: bool, out: &mut Vec<Event>) {
        let id = item.get("id").and_then(Value::as_str).map(str::to_owned);
        if !done {
            // The encrypted content of an unfinished item is not the final one. An item that only carries a call's
            // signature is not told of at all, so it must be waited for.
            let carries = item.get("encrypted_content").and_then(Value::as_str).is_some_and(item::is_signature);
            if !carries {
                self.open(known, 0, Opened::Reasoning { id, encrypted: None }, out);
            }
            return;
        }
        for block in self.reader.blocks(item) {
            let Content::Reasoning(reasoning) = block.content else { continue };
            let head = || Opened::Reasoning { id: reasoning.id.clone(), encrypted: None };
            self.ensure(known, 0, head(), out);
            for (part, text) in reasoning.summary.iter().enumerate() {
                self.complete_summary(known, part as u64, text, out);
            }
            self.complete_text(known, &reasoning.text, out);
            let deltas = [reasoning.signature.map(Delta::Signature), reasoning.encrypted.map(Delta::Encrypted)];
            for delta in deltas.into_iter().flatten() {
                self.send(known, 0, Opened::Reasoning { id: None, encrypted: None }, delta, out);
            }
        }
        self.close(known, out);
    }

    fn call(&mut self, known: usize, item: Value, done: bool, out: &mut Vec<Event>) {
        let Some(object) = item.as_object() else { return };
        let head = item::head(object, true);
        self.calls = true;
        // A server that does not know the name yet says it when the item is done.
        if !self.items[known].part(0).opened && (done || !head.name.is_empty()) {
            let signature = self.reader.take_signature();
            self.open(known, 0, Opened::ToolCall(ToolCall { signature, ..head }), out);
            let early = std::mem::take(&mut self.items[known].early);
            if !early.is_empty() {
                self.arguments(known, &early, out);
            }
        }
        let field = if item::kind(object) == "custom_tool_call" { "input" } else { "arguments" };
        let written = object.get(field).and_then(Value::as_str).unwrap_or_default();
        if done {
            self.complete(known, 0, Opened::ToolCall(ToolCall::default()), written, out);
            self.close(known, out);
        }
    }

    fn arguments(&mut self, known: usize, text: &str, out: &mut Vec<Event>) {
        if self.items[known].part(0).opened {
            self.send(known, 0, Opened::ToolCall(ToolCall::default()), Delta::Arguments(text.to_owned()), out);
        } else {
            self.items[known].early.push_str(text);
        }
    }

    fn call_done(&mut self, known: usize, whole: &str, out: &mut Vec<Event>) {
        if self.items[known].part(0).opened {
            self.complete(known, 0, Opened::ToolCall(ToolCall::default()), whole, out);
            self.close(known, out);
        } else {
            self.items[known].early = whole.to_owned();
        }
    }

    /// Everything that happens within an item.
    fn part(&mut self, kind: &str, event: &Map<String, Value>, out: &mut Vec<Event>) {
        let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default();
        let index = |key: &str| event.get(key).and_then(Value::as_u64).unwrap_or(0);
        let at = self.position(event, None);
        let known = self.items.iter().rposition(|item| item.at == at);
        let wanted = matches!(
            kind.strip_prefix("response.").and_then(|kind| kind.split_once('.')),
            Some((
                "output_text"
                    | "refusal"
                    | "function_call_arguments"
                    | "custom_tool_call_input"
                    | "reasoning_summary_text"
                    | "reasoning_text"
                    | "content_part",
                _
            ))
        );
        if !wanted {
            return;
        }
        let known = known.unwrap_or_else(|| {
            self.items.push(Item::new(at, text("item_id")));
            self.items.len() - 1
        });
        if self.items[known].done {
            return;
        }
        self.items_seen = true;
        let part = index("content_index");
        match kind {
            "response.output_text.delta" => {
                self.send(known, part, Opened::Text, Delta::Text(text("delta").to_owned()), out);
                let logprobs = event.get("logprobs").and_then(Value::as_array).filter(|list| !list.is_empty());
                if let Some(list) = logprobs {
                    self.send(known, part, Opened::Text, Delta::Logprobs(list.clone()), out);
                }
            }
            "response.output_text.done" => self.complete(known, part, Opened::Text, text("text"), out),
            "response.output_text.annotation.added" => {
                let annotation = event.get("annotation").filter(|annotation| annotation.is_object());
                if let Some(annotation) = annotation {
                    self.send(known, part, Opened::Text, Delta::Citation(annotation.clone()), out);
                }
            }
            "response.refusal.delta" => {
                self.send(known, part, Opened::Refusal, Delta::Refusal(text("delta").to_owned()), out);
            }
            "response.refusal.done" => self.complete(known, part, Opened::Refusal, text("refusal"), out),
            "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta" => {
                self.arguments(known, text("delta"), out);
            }
            "response.function_call_arguments.done" => self.call_done(known, text("arguments"), out),
            "response.custom_tool_call_input.done" => self.call_done(known, text("input"), out),
            "response.reasoning_summary_text.delta" => {
                self.summary(known, index("summary_index"), text("delta"), out);
            }
            "response.reasoning_summary_text.done" => {
                self.complete_summary(known, index("summary_index"), text("text"), out);
            }
            "response.reasoning_text.delta" => {
                let delta = Delta::Reasoning(text("delta").to_owned());
                self.send(known, 0, Opened::Reasoning { id: None, encrypted: None }, delta, out);
            }
            "response.content_part.done" => {
                if let Some(whole) = event.get("part").filter(|part| part.is_object()) {
                    self.part_done(known, part, whole, out);
                }
            }
            _ => {}
        }
    }

    fn summary(&mut self, known: usize, part: u64, text: &str, out: &mut Vec<Event>) {
        if text.is_empty() {
            return;
        }
        self.items[known].sent_summary(part, text.len());
        let delta = Delta::Summary { part: u32::try_from(part).unwrap_or(u32::MAX), text: text.to_owned() };
        self.send(known, 0, Opened::Reasoning { id: None, encrypted: None }, delta, out);
    }

    fn complete_summary(&mut self, known: usize, part: u64, whole: &str, out: &mut Vec<Event>) {
        let sent = self.items[known].sent_summary(part, 0);
        if let Some(missing) = whole.get(sent..) {
            self.summary(known, part, missing, out);
        }
    }

    fn complete_text(&mut self, known: usize, whole: &str, out: &mut Vec<Event>) {
        let sent = self.items[known].part(0).sent;
        if let Some(missing) = whole.get(sent..).filter(|missing| !missing.is_empty()) {
            let delta = Delta::Reasoning(missing.to_owned());
            self.send(known, 0, Opened::Reasoning { id: None, encrypted: None }, delta, out);
        }
    }

    /// Sends what is missing of a part's text. Only what the deltas left out at the end can be: they cannot be unsaid.
    fn complete(&mut self, known: usize, part: u64, kind: Opened, whole: &str, out: &mut Vec<Event>) {
        let sent = self.items[known].part(part).sent;
        let missing = whole.get(sent..).unwrap_or_default();
        let delta = match kind {
            Opened::Text => Delta::Text(missing.to_owned()),
            Opened::Refusal => Delta::Refusal(missing.to_owned()),
            _ => Delta::Arguments(missing.to_owned()),
        };
        if missing.is_empty() {
            self.ensure(known, part, kind, out);
        } else {
            self.send(known, part, kind, delta, out);
        }
    }

    fn ensure(&mut self, known: usize, part: u64, kind: Opened, out: &mut Vec<Event>) {
        if !self.items[known].part(part).opened {
            self.open(known, part, kind, out);
        }
    }

    /// Sends a delta, opening its block when it is not open.
    fn send(&mut self, known: usize, part: u64, kind: Opened, delta: Delta, out: &mut Vec<Event>) {
        let state = self.items[known].part(part);
        let block = match state.block {
            Some(block) => block,
            // A call that was told to be whole stays as it is.
            None if state.call => return,
            None => self.open(known, part, kind, out),
        };
        if self.items[known].part(part).note(&delta) {
            out.push(Event::Delta { choice: 0, index: block, delta });
        }
    }

    /// Opens a block. Only calls may be open side by side.
    fn open(&mut self, known: usize, part: u64, kind: Opened, out: &mut Vec<Event>) -> u32 {
        let call = matches!(kind, Opened::ToolCall(_));
        for item in &mut self.items {
            item.close(!call, out);
        }
        let own = std::mem::take(&mut self.items[known].own);
        if !own.is_empty() && !self.items[known].begun() {
            out.push(Event::Message(own));
        }
        let index = self.next;
        self.next += 1;
        let state = self.items[known].part(part);
        state.opened = true;
        state.call = call;
        state.block = Some(index);
        out.push(Event::Open { choice: 0, index, block: kind });
        index
    }

    fn close(&mut self, known: usize, out: &mut Vec<Event>) {
        self.items[known].close(true, out);
    }

    fn close_all(&mut self, out: &mut Vec<Event>) {
        for item in &mut self.items {
            item.close(true, out);
        }
    }
}

/// The service tier that a response names. `auto` was asked for; which one it became is told at the end.
fn tier(response: &Value) -> Option<String> {
    let named = response.get("service_tier").and_then(Value::as_str).filter(|tier| *tier != "auto");
    named.map(str::to_owned)
}
