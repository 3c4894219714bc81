//! Finding a target that goes on where a stream broke off.
//!
//! Runs inside the answer's body, long after the attempt loop has returned: it owns what it needs. Asks each target once;
//! what comes back is read by `stream`.

use std::sync::Arc;

use http::header::CONTENT_TYPE;
use tokio::time::timeout_at;

use super::adapted;
use super::answer::whole;
use super::encode::{self, Dropped, Meaning};
use super::once::{Head, Once, Successors};
use super::roster::{Places, Roster};
use crate::admit;
use crate::body::Inbound;
use crate::chat::{Ask, Block, Event, Message, Role as Speaker, event};
use crate::dialect::{Decoder, Op, foreign};
use crate::exchange::{Attempt, Owned, Role, Subject};
use crate::fault::{Fault, Kind};
use crate::hook;
use crate::pipeline::{Call, Cx};
use crate::route::Target;
use crate::sse::Frame;
use crate::stream::onward::{GoOn, Going, Onward, Opening, Underway};

/// What a model is told that does not go on from a turn of its own.
const GO_ON: &str = "Your answer above was cut off by a broken connection. Go on exactly where it ends, in the middle of \
                     the word if need be. Repeat nothing, add no introduction, and do not speak of the interruption.";

/// What a stream of this exchange may go on with; None where it may not.
pub(super) fn of(cx: &Cx, x: &Subject<'_>, after: Option<&Arc<Successors>>) -> Option<Box<Onward>> {
    let after = after.filter(|_| x.op == Op::Generate && !x.usage_cost)?;
    let ask = after.call.ask(x.dialect, x.op).ok()?;
    // A structured answer in two halves is seldom one, and of several choices each would have to go on.
    let plain = ask.n.is_none_or(|n| n == 1) && ask.output.is_none() && ask.audio.is_none();
    let source = Targets { cx: cx.clone(), x: x.owned(), after: after.clone(), next: 0 };
    plain.then(|| Box::new(Onward::new(Box::new(source))))
}

struct Targets {
    cx: Cx,
    x: Owned,
    after: Arc<Successors>,
    next: usize,
}

impl GoOn for Targets {
    fn go_on(&mut self, text: &str, tokens: u64) -> Option<Going> {
        let target = self.after.targets.get(self.next)?.clone();
        self.next += 1;
        let alone = self.after.targets.len() == 1;
        let rest = Rest { call: self.after.call.clone(), text: text.to_owned(), tokens, alone };
        let (cx, x, number) = (self.cx.clone(), self.x.clone(), self.after.tries + self.next as u32);
        let attempt = Underway::default();
        let underway = attempt.clone();
        let opens = Box::pin(async move { ask(&cx, &x.subject(), &rest, target, number, &underway).await });
        Some(Going { opens, attempt })
    }
}

/// What is left of an answer: to which call, after which text of about so many tokens.
struct Rest {
    call: Arc<Call>,
    text: String,
    tokens: u64,
    /// There is nobody else to go on.
    alone: bool,
}

impl Rest {
    /// The call for it, as guests want this try: they edit the conversation as they were shown it, and what the model has
    /// said since stands behind that.
    fn call(&self, x: &Subject<'_>, once: &mut Once) -> Result<Call, Fault> {
        let target = &once.target;
        let face = target.face_for(x.dialect, Op::Generate).ok_or_else(|| encode::unserved(x, target))?;
        let prefills = face.dialect.prefills(&target.model, &face.quirks);
        let edited = hook::edited(x, &self.call, &std::mem::take(&mut once.edits))?;
        let call = edited.as_deref().unwrap_or(&self.call);
        Ok(call.with_ask(further(&*call.ask(x.dialect, x.op)?, &self.text, self.tokens, prefills)))
    }
}

/// The ask for the rest: the text so far as the model's own turn, and where that is not enough an instruction.
fn further(ask: &Ask, text: &str, tokens: u64, prefills: bool) -> Ask {
    let mut ask = ask.clone();
    // Anthropic refuses a last turn that ends in white space; what follows is trimmed as well.
    let said = text.trim_end();
    if !said.is_empty() {
        ask.messages.push(Message::new(Speaker::Assistant, vec![Block::text(said)]));
        // Thinking may not follow a turn that has begun.
        if !prefills || ask.reasoning.is_some() {
            ask.messages.push(Message::new(Speaker::User, vec![Block::text(GO_ON)]));
        }
    }
    ask.max_tokens = ask.max_tokens.map(|max| max.saturating_sub(tokens).max(1));
    ask
}

/// Takes a place and asks, in the exchange's try of this number.
async fn ask(
    cx: &Cx,
    x: &Subject<'_>,
    rest: &Rest,
    target: Arc<Target>,
    number: u32,
    underway: &Underway,
) -> Result<Opening, Fault> {
    let mut roster = if rest.alone { Roster::new([&target]) } else { Roster::spare(&target) };
    let places = roster.begin(0, &cx.state).map_err(|refused| refused.fault(&target.name()))?;
    let Places { key, alias, flight, key_flight, since } = places;
    let mut once = Once::begin(x, target, key, number, since).await;
    underway.begin(Attempt {
        key: alias,
        sent: Some(once.sent.clone()),
        flight: Some(flight),
        key_flight,
        ..Attempt::begin(once.target.clone(), Role::Continuation, once.began - x.started)
    });
    let mut status = None;
    let opened = match rest.call(x, &mut once) {
        Ok(call) => admitted(cx, x, &call, &once, &mut status).await,
        Err(fault) => Err(fault),
    };
    underway.end(|attempt| {
        attempt.took = once.began.elapsed();
        attempt.status = status;
        attempt.sent = None;
        if let Err(fault) = &opened {
            attempt.fail(cx.state.now(), fault);
        }
    });
    opened
}

/// Asks where the limits of the target let it, which are told how that ends.
async fn admitted(
    cx: &Cx,
    x: &Subject<'_>,
    call: &Call,
    once: &Once,
    status: &mut Option<u16>,
) -> Result<Opening, Fault> {
    let mut held = once.held(x, once.enter(cx, x, call).await?);
    let opened = timeout_at(once.deadline.at, open(cx, x, call, once, status)).await;
    match opened.unwrap_or_else(|_| Err(once.deadline.missed())) {
        Ok(opening) => Ok(Opening { hold: held.hold.take(), ..opening }),
        Err(fault) => {
            admit::leave(held.hold.take(), &once.target, None);
            Err(fault)
        }
    }
}

async fn open(cx: &Cx, x: &Subject<'_>, call: &Call, once: &Once, status: &mut Option<u16>) -> Result<Opening, Fault> {
    let (idle, deadline, name) = (once.target.timeouts.idle, once.deadline, once.target.name());
    if let Some((face, adapter)) = adapted::by_adapter(x, &once.target) {
        once.wanted()?;
        let attempt = adapted::Try::new((cx, x, call), once, (face, adapter));
        let (body, events) = attempt.rest(status).await?;
        let decoder = if events.is_empty() { x.dialect.decoder() } else { Box::new(AllSaid) };
        return Ok(Opening { body, decoder, events, idle, deadline, name, hold: None });
    }
    let sending = once.head(cx, x, call, &mut Dropped::new(), status).await?;
    let Head::Upstream((response, from), meaning, sent) = sending else {
        return Err(Fault::new(Kind::Internal, "An answer without an upstream cannot go on."));
    };
    // As it was sent, whatever a policy has made of it.
    let ask = match meaning {
        Meaning::Chat(asked) => asked.ask,
        _ => call.ask(x.dialect, x.op)?,
    };
    let timeouts = &once.target.timeouts;
    let streams =
        response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-st"));
    let mut body = response.into_body();
    let mut decoder = foreign::decoder(from, &ask);
    let mut events = Vec::new();
    if !streams {
        let bytes = whole(body, cx.generation.max_answer_bytes, sent, timeouts).await?;
        let answer = from.decode_answer(&bytes)?;
        events = event::replay(&foreign::restored(from, answer, &ask));
        (body, decoder) = (Inbound::Ready(None), Box::new(AllSaid));
    }
    Ok(Opening { body, decoder, events, idle, deadline, name, hold: None })
}

/// The decoder of an answer that came whole: its events are known, and nothing follows.
struct AllSaid;

impl Decoder for AllSaid {
    fn frame(&mut self, _: &Frame<'_>, _: &mut Vec<Event>) -> Result<(), Fault> {
        Ok(())
    }

    fn finish(&mut self, _: &mut Vec<Event>) -> Result<(), Fault> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask() -> Ask {
        Ask {
            messages: vec![Message::new(Speaker::User, vec![Block::text("Tell")])],
            max_tokens: Some(100),
            ..Ask::default()
        }
    }

    #[test]
    fn the_rest_is_asked_for_by_a_turn_of_its_own_or_an_instruction() {
        let prefilled = further(&ask(), "Once upon ", 30, true);
        assert_eq!(prefilled.messages[1], Message::new(Speaker::Assistant, vec![Block::text("Once upon")]));
        assert_eq!((prefilled.messages.len(), prefilled.max_tokens), (2, Some(70)));
        let told = further(&ask(), "Once upon ", 300, false);
        assert_eq!((told.messages.len(), told.max_tokens), (3, Some(1)));
        assert_eq!(told.messages[2].role, Speaker::User);
    }

    #[test]
    fn with_nothing_said_yet_the_ask_is_made_anew() {
        assert_eq!(further(&ask(), "", 0, false), ask());
    }
}
