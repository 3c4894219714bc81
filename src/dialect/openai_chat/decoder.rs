//! An upstream's chunks, read into events.
//!
//! Chunks have no block structure: `Blocks` gives them one. Finish events wait for the end of the stream, because some
//! servers say more after their finish reason. Never trusts an index, an id or an order further than it must.

use serde_json::{Map, Value, json};

use super::calls::{Calls, Piece};
use super::reasoning::{Detail, DetailKind};
use super::{NAME, answer, citations, data_of, finish, plain, turns, usage};
use crate::chat::event::Blocks;
use crate::chat::{Block, Content, Delta, Event, Finish, Opened, Start, Usage};
use crate::dialect::told::Told;
use crate::dialect::{self, Frame};
use crate::fault::{Fault, Kind};

/// Longest spoken answer that is gathered, in bytes of base64.
const MAX_AUDIO_BYTES: usize = 64 << 20;

#[derive(Default)]
pub(super) struct Decoder {
    started: bool,
    /// What tells the answer from others: its id, where it has one.
    seed: String,
    /// What the answer as a whole names as its sources, as it was said last.
    sources: Vec<Value>,
    /// `[DONE]` went by.
    done: bool,
    faulted: bool,
    blocks: Blocks,
    lanes: Vec<Lane>,
    usage: Option<Usage>,
    last: plain::Last,
}

/// One choice.
#[derive(Default)]
struct Lane {
    choice: u32,
    calls: Calls,
    finish: Option<String>,
    /// The stop sequence that it stopped at.
    sequence: Option<String>,
    /// The finish reason came in a chunk that said nothing else.
    ends_apart: bool,
    /// What was said while tool calls were open. It would have to close them, and their arguments may go on.
    late: Vec<Map<String, Value>>,
    thought: Thought,
    audio: Option<Spoken>,
    /// Annotations of its text.
    cited: Vec<Value>,
    /// Something of it can be shown.
    shown: bool,
}

/// The reasoning block that is open.
#[derive(Default)]
struct Thought {
    open: bool,
    /// Text that came as plain `reasoning_content`; details may repeat it.
    plain: String,
    id: Option<String>,
    index: Option<u64>,
    /// A signature came: more reasoning is a new block.
    sealed: bool,
}

/// A spoken answer on its way. Its pieces are base64 each.
#[derive(Default)]
struct Spoken {
    id: Option<String>,
    data: Vec<u8>,
    transcript: String,
    rest: Map<String, Value>,
}

impl dialect::Decoder for Decoder {
    fn frame(&mut self, frame: &Frame<'_>, out: &mut Vec<Event>) -> Result<(), Fault> {
        self.told(frame, out).map(drop)
    }

    fn told(&mut self, frame: &Frame<'_>, out: &mut Vec<Event>) -> Result<Told, Fault> {
        if self.done || self.faulted {
            return Ok(Told::Partly);
        }
        let again = self.last.again(frame.0);
        if let Some(plain) = &again
            && self.add_text(plain, out)
        {
            return Ok(plain.told());
        }
        let data = data_of(frame);
        if data.is_empty() {
            if frame.0.contains(&b':') {
                out.push(Event::Ping);
            }
            return Ok(Told::Wholly { foreign: false, role: None });
        }
        if data.as_ref() == b"[DONE]" {
            self.done = true;
            let apart = self.lanes.iter().all(|lane| lane.ends_apart);
            let told = if apart { Told::Ending { foreign: false, usage: false, last: true } } else { Told::Partly };
            return Ok(self.whole_if_even(told));
        }
        let plain = plain::read(frame, &data);
        if let Some(plain) = &plain {
            self.note_sources(plain, frame, &data);
            if self.add_text(plain, out) {
                self.last.keep(frame.0, plain);
                return Ok(plain.told());
            }
            if self.end_lane(plain) {
                return Ok(self.whole_if_even(plain.told()));
            }
        }
        let chunk: Value = serde_json::from_slice(&data)
            .map_err(|error| Fault::new(Kind::BadAnswer, "A chunk of the stream is no JSON.").because(error))?;
        let in_choices = || answer::choices_error(chunk.get("choices")?.as_array()?);
        if let Some(fault) = fault_in(frame, &chunk).or_else(in_choices) {
            self.faulted = true;
            out.push(Event::Fault(fault));
            return Ok(Told::Partly);
        }
        match chunk {
            Value::Object(chunk) => self.chunk(chunk, out),
            _ => return Err(Fault::new(Kind::BadAnswer, "A chunk of the stream is no object.")),
        }
        let Some(plain) = plain else { return Ok(Told::Partly) };
        self.end_lane(&plain);
        Ok(self.whole_if_even(plain.told()))
    }

    fn is_over(&self) -> bool {
        self.done
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<(), Fault> {
        if self.faulted {
            return Ok(());
        }
        for lane in &mut self.lanes {
            lane.end(&self.seed, &self.sources, &mut self.blocks, out);
        }
        self.blocks.close_all(out);
        let all_finished = !self.lanes.is_empty() && self.lanes.iter().all(|lane| lane.finish.is_some());
        if !self.started || !(self.done || all_finished) {
            return Err(Fault::new(Kind::StreamBroken, "The provider's stream ended early."));
        }
        // One good choice of several is an answer.
        let faults: Option<Vec<Fault>> = self.lanes.iter().map(Lane::fault).collect();
        if let Some(fault) = faults.and_then(|faults| faults.into_iter().next()) {
            out.push(Event::Fault(fault));
            return Ok(());
        }
        for lane in &mut self.lanes {
            let called = lane.calls.any();
            let reason = match &lane.finish {
                Some(word) => finish::read(word, called),
                None if called => Finish::ToolCalls,
                None => Finish::Stop,
            };
            let (native, stop_sequence) = (lane.finish.clone(), lane.sequence.take());
            let reason = finish::at_sequence(reason, stop_sequence.as_deref());
            out.push(Event::Finish { choice: lane.choice, reason, native, stop_sequence });
        }
        Ok(())
    }
}

/// The error that a frame reports, if it is one.
pub(super) fn fault_in(frame: &Frame<'_>, chunk: &Value) -> Option<Fault> {
    answer::reported_error(chunk).or_else(|| {
        // The event's name says it where the data is only a message or an error without its wrapper.
        let named = frame.event() == "error" || frame.0.starts_with(b"error:");
        named.then(|| answer::reported_error(&json!({ "error": chunk }))).flatten()
    })
}

impl Decoder {
    /// Adds a text to a choice that speaks already and calls no tools: while calls are open it has to wait for them.
    fn add_text(&mut self, plain: &plain::Plain<'_>, out: &mut Vec<Event>) -> bool {
        let Some(text) = plain.text.as_deref().filter(|_| self.started && plain.finish.is_none()) else { return false };
        let lane = self.lanes.iter_mut().find(|lane| lane.choice == plain.choice && !lane.calls.any());
        let Some(lane) = lane else { return false };
        lane.text(text.to_owned(), &mut self.blocks, out);
        true
    }

    /// Ends a choice that has begun, by a chunk that does nothing else.
    fn end_lane(&mut self, plain: &plain::Plain<'_>) -> bool {
        let Some(word) = plain.finish.as_deref().filter(|_| self.started && plain.text.is_none()) else { return false };
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.choice == plain.choice) else { return false };
        lane.finish.get_or_insert_with(|| word.to_owned());
        lane.sequence = plain.sequence.as_deref().map(str::to_owned);
        lane.ends_apart = true;
        true
    }

    /// Whether all that was said has come out as events, but for the ends.
    fn is_even(&self) -> bool {
        self.lanes.iter().all(|lane| !lane.calls.any() && lane.audio.is_none())
    }

    fn whole_if_even(&self, told: Told) -> Told {
        if self.is_even() { told } else { Told::Partly }
    }

    /// Notes the sources that a chunk names which is not read otherwise.
    fn note_sources(&mut self, plain: &plain::Plain<'_>, frame: &Frame<'_>, data: &[u8]) {
        let named =
            plain.is_foreign() && [&b"\"citations\""[..], b"\"search_results\""].iter().any(|key| frame.contains(key));
        if let (true, Ok(Value::Object(chunk))) = (named, serde_json::from_slice(data)) {
            self.name_sources(&chunk);
        }
    }

    /// Some servers name them in every chunk, with more of them in the last.
    fn name_sources(&mut self, chunk: &Map<String, Value>) {
        let sources = citations::sources(chunk.get("citations"), chunk.get("search_results"));
        if !sources.is_empty() {
            self.sources = sources;
        }
    }

    fn chunk(&mut self, mut chunk: Map<String, Value>, out: &mut Vec<Event>) {
        self.name_sources(&chunk);
        let usage = usage::of_chunk(&chunk);
        let choices = match chunk.shift_remove("choices") {
            Some(Value::Array(choices)) => choices,
            _ => Vec::new(),
        };
        self.start(&chunk, usage.is_some() || !choices.is_empty(), out);
        // Some servers repeat the count on every chunk. It goes before the content: encoders that state the input at the
        // start have it by then.
        if let Some(usage) = usage.filter(|usage| self.usage != Some(*usage)) {
            self.usage = Some(usage);
            out.push(Event::Usage(usage));
        }
        for choice in choices {
            if let Value::Object(choice) = choice {
                self.choice(choice, out);
            }
        }
    }

    /// Azure's first chunk has neither choices nor an id; it starts nothing.
    fn start(&mut self, chunk: &Map<String, Value>, says_something: bool, out: &mut Vec<Event>) {
        let text = |key: &str| chunk.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        if self.started || !(says_something || text("id").is_some()) {
            return;
        }
        self.started = true;
        self.seed = text("id").map_or_else(dialect::fresh_seed, str::to_owned);
        out.push(Event::Start(Start {
            id: text("id").unwrap_or_default().to_owned(),
            model: text("model").unwrap_or_default().to_owned(),
            created: chunk.get("created").and_then(answer::seconds),
            service_tier: text("service_tier").map(str::to_owned),
            system_fingerprint: text("system_fingerprint").map(str::to_owned),
            source: NAME,
        }));
    }

    fn choice(&mut self, mut choice: Map<String, Value>, out: &mut Vec<Event>) {
        let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0) as u32;
        let position = match self.lanes.iter().position(|lane| lane.choice == index) {
            Some(position) => position,
            None => {
                self.lanes.push(Lane { choice: index, ..Lane::default() });
                self.lanes.len() - 1
            }
        };
        let (lane, blocks) = (&mut self.lanes[position], &mut self.blocks);
        // Some servers call it `message` also in streams; legacy completions have `text` beside the index.
        // Some servers (Together) say the same text in both places.
        let (mut delta, legacy) = match choice.shift_remove("delta").or_else(|| choice.shift_remove("message")) {
            Some(Value::Object(delta)) => (delta, false),
            _ => (Map::new(), true),
        };
        for key in ["text", "logprobs"] {
            if let Some(value) = choice.shift_remove(key).filter(|_| legacy || key != "text") {
                delta.insert(key.to_owned(), value);
            }
        }
        let calls = Piece::read_all(&mut delta);
        if lane.calls.any() {
            if says(&delta, |text| !text.is_empty()) {
                lane.late.push(delta);
            }
        } else {
            lane.say(delta, blocks, out);
        }
        for piece in calls {
            lane.thought = Thought::default();
            lane.calls.piece(piece, lane.choice, &self.seed, blocks, out);
        }
        if let Some(Value::String(word)) = choice.get("finish_reason")
            && !word.is_empty()
        {
            lane.finish.get_or_insert_with(|| word.clone());
            let said = choice.get("stop_reason").or(choice.get("matched_stop"));
            lane.sequence = said.and_then(answer::stop_sequence);
        }
    }
}

/// Whether there is anything in a delta: some text that counts, or something else.
fn says(delta: &Map<String, Value>, counts: fn(&str) -> bool) -> bool {
    delta.iter().any(|(key, value)| match value {
        Value::String(text) => key != "role" && counts(text),
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => key != "logprobs" && !object.is_empty(),
        _ => false,
    })
}

impl Lane {
    /// The fault that it ended in, if it did.
    fn fault(&self) -> Option<Fault> {
        finish::fault(self.finish.as_deref()?, self.shown || self.calls.any())
    }

    /// Everything of a delta but its tool calls, in the order in which a model thinks and speaks.
    fn say(&mut self, mut delta: Map<String, Value>, blocks: &mut Blocks, out: &mut Vec<Event>) {
        self.think(&mut delta, blocks, out);
        for key in ["content", "text"] {
            match delta.shift_remove(key) {
                Some(Value::String(text)) => self.text(text, blocks, out),
                Some(Value::Array(parts)) => self.parts(parts, blocks, out),
                _ => {}
            }
        }
        if let Some(Value::String(text)) = delta.shift_remove("refusal")
            && !text.is_empty()
        {
            self.delta(Opened::Refusal, Delta::Refusal(text), blocks, out);
        }
        let entries = delta.get_mut("logprobs").and_then(|logprobs| logprobs.get_mut("content")).map(Value::take);
        if let Some(Value::Array(entries)) = entries
            && !entries.is_empty()
        {
            self.delta(Opened::Text, Delta::Logprobs(entries), blocks, out);
        }
        if let Some(Value::Array(annotations)) = delta.shift_remove("annotations") {
            for annotation in annotations {
                self.cited.push(annotation.clone());
                self.delta(Opened::Text, Delta::Citation(annotation), blocks, out);
            }
        }
        if let Some(Value::Array(images)) = delta.shift_remove("images") {
            for image in images {
                if let Ok(block) = turns::read_part(image, "images") {
                    self.whole(Opened::Whole(Box::new(block)), blocks, out);
                }
            }
        }
        if let Some(Value::Object(audio)) = delta.shift_remove("audio")
            && (self.audio.is_some() || answer::says_sound(&audio))
        {
            self.audio.get_or_insert_default().add(audio);
        }
    }

    fn text(&mut self, text: String, blocks: &mut Blocks, out: &mut Vec<Event>) {
        if !text.is_empty() {
            self.delta(Opened::Text, Delta::Text(text), blocks, out);
        }
    }

    /// Mistral's parts.
    fn parts(&mut self, parts: Vec<Value>, blocks: &mut Blocks, out: &mut Vec<Event>) {
        for part in parts {
            match turns::read_part(part, "content").map(|block| block.content) {
                Ok(Content::Text { text, .. }) => self.text(text, blocks, out),
                Ok(Content::Reasoning(reasoning)) => self.plain_thought(reasoning.text, blocks, out),
                Ok(content @ Content::Image { .. }) => {
                    self.whole(Opened::Whole(Box::new(Block::new(content))), blocks, out);
                }
                _ => {}
            }
        }
    }

    fn delta(&mut self, kind: Opened, delta: Delta, blocks: &mut Blocks, out: &mut Vec<Event>) {
        self.thought = Thought::default();
        self.shown = true;
        let index = blocks.running(self.choice, kind, out);
        out.push(Event::Delta { choice: self.choice, index, delta });
    }

    fn whole(&mut self, block: Opened, blocks: &mut Blocks, out: &mut Vec<Event>) {
        self.thought = Thought::default();
        self.shown = true;
        blocks.whole(self.choice, block, Vec::new(), out);
    }

    fn think(&mut self, delta: &mut Map<String, Value>, blocks: &mut Blocks, out: &mut Vec<Event>) {
        let mut text = |key: &str| match delta.shift_remove(key) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let (content, alias) = (text("reasoning_content"), text("reasoning"));
        let plain = if content.is_empty() { alias } else { content };
        let details: Vec<Detail> = match delta.shift_remove("reasoning_details") {
            Some(Value::Array(entries)) => entries.into_iter().filter_map(|entry| Detail::read(entry).ok()).collect(),
            _ => Vec::new(),
        };
        // Routers send the same text in both places.
        let repeated = details.iter().any(|detail| match &detail.kind {
            DetailKind::Text(text) | DetailKind::Summary(text) => !text.is_empty(),
            DetailKind::Encrypted(_) => false,
        });
        if !repeated {
            self.plain_thought(plain, blocks, out);
        }
        for detail in details {
            self.detail(detail, blocks, out);
        }
    }

    fn plain_thought(&mut self, text: String, blocks: &mut Blocks, out: &mut Vec<Event>) {
        if text.is_empty() {
            return;
        }
        let index = self.open_thought(self.thought.sealed, None, None, blocks, out);
        self.thought.plain.push_str(&text);
        out.push(Event::Delta { choice: self.choice, index, delta: Delta::Reasoning(text) });
    }

    fn detail(&mut self, detail: Detail, blocks: &mut Blocks, out: &mut Vec<Event>) {
        let Detail { kind, signature, id, index: place } = detail;
        let same_id = id.is_some() && id == self.thought.id;
        let known = |place: Option<u64>, open: Option<u64>| place.is_none() || open.is_none() || place == open;
        let fresh = self.thought.sealed || !(same_id || known(place, self.thought.index));
        let delta = match kind {
            DetailKind::Encrypted(data) if self.thought.open && same_id => Delta::Encrypted(data),
            DetailKind::Encrypted(data) => {
                return self.whole(Opened::Reasoning { id, encrypted: Some(data) }, blocks, out);
            }
            // What already went out as plain text is not said twice.
            DetailKind::Text(text) | DetailKind::Summary(text)
                if !self.thought.plain.is_empty() && self.thought.plain.contains(&text) =>
            {
                Delta::Reasoning(String::new())
            }
            DetailKind::Text(text) => Delta::Reasoning(text),
            DetailKind::Summary(text) => Delta::Summary { part: 0, text },
        };
        let says = !matches!(&delta, Delta::Reasoning(text) | Delta::Summary { text, .. } if text.is_empty());
        if !says && signature.is_none() {
            return;
        }
        let index = self.open_thought(fresh, id, place, blocks, out);
        let choice = self.choice;
        if says {
            out.push(Event::Delta { choice, index, delta });
        }
        if let Some(signature) = signature {
            self.thought.sealed = true;
            out.push(Event::Delta { choice, index, delta: Delta::Signature(signature) });
        }
    }

    fn open_thought(
        &mut self,
        fresh: bool,
        id: Option<String>,
        place: Option<u64>,
        blocks: &mut Blocks,
        out: &mut Vec<Event>,
    ) -> u32 {
        self.shown = true;
        if fresh && self.thought.open {
            blocks.close(self.choice, out);
            self.thought = Thought::default();
        }
        if !self.thought.open {
            self.thought = Thought { open: true, id: id.clone(), ..Thought::default() };
        }
        self.thought.index = self.thought.index.or(place);
        blocks.running(self.choice, Opened::Reasoning { id, encrypted: None }, out)
    }

    /// The stream is over: what had to wait comes out.
    fn end(&mut self, answer: &str, sources: &[Value], blocks: &mut Blocks, out: &mut Vec<Event>) {
        let mut late = std::mem::take(&mut self.late);
        // White space alone is what some servers put around calls; among words it is part of them.
        if !late.iter().any(|delta| says(delta, |text| !text.trim().is_empty())) {
            late.clear();
        }
        if late.is_empty() {
            self.cite(sources, blocks, out);
        }
        self.calls.flush(self.choice, answer, blocks, out);
        blocks.close(self.choice, out);
        for delta in late {
            self.say(delta, blocks, out);
        }
        self.cite(sources, blocks, out);
        if let Some(audio) = self.audio.take() {
            self.whole(Opened::Whole(Box::new(audio.block())), blocks, out);
        }
        blocks.close(self.choice, out);
    }
}

impl Lane {
    /// Puts the sources of the whole on the text that is open: they are those of its end.
    fn cite(&self, sources: &[Value], blocks: &mut Blocks, out: &mut Vec<Event>) {
        let choice = self.choice;
        if let Some(index) = blocks.open_text(choice) {
            let further = citations::further(sources, &self.cited).cloned().map(Delta::Citation);
            out.extend(further.map(|delta| Event::Delta { choice, index, delta }));
        }
    }
}

impl Spoken {
    fn add(&mut self, mut piece: Map<String, Value>) {
        let mut text = |key: &str| match piece.shift_remove(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        if let Some(id) = text("id") {
            self.id.get_or_insert(id);
        }
        self.transcript.push_str(&text("transcript").unwrap_or_default());
        let data = text("data").unwrap_or_default();
        if self.data.len() + data.len() <= MAX_AUDIO_BYTES
            && let Ok(bytes) = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, &data)
        {
            self.data.extend_from_slice(&bytes);
        }
        self.rest.extend(piece);
    }

    fn block(self) -> Block {
        let data = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &self.data);
        let transcript = Some(self.transcript);
        let content = Content::Audio { data, format: String::new(), transcript, id: self.id };
        Block { content, cache: None, extra: self.rest }
    }
}
