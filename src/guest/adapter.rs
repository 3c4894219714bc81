//! Adapters, whatever their language: what they say of themselves, what they may use, and what the gateway makes of
//! what they write and read.
//!
//! The engines convert and call; what is the same for all of them is here. Never sends: `attempt::adapted` does, and it
//! bounds where a request leads.

mod cut;
mod decoding;
mod meter;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Deserialize;

use crate::dialect::Op;
use crate::dialect::adapter::{Came, Written};
use crate::fault::{Fault, Refusal};
use crate::host::{Budget, Cx, Grants, Guest, Killed, Phase, Visit};
use crate::state::guests::Guests;

pub use cut::{Piece, StreamEvent};
pub use decoding::{Decoding, Reader, Said, Told};
pub use meter::{Function, Meter};

/// Longest text of an error answer that stands for one that the guest could not read.
const MAX_MESSAGE_CHARS: usize = 200;

/// How much one call of an adapter may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Processor time. Starting gets ten times as much.
    pub cpu: Duration,
    /// Memory of one instance or machine, in bytes.
    pub memory: usize,
    pub host_calls: u32,
    /// Bytes copied out of the guest in one crossing: results, and arguments of host functions.
    pub output: usize,
}

impl Default for Lease {
    fn default() -> Self {
        Lease {
            // Enough for a 64 KiB body in an interpreted language (reference: 7 to 123 ms), with room.
            cpu: Duration::from_millis(500),
            memory: 64 << 20,
            host_calls: 100_000,
            output: 32 << 20,
        }
    }
}

/// What an adapter is, for people.
#[derive(Debug, Clone)]
pub struct About {
    /// As it is counted: `lua:acme`.
    pub label: &'static str,
    pub title: String,
    pub version: String,
    /// Where it lies.
    pub file: String,
    pub digest: String,
    pub lease: Lease,
}

/// An adapter as those see it who look after it.
pub trait Seen: Send + Sync + std::fmt::Debug {
    fn about(&self) -> About;

    /// Counts its calls among these from now on.
    fn count_in(&self, guests: &Guests);
}

/// Times of a call's processor time that a start may take.
pub const START: u32 = 10;

impl Lease {
    /// The adapter as the host knows it: nothing is granted to it.
    pub fn guest(&self, name: &str) -> Arc<Guest> {
        let budget = Budget {
            cpu: self.cpu,
            total: self.cpu,
            // It has nothing to wait for.
            wait: Duration::ZERO,
            memory: self.memory,
            // Time alone ends a call: bodies are as long as they are.
            safepoints: u64::MAX,
            host_calls: self.host_calls,
            output: self.output,
        };
        Arc::new(Guest { name: name.into(), grants: Grants::default(), budget, metrics: Default::default() })
    }

    /// What a call of a function went past.
    fn overrun(&self, killed: Killed, function: Function) -> String {
        let Lease { cpu, memory, host_calls, output } = *self;
        match killed {
            Killed::Memory => format!("needed more than {memory} bytes"),
            Killed::HostCalls => format!("called more than {host_calls} host functions"),
            Killed::Output => format!("put out more than {output} bytes"),
            Killed::Deadline | Killed::Safepoints | Killed::Wait | Killed::Exchange => {
                format!("used up its {:?} of processor time", cpu * function.times())
            }
        }
    }
}

/// The surroundings of a call: no exchange, no gateway, and so much time.
pub fn cx(guest: &Arc<Guest>, visit: &Arc<Visit>, function: Function) -> Cx {
    Cx {
        guest: guest.clone(),
        phase: if function == Function::Start { Phase::Init } else { Phase::Attempt },
        visit: visit.clone(),
        apart: None,
        world: None,
        lease: lease(guest, function),
        // There is nothing that it could wait for.
        awaits: false,
        gives_way: true,
    }
}

/// What one call of a function may use.
pub fn lease(guest: &Guest, function: Function) -> crate::host::Lease {
    let cpu = guest.budget.cpu * function.times();
    crate::host::Lease::new(Budget { cpu, total: cpu, ..guest.budget }).without_hook()
}

/// What an adapter says it is. A script says it in the `[adapter]` of its manifest.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// For people: `Cohere v2`.
    #[serde(default)]
    pub title: String,
    /// Of the adapter itself. Of a script, that of its manifest.
    #[serde(skip)]
    pub version: String,
    /// How the key is sent, until the operator says otherwise.
    #[serde(default)]
    pub auth: AuthKind,
    /// What it can be asked for.
    pub operations: Vec<Operation>,
    /// None: it reads no streams.
    #[serde(default)]
    pub framing: Option<Framing>,
    /// Where the provider usually is. Only ever shown.
    #[serde(default)]
    pub suggested_base_url: Option<String>,
    #[serde(default)]
    pub models: Vec<Model>,
}

/// How a key is sent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthKind {
    #[default]
    None,
    /// `authorization: Bearer KEY`
    Bearer,
    /// A header of this name that holds the key and nothing else.
    Header(String),
    /// A query parameter of this name.
    Query(String),
}

/// What an adapter can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Chat,
    Embed,
    Rerank,
}

impl Operation {
    /// What is asked of an adapter for an operation of the gateway's. Counting is estimated, see `attempt`.
    pub fn of(op: Op) -> Operation {
        match op {
            Op::Generate | Op::Complete | Op::CountTokens => Operation::Chat,
            Op::Embed | Op::EmbedBatch => Operation::Embed,
            Op::Rerank => Operation::Rerank,
        }
    }

    /// The word in scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Chat => "chat",
            Operation::Embed => "embed",
            Operation::Rerank => "rerank",
        }
    }
}

/// In which pieces a stream is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// As they come from the network, cut anywhere.
    Bytes,
    /// Whole lines of text.
    Lines,
    /// Whole server-sent events.
    Events,
}

/// A model that the provider serves, for `GET /v1/models`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Named")]
pub struct Model {
    pub id: String,
    /// Tokens of input and output together.
    pub context: Option<u64>,
    pub max_output: Option<u64>,
}

/// A model as a manifest has it: its name alone, or with more.
#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Id(String),
    Whole {
        id: String,
        #[serde(default)]
        context: Option<u64>,
        #[serde(default)]
        max_output: Option<u64>,
    },
}

impl From<Named> for Model {
    fn from(named: Named) -> Model {
        match named {
            Named::Id(id) => Model { id, context: None, max_output: None },
            Named::Whole { id, context, max_output } => Model { id, context, max_output },
        }
    }
}

impl Description {
    /// Whether it can be asked for this.
    pub fn serves(&self, op: Op) -> bool {
        self.operations.contains(&Operation::of(op))
    }
}

/// A request as a guest wrote it.
#[derive(Debug, Default)]
pub struct Draft {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    pub streamed: bool,
    pub dropped: Vec<(String, String)>,
}

/// What a request may be. Others are between the gateway and its peer: one opens a tunnel, one has its headers sent back,
/// the provider's key among them.
const METHODS: [Method; 6] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD];

/// The request in a draft.
///
/// # Errors
/// What of it cannot be sent.
pub fn written(draft: Draft) -> Result<Written, String> {
    let method = METHODS.iter().find(|known| known.as_str() == draft.method).cloned();
    let method = method.ok_or_else(|| {
        let shown: String = draft.method.chars().take(20).collect();
        format!("wrote the method `{shown}`; write one of {}", METHODS.map(|method| method.to_string()).join(", "))
    })?;
    let mut headers = HeaderMap::with_capacity(draft.headers.len());
    for (name, value) in draft.headers {
        let parsed = name.parse::<HeaderName>().ok().zip(HeaderValue::from_str(&value).ok());
        let (name, value) = parsed.ok_or_else(|| format!("wrote a header `{name}` that cannot be sent"))?;
        headers.append(name, value);
    }
    let Draft { path, body, streamed, dropped, .. } = draft;
    Ok(Written { method, path, headers, body, streamed, dropped })
}

/// Those headers of an upstream's answer that mean something to a guest.
pub fn told<'a>(came: &Came<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
    let tells = |name: &str| matches!(name, "content-type" | "retry-after") || name.starts_with("x-");
    let headers = came.headers.iter().filter(move |(name, _)| tells(name.as_str()));
    headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
}

/// An error answer that no guest has read: its status, and its text as it stands. `broke` is why the one that should have
/// could not.
pub fn unread(label: &'static str, came: &Came<'_>, broke: Option<Fault>) -> Refusal {
    let message = String::from_utf8_lossy(came.body).chars().take(MAX_MESSAGE_CHARS).collect();
    let unread = broke.map(|fault| match &fault.source {
        Some(why) => format!("{} ({why})", fault.message),
        None => fault.message,
    });
    Refusal { status: came.status, message, dialect: label, unread, ..Refusal::default() }
}

/// A name that lives as long as the process. Each distinct name is kept once, however often its adapter is swapped: wire
/// forms are told apart by static names in a great many places, and adapters are few.
pub fn interned(name: &str) -> &'static str {
    static NAMES: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let names = names.get_or_insert_default();
    match names.get(name) {
        Some(known) => known,
        None => {
            let kept: &'static str = Box::leak(name.into());
            names.insert(kept);
            kept
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_that_carries_a_request() {
        let method = |method: &str| written(Draft { method: method.to_owned(), ..Draft::default() });
        for good in ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"] {
            assert_eq!(method(good).map(|written| written.method.to_string()), Ok(good.to_owned()));
        }
        for bad in ["TRACE", "CONNECT", "OPTIONS", "post", "PO ST", ""] {
            let why = method(bad).expect_err(bad);
            assert!(why.contains("GET, POST, PUT, PATCH, DELETE, HEAD"), "{why}");
        }
    }
}
