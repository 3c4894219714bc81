//! One try of a target whose wire form an adapter teaches: encode, send, decode, perhaps with follow-ups.
//!
//! What the guest wrote is not trusted: it stays below the operator's base URL, and neither the credential nor what
//! frames the message is its to set. Never tries again: the loop does.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, Response};
use percent_encoding::percent_decode_str;
use tokio::time::{Instant, sleep};

use super::Replay;
use super::answer::{self, Good, Reading, should_retry};
use super::encode::{self, Dropped, Meaning};
use super::once::{self, Known, MAX_ERROR_BYTES, Once};
use super::{estimated_count, retry_after};
use crate::body::{Inbound, Outgoing, Patience};
use crate::chat::event::{self, Collector};
use crate::chat::{Ask, Event};
use crate::dialect::adapter::{Adapter, Asking, Came, Read, TAUGHT, Written, below_base, embeds, ranks, sound};
use crate::dialect::{Asked, Op, refusal};
use crate::exchange::Subject;
use crate::fault::{Fault, Kind};
use crate::hook;
use crate::host::Visit;
use crate::json::Envelope;
use crate::pipeline::{Call, Cx};
use crate::route::{Auth, Face, Target};
use crate::stream::{Adapted, AtEnd, Mode, Spoken};
use crate::upstream::Outbound;

/// Most follow-ups of one attempt. At one a second this outlasts every default timeout.
const MAX_FOLLOW_UPS: usize = 1000;

/// The least wait before a follow-up: an adapter that wants none must not keep its provider busy.
const MIN_WAIT: Duration = Duration::from_millis(50);

/// Most fields that an adapter may say it left out, and the length of what it says of each.
const MAX_DROPPED: usize = 32;
const MAX_DROPPED_CHARS: usize = 200;

/// Headers in which providers look for a key. Many take one in any of them, so that where the gateway sends a key none of
/// these may hold another.
const CREDENTIALS: [HeaderName; 4] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// Headers that belong to the connection or to the gateway.
const NOT_THE_GUESTS: &[HeaderName] = &[
    CONNECTION,
    CONTENT_LENGTH,
    COOKIE,
    EXPECT,
    FORWARDED,
    HOST,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The face to use for this caller, where that face's wire form is taught.
pub(super) fn by_adapter<'t>(x: &Subject<'_>, target: &'t Target) -> Option<(&'t Face, &'t Arc<dyn Adapter>)> {
    let face = target.face_for(x.dialect, x.op)?;
    face.adapter.as_ref().map(|adapter| (face, adapter))
}

/// The last answer to a request of an adapter.
#[expect(clippy::large_enum_variant, reason = "one a try, which is taken apart at once")]
enum Fetched {
    /// For a decoder of streams.
    Stream(Inbound),
    /// Read, and no follow-up.
    Read(Read),
}

/// One try.
pub(super) struct Try<'a> {
    pub cx: &'a Cx,
    pub x: &'a Subject<'a>,
    pub call: &'a Call,
    pub once: &'a Once,
    pub face: &'a Face,
    pub adapter: &'a Arc<dyn Adapter>,
    /// What the adapter leaves behind, in all of its calls.
    visit: Arc<Visit>,
}

impl<'a> Try<'a> {
    pub fn new(
        (cx, x, call): (&'a Cx, &'a Subject<'a>, &'a Call),
        once: &'a Once,
        (face, adapter): (&'a Face, &'a Arc<dyn Adapter>),
    ) -> Self {
        let visit = Arc::new(Visit::of_adapter(cx.generation.number, x.id.to_owned()));
        Try { cx, x, call, once, face, adapter, visit }
    }

    /// Tries. What is known of it goes to `known` as soon as it is.
    ///
    /// # Errors
    /// As [`Once::run`].
    pub async fn run(&self, known: &mut Known) -> Result<Box<Good>, Fault> {
        let (x, target) = (self.x, &self.once.target);
        if !self.adapter.serves(x.op) {
            return Err(encode::unserved(x, target));
        }
        let edited = hook::edited(x, self.call, &self.once.edits)?;
        let call = edited.as_deref().unwrap_or(self.call);
        let (meaning, written) = match x.op {
            Op::CountTokens => return Ok(Box::new(Good::new(estimated_count(x)))),
            Op::Generate | Op::Complete => {
                let ask = call.ask(x.dialect, x.op)?;
                let written = self.adapter.encode(&self.visit, &target.model, Asking::Chat(&ask)).await?;
                (Meaning::Chat(x.asked(ask)), written)
            }
            Op::Embed | Op::EmbedBatch => {
                let ask = x.dialect.decode_embed(&call.raw_ask(x.op))?;
                let written = self.adapter.encode(&self.visit, &target.model, Asking::Embed(&ask)).await?;
                (Meaning::Embed(Arc::new(ask)), written)
            }
            Op::Rerank => {
                let ask = x.dialect.decode_rerank(&call.raw_ask(x.op))?;
                let written = self.adapter.encode(&self.visit, &target.model, Asking::Rerank(&ask)).await?;
                (Meaning::Rerank(Arc::new(ask)), written)
            }
        };
        let mut dropped = left_out(&written);
        if let Meaning::Chat(asked) = &meaning {
            dropped.extend(unspeakable(&asked.ask));
        }
        let mut good = self.follow(&meaning, written, known).await?;
        good.dropped = dropped;
        Ok(good)
    }

    /// Reads the answer to what was written.
    async fn follow(&self, meaning: &Meaning, written: Written, known: &mut Known) -> Result<Box<Good>, Fault> {
        let (x, (fetched, sent)) = (self.x, self.fetch(written, &mut known.status).await?);
        let reading = self.reading(meaning, sent);
        match (fetched, meaning) {
            (Fetched::Stream(body), Meaning::Chat(asked)) => self.stream(body, reading, asked, known).await,
            (Fetched::Stream(_), _) => Err(self.nonsense("streams what is no conversation")),
            (Fetched::Read(Read::Chat(mut answer)), Meaning::Chat(asked)) => {
                sound(&mut answer)?;
                if x.stream {
                    return reading.answered_in_events(answer, asked, known).await;
                }
                Ok(reading.answered(self.cx, &answer, asked))
            }
            (Fetched::Read(Read::Embed(answer)), Meaning::Embed(ask)) => {
                embeds(&answer, ask).map_err(|what| self.nonsense(&what))?;
                Ok(reading.embedded(&answer, ask))
            }
            (Fetched::Read(Read::Rerank(mut answer)), Meaning::Rerank(ask)) => {
                ranks(&mut answer, ask).map_err(|what| self.nonsense(&what))?;
                Ok(reading.ranked(&answer, ask))
            }
            (Fetched::Read(_), _) => Err(self.amiss()),
        }
    }

    /// What goes on from a stream that another target broke off: a stream in the caller's own form, or the events of an
    /// answer that came whole.
    ///
    /// # Errors
    /// As [`Once::run`]; the upstream's status goes to `status`.
    pub async fn rest(&self, status: &mut Option<u16>) -> Result<(Inbound, Vec<Event>), Fault> {
        let (x, target) = (self.x, &self.once.target);
        if !self.adapter.serves(x.op) {
            return Err(encode::unserved(x, target));
        }
        let ask = self.call.ask(x.dialect, x.op)?;
        let written = self.adapter.encode(&self.visit, &target.model, Asking::Chat(&ask)).await?;
        match self.fetch(written, status).await?.0 {
            Fetched::Stream(body) => {
                let source = Adapted::new(body, self.adapter.decoder(&self.visit).await?);
                Ok((self.spoken(source, &x.asked(ask), None), Vec::new()))
            }
            Fetched::Read(Read::Chat(mut answer)) => {
                sound(&mut answer)?;
                Ok((Inbound::Ready(None), event::replay(&answer)))
            }
            Fetched::Read(_) => Err(self.amiss()),
        }
    }

    /// Sends what was written, and what the answers to it lead on to; gives the last answer, and when it was asked for.
    async fn fetch(&self, mut written: Written, status: &mut Option<u16>) -> Result<(Fetched, Instant), Fault> {
        let target = &self.once.target;
        for _ in 0..=MAX_FOLLOW_UPS {
            let streamed = written.streamed;
            let sent = Instant::now();
            let response = self.send(written, status).await?;
            if !response.status().is_success() {
                return Err(self.refused(response).await);
            }
            let (head, body) = response.into_parts();
            if streamed {
                return Ok((Fetched::Stream(body), sent));
            }
            let bytes = answer::whole(body, self.cx.generation.max_answer_bytes, sent, &target.timeouts).await?;
            let came = Came { status: head.status.as_u16(), headers: &head.headers, body: &bytes };
            match self.adapter.decode(&self.visit, self.x.op, came).await? {
                Read::FollowUp(next, wait) => {
                    sleep(wait.max(MIN_WAIT)).await;
                    written = *next;
                }
                read => return Ok((Fetched::Read(read), sent)),
            }
        }
        Err(Fault::new(Kind::GuestFailed, format!("The adapter asked for more than {MAX_FOLLOW_UPS} follow-ups.")))
    }

    /// Reads an error answer.
    async fn refused(&self, response: Response<Inbound>) -> Fault {
        let (head, mut body) = response.into_parts();
        let wait = retry_after(&head.headers, std::time::SystemTime::now());
        let idle = self.once.target.timeouts.idle;
        let patience = Patience { first: Instant::now() + idle, idle };
        let bytes = body.read(MAX_ERROR_BYTES, Some(patience)).await.unwrap_or_default();
        let came = Came { status: head.status.as_u16(), headers: &head.headers, body: &bytes };
        let said = self.adapter.decode_error(&self.visit, came).await;
        let mut said = refusal::read(said, head.status.as_u16());
        said.body = bytes;
        said.should_retry = should_retry(&head.headers);
        let wait = wait.or(said.retry_after);
        refusal::fault(said, wait)
    }

    fn amiss(&self) -> Fault {
        self.nonsense("answered another question than it was asked")
    }

    /// The fault of an answer that cannot be.
    fn nonsense(&self, what: &str) -> Fault {
        let text = format!("The adapter `{}` {what}.", self.adapter.name());
        tracing::warn!("{text}");
        Fault::new(Kind::GuestFailed, text)
    }

    fn reading(&self, meaning: &Meaning, sent: Instant) -> Reading<'_> {
        let asked = match meaning {
            Meaning::Chat(asked) => Meaning::Chat(asked.clone()),
            Meaning::Embed(ask) => Meaning::Embed(ask.clone()),
            Meaning::Rerank(ask) => Meaning::Rerank(ask.clone()),
            Meaning::Raw => Meaning::Raw,
            Meaning::Count => Meaning::Count,
        };
        let (target, deadline) = (&self.once.target, self.once.deadline);
        let after = self.once.after.clone();
        let replay = Replay::default();
        Reading { x: self.x, call: self.call, target, from: &TAUGHT, asked, sent, deadline, after, replay }
    }

    /// A stream for the client, or, where it wants none, all of it at once.
    async fn stream(
        &self,
        body: Inbound,
        reading: Reading<'_>,
        asked: &Asked,
        known: &mut Known,
    ) -> Result<Box<Good>, Fault> {
        let decoder = self.adapter.decoder(&self.visit).await?;
        if !self.x.stream {
            let timeouts = &self.once.target.timeouts;
            let bytes = answer::whole(body, self.cx.generation.max_answer_bytes, reading.sent, timeouts).await?;
            let events = Adapted::new(Inbound::Ready(Some(bytes)), decoder).all().await?;
            let mut collector = Collector::default();
            events.into_iter().try_for_each(|event| collector.event(event))?;
            return Ok(reading.answered(self.cx, &collector.finish(), asked));
        }
        let source = Adapted::new(body, decoder);
        if self.once.after.is_some() || self.x.visit.is_some_and(|visit| visit.records()) {
            // Others hear it as well, or go on with it, and they know no adapter.
            let body = self.spoken(source, asked, reading.item_keeper(self.cx));
            let reading = Reading { from: self.x.dialect, asked: Meaning::Raw, ..reading };
            return reading.stream(self.cx, body, known).await;
        }
        let encoder = self.x.dialect.encoder(asked);
        let mode = Mode::Adapt { source, encoder, events: Vec::new() };
        reading.relay(self.cx, Inbound::Ready(None), mode, (hook::events(self.x), None), known).await
    }

    /// The stream in the caller's own form, as an upstream of that form would send it to us.
    fn spoken(&self, source: Adapted, asked: &Asked, at_end: Option<AtEnd>) -> Inbound {
        let encoder = if asked.ask.include_usage {
            self.x.dialect.encoder(asked)
        } else {
            // What is used is stated whether or not this client wants to know; it is kept from it later.
            let ask = Arc::new(Ask { include_usage: true, ..Ask::clone(&asked.ask) });
            self.x.dialect.encoder(&Asked { ask, ..asked.clone() })
        };
        Inbound::Made(Box::new(Spoken::new(source, encoder, at_end)))
    }

    async fn send(&self, written: Written, status: &mut Option<u16>) -> Result<Response<Inbound>, Fault> {
        let (target, face) = (&self.once.target, self.face);
        check_path(&written.path)?;
        let credential = target.provider.auth(face, self.once.key);
        let path = match credential {
            Auth::Query(name, _) => without(&written.path, name),
            Auth::Header(..) | Auth::None => Cow::Borrowed(written.path.as_str()),
        };
        let address = encode::address_once(face, target, self.once.key, &path, &HeaderMap::new());
        let mut address = address.map_err(|fault| {
            Fault::new(Kind::GuestFailed, "No address can be made of the adapter's path.").because(fault)
        })?;
        let proven = !matches!(credential, Auth::None);
        let own = |name: &HeaderName| {
            matches!(credential, Auth::Header(credential, _) if credential == name)
                || (proven && CREDENTIALS.contains(name))
                || target.provider.headers.contains_key(name)
                || NOT_THE_GUESTS.contains(name)
        };
        let headers = address.headers.edit();
        for (name, value) in written.headers.iter().filter(|(name, _)| !own(name)) {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.once.headers {
            match value {
                Some(value) => drop(headers.insert(name.clone(), value.clone())),
                None => drop(headers.remove(name)),
            }
        }
        let mut body = if written.body.is_empty() {
            headers.remove(http::header::CONTENT_TYPE);
            Outgoing::default()
        } else if target.overrides.is_empty() {
            Outgoing::new(smallvec::smallvec![written.body])
        } else {
            overridden(target, written.body)?
        };
        body.tell(&self.once.sent);
        let timeouts = &target.timeouts;
        let streams = self.call.stream;
        if streams {
            body.hurry();
        }
        let head_timeout = if streams { timeouts.first_token } else { timeouts.head };
        let (method, uri, headers) = (written.method, address.uri, address.headers);
        let request = Outbound { method, uri, headers, body, target: Some(target.name()) };
        let sent = self.cx.upstream().send(&face.dial, Box::new(request), head_timeout).await;
        let response = sent.map_err(|fault| once::late(fault, streams))?;
        *status = Some(response.status().as_u16());
        Ok(response)
    }
}

/// What the adapter says it left out, as far as a line of the log has room for a guest's words.
fn left_out(written: &Written) -> Dropped {
    let short = |text: &str| Cow::Owned(text.chars().take(MAX_DROPPED_CHARS).collect());
    written.dropped.iter().take(MAX_DROPPED).map(|(field, why)| (short(field), short(why))).collect()
}

/// What the contract has no place for, so that no adapter hears of it: an answer in another form than text, and its voice.
fn unspeakable(ask: &Ask) -> Dropped {
    const WHY: &str = "adapters are not told of it";
    let fields = [("modalities", ask.wants("audio") || ask.wants("image")), ("audio", ask.audio.is_some())];
    fields.iter().filter(|(_, asked)| *asked).map(|(field, _)| (Cow::Borrowed(*field), WHY.into())).collect()
}

/// The operator's changes hold for taught wire forms too, where the body is a JSON object.
fn overridden(target: &Target, body: Bytes) -> Result<Outgoing, Fault> {
    let mut envelope = Envelope::read(body).map_err(|fault| {
        let text = "`set`, `default` and `drop` need a JSON body, and the adapter wrote another.";
        Fault::new(Kind::GuestFailed, text).because(fault)
    })?;
    encode::apply(&mut envelope, &target.overrides)?;
    Ok(Outgoing::new(envelope.pieces()))
}

/// # Errors
/// [`Kind::GuestFailed`]: the path leads elsewhere.
fn check_path(path: &str) -> Result<(), Fault> {
    below_base(path).map_err(|what| Fault::new(Kind::GuestFailed, format!("The adapter's path {what}.")))
}

/// A path without the parameters of this name in its query. Servers that are given two take the first or the last, read
/// `%6bey` as `key`, and some take `;` for `&` or do not tell small letters from capitals.
fn without<'p>(path: &'p str, name: &str) -> Cow<'p, str> {
    let Some((plain, query)) = path.split_once('?') else { return Cow::Borrowed(path) };
    let named = |pair: &&str| {
        let written = pair.split('=').next().unwrap_or_default().replace('+', " ");
        percent_decode_str(&written).decode_utf8_lossy().trim().eq_ignore_ascii_case(name)
    };
    if !query.split(['&', ';']).any(|pair| named(&pair)) {
        return Cow::Borrowed(path);
    }
    let kept: Vec<&str> = query.split('&').filter(|pairs| !pairs.split(';').any(|pair| named(&pair))).collect();
    Cow::Owned(if kept.is_empty() { plain.to_owned() } else { format!("{plain}?{}", kept.join("&")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_in_the_query_is_not_the_adapters_to_write() {
        for (path, left) in [
            ("/chat?a=1", "/chat?a=1"),
            ("/chat?key=forged", "/chat"),
            ("/chat?a=1&key=forged&b=2", "/chat?a=1&b=2"),
            ("/chat?%6Bey=forged&a=1", "/chat?a=1"),
            ("/chat?KEY=forged&key", "/chat"),
            ("/chat?a=1;key=forged&b=2", "/chat?b=2"),
            ("/chat?b=1?key=2&keys=3", "/chat?b=1?key=2&keys=3"),
            ("/chat/key=1", "/chat/key=1"),
        ] {
            assert_eq!(without(path, "key"), left, "{path}");
        }
    }
}
