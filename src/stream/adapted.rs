//! An upstream's stream through an adapter: bytes in, events out, one piece at a time.
//!
//! While the guest works nothing more is read, so a slow guest slows its upstream and nobody else. Never commits and
//! never encodes: the relay does.

use std::task::{Context, Poll};

use crate::body::Inbound;
use crate::chat::Event;
use crate::dialect::adapter::{Pending, Pushed, StreamDecoder};
use crate::fault::{Fault, Kind};

/// The upstream's body and the guest's decoder for it.
pub struct Adapted {
    body: Inbound,
    state: State,
    /// A finish has gone by: the stream may end.
    complete: bool,
}

enum State {
    Reading(Box<dyn StreamDecoder>),
    /// The guest is at a piece, or, at last, at the end.
    Working {
        work: Pending<'static, Pushed>,
        last: bool,
    },
    Ended,
}

impl Adapted {
    pub fn new(body: Inbound, decoder: Box<dyn StreamDecoder>) -> Self {
        Adapted { body, state: State::Reading(decoder), complete: false }
    }

    /// Appends the next events. None: the stream is at its end, and was complete. What was good before a fault is in
    /// `out` as well.
    pub fn poll_events(&mut self, cx: &mut Context<'_>, out: &mut Vec<Event>) -> Poll<Option<Result<(), Fault>>> {
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return Poll::Ready(None),
                State::Reading(decoder) => match self.body.poll_data(cx) {
                    Poll::Pending => {
                        self.state = State::Reading(decoder);
                        return Poll::Pending;
                    }
                    Poll::Ready(Some(Ok(bytes))) => {
                        self.state = State::Working { work: decoder.push(bytes), last: false };
                    }
                    Poll::Ready(Some(Err(source))) => return Poll::Ready(Some(self.broken(source))),
                    Poll::Ready(None) => self.state = State::Working { work: decoder.finish(), last: true },
                },
                State::Working { mut work, last } => {
                    let Poll::Ready((decoder, events, worked)) = work.as_mut().poll(cx) else {
                        self.state = State::Working { work, last };
                        return Poll::Pending;
                    };
                    self.complete |= events.iter().any(|event| matches!(event, Event::Finish { .. }));
                    let none = events.is_empty();
                    out.extend(events);
                    if worked.is_ok() && !last {
                        self.state = State::Reading(decoder);
                    }
                    // A piece may hold half a line: there is nothing to hand on yet.
                    if none && worked.is_ok() && !last {
                        continue;
                    }
                    let worked = worked.and_then(|()| if last { self.ended() } else { Ok(()) });
                    return Poll::Ready(Some(worked));
                }
            }
        }
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// Whatever ended the stream before it was complete.
    pub async fn all(mut self) -> Result<Vec<Event>, Fault> {
        let mut events = Vec::new();
        while let Some(worked) = std::future::poll_fn(|cx| self.poll_events(cx, &mut events)).await {
            worked?;
        }
        Ok(events)
    }

    fn ended(&self) -> Result<(), Fault> {
        match self.complete {
            true => Ok(()),
            false => Err(Fault::new(Kind::StreamBroken, "The provider ended the stream before it was complete.")),
        }
    }

    fn broken(&self, source: String) -> Result<(), Fault> {
        match self.complete {
            true => Ok(()),
            false => Err(Fault::new(Kind::StreamBroken, "The provider's stream broke off.").because(source)),
        }
    }
}
