//! One client request and all that happens to it: the value that travels through the pipeline.
//!
//! Holds facts only; `settle` reads them once, when the exchange ends however it ends.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::admit::{Admitted, Asking};
use crate::auth::Principal;
use crate::body::Sent;
use crate::cache::Visit;
use crate::chat::{Ask, Content, Finish, Usage};
use crate::dialect::{Asked, Dialect, Op};
use crate::fault::{Fault, Kind};
use crate::hook;
use crate::json::scan::Files;
use crate::pipeline::Wishes;
use crate::route::Target;
use crate::state::calls::Heard;
use crate::state::health::{End, Flight, Millis};
use crate::trace::Trace;

/// Everything known of an exchange.
#[derive(Debug)]
pub struct Exchange {
    /// The gateway's own id, `gen-` and 24 hexadecimal digits; `GET /v1/generation?id=` finds it.
    pub id: String,
    /// The id that caller and gateway both know: the caller's, where it sent one.
    pub request_id: String,
    /// When the head had been read.
    pub started: Instant,
    /// The same moment on the wall clock, in Unix milliseconds.
    pub started_ms: u64,
    /// The path's pattern, as in `api::ENDPOINTS`.
    pub endpoint: &'static str,
    /// The caller's wire form.
    pub dialect: &'static dyn Dialect,
    pub op: Op,
    pub stream: bool,
    /// The model as the caller named it, or as a policy has changed it.
    pub model: String,
    /// The caller's own name for it, where a policy has changed it.
    pub asked_model: Option<String>,
    pub principal: Option<Arc<Principal>>,
    pub peer: Option<SocketAddr>,
    /// Number of the generation that serves this exchange.
    pub generation: u64,
    pub bytes_in: u64,
    /// Tokens of the ask, as [`input_tokens`] guesses them.
    pub input_estimate: u64,
    pub bytes_out: u64,
    pub attempts: SmallVec<[Attempt; 1]>,
    /// What this process itself spent before the head of the answer was ready.
    pub overhead_at_head: Duration,
    /// Fields that the target could not express: (field, why).
    pub dropped: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// Whether the caller asked for `usage.cost`.
    pub usage_cost: bool,
    pub seen: Seen,
    /// Prompt-cache marks are set for providers that need them, where the caller set none.
    pub marks_prompt: bool,
    /// What it holds of limits and budgets; None where there are none.
    pub admitted: Option<Box<Admitted>>,
    /// What limits of targets must know of it; None where nothing is limited.
    pub asking: Option<Asking>,
    /// What the request says about its own routing; None where it says nothing.
    pub wishes: Option<Box<Wishes>>,
    /// The conversation it belongs to, where conversations are kept at a target.
    pub session: Option<Session>,
    /// How long the caller waits at most, where it says so.
    pub patience: Option<Duration>,
    /// What guests know and keep of it; None when the generation has none.
    pub guests: Option<Box<hook::Open>>,
    /// Its business with the cache; None where nothing is cached.
    pub cache: Option<Box<Visit>>,
    /// What is to be judged of its answer's tool calls.
    pub calls: Option<Box<Heard>>,
    /// What the caller said of an earlier exchange, where that is what it came for.
    pub feedback: Option<Box<Feedback>>,
    /// What was decided on the way; None when nobody will read it.
    pub trace: Option<Box<Trace>>,
    /// Status of the head that was or would have been sent.
    pub status: u16,
    pub outcome: Outcome,
}

/// What a caller thinks of an earlier answer.
#[derive(Debug, serde::Serialize)]
pub struct Feedback {
    /// The exchange that is judged.
    pub id: String,
    /// From -1, as bad as can be, to 1.
    pub score: f64,
}

/// A conversation that is kept at one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    pub key: u64,
    /// How long after its last request it is remembered.
    pub ttl: Duration,
}

/// How an exchange ended.
#[derive(Debug)]
pub enum Outcome {
    /// Not yet: an exchange dropped in this state lost its client.
    Open,
    Complete,
    Failed(Fault),
}

/// One try of one target.
#[derive(Debug)]
pub struct Attempt {
    pub target: Arc<Target>,
    /// Alias of the credential, where the provider has a pool of them.
    pub key: Option<Arc<str>>,
    pub role: Role,
    /// When it began, from the exchange's start.
    pub at: Duration,
    /// Until its answer was good, or it failed.
    pub took: Duration,
    /// What was waited before it, because a provider or the backoff wanted it so.
    pub waited: Duration,
    /// The upstream's status, where it gave one.
    pub status: Option<u16>,
    /// Why it was not the last.
    // Boxed like what follows: an attempt is moved several times, and nearly all are good.
    pub fault: Option<Box<Fault>>,
    /// Another target was faster, so it was given up.
    pub cancelled: bool,
    /// What it used before it was cut and another one went on.
    pub part: Option<Box<Usage>>,
    /// Whether its request went out, as long as nothing has come of it.
    pub sent: Option<Sent>,
    /// What it used of which the client gets nothing: a policy would not have the answer, or the client did not wait.
    pub unheard: Option<Box<Used>>,
    /// Its place at the target, and at the credential; taken when it is known how it ended.
    pub flight: Option<Flight>,
    pub key_flight: Option<Flight>,
}

/// Why an attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    First,
    /// The same target once more.
    Again,
    /// The same target with another credential.
    Key,
    /// Another target, because one failed.
    Next,
    /// Another target, because one was slow.
    Hedge,
    /// Another target went on where a stream broke off.
    Continuation,
}

impl Role {
    /// The word in the log and the trace.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::First => "first",
            Role::Again => "again",
            Role::Key => "key",
            Role::Next => "next",
            Role::Hedge => "hedge",
            Role::Continuation => "continuation",
        }
    }
}

impl Attempt {
    /// One that begins now.
    pub fn begin(target: Arc<Target>, role: Role, at: Duration) -> Self {
        Attempt {
            target,
            key: None,
            role,
            at,
            took: Duration::ZERO,
            waited: Duration::ZERO,
            status: None,
            fault: None,
            cancelled: false,
            part: None,
            sent: None,
            unheard: None,
            flight: None,
            key_flight: None,
        }
    }

    /// Tells the health of the target, and of the credential where there are several, how it ended. What one credential
    /// of a pool is refused for says nothing of the target, and the other way round; but where a limit leaves it no other
    /// credential, the target rests as one without a pool does.
    pub fn end(&mut self, now: Millis, end: End) {
        let pooled = self.key_flight.is_some();
        let of_key = matches!(&end, End::Failed { kind, .. } if kind.is_of_credential());
        let (target, key) = match end {
            End::Failed { .. } if pooled && of_key => (End::Cancelled, end),
            End::Failed { .. } => (end, End::Cancelled),
            End::Good { .. } | End::Cancelled => (end, end),
        };
        if let Some(flight) = self.key_flight.take() {
            flight.end(now, key);
        }
        let target = match key {
            End::Failed { kind: kind @ Kind::RateLimited, .. } if pooled => {
                let rest = self.target.provider.keys_rest(now);
                rest.map_or(target, |rest| End::Failed { kind, retry_after: Some(rest) })
            }
            _ => target,
        };
        if let Some(flight) = self.flight.take() {
            flight.end(now, target);
        }
    }

    /// Nobody waits for it any longer: of one whose request went out the provider has what it was given, and bills it.
    pub fn leave(&mut self, now: Millis, given_up: Option<Used>) {
        let used = self.sent.take().and_then(|sent| sent.used(given_up));
        self.unheard = self.unheard.take().or(used.map(Box::new));
        self.end(now, End::Cancelled);
    }

    /// For the trace.
    pub fn describe(&self) -> serde_json::Value {
        let mut what = serde_json::json!({
            "target": self.target.name(),
            "role": self.role.as_str(),
            "at_ms": self.at.as_millis() as u64,
            "took_ms": self.took.as_millis() as u64,
        });
        let mut add = |name: &str, value: Option<serde_json::Value>| {
            if let (Some(value), Some(object)) = (value, what.as_object_mut()) {
                object.insert(name.to_owned(), value);
            }
        };
        add("key", self.key.as_deref().map(Into::into));
        add("waited_ms", (!self.waited.is_zero()).then(|| (self.waited.as_millis() as u64).into()));
        add("status", self.status.map(Into::into));
        add("fault", self.fault.as_ref().map(|fault| fault.code().into()));
        add("cancelled", self.cancelled.then_some(true.into()));
        what
    }

    /// It failed.
    pub fn fail(&mut self, now: Millis, fault: &Fault) {
        // A limit of ours says nothing of the target's health: it was not asked.
        let ours = matches!(fault.kind, Kind::TargetLimited | Kind::LimitsUnavailable);
        let failed = End::Failed { kind: fault.kind, retry_after: fault.retry_after };
        self.end(now, if ours { End::Cancelled } else { failed });
        self.fault = Some(Box::new(fault.clone()));
    }
}

/// What an attempt may know of its exchange after that has moved on: for what goes on behind it.
#[derive(Debug, Clone)]
pub struct Owned {
    id: String,
    request_id: String,
    started: Instant,
    started_ms: u64,
    endpoint: &'static str,
    dialect: &'static dyn Dialect,
    op: Op,
    stream: bool,
    model: String,
    called: String,
    principal: Option<Arc<Principal>>,
    input_estimate: u64,
    patience: Option<Duration>,
    wishes: Option<Box<Wishes>>,
    peer: Option<SocketAddr>,
    asking: Option<Asking>,
    /// They see what is sent, and nothing else: the answers are another exchange's, or nobody's.
    guests: Option<Box<hook::Open>>,
}

impl Owned {
    /// Without the cache and the caller's wish for costs: neither concerns what goes on behind.
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            id: &self.id,
            request_id: &self.request_id,
            started: self.started,
            started_ms: self.started_ms,
            endpoint: self.endpoint,
            dialect: self.dialect,
            op: self.op,
            stream: self.stream,
            model: &self.model,
            called: &self.called,
            principal: self.principal.as_ref(),
            input_estimate: self.input_estimate,
            patience: self.patience,
            usage_cost: false,
            wishes: self.wishes.as_deref(),
            visit: None,
            asking: self.asking.as_ref(),
            peer: self.peer,
            guests: self.guests.as_deref(),
            marks_prompt: false,
        }
    }
}

impl Subject<'_> {
    /// What its model is called.
    pub fn names(&self) -> hook::Names<'_> {
        hook::Names { called: self.called, placed: (self.called != self.model).then_some(self.model) }
    }

    /// For a copy that nobody hears: nothing of it is to be remembered for the caller, or counted against its limits.
    pub fn silent(&self) -> Owned {
        Owned { principal: None, asking: None, ..self.owned() }
    }

    /// What encoders of answers need to know of it. `ask` is what the caller asked.
    pub fn asked(&self, mut ask: Arc<Ask>) -> Asked {
        if self.usage_cost && !ask.include_usage {
            // Who wants to read what it costs wants the chunk that says it.
            Arc::make_mut(&mut ask).include_usage = true;
        }
        let (id, model) = (self.id.to_owned(), self.called.to_owned());
        Asked { op: self.op, ask, model, id, now: self.started_ms / 1000 }
    }

    pub fn owned(&self) -> Owned {
        Owned {
            id: self.id.to_owned(),
            request_id: self.request_id.to_owned(),
            started: self.started,
            started_ms: self.started_ms,
            endpoint: self.endpoint,
            dialect: self.dialect,
            op: self.op,
            stream: self.stream,
            model: self.model.to_owned(),
            called: self.called.to_owned(),
            principal: self.principal.cloned(),
            input_estimate: self.input_estimate,
            patience: self.patience,
            wishes: self.wishes.map(|wishes| Box::new(wishes.clone())),
            peer: self.peer,
            asking: self.asking.cloned(),
            guests: self.guests.map(|open| Box::new(open.behind())),
        }
    }
}

/// What an attempt may know of its exchange. Apart from what attempts change, so that two may run at once.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub id: &'a str,
    pub request_id: &'a str,
    pub started: Instant,
    pub patience: Option<Duration>,
    pub started_ms: u64,
    pub endpoint: &'static str,
    pub dialect: &'static dyn Dialect,
    pub op: Op,
    pub stream: bool,
    pub model: &'a str,
    /// The model as the caller named it, whatever a policy has made of it.
    pub called: &'a str,
    pub principal: Option<&'a Arc<Principal>>,
    pub input_estimate: u64,
    pub usage_cost: bool,
    /// What the request says about its own routing.
    pub wishes: Option<&'a Wishes>,
    pub marks_prompt: bool,
    /// Its business with the cache.
    pub visit: Option<&'a Visit>,
    pub peer: Option<SocketAddr>,
    /// What limits of targets must know of it; None where nothing is limited.
    pub asking: Option<&'a Asking>,
    /// What guests know and keep of it.
    pub guests: Option<&'a hook::Open>,
}

/// What trying changes of an exchange while it goes on.
#[derive(Debug)]
pub struct Tried<'a> {
    pub attempts: &'a mut SmallVec<[Attempt; 1]>,
    pub trace: &'a mut Option<Box<Trace>>,
    started: Instant,
}

impl Tried<'_> {
    /// Notes a decision, where somebody will read it.
    pub fn note(&mut self, stage: &'static str, what: impl FnOnce() -> serde_json::Value) {
        if let Some(trace) = self.trace {
            trace.note(self.started.elapsed(), stage, what());
        }
    }
}

/// Bytes of a body or frame that stand for one token when nobody counted: the usual rule of thumb for English.
pub const BYTES_PER_TOKEN: u64 = 4;

/// Tokens that an image or another file counts as. Models differ between 85 and some thousands.
pub const TOKENS_PER_FILE: u64 = 1000;

/// About as many tokens as an ask of that length has, with these files in it.
pub fn input_tokens(bytes: usize, files: Files) -> u64 {
    (bytes as u64).saturating_sub(files.bytes).div_ceil(BYTES_PER_TOKEN) + files.count * TOKENS_PER_FILE
}

/// What an answer has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    pub usage: Usage,
    /// It is our estimate: the answer ended before the provider stated it, or the provider states none.
    pub estimated: bool,
}

impl Used {
    /// By an ask that was sent and whose answer nobody waited for: its input, by our estimate. Counting tokens costs
    /// none.
    pub fn given_up(op: Op, input_estimate: u64) -> Option<Self> {
        let usage = Usage { input: input_estimate, ..Usage::default() };
        (op != Op::CountTokens).then_some(Used { usage, estimated: true })
    }
}

/// What went by of the answer.
#[derive(Debug, Default)]
pub struct Seen {
    pub usage: Option<Usage>,
    pub finish: Option<Finish>,
    /// The upstream's id of the answer.
    pub id: Option<String>,
    /// When the upstream began it, in Unix seconds, where that must be said again at the end.
    pub created: Option<u64>,
    /// The model as the upstream names it.
    pub model: Option<String>,
    /// When the first content went by.
    pub first_content: Option<Instant>,
    /// Frames with or after the first content; about one token each in most streams.
    pub frames: u64,
    /// A policy ended it before the provider had said all.
    pub stopped: bool,
    /// Bytes that the model wrote in a whole answer whose usage nobody stated.
    pub unstated: Option<u64>,
    /// Nothing of a whole answer can be shown.
    pub mute: bool,
    /// What the caller's dialect had no form for, each once.
    pub unshown: Vec<&'static str>,
}

impl Seen {
    /// Notes what a block holds that clients of this dialect cannot be given.
    pub fn note_unshown(&mut self, dialect: &dyn Dialect, content: &Content) {
        let lost = dialect.cannot_show(content);
        self.unshown.extend(lost.filter(|lost| !self.unshown.contains(lost)));
    }

    /// What a stream used up to where it was cut; what is seen from now on is another upstream's.
    pub fn part(&mut self, input_estimate: u64) -> Usage {
        let used = self.usage.take().unwrap_or_default();
        let input = if used.input > 0 { used.input } else { input_estimate };
        let output = used.output.max(std::mem::take(&mut self.frames));
        Usage { input, output, ..used }
    }

    /// The usage that the provider stated. Where it stated none, or a stream ended early after content, an estimate: a
    /// frame is about a token, and four bytes of a whole answer are. `complete`: the client has had all of it.
    pub fn used(&self, complete: bool, input_estimate: u64) -> Option<Used> {
        // With its finish a provider has stated what it will; what it stated before that may be of the beginning alone, as
        // Anthropic's first event is, with the few tokens that were there by then.
        let is_said = !self.stopped && (complete || self.finish.is_some());
        let written = self.unstated.map(|bytes| bytes.div_ceil(BYTES_PER_TOKEN));
        match (self.usage, written) {
            (Some(usage), _) if is_said || usage.output >= self.frames => Some(Used { usage, estimated: false }),
            (None, None) if self.frames == 0 => None,
            (stated, written) => {
                let stated = stated.unwrap_or_default();
                let input = if stated.input > 0 { stated.input } else { input_estimate };
                let output = stated.output.max(self.frames).max(written.unwrap_or_default());
                Some(Used { usage: Usage { input, output, ..stated }, estimated: true })
            }
        }
    }
}

impl Exchange {
    /// What its model is called.
    pub fn names(&self) -> hook::Names<'_> {
        match &self.asked_model {
            None => hook::Names { called: &self.model, placed: None },
            Some(called) => hook::Names { called, placed: Some(&self.model) },
        }
    }

    /// Notes a decision, where somebody will read it.
    pub fn note(&mut self, stage: &'static str, what: impl FnOnce() -> serde_json::Value) {
        let at = self.started.elapsed();
        if let Some(trace) = &mut self.trace {
            trace.note(at, stage, what());
        }
    }

    /// The exchange in two: what stays as it is while targets are tried, and what does not.
    pub fn split(&mut self) -> (Subject<'_>, Tried<'_>) {
        let subject = Subject {
            id: &self.id,
            request_id: &self.request_id,
            started: self.started,
            patience: self.patience,
            started_ms: self.started_ms,
            endpoint: self.endpoint,
            dialect: self.dialect,
            op: self.op,
            stream: self.stream,
            model: &self.model,
            called: self.asked_model.as_ref().unwrap_or(&self.model),
            principal: self.principal.as_ref(),
            input_estimate: self.input_estimate,
            usage_cost: self.usage_cost,
            wishes: self.wishes.as_deref(),
            marks_prompt: self.marks_prompt,
            visit: self.cache.as_deref(),
            peer: self.peer,
            asking: self.asking.as_ref(),
            guests: self.guests.as_deref(),
        };
        (subject, Tried { attempts: &mut self.attempts, trace: &mut self.trace, started: self.started })
    }

    /// The target that answered, or that failed last.
    pub fn target(&self) -> Option<&Arc<Target>> {
        // With a hedge the newest attempt need not be the one that answered.
        let good = self.attempts.iter().rfind(|attempt| !attempt.cancelled && attempt.fault.is_none());
        good.or(self.attempts.last()).map(|attempt| &attempt.target)
    }

    /// Time spent in this process until now: what is left when waiting for upstreams is taken away. Attempts of a hedge
    /// overlap; what both waited counts once.
    pub fn overhead(&self, now: Instant) -> Duration {
        let mut waited = Duration::ZERO;
        let mut until = Duration::ZERO;
        for attempt in &self.attempts {
            let end = attempt.at + attempt.took;
            waited += attempt.waited + end.saturating_sub(attempt.at.max(until));
            until = until.max(end);
        }
        now.duration_since(self.started).saturating_sub(waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a stream used of which so much was stated and heard; None is nothing stated.
    fn used(seen: Seen, complete: bool) -> Option<(u64, u64, bool)> {
        seen.used(complete, 70).map(|used| (used.usage.input, used.usage.output, used.estimated))
    }

    #[test]
    fn a_stream_that_is_left_has_used_what_was_heard_whatever_was_stated_at_its_beginning() {
        let stated = |input, output| Some(Usage { input, output, ..Usage::default() });
        for begun in [0, 1, 3, 8] {
            let left = || Seen { usage: stated(25, begun), frames: 400, ..Seen::default() };
            assert_eq!(used(left(), false), Some((25, 400, true)), "{begun} tokens stated at the beginning");
            // A policy's end is none of the provider's.
            let stopped = Seen { finish: Some(Finish::Stop), stopped: true, ..left() };
            assert_eq!(used(stopped, true), Some((25, 400, true)), "{begun} tokens stated at the beginning");
        }
        // What states all until now, as Gemini does, and what has stated its end.
        let running = Seen { usage: stated(25, 900), frames: 400, ..Seen::default() };
        assert_eq!(used(running, false), Some((25, 900, false)));
        let finished = Seen { usage: stated(25, 390), frames: 400, finish: Some(Finish::Stop), ..Seen::default() };
        assert_eq!(used(finished, false), Some((25, 390, false)));
        let whole = Seen { usage: stated(25, 390), frames: 400, ..Seen::default() };
        assert_eq!(used(whole, true), Some((25, 390, false)));
        // Before any content what was stated is all there is; without either there is nothing.
        let silent = Seen { usage: stated(25, 1), ..Seen::default() };
        assert_eq!(used(silent, false), Some((25, 1, false)));
        assert_eq!(used(Seen::default(), false), None);
        assert_eq!(used(Seen { frames: 4, ..Seen::default() }, false), Some((70, 4, true)));
    }
}
