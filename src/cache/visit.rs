//! What the cache has to do with one exchange: what was found, what is recorded, who bears the cost.
//!
//! Travels in the exchange; settles with it, exactly once.

use std::sync::Arc;
use std::time::Duration;

use super::controls::Controls;
use super::policy::Policy;
use super::semantic::{self, Sought};
use crate::chat::{Finish, Usage};
use crate::dialect::Op;
use crate::exchange::Seen;
use crate::pipeline::unix_ms;
use crate::state::State;
use crate::state::cache::entry::Places;
use crate::state::cache::flight::{Heard, Lead, Listener, Stream};
use crate::state::cache::{Entry, Form, Key};

/// What the cache did, in the words of the header, the log and the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// The answer was kept.
    Hit,
    /// An answer to an ask that means about the same was kept.
    SemanticHit,
    /// Another exchange was getting it.
    Coalesced,
    /// It was not there.
    Miss,
    /// The request did not want what is kept.
    Refresh,
    /// The cache had nothing to do with it.
    Bypass,
}

impl Status {
    pub const ALL: [Status; 6] =
        [Status::Hit, Status::SemanticHit, Status::Coalesced, Status::Miss, Status::Refresh, Status::Bypass];

    pub fn as_str(self) -> &'static str {
        match self {
            Status::Hit => "hit",
            Status::SemanticHit => "semantic-hit",
            Status::Coalesced => "coalesced",
            Status::Miss => "miss",
            Status::Refresh => "refresh",
            Status::Bypass => "bypass",
        }
    }
}

/// Who made an answer that this exchange did not ask for itself.
#[derive(Debug, Clone)]
pub struct Source {
    pub provider: String,
    pub model: String,
}

/// The part that this exchange has among identical ones.
#[derive(Debug, Default)]
pub enum Role {
    #[default]
    Alone,
    Lead(Lead),
    Listen(Listener),
}

/// One exchange's business with the cache.
#[derive(Debug)]
pub struct Visit {
    pub status: Status,
    /// None when there is none: a bypass.
    pub key: Option<Key>,
    /// How long the answer is kept, or how long the one given is still good for.
    pub ttl: Duration,
    /// How old the answer given is.
    pub age: Option<Duration>,
    pub source: Option<Source>,
    /// What the answer cost when it was made, and not this time.
    pub saved_nano_usd: Option<u64>,
    pub partition: String,
    pub namespace: String,
    pub policy: Policy,
    /// The oldest answer that it takes.
    pub max_age: Option<Duration>,
    /// The answer may be kept.
    pub write: bool,
    /// How many purges there were when the ask began.
    pub since: u64,
    pub role: Role,
    /// The stream that this exchange hears, its own or another's.
    pub stream: Option<Stream>,
    /// What that stream had used when it broke off and this exchange went on from there; nobody else hears what follows.
    pub part: Option<Usage>,
    /// What asks in other words must have in common; None where none are looked for.
    pub frame: Option<Key>,
    /// What the ask is to be found by when it is asked in other words.
    pub sought: Option<Sought>,
    /// Whether the cost falls to this exchange; None until it has ended.
    bears: Option<bool>,
}

impl Visit {
    pub fn new(key: Key, partition: String, policy: Policy, controls: &Controls) -> Self {
        Visit {
            status: if controls.read { Status::Miss } else { Status::Refresh },
            key: Some(key),
            namespace: controls.namespace.clone(),
            max_age: controls.max_age,
            write: controls.write,
            ..Visit::bypass(partition, policy, controls.ttl)
        }
    }

    pub fn bypass(partition: String, policy: Policy, ttl: Duration) -> Self {
        Visit {
            status: Status::Bypass,
            key: None,
            ttl,
            age: None,
            source: None,
            saved_nano_usd: None,
            partition,
            namespace: String::new(),
            policy,
            max_age: None,
            write: false,
            since: 0,
            role: Role::Alone,
            stream: None,
            part: None,
            frame: None,
            sought: None,
            bears: None,
        }
    }

    /// The answer was there.
    pub fn hit(&mut self, status: Status, entry: &Entry, now_ms: u64) {
        self.status = status;
        // Of an ask in other words it is another one: what is to be taken out is the answer that was given.
        self.key = Some(entry.key);
        self.age = Some(entry.age(now_ms));
        self.ttl = entry.left(now_ms).unwrap_or_default();
        self.source = Some(entry.into());
        self.saved_nano_usd = entry.cost_nano_usd;
    }

    /// The answer is another exchange's, and whole.
    pub fn shared(&mut self, entry: &Entry) {
        self.coalesced(entry.into());
        // The other one's ask may have been answered in other words.
        self.key = Some(entry.key);
        self.saved_nano_usd = entry.cost_nano_usd;
    }

    /// The answer is another exchange's.
    pub fn coalesced(&mut self, source: Source) {
        self.status = Status::Coalesced;
        self.source = Some(source);
    }

    /// Whether the answer was not paid for by this exchange, as far as can be told before its end.
    pub fn is_free(&self) -> bool {
        matches!(self.status, Status::Hit | Status::SemanticHit | Status::Coalesced)
    }

    /// How long the answer that was given is good for, or the one that is on its way will be; None where nothing is kept.
    pub fn lasts(&self) -> Option<Duration> {
        self.key.filter(|_| self.write || self.is_free()).map(|_| self.ttl)
    }

    /// Whether the answer is worth recording.
    pub fn records(&self) -> bool {
        self.key.is_some() && (self.write || matches!(self.role, Role::Lead(_))) && !self.is_free()
    }

    /// Whether an answer that ended so is kept.
    pub fn keeps(&self, finish: Option<Finish>) -> bool {
        finish.is_some_and(|finish| self.policy.general.finishes.contains(&finish))
    }

    /// The exchange ends: settles who bears the cost of a shared stream, and keeps it when it is whole.
    pub fn end(&mut self, (asked, op): (&str, Op), complete: bool, seen: &mut Seen, state: &State) {
        let Some(stream) = self.stream.as_ref().filter(|_| self.bears.is_none()) else { return };
        let heard = Heard { complete, usage: seen.usage.filter(|_| self.part.is_none()), frames: seen.frames };
        let (bears, flight) = match &self.role {
            Role::Alone => (true, None),
            Role::Lead(lead) => (lead.settle(heard), Some(lead.flight())),
            Role::Listen(listener) => (listener.settle(heard), Some(listener.flight())),
        };
        self.bears = Some(bears);
        if !bears {
            let usage = self.part.as_ref().or(seen.usage.as_ref()).filter(|_| complete);
            self.saved_nano_usd = usage.and_then(|usage| stream.target.cost(usage));
        } else if self.part.is_none()
            && let Some(flight) = flight
        {
            match flight.usage() {
                // Another has heard all of it: what was stated at its end is more than this one's client got.
                Some(usage) if !complete => (seen.usage, seen.frames) = (Some(usage), 0),
                known => seen.usage = seen.usage.or(known),
            }
            if !complete && flight.was_shared() && flight.usage().is_none() {
                // Whoever ends last pays for all that was said, however little of it went to this one's client.
                let said = stream.tape.so_far(stream.dialect.sniffer(op));
                if let Some(usage) = said.usage {
                    seen.usage.get_or_insert_default().update(&usage);
                }
                seen.frames = seen.frames.max(flight.frames()).max(said.frames);
            }
        }
        let kept = flight.is_some_and(|flight| flight.is_kept());
        // What another upstream went on with is on no tape.
        if !complete || self.part.is_some() || !self.write || !self.keeps(seen.finish) || kept {
            return;
        }
        if let Some(body) = stream.tape.whole()
            && let Some(entry) = self.entry(asked, stream, Form::Stream, body, seen)
            && flight.is_none_or(|flight| flight.keep())
        {
            let entry = Arc::new(entry);
            if state.cache.keep(entry.clone(), stream.since) {
                semantic::keep(self, &entry, &state.cache.vectors);
            }
        }
    }

    /// Whether the cost falls to this exchange.
    pub fn bears(&self) -> bool {
        self.bears.unwrap_or(!self.is_free())
    }

    /// The target whose prices count when this exchange bears the cost of an answer that it did not ask for itself.
    pub fn target(&self) -> Option<&Arc<crate::route::Target>> {
        self.stream.as_ref().map(|stream| &stream.target)
    }

    fn entry(&self, asked: &str, stream: &Stream, form: Form, body: bytes::Bytes, seen: &Seen) -> Option<Entry> {
        let said = Said { dialect: stream.dialect, form, body, usage: seen.usage, finish: seen.finish };
        self.make(asked, &stream.target, said, seen.id.as_deref())
    }

    /// What is kept of an answer.
    pub fn make(&self, asked: &str, target: &crate::route::Target, said: Said, id: Option<&str>) -> Option<Entry> {
        let id = id.and_then(|id| Places::of(id, &said.body));
        Some(Entry {
            key: self.key?,
            partition: self.partition.clone(),
            asked: asked.to_owned(),
            provider: target.provider.name.clone(),
            model: target.model.clone(),
            dialect: said.dialect,
            form: said.form,
            id,
            cost_nano_usd: said.usage.as_ref().and_then(|usage| target.cost(usage)),
            usage: said.usage,
            finish: said.finish,
            body: said.body,
            stored_ms: unix_ms(),
            ttl: self.ttl,
        })
    }
}

/// What an upstream said.
pub struct Said {
    pub dialect: &'static dyn crate::dialect::Dialect,
    pub form: Form,
    pub body: bytes::Bytes,
    pub usage: Option<Usage>,
    pub finish: Option<Finish>,
}
