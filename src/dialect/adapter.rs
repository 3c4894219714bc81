//! A wire form that a guest teaches the gateway: what [`super::Dialect`] is for those built in, towards upstreams only.
//!
//! Calls may wait, because a guest gets its time in slices. Never sends: an adapter writes a request below the
//! operator's base URL and reads what came back; `attempt` has the socket.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;

use super::Op;
use super::refusal;
use crate::chat::event::Blocks;
use crate::chat::{Answer, Ask, Delta, Event, Finish, Opened, Start, ToolCall, Usage};
use crate::embed::{EmbedAnswer, EmbedAsk};
use crate::fault::{Fault, Kind, Refusal};
use crate::rerank::{RerankAnswer, RerankAsk};

mod desk;
mod taught;

pub use desk::Desk;
pub use taught::TAUGHT;

/// Something that a guest works on.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the adapter is to write a request for.
#[derive(Debug, Clone, Copy)]
pub enum Asking<'a> {
    Chat(&'a Ask),
    Embed(&'a EmbedAsk),
    Rerank(&'a RerankAsk),
}

/// A request as an adapter wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub method: Method,
    /// Below the base URL, query included. Not to be trusted: see `attempt::adapted`.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// A good answer is for a [`StreamDecoder`], else for [`Adapter::decode`].
    pub streamed: bool,
    /// Fields that the wire form cannot express: (field, why).
    pub dropped: Vec<(String, String)>,
}

/// An upstream's whole answer.
#[derive(Debug, Clone, Copy)]
pub struct Came<'a> {
    pub status: u16,
    pub headers: &'a HeaderMap,
    pub body: &'a Bytes,
}

/// What an adapter read out of a good answer.
#[derive(Debug)]
pub enum Read {
    Chat(Answer),
    Embed(EmbedAnswer),
    Rerank(RerankAnswer),
    /// The answer is not there yet; this request, sent after the wait, leads on.
    FollowUp(Box<Written>, Duration),
}

/// A wire form in a guest.
pub trait Adapter: Send + Sync + fmt::Debug {
    /// The name in configuration, metrics and logs: `wasm:cohere`, `lua:ollama`.
    fn name(&self) -> &'static str;

    /// Whether it can be asked for this.
    fn serves(&self, op: Op) -> bool;

    /// The request for an ask. `model` is the upstream's name of it.
    ///
    /// # Errors
    /// [`Kind::UnsupportedFeature`] for what the wire form cannot do; [`Kind::GuestFailed`] when the guest broke.
    fn encode<'a>(&'a self, model: &'a str, asking: Asking<'a>) -> Pending<'a, Result<Written, Fault>>;

    /// Reads a good answer.
    ///
    /// # Errors
    /// What the upstream reports in it, [`Kind::BadAnswer`], or [`Kind::GuestFailed`].
    fn decode<'a>(&'a self, op: Op, came: Came<'a>) -> Pending<'a, Result<Read, Fault>>;

    /// Reads an error answer. A guest that breaks over it leaves the status and the text as they stand.
    fn decode_error<'a>(&'a self, came: Came<'a>) -> Pending<'a, Refusal>;

    /// A decoder for one stream.
    ///
    /// # Errors
    /// [`Kind::GuestFailed`].
    fn decoder(&self) -> Pending<'_, Result<Box<dyn StreamDecoder>, Fault>>;
}

/// Turns the bytes of one stream into neutral events.
pub trait StreamDecoder: Send {
    /// Works off the stream, from its first bytes to its end or to what breaks it. One future for all of it: its pieces
    /// are small and many.
    fn run(self: Box<Self>, desk: Desk) -> Pending<'static, ()>;
}

/// What goes by in a stream as adapters say it: blocks are neither opened nor closed.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Start {
        id: String,
        model: String,
    },
    /// What follows belongs to this choice.
    Choice(u32),
    Text(String),
    Reasoning(String),
    /// Ends a stretch of reasoning.
    Signature(String),
    Refusal(String),
    /// `key` is what the upstream counts the call by.
    Call {
        key: u64,
        id: String,
        name: String,
    },
    Arguments {
        key: u64,
        text: String,
    },
    Citation(Value),
    Finish {
        reason: Finish,
        native: Option<String>,
        stop_sequence: Option<String>,
    },
    Usage(Usage),
    Ping,
}

/// Makes events of steps: keeps the invariants of [`crate::chat::event`] for adapters, who need not know them.
#[derive(Debug)]
pub struct Assembler {
    /// The adapter's name: signatures in its streams belong to it.
    source: &'static str,
    started: bool,
    choice: u32,
    blocks: Blocks,
}

impl Assembler {
    pub fn new(source: &'static str) -> Self {
        Assembler { source, started: false, choice: 0, blocks: Blocks::default() }
    }

    /// # Errors
    /// [`Kind::BadAnswer`] when arguments come for a call that was never opened.
    pub fn step(&mut self, step: Step, out: &mut Vec<Event>) -> Result<(), Fault> {
        if let Step::Start { id, model } = step {
            if !self.started {
                self.start(id, model, out);
            }
            return Ok(());
        }
        if !self.started && step != Step::Ping {
            self.start(String::new(), String::new(), out);
        }
        let choice = self.choice;
        let mut delta = |blocks: &mut Blocks, kind: Opened, delta: Delta| {
            let index = blocks.running(choice, kind, out);
            out.push(Event::Delta { choice, index, delta });
        };
        let thinking = || Opened::Reasoning { id: None, encrypted: None };
        match step {
            Step::Start { .. } => {}
            Step::Choice(next) => self.choice = next,
            Step::Text(text) => delta(&mut self.blocks, Opened::Text, Delta::Text(text)),
            Step::Reasoning(text) => delta(&mut self.blocks, thinking(), Delta::Reasoning(text)),
            Step::Signature(text) => {
                delta(&mut self.blocks, thinking(), Delta::Signature(text));
                self.blocks.close(choice, out);
            }
            Step::Refusal(text) => delta(&mut self.blocks, Opened::Refusal, Delta::Refusal(text)),
            Step::Citation(citation) => delta(&mut self.blocks, Opened::Text, Delta::Citation(citation)),
            Step::Call { key, id, name } => {
                self.blocks.open_call(choice, key, ToolCall { id, name, ..ToolCall::default() }, out);
            }
            Step::Arguments { key, text } => {
                let index = self.blocks.call(choice, key).ok_or_else(|| {
                    Fault::new(Kind::BadAnswer, format!("Arguments came for the tool call {key}, which never began."))
                })?;
                out.push(Event::Delta { choice, index, delta: Delta::Arguments(text) });
            }
            Step::Finish { reason, native, stop_sequence } => {
                self.blocks.close(choice, out);
                out.push(Event::Finish { choice, reason, native, stop_sequence });
            }
            Step::Usage(usage) => out.push(Event::Usage(usage)),
            Step::Ping => out.push(Event::Ping),
        }
        Ok(())
    }

    /// Closes what is open: the stream is at its end.
    pub fn close(&mut self, out: &mut Vec<Event>) {
        self.blocks.close_all(out);
    }

    fn start(&mut self, id: String, model: String, out: &mut Vec<Event>) {
        self.started = true;
        out.push(Event::Start(Start { id, model, source: self.source, ..Start::default() }));
    }
}

/// The fault that a refusal is, in the adapter's own words or its upstream's: `status` 502 stands for a body that makes
/// no sense, what has another is the upstream's doing.
pub fn refused(refusal: Refusal) -> Fault {
    match refusal.status {
        502 => Fault::new(Kind::BadAnswer, refusal.message),
        _ => refusal::fault(refusal, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::event::Collector;

    fn assembled(steps: Vec<Step>) -> (Vec<Event>, Answer) {
        let mut assembler = Assembler::new("wasm:test");
        let mut events = Vec::new();
        for step in steps {
            assembler.step(step, &mut events).expect("fits");
        }
        assembler.close(&mut events);
        let mut collector = Collector::default();
        events.iter().cloned().try_for_each(|event| collector.event(event)).expect("no fault");
        (events, collector.finish())
    }

    #[test]
    fn blocks_open_and_close_when_the_kind_changes() {
        let (events, answer) = assembled(vec![
            Step::Reasoning("hm".into()),
            Step::Signature("sig".into()),
            Step::Text("a".into()),
            Step::Text("b".into()),
            Step::Call { key: 7, id: "c1".into(), name: "f".into() },
            Step::Arguments { key: 7, text: "{}".into() },
            Step::Finish { reason: Finish::ToolCalls, native: None, stop_sequence: None },
        ]);
        assert!(matches!(&events[0], Event::Start(start) if start.source == "wasm:test"));
        let opened = events.iter().filter(|event| matches!(event, Event::Open { .. })).count();
        let closed = events.iter().filter(|event| matches!(event, Event::Close { .. })).count();
        assert_eq!((opened, closed), (3, 3));
        assert_eq!(answer.text(), "ab");
        assert_eq!(answer.choices[0].blocks.len(), 3);
    }

    #[test]
    fn arguments_without_a_call_are_refused() {
        let step = Step::Arguments { key: 1, text: "{}".into() };
        let fault = Assembler::new("wasm:test").step(step, &mut Vec::new()).expect_err("refused");
        assert_eq!(fault.kind, Kind::BadAnswer);
    }
}
