//! Reading a stream: every frame is a whole `GenerateContentResponse` whose parts are increments.
//!
//! There is no end marker. Finish reasons are held back until the upstream closes, because some servers repeat `STOP`
//! on every frame and others send more text after it.

mod encode;
mod sniff;

use serde_json::Value;

pub use encode::ResponseEncoder;
pub use sniff::{Candidate as SeenCandidate, Response, ResponseSniffer};

use super::field::{self, Object, take, take_list, take_object, take_string, take_uint};
use super::part::{self, Part, Piece};
use super::partial::Joiner;
use super::{NAME, answer, error, finish, grounding, logprobs, usage};
use crate::chat::event::Blocks;
use crate::chat::{Block, Delta, Event, Finish, Opened, Start, ToolCall, Usage};
use crate::dialect::{self, Decoder};
use crate::fault::{Fault, Kind};
use crate::sse::Frame;

/// Reads frames of `streamGenerateContent?alt=sse`.
#[derive(Debug, Default)]
pub struct ResponseDecoder {
    /// What tells the answer from others: its id, where it has one. The first frame has been seen when this is set.
    seed: Option<String>,
    blocks: Blocks,
    candidates: Vec<Candidate>,
    usage: Option<Usage>,
    /// `promptFeedback.blockReason`: there will be no candidates.
    blocked: Option<String>,
    failed: bool,
}

/// What is remembered of one candidate.
#[derive(Debug, Default)]
struct Candidate {
    index: u32,
    calls: usize,
    /// The call that is coming in pieces.
    joiner: Joiner,
    /// The block of text that is open.
    text: Option<u32>,
    /// All text so far: grounding counts its bytes.
    said: String,
    /// What was cited of it; some frames repeat it.
    cited: Vec<Value>,
    /// The last finish reason seen.
    reason: Option<String>,
    /// Something of it can be shown.
    shown: bool,
}

impl Decoder for ResponseDecoder {
    fn frame(&mut self, frame: &Frame<'_>, out: &mut Vec<Event>) -> Result<(), Fault> {
        let data = frame.data();
        let data = data.trim_ascii();
        // Compatible servers add OpenAI's end marker; Google sends no frames without data.
        if data.is_empty() || data == b"[DONE]" || self.failed {
            return Ok(());
        }
        let value: Value = serde_json::from_slice(data).map_err(|error| bad().because(error))?;
        let value = match value {
            // The form that errors have outside of SSE.
            Value::Array(mut all) if all.len() == 1 => all.remove(0),
            other => other,
        };
        let Value::Object(mut response) = value else { return Err(bad()) };
        if frame.contains(b"unction") {
            answer::keep_arguments(&mut response, data);
        }
        if let Some(error) = take(&mut response, "error") {
            self.failed = true;
            out.push(Event::Fault(error::in_stream(&error)));
            return Ok(());
        }
        self.start(&mut response, out);
        // Before the content: encoders that state the input at the start have it by then.
        if let Some(counts) = take(&mut response, "usageMetadata").as_ref().and_then(usage::read)
            && self.usage != Some(counts)
        {
            self.usage = Some(counts);
            out.push(Event::Usage(counts));
        }
        for (position, value) in take_list(&mut response, "candidates").into_iter().enumerate() {
            let Value::Object(candidate) = value else { return Err(bad()) };
            self.candidate(candidate, position, out);
        }
        if let Some(mut feedback) = take_object(&mut response, "promptFeedback") {
            self.blocked = take_string(&mut feedback, "blockReason").or(self.blocked.take());
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<(), Fault> {
        if self.failed {
            return Ok(());
        }
        for at in 0..self.candidates.len() {
            let candidate = &mut self.candidates[at];
            // What the stream broke off in is no call.
            if let Some(call) = candidate.joiner.end().filter(|_| candidate.reason.is_some()) {
                self.part(at, call, out);
            }
        }
        self.blocks.close_all(out);
        if self.candidates.is_empty()
            && let Some(native) = self.blocked.take()
        {
            out.push(finished(0, Finish::ContentFilter, native));
            return Ok(());
        }
        if self.candidates.is_empty() || self.candidates.iter().any(|candidate| candidate.reason.is_none()) {
            return Err(Fault::new(Kind::StreamBroken, "The stream ended without a finish reason."));
        }
        let mut ends = Vec::with_capacity(self.candidates.len());
        let mut undone = Vec::new();
        for candidate in &mut self.candidates {
            let native = candidate.reason.take().unwrap_or_default();
            let finish = finish::read(&native, candidate.calls > 0);
            undone.extend(finish::fault(finish, &native, candidate.shown));
            ends.push(finished(candidate.index, finish, native));
        }
        // One good candidate of several is an answer.
        match undone.len() == ends.len() {
            true => out.extend(undone.into_iter().take(1).map(Event::Fault)),
            false => out.extend(ends),
        }
        Ok(())
    }
}

fn bad() -> Fault {
    Fault::new(Kind::BadAnswer, "A frame of the provider's stream is not a GenerateContentResponse.")
}

fn finished(choice: u32, reason: Finish, native: String) -> Event {
    Event::Finish { choice, reason, native: Some(native), stop_sequence: None }
}

impl ResponseDecoder {
    fn start(&mut self, response: &mut Object, out: &mut Vec<Event>) {
        if self.seed.is_some() {
            return;
        }
        let id = take_string(response, "responseId").unwrap_or_default();
        self.seed = Some(if id.is_empty() { dialect::fresh_seed() } else { id.clone() });
        out.push(Event::Start(Start {
            id,
            model: take_string(response, "modelVersion").unwrap_or_default(),
            created: take_string(response, "createTime").as_deref().and_then(field::unix_seconds),
            source: NAME,
            ..Start::default()
        }));
    }

    fn candidate(&mut self, mut candidate: Object, position: usize, out: &mut Vec<Event>) {
        let index = take_uint(&mut candidate, "index").and_then(|index| u32::try_from(index).ok());
        let index = index.unwrap_or(position as u32);
        let at = match self.candidates.iter().position(|known| known.index == index) {
            Some(at) => at,
            None => {
                self.candidates.push(Candidate { index, ..Candidate::default() });
                self.candidates.len() - 1
            }
        };
        let mut annotations = answer::annotations(&mut candidate);
        let mut content = take_object(&mut candidate, "content").unwrap_or_default();
        let parts: Vec<Part> = take_list(&mut content, "parts").into_iter().filter_map(part::read).collect();
        // They speak of this frame's text too, unless the frame ends the text.
        if parts.iter().any(|part| part.signature.is_some() || !matches!(part.piece, Piece::Text(_))) {
            self.annotate(at, &mut annotations, out);
        }
        for part in parts {
            for part in self.candidates[at].joiner.add(part) {
                self.part(at, part, out);
            }
        }
        self.annotate(at, &mut annotations, out);
        if let Some(result) = take(&mut candidate, "logprobsResult") {
            let entries = logprobs::read(&result);
            if let (Some(block), false) = (self.candidates[at].text, entries.is_empty()) {
                out.push(Event::Delta { choice: index, index: block, delta: Delta::Logprobs(entries) });
            }
        }
        let reason = take_string(&mut candidate, "finishReason").filter(|reason| reason != finish::UNSPECIFIED);
        if reason.is_some() {
            self.candidates[at].reason = reason;
        }
    }

    /// Puts annotations on the open text. They come beside the last text, or in a frame after it.
    fn annotate(&mut self, at: usize, annotations: &mut Vec<Value>, out: &mut Vec<Event>) {
        let candidate = &mut self.candidates[at];
        let (choice, Some(index)) = (candidate.index, candidate.text) else { return };
        if annotations.is_empty() {
            return;
        }
        let mut cited = grounding::cited(annotations, &candidate.said);
        cited.retain(|citation| !candidate.cited.contains(citation));
        candidate.cited.extend(cited.iter().cloned());
        let citations = annotations.drain(..).chain(cited).map(Delta::Citation);
        out.extend(citations.map(|delta| Event::Delta { choice, index, delta }));
    }

    /// As `part::Gather` has it for whole answers: a signature on anything but a thought or a call stands before it.
    fn part(&mut self, at: usize, part: Part, out: &mut Vec<Event>) {
        let Part { piece, signature, extra } = part;
        let choice = self.candidates[at].index;
        self.candidates[at].shown |= match &piece {
            Piece::Text(text) | Piece::Thought(text) => !text.is_empty(),
            Piece::Call { .. } | Piece::Whole(_) => true,
            Piece::Response { .. } | Piece::Fragment(_) => false,
        };
        match piece {
            Piece::Text(text) => self.text(at, text, signature, out),
            Piece::Thought(text) if text.is_empty() && signature.is_none() => {}
            Piece::Thought(text) => {
                self.candidates[at].text = None;
                let index = self.blocks.running(choice, reasoning(), out);
                if !text.is_empty() {
                    out.push(Event::Delta { choice, index, delta: Delta::Reasoning(text) });
                }
                if let Some(signature) = signature {
                    out.push(Event::Delta { choice, index, delta: Delta::Signature(signature) });
                    self.blocks.close(choice, out);
                }
            }
            Piece::Call { id, name, arguments } => {
                let candidate = &mut self.candidates[at];
                candidate.text = None;
                let seed = self.seed.as_deref().unwrap_or_default();
                let call = answer::tool_call(id, name, arguments, signature, (seed, choice, candidate.calls));
                candidate.calls += 1;
                let deltas = vec![Delta::Arguments(call.arguments.clone())];
                let head = Opened::ToolCall(ToolCall { arguments: String::new(), ..call });
                self.blocks.whole(choice, head, deltas, out);
            }
            Piece::Whole(content) => {
                self.candidates[at].text = None;
                self.carrier(choice, signature, out);
                let block = Block { content, cache: None, extra };
                self.blocks.whole(choice, Opened::Whole(Box::new(block)), Vec::new(), out);
            }
            // Only callers answer functions; pieces of calls have been joined.
            Piece::Response { .. } | Piece::Fragment(_) => {}
        }
    }

    fn text(&mut self, at: usize, text: String, signature: Option<String>, out: &mut Vec<Event>) {
        let choice = self.candidates[at].index;
        let signed = signature.is_some();
        if signed {
            self.candidates[at].text = None;
            self.carrier(choice, signature, out);
        }
        if text.is_empty() {
            return;
        }
        let index = self.blocks.running(choice, Opened::Text, out);
        self.candidates[at].said.push_str(&text);
        out.push(Event::Delta { choice, index, delta: Delta::Text(text) });
        self.candidates[at].text = (!signed).then_some(index);
        if signed {
            self.blocks.close(choice, out);
        }
    }

    fn carrier(&mut self, choice: u32, signature: Option<String>, out: &mut Vec<Event>) {
        if let Some(signature) = signature {
            self.blocks.whole(choice, reasoning(), vec![Delta::Signature(signature)], out);
        }
    }
}

fn reasoning() -> Opened {
    Opened::Reasoning { id: None, encrypted: None }
}
