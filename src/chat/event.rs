//! A generation in pieces: the neutral form of a stream.
//!
//! Invariants that decoders keep and encoders rely on: `Start` comes first and once; every `Delta` falls between the
//! `Open` and `Close` of its (choice, index); within one choice at most one block is open unless both are tool calls;
//! block indices of a choice count up from 0; `Finish` comes once a choice, after its blocks are closed. `Usage` and
//! `Tier` may come anywhere after `Start`, the later one counts. A decoder's `finish` closes what a terse dialect left open.

use serde_json::Value;

use super::{Answer, Block, Choice, Content, Extra, Finish, MESSAGE, Reasoning, ToolCall, Usage};
use crate::fault::Fault;

#[derive(Debug, Clone)]
pub enum Event {
    Start(Start),
    Open {
        choice: u32,
        index: u32,
        block: Opened,
    },
    Delta {
        choice: u32,
        index: u32,
        delta: Delta,
    },
    Close {
        choice: u32,
        index: u32,
    },
    Finish {
        choice: u32,
        reason: Finish,
        native: Option<String>,
        stop_sequence: Option<String>,
    },
    Usage(Usage),
    /// The service tier that the provider served on, where it is known at the end only.
    Tier(String),
    /// The next block begins a message; fields of it that only the source dialect knows, as [`MESSAGE`] holds them.
    Message(Extra),
    /// Fields of the answer that only the source dialect knows, as [`Answer::extra`] holds them. Some time before `Finish`,
    /// or right behind it.
    Extra(Extra),
    /// The upstream is alive but has nothing to say.
    Ping,
    /// The upstream reported an error inside the stream. Nothing follows.
    Fault(Fault),
}

#[derive(Debug, Clone, Default)]
pub struct Start {
    pub id: String,
    pub model: String,
    /// Unix seconds.
    pub created: Option<u64>,
    pub service_tier: Option<String>,
    pub system_fingerprint: Option<String>,
    pub source: &'static str,
}

/// The head of a block.
#[derive(Debug, Clone, PartialEq)]
pub enum Opened {
    Text,
    /// Text and signature follow as deltas; `encrypted` is whole already.
    Reasoning {
        id: Option<String>,
        encrypted: Option<String>,
    },
    /// Arguments follow as deltas.
    ToolCall(ToolCall),
    Refusal,
    /// A block that comes whole (image, audio, hosted tool); no deltas follow.
    Whole(Box<Block>),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    Text(String),
    Reasoning(String),
    /// Text of the summary part with this index (Responses).
    Summary {
        part: u32,
        text: String,
    },
    Signature(String),
    /// Encrypted reasoning that is known only when the block ends (Responses).
    Encrypted(String),
    Arguments(String),
    Refusal(String),
    Citation(Value),
    /// `content` entries of OpenAI's logprobs, for the text just sent.
    Logprobs(Vec<Value>),
}

impl Event {
    /// Whether this is the first thing worth showing to a client: the commit point waits for it.
    pub fn is_content(&self) -> bool {
        match self {
            Event::Delta { delta, .. } => match delta {
                Delta::Text(text)
                | Delta::Reasoning(text)
                | Delta::Arguments(text)
                | Delta::Refusal(text)
                | Delta::Summary { text, .. } => !text.is_empty(),
                Delta::Signature(_) | Delta::Encrypted(_) | Delta::Citation(_) | Delta::Logprobs(_) => false,
            },
            Event::Open { block: Opened::ToolCall(_) | Opened::Whole(_), .. } => true,
            Event::Open { block: Opened::Reasoning { encrypted: Some(_), .. }, .. } => true,
            _ => false,
        }
    }
}

/// Puts a stream back together. Feed every event, then take the answer.
#[derive(Debug, Default)]
pub struct Collector {
    answer: Answer,
    /// Fields of the message that the next block begins.
    message: Extra,
}

impl Collector {
    pub fn event(&mut self, event: Event) -> Result<(), Fault> {
        match event {
            Event::Start(start) => {
                self.answer.id = start.id;
                self.answer.model = start.model;
                self.answer.created = start.created;
                self.answer.service_tier = start.service_tier;
                self.answer.system_fingerprint = start.system_fingerprint;
                self.answer.source = start.source;
            }
            Event::Open { choice, block, .. } => {
                let mut block = opened(block);
                let message = std::mem::take(&mut self.message);
                if !message.is_empty() {
                    block.extra.insert(MESSAGE.to_owned(), message.into());
                }
                self.choice(choice).blocks.push(block);
            }
            Event::Delta { choice, index, delta } => {
                let choice = self.choice(choice);
                if let Delta::Logprobs(entries) = delta {
                    add_logprobs(choice, entries);
                } else if let Some(block) = choice.blocks.get_mut(index as usize) {
                    grow(block, delta);
                }
            }
            Event::Finish { choice, reason, native, stop_sequence } => {
                let choice = self.choice(choice);
                choice.finish = Some(reason);
                choice.native_finish = native;
                choice.stop_sequence = stop_sequence;
            }
            Event::Usage(usage) => self.answer.usage.get_or_insert_default().update(&usage),
            Event::Tier(tier) => self.answer.service_tier = Some(tier),
            Event::Message(fields) => self.message = fields,
            Event::Extra(fields) => self.answer.extra.extend(fields),
            Event::Close { .. } | Event::Ping => {}
            Event::Fault(fault) => return Err(fault),
        }
        Ok(())
    }

    pub fn finish(self) -> Answer {
        self.answer
    }

    fn choice(&mut self, index: u32) -> &mut Choice {
        let choices = &mut self.answer.choices;
        if let Some(at) = choices.iter().position(|choice| choice.index == index) {
            return &mut choices[at];
        }
        choices.push(Choice { index, ..Choice::default() });
        let last = choices.len() - 1;
        &mut choices[last]
    }
}

fn opened(block: Opened) -> Block {
    Block::new(match block {
        Opened::Text => Content::Text { text: String::new(), citations: Vec::new() },
        Opened::Reasoning { id, encrypted } => Content::Reasoning(Reasoning { id, encrypted, ..Reasoning::default() }),
        Opened::ToolCall(call) => Content::ToolCall(call),
        Opened::Refusal => Content::Refusal(String::new()),
        Opened::Whole(block) => return *block,
    })
}

fn grow(block: &mut Block, delta: Delta) {
    match (&mut block.content, delta) {
        (Content::Text { text, .. }, Delta::Text(more)) => text.push_str(&more),
        (Content::Text { citations, .. }, Delta::Citation(citation)) => citations.push(citation),
        (Content::Reasoning(reasoning), Delta::Reasoning(more)) => reasoning.text.push_str(&more),
        (Content::Reasoning(reasoning), Delta::Summary { part, text }) => {
            let parts = &mut reasoning.summary;
            // Providers count parts up from 0; the bound keeps a wild index from allocating.
            while parts.len() <= part as usize && parts.len() < 256 {
                parts.push(String::new());
            }
            if let Some(part) = parts.get_mut(part as usize) {
                part.push_str(&text);
            }
        }
        (Content::Reasoning(reasoning), Delta::Signature(more)) => {
            reasoning.signature.get_or_insert_default().push_str(&more);
        }
        (Content::Reasoning(reasoning), Delta::Encrypted(data)) => reasoning.encrypted = Some(data),
        (Content::ToolCall(call), Delta::Arguments(more)) => call.arguments.push_str(&more),
        (Content::Refusal(text), Delta::Refusal(more)) => text.push_str(&more),
        // A delta of another kind than its block breaks the invariants above; decoders' tests hold them.
        _ => {}
    }
}

fn add_logprobs(choice: &mut Choice, entries: Vec<Value>) {
    let logprobs = choice.logprobs.get_or_insert_with(|| serde_json::json!({ "content": [] }));
    if let Some(content) = logprobs.get_mut("content").and_then(Value::as_array_mut) {
        content.extend(entries);
    }
}

/// Takes an answer apart into the stream that would have made it: one delta a block.
pub fn replay(answer: &Answer) -> Vec<Event> {
    let mut events = vec![Event::Start(Start {
        id: answer.id.clone(),
        model: answer.model.clone(),
        created: answer.created,
        service_tier: answer.service_tier.clone(),
        system_fingerprint: answer.system_fingerprint.clone(),
        source: answer.source,
    })];
    for choice in &answer.choices {
        let mut logprobs = choice.logprobs.as_ref();
        for (index, block) in choice.blocks.iter().enumerate() {
            // They belong to the whole text; the first text block carries them.
            let carried = if matches!(block.content, Content::Text { .. }) { logprobs.take() } else { None };
            replay_block(choice.index, index as u32, block, carried, &mut events);
        }
        if let Some(reason) = choice.finish {
            events.push(Event::Finish {
                choice: choice.index,
                reason,
                native: choice.native_finish.clone(),
                stop_sequence: choice.stop_sequence.clone(),
            });
        }
    }
    if !answer.extra.is_empty() {
        events.push(Event::Extra(answer.extra.clone()));
    }
    events.extend(answer.usage.map(Event::Usage));
    events
}

fn replay_block(choice: u32, index: u32, block: &Block, logprobs: Option<&Value>, events: &mut Vec<Event>) {
    let (head, deltas) = match &block.content {
        Content::Text { text, citations } => {
            let mut deltas = vec![Delta::Text(text.clone())];
            deltas.extend(citations.iter().cloned().map(Delta::Citation));
            (Opened::Text, deltas)
        }
        Content::Reasoning(reasoning) => {
            let head = Opened::Reasoning { id: reasoning.id.clone(), encrypted: reasoning.encrypted.clone() };
            let mut deltas = Vec::new();
            if !reasoning.text.is_empty() {
                deltas.push(Delta::Reasoning(reasoning.text.clone()));
            }
            for (part, text) in reasoning.summary.iter().enumerate() {
                deltas.push(Delta::Summary { part: part as u32, text: text.clone() });
            }
            deltas.extend(reasoning.signature.clone().map(Delta::Signature));
            (head, deltas)
        }
        Content::ToolCall(call) => {
            let head = Opened::ToolCall(ToolCall { arguments: String::new(), ..call.clone() });
            (head, vec![Delta::Arguments(call.arguments.clone())])
        }
        Content::Refusal(text) => (Opened::Refusal, vec![Delta::Refusal(text.clone())]),
        _ => (Opened::Whole(Box::new(block.clone())), Vec::new()),
    };
    if let Some(Value::Object(message)) = block.extra.get(MESSAGE) {
        events.push(Event::Message(message.clone()));
    }
    let entries = logprobs.and_then(|value| value.get("content")).and_then(Value::as_array).cloned();
    events.push(Event::Open { choice, index, block: head });
    events.extend(deltas.into_iter().map(|delta| Event::Delta { choice, index, delta }));
    events.extend(entries.map(|entries| Event::Delta { choice, index, delta: Delta::Logprobs(entries) }));
    events.push(Event::Close { choice, index });
}

/// Opens and closes blocks for decoders of dialects that have no block structure of their own (OpenAI chat, Gemini).
#[derive(Debug, Default)]
pub struct Blocks {
    choices: Vec<Open>,
}

#[derive(Debug, Default)]
struct Open {
    choice: u32,
    next: u32,
    /// The open text, reasoning or refusal block.
    running: Option<(u32, Opened)>,
    /// Open tool calls by the dialect's own index.
    calls: Vec<(u64, u32)>,
}

impl Blocks {
    /// The index of the open block of this kind; opens one, closing what was open, when there is none.
    pub fn running(&mut self, choice: u32, kind: Opened, out: &mut Vec<Event>) -> u32 {
        let open = self.choice(choice);
        match &open.running {
            Some((index, running)) if std::mem::discriminant(running) == std::mem::discriminant(&kind) => *index,
            _ => {
                open.close(out);
                let index = open.take_index();
                open.running = Some((index, kind.clone()));
                out.push(Event::Open { choice, index, block: kind });
                index
            }
        }
    }

    /// The index of the text that is open, if one is.
    pub fn open_text(&mut self, choice: u32) -> Option<u32> {
        match &self.choice(choice).running {
            Some((index, Opened::Text)) => Some(*index),
            _ => None,
        }
    }

    /// The index of the tool call that the dialect counts as `key`, if it is open.
    pub fn call(&mut self, choice: u32, key: u64) -> Option<u32> {
        self.choice(choice).calls.iter().find(|(known, _)| *known == key).map(|(_, index)| *index)
    }

    /// Opens a tool call under the dialect's own `key`. Earlier calls stay open, as some providers interleave them; but for
    /// one that had the same key, which is over with it.
    pub fn open_call(&mut self, choice: u32, key: u64, call: ToolCall, out: &mut Vec<Event>) -> u32 {
        let open = self.choice(choice);
        open.close_running(out);
        if let Some(at) = open.calls.iter().position(|(known, _)| *known == key) {
            let (_, index) = open.calls.remove(at);
            out.push(Event::Close { choice, index });
        }
        let index = open.take_index();
        open.calls.push((key, index));
        out.push(Event::Open { choice, index, block: Opened::ToolCall(call) });
        index
    }

    /// A block that comes in one piece.
    pub fn whole(&mut self, choice: u32, block: Opened, deltas: Vec<Delta>, out: &mut Vec<Event>) {
        let open = self.choice(choice);
        open.close(out);
        let index = open.take_index();
        out.push(Event::Open { choice, index, block });
        out.extend(deltas.into_iter().map(|delta| Event::Delta { choice, index, delta }));
        out.push(Event::Close { choice, index });
    }

    /// Closes everything open in one choice.
    pub fn close(&mut self, choice: u32, out: &mut Vec<Event>) {
        self.choice(choice).close(out);
    }

    /// Closes everything open anywhere.
    pub fn close_all(&mut self, out: &mut Vec<Event>) {
        self.choices.iter_mut().for_each(|open| open.close(out));
    }

    fn choice(&mut self, choice: u32) -> &mut Open {
        let at = match self.choices.iter().position(|open| open.choice == choice) {
            Some(at) => at,
            None => {
                self.choices.push(Open { choice, ..Open::default() });
                self.choices.len() - 1
            }
        };
        &mut self.choices[at]
    }
}

impl Open {
    fn take_index(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    fn close_running(&mut self, out: &mut Vec<Event>) {
        if let Some((index, _)) = self.running.take() {
            out.push(Event::Close { choice: self.choice, index });
        }
    }

    fn close(&mut self, out: &mut Vec<Event>) {
        self.close_running(out);
        for (_, index) in self.calls.drain(..) {
            out.push(Event::Close { choice: self.choice, index });
        }
    }
}
