//! An upstream's stream through an adapter: bytes in, events out, one piece at a time.
//!
//! While the guest works nothing more is read, so a slow guest slows its upstream and nobody else. Never commits and
//! never encodes: the relay does.

use std::task::{Context, Poll, ready};

use crate::body::Inbound;
use crate::chat::Event;
use crate::dialect::adapter::{Desk, Pending, StreamDecoder};
use crate::fault::{Fault, Kind};

/// The upstream's body and the guest's decoder for it.
pub struct Adapted {
    body: Inbound,
    desk: Desk,
    /// The decoder. None once the stream is at its end, or broke.
    work: Option<Pending<'static, ()>>,
    at: At,
    /// A finish has gone by: the stream may end.
    complete: bool,
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq)]
enum At {
    /// The upstream.
    Reading,
    /// The guest, which is at a piece.
    Working,
    /// The guest, which has been told that nothing more comes.
    Ending,
}

impl Adapted {
    pub fn new(body: Inbound, decoder: Box<dyn StreamDecoder>) -> Self {
        let desk = Desk::default();
        Adapted { body, work: Some(decoder.run(desk.clone())), desk, at: At::Reading, complete: false }
    }

    /// Appends the next events. None: the stream is at its end, and was complete. What was good before a fault is in
    /// `out` as well.
    pub fn poll_events(&mut self, cx: &mut Context<'_>, out: &mut Vec<Event>) -> Poll<Option<Result<(), Fault>>> {
        loop {
            let Some(work) = &mut self.work else { return Poll::Ready(None) };
            if self.at == At::Reading {
                let bytes = match ready!(self.body.poll_data(cx)) {
                    Some(Ok(bytes)) => Some(bytes),
                    Some(Err(source)) => {
                        self.work = None;
                        return Poll::Ready(Some(self.broken(source)));
                    }
                    None => None,
                };
                self.at = if bytes.is_some() { At::Working } else { At::Ending };
                self.desk.put(bytes);
            }
            let over = work.as_mut().poll(cx).is_ready();
            let before = out.len();
            let Some(worked) = self.desk.take(out) else {
                // It is over only after it has said how it went.
                debug_assert!(!over, "a decoder ends with a word");
                return Poll::Pending;
            };
            self.complete |= out[before..].iter().any(|event| matches!(event, Event::Finish { .. }));
            if over || worked.is_err() {
                self.work = None;
            }
            let worked = match self.at {
                At::Ending => worked.and_then(|()| self.ended()),
                // A piece may hold half a line: there is nothing to hand on yet.
                _ if worked.is_ok() && out.len() == before => {
                    self.at = At::Reading;
                    continue;
                }
                _ => worked,
            };
            self.at = At::Reading;
            return Poll::Ready(Some(worked));
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
