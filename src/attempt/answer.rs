//! Reading a good answer up to its commit point: a whole body, or a stream with its first content.
//!
//! Judges form, not content: an answer that is not in its dialect is a fault that the next target may mend.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use super::Replay;
use super::encode::{Dropped, Meaning};
use super::once::{Known, Successors};
use super::onward;
use crate::body::{self, Inbound, Patience, ReadError, Sent};
use crate::cache::record::{self, Recorded};
use crate::chat::event;
use crate::chat::{Answer, Finish, Usage};
use crate::cost;
use crate::dialect::{self, Asked, Dialect, Op, foreign};
use crate::embed::{EmbedAnswer, EmbedAsk};
use crate::exchange::{Seen, Subject, Used};
use crate::fault::{Fault, Kind};
use crate::hook;
use crate::json;
use crate::pipeline::{Call, Cx};
use crate::reply::{Content, Reply};
use crate::rerank::{RerankAnswer, RerankAsk};
use crate::route::{Target, Timeouts};
use crate::sse::Frame;
use crate::state::affinity::Maker;
use crate::state::cache::Form;
use crate::state::calls::{Heard, MAX_BYTES};
use crate::state::limit::Hold;
use crate::stream::onward::Onward;
use crate::stream::{AtEnd, CostWriter, Deadline, Filter, Framing, Mode, Raw, Relay, Setting, Watch};

/// A good answer up to its commit point.
pub(super) struct Good {
    pub reply: Reply,
    /// What went by; of a stream the relay keeps the account.
    pub seen: Seen,
    pub dropped: Dropped,
    /// What the cache is to keep of it.
    pub said: Option<Recorded>,
    /// What the limits of the target hold for it.
    pub hold: Option<Hold>,
    /// It may call tools, and its turn has come to be judged.
    pub calls: Option<Box<Heard>>,
}

impl Good {
    pub fn new(reply: Reply) -> Self {
        Good { reply, seen: Seen::default(), dropped: Dropped::new(), said: None, hold: None, calls: None }
    }

    /// Whether it is nothing but the word that the provider refuses the content: some say so with 200.
    pub fn refuses(&self) -> bool {
        let (finish, mute) = match &self.reply.content {
            Content::Stream(relay) => (relay.seen.finish, relay.seen.first_content.is_none()),
            Content::Whole(_) => (self.seen.finish, self.seen.mute),
        };
        mute && finish.is_some_and(is_refusal)
    }

    /// What it has used by now.
    pub fn so_far(&self, input_estimate: u64) -> Option<Used> {
        match &self.reply.content {
            Content::Stream(relay) => {
                relay.seen.used(false, input_estimate).or_else(|| self.seen.used(true, input_estimate))
            }
            Content::Whole(_) => self.seen.used(true, input_estimate),
        }
    }
}

/// A good head whose body is still to be read.
pub(super) struct Reading<'a> {
    pub x: &'a Subject<'a>,
    pub call: &'a Call,
    pub target: &'a Arc<Target>,
    /// The dialect the answer comes in.
    pub from: &'static dyn Dialect,
    pub asked: Meaning,
    /// When the request went out.
    pub sent: Instant,
    pub deadline: Deadline,
    /// Who may go on where a stream breaks off.
    pub after: Option<Arc<Successors>>,
    pub replay: Replay,
}

impl Reading<'_> {
    pub(super) async fn read(
        self,
        cx: &Cx,
        response: Response<Inbound>,
        known: &mut Known,
    ) -> Result<Box<Good>, Fault> {
        let streams = content_type(&response).starts_with("text/event-stream");
        plain(response.headers())?;
        let body = response.into_body();
        match (self.x.stream, streams) {
            (true, true) if self.replay.joined => Box::pin(self.join(cx, body, known)).await,
            (false, false) => self.whole(cx, body).await,
            // Boxed: whole answers should not carry the room that streams begin in.
            (true, true) => Box::pin(self.stream(cx, body, known)).await,
            // Some servers stream only, some never do: the other form is made of what came.
            (false, true) => Box::pin(self.collect(cx, body)).await,
            (true, false) => Box::pin(self.replay(cx, body, known)).await,
        }
    }

    pub(super) async fn stream(self, cx: &Cx, body: Inbound, known: &mut Known) -> Result<Box<Good>, Fault> {
        let filter = hook::events(self.x);
        let onward = onward::of(cx, self.x, self.after.as_ref());
        let translate = |asked: &Asked| Mode::Translate {
            decoder: foreign::decoder(self.from, &asked.ask),
            encoder: self.x.dialect.encoder(asked),
            events: Vec::new(),
            watch: None,
        };
        let mode = match &self.asked {
            Meaning::Chat(asked) => translate(asked),
            // What may have to go on elsewhere must be understood.
            _ if onward.is_some() => translate(&self.meaning()?),
            _ if filter.is_some() => self.watched(self.from)?,
            _ => Mode::Raw(Raw::new(self.from.sniffer(self.x.op), !self.call.include_usage)),
        };
        let (body, said) = record::tap(self.x.visit, body, self.from, self.target);
        let mut good = self.relay(cx, body, mode, (filter, onward), known).await?;
        good.said = said;
        Ok(good)
    }

    /// A stream in the caller's own dialect that guests look at.
    fn watched(&self, from: &dyn Dialect) -> Result<Mode, Fault> {
        Ok(Mode::Translate {
            decoder: from.decoder(),
            encoder: self.x.dialect.encoder(&self.meaning()?),
            events: Vec::new(),
            watch: Some(Watch::new(!self.call.include_usage)),
        })
    }

    /// Relays a stream once it has its first content.
    pub(super) async fn relay(
        self,
        cx: &Cx,
        body: Inbound,
        mode: Mode,
        (filter, onward): (Option<Box<dyn Filter>>, Option<Box<Onward>>),
        known: &mut Known,
    ) -> Result<Box<Good>, Fault> {
        let timeouts = &self.target.timeouts;
        let setting = Setting {
            dialect: self.x.dialect,
            called: self.called().map(str::to_owned),
            framing: self.call.framing,
            request_id: self.x.request_id.to_owned(),
            idle: timeouts.idle,
            first_token: (self.sent + timeouts.first_token, timeouts.first_token),
            deadline: self.deadline,
            keep_alive: cx.generation.keep_alive,
            max_event_bytes: cx.generation.max_event_bytes,
            add_cost: self.cost_writer(),
            at_end: self.item_keeper(cx),
            filter,
            onward,
            input_tokens: self.x.input_estimate,
        };
        let mut relay = Relay::new(body, mode, setting);
        let calls = self.calls(cx, Form::Stream, &Bytes::new());
        if calls.is_some() {
            relay.overhear(MAX_BYTES);
        }
        commit(&mut relay, self.x.input_estimate, known).await?;
        self.remember(cx, relay.seen.id.as_deref());
        let reply = Reply::stream(relay, self.call.framing == Framing::Sse);
        Ok(Box::new(Good { calls, ..Good::new(reply) }))
    }

    /// The answer to an ask that offers tools, to be judged when the exchange is over; now and then one of a target.
    fn calls(&self, cx: &Cx, form: Form, said: &Bytes) -> Option<Box<Heard>> {
        // What is given again was measured when it was made.
        let tools = self.call.envelope.raw("tools").filter(|_| self.x.op == Op::Generate && !self.is_free())?;
        let record = self.target.record(&cx.state.health);
        if tools.len().max(said.len()) > MAX_BYTES || !record.calls_are_due(cx.state.now()) {
            return None;
        }
        let (record, tools, said) = (record.clone(), Bytes::copy_from_slice(tools), said.clone());
        Some(Box::new(Heard { record, asked: self.x.dialect, tools, from: self.from, form, said }))
    }

    /// Where the upstream keeps answers, later requests that name this one must find their way back to it.
    fn remember(&self, cx: &Cx, id: Option<&str>) {
        // What an adapter said was put into this form here, and its provider has never heard of the id.
        if self.target.face(self.from).is_none_or(|face| face.dialect != self.from) {
            return;
        }
        if let (Some(id), Some(principal), true) = (id, self.x.principal, self.from.answers_are_stored()) {
            // Who is given an answer that was kept has not made it.
            if self.is_free() && cx.state.affinity.find(id).is_some() {
                return;
            }
            let maker = Maker {
                provider: self.target.provider.name.clone(),
                model: self.target.model.clone(),
                asked: self.x.model.to_owned(),
                key: principal.key.clone(),
                kept: self.x.visit.and_then(|visit| visit.key),
            };
            cx.state.affinity.remember(id, maker);
        }
    }

    /// Keeps the items of translated answers: callers of dialects whose answers are stored may name them by id later,
    /// and no provider would know them.
    pub(super) fn item_keeper(&self, cx: &Cx) -> Option<AtEnd> {
        let Meaning::Chat(asked) = &self.asked else { return None };
        let dialect = self.x.dialect;
        let principal = self.x.principal?.clone();
        let kept = dialect.answers_are_stored() && asked.ask.store != Some(false);
        let state = cx.state.clone();
        let keep = move |body: &[u8]| {
            for (id, item) in dialect.items(body) {
                state.items.keep(&principal.key, id, &item);
            }
        };
        kept.then(|| Box::new(keep) as AtEnd)
    }

    fn cost_writer(&self) -> Option<CostWriter> {
        let target = self.target.clone();
        target.card.as_ref().filter(|_| self.x.usage_cost)?;
        let free = self.is_free();
        Some(Box::new(move |frame, usage| {
            let view = Frame(frame);
            // Cheap for the many frames without usage.
            if !view.contains(b"\"usage") {
                return None;
            }
            let mut value: Value = serde_json::from_slice(&view.data()).ok()?;
            if !add_cost(&mut value, if free { 0 } else { target.cost(usage)? }) {
                return None;
            }
            let mut out = Vec::with_capacity(frame.len() + 24);
            crate::sse::write(&mut out, view.event(), &value);
            Some(out)
        }))
    }

    /// What a relayed answer must call the model.
    fn called(&self) -> Option<&str> {
        let held = self.x.op == Op::Generate && self.x.dialect.names_model_as_asked(&self.call.envelope);
        held.then_some(self.x.called)
    }

    /// Whether somebody else has paid for the answer.
    fn is_free(&self) -> bool {
        self.x.visit.is_some_and(|visit| visit.is_free())
    }

    fn cost(&self, usage: &Usage) -> Option<u64> {
        if self.is_free() { Some(0) } else { self.target.cost(usage) }
    }

    async fn whole(self, cx: &Cx, body: Inbound) -> Result<Box<Good>, Fault> {
        let said = whole(body, cx.generation.max_answer_bytes, self.sent, &self.target.timeouts).await?;
        let mut seen = Seen::default();
        let bytes = match &self.asked {
            Meaning::Chat(asked) => {
                let answer = foreign::restored(self.from, self.from.decode_answer(&said)?, &asked.ask);
                seen = self.noted(&answer);
                let body = self.x.dialect.encode_answer(&answer, asked);
                if let Some(keep) = self.item_keeper(cx) {
                    keep(&body);
                }
                body.into()
            }
            Meaning::Raw => {
                let summary = self.from.summary(self.x.op, &said)?;
                self.remember(cx, summary.id.as_deref());
                (seen.usage, seen.finish) = (summary.usage, summary.finish);
                (seen.id, seen.model) = (summary.id, summary.model);
                seen.unstated = if seen.usage.is_none() { self.unstated(&said) } else { None };
                // Read only where somebody may want to know.
                let refuses = seen.finish.is_some_and(is_refusal);
                seen.mute = refuses && self.from.decode_answer(&said).is_ok_and(|answer| answer.is_mute());
                let called = self.called().and_then(|called| self.x.dialect.calling(&said, called));
                called.map_or_else(|| said.clone(), Bytes::from)
            }
            Meaning::Embed(ask) => {
                let answer = self.from.decode_embed_answer(&said)?;
                seen = noted_embedding(&answer);
                self.x.dialect.encode_embed_answer(&answer, ask, self.x.op).into()
            }
            // Rankings are relayed, or an adapter's: see `ranked`.
            Meaning::Rerank(_) => return Err(Fault::new(Kind::BadAnswer, "The provider's answer is no ranking.")),
            Meaning::Count => self.x.dialect.encode_count_answer(self.from.decode_count(&said)?).into(),
        };
        let reply = Reply::json(StatusCode::OK, self.with_cost(bytes, &seen));
        let calls = self.calls(cx, Form::Whole, &said);
        Ok(Box::new(Good { seen, said: self.record(Form::Whole, &said), calls, ..Good::new(reply) }))
    }

    /// The reply that an answer makes which an adapter decoded. Recorded in the caller's own form: the upstream's could
    /// not be read again without the adapter.
    pub(super) fn answered(&self, cx: &Cx, answer: &Answer, asked: &Asked) -> Box<Good> {
        let body = Bytes::from(self.x.dialect.encode_answer(answer, asked));
        if let Some(keep) = self.item_keeper(cx) {
            keep(&body);
        }
        self.made(body, self.noted(answer))
    }

    /// The same of embeddings.
    pub(super) fn embedded(&self, answer: &EmbedAnswer, ask: &EmbedAsk) -> Box<Good> {
        let body = self.x.dialect.encode_embed_answer(answer, ask, self.x.op);
        self.made(body.into(), noted_embedding(answer))
    }

    /// The same of a ranking.
    pub(super) fn ranked(&self, answer: &RerankAnswer, ask: &RerankAsk) -> Box<Good> {
        let body = self.x.dialect.encode_rerank_answer(answer, ask, self.x.id);
        let model = Some(answer.model.clone()).filter(|model| !model.is_empty());
        self.made(body.into(), Seen { usage: answer.usage, model, ..Seen::default() })
    }

    /// What a relayed answer holds of the model's writing; None where that is not what is paid for.
    fn unstated(&self, said: &[u8]) -> Option<u64> {
        match self.x.op {
            Op::Generate | Op::Complete => self.from.decode_answer(said).ok().map(|answer| answer.written_bytes()),
            Op::Embed | Op::EmbedBatch => Some(0),
            Op::CountTokens | Op::Rerank => None,
        }
    }

    fn made(&self, body: Bytes, mut seen: Seen) -> Box<Good> {
        // An adapter need not give an id; the caller's form may still want one, and then it is the one that counts.
        seen.id = seen.id.or_else(|| self.x.dialect.summary(self.x.op, &body).ok()?.id);
        let said = self.kept(self.x.dialect, Form::Whole, &body);
        let reply = Reply::json(StatusCode::OK, self.with_cost(body, &seen));
        Box::new(Good { seen, said, ..Good::new(reply) })
    }

    /// A whole answer that an adapter decoded, given as a stream.
    ///
    /// # Errors
    /// As [`Reading::replayed`].
    pub(super) async fn answered_in_events(
        &self,
        answer: Answer,
        asked: &Asked,
        known: &mut Known,
    ) -> Result<Box<Good>, Fault> {
        let records = self.x.visit.is_some_and(|visit| visit.records());
        let body = records.then(|| Bytes::from(self.x.dialect.encode_answer(&answer, asked)));
        let mut good = self.replayed(answer, known).await?;
        good.said = body.and_then(|body| self.kept(self.x.dialect, Form::Whole, &body));
        Ok(good)
    }

    /// What the upstream said, for those who ask the same.
    fn record(&self, form: Form, said: &Bytes) -> Option<Recorded> {
        self.kept(self.from, form, said)
    }

    /// The same in a wire form that may be another than the upstream's.
    fn kept(&self, dialect: &'static dyn Dialect, form: Form, said: &Bytes) -> Option<Recorded> {
        self.x.visit.filter(|visit| visit.records())?;
        Some(Recorded::Whole { dialect, target: self.target.clone(), form, body: said.clone() })
    }

    /// Writes the cost into the usage, where the caller asked for it.
    fn with_cost(&self, body: Bytes, seen: &Seen) -> Bytes {
        let usage = seen.usage.as_ref().filter(|_| self.x.usage_cost);
        let Some(cost) = usage.and_then(|usage| self.cost(usage)) else { return body };
        match serde_json::from_slice::<Value>(&body) {
            Ok(mut value) => {
                add_cost(&mut value, cost);
                serde_json::to_vec(&value).map_or(body, Bytes::from)
            }
            Err(_) => body,
        }
    }

    /// The upstream streams although a whole answer was asked for.
    async fn collect(self, cx: &Cx, body: Inbound) -> Result<Box<Good>, Fault> {
        let bytes = whole(body, cx.generation.max_answer_bytes, self.sent, &self.target.timeouts).await?;
        let asked = self.meaning()?;
        let answer = foreign::restored(self.from, dialect::collect(self.from, bytes.clone())?, &asked.ask);
        let seen = self.noted(&answer);
        let body = self.x.dialect.encode_answer(&answer, &asked).into();
        let reply = Reply::json(StatusCode::OK, self.with_cost(body, &seen));
        let calls = self.calls(cx, Form::Stream, &bytes);
        Ok(Box::new(Good { seen, said: self.record(Form::Stream, &bytes), calls, ..Good::new(reply) }))
    }

    /// The upstream answered whole although a stream was asked for.
    async fn replay(self, cx: &Cx, body: Inbound, known: &mut Known) -> Result<Box<Good>, Fault> {
        let bytes = whole(body, cx.generation.max_answer_bytes, self.sent, &self.target.timeouts).await?;
        let answer = self.from.decode_answer(&bytes)?;
        let mut good = self.replayed(answer, known).await?;
        good.said = self.record(Form::Whole, &bytes);
        good.calls = self.calls(cx, Form::Whole, &bytes);
        Ok(good)
    }

    /// A stream that is all there, in one piece a block.
    async fn join(self, cx: &Cx, body: Inbound, known: &mut Known) -> Result<Box<Good>, Fault> {
        let bytes = whole(body, cx.generation.max_answer_bytes, self.sent, &self.target.timeouts).await?;
        let answer = dialect::collect(self.from, bytes)?;
        self.replayed(answer, known).await
    }

    /// The stream that would have made a whole answer.
    pub(super) async fn replayed(&self, answer: Answer, known: &mut Known) -> Result<Box<Good>, Fault> {
        let asked = self.meaning()?;
        let mut seen = self.noted(&answer);
        let answer = foreign::restored(self.from, answer, &asked.ask);
        let mut encoder = self.x.dialect.encoder(&asked);
        let mut out = Vec::new();
        for event in event::replay(&answer) {
            encoder.event(&event, &mut out);
        }
        encoder.finish(&mut out);
        // The events are all there, so the stream is relayed to itself: framing and settling stay in one place.
        let filter = hook::events(self.x);
        let mode = match filter {
            Some(_) => self.watched(self.x.dialect)?,
            None => Mode::Raw(Raw::new(self.x.dialect.sniffer(self.x.op), false)),
        };
        let setting = Setting {
            dialect: self.x.dialect,
            // The encoder has called it so.
            called: None,
            framing: self.call.framing,
            request_id: self.x.request_id.to_owned(),
            idle: self.target.timeouts.idle,
            first_token: (self.deadline.at, self.target.timeouts.total),
            deadline: self.deadline,
            keep_alive: None,
            // It is whole and bounded already.
            max_event_bytes: usize::MAX,
            add_cost: self.cost_writer(),
            at_end: None,
            filter,
            onward: None,
            input_tokens: 0,
        };
        let mut relay = Relay::new(body::at_pace(out.into(), self.replay.pace), mode, setting);
        // What was used is known, whether or not the caller wants a chunk that says it.
        (relay.seen.usage, relay.seen.unstated) = (seen.usage, seen.unstated);
        commit(&mut relay, self.x.input_estimate, known).await.inspect_err(|_| {
            // All of it was made, whatever a policy has seen of it.
            known.unheard = seen.used(true, self.x.input_estimate).or(known.unheard);
        })?;
        // The relay sees the caller's own form, in which it is gone already.
        relay.seen.unshown.clone_from(&seen.unshown);
        // The caller's form may have an id where the answer has none.
        seen.id = seen.id.or_else(|| relay.seen.id.clone());
        let reply = Reply::stream(relay, self.call.framing == Framing::Sse);
        Ok(Box::new(Good { seen, ..Good::new(reply) }))
    }

    /// What is kept of an answer that is given in the caller's dialect.
    fn noted(&self, answer: &Answer) -> Seen {
        let mut seen = Seen {
            usage: answer.usage,
            finish: answer.choices.first().and_then(|choice| choice.finish),
            id: Some(answer.id.clone()).filter(|id| !id.is_empty()),
            model: Some(answer.model.clone()).filter(|model| !model.is_empty()),
            unstated: answer.usage.is_none().then(|| answer.written_bytes()),
            mute: answer.is_mute(),
            ..Seen::default()
        };
        for block in answer.choices.iter().flat_map(|choice| &choice.blocks) {
            seen.note_unshown(self.x.dialect, &block.content);
        }
        seen
    }

    /// The ask as the answer's encoder needs it, also when the request went out raw.
    fn meaning(&self) -> Result<Asked, Fault> {
        match &self.asked {
            Meaning::Chat(asked) => Ok(asked.clone()),
            Meaning::Raw if matches!(self.x.op, Op::Generate | Op::Complete) => {
                let ask = self.call.ask(self.x.dialect, self.x.op)?;
                Ok(self.x.asked(ask))
            }
            _ => Err(Fault::new(Kind::BadAnswer, "The provider streamed an answer that cannot be streamed.")),
        }
    }
}

/// Waits for a stream's commit point. What the upstream has said until then is paid for also where nothing comes of it, and
/// what it has stated also where nobody waits for more.
async fn commit(relay: &mut Relay, input_estimate: u64, known: &mut Known) -> Result<(), Fault> {
    let waiting = Waiting { relay, input_estimate, sent: &known.sent };
    let outcome = waiting.relay.commit().await;
    drop(waiting);
    outcome.inspect_err(|_| {
        known.unheard = relay.seen.first_content.and_then(|_| relay.seen.used(false, input_estimate));
    })
}

fn is_refusal(finish: Finish) -> bool {
    matches!(finish, Finish::ContentFilter | Finish::Refusal)
}

/// A stream before its commit point. Dropped there, it leaves behind what the provider has stated.
struct Waiting<'a> {
    relay: &'a mut Relay,
    input_estimate: u64,
    sent: &'a Sent,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let seen = &self.relay.seen;
        if let Some(used) = seen.usage.and_then(|_| seen.used(false, self.input_estimate)) {
            self.sent.state(used);
        }
    }
}

fn noted_embedding(answer: &EmbedAnswer) -> Seen {
    Seen {
        usage: answer.usage,
        model: Some(answer.model.clone()).filter(|model| !model.is_empty()),
        unstated: answer.usage.is_none().then_some(0),
        ..Seen::default()
    }
}

/// Reads a whole answer. Many providers send its head at once and think before its body, so that the first piece may
/// come as late as a head might.
pub(super) async fn whole(mut body: Inbound, limit: usize, sent: Instant, timeouts: &Timeouts) -> Result<Bytes, Fault> {
    let idle = timeouts.idle;
    let patience = || Patience { first: (sent + timeouts.head).max(Instant::now() + idle), idle };
    let patience = (!body.is_at_hand()).then(patience);
    body.read(limit, patience).await.map(json::without_mark).map_err(|error| match error {
        ReadError::Silent => {
            Fault::new(Kind::IdleTimeout, format!("The provider was silent for {idle:?} inside its answer."))
        }
        ReadError::TooLarge => {
            Fault::new(Kind::BadAnswer, format!("The provider's answer is longer than {limit} bytes."))
        }
        ReadError::Broken(source) | ReadError::Malformed(source) => {
            Fault::new(Kind::StreamBroken, "The provider's answer broke off.").because(source)
        }
    })
}

/// Refuses an answer that cannot be read as it came.
pub(super) fn plain(headers: &HeaderMap) -> Result<(), Fault> {
    match headers.get(CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        None => Ok(()),
        Some(coding) => {
            let text = format!("The provider compressed its answer ({coding:?}), although it was asked not to.");
            Err(Fault::new(Kind::BadAnswer, text))
        }
    }
}

pub(super) fn content_type(response: &Response<Inbound>) -> &str {
    response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Puts `cost` (USD) beside the token counts, wherever the dialect keeps them. False when there are none.
fn add_cost(value: &mut Value, nano_usd: u64) -> bool {
    let places = ["/usage", "/response/usage", "/message/usage", "/usageMetadata"];
    let place = places.into_iter().find(|place| value.pointer(place).is_some_and(Value::is_object));
    let usage = place.and_then(|place| value.pointer_mut(place)).and_then(Value::as_object_mut);
    match usage {
        Some(usage) => drop(usage.insert("cost".into(), cost::nano_to_f64(nano_usd).into())),
        None => return false,
    }
    true
}

/// How long the upstream wants us to wait: `retry-after-ms`, `x-ms-retry-after-ms`, `retry-after` in seconds or as a
/// date.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let millis = ["retry-after-ms", "x-ms-retry-after-ms"]
        .into_iter()
        .find_map(|name| text(name)?.parse::<f64>().ok())
        .map(|millis| millis / 1000.0);
    let seconds = || text(RETRY_AFTER.as_str())?.parse::<f64>().ok();
    if let Some(seconds) = millis.or_else(seconds) {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(text(RETRY_AFTER.as_str())?).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Whether the upstream wants its callers to try again: `x-should-retry`.
pub(super) fn should_retry(headers: &HeaderMap) -> Option<bool> {
    match headers.get("x-should-retry")?.as_bytes() {
        b"true" => Some(true),
        b"false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_word_says_whether_to_try_again() {
        let said = |value: &'static str| {
            should_retry(&HeaderMap::from_iter([(
                "x-should-retry".parse().expect("a name"),
                value.parse().expect("a value"),
            )]))
        };
        assert_eq!((said("true"), said("false"), said("maybe")), (Some(true), Some(false), None));
        assert_eq!(should_retry(&HeaderMap::new()), None);
    }

    fn wait(name: &'static str, value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("value"));
        retry_after(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770))
    }

    #[test]
    fn every_form_of_retry_after_is_read() {
        assert_eq!(wait("retry-after-ms", "200"), Some(Duration::from_millis(200)));
        assert_eq!(wait("x-ms-retry-after-ms", "1500"), Some(Duration::from_millis(1500)));
        assert_eq!(wait("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("retry-after", "0.5"), Some(Duration::from_millis(500)));
        assert_eq!(wait("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(wait("retry-after", "Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("retry-after", "soon"), None);
        assert_eq!(wait("retry-after", "-1"), None);
    }
}
