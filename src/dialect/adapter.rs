//! A wire form that a guest teaches the gateway: what [`super::Dialect`] is for those built in, towards upstreams only.
//!
//! Calls may wait, because a guest gets its time in slices. Never sends: an adapter writes a request below the
//! operator's base URL and reads what came back; `attempt` has the socket.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;

use super::Op;
use super::refusal;
use crate::chat::{Answer, Ask, Finish, Usage};
use crate::embed::{EmbedAnswer, EmbedAsk};
use crate::fault::{Fault, Kind, Refusal};
use crate::host::Visit;
use crate::rerank::{RerankAnswer, RerankAsk};

mod assembler;
mod desk;
mod fit;
mod taught;

pub use assembler::{Assembler, sound};
pub use desk::Desk;
pub use fit::{below_base, embeds, ranks};
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

/// A wire form in a guest. Each call is told the visit of the exchange that it is made for: what the guest leaves in it, such
/// as lines of the log, counts together.
pub trait Adapter: Send + Sync + fmt::Debug {
    /// The name in configuration, metrics and logs: `wasm:cohere`, `lua:ollama`.
    fn name(&self) -> &'static str;

    /// Whether it can be asked for this.
    fn serves(&self, op: Op) -> bool;

    /// The request for an ask. `model` is the upstream's name of it.
    ///
    /// # Errors
    /// [`Kind::UnsupportedFeature`] for what the wire form cannot do; [`Kind::GuestFailed`] when the guest broke.
    fn encode<'a>(
        &'a self,
        visit: &'a Arc<Visit>,
        model: &'a str,
        asking: Asking<'a>,
    ) -> Pending<'a, Result<Written, Fault>>;

    /// Reads a good answer.
    ///
    /// # Errors
    /// What the upstream reports in it, [`Kind::BadAnswer`], or [`Kind::GuestFailed`].
    fn decode<'a>(&'a self, visit: &'a Arc<Visit>, op: Op, came: Came<'a>) -> Pending<'a, Result<Read, Fault>>;

    /// Reads an error answer. A guest that breaks over it leaves the status and the text as they stand.
    fn decode_error<'a>(&'a self, visit: &'a Arc<Visit>, came: Came<'a>) -> Pending<'a, Refusal>;

    /// A decoder for one stream.
    ///
    /// # Errors
    /// [`Kind::GuestFailed`].
    fn decoder<'a>(&'a self, visit: &'a Arc<Visit>) -> Pending<'a, Result<Box<dyn StreamDecoder>, Fault>>;
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
    /// `key` is what the upstream counts the call by. It may use one for several calls, one after the other.
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

impl Step {
    /// Whether it is a part of what a choice says.
    pub fn is_said(&self) -> bool {
        match self {
            Step::Text(_)
            | Step::Reasoning(_)
            | Step::Signature(_)
            | Step::Refusal(_)
            | Step::Call { .. }
            | Step::Arguments { .. }
            | Step::Citation(_) => true,
            Step::Start { .. } | Step::Choice(_) | Step::Finish { .. } | Step::Usage(_) | Step::Ping => false,
        }
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
