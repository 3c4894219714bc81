//! One try of one target, from the ask in its dialect to an answer that is good so far.
//!
//! Never tries again. Works on values of its own, so that two of them may run at once.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::time::{Instant, timeout_at};

use super::Replay;
use super::adapted;
use super::answer::{self, Good, Reading, retry_after, should_retry};
use super::encode::{self, Dropped, Meaning, Prepared};
use crate::admit;
use crate::body::{Inbound, Patience, Sent};
use crate::boxed::boxed;
use crate::dialect::{self, Dialect, refusal};
use crate::exchange::{Subject, Used};
use crate::fault::{Fault, Kind};
use crate::hook;
use crate::pipeline::{Call, Cx};
use crate::reply::Reply;
use crate::route::{Face, Plan, Target, Timeouts};
use crate::state::limit::Hold;
use crate::stream::Deadline;
use crate::upstream::Sending;

/// Longest error body that is read. Error texts are short; a page of HTML is cut by the dialect anyway.
pub(super) const MAX_ERROR_BYTES: usize = 1 << 20;

/// What is known of a try however it ends.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The upstream's status.
    pub status: Option<u16>,
    /// What it used of which the client gets nothing.
    pub unheard: Option<Used>,
    /// Where it is noted what goes out and what the provider states.
    pub sent: Sent,
}

/// One try: of what, with which credential, until when.
#[derive(Clone)]
pub(super) struct Once {
    pub target: Arc<Target>,
    /// Index of the credential in the provider's pool.
    pub key: usize,
    pub began: Instant,
    pub deadline: Deadline,
    /// Which try of the exchange it is, from 1.
    number: u32,
    /// Headers that guests want on this try.
    pub headers: Vec<hook::Set>,
    /// What guests want to be said in this try.
    pub(super) edits: Vec<hook::Edit>,
    /// A guest would not have this try at all.
    refused: Option<Box<Fault>>,
    /// Whether its request went out.
    pub sent: Sent,
    /// Who may go on where its stream breaks off; None where the model does not ask for it.
    pub after: Option<Arc<Successors>>,
    /// There is a chain for content that a provider refuses.
    pub may_be_refused: bool,
}

/// What a stream needs to go on with another target.
pub struct Successors {
    pub(super) call: Arc<Call>,
    pub(super) targets: Vec<Arc<Target>>,
    /// Tries that the exchange has made before.
    pub(super) tries: u32,
}

impl Successors {
    /// For a stream that another exchange has asked this target for: the plan's other targets, and at last the same one.
    /// None where the plan does not let streams be gone on with.
    pub fn of(call: &Arc<Call>, plan: &Plan, target: &Arc<Target>) -> Option<Arc<Self>> {
        let others = plan.targets.iter().filter(|other| plan.rules.fallbacks && other.name() != target.name());
        let targets = others.chain([target]).cloned().collect();
        plan.rules.continue_on_cut.then(|| Arc::new(Successors { call: call.clone(), targets, tries: 0 }))
    }
}

impl Once {
    /// Begins a try at this moment, with what guests want of it.
    pub async fn begin(x: &Subject<'_>, target: Arc<Target>, key: usize, number: u32, began: Instant) -> Self {
        let deadline = Deadline::of(x.started, x.patience, &target, began);
        let (headers, edits, refused, after) = (Vec::new(), Vec::new(), None, None);
        let (sent, may_be_refused) = (Sent::default(), false);
        let mut once =
            Once { target, key, began, deadline, number, headers, edits, refused, sent, after, may_be_refused };
        match hook::attempt(x, &once.target, number).await {
            Ok(None) => {}
            Ok(Some(tuned)) => (once.target, once.headers, once.edits) = (tuned.target, tuned.headers, tuned.edits),
            Err(fault) => once.refused = Some(Box::new(fault)),
        }
        once
    }

    /// Whether guests would have this try at all.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn wanted(&self) -> Result<(), Fault> {
        self.refused.as_ref().map_or(Ok(()), |fault| Err(Fault::clone(fault)))
    }

    /// Tries. What is known of it goes to `known` as soon as it is.
    ///
    /// # Errors
    /// Whatever kept the answer from being good; nothing was sent to the client.
    pub async fn run(&self, cx: &Cx, x: &Subject<'_>, call: &Arc<Call>, known: &mut Known) -> Result<Box<Good>, Fault> {
        let hold = self.enter(cx, x, call).await?;
        known.sent = self.sent.clone();
        let mut held = self.held(x, hold);
        let sent = timeout_at(self.deadline.at, self.send(cx, x, call, known)).await;
        let sent = sent.unwrap_or_else(|_| Err(self.deadline.missed()));
        match sent.and_then(|good| self.accepted(x, good, known)) {
            Ok(mut good) => {
                good.hold = held.hold.take();
                Ok(good)
            }
            Err(fault) => {
                if known.unheard.is_none() && self.deadline.is_callers(&fault) {
                    known.unheard = self.sent.used(held.given_up);
                }
                admit::leave(held.hold.take(), &self.target, known.unheard.as_ref().map(|used| &used.usage));
                Err(fault)
            }
        }
    }

    /// A good answer, unless it is a refusal of the content and there is a chain for that. It is paid for all the same.
    fn accepted(&self, x: &Subject<'_>, good: Box<Good>, known: &mut Known) -> Result<Box<Good>, Fault> {
        if !self.may_be_refused || !good.refuses() {
            return Ok(good);
        }
        known.unheard = good.so_far(x.input_estimate);
        Err(refused_by_answer())
    }

    /// Takes from the limits of the target what the try may use.
    ///
    /// # Errors
    /// [`Kind::TargetLimited`]
    pub(super) async fn enter(&self, cx: &Cx, x: &Subject<'_>, call: &Call) -> Result<Option<Hold>, Fault> {
        match admit::due(cx, x, call, &self.target)? {
            Some(due) => boxed(|| admit::enter(cx, due)).await.map(Some),
            None => Ok(None),
        }
    }

    async fn send(&self, cx: &Cx, x: &Subject<'_>, call: &Arc<Call>, known: &mut Known) -> Result<Box<Good>, Fault> {
        if let Some((face, adapter)) = adapted::by_adapter(x, &self.target) {
            self.wanted()?;
            let tried = adapted::Try::new((cx, x, call), self, (face, adapter));
            let good = boxed(|| tried.run(known)).await?;
            return self.shown(cx, x, call, good, known).await;
        }
        let mut dropped = Dropped::new();
        let (head, asked, sent) = match self.head(cx, x, call, &mut dropped, &mut known.status).await? {
            Head::Upstream(head, asked, sent) => (head, asked, sent),
            Head::Answered(reply) => return Ok(Box::new(Good::new(*reply))),
        };
        let (response, from) = head;
        let (target, after) = (&self.target, self.after.clone());
        let (deadline, replay) = (self.deadline, Replay::default());
        let reading = Reading { x, call, target, from, asked, sent, deadline, after, replay };
        let mut good = reading.read(cx, response, known).await?;
        good.dropped = dropped;
        self.shown(cx, x, call, good, known).await
    }

    /// Shows a good answer to the policies. It is paid for, whatever they make of it, and also if the exchange's time ends
    /// while they look.
    async fn shown(
        &self,
        cx: &Cx,
        x: &Subject<'_>,
        call: &Arc<Call>,
        mut good: Box<Good>,
        known: &mut Known,
    ) -> Result<Box<Good>, Fault> {
        if !hook::looks_at_answer(x) {
            return Ok(good);
        }
        known.unheard = good.so_far(x.input_estimate);
        // Who leaves while they look takes `known` along.
        if let Some(used) = known.unheard {
            self.sent.state(used);
        }
        let streams = good.reply.is_stream();
        let (usage, finish) = (good.seen.usage, good.seen.finish);
        let answered = hook::Answered { target: Some(&self.target), number: self.number, usage, finish };
        let another = hook::answer(cx, x, call, answered, &mut good.reply).await?;
        // A stream keeps its own account, which is lost with it where a policy says something else in its place.
        if !(another && streams) {
            known.unheard = None;
        }
        Ok(good)
    }

    /// Sends and waits for a good head.
    ///
    /// # Errors
    /// As [`Once::run`]; the upstream's status goes to `status`.
    pub async fn head(
        &self,
        cx: &Cx,
        x: &Subject<'_>,
        call: &Call,
        dropped: &mut Dropped,
        status: &mut Option<u16>,
    ) -> Result<Head, Fault> {
        // Nothing of the request is kept while its answer is waited for, but for what it meant.
        let (sent, face, asked, sending) = match self.sending(cx, x, call, dropped)? {
            Ok(under_way) => under_way,
            Err(reply) => return Ok(Head::Answered(reply)),
        };
        let response = sending.await.map_err(|fault| late(fault, call.stream))?;
        *status = Some(response.status().as_u16());
        self.note_allowance(cx, face.dialect, response.headers());
        if !response.status().is_success() {
            return Err(Box::pin(refused(response, face.dialect, &self.target.timeouts)).await);
        }
        Ok(Head::Upstream((response, face.dialect), asked, sent))
    }

    /// The request on its way, or the answer that no upstream is needed for.
    fn sending<'s>(
        &'s self,
        cx: &'s Cx,
        x: &Subject<'_>,
        call: &Call,
        dropped: &mut Dropped,
    ) -> Result<Result<UnderWay<'s>, Box<Reply>>, Fault> {
        self.wanted()?;
        let edited = hook::edited(x, call, &self.edits)?;
        let call = edited.as_deref().unwrap_or(call);
        let target = &self.target;
        if adapted::by_adapter(x, target).is_some() {
            // Only a whole try goes through an adapter; who wants a head alone asks it first.
            return Err(encode::unserved(x, target));
        }
        let (face, prepared) = encode::prepare(x, call, target, self.key, dropped)?;
        let encode::Request { outbound: mut request, asked } = match prepared {
            Prepared::Send(prepared) => prepared,
            Prepared::Answered(reply) => return Ok(Err(reply)),
        };
        let sent = Instant::now();
        request.body.tell(&self.sent);
        if call.stream {
            request.body.hurry();
        }
        for (name, value) in &self.headers {
            match value {
                Some(value) => drop(request.headers.edit().insert(name.clone(), value.clone())),
                None => drop(request.headers.edit().remove(name)),
            }
        }
        let timeouts = &target.timeouts;
        // A stream's head may well come late, with its first token; other answers come whole after their head.
        let head_timeout = if call.stream { timeouts.first_token } else { timeouts.head };
        Ok(Ok((sent, face, asked, cx.upstream().send(&face.dial, request, head_timeout))))
    }
}

/// What the limits of a target hold for a try under way. One that is dropped before it ends has used what the provider
/// was given; where that was nothing, all of it is given back.
pub(super) struct Held<'a> {
    pub(super) hold: Option<Hold>,
    once: &'a Once,
    given_up: Option<Used>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.once.sent.is_noted() {
            let used = self.once.sent.used(self.given_up);
            admit::leave(self.hold.take(), &self.once.target, used.as_ref().map(|used| &used.usage));
        }
    }
}

impl Once {
    /// Keeps what the limits of the target hold until the try has ended.
    pub(super) fn held(&self, x: &Subject<'_>, hold: Option<Hold>) -> Held<'_> {
        Held { hold, once: self, given_up: Used::given_up(x.op, x.input_estimate) }
    }

    /// What the upstream says of its own limits, for the target and the credential that was used.
    fn note_allowance(&self, cx: &Cx, dialect: &dyn Dialect, headers: &HeaderMap) {
        let Some(left) = dialect::allowance(dialect, headers) else { return };
        let (target, now) = (&self.target, cx.state.now());
        target.record(&cx.state.health).set_usage_left(now, left);
        if let Some(record) = target.provider.keys.get(self.key).and_then(|key| key.record.get()) {
            record.set_usage_left(now, left);
        }
    }
}

/// A request on its way: since when, to which face of the target, of which meaning, and its answer's head to come.
type UnderWay<'s> = (Instant, &'s Face, Meaning, Sending<'s>);

/// What came of sending.
#[expect(clippy::large_enum_variant, reason = "lives on the stack of one attempt; a box would cost every request")]
pub(super) enum Head {
    /// A good head in this dialect, to a request of this meaning that was sent then.
    Upstream((Response<Inbound>, &'static dyn Dialect), Meaning, Instant),
    /// No upstream was needed.
    Answered(Box<Reply>),
}

/// The fault of a try whose answer has no head. One that streams was to send it with its first token, and it is that
/// limit which has passed.
pub(super) fn late(fault: Fault, streams: bool) -> Fault {
    match fault.kind {
        Kind::HeadTimeout if streams => Fault { kind: Kind::FirstTokenTimeout, ..fault },
        _ => fault,
    }
}

/// The fault of an answer that is nothing but the word that the provider refuses the content.
pub(super) fn refused_by_answer() -> Fault {
    Fault::new(Kind::ContentPolicy, "The provider refused the content.")
}

/// Reads an error answer.
pub(super) async fn refused(response: Response<Inbound>, dialect: &'static dyn Dialect, timeouts: &Timeouts) -> Fault {
    let (head, mut body) = response.into_parts();
    let wait = retry_after(&head.headers, std::time::SystemTime::now());
    // A body that cannot be read leaves the status, which says enough.
    let patience = Patience { first: Instant::now() + timeouts.idle, idle: timeouts.idle };
    let bytes = body.read(MAX_ERROR_BYTES, Some(patience)).await.unwrap_or_default();
    // What cannot be read is no message for anybody.
    let compressed = answer::plain(&head.headers).err();
    let bytes = if compressed.is_some() { Bytes::new() } else { bytes };
    let mut refusal = dialect.decode_error(head.status.as_u16(), &bytes);
    refusal.request_id = ["x-request-id", "request-id"]
        .iter()
        .find_map(|name| head.headers.get(*name))
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    refusal.should_retry = should_retry(&head.headers);
    if let Some(compressed) = compressed {
        refusal.message = compressed.message;
    }
    let wait = wait.or(refusal.retry_after);
    refusal::fault(refusal, wait)
}
